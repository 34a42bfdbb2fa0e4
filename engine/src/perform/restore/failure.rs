//! A server's error about one statement of the dump: where it stands, what it is about, what to do.

use tokio_postgres::error::DbError;

use super::PerformCx;
use crate::{
    error::{ErrorKind, StepError},
    explain,
    postgres::{Session, sqlstate::kind_of},
    sql::Statement,
};

/// How much of a statement is shown, characters.
const SHOWN: usize = 200;

/// A statement of the dump on its way to the server.
#[derive(Debug, Clone)]
pub(super) struct Item {
    /// Its text, after the filter.
    pub(super) text: String,
    /// Where it begins in the dump, bytes.
    pub(super) offset: u64,
    /// All that begins before this offset is over when it is done.
    pub(super) end: u64,
    /// Its line in the dump, from 1.
    pub(super) line: u64,
    /// The archive entry it belongs to.
    pub(super) entry: Option<String>,
    /// Whether it only brings the session into the state that it had: nothing is counted.
    pub(super) again: bool,
}

impl Item {
    /// Returns the item as a statement that can be judged and described.
    pub(super) fn statement(&self) -> Statement<'_> {
        let mut statement = Statement::new(self.text.as_bytes());
        (statement.offset, statement.line) = (self.offset, self.line);
        statement
    }

    pub(super) fn object(&self) -> Option<String> {
        self.statement().object()
    }
}

/// Returns the kind of an error that says nothing about the statement: it fails the step as what it is.
pub(super) fn of_surroundings(error: &DbError, cancelled: bool) -> Option<ErrorKind> {
    let kind = kind_of(error.code().code());
    match kind {
        ErrorKind::Interrupted if !cancelled && error.message().contains("timeout") => Some(ErrorKind::Timeout),
        ErrorKind::Connection | ErrorKind::Resources | ErrorKind::Interrupted | ErrorKind::Conflict => Some(kind),
        _ => None,
    }
}

/// Returns the failure for people: the server's words, then line, object, entry and statement.
pub(super) fn describe(
    session: &Session,
    database: &str,
    item: &Item,
    error: &tokio_postgres::Error,
    cx: &PerformCx,
    dump: &str,
) -> StepError {
    let mut new = session.error("restore the statement", error);
    let object = item.object();
    let place = match &object {
        Some(object) => format!("line {} of the dump, {object}", item.line),
        None => format!("line {} of the dump", item.line),
    };
    let server = std::mem::take(&mut new.details);
    if let Some(db) = error.as_db_error() {
        new.message = format!("{} ({place})", new.message);
        new.details.push(format!("SQLSTATE {}", db.code().code()));
        if let Some(line) = copy_line(db, item) {
            new.details.push(format!("row at line {line} of the dump"));
        }
    }
    new.details.push(format!("at {place}: {dump}, byte {}", item.offset));
    if let Some(entry) = &item.entry {
        new.details.push(format!("archive entry: {entry}"));
    }
    if let Some(db) = error.as_db_error()
        && let Some(known) = explain::decode(db.code().code(), db.message(), db.where_().unwrap_or_default())
    {
        new.details.push(format!("cause: {} (`pgplan explain {}`)", cx.redactor.redact(&known.cause), known.code));
        new.help = Some(cx.redactor.redact(&known.fix).into_owned());
    }
    new.details.push(format!("database: {database}"));
    new.details.push(format!("statement: {}", item.statement().redacted(SHOWN)));
    new.details.extend(server.into_iter().map(|line| shorten(&cx.redactor.redact(&line))));
    new.message = cx.redactor.redact(&new.message).into_owned();
    new
}

/// Makes a description into that of an error which the plan does not expect.
pub(super) fn unexpected(mut new: StepError, message: &str) -> StepError {
    new.kind = ErrorKind::UnexpectedError;
    // What is known about it was put in as its help.
    let cause = new.help.take().unwrap_or_else(|| "mend the cause in the source or the target".to_owned());
    let shown = message.lines().next().unwrap_or_default();
    new.help = Some(format!(
        "{cause}, or add `{shown}` to `expected_errors`; then apply again: the restore goes on at this statement"
    ));
    new
}

/// Returns the line of the dump where the row stands that a COPY failed on (`COPY orders, line 3, column a: …`).
fn copy_line(db: &DbError, item: &Item) -> Option<u64> {
    let context = db.where_()?.strip_prefix("COPY ")?;
    let (_, rest) = context.split_once(", line ")?;
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next()?;
    let row: u64 = digits.parse().ok()?;
    let lines = item.text.bytes().filter(|byte| *byte == b'\n').count() as u64;
    Some(item.line + lines + row)
}

fn shorten(line: &str) -> String {
    match line.char_indices().nth(500) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}
