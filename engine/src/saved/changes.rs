//! What is not any more as it was when a plan was saved.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Bound, Identity, Looked, Saved, SavedStep, bound, declared, digest, files};
use crate::{error::StepError, perform::compare::inventory::Objects, plan::Plan, world::Real};

/// How many objects of a database are named; the rest is counted.
const NAMED: usize = 20;

/// Something that has changed.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// A step reads differently.
    Step {
        /// Its id.
        id: String,
        /// As it was.
        before: Value,
        /// As it is.
        now: Value,
    },
    /// Anything else, with the objects that it is about: `+` added, `-` gone, `~` changed.
    Other {
        /// One line for people.
        what: String,
        /// One line for each object.
        objects: Vec<String>,
    },
}

fn line(what: impl Into<String>) -> Change {
    Change::Other { what: what.into(), objects: Vec::new() }
}

/// Returns what has changed in the plan, its variables, files and platforms; nothing when its fingerprint and the
/// platforms are the same.
///
/// # Errors
/// A file cannot be read.
pub fn of_plan(saved: &Saved, plan: &Plan) -> Result<Vec<Change>, StepError> {
    let mut changes = Vec::new();
    for (path, before) in &saved.platforms {
        if digest(path)? != *before {
            changes.push(line(format!("platform file {} has changed", path.display())));
        }
    }
    if saved.fingerprint == plan.fingerprint {
        return Ok(changes);
    }
    let other = changes.len();
    for (name, old, new) in differing(&saved.vars, &plan.vars) {
        changes.push(line(match (old, new) {
            (Some(old), Some(new)) => format!("variable `{name}` is {new}, was {old}"),
            (Some(_), None) => format!("variable `{name}` has gone"),
            (None, _) => format!("variable `{name}` is new"),
        }));
    }
    for (name, old, new) in differing(&saved.declared, &declared(plan)) {
        changes.push(line(match (old, new) {
            (Some(_), Some(_)) => format!("database `{name}` is declared differently"),
            (Some(_), None) => format!("database `{name}` has gone from the plan"),
            (None, _) => format!("database `{name}` is new in the plan"),
        }));
    }
    for (path, old, new) in differing(&saved.files, &files(plan)?) {
        let path = path.display();
        changes.push(line(match (old, new) {
            (Some(_), Some(_)) => format!("file {path} has changed"),
            (Some(_), None) => format!("file {path} is not used any more"),
            (None, _) => format!("file {path} is used now"),
        }));
    }
    steps(&saved.steps, &plan.steps.iter().map(SavedStep::from).collect::<Vec<_>>(), &mut changes);
    if changes.len() == other {
        changes.push(line("its secrets have changed: their names, or where they are"));
    }
    Ok(changes)
}

fn steps(before: &[SavedStep], now: &[SavedStep], changes: &mut Vec<Change>) {
    let find = |steps: &[SavedStep], id: &str| steps.iter().find(|step| step.id == id).cloned();
    for old in before {
        let Some(new) = find(now, &old.id) else {
            changes.push(line(format!("step `{}` has gone", old.id)));
            continue;
        };
        if old.fingerprint != new.fingerprint {
            changes.push(Change::Step { id: old.id.clone(), before: old.text.clone(), now: new.text });
        }
        if old.condition != new.condition {
            changes.push(line(format!("step `{}` has another `if`", old.id)));
        }
        if old.needs != new.needs {
            let said = |needs: &[String]| if needs.is_empty() { "nothing".to_owned() } else { needs.join(", ") };
            let (new, old_needs) = (said(&new.needs), said(&old.needs));
            changes.push(line(format!("step `{}` comes after {new}, came after {old_needs}", old.id)));
        }
    }
    let added = now.iter().filter(|new| find(before, &new.id).is_none());
    changes.extend(added.map(|new| line(format!("step `{}` is new", new.id))));
    let order = |steps: &[SavedStep]| steps.iter().map(|step| step.id.clone()).collect::<Vec<_>>();
    let same = |steps: &[SavedStep]| order(steps).into_iter().collect::<BTreeSet<_>>();
    if same(before) == same(now) && order(before) != order(now) {
        changes.push(line("its steps stand in another order"));
    }
}

/// Returns what has changed on the servers, seen through read-only sessions.
///
/// # Errors
/// A server answered and refused a look.
pub async fn of_servers(saved: &Saved, plan: &Plan, world: &Real) -> Result<Vec<Change>, StepError> {
    let now = bound::look(plan, world).await?;
    let mut changes = Vec::new();
    for (step, old, new) in differing(&saved.programs, &bound::server_programs(plan, world)?) {
        let said = |version: Option<&String>| version.map_or("unused", String::as_str).to_owned();
        let (old, new) = (said(old), said(new));
        changes.push(line(format!("step `{step}`: the server programs {new} would be used, were {old}")));
    }
    for (name, before) in &saved.bound {
        match (before, now.get(name)) {
            (Bound::Looked(before), Some(Bound::Looked(now))) => of_database(name, before, now, &mut changes),
            (Bound::Looked(_), Some(Bound::Unreachable(why))) => {
                changes.push(line(format!("{name} cannot be looked at: {why}")));
            }
            (Bound::Looked(_), Some(Bound::After(step))) => {
                changes.push(line(format!("the address of {name} is known only after step `{step}`")));
            }
            (Bound::After(_), Some(Bound::Looked(now))) => {
                changes.push(line(format!("the address of {name} is known already: {}", now.label)));
            }
            (Bound::After(_), Some(Bound::After(_) | Bound::Unreachable(_))) | (Bound::Unreachable(_), Some(_)) => {}
            (_, None) => changes.push(line(format!("no step uses {name}"))),
        }
    }
    Ok(changes)
}

