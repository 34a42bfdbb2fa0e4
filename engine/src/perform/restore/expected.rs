//! The errors that a plan expects, and which of them have come.

use std::collections::BTreeMap;

use crate::op::{Expected, ExpectedCode};

/// Returns how an expected error is named in reports: as the plan writes it.
pub(super) fn name(expected: &Expected) -> String {
    match expected {
        Expected::Message(message) => plain(message).to_owned(),
        Expected::Code(ExpectedCode { sqlstate, object }) => format!("{sqlstate} on {object}"),
    }
}

/// Returns the first expected error that this one is.
pub(super) fn find<'a>(
    expected: &'a [Expected],
    sqlstate: &str,
    message: &str,
    object: Option<&str>,
) -> Option<&'a Expected> {
    expected.iter().find(|one| match one {
        Expected::Message(text) => plain(text) == message,
        Expected::Code(code) => code.sqlstate == sqlstate && object == Some(code.object.as_str()),
    })
}

/// Returns a sentence for each expected error that never came.
pub(super) fn missing(expected: &[Expected], came: &BTreeMap<String, u64>) -> Vec<String> {
    let absent = expected.iter().map(name).filter(|name| !came.contains_key(name));
    absent
        .map(|name| format!("the expected error `{name}` did not come: is the target what the plan was written for?"))
        .collect()
}

/// People copy the line as psql prints it.
fn plain(message: &str) -> &str {
    let message = message.trim();
    message.strip_prefix("ERROR:").map_or(message, str::trim_start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_expected_by_its_whole_message_or_by_code_and_object() {
        let expected = [
            Expected::Message("ERROR:  role \"aptible\" already exists".into()),
            Expected::Code(ExpectedCode { sqlstate: "42P04".into(), object: "database db".into() }),
        ];
        let is = |code, message, object| find(&expected, code, message, object).is_some();
        assert!(is("42710", "role \"aptible\" already exists", Some("role aptible")));
        assert!(!is("42710", "role \"aptible2\" already exists", Some("role aptible2")));
        assert!(!is("42710", "x role \"aptible\" already exists", None));
        assert!(is("42P04", "database \"db\" already exists", Some("database db")));
        assert!(!is("42P04", "database \"db2\" already exists", Some("database db2")));
        assert_eq!(missing(&expected, &[("42P04 on database db".to_owned(), 1)].into()).len(), 1);
    }
}
