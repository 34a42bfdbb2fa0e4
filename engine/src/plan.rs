//! The valid plan: what `check` makes of a document. Nothing in here can still be wrong without running it.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use crate::{error::ErrorKind, kinds::Declarations, source::Place, yaml::Node};

/// A plan whose every name, reference and type was checked.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The plan's `name`.
    pub name: String,
    /// The path of the plan file, for messages and the resume command.
    pub path: PathBuf,
    /// The folder of the plan, against which its paths are resolved.
    pub folder: PathBuf,
    /// Variables with their values: defaults overridden by `--var`.
    pub vars: BTreeMap<String, serde_json::Value>,
    /// The values among them that were given (`--var`), as they were written.
    pub given: BTreeMap<String, String>,
    /// Platform files that were given beside it (`--platform`), as they were named.
    pub platforms: Vec<PathBuf>,
    /// Where each secret is.
    pub secrets: BTreeMap<String, SecretSource>,
    /// Databases by name.
    pub databases: BTreeMap<String, Database>,
    /// Steps in the order of the file; `needs` point at ids in this list, without a cycle.
    pub steps: Vec<Step>,
    /// What comes before what, and why; `needs` of the steps and the reasons found by the check.
    pub edges: Vec<Edge>,
    /// How many actions may run at once over all steps.
    pub max_parallel: usize,
    /// Where the journal is, as the plan says it (a template): a path or a `postgres://` URL.
    pub state: Option<Node>,
    /// The longest downtime that the plan's author accepts.
    pub downtime_budget: Option<Duration>,
    /// What happens after a step failed.
    pub on_failure: OnFailure,
    /// Digest over all that matters (hex blake3): steps, databases, variables, files referred to; not names,
    /// timeouts and retries.
    pub fingerprint: String,
}

impl Plan {
    /// Returns the step of this id.
    #[must_use]
    pub fn step(&self, id: &str) -> Option<&Step> {
        self.steps.iter().find(|step| step.id == id)
    }

    /// Returns whether one step comes before another, directly or through others.
    #[must_use]
    pub fn is_ancestor(&self, first: &str, later: &str) -> bool {
        let mut waiting: Vec<&str> = vec![later];
        let mut seen = std::collections::BTreeSet::new();
        while let Some(step) = waiting.pop().and_then(|id| self.step(id)) {
            for need in &step.needs {
                if need == first {
                    return true;
                }
                if seen.insert(need.as_str()) {
                    waiting.push(need);
                }
            }
        }
        false
    }
}

/// One step comes before another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edge {
    /// The step that comes first.
    pub from: String,
    /// The step that comes after it.
    pub to: String,
    /// Why.
    pub reason: Reason,
}

/// Why one step comes before another. Artifacts and references never add an order of their own: the check demands
/// that `needs` has it already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// `needs` says so.
    Declared,
    /// It stands before it in the file.
    Order,
    /// It makes what the other takes.
    Artifact,
    /// The other names its outputs.
    Reference,
}

/// Where a secret is, never what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// An environment variable.
    Env(String),
    /// The first line of a file (must not be readable by others).
    File(PathBuf),
    /// The trimmed standard output of a program.
    Command(Vec<String>),
    /// The matching line of a `.pgpass` file; the default file when no path is given.
    Pgpass {
        /// `host:port:database:user` that the line must match.
        host: String,
        /// Port.
        port: u16,
        /// Database.
        dbname: String,
        /// User.
        user: String,
        /// The file; absent = `PGPASSFILE`, then `~/.pgpass`.
        file: Option<PathBuf>,
    },
}

/// A database of the plan. Values may hold templates, rendered when a connection is opened.
#[derive(Debug, Clone)]
pub struct Database {
    /// URL or key=value conninfo; empty = PG* variables and defaults.
    pub url: String,
    /// Connection parameters beside the URL, by libpq keyword (`host`, `sslmode`); they win over it.
    pub params: BTreeMap<String, String>,
    /// The password's template, kept out of the URL.
    pub password: Option<String>,
    /// What the server must be before the first step that uses it.
    pub expect: Expect,
    /// Whether destructive steps (`deprovision`) are refused on it.
    pub protect: bool,
    /// Steps whose outputs its address is made of: whoever uses the database must come after them.
    pub after: Vec<String>,
    /// Where it is declared.
    pub place: Place,
}

/// What a server must be before the run changes anything, and before the first step that uses it.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// Major version.
    pub major: Option<u32>,
    /// Without tables in its database (not template1's additions).
    pub empty: Option<bool>,
}

/// What happens after a step failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Nothing more is started; the run stays resumable.
    #[default]
    Stop,
    /// What was done is taken back, up to the point of no return.
    Undo,
    /// A person is asked; without a terminal as `Stop`.
    Ask,
}

