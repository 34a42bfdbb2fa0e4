//! The JSON Schemas (draft-07) of a plan and of events, made from the types that read and write them. Editors load
//! that of a plan by the modeline
//! `# yaml-language-server: $schema=…/plan.v1.json`.
//!
//! The types say what a value is after templates were evaluated; in the file any value may be a template. So every
//! place that is closed to strings is opened for strings with `${{` in them.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use crate::{
    document::{DatabaseKeys, SecretKeys, Settings, StepKeys, VarKeys},
    event::Event,
    kinds,
};

/// Returns the schema of a plan file.
#[must_use]
pub fn plan_schema() -> Value {
    let mut generator = SchemaSettings::draft07().into_generator();
    let mut top = properties::<Settings>(&mut generator);
    let step = step_schema(&mut generator);
    let vars = generator.subschema_for::<VarKeys>().to_value();
    let secret = generator.subschema_for::<SecretKeys>().to_value();
    let database = generator.subschema_for::<DatabaseKeys>().to_value();
    let mut definitions = Value::Object(generator.take_definitions(true));
    for schema in definitions.as_object_mut().into_iter().flat_map(Map::values_mut) {
        open_inner(schema);
        may_be_empty(schema);
    }
    for schema in top.values_mut() {
        open(schema);
    }
    top.insert("version".to_owned(), json!({ "description": "The version of the plan language.", "const": 1 }));
    let sections = [
        (
            "vars",
            "Variables by name: a value, or a mapping with `type`, `default`, `description`, `required`.",
            json!({
                "anyOf": [vars, true]
            }),
        ),
        ("secrets", "Where each secret is, never what it is.", secret),
        (
            "databases",
            "Databases by name: a URL, or a mapping.",
            json!({ "anyOf": [database, { "type": ["string", "null"] }] }),
        ),
    ];
    for (name, description, entry) in sections {
        let names = r"^[A-Za-z_][A-Za-z0-9_-]*$";
        let section = json!({
            "description": description,
            "type": ["object", "null"],
            "patternProperties": { "^x-": true, names: entry },
            "additionalProperties": false
        });
        top.insert(name.to_owned(), section);
    }
    top.insert(
        "steps".to_owned(),
        json!({
            "description": "The steps, in order; each has one key that says what it does, and common keys.",
            "type": ["array", "null"],
            "items": step
        }),
    );
    top.insert(
        "include".to_owned(),
        json!({
            "description": "Files whose variables, secrets, databases and steps come before those of this file.",
            "type": ["array", "string"],
            "items": { "type": "string" }
        }),
    );
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "pgplan plan, version 1",
        "type": "object",
        "required": ["version"],
        "properties": top,
        "patternProperties": { "^x-": true },
        "additionalProperties": false,
        "definitions": definitions
    })
}

/// Returns the schema of an event, one JSON object a line in `--events FILE` and `pgplan log --json`.
///
/// Later versions may add keys and events; what is described stays as it is.
#[must_use]
pub fn event_schema() -> Value {
    let mut schema = SchemaSettings::draft07().for_serialize().into_generator().into_root_schema_for::<Event>();
    schema.insert("title".to_owned(), json!("pgplan event, version 1"));
    schema.to_value()
}

/// Returns the schema of a step: common keys, exactly one kind, and what that kind's key holds.
///
/// "Exactly one" is not said by `oneOf`: yaml-language-server would offer the last kind alone and miss just that one.
/// `errorMessage` is its keyword for a better sentence; other validators do not read it.
fn step_schema(generator: &mut SchemaGenerator) -> Value {
    let mut keys = properties::<StepKeys>(generator);
    for schema in keys.values_mut() {
        open(schema);
    }
    let common: Vec<String> = keys.keys().cloned().collect();
    let mut rules = vec![json!({
        "if": { "type": "object", "propertyNames": { "anyOf": [{ "enum": common }, { "pattern": "^x-" }] } },
        "then": { "type": "null", "errorMessage": "This step does not say what it does: add the key of a kind." }
    })];
    for kind in kinds::all() {
        let body = (kind.schema)(generator).to_value();
        keys.insert(kind.name.to_owned(), json!({ "description": format!("{}.", kind.summary) }));
        let others = kinds::all().iter().map(|other| other.name).filter(|name| *name != kind.name);
        let no_other = format!("^(?!(?:{})$)", others.collect::<Vec<_>>().join("|"));
        let one_kind = format!("A step is one thing, and this one is a `{}`.", kind.name);
        rules.push(json!({
            "if": { "type": "object", "required": [kind.name] },
            "then": {
                "properties": { kind.name: body },
                "propertyNames": { "pattern": no_other, "errorMessage": one_kind }
            }
        }));
    }
    json!({
        "type": "object",
        "properties": keys,
        "patternProperties": { "^x-": true },
        "additionalProperties": false,
        "allOf": rules
    })
}

