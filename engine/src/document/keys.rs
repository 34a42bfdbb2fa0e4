//! The typed keys of a plan and of a step; schema and reader in one.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use super::question::{Question, Undo};
use crate::{
    error::ErrorKind,
    plan::{Downtime, OnFailure, RunOn},
    quantity::Span,
    secret::Text,
};

/// What a plan says about itself.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The plan's name; by default that of the file.
    pub name: Option<String>,
    /// What happens after a step failed: `stop` (default), `undo` or `ask`.
    pub on_failure: OnFailure,
    /// How many actions may run at once over all steps; by default the number of processors.
    pub max_parallel: Option<u16>,
    /// Where the journal is: a folder beside the plan, or a `postgres://` URL of a database that several machines share;
    /// by default `.pgplan` of the working folder. `--state` wins over it.
    pub state: Option<Text>,
    /// What is promised about the application's downtime.
    pub downtime: Option<DowntimeGoal>,
}

/// What is promised about the application's downtime.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DowntimeGoal {
    /// The longest downtime that is accepted; more is reported.
    pub budget: Span,
}

/// The keys that a step of any kind may have.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct StepKeys {
    /// The name by which other steps refer to this one: letters, digits, `_` and `-`; by default the kind.
    pub id: Option<String>,
    /// A title for people.
    pub name: Option<String>,
    /// Why the step is there; pgplan does not read it.
    pub description: Option<String>,
    /// The steps that must be over before; absent = the step before in the file, `[]` = none.
    pub needs: Option<Needs>,
    /// A condition, an expression with or without `${{ }}`; the step is skipped when it is false.
    #[serde(rename = "if")]
    pub condition: Option<Text>,
    /// When the step runs with regard to the steps it needs.
    pub run_on: RunOn,
    /// A list or mapping (or a template that gives one): the step is done once for each item, as `each`.
    pub for_each: Option<serde_json::Value>,
    /// How many items are done at once.
    pub max_parallel: Option<u16>,
    /// Whether the first item that fails keeps the others from starting; true by default.
    pub fail_fast: Option<bool>,
    /// The longest time of one attempt of one action.
    pub timeout: Option<Span>,
    /// How often and when a failed action is tried again.
    pub retry: Option<RetryKeys>,
    /// A failure is a warning and the run goes on.
    pub continue_on_error: bool,
    /// What takes the step back, instead of what the kind knows.
    pub undo: Option<Undo>,
    /// The step counts as done when this says yes.
    pub done_if: Option<Question>,
    /// What must be true after the step.
    pub ensures: Option<Question>,
    /// Whether the application's downtime begins or ends with this step.
    pub downtime: Option<Downtime>,
    /// `undo` never goes back over this step.
    pub point_of_no_return: bool,
    /// Environment variables for the programs that the step starts.
    pub env: BTreeMap<String, Text>,
}

/// Step ids: one or a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs(pub Vec<String>);

impl<'de> Deserialize<'de> for Needs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Needs;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a step or a list of steps")
            }

            fn visit_str<E>(self, id: &str) -> Result<Needs, E> {
                Ok(Needs(vec![id.to_owned()]))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Needs, A::Error> {
                let mut ids = Vec::new();
                while let Some(id) = seq.next_element()? {
                    ids.push(id);
                }
                Ok(Needs(ids))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for Needs {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Needs".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }]
        })
    }

    fn inline_schema() -> bool {
        true
    }
}

/// How often and when a failed action is tried again.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetryKeys {
    /// Attempts in all, at least 1; 3 by default.
    pub attempts: Option<u32>,
    /// Wait before the second attempt; `1s` by default.
    pub delay: Option<Span>,
    /// Factor from one wait to the next, at least 1; 2 by default.
    pub backoff: Option<f64>,
    /// Longest wait; `60s` by default.
    pub max_delay: Option<Span>,
    /// Share of the wait that is random, 0 to 1; 0.1 by default.
    pub jitter: Option<f64>,
    /// Which errors are tried again; by default those that may pass by themselves.
    pub errors: Vec<ErrorKind>,
}
