//! The common keys of steps: read into types, and at the end of the check into the plan.

use std::{collections::BTreeMap, time::Duration};

use super::order::Order;
use crate::{
    diagnostic::{Diagnostic, Problems},
    document::{RetryKeys, StepDecl, StepKeys},
    kinds::Declarations,
    plan::{Downtime, ForEach, Retry, Step},
    source::Place,
    template::{Scope, render},
    yaml::{self, Key, Node, NodeValue},
};

/// Keys whose values are evaluated when the step runs; the others when the plan is checked.
const LATE: [&str; 6] = ["if", "for_each", "undo", "done_if", "ensures", "env"];

/// A step on its way through the check.
pub(super) struct Draft {
    pub(super) id: String,
    pub(super) decl: StepDecl,
    pub(super) keys: StepKeys,
    pub(super) retry: Retry,
    /// The ids under `needs`; absent when the key is.
    pub(super) needs: Option<Vec<(String, Place)>>,
    pub(super) declared: Declarations,
    /// The rendered bodies, one for each item; for the fingerprint.
    pub(super) rendered: Vec<serde_json::Value>,
    pub(super) inputs: BTreeMap<String, String>,
    /// The databases it uses, as they are declared.
    pub(super) databases: BTreeMap<String, serde_json::Value>,
    pub(super) fingerprint: String,
}

impl Draft {
    /// Returns the mapping of a key that is evaluated late.
    pub(super) fn late(&self, key: &str) -> Option<&Node> {
        self.decl.get(key)
    }
}

pub(super) fn read(steps: Vec<StepDecl>, scope: &Scope, problems: &mut Problems) -> Vec<Draft> {
    let mut drafts: Vec<Draft> = Vec::with_capacity(steps.len());
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for decl in steps {
        let keys = early_keys(&decl, scope, problems);
        let id = keys.id.clone().unwrap_or_else(|| decl.id.clone());
        if !super::is_name(&id) {
            problems.push(super::bad_name("step", &id, &decl.place));
        }
        if let Some(first) = seen.get(&id) {
            let first: &Draft = &drafts[*first];
            problems.push(
                Diagnostic::error("duplicate_step", format!("two steps are called `{id}`"))
                    .at(&decl.place, "again here")
                    .at(&first.decl.place, "first here")
                    .help("give one of them another `id`"),
            );
        } else {
            seen.insert(id.clone(), drafts.len());
        }
        let retry = retry(keys.retry.as_ref(), &decl, problems);
        judge(&keys, &decl, problems);
        let needs = needs(&keys, &decl);
        drafts.push(Draft {
            id,
            decl,
            keys,
            retry,
            needs,
            declared: Declarations::default(),
            rendered: Vec::new(),
            inputs: BTreeMap::new(),
            databases: BTreeMap::new(),
            fingerprint: String::new(),
        });
    }
    judge_downtime(&drafts, problems);
    drafts
}

/// Returns the keys that are evaluated now; a key that is wrong is reported and left out.
fn early_keys(decl: &StepDecl, scope: &Scope, problems: &mut Problems) -> StepKeys {
    let mut early: Vec<(Key, Node)> = Vec::new();
    for (key, node) in decl.common.iter().filter(|(key, _)| !LATE.contains(&key.text.as_str())) {
        match render(node, scope) {
            Ok(node) => early.push((key.clone(), node)),
            Err(found) => problems.extend(found),
        }
    }
    let (keys, found) = yaml::salvage(&Node::new(decl.place.clone(), NodeValue::Map(early)));
    problems.extend(found);
    keys.unwrap_or_default()
}

fn needs(keys: &StepKeys, decl: &StepDecl) -> Option<Vec<(String, Place)>> {
    let ids = &keys.needs.as_ref()?.0;
    let node = decl.get("needs")?;
    let place = |index: usize| node.items().get(index).map_or_else(|| node.place.clone(), |item| item.place.clone());
    Some(ids.iter().enumerate().map(|(index, id)| (id.clone(), place(index))).collect())
}

