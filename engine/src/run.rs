//! The loop that owns a run.
//!
//! One task owns the journal and the state; workers (opening a step, doing an action) only send messages. Each turn:
//! ask [`schedule::next`] what can be done, make it durable, let workers do it, wait for what they say. The order is
//! always: `started` is on disk → it is done → `finished` with its outputs is on disk → anything that depends on it.

use std::{collections::BTreeMap, future::Future, io, path::PathBuf, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    action::{Action, ActionGraph, Effect, Output, OutputValue, Outputs},
    attempt::{bounded, wait_before_retry},
    error::{ErrorKind, StepError},
    event::{Event, EventKind, Holder, Outcome},
    journal::{Journal, JournalError, sqlite::next_event},
    op::Op,
    plan::{Downtime, Plan, Step},
    schedule::{self, Busy, Next},
    state::{ActionStatus, IllegalMove, RunState, StepStatus},
};

/// What opening a step found.
#[derive(Debug, Clone)]
pub enum Opened {
    /// It will do these actions.
    Actions(ActionGraph),
    /// It does not run.
    Skipped(String),
}

/// What a worker tells the loop while it works.
#[derive(Debug, Clone)]
pub enum Word {
    /// How far an action is.
    Progress {
        /// Bytes so far.
        bytes: u64,
        /// Rows so far.
        rows: u64,
        /// Bytes in all, where known.
        total: Option<u64>,
    },
    /// A program printed a line (redacted).
    Line(String),
}

/// What a worker knows about the action that it does.
#[derive(Debug, Clone)]
pub struct ActionCx {
    /// The run.
    pub run: String,
    /// Counted from 1 over the whole run.
    pub attempt: u32,
    /// Cancelled when the run stops or the time is over.
    pub cancel: CancellationToken,
    /// Outputs of the steps that are finished.
    pub outputs: Arc<BTreeMap<String, Outputs>>,
    /// Where words about the action go.
    pub words: Words,
}

/// The way of a worker's words to the loop.
#[derive(Debug, Clone)]
pub struct Words {
    step: String,
    action: String,
    to: UnboundedSender<Message>,
}

impl Words {
    pub(crate) fn new(step: &str, action: &str, to: UnboundedSender<Message>) -> Self {
        Self { step: step.to_owned(), action: action.to_owned(), to }
    }

    /// Says something; words after the run's end are lost, as nobody listens.
    pub fn say(&self, word: Word) {
        if self.to.send(Message::Said { step: self.step.clone(), action: self.action.clone(), word }).is_err() {
            tracing::debug!("a worker spoke after the run had ended");
        }
    }
}

/// Everything outside of the loop: the servers, programs and files. One real implementation, one scripted for tests.
pub trait World: Send + Sync + 'static {
    /// Evaluates `if` and `done_if`, surveys the step and lists its actions.
    fn open(
        &self,
        step: &Step,
        outputs: Arc<BTreeMap<String, Outputs>>,
    ) -> impl Future<Output = Result<Opened, StepError>> + Send;

    /// Does an action of the step.
    fn perform(
        &self,
        step: &Step,
        action: &Action,
        cx: ActionCx,
    ) -> impl Future<Output = Result<Output, StepError>> + Send;

    /// Checks what must hold when all actions of a step are finished.
    fn ensure(
        &self,
        step: &Step,
        outputs: Arc<BTreeMap<String, Outputs>>,
    ) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Returns what a step's own `undo` says; `None` when it has none, `Some(None)` when it says that nothing is to be
    /// done.
    ///
    /// # Errors
    /// When it cannot be rendered.
    fn own_undo(&self, step: &Step, outputs: Arc<BTreeMap<String, Outputs>>) -> Result<Option<Option<Op>>, StepError>;

    /// Ends what actions have left running in this process: tunnels.
    fn close(&self) -> impl Future<Output = Vec<String>> + Send;
}

