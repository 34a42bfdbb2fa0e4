use std::path::Path;

use clap::Args;
use comfy_table::{Table, presets};
use pgplan_engine::{
    journal::{Journal, JournalError, Location, RunLine},
    state::RunState,
};
use serde_json::json;

use super::{find_journal, journal_failed};
use crate::{
    args::JournalArgs,
    exit::Exit,
    report::summary::between,
    ui::{Ui, duration},
};

/// List the runs in the journal
#[derive(Debug, Args)]
pub(crate) struct Runs {
    #[command(flatten)]
    journal: JournalArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Runs {
    pub(crate) fn run(&self, ui: &mut Ui, state: Option<&Path>) -> Result<Exit, std::io::Error> {
        let (state, plan) = match find_journal(ui, state, &self.journal)? {
            Ok(found) => found,
            Err(exit) => return Ok(exit),
        };
        let mut states = match read(&state.location) {
            Ok(states) => states,
            Err(error) => return Ok(journal_failed(ui, &error)),
        };
        states.retain(|(state, _)| plan.as_ref().is_none_or(|plan| plan.name == state.plan));
        if self.json {
            let list: Vec<_> = states
                .iter()
                .map(|(state, status)| {
                    json!({
                        "run": state.id, "plan": state.plan, "path": state.path, "status": status,
                        "started_at": state.started_at, "last_at": state.last_at,
                    })
                })
                .collect();
            ui.data(format!("{}\n", serde_json::Value::from(list)))?;
            return Ok(Exit::Done);
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(["run", "plan", "status", "started", "time"]);
        for (state, status) in &states {
            let started = state.started_at.map(|at| format!("{at:.0}")).unwrap_or_default();
            let time = state.started_at.zip(state.last_at).map(|(from, to)| duration(between(from, to)));
            table.add_row([&state.id, &state.plan, &(*status).to_owned(), &started, &time.unwrap_or_default()]);
        }
        ui.data(format!("{table}\n"))?;
        Ok(Exit::Done)
    }
}

/// Returns all runs of a journal and how they stand; of one that cannot be read only the name is known.
fn read(location: &Location) -> Result<Vec<(RunState, &'static str)>, JournalError> {
    let Some(journal) = Journal::open_existing(location)? else { return Ok(Vec::new()) };
    let mut states = Vec::new();
    for RunLine { id, plan } in journal.runs()? {
        let state = match journal.events(&id) {
            Ok(events) => RunState::fold(&id, &events).ok(),
            Err(JournalError::Damaged { .. }) => None,
            Err(error) => return Err(error),
        };
        states.push(state.map_or_else(
            || (RunState { id, plan, ..RunState::default() }, "cannot be read"),
            |state| {
                let status = word(&state);
                (state, status)
            },
        ));
    }
    Ok(states)
}

/// Returns how a run stands in one word.
pub(crate) fn word(state: &RunState) -> &'static str {
    use pgplan_engine::event::Outcome;
    match state.outcome {
        Some(Outcome::Succeeded) => "succeeded",
        Some(Outcome::Failed) => "failed",
        Some(Outcome::Paused) => "paused",
        Some(Outcome::NeedsPerson) => "needs a person",
        Some(Outcome::Undone) => "undone",
        Some(Outcome::Abandoned) => "abandoned",
        None if state.interrupted_by.is_some() => "interrupted",
        None => "running or killed",
    }
}
