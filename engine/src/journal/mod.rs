//! The durable log of runs and the lease that lets one process write it.
//!
//! A store keeps three tables: runs, events, leases. Every append checks the lease's epoch, so that a process whose
//! lease was taken over can never write again. There are two stores: a file ([`sqlite`]) for one machine, and a
//! PostgreSQL database (`postgres.rs`) for several. Callers see a [`Journal`] and cannot tell them apart; its calls are
//! synchronous, because nothing may happen before they return.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use tokio_util::sync::CancellationToken;

use crate::{
    error::StepError,
    event::{Event, Holder},
    postgres::ConnInfo,
};

pub mod apart;
mod postgres;
pub mod sqlite;

/// The newest format of the tables that is known here.
const FORMAT: i64 = 1;

/// Where a journal is.
#[derive(Debug, Clone)]
pub enum Location {
    /// In `state.db` of a folder.
    Folder(PathBuf),
    /// In the schema `pgplan_state` of a database.
    Server(Box<ConnInfo>),
}

impl fmt::Display for Location {
    /// Writes the folder, or the address without a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Server(info) => f.write_str(&info.label()),
        }
    }
}

/// An open journal; one per process.
#[derive(Debug)]
pub struct Journal(Store);

#[derive(Debug)]
enum Store {
    File(sqlite::File),
    Server(postgres::Server),
}

impl Journal {
    /// Opens a journal and makes what is missing of it: folder (0700) and file (0600), or the schema in the database.
    ///
    /// # Errors
    /// When it cannot be made or reached, is no journal, or is of a newer format.
    pub fn open(location: &Location) -> Result<Self, JournalError> {
        match location {
            Location::Folder(folder) => Self::open_folder(folder),
            Location::Server(info) => Ok(Self(Store::Server(postgres::Server::open(info)?))),
        }
    }

    /// Opens the journal in a folder, as [`Journal::open`] does.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_folder(folder: &Path) -> Result<Self, JournalError> {
        Ok(Self(Store::File(sqlite::File::open(folder)?)))
    }

    /// Opens an existing journal; `None` when there is none.
    ///
    /// # Errors
    /// As [`Journal::open`].
    pub fn open_existing(location: &Location) -> Result<Option<Self>, JournalError> {
        Ok(match location {
            Location::Folder(folder) => sqlite::File::open_existing(folder)?.map(|file| Self(Store::File(file))),
            Location::Server(info) => postgres::Server::open_existing(info)?.map(|server| Self(Store::Server(server))),
        })
    }

    /// Takes the lease of a plan for this process, from nobody or from a process that is dead.
    ///
    /// # Errors
    /// [`JournalError::Held`] when a living process has it.
    pub fn acquire(&mut self, plan: &str, me: &Holder) -> Result<(), JournalError> {
        match &mut self.0 {
            Store::File(file) => file.acquire(plan, me),
            Store::Server(server) => server.acquire(plan, me),
        }
    }

    /// Gives the lease back.
    ///
    /// # Errors
    /// When the store cannot be written.
    pub fn release(&mut self) -> Result<(), JournalError> {
        match &mut self.0 {
            Store::File(file) => file.release(),
            Store::Server(server) => server.release(),
        }
    }

    /// Returns what is cancelled when the store notices by itself that another process has taken the lease over; it may
    /// notice only when it is written to.
    #[must_use]
    pub fn lost(&self) -> CancellationToken {
        match &self.0 {
            // Nobody takes a lease whose lock is held, and nothing but the end of its process ends the lock.
            Store::File(_) => CancellationToken::new(),
            Store::Server(server) => server.lost(),
        }
    }

    /// Returns who holds the lease of a plan and lives; `host` is the name of this machine, which a shared journal asks for
    /// a holder whose connection is broken for the moment.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn holder(&self, plan: &str, host: &str) -> Result<Option<Holder>, JournalError> {
        match &self.0 {
            Store::File(file) => file.holder(plan),
            Store::Server(server) => server.holder(plan, host),
        }
    }

    /// Registers a new run; needs the plan's lease.
    ///
    /// # Errors
    /// When the lease is lost or the store cannot be written.
    pub fn create_run(&mut self, id: &str, plan: &str) -> Result<(), JournalError> {
        match &mut self.0 {
            Store::File(file) => file.create_run(id, plan),
            Store::Server(server) => server.create_run(id, plan),
        }
    }

    /// Appends events in one transaction, flushed to disk when this returns.
    ///
    /// # Errors
    /// [`JournalError::LeaseLost`] when another process has taken over; a store error otherwise.
    pub fn append(&mut self, run: &str, events: &[Event]) -> Result<(), JournalError> {
        let mut rows = Vec::with_capacity(events.len());
        for event in events {
            let body = serde_json::to_string(event).map_err(|error| damaged(run, event.seq, &error))?;
            let seq = i64::try_from(event.seq).map_err(|error| damaged(run, event.seq, &error))?;
            rows.push(Row { seq, at: event.at.to_string(), body });
        }
        match &mut self.0 {
            Store::File(file) => file.append(run, &rows),
            Store::Server(server) => server.append(run, rows),
        }
    }

    /// Returns the events of a run in order.
    ///
    /// # Errors
    /// When the run does not exist or an event cannot be read.
    pub fn events(&self, run: &str) -> Result<Vec<Event>, JournalError> {
        let rows = match &self.0 {
            Store::File(file) => file.events(run)?,
            Store::Server(server) => server.events(run)?,
        };
        let rows = rows.ok_or_else(|| JournalError::NoSuchRun(run.to_owned()))?;
        let read = |(seq, body): (i64, String)| {
            serde_json::from_str(&body).map_err(|error| damaged(run, seq.unsigned_abs(), &error))
        };
        rows.into_iter().map(read).collect()
    }

    /// Returns all runs, oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn runs(&self) -> Result<Vec<RunLine>, JournalError> {
        match &self.0 {
            Store::File(file) => file.runs(),
            Store::Server(server) => server.runs(),
        }
    }
}

