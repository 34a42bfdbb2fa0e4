//! Takes the values of secrets out of what programs print.
//!
//! A program that was handed a secret may echo it: as it is, percent-encoded in a URL, quoted for a shell, doubled
//! for SQL, escaped for JSON, or inside base64 (`Authorization: Basic`, where it stands behind a user name and so at
//! any of three alignments). All of these are looked for, the longest first, and replaced by `<secret NAME>`.
//!
//! Whatever the registered values are, the password of any URL is taken out too: that of a server whose secret this
//! process never learned.
//!
//! Of a secret of several lines (a key, a file with an account) each line is looked for as well, as programs print them
//! one by one: a long one anywhere, a shorter one only where it is all that a line has, since it may be an ordinary word.
//!
//! Limits: values of fewer than four characters, and lines of fewer than eight, are not looked for, because they would
//! be found everywhere; a secret that a program changes (upper case, a part of it, compressed) is not recognised.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::LazyLock, sync::PoisonError, sync::RwLock};

use regex::{Captures, Regex, RegexBuilder};
use secrecy::{ExposeSecret, SecretString};

use crate::secret::percent_encode;

/// Shortest value that is looked for, in characters.
const SHORTEST: usize = 4;
/// Shortest line of a secret of several lines that is looked for where it stands alone, in characters.
const SHORTEST_LINE: usize = 8;
/// Shortest line of a secret of several lines that is looked for inside of other text, in characters.
const SHORTEST_PART: usize = 16;
/// Most memory for the pattern of all spellings, bytes: some thousand certificates.
const LARGEST: usize = 512 << 20;

static URL_PASSWORD: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(?P<before>[A-Za-z][A-Za-z0-9+.-]*://[^\s:/@'<>]*:)(?P<password>[^\s/'<>]+)@").ok());
static NAMED_PASSWORD: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r#"(?i)(?P<before>pass(?:word|wd|phrase)?|secret|token|credential)(?P<sign>["']?\s*[:=]\s*)\S+"#).ok()
});

/// The secrets of a run and how they may look in the output of a program.
#[derive(Default)]
pub struct Redactor {
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    /// Spelling → the secret's name.
    spellings: BTreeMap<String, String>,
    /// A line of a secret of several lines → the secret's name.
    lines: BTreeMap<String, String>,
    /// Finds any of the spellings; an error when no pattern can be made of them, so that nothing may be shown.
    any: Option<Result<Regex, ()>>,
    /// Finds any of the lines where it stands alone.
    alone: Option<Result<Regex, ()>>,
}

impl Redactor {
    /// Returns a redactor that knows no secret yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Looks for this secret from now on; of a URL also for the password alone.
    pub fn add(&self, name: &str, value: &SecretString) {
        let value = value.expose_secret();
        if self.known.read().unwrap_or_else(PoisonError::into_inner).spellings.contains_key(value) {
            return;
        }
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.add(name, value);
        for line in value.lines().map(str::trim).filter(|line| *line != value) {
            known.add_line(name, line);
        }
        for password in value.lines().filter_map(url_password) {
            known.add(name, password);
            known.add(name, &percent_decode(password));
        }
        known.any = pattern(known.spellings.keys(), "", "");
        known.alone = pattern(known.lines.keys(), r"(?m)^(?P<lead>[ \t]*)(?P<line>", r")(?P<trail>[ \t\r]*)$");
    }

    /// Returns whether `text` holds a known secret.
    #[must_use]
    pub fn knows(&self, text: &str) -> bool {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let patterns = [&known.any, &known.alone];
        patterns.into_iter().flatten().any(|any| any.as_ref().map_or(true, |any| any.is_match(text)))
    }

    /// Returns `text` with every known secret, and the password of every URL, replaced.
    #[must_use]
    pub fn redact<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut text = Cow::Borrowed(text);
        let hidden = |name: Option<&String>| name.map_or("<secret>".to_owned(), |name| format!("<secret {name}>"));
        match (&known.any, &known.alone) {
            (Some(Err(())), _) | (_, Some(Err(()))) => return Cow::Borrowed("<text that may hold a secret>"),
            (any, alone) => {
                if let Some(Ok(any)) = any {
                    text = replaced(text, any, |found| hidden(known.spellings.get(&found[0])));
                }
                if let Some(Ok(alone)) = alone {
                    let name = |found: &Captures<'_>| hidden(known.lines.get(&found["line"]));
                    text =
                        replaced(text, alone, |found| format!("{}{}{}", &found["lead"], name(found), &found["trail"]));
                }
            }
        }
        match &*URL_PASSWORD {
            Some(url) => replaced(text, url, |found| format!("{}<secret>@", &found["before"])),
            None => text,
        }
    }

    /// Returns `text` as [`Redactor::redact`] does, and without what stands behind `password:` and its like: for the
    /// output of a program that is expected to print a secret nobody knows yet.
    #[must_use]
    pub fn redact_unknown<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let text = self.redact(text);
        match &*NAMED_PASSWORD {
            Some(named) => replaced(text, named, |found| format!("{}{}<secret>", &found["before"], &found["sign"])),
            None => text,
        }
    }
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Redactor")
    }
}

