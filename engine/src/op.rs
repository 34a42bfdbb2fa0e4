//! The vocabulary of the performer: every way in which pgplan changes or measures the world.
//!
//! Kinds build their actions from these; only `perform` carries them out. All of it is plain data that is journalled
//! and saved, so a secret is only ever named ([`Text`]) and a database only referred to by its name in the plan.

mod shown;

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::secret::Text;

pub mod data;
mod dump;
pub mod fence;
pub mod merge;
pub mod preflight;
pub mod trial;

pub use dump::{Compat, Compress, DumpOp, Expected, ExpectedCode, FilterOp, OnError, Part, RestoreOp, Unmatched};

/// One operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// Run a program to its end.
    Exec(Exec),
    /// Start a program that stays up while later steps run, and read its outputs when it is ready.
    Tunnel(Tunnel),
    /// Put values into a configuration file where they stand, keeping everything else.
    EditFile(EditFile),
    /// Put a configuration file back as it was before it was edited.
    RestoreFile {
        /// The file.
        path: PathBuf,
        /// The copy that was kept of it.
        backup: PathBuf,
    },
    /// Make a PostgreSQL server of pgplan's own on this machine and start it.
    CreateCluster(CreateCluster),
    /// Stop a server that pgplan made and remove its folder with all data.
    RemoveCluster {
        /// The folder that [`CreateCluster`] made.
        folder: PathBuf,
        /// Whether it stays when another run made it: what was only adopted is not taken back.
        #[serde(default)]
        of_this_run: bool,
    },
    /// Run SQL.
    RunSql(data::RunSql),
    /// Create a database.
    CreateDatabase(data::CreateDatabase),
    /// Drop a database that this run created.
    DropDatabase(data::DropDatabase),
    /// Vacuum or analyze a database.
    Vacuum(data::Vacuum),
    /// Compare something of two servers.
    Compare {
        /// What.
        comparison: data::Comparison,
    },
    /// Judge what the comparisons of a step found.
    JudgeComparison(data::JudgeComparison),
    /// Look for hazards between two servers.
    Preflight(preflight::Preflight),
    /// Make a dump.
    Dump(DumpOp),
    /// Look through a dump and decide what of it is left out.
    Filter(FilterOp),
    /// Put a dump, or a part of one, into a server.
    Restore(RestoreOp),
    /// Close databases to writers and prove that nobody writes.
    Fence(fence::FenceOp),
    /// Open fenced databases again as they were.
    Unfence(fence::UnfenceOp),
    /// Check that nothing has moved since databases were proved quiet.
    StillQuiet(fence::StillQuietOp),
    /// Restore a schema only to see whether it can be.
    SchemaTrial(Box<trial::TrialOp>),
    /// Remove what was made for a trial of a schema.
    EndTrial(trial::TrialPlace),
    /// Give rows of a merge their new keys.
    MapKeys(merge::MapKeys),
    /// Fill tables from the sources of a merge.
    FillTables(merge::FillTables),
    /// Prove that a merge is complete, and mark it so.
    ProveMerge(merge::ProveMerge),
    /// Empty tables that a merge has filled.
    EmptyTables(merge::EmptyTables),
    /// Ask a person for consent.
    Approve {
        /// What is asked.
        message: String,
    },
    /// Give values that are known already to later steps (remembered counts, recorded facts).
    Remember {
        /// The values by name.
        values: BTreeMap<String, serde_json::Value>,
        /// A file, relative to the run's folder, that keeps them as JSON for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<PathBuf>,
    },
}

/// A program to run to its end; never through a shell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exec {
    /// The program and its arguments.
    pub argv: Vec<Text>,
    /// Variables added to pgplan's own environment.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, Text>,
    /// The working folder; absent = the folder of the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<PathBuf>,
    /// What the program reads on standard input; absent = nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<Text>,
    /// What is taken from its output.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capture: Vec<Capture>,
    /// Exit codes that mean success; empty = only 0.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub success_codes: Vec<i32>,
    /// A check that tells whether the work is done already; what it captures are outputs, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_if: Option<Box<Probe>>,
    /// How long after a good end `done_if` may take to say yes, in milliseconds; absent = it is not asked again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within_ms: Option<u64>,
    /// Whether arguments may hold secrets, which other users of the machine can see while the program runs: for
    /// platforms whose command line takes the value in no other way.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret_argv: bool,
}

