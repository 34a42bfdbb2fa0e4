//! Queries whose answer is small: all rows as text, over the simple protocol, which every pooler passes on.

use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use super::{quote::on_one_line, session::Session};
use crate::error::{ErrorKind, StepError};

/// Runs statements and returns the rows of all of them; `doing` is a phrase such as "list the roles".
///
/// # Errors
/// What the server said.
pub async fn rows(session: &Session, doing: &str, sql: &str) -> Result<Vec<SimpleQueryRow>, StepError> {
    let messages = session.client().simple_query(sql).await.map_err(|error| session.error(doing, &error))?;
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.collect())
}

/// Runs statements and returns the first column of the first row; `None` when there is no row, or NULL.
///
/// # Errors
/// What the server said.
pub async fn first(session: &Session, doing: &str, sql: &str) -> Result<Option<String>, StepError> {
    let found = rows(session, doing, sql).await?;
    Ok(found.first().and_then(|row| row.get(0)).map(str::to_owned))
}

/// Runs a query whose answer is a count, and returns it.
///
/// # Errors
/// What the server said; [`ErrorKind::Internal`] when the answer is no count.
pub async fn count(session: &Session, doing: &str, sql: &str) -> Result<u64, StepError> {
    let found = rows(session, doing, sql).await?;
    found.first().map_or_else(|| Err(no_count(session, doing, None)), |row| count_in(session, doing, row, 0))
}

/// Returns a column's count, which must be there.
///
/// # Errors
/// [`ErrorKind::Internal`] when there is none.
pub fn count_in(session: &Session, doing: &str, row: &SimpleQueryRow, column: usize) -> Result<u64, StepError> {
    number(row, column).ok_or_else(|| no_count(session, doing, row.get(column)))
}

fn no_count(session: &Session, doing: &str, found: Option<&str>) -> StepError {
    let found = found.map_or_else(|| "nothing".to_owned(), on_one_line);
    let message = format!("{}: cannot {doing}: the answer is {found}, which is no count", session.label());
    StepError::new(ErrorKind::Internal, message)
}

/// Returns a column's text, empty for NULL.
#[must_use]
pub fn text(row: &SimpleQueryRow, column: usize) -> &str {
    row.get(column).unwrap_or_default()
}

/// Returns a column's boolean; NULL is no.
#[must_use]
pub fn flag(row: &SimpleQueryRow, column: usize) -> bool {
    row.get(column) == Some("t")
}

/// Returns a column's number; `None` for NULL, for what is no number and for one below zero.
#[must_use]
pub fn number(row: &SimpleQueryRow, column: usize) -> Option<u64> {
    row.get(column)?.parse().ok()
}
