//! Keys of several databases side by side: each server sends its own in order, and they are merged as they come.
//!
//! Memory does not grow with the data: of each stream only what has not been compared yet is held.

use std::{cmp::Ordering, pin::Pin};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio_postgres::CopyOutStream;

use crate::{
    error::{ErrorKind, StepError},
    postgres::Session,
};

/// A key and where it is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// The key, in an encoding whose order is that of its stream.
    pub(super) key: Vec<u8>,
    /// The number of where it is from.
    pub(super) source: i64,
}

impl Key {
    /// Returns the key for people: the values as PostgreSQL writes an array of them.
    pub(super) fn shown(&self) -> String {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).unwrap_or(0);
        let bytes: Vec<u8> =
            self.key.as_chunks::<2>().0.iter().map(|[high, low]| digit(*high) << 4 | digit(*low)).collect();
        String::from_utf8_lossy(&bytes).trim_start_matches('{').trim_end_matches('}').replace(',', ", ")
    }
}

/// The keys of one database.
pub(super) struct Keys<'a> {
    session: &'a Session,
    stream: Pin<Box<CopyOutStream>>,
    pending: BytesMut,
    ended: bool,
    next: Option<Key>,
}

impl<'a> Keys<'a> {
    /// Asks for keys by a COPY statement that sends `key TAB number` in order.
    pub(super) async fn open(session: &'a Session, copy: &str) -> Result<Self, StepError> {
        let stream = session.client().copy_out(copy).await.map_err(|error| session.error("read keys", &error))?;
        let mut keys = Self { session, stream: Box::pin(stream), pending: BytesMut::new(), ended: false, next: None };
        keys.step().await?;
        Ok(keys)
    }

    async fn step(&mut self) -> Result<(), StepError> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.pending) {
                let line = self.pending.split_to(end);
                self.pending.advance(1);
                self.next = Some(key_of(&line)?);
                return Ok(());
            }
            if self.ended {
                self.next = None;
                return Ok(());
            }
            match self.stream.next().await {
                Some(piece) => {
                    let piece: Bytes = piece.map_err(|error| self.session.error("read keys", &error))?;
                    self.pending.extend_from_slice(&piece);
                }
                None => self.ended = true,
            }
        }
    }
}

fn key_of(line: &[u8]) -> Result<Key, StepError> {
    let wrong = || StepError::new(ErrorKind::Internal, "a key came in a form that cannot be read");
    let tab = memchr::memchr(b'\t', line).ok_or_else(wrong)?;
    let source = std::str::from_utf8(&line[tab + 1..]).ok().and_then(|text| text.parse().ok()).ok_or_else(wrong)?;
    Ok(Key { key: line[..tab].to_vec(), source })
}

/// Several databases' keys as one ordered sequence.
pub(super) struct Merged<'a>(Vec<Keys<'a>>);

impl<'a> Merged<'a> {
    pub(super) fn new(streams: Vec<Keys<'a>>) -> Self {
        Self(streams)
    }

    /// Returns the smallest key that is left.
    pub(super) async fn next(&mut self) -> Result<Option<Key>, StepError> {
        let ahead = |keys: &&mut Keys<'_>| keys.next.is_some();
        let smallest = self.0.iter_mut().filter(ahead).min_by(|a, b| match (&a.next, &b.next) {
            (Some(a), Some(b)) => a.key.cmp(&b.key).then(a.source.cmp(&b.source)),
            _ => Ordering::Equal,
        });
        let Some(keys) = smallest else { return Ok(None) };
        let key = keys.next.take();
        keys.step().await?;
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::{Key, key_of};

    #[test]
    fn keys_read_back() {
        let key = key_of(b"7b312c61627d\t-1").unwrap();
        assert_eq!(key, Key { key: b"7b312c61627d".to_vec(), source: -1 });
        assert_eq!(key.shown(), "1, ab");
        assert!(key_of(b"no number").is_err());
    }
}
