//! Reading a connection string: a URL or `keyword=value` pairs (PostgreSQL manual, 34.1.1 and 34.1.2).
//!
//! The text is taken apart and the keywords are checked; nothing outside the text is looked at. Errors name the byte
//! and never repeat a value: what stands in the wrong place may be half a password.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use crate::error::{ErrorKind, StepError};
use crate::secret::{ExposeSecret as _, SecretString};

/// What pgplan does with a keyword of libpq.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Support {
    /// Followed.
    Used,
    /// Without meaning here, whatever the value.
    Ignored,
    /// Refused, because following it is not possible and skipping it not safe; these values change nothing.
    Only(&'static [&'static str]),
}

/// Keyword, environment variable, support.
type Keyword = (&'static str, Option<&'static str>, Support);

const KEYWORDS: &[Keyword] = &[
    ("application_name", Some("PGAPPNAME"), Support::Used),
    ("channel_binding", Some("PGCHANNELBINDING"), Support::Used),
    ("client_encoding", Some("PGCLIENTENCODING"), Support::Ignored),
    ("connect_timeout", Some("PGCONNECT_TIMEOUT"), Support::Used),
    ("dbname", Some("PGDATABASE"), Support::Used),
    ("fallback_application_name", None, Support::Ignored),
    ("gssdelegation", Some("PGGSSDELEGATION"), Support::Ignored),
    ("gssencmode", Some("PGGSSENCMODE"), Support::Only(&["disable", "prefer"])),
    ("gsslib", Some("PGGSSLIB"), Support::Ignored),
    ("host", Some("PGHOST"), Support::Used),
    ("hostaddr", Some("PGHOSTADDR"), Support::Used),
    ("keepalives", None, Support::Used),
    ("keepalives_count", None, Support::Used),
    ("keepalives_idle", None, Support::Used),
    ("keepalives_interval", None, Support::Used),
    ("krbsrvname", Some("PGKRBSRVNAME"), Support::Ignored),
    ("load_balance_hosts", Some("PGLOADBALANCEHOSTS"), Support::Ignored),
    ("max_protocol_version", Some("PGMAXPROTOCOLVERSION"), Support::Ignored),
    ("min_protocol_version", Some("PGMINPROTOCOLVERSION"), Support::Only(&["3.0"])),
    ("options", Some("PGOPTIONS"), Support::Used),
    ("passfile", Some("PGPASSFILE"), Support::Used),
    ("password", Some("PGPASSWORD"), Support::Used),
    ("port", Some("PGPORT"), Support::Used),
    ("replication", None, Support::Only(&["false", "off", "no", "0"])),
    ("require_auth", Some("PGREQUIREAUTH"), Support::Only(&[])),
    ("requirepeer", Some("PGREQUIREPEER"), Support::Only(&[])),
    ("requiressl", Some("PGREQUIRESSL"), Support::Only(&["0"])),
    ("service", Some("PGSERVICE"), Support::Used),
    ("servicefile", Some("PGSERVICEFILE"), Support::Used),
    ("ssl_max_protocol_version", Some("PGSSLMAXPROTOCOLVERSION"), Support::Used),
    ("ssl_min_protocol_version", Some("PGSSLMINPROTOCOLVERSION"), Support::Used),
    ("sslcert", Some("PGSSLCERT"), Support::Used),
    ("sslcertmode", Some("PGSSLCERTMODE"), Support::Used),
    ("sslcompression", Some("PGSSLCOMPRESSION"), Support::Ignored),
    ("sslcrl", Some("PGSSLCRL"), Support::Used),
    ("sslcrldir", Some("PGSSLCRLDIR"), Support::Only(&[])),
    ("sslkey", Some("PGSSLKEY"), Support::Used),
    ("sslmode", Some("PGSSLMODE"), Support::Used),
    ("sslnegotiation", Some("PGSSLNEGOTIATION"), Support::Used),
    ("sslpassword", None, Support::Used),
    ("sslrootcert", Some("PGSSLROOTCERT"), Support::Used),
    ("sslsni", Some("PGSSLSNI"), Support::Used),
    ("target_session_attrs", Some("PGTARGETSESSIONATTRS"), Support::Used),
    ("tcp_user_timeout", None, Support::Used),
    ("user", Some("PGUSER"), Support::Used),
];

