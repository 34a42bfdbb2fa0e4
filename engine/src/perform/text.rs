//! The text of a dump on its way from a file or a program to whoever reads it, a chunk at a time.

use std::{
    io::{self, Read},
    path::Path,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    sync::mpsc,
};

use crate::{artifact::DumpArtifact, error::StepError};

/// How much is read at once.
pub(super) const CHUNK: usize = 256 * 1024;
/// How many chunks may wait for their reader: memory stays constant, and the disk works while the server does.
const AHEAD: usize = 4;

/// Chunks of text, read ahead in the background. Dropped before the end, the reading stops.
pub(super) struct Chunks {
    from: mpsc::Receiver<io::Result<Chunk>>,
}

/// What comes out of [`Chunks`].
pub(super) enum Chunk {
    /// Text.
    Text(Vec<u8>),
    /// The end of a file, with the length and SHA-256 that it has on disk.
    End { bytes: u64, sha256: String },
}

impl Chunks {
    /// Starts to read the text of a plain dump.
    pub(super) fn of_dump(dump: &DumpArtifact, run_dir: &Path) -> Result<Self, StepError> {
        let path = dump.file(run_dir);
        let mut text = dump.open(run_dir).map_err(|error| dump.unreadable("open the dump", &path, &error))?;
        let (to, from) = mpsc::channel(AHEAD);
        tokio::task::spawn_blocking(move || {
            loop {
                let mut chunk = vec![0; CHUNK];
                match fill(&mut text, &mut chunk) {
                    Ok(0) => break,
                    Ok(n) => {
                        chunk.truncate(n);
                        if to.blocking_send(Ok(Chunk::Text(chunk))).is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        // Nobody waits any more when this cannot be told.
                        to.blocking_send(Err(error)).ok();
                        return;
                    }
                }
            }
            let end = text.finish().map(|(bytes, sha256)| Chunk::End { bytes, sha256 });
            to.blocking_send(end).ok();
        });
        Ok(Self { from })
    }

    /// Starts to read what a program prints.
    pub(super) fn of_pipe(mut pipe: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let (to, from) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            loop {
                let mut chunk = Vec::with_capacity(CHUNK);
                while chunk.len() < CHUNK {
                    match pipe.read_buf(&mut chunk).await {
                        Ok(0) => break,
                        Ok(_) => {}
                        Err(error) => {
                            to.send(Err(error)).await.ok();
                            return;
                        }
                    }
                }
                if chunk.is_empty() || to.send(Ok(Chunk::Text(chunk))).await.is_err() {
                    return;
                }
            }
        });
        Self { from }
    }

    /// Returns what comes next; `None` after the end.
    pub(super) async fn next(&mut self) -> io::Result<Option<Chunk>> {
        self.from.recv().await.transpose()
    }
}

/// Reads until the buffer is full or the input ends: a decoder hands out small pieces.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
