use std::{io, path::Path};

use clap::{Args, ValueEnum};
use pgplan_engine::{
    action::Output,
    event::EventKind,
    journal::{Journal, sqlite::next_event},
    state::ActionStatus,
    world::this_process,
};

use super::{find_run, journal_failed};
use crate::{args::RunArgs, exit::Exit, ui::Ui};

/// What a person found out about an action that was cut in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Verdict {
    /// It was done: go on after it
    Done,
    /// It was not done, or may be done again: do it
    Retry,
}

/// Say what became of a step that was cut in the middle
#[derive(Debug, Args)]
pub(crate) struct Resolve {
    /// The step
    step: String,
    /// What became of it
    #[arg(long = "as", value_enum)]
    verdict: Verdict,
    /// The action, when the step has several that were cut
    #[arg(long)]
    action: Option<String>,
    /// The run's id or the plan's name; default: the newest run
    #[arg(long, value_name = "RUN")]
    run: Option<String>,
}

impl Resolve {
    pub(crate) fn run(&self, ui: &mut Ui, folder: &Path) -> io::Result<Exit> {
        let found = match find_run(ui, folder, &RunArgs { run: self.run.clone() }) {
            Ok(found) => found,
            Err(exit) => return Ok(exit),
        };
        let Some(step) = found.state.steps.get(&self.step) else {
            ui.fail(format!("run {} has no step `{}`", found.state.id, self.step), "`pgplan status` lists its steps");
            return Ok(Exit::BadInput);
        };
        let lost: Vec<&str> = step
            .actions
            .iter()
            .filter(|action| action.status == ActionStatus::Indeterminate)
            .map(|action| action.action.id.as_str())
            .filter(|id| self.action.as_deref().is_none_or(|wanted| wanted == *id))
            .collect();
        if lost.is_empty() {
            ui.fail(
                format!("nothing in step `{}` waits for a decision", self.step),
                "`pgplan status` shows how it stands",
            );
            return Ok(Exit::BadInput);
        }
        let mut last = found.state.seq;
        let events: Vec<_> = lost
            .iter()
            .map(|action| {
                let (step, action) = (self.step.clone(), (*action).to_owned());
                let kind = match self.verdict {
                    Verdict::Done => {
                        let output = Output::said("a person says that it was done");
                        EventKind::ActionFinished { step, action, output, took_ms: 0 }
                    }
                    Verdict::Retry => {
                        let reason = "a person says that it may be done again".to_owned();
                        EventKind::ActionReset { step, action, reason }
                    }
                };
                let event = next_event(last, kind);
                last = event.seq;
                event
            })
            .collect();
        let mut journal = found.journal;
        if let Err(error) = append(&mut journal, &found.state.plan, &found.state.id, &events) {
            return Ok(journal_failed(ui, &error));
        }
        ui.say(format!("noted; go on with: pgplan apply {}", found.state.path));
        Ok(Exit::Done)
    }
}

fn append(
    journal: &mut Journal,
    plan: &str,
    run: &str,
    events: &[pgplan_engine::event::Event],
) -> Result<(), pgplan_engine::journal::JournalError> {
    journal.acquire(plan, &this_process())?;
    journal.append(run, events)?;
    journal.release()
}
