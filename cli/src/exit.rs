//! Exit codes, as documented for scripts.

use std::process::ExitCode;

use pgplan_engine::{error::ErrorKind, event::Outcome, journal::JournalError};

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// Done.
    Done = 0,
    /// A step failed.
    Failed = 1,
    /// The plan or the command line is wrong.
    BadInput = 2,
    /// Refused: a lock, a guard, a stale saved plan, another plan's journal.
    Refused = 3,
    /// Interrupted; apply again to go on.
    Interrupted = 4,
    /// A person has to decide.
    NeedsPerson = 5,
    /// Preflight or verification found a blocker.
    Blocker = 6,
    /// A bug in pgplan.
    Bug = 70,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// Returns the code for a session that ended so; `worst` is the kind of the first error.
    pub(crate) fn of_outcome(outcome: Outcome, worst: Option<ErrorKind>) -> Self {
        match outcome {
            Outcome::Succeeded | Outcome::Paused | Outcome::Undone | Outcome::Abandoned => Self::Done,
            Outcome::NeedsPerson => Self::NeedsPerson,
            Outcome::Failed => worst.map_or(Self::Failed, Self::of_error),
        }
    }

    /// Returns the code for an error that ended a command.
    pub(crate) fn of_error(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::Verification => Self::Blocker,
            ErrorKind::NeedsPerson => Self::NeedsPerson,
            ErrorKind::Interrupted => Self::Interrupted,
            ErrorKind::Plan => Self::BadInput,
            ErrorKind::Refused => Self::Refused,
            ErrorKind::Internal => Self::Bug,
            ErrorKind::Connection
            | ErrorKind::Authentication
            | ErrorKind::Object
            | ErrorKind::Permission
            | ErrorKind::Conflict
            | ErrorKind::Resources
            | ErrorKind::Sql
            | ErrorKind::UnexpectedError
            | ErrorKind::Tool
            | ErrorKind::ToolMissing
            | ErrorKind::Timeout
            | ErrorKind::Lost
            | ErrorKind::Io => Self::Failed,
        }
    }

    /// Returns the code for a journal that cannot be used.
    pub(crate) fn of_journal(error: &JournalError) -> Self {
        match error {
            JournalError::Held { .. }
            | JournalError::HeldByUnknown { .. }
            | JournalError::Lock { .. }
            | JournalError::LeaseLost
            | JournalError::Format { .. } => Self::Refused,
            JournalError::NoSuchRun(_) => Self::BadInput,
            JournalError::Server { error, .. } => Self::of_error(error.kind),
            JournalError::Store { .. } | JournalError::Io { .. } | JournalError::Damaged { .. } => Self::Failed,
        }
    }
}
