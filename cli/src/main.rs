//! `pgplan`, the command line over `pgplan_engine`.

use std::{io, process::ExitCode};

use clap::Parser;

mod args;
mod commands;
mod exit;
mod faults;
mod report;
mod ui;

use args::{Cli, Command, Hints};
use exit::Exit;
use ui::Ui;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == pgplan_engine::guard::SUBCOMMAND) {
        let files: Vec<_> = args.collect();
        return u8::try_from(pgplan_engine::guard::guard_main(&files)).map_or(ExitCode::FAILURE, ExitCode::from);
    }
    pgplan_engine::guard::enable_self();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { Exit::BadInput } else { Exit::Done };
            return if error.print().is_ok() { code.into() } else { Exit::Failed.into() };
        }
    };
    tracing_subscriber::fmt()
        .with_writer(io::stderr)
        .with_env_filter(tracing_subscriber::EnvFilter::from_env("PGPLAN_LOG"))
        .init();
    let mut ui = Ui::new(cli.global.color, Hints::of(cli.global.state.as_deref()));
    let ended = dispatch(&cli, &mut ui);
    ui.restore_terminal();
    match ended {
        Ok(exit) => exit.into(),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done.into(),
        // One with a message of ours says what could not be written.
        Err(error) if error.get_ref().is_some() => {
            ui.fail(error.to_string(), "");
            Exit::Failed.into()
        }
        Err(error) => {
            ui.fail(format!("cannot write the output: {error}"), "");
            Exit::Failed.into()
        }
    }
}

fn dispatch(cli: &Cli, ui: &mut Ui) -> io::Result<Exit> {
    let state = cli.global.state.as_deref();
    match &cli.command {
        Command::Init(command) => command.run(ui),
        Command::Check(command) => command.run(ui),
        Command::Plan(command) => command.run(ui, state),
        Command::Rehearse(command) => command.run(ui, state),
        Command::Apply(command) => command.run(ui, state),
        Command::Status(command) => command.run(ui, state),
        Command::Runs(command) => command.run(ui, state),
        Command::Log(command) => command.run(ui, state),
        Command::Report(command) => command.run(ui, state),
        Command::Undo(command) => command.run(ui, state),
        Command::Resolve(command) => command.run(ui, state),
        Command::Approve(command) => command.run(ui, state),
        Command::Abandon(command) => command.run(ui, state),
        Command::Graph(command) => command.run(ui),
        Command::Kinds(command) => command.run(ui),
        Command::Explain(command) => command.run(ui),
        Command::Schema(command) => command.run(ui),
        Command::Completions(command) => command.run(ui),
        Command::Man(_) => commands::man::Man::run(ui),
    }
}