fn retry(keys: Option<&RetryKeys>, decl: &StepDecl, problems: &mut Problems) -> Retry {
    let Some(keys) = keys else { return Retry::default() };
    let mut wrong = |key: &str, message: &str| {
        let place = decl.get("retry").map_or(&decl.place, |node| node.place_of(&[key]));
        problems.push(Diagnostic::error("bad_value", message).at(place, "here"));
    };
    if keys.attempts == Some(0) {
        wrong("attempts", "a step is attempted at least once");
    }
    if keys.backoff.is_some_and(|backoff| !(1.0..=1000.0).contains(&backoff)) {
        wrong("backoff", "`backoff` is a factor from 1 to 1000");
    }
    if keys.jitter.is_some_and(|jitter| !(0.0..=1.0).contains(&jitter)) {
        wrong("jitter", "`jitter` is a share from 0 to 1");
    }
    let default = Retry::default();
    Retry {
        attempts: keys.attempts.unwrap_or(3),
        delay: keys.delay.map_or(default.delay, |span| span.0),
        backoff: keys.backoff.unwrap_or(default.backoff),
        max_delay: keys.max_delay.map_or(default.max_delay, |span| span.0),
        jitter: keys.jitter.unwrap_or(default.jitter),
        errors: keys.errors.clone(),
    }
}

fn judge(keys: &StepKeys, decl: &StepDecl, problems: &mut Problems) {
    let place = |key: &str| decl.get(key).map_or(&decl.place, |node| &node.place);
    if keys.continue_on_error {
        problems.push(
            Diagnostic::warning("continue_on_error", "a failure of this step will not stop the run")
                .at(place("continue_on_error"), "here"),
        );
    }
    if keys.timeout.is_some_and(|span| span.0 == Duration::ZERO) {
        let message = "a timeout of nothing lets no step succeed";
        problems.push(Diagnostic::error("bad_value", message).at(place("timeout"), "here"));
    }
    for key in ["max_parallel", "fail_fast"] {
        if decl.get(key).is_some() && decl.get("for_each").is_none() {
            let message = format!("`{key}` is about the items of a `for_each`, which this step does not have");
            problems.push(Diagnostic::error("no_for_each", message).at(place(key), "here"));
        }
    }
}

fn judge_downtime(drafts: &[Draft], problems: &mut Problems) {
    let first = |side| drafts.iter().find(|draft| draft.keys.downtime == Some(side));
    let (found, missing) = match (first(Downtime::Begin), first(Downtime::End)) {
        (Some(begin), None) => (begin, "end"),
        (None, Some(end)) => (end, "begin"),
        _ => return,
    };
    let place = found.decl.get("downtime").map_or(&found.decl.place, |node| &node.place);
    problems.push(
        Diagnostic::warning("downtime_unpaired", format!("no step says `downtime: {missing}`"))
            .at(place, "its other side is here")
            .help("the downtime of the application cannot be measured without both"),
    );
}

/// Returns the steps of the plan.
pub(super) fn finish(drafts: Vec<Draft>, order: &Order) -> Vec<Step> {
    let ids: Vec<String> = drafts.iter().map(|draft| draft.id.clone()).collect();
    let step = |(index, draft): (usize, Draft)| {
        let late = |key: &str| draft.late(key).cloned();
        let env = draft.late("env").map_or_else(BTreeMap::new, |env| {
            env.entries().iter().map(|(key, node)| (key.text.clone(), node.clone())).collect()
        });
        Step {
            needs: order.needs(index).map(|need| ids[need].clone()).collect(),
            condition: late("if"),
            for_each: late("for_each").map(|items| ForEach {
                items,
                max_parallel: draft.keys.max_parallel.map(usize::from),
                fail_fast: draft.keys.fail_fast.unwrap_or(true),
            }),
            done_if: late("done_if"),
            ensures: late("ensures"),
            undo: late("undo"),
            env,
            id: draft.id,
            name: draft.keys.name,
            kind: draft.decl.kind.name,
            body: draft.decl.body,
            inputs: draft.inputs,
            databases: draft.databases,
            declared: draft.declared,
            run_on: draft.keys.run_on,
            timeout: draft.keys.timeout.map(|span| span.0),
            retry: draft.retry,
            continue_on_error: draft.keys.continue_on_error,
            downtime: draft.keys.downtime,
            point_of_no_return: draft.keys.point_of_no_return,
            place: draft.decl.place,
            fingerprint: draft.fingerprint,
        }
    };
    drafts.into_iter().enumerate().map(step).collect()
}
