//! A run: what it is made of, how it begins and how it is taken up; its loop is in `drive.rs`.
//!
//! One task owns the journal and the state; workers (opening a step, doing an action) only send messages. Each turn:
//! ask [`crate::schedule::next`] what can be done, make it durable, let workers do it, wait for what they say. The order is
//! always: `started` is on disk → it is done → `finished` with its outputs is on disk → anything that depends on it.

mod budget;
mod consent;
mod drive;
mod programs;
mod recover;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    io,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

pub use drive::{receipted, receipted_in};
pub use recover::MOST_CUTS;

use crate::{
    action::{Action, ActionGraph, Output, Outputs},
    downtime::Size,
    error::StepError,
    event::{Event, EventKind, Holder, Outcome},
    journal::{Journal, JournalError, sqlite::next_event},
    op::Op,
    plan::{Plan, Step},
    schedule::Busy,
    state::{IllegalMove, RunState},
    timing::Timing,
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
    /// How often its step was begun anew.
    pub generation: u32,
    /// Cancelled when the run stops or the time is over.
    pub cancel: CancellationToken,
    /// Outputs of the steps that are finished.
    pub outputs: Arc<BTreeMap<String, Outputs>>,
    /// Where words about the action go.
    pub words: Words,
}

/// What a worker knows that looks at something for a step.
#[derive(Debug, Clone, Default)]
pub struct LookCx {
    /// Outputs of the steps that are finished.
    pub outputs: Arc<BTreeMap<String, Outputs>>,
    /// What each action of the step itself gave when it was done before, the oldest doing first.
    pub earlier: Vec<Outputs>,
    /// Cancelled when the run stops or the time is over.
    pub cancel: CancellationToken,
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
    fn open(&self, step: &Step, cx: LookCx) -> impl Future<Output = Result<Opened, StepError>> + Send;

    /// Does an action of the step.
    fn perform(
        &self,
        step: &Step,
        action: &Action,
        cx: ActionCx,
    ) -> impl Future<Output = Result<Output, StepError>> + Send;

    /// Checks what must hold when all actions of a step are finished.
    fn ensure(&self, step: &Step, cx: LookCx) -> impl Future<Output = Result<(), StepError>> + Send;

    /// Returns what a step's own `undo` says; `None` when it has none.
    ///
    /// # Errors
    /// When it cannot be rendered.
    fn own_undo(&self, step: &Step, outputs: Arc<BTreeMap<String, Outputs>>) -> Result<Option<OwnUndo>, StepError>;

    /// Cleans up after a run that ended well: drops its receipts from these databases of the plan, from all databases
    /// of the server where that is [`Receipted::Server`]. Returns warnings.
    fn settle(
        &self,
        databases: BTreeMap<String, Receipted>,
        outputs: Arc<BTreeMap<String, Outputs>>,
    ) -> impl Future<Output = Vec<String>> + Send;

    /// Ends what actions have left running in this process, and gives up the claims on servers. Returns warnings.
    fn close(&self) -> impl Future<Output = Vec<String>> + Send;
}

/// What a step's own `undo` says; an operation that is absent: nothing is to be done, on purpose.
#[derive(Debug, Clone, PartialEq)]
pub enum OwnUndo {
    /// Once for the whole step.
    Step(Option<Box<Op>>),
    /// Once for each item of its `for_each`, by the first part of the ids of the item's actions.
    Items(BTreeMap<String, Option<Op>>),
}

impl OwnUndo {
    /// Returns what is done.
    pub fn ops(&self) -> impl Iterator<Item = &Op> {
        let (whole, items) = match self {
            Self::Step(op) => (op.as_deref(), None),
            Self::Items(items) => (None, Some(items.values().flatten())),
        };
        whole.into_iter().chain(items.into_iter().flatten())
    }
}

/// Where a run has left receipts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Receipted {
    /// In one database.
    Database,
    /// In any database of the server.
    Server,
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
    /// A person has to decide before it goes on; nothing was recorded.
    #[error("{0}")]
    Undecided(Box<StepError>),
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