/// Where a setting came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// The byte of the connection string at which the setting or the fault begins.
    Text(usize),
    /// An environment variable.
    Variable(&'static str),
    /// A line of a service file, counted from one.
    File(PathBuf, usize),
    /// Nothing that was written: a default, or the settings taken together.
    Whole,
}

/// What is wrong with a connection description.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A keyword that libpq does not know; the text is not repeated, since it may be part of a password.
    #[error("unknown keyword{}", .0.map(|name| format!("; did you mean `{name}`?")).unwrap_or_default())]
    UnknownKeyword(Option<&'static str>),
    /// A word without `=` and value.
    #[error("a keyword has no `=` and value; a value with blanks needs single quotes")]
    MissingEquals,
    /// A second `=` in a parameter of a URL.
    #[error("a parameter has two `=`; inside a value write %3D")]
    ExtraEquals,
    /// A single quote that is not closed.
    #[error("the quoted value has no end")]
    UnterminatedQuote,
    /// A `%` that is not followed by two hexadecimal digits, or that stands for a zero byte or no UTF-8.
    #[error("wrong percent-encoding; a percent sign itself is written %25")]
    BadPercent,
    /// A `[` without `]`, or something odd after the `]`.
    #[error("the IPv6 address in brackets is not well formed")]
    BadBrackets,
    /// An `@` in the host part of a URL.
    #[error("a second `@`; in a user name or password it is written %40")]
    ExtraAt,
    /// A port that is not a number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535; a `/` in a password is written %2F")]
    BadPort,
    /// A value that its keyword does not take.
    #[error("`{0}` must be {1}")]
    BadValue(&'static str, &'static str),
    /// Lists of hosts, addresses and ports that do not go together.
    #[error("{0} values of `{1}` do not go with {2} hosts")]
    Count(usize, &'static str, usize),
    /// A keyword that pgplan cannot follow and must not skip.
    #[error("`{0}` is not supported by pgplan with this value")]
    Unsupported(&'static str),
    /// Two settings that exclude each other.
    #[error("{0}")]
    Contradiction(&'static str),
    /// A service that no service file defines.
    #[error("no service file defines the service `{0}`")]
    UnknownService(String),
    /// A line of a service file that is neither a section nor a setting.
    #[error("the line is neither a [section] nor a keyword=value")]
    ServiceSyntax,
    /// A service that refers to another, or to an LDAP server.
    #[error("a service cannot refer to another service or to LDAP")]
    NestedService,
    /// No role was named and the operating system has no name for the user.
    #[error("no user is named, and the operating system has no name for the one who runs pgplan")]
    NoUser,
    /// A password that a password file cannot hold.
    #[error("the password has a line break or a zero byte, which a password file cannot hold")]
    PasswordNotForFile,
}

/// A fault in a connection description; it never shows a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConnInfoError {
    /// What is wrong.
    pub problem: Problem,
    /// Where it stands.
    pub origin: Origin,
}

impl fmt::Display for ConnInfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Text(at) => write!(f, "connection string, byte {at}: ")?,
            Origin::Variable(name) => write!(f, "environment variable {name}: ")?,
            Origin::File(path, line) => write!(f, "{}, line {line}: ", path.display())?,
            Origin::Whole => {}
        }
        self.problem.fmt(f)
    }
}

impl From<ConnInfoError> for StepError {
    fn from(error: ConnInfoError) -> Self {
        Self::new(ErrorKind::Plan, error.to_string()).help("correct the connection's description, then apply again")
    }
}

#[derive(Debug, Clone)]
pub(super) struct Setting {
    /// Every value is held as a secret: fewer cases, and `Debug` shows none.
    value: SecretString,
    pub(super) origin: Origin,
}

impl Setting {
    pub(super) fn value(&self) -> &str {
        self.value.expose_secret()
    }
}

/// The settings of a connection as written, checked for their keywords; values are not shown by `Debug`.
#[derive(Debug, Clone, Default)]
pub struct Parameters {
    settings: BTreeMap<&'static str, Setting>,
}

impl Parameters {
    /// Reads a URL (`postgres://`, `postgresql://`) or `keyword=value` pairs.
    ///
    /// # Errors
    /// The first fault, with its byte.
    pub fn parse(text: &str) -> Result<Self, ConnInfoError> {
        let mut new = Self::default();
        let schemes = ["postgresql://", "postgres://"];
        match schemes.iter().find(|scheme| text.starts_with(**scheme)) {
            Some(scheme) => new.read_url(text, scheme.len())?,
            None => new.read_pairs(text)?,
        }
        Ok(new)
    }