fn of_database(name: &str, before: &Looked, now: &Looked, changes: &mut Vec<Change>) {
    let mut say = |what: String| changes.push(line(format!("{name}: {what}")));
    if before.identity != now.identity {
        let said = |identity: &Identity| match identity {
            Identity::SystemIdentifier(number) => format!("system identifier {number}"),
            Identity::Address(address) => format!("server at {address}, system identifier not readable"),
        };
        // What is in it tells nothing more: it is another server.
        return say(format!("another server: {}, was {}", said(&now.identity), said(&before.identity)));
    }
    if before.label != now.label {
        say(format!("its address is {}, was {}", now.label, before.label));
    }
    if before.version != now.version {
        say(format!("PostgreSQL {}, was {}", now.version, before.version));
    }
    for (program, old, new) in differing(&before.programs, &now.programs) {
        let said = |version: Option<&String>| version.map_or("unused", String::as_str).to_owned();
        say(format!("{program} {} would be used, was {}", said(new), said(old)));
    }
    match (before.exists, now.exists) {
        (true, false) => say(format!("database {} has gone", now.dbname)),
        (false, true) => say(format!("database {} is there now", now.dbname)),
        (true, true) | (false, false) => {}
    }
    if before.schema == now.schema {
        return;
    }
    objects(&format!("{name}: roles of the server"), &before.server, &now.server, changes);
    for (database, old, new) in differing(&before.databases, &now.databases) {
        match (old, new) {
            (Some(old), Some(new)) => objects(&format!("{name}: schema of {database}"), old, new, changes),
            _ if *database == now.dbname => {}
            (Some(_), None) => changes.push(line(format!("{name}: database {database} has gone"))),
            (None, _) => changes.push(line(format!("{name}: database {database} is new"))),
        }
    }
}

/// Names the objects that differ; what belongs to a relation that came or went goes without saying.
fn objects(what: &str, before: &Objects, now: &Objects, changes: &mut Vec<Change>) {
    let all = differing(before, now);
    let came_or_went: BTreeSet<&str> = all
        .iter()
        .filter(|(_, old, new)| old.is_none() || new.is_none())
        .filter_map(|(object, ..)| RELATIONS.iter().find_map(|kind| object.strip_prefix(kind)))
        .collect();
    let told: Vec<(char, &str)> = all
        .iter()
        .map(|(object, old, new)| match (old, new) {
            (Some(_), Some(_)) => ('~', object.as_str()),
            (Some(_), None) => ('-', object.as_str()),
            (None, _) => ('+', object.as_str()),
        })
        .filter(|(_, object)| {
            let of = PARTS.iter().find_map(|kind| object.strip_prefix(kind)).and_then(|name| name.rsplit_once('.'));
            !of.is_some_and(|(relation, _)| came_or_went.contains(relation))
        })
        .collect();
    if told.is_empty() {
        return;
    }
    let count = |sign: char| told.iter().filter(|(has, _)| *has == sign).count();
    let (added, gone, changed) = (count('+'), count('-'), count('~'));
    let mut lines: Vec<String> = told
        .iter()
        .take(NAMED)
        .map(|(sign, object)| format!("{sign} {}", crate::postgres::quote::on_one_line(object)))
        .collect();
    if told.len() > NAMED {
        lines.push(format!("… and {} more", told.len() - NAMED));
    }
    let what = format!("{what}: {added} added, {gone} gone, {changed} changed");
    changes.push(Change::Other { what, objects: lines });
}

/// Kinds of objects that are relations, and those that are parts of one, each as an object's key begins.
const RELATIONS: [&str; 5] = ["table ", "view ", "materialized view ", "foreign table ", "sequence "];
const PARTS: [&str; 5] = ["column ", "constraint ", "trigger ", "policy ", "rule "];

/// Returns the keys under which two maps hold different values.
fn differing<'a, K: Ord, V: PartialEq>(
    before: &'a BTreeMap<K, V>,
    now: &'a BTreeMap<K, V>,
) -> Vec<(&'a K, Option<&'a V>, Option<&'a V>)> {
    let keys: BTreeSet<&K> = before.keys().chain(now.keys()).collect();
    let values = keys.into_iter().map(|key| (key, before.get(key), now.get(key)));
    values.filter(|(_, old, new)| old != new).collect()
}
