//! What a kind declares about a step while the plan is checked.

use std::path::PathBuf;

/// How a step uses a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// Only reads.
    Reads,
    /// Changes it; two runs never change one server at the same time.
    Changes,
}

/// What is handed from step to step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handed {
    /// A dump, filtered or not.
    Dump,
    /// Remembered counts of an application.
    Scale,
    /// A running tunnel.
    Tunnel,
    /// Databases that are closed to writers.
    Fence,
}

/// A path to a value in the step's body: `["from"]`, `["set", "DB_URL"]`.
pub type Key = Vec<String>;

/// A problem of meaning that a kind found in its own body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Stable code, snake case.
    pub code: &'static str,
    /// Where in the body.
    pub key: Key,
    /// Lower case, no final period.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// Whether the plan can still run.
    pub warning: bool,
}

/// All that one step declares; `check.rs` judges it against the plan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Declarations {
    /// Databases used.
    pub databases: Vec<(String, Key, Use)>,
    /// What the step makes for its descendants.
    pub makes: Vec<Handed>,
    /// What it takes, under which key: from the named step, or from the nearest ancestor that makes it.
    pub takes: Vec<(String, Handed, Option<String>)>,
    /// Keys of `takes` whose giver is ended by this step, on the databases that the giver changes.
    pub ends: Vec<String>,
    /// Names of outputs, and whether each is a secret; a reference to another name is an error.
    pub outputs: Vec<(String, bool)>,
    /// Whether outputs with other names may appear (captures named at run time).
    pub open_outputs: bool,
    /// Databases that the step destroys, with the key that names each.
    pub destroys: Vec<(String, Key)>,
    /// Files that belong to the step's fingerprint, relative to the plan.
    pub files: Vec<(PathBuf, Key)>,
    /// Platforms named.
    pub platforms: Vec<(String, Key)>,
    /// What is wrong.
    pub problems: Vec<Problem>,
}

/// Returns a key from its parts.
#[must_use]
pub fn key<const N: usize>(parts: [&str; N]) -> Key {
    parts.iter().map(|part| (*part).to_owned()).collect()
}

impl Declarations {
    /// Declares that the step reads the database named under `key`.
    pub fn reads(&mut self, database: &str, at: &str) {
        self.databases.push((database.to_owned(), key([at]), Use::Reads));
    }

    /// Declares that the step changes the database named under `key`.
    pub fn changes(&mut self, database: &str, at: &str) {
        self.databases.push((database.to_owned(), key([at]), Use::Changes));
    }

    /// Declares that the step destroys the database named under `key`, which changes it, too.
    pub fn destroys(&mut self, database: &str, at: &str) {
        self.changes(database, at);
        self.destroys.push((database.to_owned(), key([at])));
    }

    /// Declares that the step makes something for its descendants.
    pub fn makes(&mut self, what: Handed) {
        self.makes.push(what);
    }

    /// Declares that the step takes something, under this key, from `step` or the nearest ancestor that makes it.
    pub fn takes(&mut self, at: &str, what: Handed, step: Option<&str>) {
        self.takes.push((at.to_owned(), what, step.map(str::to_owned)));
    }

    /// Declares that the step ends what the step taken under this key set up, where that one set it up.
    pub fn ends(&mut self, at: &str) {
        self.ends.push(at.to_owned());
    }

    /// Declares an output.
    pub fn output(&mut self, name: &str, secret: bool) {
        self.outputs.push((name.to_owned(), secret));
    }

    /// Declares a file that belongs to the step.
    pub fn file(&mut self, path: impl Into<PathBuf>, at: &str) {
        self.files.push((path.into(), key([at])));
    }

    /// Declares the platform named under `key`.
    pub fn platform(&mut self, name: &str, at: &str) {
        self.platforms.push((name.to_owned(), key([at])));
    }

    /// Reports an error at `key`.
    pub fn problem(&mut self, code: &'static str, key: Key, message: impl Into<String>, help: Option<&str>) {
        let help = help.map(str::to_owned);
        self.problems.push(Problem { code, key, message: message.into(), help, warning: false });
    }

    /// Reports something at `key` that does not stop the plan.
    pub fn warning(&mut self, code: &'static str, key: Key, message: impl Into<String>, help: Option<&str>) {
        let help = help.map(str::to_owned);
        self.problems.push(Problem { code, key, message: message.into(), help, warning: true });
    }
}
