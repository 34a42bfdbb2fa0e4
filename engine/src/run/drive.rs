//! The loop: ask the schedule, make it durable, let workers do it, hear what they say.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    ActionCx, Ending, LookCx, Message, Opened, OwnUndo, Receipted, Run, RunError, Stop, Wishes, Word, Words, World,
};
use crate::{
    action::{Effect, Output, OutputValue},
    attempt::{bounded, wait_before_retry},
    error::{ErrorKind, StepError},
    event::{EventKind, Outcome},
    op::{Op, merge},
    plan::{Downtime, Plan, Step},
    schedule::{self, Next},
    state::{ActionState, ActionStatus, RunState, StepState, StepStatus},
    undo::last_by_id,
};

/// How long the end of a run may take to tidy up after it was told to stop.
const PATIENCE: Duration = Duration::from_secs(3);

impl Run<'_> {
    /// Runs until nothing more can be done in this session.
    ///
    /// When a polite stop is asked for, nothing new begins, and what runs is cancelled and awaited; when a stop at once
    /// is asked for, what runs is given up. What follows from a failed step (`on_failure`) is the caller's.
    ///
    /// # Errors
    /// When the journal cannot be written; whatever ran was cancelled and awaited.
    pub async fn drive<W: World>(&mut self, world: &Arc<W>, wishes: &Wishes, stop: &Stop) -> Result<Ending, RunError> {
        let (sender, mut inbox) = unbounded_channel();
        let mut workers = JoinSet::new();
        self.hold_back(wishes);
        self.budget.clone_from(&wishes.budget);
        let result = tokio::select! {
            result = self.turn(world, &stop.politely, &sender, &mut inbox, &mut workers) => result,
            () = stop.at_once.cancelled() => Ok(Ending::Interrupted),
        };
        workers_end(&mut workers, &result, stop).await;
        let ending = match result {
            Ok(ending) => ending,
            Err(error) => {
                // The journal cannot be written any more: what was left running is ended, and nobody can be told.
                drop(world.close().await);
                return Err(error);
            }
        };
        self.end(world, stop, &ending).await?;
        Ok(ending)
    }

    /// Records how the session ended, after what it held has been let go.
    pub(crate) async fn end<W: World>(&mut self, world: &Arc<W>, stop: &Stop, ending: &Ending) -> Result<(), RunError> {
        let mut warnings = Vec::new();
        if matches!(ending, Ending::Ended(Outcome::Succeeded | Outcome::Undone)) {
            let outputs = self.outputs();
            match receipted(self.plan, &self.state, |step| world.own_undo(step, Arc::clone(&outputs))) {
                Ok(databases) => {
                    warnings = self.open_for_receipts(world, stop).await;
                    let outputs = self.outputs();
                    tokio::select! {
                        more = world.settle(databases, outputs) => warnings.extend(more),
                        () = out_of_patience(stop) => {
                            let why = "stopped while they were being dropped; `DROP SCHEMA pgplan` does it by hand";
                            warnings.push(format!("receipts of the run are left: {why}"));
                        }
                    }
                }
                Err(error) => warnings.push(format!("the receipts could not be dropped: {error}")),
            }
        }
        warnings.extend(world.close().await);
        let mut events: Vec<EventKind> =
            warnings.into_iter().map(|message| EventKind::Warned { step: None, message }).collect();
        events.push(match ending {
            Ending::Ended(outcome) => EventKind::RunEnded { outcome: *outcome },
            Ending::Interrupted => EventKind::RunInterrupted { by: stop.by().to_owned() },
        });
        self.record(events)
    }

    /// Opens again what leads to receipts and ended with an earlier session: tunnels, addresses that a platform tells.
    /// What was taken back is not made anew for them, only tunnels are. Returns warnings.
    async fn open_for_receipts<W: World>(&mut self, world: &Arc<W>, stop: &Stop) -> Vec<String> {
        let plan = self.plan;
        let leaves = |step: &&Step| {
            self.state.steps.get(&step.id).into_iter().flat_map(started).any(|action| {
                let back = || step.undo.is_some() || action.action.undo.as_deref().and_then(receipted_in).is_some();
                receipted_in(&action.action.op).is_some() || self.state.going_back && back()
            })
        };
        let leaving: Vec<&Step> = plan.steps.iter().filter(leaves).collect();
        let mut warnings = Vec::new();
        for step in &plan.steps {
            let is_needed = leaving.iter().any(|later| plan.is_ancestor(&step.id, &later.id));
            if !is_needed || self.memory.contains_key(&step.id) {
                continue;
            }
            let doings = self.state.steps.get(&step.id).into_iter().flat_map(StepState::doings);
            let is_there = |action: &&ActionState| match action.status {
                ActionStatus::Finished => action.action.volatile,
                ActionStatus::Undone => matches!(action.action.op, Op::Tunnel(_)),
                _ => false,
            };
            for action in last_by_id(doings.filter(is_there)) {
                if let Err(error) = self.open_aside(world, step, &action, stop).await {
                    warnings.push(format!("`{}` leads to receipts and is not open: {error}", step.id));
                }
            }
        }
        warnings
    }

    async fn turn<W: World>(
        &mut self,
        world: &Arc<W>,
        stop: &CancellationToken,
        sender: &UnboundedSender<Message>,
        inbox: &mut UnboundedReceiver<Message>,
        workers: &mut JoinSet<()>,
    ) -> Result<Ending, RunError> {
        let mut retries = 0_usize;
        loop {
            self.busy.stopping = stop.is_cancelled();
            let mut moved = false;
            for next in schedule::next(self.plan, &self.state, &self.busy) {
                moved |= self.make(next, world, stop, sender, workers)?;
            }
            if moved {
                continue;
            }
            let idle = self.busy.looking.is_empty() && self.busy.running.is_empty();
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
            self.busy.stopping = stop.is_cancelled();
            for message in batch {
                if matches!(message, Message::RetryDue { .. }) {
                    retries -= 1;
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
    ) -> Result<bool, RunError> {
        match next {
            Next::Skip { step, reason } => self.record(vec![EventKind::StepSkipped { step, reason }])?,
            Next::Block { step, by } => self.record(vec![EventKind::StepBlocked { step, by }])?,
            Next::Fail { step, error } => {
                let tolerated = self.tolerates(&step, &error);
                let mut events = vec![EventKind::StepFailed { step: step.clone(), error: error.clone(), tolerated }];
                if tolerated {
                    let message = format!("step `{step}` failed and the plan goes on: {error}");
                    events.push(EventKind::Warned { step: Some(step), message });
                }
                self.record(events)?;
            }
            Next::Finish { step } => {
                let Some(definition) = self.plan.step(&step) else { return Ok(false) };
                if definition.ensures.is_none() || self.ensured.contains(&step) {
                    self.finish(definition)?;
                } else if self.busy.stopping {
                    return Ok(false);
                } else {
                    self.busy.looking.insert(step.clone());
                    let (world, sender) = (Arc::clone(world), sender.clone());
                    let (definition, cx) = (definition.clone(), self.look_cx(&step, stop));
                    workers.spawn(async move {
                        let (what, cancel) = (format!("the `ensures` of step `{step}`"), cx.cancel.clone());
                        let look = world.ensure(&definition, cx);
                        let result = bounded(definition.timeout, &what, &cancel, look).await;
                        send(&sender, Message::Ensured { step, result });
                    });
                }
            }
            Next::Open { step } => {
                let Some(definition) = self.plan.step(&step).cloned() else { return Ok(false) };
                if let Some(error) = self.passes_budget(&definition) {
                    self.over_budget = true;
                    self.record(vec![EventKind::StepFailed { step, error, tolerated: false }])?;
                    return Ok(true);
                }
                self.busy.looking.insert(step.clone());
                let (world, sender, cx) = (Arc::clone(world), sender.clone(), self.look_cx(&step, stop));
                workers.spawn(async move {
                    let (what, cancel) = (format!("to look at what step `{step}` has to do"), cx.cancel.clone());
                    let look = world.open(&definition, cx);
                    let result = bounded(definition.timeout, &what, &cancel, look).await;
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
            let over = |end: &str| self.state.status(end).satisfies();
            let left = self.state.downtime.left(self.plan, &step.id, over);
            events.push(EventKind::DowntimeMarked { step: step.id.clone(), mark: Downtime::End, left });
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
        let Some(state) = self.state.steps.get(step) else { return Ok(()) };
        let Some(found) = state.action(action) else { return Ok(()) };
        let (attempt, generation, body) = (found.attempts + 1, state.generation_of(action), found.action.clone());
        self.record(vec![EventKind::ActionStarted { step: step.to_owned(), action: action.to_owned(), attempt }])?;
        self.busy.running.insert((step.to_owned(), action.to_owned()));
        let cx = ActionCx {
            run: self.state.id.clone(),
            attempt,
            generation,
            cancel: stop.child_token(),
            outputs: self.outputs(),
            words: Words::new(step, action, sender.clone()),
        };
        let (world, sender) = (Arc::clone(world), sender.clone());
        let (step, action) = (step.to_owned(), action.to_owned());
        workers.spawn(async move {
            let began = Instant::now();
            let (what, cancel) = (format!("`{}`", body.title), cx.cancel.clone());
            let work = world.perform(&definition, &body, cx);
            let result = bounded(definition.timeout, &what, &cancel, work).await;
            send(&sender, Message::Done { step, action, result, took: began.elapsed() });
        });
        Ok(())
    }

    fn look_cx(&self, step: &str, stop: &CancellationToken) -> LookCx {
        let earlier = self.state.steps.get(step).map(StepState::given).unwrap_or_default();
        LookCx { outputs: self.outputs(), earlier, cancel: stop.child_token() }
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
                self.busy.looking.remove(&step);
                self.opened(step, result, events);
            }
            Message::Ensured { step, result } => {
                self.busy.looking.remove(&step);
                match result {
                    Ok(()) => drop(self.ensured.insert(step)),
                    Err(error) => self.failed(step, error, events),
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
                    let left = Vec::new();
                    events.push(EventKind::DowntimeMarked { step: step.clone(), mark: Downtime::Begin, left });
                }
                events.push(EventKind::StepExpanded { step, graph });
            }
            Err(error) => self.failed(step, error, events),
        }
    }

    /// Returns whether a step may fail with this error: one that a person has to decide about, or that was stopped, has not
    /// failed yet.
    fn tolerates(&self, step: &str, error: &StepError) -> bool {
        self.plan.step(step).is_some_and(|step| step.continue_on_error)
            && !matches!(error.kind, ErrorKind::Interrupted | ErrorKind::NeedsPerson)
    }

    /// Fails a step before its first action or after its last. When it was only stopped, nothing has happened: the next
    /// session looks again.
    fn failed(&self, step: String, error: StepError, events: &mut Vec<EventKind>) {
        if error.kind == ErrorKind::Interrupted && self.busy.stopping {
            return;
        }
        let tolerated = self.tolerates(&step, &error);
        if tolerated {
            let message = format!("step `{step}` failed and the plan goes on: {error}");
            events.push(EventKind::Warned { step: Some(step.clone()), message });
        }
        events.push(EventKind::StepFailed { step, error, tolerated });
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
                self.remember(&step, &output, false);
                events.push(EventKind::ActionFinished { step, action, output, took_ms });
                None
            }
            Err(error) => {
                let retry = self.plan.step(&step).map(|step| step.retry.clone()).unwrap_or_default();
                let wait = wait_before_retry(&retry, attempts, &error);
                let cut = matches!(error.kind, ErrorKind::Interrupted | ErrorKind::Timeout);
                if effect == Effect::Opaque && cut && wait.is_none() {
                    events.push(EventKind::ActionIndeterminate { step, action });
                    return None;
                }
                // Unless the plan says that it may be repeated nevertheless.
                if effect == Effect::Opaque && error.kind == ErrorKind::Lost && !retry.errors.contains(&error.kind) {
                    let message =
                        std::iter::once(error.message.as_str()).chain(error.details.iter().map(String::as_str));
                    let message = message.collect::<Vec<&str>>().join("; ");
                    events.push(EventKind::Warned { step: Some(step.clone()), message });
                    events.push(EventKind::ActionIndeterminate { step, action });
                    return None;
                }
                let retry_in_ms = wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
                let names = (step.clone(), action.clone());
                events.push(EventKind::ActionFailed { step, action, error, retry_in_ms, took_ms });
                wait.map(|wait| (names.0, names.1, wait))
            }
        }
    }

    /// Keeps, for the steps of this session, what the journal does not hold: secret outputs, and all of what is opened again
    /// beside the events of the run.
    pub(crate) fn remember(&mut self, step: &str, output: &Output, all: bool) {
        let kept = |value: &OutputValue| all || matches!(value, OutputValue::Secret(Some(_)));
        let kept = output.outputs.iter().filter(|(_, value)| kept(value));
        let memory = self.memory.entry(step.to_owned()).or_default();
        memory.extend(kept.map(|(name, value)| (name.clone(), value.clone())));
    }

    fn hold_back(&mut self, wishes: &Wishes) {
        let Some(until) = &wishes.until else { return };
        let mut wanted = BTreeSet::from([until.clone()]);
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
}

/// Returns the databases of the plan in which a run's steps, or what took them back, may have left receipts; `own` gives
/// what a step's own `undo` says.
///
/// # Errors
/// When a step's own `undo` cannot be rendered.
pub fn receipted(
    plan: &Plan,
    state: &RunState,
    own: impl Fn(&Step) -> Result<Option<OwnUndo>, StepError>,
) -> Result<BTreeMap<String, Receipted>, StepError> {
    let begun = |step: &StepState| started(step).next().is_some();
    let actions = state.steps.values().flat_map(started);
    let backs =
        |action: &ActionState| action.action.undo.as_deref().filter(|_| state.going_back).and_then(receipted_in);
    let mut found: Vec<_> =
        actions.flat_map(|action| receipted_in(&action.action.op).into_iter().chain(backs(action))).collect();
    for step in plan.steps.iter().filter(|step| state.going_back && state.steps.get(&step.id).is_some_and(begun)) {
        found.extend(own(step)?.iter().flat_map(OwnUndo::ops).filter_map(receipted_in));
    }
    let mut all = BTreeMap::new();
    for (database, wide) in found {
        let widest = all.entry(database).or_insert(wide);
        *widest = wide.max(*widest);
    }
    Ok(all)
}

/// Returns every action of a step that was started once, whatever became of it.
fn started(step: &StepState) -> impl Iterator<Item = &ActionState> {
    step.doings().filter(|action| action.started_at.is_some())
}

/// Returns the database of the plan in which an operation leaves receipts, and whether others of its server get some.
#[must_use]
pub fn receipted_in(op: &Op) -> Option<(String, Receipted)> {
    match op {
        Op::RunSql(sql) if sql.transaction && !sql.read_only => Some((sql.database.clone(), Receipted::Database)),
        Op::Restore(restore) => Some((restore.into.clone(), Receipted::Server)),
        Op::MapKeys(merge::MapKeys { into, .. })
        | Op::FillTables(merge::FillTables { into, .. })
        | Op::ProveMerge(merge::ProveMerge { into, .. })
        | Op::EmptyTables(merge::EmptyTables { into, .. }) => Some((into.database.clone(), Receipted::Database)),
        _ => None,
    }
}

/// Waits until nobody may be kept waiting by what only tidies up: some seconds after a polite stop, or a stop at once.
async fn out_of_patience(stop: &Stop) {
    stop.politely.cancelled().await;
    tokio::select! {
        () = tokio::time::sleep(PATIENCE) => {}
        () = stop.at_once.cancelled() => {}
    }
}

/// Waits for workers, which a stopped or failed run has cancelled; gives them up when a stop at once is asked for.
async fn workers_end(workers: &mut JoinSet<()>, result: &Result<Ending, RunError>, stop: &Stop) {
    let cancel = result.is_err() || stop.politely.is_cancelled();
    if cancel {
        stop.politely.cancel();
    }
    loop {
        tokio::select! {
            ended = workers.join_next() => if ended.is_none() { return },
            () = stop.at_once.cancelled() => break,
        }
    }
    workers.shutdown().await;
}

fn send(to: &UnboundedSender<Message>, message: Message) {
    if to.send(message).is_err() {
        tracing::debug!("a worker ended after the run had");
    }
}
