//! Templates: minijinja expressions between `${{ }}` inside the scalars of a plan.
//!
//! A scalar that is one template keeps the type of its value; text around it makes it a string. Names are strict. What
//! an expression names is read from its text first ([`names()`]), so that all undefined names of it are reported at once
//! and a value that is not known yet makes the result [`NodeValue::Unknown`] without evaluating anything. A secret is
//! only ever a marker; an expression that would compare it or change it is refused, because it would do so to the
//! marker and silently give a wrong answer.

mod address;
mod names;
mod scope;
pub(crate) mod segments;

use std::{ops::Range, sync::LazyLock};

use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior, Value, value::ValueKind};

pub use address::Address;
pub use names::{Name, Names, names};
pub use scope::{Known, Scope};

use crate::{
    diagnostic::Diagnostic,
    secret::{self, Text},
    source::Place,
    spelling,
    yaml::{Key, Node, NodeValue},
};
use scope::Missing;
use segments::{Segment, has_template, split};

/// Work that one expression may do, in minijinja's unit (about one instruction).
const FUEL: u64 = 100_000;
/// Filters that leave a secret whole.
const SECRET_FILTERS: [&str; 5] = ["|urlencode", "|default", "|d", "|join", "|string"];

/// Returns the node with every template in it evaluated.
///
/// # Errors
/// All that is wrong with the templates: `undefined_variable`, `bad_expression`, `secret_changed` and their kin.
pub fn render(node: &Node, scope: &Scope) -> Result<Node, Vec<Diagnostic>> {
    let mut problems = Vec::new();
    let rendered = render_into(node, scope, &mut problems);
    if problems.is_empty() { Ok(rendered) } else { Err(problems) }
}

/// Returns whether a condition holds. It may be written with or without `${{ }}` and must give true or false.
///
/// # Errors
/// All that is wrong with the expression; `not_a_condition` when it gives anything but true or false.
pub fn eval_bool(node: &Node, scope: &Scope) -> Result<Known<bool>, Vec<Diagnostic>> {
    let rendered = match &node.value {
        NodeValue::Str(text) if !has_template(text) => {
            let mut problems = Vec::new();
            let value = evaluate_in(node, 0..text.len(), text, scope, &mut problems);
            let value = value.and_then(|value| to_node(value, &node.place, &mut problems));
            match value {
                Some(value) if problems.is_empty() => value,
                _ => return Err(problems),
            }
        }
        _ => render(node, scope)?,
    };
    match rendered.value {
        NodeValue::Bool(value) => Ok(Known::Now(value)),
        NodeValue::Unknown { after, .. } => Ok(Known::After(after)),
        other => {
            let message = format!("a condition must give true or false, not {}", other.describe());
            let help = "compare the value: `vars.count > 0`, `vars.mode == 'fast'`";
            Err(vec![Diagnostic::error("not_a_condition", message).at(&node.place, "here").help(help)])
        }
    }
}

/// Returns what the templates of a node name, each with its place, without evaluating them.
///
/// With `bare`, a string without `${{ }}` is itself an expression, as in `if`.
#[must_use]
pub fn references(node: &Node, bare: bool) -> Vec<(Name, Place)> {
    let mut found = Vec::new();
    node.walk(&mut |node| {
        let NodeValue::Str(text) = &node.value else { return };
        let whole = bare && !has_template(text);
        if !whole && !has_template(text) {
            return;
        }
        let segments = if whole { vec![Segment::Expression(0..text.len())] } else { split(text).unwrap_or_default() };
        for segment in segments {
            let Segment::Expression(range) = segment else { continue };
            for name in names(&text[range.clone()]).paths {
                let place = inner_place(node, text, range.start + name.span.start..range.start + name.span.end);
                found.push((name, place));
            }
        }
    });
    found
}

fn render_into(node: &Node, scope: &Scope, problems: &mut Vec<Diagnostic>) -> Node {
    let value = match &node.value {
        NodeValue::Str(text) if has_template(text) => {
            return render_text(node, text, scope, problems).unwrap_or_else(|| node.clone());
        }
        NodeValue::Seq(items) => NodeValue::Seq(items.iter().map(|item| render_into(item, scope, problems)).collect()),
        NodeValue::Map(entries) => {
            let mut rendered = Vec::with_capacity(entries.len());
            for (key, node) in entries {
                if has_template(&key.text) {
                    problems.push(template_in_key(key));
                }
                rendered.push((key.clone(), render_into(node, scope, problems)));
            }
            NodeValue::Map(rendered)
        }
        other => other.clone(),
    };
    Node::new(node.place.clone(), value)
}

fn template_in_key(key: &Key) -> Diagnostic {
    Diagnostic::error("template_in_key", "a key cannot be a template")
        .at(&key.place, "here")
        .help("templates may stand in values only")
}

