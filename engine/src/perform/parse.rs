//! Values from what programs print.

use regex::Regex;
use serde_json::{Map, Value};

use crate::{
    error::{ErrorKind, StepError},
    op::Parse,
};

/// Returns the value, `None` when it is not there; numbers in text stay text.
///
/// # Errors
/// [`ErrorKind::Plan`] when a regular expression is not one.
pub(crate) fn read(parse: &Parse, stdout: &str, stderr: &str) -> Result<Option<Value>, StepError> {
    let json = || serde_json::from_str::<Value>(stdout).ok();
    Ok(match parse {
        Parse::Trimmed => Some(stdout.trim()).filter(|text| !text.is_empty()).map(Value::from),
        Parse::Json(pointer) => {
            json().and_then(|value| value.pointer(pointer).cloned()).filter(|value| !value.is_null())
        }
        Parse::Regex(pattern) => {
            let pattern = regex(pattern)?;
            let first =
                |text| pattern.captures(text).and_then(|found| found.get(1).map(|group| group.as_str().to_owned()));
            first(stdout).or_else(|| first(stderr)).map(Value::from)
        }
        Parse::Pairs(pattern) => {
            let pattern = regex(pattern)?;
            let pair = |found: regex::Captures<'_>| {
                let group = |name| found.name(name).map(|group| group.as_str().to_owned());
                Some((group("key")?, Value::from(group("value")?)))
            };
            Some(pattern.captures_iter(stdout).filter_map(pair).collect::<Map<_, _>>().into())
        }
        Parse::JsonPairs { list, key, value } => json().and_then(|document| {
            let pair = |entry: &Value| {
                let name = entry.pointer(key)?;
                let name = name.as_str().map_or_else(|| name.to_string(), str::to_owned);
                Some((name, entry.pointer(value).cloned().unwrap_or_default()))
            };
            // One entry that cannot be read means that the whole is not what it should be.
            document.pointer(list)?.as_array()?.iter().map(pair).collect::<Option<Map<_, _>>>().map(Value::from)
        }),
        Parse::Lines => Some(stdout.lines().filter(|line| !line.trim().is_empty()).count().into()),
    })
}

fn regex(pattern: &str) -> Result<Regex, StepError> {
    Regex::new(pattern).map_err(|error| {
        let message = format!("`{pattern}` is not a regular expression");
        StepError::new(ErrorKind::Plan, message).detail(error.to_string())
    })
}

/// Returns a value as text: a string as it is, anything else as JSON.
pub(crate) fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(parse: Parse, stdout: &str, expected: impl Into<Option<Value>>) {
        assert_eq!(read(&parse, stdout, "Connect at postgresql://h\n").unwrap(), expected.into());
    }

    #[test]
    fn values_are_found_or_missing() {
        check(Parse::Trimmed, " one \n", json!("one"));
        check(Parse::Trimmed, "\n", None);
        check(Parse::Json("/a/0".into()), r#"{"a":[7]}"#, json!(7));
        check(Parse::Json("/b".into()), r#"{"a":[7]}"#, None);
        check(Parse::Json(String::new()), "Error: not JSON", None);
        check(Parse::Regex("Connect at (\\S+)".into()), "nothing", json!("postgresql://h"));
        check(Parse::Lines, "a\n\n b\n", json!(2));
    }

    #[test]
    fn maps_are_read_from_tables_and_from_json() {
        let scale = "-----> Scaling for node\nproctype: qty\n--------: ---\nweb:  2\nworker:  0\n";
        let pairs = Parse::Pairs(r"(?m)^(?P<key>[\w-]+): +(?P<value>\d+)$".into());
        check(pairs, scale, json!({ "web": "2", "worker": "0" }));
        let services = || Parse::JsonPairs { list: String::new(), key: "/service".into(), value: "/n".into() };
        check(services(), r#"[{"service":"cmd","n":2},{"service":"web","n":0}]"#, json!({ "cmd": 2, "web": 0 }));
        check(services(), r#"[{"service":"cmd","n":2},{"error":"lost"}]"#, None);
        check(services(), "{}", None);
    }

    #[test]
    fn a_bad_pattern_is_the_plans_fault() {
        assert_eq!(read(&Parse::Regex("(".into()), "", "").unwrap_err().kind, ErrorKind::Plan);
    }
}
