//! `unfence`: databases that were fenced are open again.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Declarations, ExpandCx, Handed, Kind, declare::key, fence::before};
use crate::{
    action::{Action, ActionGraph, Effect},
    error::{ErrorKind, StepError},
    facts::Facts,
    op::{Op, fence::UnfenceOp},
};

/// The output that names the step whose fence was taken away.
pub(super) const UNFENCED: &str = "unfenced";

/// Opens fenced databases again, exactly as they were.
///
/// What is brought back is what the `fence` step wrote into the journal: privileges, connection limits, settings of
/// databases and roles. What others have changed meanwhile stays, with a warning.
///
/// A dump of a whole server that was made behind a fence holds the fence, too: privileges and settings of databases
/// belong to it. `on` takes it away from the server that the dump was restored into.
///
/// Outputs: `unfenced` (the step whose fence it was; not with `on`).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Unfence {
    /// The `fence` step; absent = the nearest one before.
    #[serde(default)]
    pub fence: Option<String>,
    /// The database of the plan that was fenced, as the `fence` step names it.
    #[serde(default)]
    pub database: Option<String>,
    /// Another database of the plan, whose server got the fence by a dump; absent = the fenced one itself.
    #[serde(default)]
    pub on: Option<String>,
}

impl Kind for Unfence {
    const NAME: &'static str = "unfence";
    const GROUP: &'static str = "servers";
    const SUMMARY: &'static str = "Open fenced databases again as they were";
    const EXAMPLE: &'static str = "unfence: { database: source }";

    fn check(&self, to: &mut Declarations) {
        to.takes("fence", Handed::Fence, self.fence.as_deref());
        match (&self.on, &self.database) {
            (Some(on), _) => to.changes(on, "on"),
            (None, database) => {
                to.ends("fence");
                if let Some(database) = database {
                    to.changes(database, "database");
                }
                to.output(UNFENCED, false);
            }
        }
        if self.fence.is_none() && self.database.is_none() {
            let help = "add `fence: STEP` or `database: NAME`";
            to.problem("missing_key", key([]), "neither `fence` nor `database` says what is opened", Some(help));
        }
    }

    fn actions(&self, _facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        let step = cx.inputs.get("fence").or(self.fence.as_ref()).ok_or_else(|| {
            StepError::new(ErrorKind::Internal, format!("no step makes the fence that `{}` takes", cx.step))
        })?;
        let Some(before) = cx.outputs.get(step).map(before).transpose()?.flatten() else {
            if cx.dry_run {
                return Ok(ActionGraph::known_after(step));
            }
            let warnings = vec![format!("`{step}` has fenced nothing: there is nothing to open")];
            return Ok(ActionGraph { warnings, ..ActionGraph::default() });
        };
        let fenced = before.database;
        if let Some(database) = self.database.as_ref().filter(|name| **name != fenced) {
            let message = format!("the step `{step}` fenced `{fenced}`, not `{database}`");
            return Err(StepError::new(ErrorKind::Plan, message).help("name the step with `fence: STEP`"));
        }
        let on = self.on.clone().unwrap_or_else(|| fenced.clone());
        let op = UnfenceOp { step: step.clone(), database: fenced, on: on.clone(), before: before.databases };
        let own = op.own();
        let title = match own {
            true => format!("open the databases on {on} again as they were before `{step}`"),
            false => format!("take the fence of `{step}` away from {on}, which got it by a dump"),
        };
        let mut actions = vec![Action::new("unfence", title, Op::Unfence(op), Effect::Restart)];
        if own {
            let values = [(UNFENCED.to_owned(), serde_json::json!(step))].into();
            let title = format!("note that the fence of `{step}` is gone");
            let note = Action::new("note", title, Op::Remember { values, file: None }, Effect::Restart);
            actions.push(note.after(["unfence"]));
        }
        Ok(ActionGraph::of(actions))
    }
}
