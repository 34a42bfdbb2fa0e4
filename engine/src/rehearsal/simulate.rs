//! What touches the application is only said.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    action::{Action, ActionGraph, Effect, Output, OutputValue, Outputs},
    op::{Capture, Exec, Op},
    plan::Step,
    secret::SecretString,
};

/// Kinds that touch the application or what is around it.
const SIMULATED: [&str; 8] = ["scale", "repoint", "command", "tunnel", "provision", "deprovision", "notify", "approve"];

/// The value of an output that only the real thing could give.
const PLACEHOLDER: &str = "simulated";

/// Returns whether a rehearsal only says what a step would do: it touches the application, a platform or a person. A
/// server of pgplan's own is made for real.
#[must_use]
pub fn is_simulated(step: &Step) -> bool {
    let managed = || step.body.get("managed").is_some();
    SIMULATED.contains(&step.kind) && !(step.kind == "provision" && managed()) || asks_a_platform(step)
}

/// Returns whether a step records what a platform tells.
fn asks_a_platform(step: &Step) -> bool {
    step.kind == "record" && step.body.get("platform").is_some()
}

/// Returns the outputs without those that are empty: a step that remembered nothing counts as one that was not done.
pub(super) fn known(outputs: &Arc<BTreeMap<String, Outputs>>) -> Arc<BTreeMap<String, Outputs>> {
    let known = outputs.iter().filter(|(_, outputs)| !outputs.is_empty());
    Arc::new(known.map(|(step, outputs)| (step.clone(), outputs.clone())).collect())
}

/// Returns the actions of a simulated step: those that the dry run lists, or one that stands for what it cannot list.
pub(super) fn graph(step: &Step, mut graph: ActionGraph) -> ActionGraph {
    for action in &mut graph.actions {
        action.title = format!("would {}", action.title);
        action.undo = None;
        action.volatile = false;
    }
    if graph.actions.is_empty() {
        let title = format!("would do what `{}` says; what exactly is known while the plan runs", step.kind);
        let op = Op::Approve { message: title.clone() };
        graph.actions.push(Action::new("simulated", title, op, Effect::Restart));
    }
    graph.known_after.clear();
    // A dry run warns of what it could not look at; here that is meant.
    graph.warnings.clear();
    graph
}

/// Returns what a simulated action gives: a placeholder for every output that the real one would have.
pub(super) fn output(step: &Step, action: &Action) -> Output {
    let mut output = Output::said(action.title.clone());
    // `scale` remembers counts that a later step reads as numbers: without them that step is simulated as a whole.
    if step.kind == "scale" {
        return output;
    }
    for (name, secret) in &step.declared.outputs {
        output.outputs.insert(name.clone(), placeholder(*secret));
    }
    let captured: Vec<&Capture> = match &action.op {
        Op::Exec(exec) => captures(exec),
        Op::Tunnel(tunnel) => captures(&tunnel.exec),
        _ => Vec::new(),
    };
    for capture in captured {
        output.outputs.insert(capture.name.clone(), placeholder(capture.secret));
    }
    output
}

fn captures(exec: &Exec) -> Vec<&Capture> {
    let probe = exec.done_if.iter().flat_map(|probe| &probe.exec.capture);
    exec.capture.iter().chain(probe).collect()
}

fn placeholder(secret: bool) -> OutputValue {
    match secret {
        true => OutputValue::Secret(Some(SecretString::from(PLACEHOLDER.to_owned()))),
        false => OutputValue::from(PLACEHOLDER),
    }
}
