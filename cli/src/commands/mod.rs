//! One file per command: arguments, help and body.

use std::{io, path::Path};

use pgplan_engine::{
    error::StepError,
    event::Event,
    journal::{Journal, JournalError, Location},
    state::RunState,
};

use crate::{args::RunArgs, exit::Exit, ui::Ui};

pub(crate) mod abandon;
pub(crate) mod apply;
pub(crate) mod approve;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod forecast;
pub(crate) mod graph;
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

/// Tells why the journal cannot be used and returns the exit code.
pub(crate) fn journal_failed(ui: &mut Ui, error: &JournalError) -> Exit {
    if let JournalError::Server { error: cause, .. } = error {
        ui.error(&StepError { message: error.to_string(), ..cause.as_ref().clone() });
        return Exit::of_journal(error);
    }
    let help = match error {
        JournalError::Held { .. } => "wait until it has ended, or stop it; a dead one's lock is taken over by itself",
        JournalError::LeaseLost => "look with `pgplan status` who runs it now",
        JournalError::Format { .. } => "use a newer pgplan, or another --state",
        JournalError::NoSuchRun(_) => "`pgplan runs` lists the runs",
        JournalError::Store { .. } | JournalError::Server { .. } | JournalError::Io { .. } => {
            "check the folder given with --state, its rights and space"
        }
        JournalError::Damaged { .. } => "the journal was changed by another program; restore it from a backup",
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

/// Finds the run that the arguments name, or tells why there is none.
pub(crate) fn find_run(ui: &mut Ui, state: Option<&Path>, args: &RunArgs) -> io::Result<Result<Found, Exit>> {
    Ok(match state::of_runs(ui, state)? {
        Ok(state) => find_in(ui, &state.location, args),
        Err(exit) => Err(exit),
    })
}

fn find_in(ui: &mut Ui, location: &Location, args: &RunArgs) -> Result<Found, Exit> {
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
    let wanted = runs.iter().rev().find(|run| match &args.run {
        Some(name) => run.id == *name || run.plan == *name,
        None => true,
    });
    let Some(run) = wanted else {
        let name = args.run.as_deref().unwrap_or("at all");
        ui.fail(format!("there is no run {name} in {location}"), "`pgplan runs` lists the runs");
        return Err(Exit::BadInput);
    };
    let events = journal.events(&run.id).map_err(|error| journal_failed(ui, &error))?;
    match RunState::fold(&run.id, &events) {
        Ok(state) => Ok(Found { journal, events, state }),
        Err(error) => {
            ui.fail(&error, "the journal was changed by another program; restore it from a backup");
            Err(Exit::Bug)
        }
    }
}
