//! How far a restore is, in each database it writes to, committed together with what it attests.
//!
//! A row of `pgplan.receipt` for each action and database: the offset in the dump up to which all statements are over,
//! what was counted, which statements failed (`on_error: collect`), and at the end that all is done.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use tokio_postgres::SimpleQueryMessage;

use crate::{
    error::{ErrorKind, StepError},
    postgres::{Session, connect::execute, quote::literal},
    receipt,
};

/// What was done in one database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Statements that succeeded, COPY among them.
    pub(super) statements: u64,
    /// Rows of COPY.
    pub(super) rows: u64,
    /// Bytes of COPY data.
    pub(super) bytes: u64,
    /// Expected errors that came, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) expected: BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn add(&mut self, other: &Self) {
        self.statements += other.statements;
        self.rows += other.rows;
        self.bytes += other.bytes;
        for (name, count) in &other.expected {
            *self.expected.entry(name.clone()).or_default() += count;
        }
    }
}

/// Names that the target was found not to know.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Unknown {
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) options: BTreeSet<String>,
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) settings: BTreeSet<String>,
}

/// The state of one database.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    /// Statements that begin before this offset are over.
    pub(super) done: u64,
    /// A statement outside of transactions that was begun: whether it was done is seen by doing it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) begun: Option<u64>,
    /// Offsets of statements that failed unexpectedly and were passed over: they are tried again.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) failed: BTreeSet<u64>,
    /// What was done.
    #[serde(default)]
    pub(super) tally: Tally,
    /// What the target does not know.
    #[serde(default)]
    pub(super) unknown: Unknown,
    /// All databases of the dump, once all of it is done; in the first database only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) complete: Option<BTreeMap<String, Tally>>,
}

/// Whose receipts they are.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) run: String,
    pub(super) step: String,
    /// `step/action`.
    pub(super) action: String,
    /// Digest of the dump and the part of it.
    pub(super) fingerprint: String,
}

#[derive(Deserialize)]
struct Stored {
    restore: Mark,
}

impl Key {
    /// Reads the state of the session's database; `None` when nothing was done there.
    pub(super) async fn read(&self, session: &Session) -> Result<Option<Mark>, StepError> {
        let (run, action) = (literal(&self.run), literal(&self.action));
        let select = format!("SELECT fingerprint, outputs FROM pgplan.receipt WHERE run = {run} AND action = {action}");
        let Some(row) = read(session, &select).await?.into_iter().next() else { return Ok(None) };
        if row.first().is_none_or(|fingerprint| *fingerprint != self.fingerprint) {
            let message = format!("{} holds a part of another dump, restored by this run before", session.label());
            return Err(StepError::new(ErrorKind::Refused, message)
                .help("restore into a fresh database: drop it and create it again, then apply again"));
        }
        parse(session, row.get(1).map_or("", String::as_str)).map(Some)
    }

    /// Returns the statement that writes the state, without its semicolon.
    pub(super) fn write(&self, mark: &Mark) -> Result<String, StepError> {
        let stored = serde_json::to_string(&serde_json::json!({ "restore": mark }))
            .map_err(|error| StepError::new(ErrorKind::Internal, format!("the receipt cannot be written: {error}")))?;
        let values = [&self.run, &self.action, &self.fingerprint, &stored].map(|text| literal(text)).join(", ");
        Ok(format!(
            "INSERT INTO pgplan.receipt (run, action, fingerprint, outputs) VALUES ({values}) ON CONFLICT (run, action) \
             DO UPDATE SET outputs = EXCLUDED.outputs, at = pg_catalog.now()"
        ))
    }

    /// Returns the states of the other actions of this step, by action.
    pub(super) async fn of_step(&self, session: &Session) -> Result<Vec<Mark>, StepError> {
        let select = format!(
            "SELECT action, outputs FROM pgplan.receipt WHERE run = {} AND pg_catalog.starts_with(action, {}) \
             AND action <> {}",
            literal(&self.run),
            literal(&format!("{}/", self.step)),
            literal(&self.action)
        );
        let rows = read(session, &select).await?;
        rows.iter().map(|row| parse(session, row.get(1).map_or("", String::as_str))).collect()
    }

    /// Makes schema and table where they are missing.
    pub(super) async fn ensure(&self, session: &Session) -> Result<(), StepError> {
        receipt::ensure(session).await.map_err(|error| match error.kind {
            ErrorKind::Permission => error.help("GRANT CREATE ON DATABASE to the restoring role, then apply again"),
            _ => error,
        })
    }

    /// Removes the receipt, and schema and table when no other is left in them.
    pub(super) async fn remove(&self, session: &Session) -> Result<(), StepError> {
        if !exists(session).await? {
            return Ok(());
        }
        let (run, action) = (literal(&self.run), literal(&self.action));
        let sql = format!("DELETE FROM pgplan.receipt WHERE run = {run} AND action = {action}");
        execute(session, "remove the receipt", &sql).await?;
        receipt::drop_if_empty(session).await
    }
}

async fn exists(session: &Session) -> Result<bool, StepError> {
    let rows = rows(session, "SELECT pg_catalog.to_regclass('pgplan.receipt') IS NOT NULL").await?;
    Ok(rows.first().and_then(|row| row.first()).is_some_and(|there| there == "t"))
}

async fn read(session: &Session, select: &str) -> Result<Vec<Vec<String>>, StepError> {
    if exists(session).await? { rows(session, select).await } else { Ok(Vec::new()) }
}

async fn rows(session: &Session, select: &str) -> Result<Vec<Vec<String>>, StepError> {
    let messages = session.client().simple_query(select).await;
    let messages = messages.map_err(|error| session.error("read the receipts", &error))?;
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|at| row.get(at).unwrap_or_default().to_owned()).collect())
        }
        _ => None,
    });
    Ok(rows.collect())
}

fn parse(session: &Session, text: &str) -> Result<Mark, StepError> {
    let stored: Result<Stored, _> = serde_json::from_str(text);
    stored.map(|stored| stored.restore).map_err(|error| {
        StepError::new(ErrorKind::Internal, format!("the receipt in {} cannot be read: {error}", session.label()))
    })
}