/// Returns the properties of a type, taken out of its definition.
fn properties<T: JsonSchema>(generator: &mut SchemaGenerator) -> Map<String, Value> {
    let mut schema = T::json_schema(generator).to_value();
    match schema.get_mut("properties").map(Value::take) {
        Some(Value::Object(properties)) => properties,
        _ => Map::new(),
    }
}

fn is_template() -> Value {
    json!({ "type": "string", "pattern": r"\$\{\{", "description": "A template." })
}

/// Lets the schema accept a template, and all schemas inside it.
fn open(schema: &mut Value) {
    open_inner(schema);
    if accepts_text(schema) {
        return;
    }
    let mut outer = Map::new();
    if let Some(inner) = schema.as_object_mut() {
        for key in ["description", "default"] {
            let value = inner.remove(key).filter(|value| !value.is_null());
            outer.extend(value.map(|value| (key.to_owned(), value)));
        }
    }
    let mut choices = match schema.get_mut("anyOf").map(Value::take) {
        Some(Value::Array(choices)) => choices,
        _ => vec![schema.take()],
    };
    choices.push(is_template());
    outer.insert("anyOf".to_owned(), Value::Array(choices));
    *schema = Value::Object(outer);
}

/// Opens the schemas inside `schema`; itself it stays as it is, but for choices that may overlap now.
fn open_inner(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        properties.values_mut().for_each(open);
    }
    for key in ["items", "additionalProperties"] {
        if let Some(inner @ Value::Object(_)) = schema.get_mut(key) {
            open(inner);
        }
    }
    if let Some(choices) = schema.remove("oneOf") {
        schema.insert("anyOf".to_owned(), choices);
    }
    for key in ["anyOf", "allOf"] {
        if let Some(Value::Array(choices)) = schema.get_mut(key) {
            choices.iter_mut().for_each(open_inner);
        }
    }
}

/// A step's body with no required key may be left out: `- preflight:`.
fn may_be_empty(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else { return };
    if schema.get("type") == Some(&json!("object"))
        && schema.contains_key("properties")
        && !schema.contains_key("required")
    {
        schema.insert("type".to_owned(), json!(["object", "null"]));
    }
}

/// Returns whether any string is accepted, as far as can be told without following references.
fn accepts_text(schema: &Value) -> bool {
    let Some(schema) = schema.as_object() else { return true };
    if ["const", "enum", "pattern", "format"].iter().any(|key| schema.contains_key(*key)) {
        return false;
    }
    if let Some(Value::Array(choices)) = schema.get("anyOf") {
        return choices.iter().any(|choice| *choice == is_template() || accepts_text(choice));
    }
    match schema.get("type") {
        Some(Value::String(one)) => one == "string",
        Some(Value::Array(several)) => several.iter().any(|one| one == "string"),
        _ => !schema.contains_key("$ref") && !schema.contains_key("allOf"),
    }
}

/// What the reference says about a kind, read from its schema.
#[derive(Debug, Clone)]
pub struct KindReference {
    /// The documentation of the kind.
    pub description: String,
    /// Its keys, in the order of the type.
    pub keys: Vec<KeyReference>,
}

