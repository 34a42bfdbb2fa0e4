//! `approve`: a person says that the run may go on.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Declarations, ExpandCx, Kind, declare::key};
use crate::{
    action::{Action, ActionGraph, Effect},
    error::StepError,
    facts::Facts,
    op::Op,
};

/// Asks a person for consent and waits for it.
///
/// On a terminal the question is asked; elsewhere the run stops with exit code 5 and goes on when it is applied again
/// with the consent (`pgplan approve RUN STEP`, or `--yes`).
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Approve {
    /// The question, for people.
    pub message: String,
}

impl Kind for Approve {
    const NAME: &'static str = "approve";
    const GROUP: &'static str = "application";
    const SUMMARY: &'static str = "Ask a person for consent";
    const EXAMPLE: &'static str = "approve: { message: \"destroy the old database?\" }";

    fn check(&self, to: &mut Declarations) {
        if self.message.trim().is_empty() {
            to.problem("empty_message", key(["message"]), "the question is empty", None);
        }
    }

    fn actions(&self, _: &Facts, _: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        let title = format!("ask for consent: {}", self.message);
        let op = Op::Approve { message: self.message.clone() };
        Ok(ActionGraph::of(vec![Action::new("approve", title, op, Effect::Restart)]))
    }
}
