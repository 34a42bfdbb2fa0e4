//! Digests that tell whether a plan still means the same: over what is done, not over names, timeouts and retries.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{bodies::place_of, steps::Draft};
use crate::{
    diagnostic::{Diagnostic, Problems},
    plan::{Database, Plan, SecretSource},
    secret::Part,
    source::Place,
    template::{
        Address, Known, Scope, names, render,
        segments::{self, Segment},
    },
};

/// Returns the digest of a step: its kind, its body as far as it is known, when it is done, its items, its environment,
/// the databases it uses as they are declared and the files it refers to. What comes before it is no part of it: a step
/// may be put in. Nor is where a secret is: one that was moved changes nothing that was done. A file that cannot be read
/// is reported.
pub(super) fn of_step(draft: &Draft, folder: &Path, scope: &Scope, problems: &mut Problems) -> String {
    let mut files: Vec<(PathBuf, Value)> = Vec::new();
    for (path, key) in &draft.declared.files {
        if path.to_string_lossy().contains("<known after ") {
            continue;
        }
        match digest(&folder.join(path)) {
            Ok(digest) => files.push((path.clone(), json!(digest))),
            Err(error) => problems.push(unreadable(path, &error, place_of(draft, key))),
        }
    }
    let late = |key: &str| draft.late(key).map(|node| render(node, scope).as_ref().unwrap_or(node).to_json());
    of(&json!({
        "kind": draft.decl.kind.name,
        "body": draft.rendered,
        "env": late("env"),
        "undo": late("undo"),
        "ensures": late("ensures"),
        "if": late("if"),
        "done_if": late("done_if"),
        "run_on": draft.keys.run_on,
        "for_each": late("for_each"),
        "databases": draft.databases,
        "files": files.iter().map(|(path, digest)| json!([path, digest])).collect::<Vec<_>>(),
    }))
}

fn unreadable(path: &Path, error: &std::io::Error, place: &Place) -> Diagnostic {
    Diagnostic::error("file_not_found", format!("cannot read {}: {error}", path.display()))
        .at(place, "named here")
        .help("paths begin at the folder of the plan")
}

/// Returns the digest of a file's content; of a folder, of the names and contents of its files.
pub(crate) fn digest(path: &Path) -> std::io::Result<String> {
    let found = std::fs::metadata(path)?;
    // Their files say they are ordinary, but reading one may wait for ever or never end.
    if path.canonicalize()?.starts_with("/proc") || path.canonicalize()?.starts_with("/sys") {
        return Err(std::io::Error::other("it is not a file on a disk"));
    }
    let mut hasher = blake3::Hasher::new();
    if found.is_dir() {
        let mut entries: Vec<PathBuf> =
            std::fs::read_dir(path)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
        entries.sort();
        for entry in entries.iter().filter(|entry| entry.is_file()) {
            let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
            hasher.update(name.as_bytes()).update(b"\0").update(digest(entry)?.as_bytes());
        }
    } else if found.is_file() {
        hasher.update_reader(std::fs::File::open(path)?)?;
    } else {
        return Err(std::io::Error::other("it is neither a file nor a folder"));
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// The parameters of a connection that are secrets (PostgreSQL manual, 34.1.2).
const PASSWORDS: [&str; 2] = ["password", "sslpassword"];

/// Returns a database as a step has it, for people too: where it is, what it is expected to be and whether it is
/// protected. Its address holds no password that stands in clear: a digest of it could be guessed at, and a new password
/// is no other database. A secret that is named stays by its name.
pub(super) fn declared(name: &str, database: &Database, scope: &Scope, vars: &BTreeMap<String, Value>) -> Value {
    let mut declared = match scope.address(name) {
        Ok(Known::Now(address)) => json!({ "address": known(&address) }),
        // What is wrong with it is reported where it is declared.
        Ok(Known::After(_)) | Err(_) => json!({ "address": templates(database), "vars": vars_of(database, vars) }),
    };
    let expect = &database.expect;
    let kept = [
        ("expect.major", expect.major.map(Value::from)),
        ("expect.empty", expect.empty.map(Value::from)),
        ("protect", database.protect.then_some(Value::Bool(true))),
    ];
    if let Value::Object(map) = &mut declared {
        map.extend(kept.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))));
    }
    declared
}

/// Returns the parameters of an address that is known, its passwords by the names of their secrets.
fn known(address: &Address) -> BTreeMap<&String, String> {
    let shown = address.params.iter().filter_map(|(key, text)| {
        if !PASSWORDS.contains(&key.as_str()) {
            return Some((key, text.to_string()));
        }
        let named = text.parts().iter().filter_map(|part| match part {
            Part::Secret { name, .. } => Some(format!("<secret {name}>")),
            Part::Plain(_) | Part::Unknown { .. } => None,
        });
        let named: String = named.collect();
        (!named.is_empty()).then_some((key, named))
    });
    shown.collect()
}

/// Returns the address of a database as the plan has it, templates as they are written and passwords in clear left out.
pub(crate) fn address(database: &Database) -> Value {
    json!(templates(database))
}

