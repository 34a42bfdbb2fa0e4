//! Secrets and databases.

use std::{collections::BTreeMap, path::PathBuf};

use crate::{
    diagnostic::{Diagnostic, Problems},
    document::{DatabaseKeys, SecretKeys},
    plan::{Database, SecretSource},
    secret::Text,
    template::{Address, Known, Scope, references, render},
    yaml::{self, Key, Node, NodeValue},
};

pub(super) fn secrets(
    entries: Vec<(Key, Node)>,
    scope: &Scope,
    problems: &mut Problems,
) -> BTreeMap<String, SecretSource> {
    let mut secrets = BTreeMap::new();
    for (name, (key, node)) in super::named("secret", entries, problems) {
        let source = match &node.value {
            NodeValue::Map(_) => render(&node, scope).and_then(|node| yaml::decode::<SecretKeys>(&node)),
            // The value is not repeated: it may well be the secret itself.
            _ => Err(vec![
                Diagnostic::error(
                    "secret_in_clear",
                    format!("the secret `{name}` must say where it is, not what it is"),
                )
                .at(&key.place, "declared here")
                .hide(&node.place)
                .help("write { env: NAME }, { file: PATH }, { command: [...] } or { pgpass: { … } }"),
            ]),
        };
        let source = match source {
            Ok(SecretKeys::Env(name)) => SecretSource::Env(name),
            Ok(SecretKeys::File(path)) => SecretSource::File(PathBuf::from(path)),
            Ok(SecretKeys::Command(argv)) if argv.is_empty() => {
                let message = "the command of a secret is empty";
                problems.push(Diagnostic::error("bad_value", message).at(&node.place, "here"));
                SecretSource::Command(argv)
            }
            Ok(SecretKeys::Command(argv)) => SecretSource::Command(argv),
            Ok(SecretKeys::Pgpass(keys)) => SecretSource::Pgpass {
                host: keys.host,
                port: keys.port.unwrap_or(5432),
                dbname: keys.dbname,
                user: keys.user,
                file: keys.file.map(PathBuf::from),
            },
            Err(found) => {
                problems.extend(found);
                // The name stays known, so that its uses are not reported as undefined.
                SecretSource::Env(String::new())
            }
        };
        secrets.insert(name, source);
    }
    secrets
}

/// Returns the databases, and their nodes for [`check_addresses`].
pub(super) fn databases(
    entries: Vec<(Key, Node)>,
    scope: &Scope,
    problems: &mut Problems,
) -> (BTreeMap<String, Database>, Vec<(String, Node)>) {
    let mut databases = BTreeMap::new();
    let mut nodes = Vec::new();
    for (name, (key, node)) in super::named("database", entries, problems) {
        let after = references(&node, false)
            .into_iter()
            .filter(|(reference, _)| reference.path[0] == "steps")
            .filter_map(|(reference, _)| reference.path.get(1).cloned())
            .collect();
        let mut database = Database {
            url: String::new(),
            params: BTreeMap::new(),
            password: None,
            expect: crate::plan::Expect::default(),
            protect: false,
            after,
            place: key.place.clone(),
        };
        match &node.value {
            NodeValue::Str(url) => {
                database.url.clone_from(url);
                database.place = node.place.clone();
            }
            NodeValue::Null => {}
            NodeValue::Map(_) => match keys(&node, scope) {
                Ok(keys) => fill(&mut database, &keys, &node),
                Err(found) => problems.extend(found),
            },
            other => {
                let message = format!("a database is a URL or a mapping, not {}", other.describe());
                problems.push(Diagnostic::error("wrong_type", message).at(&node.place, "here"));
            }
        }
        databases.insert(name.clone(), database);
        nodes.push((name, node));
    }
    (databases, nodes)
}

/// Reads the mapping of a database: `expect` and `protect` now, the rest stays a template.
fn keys(node: &Node, scope: &Scope) -> Result<DatabaseKeys, Vec<Diagnostic>> {
    let mut early = node.clone();
    if let NodeValue::Map(entries) = &mut early.value {
        for (key, node) in entries {
            if matches!(key.text.as_str(), "expect" | "protect") {
                *node = render(node, scope)?;
            }
        }
    }
    yaml::decode(&early)
}

fn fill(database: &mut Database, keys: &DatabaseKeys, node: &Node) {
    database.expect = keys.expect.clone();
    database.protect = keys.protect;
    let text = |text: &Option<Text>| text.as_ref().and_then(Text::as_plain);
    database.url = text(&keys.url).unwrap_or_default();
    database.password = text(&keys.password);
    for (key, value) in node.entries() {
        if !matches!(key.text.as_str(), "url" | "password" | "expect" | "protect")
            && let Ok(value) = yaml::decode::<Text>(value)
            && let Some(value) = value.as_plain()
        {
            database.params.insert(key.text.clone(), value);
        }
    }
}

/// Reports addresses that cannot be read and passwords that stand there for everyone to see. In the scope that is
/// returned a database whose address is wrong counts as not known yet, so that its uses are not reported again.
pub(super) fn check_addresses(
    databases: &BTreeMap<String, Database>,
    nodes: &[(String, Node)],
    scope: Scope,
    problems: &mut Problems,
) -> Scope {
    let mut usable = databases.clone();
    let inner = scope.clone().only(&["vars", "secrets", "steps", "run", "plan"]);
    for (name, node) in nodes {
        // The templates are rendered where they stand first: that tells the place of each problem.
        let address = render(node, &inner).and_then(|_| scope.address(name));
        let address = match address {
            Ok(Known::Now(address)) => address,
            Ok(Known::After(_)) => continue,
            Err(found) => {
                problems.extend(found);
                if let Some(database) = usable.get_mut(name) {
                    database.url = "${{ run.id }}".to_owned();
                }
                continue;
            }
        };
        let password = address.params.get("password").and_then(Text::as_plain);
        if password.is_some_and(|password| !password.is_empty())
            && let Some(database) = databases.get(name)
        {
            problems.push(
                Diagnostic::warning("password_in_clear", format!("the password of `{name}` stands in the plan"))
                    .at(&database.place, "this database")
                    .help(format!(
                        "declare where it is under `secrets` and write password: \"${{{{ secrets.{name} }}}}\""
                    )),
            );
        }
    }
    scope.with_databases(usable)
}

/// Reports what is wrong with the place of the journal: its templates, and its address as far as it is known.
pub(super) fn check_state(node: &Node, scope: &Scope, problems: &mut Problems) {
    let scope = scope.clone().only(&["vars", "secrets", "plan"]);
    let text = match render(node, &scope).and_then(|rendered| yaml::decode::<Text>(&rendered)) {
        Ok(text) => text,
        Err(found) => return problems.extend(found),
    };
    let marked = text.to_marked();
    if !marked.contains("://") {
        return;
    }
    match Address::parse(&marked) {
        Ok(address) => {
            let password = address.params.get("password").and_then(Text::as_plain);
            if password.is_some_and(|password| !password.is_empty()) {
                let message = "the password of the journal stands in the plan";
                problems.push(
                    Diagnostic::warning("password_in_clear", message)
                        .at(&node.place, "this address")
                        .help("declare where the URL is under `secrets` and write state: \"${{ secrets.NAME }}\""),
                );
            }
        }
        Err(message) => problems.push(
            Diagnostic::error("bad_database_address", format!("the journal cannot be there: {message}"))
                .at(&node.place, "the place of the journal")
                .help("write postgres://user@host:port/dbname, or a folder"),
        ),
    }
}
