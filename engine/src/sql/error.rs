//! What can be wrong with the text of a dump.

use crate::error::{ErrorKind, StepError};

/// A dump that cannot be read any further, with the place in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct ReadError {
    /// What is wrong.
    pub problem: Problem,
    /// Line of the input, counted from 1; of an unfinished string, comment or statement the line where it begins,
    /// of a COPY block where the input ends.
    pub line: u64,
    /// Byte of the input, counted from 0.
    pub offset: u64,
    /// The archive entry that the place belongs to, when the dump names it.
    pub entry: Option<String>,
}

/// The kinds of [`ReadError`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The input ends inside the construct named here.
    #[error("the input ends inside {0}")]
    Unfinished(&'static str),
    /// A statement (or a comment, or a line of psql) is longer than the limit, in bytes.
    #[error("a statement is longer than the limit of {0} bytes")]
    TooLong(usize),
    /// A psql command that no dump contains, or with arguments that none contains.
    #[error("unsupported psql command `{0}`")]
    Command(String),
    /// A backslash inside a statement, outside of strings.
    #[error("a psql command inside a statement")]
    CommandInside,
    /// `\restrict` and `\unrestrict` that do not belong together, or this command between them.
    #[error("`{0}` does not fit the dump's `\\restrict` line")]
    Restricted(String),
    /// Text on the line of `COPY … FROM stdin;` behind the semicolon.
    #[error("unexpected text behind `COPY … FROM stdin;`")]
    BehindCopy,
}

impl From<ReadError> for StepError {
    fn from(error: ReadError) -> Self {
        let (kind, help) = match &error.problem {
            Problem::Unfinished(_) => (ErrorKind::Verification, "the dump is cut off or damaged; make it again"),
            Problem::TooLong(_) => (ErrorKind::Refused, "dump that table with COPY, or raise the limit"),
            Problem::Command(_) | Problem::CommandInside | Problem::Restricted(_) | Problem::BehindCopy => {
                (ErrorKind::Refused, "only text as pg_dump and pg_dumpall write it can be restored")
            }
        };
        let mut step = Self::new(kind, format!("cannot read the dump: {error}"))
            .detail(format!("at byte {} of the dump", error.offset))
            .help(help);
        if let Some(entry) = error.entry {
            step = step.detail(format!("in the entry {entry}"));
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_dump_is_a_failed_verification() {
        let entry = Some("TABLE DATA public orders".to_owned());
        let error = ReadError { problem: Problem::Unfinished("a COPY block"), line: 7, offset: 99, entry };
        let step = StepError::from(error);
        assert_eq!(step.kind, ErrorKind::Verification);
        assert_eq!(step.message, "cannot read the dump: line 7: the input ends inside a COPY block");
        assert_eq!(step.details, ["at byte 99 of the dump", "in the entry TABLE DATA public orders"]);
    }
}
