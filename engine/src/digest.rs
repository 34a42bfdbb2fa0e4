//! A fingerprint of rows that does not depend on their order: equal for equal multisets of lines.
//!
//! Every row (a line in COPY text format, in which no line break stands inside a row, or the bytes of a row in binary
//! format) is hashed with BLAKE3 and the hashes are added as 256-bit numbers. Addition forgets the order and nothing else: a row more, a row less, a row
//! twice or a changed byte gives another sum, but for a chance of 2^-256. Memory is constant, and sums of parts add up.

mod binary;

use std::fmt;

pub use binary::{BinaryDigest, NotBinary};
use memchr::memchr;
use serde::{Deserialize, Serialize};

/// A sum of row hashes, modulo 2^256.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Digest([u64; 4]);

impl Digest {
    fn add(&mut self, other: [u64; 4]) {
        let mut carry = false;
        for (mine, theirs) in self.0.iter_mut().zip(other) {
            let (sum, over) = mine.overflowing_add(theirs);
            let (sum, again) = sum.overflowing_add(u64::from(carry));
            (*mine, carry) = (sum, over || again);
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().rev().try_for_each(|word| write!(f, "{word:016x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error as _;
        let text = String::deserialize(deserializer)?;
        let mut words = [0; 4];
        for (at, word) in words.iter_mut().enumerate() {
            let part =
                text.get((3 - at) * 16..(4 - at) * 16).ok_or_else(|| D::Error::custom("a digest is too short"))?;
            *word = u64::from_str_radix(part, 16).map_err(D::Error::custom)?;
        }
        Ok(Self(words))
    }
}

/// What is known of the rows of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rows {
    /// How many rows.
    pub rows: u64,
    /// Bytes of them as they were sent, without line ends.
    pub bytes: u64,
    /// The sum of their hashes.
    pub digest: Digest,
}

impl std::ops::AddAssign for Rows {
    /// Adds other rows, as if they stood in the same table.
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.digest.add(other.digest.0);
    }
}

impl Rows {
    /// Adds one row.
    fn add(&mut self, row: &[u8]) {
        self.rows += 1;
        self.bytes += row.len() as u64;
        let hash = *blake3::hash(row).as_bytes();
        let mut words = [0; 4];
        for (word, bytes) in words.iter_mut().zip(hash.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        self.digest.add(words);
    }
}

/// Adds up lines that come in pieces of any size.
#[derive(Debug, Default)]
pub struct LineDigest {
    sum: Rows,
    /// The beginning of a line whose end has not come yet.
    open: Vec<u8>,
}

impl LineDigest {
    /// Takes the next piece of the stream.
    pub fn push(&mut self, mut piece: &[u8]) {
        while let Some(end) = memchr(b'\n', piece) {
            if self.open.is_empty() {
                self.line(&piece[..end]);
            } else {
                self.open.extend_from_slice(&piece[..end]);
                let line = std::mem::take(&mut self.open);
                self.line(&line);
                self.open = line;
                self.open.clear();
            }
            piece = &piece[end + 1..];
        }
        self.open.extend_from_slice(piece);
    }

    fn line(&mut self, line: &[u8]) {
        self.sum.add(line);
    }

    /// Returns the sum so far; a line without its end is not in it.
    #[must_use]
    pub fn sum(&self) -> Rows {
        self.sum
    }

    /// Returns the sum of all lines; what stands after the last line end counts as a line.
    #[must_use]
    pub fn finish(mut self) -> Rows {
        if !self.open.is_empty() {
            let line = std::mem::take(&mut self.open);
            self.line(&line);
        }
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Digest, LineDigest, Rows};

    fn of(text: &str) -> Rows {
        let mut digest = LineDigest::default();
        digest.push(text.as_bytes());
        digest.finish()
    }

    #[test]
    fn order_does_not_count_and_everything_else_does() {
        let rows = of("1\ta\n2\tb\n2\tb\n");
        assert_eq!(rows, of("2\tb\n1\ta\n2\tb\n"));
        for other in ["1\ta\n2\tb\n", "1\ta\n2\tb\n2\tb\n2\tb\n", "1\tb\n2\ta\n2\tb\n", "1\ta\n2\tb\n2\tc\n", ""] {
            assert_ne!(rows.digest, of(other).digest, "{other:?}");
        }
        assert_eq!((rows.rows, rows.bytes), (3, 9));
        assert_eq!(of("\n\n").rows, 2);
    }

    #[test]
    fn a_carry_goes_to_the_next_word_and_the_text_reads_back() {
        let mut digest = Digest([u64::MAX, u64::MAX, 7, 0]);
        digest.add([1, 0, 0, 0]);
        assert_eq!(digest, Digest([0, 0, 8, 0]));
        let json = serde_json::to_string(&digest).unwrap();
        assert_eq!(serde_json::from_str::<Digest>(&json).unwrap(), digest);
    }

    proptest! {
        #[test]
        fn the_size_of_the_pieces_does_not_count(text in "[ab\n]{0,200}", size in 1_usize..9) {
            let mut cut = LineDigest::default();
            text.as_bytes().chunks(size).for_each(|piece| cut.push(piece));
            prop_assert_eq!(cut.finish(), of(&text));
        }
    }
}
