use std::{io, path::Path};

use clap::Args;
use pgplan_engine::{
    event::{EventKind, Outcome},
    journal::{Journal, JournalError, sqlite::next_event},
    state::RunState,
    world::this_process,
};

use super::{find_run, journal_failed};
use crate::{args::RunArgs, exit::Exit, ui::Ui};

/// Give up an unfinished run: nothing is taken back, and the next apply begins anew
#[derive(Debug, Args)]
pub(crate) struct Abandon {
    #[command(flatten)]
    run: RunArgs,
}

impl Abandon {
    pub(crate) fn run(&self, ui: &mut Ui, state: Option<&Path>) -> io::Result<Exit> {
        let mut found = match find_run(ui, state, &self.run)? {
            Ok(found) => found,
            Err(exit) => return Ok(exit),
        };
        let state = &found.state;
        if !state.is_unfinished() {
            ui.fail(format!("run {} is over", state.id), "`pgplan runs` lists the runs");
            return Ok(Exit::BadInput);
        }
        let journal = &mut found.journal;
        let given_up = journal
            .acquire(&state.plan, &this_process())
            .and_then(|()| give_up(journal, state))
            .and_then(|()| journal.release());
        if let Err(error) = given_up {
            return Ok(journal_failed(ui, &error));
        }
        ui.say(format!("run {} is given up; what it did stays as it is", state.id));
        Ok(Exit::Done)
    }
}

/// Ends a run for good; the plan's lease must be held.
pub(crate) fn give_up(journal: &mut Journal, state: &RunState) -> Result<(), JournalError> {
    journal.append(&state.id, &[next_event(state.seq, EventKind::RunEnded { outcome: Outcome::Abandoned })])
}
