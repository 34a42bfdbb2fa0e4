//! What a dump says about itself in its comments.

use std::fmt;

/// The archive entry that a comment of the dump announces (`-- Name: …; Type: …; Schema: …; Owner: …`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The object's name, unquoted; of some types with more words, as in `orders orders_pkey`.
    pub name: String,
    /// What it is, as `pg_restore --list` names it: `TABLE`, `TABLE DATA`, `FK CONSTRAINT`, …
    pub kind: String,
    /// The schema, if the object has one.
    pub schema: Option<String>,
    /// The owner, if the dump names it.
    pub owner: Option<String>,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // As in `pg_restore --list`: some names are phrases, which a schema and a dot before them would not fit.
        match &self.schema {
            Some(schema) => write!(f, "{} {schema} {}", self.kind, self.name),
            None => write!(f, "{} {}", self.kind, self.name),
        }
    }
}

/// What the reader has learnt about the dump so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DumpFacts {
    /// The version of the server the dump was taken from; of a cluster dump, as its last database says.
    pub server_version: Option<String>,
    /// The version of the `pg_dump` that wrote it.
    pub client_version: Option<String>,
    /// The value of `client_encoding` now in force.
    pub encoding: Option<String>,
    /// Whether this is the output of `pg_dumpall`.
    pub cluster: bool,
    /// Whether the last line of `pg_dumpall` was seen.
    pub cluster_complete: bool,
    /// How many databases' dumps began.
    pub databases: u32,
    /// How many databases' dumps ended with the line that `pg_dump` writes last.
    pub databases_complete: u32,
    /// How many archive entries were announced.
    pub entries: u64,
}

impl DumpFacts {
    /// Returns whether a dump began whose last line was not seen: at the end of the input, the dump is cut off.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.databases_complete < self.databases || (self.cluster && !self.cluster_complete)
    }

    /// Takes in a comment that stands outside of statements; `entry` is the one in force.
    pub(super) fn note(&mut self, comment: &[u8], entry: &mut Option<Entry>) {
        let Some(text) = comment.strip_prefix(b"-- ") else { return };
        let text = String::from_utf8_lossy(text);
        match text.trim_end() {
            "PostgreSQL database cluster dump" => self.cluster = true,
            "PostgreSQL database dump" => self.databases += 1,
            "PostgreSQL database cluster dump complete" => {
                self.cluster_complete = true;
                *entry = None;
            }
            "PostgreSQL database dump complete" => {
                self.databases_complete += 1;
                *entry = None;
            }
            line => {
                if let Some(version) = line.strip_prefix("Dumped from database version ") {
                    self.server_version = Some(version.to_owned());
                } else if let Some(version) = line.strip_prefix("Dumped by pg_dump version ") {
                    self.client_version = Some(version.to_owned());
                } else if let Some(new) = parse_entry(line) {
                    self.entries += 1;
                    *entry = Some(new);
                }
            }
        }
    }
}

/// Reads an entry's comment. From the right, since the name comes first and may hold anything but a newline.
fn parse_entry(line: &str) -> Option<Entry> {
    let line = line.strip_prefix("Data for ").unwrap_or(line).strip_prefix("Name: ")?;
    let (line, owner) = line.rsplit_once("; Owner:")?;
    let (line, schema) = line.rsplit_once("; Schema: ")?;
    let (name, kind) = line.rsplit_once("; Type: ")?;
    let owner = owner.split_once("; Tablespace: ").map_or(owner, |(owner, _)| owner).trim();
    let some = |text: &str| (text != "-" && !text.is_empty()).then(|| text.to_owned());
    Some(Entry { name: name.to_owned(), kind: kind.to_owned(), schema: some(schema), owner: some(owner) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_as_pg_dump_writes_them() {
        let entry = parse_entry("Data for Name: a; Type: b; Type: TABLE DATA; Schema: public; Owner: x y").unwrap();
        assert_eq!((entry.name.as_str(), entry.owner.as_deref()), ("a; Type: b", Some("x y")));
        assert_eq!(entry.to_string(), "TABLE DATA public a; Type: b");
        let comment = parse_entry("Name: EXTENSION hstore; Type: COMMENT; Schema: -; Owner:").unwrap();
        assert_eq!((comment.to_string().as_str(), comment.owner), ("COMMENT EXTENSION hstore", None));
        let spaced = parse_entry("Name: t; Type: TABLE; Schema: s; Owner: o; Tablespace: fast").unwrap();
        assert_eq!(spaced.owner.as_deref(), Some("o"));
        assert_eq!(parse_entry("Name: like one; Type: TABLE"), None);
    }

    #[test]
    fn a_dump_without_its_last_line_is_truncated() {
        let (mut facts, mut entry) = (DumpFacts::default(), None);
        facts.note(b"-- PostgreSQL database cluster dump\r", &mut entry);
        facts.note(b"-- PostgreSQL database dump", &mut entry);
        facts.note(b"-- Dumped from database version 15.20 (Debian)", &mut entry);
        facts.note(b"-- PostgreSQL database dump complete", &mut entry);
        assert!(facts.is_truncated());
        facts.note(b"-- PostgreSQL database cluster dump complete", &mut entry);
        assert!(!facts.is_truncated());
        assert_eq!(facts.server_version.as_deref(), Some("15.20 (Debian)"));
    }
}