fn render_text(node: &Node, text: &str, scope: &Scope, problems: &mut Vec<Diagnostic>) -> Option<Node> {
    let segments = match split(text) {
        Ok(segments) => segments,
        Err(open) => {
            let place = inner_place(node, text, open..open + 3);
            problems.push(
                Diagnostic::error("bad_template", "this `${{` has no matching `}}`")
                    .at(&place, "opened here")
                    .help("write `$${{` for the characters themselves"),
            );
            return None;
        }
    };
    if let [Segment::Expression(range)] = segments.as_slice() {
        let value = evaluate_in(node, range.clone(), text, scope, problems)?;
        return to_node(value, &node.place, problems);
    }
    let mut out = String::new();
    let mut complete = true;
    for segment in segments {
        match segment {
            Segment::Text(text) => out.push_str(&text),
            Segment::Expression(range) => match evaluate_in(node, range.clone(), text, scope, problems) {
                None => complete = false,
                Some(Known::After(step)) => out.push_str(&secret::unknown_marker(&step)),
                Some(Known::Now(value)) => match value.kind() {
                    ValueKind::String | ValueKind::Number | ValueKind::Bool => out.push_str(&value.to_string()),
                    kind => {
                        let place = inner_place(node, text, range);
                        let (what, help) = match kind {
                            // `default('')` alone is for what is not defined.
                            ValueKind::None => ("null".to_owned(), "say what stands for null: `| default('', true)`"),
                            _ => (format!("a {kind}"), "make it text: `| join(',')` or `| tojson`"),
                        };
                        let message = format!("{what} cannot be put into text");
                        problems.push(Diagnostic::error("wrong_type", message).at(&place, "here").help(help));
                    }
                },
            },
        }
    }
    if complete { text_node(out, &node.place, problems) } else { None }
}

/// Returns a node of rendered text; text with an unknown in it is unknown.
fn text_node(text: String, place: &Place, problems: &mut Vec<Diagnostic>) -> Option<Node> {
    let value = match Text::from_marked(&text) {
        Ok(parts) => match parts.known_after() {
            Some(after) => NodeValue::Unknown { after: after.to_owned(), text },
            None => NodeValue::Str(text),
        },
        Err(broken) => {
            problems.push(Diagnostic::error("secret_changed", broken.to_string()).at(place, "here"));
            return None;
        }
    };
    Some(Node::new(place.clone(), value))
}

fn to_node(value: Known<Value>, place: &Place, problems: &mut Vec<Diagnostic>) -> Option<Node> {
    let value = match value {
        Known::After(after) => {
            let text = secret::unknown_marker(&after);
            return Some(Node::new(place.clone(), NodeValue::Unknown { text, after }));
        }
        Known::Now(value) => value,
    };
    let inner = |value: Value, problems: &mut Vec<Diagnostic>| to_node(Known::Now(value), place, problems);
    let value = match value.kind() {
        ValueKind::None => NodeValue::Null,
        ValueKind::Bool => NodeValue::Bool(value.is_true()),
        ValueKind::Number => match value.as_i64() {
            Some(int) if value.is_integer() => NodeValue::Int(int),
            _ => NodeValue::Float(f64::try_from(value).unwrap_or(f64::NAN)),
        },
        ValueKind::String => return text_node(value.as_str().unwrap_or_default().to_owned(), place, problems),
        ValueKind::Seq | ValueKind::Iterable => {
            let items = value.try_iter().ok()?;
            NodeValue::Seq(items.map(|item| inner(item, problems)).collect::<Option<_>>()?)
        }
        ValueKind::Map => {
            let keys = value.try_iter().ok()?;
            let entry = |key: Value| {
                let node = inner(value.get_item(&key).ok()?, problems)?;
                Some((Key { text: key.to_string(), place: place.clone() }, node))
            };
            NodeValue::Map(keys.map(entry).collect::<Option<_>>()?)
        }
        kind => {
            let message = match kind {
                ValueKind::Undefined => "the expression gives a value that is not defined".to_owned(),
                kind => format!("the expression gives {kind}, which a plan cannot use"),
            };
            problems.push(Diagnostic::error("undefined_name", message).at(place, "here"));
            return None;
        }
    };
    Some(Node::new(place.clone(), value))
}

/// Evaluates the expression at `range` of the node's text; `None` when problems were added.
fn evaluate_in(
    node: &Node,
    range: Range<usize>,
    text: &str,
    scope: &Scope,
    problems: &mut Vec<Diagnostic>,
) -> Option<Known<Value>> {
    let expression = &text[range.clone()];
    let at = |inner: &Range<usize>| inner_place(node, text, range.start + inner.start..range.start + inner.end);
    let found = names(expression);
    let mut after = None;
    let before = problems.len();
    for name in &found.paths {
        match scope.missing(name) {
            None => {}
            Some(Missing::After(step)) => after = after.or(Some(step)),
            Some(Missing::Wrong(code, message, help)) => {
                problems.push(Diagnostic::error(code, message).at(&at(&name.span), "here").maybe_help(help));
            }
        }
    }
    if let Some((operation, place)) = secret_operation(&found, scope) {
        let message = format!("a secret cannot be changed or compared: `{operation}`");
        let help = "secrets may be joined with text by `~` and encoded by `| urlencode`";
        problems.push(Diagnostic::error("secret_changed", message).at(&at(&place), "here").help(help));
    }
    if problems.len() > before {
        return None;
    }
    let compiled = match ENVIRONMENT.compile_expression_owned(names::for_minijinja(expression).into_owned()) {
        Ok(compiled) => compiled,
        Err(error) => {
            problems.push(failure(&error, "bad_expression", expression, at));
            return None;
        }
    };
    if let Some(step) = after {
        return Some(Known::After(step));
    }
    let context = match scope.context(&found.paths) {
        Ok(context) => context,
        Err(inner) => {
            problems.extend(inner);
            return None;
        }
    };
    match compiled.eval(context) {
        Ok(value) => Some(Known::Now(value)),
        Err(error) => {
            problems.push(failure(&error, "expression_failed", expression, at));
            None
        }
    }
}

