//! What of a real server a copy takes over so that times mean something, and where it cannot.

use std::collections::BTreeMap;

use crate::{
    error::StepError,
    postgres::{
        ConnInfo,
        rows::{rows, text},
    },
    survey::connect_anywhere,
};

/// Settings that decide how fast a server is, how much it takes at once, and what can be created on it.
const TAKEN_OVER: &[&str] = &[
    "shared_buffers",
    "work_mem",
    "maintenance_work_mem",
    "effective_cache_size",
    "max_wal_size",
    "min_wal_size",
    "checkpoint_timeout",
    "checkpoint_completion_target",
    "wal_level",
    "wal_buffers",
    "wal_compression",
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "commit_delay",
    "max_connections",
    "max_locks_per_transaction",
    "max_worker_processes",
    "max_parallel_workers",
    "max_parallel_workers_per_gather",
    "max_parallel_maintenance_workers",
    "max_prepared_transactions",
    "max_wal_senders",
    "max_replication_slots",
    "autovacuum",
    "jit",
    "random_page_cost",
    "effective_io_concurrency",
    "password_encryption",
    "temp_buffers",
    "standard_conforming_strings",
    "track_commit_timestamp",
];

/// The largest `shared_buffers` of a copy, bytes: the real server may have a machine of its own.
const MOST_BUFFERS: u64 = 1 << 30;

/// What a copy of a server must be made like.
#[derive(Debug, Clone, Default)]
pub(super) struct Likeness {
    /// The role that initdb makes.
    pub(super) superuser: String,
    /// `initdb --locale`.
    pub(super) locale: String,
    /// Lines of `postgresql.conf`.
    pub(super) settings: BTreeMap<String, String>,
    /// What is not as on the real server.
    pub(super) reservations: Vec<String>,
}

/// Looks at a real server, in a read-only session.
///
/// # Errors
/// When it cannot be reached or asked.
pub(super) async fn look(info: &ConnInfo) -> Result<Likeness, StepError> {
    let session = connect_anywhere(info).await?;
    let asked = ask(&session).await;
    session.close().await;
    asked
}

async fn ask(session: &crate::postgres::Session) -> Result<Likeness, StepError> {
    let mut like = Likeness::default();
    let general = "SELECT (SELECT rolname FROM pg_catalog.pg_roles WHERE oid = 10), datcollate \
                   FROM pg_catalog.pg_database WHERE datname = 'template1'";
    for row in rows(session, "ask for the server's superuser", general).await? {
        text(&row, 0).clone_into(&mut like.superuser);
        text(&row, 1).clone_into(&mut like.locale);
    }
    // A value of `reset_val` is without its unit; `current_setting` writes it as postgresql.conf takes it.
    let list: Vec<String> = TAKEN_OVER.iter().map(|name| crate::postgres::quote::literal(name)).collect();
    let sql = format!(
        "SELECT name, current_setting(name), CASE unit WHEN '8kB' THEN setting::bigint * 8192 END \
         FROM pg_catalog.pg_settings WHERE name IN ({})",
        list.join(", ")
    );
    for row in rows(session, "ask for the server's settings", &sql).await? {
        let (name, value) = (text(&row, 0).to_owned(), text(&row, 1).to_owned());
        let bytes = crate::postgres::rows::number(&row, 2);
        if name == "shared_buffers" && bytes.is_some_and(|bytes| bytes > MOST_BUFFERS) {
            like.reservations.push(format!("shared_buffers is 1GB and not {value} as on the real server"));
            like.settings.insert(name, "1GB".to_owned());
            continue;
        }
        like.settings.insert(name, value);
    }
    // What `connect_anywhere` sets for its own session is not the server's.
    if let Some(commit) = server_value(session, "synchronous_commit").await? {
        like.settings.insert("synchronous_commit".to_owned(), commit);
    }
    // initdb takes no such name of a superuser.
    if like.superuser.is_empty() || like.superuser.starts_with("pg_") || like.superuser.contains(['"', '$', '\'', '\\'])
    {
        "postgres".clone_into(&mut like.superuser);
    }
    Ok(like)
}

async fn server_value(session: &crate::postgres::Session, name: &str) -> Result<Option<String>, StepError> {
    let sql =
        format!("SELECT reset_val FROM pg_catalog.pg_settings WHERE name = {}", crate::postgres::quote::literal(name));
    crate::postgres::rows::first(session, "ask for a setting", &sql).await
}
