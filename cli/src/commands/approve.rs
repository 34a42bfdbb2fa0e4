use std::{io, path::Path};

use clap::Args;
use pgplan_engine::{event::EventKind, journal::sqlite::next_event, world::this_process};

use super::{find_run, journal_failed};
use crate::{args::RunArgs, exit::Exit, ui::Ui};

/// Say that a step which waits for consent may be done
///
/// Holds for the plan as the run knows it: when the plan changes, consent is needed again.
#[derive(Debug, Args)]
pub(crate) struct Approve {
    /// The run's id or the plan's name
    run: String,
    /// The step
    step: String,
}

impl Approve {
    pub(crate) fn run(&self, ui: &mut Ui, state: Option<&Path>) -> io::Result<Exit> {
        let mut found = match find_run(ui, state, &RunArgs { run: Some(self.run.clone()) })? {
            Ok(found) => found,
            Err(exit) => return Ok(exit),
        };
        let state = &found.state;
        if !state.is_unfinished() {
            ui.fail(format!("run {} is over", state.id), "`pgplan runs` lists the runs");
            return Ok(Exit::BadInput);
        }
        if !state.step_fingerprints.contains_key(&self.step) {
            ui.fail(format!("run {} has no step `{}`", state.id, self.step), "`pgplan status` lists its steps");
            return Ok(Exit::BadInput);
        }
        let me = this_process();
        let event = EventKind::StepApproved {
            step: self.step.clone(),
            fingerprint: state.fingerprint.clone(),
            by: format!("{}@{}", me.user, me.host),
        };
        let journal = &mut found.journal;
        let noted = journal
            .acquire(&state.plan, &me)
            .and_then(|()| journal.append(&state.id, &[next_event(state.seq, event)]))
            .and_then(|()| journal.release());
        if let Err(error) = noted {
            return Ok(journal_failed(ui, &error));
        }
        ui.say(format!("noted; go on with: pgplan apply {}", state.path));
        Ok(Exit::Done)
    }
}
