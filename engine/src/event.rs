//! What happened: the events of a run.
//!
//! Events are the truth; status is a fold of them ([`crate::state::RunState`]). Each variant states whether it is
//! durable: a durable event is in the journal, flushed to disk, before anything acts on it.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    action::{ActionGraph, Output},
    error::StepError,
    plan::Downtime,
};

/// One event of a run.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Event {
    /// Position in the run's log, from 1, without gaps among durable events; a droppable event repeats the last one.
    pub seq: u64,
    /// When it was recorded, UTC.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub at: Timestamp,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What happened.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum EventKind {
    /// A run began. Durable.
    RunStarted {
        /// The plan's name.
        plan: String,
        /// The plan file as it was named.
        path: String,
        /// Fingerprint of the whole plan.
        fingerprint: String,
        /// Fingerprint of each step.
        steps: BTreeMap<String, String>,
        /// Each step as it is written, with the databases that it uses, for showing what an edit changed; secrets stand
        /// there by name.
        #[serde(default)]
        texts: BTreeMap<String, serde_json::Value>,
        /// The steps next before each step.
        #[serde(default)]
        needs: BTreeMap<String, Vec<String>>,
        /// Variables in force, overrides included.
        vars: BTreeMap<String, serde_json::Value>,
        /// The variables that were given on the command line; a run goes on with them.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        given: BTreeMap<String, String>,
        /// The platform files that were given on the command line, as they were named.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        platforms: Vec<String>,
        /// Who runs it.
        holder: Holder,
    },
    /// A run went on after it had stopped or died. Durable.
    RunResumed {
        /// Fingerprint of the whole plan as it is now.
        fingerprint: String,
        /// Fingerprint of each step as it is now.
        steps: BTreeMap<String, String>,
        /// Each step as it is written now.
        #[serde(default)]
        texts: BTreeMap<String, serde_json::Value>,
        /// The steps next before each step now.
        #[serde(default)]
        needs: BTreeMap<String, Vec<String>>,
        /// Who runs it now.
        holder: Holder,
    },
    /// The programs that a session found, when they are not those of the session before. Durable.
    ProgramsFound {
        /// Version by installation: `/usr/lib/postgresql/18/bin` → `18.4`, and pgplan's own.
        programs: BTreeMap<String, String>,
    },
    /// A step was surveyed; this is what it will do. Durable.
    StepExpanded {
        /// The step.
        step: String,
        /// Its actions.
        graph: ActionGraph,
    },
    /// A step that is not over was edited: it is surveyed anew, and actions that are finished stay finished. Durable.
    StepChanged {
        /// The step.
        step: String,
    },
    /// A step is done anew, whatever it did before: it is surveyed again, and its earlier receipts do not count. Durable.
    StepReopened {
        /// The step.
        step: String,
        /// Why.
        reason: String,
    },
    /// A step will not run, and its dependants may. Durable.
    StepSkipped {
        /// The step.
        step: String,
        /// Why: its `if`, its `run_on`, its `done_if`, `--until`.
        reason: String,
    },
    /// A step cannot run because one that it needs failed. Durable.
    StepBlocked {
        /// The step.
        step: String,
        /// The need that failed or is blocked itself.
        by: String,
    },
    /// All actions of a step are finished. Durable.
    StepFinished {
        /// The step.
        step: String,
    },
    /// A step ended with an error. Durable.
    StepFailed {
        /// The step.
        step: String,
        /// The first error.
        error: StepError,
        /// Whether `continue_on_error` makes it a warning.
        tolerated: bool,
    },
    /// An action is about to be done. Durable before it is.
    ActionStarted {
        /// The step.
        step: String,
        /// The action.
        action: String,
        /// Counted from 1 over the whole run.
        attempt: u32,
    },
    /// An action was done. Durable before anything depends on it.
    ActionFinished {
        /// The step.
        step: String,
        /// The action.
        action: String,
        /// What it gave.
        output: Output,
        /// How long the attempt took, milliseconds.
        took_ms: u64,
    },
    /// An attempt failed. Durable.
    ActionFailed {
        /// The step.
        step: String,
        /// The action.
        action: String,
        /// Why.
        error: StepError,
        /// Milliseconds until it is tried again; absent = it is not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_in_ms: Option<u64>,
        /// How long the attempt took, milliseconds.
        took_ms: u64,
    },
    /// An action was cut in the middle and its effect cannot be seen. Durable.
    ActionIndeterminate {
        /// The step.
        step: String,
        /// The action.
        action: String,
    },
    /// An action is to be done again: it was cut and is safe to redo, or what it gave died with the process, or a
    /// person said so. Durable.
    ActionReset {
        /// The step.
        step: String,
        /// The action.
        action: String,
        /// Why.
        reason: String,
    },
    /// The run goes back: what it did is taken back from here on. Durable.
    UndoStarted {
        /// Why.
        reason: String,
    },
    /// An action's effect is about to be taken back. Durable before it is.
    ActionUndoing {
        /// The step.
        step: String,
        /// The action.
        action: String,
    },
    /// An action's effect could not be taken back, and what was to do it has ended by itself: it may be done again. Durable.
    ActionUndoFailed {
        /// The step.
        step: String,
        /// The action.
        action: String,
        /// Why.
        error: StepError,
    },
    /// An action's effect was taken back. Durable.
    ActionUndone {
        /// The step.
        step: String,
        /// The action.
        action: String,
    },
    /// How far an action is. Droppable: never in the journal.
    ActionProgress {
        /// The step.
        step: String,
        /// The action.
        action: String,
        /// Bytes so far.
        bytes: u64,
        /// Rows so far.
        rows: u64,
        /// Bytes in all, where known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        total: Option<u64>,
    },
    /// A program that an action started printed a line (redacted). Droppable: kept in the run's log file only.
    ActionSaid {
        /// The step.
        step: String,
        /// The action.
        action: String,
        /// The line.
        line: String,
    },
    /// A person says from elsewhere that a step may be done; holds for the plan as it was then. Durable.
    StepApproved {
        /// The step.
        step: String,
        /// Fingerprint of the plan that was approved.
        fingerprint: String,
        /// Who: user and host.
        by: String,
    },
    /// The application's downtime begins or ends. Durable.
    DowntimeMarked {
        /// The step that marks it.
        step: String,
        /// Which side.
        mark: Downtime,
        /// At an end: the end steps of the same window that have not ended yet; it lasts until they have.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left: Vec<String>,
    },
    /// Something that is no error and must not be overlooked. Durable.
    Warned {
        /// The step, where it is about one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        step: Option<String>,
        /// What.
        message: String,
    },
    /// A person or a signal stopped the run; it can go on. Durable.
    RunInterrupted {
        /// What stopped it.
        by: String,
    },
    /// Nothing more can be done in this session. Durable.
    RunEnded {
        /// How.
        outcome: Outcome,
    },
}