    /// Sets a keyword, as if it stood last in the text.
    ///
    /// # Errors
    /// An unknown or unsupported keyword.
    pub fn set(&mut self, keyword: &str, value: &str) -> Result<(), ConnInfoError> {
        self.store(keyword, value.to_owned(), Origin::Whole)
    }

    pub(super) fn get(&self, keyword: &str) -> Option<&Setting> {
        self.settings.get(keyword).filter(|setting| !setting.value().is_empty())
    }

    /// Takes over what `other` sets and `self` does not.
    pub(super) fn fill_from(&mut self, other: Self) {
        for (keyword, setting) in other.settings {
            self.settings.entry(keyword).or_insert(setting);
        }
    }

    /// Reads the `PG*` variables (PostgreSQL manual, 34.15).
    pub(super) fn from_variables<'a>(get: impl Fn(&str) -> Option<&'a str>) -> Result<Self, ConnInfoError> {
        let mut new = Self::default();
        for (keyword, variable, _) in KEYWORDS {
            if let Some(variable) = variable
                && let Some(value) = get(variable)
            {
                new.store(keyword, value.to_owned(), Origin::Variable(variable))?;
            }
        }
        Ok(new)
    }

    pub(super) fn store(&mut self, keyword: &str, value: String, origin: Origin) -> Result<(), ConnInfoError> {
        let Some((name, _, support)) = KEYWORDS.iter().find(|(name, ..)| *name == keyword) else {
            return Err(ConnInfoError { problem: Problem::UnknownKeyword(nearest(keyword)), origin });
        };
        if let Support::Only(harmless) = support
            && !value.is_empty()
            && !harmless.contains(&value.as_str())
        {
            return Err(ConnInfoError { problem: Problem::Unsupported(name), origin });
        }
        if *support == Support::Used {
            self.settings.insert(name, Setting { value: value.into(), origin });
        }
        Ok(())
    }

    fn read_pairs(&mut self, text: &str) -> Result<(), ConnInfoError> {
        let fault = |problem, at| ConnInfoError { problem, origin: Origin::Text(at) };
        let blanks = |at: usize| at + text[at..].bytes().take_while(u8::is_ascii_whitespace).count();
        let mut at = blanks(0);
        while at < text.len() {
            let start = at;
            let end = at + text[at..].find(|c: char| c == '=' || c.is_ascii_whitespace()).unwrap_or(text.len() - at);
            let equals = blanks(end);
            if !text[equals..].starts_with('=') {
                return Err(fault(Problem::MissingEquals, start));
            }
            let begin = blanks(equals + 1);
            let quoted = text[begin..].starts_with('\'');
            let mut value = String::new();
            let mut chars = text[begin..].char_indices().skip(usize::from(quoted));
            let stop = loop {
                match chars.next() {
                    Some((_, '\\')) => value.extend(chars.next().map(|(_, c)| c)),
                    Some((offset, '\'')) if quoted => break begin + offset + 1,
                    Some((offset, c)) if !quoted && c.is_ascii_whitespace() => break begin + offset,
                    Some((_, c)) => value.push(c),
                    None if quoted => return Err(fault(Problem::UnterminatedQuote, begin)),
                    None => break text.len(),
                }
            };
            self.store(&text[start..end], value, Origin::Text(start))?;
            at = blanks(stop);
        }
        Ok(())
    }

    fn read_url(&mut self, text: &str, start: usize) -> Result<(), ConnInfoError> {
        let find = |from: usize, stops: &[char]| from + text[from..].find(stops).unwrap_or(text.len() - from);
        let mut at = start;
        // As libpq: the user part is what comes before the first `@`, unless a `/` comes first.
        let user_end = find(at, &['@', '/']);
        if text[user_end..].starts_with('@') {
            let colon = find(at, &[':', '@']);
            self.store_part("user", text, at..colon)?;
            if colon < user_end {
                self.store_part("password", text, colon + 1..user_end)?;
            }
            at = user_end + 1;
        }
        let end = find(at, &['/', '?']);
        self.read_hosts(text, at..end)?;
        at = end;
        if text[at..].starts_with('/') {
            let end = find(at, &['?']);
            self.store_part("dbname", text, at + 1..end)?;
            at = end;
        }
        at += 1;
        while at < text.len() {
            let end = find(at, &['&']);
            let fault = |problem| ConnInfoError { problem, origin: Origin::Text(at) };
            let (name, value) = text[at..end].split_once('=').ok_or_else(|| fault(Problem::MissingEquals))?;
            if value.contains('=') {
                return Err(fault(Problem::ExtraEquals));
            }
            let name = decode(name, at)?;
            let value = decode(value, end - value.len())?;
            match (name.as_str(), value.as_str()) {
                // As libpq, for strings that were written for JDBC.
                ("ssl", "true") => self.store("sslmode", "require".into(), Origin::Text(at))?,
                _ => self.store(&name, value, Origin::Text(at))?,
            }
            at = end + 1;
        }
        Ok(())
    }

    fn read_hosts(&mut self, text: &str, range: std::ops::Range<usize>) -> Result<(), ConnInfoError> {
        let fault = |problem, at| ConnInfoError { problem, origin: Origin::Text(at) };
        let (mut hosts, mut ports, mut at) = (Vec::new(), Vec::new(), range.start);
        for part in text[range.clone()].split(',') {
            if let Some(second) = part.find('@') {
                return Err(fault(Problem::ExtraAt, at + second));
            }
            let (host, port) = if let Some(inner) = part.strip_prefix('[') {
                let (host, after) = inner.split_once(']').ok_or_else(|| fault(Problem::BadBrackets, at))?;
                if host.is_empty() || !(after.is_empty() || after.starts_with(':')) {
                    return Err(fault(Problem::BadBrackets, at));
                }
                (host, after.strip_prefix(':').unwrap_or_default())
            } else {
                part.split_once(':').unwrap_or((part, ""))
            };
            let port_at = at + part.len() - port.len();
            let port = decode(port, port_at)?;
            if !port.is_empty() && !port.parse::<u16>().is_ok_and(|port| port > 0) {
                return Err(fault(Problem::BadPort, port_at));
            }
            hosts.push(decode(host, at)?);
            ports.push(port);
            at += part.len() + 1;
        }
        if hosts.iter().any(|host| !host.is_empty()) {
            self.store("host", hosts.join(","), Origin::Text(range.start))?;
        }
        if ports.iter().any(|port| !port.is_empty()) {
            self.store("port", ports.join(","), Origin::Text(range.start))?;
        }
        Ok(())
    }

    fn store_part(&mut self, name: &str, text: &str, range: std::ops::Range<usize>) -> Result<(), ConnInfoError> {
        if range.is_empty() {
            return Ok(());
        }
        let value = decode(&text[range.clone()], range.start)?;
        self.store(name, value, Origin::Text(range.start))
    }
}

