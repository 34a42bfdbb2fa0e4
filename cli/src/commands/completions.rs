use std::io;

use clap::{Args, CommandFactory};

use crate::{args::Cli, exit::Exit, ui::Ui};

/// Print a completion script for a shell
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell
    shell: clap_complete::Shell,
}

impl Completions {
    pub(crate) fn run(&self, ui: &mut Ui) -> io::Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "pgplan", &mut script);
        ui.data(String::from_utf8_lossy(&script))?;
        Ok(Exit::Done)
    }
}
