//! Finds where statements begin and end, and can stop at any byte.
//!
//! The rules are psql's (`psqlscan.l`): a semicolon ends a statement unless it stands in a string, an identifier, a
//! comment, parentheses (`CREATE RULE … DO (a; b)`) or a `BEGIN ATOMIC … END` body. Unlike psql, only `BEGIN ATOMIC`
//! opens a body, and `END` and `CASE` count only where they can be keywords.

use super::lexer::{Quoting, block_comment_end, closing_quote, dollar_tag, is_space, starts_word, word_end};

/// What the scanner came upon; positions count from the first byte it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// The bytes are used up.
    More,
    /// A whole comment outside of a statement.
    Comment(usize, usize),
    /// The first byte of a statement.
    Begin(usize),
    /// A backslash outside of strings.
    Backslash(usize),
    /// The byte behind the semicolon of a statement.
    End(usize),
}

/// The construct around the next byte; `start` is where it begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Between,
    Word { start: usize },
    Quoted { start: usize },
    String { start: usize, quoting: Quoting },
    Dollar { start: usize, len: usize },
    Line { start: usize },
    Block { start: usize, depth: u32 },
}

/// What the words so far say about the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Start,
    Copy { from: bool, stdin: bool },
    Create { words: u8 },
    Routine { begin: bool },
    Atomic { depth: u32, label: bool },
    Setting,
    Plain,
}

/// A string just closed, which a quote may go on with: at once, or after white space that holds a newline.
#[derive(Debug, Clone, Copy)]
struct Reopen {
    end: usize,
    newline: bool,
    quoting: Quoting,
}

/// The state between two bytes.
#[derive(Debug)]
pub(super) struct Scanner {
    /// The next byte to look at.
    pos: usize,
    mode: Mode,
    begun: bool,
    parens: u32,
    shape: Shape,
    reopen: Option<Reopen>,
    /// How `'…'` without a prefix is read.
    pub(super) plain: Quoting,
    /// How `E'…'` is read.
    pub(super) escapes: Quoting,
}

impl Scanner {
    pub(super) fn new() -> Self {
        let (plain, escapes) = (Quoting::Plain, Quoting::Escapes);
        let mode = Mode::Between;
        Self { pos: 0, mode, begun: false, parens: 0, shape: Shape::Start, reopen: None, plain, escapes }
    }

    /// Forgets the statement; the next byte given is the first of what follows.
    pub(super) fn restart(&mut self) {
        (self.pos, self.mode, self.begun, self.parens) = (0, Mode::Between, false, 0);
        (self.shape, self.reopen) = (Shape::Start, None);
    }

    /// Says that the first `n` bytes, all of them before a statement, will not be given again.
    pub(super) fn forget(&mut self, n: usize) {
        self.pos -= n;
        if let Mode::Line { start } | Mode::Block { start, .. } = &mut self.mode {
            *start -= n;
        }
    }

    /// Returns how many bytes before the next statement or comment are done with.
    pub(super) fn settled(&self) -> usize {
        match self.mode {
            Mode::Line { start } | Mode::Block { start, .. } => start,
            _ => self.pos,
        }
    }

    /// Returns whether a statement has begun.
    pub(super) fn begun(&self) -> bool {
        self.begun
    }

    /// Returns whether the statement is `COPY … FROM stdin`, whose data follows it.
    pub(super) fn is_copy_in(&self) -> bool {
        matches!(self.shape, Shape::Copy { stdin: true, .. })
    }

    /// Returns whether the statement begins with `SET` or `SELECT`.
    pub(super) fn may_be_setting(&self) -> bool {
        self.shape == Shape::Setting
    }

    /// Returns the construct that is open at the end of the input and where it began.
    pub(super) fn open(&self) -> Option<(&'static str, usize)> {
        match self.mode {
            Mode::String { start, .. } => Some(("a string", start)),
            Mode::Quoted { start } => Some(("a quoted identifier", start)),
            Mode::Dollar { start, .. } => Some(("a dollar-quoted string", start)),
            Mode::Block { start, .. } => Some(("a comment", start)),
            Mode::Between | Mode::Word { .. } | Mode::Line { .. } => self.begun.then_some(("a statement", 0)),
        }
    }