/// Shows or stores events as they happen.
pub trait Reporter {
    /// Takes an event and the state after it.
    ///
    /// # Errors
    /// When it cannot be shown; the reporter is then left out for the rest of the run.
    fn event(&mut self, event: &Event, state: &RunState) -> io::Result<()>;
}

/// Why a run could not be carried on at all; a failed step is not such an error.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The journal cannot be written or the lease is lost.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The journal's events contradict each other.
    #[error(transparent)]
    Illegal(#[from] IllegalMove),
}

/// How a session ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// As this outcome says.
    Ended(Outcome),
    /// A signal stopped it; it can go on.
    Interrupted,
}

/// What the caller wants of this session.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Stop after this step and what it needs.
    pub until: Option<String>,
    /// The folder where the run keeps its files.
    pub run_dir: PathBuf,
}

pub(crate) enum Message {
    Opened { step: String, result: Result<Opened, StepError> },
    Done { step: String, action: String, result: Result<Output, StepError>, took: Duration },
    Ensured { step: String, result: Result<(), StepError> },
    Said { step: String, action: String, word: Word },
    RetryDue { step: String, action: String },
}

/// A run in this process: the plan, its journal and its state.
pub struct Run<'a> {
    pub(crate) plan: &'a Plan,
    journal: &'a mut Journal,
    pub(crate) state: RunState,
    reporters: Vec<Box<dyn Reporter + 'a>>,
    memory: BTreeMap<String, Outputs>,
    busy: Busy,
    ensured: std::collections::BTreeSet<String>,
}

impl<'a> Run<'a> {
    /// Begins a new run: the first event is on disk when this returns.
    ///
    /// # Errors
    /// When the journal cannot be written; the plan's lease must be held.
    pub fn begin(
        plan: &'a Plan,
        journal: &'a mut Journal,
        id: &str,
        holder: Holder,
        reporters: Vec<Box<dyn Reporter + 'a>>,
    ) -> Result<Self, RunError> {
        journal.create_run(id, &plan.name)?;
        let state = RunState { id: id.to_owned(), ..RunState::default() };
        let mut run = Self::over(plan, journal, state, reporters);
        run.record(vec![EventKind::RunStarted {
            plan: plan.name.clone(),
            path: plan.path.display().to_string(),
            fingerprint: plan.fingerprint.clone(),
            steps: step_fingerprints(plan),
            vars: plan.vars.clone(),
            holder,
        }])?;
        Ok(run)
    }

    /// Takes up a run that stopped or died, and decides about the actions that were cut in the middle.
    ///
    /// # Errors
    /// When the journal cannot be read or written, or contradicts itself.
    pub fn resume(
        plan: &'a Plan,
        journal: &'a mut Journal,
        id: &str,
        holder: Holder,
        reporters: Vec<Box<dyn Reporter + 'a>>,
    ) -> Result<Self, RunError> {
        let state = RunState::fold(id, &journal.events(id)?)?;
        let mut run = Self::over(plan, journal, state, reporters);
        let steps = step_fingerprints(plan);
        let changed: Vec<String> = plan
            .steps
            .iter()
            .filter(|step| run.state.step_fingerprints.get(&step.id).is_some_and(|old| *old != step.fingerprint))
            .map(|step| step.id.clone())
            .collect();
        run.record(vec![EventKind::RunResumed { fingerprint: plan.fingerprint.clone(), steps, holder }])?;
        run.recover(&changed)?;
        Ok(run)
    }

    fn over(plan: &'a Plan, journal: &'a mut Journal, state: RunState, reporters: Vec<Box<dyn Reporter + 'a>>) -> Self {
        Self {
            plan,
            journal,
            state,
            reporters,
            memory: BTreeMap::new(),
            busy: Busy::default(),
            ensured: std::collections::BTreeSet::new(),
        }
    }

    /// Returns where the run stands.
    #[must_use]
    pub fn state(&self) -> &RunState {
        &self.state
    }

