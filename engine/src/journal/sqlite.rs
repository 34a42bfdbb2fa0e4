//! The journal in a SQLite file: WAL, `synchronous=FULL`, readable by `status` while a run goes on.
//!
//! The sign of life of a lease's holder is a lock beside the file (`lock.rs`). It is taken and given back inside
//! the transaction that writes the lease's row, so that who finds it held in a transaction reads who holds it.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior, params};

use super::{FORMAT, JournalError, Row, RunLine, known_holder};
use crate::{
    event::{Event, EventKind, Holder},
    lock::{self, Lock},
};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS run (id TEXT PRIMARY KEY, plan TEXT NOT NULL, created_at TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS event (run TEXT NOT NULL REFERENCES run, seq INTEGER NOT NULL, at TEXT NOT NULL,
    body TEXT NOT NULL, PRIMARY KEY (run, seq)) STRICT, WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS lease (plan TEXT PRIMARY KEY, epoch INTEGER NOT NULL, holder TEXT) STRICT;
";

/// An open file.
#[derive(Debug)]
pub(super) struct File {
    path: PathBuf,
    connection: Connection,
    lease: Option<Lease>,
}

/// A lease that this journal has; nobody else takes it as long as its lock is held.
#[derive(Debug)]
struct Lease {
    plan: String,
    epoch: i64,
    lock: Lock,
}

impl File {
    /// Opens `folder/state.db`, making folder (0700) and file (0600) when they are missing.
    pub(super) fn open(folder: &Path) -> Result<Self, JournalError> {
        let path = folder.join("state.db");
        make_private_folder(folder)?;
        // One that is there is not touched: closing it would end the locks that SQLite has on it for a journal that this
        // process has open, and another process that looks would take the log of that journal away as nobody's.
        match fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            made => drop(made.map_err(|error| JournalError::Io { path: path.clone(), error })?),
        }
        Self::prepare(&path).map_err(|error| error.into_journal_error(path))
    }

    /// Opens an existing file; `None` when there is none.
    pub(super) fn open_existing(folder: &Path) -> Result<Option<Self>, JournalError> {
        if folder.join("state.db").exists() { Self::open(folder).map(Some) } else { Ok(None) }
    }

    fn prepare(path: &Path) -> Result<Self, Prepare> {
        let connection = Connection::open(path)?;
        connection.busy_timeout(Duration::from_secs(10))?;
        connection.pragma_update(None, "journal_mode", "WAL")?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        let found: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if found > FORMAT {
            return Err(Prepare::Format(found));
        }
        if found < FORMAT {
            connection.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {FORMAT}; COMMIT;"))?;
        }
        Ok(Self { path: path.to_owned(), connection, lease: None })
    }

    pub(super) fn acquire(&mut self, plan: &str, me: &Holder) -> Result<(), JournalError> {
        // One lease at a time; and its own lock would be in the way of a second one on the same plan.
        self.release()?;
        let path = self.path.clone();
        let store = |error| JournalError::Store { path: path.clone(), error };
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(store)?;
        // After the transaction, so that it is given back before that ends, should this fail.
        let lock = lock::take(folder(&path), &sign_of_life(plan))?;
        let row: Option<(i64, Option<String>)> = transaction
            .query_row("SELECT epoch, holder FROM lease WHERE plan = ?1", [plan], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()
            .map_err(store)?;
        let (epoch, holder) = row.unwrap_or((0, None));
        let Some(lock) = lock else {
            return Err(match known_holder(holder) {
                Some(holder) => JournalError::Held { plan: plan.to_owned(), holder: Box::new(holder) },
                None => JournalError::HeldByUnknown { plan: plan.to_owned(), path: folder(&path).join(lock::FILE) },
            });
        };
        let json = super::holder_text(me)?;
        transaction
            .execute(
                "INSERT INTO lease VALUES (?1, ?2, ?3)
                 ON CONFLICT (plan) DO UPDATE SET epoch = excluded.epoch, holder = excluded.holder",
                params![plan, epoch + 1, json],
            )
            .map_err(store)?;
        transaction.commit().map_err(store)?;
        self.lease = Some(Lease { plan: plan.to_owned(), epoch: epoch + 1, lock });
        Ok(())
    }

    pub(super) fn release(&mut self) -> Result<(), JournalError> {
        let Some(Lease { plan, epoch, lock }) = self.lease.take() else { return Ok(()) };
        let path = self.path.clone();
        let store = |error| JournalError::Store { path: path.clone(), error };
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(store)?;
        transaction
            .execute("UPDATE lease SET holder = NULL WHERE plan = ?1 AND epoch = ?2", params![plan, epoch])
            .map_err(store)?;
        drop(lock);
        transaction.commit().map_err(store)
    }

    pub(super) fn holder(&self, plan: &str) -> Result<Option<Holder>, JournalError> {
        if !lock::is_held(folder(&self.path), &sign_of_life(plan))? {
            return Ok(None);
        }
        let json: Option<Option<String>> = self
            .connection
            .query_row("SELECT holder FROM lease WHERE plan = ?1", [plan], |row| row.get(0))
            .optional()
            .map_err(|error| self.store_error(error))?;
        Ok(known_holder(json.flatten()))
    }

    pub(super) fn create_run(&mut self, id: &str, plan: &str) -> Result<(), JournalError> {
        self.write(|transaction| {
            transaction.execute("INSERT INTO run VALUES (?1, ?2, ?3)", params![id, plan, now().to_string()]).map(|_| ())
        })
    }

    pub(super) fn append(&mut self, run: &str, rows: &[Row]) -> Result<(), JournalError> {
        self.write(|transaction| {
            let mut insert = transaction.prepare_cached("INSERT INTO event VALUES (?1, ?2, ?3, ?4)")?;
            for Row { seq, at, body } in rows {
                insert.execute(params![run, seq, at, body])?;
            }
            Ok(())
        })
    }

    pub(super) fn events(&self, run: &str) -> Result<Option<Vec<(i64, String)>>, JournalError> {
        let store = |error| self.store_error(error);
        let known: Option<i64> = self
            .connection
            .query_row("SELECT 1 FROM run WHERE id = ?1", [run], |r| r.get(0))
            .optional()
            .map_err(store)?;
        if known.is_none() {
            return Ok(None);
        }
        let mut select =
            self.connection.prepare_cached("SELECT seq, body FROM event WHERE run = ?1 ORDER BY seq").map_err(store)?;
        let rows = select.query_map([run], |row| Ok((row.get(0)?, row.get(1)?))).map_err(store)?;
        rows.collect::<Result<Vec<_>, _>>().map(Some).map_err(store)
    }

    pub(super) fn runs(&self) -> Result<Vec<RunLine>, JournalError> {
        let store = |error| self.store_error(error);
        let mut select =
            self.connection.prepare_cached("SELECT id, plan FROM run ORDER BY created_at, id").map_err(store)?;
        let rows = select.query_map([], |row| Ok(RunLine { id: row.get(0)?, plan: row.get(1)? })).map_err(store)?;
        rows.collect::<Result<_, _>>().map_err(store)
    }

    fn write(
        &mut self,
        change: impl FnOnce(&Transaction<'_>) -> Result<(), rusqlite::Error>,
    ) -> Result<(), JournalError> {
        let path = self.path.clone();
        let store = |error| JournalError::Store { path: path.clone(), error };
        let Some(Lease { plan, epoch: mine, .. }) = &self.lease else { return Err(JournalError::LeaseLost) };
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(store)?;
        let epoch: i64 = transaction
            .query_row("SELECT epoch FROM lease WHERE plan = ?1", [plan], |row| row.get(0))
            .map_err(store)?;
        if epoch != *mine {
            return Err(JournalError::LeaseLost);
        }
        change(&transaction).map_err(store)?;
        transaction.commit().map_err(store)
    }

    fn store_error(&self, error: rusqlite::Error) -> JournalError {
        JournalError::Store { path: self.path.clone(), error }
    }
}

enum Prepare {
    Sqlite(rusqlite::Error),
    Format(i64),
}

impl From<rusqlite::Error> for Prepare {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl Prepare {
    fn into_journal_error(self, path: PathBuf) -> JournalError {
        match self {
            Self::Sqlite(error) => JournalError::Store { path, error },
            Self::Format(found) => JournalError::Format { found, known: FORMAT },
        }
    }
}

/// Makes a folder that only its owner can enter, with its parents.
///
/// # Errors
/// When it cannot be made.
pub fn make_private_folder(folder: &Path) -> Result<(), JournalError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|error| JournalError::Io { path: folder.to_owned(), error })
}

/// Returns the current time; the one clock of the journal.
#[must_use]
pub fn now() -> Timestamp {
    Timestamp::now()
}

/// Returns an event that follows `last`.
#[must_use]
pub fn next_event(last: u64, kind: EventKind) -> Event {
    let seq = if kind.is_durable() { last + 1 } else { last };
    Event { seq, at: now(), kind }
}

/// Returns what the lock of a plan's lease is called.
fn sign_of_life(plan: &str) -> String {
    format!("lease of {plan}")
}

/// Returns the folder that a journal's file is in.
fn folder(file: &Path) -> &Path {
    file.parent().unwrap_or(Path::new("."))
}

impl From<lock::Failed> for JournalError {
    fn from(lock::Failed { path, error }: lock::Failed) -> Self {
        Self::Lock { path, error }
    }
}

/// Returns the kernel's start time of a process (`/proc/PID/stat`, field 22); `None` when there is no such process.
#[must_use]
pub fn process_start(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after_name = &stat[stat.rfind(')')? + 1..];
    let mut fields = after_name.split_whitespace();
    let state = fields.next()?;
    if state == "Z" || state == "X" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}
