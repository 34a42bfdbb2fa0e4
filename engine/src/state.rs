//! Where a run stands: a fold of its events through one table of legal moves.

mod doings;
mod windows;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

pub use windows::{Window, WindowEnd, Windows};

use crate::{
    action::{Action, ActionGraph, Output, OutputValue, Outputs, SeenServer},
    error::StepError,
    event::{Event, EventKind, Holder, Outcome},
    plan::Downtime,
};

/// Where an action stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionStatus {
    /// Not begun, or to be done again.
    Pending,
    /// Begun; after a crash: cut in the middle.
    Started,
    /// Done.
    Finished,
    /// The last attempt failed.
    Failed,
    /// Cut in the middle, effect unknown.
    Indeterminate,
    /// Being taken back; after a crash: cut in the middle of that, unless an error has ended it.
    Undoing,
    /// Done and taken back.
    Undone,
}

/// Where a step stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// Waits for the steps it needs, or to be surveyed.
    Pending,
    /// Surveyed; its actions are being done.
    Running,
    /// Done.
    Succeeded,
    /// Not run, by its own rule.
    Skipped,
    /// Ended with an error.
    Failed,
    /// Ended with an error that `continue_on_error` tolerates.
    Tolerated,
    /// A step it needs failed.
    Blocked,
    /// What it did was taken back.
    Undone,
}

impl StepStatus {
    /// Returns whether nothing more happens to the step in this session.
    #[must_use]
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Pending | Self::Running)
    }

    /// Returns whether a dependant with `run_on: success` may run.
    #[must_use]
    pub fn satisfies(self) -> bool {
        matches!(self, Self::Succeeded | Self::Skipped | Self::Tolerated)
    }
}

/// An action and where it stands.
#[derive(Debug, Clone, Serialize)]
pub struct ActionState {
    /// What it is.
    #[serde(flatten, serialize_with = "named")]
    pub action: Action,
    /// Where it stands.
    pub status: ActionStatus,
    /// Attempts so far, over all sessions.
    pub attempts: u32,
    /// What it gave.
    pub output: Option<Output>,
    /// Its last error.
    pub error: Option<StepError>,
    /// When the last attempt began.
    pub started_at: Option<Timestamp>,
    /// When the last attempt ended.
    pub ended_at: Option<Timestamp>,
    /// Whether a retry is waiting.
    pub retrying: bool,
    /// How often in a row pgplan ended in the middle of it; an end of its own, or a person's word, begins anew.
    pub cuts: u32,
    /// Which doing of it this is since its step was begun; receipts of others do not count.
    #[serde(skip)]
    doing: u32,
    /// Whether the last attempt to take it back ended by itself with an error.
    #[serde(skip)]
    pub undo_failed: bool,
}

/// Writes what tells an action from others; what it does stands in the events.
fn named<S: serde::Serializer>(action: &Action, serializer: S) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeMap;
    let mut map = serializer.serialize_map(Some(2))?;
    map.serialize_entry("id", &action.id)?;
    map.serialize_entry("title", &action.title)?;
    map.end()
}

/// A step and where it stands.
#[derive(Debug, Clone, Serialize)]
pub struct StepState {
    /// Where it stands.
    pub status: StepStatus,
    /// Its actions in the order of the graph; empty before it is surveyed.
    pub actions: Vec<ActionState>,
    /// What it did before it was begun anew or edited; the oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<ActionState>,
    /// The graph's own facts: limit, warnings.
    #[serde(skip)]
    pub graph: ActionGraph,
    /// Why it was skipped, or which need blocks it.
    pub reason: Option<String>,
    /// Its error.
    pub error: Option<StepError>,
    /// Whether it has changed since its actions were listed.
    #[serde(skip)]
    pub stale: bool,
    /// How often it was begun anew (`--rerun`, after an undo); receipts of an earlier time do not count.
    pub generation: u32,
    /// When it was surveyed.
    pub started_at: Option<Timestamp>,
    /// When it was over.
    pub ended_at: Option<Timestamp>,
}

