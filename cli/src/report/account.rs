//! The account of a run: what its report tells, as data, made of its events and of the lists that lie in its folder.
//!
//! `pgplan report --format json` prints it; [`super::html`] and [`super::markdown`] write it for people. It holds what
//! the journal holds, so no secret, and nothing is looked up outside of it.

use std::{collections::BTreeMap, fs, path::Path};

use jiff::Timestamp;
use pgplan_engine::{
    action::{OutputValue, SeenServer},
    event::{Event, EventKind, Holder},
    op::Op,
    sql::FilterReport,
    state::{self, RunState, StepState, StepStatus},
};
use serde::Serialize;
use serde_json::Value;

use super::summary::between;
use crate::commands::runs;

/// A run as its report tells it.
#[derive(Debug, Serialize)]
pub(crate) struct Account {
    /// The run's id.
    pub(crate) run: String,
    /// The plan's name.
    pub(crate) plan: String,
    /// The plan file as it was named.
    pub(crate) path: String,
    /// Fingerprint of the plan.
    pub(crate) fingerprint: String,
    /// How it stands, in one word.
    pub(crate) status: String,
    /// Whether it was a rehearsal: servers were throwaway copies, and the application was not touched.
    pub(crate) rehearsal: bool,
    /// When it began.
    pub(crate) started_at: Option<Timestamp>,
    /// When the last event happened.
    pub(crate) ended_at: Option<Timestamp>,
    /// From the first event to the last, milliseconds.
    pub(crate) took_ms: u64,
    /// The processes that ran it, in order.
    pub(crate) sessions: Vec<Session>,
    /// Variables that were given on the command line.
    pub(crate) given: BTreeMap<String, String>,
    /// The application's downtime, each window.
    pub(crate) downtime: Vec<Window>,
    /// All windows together, milliseconds.
    pub(crate) downtime_ms: u64,
    /// The servers as they were first seen, by the database's name in the plan.
    pub(crate) servers: BTreeMap<String, SeenServer>,
    /// Versions of PostgreSQL's programs that the last session found, by their folder.
    pub(crate) programs: BTreeMap<String, String>,
    /// Steps in the order in which they came up.
    pub(crate) steps: Vec<Step>,
    /// What `verify` steps compared.
    pub(crate) verifications: Vec<Verification>,
    /// What `filter` steps left out.
    pub(crate) filters: Vec<Filtered>,
    /// Things that are no errors and must not be overlooked, with their step.
    pub(crate) warnings: Vec<Warning>,
}

/// One process that ran the plan.
#[derive(Debug, Serialize)]
pub(crate) struct Session {
    /// Since when.
    pub(crate) from: Timestamp,
    /// Its last event.
    pub(crate) to: Timestamp,
    /// Who: user, host, process, pgplan's version.
    pub(crate) by: Holder,
    /// How it ended.
    pub(crate) ended: String,
}

/// A window in which the application was down.
#[derive(Debug, Serialize)]
pub(crate) struct Window {
    /// The step that began it.
    pub(crate) begin_step: String,
    /// When.
    pub(crate) from: Timestamp,
    /// The step that ended it; absent when none has.
    pub(crate) end_step: Option<String>,
    /// Whether it ended because the step that began it was taken back.
    pub(crate) taken_back: bool,
    /// When it ended, or the run's last event.
    pub(crate) to: Timestamp,
    /// How long, milliseconds.
    pub(crate) ms: u64,
}

/// A step.
#[derive(Debug, Serialize)]
pub(crate) struct Step {
    /// Its id.
    pub(crate) id: String,
    /// Its kind.
    pub(crate) kind: String,
    /// Where it stands.
    pub(crate) status: StepStatus,
    /// When it was surveyed.
    pub(crate) from: Option<Timestamp>,
    /// When it was over.
    pub(crate) to: Option<Timestamp>,
    /// Why it was skipped or blocked.
    pub(crate) reason: Option<String>,
    /// Its error, with what to do.
    pub(crate) error: Option<Failure>,
    /// Its actions.
    pub(crate) actions: Vec<Action>,
    /// What its survey noted.
    pub(crate) notes: Vec<String>,
}

/// Why a step failed.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    /// What went wrong.
    pub(crate) message: String,
    /// Further lines.
    pub(crate) details: Vec<String>,
    /// What to do.
    pub(crate) help: String,
}

