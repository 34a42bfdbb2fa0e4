//! The bodies of steps: rendered as far as values are known, read as their kind, and asked what they declare.

use std::{collections::BTreeMap, path::Path};

use super::{fingerprint, references, steps::Draft};
use crate::{
    diagnostic::{Diagnostic, Problems, Severity},
    document::{Question, Undo},
    each::keys_of,
    kinds::{Declarations, command::argv_problems, declare::Problem},
    plan::Database,
    secret::Text,
    source::Place,
    spelling,
    template::{Scope, eval_bool, render},
    yaml::{self, Node, NodeValue},
};

/// How many items a `for_each` that is known beforehand may have.
const MAX_ITEMS: usize = 10_000;
/// What a placeholder for an unknown name looks like once it is plain text.
const PLACEHOLDER: &str = "<known after ";

/// Fills in what each step declares, the databases it uses, and its fingerprint.
pub(super) fn declare(
    drafts: &mut [Draft],
    databases: &BTreeMap<String, Database>,
    vars: &BTreeMap<String, serde_json::Value>,
    scope: &Scope,
    folder: &Path,
    problems: &mut Problems,
) {
    let whole = |name: &String, database: &Database| fingerprint::declared(name, database, scope, vars);
    let known: BTreeMap<&String, serde_json::Value> =
        databases.iter().map(|(name, database)| (name, whole(name, database))).collect();
    for draft in drafts {
        let (found, declared, rendered) = declare_one(draft, scope);
        problems.extend(found);
        draft.declared = declared;
        draft.rendered = rendered;
        check_late(draft, scope, problems);
        let used = references::databases(draft).into_iter();
        draft.databases = used.filter_map(|name| Some((name.clone(), known.get(&name)?.clone()))).collect();
        draft.fingerprint = fingerprint::of_step(draft, folder, scope, problems);
    }
}

fn declare_one(draft: &Draft, scope: &Scope) -> (Vec<Diagnostic>, Declarations, Vec<serde_json::Value>) {
    let mut problems = Vec::new();
    let mut declared = Declarations::default();
    let mut rendered_bodies = Vec::new();
    let scopes = match items(draft, scope) {
        Ok(scopes) => scopes,
        Err(found) => {
            problems.extend(found);
            vec![scope.clone().with_each_after(&draft.id)]
        }
    };
    for scope in scopes {
        let body = match render(&draft.decl.body, &scope) {
            Ok(body) => body,
            Err(found) => {
                problems.extend(found);
                break;
            }
        };
        rendered_bodies.push(body.to_json());
        match (draft.decl.kind.decode)(&body) {
            Ok(kind) => {
                let mut own = Declarations::default();
                kind.check(&mut own);
                problems.extend(own.problems.iter().map(|problem| kind_problem(problem, draft)));
                merge(&mut declared, own);
            }
            Err(found) => {
                let unknown = unknown_places(&body);
                let before = problems.len();
                problems
                    .extend(found.into_iter().filter(|one| one.place().is_none_or(|place| !unknown.contains(place))));
                if problems.len() == before {
                    declared.open_outputs = true;
                    problems.push(
                        Diagnostic::warning("checked_later", "this step can only be checked when it runs")
                            .at(&draft.decl.key.place, "a value that is not known yet decides what it is"),
                    );
                }
                break;
            }
        }
    }
    (problems, declared, rendered_bodies)
}

/// Returns one scope for each item of `for_each`; the given one without it.
fn items(draft: &Draft, scope: &Scope) -> Result<Vec<Scope>, Vec<Diagnostic>> {
    let Some(node) = draft.late("for_each") else { return Ok(vec![scope.clone()]) };
    let rendered = render(node, scope)?;
    let known: Vec<Scope> = match &rendered.value {
        NodeValue::Unknown { after, .. } => return Ok(vec![scope.clone().with_each_after(after)]),
        NodeValue::Seq(items) => {
            let each = |(index, (key, item)): (usize, (String, &Node))| match &item.value {
                // Its text, and so its key, is not known yet.
                NodeValue::Unknown { after, .. } => scope.clone().with_each_after(after),
                _ => scope.clone().with_each(&key, item, index),
            };
            keys_of(items).into_iter().zip(items).take(MAX_ITEMS + 1).enumerate().map(each).collect()
        }
        NodeValue::Map(entries) => {
            let each =
                |(index, (key, item)): (usize, &(yaml::Key, Node))| scope.clone().with_each(&key.text, item, index);
            entries.iter().take(MAX_ITEMS + 1).enumerate().map(each).collect()
        }
        other => {
            let message = format!("`for_each` takes a list or a mapping, not {}", other.describe());
            return Err(vec![Diagnostic::error("wrong_type", message).at(&node.place, "here")]);
        }
    };
    if known.len() > MAX_ITEMS {
        let message = format!("`for_each` has more than {MAX_ITEMS} items");
        return Err(vec![Diagnostic::error("too_many_items", message).at(&node.place, "here")]);
    }
    if known.is_empty() { Ok(vec![scope.clone().with_each_after(&draft.id)]) } else { Ok(known) }
}

fn unknown_places(body: &Node) -> Vec<Place> {
    let mut places = Vec::new();
    body.walk(&mut |node| {
        if let NodeValue::Unknown { .. } = node.value {
            places.push(node.place.clone());
        }
    });
    places
}

