//! The sessions of a restore: connecting, running statements, telling at which of several one failed.

use std::time::Duration;

use futures_util::{StreamExt as _, pin_mut};
use tokio_postgres::{Error, SimpleQueryMessage};

use super::{PerformCx, RestoreOp};
use crate::{
    claim::Purpose,
    error::{ErrorKind, StepError},
    postgres::{
        ConnInfo, Session,
        connect::{connect, execute},
        quote::literal,
    },
};

/// How long sessions that an earlier attempt left behind may take to end.
const LEFTOVERS: Duration = Duration::from_secs(30);
/// How several statements in one message ended.
#[derive(Debug)]
pub(super) enum Ran {
    /// All of them succeeded.
    Well,
    /// So many succeeded, then one failed.
    Cut(usize, Error),
}

/// One session of a restore.
pub(super) struct Target<'a> {
    pub(super) session: Session,
    pub(super) database: String,
    cx: &'a PerformCx,
}

impl<'a> Target<'a> {
    /// Connects to one of the server's databases and prepares the session for loading.
    pub(super) async fn connect(
        into: &ConnInfo,
        database: &str,
        op: &RestoreOp,
        cx: &'a PerformCx,
    ) -> Result<Self, StepError> {
        let session = connect(&into.with_dbname(database), &cx.action_name(Purpose::Work)).await?;
        // What is committed last is flushed at the end of each database: a crash of the target before that loses
        // statements and their receipts alike.
        // A database may be set to be read-only, by the dump itself too: that is for others.
        let mut sql = "SET synchronous_commit = off; SET default_transaction_read_only = off; ".to_owned();
        for (name, value) in &op.settings {
            sql.push_str(&format!("SELECT pg_catalog.set_config({}, {}, false); ", literal(name), literal(value)));
        }
        if op.statement_timeout_ms > 0 {
            sql.push_str(&format!("SET statement_timeout = {}; ", op.statement_timeout_ms));
        }
        execute(&session, "prepare the session", &sql).await?;
        Ok(Self { session, database: database.to_owned(), cx })
    }

    /// Connects anew in the place of a session that is of no use any more; its settings are made again.
    pub(super) async fn renew(
        &mut self,
        into: &ConnInfo,
        op: &RestoreOp,
        settings: &[(String, String)],
    ) -> Result<(), StepError> {
        let database = self.database.clone();
        let old = std::mem::replace(self, Self::connect(into, &database, op, self.cx).await?);
        old.session.close().await;
        for (_, text) in settings {
            // One that the target refused was judged when it came first.
            if let Ran::Cut(_, error) = self.run(text).await?
                && let Some(lost) = self.lost(&error)
            {
                return Err(lost);
            }
        }
        Ok(())
    }

    /// Ends what an attempt of this action that was killed has left running, and waits until it is gone.
    ///
    /// A server works on after its client died; only then is what receipts say final.
    pub(super) async fn end_leftovers(&self) -> Result<(), StepError> {
        let sql = format!(
            "SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity \
             WHERE application_name = {} AND pid <> pg_catalog.pg_backend_pid()",
            literal(&self.cx.action_name(Purpose::Work))
        );
        let until = tokio::time::Instant::now() + LEFTOVERS;
        loop {
            let messages = self.session.client().simple_query(&sql).await;
            let messages =
                messages.map_err(|error| self.session.error("end sessions of an earlier attempt", &error))?;
            let left = messages.iter().find_map(|message| match message {
                SimpleQueryMessage::Row(row) => row.get(0).map(|count| count != "0"),
                _ => None,
            });
            if left != Some(true) {
                return Ok(());
            }
            if tokio::time::Instant::now() > until {
                let message = "a session of an earlier attempt does not end";
                return Err(StepError::new(ErrorKind::Conflict, message)
                    .detail(format!("application_name {}", self.cx.action_name(Purpose::Work)))
                    .help("end it with pg_terminate_backend, then apply again"));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Waits for the server's answer, unless the run is stopped: then the statement is cancelled.
    pub(super) async fn answer<T>(&self, answer: impl Future<Output = T>) -> Result<T, StepError> {
        pin_mut!(answer);
        tokio::select! {
            got = &mut answer => Ok(got),
            () = self.cx.cancel.cancelled() => {
                self.session.cancel().await?;
                Err(StepError::new(ErrorKind::Interrupted, "the restore was stopped"))
            }
        }
    }

    /// Runs statements sent as one message.
    pub(super) async fn run(&self, sql: &str) -> Result<Ran, StepError> {
        self.answer(async {
            let stream = match self.session.client().simple_query_raw(sql).await {
                Ok(stream) => stream,
                Err(error) => return Ran::Cut(0, error),
            };
            pin_mut!(stream);
            let mut complete = 0;
            while let Some(message) = stream.next().await {
                match message {
                    Ok(SimpleQueryMessage::CommandComplete(_)) => complete += 1,
                    Ok(_) => {}
                    Err(error) => return Ran::Cut(complete, error),
                }
            }
            Ran::Well
        })
        .await
    }

    /// Runs what cannot fail because of the dump: BEGIN, ROLLBACK, receipts.
    pub(super) async fn must(&self, doing: &str, sql: &str) -> Result<(), StepError> {
        match self.run(sql).await? {
            Ran::Well => Ok(()),
            Ran::Cut(_, error) => Err(self.session.error(doing, &error)),
        }
    }

    pub(super) async fn rollback(&self) -> Result<(), StepError> {
        self.must("roll back", "ROLLBACK").await
    }

    /// Returns the failure when an error says that the connection is gone.
    pub(super) fn lost(&self, error: &Error) -> Option<StepError> {
        error.as_db_error().is_none().then(|| self.session.error("restore", error))
    }
}