    /// Decides about actions that a dead or interrupted session left begun, and about volatile ones.
    fn recover(&mut self, changed: &[String]) -> Result<(), RunError> {
        let mut events = Vec::new();
        for step in &self.plan.steps {
            let Some(state) = self.state.steps.get(&step.id) else { continue };
            let wanted_later = self.has_unfinished_descendant(&step.id);
            for action in &state.actions {
                let names = || (step.id.clone(), action.action.id.clone());
                match (action.status, action.action.effect) {
                    (ActionStatus::Started, Effect::Opaque) => {
                        let (step, action) = names();
                        events.push(EventKind::ActionIndeterminate { step, action });
                    }
                    (ActionStatus::Started, Effect::Transaction | Effect::Probe | Effect::Restart) => {
                        let (step, action) = names();
                        let reason = "it was cut in the middle and is done again".to_owned();
                        events.push(EventKind::ActionReset { step, action, reason });
                    }
                    (ActionStatus::Finished, _) if action.action.volatile && wanted_later => {
                        let (step, action) = names();
                        let reason = "what it gave ended with the last session".to_owned();
                        events.push(EventKind::ActionReset { step, action, reason });
                    }
                    _ => {}
                }
            }
        }
        self.record(events)?;
        for id in changed {
            let over = self.state.status(id).is_over();
            if let Some(step) = self.state.steps.get_mut(id).filter(|_| !over) {
                // Its text changed: it is surveyed anew; actions that are finished keep their ids and stay finished.
                step.status = StepStatus::Pending;
            }
        }
        Ok(())
    }

    fn has_unfinished_descendant(&self, step: &str) -> bool {
        let mut reached = std::collections::BTreeSet::from([step]);
        let mut found = false;
        for later in &self.plan.steps {
            if later.needs.iter().any(|need| reached.contains(need.as_str())) {
                reached.insert(&later.id);
                found |= !self.state.status(&later.id).satisfies();
            }
        }
        found
    }

    /// Runs until nothing more can be done in this session.
    ///
    /// The first cancellation of `stop` stops politely: nothing new begins, what runs is cancelled and awaited.
    ///
    /// # Errors
    /// When the journal cannot be written; whatever ran was cancelled and awaited.
    pub async fn drive<W: World>(
        &mut self,
        world: &Arc<W>,
        wishes: &Wishes,
        stop: &CancellationToken,
    ) -> Result<Ending, RunError> {
        let (sender, mut inbox) = unbounded_channel();
        let mut workers = JoinSet::new();
        self.hold_back(wishes);
        let result = self.turn(world, stop, &sender, &mut inbox, &mut workers).await;
        stop.cancel();
        while workers.join_next().await.is_some() {}
        for message in world.close().await {
            self.record(vec![EventKind::Warned { step: None, message }])?;
        }
        let ending = result?;
        match &ending {
            Ending::Ended(outcome) => self.record(vec![EventKind::RunEnded { outcome: *outcome }])?,
            Ending::Interrupted => self.record(vec![EventKind::RunInterrupted { by: "a signal".to_owned() }])?,
        }
        Ok(ending)
    }

    async fn turn<W: World>(
        &mut self,
        world: &Arc<W>,
        stop: &CancellationToken,
        sender: &UnboundedSender<Message>,
        inbox: &mut UnboundedReceiver<Message>,
        workers: &mut JoinSet<()>,
    ) -> Result<Ending, RunError> {
        let mut ensuring = 0_usize;
        let mut retries = 0_usize;
        loop {
            self.busy.stopping = stop.is_cancelled();
            let mut moved = false;
            for next in schedule::next(self.plan, &self.state, &self.busy) {
                moved |= self.make(next, world, stop, sender, workers, &mut ensuring)?;
            }
            if moved {
                continue;
            }
            let idle = self.busy.opening.is_empty() && self.busy.running.is_empty() && ensuring == 0;
            if idle && (retries == 0 || self.busy.stopping) {
                return Ok(self.ending());
            }
            let message = tokio::select! {
                message = inbox.recv() => message,
                () = stop.cancelled(), if !self.busy.stopping => continue,
            };
            let Some(first) = message else { return Ok(self.ending()) };
            let mut batch = vec![first];
            while let Ok(more) = inbox.try_recv() {
                batch.push(more);
            }
            let mut events = Vec::new();
            for message in batch {
                match &message {
                    Message::Ensured { .. } => ensuring -= 1,
                    Message::RetryDue { .. } => retries -= 1,
                    Message::Opened { .. } | Message::Done { .. } | Message::Said { .. } => {}
                }
                let waits = self.hear(message, &mut events);
                if let Some((step, action, delay)) = waits {
                    retries += 1;
                    let (sender, stop) = (sender.clone(), stop.clone());
                    workers.spawn(async move {
                        tokio::select! { () = tokio::time::sleep(delay) => {}, () = stop.cancelled() => {} }
                        send(&sender, Message::RetryDue { step, action });
                    });
                }
            }
            self.record(events)?;
        }
    }

