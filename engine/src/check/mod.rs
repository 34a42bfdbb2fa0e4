//! Document → [`Plan`]. Every error of meaning is found and shown in one report.
//!
//! What can be evaluated without a server is evaluated: variables, the bodies of steps as far as they are known. A kind
//! then declares what its step uses and gives, and the declarations are judged against the plan.

mod artifacts;
mod bodies;
mod borrow;
pub(crate) mod fingerprint;
mod order;
mod references;
mod settings;
mod sources;
mod steps;
mod vars;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    diagnostic::{Diagnostic, Problems, Severity},
    document::{self, Document},
    plan::Plan,
    template::Scope,
};

/// How many steps a plan may have; the check's tables grow with the square of it.
const MAX_STEPS: usize = 20_000;

/// What the command line adds to a plan.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--var NAME=VALUE`, in order.
    pub vars: Vec<(String, String)>,
    /// Names of the platforms that are known; empty = names are not checked.
    pub platforms: Vec<String>,
    /// The files of those that were given, for the plan.
    pub platform_files: Vec<PathBuf>,
}

/// The outcome of a check.
#[derive(Debug)]
pub struct Checked {
    /// The plan; absent when one of the problems is an error.
    pub plan: Option<Plan>,
    /// All problems, file by file from top to bottom.
    pub problems: Vec<Diagnostic>,
}

impl Checked {
    /// Returns how many of the problems are errors.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.problems.iter().filter(|problem| problem.severity == Severity::Error).count()
    }
}

/// Checks the plan at `path`; opens no connection and starts no program.
#[must_use]
pub fn check_file(path: &Path, options: &Options) -> Checked {
    let mut problems = Problems::default();
    let document = document::load(path, &mut problems);
    finish(document, options, problems)
}

/// Checks a plan given as text; relative paths in it begin at `folder`.
#[must_use]
pub fn check_text(name: &str, folder: PathBuf, text: String, options: &Options) -> Checked {
    let mut problems = Problems::default();
    let document = document::load_text(name.to_owned(), folder, text, &mut problems);
    finish(document, options, problems)
}

fn finish(document: Option<Document>, options: &Options, mut problems: Problems) -> Checked {
    let plan = document.and_then(|document| check(document, options, &mut problems));
    let plan = plan.filter(|_| !problems.has_errors());
    Checked { plan, problems: problems.into_sorted() }
}

/// Returns the plan that a document describes; `None` or a plan of no use when errors were added to `problems`.
fn check(document: Document, options: &Options, problems: &mut Problems) -> Option<Plan> {
    let Document { file, vars, secrets, databases, steps, settings } = document;
    if steps.len() > MAX_STEPS {
        let message = format!("the plan has {} steps; at most {MAX_STEPS} are possible", steps.len());
        problems.push(Diagnostic::error("too_many_steps", message).help("use `for_each`"));
        return None;
    }
    let folder = file.folder.clone();
    let shown = folder.display().to_string();
    let vars = vars::resolve(vars, &options.vars, &Scope::new("", &shown), problems);
    let early = Scope::new("", &shown).with_vars(&vars).only(&["vars", "plan"]);
    let settings = settings::read(&settings, &early, problems);
    let name = settings.name.clone().unwrap_or_else(|| default_name(&file.name));
    let early = Scope::new(&name, &shown).with_vars(&vars).only(&["vars", "plan"]);
    let secrets = sources::secrets(secrets, &early, problems);
    let (databases, nodes) = sources::databases(databases, &early, problems);
    let mut drafts = steps::read(steps, &early, problems);
    borrow::put_in(&mut drafts, problems);
    let scope = Scope::new(&name, &shown)
        .with_vars(&vars)
        .with_secrets(secrets.keys().cloned())
        .with_databases(databases.clone())
        .with_steps(drafts.iter().map(|draft| draft.id.clone()));
    let scope = sources::check_addresses(&databases, &nodes, scope, problems);
    if let Some(state) = &settings.state {
        sources::check_state(state, &scope, problems);
    }
    let order = order::build(&drafts, problems);
    bodies::declare(&mut drafts, &databases, &vars, &scope, &folder, problems);
    let mut edges = order.edges(&drafts);
    if order.is_complete() {
        edges.extend(artifacts::resolve(&mut drafts, &order, problems));
        edges.extend(references::check(&drafts, &order, &databases, problems));
    }
    bodies::check_names(&drafts, &databases, &options.platforms, problems);
    edges.sort_by(|a, b| (&a.from, &a.to, a.reason).cmp(&(&b.from, &b.to, b.reason)));
    edges.dedup_by(|b, a| a.from == b.from && a.to == b.to);
    let steps = steps::finish(drafts, &order);
    let mut plan = Plan {
        name,
        path: PathBuf::from(&file.name),
        folder,
        vars,
        given: options.vars.iter().cloned().collect(),
        platforms: options.platform_files.clone(),
        secrets,
        databases,
        steps,
        edges,
        max_parallel: settings.max_parallel.map_or_else(processors, usize::from).max(1),
        state: settings.state,
        downtime_budget: settings.downtime.map(|goal| goal.budget.0),
        on_failure: settings.on_failure,
        fingerprint: String::new(),
    };
    plan.fingerprint = fingerprint::of_plan(&plan);
    Some(plan)
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

fn default_name(path: &str) -> String {
    Path::new(path).file_stem().map_or_else(|| path.to_owned(), |stem| stem.to_string_lossy().into_owned())
}

/// Entries of a mapping that are names: letters, digits, `_` and `-`, beginning with a letter or `_`.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

/// Returns the entries whose names are well-formed, by name.
fn named<T>(
    what: &str,
    entries: Vec<(crate::yaml::Key, T)>,
    problems: &mut Problems,
) -> BTreeMap<String, (crate::yaml::Key, T)> {
    let mut named = BTreeMap::new();
    for (key, value) in entries {
        if is_name(&key.text) {
            named.insert(key.text.clone(), (key, value));
        } else {
            problems.push(bad_name(what, &key.text, &key.place));
        }
    }
    named
}

fn bad_name(what: &str, name: &str, place: &crate::source::Place) -> Diagnostic {
    Diagnostic::error("bad_name", format!("`{name}` cannot be the name of a {what}"))
        .at(place, "here")
        .help("names begin with a letter and go on with letters, digits, `_` and `-`")
}

#[cfg(test)]
mod tests;
