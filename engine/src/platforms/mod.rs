//! Platforms as data: the commands by which an application is scaled, configured and provided with databases.
//!
//! A platform is a YAML file: argument lists with `${{ name }}` in them, and how to read what the command prints. The
//! ones below are built in; `--platform FILE` adds more or replaces one of the same name. A command is a list of
//! words and never goes through a shell, so no value can be taken for a part of it; a secret put into one stays a
//! marker until the program is started ([`crate::secret`]).

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{
    diagnostic::{Diagnostic, Problems},
    error::{ErrorKind, StepError},
    op::{Capture, Parse},
    source::SourceFile,
    spelling,
    yaml::{self, Limits},
};

mod render;

pub use render::Values;

const BUILT_IN: [(&str, &str); 7] = [
    ("aptible.yaml", include_str!("aptible.yaml")),
    ("compose.yaml", include_str!("compose.yaml")),
    ("dokku.yaml", include_str!("dokku.yaml")),
    ("habitat.yaml", include_str!("habitat.yaml")),
    ("heroku.yaml", include_str!("heroku.yaml")),
    ("kubernetes.yaml", include_str!("kubernetes.yaml")),
    ("systemd.yaml", include_str!("systemd.yaml")),
];

/// One platform.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    /// The name used in plans.
    pub name: String,
    /// One sentence about it.
    pub about: String,
    /// Where its commands are documented.
    #[serde(default)]
    pub docs: Vec<String>,
    /// What a step can give under `app` and `with`.
    #[serde(default)]
    pub params: BTreeMap<String, Param>,
    /// How many instances of a service run.
    #[serde(default)]
    pub scale: Option<Scale>,
    /// The application's configuration variables.
    #[serde(default)]
    pub config: Option<Config>,
    /// What is known of a database: its URL and more.
    #[serde(default)]
    pub database: Option<Read>,
    /// A tunnel to a database.
    #[serde(default)]
    pub tunnel: Option<TunnelCommand>,
    /// How a database is made; what is known of it is then read by `database`.
    #[serde(default)]
    pub provision: Option<Command>,
    /// How a database is destroyed.
    #[serde(default)]
    pub deprovision: Option<Command>,
    /// What is worth keeping about a running application.
    #[serde(default)]
    pub record: Vec<Read>,
}

/// A value that a step gives to a platform's commands.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Param {
    /// What it is.
    pub about: String,
    /// Whether commands can do without.
    #[serde(default)]
    pub optional: bool,
    /// The value when a step gives none.
    #[serde(default)]
    pub default: Option<String>,
}

/// A program with its arguments, names not filled in.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The program and its arguments.
    pub run: Vec<Word>,
    /// Variables for it.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What it reads on standard input.
    #[serde(default)]
    pub stdin: Option<String>,
    /// Exit codes that mean success; none = only 0.
    #[serde(default)]
    pub success_codes: Vec<i32>,
    /// Whether secrets may stand in its arguments because it takes them in no other way.
    #[serde(default)]
    pub secret_argv: bool,
}

/// One argument, or arguments that are there only when something is given.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Word {
    /// An argument.
    One(String),
    /// Arguments for a value that need not be given.
    Optional(OptionalWords),
}

/// Arguments that are left out when a parameter is not given.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptionalWords {
    /// The parameter.
    #[serde(rename = "if")]
    pub given: String,
    /// The arguments.
    pub then: Vec<String>,
}

/// A command and what is taken from its output.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Read {
    /// The command, which changes nothing.
    pub command: Command,
    /// What is taken, by the name of the output.
    pub outputs: BTreeMap<String, Taken>,
}

/// How one value is taken from what a program prints.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Taken {
    /// How it is found.
    pub parse: Parse,
    /// Whether it is a secret: kept in memory only, never shown.
    #[serde(default)]
    pub secret: bool,
}

/// Returns what is taken from a program's output as the operation's captures.
#[must_use]
pub fn captures(taken: &BTreeMap<String, Taken>) -> Vec<Capture> {
    let capture = |(name, taken): (&String, &Taken)| Capture {
        name: name.clone(),
        parse: taken.parse.clone(),
        secret: taken.secret,
    };
    taken.iter().map(capture).collect()
}

/// Whether one command tells about all services or about one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// All services of an application at once, as a map.
    App,
    /// One service, as a single value.
    Service,
}

/// How the number of running instances is read and set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    /// What `read` tells.
    pub per: Per,
    /// The command that tells the counts.
    pub read: ReadOne,
    /// The command that tells when a new count has taken effect, where `read` only tells what is wanted.
    #[serde(default)]
    pub settled: Option<ReadOne>,
    /// Words that stand for numbers; without them the command prints numbers.
    #[serde(default)]
    pub counts: BTreeMap<String, u64>,
    /// Words among `counts` for a state on the way to another: never taken as the end of the way.
    #[serde(default)]
    pub passing: Vec<String>,
    /// The command that sets the `count` of a `service`.
    pub set: Command,
    /// How long a new count may take until it is seen, in seconds.
    pub settle_seconds: u64,
}

/// A command that tells one thing.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadOne {
    /// The command, which changes nothing.
    pub command: Command,
    /// How it is found in what the command prints.
    pub parse: Parse,
}

