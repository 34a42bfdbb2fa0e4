//! The settings at the top of a plan.

use crate::{
    diagnostic::Problems,
    document::{DowntimeGoal, Settings},
    plan::OnFailure,
    template::{Scope, render},
    yaml::{self, Node, NodeValue},
};

/// The settings, with the journal's place as it is written.
#[derive(Default)]
pub(super) struct Read {
    pub(super) name: Option<String>,
    pub(super) on_failure: OnFailure,
    pub(super) max_parallel: Option<u16>,
    pub(super) state: Option<Node>,
    pub(super) downtime: Option<DowntimeGoal>,
}

pub(super) fn read(node: &Node, scope: &Scope, problems: &mut Problems) -> Read {
    let state = node.get("state").cloned();
    let mut rest = node.clone();
    // `state` may name secrets, which are not known yet: `sources::check_state` looks at it.
    let rendered = match &mut rest.value {
        NodeValue::Map(entries) => {
            let kept: Vec<_> = entries.extract_if(.., |(key, _)| key.text == "state").collect();
            render(&rest, scope).map(|mut rendered| {
                if let NodeValue::Map(entries) = &mut rendered.value {
                    entries.extend(kept);
                }
                rendered
            })
        }
        _ => return Read::default(),
    };
    let settings = match rendered.and_then(|node| yaml::decode::<Settings>(&node)) {
        Ok(settings) => settings,
        Err(found) => {
            problems.extend(found);
            return Read::default();
        }
    };
    let Settings { name, on_failure, max_parallel, state: _, downtime } = settings;
    Read { name, on_failure, max_parallel, state, downtime }
}
