//! Operations on dumps: make one, decide what of it is left out, put it into a server.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    artifact::{DumpArtifact, DumpFormat, DumpScope},
    sql::FilterRules,
};

/// A dump to make.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DumpOp {
    /// The database of the plan that is dumped.
    pub from: String,
    /// How much of its server.
    pub scope: DumpScope,
    /// How it is written.
    pub format: DumpFormat,
    /// How many processes write a directory.
    pub jobs: usize,
    /// How it is compressed.
    pub compress: Compress,
    /// The client's options, as the dry run shows them; where to connect is added by variables.
    pub args: Vec<String>,
    /// The program, when the plan names it; absent = the installed one that fits the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<PathBuf>,
    /// What the file is called, without its ending.
    pub name: String,
    /// Bytes of the relations to be dumped, for the progress.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<u64>,
    /// Sizes of the largest tables, `schema.name` → bytes.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub table_bytes: BTreeMap<String, u64>,
}

impl DumpOp {
    /// Returns the name of the program.
    #[must_use]
    pub fn program(&self) -> &'static str {
        match self.scope {
            DumpScope::Cluster => "pg_dumpall",
            DumpScope::Database => "pg_dump",
        }
    }

    /// Returns program and options as a person would type them.
    #[must_use]
    pub fn command_line(&self) -> String {
        let program = self.client.as_ref().map_or(self.program().to_owned(), |path| path.display().to_string());
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_=.,:/+@%".contains(c);
        let words = self.args.iter().map(|word| match word.chars().all(plain) {
            true => word.clone(),
            false => format!("'{}'", word.replace('\'', r"'\''")),
        });
        std::iter::once(program).chain(words).collect::<Vec<_>>().join(" ")
    }

    /// Returns whether pgplan itself compresses the text.
    #[must_use]
    pub fn zstd(&self) -> Option<i32> {
        match (self.format, self.compress) {
            (DumpFormat::Plain, Compress::Default) => Some(3),
            (DumpFormat::Plain, Compress::Zstd(level)) => Some(level),
            _ => None,
        }
    }

    /// Returns where the dump of `step` will lie, relative to the run's folder.
    #[must_use]
    pub fn file(&self, step: &str) -> PathBuf {
        let ending = match (self.format, self.zstd()) {
            (DumpFormat::Plain, Some(_)) => ".sql.zst",
            (DumpFormat::Plain, None) => ".sql",
            (DumpFormat::Custom, _) => ".dump",
            (DumpFormat::Directory, _) => ".dir",
        };
        PathBuf::from(step).join(format!("{}{ending}", self.name))
    }
}

/// How a dump is compressed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Compress {
    /// Plain text with zstd by pgplan, an archive as its client does by itself.
    #[default]
    Default,
    /// Not at all.
    None,
    /// With zstd at this level; an archive as far as its client can.
    Zstd(i32),
}

/// A dump to look through.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FilterOp {
    /// The dump.
    pub dump: DumpArtifact,
    /// What is left out.
    pub rules: FilterRules,
    /// The database of the plan that it is filtered for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// What a pattern that matches nothing is.
    pub unmatched_patterns: Unmatched,
    /// What a role that the dump never mentions is.
    pub unmatched_roles: Unmatched,
}

/// What a rule that matches nothing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unmatched {
    /// The step fails.
    Error,
    /// It is said.
    Warn,
    /// Nothing.
    Ignore,
}

/// A dump, or a part of an archive, to put into a server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RestoreOp {
    /// The dump.
    pub dump: DumpArtifact,
    /// The database of the plan that takes it; the script of a cluster goes on to others of the same server.
    pub into: String,
    /// Which part of it.
    pub part: Part,
    /// Errors that do not fail the step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expected: Vec<Expected>,
    /// What follows an error that is not expected.
    pub on_error: OnError,
    /// What happens to options and settings that the target does not know.
    pub compat: Compat,
    /// Longest time of one statement, in milliseconds; 0 = none.
    pub statement_timeout_ms: u64,
    /// Settings of the sessions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub settings: BTreeMap<String, String>,
}

/// A part of a dump, done by one action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// All of a script.
    Script,
    /// Of an archive: what stands before the data, without privileges.
    Schema,
    /// Of an archive: a share of the tables' data, `n` counted from 1.
    Data {
        /// Which share.
        n: usize,
        /// How many shares there are.
        of: usize,
    },
    /// Of an archive: sequences' values and large objects.
    OtherData,
    /// Of an archive: a share of the indexes with their constraints.
    Indexes {
        /// Which share.
        n: usize,
        /// How many shares there are.
        of: usize,
    },
    /// Of an archive: attached indexes, checks, statistics, foreign keys.
    Constraints,
    /// Of an archive: triggers, rules, policies, publications, privileges; materialized views and event triggers last.
    Rest,
}

/// An error that the plan expects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
pub enum Expected {
    /// The message exactly as the server words it, without `ERROR:  ` before it.
    Message(String),
    /// The error code, and the object that the statement is about.
    Code(ExpectedCode),
}

/// An error told by its code and object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpectedCode {
    /// The SQLSTATE, five characters (PostgreSQL manual, appendix A).
    pub sqlstate: String,
    /// The object as a report names it: `role aptible`, `table public.orders`.
    pub object: String,
}

/// What follows an unexpected error of a restore.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// The step fails at once; what is done stays done, and applying again goes on from there.
    #[default]
    Stop,
    /// The rest is restored, then the step fails with all errors.
    Collect,
}

/// What happens to options and settings that the target does not know.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Compat {
    /// They are left out, and each is reported.
    #[default]
    Strip,
    /// The target's error is an error.
    Keep,
}
