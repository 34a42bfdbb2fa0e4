//! One file per command: arguments, help and body.

use std::{
    io,
    path::{Path, PathBuf},
};

use pgplan_engine::{
    error::StepError,
    event::{Event, EventKind},
    journal::{Journal, JournalError, Location, sqlite::next_event},
    plan::Plan,
    state::RunState,
    world::this_process,
};

use self::state::State;
use crate::{
    args::{Hints, JournalArgs, PlanArgs, RunArgs},
    exit::Exit,
    ui::Ui,
};

pub(crate) mod abandon;
pub(crate) mod apply;
pub(crate) mod approve;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod explain;
pub(crate) mod forecast;
pub(crate) mod graph;
pub(crate) mod init;
pub(crate) mod kinds;
pub(crate) mod load;
pub(crate) mod log;
pub(crate) mod man;
pub(crate) mod plan;
pub(crate) mod rehearse;
pub(crate) mod report;
pub(crate) mod resolve;
pub(crate) mod runs;
mod saved;
pub(crate) mod schema;
mod session;
mod shown;
mod state;
pub(crate) mod status;
pub(crate) mod undo;

/// What to do about a run whose events cannot be read.
const UNREADABLE: &str = "another version of pgplan wrote it, or another program changed it: go on with the pgplan that began the \
                          run, or begin anew with `pgplan apply --fresh`";

/// Tells why the journal cannot be used and returns the exit code.
pub(crate) fn journal_failed(ui: &mut Ui, error: &JournalError) -> Exit {
    if let JournalError::Server { error: cause, .. } = error {
        ui.error(&StepError { message: error.to_string(), ..cause.as_ref().clone() });
        return Exit::of_journal(error);
    }
    let help = match error {
        JournalError::Held { .. } => "wait until it has ended, or stop it; a dead one's lock is taken over by itself",
        JournalError::HeldByUnknown { .. } => {
            "`lslocks` tells which process has it; wait until that has ended, or stop it"
        }
        JournalError::Lock { .. } => {
            "check the rights of this file; if its file system knows no locks, name a folder on another one with --state, or a \
             journal in PostgreSQL (--state postgres://…)"
        }
        JournalError::LeaseLost => "look with `pgplan status` who runs it now",
        JournalError::Format { .. } => "use a newer pgplan, or another --state",
        JournalError::NoSuchRun(_) => "`pgplan runs` lists the runs",
        JournalError::Store { .. } | JournalError::Server { .. } | JournalError::Io { .. } => {
            "check the folder given with --state, its rights and space"
        }
        JournalError::Damaged { .. } => UNREADABLE,
    };
    ui.fail(error, help);
    Exit::of_journal(error)
}

/// A run as the journal has it.
pub(crate) struct Found {
    /// The journal it is in.
    pub(crate) journal: Journal,
    /// Its events.
    pub(crate) events: Vec<Event>,
    /// Their fold.
    pub(crate) state: RunState,
}

impl Found {
    /// Adds events to the run, for which it takes the plan's lease.
    ///
    /// # Errors
    /// When a living process has the lease, or the journal cannot be written.
    pub(crate) fn record(&mut self, kinds: Vec<EventKind>) -> Result<(), JournalError> {
        let mut last = self.state.seq;
        let next = kinds.into_iter().map(|kind| {
            let event = next_event(last, kind);
            last = event.seq;
            event
        });
        let events: Vec<Event> = next.collect();
        self.journal.acquire(&self.state.plan, &this_process())?;
        self.journal.append(&self.state.id, &events)?;
        self.journal.release()
    }

    /// Returns the command line that does this to the run, as it was begun.
    pub(crate) fn command(&self, verb: &str, hints: &Hints) -> String {
        let vars = self.state.given.iter().map(|(name, value)| format!("{name}={value}"));
        let platforms = self.state.platforms.iter().map(PathBuf::from);
        let plan =
            PlanArgs { file: PathBuf::from(&self.state.path), vars: vars.collect(), platforms: platforms.collect() };
        plan.command(verb, hints)
    }
}

/// Finds the run that the arguments name, or tells why there is none.
pub(crate) fn find_run(ui: &mut Ui, state: Option<&Path>, args: &RunArgs) -> io::Result<Result<Found, Exit>> {
    let (state, plan) = match find_journal(ui, state, &args.journal)? {
        Ok(found) => found,
        Err(exit) => return Ok(Err(exit)),
    };
    let wanted = args.run.clone().or_else(|| plan.map(|plan| plan.name));
    Ok(find_in(ui, &state.location, wanted.as_deref()))
}

/// Finds a run that can go on, or tells why there is none.
pub(crate) fn find_unfinished(ui: &mut Ui, state: Option<&Path>, args: &RunArgs) -> io::Result<Result<Found, Exit>> {
    Ok(find_run(ui, state, args)?.and_then(|found| {
        if found.state.is_unfinished() {
            return Ok(found);
        }
        ui.fail(format!("run {} is over", found.state.id), "`pgplan runs` lists the runs");
        Err(Exit::BadInput)
    }))
}

/// Finds the journal of commands about runs, and the plan that says where it is.
pub(crate) fn find_journal(
    ui: &mut Ui,
    state: Option<&Path>,
    args: &JournalArgs,
) -> io::Result<Result<(State, Option<Plan>), Exit>> {
    let plan = match args.plan() {
        None => None,
        Some(args) => match load::unseen(ui, &args) {
            Ok(plan) => {
                ui.hints.plan = Some(args);
                Some(plan)
            }
            Err(exit) => return Ok(Err(exit)),
        },
    };
    Ok(state::of_runs(ui, state, plan.as_ref())?.map(|state| (state, plan)))
}

fn find_in(ui: &mut Ui, location: &Location, wanted: Option<&str>) -> Result<Found, Exit> {
    let journal = match Journal::open_existing(location) {
        Ok(Some(journal)) => journal,
        Ok(None) => {
            let help = "apply a plan first, or name the journal's folder or database with --state";
            ui.fail(format!("there is no journal in {location}"), help);
            return Err(Exit::BadInput);
        }
        Err(error) => return Err(journal_failed(ui, &error)),
    };
    let runs = journal.runs().map_err(|error| journal_failed(ui, &error))?;
    let named = |name: &str| runs.iter().rev().find(|run| run.id == name || run.plan == name);
    let Some(run) = wanted.map_or_else(|| runs.last(), named) else {
        let name = wanted.unwrap_or("at all");
        ui.fail(format!("there is no run {name} in {location}"), "`pgplan runs` lists the runs");
        return Err(Exit::BadInput);
    };
    let events = journal.events(&run.id).map_err(|error| journal_failed(ui, &error))?;
    match RunState::fold(&run.id, &events) {
        Ok(state) => Ok(Found { journal, events, state }),
        Err(error) => {
            ui.fail(&error, UNREADABLE);
            Err(Exit::Failed)
        }
    }
}
