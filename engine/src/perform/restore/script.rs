//! The way of a script's text into the loader, piece by piece.

use std::time::{Duration, Instant};

use super::{PerformCx, loader::Loader};
use crate::{
    artifact::DumpArtifact,
    error::{ErrorKind, StepError},
    perform::text::{Chunk, Chunks},
    sql::{MetaCommand, Piece, ReadOptions, Reader},
};

/// Shortest time between two reports of progress.
const REPORTED: Duration = Duration::from_millis(250);

/// Loads all of a script; what waits in the loader at the end is left to [`Loader::finish`].
pub(super) async fn load(
    loader: &mut Loader<'_>,
    mut chunks: Chunks,
    total: Option<u64>,
    dump: &DumpArtifact,
    cx: &PerformCx,
) -> Result<(), StepError> {
    let mut reader = Reader::new(ReadOptions::default());
    let mut read = 0;
    let mut told = Instant::now();
    let mut ended = false;
    loop {
        while let Some(piece) = reader.piece()? {
            match piece {
                Piece::Blank(_) => {}
                Piece::Statement(statement) => loader.statement(&statement).await?,
                Piece::CopyStart(statement) => loader.copy_start(&statement).await?,
                Piece::CopyData(rows) => loader.copy_data(rows).await?,
                Piece::CopyEnd(_) => loader.copy_end().await?,
                Piece::Meta(meta) => match &meta.command {
                    MetaCommand::Connect { database } => loader.switch(database).await?,
                    // For psql only: we send UTF-8, and run no command of the dump whatever its key is.
                    MetaCommand::Restrict { .. } | MetaCommand::Unrestrict { .. } | MetaCommand::Encoding { .. } => {}
                },
            }
        }
        if ended {
            break;
        }
        if told.elapsed() >= REPORTED {
            told = Instant::now();
            let (bytes, rows) = loader.progress();
            cx.progress.report(bytes, rows, total);
        }
        let chunk = chunks.next().await.map_err(|error| StepError::io("read the dump", &dump.path, &error))?;
        match chunk {
            Some(Chunk::Text(text)) => {
                read += text.len() as u64;
                loader.reached(read);
                reader.push(&text);
            }
            Some(Chunk::End { bytes, sha256 }) => dump.compare(&dump.path, bytes, &sha256)?,
            None => {
                reader.finish();
                ended = true;
            }
        }
        if cx.cancel.is_cancelled() {
            return Err(StepError::new(ErrorKind::Interrupted, "the restore was stopped"));
        }
    }
    if reader.facts().is_truncated() {
        let message = "the dump is cut off: its last line is missing";
        return Err(StepError::new(ErrorKind::Verification, message).help("make the dump again"));
    }
    let (bytes, rows) = loader.progress();
    cx.progress.report(bytes, rows, total);
    Ok(())
}
