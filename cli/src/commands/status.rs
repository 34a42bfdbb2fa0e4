use std::{io, path::Path};

use clap::Args;
use pgplan_engine::{
    state::{ActionStatus, RunState, StepStatus},
    world::this_process,
};
use serde_json::json;

use super::{find_run, journal_failed, runs::word};
use crate::{
    args::RunArgs,
    exit::Exit,
    report::{line, summary},
    ui::{Tone, Ui, duration, paint},
};

/// Show where a run stands, also while it goes on
#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    run: RunArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(crate) fn run(&self, ui: &mut Ui, state: Option<&Path>) -> io::Result<Exit> {
        let found = match find_run(ui, state, &self.run)? {
            Ok(found) => found,
            Err(exit) => return Ok(exit),
        };
        let state = &found.state;
        let holder = match found.journal.holder(&state.plan, &this_process().host) {
            Ok(holder) => holder,
            Err(error) => return Ok(journal_failed(ui, &error)),
        };
        if self.json {
            let value = json!({ "run": state, "held_by": holder });
            ui.data(format!("{value}\n"))?;
            return Ok(Exit::Done);
        }
        let mut text = format!("{} {} of plan {} ({})\n", paint("run", Tone::Strong), state.id, state.plan, state.path);
        let now = match &holder {
            Some(holder) if state.outcome.is_none() => {
                format!("running: process {} on {} since {:.0}", holder.pid, holder.host, holder.since)
            }
            _ if state.outcome.is_none() && state.interrupted_by.is_none() => "killed; apply again to go on".to_owned(),
            _ => word(state).to_owned(),
        };
        text.push_str(&format!("{now}\n\n{}\n", summary::table(&order(&found.events, state), state)));
        for (id, step) in &state.steps {
            for action in step.actions.iter().filter(|a| a.status == ActionStatus::Started) {
                text.push_str(&format!("\nnow: {id}: {}", action.action.title));
            }
            if let Some(error) = step.error.as_ref().filter(|_| step.status == StepStatus::Failed) {
                text.push_str(&format!("\n{} {id}: {}\n", paint("failed", Tone::Bad), error.message));
                for detail in &error.details {
                    text.push_str(&format!("  {detail}\n"));
                }
                let help = error.advice_in(state.going_back && state.is_unfinished());
                text.push_str(&format!("  help: {}\n", ui.hints.complete(&help)));
            }
        }
        if let Some(downtime) = state.downtime() {
            let ms = u64::try_from(downtime.as_millis()).unwrap_or(0);
            text.push_str(&format!("\ndowntime: {}\n", duration(ms)));
        }
        ui.data(text)?;
        Ok(Exit::Done)
    }
}

/// Returns the steps in the order in which they came up; those never reached last.
pub(crate) fn order(events: &[pgplan_engine::event::Event], state: &RunState) -> Vec<String> {
    use pgplan_engine::event::EventKind;
    let mut order: Vec<String> = Vec::new();
    let mut add = |id: &String| {
        if !order.contains(id) {
            order.push(id.clone());
        }
    };
    for event in events {
        match &event.kind {
            EventKind::StepExpanded { step, .. }
            | EventKind::StepSkipped { step, .. }
            | EventKind::StepBlocked { step, .. }
            | EventKind::StepFailed { step, .. } => add(step),
            _ => {}
        }
    }
    state.step_fingerprints.keys().for_each(add);
    order
}

/// Returns the lines of a run's log.
pub(crate) fn log_lines(found: &super::Found) -> Vec<String> {
    let mut state = RunState { id: found.state.id.clone(), ..RunState::default() };
    let mut lines = Vec::new();
    for event in &found.events {
        if state.apply(event).is_err() {
            break;
        }
        if let Some(text) = line::text(event, &state) {
            lines.push(format!("{} {text}", paint(format!("{:.3}", event.at), Tone::Dim)));
        }
    }
    lines
}
