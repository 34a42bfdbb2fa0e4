//! Settings under which equal values have equal text on servers of different versions.

use super::connect::execute;
use super::session::Session;
use crate::error::StepError;

/// How floating-point numbers are written (PostgreSQL manual, 20.11.2 `extra_float_digits`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Floats {
    /// With all digits: seventeen up to version 11, the shortest that reads back the same from version 12 on. Equal
    /// only between servers on the same side of 12.
    Exact,
    /// Rounded to fifteen digits (six for `real`), alike in all versions; the last bits are not compared.
    Rounded,
}

impl Floats {
    /// Returns the best that two servers have in common.
    #[must_use]
    pub fn for_pair(left_version_num: u32, right_version_num: u32) -> Self {
        let shortest = |version| version >= 120_000;
        if shortest(left_version_num) == shortest(right_version_num) { Self::Exact } else { Self::Rounded }
    }
}

/// Returns the statements that pin a session of this version; see [`pin_session`].
#[must_use]
pub fn pin_statements(server_version_num: u32, floats: Floats) -> String {
    let digits = match floats {
        Floats::Rounded => "0",
        Floats::Exact if server_version_num >= 120_000 => "1",
        Floats::Exact => "3",
    };
    let settings = [
        (0, "DateStyle", "'ISO, YMD'"),
        (80_400, "IntervalStyle", "'postgres'"),
        (0, "TimeZone", "'UTC'"),
        (0, "extra_float_digits", digits),
        (90_000, "bytea_output", "'hex'"),
        (0, "lc_monetary", "'C'"),
        (0, "lc_numeric", "'C'"),
        (0, "lc_time", "'C'"),
        (80_300, "xmloption", "'content'"),
        (80_300, "xmlbinary", "'base64'"),
        (0, "standard_conforming_strings", "on"),
        (90_100, "quote_all_identifiers", "off"),
        // Rows that a policy would hide become an error instead of a wrong count.
        (90_500, "row_security", "off"),
        // Functions in views and expressions are found by their schema or not at all.
        (0, "search_path", "''"),
    ];
    let known = settings.iter().filter(|(since, ..)| server_version_num >= *since);
    known.map(|(_, name, value)| format!("SET {name} = {value}; ")).collect()
}

/// Pins the session, so that the text of a value does not depend on role, database, machine or version.
///
/// `search_path` is empty afterwards: names need their schema.
///
/// # Errors
/// What the server said.
pub async fn pin_session(session: &Session, floats: Floats) -> Result<(), StepError> {
    execute(session, "pin the session's settings", &pin_statements(session.server_version_num(), floats)).await
}

#[cfg(test)]
mod tests {
    use super::{Floats, pin_statements};

    #[test]
    fn digits_follow_the_versions() {
        assert!(pin_statements(110_022, Floats::Exact).contains("extra_float_digits = 3;"));
        assert!(pin_statements(150_000, Floats::Exact).contains("extra_float_digits = 1;"));
        assert_eq!(Floats::for_pair(110_022, 150_000), Floats::Rounded);
        assert_eq!(Floats::for_pair(150_000, 180_000), Floats::Exact);
        assert!(!pin_statements(90_400, Floats::Exact).contains("row_security"));
    }
}
