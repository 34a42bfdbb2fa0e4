//! Errors that servers give in restores, with their causes and what to do: the catalogue behind `pgplan explain`.
//!
//! A [`Known`] error is found by its SQLSTATE and a pattern over the server's own (English) message. What the pattern
//! captures stands for `$1` and `$2` in cause and fix.

use std::sync::LazyLock;

use regex::Regex;

mod errors;

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
    ALL.iter().find(|known| known.code == code)
}

/// Returns what is known about a server's error; the first of [`ALL`] that fits.
#[must_use]
pub fn decode(sqlstate: &str, message: &str, context: &str) -> Option<Decoded> {
    let line = message.lines().next().unwrap_or_default();
    patterns().iter().find_map(|(known, message, context_of)| {
        let of_code = known.sqlstates.is_empty() || known.sqlstates.contains(&sqlstate);
        let captures = message.captures(line).filter(|_| of_code && context_of.is_match(context))?;
        let fill = |text: &str| {
            let group = |number: usize| captures.get(number).map(|found| found.as_str()).unwrap_or_default();
            text.replace("$1", group(1)).replace("$2", group(2))
        };
        Some(Decoded { code: known.code, cause: fill(known.cause), fix: fill(known.fix) })
    })
}

type Compiled = (&'static Known, Regex, Regex);

fn patterns() -> &'static [Compiled] {
    static PATTERNS: LazyLock<Vec<Compiled>> = LazyLock::new(|| {
        // A test compiles every pattern.
        let compile = |known: &'static Known| {
            Some((known, Regex::new(known.message).ok()?, Regex::new(&format!("(?s){}", known.context)).ok()?))
        };
        ALL.iter().filter_map(compile).collect()
    });
    &PATTERNS
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{ALL, decode, patterns};

    #[test]
    fn every_pattern_is_one_and_every_code_is_there_once() {
        assert_eq!(patterns().len(), ALL.len());
        let codes: BTreeSet<&str> = ALL.iter().map(|known| known.code).collect();
        assert_eq!(codes.len(), ALL.len());
        for known in ALL {
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