    /// Makes one move of the schedule; returns whether the state changed at once.
    fn make<W: World>(
        &mut self,
        next: Next,
        world: &Arc<W>,
        stop: &CancellationToken,
        sender: &UnboundedSender<Message>,
        workers: &mut JoinSet<()>,
        ensuring: &mut usize,
    ) -> Result<bool, RunError> {
        match next {
            Next::Skip { step, reason } => self.record(vec![EventKind::StepSkipped { step, reason }])?,
            Next::Block { step, by } => self.record(vec![EventKind::StepBlocked { step, by }])?,
            Next::Fail { step, error } => {
                let tolerated = self.plan.step(&step).is_some_and(|step| step.continue_on_error)
                    && error.kind != ErrorKind::Interrupted;
                let mut events = vec![EventKind::StepFailed { step: step.clone(), error: error.clone(), tolerated }];
                if tolerated {
                    let message = format!("step `{step}` failed and the plan goes on: {error}");
                    events.push(EventKind::Warned { step: Some(step), message });
                }
                self.record(events)?;
            }
            Next::Finish { step } => {
                let checked = self.ensured.contains(&step);
                let Some(definition) = self.plan.step(&step) else { return Ok(false) };
                if definition.ensures.is_none() || checked {
                    self.finish(definition)?;
                } else {
                    self.ensured.insert(step.clone());
                    self.busy.opening.insert(step.clone());
                    *ensuring += 1;
                    let (world, sender) = (Arc::clone(world), sender.clone());
                    let (definition, outputs) = (definition.clone(), self.outputs());
                    workers.spawn(async move {
                        let result = world.ensure(&definition, outputs).await;
                        send(&sender, Message::Ensured { step, result });
                    });
                }
            }
            Next::Open { step } => {
                let Some(definition) = self.plan.step(&step).cloned() else { return Ok(false) };
                self.busy.opening.insert(step.clone());
                let (world, sender, outputs) = (Arc::clone(world), sender.clone(), self.outputs());
                workers.spawn(async move {
                    let result = world.open(&definition, outputs).await;
                    send(&sender, Message::Opened { step, result });
                });
                return Ok(false);
            }
            Next::Start { step, action } => {
                self.start(&step, &action, world, stop, sender, workers)?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn finish(&mut self, step: &Step) -> Result<(), RunError> {
        let mut events = Vec::new();
        if step.downtime == Some(Downtime::End) {
            events.push(EventKind::DowntimeMarked { step: step.id.clone(), mark: Downtime::End });
        }
        events.push(EventKind::StepFinished { step: step.id.clone() });
        self.record(events)
    }

    fn start<W: World>(
        &mut self,
        step: &str,
        action: &str,
        world: &Arc<W>,
        stop: &CancellationToken,
        sender: &UnboundedSender<Message>,
        workers: &mut JoinSet<()>,
    ) -> Result<(), RunError> {
        let Some(definition) = self.plan.step(step).cloned() else { return Ok(()) };
        let Some(found) = self.state.steps.get(step).and_then(|state| state.action(action)) else { return Ok(()) };
        let (attempt, body) = (found.attempts + 1, found.action.clone());
        self.record(vec![EventKind::ActionStarted { step: step.to_owned(), action: action.to_owned(), attempt }])?;
        self.busy.running.insert((step.to_owned(), action.to_owned()));
        let cx = ActionCx {
            run: self.state.id.clone(),
            attempt,
            cancel: stop.child_token(),
            outputs: self.outputs(),
            words: Words::new(step, action, sender.clone()),
        };
        let (world, sender) = (Arc::clone(world), sender.clone());
        let (step, action) = (step.to_owned(), action.to_owned());
        workers.spawn(async move {
            let began = Instant::now();
            let result = bounded(&*world, &definition, &body, cx).await;
            send(&sender, Message::Done { step, action, result, took: began.elapsed() });
        });
        Ok(())
    }

    /// Turns a worker's message into events; returns the wait of a retry.
    fn hear(&mut self, message: Message, events: &mut Vec<EventKind>) -> Option<(String, String, Duration)> {
        match message {
            Message::Said { step, action, word: Word::Progress { bytes, rows, total } } => {
                events.push(EventKind::ActionProgress { step, action, bytes, rows, total });
            }
            Message::Said { step, action, word: Word::Line(line) } => {
                events.push(EventKind::ActionSaid { step, action, line });
            }
            Message::RetryDue { step, action } => {
                if !self.busy.stopping {
                    let reason = "its wait is over".to_owned();
                    events.push(EventKind::ActionReset { step, action, reason });
                }
            }
            Message::Opened { step, result } => {
                self.busy.opening.remove(&step);
                self.opened(step, result, events);
            }
            Message::Ensured { step, result } => {
                self.busy.opening.remove(&step);
                if let Err(error) = result {
                    self.ensured.remove(&step);
                    events.push(EventKind::StepFailed { step, error, tolerated: false });
                }
            }
            Message::Done { step, action, result, took } => {
                self.busy.running.remove(&(step.clone(), action.clone()));
                return self.done(step, action, result, took, events);
            }
        }
        None
    }

    fn opened(&mut self, step: String, result: Result<Opened, StepError>, events: &mut Vec<EventKind>) {
        match result {
            Ok(Opened::Skipped(reason)) => events.push(EventKind::StepSkipped { step, reason }),
            Ok(Opened::Actions(graph)) => {
                for message in &graph.warnings {
                    events.push(EventKind::Warned { step: Some(step.clone()), message: message.clone() });
                }
                if self.plan.step(&step).is_some_and(|step| step.downtime == Some(Downtime::Begin)) {
                    events.push(EventKind::DowntimeMarked { step: step.clone(), mark: Downtime::Begin });
                }
                events.push(EventKind::StepExpanded { step, graph });
            }
            Err(error) => {
                let tolerated = self.plan.step(&step).is_some_and(|step| step.continue_on_error);
                if tolerated {
                    let message = format!("step `{step}` failed and the plan goes on: {error}");
                    events.push(EventKind::Warned { step: Some(step.clone()), message });
                }
                events.push(EventKind::StepFailed { step, error, tolerated });
            }
        }
    }

    fn done(
        &mut self,
        step: String,
        action: String,
        result: Result<Output, StepError>,
        took: Duration,
        events: &mut Vec<EventKind>,
    ) -> Option<(String, String, Duration)> {
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let found = self.state.steps.get(&step).and_then(|state| state.action(&action));
        let (effect, attempts) = found.map_or((Effect::Opaque, 1), |state| (state.action.effect, state.attempts));
        match result {
            Ok(output) => {
                for message in &output.warnings {
                    events.push(EventKind::Warned { step: Some(step.clone()), message: message.clone() });
                }
                self.remember(&step, &output);
                events.push(EventKind::ActionFinished { step, action, output, took_ms });
                None
            }
            Err(error) => {
                let retry = self.plan.step(&step).map(|step| step.retry.clone()).unwrap_or_default();
                let cut = matches!(error.kind, ErrorKind::Interrupted | ErrorKind::Timeout);
                if effect == Effect::Opaque && cut && (retry.attempts == 1 || error.kind == ErrorKind::Interrupted) {
                    events.push(EventKind::ActionIndeterminate { step, action });
                    return None;
                }
                let wait = wait_before_retry(&retry, attempts, &error);
                let retry_in_ms = wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
                let names = (step.clone(), action.clone());
                events.push(EventKind::ActionFailed { step, action, error, retry_in_ms, took_ms });
                wait.map(|wait| (names.0, names.1, wait))
            }
        }
    }

    /// Keeps secret outputs, which the journal never holds, for the steps of this session.
    fn remember(&mut self, step: &str, output: &Output) {
        let secrets = output.outputs.iter().filter(|(_, value)| matches!(value, OutputValue::Secret(Some(_))));
        let memory = self.memory.entry(step.to_owned()).or_default();
        memory.extend(secrets.map(|(name, value)| (name.clone(), value.clone())));
    }

    pub(crate) fn outputs(&self) -> Arc<BTreeMap<String, Outputs>> {
        let mut outputs = self.state.outputs();
        for (step, secrets) in &self.memory {
            outputs.entry(step.clone()).or_default().extend(secrets.clone());
        }
        Arc::new(outputs)
    }

    fn hold_back(&mut self, wishes: &Wishes) {
        let Some(until) = &wishes.until else { return };
        let mut wanted = std::collections::BTreeSet::from([until.clone()]);
        for step in self.plan.steps.iter().rev() {
            if wanted.contains(&step.id) {
                wanted.extend(step.needs.iter().cloned());
            }
        }
        let beyond = self.plan.steps.iter().map(|step| step.id.clone()).filter(|id| !wanted.contains(id));
        self.busy.held_back = beyond.collect();
    }

    fn ending(&self) -> Ending {
        let statuses = || self.plan.steps.iter().map(|step| self.state.status(&step.id));
        let person = self.state.steps.values().any(|step| {
            step.error.as_ref().is_some_and(|error| error.kind == ErrorKind::NeedsPerson) && !step.status.satisfies()
        });
        if statuses().all(StepStatus::satisfies) {
            Ending::Ended(Outcome::Succeeded)
        } else if self.busy.stopping {
            Ending::Interrupted
        } else if person {
            Ending::Ended(Outcome::NeedsPerson)
        } else if statuses().any(|status| matches!(status, StepStatus::Failed | StepStatus::Blocked)) {
            Ending::Ended(Outcome::Failed)
        } else {
            Ending::Ended(Outcome::Paused)
        }
    }

    /// Makes events durable, moves the state on and tells the reporters, in this order.
    pub(crate) fn record(&mut self, kinds: Vec<EventKind>) -> Result<(), RunError> {
        let mut last = self.state.seq;
        let mut events = Vec::with_capacity(kinds.len());
        for kind in kinds {
            let event = next_event(last, kind);
            last = event.seq;
            events.push(event);
        }
        let durable: Vec<Event> = events.iter().filter(|event| event.kind.is_durable()).cloned().collect();
        if !durable.is_empty() {
            self.journal.append(&self.state.id, &durable)?;
        }
        for event in &events {
            self.state.apply(event)?;
            let state = &self.state;
            self.reporters.retain_mut(|reporter| match reporter.event(event, state) {
                Ok(()) => true,
                Err(error) => {
                    tracing::warn!(%error, "a reporter failed and is left out");
                    false
                }
            });
        }
        Ok(())
    }
}

fn send(to: &UnboundedSender<Message>, message: Message) {
    if to.send(message).is_err() {
        tracing::debug!("a worker ended after the run had");
    }
}

fn step_fingerprints(plan: &Plan) -> BTreeMap<String, String> {
    plan.steps.iter().map(|step| (step.id.clone(), step.fingerprint.clone())).collect()
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
