//! The durable log of runs and the lease that lets one process write it.
//!
//! A store keeps three tables: runs, events, leases. Every append checks the lease's epoch, so that a process whose
//! lease was taken over can never write again. Layout and statements: [`sqlite`].

use std::path::PathBuf;

use crate::event::Holder;

pub mod sqlite;

pub use sqlite::Journal;

/// What can go wrong with a journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The store cannot be opened, read or written.
    #[error("the journal {path} cannot be used: {error}", path = path.display())]
    Store {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        error: rusqlite::Error,
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
        /// The file's format.
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
    /// The lease was taken over while this process was away.
    #[error("another process has taken over the run; this one must not write any more")]
    LeaseLost,
    /// A stored event cannot be read.
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
