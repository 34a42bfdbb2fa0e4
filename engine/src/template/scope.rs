//! What an expression may name, and which of it is known by now.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use minijinja::Value;

use super::{
    address::{Address, password_marker},
    names::Name,
    render,
};
use crate::{
    action::{OutputValue, Outputs},
    diagnostic::Diagnostic,
    plan::Database,
    secret::{self, Encoding, Text},
    spelling,
    yaml::{Node, NodeValue},
};

/// A value, or the step after which it will be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Known<T> {
    /// The value.
    Now(T),
    /// Known after this step; `start` stands for the start of the run.
    After(String),
}

/// The names that expressions can begin with.
pub(super) const ROOTS: [&str; 7] = ["vars", "secrets", "databases", "steps", "each", "run", "plan"];
const DATABASE_FIELDS: [&str; 6] = ["url", "host", "port", "user", "dbname", "password"];

/// Values for the templates of a plan. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Scope {
    roots: &'static [&'static str],
    vars: Arc<BTreeMap<String, Value>>,
    secrets: Arc<BTreeSet<String>>,
    databases: Arc<BTreeMap<String, Database>>,
    /// The outputs of each step; `None` while it has not run.
    steps: Arc<BTreeMap<String, Option<BTreeMap<String, Value>>>>,
    each: Option<Known<Value>>,
    run: Option<Value>,
    plan: Value,
}

/// A name that an expression cannot use, or cannot use yet.
#[derive(Debug)]
pub(super) enum Missing {
    /// Known after this step.
    After(String),
    /// Never known: code, message and help.
    Wrong(&'static str, String, Option<String>),
}

impl Scope {
    /// Returns a scope in which only the plan's own name and folder are known.
    #[must_use]
    pub fn new(name: &str, dir: &str) -> Self {
        Self {
            roots: &ROOTS,
            vars: Arc::default(),
            secrets: Arc::default(),
            databases: Arc::default(),
            steps: Arc::default(),
            each: None,
            run: None,
            plan: Value::from_pairs([("name", name), ("dir", dir)]),
        }
    }

    /// Returns the scope of a checked plan before any step has run.
    #[must_use]
    pub fn of(plan: &crate::plan::Plan) -> Self {
        Self::new(&plan.name, &plan.folder.display().to_string())
            .with_vars(plan.vars.iter())
            .with_secrets(plan.secrets.keys().cloned())
            .with_databases(plan.databases.clone())
            .with_steps(plan.steps.iter().map(|step| step.id.clone()))
    }

    /// Returns the scope with these variables.
    #[must_use]
    pub fn with_vars<'a>(mut self, vars: impl IntoIterator<Item = (&'a String, &'a serde_json::Value)>) -> Self {
        self.vars = Arc::new(vars.into_iter().map(|(name, value)| (name.clone(), json(value))).collect());
        self
    }

    /// Returns the scope with secrets of these names.
    #[must_use]
    pub fn with_secrets(mut self, names: impl IntoIterator<Item = String>) -> Self {
        self.secrets = Arc::new(names.into_iter().collect());
        self
    }

    /// Returns the scope with these databases.
    #[must_use]
    pub fn with_databases(mut self, databases: BTreeMap<String, Database>) -> Self {
        self.databases = Arc::new(databases);
        self
    }

    /// Returns the scope with steps of these ids, none of which has run.
    #[must_use]
    pub fn with_steps(mut self, ids: impl IntoIterator<Item = String>) -> Self {
        self.steps = Arc::new(ids.into_iter().map(|id| (id, None)).collect());
        self
    }

    /// Makes the outputs of a finished step known.
    pub fn finish(&mut self, step: &str, outputs: &Outputs) {
        let values = outputs
            .iter()
            .map(|(name, value)| {
                let value = match value {
                    OutputValue::Plain(value) => json(value),
                    OutputValue::Secret(_) => {
                        Value::from(secret::marker(&format!("steps.{step}.outputs.{name}"), Encoding::Raw))
                    }
                };
                (name.clone(), value)
            })
            .collect();
        Arc::make_mut(&mut self.steps).insert(step.to_owned(), Some(values));
    }