/// An action.
#[derive(Debug, Serialize)]
pub(crate) struct Action {
    /// Its id.
    pub(crate) id: String,
    /// What it does, in one line.
    pub(crate) title: String,
    /// What it did, in one line.
    pub(crate) said: String,
    /// Rows moved or checked.
    pub(crate) rows: Option<u64>,
    /// Bytes moved or checked.
    pub(crate) bytes: Option<u64>,
    /// Every attempt.
    pub(crate) attempts: Vec<Attempt>,
}

/// One attempt at an action, or at taking it back.
#[derive(Debug, Serialize)]
pub(crate) struct Attempt {
    /// When it began.
    pub(crate) from: Timestamp,
    /// When it ended; for one that was cut, the session's last event.
    pub(crate) to: Timestamp,
    /// How it ended.
    pub(crate) how: How,
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum How {
    /// Done.
    Done,
    /// It failed.
    Failed,
    /// It was cut in the middle.
    Cut,
    /// It took something back.
    Undone,
}

/// What a `verify` step compared.
#[derive(Debug, Serialize)]
pub(crate) struct Verification {
    /// The step.
    pub(crate) step: String,
    /// Whether both sides are the same.
    pub(crate) equal: bool,
    /// In one line.
    pub(crate) said: String,
    /// Tables with what both sides have.
    pub(crate) tables: Vec<Value>,
    /// What differs.
    pub(crate) differences: Vec<String>,
    /// What differs and is expected.
    pub(crate) ignored: Vec<String>,
}

/// What a `filter` step left out.
#[derive(Debug, Serialize)]
pub(crate) struct Filtered {
    /// The step.
    pub(crate) step: String,
    /// How many statements each reason touched.
    pub(crate) counts: BTreeMap<String, u64>,
    /// The statements; absent when their list does not lie in the run's folder any more.
    pub(crate) list: Option<FilterReport>,
}

/// A warning.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Warning {
    /// The step.
    pub(crate) step: Option<String>,
    /// What.
    pub(crate) message: String,
}

/// The lists that steps have left in the run's folder, by step.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    removals: BTreeMap<String, FilterReport>,
    verifications: BTreeMap<String, Value>,
    /// Those that are there and cannot be read.
    unread: Vec<Warning>,
}

impl Window {
    /// Returns the step that ended it and how; absent when none has.
    pub(crate) fn end(&self) -> Option<(&str, &'static str)> {
        let how = if self.taken_back { "was taken back" } else { "ended" };
        self.end_step.as_deref().map(|step| (step, how))
    }
}

impl Lists {
    /// Reads the lists of these steps; one that cannot be read becomes a warning, as the events tell the rest.
    pub(crate) fn read<'a>(run_dir: &Path, steps: impl Iterator<Item = &'a String>) -> Self {
        let mut lists = Self::default();
        for step in steps {
            let folder = run_dir.join(step);
            let unread = &mut lists.unread;
            if let Some(list) = list(step, &folder.join("removals.json"), unread) {
                lists.removals.insert(step.clone(), list);
            }
            if let Some(list) = list(step, &folder.join("verification.json"), unread) {
                lists.verifications.insert(step.clone(), list);
            }
        }
        lists
    }
}

/// Reads a list, if the step has left one.
fn list<T: serde::de::DeserializeOwned>(step: &str, path: &Path, unread: &mut Vec<Warning>) -> Option<T> {
    let read = match fs::read(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => Err(error.to_string()),
        Ok(text) => serde_json::from_slice(&text).map_err(|error| error.to_string()),
    };
    read.inspect_err(|error| {
        let message = format!("{} cannot be read, so this report lacks it: {error}", path.display());
        unread.push(Warning { step: Some(step.to_owned()), message });
    })
    .ok()
}

impl Account {
    /// Returns the account of a run; `state` is the fold of `events`.
    pub(crate) fn of(events: &[Event], state: &RunState, lists: &Lists, rehearsal: bool) -> Self {
        let sessions = sessions(events, state);
        let mut steps: Vec<Step> = Vec::new();
        let attempts = attempts(events, &sessions);
        for id in crate::commands::status::order(events, state) {
            let empty = StepState::default();
            steps.push(step(&id, state.steps.get(&id).unwrap_or(&empty), state, &attempts));
        }
        Self {
            run: state.id.clone(),
            plan: state.plan.clone(),
            path: state.path.clone(),
            fingerprint: state.fingerprint.clone(),
            status: runs::word(state).to_owned(),
            rehearsal,
            started_at: state.started_at,
            ended_at: state.last_at,
            took_ms: state.started_at.zip(state.last_at).map_or(0, |(from, to)| between(from, to)),
            sessions,
            given: state.given.clone(),
            downtime: windows(state),
            downtime_ms: state.downtime().map_or(0, |long| u64::try_from(long.as_millis()).unwrap_or(0)),
            servers: state.servers.clone(),
            // Which pgplan it was stands with each session.
            programs: state.programs.clone().into_iter().filter(|(folder, _)| folder != "pgplan").collect(),
            verifications: verifications(state, lists),
            filters: filters(state, lists),
            warnings: state
                .warnings
                .iter()
                .map(|(step, message)| Warning { step: step.clone(), message: message.clone() })
                .chain(lists.unread.iter().cloned())
                .collect(),
            steps,
        }
    }