impl Default for StepState {
    fn default() -> Self {
        Self {
            status: StepStatus::Pending,
            actions: Vec::new(),
            earlier: Vec::new(),
            graph: ActionGraph::default(),
            reason: None,
            error: None,
            stale: false,
            generation: 0,
            started_at: None,
            ended_at: None,
        }
    }
}

/// A run, folded from its events.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RunState {
    /// The run's id.
    pub id: String,
    /// The plan's name.
    pub plan: String,
    /// The plan file as it was named.
    pub path: String,
    /// Fingerprint of the whole plan at the last start or resume.
    pub fingerprint: String,
    /// Fingerprint of each step at the last start or resume.
    pub step_fingerprints: BTreeMap<String, String>,
    /// Versions of the programs that the last session found, by installation.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub programs: BTreeMap<String, String>,
    /// Each step as it was written at the last start or resume.
    #[serde(skip)]
    pub step_texts: BTreeMap<String, serde_json::Value>,
    /// The steps next before each step at the last start or resume.
    #[serde(skip)]
    pub step_needs: BTreeMap<String, Vec<String>>,
    /// Variables in force.
    pub vars: BTreeMap<String, serde_json::Value>,
    /// The variables that were given on the command line.
    pub given: BTreeMap<String, String>,
    /// The platform files that were given on the command line.
    pub platforms: Vec<String>,
    /// Who runs it or ran it last.
    pub holder: Option<Holder>,
    /// Steps by id.
    pub steps: BTreeMap<String, StepState>,
    /// How the last session ended; absent while one runs or after a crash.
    pub outcome: Option<Outcome>,
    /// What interrupted the last session.
    pub interrupted_by: Option<String>,
    /// Steps that a person has approved from elsewhere, with the fingerprint of the plan that was approved.
    pub approvals: BTreeMap<String, String>,
    /// The application's downtime.
    pub downtime: Windows,
    /// The servers as they were first seen, by the database's name in the plan.
    #[serde(skip)]
    pub servers: BTreeMap<String, SeenServer>,
    /// Warnings in order, with their step.
    pub warnings: Vec<(Option<String>, String)>,
    /// When it began.
    pub started_at: Option<Timestamp>,
    /// When the last event happened.
    pub last_at: Option<Timestamp>,
    /// Sequence number of the last durable event.
    pub seq: u64,
    /// How often it was resumed.
    pub resumes: u32,
    /// Whether what it did is being taken back: it cannot go on before that is over.
    pub going_back: bool,
}

/// An event that the table of legal moves does not allow: the journal is damaged or pgplan has a bug.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {seq} cannot happen: {what}")]
pub struct IllegalMove {
    /// The event's number.
    pub seq: u64,
    /// What was tried on what.
    pub what: String,
}

/// What can happen to an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    Start,
    Finish,
    Fail,
    Lose,
    Reset,
    GoBack,
    FailUndo,
    Undo,
}

/// The table of legal moves.
fn moved(from: ActionStatus, by: Move) -> Option<ActionStatus> {
    use ActionStatus::{Failed, Finished, Indeterminate, Pending, Started, Undoing, Undone};
    match (from, by) {
        (Pending | Failed, Move::Start) => Some(Started),
        (Started | Indeterminate, Move::Finish) => Some(Finished),
        (Started, Move::Fail) => Some(Failed),
        (Started, Move::Lose) => Some(Indeterminate),
        (Started | Finished | Failed | Indeterminate | Undoing | Undone, Move::Reset) => Some(Pending),
        (Pending | Started | Finished | Failed | Indeterminate | Undoing, Move::GoBack) => Some(Undoing),
        (Undoing, Move::FailUndo) => Some(Undoing),
        (Undoing, Move::Undo) => Some(Undone),
        _ => None,
    }
}

