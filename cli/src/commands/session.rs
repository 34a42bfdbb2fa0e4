//! What `apply` and `undo` share: the plan, the journal with its lease, the run that can go on, the signals.

use std::{
    collections::BTreeSet,
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use indicatif::MultiProgress;
use pgplan_engine::{
    event::Holder,
    journal::{Journal, JournalError, Location, RunLine},
    kinds::Use,
    plan::{Plan, Step},
    run::{RunError, Stop},
    state::RunState,
    world::{Consent, Settings, this_process},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{
    journal_failed,
    load::load,
    state::{self, State},
};
use crate::{args::PlanArgs, exit::Exit, report::now::Now, ui::Ui};

/// A plan, the lease on it, and its newest run.
pub(crate) struct Session {
    /// The plan, with the variables that its unfinished run was begun with.
    pub(crate) plan: Arc<Plan>,
    /// The journal; this process holds the plan's lease.
    pub(crate) journal: Journal,
    /// Where the journal is.
    pub(crate) state: State,
    /// This process.
    pub(crate) me: Holder,
    /// The plan's newest run.
    pub(crate) last: Option<RunState>,
}

impl Session {
    /// Reads the plan and takes its lease; what is wrong has been told when there is none. A `fresh` run is begun with
    /// the variables given now only, whatever an unfinished one was begun with.
    pub(crate) fn open(
        ui: &mut Ui,
        args: &PlanArgs,
        state: Option<&Path>,
        fresh: bool,
    ) -> io::Result<Result<Self, Exit>> {
        let plan = match load(ui, args)? {
            Ok(plan) => plan,
            Err(exit) => return Ok(Err(exit)),
        };
        if state.is_none() && plan.state.is_some() {
            ui.hints.plan = Some(args.clone());
        }
        let state = match state::of_plan(ui, state, &plan)? {
            Ok(state) => state,
            Err(exit) => return Ok(Err(exit)),
        };
        let me = this_process();
        let opened = Journal::open(&state.location).and_then(|mut journal| {
            journal.acquire(&plan.name, &me)?;
            let last = match newest(&journal, &plan) {
                Err(error @ JournalError::Damaged { .. }) if fresh => {
                    ui.say(format!("warning: {error}; it is left as it is, and a new run begins"));
                    None
                }
                read => read?,
            };
            Ok((journal, last))
        });
        let (journal, last) = match opened {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(journal_failed(ui, &error))),
        };
        let plan = match last.as_ref().filter(|last| !fresh && last.is_unfinished()) {
            Some(last) => match with_earlier_vars(ui, plan, args, last)? {
                Ok(plan) => plan,
                Err(exit) => return Ok(Err(exit)),
            },
            None => plan,
        };
        Ok(Ok(Self { plan: Arc::new(plan), journal, state, me, last }))
    }

    /// Gives the lease back; the command ends as `result` says.
    pub(crate) fn close(mut self, ui: &mut Ui, result: io::Result<Exit>) -> io::Result<Exit> {
        match self.journal.release() {
            Ok(()) => result,
            Err(error) => Ok(journal_failed(ui, &error)),
        }
    }

    /// Returns the newest run when it can go on.
    pub(crate) fn unfinished(&self) -> Option<&RunState> {
        self.last.as_ref().filter(|last| last.is_unfinished())
    }

    /// Returns what a session of a run may do; `resumed` is the run that is taken up.
    pub(crate) fn settings(
        &self,
        id: &str,
        resumed: Option<&RunState>,
        platforms: &[PathBuf],
        consent: Consent,
    ) -> Settings {
        let approvals = resumed.map(|old| &old.approvals).into_iter().flatten();
        let approved = approvals.filter(|(_, fingerprint)| **fingerprint == self.plan.fingerprint);
        Settings {
            run_id: id.to_owned(),
            session: resumed.map_or(0, |old| old.resumes + 1),
            run_dir: self.state.runs.join(id),
            platforms: platforms.to_vec(),
            consent,
            allow_programs: true,
            dry_run: false,
            changed_before: resumed.map(|old| changed_databases(&self.plan, old)).unwrap_or_default(),
            approved: approved.map(|(step, _)| step.clone()).collect(),
            state: match &self.state.location {
                Location::Folder(_) => None,
                Location::Server(info) => Some(info.as_ref().clone()),
            },
            watch: None,
        }
    }
}

/// Reads the plan again when its run was begun with variables that are not given now.
fn with_earlier_vars(ui: &mut Ui, plan: Plan, args: &PlanArgs, last: &RunState) -> io::Result<Result<Plan, Exit>> {
    let missing: Vec<String> = last
        .given
        .iter()
        .filter(|(name, _)| plan.vars.contains_key(*name) && !plan.given.contains_key(*name))
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    if missing.is_empty() {
        return Ok(Ok(plan));
    }
    ui.say(format!("variables of run {}: {}", last.id, missing.join(" ")));
    let mut args = args.clone();
    args.vars.extend(missing);
    load(ui, &args)
}

/// Returns the newest run of a plan.
fn newest(journal: &Journal, plan: &Plan) -> Result<Option<RunState>, JournalError> {
    let runs = journal.runs()?;
    let Some(RunLine { id, .. }) = runs.into_iter().rev().find(|run| run.plan == plan.name) else { return Ok(None) };
    let events = journal.events(&id)?;
    if events.is_empty() {
        return Ok(None);
    }
    let state = RunState::fold(&id, &events);
    state.map(Some).map_err(|error| JournalError::Damaged { run: id, seq: error.seq, error: error.what })
}

/// Returns the databases that steps of an earlier session have begun to change.
fn changed_databases(plan: &Plan, old: &RunState) -> BTreeSet<String> {
    let begun = |step: &&Step| old.steps.get(&step.id).is_some_and(|state| state.begun().next().is_some());
    let used = plan.steps.iter().filter(begun).flat_map(|step| &step.declared.databases);
    used.filter(|(.., how)| *how == Use::Changes).map(|(name, ..)| name.clone()).collect()
}

/// Asks for a polite stop at the first INT or TERM, and for one at once at the second or when the lease is `lost`; tells
/// at USR1 what is being done.
pub(crate) fn listen(stop: &Stop, now: &Now, bars: Option<MultiProgress>, lost: CancellationToken) -> io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let mut status = signal(SignalKind::user_defined1())?;
    let (stop, now) = (stop.clone(), now.clone());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => stop.ask("SIGINT"),
                _ = terminate.recv() => stop.ask("SIGTERM"),
                // What runs here may be begun over there.
                () = lost.cancelled(), if !stop.at_once.is_cancelled() => {
                    stop.ask("the process that has taken over the run");
                    stop.at_once.cancel();
                }
                _ = status.recv() => {
                    let tell = || writeln!(anstream::stderr(), "{}", now.text());
                    let told = bars.as_ref().map_or_else(tell, |bars| bars.suspend(tell));
                    if let Err(error) = told {
                        tracing::debug!(%error, "nobody can be told what is being done");
                    }
                }
            }
        }
    });
    Ok(())
}

/// Tells why a run could not be carried on and returns the exit code.
pub(crate) fn run_failed(ui: &mut Ui, error: &RunError) -> Exit {
    match error {
        RunError::Journal(error) => journal_failed(ui, error),
        RunError::Undecided(error) => {
            ui.error(error);
            Exit::of_error(error.kind)
        }
        RunError::Illegal(error) => {
            ui.fail(error, "this is a bug in pgplan; please report it with the journal");
            Exit::Bug
        }
    }
}