    /// Returns the rows that were compared and are the same on both sides.
    pub(crate) fn rows_verified(&self) -> u64 {
        let rows = |table: &Value| table["left"].as_u64().or_else(|| table["left"]["rows"].as_u64());
        self.verifications.iter().filter(|one| one.equal).flat_map(|one| &one.tables).filter_map(rows).sum()
    }
}

fn sessions(events: &[Event], state: &RunState) -> Vec<Session> {
    let mut sessions: Vec<Session> = Vec::new();
    for event in events {
        match &event.kind {
            EventKind::RunStarted { holder, .. } | EventKind::RunResumed { holder, .. } => {
                sessions.push(Session { from: event.at, to: event.at, by: holder.clone(), ended: "killed".to_owned() })
            }
            _ => {}
        }
        let Some(last) = sessions.last_mut() else { continue };
        match &event.kind {
            // It comes from elsewhere, maybe long after.
            EventKind::StepApproved { .. } => continue,
            EventKind::RunInterrupted { by } => last.ended = format!("interrupted by {by}"),
            EventKind::RunEnded { outcome } => {
                let ended = RunState { outcome: Some(*outcome), ..RunState::default() };
                last.ended = runs::word(&ended).to_owned();
            }
            _ => {}
        }
        last.to = event.at;
    }
    if let Some(last) = sessions.last_mut().filter(|last| last.ended == "killed") {
        last.ended = runs::word(state).to_owned();
    }
    sessions
}

/// Returns the attempts of every action by step and action.
fn attempts(events: &[Event], sessions: &[Session]) -> BTreeMap<(String, String), Vec<Attempt>> {
    let mut open: BTreeMap<(String, String), Timestamp> = BTreeMap::new();
    let mut all: BTreeMap<(String, String), Vec<Attempt>> = BTreeMap::new();
    for event in events {
        let (step, action, how) = match &event.kind {
            EventKind::ActionStarted { step, action, .. } | EventKind::ActionUndoing { step, action } => {
                open.insert((step.clone(), action.clone()), event.at);
                continue;
            }
            EventKind::ActionFinished { step, action, .. } => (step, action, How::Done),
            EventKind::ActionFailed { step, action, .. } | EventKind::ActionUndoFailed { step, action, .. } => {
                (step, action, How::Failed)
            }
            EventKind::ActionIndeterminate { step, action } | EventKind::ActionReset { step, action, .. } => {
                (step, action, How::Cut)
            }
            EventKind::ActionUndone { step, action } => (step, action, How::Undone),
            _ => continue,
        };
        let key = (step.clone(), action.clone());
        if let Some(from) = open.remove(&key) {
            let to = end_of_session(sessions, from).filter(|_| how == How::Cut).unwrap_or(event.at);
            all.entry(key).or_default().push(Attempt { from, to: to.max(from), how });
        }
    }
    for (key, from) in open {
        let to = end_of_session(sessions, from).unwrap_or(from);
        all.entry(key).or_default().push(Attempt { from, to, how: How::Cut });
    }
    all
}

fn end_of_session(sessions: &[Session], at: Timestamp) -> Option<Timestamp> {
    sessions.iter().find(|session| session.from <= at && at <= session.to).map(|session| session.to)
}

