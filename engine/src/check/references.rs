//! References to the outputs of steps: only of steps that are over by then, and only outputs that they have.

use std::collections::{BTreeMap, BTreeSet};

use super::{order::Order, steps::Draft};
use crate::{
    diagnostic::{Diagnostic, Problems},
    plan::{Database, Edge, Reason},
    source::Place,
    spelling,
    template::{Name, references},
};

/// Checks what the templates of all steps name; returns an edge for each step whose outputs are used.
pub(super) fn check(
    drafts: &[Draft],
    order: &Order,
    databases: &BTreeMap<String, Database>,
    problems: &mut Problems,
) -> Vec<Edge> {
    let mut edges = Vec::new();
    for (step, draft) in drafts.iter().enumerate() {
        let mut used: Vec<(String, Place)> = draft
            .declared
            .databases
            .iter()
            .map(|(name, key, _)| (name.clone(), super::bodies::place_of(draft, key).clone()))
            .collect();
        for (name, place, own) in names(draft) {
            match name.path[0].as_str() {
                "steps" => {
                    if let Some(giver) = name.path.get(1).and_then(|id| order.index(id)) {
                        let outcome = reference(drafts, order, step, giver, &name, &place, own);
                        match outcome {
                            Ok(()) if giver != step => edges.push(Edge {
                                from: drafts[giver].id.clone(),
                                to: draft.id.clone(),
                                reason: Reason::Reference,
                            }),
                            Ok(()) => {}
                            Err(diagnostic) => problems.push(*diagnostic),
                        }
                    }
                }
                "databases" => used.extend(name.path.get(1).map(|database| (database.clone(), place))),
                _ => {}
            }
        }
        for (name, place) in used {
            let Some(database) = databases.get(&name) else { continue };
            for id in &database.after {
                let Some(giver) = order.index(id) else { continue };
                if giver != step && !order.is_ancestor(giver, step) {
                    problems.push(
                        Diagnostic::error(
                            "database_not_ready",
                            format!("the address of `{name}` is known after `{id}` only"),
                        )
                        .at(&place, "used here")
                        .at(&database.place, "its address is made of that step's outputs")
                        .help(format!("add `{id}` to the `needs` of `{}`", draft.id)),
                    );
                } else if giver != step {
                    edges.push(Edge { from: id.clone(), to: draft.id.clone(), reason: Reason::Reference });
                }
            }
        }
    }
    edges
}

/// Returns the databases of the plan that a step uses: in its body, in the SQL of its common keys, by templates.
pub(super) fn databases(draft: &Draft) -> BTreeSet<String> {
    let declared = draft.declared.databases.iter().map(|(name, ..)| name.clone());
    let late = super::bodies::late_databases(draft).map(|(name, _)| name);
    let named = names(draft).into_iter().filter(|(name, ..)| name.path[0] == "databases");
    declared.chain(late).chain(named.filter_map(|(name, ..)| name.path.get(1).cloned())).collect()
}

/// Returns all names in the templates of a step, and whether its own outputs may be named there.
fn names(draft: &Draft) -> Vec<(Name, Place, bool)> {
    let mut found = Vec::new();
    let mut add = |names: Vec<(Name, Place)>, own: bool| {
        found.extend(names.into_iter().map(|(name, place)| (name, place, own)));
    };
    add(references(&draft.decl.body, false), false);
    for (key, node) in &draft.decl.common {
        match key.text.as_str() {
            "if" | "done_if" => add(references(node, node.as_str().is_some()), false),
            "ensures" => add(references(node, node.as_str().is_some()), true),
            "undo" => add(references(node, false), true),
            "for_each" | "env" => add(references(node, false), false),
            _ => {}
        }
    }
    found
}

fn reference(
    drafts: &[Draft],
    order: &Order,
    step: usize,
    giver: usize,
    name: &Name,
    place: &Place,
    own: bool,
) -> Result<(), Box<Diagnostic>> {
    let id = &drafts[giver].id;
    if giver == step && !own {
        let message = format!("`{id}` cannot use its own outputs before it has run");
        return Err(Box::new(Diagnostic::error("not_an_ancestor", message).at(place, "here")));
    }
    if giver != step && !order.is_ancestor(giver, step) {
        return Err(Box::new(
            Diagnostic::error("not_an_ancestor", format!("`{id}` need not be over when this step starts"))
                .at(place, "its output is used here")
                .at(&drafts[giver].decl.place, "this step")
                .help(format!("add `{id}` to the `needs` of `{}`", drafts[step].id)),
        ));
    }
    let declared = &drafts[giver].declared;
    let Some(output) = name.path.get(3).filter(|_| name.path[2] == "outputs") else { return Ok(()) };
    if declared.open_outputs || drafts[giver].late("for_each").is_some() {
        return Ok(());
    }
    if declared.outputs.iter().any(|(name, _)| name == output) {
        return Ok(());
    }
    let known = declared.outputs.iter().map(|(name, _)| name.as_str());
    let help = spelling::did_you_mean(output, known)
        .unwrap_or_else(|| format!("a step of the kind `{}` has no outputs", drafts[giver].decl.kind.name));
    Err(Box::new(
        Diagnostic::error("unknown_output", format!("the step `{id}` has no output `{output}`"))
            .at(place, "here")
            .help(help),
    ))
}
