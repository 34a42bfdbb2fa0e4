//! What will be done, as data: the unit that is scheduled, journalled, resumed, timed and undone.
//!
//! A step expands to an [`ActionGraph`]. The dry run prints the graph and stops; an apply hands each [`Action`] to
//! the performer. `Display` of an action *is* its line in the dry run, so both speak of the same thing.

use std::{collections::BTreeMap, fmt};

use secrecy::SecretString;
use serde::{Deserialize, Serialize};

use crate::op::Op;

/// How an action that was cut in the middle is recovered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// SQL in one transaction together with a receipt in the target: happens exactly once.
    Transaction,
    /// A check tells whether it is done; half-done work is cleaned up and redone.
    Probe,
    /// Safe to wipe and do again.
    Restart,
    /// Its effect cannot be seen; cut in the middle it becomes indeterminate and a person decides.
    Opaque,
}

/// What is known beforehand about the size of an action.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Estimate {
    /// Bytes to be read or written, as the server reports its relations' sizes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Rows, from the planner's statistics (`pg_class.reltuples`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}

/// One thing that will be done.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Action {
    /// The name inside its step, stable from run to run: `dump`, `db`, `public.orders`.
    pub id: String,
    /// One line for people: imperative, with the objects by name; never a secret.
    pub title: String,
    /// What the performer does.
    #[schemars(schema_with = "any_op")]
    pub op: Op,
    /// How it is recovered.
    pub effect: Effect,
    /// The actions of the same step that must be finished before.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// Its size, where the survey could tell.
    #[serde(default)]
    pub estimate: Estimate,
    /// What takes it back, where something does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any_op")]
    pub undo: Option<Box<Op>>,
    /// Whether what it gives lives only as long as this process (a tunnel, a secret read from a platform): on resume
    /// it is done again when a step that is still to run comes after it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub volatile: bool,
    /// Whether it proves something that others could undo meanwhile (that nobody writes): on resume it is done again
    /// when a step that is still to run comes after it and no step has begun to end what it proved.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proof: bool,
}

/// Returns the schema of an operation as far as it is promised: its name. What else it holds may change with any
/// version, and a secret in it is only ever named.
fn any_op(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "object",
        "required": ["op"],
        "properties": { "op": { "description": "The operation's name.", "type": "string" } }
    })
}

impl Action {
    /// Returns an action with this id, title, operation and effect; the rest is empty.
    #[must_use]
    pub fn new(id: impl Into<String>, title: impl Into<String>, op: Op, effect: Effect) -> Self {
        Self {
            id: id.into(),
            title: title.into(),
            op,
            effect,
            after: Vec::new(),
            estimate: Estimate::default(),
            undo: None,
            volatile: false,
            proof: false,
        }
    }

    /// Returns the action to be done after these actions of its step.
    #[must_use]
    pub fn after<I: IntoIterator<Item = S>, S: Into<String>>(mut self, ids: I) -> Self {
        self.after.extend(ids.into_iter().map(Into::into));
        self
    }

    /// Returns the action with an estimate of its size.
    #[must_use]
    pub fn estimate(mut self, bytes: Option<u64>, rows: Option<u64>) -> Self {
        self.estimate = Estimate { bytes, rows };
        self
    }

    /// Returns the action with what takes it back.
    #[must_use]
    pub fn undo(mut self, op: Op) -> Self {
        self.undo = Some(Box::new(op));
        self
    }

    /// Returns the action marked as living only as long as this process.
    #[must_use]
    pub fn volatile(mut self) -> Self {
        self.volatile = true;
        self
    }

    /// Returns the action marked as a proof.
    #[must_use]
    pub fn proof(mut self) -> Self {
        self.proof = true;
        self
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.title)
    }
}

/// The actions of one step, with the order among them.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct ActionGraph {
    /// The actions, ids unique, in an order in which they could be done one after the other.
    pub actions: Vec<Action>,
    /// How many of them may run at once; absent = the plan's limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<usize>,
    /// Things the reader of a dry run must know: guesses made, what could not be looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Things that a look found and the reader of a dry run wants to see; nothing to worry about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The same for programs, in full.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub details: serde_json::Value,
    /// Steps after which the list is complete: in a dry run some actions depend on what those steps bring about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub known_after: Vec<String>,
    /// The servers that were looked at for it, by the database's name in the plan.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub servers: BTreeMap<String, SeenServer>,
}

/// A server as it was when a step was surveyed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SeenServer {
    /// Address without the password.
    pub label: String,
    /// `server_version`.
    pub version: String,
    /// Size of the databases that people use, bytes.
    pub bytes: u64,
}

impl ActionGraph {
    /// Returns a graph of these actions, each as free to start as its own `after` says.
    #[must_use]
    pub fn of(actions: Vec<Action>) -> Self {
        Self { actions, ..Self::default() }
    }

    /// Returns a graph whose single line says that the actions are known after `step`.
    #[must_use]
    pub fn known_after(step: impl Into<String>) -> Self {
        Self { known_after: vec![step.into()], ..Self::default() }
    }
}

/// What an action gives to later steps under a name.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutputValue {
    /// A value that is journalled and shown.
    Plain(serde_json::Value),
    /// A value that lives in memory only; the journal holds just the fact that there was one.
    #[serde(serialize_with = "no_secret", deserialize_with = "no_secret_back")]
    Secret(#[schemars(with = "()")] Option<SecretString>),
}

fn no_secret<S: serde::Serializer>(_: &Option<SecretString>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_none()
}

fn no_secret_back<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    serde::de::IgnoredAny::deserialize(deserializer)?;
    Ok(None)
}

impl<T: Into<serde_json::Value>> From<T> for OutputValue {
    fn from(value: T) -> Self {
        Self::Plain(value.into())
    }
}

/// The outputs of an action or a step, by name.
pub type Outputs = BTreeMap<String, OutputValue>;

/// What a finished action reports.
#[derive(Debug, Clone, Default, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Output {
    /// Values for later steps.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: Outputs,
    /// One line for people: what was done, with its numbers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub summary: String,
    /// Things that are not errors and must not be overlooked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Rows moved or checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Bytes moved or checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Whether a check found the work done already.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub already_done: bool,
}

impl Output {
    /// Returns an output with just a summary.
    #[must_use]
    pub fn said(summary: impl Into<String>) -> Self {
        Self { summary: summary.into(), ..Self::default() }
    }

    /// Returns the output with one more value for later steps.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: impl Into<OutputValue>) -> Self {
        self.outputs.insert(name.into(), value.into());
        self
    }
}