/// What the reference says about a key.
#[derive(Debug, Clone)]
pub struct KeyReference {
    /// The key.
    pub name: String,
    /// Its type in words: `string`, `list of strings`, `"count" or "digest"`.
    pub kind: String,
    /// Whether it must be there.
    pub required: bool,
    /// Its default as JSON; absent when there is none worth telling.
    pub default: Option<String>,
    /// Its documentation.
    pub description: String,
    /// The words that it may be, as JSON, each with its documentation.
    pub values: Vec<(String, String)>,
    /// The keys of the mapping that it may be, or that its items may be.
    pub keys: Vec<KeyReference>,
}

impl KindReference {
    /// Returns the reference of a kind.
    #[must_use]
    pub fn of(kind: &kinds::KindEntry) -> Self {
        let mut generator = SchemaSettings::draft07().into_generator();
        let root = (kind.schema)(&mut generator).to_value();
        let definitions = generator.take_definitions(true);
        let description = description(resolve(&root, &definitions));
        Self { description, keys: keys_in(&root, &definitions, &mut Vec::new()) }
    }
}

fn description(schema: &Value) -> String {
    schema.get("description").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// Returns the choices that a schema leaves, references resolved; one that leaves none is its own.
fn choices<'a>(schema: &'a Value, definitions: &'a Map<String, Value>) -> Vec<&'a Value> {
    let schema = resolve(schema, definitions);
    match schema.get("anyOf").or_else(|| schema.get("oneOf")) {
        Some(Value::Array(several)) => several.iter().flat_map(|one| choices(one, definitions)).collect(),
        _ => vec![schema],
    }
}

/// Returns the keys of the mappings among a schema's choices, or of the items of its lists and of named entries.
/// `within` are the mappings around it: one that holds itself is described once.
fn keys_in<'a>(
    schema: &'a Value,
    definitions: &'a Map<String, Value>,
    within: &mut Vec<&'a Value>,
) -> Vec<KeyReference> {
    let choices = choices(schema, definitions);
    let mappings = choices.iter().filter(|choice| choice.get("properties").is_some()).count();
    let mut keys: Vec<KeyReference> = Vec::new();
    for choice in choices {
        if within.iter().any(|outer| std::ptr::eq(*outer, choice)) {
            continue;
        }
        within.push(choice);
        if let Some(Value::Object(properties)) = choice.get("properties") {
            let required = choice.get("required").and_then(Value::as_array);
            for (name, schema) in properties {
                let required = required.is_some_and(|names| names.iter().any(|required| required == name));
                let mut key = key_reference(name, schema, required && mappings == 1, definitions, within);
                if mappings > 1 && key.description.is_empty() {
                    key.description = description(choice);
                }
                if !keys.iter().any(|known| known.name == *name) {
                    keys.push(key);
                }
            }
        } else {
            for inner in ["items", "additionalProperties"].iter().filter_map(|key| choice.get(*key)) {
                keys.extend(keys_in(inner, definitions, within));
            }
        }
        within.pop();
    }
    keys
}

fn key_reference<'a>(
    name: &str,
    schema: &'a Value,
    required: bool,
    definitions: &'a Map<String, Value>,
    within: &mut Vec<&'a Value>,
) -> KeyReference {
    let own = description(schema);
    let all = choices(schema, definitions);
    let items = all.iter().filter_map(|choice| choice.get("items")).flat_map(|items| choices(items, definitions));
    let values = all.iter().copied().chain(items).filter_map(|choice| {
        let value = choice.get("const").filter(|_| choice.get("description").is_some())?;
        Some((value.to_string(), description(choice)))
    });
    KeyReference {
        name: name.to_owned(),
        kind: type_words(schema, definitions),
        required,
        default: schema.get("default").filter(|value| is_telling(value)).map(Value::to_string),
        description: if own.is_empty() { description(resolve(schema, definitions)) } else { own },
        values: values.collect(),
        keys: keys_in(schema, definitions, within),
    }
}

fn is_telling(default: &Value) -> bool {
    match default {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    }
}

fn resolve<'a>(schema: &'a Value, definitions: &'a Map<String, Value>) -> &'a Value {
    let reference = schema.get("$ref").or_else(|| schema.get("allOf")?.get(0)?.get("$ref"));
    let name = reference.and_then(Value::as_str).and_then(|path| path.strip_prefix("#/definitions/"));
    name.and_then(|name| definitions.get(name)).unwrap_or(schema)
}

