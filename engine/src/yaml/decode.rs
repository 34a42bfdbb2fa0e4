//! A node as a typed value, with all that is wrong with it.

use std::cell::RefCell;

use serde::de::DeserializeOwned;

use super::{Node, NodeValue, de::De};
use crate::diagnostic::Diagnostic;

/// Returns `node` as a `T`.
///
/// # Errors
/// Every problem found: `unknown_key`, `wrong_type`, `missing_key`, `secret_not_allowed` and their kin.
pub fn decode<T: DeserializeOwned>(node: &Node) -> Result<T, Vec<Diagnostic>> {
    match salvage(node) {
        (Some(value), problems) if problems.is_empty() => Ok(value),
        (_, problems) => Err(problems),
    }
}

/// Returns what can be read of `node`, and all that is wrong with it.
///
/// serde stops at the first value of the wrong type; here that entry is left out and the rest is read again, so that
/// one report names every entry of the mapping that is wrong, and every key that `T` does not know.
pub fn salvage<T: DeserializeOwned>(node: &Node) -> (Option<T>, Vec<Diagnostic>) {
    let unknown_keys = RefCell::default();
    let result = T::deserialize(De { node, unknown_keys: &unknown_keys });
    let mut problems = unknown_keys.into_inner();
    let mut error = match result {
        Ok(value) => return (Some(value), problems),
        Err(error) => error,
    };
    let mut rest = node.clone();
    let mut left_out = false;
    loop {
        let entry = error.path.last().cloned();
        // Once an entry was left out, a key that is missing may be that very entry; or it is there, but mistyped.
        let mistyped = |help: &str| problems.iter().any(|problem| problem.help.as_deref() == Some(help));
        let explained = error.path.is_empty()
            && error.missing.is_some_and(|key| left_out || mistyped(&format!("did you mean `{key}`?")));
        if !explained {
            problems.push(error.into_diagnostic());
        }
        match (entry, &mut rest.value) {
            (Some(entry), NodeValue::Map(entries)) => entries.retain(|(key, _)| key.text != entry),
            _ => return (None, problems),
        }
        left_out = true;
        match T::deserialize(De { node: &rest, unknown_keys: &RefCell::default() }) {
            Ok(value) => return (Some(value), problems),
            Err(next) => error = next,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

    use serde::Deserialize;

    use super::*;
    use crate::{
        diagnostic::Problems,
        secret::{self, Encoding, Text},
        source::SourceFile,
        yaml::{Limits, parse},
    };

    #[derive(Debug, Deserialize, PartialEq)]
    struct Sample {
        name: String,
        #[serde(default)]
        jobs: u16,
        #[serde(default)]
        tag: Text,
        #[serde(default)]
        mode: Mode,
        #[serde(default)]
        set: BTreeMap<String, Text>,
        list: Option<Vec<String>>,
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(rename_all = "snake_case")]
    enum Mode {
        #[default]
        Count,
        Digest {
            rows: u64,
        },
    }

    fn read(text: &str) -> (Option<Node>, Vec<Diagnostic>) {
        let file = SourceFile { name: "t.yaml".to_owned(), folder: PathBuf::new(), text: text.to_owned() };
        let mut problems = Problems::default();
        let node = parse(&Arc::new(file), Limits::default(), &mut problems);
        (node, problems.into_sorted())
    }

    fn codes(problems: &[Diagnostic]) -> Vec<&'static str> {
        problems.iter().map(|problem| problem.code).collect()
    }

    #[test]
    fn reads_what_is_right() {
        let (node, _) = read("name: a\njobs: 4\ntag: 1.10\nmode: { digest: { rows: 3 } }\nset: { A: 010, B: yes }\n");
        let sample: Sample = decode(&node.unwrap()).unwrap();
        assert_eq!(sample.tag, Text::plain("1.10"));
        assert_eq!(sample.set["A"], Text::plain("010"));
        assert_eq!(sample.mode, Mode::Digest { rows: 3 });
    }

    #[test]
    fn reports_everything_at_once() {
        let (node, _) = read("nam: a\njobs: many\nmode: digets\nlist: [a, 3]\n");
        let problems = decode::<Sample>(&node.unwrap()).unwrap_err();
        assert_eq!(codes(&problems), ["unknown_key", "wrong_type", "unknown_value", "wrong_type"]);
        assert_eq!(problems[0].help.as_deref(), Some("did you mean `name`?"));
        assert_eq!(problems[1].to_string(), "t.yaml:2:7: error[wrong_type]: expected u16, found the string \"many\"");
    }

    #[test]
    fn a_marker_is_welcome_in_text_only() {
        let (node, _) = read("name: a\ntag: b\n");
        let mut node = node.unwrap();
        let marker = secret::marker("secrets.x", Encoding::Raw);
        let NodeValue::Map(entries) = &mut node.value else { panic!() };
        entries[1].1.value = NodeValue::Str(marker.clone());
        assert_eq!(decode::<Sample>(&node).unwrap().tag, Text::secret("secrets.x"));
        let NodeValue::Map(entries) = &mut node.value else { panic!() };
        entries[0].1.value = NodeValue::Str(marker);
        assert_eq!(codes(&decode::<Sample>(&node).unwrap_err()), ["secret_not_allowed"]);
    }

    #[test]
    fn unknowns_take_the_wanted_shape() {
        let (node, _) = read("name: a\njobs: b\ntag: c\nmode: d\nset: e\nlist: f\n");
        let mut node = node.unwrap();
        let NodeValue::Map(entries) = &mut node.value else { panic!() };
        for (_, value) in entries {
            let text = secret::unknown_marker("probe");
            value.value = NodeValue::Unknown { text, after: "probe".to_owned() };
        }
        let sample: Sample = decode(&node).unwrap();
        assert_eq!((sample.name.as_str(), sample.jobs), ("<known after probe>", 1));
        assert_eq!(sample.tag.known_after(), Some("probe"));
        assert_eq!((sample.mode, sample.list), (Mode::Count, Some(Vec::new())));
    }

    #[test]
    fn hostile_text_is_refused() {
        let bomb = format!(
            "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n{}",
            (1..12)
                .map(|i| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 10].join(",")))
                .collect::<String>()
        );
        let cases: [(&str, &str); 12] = [
            (&bomb, "too_many_values"),
            (&"[".repeat(5000), "too_deep"),
            ("a: 1\na: 2\n", "duplicate_key"),
            ("a: !ruby/object x\n", "unknown_tag"),
            ("a: \"\\uE000\"\n", "reserved_character"),
            ("a: 1\n---\nb: 2\n", "several_documents"),
            ("a: &x [*x]\n", "bad_alias"),
            ("a: {b: ${{ vars.x }}}\n", "unquoted_template"),
            ("a: {{ vars.x }}\n", "unquoted_template"),
            ("a:\n\tb: 1\n", "not_yaml"),
            ("a: [1, 2\n", "not_yaml"),
            ("? [a, b]\n: 1\n", "bad_key"),
        ];
        for (text, code) in cases {
            assert_eq!(codes(&read(text).1), [code], "{}", &text[..text.len().min(60)]);
        }
        assert_eq!(read("# only a comment\n"), (None, vec![]));
        assert!(read("\u{feff}a: 1\n").0.is_some());
    }
}
