use std::io;

use clap::{Args, CommandFactory};

use crate::{args::Cli, exit::Exit, ui::Ui};

/// Print the manual page (roff)
#[derive(Debug, Args)]
pub(crate) struct Man {}

impl Man {
    pub(crate) fn run(ui: &mut Ui) -> io::Result<Exit> {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page)?;
        ui.data(String::from_utf8_lossy(&page))?;
        Ok(Exit::Done)
    }
}