    /// Goes on over `text`, which begins with the same bytes as at the call before; `last` = no more will come.
    pub(super) fn step(&mut self, text: &[u8], last: bool) -> Step {
        loop {
            let step = match self.mode {
                Mode::Between => self.between(text, last),
                _ => self.inside(text, last),
            };
            if let Some(step) = step {
                return step;
            }
        }
    }

    fn between(&mut self, text: &[u8], last: bool) -> Option<Step> {
        while let Some(&byte) = text.get(self.pos) {
            if is_space(byte) {
                if let (b'\n' | b'\r', Some(reopen)) = (byte, &mut self.reopen) {
                    reopen.newline = true;
                }
                self.pos += 1;
                continue;
            }
            if let b'-' | b'/' = byte {
                match text.get(self.pos + 1) {
                    None if !last => return Some(Step::More),
                    Some(b'-') if byte == b'-' => self.mode = Mode::Line { start: self.pos },
                    Some(b'*') if byte == b'/' => self.mode = Mode::Block { start: self.pos, depth: 1 },
                    _ => {}
                }
                if self.mode != Mode::Between {
                    self.pos += 2;
                    return None;
                }
            }
            if byte == b'\\' {
                return Some(Step::Backslash(self.pos));
            }
            if !self.begun {
                self.begun = true;
                return Some(Step::Begin(self.pos));
            }
            if starts_word(byte) || byte.is_ascii_digit() {
                let start = self.pos;
                self.pos = word_end(text, start + 1);
                if self.pos == text.len() && !last {
                    self.mode = Mode::Word { start };
                    return Some(Step::More);
                }
                self.word(text, start);
                if self.mode != Mode::Between {
                    return None;
                }
                continue;
            }
            if byte == b'$' {
                // The length is found once all of the tag is there.
                self.mode = Mode::Dollar { start: self.pos, len: 0 };
                return None;
            }
            if self.symbol(byte) {
                return Some(Step::End(self.pos));
            }
            if self.mode != Mode::Between {
                return None;
            }
        }
        Some(Step::More)
    }

    /// Takes one byte that is neither space nor part of a word or comment; true = it ends the statement.
    fn symbol(&mut self, byte: u8) -> bool {
        let start = self.pos;
        self.pos += 1;
        let reopen = self.reopen.take();
        match byte {
            b'\'' => {
                let again = reopen.filter(|r| r.newline || r.end == start);
                self.mode = Mode::String { start, quoting: again.map_or(self.plain, |r| r.quoting) };
            }
            b'"' => self.mode = Mode::Quoted { start },
            b'(' => self.parens += 1,
            b')' => self.parens = self.parens.saturating_sub(1),
            b';' if self.parens == 0 && !matches!(self.shape, Shape::Atomic { .. }) => return true,
            _ => {}
        }
        self.other(byte);
        false
    }

    fn inside(&mut self, text: &[u8], last: bool) -> Option<Step> {
        let (next, reopen) = match self.mode {
            Mode::Between => return None,
            Mode::Word { start } => {
                self.pos = word_end(text, self.pos);
                if self.pos == text.len() && !last {
                    return Some(Step::More);
                }
                self.mode = Mode::Between;
                self.word(text, start);
                return None;
            }
            Mode::Quoted { .. } => {
                (memchr::memchr(b'"', &text[self.pos..]).map(|n| self.pos + n + 1).ok_or(text.len()), None)
            }
            Mode::String { quoting, .. } => {
                let found = closing_quote(text, self.pos, quoting).map(|at| at + 1);
                let reopen = found.ok().map(|end| Reopen { end, newline: false, quoting });
                (found, reopen)
            }
            Mode::Dollar { start, len: 0 } => return self.dollar(text, start, last),
            Mode::Dollar { start, len } => {
                let tag = &text[start..start + len];
                let found = memchr::memmem::find(&text[self.pos..], tag).map(|n| self.pos + n + len);
                (found.ok_or(self.pos.max((text.len() + 1).saturating_sub(len))), None)
            }
            Mode::Line { start } => {
                let found = memchr::memchr(b'\n', &text[self.pos..]).map(|n| self.pos + n);
                return self.comment(start, found.or(last.then_some(text.len())).ok_or(text.len()));
            }
            Mode::Block { start, depth } => {
                let found = block_comment_end(text, self.pos, depth).map_err(|(at, depth)| {
                    self.mode = Mode::Block { start, depth };
                    at
                });
                return self.comment(start, found);
            }
        };
        match next {
            Ok(end) => {
                (self.pos, self.mode, self.reopen) = (end, Mode::Between, reopen);
                None
            }
            Err(resume) => {
                self.pos = resume;
                Some(Step::More)
            }
        }
    }