fn kind_problem(problem: &Problem, draft: &Draft) -> Diagnostic {
    let place = if problem.key.is_empty() { &draft.decl.key.place } else { place_of(draft, &problem.key) };
    let severity = if problem.warning { Severity::Warning } else { Severity::Error };
    Diagnostic { severity, ..Diagnostic::error(problem.code, problem.message.clone()) }
        .at(place, "here")
        .maybe_help(problem.help.clone())
}

/// Returns the place of a value in the step's body; the kind's key when the body has no such value.
pub(super) fn place_of<'a>(draft: &'a Draft, key: &[String]) -> &'a Place {
    let place = draft.decl.body.place_of(key);
    if *place == draft.decl.body.place && draft.decl.body.as_str().is_none() { &draft.decl.key.place } else { place }
}

fn merge(into: &mut Declarations, more: Declarations) {
    fn add<T: PartialEq>(into: &mut Vec<T>, more: Vec<T>) {
        for item in more {
            if !into.contains(&item) {
                into.push(item);
            }
        }
    }
    // Named one by one, so that a new declaration is not forgotten here.
    let Declarations { databases, makes, takes, ends, outputs, open_outputs, destroys, files, platforms, problems } =
        more;
    add(&mut into.databases, databases);
    add(&mut into.makes, makes);
    add(&mut into.takes, takes);
    add(&mut into.ends, ends);
    add(&mut into.outputs, outputs);
    add(&mut into.destroys, destroys);
    add(&mut into.files, files);
    add(&mut into.platforms, platforms);
    add(&mut into.problems, problems);
    into.open_outputs |= open_outputs;
}

/// Checks the common keys that are evaluated when the step runs.
fn check_late(draft: &Draft, scope: &Scope, problems: &mut Problems) {
    let scope = match items(draft, scope) {
        Ok(mut scopes) => scopes.swap_remove(0),
        Err(_) => return,
    };
    let mut checked = |key: &str, check: &dyn Fn(&Node) -> Result<(), Vec<Diagnostic>>| {
        if let Some(node) = draft.late(key)
            && let Err(found) = check(node)
        {
            problems.extend(found);
        }
    };
    let question = |node: &Node| match yaml::decode::<Question>(&render(node, &scope)?)? {
        Question::Expression(_) => eval_bool(node, &scope).map(|_| ()),
        Question::Run { run, .. } => check_argv(&run, node),
        Question::Sql { .. } => Ok(()),
    };
    checked("if", &|node| eval_bool(node, &scope).map(|_| ()));
    checked("done_if", &question);
    checked("ensures", &question);
    checked("undo", &|node| match yaml::decode::<Undo>(&render(node, &scope)?)? {
        Undo::Run(argv) => check_argv(&argv, node),
        Undo::None | Undo::Sql { .. } => Ok(()),
    });
    checked("env", &|node| yaml::decode::<BTreeMap<String, Text>>(&render(node, &scope)?).map(|_| ()));
}

/// Checks the command line of a common key.
fn check_argv(argv: &[Text], node: &Node) -> Result<(), Vec<Diagnostic>> {
    let problem = |(code, message): (&'static str, &str)| {
        let help = if code == "secret_in_argv" {
            "give it to the program by the step's `env`"
        } else {
            "the first word is the program"
        };
        Diagnostic::error(code, message).at(node.place_of(&["run"]), "here").help(help)
    };
    let problems: Vec<Diagnostic> = argv_problems(argv).into_iter().map(problem).collect();
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

/// Returns the databases that the common keys of a step name for their SQL, each with its place.
pub(super) fn late_databases(draft: &Draft) -> impl Iterator<Item = (String, Place)> {
    let named = |key: &str| {
        let node = draft.late(key)?.get("database")?;
        Some((node.as_str()?.to_owned(), node.place.clone()))
    };
    ["done_if", "ensures", "undo"].into_iter().filter_map(named)
}

/// Checks the databases and platforms that steps name.
pub(super) fn check_names(
    drafts: &[Draft],
    databases: &BTreeMap<String, Database>,
    platforms: &[String],
    problems: &mut Problems,
) {
    for draft in drafts {
        let late = late_databases(draft);
        let named = draft.declared.databases.iter().map(|(name, key, _)| (name.clone(), place_of(draft, key).clone()));
        for (name, place) in named.chain(late) {
            if databases.contains_key(&name) {
                continue;
            }
            problems.push(if name.contains(PLACEHOLDER) || name.contains("${{") {
                Diagnostic::error("dynamic_reference", "a database must be named when the plan is checked")
                    .at(&place, "this is only known later")
                    .help("pgplan locks the databases of a run before its first step")
            } else {
                let help = spelling::did_you_mean(&name, databases.keys().map(String::as_str));
                let help = help.unwrap_or_else(|| "declare it under `databases`".to_owned());
                Diagnostic::error("unknown_database", format!("the plan has no database `{name}`"))
                    .at(&place, "named here")
                    .help(help)
            });
        }
        for (name, key) in &draft.declared.destroys {
            if databases.get(name).is_some_and(|database| database.protect) {
                problems.push(
                    Diagnostic::error("protected_database", format!("the step destroys the database `{name}`"))
                        .at(place_of(draft, key), "destroyed here")
                        .help("the plan says `protect: true` of it: take that out when it may really go"),
                );
            }
        }
        for (name, key) in &draft.declared.platforms {
            if !platforms.is_empty() && !platforms.contains(name) && !name.contains(PLACEHOLDER) {
                problems.push(
                    Diagnostic::error("unknown_platform", format!("there is no platform `{name}`"))
                        .at(place_of(draft, key), "named here")
                        .maybe_help(spelling::did_you_mean(name, platforms.iter().map(String::as_str))),
                );
            }
        }
    }
}