    /// Returns the scope of one item of a `for_each`.
    #[must_use]
    pub fn with_each(mut self, key: &str, value: &Node, index: usize) -> Self {
        let pairs = [("key", Value::from(key)), ("value", from_node(value)), ("index", Value::from(index))];
        self.each = Some(Known::Now(Value::from_pairs(pairs)));
        self
    }

    /// Returns the scope of a `for_each` whose items are known only after a step.
    #[must_use]
    pub fn with_each_after(mut self, step: &str) -> Self {
        self.each = Some(Known::After(step.to_owned()));
        self
    }

    /// Returns the scope of a run; `started_at` is a timestamp as RFC 3339 writes it.
    #[must_use]
    pub fn with_run(mut self, id: &str, dir: &str, started_at: &str) -> Self {
        self.run = Some(Value::from_pairs([("id", id), ("dir", dir), ("started_at", started_at)]));
        self
    }

    /// Returns the scope in which only names with these beginnings may be used.
    #[must_use]
    pub(crate) fn only(mut self, roots: &'static [&'static str]) -> Self {
        self.roots = roots;
        self
    }

    /// Returns the connection parameters of a database of the plan, its secrets still named.
    ///
    /// # Errors
    /// What is wrong with its templates or its address; `unknown_database` when the plan has none of this name.
    pub fn address(&self, name: &str) -> Result<Known<Address>, Vec<Diagnostic>> {
        let Some(database) = self.databases.get(name) else {
            let help = spelling::did_you_mean(name, self.databases.keys().map(String::as_str));
            return Err(vec![
                Diagnostic::error("unknown_database", format!("the plan has no database `{name}`")).maybe_help(help),
            ]);
        };
        let scope = self.clone().only(&["vars", "secrets", "steps", "run", "plan"]);
        let marked = |text: &str| -> Result<Known<String>, Vec<Diagnostic>> {
            let node = Node::new(database.place.clone(), NodeValue::Str(text.to_owned()));
            Ok(match render(&node, &scope)?.value {
                NodeValue::Unknown { after, .. } => Known::After(after),
                NodeValue::Str(text) => Known::Now(text),
                NodeValue::Int(value) => Known::Now(value.to_string()),
                other => {
                    let message = format!("the address of a database must be text, not {}", other.describe());
                    return Err(vec![Diagnostic::error("wrong_type", message).at(&database.place, "here")]);
                }
            })
        };
        let bad = |message: String| {
            vec![
                Diagnostic::error("bad_database_address", message)
                    .at(&database.place, format!("the address of `{name}`"))
                    .help("write postgres://user@host:port/dbname or host=… user=… dbname=…"),
            ]
        };
        let mut address = match marked(&database.url)? {
            Known::Now(url) => Address::parse(&url).map_err(bad)?,
            Known::After(step) => return Ok(Known::After(step)),
        };
        let password = database.password.as_ref().map(|password| ("password", password));
        for (key, text) in database.params.iter().map(|(key, text)| (key.as_str(), text)).chain(password) {
            match marked(text)? {
                Known::Now(value) => {
                    let value = Text::from_marked(&value).map_err(|error| bad(error.to_string()))?;
                    address.params.insert(key.to_owned(), value);
                }
                Known::After(step) => return Ok(Known::After(step)),
            }
        }
        Ok(Known::Now(address))
    }

    fn database(&self, name: &str) -> Result<Value, Vec<Diagnostic>> {
        let address = match self.address(name)? {
            Known::Now(address) => address,
            Known::After(step) => {
                let unknown = Value::from(secret::unknown_marker(&step));
                return Ok(Value::from_pairs(DATABASE_FIELDS.map(|field| (field, unknown.clone()))));
            }
        };
        let param = |key: &str| address.params.get(key).map(Text::to_marked);
        let port = param("port").map_or(Value::from(5432), |port| match port.parse::<u16>() {
            Ok(port) => Value::from(port),
            Err(_) => Value::from(port),
        });
        let mut fields = vec![("url", Value::from(address.url(name))), ("port", port)];
        fields.extend(param("host").map(|host| ("host", Value::from(host))));
        fields.extend(param("user").map(|user| ("user", Value::from(user))));
        fields.extend(param("dbname").or_else(|| param("user")).map(|dbname| ("dbname", Value::from(dbname))));
        let password = param("password").map(|_| password_marker(name, Encoding::Raw));
        fields.extend(password.map(|password| ("password", Value::from(password))));
        Ok(Value::from_pairs(fields))
    }

    /// Says what keeps `name` from being used.
    pub(super) fn missing(&self, name: &Name) -> Option<Missing> {
        let wrong = |code, message: String, help| Some(Missing::Wrong(code, message, help));
        let path: Vec<&str> = name.path.iter().map(String::as_str).collect();
        let root = path[0];
        if ROOTS.contains(&root) && !self.roots.contains(&root) {
            let allowed = self.roots.iter().map(|root| format!("`{root}`")).collect::<Vec<_>>().join(", ");
            return wrong(
                "not_usable_here",
                format!("`{root}` cannot be used here"),
                Some(format!("usable here: {allowed}")),
            );
        }
        let known = |part: &str, known: Vec<&str>| spelling::did_you_mean(part, known);
        match (root, path.get(1).copied()) {
            ("vars", Some(part)) if !self.vars.contains_key(part) => {
                let help = known(part, self.vars.keys().map(String::as_str).collect());
                let help = help.unwrap_or_else(|| format!("declare it: `vars: {{ {part}: … }}`"));
                wrong("undefined_variable", format!("the plan has no variable `{part}`"), Some(help))
            }
            ("secrets", Some(part)) if !self.secrets.contains(part) => {
                let help = known(part, self.secrets.iter().map(String::as_str).collect());
                let help =
                    help.unwrap_or_else(|| format!("declare where it is: `secrets: {{ {part}: {{ env: … }} }}`"));
                wrong("undefined_secret", format!("the plan has no secret `{part}`"), Some(help))
            }
            ("databases", Some(part)) if !self.databases.contains_key(part) => {
                let help = known(part, self.databases.keys().map(String::as_str).collect());
                wrong("unknown_database", format!("the plan has no database `{part}`"), help)
            }
            ("databases", Some(_)) => match path.get(2) {
                Some(field) if !DATABASE_FIELDS.contains(field) => {
                    let help = known(field, DATABASE_FIELDS.to_vec());
                    wrong("undefined_name", format!("a database has no `{field}`"), help)
                }
                _ => None,
            },
            ("steps", part) => self.missing_step(part, &path, name.dynamic),
            ("each", part) => match (&self.each, part) {
                (None, _) => wrong("undefined_name", "`each` is known in a step with `for_each` only".to_owned(), None),
                (Some(Known::After(step)), _) => Some(Missing::After(step.clone())),
                (Some(Known::Now(_)), Some(part)) => Self::field("each", part, &["key", "value", "index"]),
                (Some(Known::Now(_)), None) => None,
            },
            ("run", part) => {
                match (part.and_then(|part| Self::field("run", part, &["id", "dir", "started_at"])), &self.run) {
                    (Some(missing), _) => Some(missing),
                    (None, None) => Some(Missing::After("start".to_owned())),
                    (None, Some(_)) => None,
                }
            }
            ("plan", Some(part)) => Self::field("plan", part, &["name", "dir"]),
            ("vars" | "secrets" | "databases" | "plan", _) => None,
            (other, _) => {
                let prefix = ["vars", "secrets", "databases", "steps"].into_iter().find(|root| match *root {
                    "vars" => self.vars.contains_key(other),
                    "secrets" => self.secrets.contains(other),
                    "databases" => self.databases.contains_key(other),
                    _ => self.steps.contains_key(other),
                });
                let help = match prefix {
                    Some(root) => Some(format!("did you mean `{root}.{other}`?")),
                    None => known(other, ROOTS.to_vec()),
                };
                wrong("undefined_name", format!("`{other}` is not defined"), help)
            }
        }
    }

    fn missing_step(&self, id: Option<&str>, path: &[&str], dynamic: bool) -> Option<Missing> {
        let wrong = |code, message: String, help| Some(Missing::Wrong(code, message, help));
        let Some(id) = id else {
            let help = "write steps.NAME.outputs.NAME, so that the order of steps can be checked".to_owned();
            return wrong("dynamic_reference", "a step must be named in the expression itself".to_owned(), Some(help));
        };
        let Some(outputs) = self.steps.get(id) else {
            let help = spelling::did_you_mean(id, self.steps.keys().map(String::as_str));
            return wrong("unknown_step", format!("the plan has no step `{id}`"), help);
        };
        if path.get(2).is_some_and(|part| *part != "outputs") || (path.len() == 2 && !dynamic) {
            let help = format!("write steps.{id}.outputs.NAME");
            return wrong("undefined_name", "a step gives `outputs` and nothing else".to_owned(), Some(help));
        }
        let Some(outputs) = outputs else { return Some(Missing::After(id.to_owned())) };
        let output = path.get(3)?;
        if outputs.contains_key(*output) {
            return None;
        }
        let help = spelling::did_you_mean(output, outputs.keys().map(String::as_str));
        wrong("unknown_output", format!("the step `{id}` gave no output `{output}`"), help)
    }

    fn field(root: &str, part: &str, fields: &[&str]) -> Option<Missing> {
        if fields.contains(&part) {
            return None;
        }
        let help = spelling::did_you_mean(part, fields.iter().copied());
        Some(Missing::Wrong("undefined_name", format!("`{root}` has no `{part}`"), help))
    }

    /// Returns the values that these names need, ready for evaluation.
    pub(super) fn context(&self, names: &[Name]) -> Result<Value, Vec<Diagnostic>> {
        let mut context: BTreeMap<&str, Value> = BTreeMap::new();
        let mut databases: BTreeMap<String, Value> = BTreeMap::new();
        for name in names {
            let root = name.path[0].as_str();
            let value = match root {
                "databases" => {
                    let wanted = name.path.get(1);
                    for key in self.databases.keys().filter(|key| wanted.is_none_or(|wanted| *key == wanted)) {
                        databases.insert(key.clone(), self.database(key)?);
                    }
                    continue;
                }
                _ if context.contains_key(root) => continue,
                "vars" => Value::from_pairs(self.vars.iter().map(|(name, value)| (name.clone(), value.clone()))),
                "secrets" => {
                    let marker = |name: &String| secret::marker(&format!("secrets.{name}"), Encoding::Raw);
                    Value::from_pairs(self.secrets.iter().map(|name| (name.clone(), Value::from(marker(name)))))
                }
                "steps" => Value::from_pairs(
                    names
                        .iter()
                        .filter_map(|name| name.path.get(1))
                        .filter_map(|id| Some((id, self.steps.get(id)?.as_ref()?)))
                        .map(|(id, outputs)| {
                            let outputs = outputs.iter().map(|(name, value)| (name.clone(), value.clone()));
                            (id.clone(), Value::from_pairs([("outputs", Value::from_pairs(outputs))]))
                        }),
                ),
                "each" => match &self.each {
                    Some(Known::Now(value)) => value.clone(),
                    _ => continue,
                },
                "run" => self.run.clone().unwrap_or_default(),
                _ => self.plan.clone(),
            };
            context.insert(root, value);
        }
        if !databases.is_empty() {
            context.insert("databases", Value::from_pairs(databases));
        }
        Ok(Value::from_pairs(context))
    }
}

