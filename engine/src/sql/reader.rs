//! The streaming reader: bytes in, pieces out.
//!
//! Push and pull: [`Reader::push`] takes a chunk of any size, [`Reader::piece`] returns what is complete, `None` asks
//! for more, and [`Reader::finish`] says that there is no more. COPY data leave as soon as a line is there, so memory
//! grows with the longest statement only. How the input is cut into chunks changes neither statements nor errors,
//! only into how many pieces white space and COPY data fall.

use super::dump::{DumpFacts, Entry};
use super::error::{Problem, ReadError};
use super::lexer::Quoting;
use super::meta::{self, Meta, MetaCommand};
use super::scanner::{Scanner, Step};
use super::statement::Statement;

/// A long line of COPY data is handed on in parts when no newline is found in this many bytes.
const LONG_LINE: usize = 64 << 10;
/// A buffer that grew beyond this for one statement is given back.
const BUFFER_KEPT: usize = 16 << 20;

/// A stretch of the input; the bytes of all pieces, one after the other, are the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece<'a> {
    /// White space and comments between statements.
    Blank(&'a [u8]),
    /// A statement, from its first token to its semicolon.
    Statement(Statement<'a>),
    /// A `COPY … FROM stdin` statement; what follows up to [`Piece::CopyEnd`] (a blank newline, data) belongs to it.
    CopyStart(Statement<'a>),
    /// Rows in COPY text format: whole lines, or a part of a long one.
    CopyData(&'a [u8]),
    /// The line `\.`.
    CopyEnd(&'a [u8]),
    /// A psql command.
    Meta(Meta<'a>),
}

impl<'a> Piece<'a> {
    /// Returns the bytes of the input that the piece stands for.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        match self {
            Self::Blank(text) | Self::CopyData(text) | Self::CopyEnd(text) => text,
            Self::Statement(statement) | Self::CopyStart(statement) => statement.text,
            Self::Meta(meta) => meta.text,
        }
    }
}

/// What a [`Reader`] accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOptions {
    /// The longest statement, comment or psql line, in bytes.
    pub statement_limit: usize,
    /// Whether the last statement may end without a semicolon, as in a script written by hand. A dump that ends so
    /// is cut off.
    pub open_end: bool,
}

impl Default for ReadOptions {
    /// Statements up to 1 GiB (the server takes no more), each with its semicolon.
    fn default() -> Self {
        Self { statement_limit: 1 << 30, open_end: false }
    }
}

/// Where the next byte belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Sql,
    CopyLine,
    /// `fresh` = the next byte begins a line.
    CopyData {
        fresh: bool,
    },
}

/// Reads the plain text of a dump, chunk by chunk.
#[derive(Debug)]
pub struct Reader {
    options: ReadOptions,
    buffer: Vec<u8>,
    /// The first byte of `buffer` that no piece has taken.
    start: usize,
    last: bool,
    /// Offset and line of `start` in the input.
    offset: u64,
    line: u64,
    state: State,
    scanner: Scanner,
    facts: DumpFacts,
    entry: Option<Entry>,
    restricted: Option<String>,
}

impl Default for Reader {
    fn default() -> Self {
        Self::new(ReadOptions::default())
    }
}

impl Reader {
    /// Returns a reader at the beginning of its input.
    #[must_use]
    pub fn new(options: ReadOptions) -> Self {
        Self {
            options,
            buffer: Vec::new(),
            start: 0,
            last: false,
            offset: 0,
            line: 1,
            state: State::Sql,
            scanner: Scanner::new(),
            facts: DumpFacts::default(),
            entry: None,
            restricted: None,
        }
    }

    /// Takes the next bytes of the input. Take out the pieces first, or the buffer grows.
    pub fn push(&mut self, chunk: &[u8]) {
        if self.start > 0 {
            let rest = self.buffer.len() - self.start;
            self.buffer.copy_within(self.start.., 0);
            self.buffer.truncate(rest);
            self.start = 0;
            if self.buffer.capacity() > BUFFER_KEPT && rest < BUFFER_KEPT {
                self.buffer.shrink_to(BUFFER_KEPT);
            }
        }
        self.buffer.extend_from_slice(chunk);
    }

    /// Says that the input is complete.
    pub fn finish(&mut self) {
        self.last = true;
    }

    /// Returns what the dump has said about itself so far.
    #[must_use]
    pub fn facts(&self) -> &DumpFacts {
        &self.facts
    }

    /// Returns the archive entry in force.
    #[must_use]
    pub fn entry(&self) -> Option<&Entry> {
        self.entry.as_ref()
    }

    /// Returns the line of the next piece, counted from 1.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.line
    }

    /// Returns the next piece; `None` = push more, or after [`Reader::finish`], the end.
    ///
    /// # Errors
    /// When the text is no dump, is cut off, or holds a statement beyond the limit. The reader is of no use after.
    pub fn piece(&mut self) -> Result<Option<Piece<'_>>, ReadError> {
        match self.state {
            State::Sql => self.sql(),
            State::CopyLine => self.copy_line(),
            State::CopyData { fresh } => self.copy_data(fresh),
        }
    }

    fn pending(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    fn error(&self, problem: Problem, at: usize) -> ReadError {
        ReadError {
            problem,
            line: self.line + newlines(&self.pending()[..at]),
            offset: self.offset + at as u64,
            entry: self.entry.as_ref().map(ToString::to_string),
        }
    }

    /// Takes the first `n` bytes out of the buffer; returns where they are, and the offset and line they begin at.
    fn take(&mut self, n: usize) -> (std::ops::Range<usize>, u64, u64) {
        let range = self.start..self.start + n;
        let place = (self.offset, self.line);
        self.line += newlines(&self.buffer[range.clone()]);
        self.offset += n as u64;
        self.start += n;
        (range, place.0, place.1)
    }

    fn blank(&mut self, n: usize) -> Option<Piece<'_>> {
        let (range, ..) = self.take(n);
        (n > 0).then(|| Piece::Blank(&self.buffer[range]))
    }

    fn sql(&mut self) -> Result<Option<Piece<'_>>, ReadError> {
        loop {
            match self.scanner.step(&self.buffer[self.start..], self.last) {
                Step::Comment(from, to) => {
                    let comment = &self.buffer[self.start + from..self.start + to];
                    self.facts.note(comment, &mut self.entry);
                }
                Step::Begin(0) => {}
                Step::Begin(n) => {
                    self.scanner.forget(n);
                    return Ok(self.blank(n));
                }
                Step::End(n) if n > self.options.statement_limit => {
                    return Err(self.error(Problem::TooLong(self.options.statement_limit), 0));
                }
                Step::End(n) => {
                    let copy = self.scanner.is_copy_in();
                    let setting = self.scanner.may_be_setting();
                    return Ok(Some(self.statement(n, copy, setting)));
                }
                Step::Backslash(at) if self.scanner.begun() => return Err(self.error(Problem::CommandInside, at)),
                Step::Backslash(0) => return self.meta(),
                Step::Backslash(n) => {
                    self.scanner.forget(n);
                    return Ok(self.blank(n));
                }
                Step::More => return self.more(),
            }
        }
    }

    /// The scanner has used up the buffer: hands on what is settled, or ends the input.
    fn more(&mut self) -> Result<Option<Piece<'_>>, ReadError> {
        if !self.scanner.begun() {
            let settled = self.scanner.settled();
            if settled > 0 {
                self.scanner.forget(settled);
                return Ok(self.blank(settled));
            }
        }
        let pending = self.pending().len();
        if pending > self.options.statement_limit {
            return Err(self.error(Problem::TooLong(self.options.statement_limit), 0));
        }
        if !self.last {
            return Ok(None);
        }
        match self.scanner.open() {
            None => Ok(self.blank(pending)),
            Some(("a statement", _)) if self.options.open_end && !self.scanner.is_copy_in() => {
                Ok(Some(self.statement(pending, false, false)))
            }
            Some((what, at)) => Err(self.error(Problem::Unfinished(what), at)),
        }
    }

    fn statement(&mut self, n: usize, copy: bool, setting: bool) -> Piece<'_> {
        self.scanner.restart();
        let (range, offset, line) = self.take(n);
        if setting {
            let setting = Statement::new(&self.buffer[range.clone()]).setting();
            if let Some(setting) = setting {
                self.set(&setting.name, &setting.value);
            }
        }
        let quoting = self.scanner.plain;
        let statement = Statement { text: &self.buffer[range], offset, line, entry: self.entry.as_ref(), quoting };
        if copy {
            self.state = State::CopyLine;
            return Piece::CopyStart(statement);
        }
        Piece::Statement(statement)
    }

    /// Follows the settings that change how the text is to be read.
    fn set(&mut self, name: &str, value: &str) {
        match name {
            "standard_conforming_strings" => {
                let off = ["off", "false", "no", "0", "f", "n"].iter().any(|word| value.eq_ignore_ascii_case(word));
                self.scanner.plain = if off { self.scanner.escapes } else { Quoting::Plain };
            }
            "client_encoding" => {
                let key: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
                self.scanner.escapes = match key.to_ascii_uppercase().as_str() {
                    "SJIS" | "SHIFTJIS" | "MSKANJI" | "WIN932" | "WINDOWS932" | "SHIFTJIS2004" => Quoting::EscapesSjis,
                    "BIG5" | "WIN950" | "WINDOWS950" | "GBK" | "WIN936" | "WINDOWS936" | "GB18030" | "UHC"
                    | "WIN949" | "WINDOWS949" | "JOHAB" => Quoting::EscapesWide,
                    _ => Quoting::Escapes,
                };
                if self.scanner.plain != Quoting::Plain {
                    self.scanner.plain = self.scanner.escapes;
                }
                self.facts.encoding = Some(value.to_owned());
            }
            _ => {}
        }
    }

    fn meta(&mut self) -> Result<Option<Piece<'_>>, ReadError> {
        let end = match memchr::memchr(b'\n', self.pending()) {
            Some(at) => at + 1,
            None if self.last => self.pending().len(),
            None => return self.more(),
        };
        let command = MetaCommand::parse(&self.pending()[..end]).map_err(|problem| self.error(problem, 0))?;
        let fits = match (&command, &self.restricted) {
            (MetaCommand::Unrestrict { key }, Some(open)) => key == open,
            (MetaCommand::Unrestrict { .. }, None) | (_, Some(_)) => false,
            (_, None) => true,
        };
        if !fits {
            let word = meta::word(&String::from_utf8_lossy(&self.pending()[..end]));
            return Err(self.error(Problem::Restricted(word), 0));
        }
        match &command {
            MetaCommand::Restrict { key } => self.restricted = Some(key.clone()),
            MetaCommand::Unrestrict { .. } => self.restricted = None,
            MetaCommand::Connect { .. } => {
                // A new session reads strings as the server does by default.
                self.scanner.plain = Quoting::Plain;
                self.entry = None;
            }
            MetaCommand::Encoding { .. } => {}
        }
        self.scanner.restart();
        let (range, offset, line) = self.take(end);
        Ok(Some(Piece::Meta(Meta { text: &self.buffer[range], offset, line, command })))
    }

    fn copy_line(&mut self) -> Result<Option<Piece<'_>>, ReadError> {
        let Some(newline) = memchr::memchr(b'\n', self.pending()) else {
            return if self.last { Err(self.error(Problem::Unfinished("a COPY block"), 0)) } else { self.more() };
        };
        if !self.pending()[..newline].iter().all(u8::is_ascii_whitespace) {
            return Err(self.error(Problem::BehindCopy, 0));
        }
        self.state = State::CopyData { fresh: true };
        Ok(self.blank(newline + 1))
    }

    fn copy_data(&mut self, fresh: bool) -> Result<Option<Piece<'_>>, ReadError> {
        let pending = self.pending();
        if fresh && let Some(end) = end_marker(pending, self.last) {
            self.state = State::Sql;
            let (range, ..) = self.take(end);
            return Ok(Some(Piece::CopyEnd(&self.buffer[range])));
        }
        let mut from = 0;
        let data = loop {
            let Some(n) = memchr::memmem::find(&pending[from..], b"\n\\.") else {
                break match memchr::memrchr(b'\n', pending) {
                    Some(newline) => newline + 1,
                    // Keeps what may be the beginning of the end marker.
                    None if pending.len() > LONG_LINE => pending.len(),
                    None => 0,
                };
            };
            let line = from + n + 1;
            if end_marker(&pending[line..], self.last).is_some() {
                break line;
            }
            if memchr::memchr(b'\n', &pending[line..]).is_none() {
                break line;
            }
            from = line;
        };
        if data == 0 {
            let end = pending.len();
            return if self.last { Err(self.error(Problem::Unfinished("a COPY block"), end)) } else { Ok(None) };
        }
        self.state = State::CopyData { fresh: pending[data - 1] == b'\n' };
        let (range, ..) = self.take(data);
        Ok(Some(Piece::CopyData(&self.buffer[range])))
    }
}

/// Returns the length of the line `\.` if `text` begins with it.
fn end_marker(text: &[u8], last: bool) -> Option<usize> {
    let rest = text.strip_prefix(b"\\.")?;
    match rest {
        [b'\n', ..] => Some(3),
        [b'\r', b'\n', ..] => Some(4),
        [] | [b'\r'] if last => Some(text.len()),
        _ => None,
    }
}

fn newlines(text: &[u8]) -> u64 {
    memchr::memchr_iter(b'\n', text).count() as u64
}

#[cfg(test)]
#[path = "reader_tests.rs"]
mod tests;