/// How a session is told to stop, from anywhere.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// Cancelled: nothing new begins; what runs is cancelled and awaited.
    pub politely: CancellationToken,
    /// Cancelled: what runs is given up and its programs are killed. What was done is in the journal all the same.
    pub at_once: CancellationToken,
    by: Arc<OnceLock<String>>,
}

impl Stop {
    /// Asks for a polite stop the first time and for one at once the second; `by` names who asks: `SIGINT`.
    pub fn ask(&self, by: &str) {
        if self.politely.is_cancelled() {
            self.at_once.cancel();
        }
        self.by.get_or_init(|| by.to_owned());
        self.politely.cancel();
    }

    /// Returns who asked.
    #[must_use]
    pub fn by(&self) -> &str {
        self.by.get().map_or("a signal", String::as_str)
    }
}

/// Where a run that is taken up goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Direction {
    /// On to its end.
    Forward {
        /// How often in a row pgplan may end in the middle of an action before a person is asked: [`MOST_CUTS`].
        most_cuts: u32,
        /// A step to begin anew, with every step after it that has been begun.
        rerun: Option<String>,
        /// Whether what was done is kept where it would have to be done again otherwise.
        accept: bool,
    },
    /// Back to its begin.
    Back,
}

/// What the caller wants of this session.
#[derive(Debug, Clone, Default)]
pub struct Wishes {
    /// Stop after this step and what it needs.
    pub until: Option<String>,
    /// The folder where the run keeps its files.
    pub run_dir: PathBuf,
    /// The longest downtime that is accepted.
    pub budget: Option<Budget>,
}