/// How configuration variables are read and set.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The command that sets `key` to `value`.
    pub set: Command,
    /// The command that tells the value of `key`.
    pub get: ReadOne,
    /// How long a new value may take until it is seen, in seconds.
    pub settle_seconds: u64,
}

/// A command that stays up, and the URL that it prints.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelCommand {
    /// The command.
    pub command: Command,
    /// How the URL is found in what it prints.
    pub url: Parse,
    /// How long it may take to be ready, in seconds.
    pub ready_seconds: u64,
}

/// The platforms that a plan may name.
#[derive(Debug, Clone, Default)]
pub struct Platforms {
    by_name: BTreeMap<String, Arc<Platform>>,
}

impl Platforms {
    /// Returns the platforms that are built in.
    ///
    /// # Errors
    /// The problems of a built-in file, which a test rules out.
    pub fn built_in() -> Result<Self, Problems> {
        let mut platforms = Self::default();
        let mut problems = Problems::default();
        for (name, text) in BUILT_IN {
            platforms.add(&file(&format!("platforms/{name}"), Path::new(""), text), &mut problems);
        }
        if problems.has_errors() { Err(problems) } else { Ok(platforms) }
    }

    /// Adds the platform that a file describes; one of the same name is replaced. A file with errors adds nothing.
    pub fn add(&mut self, file: &Arc<SourceFile>, problems: &mut Problems) {
        let before = problems.len();
        let Some(node) = yaml::parse(file, Limits::default(), problems) else {
            if problems.len() == before {
                problems.push(Diagnostic::error("empty_file", format!("{} is empty", file.name)));
            }
            return;
        };
        match yaml::decode::<Platform>(&node) {
            Ok(platform) => {
                let wrong = platform.check();
                if wrong.is_empty() && problems.len() == before {
                    self.by_name.insert(platform.name.clone(), Arc::new(platform));
                } else {
                    problems.extend(
                        wrong.into_iter().map(|message| {
                            Diagnostic::error("bad_platform", message).at(&node.place, "in this platform")
                        }),
                    );
                }
            }
            Err(found) => problems.extend(found),
        }
    }

    /// Returns the names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(String::as_str)
    }

    /// Returns the platform of this name.
    ///
    /// # Errors
    /// [`ErrorKind::Plan`] naming the platforms there are.
    pub fn get(&self, name: &str) -> Result<&Platform, StepError> {
        self.by_name.get(name).map(Arc::as_ref).ok_or_else(|| {
            let error = StepError::new(ErrorKind::Plan, format!("there is no platform `{name}`"));
            match spelling::closest(name, self.names()) {
                Some(close) => error.help(format!("did you mean `{close}`?")),
                None => error.help(format!(
                    "known are {}; give the file of another one with `--platform FILE`",
                    self.names().collect::<Vec<_>>().join(", ")
                )),
            }
        })
    }
}

/// Returns a platform file's text as a source, for [`Platforms::add`].
#[must_use]
pub fn file(name: &str, folder: &Path, text: &str) -> Arc<SourceFile> {
    Arc::new(SourceFile { name: name.to_owned(), folder: folder.to_owned(), text: text.to_owned() })
}

impl Platform {
    /// Returns the platform's part for `what`, or says that it has none.
    ///
    /// # Errors
    /// [`ErrorKind::Plan`] when the platform has no such command.
    pub fn part<'a, T>(&self, part: Option<&'a T>, what: &str) -> Result<&'a T, StepError> {
        part.ok_or_else(|| {
            StepError::new(ErrorKind::Plan, format!("the platform `{}` has no command to {what}", self.name))
                .help("do it with a `command` step, or add the command to a platform file and give it by `--platform`")
        })
    }

    /// Returns what is wrong with the file beyond its form: expressions, names that nobody gives.
    fn check(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut look = |what: &str, command: &Command, given: &[&str]| {
            let known: BTreeSet<&str> = given.iter().copied().chain(self.params.keys().map(String::as_str)).collect();
            match command.names() {
                Ok(names) => {
                    for name in names.iter().filter(|name| !known.contains(name.as_str())) {
                        problems.push(format!("`{what}` uses `{name}`, which is neither a parameter nor given to it"));
                    }
                }
                Err(wrong) => problems.push(format!("`{what}`: {wrong}")),
            }
            if command.run.is_empty() {
                problems.push(format!("`{what}` runs nothing"));
            }
        };
        if let Some(scale) = &self.scale {
            let read: &[&str] = if scale.per == Per::Service { &["service"] } else { &[] };
            look("scale.read", &scale.read.command, read);
            if let Some(settled) = &scale.settled {
                look("scale.settled", &settled.command, read);
            }
            look("scale.set", &scale.set, &["service", "count"]);
        }
        if let Some(config) = &self.config {
            look("config.set", &config.set, &["key", "value"]);
            look("config.get", &config.get.command, &["key"]);
        }
        if let Some(database) = &self.database {
            look("database", &database.command, &["name"]);
        }
        if let Some(tunnel) = &self.tunnel {
            look("tunnel", &tunnel.command, &["name"]);
        }
        if let Some(provision) = &self.provision {
            look("provision", provision, &["name", "version"]);
        }
        if let Some(deprovision) = &self.deprovision {
            look("deprovision", deprovision, &["name"]);
        }
        for record in &self.record {
            look("record", &record.command, &[]);
        }
        problems
    }
}

#[cfg(test)]
mod tests;