/// Returns a value from outside (a variable, an output). It cannot forge the marker of a secret: the characters that
/// markers are made of are replaced.
fn json(value: &serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(int), _) => Value::from(int),
            (None, Some(int)) => Value::from(int),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) if secret::is_marked(text) => {
            let clean = |c: char| if secret::is_marked(c.encode_utf8(&mut [0; 4])) { '\u{FFFD}' } else { c };
            Value::from(text.chars().map(clean).collect::<String>())
        }
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => items.iter().map(json).collect(),
        serde_json::Value::Object(map) => Value::from_pairs(map.iter().map(|(key, value)| (key.clone(), json(value)))),
    }
}

/// Returns the value of a rendered node, markers kept.
fn from_node(node: &Node) -> Value {
    match &node.value {
        NodeValue::Null => Value::from(()),
        NodeValue::Bool(value) => Value::from(*value),
        NodeValue::Int(value) => Value::from(*value),
        NodeValue::Float(value) => Value::from(*value),
        NodeValue::Str(text) | NodeValue::Unknown { text, .. } => Value::from(text.as_str()),
        NodeValue::Seq(items) => items.iter().map(from_node).collect(),
        NodeValue::Map(entries) => {
            Value::from_pairs(entries.iter().map(|(key, value)| (key.text.clone(), from_node(value))))
        }
    }
}
