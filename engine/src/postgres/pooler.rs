//! Telling a server from a pooler that gives each transaction another server session, where no lock holds.

use std::time::Duration;

use tokio::time::timeout;

use super::{Session, rows::first};
use crate::error::{ErrorKind, StepError};

/// How long an idle pooler may take to find a second server session before it counts as one that has none.
const SECOND_SESSION: Duration = Duration::from_secs(3);

/// Refuses a session that goes through a transaction pooler; `second` is another one of the same address.
///
/// While a second connection is inside a transaction, it has a server session for itself; the first connection then
/// gets another one than before if it has none of its own, or none at all. One with `pool_mode = statement` refuses to
/// begin a transaction, as a violation of its protocol (08P01), which no server does.
///
/// # Errors
/// [`ErrorKind::Refused`] when there is such a pooler; what a server said when it cannot be asked.
pub(crate) async fn refuse(session: &Session, second: Session) -> Result<(), StepError> {
    let doing = "look for a pooler";
    let ask = "SELECT pg_catalog.pg_backend_pid()";
    let before = first(session, doing, ask).await;
    let begun = second.client().batch_execute("BEGIN; SELECT 1").await;
    let after = timeout(SECOND_SESSION, first(session, doing, ask)).await;
    second.close().await;
    let before = before?;
    let begun = begun.map_err(|error| session.error(doing, &error));
    match (begun, after) {
        (Err(error), _) if error.sqlstate.as_deref() != Some("08P01") => Err(error),
        (Ok(()), Ok(Ok(after))) if after == before => Ok(()),
        (Ok(()), Ok(Err(error))) => Err(error),
        (Err(_), _) | (Ok(()), Ok(Ok(_)) | Err(_)) => {
            let message = format!("{} is reached through a transaction pooler", session.label());
            Err(StepError::new(ErrorKind::Refused, message)
                .detail("its locks, settings and temporary objects do not outlive a transaction")
                .help("give the address of the server itself, or of a pool with `pool_mode = session`"))
        }
    }
}