impl RunState {
    /// Returns the state after all these events.
    ///
    /// # Errors
    /// When an event is not a legal move.
    pub fn fold<'a>(id: &str, events: impl IntoIterator<Item = &'a Event>) -> Result<Self, IllegalMove> {
        let mut state = Self { id: id.to_owned(), ..Self::default() };
        for event in events {
            state.apply(event)?;
        }
        Ok(state)
    }

    /// Moves the state on by one event.
    ///
    /// # Errors
    /// When the event is not a legal move; the state is then unchanged.
    pub fn apply(&mut self, event: &Event) -> Result<(), IllegalMove> {
        if !event.kind.is_durable() {
            return Ok(());
        }
        if event.seq != self.seq + 1 {
            return Err(IllegalMove { seq: event.seq, what: format!("it follows event {}", self.seq) });
        }
        self.apply_kind(event)?;
        self.seq = event.seq;
        self.last_at = Some(event.at);
        Ok(())
    }

    fn apply_kind(&mut self, event: &Event) -> Result<(), IllegalMove> {
        match &event.kind {
            EventKind::RunStarted { plan, path, fingerprint, steps, texts, needs, vars, given, platforms, holder } => {
                self.plan.clone_from(plan);
                self.path.clone_from(path);
                self.vars.clone_from(vars);
                self.given.clone_from(given);
                self.platforms.clone_from(platforms);
                self.started_at = Some(event.at);
                self.step_texts.clone_from(texts);
                self.step_needs.clone_from(needs);
                self.hold(fingerprint, steps, holder);
            }
            EventKind::RunResumed { fingerprint, steps, texts, needs, holder } => {
                self.resumes += 1;
                self.step_texts.clone_from(texts);
                self.step_needs.clone_from(needs);
                self.hold(fingerprint, steps, holder);
                self.reopen();
            }
            EventKind::ProgramsFound { programs } => self.programs.clone_from(programs),
            EventKind::StepExpanded { step, graph } => self.expand(step, graph, event),
            EventKind::StepChanged { step } => {
                let state = self.steps.entry(step.clone()).or_default();
                (state.status, state.stale) = (StepStatus::Pending, true);
            }
            EventKind::StepReopened { step, .. } => self.steps.entry(step.clone()).or_default().reopen(),
            EventKind::StepSkipped { step, reason } => {
                self.downtime.leave_out(step);
                self.end(step, StepStatus::Skipped, event).reason(reason);
            }
            EventKind::StepBlocked { step, by } => self.end(step, StepStatus::Blocked, event).reason(by),
            EventKind::StepFinished { step } => self.end(step, StepStatus::Succeeded, event).error = None,
            EventKind::StepFailed { step, error, tolerated } => {
                let status = if *tolerated { StepStatus::Tolerated } else { StepStatus::Failed };
                if *tolerated {
                    self.downtime.leave_out(step);
                }
                self.end(step, status, event).error = Some(error.clone());
            }
            EventKind::ActionStarted { step, action, attempt } => {
                let state = self.step_action(step, action, Move::Start, event)?;
                state.attempts = *attempt;
                state.retrying = false;
                state.started_at = Some(event.at);
                state.ended_at = None;
            }
            EventKind::ActionFinished { step, action, output, .. } => {
                let state = self.step_action(step, action, Move::Finish, event)?;
                state.output = Some(output.clone());
                state.error = None;
                state.cuts = 0;
                state.ended_at = Some(event.at);
            }
            EventKind::ActionFailed { step, action, error, retry_in_ms, .. } => {
                let state = self.step_action(step, action, Move::Fail, event)?;
                state.error = Some(error.clone());
                state.cuts = 0;
                state.retrying = retry_in_ms.is_some();
                state.ended_at = Some(event.at);
            }
            EventKind::ActionIndeterminate { step, action } => {
                self.step_action(step, action, Move::Lose, event)?.cuts += 1;
            }
            EventKind::ActionReset { step, action, .. } => self.reset(step, action, event)?,
            EventKind::UndoStarted { .. } => self.going_back = true,
            EventKind::ActionUndoing { step, action } => {
                self.steps.entry(step.clone()).or_default().move_back(action, Move::GoBack, self.going_back, event)?;
            }
            EventKind::ActionUndoFailed { step, action, .. } => {
                self.steps.entry(step.clone()).or_default().move_back(
                    action,
                    Move::FailUndo,
                    self.going_back,
                    event,
                )?;
            }
            EventKind::ActionUndone { step, action } => self.take_back(step, action, event)?,
            EventKind::StepApproved { step, fingerprint, .. } => {
                self.approvals.insert(step.clone(), fingerprint.clone());
            }
            EventKind::DowntimeMarked { step, mark, left } => match mark {
                Downtime::Begin => self.downtime.begin(step, event.at),
                Downtime::End => self.downtime.end(step, event.at, left),
            },
            EventKind::Warned { step, message } => self.warnings.push((step.clone(), message.clone())),
            EventKind::RunInterrupted { by } => self.interrupted_by = Some(by.clone()),
            EventKind::RunEnded { outcome } => {
                self.outcome = Some(*outcome);
                if self.going_back && *outcome == Outcome::Paused {
                    self.turn_round();
                }
            }
            EventKind::ActionProgress { .. } | EventKind::ActionSaid { .. } => {}
        }
        Ok(())
    }

    fn hold(&mut self, fingerprint: &str, steps: &BTreeMap<String, String>, holder: &Holder) {
        fingerprint.clone_into(&mut self.fingerprint);
        self.step_fingerprints.clone_from(steps);
        self.holder = Some(holder.clone());
        self.outcome = None;
        self.interrupted_by = None;
    }

    /// The way back has ended at the point of no return: what was taken back can be done again from here on.
    fn turn_round(&mut self) {
        self.going_back = false;
        for step in self.steps.values_mut() {
            let is_back = |action: &ActionState| action.status == ActionStatus::Undone;
            if step.status == StepStatus::Undone || step.actions.iter().any(is_back) {
                step.reopen();
            }
        }
    }

    /// A new session looks again at everything that did not end well.
    fn reopen(&mut self) {
        for step in self.steps.values_mut() {
            match step.status {
                StepStatus::Failed | StepStatus::Blocked if !step.actions.is_empty() && !step.stale => {
                    step.status = StepStatus::Running;
                }
                StepStatus::Failed | StepStatus::Blocked => step.status = StepStatus::Pending,
                // Killed or stopped before it had failed: nobody waits for its retries any more.
                StepStatus::Running => {}
                StepStatus::Pending
                | StepStatus::Succeeded
                | StepStatus::Skipped
                | StepStatus::Tolerated
                | StepStatus::Undone => continue,
            }
            step.reason = None;
            step.ended_at = None;
            for action in &mut step.actions {
                action.retrying = false;
                if action.status == ActionStatus::Failed {
                    action.status = ActionStatus::Pending;
                }
            }
        }
    }

    fn expand(&mut self, step: &str, graph: &ActionGraph, event: &Event) {
        for (name, server) in &graph.servers {
            self.servers.entry(name.clone()).or_insert_with(|| server.clone());
        }
        self.steps.entry(step.to_owned()).or_default().expand(graph, event);
    }

    fn end(&mut self, step: &str, status: StepStatus, event: &Event) -> &mut StepState {
        let state = self.steps.entry(step.to_owned()).or_default();
        state.status = status;
        state.ended_at = Some(event.at);
        state
    }

    fn step_action(
        &mut self,
        step: &str,
        action: &str,
        by: Move,
        event: &Event,
    ) -> Result<&mut ActionState, IllegalMove> {
        let illegal = |what: String| IllegalMove { seq: event.seq, what };
        let found = self.steps.get_mut(step).and_then(|s| s.actions.iter_mut().find(|a| a.action.id == action));
        let state = found.ok_or_else(|| illegal(format!("no action {action} in step {step}")))?;
        let next = moved(state.status, by)
            .ok_or_else(|| illegal(format!("{by:?} of action {step}/{action} that is {:?}", state.status)))?;
        state.status = next;
        Ok(state)
    }

    fn reset(&mut self, step: &str, action: &str, event: &Event) -> Result<(), IllegalMove> {
        let waits_for_undo = self.steps.get_mut(step).is_some_and(|state| state.stands_again(action));
        let is_begun = |state: &StepState| state.action(action).is_some_and(ActionState::is_begun);
        if waits_for_undo && !self.steps.get(step).is_some_and(is_begun) {
            return Ok(());
        }
        let cut = self.is_started(step, action);
        let found = self.steps.get(step).and_then(|state| state.action(action));
        // What is still to be taken back may need what it gave.
        let stands = found.is_some_and(|action| action.status == ActionStatus::Undoing);
        let state = self.step_action(step, action, Move::Reset, event)?;
        state.output.take_if(|_| !stands);
        state.cuts = if cut { state.cuts + 1 } else { 0 };
        let step = self.steps.entry(step.to_owned()).or_default();
        step.status = StepStatus::Running;
        step.ended_at = None;
        Ok(())
    }

    fn take_back(&mut self, step: &str, action: &str, event: &Event) -> Result<(), IllegalMove> {
        let state = self.steps.entry(step.to_owned()).or_default();
        state.move_back(action, Move::Undo, self.going_back, event)?;
        if state.is_taken_back() {
            state.status = StepStatus::Undone;
            state.ended_at = Some(event.at);
            self.downtime.take_back(step, event.at);
        }
        Ok(())
    }

    fn is_started(&self, step: &str, action: &str) -> bool {
        let found = self.steps.get(step).and_then(|state| state.action(action));
        found.is_some_and(|action| action.status == ActionStatus::Started)
    }

    /// Returns where the step stands; a step never heard of is pending.
    #[must_use]
    pub fn status(&self, step: &str) -> StepStatus {
        self.steps.get(step).map_or(StepStatus::Pending, |state| state.status)
    }

    /// Returns the outputs of every step.
    #[must_use]
    pub fn outputs(&self) -> BTreeMap<String, Outputs> {
        self.steps.iter().map(|(id, step)| (id.clone(), step.outputs())).collect()
    }

    /// Returns what everything gave that stands, also by earlier doings of steps: what the way back is told from.
    #[must_use]
    pub fn standing_outputs(&self) -> BTreeMap<String, Outputs> {
        self.steps.iter().map(|(id, step)| (id.clone(), step.standing_outputs())).collect()
    }

    /// Returns whether the run can go on.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        self.outcome.is_none_or(|outcome| !outcome.is_final())
    }

    /// Returns how long the application was down, all windows together; one that has not ended counts to the last event.
    #[must_use]
    pub fn downtime(&self) -> Option<jiff::SignedDuration> {
        self.downtime.total(self.last_at?)
    }

    /// Returns whether a plain output of a step is a secret whose value this process does not have.
    #[must_use]
    pub fn lost_secret(value: &OutputValue) -> bool {
        matches!(value, OutputValue::Secret(None))
    }
}