/// Returns every environment variable that libpq takes a setting from, to be cleared for a client program.
pub(super) fn variables() -> impl Iterator<Item = &'static str> {
    KEYWORDS.iter().filter_map(|(_, variable, _)| *variable)
}

fn decode(text: &str, start: usize) -> Result<String, ConnInfoError> {
    let fault = |at| ConnInfoError { problem: Problem::BadPercent, origin: Origin::Text(start + at) };
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.as_bytes().get(at) {
        if byte == b'%' {
            let digits = text.get(at + 1..at + 3).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
            match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                Some(0) | None => return Err(fault(at)),
                Some(byte) => bytes.push(byte),
            }
            at += 3;
        } else {
            bytes.push(byte);
            at += 1;
        }
    }
    String::from_utf8(bytes).map_err(|error| fault(error.utf8_error().valid_up_to().min(text.len())))
}

/// Returns the keyword that differs from `word` in at most two letters.
fn nearest(word: &str) -> Option<&'static str> {
    let close = KEYWORDS.iter().map(|(name, ..)| (distance(word, name), *name)).min()?;
    // Half a word is no likeness: of four letters only one may differ.
    (close.0 <= 2 && close.0 * 3 < close.1.len().max(4)).then_some(close.1)
}

fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, l) in left.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, r) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(l != *r);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{ProptestConfig, any, prop_assert_eq, proptest};

    use super::super::quote::{conninfo_value, percent};
    use super::{Origin, Parameters, Problem, decode};

    fn read(text: &str) -> Vec<(String, String)> {
        let parameters = Parameters::parse(text).unwrap();
        parameters.settings.iter().map(|(name, setting)| ((*name).to_owned(), setting.value().to_owned())).collect()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn urls_are_taken_apart() {
        let table: &[(&str, &[(&str, &str)])] = &[
            ("postgresql://", &[]),
            ("postgres://h", &[("host", "h")]),
            (
                "postgres://u:p%40%2F%3aw@h:1/d%20b?sslmode=require",
                &[
                    ("dbname", "d b"),
                    ("host", "h"),
                    ("password", "p@/:w"),
                    ("port", "1"),
                    ("sslmode", "require"),
                    ("user", "u"),
                ],
            ),
            ("postgres://u:pa?s#s@h", &[("host", "h"), ("password", "pa?s#s"), ("user", "u")]),
            ("postgres://a:1,[::1]:2,b/d", &[("dbname", "d"), ("host", "a,::1,b"), ("port", "1,2,")]),
            ("postgres://%2Frun%2Fpg:5433/d", &[("dbname", "d"), ("host", "/run/pg"), ("port", "5433")]),
            (
                "postgres:///d?host=/tmp&user=x&ssl=true",
                &[("dbname", "d"), ("host", "/tmp"), ("sslmode", "require"), ("user", "x")],
            ),
            ("postgres://h?dbname=d", &[("dbname", "d"), ("host", "h")]),
            ("postgres://h/?connect_timeout=3", &[("connect_timeout", "3"), ("host", "h")]),
        ];
        for (url, expected) in table {
            assert_eq!(read(url), pairs(expected), "{url}");
        }
    }

    #[test]
    fn pairs_follow_libpq() {
        assert_eq!(read(" host = h  port=1 "), pairs(&[("host", "h"), ("port", "1")]));
        assert_eq!(read(r"password='it\'s \\ a' user=a\ b"), pairs(&[("password", r"it's \ a"), ("user", "a b")]));
        assert_eq!(read("user='' dbname=a dbname=b"), pairs(&[("dbname", "b"), ("user", "")]));
        assert_eq!(read("host='a'port=2"), pairs(&[("host", "a"), ("port", "2")]));
        assert_eq!(read("gssencmode=prefer client_encoding=latin1"), pairs(&[]));
    }

    #[test]
    fn faults_name_the_byte_and_never_the_value() {
        let table = [
            ("mydb", Problem::MissingEquals, 0),
            ("password=hunter2 tail", Problem::MissingEquals, 17),
            ("host=h passwort=hunter2", Problem::UnknownKeyword(Some("password")), 7),
            ("password=hunter2 hunter2=x", Problem::UnknownKeyword(None), 17),
            ("host='h", Problem::UnterminatedQuote, 5),
            ("requirepeer=hunter2", Problem::Unsupported("requirepeer"), 0),
            ("postgres://u:hun/ter2@h/d", Problem::BadPort, 13),
            ("postgres://u:hunter@2@h/d", Problem::ExtraAt, 21),
            ("postgres://u:hunter%2@h/d", Problem::BadPercent, 19),
            ("postgres://u:%00@h/d", Problem::BadPercent, 13),
            ("postgres://u@h:70000/d", Problem::BadPort, 15),
            ("postgres://[::1/d", Problem::BadBrackets, 11),
            ("postgres://[::1]x/d", Problem::BadBrackets, 11),
            ("postgres://h/d?sslmod=x", Problem::UnknownKeyword(Some("sslmode")), 15),
            ("postgres://h/d?user=a=b", Problem::ExtraEquals, 15),
            ("postgres://h/d?user", Problem::MissingEquals, 15),
        ];
        for (text, problem, at) in table {
            let error = Parameters::parse(text).unwrap_err();
            assert_eq!((&error.problem, &error.origin), (&problem, &Origin::Text(at)), "{text}");
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hun") && !shown.contains("ter2"), "{shown}");
        }
        let shown = format!("{:?}", Parameters::parse("postgres://u:hunter2@h/d").unwrap());
        assert!(!shown.contains("hunter2"), "{shown}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn quoted_values_are_read_back(value in any::<String>(), other in any::<String>()) {
            let text = format!("dbname={} password={}", conninfo_value(&value), conninfo_value(&other));
            prop_assert_eq!(read(&text), pairs(&[("dbname", &value), ("password", &other)]));
        }

        #[test]
        fn encoded_values_are_read_back(value in "[^\0]*") {
            prop_assert_eq!(decode(&percent(&value), 0).unwrap(), value);
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), tail in "[ -~]{0,40}") {
            Parameters::parse(&text).ok();
            Parameters::parse(&format!("postgres://{tail}")).ok();
            Parameters::parse(&tail).ok();
        }
    }
}
