//! Keeping a shared journal apart from the databases that its plan changes.
//!
//! A restore that overwrites its own journal could not be resumed. Names and addresses do not tell whether two databases
//! are one (tunnels, aliases, sockets; clones share their system identifier), but a lock does: the lease's advisory lock
//! is seen from its own database only.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use futures_util::future::join_all;

use crate::{
    error::{ErrorKind, StepError},
    postgres::{ConnInfo, connect::connect_read_only, rows::first},
};

/// Whether an advisory lock of a key is held in this database by anybody (PostgreSQL manual, 53.13 "pg_locks").
pub(super) const IS_HELD: &str = "\
    SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_database d ON d.oid = l.database \
    WHERE d.datname = pg_catalog.current_database() AND l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 \
      AND l.classid::pg_catalog.int8 = (($1::pg_catalog.int8 >> 32) & 4294967295) \
      AND l.objid::pg_catalog.int8 = ($1::pg_catalog.int8 & 4294967295))";

/// Returns the key of the advisory lock that goes with the lease of a plan.
pub(super) fn lock_of(plan: &str) -> i64 {
    let mut key = [0; 8];
    key.copy_from_slice(&blake3::hash(format!("pgplan lease {plan}").as_bytes()).as_bytes()[..8]);
    i64::from_be_bytes(key)
}

/// Returns the refusal to keep the journal in a database of the plan.
#[must_use]
pub fn refusal(database: &str, state: &ConnInfo) -> StepError {
    let message = format!("the journal cannot be in a database of the plan: {} is its `{database}`", state.label());
    StepError::new(ErrorKind::Refused, message).help(
        "make a database for the journal alone, on another server if that one is replaced, and name it with --state",
    )
}

/// Looks once a session whether the journal is in a database of the plan.
#[derive(Debug)]
pub struct Apart {
    plan: String,
    state: Option<ConnInfo>,
    dry_run: bool,
    seen: Mutex<BTreeSet<String>>,
}

impl Apart {
    /// Returns what keeps `state` apart, if the journal is in a database; the plan's lease must be held there. A dry run
    /// holds no lease: it compares what the servers tell of themselves.
    #[must_use]
    pub fn new(plan: &str, state: Option<&ConnInfo>, dry_run: bool) -> Self {
        Self { plan: plan.to_owned(), state: state.cloned(), dry_run, seen: Mutex::default() }
    }

    /// Refuses a database of the plan in which the journal is. One that does not exist yet holds none; it is asked again.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when it is the journal's own; what a server said when it cannot be asked.
    pub async fn refuse(&self, database: &str, info: &ConnInfo) -> Result<(), StepError> {
        match self.ask(database, info).await {
            Err(error) if error.sqlstate.as_deref() == Some("3D000") => Ok(()),
            answer => answer,
        }
    }

    async fn ask(&self, database: &str, info: &ConnInfo) -> Result<(), StepError> {
        let seen = || self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(state) = self.state.as_ref().filter(|_| !seen().contains(database)) else { return Ok(()) };
        if self.dry_run {
            return match identity(info).await? == identity(state).await? {
                true => Err(refusal(database, state)),
                false => Ok(()),
            };
        }
        let session = connect_read_only(info, "pgplan-look state").await?;
        let asked = session.client().query_one(IS_HELD, &[&lock_of(&self.plan)]).await;
        let asked = asked.map_err(|error| session.error("look for the journal's lock", &error));
        session.close().await;
        if asked?.get::<_, bool>(0) {
            return Err(refusal(database, state));
        }
        seen().insert(database.to_owned());
        Ok(())
    }

    /// Refuses the first of these databases in which the journal is; one that cannot be asked is none.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when there is one.
    pub async fn refuse_any(&self, databases: impl Iterator<Item = (&String, ConnInfo)>) -> Result<(), StepError> {
        if self.state.is_none() {
            return Ok(());
        }
        let asked = databases.map(|(name, info)| async move { self.refuse(name, &info).await });
        for answer in join_all(asked).await {
            match answer {
                Err(error) if error.kind == ErrorKind::Refused => return Err(error),
                Err(error) => tracing::debug!(%error, "whether the journal is there is asked again later"),
                Ok(()) => {}
            }
        }
        Ok(())
    }
}

/// Returns what tells a database from all others, clones of its server included: its oid and when its server started, to
/// the microsecond.
async fn identity(info: &ConnInfo) -> Result<Option<String>, StepError> {
    let session = connect_read_only(info, "pgplan-look state").await?;
    let sql = "SELECT d.oid::text || ' ' || extract(epoch FROM pg_catalog.pg_postmaster_start_time())::text \
               FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()";
    let found = first(&session, "tell which database it is", sql).await;
    session.close().await;
    found
}

/// Returns whether two descriptions name the same database of the same server, as far as their texts tell.
#[must_use]
pub fn same_address(one: &ConnInfo, other: &ConnInfo) -> bool {
    one.dbname == other.dbname && one.hosts.iter().any(|host| other.hosts.contains(host))
}
