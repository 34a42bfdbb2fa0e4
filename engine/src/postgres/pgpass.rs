//! The password file (PostgreSQL manual, 34.16): `hostname:port:database:username:password`.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::secret::{ExposeSecret as _, SecretString};

/// The lines of a password file; the first that fits a connection gives its password.
#[derive(Debug, Clone, Default)]
pub struct PassFile {
    entries: Vec<Entry>,
    warning: Option<String>,
}

#[derive(Debug, Clone)]
struct Entry {
    /// Host, port, database, user; `None` is the wildcard.
    fields: [Option<String>; 4],
    password: SecretString,
}

impl PassFile {
    /// Reads a password file; a missing one is empty, one that others may read is left out with a warning.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let ignored = |why: String| Self {
            entries: Vec::new(),
            warning: Some(format!("password file {} is not used: {why}", path.display())),
        };
        let Ok(meta) = fs::metadata(path) else {
            return Self::default();
        };
        if !meta.is_file() {
            return ignored("it is not a plain file".into());
        }
        if meta.permissions().mode() & 0o077 != 0 {
            return ignored("others may read it; chmod 600 it".into());
        }
        match fs::read_to_string(path) {
            Ok(text) => Self { entries: text.lines().filter_map(parse_line).collect(), warning: None },
            Err(error) => ignored(error.to_string()),
        }
    }

    /// Returns why the file was left out, if it was.
    #[must_use]
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Returns the password of the first line that fits.
    ///
    /// `host` is `localhost` for the default socket folder, as libpq has it.
    #[must_use]
    pub fn password(&self, host: &str, port: u16, dbname: &str, user: &str) -> Option<&SecretString> {
        let port = port.to_string();
        let wanted = [host, &port, dbname, user];
        let fits = |entry: &&Entry| {
            entry.fields.iter().zip(wanted).all(|(field, value)| field.as_deref().is_none_or(|field| field == value))
        };
        self.entries.iter().find(fits).map(|entry| &entry.password)
    }

    /// Writes the lines that may fit a host, port and user in any database; the host becomes `host_field`.
    pub(super) fn lines_for(&self, host: &str, port: u16, user: &str, host_field: &str, text: &mut String) {
        let port = port.to_string();
        for entry in &self.entries {
            let [entry_host, entry_port, dbname, entry_user] = &entry.fields;
            let fits = |field: &Option<String>, value: &str| field.as_deref().is_none_or(|field| field == value);
            if fits(entry_host, host) && fits(entry_port, &port) && fits(entry_user, user) {
                let dbname = dbname.as_deref().map_or_else(|| "*".to_owned(), escape);
                push_line(text, [host_field, &port, &dbname, &escape(user)], entry.password.expose_secret());
            }
        }
    }
}

/// Appends a line; the fields are escaped already, the password is not.
pub(super) fn push_line(text: &mut String, fields: [&str; 4], password: &str) {
    for field in fields {
        text.push_str(field);
        text.push(':');
    }
    text.push_str(&escape(password));
    text.push('\n');
}

/// Escapes colons and backslashes, and a lone star, which would be the wildcard.
pub(super) fn escape(field: &str) -> String {
    if field == "*" { r"\*".to_owned() } else { field.replace('\\', r"\\").replace(':', r"\:") }
}

fn parse_line(line: &str) -> Option<Entry> {
    if line.starts_with('#') {
        return None;
    }
    let mut rest = line;
    let mut fields = [None, None, None, None];
    for field in &mut fields {
        let (raw, after) = take_field(rest)?;
        *field = if raw == "*" { None } else { Some(unescape(raw)) };
        rest = after;
    }
    // The password ends at an unescaped colon or at the line's end.
    let raw = take_field(rest).map_or(rest, |(raw, _)| raw);
    Some(Entry { fields, password: unescape(raw).into() })
}

fn take_field(text: &str) -> Option<(&str, &str)> {
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ':' => return Some((&text[..at], &text[at + 1..])),
            _ => {}
        }
    }
    None
}

fn unescape(raw: &str) -> String {
    let mut chars = raw.chars();
    let mut text = String::with_capacity(raw.len());
    while let Some(c) = chars.next() {
        let c = if c == '\\' { chars.next().unwrap_or('\\') } else { c };
        text.push(c);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::PassFile;
    use crate::secret::ExposeSecret as _;

    fn file(text: &str, mode: u32) -> PassFile {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pgpass");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        PassFile::read(&path)
    }

    fn find<'a>(file: &'a PassFile, host: &str, port: u16, dbname: &str, user: &str) -> Option<&'a str> {
        file.password(host, port, dbname, user).map(|password| password.expose_secret())
    }

    #[test]
    fn first_fitting_line_wins() {
        let text = "# comment\n\nshort:line\nh:5432:db:u:first\nh:*:*:u:t\\:w\\\\o\r\n\
                    *:*:*:\\*:star\n\\:\\:1:5432:*:u:six\n*:*:replication:r:three:ignored\n";
        let file = file(text, 0o600);
        assert_eq!(find(&file, "h", 5432, "db", "u"), Some("first"));
        assert_eq!(find(&file, "h", 5433, "other", "u"), Some("t:w\\o"));
        assert_eq!(find(&file, "x", 1, "y", "*"), Some("star"));
        assert_eq!(find(&file, "::1", 5432, "db", "u"), Some("six"));
        assert_eq!(find(&file, "x", 1, "replication", "r"), Some("three"));
        assert_eq!(find(&file, "x", 1, "y", "u"), None);
        let shown = format!("{file:?}");
        assert!(!shown.contains("first") && !shown.contains("star"), "{shown}");
    }

    #[test]
    fn readable_by_others_is_not_used() {
        let open = file("*:*:*:*:pw\n", 0o644);
        assert_eq!(find(&open, "h", 1, "d", "u"), None);
        assert!(open.warning().unwrap().contains("chmod 600"));
        assert!(PassFile::read("/nowhere/at/all".as_ref()).warning().is_none());
        assert!(PassFile::read("/".as_ref()).warning().unwrap().contains("plain file"));
    }

    #[test]
    fn written_lines_are_read_back() {
        let kept = file("h:5432:a\\:b:u\\:v:p\\:\\\\w\nother:1:*:u\\:v:no\n", 0o600);
        let mut text = String::new();
        kept.lines_for("h", 5432, "u:v", "*", &mut text);
        assert_eq!(text, "*:5432:a\\:b:u\\:v:p\\:\\\\w\n");
        assert_eq!(find(&file(&text, 0o600), "h", 5432, "a:b", "u:v"), Some("p:\\w"));
    }
}
