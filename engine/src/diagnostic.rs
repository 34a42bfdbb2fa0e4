//! What is wrong with a plan, where, and what to do about it. The only file that knows miette.

use std::{
    fmt,
    ops::Range,
    sync::{Arc, LazyLock},
};

use regex::Regex;

use crate::source::{Place, SourceFile};

/// How bad a [`Diagnostic`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The plan can run; the reader should know.
    Warning,
    /// The plan cannot run.
    Error,
}

/// One problem of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// A stable name in snake case, listed in the reference.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// One line, lower case, without a final period.
    pub message: String,
    /// Places with what is to be said about each; the first is where the problem is.
    pub labels: Vec<(Place, String)>,
    /// What to do.
    pub help: Option<String>,
    /// Places whose text must not be shown: they hold what should have been a secret.
    pub hidden: Vec<Place>,
}

impl Diagnostic {
    /// Returns an error with this code and one-line message.
    #[must_use]
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            message: message.into(),
            labels: Vec::new(),
            help: None,
            hidden: Vec::new(),
        }
    }

    /// Returns a warning with this code and one-line message.
    #[must_use]
    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, message) }
    }

    /// Returns the diagnostic with one more place and what is to be said about it.
    #[must_use]
    pub fn at(mut self, place: &Place, label: impl Into<String>) -> Self {
        self.labels.push((place.clone(), label.into()));
        self
    }

    /// Returns the diagnostic with one more place whose text is never shown, whatever is reported near it.
    #[must_use]
    pub fn hide(mut self, place: &Place) -> Self {
        self.hidden.push(place.clone());
        self
    }

    /// Returns the diagnostic with what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Returns the diagnostic with a help, where there is one.
    #[must_use]
    pub fn maybe_help(mut self, help: Option<impl Into<String>>) -> Self {
        self.help = help.map(Into::into).or(self.help);
        self
    }

    /// Returns where the problem is; `None` when it is no place in a file.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        self.labels.first().map(|(place, _)| place)
    }

    /// Returns the diagnostic as JSON: code, severity, message, help, and labels with file, line and column.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let labels = self.labels.iter().map(|(place, label)| {
            let (line, column) = place.line_column();
            serde_json::json!({
                "file": place.file.name, "line": line, "column": column,
                "start": place.span.start, "end": place.span.end, "label": label,
            })
        });
        serde_json::json!({
            "code": self.code, "severity": self.severity, "message": self.message, "help": self.help,
            "labels": labels.collect::<Vec<_>>(),
        })
    }

    /// Returns what miette shows: the labels of the first file, and one related part for each further file.
    #[must_use]
    pub fn report(&self) -> Report {
        let mut files: Vec<Arc<SourceFile>> = Vec::new();
        for (place, _) in &self.labels {
            if !files.iter().any(|file| Arc::ptr_eq(file, &place.file)) {
                files.push(Arc::clone(&place.file));
            }
        }
        let spans = |file: &Arc<SourceFile>| {
            self.labels.iter().filter(|(place, _)| Arc::ptr_eq(file, &place.file)).map(span).collect()
        };
        let mut files = files.into_iter();
        let file = files.next();
        Report {
            message: self.message.clone(),
            code: Some(self.code),
            severity: match self.severity {
                Severity::Warning => miette::Severity::Warning,
                Severity::Error => miette::Severity::Error,
            },
            help: self.help.clone(),
            labels: file.as_ref().map_or_else(Vec::new, spans),
            source: file.map(|file| Source::of(&file, &self.hidden)),
            related: files
                .map(|file| Report {
                    message: format!("see also {}", file.name),
                    code: None,
                    severity: miette::Severity::Advice,
                    help: None,
                    labels: spans(&file),
                    source: Some(Source::of(&file, &self.hidden)),
                    related: Vec::new(),
                })
                .collect(),
        }
    }
}

impl fmt::Display for Diagnostic {
    /// Writes `file:line:column: error[code]: message`, one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.place() {
            write!(f, "{place}: ")?;
        }
        let severity = match self.severity {
            Severity::Warning => "warning",
            Severity::Error => "error",
        };
        write!(f, "{severity}[{}]: {}", self.code, self.message)
    }
}

/// A [`Diagnostic`] in the form that miette's handlers show.
#[derive(Debug)]
pub struct Report {
    message: String,
    code: Option<&'static str>,
    severity: miette::Severity,
    help: Option<String>,
    source: Option<Source>,
    labels: Vec<miette::LabeledSpan>,
    related: Vec<Report>,
}

