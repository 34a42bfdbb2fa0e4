//! Receipts: rows that say, in the database that a transaction changed, that it was done.
//!
//! A receipt is written in the transaction whose work it attests, so after a cut connection or a killed process the
//! database itself tells whether the work was committed. The schema `pgplan` is made on demand, is left out of dumps
//! and comparisons, and is dropped when the run has ended well.

use tokio_postgres::types::Type;

use crate::{
    action::Outputs,
    error::{ErrorKind, StepError},
    merge::MAPS,
    postgres::{
        ConnInfo, Session,
        connect::{connect, execute},
        rows::{flag, rows, text},
    },
};

/// The schema of pgplan's own.
pub const SCHEMA: &str = "pgplan";

/// Tells the schema from one that someone else made.
const COMMENT: &str = "receipts of pgplan runs; dropped when the last of them has ended well";

/// Keeps the event triggers of users from taking part in what pgplan does with its own schema, where the role may say so:
/// those that are enabled in the ordinary way everywhere, all of them since 17 (Client Connection Defaults).
const NO_EVENT_TRIGGERS: &str = "DO $$ BEGIN PERFORM pg_catalog.set_config('session_replication_role', 'replica', true); \
    EXCEPTION WHEN insufficient_privilege THEN NULL; END $$; \
    DO $$ BEGIN IF pg_catalog.current_setting('server_version_num')::int >= 170000 THEN \
    PERFORM pg_catalog.set_config('event_triggers', 'off', true); END IF; \
    EXCEPTION WHEN insufficient_privilege THEN NULL; END $$;";

/// Held while the schema is made: `CREATE … IF NOT EXISTS` of two sessions at once can fail in one of them.
const LOCK: i64 = 0x7067_706c_616e_0001;

/// Which action a receipt is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The run.
    pub run: String,
    /// The step and the action in it: `tidy/sql`.
    pub action: String,
    /// Digest of what is done; a receipt with another one is not for this work.
    pub fingerprint: String,
}

/// Makes schema and table where they are missing.
///
/// # Errors
/// What the server said: the role may not create a schema, or the session is read-only.
pub async fn ensure(session: &Session) -> Result<(), StepError> {
    let doing = "make the schema for receipts";
    let there = rows(session, doing, "SELECT pg_catalog.to_regclass('pgplan.receipt') IS NOT NULL").await?;
    if there.first().is_some_and(|row| flag(row, 0)) {
        return Ok(());
    }
    let sql = format!(
        "BEGIN; {NO_EVENT_TRIGGERS} SELECT pg_catalog.pg_advisory_xact_lock({LOCK}); \
         DO $$ BEGIN IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'pgplan') THEN \
           CREATE SCHEMA pgplan; COMMENT ON SCHEMA pgplan IS '{COMMENT}'; END IF; END $$; \
         CREATE TABLE IF NOT EXISTS pgplan.receipt (run text NOT NULL, action text NOT NULL, \
           fingerprint text NOT NULL, outputs jsonb NOT NULL, at timestamptz NOT NULL DEFAULT pg_catalog.now(), \
           PRIMARY KEY (run, action)); COMMIT"
    );
    all_or_nothing(session, doing, &sql).await
}

/// Runs statements from BEGIN to COMMIT; after an error the transaction is rolled back.
async fn all_or_nothing(session: &Session, doing: &str, sql: &str) -> Result<(), StepError> {
    let done = execute(session, doing, sql).await;
    if done.is_err() && !session.is_closed() {
        execute(session, doing, "ROLLBACK").await?;
    }
    done
}

