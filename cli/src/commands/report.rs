use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use clap::{Args, ValueEnum};
use pgplan_engine::{journal::Journal, state::RunState};

use super::{find_in, find_journal, journal_failed};
use crate::{
    args::RunArgs,
    exit::Exit,
    report::{
        account::{Account, Lists},
        html, markdown,
    },
    ui::Ui,
};

/// How a report is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One page without scripts, that loads nothing
    #[default]
    Html,
    /// For a ticket
    Markdown,
    /// For programs
    Json,
}

/// Write the report of a run: what was done, when, downtime, verification
///
/// A report holds no secret and loads nothing from anywhere. `apply` and `undo` write it into the run's folder at the end
/// of every session: report.html, report.md, report.json.
#[derive(Debug, Args)]
pub(crate) struct Report {
    #[command(flatten)]
    run: RunArgs,
    /// How it is written
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    format: Format,
    /// Write it into this file instead of printing it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl Report {
    pub(crate) fn run(&self, ui: &mut Ui, state: Option<&Path>) -> io::Result<Exit> {
        let (state, plan) = match find_journal(ui, state, &self.run.journal)? {
            Ok(found) => found,
            Err(exit) => return Ok(exit),
        };
        let wanted = self.run.run.clone().or_else(|| plan.map(|plan| plan.name));
        let found = match find_in(ui, &state.location, wanted.as_deref()) {
            Ok(found) => found,
            Err(exit) => return Ok(exit),
        };
        let lists = Lists::read(&state.runs.join(&found.state.id), found.state.steps.keys());
        let account = Account::of(&found.events, &found.state, &lists, false);
        let text = match self.format {
            Format::Html => html::page(&account),
            Format::Markdown => markdown::page(&account),
            Format::Json => json(&account)?,
        };
        match &self.out {
            None => ui.data(text)?,
            Some(file) => put(file, &text).map_err(|error| unwritten(file, &error))?,
        }
        Ok(Exit::Done)
    }
}

/// Writes the report of a run in all forms into a folder and tells where; a report that cannot be written is told and
/// changes nothing of how the command ends.
pub(super) fn leave(ui: &mut Ui, journal: &Journal, run: &str, run_dir: &Path, folder: &Path, rehearsal: bool) {
    let events = match journal.events(run) {
        Ok(events) => events,
        Err(error) => {
            journal_failed(ui, &error);
            return;
        }
    };
    let state = match RunState::fold(run, &events) {
        Ok(state) => state,
        Err(error) => {
            ui.fail(format!("no report was written: {error}"), "this is a bug in pgplan; please report it");
            return;
        }
    };
    let account = Account::of(&events, &state, &Lists::read(run_dir, state.steps.keys()), rehearsal);
    let page = folder.join("report.html");
    let written = json(&account).and_then(|json| {
        for (name, text) in
            [("report.html", &html::page(&account)), ("report.md", &markdown::page(&account)), ("report.json", &json)]
        {
            put(&folder.join(name), text)?;
        }
        Ok(())
    });
    match written {
        Ok(()) => ui.say(format!("report          {}", page.display())),
        Err(error) => ui.fail(unwritten(&page, &error), "`pgplan report` writes it anywhere else"),
    }
}

fn json(account: &Account) -> io::Result<String> {
    Ok(serde_json::to_string_pretty(account)? + "\n")
}

/// Writes a file of mode 600, whole or not at all.
pub(super) fn put(file: &Path, text: &str) -> io::Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let fresh = file.with_file_name(name);
    let mut open = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
    let written = open.write_all(text.as_bytes()).and_then(|()| open.sync_all());
    match written.and_then(|()| fs::rename(&fresh, file)) {
        Ok(()) => Ok(()),
        Err(error) => {
            fs::remove_file(&fresh)?;
            Err(error)
        }
    }
}

fn unwritten(file: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: the report cannot be written: {error}", file.display()))
}
