//! COPY blocks: rows streamed into the server, each block a transaction with its receipt.
//!
//! When the server refuses, before the first row or after the last, the rows are passed over: they are never taken for
//! SQL, whatever they look like.

use std::pin::Pin;

use bytes::{Bytes, BytesMut};
use futures_util::SinkExt as _;
use tokio_postgres::CopyInSink;

use super::{Block, Loader, failure::Item};
use crate::{error::StepError, sql::Statement};

/// How many bytes of rows are sent at once.
const SENT: usize = 256 * 1024;

/// The COPY block that the dump is in.
pub(super) enum Copy {
    /// None.
    None,
    /// Its rows are passed over.
    Skip,
    /// Its rows go to the server.
    Open(Box<Open>),
}

/// A COPY on the server.
pub(super) struct Open {
    sink: Pin<Box<CopyInSink<Bytes>>>,
    item: Item,
    buffer: BytesMut,
    bytes: u64,
}

impl Loader<'_> {
    /// Begins a COPY block.
    pub(in crate::perform::restore) async fn copy_start(&mut self, statement: &Statement<'_>) -> Result<(), StepError> {
        self.copy = Copy::Skip;
        let Some(item) = self.judged(statement)? else { return Ok(()) };
        self.flush().await?;
        let in_block = self.block != Block::None;
        if self.block == Block::Skip || (!in_block && self.is_done(item.offset)) {
            return Ok(());
        }
        self.ensure().await?;
        if !in_block {
            self.target.must("begin a transaction", "BEGIN").await?;
        }
        let opened = self.target.answer(self.target.session.client().copy_in::<_, Bytes>(&item.text)).await?;
        match opened {
            Ok(sink) => {
                let buffer = BytesMut::with_capacity(SENT);
                self.copy = Copy::Open(Box::new(Open { sink: Box::pin(sink), item, buffer, bytes: 0 }));
                Ok(())
            }
            Err(error) => {
                if let Some(lost) = self.target.lost(&error) {
                    return Err(lost);
                }
                // A COPY that is refused before its first row leaves one answer too many: the driver takes it for that
                // of the next message, and gives the connection up.
                self.renew().await?;
                self.copy_judged(item, &error).await
            }
        }
    }

    /// Takes rows, or a part of one.
    pub(in crate::perform::restore) async fn copy_data(&mut self, rows: &[u8]) -> Result<(), StepError> {
        let Copy::Open(open) = &mut self.copy else { return Ok(()) };
        open.bytes += rows.len() as u64;
        open.buffer.extend_from_slice(rows);
        if open.buffer.len() < SENT {
            return Ok(());
        }
        let buffer = std::mem::replace(&mut open.buffer, BytesMut::with_capacity(SENT)).freeze();
        // An error of the server is told at the end; what fails here is the connection.
        match self.target.answer(open.sink.send(buffer)).await? {
            Ok(()) => Ok(()),
            Err(error) => Err(self.target.session.error("send rows", &error)),
        }
    }

    /// Ends a COPY block.
    pub(in crate::perform::restore) async fn copy_end(&mut self) -> Result<(), StepError> {
        let Copy::Open(open) = std::mem::replace(&mut self.copy, Copy::None) else { return Ok(()) };
        let Open { mut sink, item, buffer, bytes } = *open;
        let ended = self.target.answer(async {
            if !buffer.is_empty() {
                sink.send(buffer.freeze()).await?;
            }
            sink.as_mut().finish().await
        });
        let rows = match ended.await? {
            Ok(rows) => rows,
            Err(error) => return self.copy_failed(item, &error).await,
        };
        let before = self.mark.clone();
        self.mark.tally.statements += 1;
        self.mark.tally.rows += rows;
        self.mark.tally.bytes += bytes;
        self.rows += rows;
        if self.block != Block::None {
            return Ok(());
        }
        self.mark.failed.remove(&item.offset);
        self.mark.done = self.mark.done.max(item.end);
        let sql = format!("{};\nCOMMIT", self.receipt(None)?);
        self.touched = true;
        match self.target.run(&sql).await? {
            super::Ran::Well => Ok(()),
            super::Ran::Cut(_, error) => {
                self.mark = before;
                self.copy_failed(item, &error).await
            }
        }
    }

    async fn copy_failed(&mut self, item: Item, error: &tokio_postgres::Error) -> Result<(), StepError> {
        if let Some(lost) = self.target.lost(error) {
            return Err(lost);
        }
        self.target.rollback().await?;
        self.copy_judged(item, error).await
    }

    async fn copy_judged(&mut self, mut item: Item, error: &tokio_postgres::Error) -> Result<(), StepError> {
        if let Block::Open(from) = self.block {
            item.offset = from;
            self.block = Block::Skip;
        }
        match self.failed(item, error).await? {
            None => Ok(()),
            // The rows have gone by: they cannot be sent again in this attempt.
            Some(item) => Err(super::failure::describe(
                &self.target.session,
                &self.target.database,
                &item,
                error,
                self.cx,
                &self.op.dump.path.display().to_string(),
            )),
        }
    }
}
