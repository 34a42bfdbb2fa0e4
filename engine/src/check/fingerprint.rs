//! Digests that tell whether a plan still means the same: over what is done, not over names, timeouts and retries.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde_json::{Value, json};

use super::{bodies::place_of, steps::Draft};
use crate::{
    diagnostic::{Diagnostic, Problems},
    plan::{Database, Plan},
    source::Place,
    template::{
        Address, Scope, render,
        segments::{self, Segment, has_template},
    },
};

/// Returns the digest of a step: its kind, its body as far as it is known, when it is done, its items, its environment and
/// the files it refers to. What comes before it is no part of it: a step may be put in. A file that cannot be read is
/// reported.
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

/// Returns the address of a database as the plan has it, without a password that stands there in clear: a digest of it
/// could be guessed at, and a new password is no other database. A secret that is named stays by its name.
pub(crate) fn address(database: &Database) -> Value {
    let is_secret = |key: &str, value: &str| PASSWORDS.contains(&key) && !has_template(value);
    let params: BTreeMap<&String, &String> =
        database.params.iter().filter(|(key, value)| !is_secret(key, value)).collect();
    let password = database.password.as_ref().filter(|password| has_template(password));
    json!([url(&database.url), params, password])
}

/// The parameters of a connection that are secrets (PostgreSQL manual, 34.1.2).
const PASSWORDS: [&str; 2] = ["password", "sslpassword"];

/// Returns the parts of an address but for its passwords in clear; a template stands for itself.
fn url(text: &str) -> Value {
    let Ok(segments) = segments::split(text) else { return json!(text) };
    // A word in place of each template keeps the address readable.
    let (mut words, mut expressions) = (String::new(), Vec::new());
    for segment in segments {
        match segment {
            Segment::Text(plain) => words.push_str(&plain),
            Segment::Expression(range) => {
                words.push_str(&format!("x-template-{}-x", expressions.len()));
                expressions.push(text[range].to_owned());
            }
        }
    }
    let Ok(address) = Address::parse(&words) else { return json!(text) };
    let kept = address.params.iter().map(|(key, value)| (key, value.to_string()));
    let kept = kept.filter(|(key, value)| !PASSWORDS.contains(&key.as_str()) || value.contains("x-template-"));
    json!([kept.collect::<BTreeMap<_, _>>(), expressions])
}

/// Returns the digest of a plan: its steps with their order, its databases, variables and where its secrets are.
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
    let secrets: Vec<&String> = plan.secrets.keys().collect();
    of(&json!({ "steps": steps, "databases": databases, "vars": plan.vars, "secrets": secrets }))
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
