use std::{io, path::Path};

use clap::Args;
use pgplan_engine::{event::EventKind, world::this_process};

use super::{find_unfinished, journal_failed};
use crate::{
    args::{JournalArgs, RunArgs},
    exit::Exit,
    ui::Ui,
};

/// Say that a step which waits for consent may be done
///
/// Holds for the plan as the run knows it: when the plan changes, consent is needed again.
#[derive(Debug, Args)]
pub(crate) struct Approve {
    /// The run's id or the plan's name
    run: String,
    /// The step
    step: String,
    #[command(flatten)]
    journal: JournalArgs,
}

impl Approve {
    pub(crate) fn run(&self, ui: &mut Ui, state: Option<&Path>) -> io::Result<Exit> {
        let args = RunArgs { run: Some(self.run.clone()), journal: self.journal.clone() };
        let mut found = match find_unfinished(ui, state, &args)? {
            Ok(found) => found,
            Err(exit) => return Ok(exit),
        };
        let state = &found.state;
        if !state.step_fingerprints.contains_key(&self.step) {
            let help = format!("`pgplan status {}` lists its steps", state.id);
            ui.fail(format!("run {} has no step `{}`", state.id, self.step), &help);
            return Ok(Exit::BadInput);
        }
        let me = this_process();
        let approved = EventKind::StepApproved {
            step: self.step.clone(),
            fingerprint: state.fingerprint.clone(),
            by: format!("{}@{}", me.user, me.host),
        };
        if let Err(error) = found.record(vec![approved]) {
            return Ok(journal_failed(ui, &error));
        }
        ui.say(format!("noted; go on with: {}", found.command("apply", &ui.hints)));
        Ok(Exit::Done)
    }
}