fn span((place, label): &(Place, String)) -> miette::LabeledSpan {
    let label = (!label.is_empty()).then(|| label.clone());
    miette::LabeledSpan::new(label, place.span.start, place.span.len())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Report {}

impl miette::Diagnostic for Report {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.code.map(|code| Box::new(code) as Box<dyn fmt::Display>)
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(self.severity)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn miette::SourceCode> {
        self.source.as_ref().map(|source| source as &dyn miette::SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = miette::LabeledSpan> + '_>> {
        Some(Box::new(self.labels.iter().cloned()))
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn miette::Diagnostic> + 'a>> {
        if self.related.is_empty() {
            return None;
        }
        Some(Box::new(self.related.iter().map(|report| report as &dyn miette::Diagnostic)))
    }
}

/// A file as miette reads it, under its own name, with passwords masked: a report may end in a public log.
#[derive(Debug)]
struct Source {
    name: String,
    text: String,
}

impl Source {
    fn of(file: &Arc<SourceFile>, hidden: &[Place]) -> Self {
        let hidden = hidden.iter().filter(|place| Arc::ptr_eq(&place.file, file));
        let hidden: Vec<Range<usize>> = hidden.map(|place| place.span.clone()).collect();
        Self { name: file.name.clone(), text: masked(&file.text, &hidden) }
    }
}

/// Returns the text with the hidden ranges, and passwords that stand in it, replaced by stars; every byte keeps its
/// place.
fn masked(text: &str, hidden: &[Range<usize>]) -> String {
    static PASSWORD: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(
            r#"(?xi) ://[^\s:/@"'{}]*: (?P<url>[^\s/"'{}]+) @
            | \b(?:password|passwd|pwd|secret|token)["']?\s*[:=]\s*(?P<named>"[^"\n]*"|'[^'\n]*'|[^\s,}"'\[{]+)"#,
        )
        .ok()
    });
    let mut bytes = text.as_bytes().to_vec();
    for byte in hidden.iter().flat_map(|range| range.clone()) {
        if let Some(byte) = bytes.get_mut(byte).filter(|byte| **byte != b'\n') {
            *byte = b'*';
        }
    }
    for found in PASSWORD.iter().flat_map(|password| password.captures_iter(text)) {
        for group in [found.name("url"), found.name("named")].into_iter().flatten() {
            if !group.as_str().contains("${{") {
                bytes[group.range()].fill(b'*');
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_default()
}

impl miette::SourceCode for Source {
    fn read_span<'a>(
        &'a self,
        span: &miette::SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn miette::SpanContents<'a> + 'a>, miette::MietteError> {
        let contents = self.text.read_span(span, before, after)?;
        Ok(Box::new(miette::MietteSpanContents::new_named(
            self.name.clone(),
            contents.data(),
            *contents.span(),
            contents.line(),
            contents.column(),
            contents.line_count(),
        )))
    }
}

/// All problems of a plan, gathered so that one report shows them together.
#[derive(Debug, Clone, Default)]
pub struct Problems {
    list: Vec<Diagnostic>,
}

impl Problems {
    /// Adds one.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.list.push(diagnostic);
    }

    /// Adds all of these.
    pub fn extend(&mut self, diagnostics: impl IntoIterator<Item = Diagnostic>) {
        self.list.extend(diagnostics);
    }

    /// Returns whether one of them is an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    /// Returns how many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Returns them file by file from top to bottom, each once.
    #[must_use]
    pub fn into_sorted(self) -> Vec<Diagnostic> {
        let hidden: Vec<Place> = self.list.iter().flat_map(|one| one.hidden.iter().cloned()).collect();
        let mut files: Vec<Arc<SourceFile>> = Vec::new();
        let mut keyed: Vec<(Option<usize>, usize, Diagnostic)> = Vec::new();
        for mut diagnostic in self.list {
            diagnostic.hidden.clone_from(&hidden);
            let (file, start) = match diagnostic.place() {
                None => (None, 0),
                Some(place) => {
                    let known = files.iter().position(|file| Arc::ptr_eq(file, &place.file));
                    let index = known.unwrap_or_else(|| {
                        files.push(Arc::clone(&place.file));
                        files.len() - 1
                    });
                    (Some(index), place.span.start)
                }
            };
            keyed.push((file, start, diagnostic));
        }
        keyed.sort_by_key(|(file, start, _)| (*file, *start));
        let mut list: Vec<Diagnostic> = keyed.into_iter().map(|(_, _, diagnostic)| diagnostic).collect();
        let mut seen = Vec::new();
        list.retain(|one| {
            let same_place = |other: &Diagnostic| other.place() == one.place();
            seen.retain(same_place);
            let new = !seen.contains(one);
            seen.push(one.clone());
            new
        });
        list
    }
}

impl IntoIterator for Problems {
    type Item = Diagnostic;
    type IntoIter = std::vec::IntoIter<Diagnostic>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_masked_in_place() {
        let text = "a: postgres://u:hunter2@h/d\nb: { password: hunter2 }\nc: \"${{ secrets.x }}\"\npassword: \"${{ secrets.x }}\"\nd: ünsec password='hünter' x";
        let masked = masked(text, &[]);
        assert_eq!(masked.len(), text.len());
        assert!(!masked.contains("nter"), "{masked}");
        assert_eq!(masked.matches("${{ secrets.x }}").count(), 2);
    }
}
