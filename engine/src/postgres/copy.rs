//! Rows on their way: the digest of what a COPY statement sends, and rows from one server to another.

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt as _, StreamExt as _};

use super::session::Session;
use crate::{
    digest::{LineDigest, Rows},
    error::StepError,
};

/// How many pieces are taken at once.
const AT_ONCE: usize = 256;

/// Returns the digest of all rows that `COPY … TO STDOUT` in text format sends.
///
/// # Errors
/// What the server said, with the statement.
pub async fn digest(session: &Session, copy: &str) -> Result<Rows, StepError> {
    let wrong = |error: &tokio_postgres::Error| {
        session.error("read rows", error).detail(format!("statement: {copy}")).detail(format!("on {}", session.label()))
    };
    let stream = session.client().copy_out(copy).await.map_err(|error| wrong(&error))?;
    let mut stream = std::pin::pin!(stream.ready_chunks(AT_ONCE));
    let mut digest = LineDigest::default();
    while let Some(pieces) = stream.next().await {
        for piece in pieces {
            digest.push(&piece.map_err(|error| wrong(&error))?);
        }
    }
    Ok(digest.finish())
}

/// Sends the rows of `COPY … TO STDOUT` to `COPY … FROM STDIN` of another session as they come; returns how many.
///
/// # Errors
/// What either server said, with the statement.
pub async fn pipe(from: &Session, out: &str, to: &Session, put: &str) -> Result<u64, StepError> {
    let read = |error: &tokio_postgres::Error| from.error("read rows", error).detail(format!("statement: {out}"));
    let write = |error: &tokio_postgres::Error| to.error("put rows in", error).detail(format!("statement: {put}"));
    let stream = from.client().copy_out(out).await.map_err(|error| read(&error))?;
    let mut stream = std::pin::pin!(stream.ready_chunks(AT_ONCE));
    let sink = to.client().copy_in::<_, Bytes>(put).await.map_err(|error| write(&error))?;
    let mut sink = std::pin::pin!(sink);
    while let Some(pieces) = stream.next().await {
        let mut buffer = BytesMut::new();
        for piece in pieces {
            buffer.extend_from_slice(&piece.map_err(|error| read(&error))?);
        }
        sink.send(buffer.freeze()).await.map_err(|error| write(&error))?;
    }
    sink.finish().await.map_err(|error| write(&error))
}
