//! Kinds in tests: from YAML to problems or actions.

use std::{collections::BTreeMap, path::Path};

use super::{Declarations, ExpandCx, Kind};
use crate::{
    action::{ActionGraph, Outputs},
    diagnostic::{Diagnostic, Problems},
    error::StepError,
    facts::{Facts, Look},
    platforms::{self, Platforms},
    secret::{Encoding, marker},
    tool::Clients,
    yaml::{self, Limits, Node, NodeValue},
};

/// Reads a step's body; `(secret NAME)` in a string stands for that secret.
pub(crate) fn decode<K: Kind>(body: &str) -> Result<K, Vec<Diagnostic>> {
    let mut problems = Problems::default();
    let mut node = yaml::parse(&platforms::file("test", Path::new(""), body), Limits::default(), &mut problems)
        .unwrap_or_else(|| panic!("{problems:?}"));
    put_secrets(&mut node);
    yaml::decode(&node)
}

fn put_secrets(node: &mut Node) {
    match &mut node.value {
        NodeValue::Str(text) => {
            while let Some((before, rest)) = text.split_once("(secret ") {
                let (name, after) = rest.split_once(')').unwrap();
                *text = format!("{before}{}{after}", marker(name, Encoding::Raw));
            }
        }
        NodeValue::Seq(items) => items.iter_mut().for_each(put_secrets),
        NodeValue::Map(entries) => entries.iter_mut().for_each(|(_, node)| put_secrets(node)),
        _ => {}
    }
}

/// Returns what a step declares.
pub(crate) fn declared<K: Kind>(body: &str) -> Declarations {
    let mut declarations = Declarations::default();
    decode::<K>(body).unwrap_or_else(|problems| panic!("{problems:?}")).check(&mut declarations);
    declarations
}

/// Returns the codes of what a step finds wrong with itself.
pub(crate) fn problems<K: Kind>(body: &str) -> Vec<&'static str> {
    declared::<K>(body).problems.into_iter().map(|problem| problem.code).collect()
}

/// Returns the actions of a dry run that looked at nothing.
pub(crate) fn expand<K: Kind>(body: &str) -> Result<ActionGraph, StepError> {
    Expand { dry_run: true, ..Expand::default() }.kind::<K>(body)
}

/// What a step is expanded with.
#[derive(Default)]
pub(crate) struct Expand {
    pub(crate) facts: Facts,
    pub(crate) outputs: BTreeMap<String, Outputs>,
    pub(crate) earlier: Vec<Outputs>,
    pub(crate) clients: Clients,
    pub(crate) dry_run: bool,
}

impl Expand {
    /// Returns the expansion of an apply whose looks found these facts.
    pub(crate) fn facts(facts: Facts) -> Self {
        Self { facts, ..Self::default() }
    }

    /// Returns the actions of the step `step`.
    pub(crate) fn kind<K: Kind>(&self, body: &str) -> Result<ActionGraph, StepError> {
        self.with(|cx| decode::<K>(body).unwrap_or_else(|problems| panic!("{problems:?}")).actions(&self.facts, cx))
    }

    /// Returns the looks of the step `step`.
    pub(crate) fn looks<K: Kind>(&self, body: &str) -> Result<Vec<Look>, StepError> {
        self.with(|cx| decode::<K>(body).unwrap_or_else(|problems| panic!("{problems:?}")).looks(cx))
    }

    fn with<T>(&self, work: impl FnOnce(&ExpandCx<'_>) -> T) -> T {
        let platforms = Platforms::built_in().unwrap_or_else(|problems| panic!("{problems:?}"));
        work(&ExpandCx {
            step: "step",
            run_dir: Path::new("/runs/r1"),
            plan_dir: Path::new("/plan"),
            inputs: &BTreeMap::new(),
            outputs: &self.outputs,
            earlier: &self.earlier,
            platforms: &platforms,
            clients: &self.clients,
            dry_run: self.dry_run,
        })
    }
}