impl fmt::Display for Exec {
    /// Writes the command line as a person would type it, secrets by name.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:@%+,=".contains(c);
        for (number, word) in self.argv.iter().enumerate() {
            let shown = word.to_string();
            let space = if number == 0 { "" } else { " " };
            let needs_no_quotes = !shown.is_empty() && shown.chars().all(plain);
            if needs_no_quotes || word.as_plain().is_none() {
                write!(f, "{space}{shown}")?;
            } else {
                write!(f, "{space}'{}'", shown.replace('\'', r"'\''"))?;
            }
        }
        Ok(())
    }
}

/// A program whose run answers a yes-or-no question without changing anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The program that looks.
    pub exec: Exec,
    /// What its trimmed standard output must be for "yes"; absent = exit code 0 is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
    /// What must be found in its output for "yes", too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Found>,
}

/// A value that must be found in what a program printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// How it is found.
    pub parse: Parse,
    /// Which entry of the map, where a map is found; a missing entry is "no".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// The values that mean "yes"; numbers are compared as they are written.
    pub values: Vec<Text>,
}

/// A value taken from what a program printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capture {
    /// The output's name.
    pub name: String,
    /// How it is found.
    pub parse: Parse,
    /// Whether the value is a secret (a URL with a password): kept in memory only, redacted everywhere.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub secret: bool,
}

/// How a value is found in what a program printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Parse {
    /// All of standard output without surrounding white space.
    Trimmed,
    /// A JSON pointer (RFC 6901) into standard output.
    Json(String),
    /// The first capture group of a regular expression over standard output, then standard error.
    Regex(String),
    /// All matches of a regular expression with groups `key` and `value`, as a map (`ps:scale` tables and the like).
    Pairs(String),
    /// A map from a list of JSON objects on standard output.
    JsonPairs {
        /// A JSON pointer to the list; empty = the whole document.
        #[serde(default)]
        list: String,
        /// A JSON pointer, in each object, to the key.
        key: String,
        /// A JSON pointer, in each object, to the value.
        value: String,
    },
    /// The number of lines of standard output that are not empty.
    Lines,
}

/// Values to put into a configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EditFile {
    /// The file, absolute.
    pub path: PathBuf,
    /// How it is written.
    pub format: FileFormat,
    /// What is put in: key → value; a dotted key of a format with tables leads into them.
    pub set: BTreeMap<String, Text>,
    /// Where a copy of the file as it was is kept.
    pub backup: PathBuf,
}

/// How a configuration file is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileFormat {
    /// `KEY=value` lines, as a shell, systemd and the dotenv libraries read them; values are quoted where needed.
    Env,
    /// `KEY=value` lines as `docker run --env-file` reads them: quotes would become part of the value.
    DockerEnv,
    /// TOML; a dotted key leads into tables.
    Toml,
}

/// A PostgreSQL server to make on this machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateCluster {
    /// Major version; its server programs must be installed.
    pub version: u32,
    /// The folder that is made for it: data, log, socket and password file; absolute.
    pub folder: PathBuf,
    /// The port on the loopback; absent = a free one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The system user it runs as when pgplan runs as root; absent = `postgres`, else `nobody`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as: Option<String>,
    /// The superuser's name.
    pub superuser: String,
    /// `initdb --locale`.
    pub locale: String,
    /// Lines of `postgresql.conf`: setting → value.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// A long-running program: an SSH forward, `aptible db:tunnel`, a port-forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tunnel {
    /// The program and its surroundings; `capture` reads what it prints while it starts.
    pub exec: Exec,
    /// How long it may take until every capture is there and `ready_port` answers, in milliseconds.
    pub ready_within_ms: u64,
    /// A `host:port` that must accept connections before later steps run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_port: Option<Text>,
}
