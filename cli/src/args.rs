//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use pgplan_engine::{journal::Location, op::Exec};

use crate::{commands, ui::Color};

/// Declarative migration and upgrade engine for PostgreSQL
///
/// A plan file names databases and ordered steps. `pgplan check` reads it, `pgplan plan` shows exactly what it would
/// do, `pgplan apply` does it, survives being killed, and goes on where it stopped.
#[derive(Debug, Parser)]
#[command(name = "pgplan", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   a step failed
  2   the plan or the command line is wrong
  3   refused
  4   interrupted; apply again to go on
  5   a person has to decide
  6   a check or a verification found a blocker
  70  a bug in pgplan";

/// Options of every command.
#[derive(Debug, Args)]
pub(crate) struct Global {
    /// When to colour what is printed
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub(crate) color: Color,
    /// Where the journal is: a folder, or the postgres:// URL of a database that several machines share; default: what
    /// the plan says, else the folder .pgplan
    #[arg(long, global = true, env = "PGPLAN_STATE", hide_env_values = true, value_name = "FOLDER|URL")]
    pub(crate) state: Option<PathBuf>,
}

/// The commands, one file each.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Check(commands::check::Check),
    Plan(commands::plan::PlanCommand),
    Rehearse(commands::rehearse::Rehearse),
    Apply(commands::apply::Apply),
    Status(commands::status::Status),
    Runs(commands::runs::Runs),
    Log(commands::log::Log),
    Report(commands::report::Report),
    Undo(commands::undo::Undo),
    Resolve(commands::resolve::Resolve),
    Approve(commands::approve::Approve),
    Abandon(commands::abandon::Abandon),
    Graph(commands::graph::GraphCommand),
    Kinds(commands::kinds::Kinds),
    Schema(commands::schema::Schema),
    Completions(commands::completions::Completions),
    Man(commands::man::Man),
}

/// The plan that a command is about.
#[derive(Debug, Clone, Args)]
pub(crate) struct PlanArgs {
    /// The plan file
    #[arg(value_name = "PLAN")]
    pub(crate) file: PathBuf,
    /// Set a variable of the plan
    #[arg(long = "var", value_name = "NAME=VALUE")]
    pub(crate) vars: Vec<String>,
    /// Read a platform of your own
    #[arg(long = "platform", value_name = "FILE")]
    pub(crate) platforms: Vec<PathBuf>,
}

impl PlanArgs {
    /// Returns the command line that does this to the same run of the same plan.
    ///
    /// `state` is where the journal is, when that was said beside the plan; its password is left out.
    pub(crate) fn command(&self, verb: &str, state: Option<&Location>) -> String {
        let mut words = vec!["pgplan".to_owned(), verb.to_owned(), self.file.display().to_string()];
        words.extend(self.vars.iter().flat_map(|var| ["--var".to_owned(), var.clone()]));
        words.extend(self.platforms.iter().flat_map(|file| ["--platform".to_owned(), file.display().to_string()]));
        words.extend(state.into_iter().flat_map(|state| ["--state".to_owned(), state.to_string()]));
        Exec { argv: words.iter().map(|word| word.as_str().into()).collect(), ..Exec::default() }.to_string()
    }
}

/// The run that a command is about.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The run's id or the plan's name; default: the newest run
    #[arg(value_name = "RUN")]
    pub(crate) run: Option<String>,
}

/// Returns the process's environment, as far as it is text.
pub(crate) fn environment() -> std::collections::BTreeMap<String, String> {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    let variables = std::env::vars_os();
    variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}
