//! The command line.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand};
use pgplan_engine::{locate::without_password, op::Exec};

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
    Init(commands::init::Init),
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
    Explain(commands::explain::Explain),
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
    /// Returns the command line that does this to the same run of the same plan, with the journal as it was named.
    pub(crate) fn command(&self, verb: &str, hints: &Hints) -> String {
        let mut words = vec!["pgplan".to_owned(), verb.to_owned(), self.file.display().to_string()];
        words.extend(self.options());
        words.extend(hints.state.iter().flat_map(|state| ["--state".to_owned(), state.clone()]));
        quoted(&words)
    }

    fn options(&self) -> impl Iterator<Item = String> {
        let vars = self.vars.iter().flat_map(|var| ["--var".to_owned(), var.clone()]);
        let platforms = self.platforms.iter();
        vars.chain(platforms.flat_map(|file| ["--platform".to_owned(), file.display().to_string()]))
    }
}

/// Writes words as a shell reads them.
fn quoted(words: &[String]) -> String {
    Exec { argv: words.iter().map(|word| word.as_str().into()).collect(), ..Exec::default() }.to_string()
}

/// What a command that is suggested must be given to find the journal that this one used.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hints {
    /// What was said with --state, a password left out; absent when it comes from the environment or the plan.
    pub(crate) state: Option<String>,
    /// The plan that says where the journal is.
    pub(crate) plan: Option<PlanArgs>,
}

impl Hints {
    /// Returns the hints of a process that was given this place of the journal.
    pub(crate) fn of(state: Option<&Path>) -> Self {
        let in_environment = |given: &str| environment().get("PGPLAN_STATE").is_some_and(|state| state == given);
        let given = state.map(|state| state.display().to_string()).filter(|given| !in_environment(given));
        Self { state: given.map(|given| without_password(&given)), plan: None }
    }

    /// Completes the commands that a text names in backquotes.
    pub(crate) fn complete(&self, text: &str) -> String {
        if self.state.is_none() && self.plan.is_none() {
            return text.to_owned();
        }
        let pieces = text.split('`').enumerate();
        let pieces = pieces.map(|(at, piece)| match at % 2 {
            1 => piece.to_owned() + &self.missing(piece),
            _ => piece.to_owned(),
        });
        pieces.collect::<Vec<_>>().join("`")
    }

    fn missing(&self, command: &str) -> String {
        let Some(verb) = command.strip_prefix("pgplan ").and_then(|rest| rest.split(' ').next()) else {
            return String::new();
        };
        let of_runs = ["status", "runs", "log", "resolve", "approve", "abandon"].contains(&verb);
        let words: Vec<String> = match (&self.state, &self.plan) {
            (Some(state), _) if (of_runs || ["apply", "undo"].contains(&verb)) && !command.contains(" --state ") => {
                vec!["--state".to_owned(), state.clone()]
            }
            (None, Some(plan)) if of_runs && !command.contains(" --plan ") => {
                let vars = plan.vars.iter().flat_map(|var| ["--var".to_owned(), var.clone()]);
                ["--plan".to_owned(), plan.file.display().to_string()].into_iter().chain(vars).collect()
            }
            _ => return String::new(),
        };
        format!(" {}", quoted(&words))
    }
}

/// The run that a command is about.
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The run's id or the plan's name; default: the newest run
    #[arg(value_name = "RUN")]
    pub(crate) run: Option<String>,
    #[command(flatten)]
    pub(crate) journal: JournalArgs,
}

/// The plan that says where the journal is, for commands that are about runs.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct JournalArgs {
    /// Look where this plan's `state` says, at the runs of this plan
    #[arg(long, value_name = "FILE")]
    pub(crate) plan: Option<PathBuf>,
    /// Set a variable of that plan
    #[arg(long = "var", value_name = "NAME=VALUE", requires = "plan")]
    pub(crate) vars: Vec<String>,
}

impl JournalArgs {
    /// Returns the plan with its variables.
    pub(crate) fn plan(&self) -> Option<PlanArgs> {
        let plan = |file: &PathBuf| PlanArgs { file: file.clone(), vars: self.vars.clone(), platforms: Vec::new() };
        self.plan.as_ref().map(plan)
    }
}

/// Returns the process's environment, as far as it is text.
pub(crate) fn environment() -> std::collections::BTreeMap<String, String> {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    let variables = std::env::vars_os();
    variables.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suggested_command_finds_the_journal() {
        let given = Hints { state: Some("the state".to_owned()), plan: None };
        assert_eq!(
            given.complete("say `pgplan resolve a --as done`, `--as retry`, and `pgplan graph`"),
            "say `pgplan resolve a --as done --state 'the state'`, `--as retry`, and `pgplan graph`"
        );
        assert_eq!(given.complete("`pgplan apply p.yaml --state x`"), "`pgplan apply p.yaml --state x`");
        let plan = PlanArgs { file: "p.yaml".into(), vars: vec!["a=b c".to_owned()], platforms: Vec::new() };
        let in_plan = Hints { state: None, plan: Some(plan) };
        assert_eq!(in_plan.complete("`pgplan runs`"), "`pgplan runs --plan p.yaml --var 'a=b c'`");
        assert_eq!(in_plan.complete("`pgplan undo p.yaml`"), "`pgplan undo p.yaml`");
    }
}
