//! The vocabulary of the performer: every way in which pgplan changes or measures the world.
//!
//! Kinds build their actions from these; only `perform` carries them out. All of it is plain data that is journalled
//! and saved, so a secret is only ever named ([`Text`]) and a database only referred to by its name in the plan.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::secret::Text;

/// One operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    /// Run a program to its end.
    Exec(Exec),
    /// Start a program that stays up while later steps run, and read its outputs when it is ready.
    Tunnel(Tunnel),
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
    /// A check that tells whether the work is done already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_if: Option<Box<Probe>>,
}

/// A program whose run answers a yes-or-no question without changing anything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The program that looks.
    pub exec: Exec,
    /// What its trimmed standard output must be for "yes"; absent = exit code 0 is enough.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<String>,
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
