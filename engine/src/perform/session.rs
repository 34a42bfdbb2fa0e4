//! The sessions of an action: found by the plan's name of the database, tagged, and ended when the run is told to stop.

use tokio_util::sync::CancellationToken;

use super::PerformCx;
use crate::{
    claim::{Purpose, tag},
    error::{ErrorKind, StepError},
    postgres::{
        Session,
        connect::{LONGEST_NAME, connect, connect_read_only, fitting},
    },
    survey::MAINTENANCE,
};

/// How much of an action's digest stands in the name of its sessions, characters.
const DIGEST: usize = 12;

impl PerformCx {
    /// Returns the name of the step's sessions in `pg_stat_activity`: `pgplan RUN.SESSION STEP`.
    #[must_use]
    pub fn application_name(&self, purpose: Purpose) -> String {
        fitting(format!("{} {}", tag(purpose, &self.run_id, self.session), self.step), LONGEST_NAME)
    }

    /// Returns a name that tells the sessions of this action from those of others: `pgplan RUN.SESSION DIGEST`.
    ///
    /// Shares of an archive run side by side, and one that is done again ends its own leftovers only.
    #[must_use]
    pub fn action_name(&self, purpose: Purpose) -> String {
        let digest = blake3::hash(format!("{}/{}", self.step, self.action).as_bytes()).to_hex();
        let first = fitting(tag(purpose, &self.run_id, self.session), LONGEST_NAME - DIGEST - 1);
        format!("{first} {}", &digest[..DIGEST])
    }

    /// Connects to a database of the plan, or to another database on its server.
    ///
    /// # Errors
    /// Why the connection failed.
    pub async fn connect(&self, database: &str, dbname: Option<&str>) -> Result<Session, StepError> {
        let conninfo = self.databases.conninfo(database)?;
        let conninfo = dbname.map_or_else(|| conninfo.clone(), |dbname| conninfo.with_dbname(dbname));
        connect(&conninfo, &self.application_name(Purpose::Work)).await
    }

    /// Connects as [`PerformCx::connect`] does, to read only.
    ///
    /// # Errors
    /// Why the connection failed.
    pub async fn connect_read_only(&self, database: &str, dbname: Option<&str>) -> Result<Session, StepError> {
        let conninfo = self.databases.conninfo(database)?;
        let conninfo = dbname.map_or_else(|| conninfo.clone(), |dbname| conninfo.with_dbname(dbname));
        connect_read_only(&conninfo, &self.application_name(Purpose::Read)).await
    }

    /// Connects to the server of a database of the plan, through a database that is not `avoid`.
    ///
    /// # Errors
    /// Why the connection failed.
    pub async fn connect_beside(&self, database: &str, avoid: &str) -> Result<Session, StepError> {
        let conninfo = self.databases.conninfo(database)?;
        let mut candidates = MAINTENANCE.iter().filter(|name| **name != avoid);
        let mut result = Err(StepError::new(ErrorKind::Internal, "no database to connect to"));
        for dbname in candidates.by_ref() {
            result = connect(&conninfo.with_dbname(dbname), &self.application_name(Purpose::Work)).await;
            if !matches!(&result, Err(error) if error.sqlstate.as_deref() == Some("3D000")) {
                break;
            }
        }
        result
    }

    /// Does `work` on a session; when the run is told to stop, its statement is cancelled and awaited.
    ///
    /// # Errors
    /// Those of `work`; [`ErrorKind::Interrupted`] when it was told to stop.
    pub async fn cancellable<T>(
        &self,
        sessions: &[&Session],
        work: impl Future<Output = Result<T, StepError>>,
    ) -> Result<T, StepError> {
        cancellable(&self.cancel, sessions, work).await
    }
}

/// See [`PerformCx::cancellable`].
async fn cancellable<T>(
    cancel: &CancellationToken,
    sessions: &[&Session],
    work: impl Future<Output = Result<T, StepError>>,
) -> Result<T, StepError> {
    tokio::pin!(work);
    tokio::select! {
        biased;
        result = &mut work => return result,
        () = cancel.cancelled() => {}
    }
    // A cancel request that comes between two statements is lost, so it is repeated until the work ends.
    loop {
        for session in sessions {
            if let Err(error) = session.cancel().await {
                tracing::debug!("cannot cancel: {error}");
            }
        }
        tokio::select! {
            result = &mut work => return match result {
                Ok(done) => Ok(done),
                Err(error) if error.kind == ErrorKind::Interrupted => Err(error),
                Err(error) => Err(StepError::new(ErrorKind::Interrupted, "stopped").detail(error.message)),
            },
            () = tokio::time::sleep(std::time::Duration::from_millis(200)) => {}
        }
    }
}

/// Looks at something unless the run is told to stop: then the look is given up, and what it asks a server is cancelled
/// as its session is dropped. Only for work that changes nothing.
///
/// # Errors
/// Those of the look; [`ErrorKind::Interrupted`] when it was given up.
pub(crate) async fn unless_stopped<T>(
    cancel: &CancellationToken,
    look: impl Future<Output = Result<T, StepError>>,
) -> Result<T, StepError> {
    tokio::select! {
        biased;
        found = look => found,
        () = cancel.cancelled() => Err(StepError::new(ErrorKind::Interrupted, "stopped while it was looking")),
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST_NAME, Purpose};

    #[test]
    fn names_fit_and_tell_actions_apart() {
        let mut cx = crate::perform::testing::cx(&[]);
        cx.run_id = "é".repeat(40);
        let first = cx.action_name(Purpose::Work);
        assert!(first.len() <= LONGEST_NAME && first.starts_with("pgplan "), "{first}");
        assert!(cx.application_name(Purpose::Read).len() <= LONGEST_NAME);
        cx.action = "data/2".into();
        assert_ne!(cx.action_name(Purpose::Work), first);
    }
}