/// Returns the type of a value in words.
fn type_words(schema: &Value, definitions: &Map<String, Value>) -> String {
    let schema = resolve(schema, definitions);
    if let Some(value) = schema.get("const") {
        return value.to_string();
    }
    if let Some(Value::Array(values)) = schema.get("enum") {
        return values.iter().filter(|value| !value.is_null()).map(Value::to_string).collect::<Vec<_>>().join(" or ");
    }
    if let Some(Value::Array(choices)) = schema.get("anyOf").or_else(|| schema.get("oneOf")) {
        let mut words: Vec<String> = Vec::new();
        for word in choices.iter().map(|choice| type_words(choice, definitions)) {
            if word != "nothing" && !words.contains(&word) {
                words.push(word);
            }
        }
        return words.join(" or ");
    }
    let one = |name: &str| match name {
        "array" => match schema.get("items") {
            Some(items) => format!("list of {}", type_words(items, definitions)),
            None => "list".to_owned(),
        },
        "object" if schema.get("properties").is_some() => "mapping".to_owned(),
        "object" => match schema.get("additionalProperties").filter(|inner| inner.is_object()) {
            Some(inner) => format!("mapping of names to {}", type_words(inner, definitions)),
            None => "mapping".to_owned(),
        },
        "integer" => "whole number".to_owned(),
        "boolean" => "true or false".to_owned(),
        "null" => "nothing".to_owned(),
        other => other.to_owned(),
    };
    match schema.get("type") {
        Some(Value::String(name)) => one(name),
        // Text takes any scalar; for people it is text.
        Some(Value::Array(names)) if names.iter().any(|name| name == "string") => "string".to_owned(),
        Some(Value::Array(names)) => {
            let names = names.iter().filter_map(Value::as_str).filter(|name| *name != "null");
            names.map(one).collect::<Vec<_>>().join(" or ")
        }
        _ => "anything".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_validate_and_typos_do_not() {
        let schema = plan_schema();
        let validator = jsonschema::draft7::new(&schema).unwrap();
        for kind in kinds::all() {
            let plan = format!("version: 1\nsteps:\n  - {}\n", kind.example.trim_end().replace('\n', "\n    "));
            let json = to_json(&plan);
            let errors: Vec<String> = validator.iter_errors(&json).map(|error| error.to_string()).collect();
            assert_eq!(errors, Vec::<String>::new(), "{plan}");
        }
        let good = [
            "version: 1\nx-note: [1]\nvars: { a: 1, b: { type: int, required: true } }\nsecrets: { s: { env: X } }",
            "version: 1\ndatabases: { d: postgres://h/d, e: { host: h, port: 5433, expect: { major: \"${{ vars.m }}\" } } }",
            "version: 1\nsteps: [{ approve: { message: m }, needs: [], timeout: \"${{ vars.t }}\", retry: { attempts: 3, delay: 2s } }]",
        ];
        for text in good {
            let json = to_json(text);
            let errors: Vec<String> = validator.iter_errors(&json).map(|error| error.to_string()).collect();
            assert_eq!(errors, Vec::<String>::new(), "{text}");
        }
        let bad = [
            "steps: []",
            "version: 2",
            "version: 1\nstep: []",
            "version: 1\nsteps: [{ needs: [] }]",
            "version: 1\nsteps: [{ approve: { mesage: m } }]",
            "version: 1\nsteps: [{ approve: { message: m }, timeout: 5 }]",
            "version: 1\nsteps: [{ approve: { message: m }, run_on: never }]",
            "version: 1\nsecrets: { s: hunter2 }",
        ];
        for text in bad {
            assert!(!validator.is_valid(&to_json(text)), "{text}");
        }
    }

    fn to_json(text: &str) -> Value {
        use crate::{diagnostic::Problems, source::SourceFile, yaml};
        let file = SourceFile { name: String::new(), folder: std::path::PathBuf::new(), text: text.to_owned() };
        let mut problems = Problems::default();
        yaml::parse(&std::sync::Arc::new(file), yaml::Limits::default(), &mut problems).unwrap().to_json()
    }
}
