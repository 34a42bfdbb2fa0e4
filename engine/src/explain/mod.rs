//! Errors that servers give in restores and dumps, with their causes and what to do: the catalogue behind `pgplan explain`.
//!
//! A [`Known`] error is found by its SQLSTATE and a pattern over the server's own (English) message. What the pattern
//! captures stands for `$1` and `$2` in cause and fix.

use std::sync::LazyLock;

use regex::{Captures, Regex};

mod dumping;
mod errors;

pub use dumping::DUMPING;
pub use errors::ALL;

/// An error that people meet.
#[derive(Debug)]
pub struct Known {
    /// Stable, snake case.
    pub code: &'static str,
    /// SQLSTATEs (PostgreSQL manual, appendix A); empty = any.
    pub sqlstates: &'static [&'static str],
    /// A regular expression over the first line of the server's message.
    pub message: &'static str,
    /// One over the server's context, where the message alone does not tell; empty = any.
    pub context: &'static str,
    /// What has happened.
    pub cause: &'static str,
    /// What to do.
    pub fix: &'static str,
}

/// What is known about one error, in words for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The code of the [`Known`] error.
    pub code: &'static str,
    /// What has happened.
    pub cause: String,
    /// What to do.
    pub fix: String,
}

/// Returns the known error with this code.
#[must_use]
pub fn find(code: &str) -> Option<&'static Known> {
    ALL.iter().chain(DUMPING).find(|known| known.code == code)
}

/// Returns what is known about a server's error in a restore; the first of [`ALL`] that fits.
#[must_use]
pub fn decode(sqlstate: &str, message: &str, context: &str) -> Option<Decoded> {
    let line = message.lines().next().unwrap_or_default();
    patterns().iter().take(ALL.len()).find_map(|(known, message, context_of)| {
        let of_code = known.sqlstates.is_empty() || known.sqlstates.contains(&sqlstate);
        let captures = message.captures(line).filter(|_| of_code && context_of.is_match(context))?;
        Some(known.in_words(&captures))
    })
}

/// Returns what is known about what a dump's program printed; the first of [`DUMPING`] that fits.
#[must_use]
pub fn decode_printed(lines: &[String]) -> Option<Decoded> {
    patterns().iter().skip(ALL.len()).find_map(|(known, message, _)| {
        let captures = lines.iter().find_map(|line| message.captures(line))?;
        Some(known.in_words(&captures))
    })
}

impl Known {
    fn in_words(&self, captures: &Captures<'_>) -> Decoded {
        let fill = |text: &str| {
            let group = |number: usize| captures.get(number).map(|found| found.as_str()).unwrap_or_default();
            text.replace("$1", group(1)).replace("$2", group(2))
        };
        Decoded { code: self.code, cause: fill(self.cause), fix: fill(self.fix) }
    }
}

type Compiled = (&'static Known, Regex, Regex);

/// Returns those of [`ALL`], then those of [`DUMPING`].
fn patterns() -> &'static [Compiled] {
    static PATTERNS: LazyLock<Vec<Compiled>> = LazyLock::new(|| {
        // A test compiles every pattern.
        let compile = |known: &'static Known| {
            Some((known, Regex::new(known.message).ok()?, Regex::new(&format!("(?s){}", known.context)).ok()?))
        };
        ALL.iter().chain(DUMPING).filter_map(compile).collect()
    });
    &PATTERNS
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{ALL, DUMPING, decode, patterns};

    #[test]
    fn every_pattern_is_one_and_every_code_is_there_once() {
        let all = || ALL.iter().chain(DUMPING);
        assert_eq!(patterns().len(), all().count());
        let codes: BTreeSet<&str> = all().map(|known| known.code).collect();
        assert_eq!(codes.len(), all().count());
        for known in all() {
            let words = format!("{}{}", known.cause, known.fix);
            let groups = patterns()
                .iter()
                .find(|(one, ..)| one.code == known.code)
                .map(|(_, message, _)| message.captures_len());
            for (name, number) in [("$1", 1), ("$2", 2)] {
                assert!(!words.contains(name) || groups > Some(number), "{}: no group for {name}", known.code);
            }
        }
    }

    #[test]
    fn names_are_put_in() {
        let decoded = decode("42704", "role \"app\" does not exist", "").unwrap();
        assert_eq!(decoded.code, "missing_role");
        assert!(decoded.fix.contains("CREATE ROLE app"), "{decoded:?}");
        assert_eq!(decode("42704", "nothing of the sort", ""), None);
        assert_eq!(decode("00000", "role \"app\" does not exist", ""), None);
    }
}