/// One step, checked.
#[derive(Debug, Clone)]
pub struct Step {
    /// Unique id.
    pub id: String,
    /// For people.
    pub name: Option<String>,
    /// The kind's name: the key of the step.
    pub kind: &'static str,
    /// The body under the kind's key, templates not rendered.
    pub body: Node,
    /// Steps that must be over before: declared, or implied by an artifact or a reference.
    pub needs: Vec<String>,
    /// What the kind declared, with every `takes` resolved: key → producing step.
    pub inputs: BTreeMap<String, String>,
    /// Databases, outputs, files and platforms, as the kind declared them.
    pub declared: Declarations,
    /// The databases it uses by name: their addresses without passwords, and what is expected of them.
    pub databases: BTreeMap<String, serde_json::Value>,
    /// Condition; a template expression without the `${{ }}`.
    pub condition: Option<Node>,
    /// When it runs with regard to its needs.
    pub run_on: RunOn,
    /// One instance for each item.
    pub for_each: Option<ForEach>,
    /// Longest time of one attempt of one action.
    pub timeout: Option<Duration>,
    /// Further attempts.
    pub retry: Retry,
    /// A failure becomes a warning.
    pub continue_on_error: bool,
    /// The step counts as done when this says yes.
    pub done_if: Option<Node>,
    /// Must say yes after the step.
    pub ensures: Option<Node>,
    /// What takes the step back, instead of the actions' own undo.
    pub undo: Option<Node>,
    /// Whether the application's downtime begins or ends here.
    pub downtime: Option<Downtime>,
    /// Undo never goes back over it.
    pub point_of_no_return: bool,
    /// Variables for the programs it starts.
    pub env: BTreeMap<String, Node>,
    /// Where it stands.
    pub place: Place,
    /// Digest (hex blake3) of the kind, the body, when it is done, the databases it uses and the files it refers to.
    pub fingerprint: String,
}

/// When a step runs with regard to the steps it needs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RunOn {
    /// When all of them succeeded or were skipped by their own condition.
    #[default]
    Success,
    /// When at least one failed.
    Failure,
    /// When all of them are over, however they ended.
    Always,
}

/// The items of a step that is done once for each.
#[derive(Debug, Clone)]
pub struct ForEach {
    /// A list, a map or a template that gives one.
    pub items: Node,
    /// How many at once; absent = the plan's limit.
    pub max_parallel: Option<usize>,
    /// Whether the first failure keeps the remaining items from starting.
    pub fail_fast: bool,
}

impl Step {
    /// Returns the step as it is written, its kind with its body and the keys that say when and how it is done; templates
    /// and so secrets stand there by name.
    #[must_use]
    pub fn text(&self) -> serde_json::Value {
        let mut text = serde_json::Map::from_iter([(self.kind.to_owned(), self.body.to_json())]);
        let keys = [
            ("if", self.condition.as_ref()),
            ("for_each", self.for_each.as_ref().map(|each| &each.items)),
            ("done_if", self.done_if.as_ref()),
            ("ensures", self.ensures.as_ref()),
            ("undo", self.undo.as_ref()),
        ];
        text.extend(keys.into_iter().filter_map(|(key, node)| Some((key.to_owned(), node?.to_json()))));
        if !self.env.is_empty() {
            text.insert("env".to_owned(), self.env.iter().map(|(name, node)| (name.clone(), node.to_json())).collect());
        }
        if self.run_on != RunOn::Success {
            text.insert("run_on".to_owned(), serde_json::json!(self.run_on));
        }
        text.into()
    }

    /// Returns the text of the step with the databases that it uses: all that an edit of the plan can change in what it
    /// does, but for files and variables.
    #[must_use]
    pub fn text_with_databases(&self) -> serde_json::Value {
        let mut text = self.text();
        if let serde_json::Value::Object(map) = &mut text
            && !self.databases.is_empty()
        {
            map.insert("databases".to_owned(), self.databases.clone().into_iter().collect());
        }
        text
    }

    /// Returns whether this step ends what another set up: opens what it has fenced.
    #[must_use]
    pub fn ends(&self, other: &str) -> bool {
        self.declared.ends.iter().any(|key| self.inputs.get(key).is_some_and(|step| step == other))
    }
}

/// Which side of the downtime a step marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Downtime {
    /// The application is down from this step's start.
    Begin,
    /// The application is up at this step's end.
    End,
}

/// How often and when a failed action is tried again.
#[derive(Debug, Clone, PartialEq)]
pub struct Retry {
    /// Attempts in all, at least 1.
    pub attempts: u32,
    /// Wait before the second attempt.
    pub delay: Duration,
    /// Factor from one wait to the next.
    pub backoff: f64,
    /// Longest wait.
    pub max_delay: Duration,
    /// Share of the wait that is random, 0 to 1.
    pub jitter: f64,
    /// Which errors; empty = the transient ones.
    pub errors: Vec<ErrorKind>,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 1,
            delay: Duration::from_secs(1),
            backoff: 2.0,
            max_delay: Duration::from_secs(60),
            jitter: 0.1,
            errors: Vec::new(),
        }
    }
}
