//! Rows in COPY binary format (PostgreSQL manual, COPY, "Binary Format").

use super::Rows;

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// Signature, flags, length of the extension.
const HEADER: usize = SIGNATURE.len() + 8;

/// The stream is not COPY binary format, or ended before its trailer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the rows did not come in COPY binary format to their end")]
pub struct NotBinary;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Stage {
    #[default]
    Header,
    Rows,
    Over,
    Wrong,
}

/// Adds up rows in binary format that come in pieces of any size.
#[derive(Debug, Default)]
pub struct BinaryDigest {
    sum: Rows,
    stage: Stage,
    /// The beginning of a row whose end has not come yet.
    open: Vec<u8>,
}

impl BinaryDigest {
    /// Takes the next piece of the stream.
    pub fn push(&mut self, piece: &[u8]) {
        if self.open.is_empty() {
            let taken = self.take(piece);
            self.open.extend_from_slice(&piece[taken..]);
        } else {
            let mut open = std::mem::take(&mut self.open);
            open.extend_from_slice(piece);
            let taken = self.take(&open);
            open.drain(..taken);
            self.open = open;
        }
    }

    /// Takes whole rows from the front and returns how many bytes they are.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        loop {
            let rest = &bytes[at..];
            let length = match self.stage {
                Stage::Header => match header(rest) {
                    Ok(Some(length)) => {
                        self.stage = Stage::Rows;
                        length
                    }
                    Ok(None) => return at,
                    Err(NotBinary) => {
                        self.stage = Stage::Wrong;
                        return at;
                    }
                },
                Stage::Rows => match row(rest) {
                    Some(Row::Fields(length)) => {
                        self.sum.add(&rest[..length]);
                        length
                    }
                    Some(Row::Trailer) => {
                        self.stage = Stage::Over;
                        2
                    }
                    None => return at,
                },
                Stage::Over | Stage::Wrong => return at,
            };
            at += length;
        }
    }

    /// Returns the sum so far.
    #[must_use]
    pub fn sum(&self) -> Rows {
        self.sum
    }

    /// Returns the sum of all rows.
    ///
    /// # Errors
    /// When the stream was not in binary format or is not complete.
    pub fn finish(self) -> Result<Rows, NotBinary> {
        if self.stage == Stage::Over && self.open.is_empty() { Ok(self.sum) } else { Err(NotBinary) }
    }
}

fn header(bytes: &[u8]) -> Result<Option<usize>, NotBinary> {
    let known = bytes.len().min(SIGNATURE.len());
    if bytes[..known] != SIGNATURE[..known] {
        return Err(NotBinary);
    }
    let extension = bytes.get(SIGNATURE.len() + 4..HEADER).and_then(|bytes| bytes.first_chunk());
    let length = extension.map(|bytes| HEADER + u32::from_be_bytes(*bytes) as usize);
    Ok(length.filter(|length| *length <= bytes.len()))
}

enum Row {
    /// A row of this many bytes.
    Fields(usize),
    Trailer,
}

/// Returns what stands at the front; `None` when its end has not come yet.
fn row(bytes: &[u8]) -> Option<Row> {
    let Ok(fields) = u16::try_from(i16::from_be_bytes(*bytes.first_chunk()?)) else { return Some(Row::Trailer) };
    let mut at = 2_usize;
    for _ in 0..fields {
        let length = i32::from_be_bytes(*bytes.get(at..)?.first_chunk()?);
        // NULL has the length -1 and no bytes.
        at += 4 + usize::try_from(length).unwrap_or(0);
    }
    (at <= bytes.len()).then_some(Row::Fields(at))
}

#[cfg(test)]
mod tests {
    use super::{BinaryDigest, NotBinary, SIGNATURE};

    fn stream(rows: &[&[Option<&str>]]) -> Vec<u8> {
        let mut bytes = [SIGNATURE, &[0; 8]].concat();
        for row in rows {
            bytes.extend(i16::try_from(row.len()).unwrap().to_be_bytes());
            for field in *row {
                let length = field.map_or(-1, |text| i32::try_from(text.len()).unwrap());
                bytes.extend(length.to_be_bytes());
                bytes.extend(field.unwrap_or_default().as_bytes());
            }
        }
        bytes.extend((-1_i16).to_be_bytes());
        bytes
    }

    fn of(bytes: &[u8], size: usize) -> Result<super::Rows, NotBinary> {
        let mut digest = BinaryDigest::default();
        bytes.chunks(size).for_each(|piece| digest.push(piece));
        digest.finish()
    }

    #[test]
    fn neither_the_order_nor_the_pieces_count() {
        let (one, two): (&[_], &[_]) = (&[Some("1"), None], &[Some(""), Some("b\n")]);
        let rows = of(&stream(&[one, two, two]), 1 << 20).unwrap();
        assert_eq!(rows.rows, 3);
        for size in 1..40 {
            assert_eq!(of(&stream(&[two, one, two]), size), Ok(rows));
        }
        let null_moved: &[_] = &[None, Some("1")];
        assert_ne!(of(&stream(&[null_moved, two, two]), 7), Ok(rows));
        assert_eq!(of(&stream(&[]), 3).unwrap().rows, 0);
    }

    #[test]
    fn what_is_cut_or_something_else_is_no_digest() {
        let whole = stream(&[&[Some("1")]]);
        for end in 0..whole.len() {
            assert_eq!(of(&whole[..end], 5), Err(NotBinary), "{end}");
        }
        assert_eq!(of(b"1\ta\n", 64), Err(NotBinary));
    }
}
