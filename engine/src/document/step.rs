//! The step reader: one kind key and common keys.

use crate::{
    diagnostic::{Diagnostic, Problems},
    kinds::{self, KindEntry},
    source::Place,
    spelling,
    yaml::{Key, Node, NodeValue},
};

/// The keys that a step of any kind may have.
pub const COMMON_KEYS: [&str; 18] = [
    "id",
    "name",
    "needs",
    "if",
    "run_on",
    "for_each",
    "max_parallel",
    "fail_fast",
    "timeout",
    "retry",
    "continue_on_error",
    "undo",
    "done_if",
    "ensures",
    "downtime",
    "point_of_no_return",
    "env",
    "description",
];

/// A step as it is written.
#[derive(Debug, Clone)]
pub struct StepDecl {
    /// The kind that its key names.
    pub kind: &'static KindEntry,
    /// The kind's key.
    pub key: Key,
    /// What stands under the kind's key.
    pub body: Node,
    /// The common keys.
    pub common: Vec<(Key, Node)>,
    /// The `id`, else the kind's name.
    pub id: String,
    /// The `id`, else the kind's key.
    pub place: Place,
}

impl StepDecl {
    /// Returns the value of a common key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.common.iter().find(|(name, _)| name.text == key).map(|(_, node)| node)
    }
}

/// Returns the steps of a list, without those whose kind cannot be told.
pub(super) fn read_list(key: &Key, node: Node, problems: &mut Problems) -> Vec<StepDecl> {
    match node.value {
        NodeValue::Seq(items) => items.into_iter().filter_map(|item| read(item, problems)).collect(),
        NodeValue::Null => Vec::new(),
        other => {
            let message = format!("`{}` must be a list, not {}", key.text, other.describe());
            let help = "begin each step with `- `";
            problems.push(Diagnostic::error("wrong_type", message).at(&node.place, "here").help(help));
            Vec::new()
        }
    }
}

fn read(node: Node, problems: &mut Problems) -> Option<StepDecl> {
    let entries = match node.value {
        NodeValue::Map(entries) => entries,
        other => {
            let message = format!("a step is a mapping, this is {}", other.describe());
            let help = "write its kind as a key: `- dump: { from: source }`";
            problems.push(Diagnostic::error("wrong_type", message).at(&node.place, "here").help(help));
            return None;
        }
    };
    let mut found: Vec<(&'static KindEntry, Key, Node)> = Vec::new();
    let mut common = Vec::new();
    let mut unknown = Vec::new();
    let start = entries.first().map_or_else(|| node.place.clone(), |(key, _)| key.place.clone());
    for (key, node) in entries {
        if let Some(kind) = kinds::find(&key.text) {
            found.push((kind, key, node));
        } else if COMMON_KEYS.contains(&key.text.as_str()) {
            common.push((key, node));
        } else if !key.text.starts_with("x-") {
            unknown.push(key);
        }
    }
    report_unknown(&unknown, found.is_empty(), problems);
    if found.is_empty() {
        if unknown.is_empty() {
            problems.push(
                Diagnostic::error("no_kind", "this step does not say what it does")
                    .at(&start, "the step begins here")
                    .help("add the key of a kind, such as `dump:`; `pgplan kinds` lists them"),
            );
        }
        return None;
    }
    if let [(_, first, _), (_, second, _), ..] = found.as_slice() {
        problems.push(
            Diagnostic::error("two_kinds", format!("a step is one thing: `{}` or `{}`", first.text, second.text))
                .at(&second.place, "a second kind")
                .at(&first.place, "the first kind")
                .help("make two steps of it"),
        );
    }
    let (kind, key, body) = found.swap_remove(0);
    let id = common.iter().find(|(key, _)| key.text == "id").map(|(_, node)| node);
    let (id, place) = match id.and_then(|node| Some((node.as_str()?, &node.place))) {
        Some((id, place)) => (id.to_owned(), place.clone()),
        None => (kind.name.to_owned(), key.place.clone()),
    };
    Some(StepDecl { kind, key, body, common, id, place })
}

fn report_unknown(unknown: &[Key], no_kind: bool, problems: &mut Problems) {
    let kinds = || kinds::all().iter().map(|kind| kind.name);
    for key in unknown {
        let close_to_common = spelling::closest(&key.text, COMMON_KEYS).is_some();
        let close_to_kind = spelling::closest(&key.text, kinds()).is_some();
        let diagnostic = if no_kind && (close_to_kind || !close_to_common) {
            let help = match spelling::closest(&key.text, kinds()) {
                Some(kind) => format!("did you mean `{kind}`?"),
                None => "`pgplan kinds` lists what a step can be".to_owned(),
            };
            Diagnostic::error("unknown_kind", format!("there is no kind of step called `{}`", key.text)).help(help)
        } else {
            let known = COMMON_KEYS.into_iter().chain(kinds());
            let help = spelling::closest(&key.text, known).map(|key| format!("did you mean `{key}`?"));
            Diagnostic::error("unknown_key", format!("a step has no key `{}`", key.text)).maybe_help(help)
        };
        problems.push(diagnostic.at(&key.place, "here"));
    }
}