impl StepState {
    fn reason(&mut self, reason: &str) {
        self.reason = Some(reason.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{action::Effect, journal::sqlite::next_event, op::Op};

    #[test]
    fn each_doing_has_receipts_of_its_own() {
        let action = |id: &str| {
            Action::new(id.to_owned(), id.to_owned(), Op::Approve { message: String::new() }, Effect::Transaction)
        };
        let (step, cut, other) = (|| "s".to_owned(), || "cut".to_owned(), || "other".to_owned());
        let reason = || "a person says so".to_owned();
        let mut state = RunState::default();
        let mut apply = |kind| {
            state.apply(&next_event(state.seq, kind)).unwrap();
            let found = &state.steps["s"];
            (found.generation_of("cut"), found.generation_of("other"))
        };
        let expanded =
            || EventKind::StepExpanded { step: step(), graph: ActionGraph::of(vec![action("cut"), action("other")]) };
        apply(expanded());
        let started = |action| EventKind::ActionStarted { step: step(), action, attempt: 1 };
        apply(started(other()));
        apply(started(cut()));
        apply(EventKind::ActionIndeterminate { step: step(), action: cut() });
        apply(EventKind::ActionUndoing { step: step(), action: cut() });
        apply(EventKind::ActionUndone { step: step(), action: cut() });
        let again = apply(EventKind::ActionReset { step: step(), action: cut(), reason: reason() });
        assert_eq!(again, (1, 0), "what was taken back is done again; what was not may have been committed");
        apply(EventKind::StepReopened { step: step(), reason: reason() });
        assert_eq!(apply(expanded()), (2, 2));
    }
}
