//! The file of a plain dump while it is written: compressed, digested and synced by a thread of its own.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    artifact::{DumpScope, hex},
    error::{ErrorKind, StepError},
};

/// How many chunks may wait for the disk.
const WAITING: usize = 4;
/// How much of the text's end is kept to find the last line: `\unrestrict` stands behind it.
const TAIL: usize = 1024;

/// What was written.
#[derive(Debug)]
pub(super) struct Written {
    /// Size of the file.
    pub(super) bytes: u64,
    /// Size of the text before it was compressed.
    pub(super) text_bytes: Option<u64>,
    /// SHA-256 of the file, in hex.
    pub(super) sha256: String,
    /// The end of the text.
    pub(super) tail: Vec<u8>,
}

impl Written {
    /// Returns whether the text ends as a dump of this scope does.
    pub(super) fn is_complete(&self, scope: DumpScope) -> bool {
        let line: &[u8] = match scope {
            DumpScope::Cluster => b"\n-- PostgreSQL database cluster dump complete\n",
            DumpScope::Database => b"\n-- PostgreSQL database dump complete\n",
        };
        memchr::memmem::rfind(&self.tail, line).is_some()
    }
}

/// The way of text into the file.
pub(super) struct Sink {
    to: mpsc::Sender<Vec<u8>>,
    thread: JoinHandle<io::Result<Written>>,
    path: PathBuf,
}

impl Sink {
    /// Makes the file, for the user alone; with a level its text is compressed with zstd.
    pub(super) fn create(path: &Path, zstd: Option<i32>) -> Result<Self, StepError> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
        let file = file.map_err(|error| StepError::io("make the dump", path, &error))?;
        let (to, mut from) = mpsc::channel::<Vec<u8>>(WAITING);
        let thread = tokio::task::spawn_blocking(move || {
            let (mut text_bytes, mut tail) = (0, Vec::new());
            let mut out = Out::new(file, zstd)?;
            while let Some(chunk) = from.blocking_recv() {
                text_bytes += chunk.len() as u64;
                out.write_all(&chunk)?;
                tail.extend_from_slice(&chunk[chunk.len().saturating_sub(TAIL)..]);
                tail.drain(..tail.len().saturating_sub(TAIL));
            }
            let (bytes, sha256) = out.finish()?;
            Ok(Written { bytes, text_bytes: Some(text_bytes), sha256, tail })
        });
        Ok(Self { to, thread, path: path.to_path_buf() })
    }

    /// Hands text on; false when the file takes no more: [`Sink::finish`] says why.
    pub(super) async fn write(&self, chunk: Vec<u8>) -> bool {
        self.to.send(chunk).await.is_ok()
    }

    /// Waits until everything is on disk.
    pub(super) async fn finish(self) -> Result<Written, StepError> {
        drop(self.to);
        match self.thread.await {
            Ok(Ok(written)) => Ok(written),
            Ok(Err(error)) => {
                let new = StepError::io("write the dump", &self.path, &error);
                Err(match new.kind {
                    ErrorKind::Resources => new.help(
                        "free space on that file system, or put the state folder on a larger one, then apply again; \
                         the partial file was removed",
                    ),
                    _ => new,
                })
            }
            Err(error) => Err(StepError::new(ErrorKind::Internal, format!("the dump's writer was given up: {error}"))),
        }
    }
}

enum Out {
    Plain(Digesting),
    Zstd(zstd::Encoder<'static, Digesting>),
}

impl Out {
    fn new(file: File, zstd: Option<i32>) -> io::Result<Self> {
        let file = Digesting { file, sha256: Sha256::new(), bytes: 0 };
        match zstd {
            None => Ok(Self::Plain(file)),
            Some(level) => {
                let mut encoder = zstd::Encoder::new(file, level)?;
                encoder.include_checksum(true)?;
                Ok(Self::Zstd(encoder))
            }
        }
    }

    fn write_all(&mut self, chunk: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(file) => file.write_all(chunk),
            Self::Zstd(encoder) => encoder.write_all(chunk),
        }
    }

    fn finish(self) -> io::Result<(u64, String)> {
        let done = match self {
            Self::Plain(file) => file,
            Self::Zstd(encoder) => encoder.finish()?,
        };
        done.file.sync_all()?;
        Ok((done.bytes, hex(&done.sha256.finalize())))
    }
}

struct Digesting {
    file: File,
    sha256: Sha256,
    bytes: u64,
}

impl Write for Digesting {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        let n = self.file.write(buffer)?;
        self.sha256.update(&buffer[..n]);
        self.bytes += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_line_makes_a_dump_complete() {
        let written = |tail: &str| Written { bytes: 0, text_bytes: None, sha256: String::new(), tail: tail.into() };
        let end = "--\n-- PostgreSQL database dump complete\n--\n\n\\unrestrict abc\n\n";
        assert!(written(end).is_complete(DumpScope::Database));
        assert!(!written(end).is_complete(DumpScope::Cluster));
        assert!(!written("COPY t FROM stdin;\n1\n").is_complete(DumpScope::Database));
    }

    #[tokio::test]
    async fn a_full_disk_is_told_as_such() {
        // /dev/full fails every write with ENOSPC, but cannot be made anew: a link to it can be opened.
        let file = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut out = Out::new(file, None).unwrap();
        let error = out.write_all(b"x").unwrap_err();
        let step = StepError::io("write the dump", Path::new("x"), &error);
        assert_eq!(step.kind, ErrorKind::Resources);
    }
}