    fn dollar(&mut self, text: &[u8], start: usize, last: bool) -> Option<Step> {
        let tag = match dollar_tag(text, start) {
            Err(()) if !last => return Some(Step::More),
            Err(()) => None,
            Ok(tag) => tag,
        };
        self.reopen = None;
        self.other(b'$');
        self.pos = tag.unwrap_or(start + 1);
        self.mode = tag.map_or(Mode::Between, |end| Mode::Dollar { start, len: end - start });
        None
    }

    fn comment(&mut self, start: usize, end: Result<usize, usize>) -> Option<Step> {
        match end {
            Ok(end) => {
                (self.pos, self.mode) = (end, Mode::Between);
                (!self.begun).then_some(Step::Comment(start, end))
            }
            Err(resume) => {
                self.pos = resume;
                Some(Step::More)
            }
        }
    }

    /// Takes the word or number that ends at `pos`; opens the string that the word is the prefix of.
    fn word(&mut self, text: &[u8], start: usize) {
        let word = &text[start..self.pos];
        self.reopen = None;
        if text.get(self.pos) == Some(&b'\'') {
            let quoting = match word {
                b"e" | b"E" => Some(self.escapes),
                b"b" | b"B" | b"x" | b"X" => Some(Quoting::Plain),
                _ => None,
            };
            if let Some(quoting) = quoting {
                self.mode = Mode::String { start, quoting };
                self.pos += 1;
                self.other(b'\'');
                return;
            }
        }
        let is = |keyword: &str| word.eq_ignore_ascii_case(keyword.as_bytes());
        self.shape = match self.shape {
            Shape::Plain | Shape::Setting => return,
            Shape::Start if is("COPY") => Shape::Copy { from: false, stdin: false },
            Shape::Start if is("CREATE") => Shape::Create { words: 0 },
            Shape::Start if is("SET") || is("SELECT") => Shape::Setting,
            Shape::Start => Shape::Plain,
            Shape::Copy { .. } if self.parens > 0 => return,
            Shape::Copy { from, stdin } => Shape::Copy { from: is("FROM"), stdin: stdin || (from && is("STDIN")) },
            Shape::Create { words: 0 } if is("OR") => Shape::Create { words: 1 },
            Shape::Create { words: 1 } if is("REPLACE") => Shape::Create { words: 2 },
            Shape::Create { words: 0 | 2 } if is("FUNCTION") || is("PROCEDURE") => Shape::Routine { begin: false },
            Shape::Create { .. } => Shape::Plain,
            Shape::Routine { begin: true } if is("ATOMIC") => Shape::Atomic { depth: 1, label: false },
            Shape::Routine { .. } => Shape::Routine { begin: self.parens == 0 && is("BEGIN") },
            Shape::Atomic { depth: 1, label: false } if is("END") => Shape::Plain,
            Shape::Atomic { depth, label: false } if is("END") => Shape::Atomic { depth: depth - 1, label: false },
            Shape::Atomic { depth, label: false } if is("CASE") => Shape::Atomic { depth: depth + 1, label: false },
            Shape::Atomic { depth, .. } => Shape::Atomic { depth, label: is("AS") },
        };
    }

    /// Takes a token that is no word.
    fn other(&mut self, byte: u8) {
        match &mut self.shape {
            Shape::Plain | Shape::Setting => {}
            Shape::Start | Shape::Create { .. } => self.shape = Shape::Plain,
            Shape::Copy { from, .. } => *from = false,
            Shape::Routine { begin } => *begin = false,
            Shape::Atomic { label, .. } => *label = byte == b'.',
        }
    }
}
