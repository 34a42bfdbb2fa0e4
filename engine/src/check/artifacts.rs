//! Who gets what from whom: each thing that a step takes is given by one ancestor.

use super::{bodies::place_of, order::Order, steps::Draft};
use crate::{
    diagnostic::{Diagnostic, Problems},
    kinds::Handed,
    plan::{Edge, Reason},
    spelling,
};

fn words(what: Handed) -> &'static str {
    match what {
        Handed::Dump => "a dump",
        Handed::Scale => "remembered counts of an application",
        Handed::Tunnel => "a tunnel",
        Handed::Fence => "a fence",
    }
}

/// Fills in the inputs of all steps; returns an edge for each.
pub(super) fn resolve(drafts: &mut [Draft], order: &Order, problems: &mut Problems) -> Vec<Edge> {
    let mut edges = Vec::new();
    for step in 0..drafts.len() {
        let takes = drafts[step].declared.takes.clone();
        for (key, what, from) in takes {
            let giver = match &from {
                Some(id) => named(drafts, order, step, &key, what, id),
                None => nearest(drafts, order, step, &key, what),
            };
            match giver {
                Ok(giver) => {
                    let id = drafts[giver].id.clone();
                    let to = drafts[step].id.clone();
                    edges.push(Edge { from: id.clone(), to, reason: Reason::Artifact });
                    if drafts[step].declared.ends.contains(&key) {
                        // The place in the other step's body means nothing in this one.
                        let same = drafts[giver].declared.databases.clone();
                        drafts[step]
                            .declared
                            .databases
                            .extend(same.into_iter().map(|(name, _, how)| (name, Vec::new(), how)));
                    }
                    drafts[step].inputs.insert(key, id);
                }
                Err(diagnostic) => problems.push(*diagnostic),
            }
        }
    }
    edges
}

fn named(
    drafts: &[Draft],
    order: &Order,
    step: usize,
    key: &str,
    what: Handed,
    id: &str,
) -> Result<usize, Box<Diagnostic>> {
    let place = place_of(&drafts[step], &[key.to_owned()]);
    let Some(giver) = order.index(id) else {
        let makers = drafts.iter().filter(|draft| draft.declared.makes.contains(&what)).map(|draft| draft.id.as_str());
        let help = spelling::did_you_mean(id, makers);
        return Err(Box::new(
            Diagnostic::error("unknown_step", format!("the plan has no step `{id}`"))
                .at(place, "named here")
                .maybe_help(help),
        ));
    };
    if !drafts[giver].declared.makes.contains(&what) && !drafts[giver].declared.open_outputs {
        return Err(Box::new(
            Diagnostic::error("wrong_artifact", format!("the step `{id}` does not give {}", words(what)))
                .at(place, "named here")
                .at(&drafts[giver].decl.place, format!("this step is a `{}`", drafts[giver].decl.kind.name)),
        ));
    }
    if !order.is_ancestor(giver, step) {
        return Err(Box::new(
            Diagnostic::error("not_an_ancestor", format!("`{id}` need not be over when this step starts"))
                .at(place, "named here")
                .at(&drafts[giver].decl.place, "this step")
                .help(format!("add `{id}` to the `needs` of `{}`", drafts[step].id)),
        ));
    }
    Ok(giver)
}

fn nearest(drafts: &[Draft], order: &Order, step: usize, key: &str, what: Handed) -> Result<usize, Box<Diagnostic>> {
    let makers: Vec<usize> = (0..drafts.len()).filter(|step| drafts[*step].declared.makes.contains(&what)).collect();
    let nearest = order.nearest(step, &makers);
    let place = &drafts[step].decl.key.place;
    match nearest.as_slice() {
        [one] => Ok(*one),
        [] => {
            let diagnostic =
                Diagnostic::error("artifact_missing", format!("no step before this one gives {}", words(what)))
                    .at(place, "this step needs it");
            let help = match makers.iter().find(|maker| **maker != step) {
                Some(maker) => format!("add `{}` to its `needs`", drafts[*maker].id),
                None => format!("add a step that gives it, or say where it is under `{key}`"),
            };
            Err(Box::new(diagnostic.help(help)))
        }
        several => {
            let ids: Vec<String> = several.iter().map(|step| format!("`{}`", drafts[*step].id)).collect();
            let message = format!("{} of {} could be meant", words(what), ids.join(" and "));
            let mut diagnostic = Diagnostic::error("ambiguous_artifact", message).at(place, "this step takes one");
            for step in several {
                diagnostic = diagnostic.at(&drafts[*step].decl.place, "this one?");
            }
            Err(Box::new(diagnostic.help(format!("say which: `{key}: {}`", drafts[several[0]].id))))
        }
    }
}