/// The longest downtime that is accepted, and what the rest of it is predicted from when it is asked for.
#[derive(Debug, Clone, Default)]
pub struct Budget {
    /// The longest downtime.
    pub limit: Duration,
    /// What the rehearsals of the plan took; without them only the time that is over counts.
    pub rehearsals: Vec<Timing>,
    /// What the last run of the plan took.
    pub last_run: Option<Timing>,
    /// How large the data was before the first step, where that could be seen then.
    pub sizes: BTreeMap<String, Size>,
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
    ensured: BTreeSet<String>,
    budget: Option<Budget>,
    over_budget: bool,
    /// Events that are written together, while [`Run::at_once`] works.
    gathered: Option<Vec<Event>>,
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
            texts: step_texts(plan),
            needs: step_needs(plan),
            vars: plan.vars.clone(),
            given: plan.given.clone(),
            platforms: plan.platforms.iter().map(|file| file.display().to_string()).collect(),
            holder,
        }])?;
        Ok(run)
    }

    /// Takes up a run that stopped or died: to go on, for which it decides about the actions that were cut in the middle
    /// and about those whose outputs ended with their session, or to go back, which takes things as they are.
    ///
    /// # Errors
    /// When the journal cannot be read or written, or contradicts itself.
    pub fn resume(
        plan: &'a Plan,
        journal: &'a mut Journal,
        id: &str,
        holder: Holder,
        direction: Direction,
        reporters: Vec<Box<dyn Reporter + 'a>>,
    ) -> Result<Self, RunError> {
        let state = RunState::fold(id, &journal.events(id)?)?;
        let mut run = Self::over(plan, journal, state, reporters);
        let old = &run.state;
        let changed: Vec<String> = plan
            .steps
            .iter()
            .filter(|step| old.step_fingerprints.get(&step.id).is_some_and(|old| *old != step.fingerprint))
            .map(|step| step.id.clone())
            .collect();
        let before = old.steps.iter().map(|(id, step)| (id.clone(), step.status)).collect();
        let known = consent::Steps::before(old);
        // What is taken back was done as the plan was then: that it has changed since is for whoever goes forward again.
        let (fingerprint, steps, texts, needs) = match &direction {
            Direction::Forward { .. } => {
                (plan.fingerprint.clone(), step_fingerprints(plan), step_texts(plan), step_needs(plan))
            }
            Direction::Back => {
                let RunState { fingerprint, step_fingerprints, step_texts, step_needs, .. } = old;
                (fingerprint.clone(), step_fingerprints.clone(), step_texts.clone(), step_needs.clone())
            }
        };
        // At once: were the plan's new fingerprints there without what follows from them, an edit would go unnoticed.
        run.at_once(|run| {
            run.record(vec![EventKind::RunResumed { fingerprint, steps, texts, needs, holder }])?;
            if let Direction::Forward { most_cuts, rerun, accept } = &direction {
                run.record(run.consents_to_ask_again(&known))?;
                let early = run.come_too_early(&before, rerun.as_deref(), *accept)?;
                run.record(early)?;
                run.recover(&changed, *most_cuts)?;
                rerun.as_ref().map_or(Ok(()), |step| run.rerun(step))?;
            }
            Ok(())
        })?;
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
            ensured: BTreeSet::new(),
            budget: None,
            over_budget: false,
            gathered: None,
        }
    }

    /// Returns whether this session stopped before a point of no return because the downtime would pass its budget.
    #[must_use]
    pub fn is_over_budget(&self) -> bool {
        self.over_budget
    }

    /// Returns the plan.
    #[must_use]
    pub fn plan(&self) -> &'a Plan {
        self.plan
    }

    /// Returns where the run stands.
    #[must_use]
    pub fn state(&self) -> &RunState {
        &self.state
    }

    /// Returns whether this session has done something of a step, and so has what the journal does not hold.
    pub(crate) fn remembers(&self, step: &str) -> bool {
        self.memory.contains_key(step)
    }

    pub(crate) fn outputs(&self) -> Arc<BTreeMap<String, Outputs>> {
        match self.state.going_back {
            true => self.standing_outputs(),
            false => self.with_memory(self.state.outputs()),
        }
    }

    /// Returns what everything gave that stands, for the way back.
    pub(crate) fn standing_outputs(&self) -> Arc<BTreeMap<String, Outputs>> {
        self.with_memory(self.state.standing_outputs())
    }

    fn with_memory(&self, mut outputs: BTreeMap<String, Outputs>) -> Arc<BTreeMap<String, Outputs>> {
        for (step, kept) in &self.memory {
            outputs.entry(step.clone()).or_default().extend(kept.clone());
        }
        Arc::new(outputs)
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
        if let Some(gathered) = &mut self.gathered {
            for event in &events {
                self.state.apply(event)?;
            }
            gathered.append(&mut events);
            return Ok(());
        }
        self.append(&events)?;
        for event in &events {
            self.state.apply(event)?;
            self.report(event);
        }
        Ok(())
    }

    /// Makes all that `work` records durable in one write: after a kill there is all of it or nothing.
    fn at_once(&mut self, work: impl FnOnce(&mut Self) -> Result<(), RunError>) -> Result<(), RunError> {
        self.gathered = Some(Vec::new());
        let worked = work(self);
        let events = self.gathered.take().unwrap_or_default();
        worked?;
        self.append(&events)?;
        events.iter().for_each(|event| self.report(event));
        Ok(())
    }

    fn append(&mut self, events: &[Event]) -> Result<(), RunError> {
        let durable: Vec<Event> = events.iter().filter(|event| event.kind.is_durable()).cloned().collect();
        if !durable.is_empty() {
            self.journal.append(&self.state.id, &durable)?;
        }
        Ok(())
    }

    fn report(&mut self, event: &Event) {
        let state = &self.state;
        self.reporters.retain_mut(|reporter| match reporter.event(event, state) {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, "a reporter failed and is left out");
                false
            }
        });
    }
}

fn step_fingerprints(plan: &Plan) -> BTreeMap<String, String> {
    plan.steps.iter().map(|step| (step.id.clone(), step.fingerprint.clone())).collect()
}

/// Returns each step as it is written, with the databases that it uses.
fn step_texts(plan: &Plan) -> BTreeMap<String, serde_json::Value> {
    plan.steps.iter().map(|step| (step.id.clone(), step.text_with_databases())).collect()
}

fn step_needs(plan: &Plan) -> BTreeMap<String, Vec<String>> {
    plan.steps.iter().map(|step| (step.id.clone(), step.needs.clone())).collect()
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