fn step(id: &str, found: &StepState, state: &RunState, attempts: &BTreeMap<(String, String), Vec<Attempt>>) -> Step {
    let text = state.step_texts.get(id).and_then(Value::as_object);
    let failed = matches!(found.status, StepStatus::Failed | StepStatus::Tolerated);
    let actions = found.actions.iter().map(|one| {
        let tried = attempts.get(&(id.to_owned(), one.action.id.clone()));
        let output = one.output.as_ref();
        Action {
            id: one.action.id.clone(),
            title: one.action.title.clone(),
            said: output.map(|output| output.summary.clone()).unwrap_or_default(),
            rows: output.and_then(|output| output.rows),
            bytes: output.and_then(|output| output.bytes),
            attempts: tried.into_iter().flatten().map(|one| Attempt { ..*one }).collect(),
        }
    });
    Step {
        id: id.to_owned(),
        kind: text.and_then(|text| text.keys().next().cloned()).unwrap_or_default(),
        status: found.status,
        from: found.started_at,
        to: found.ended_at,
        reason: found.reason.clone(),
        error: found.error.as_ref().filter(|_| failed).map(|error| Failure {
            message: error.message.clone(),
            details: error.details.clone(),
            help: error.advice_in(state.going_back && state.is_unfinished()).into_owned(),
        }),
        actions: actions.collect(),
        notes: found.graph.notes.clone(),
    }
}

fn windows(state: &RunState) -> Vec<Window> {
    let window = |one: &state::Window| {
        let end = one.ended();
        let to = end.map(|end| end.at).or(state.last_at).unwrap_or(one.from);
        Window {
            begin_step: one.begin_step.clone(),
            from: one.from,
            end_step: end.map(|end| end.step.clone()),
            taken_back: end.is_some_and(|end| end.taken_back),
            to,
            ms: between(one.from, to),
        }
    };
    state.downtime.iter().map(window).collect()
}

fn plain<'a>(step: &'a StepState, name: &str) -> Option<&'a Value> {
    let outputs = step.actions.iter().rev().filter_map(|action| action.output.as_ref());
    outputs.filter_map(|output| output.outputs.get(name)).find_map(|value| match value {
        OutputValue::Plain(value) => Some(value),
        OutputValue::Secret(_) => None,
    })
}

fn verifications(state: &RunState, lists: &Lists) -> Vec<Verification> {
    let judged = |step: &&StepState| {
        step.actions.iter().any(|one| matches!(one.action.op, Op::JudgeComparison(_)) && one.attempts > 0)
    };
    let mut found: Vec<(&String, &StepState)> = state.steps.iter().filter(|(_, step)| judged(step)).collect();
    found.sort_by_key(|(_, step)| step.started_at);
    let one = |(id, step): (&String, &StepState)| {
        let list = lists.verifications.get(id);
        let texts = |key: &str| -> Vec<String> {
            let all = list.and_then(|list| list[key].as_array());
            all.into_iter().flatten().map(difference).collect()
        };
        let tables = list.and_then(|list| list["tables"].as_array()).or_else(|| plain(step, "tables")?.as_array());
        let said = step.actions.iter().rev().find_map(|one| Some(one.output.as_ref()?.summary.clone()));
        let error = step.error.as_ref().map(|error| error.message.clone());
        let equal = step.error.is_none() && plain(step, "equal") == Some(&Value::Bool(true));
        let mut differences = texts("differences");
        if differences.is_empty() && !equal {
            differences = step.error.iter().flat_map(|error| error.details.clone()).collect();
        }
        Verification {
            step: id.clone(),
            equal,
            said: if equal { said.unwrap_or_default() } else { error.unwrap_or_default() },
            tables: tables.cloned().unwrap_or_default(),
            differences,
            ignored: texts("ignored"),
        }
    };
    found.into_iter().map(one).collect()
}

fn difference(value: &Value) -> String {
    let field = |key: &str| value[key].as_str().unwrap_or_default();
    format!("{}: {}: left {}, right {}", field("object"), field("what"), field("left"), field("right"))
}

fn filters(state: &RunState, lists: &Lists) -> Vec<Filtered> {
    let filters = |step: &&StepState| step.actions.iter().any(|one| matches!(one.action.op, Op::Filter(_)));
    let mut found: Vec<(&String, &StepState)> = state.steps.iter().filter(|(_, step)| filters(step)).collect();
    found.sort_by_key(|(_, step)| step.started_at);
    let counts = |step: &StepState| -> BTreeMap<String, u64> {
        let counts = plain(step, "removals").and_then(Value::as_object).into_iter().flatten();
        counts.filter_map(|(reason, count)| Some((reason.clone(), count.as_u64()?))).collect()
    };
    let one = |(id, step): (&String, &StepState)| Filtered {
        step: id.clone(),
        counts: counts(step),
        list: lists.removals.get(id).cloned(),
    };
    found.into_iter().map(one).collect()
}