/// Looks for the receipt, inside the transaction that would do the work; locks out a second one until its end.
///
/// # Errors
/// What the server said; [`ErrorKind::Refused`] when the receipt is for other work under the same name.
pub async fn look(session: &Session, key: &Key) -> Result<Option<Outputs>, StepError> {
    let doing = "look for the receipt";
    let wrong = |error| session.error(doing, &error);
    let lock = "SELECT pg_catalog.pg_advisory_xact_lock(pg_catalog.hashtext($1), pg_catalog.hashtext($2))";
    let types = [(&key.run as _, Type::TEXT), (&key.action as _, Type::TEXT)];
    session.client().query_typed(lock, &types).await.map_err(wrong)?;
    let select = "SELECT fingerprint, outputs::text FROM pgplan.receipt WHERE run = $1 AND action = $2";
    let found = session.client().query_typed(select, &types).await.map_err(wrong)?;
    let Some(row) = found.first() else { return Ok(None) };
    let fingerprint: String = row.try_get(0).map_err(wrong)?;
    if fingerprint != key.fingerprint {
        let message = format!("`{}` was done in this run already, with another text", key.action);
        return Err(
            StepError::new(ErrorKind::Refused, message).detail(format!("the receipt is in {}", session.label()))
        );
    }
    let outputs: String = row.try_get(1).map_err(wrong)?;
    serde_json::from_str(&outputs).map(Some).map_err(|error| {
        StepError::new(ErrorKind::Internal, format!("the receipt of `{}` cannot be read: {error}", key.action))
    })
}

/// A receipt that was found.
#[derive(Debug, Clone)]
pub struct Receipt {
    /// The step and the action in it.
    pub action: String,
    /// What the action gave, as JSON.
    outputs: serde_json::Value,
}

impl Receipt {
    /// Returns an output that is no secret, read as a `T`; `None` when there is none of this name.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when it is no `T`.
    pub fn output<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StepError> {
        let Some(value) = self.outputs.get(name).and_then(|output| output.get("plain")) else { return Ok(None) };
        serde_json::from_value(value.clone()).map(Some).map_err(|error| {
            StepError::new(ErrorKind::Internal, format!("the receipt of `{}` cannot be read: {error}", self.action))
        })
    }
}

/// Returns the run's receipts of actions whose names begin with `prefix`.
///
/// # Errors
/// What the server said.
pub async fn all(session: &Session, run: &str, prefix: &str) -> Result<Vec<Receipt>, StepError> {
    let doing = "read the receipts";
    let there = rows(session, doing, "SELECT pg_catalog.to_regclass('pgplan.receipt') IS NOT NULL").await?;
    if !there.first().is_some_and(|row| flag(row, 0)) {
        return Ok(Vec::new());
    }
    let sql = "SELECT action, outputs::text FROM pgplan.receipt \
               WHERE run = $1 AND pg_catalog.left(action, pg_catalog.length($2)) = $2 ORDER BY 1";
    let found = session.client().query_typed(sql, &[(&run as _, Type::TEXT), (&prefix as _, Type::TEXT)]).await;
    let found = found.map_err(|error| session.error(doing, &error))?;
    let receipt = |row: &tokio_postgres::Row| {
        let action: String = row.try_get(0).map_err(|error| session.error(doing, &error))?;
        let text: String = row.try_get(1).map_err(|error| session.error(doing, &error))?;
        let outputs = serde_json::from_str(&text).map_err(|error| {
            StepError::new(ErrorKind::Internal, format!("the receipt of `{action}` cannot be read: {error}"))
        })?;
        Ok(Receipt { action, outputs })
    };
    found.iter().map(receipt).collect()
}

/// Writes the receipt; it counts when the transaction is committed. Secrets among the outputs are not written.
///
/// # Errors
/// What the server said.
pub async fn write(session: &Session, key: &Key, outputs: &Outputs) -> Result<(), StepError> {
    let outputs = serde_json::to_string(outputs)
        .map_err(|error| StepError::new(ErrorKind::Internal, format!("the outputs cannot be written: {error}")))?;
    let sql = "INSERT INTO pgplan.receipt (run, action, fingerprint, outputs) \
               VALUES ($1, $2, $3, ($4::text)::jsonb)";
    let types = [
        (&key.run as _, Type::TEXT),
        (&key.action as _, Type::TEXT),
        (&key.fingerprint as _, Type::TEXT),
        (&outputs as _, Type::TEXT),
    ];
    let written = session.client().execute_typed(sql, &types).await;
    written.map(drop).map_err(|error| session.error("write the receipt", &error))
}

