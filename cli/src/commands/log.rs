use std::{io, path::Path};

use clap::Args;

use super::{find_run, status::log_lines};
use crate::{args::RunArgs, exit::Exit, ui::Ui};

/// Print what happened in a run, event by event
#[derive(Debug, Args)]
pub(crate) struct Log {
    #[command(flatten)]
    run: RunArgs,
    /// Print every event as one JSON object a line
    #[arg(long)]
    json: bool,
}

impl Log {
    pub(crate) fn run(&self, ui: &mut Ui, state: Option<&Path>) -> io::Result<Exit> {
        let found = match find_run(ui, state, &self.run)? {
            Ok(found) => found,
            Err(exit) => return Ok(exit),
        };
        if self.json {
            for event in &found.events {
                ui.data(format!("{}\n", serde_json::to_string(event)?))?;
            }
        } else {
            for line in log_lines(&found) {
                ui.data(format!("{line}\n"))?;
            }
        }
        Ok(Exit::Done)
    }
}
