use std::io;

use clap::Args;

use crate::{exit::Exit, ui::Ui};

/// Print the JSON Schema of plans, for editors
#[derive(Debug, Args)]
pub(crate) struct Schema {}

impl Schema {
    pub(crate) fn run(ui: &mut Ui) -> io::Result<Exit> {
        ui.data(format!("{}\n", serde_json::to_string_pretty(&pgplan_engine::schema::plan_schema())?))?;
        Ok(Exit::Done)
    }
}