/// Drops the run's receipts in one database, as [`drop_receipts`] does; one that is not there any more has none.
///
/// # Errors
/// What the server said.
pub async fn drop_in(info: &ConnInfo, name: &str, run: &str) -> Result<(), StepError> {
    let session = match connect(info, name).await {
        Err(error) if error.sqlstate.as_deref() == Some("3D000") => return Ok(()),
        other => other?,
    };
    // A fence of the run may stand there, or somebody else has closed the database to writers since. Whoever reads all
    // tables at that time, as pg_dump does, is not waited for to the end.
    let prepare = "SET default_transaction_read_only = off; SET lock_timeout = '10s'";
    let dropped = match execute(&session, "drop the receipts", prepare).await {
        Ok(()) => drop_receipts(&session, run).await,
        Err(error) => Err(error),
    };
    session.close().await;
    dropped
}

/// Drops the run's receipts in every database of the server that can be entered.
///
/// # Errors
/// What the server said.
pub async fn drop_everywhere(info: &ConnInfo, name: &str, run: &str) -> Result<(), StepError> {
    let session = crate::survey::connect_anywhere(info).await?;
    let sql = "SELECT datname FROM pg_catalog.pg_database \
               WHERE datallowconn AND pg_catalog.has_database_privilege(datname, 'CONNECT')";
    let databases = rows(&session, "list the databases", sql).await;
    session.close().await;
    for row in databases? {
        drop_in(&info.with_dbname(text(&row, 0)), name, run).await?;
    }
    Ok(())
}

/// Drops the run's receipts, and the schema when no other run has receipts in it.
///
/// # Errors
/// What the server said.
pub async fn drop_receipts(session: &Session, run: &str) -> Result<(), StepError> {
    let doing = "drop the receipts";
    let there = rows(session, doing, "SELECT pg_catalog.to_regclass('pgplan.receipt') IS NOT NULL").await?;
    if !there.first().is_some_and(|row| flag(row, 0)) {
        return Ok(());
    }
    let delete = "DELETE FROM pgplan.receipt WHERE run = $1";
    let deleted = session.client().execute_typed(delete, &[(&run as _, Type::TEXT)]).await;
    deleted.map_err(|error| session.error(doing, &error))?;
    drop_if_empty(session).await
}

/// Drops the table, and the schema when pgplan made it, unless a receipt is left.
///
/// # Errors
/// What the server said.
pub async fn drop_if_empty(session: &Session) -> Result<(), StepError> {
    let doing = "drop the receipts";
    // Maps of new keys are of use only together with receipts. What else is in the schema, and a schema that was there
    // before, stays.
    let sql = format!(
        "BEGIN; {NO_EVENT_TRIGGERS} LOCK TABLE pgplan.receipt IN ACCESS EXCLUSIVE MODE; \
         DO $$ DECLARE map regclass; BEGIN IF NOT EXISTS (SELECT FROM pgplan.receipt) THEN \
           DROP TABLE pgplan.receipt; \
           FOR map IN SELECT c.oid::pg_catalog.regclass FROM pg_catalog.pg_class c \
                      WHERE c.relnamespace = 'pgplan'::regnamespace AND c.relkind = 'r' \
                        AND pg_catalog.left(c.relname, {length}) = '{MAPS}' LOOP \
             EXECUTE 'DROP TABLE ' || map::text; END LOOP; \
           IF pg_catalog.obj_description('pgplan'::regnamespace, 'pg_namespace') = '{COMMENT}' THEN \
             BEGIN DROP SCHEMA pgplan; EXCEPTION WHEN dependent_objects_still_exist THEN NULL; END; \
           END IF; END IF; END $$; COMMIT",
        length = MAPS.len()
    );
    all_or_nothing(session, doing, &sql).await
}
