//! What can go wrong while a step is surveyed or performed.
//!
//! Every failure is a [`StepError`]: a kind with a fixed policy, a one-line message, and the details a person needs
//! to mend the cause. Kinds and their policies stand in one table, [`ErrorKind::policy`].

use std::{borrow::Cow, fmt};

use serde::{Deserialize, Serialize};

/// The class of a failure; decides whether a retry can help and what to tell the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    /// The server could not be reached or the connection was lost (SQLSTATE class 08, 57P01–57P03, socket errors).
    Connection,
    /// The server refused the user or password, or no TLS agreement was possible (SQLSTATE class 28).
    Authentication,
    /// The named object does not exist or exists already (SQLSTATE 3D000, 42P04, 42710 and their kin).
    Object,
    /// The role lacks a right (SQLSTATE 42501).
    Permission,
    /// Two transactions got in each other's way (SQLSTATE 40001, 40P01, 55P03).
    Conflict,
    /// Disk, memory, locks or connections ran out (SQLSTATE class 53, ENOSPC).
    Resources,
    /// Any other error that the server reported for a statement.
    Sql,
    /// A restore met an error that the plan does not expect.
    UnexpectedError,
    /// A program ended with a failure or could not be read.
    Tool,
    /// A program that the step needs is not installed.
    ToolMissing,
    /// The step took longer than its `timeout`.
    Timeout,
    /// How much of it was done is not known, or a part of it was: the answer got lost, the program was killed, an error came
    /// after statements that are committed.
    Lost,
    /// The run was told to stop.
    Interrupted,
    /// Data, counts or an `ensures` condition are not as they must be.
    Verification,
    /// The engine declined to act: a guard, a missing consent, a protected object.
    Refused,
    /// A person has to decide: consent, or an effect that cannot be seen.
    NeedsPerson,
    /// A file could not be read or written.
    Io,
    /// The step's own text is wrong in a way only visible now (an expression, a value of the wrong type).
    Plan,
    /// A bug in pgplan.
    Internal,
}

/// What follows from an [`ErrorKind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Whether trying again without a change may succeed; `retry` without `errors` covers just these.
    pub transient: bool,
    /// The sentence shown to the operator when nothing more precise is known.
    pub advice: &'static str,
}

impl ErrorKind {
    /// Returns the name used in plans (`retry.errors`), events and reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connection => "connection",
            Self::Authentication => "authentication",
            Self::Object => "object",
            Self::Permission => "permission",
            Self::Conflict => "conflict",
            Self::Resources => "resources",
            Self::Sql => "sql",
            Self::UnexpectedError => "unexpected_error",
            Self::Tool => "tool",
            Self::ToolMissing => "tool_missing",
            Self::Timeout => "timeout",
            Self::Lost => "lost",
            Self::Interrupted => "interrupted",
            Self::Verification => "verification",
            Self::Refused => "refused",
            Self::NeedsPerson => "needs_person",
            Self::Io => "io",
            Self::Plan => "plan",
            Self::Internal => "internal",
        }
    }

    /// Returns the retry rule and the operator's sentence for this kind.
    #[must_use]
    pub fn policy(self) -> Policy {
        let (transient, advice) = match self {
            Self::Connection => (true, "check that the server runs and can be reached, then apply again"),
            Self::Authentication => (false, "check the user, the password and the server's pg_hba.conf"),
            Self::Object => (false, "check the names in the plan against the server"),
            Self::Permission => (false, "grant the right, or connect as a role that has it"),
            Self::Conflict => (true, "another session was in the way; applying again usually succeeds"),
            Self::Resources => (false, "free the resource the server or the disk ran out of, then apply again"),
            Self::Sql => (false, "mend the statement or the data it touches, then apply again"),
            Self::UnexpectedError => {
                (false, "mend the cause in the source or add the error to `expected_errors`, then apply again")
            }
            Self::Tool => (false, "read the program's own message above, mend its cause, then apply again"),
            Self::ToolMissing => (false, "install the program, or name its folder in PGPLAN_PG_BIN or PATH"),
            Self::Timeout => (true, "raise the step's `timeout` or find out what it waited for"),
            Self::Lost => (true, "look what was done, then `pgplan resolve` it"),
            Self::Interrupted => (false, "apply again to go on"),
            Self::Verification => (false, "the two sides differ; do not go on before the difference is understood"),
            Self::Refused => (false, "read why above; nothing was changed"),
            Self::NeedsPerson => (false, "decide, then apply again"),
            Self::Io => (false, "check the path, its rights and the free space, then apply again"),
            Self::Plan => (false, "correct the plan, then apply again"),
            Self::Internal => (false, "this is a bug in pgplan; please report it with the journal"),
        };
        Policy { transient, advice }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A failure of a step, ready to be shown, journalled and judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, thiserror::Error)]
#[error("{message}")]
pub struct StepError {
    /// The class of the failure.
    pub kind: ErrorKind,
    /// One line, lower case, without a final period.
    pub message: String,
    /// Further facts, one a line: the server's detail, the statement, the place in the dump.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
    /// What to do; absent = the kind's advice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
    /// The server's SQLSTATE (PostgreSQL manual, appendix A), five characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqlstate: Option<String>,
}

impl StepError {
    /// Returns an error of `kind` with this one-line message.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), details: Vec::new(), help: None, sqlstate: None }
    }

    /// Returns the error with one more line of detail.
    #[must_use]
    pub fn detail(mut self, line: impl Into<String>) -> Self {
        self.details.push(line.into());
        self
    }

    /// Returns the error with this advice instead of its kind's.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Returns what to do: the error's own help, else its kind's advice.
    #[must_use]
    pub fn advice(&self) -> &str {
        self.help.as_deref().unwrap_or(self.kind.policy().advice)
    }

    /// Returns what to do in a run that may be on its way back, where `apply` is refused.
    #[must_use]
    pub fn advice_in(&self, going_back: bool) -> Cow<'_, str> {
        match going_back {
            true => {
                self.advice().replace("apply again", "undo again").replace("applying again", "undoing again").into()
            }
            false => self.advice().into(),
        }
    }

    /// Returns an error about a file or folder; `doing` is a phrase such as "write the dump".
    ///
    /// "No space left on device" and an exceeded quota become [`ErrorKind::Resources`].
    #[must_use]
    pub fn io(doing: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        let full = matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded);
        let kind = if full { ErrorKind::Resources } else { ErrorKind::Io };
        let new = Self::new(kind, format!("cannot {doing} {}: {error}", path.display()));
        if full { new.help("free space on that file system, then apply again") } else { new }
    }
}
