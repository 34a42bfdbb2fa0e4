//! How long everything took: the record of one rehearsal or run, kept as a file, from which downtimes are predicted.
//!
//! A step's time begins when the last step that it needs was over, so it holds its survey, its waiting and its actions;
//! the times along a path add up to the time of the path.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    error::StepError,
    event::{Holder, Outcome},
    op::Op,
    plan::Plan,
    state::{ActionState, ActionStatus, RunState, StepState, StepStatus},
};

/// The record of a rehearsal or run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Timing {
    /// Version of this format.
    pub version: u32,
    /// The rehearsal's or run's id.
    pub id: String,
    /// The plan's name.
    pub plan: String,
    /// Fingerprint of the plan.
    pub fingerprint: String,
    /// Fingerprint of each step.
    pub fingerprints: BTreeMap<String, String>,
    /// When it began.
    pub at: Timestamp,
    /// How it ended.
    pub outcome: Outcome,
    /// Where it ran.
    pub machine: Machine,
    /// What of the data was rehearsed with; absent = all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sample: Option<String>,
    /// How long a simulated step is taken to last where no run has measured it, milliseconds.
    pub assumed_ms: u64,
    /// The servers that were copied, by the database's name in the plan; empty for a run.
    pub servers: BTreeMap<String, TimedServer>,
    /// The measured downtime, milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime_ms: Option<u64>,
    /// Steps that were done.
    pub steps: Vec<TimedStep>,
    /// Their actions.
    pub actions: Vec<TimedAction>,
}

/// Where something ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Host name.
    pub host: String,
    /// Processors that pgplan may use.
    pub cpus: usize,
    /// pgplan's version.
    pub pgplan: String,
}

/// A server that was rehearsed with.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TimedServer {
    /// `server_version` of the real one.
    pub version: String,
    /// Size of the real one's databases then, bytes.
    pub bytes: u64,
    /// Rows of the real one's tables then, as the planner estimates them; absent when not all are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// Which part of the real one's data the copy held, by bytes: 1 = all of it.
    pub share: f64,
}

/// How long a step took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimedStep {
    /// Its id.
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// From the end of the last step that it needs to its own, milliseconds.
    pub ms: u64,
    /// How much of that was over when its survey was, milliseconds.
    pub survey_ms: u64,
    /// Whether it was only simulated.
    pub simulated: bool,
}

/// How long an action took.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimedAction {
    /// Its step.
    pub step: String,
    /// Its id.
    pub action: String,
    /// The step's kind.
    pub kind: String,
    /// The operation's name: `dump`, `restore`.
    pub op: String,
    /// Bytes moved or checked.
    pub bytes: Option<u64>,
    /// Rows moved or checked.
    pub rows: Option<u64>,
    /// How long, milliseconds.
    pub ms: u64,
    /// Whether it was only simulated.
    pub simulated: bool,
}

impl Timing {
    /// Returns the record of a run that was done in one session; `simulated` tells which steps were only simulated.
    #[must_use]
    pub fn of(plan: &Plan, state: &RunState, machine: Machine, simulated: impl Fn(&str) -> bool) -> Option<Self> {
        let (outcome, at) = (state.outcome?, state.started_at?);
        let kind = |id: &str| plan.step(id).map_or("", |step| step.kind);
        let mut steps = Vec::new();
        let mut actions = Vec::new();
        for step in &plan.steps {
            let Some(found) = state.steps.get(&step.id).filter(|found| found.status == StepStatus::Succeeded) else {
                continue;
            };
            steps.extend(timed(&step.id, step.kind, &step.needs, found, state, at, simulated(&step.id)));
            let done = found.actions.iter().filter(|action| action.status == ActionStatus::Finished);
            actions
                .extend(done.filter_map(|action| timed_action(&step.id, kind(&step.id), action, simulated(&step.id))));
        }
        let ended = state.downtime.open().is_none();
        Some(Self {
            version: 1,
            id: state.id.clone(),
            plan: plan.name.clone(),
            fingerprint: plan.fingerprint.clone(),
            fingerprints: state.step_fingerprints.clone(),
            at,
            outcome,
            machine,
            sample: None,
            assumed_ms: 0,
            servers: BTreeMap::new(),
            downtime_ms: state.downtime().filter(|_| ended).and_then(|span| u64::try_from(span.as_millis()).ok()),
            steps,
            actions,
        })
    }

