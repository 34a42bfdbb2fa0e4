//! From the server's five-character codes to our kinds of failure (PostgreSQL manual, appendix A).

use std::error::Error as _;
use std::fmt::Write as _;
use std::io;

use tokio_postgres::error::{DbError, ErrorPosition};

use crate::error::{ErrorKind, StepError};

/// Returns the kind of failure that an SQLSTATE stands for.
///
/// `57014` (canceled) is [`ErrorKind::Interrupted`] here; [`server_error`] tells a timeout apart by the message.
#[must_use]
pub fn kind_of(sqlstate: &str) -> ErrorKind {
    match sqlstate {
        "57P01" | "57P02" | "57P03" | "57P05" | "40003" => ErrorKind::Connection,
        "42501" => ErrorKind::Permission,
        "40001" | "40P01" | "55P03" | "55006" => ErrorKind::Conflict,
        "57014" => ErrorKind::Interrupted,
        "25P03" | "25P04" => ErrorKind::Timeout,
        // Names that are missing, and names that are taken.
        "3D000" | "3F000" | "42P01" | "42703" | "42704" | "42883" => ErrorKind::Object,
        "42P04" | "42P06" | "42P07" | "42710" | "42701" | "42723" => ErrorKind::Object,
        _ => match sqlstate.get(..2) {
            Some("08") => ErrorKind::Connection,
            Some("28") => ErrorKind::Authentication,
            Some("53") => ErrorKind::Resources,
            _ => ErrorKind::Sql,
        },
    }
}

/// Returns what to do about an SQLSTATE where that is more than the kind's advice.
fn help_for(sqlstate: &str) -> Option<&'static str> {
    Some(match sqlstate {
        "25006" => "the session or the database is read-only: lift the fence, or point the step at the primary",
        "53100" => "free space on the server's disk, then apply again",
        "53200" => "raise max_locks_per_transaction or the server's memory, or do the work in smaller parts",
        "53300" => "end idle sessions, raise max_connections, or wait until others are done",
        "55006" => "end the sessions that use the object, then apply again",
        "55P03" => "another session holds the lock: find it in pg_locks, or apply again later",
        "0A000" => "the server's version does not know this: check that the plan fits the target",
        "2BP01" => "other objects depend on it: name them in the step or drop them first",
        "22021" | "22P05" => "the text is not valid in the target's encoding: create the database with the source's",
        _ => return None,
    })
}

/// Returns a failure that tells everything the server said while `doing` (such as "create the role").
///
/// The message is the server's own first line, so that it can be compared with expected errors; SQLSTATE, detail,
/// hint, context, position and the objects it names are details. An error that is not the server's becomes
/// `cannot <doing>: ` and the chain of its causes.
#[must_use]
pub fn server_error(doing: &str, error: &tokio_postgres::Error) -> StepError {
    match error.as_db_error() {
        Some(db) => described(doing, db),
        None => StepError::new(kind_without_code(error), format!("cannot {doing}: {}", chain(error))),
    }
}

fn described(doing: &str, db: &DbError) -> StepError {
    let code = db.code().code();
    let timed_out = code == "57014" && db.message().contains("timeout");
    let kind = if timed_out { ErrorKind::Timeout } else { kind_of(code) };
    let (first, rest) = db.message().split_once('\n').unwrap_or((db.message(), ""));
    let mut new = StepError::new(kind, first);
    new.sqlstate = Some(code.to_owned());
    new.help = help_for(code).map(str::to_owned);
    new.details.extend(rest.lines().map(str::to_owned));
    new.details.push(format!("while trying to {doing}"));
    new.details.push(format!("{} {code}", db.severity()));
    for (name, text) in [("detail", db.detail()), ("hint", db.hint()), ("context", db.where_())] {
        if let Some(text) = text {
            new.details.push(format!("{name}: {text}"));
        }
    }
    match db.position() {
        Some(ErrorPosition::Original(at)) => new.details.push(format!("position: character {at} of the statement")),
        Some(ErrorPosition::Internal { position, query }) => {
            new.details.push(format!("position: character {position} of the inner query {query}"));
        }
        None => {}
    }
    let named = [
        ("schema", db.schema()),
        ("table", db.table()),
        ("column", db.column()),
        ("type", db.datatype()),
        ("constraint", db.constraint()),
    ];
    for (what, name) in named {
        if let Some(name) = name {
            new.details.push(format!("{what}: {name}"));
        }
    }
    new
}

fn kind_without_code(error: &tokio_postgres::Error) -> ErrorKind {
    if error.is_closed() || io_cause(error).is_some() {
        return ErrorKind::Connection;
    }
    // tokio-postgres keeps its kinds to itself; what is left is either the protocol or our own misuse of a row.
    let text = error.to_string();
    let ours = ["error serializing", "error deserializing", "invalid column", "query returned", "expected "];
    if ours.iter().any(|start| text.starts_with(start)) { ErrorKind::Internal } else { ErrorKind::Connection }
}

/// Returns the socket error below `error`, if that is what it is.
pub(super) fn io_cause(error: &tokio_postgres::Error) -> Option<&io::Error> {
    error.source().and_then(|source| source.downcast_ref::<io::Error>())
}

/// Returns the causes of `error` on one line, each once, outermost first.
pub(super) fn chain(error: &tokio_postgres::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        if !text.contains(&said) {
            // Writing to a string cannot fail.
            write!(text, ": {said}").ok();
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{ErrorKind, kind_of};

    #[test]
    fn codes_have_kinds() {
        let expected = [
            ("08006", ErrorKind::Connection),
            ("57P01", ErrorKind::Connection),
            ("57P03", ErrorKind::Connection),
            ("28P01", ErrorKind::Authentication),
            ("28000", ErrorKind::Authentication),
            ("3D000", ErrorKind::Object),
            ("42P04", ErrorKind::Object),
            ("42710", ErrorKind::Object),
            ("42501", ErrorKind::Permission),
            ("40P01", ErrorKind::Conflict),
            ("40001", ErrorKind::Conflict),
            ("55P03", ErrorKind::Conflict),
            ("53300", ErrorKind::Resources),
            ("57014", ErrorKind::Interrupted),
            ("25P03", ErrorKind::Timeout),
            ("42601", ErrorKind::Sql),
            ("23505", ErrorKind::Sql),
            ("", ErrorKind::Sql),
            ("ü", ErrorKind::Sql),
        ];
        for (code, kind) in expected {
            assert_eq!(kind_of(code), kind, "{code}");
        }
    }
}