fn templates(database: &Database) -> BTreeMap<String, String> {
    let mut params = url(&database.url);
    let password = database.password.as_ref().map(|password| ("password", password));
    for (key, text) in database.params.iter().map(|(key, text)| (key.as_str(), text)).chain(password) {
        match PASSWORDS.contains(&key) {
            false => drop(params.insert(key.to_owned(), text.clone())),
            true => match without_plain(text) {
                named if named.is_empty() => drop(params.remove(key)),
                named => drop(params.insert(key.to_owned(), named)),
            },
        }
    }
    params
}

/// Returns the templates of a text without what stands between them.
fn without_plain(text: &str) -> String {
    expressions(text).into_iter().map(written).collect()
}

fn written(expression: &str) -> String {
    format!("${{{{ {expression} }}}}")
}

fn expressions(text: &str) -> Vec<&str> {
    let segments = segments::split(text).unwrap_or_default();
    let inner = segments.into_iter().filter_map(|segment| match segment {
        Segment::Expression(range) => Some(&text[range]),
        Segment::Text(_) => None,
    });
    inner.collect()
}

/// Returns the parts of an address but for its passwords in clear; a template stands for itself.
fn url(text: &str) -> BTreeMap<String, String> {
    let segments = segments::split(text).unwrap_or_default();
    // A word in place of each template keeps the address readable.
    let mut words = String::new();
    let mut templates = Vec::new();
    for segment in segments {
        match segment {
            Segment::Text(plain) => words.push_str(&plain),
            Segment::Expression(range) => {
                let word = format!("x-template-{}-x", templates.len());
                words.push_str(&word);
                templates.push((word, written(&text[range])));
            }
        }
    }
    let whole = templates.len() == 1 && templates[0].0 == words.trim();
    let parsed = if whole { None } else { Address::parse(&words).ok() };
    let Some(address) = parsed else {
        // A password may stand anywhere in what cannot be read.
        return BTreeMap::from([("url".to_owned(), without_plain(text))]);
    };
    let put_back =
        |value: String| templates.iter().fold(value, |value, (word, template)| value.replace(word, template));
    let kept = address.params.iter().filter_map(|(key, value)| {
        let value = put_back(value.to_string());
        let kept = if PASSWORDS.contains(&key.as_str()) { without_plain(&value) } else { value };
        (!kept.is_empty()).then(|| (key.clone(), kept))
    });
    kept.collect()
}

/// Returns the variables that the templates of an address name, with their values.
fn vars_of<'a>(database: &Database, vars: &'a BTreeMap<String, Value>) -> BTreeMap<&'a String, &'a Value> {
    let texts = std::iter::once(&database.url).chain(database.params.values()).chain(&database.password);
    let paths: Vec<_> = texts.flat_map(|text| expressions(text)).flat_map(|inner| names(inner).paths).collect();
    let named = |var: &str| {
        let of_vars = paths.iter().filter(|name| name.path[0] == "vars");
        of_vars.into_iter().any(|name| name.path.get(1).is_none_or(|named| named == var))
    };
    vars.iter().filter(|(var, _)| named(var)).collect()
}

/// Returns the digest of a plan: its steps with their order, its databases, its variables, and where its secrets are, never
/// what they are.
pub(super) fn of_plan(plan: &Plan) -> String {
    let steps: Vec<Value> = plan
        .steps
        .iter()
        .map(|step| {
            json!([step.id, step.fingerprint, step.needs, step.condition.as_ref().map(crate::yaml::Node::to_json)])
        })
        .collect();
    let databases: Vec<Value> = plan
        .databases
        .iter()
        .map(|(name, database)| {
            let protect = database.protect;
            json!([name, address(database), database.expect.major, database.expect.empty, protect])
        })
        .collect();
    let secrets: Vec<Value> =
        plan.secrets.iter().map(|(name, source)| json!([name, place_of_secret(source)])).collect();
    of(&json!({ "steps": steps, "databases": databases, "vars": plan.vars, "secrets": secrets }))
}

fn place_of_secret(source: &SecretSource) -> Value {
    match source {
        SecretSource::Env(name) => json!({ "env": name }),
        SecretSource::File(path) => json!({ "file": path }),
        SecretSource::Command(argv) => json!({ "command": argv }),
        SecretSource::Pgpass { host, port, dbname, user, file } => {
            json!({ "pgpass": [host, port, dbname, user, file] })
        }
    }
}

/// Returns the hex BLAKE3 digest of canonical JSON: keys sorted, no white space.
pub(crate) fn of(value: &Value) -> String {
    let mut text = String::new();
    canonical(value, &mut text);
    blake3::hash(text.as_bytes()).to_hex().to_string()
}

fn canonical(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                canonical(item, out);
            }
            out.push(']');
        }
        Value::Object(map) => {
            let mut keys: Vec<&String> = map.keys().collect();
            keys.sort();
            out.push('{');
            for (index, key) in keys.into_iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                out.push_str(&Value::from(key.as_str()).to_string());
                out.push(':');
                canonical(&map[key], out);
            }
            out.push('}');
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}