/// An event as it is stored.
#[derive(Debug, Clone)]
struct Row {
    seq: i64,
    at: String,
    body: String,
}

/// What can go wrong with a journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be opened, read or written.
    #[error("the journal {path} cannot be used: {error}", path = path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        error: rusqlite::Error,
    },
    /// The database cannot be reached, read or written.
    #[error("the journal in {server} cannot be used: {error}")]
    Server {
        /// The database's name, without a password.
        server: String,
        /// What the server or the connection says.
        error: Box<StepError>,
    },
    /// The folder or file cannot be made.
    #[error("cannot make {path}: {error}", path = path.display())]
    Io {
        /// The path.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// Written by a newer pgplan.
    #[error("the journal has format {found}, this pgplan knows formats up to {known}")]
    Format {
        /// The journal's format.
        found: i64,
        /// The newest format known here.
        known: i64,
    },
    /// Another process runs this plan.
    #[error("plan `{plan}` is being run by process {pid} on {host} (user {user}) since {since}",
        pid = holder.pid, host = holder.host, user = holder.user, since = holder.since)]
    Held {
        /// The plan.
        plan: String,
        /// Who.
        holder: Box<Holder>,
    },
    /// A process that the lease's row does not name has its lock.
    #[error("a process that says nothing of itself holds the lease of plan `{plan}`, a lock on {path}", path = path.display())]
    HeldByUnknown {
        /// The plan.
        plan: String,
        /// The file of locks.
        path: PathBuf,
    },
    /// The file of locks cannot be opened, or its file system knows no locks.
    #[error("{path} cannot be locked, and nothing else tells a living run from a dead one: {error}", path = path.display())]
    Lock {
        /// The file.
        path: PathBuf,
        /// The system's error.
        error: std::io::Error,
    },
    /// The lease was taken over while this process was away.
    #[error("another process has taken over the run; this one must not write any more")]
    LeaseLost,
    /// A stored event cannot be read, or is not the one that was written.
    #[error("event {seq} of run {run} cannot be read: {error}")]
    Damaged {
        /// The run.
        run: String,
        /// The event's number.
        seq: u64,
        /// Why.
        error: String,
    },
    /// No such run.
    #[error("there is no run `{0}` in this journal")]
    NoSuchRun(String),
}

/// A line of the list of runs.
#[derive(Debug, Clone, serde::Serialize)]
pub struct RunLine {
    /// The run's id.
    pub id: String,
    /// The plan's name.
    pub plan: String,
}

fn damaged(run: &str, seq: u64, error: &impl ToString) -> JournalError {
    JournalError::Damaged { run: run.to_owned(), seq, error: error.to_string() }
}

/// Returns a holder as a lease stores it.
fn holder_text(holder: &Holder) -> Result<String, JournalError> {
    serde_json::to_string(holder).map_err(|error| damaged("", 0, &error))
}

/// Returns the holder that a lease names; one that cannot be read is nobody, as it can write no more than a dead one.
fn known_holder(text: Option<String>) -> Option<Holder> {
    let read = serde_json::from_str(&text?);
    read.inspect_err(|error| tracing::warn!(%error, "the holder of a lease cannot be read")).ok()
}

/// Returns whether the process of a holder on this host lives.
fn runs_here(holder: &Holder) -> bool {
    sqlite::process_start(holder.pid) == Some(holder.started)
}