/// Returns the first operation that stands in one part of the expression with a secret and would change it.
fn secret_operation(found: &Names, scope: &Scope) -> Option<(String, Range<usize>)> {
    let operation = |name: &Name| {
        found
            .operations
            .iter()
            .find(|(what, region, _)| *region == name.region && what != "+" && !SECRET_FILTERS.contains(&what.as_str()))
            .map(|(what, _, span)| (what.trim_start_matches('|').to_owned(), span.clone()))
    };
    found.paths.iter().filter(|name| operation(name).is_some()).find(|name| is_secret(name, scope)).and_then(operation)
}

fn is_secret(name: &Name, scope: &Scope) -> bool {
    match name.path[0].as_str() {
        "secrets" => true,
        "databases" if name.path.len() < 3 => true,
        "databases" if !matches!(name.path[2].as_str(), "url" | "password") => false,
        "databases" | "steps" | "each" if scope.missing(name).is_none() => {
            let Ok(mut value) = scope.context(std::slice::from_ref(name)) else { return false };
            for part in &name.path {
                value = value.get_attr(part).unwrap_or_default();
            }
            Text::from_marked(&value.to_string()).is_ok_and(|text| text.is_tainted())
        }
        _ => false,
    }
}

fn failure(error: &Error, code: &'static str, expression: &str, at: impl Fn(&Range<usize>) -> Place) -> Diagnostic {
    let range = error.range().filter(|range| range.end <= expression.len()).unwrap_or(0..expression.len());
    let place = at(&range);
    let detail = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let (code, message, help) = match error.kind() {
        ErrorKind::UnknownFilter => {
            let written = expression.get(range).unwrap_or_default();
            let name = names(written).operations.first().map_or(written.to_owned(), |(name, ..)| name.clone());
            let name = name.trim_start_matches('|').trim().to_owned();
            let help = spelling::closest(&name, FILTERS).map(|filter| format!("did you mean `{filter}`?"));
            ("bad_expression", detail, help)
        }
        ErrorKind::UnknownTest | ErrorKind::UnknownFunction | ErrorKind::UnknownMethod | ErrorKind::SyntaxError => {
            ("bad_expression", detail, None)
        }
        ErrorKind::UndefinedError => ("undefined_name", "a part of this is not defined".to_owned(), None),
        ErrorKind::OutOfFuel => ("expression_failed", "the expression takes too long".to_owned(), None),
        _ => (code, detail, None),
    };
    Diagnostic::error(code, message).at(&place, "here").maybe_help(help)
}

/// Returns the place of some bytes of a string's value: exact where the file has them as they are, else the string's.
fn inner_place(node: &Node, text: &str, range: Range<usize>) -> Place {
    let whole = &node.place;
    let Some(raw) = whole.file.text.get(whole.span.clone()) else { return whole.clone() };
    let Some(wanted) = text.get(range.clone()) else { return whole.clone() };
    // The same text may stand there several times: take the occurrence with the same number before it.
    let earlier = text[..range.start].matches(wanted).count();
    match raw.match_indices(wanted).nth(earlier) {
        Some((at, _)) if !wanted.is_empty() => {
            let start = whole.span.start + at;
            Place::new(&whole.file, start..start + wanted.len())
        }
        _ => whole.clone(),
    }
}

/// The filters people look for; for suggestions only.
const FILTERS: [&str; 16] = [
    "urlencode",
    "default",
    "join",
    "lower",
    "upper",
    "title",
    "trim",
    "replace",
    "length",
    "first",
    "last",
    "split",
    "tojson",
    "int",
    "string",
    "sort",
];

static ENVIRONMENT: LazyLock<Environment<'static>> = LazyLock::new(|| {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_fuel(Some(FUEL));
    environment.set_debug(true);
    environment.remove_global("debug");
    environment.remove_global("namespace");
    environment.add_filter("urlencode", |value: &Value| -> Result<String, Error> {
        let text = Text::from_marked(&value.to_string())
            .map_err(|broken| Error::new(ErrorKind::InvalidOperation, broken.to_string()))?;
        Ok(address::encode(&text))
    });
    environment
});

#[cfg(test)]
mod tests;
