use std::io;

use clap::Args;
use pgplan_engine::schema;

use crate::{exit::Exit, ui::Ui};

/// Print the JSON Schema of plans, for editors, or of events
#[derive(Debug, Args)]
pub(crate) struct Schema {
    /// Print the schema of the events that `--events` and `pgplan log --json` write
    #[arg(long)]
    events: bool,
}

impl Schema {
    pub(crate) fn run(&self, ui: &mut Ui) -> io::Result<Exit> {
        let schema = if self.events { schema::event_schema() } else { schema::plan_schema() };
        ui.data(format!("{}\n", serde_json::to_string_pretty(&schema)?))?;
        Ok(Exit::Done)
    }
}
