//! Variables: their values, their types, and what `--var` puts in their place.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use serde_json::Value;

use crate::{
    diagnostic::{Diagnostic, Problems},
    document::{VarKeys, VarType},
    quantity,
    source::SourceFile,
    spelling,
    template::{Scope, render},
    yaml::{self, Key, Limits, Node, NodeValue},
};

/// Returns the values of all variables. A value may be a template over the variables above it.
pub(super) fn resolve(
    entries: Vec<(Key, Node)>,
    overrides: &[(String, String)],
    scope: &Scope,
    problems: &mut Problems,
) -> BTreeMap<String, Value> {
    let names: Vec<String> = entries.iter().map(|(key, _)| key.text.clone()).collect();
    for (name, _) in overrides {
        if !names.contains(name) {
            let help = spelling::did_you_mean(name, names.iter().map(String::as_str));
            let message = format!("--var {name}: the plan has no variable `{name}`");
            problems.push(Diagnostic::error("unknown_var", message).maybe_help(help));
        }
    }
    let mut values: BTreeMap<String, Value> = BTreeMap::new();
    for (key, node) in entries {
        if !super::is_name(&key.text) {
            problems.push(super::bad_name("variable", &key.text, &key.place));
            continue;
        }
        let scope = scope.clone().with_vars(&values).only(&["vars", "plan"]);
        let given = overrides.iter().rev().find(|(name, _)| *name == key.text).map(|(_, value)| value.as_str());
        match value(&key, &node, given, &scope) {
            Ok(value) => {
                values.insert(key.text, value);
            }
            Err(found) => {
                problems.extend(found);
                // A name that stands for nothing keeps later uses of it from being reported as undefined.
                values.insert(key.text, Value::Null);
            }
        }
    }
    values
}

fn value(key: &Key, node: &Node, given: Option<&str>, scope: &Scope) -> Result<Value, Vec<Diagnostic>> {
    let declared = if is_declaration(node) { Some(yaml::decode::<VarKeys>(node)?) } else { None };
    let default = if declared.is_some() { node.get("default") } else { Some(node) };
    let kind = declared.as_ref().and_then(|keys| keys.kind);
    let name = &key.text;
    if let Some(text) = given {
        let kind = kind.or_else(|| default.and_then(|node| type_of(&node.value)));
        return from_command_line(name, text, kind).map_err(|message| {
            let message = format!("--var {name}: {message}");
            vec![Diagnostic::error("var_type", message).at(&key.place, "declared here")]
        });
    }
    let Some(default) = default else {
        return match declared.and_then(|keys| keys.required) {
            Some(false) => Ok(Value::Null),
            _ => Err(vec![
                Diagnostic::error("missing_var", format!("the variable `{name}` has no value"))
                    .at(&key.place, "required here")
                    .help(format!("give one: --var {name}=VALUE")),
            ]),
        };
    };
    let rendered = render(default, scope)?;
    if let Some(kind) = kind
        && let Err(message) = fits(&rendered.value, kind)
    {
        return Err(vec![Diagnostic::error("var_type", message).at(&default.place, "here")]);
    }
    Ok(rendered.to_json())
}

/// Returns whether the mapping declares a variable rather than being its value.
fn is_declaration(node: &Node) -> bool {
    const KEYS: [&str; 4] = ["type", "default", "description", "required"];
    let entries = node.entries();
    let typed = node.get("type").is_some_and(|kind| {
        yaml::decode::<VarType>(kind).is_ok() || entries.iter().any(|(key, _)| key.text == "default")
    });
    let declares = |key: &str| matches!(key, "default" | "required");
    typed
        || (entries.iter().any(|(key, _)| declares(&key.text))
            && entries.iter().all(|(key, _)| KEYS.contains(&key.text.as_str())))
}

fn type_of(value: &NodeValue) -> Option<VarType> {
    match value {
        NodeValue::Bool(_) => Some(VarType::Bool),
        NodeValue::Int(_) => Some(VarType::Int),
        NodeValue::Float(_) => Some(VarType::Number),
        NodeValue::Str(_) => Some(VarType::String),
        NodeValue::Seq(_) => Some(VarType::List),
        NodeValue::Map(_) => Some(VarType::Map),
        NodeValue::Null | NodeValue::Unknown { .. } => None,
    }
}

fn words(kind: VarType) -> &'static str {
    match kind {
        VarType::String => "a string",
        VarType::Int => "a whole number",
        VarType::Number => "a number",
        VarType::Bool => "true or false",
        VarType::List => "a list",
        VarType::Map => "a mapping",
        VarType::Duration => "a duration",
        VarType::Size => "a size",
    }
}

fn fits(value: &NodeValue, kind: VarType) -> Result<(), String> {
    let fits = match (kind, value) {
        (VarType::Duration, NodeValue::Str(text)) => return quantity::parse_duration(text).map(|_| ()),
        (VarType::Size, NodeValue::Str(text)) => return quantity::parse_size(text).map(|_| ()),
        (VarType::Number, NodeValue::Int(_)) => true,
        (VarType::Size, NodeValue::Int(bytes)) => *bytes >= 0,
        (_, value) => type_of(value) == Some(kind),
    };
    if fits { Ok(()) } else { Err(format!("the variable must be {}, not {}", words(kind), value.describe())) }
}

/// Returns the value of `--var NAME=TEXT`: text for a string, else what YAML reads, checked against the type.
fn from_command_line(name: &str, text: &str, kind: Option<VarType>) -> Result<Value, String> {
    if crate::secret::is_marked(text) {
        return Err("the characters U+E000 to U+E1FF cannot be used".to_owned());
    }
    match kind {
        Some(VarType::String) => return Ok(Value::from(text)),
        Some(VarType::Duration) => {
            quantity::parse_duration(text)?;
            return Ok(Value::from(text));
        }
        Some(VarType::Size) => {
            quantity::parse_size(text)?;
            return Ok(Value::from(text));
        }
        _ => {}
    }
    let file = SourceFile { name: format!("--var {name}"), folder: PathBuf::new(), text: text.to_owned() };
    let mut found = Problems::default();
    let node = yaml::parse(&Arc::new(file), Limits::default(), &mut found);
    let wanted = kind.map_or("a value", words);
    if !found.is_empty() {
        return Err(format!("`{text}` is not {wanted}"));
    }
    let Some(node) = node else {
        return if kind.is_none() { Ok(Value::Null) } else { Err(format!("expected {wanted}")) };
    };
    if let Some(kind) = kind {
        fits(&node.value, kind).map_err(|_| format!("expected {wanted}, found `{text}`"))?;
    }
    Ok(node.to_json())
}