/// Returns what finds any of these texts, the longest first, between two pieces of a pattern; `None` without texts.
fn pattern<'a>(texts: impl Iterator<Item = &'a String>, before: &str, after: &str) -> Option<Result<Regex, ()>> {
    let mut texts: Vec<&String> = texts.collect();
    texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
    let any: Vec<String> = texts.into_iter().map(|text| regex::escape(text)).collect();
    (!any.is_empty()).then(|| {
        let any = format!("{before}{}{after}", any.join("|"));
        RegexBuilder::new(&any).size_limit(LARGEST).dfa_size_limit(LARGEST).build().map_err(|error| {
            tracing::warn!(%error, "secrets cannot be told from other text; all of it is hidden");
        })
    })
}

impl Known {
    /// Takes a line of a secret of several lines; the one that says what follows (RFC 7468) gives nothing away.
    fn add_line(&mut self, name: &str, line: &str) {
        let characters = line.chars().count();
        if characters < SHORTEST_LINE || line.starts_with("-----BEGIN ") || line.starts_with("-----END ") {
            return;
        }
        if characters >= SHORTEST_PART {
            self.add(name, line);
        } else {
            self.lines.entry(line.to_owned()).or_insert_with(|| name.to_owned());
        }
    }

    fn add(&mut self, name: &str, value: &str) {
        if value.chars().count() < SHORTEST {
            return;
        }
        let url = percent_encode(value);
        let json = serde_json::Value::from(value).to_string();
        let mut spellings = vec![
            value.to_owned(),
            url.replace("%20", "+"),
            lower_hex(&url),
            url.clone(),
            value.replace('\'', r"'\''"),
            value.replace('\'', r#"'"'"'"#),
            value.replace('\'', "''"),
            // A path is left as it is by some (Python's quote).
            url.replace("%2F", "/"),
            lower_hex(&url.replace("%2F", "/")),
            // libpq's connection strings, its password file, and Go's JSON for HTML.
            value.replace('\\', r"\\").replace('\'', r"\'"),
            value.replace('\\', r"\\").replace(':', r"\:"),
            json[1..json.len() - 1].replace('&', r"\u0026").replace('<', r"\u003c").replace('>', r"\u003e"),
            json[1..json.len() - 1].to_owned(),
            shell_escape(value),
            format!("{value:?}").trim_matches('"').to_owned(),
        ];
        spellings.extend(base64_cores(value.as_bytes()));
        for spelling in spellings {
            self.spellings.entry(spelling).or_insert_with(|| name.to_owned());
        }
    }
}

fn replaced<'a>(text: Cow<'a, str>, pattern: &Regex, by: impl Fn(&Captures<'_>) -> String) -> Cow<'a, str> {
    match pattern.replace_all(&text, by) {
        Cow::Borrowed(_) => text,
        Cow::Owned(new) => Cow::Owned(new),
    }
}

/// Returns the password of a URL as it is written there.
fn url_password(url: &str) -> Option<&str> {
    let (_, rest) = url.split_once("://")?;
    let (login, _) = rest.rsplit_once('@')?;
    login.split_once(':').map(|(_, password)| password)
}

fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.filter(|_| byte == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &tail[2..];
            }
            None => {
                bytes.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn lower_hex(url: &str) -> String {
    let mut digits = 0;
    url.chars()
        .map(|c| {
            let hex = digits > 0;
            digits = if c == '%' { 2 } else { usize::saturating_sub(digits, 1) };
            if hex { c.to_ascii_lowercase() } else { c }
        })
        .collect()
}

/// Returns the text as Ruby's and bash's `%q` write it: a backslash before every character that is not plain.
fn shell_escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if !(c.is_ascii_alphanumeric() || "_-.,:+/@".contains(c)) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// Returns what of the base64 of any text that holds `value` is the same whatever stands around it.
fn base64_cores(value: &[u8]) -> Vec<String> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut cores = Vec::new();
    for lead in 0..3 {
        let shifted: Vec<u8> = std::iter::repeat_n(0, lead).chain(value.iter().copied()).collect();
        let bits = |at: usize| u32::from(shifted.get(at).copied().unwrap_or(0));
        let mut core = String::new();
        // A digit belongs to the core when all of its six bits come from the value.
        for digit in (lead * 8).div_ceil(6)..shifted.len() * 8 / 6 {
            let (byte, shift) = (digit * 6 / 8, digit * 6 % 8);
            let pair = bits(byte) << 8 | bits(byte + 1);
            core.push(char::from(DIGITS[(pair >> (10 - shift) & 63) as usize]));
        }
        if core.len() >= 6 {
            cores.push(core.replace('+', "-").replace('/', "_"));
            cores.push(core);
        }
    }
    cores
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redactor(value: &str) -> Redactor {
        let redactor = Redactor::new();
        redactor.add("secrets.db", &SecretString::from(value.to_owned()));
        redactor
    }

    #[test]
    fn every_spelling_is_found() {
        let redactor = redactor("p@ss w'o\"rd/é");
        for text in [
            "p@ss w'o\"rd/é",
            "p%40ss%20w%27o%22rd%2F%C3%A9",
            "p%40ss%20w%27o%22rd%2f%c3%a9",
            "'p@ss w'\\''o\"rd/é'",
            r#""p@ss w'o\"rd/é""#,
            "p@ss w''o\"rd/é",
            "p%40ss%20w%27o%22rd/%C3%A9",
            "p%40ss%20w%27o%22rd/%c3%a9",
            r#"'p@ss w\'o"rd/é'"#,
        ] {
            let shown = redactor.redact(text);
            assert!(shown.contains("<secret secrets.db>") && !shown.contains("ss"), "{text} became {shown}");
        }
    }

    #[test]
    fn escapes_of_password_files_and_of_go_are_known() {
        assert_eq!(redactor(r"co:lon\slash").redact(r"h:1:d:u:co\:lon\\slash"), "h:1:d:u:<secret secrets.db>");
        assert_eq!(redactor("a&b<c>d").redact(r#"{"p":"a\u0026b\u003cc\u003ed"}"#), r#"{"p":"<secret secrets.db>"}"#);
    }

    #[test]
    fn long_secrets_are_found() {
        let redactor = Redactor::new();
        let secret = |n: usize| format!("{n}-").repeat(800);
        for n in 1000..1004 {
            redactor.add(&format!("secrets.s{n}"), &SecretString::from(secret(n)));
        }
        for n in [1000, 1003] {
            assert_eq!(redactor.redact(&format!("it is {}.", secret(n))), format!("it is <secret secrets.s{n}>."));
        }
    }

    #[test]
    fn what_cannot_be_searched_is_hidden_whole() {
        let redactor = redactor("hunter2");
        redactor.known.write().unwrap_or_else(PoisonError::into_inner).any = Some(Err(()));
        assert!(redactor.knows("anything") && !redactor.redact("hunter2 or not").contains("hunter2"));
    }

    #[test]
    fn base64_is_found_at_any_alignment() {
        let redactor = redactor("correct horse");
        // base64 of `correct horse`, `u:correct horse`, `user:correct horse!`.
        for text in ["Y29ycmVjdCBob3JzZQ==", "dTpjb3JyZWN0IGhvcnNl", "dXNlcjpjb3JyZWN0IGhvcnNlIQ=="] {
            assert!(redactor.redact(text).contains("<secret secrets.db>"), "{text}");
        }
    }

    #[test]
    fn a_url_gives_away_neither_itself_nor_its_password() {
        let redactor = redactor("postgres://u:pa%24word@h:5432/db");
        assert_eq!(redactor.redact("PGPASSWORD is pa$word"), "PGPASSWORD is <secret secrets.db>");
        assert_eq!(redactor.redact("at postgres://u:pa%24word@h:5432/db."), "at <secret secrets.db>.");
        assert_eq!(redactor.redact("postgres://other:unknown@h/db"), "postgres://other:<secret>@h/db");
    }

    #[test]
    fn short_values_and_plain_text_stay() {
        let redactor = redactor("abc");
        assert_eq!(redactor.redact("abc https://example.org/a:b"), "abc https://example.org/a:b");
        assert_eq!(redactor.redact_unknown("Password: hunter2"), "Password: <secret>");
    }

    #[test]
    fn a_line_of_a_secret_with_several_lines_is_found() {
        let redactor = redactor("-----BEGIN KEY-----\nMIIEabcdefghijklmnop\nqrstuv==\n-----END KEY-----\ntrue\n");
        assert_eq!(redactor.redact("read MIIEabcdefghijklmnop."), "read <secret secrets.db>.");
        let printed = "-----BEGIN KEY-----\n  MIIEabcdefghijklmnop\n  qrstuv==\r\n-----END KEY-----\ntrue";
        let shown = "-----BEGIN KEY-----\n  <secret secrets.db>\n  <secret secrets.db>\r\n-----END KEY-----\ntrue";
        assert_eq!(redactor.redact(printed), shown);
        assert!(redactor.knows("qrstuv==") && redactor.knows(printed));
    }

    #[test]
    fn an_ordinary_word_that_is_a_line_of_a_secret_stays_in_other_text() {
        let redactor = redactor("user=admin\npassword=correct horse battery\ndatabase\nproduction");
        assert_eq!(redactor.redact("the production database is up"), "the production database is up");
        assert!(!redactor.knows("a database"));
        let file = self::redactor("MODE=on\nURL=postgres://u:pa%24word@h/db");
        assert_eq!(file.redact("PGPASSWORD is pa$word"), "PGPASSWORD is <secret secrets.db>");
        assert_eq!(redactor.redact("database"), "<secret secrets.db>");
        assert_eq!(redactor.redact("it says password=correct horse battery!"), "it says <secret secrets.db>!");
    }
}