/// How a session of a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Every step succeeded or was skipped by its own rule.
    Succeeded,
    /// A step failed; apply again to go on.
    Failed,
    /// `--until` was reached; apply again to go on.
    Paused,
    /// A person has to decide before it can go on.
    NeedsPerson,
    /// What was done has been taken back.
    Undone,
    /// A person gave the run up.
    Abandoned,
}

impl Outcome {
    /// Returns whether the run is over for good; the others can go on.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::Succeeded | Self::Undone | Self::Abandoned => true,
            Self::Failed | Self::Paused | Self::NeedsPerson => false,
        }
    }
}

/// The process that runs a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Holder {
    /// Host name.
    pub host: String,
    /// Process id.
    pub pid: u32,
    /// The process's start time as the kernel counts it (`/proc/PID/stat`, field 22); tells a reused pid apart.
    pub started: u64,
    /// Operating system user.
    pub user: String,
    /// pgplan's version.
    pub version: String,
    /// Since when.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub since: Timestamp,
}

impl EventKind {
    /// Returns whether the event must be on disk before anything acts on it.
    #[must_use]
    pub fn is_durable(&self) -> bool {
        match self {
            Self::ActionProgress { .. } | Self::ActionSaid { .. } => false,
            Self::RunStarted { .. }
            | Self::RunResumed { .. }
            | Self::ProgramsFound { .. }
            | Self::StepExpanded { .. }
            | Self::StepChanged { .. }
            | Self::StepReopened { .. }
            | Self::StepSkipped { .. }
            | Self::StepBlocked { .. }
            | Self::StepFinished { .. }
            | Self::StepFailed { .. }
            | Self::ActionStarted { .. }
            | Self::ActionFinished { .. }
            | Self::ActionFailed { .. }
            | Self::ActionIndeterminate { .. }
            | Self::ActionReset { .. }
            | Self::UndoStarted { .. }
            | Self::ActionUndoing { .. }
            | Self::ActionUndoFailed { .. }
            | Self::ActionUndone { .. }
            | Self::StepApproved { .. }
            | Self::DowntimeMarked { .. }
            | Self::Warned { .. }
            | Self::RunInterrupted { .. }
            | Self::RunEnded { .. } => true,
        }
    }
}
