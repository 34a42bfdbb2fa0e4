//! Queries whose answer is small: all rows as text, over the simple protocol, which every pooler passes on.

use tokio_postgres::{SimpleQueryMessage, SimpleQueryRow};

use super::session::Session;
use crate::error::StepError;

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
