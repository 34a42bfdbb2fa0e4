use std::{collections::BTreeMap, io, path::Path};

use clap::{Args, ValueEnum};
use pgplan_engine::{
    action::Output,
    event::EventKind,
    state::{ActionState, ActionStatus},
};

use super::{find_run, journal_failed};
use crate::{
    args::{JournalArgs, RunArgs},
    exit::Exit,
    ui::Ui,
};

/// What a person found out about an action that was cut in the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Verdict {
    /// It was done: go on after it
    Done,
    /// It was not done, or may be done again: do it
    Retry,
    /// Someone took it back, or it left nothing: do it when its turn comes
    Undo,
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
    #[command(flatten)]
    journal: JournalArgs,
}

impl Resolve {
    pub(crate) fn run(&self, ui: &mut Ui, state: Option<&Path>) -> io::Result<Exit> {
        let args = RunArgs { run: self.run.clone(), journal: self.journal.clone() };
        let mut found = match find_run(ui, state, &args)? {
            Ok(found) => found,
            Err(exit) => return Ok(exit),
        };
        let Some(step) = found.state.steps.get(&self.step) else {
            ui.fail(format!("run {} has no step `{}`", found.state.id, self.step), "`pgplan status` lists its steps");
            return Ok(Exit::BadInput);
        };
        let going_back = |action: &&ActionState| action.status == ActionStatus::Undoing;
        let waiting = |action: &&ActionState| action.status == ActionStatus::Indeterminate || going_back(action);
        let now = step.actions.iter().filter(waiting);
        // By id: on the way back, what is said of an action holds for all its doings.
        let lost: BTreeMap<&str, &ActionState> = step
            .earlier
            .iter()
            .filter(going_back)
            .chain(now)
            .filter(|action| self.action.as_deref().is_none_or(|wanted| wanted == action.action.id))
            .map(|action| (action.action.id.as_str(), action))
            .collect();
        if lost.is_empty() {
            ui.fail(
                format!("nothing in step `{}` waits for a decision", self.step),
                "`pgplan status` shows how it stands",
            );
            return Ok(Exit::BadInput);
        }
        let verdict = lost.into_values().flat_map(|action| self.verdict_on(action)).collect();
        if let Err(error) = found.record(verdict) {
            return Ok(journal_failed(ui, &error));
        }
        let verb = if found.state.going_back { "undo" } else { "apply" };
        ui.say(format!("noted; go on with: {}", found.command(verb, &ui.hints)));
        Ok(Exit::Done)
    }

    /// Returns the events that a person's word about an action becomes.
    fn verdict_on(&self, state: &ActionState) -> Vec<EventKind> {
        let (step, action) = (self.step.clone(), state.action.id.clone());
        let reset = |reason: &str| EventKind::ActionReset {
            step: step.clone(),
            action: action.clone(),
            reason: reason.to_owned(),
        };
        let undoing = EventKind::ActionUndoing { step: step.clone(), action: action.clone() };
        let undone = EventKind::ActionUndone { step: step.clone(), action: action.clone() };
        match (self.verdict, state.status) {
            // While it was being taken back: done and undo both say that it is taken back.
            (Verdict::Done | Verdict::Undo, ActionStatus::Undoing) => vec![undone],
            (Verdict::Done, _) => {
                let output = Output::said("a person says that it was done");
                vec![EventKind::ActionFinished { step, action, output, took_ms: 0 }]
            }
            (Verdict::Retry, _) => vec![reset("a person says that it may be done again")],
            (Verdict::Undo, _) => vec![undoing, undone, reset("a person says that it was taken back")],
        }
    }
}