    /// Writes the record into a file of mode 600, whole or not at all.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, file: &Path) -> Result<(), StepError> {
        let wrong = |error: std::io::Error| StepError::io("write the timing record", file, &error);
        let folder = file.parent().unwrap_or(Path::new("."));
        let mut fresh = tempfile::NamedTempFile::new_in(folder).map_err(wrong)?;
        serde_json::to_writer_pretty(&mut fresh, self).map_err(|error| wrong(error.into()))?;
        fresh.write_all(b"\n").and_then(|()| fresh.as_file().sync_all()).map_err(wrong)?;
        fresh.persist(file).map_err(|error| wrong(error.error))?;
        Ok(())
    }

    /// Returns the step of this id.
    #[must_use]
    pub fn step(&self, id: &str) -> Option<&TimedStep> {
        self.steps.iter().find(|step| step.id == id)
    }
}

impl Machine {
    /// Returns this machine.
    #[must_use]
    pub fn this(me: &Holder) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self { host: me.host.clone(), cpus, pgplan: me.version.clone() }
    }
}

fn millis(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_millis()).unwrap_or(0)
}

fn timed(
    id: &str,
    kind: &str,
    needs: &[String],
    found: &StepState,
    state: &RunState,
    began: Timestamp,
    simulated: bool,
) -> Option<TimedStep> {
    let over = needs.iter().filter_map(|need| state.steps.get(need)?.ended_at).max().unwrap_or(began);
    let (surveyed, ended) = (found.started_at?, found.ended_at?);
    Some(TimedStep {
        id: id.to_owned(),
        kind: kind.to_owned(),
        ms: millis(over, ended),
        survey_ms: millis(over, surveyed),
        simulated,
    })
}

fn timed_action(step: &str, kind: &str, found: &ActionState, simulated: bool) -> Option<TimedAction> {
    let output = found.output.as_ref();
    Some(TimedAction {
        step: step.to_owned(),
        action: found.action.id.clone(),
        kind: kind.to_owned(),
        op: name(&found.action.op),
        bytes: output.and_then(|output| output.bytes),
        rows: output.and_then(|output| output.rows),
        ms: millis(found.started_at?, found.ended_at?),
        simulated,
    })
}

/// Returns an operation's name as it stands in the journal.
fn name(op: &Op) -> String {
    let value = serde_json::to_value(op).ok();
    value.and_then(|value| value["op"].as_str().map(str::to_owned)).unwrap_or_default()
}

/// Reads the records of a folder, oldest first; also returns what is wrong with those that cannot be read.
///
/// # Errors
/// When the folder cannot be listed; one that is not there holds nothing.
pub fn read_all(folder: &Path) -> Result<(Vec<Timing>, Vec<String>), StepError> {
    let (mut all, mut wrong) = (Vec::new(), Vec::new());
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((all, wrong)),
        Err(error) => return Err(StepError::io("list the rehearsals in", folder, &error)),
    };
    let files: std::io::Result<Vec<PathBuf>> = entries.map(|entry| Ok(entry?.path())).collect();
    let files = files.map_err(|error| StepError::io("list the rehearsals in", folder, &error))?;
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "json")) {
        let text = fs::read(file).map_err(|error| error.to_string());
        match text.and_then(|text| serde_json::from_slice::<Timing>(&text).map_err(|error| error.to_string())) {
            Ok(timing) => all.push(timing),
            Err(error) => wrong.push(format!("{} is no timing record: {error}", file.display())),
        }
    }
    all.sort_by(|a, b| (a.at, &a.id).cmp(&(b.at, &b.id)));
    Ok((all, wrong))
}
