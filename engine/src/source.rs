//! Where a piece of a plan stands: the file and the range of bytes in it.

use std::{fmt, ops::Range, path::PathBuf, sync::Arc};

/// A file as it was read, kept whole so that a diagnostic can show its lines.
#[derive(PartialEq, Eq, Hash)]
pub struct SourceFile {
    /// The path as the user gave it; `<stdin>` or a made-up name for text that came from elsewhere.
    pub name: String,
    /// The folder against which relative paths inside the file are resolved.
    pub folder: PathBuf,
    /// The whole text, UTF-8.
    pub text: String,
}

impl fmt::Debug for SourceFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceFile({})", self.name)
    }
}

/// A range of bytes in a file.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// The file.
    pub file: Arc<SourceFile>,
    /// The bytes, start inclusive, end exclusive.
    pub span: Range<usize>,
}

impl Place {
    /// Returns the place of these bytes in `file`.
    #[must_use]
    pub fn new(file: &Arc<SourceFile>, span: Range<usize>) -> Self {
        Self { file: Arc::clone(file), span }
    }

    /// Returns the line and column of the first byte, both counted from 1; columns count characters.
    #[must_use]
    pub fn line_column(&self) -> (usize, usize) {
        let before = &self.file.text[..self.span.start.min(self.file.text.len())];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for Place {
    /// Writes `file:line:column`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.line_column();
        write!(f, "{}:{line}:{column}", self.file.name)
    }
}
