//! `preflight`: finds the hazards of a migration before it begins.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Declarations, ExpandCx, Kind, declare::key};
use crate::{
    action::{Action, ActionGraph, Effect},
    error::StepError,
    facts::{Depth, Facts, Look},
    op::{
        Op,
        preflight::{Method, Waiver},
    },
    preflight::{self, waiver_problem},
    spelling,
};

/// Looks for everything in the source that will fail, be lost or be different in the target, and fails when something
/// stands in the way.
///
/// Each hazard is a rule with a code; [the catalogue](preflight.md) lists them with the versions they matter to, why, and
/// what to do. The look is read-only, needs no superuser and nothing installed; what the roles may not see is said. The
/// number of queries does not depend on how many tables there are.
///
/// What is found comes as blockers, warnings and notes, by object. A blocker makes the step fail (exit code 6) unless a
/// waiver covers it; a waiver that has expired or covers nothing is an error, too. The dry run and `pgplan check --live`
/// show the same.
///
/// Outputs: `blockers`, `warnings`, `notes` (numbers), `report` (the JSON file).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Preflight {
    /// The database of the plan whose server is the source.
    pub source: String,
    /// The database of the plan whose server is the target.
    #[serde(default)]
    pub target: Option<String>,
    /// The target's major version, where it is not there yet: what only a target can tell is then left out, and said.
    #[serde(default)]
    pub to_version: Option<u32>,
    /// How the data gets there.
    #[serde(default)]
    pub method: Method,
    /// The databases of the source that are looked into; absent = all that are no templates.
    #[serde(default)]
    pub databases: Option<Vec<String>>,
    /// Hazards that are accepted.
    #[serde(default)]
    pub waive: Vec<Waiver>,
}

impl Kind for Preflight {
    const NAME: &'static str = "preflight";
    const GROUP: &'static str = "look";
    const SUMMARY: &'static str = "Find the hazards between two versions before anything is changed";
    const EXAMPLE: &'static str = "preflight:\n  source: source\n  target: target\n  waive:\n    - code: md5_passwords\n      \
                                   objects: [role legacy]\n      reason: leaves with the old application\n      \
                                   until: 2027-01-31\n";

    fn check(&self, to: &mut Declarations) {
        to.reads(&self.source, "source");
        match &self.target {
            Some(target) => to.reads(target, "target"),
            None if self.to_version.is_none() => {
                let help = "name the database of the target, or its version with `to_version`";
                to.problem("no_target", key([]), "`preflight` has neither `target` nor `to_version`", Some(help));
            }
            None => {}
        }
        if self.target.as_ref() == Some(&self.source) {
            to.problem("same_side", key(["target"]), "a database is compared with itself", None);
        }
        if self.databases.as_ref().is_some_and(Vec::is_empty) {
            to.problem("empty_list", key(["databases"]), "`databases` names none", None);
        }
        for (at, waiver) in self.waive.iter().enumerate() {
            if let Some((name, code, message)) = waiver_problem(waiver) {
                let closest = || spelling::closest(&waiver.code, preflight::all().iter().map(|rule| rule.code));
                let help = match code {
                    "unknown_rule" => Some(closest().map_or_else(
                        || "`pgplan explain` lists the codes".to_owned(),
                        |code| format!("did you mean `{code}`?"),
                    )),
                    "waiver_without_reason" => Some("say why it is accepted: others will read it".to_owned()),
                    _ => None,
                };
                to.problem(code, key(["waive", &at.to_string(), name]), message, help.as_deref());
            }
        }
        for name in ["blockers", "warnings", "notes", "report"] {
            to.output(name, false);
        }
    }

    fn looks(&self, cx: &ExpandCx<'_>) -> Result<Vec<Look>, StepError> {
        let databases = std::iter::once(&self.source).chain(&self.target);
        let mut looks: Vec<Look> =
            databases.map(|name| Look::Server { database: name.clone(), depth: Depth::Server }).collect();
        // An apply looks when the action is done.
        if cx.dry_run {
            looks.push(Look::Preflight(self.op()));
        }
        Ok(looks)
    }

    fn actions(&self, facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        if let Some(failure) = facts.preflight.as_ref().and_then(crate::preflight::report::Report::failure) {
            return Err(failure);
        }
        let open =
            std::iter::once(&self.source).chain(&self.target).find_map(|name| facts.servers_known_after.get(name));
        if let Some(step) = open.filter(|_| facts.preflight.is_none()) {
            return Ok(ActionGraph::known_after(step));
        }
        let version = |name: &String| facts.servers.get(name).map(|server| server.major());
        let to = self.target.as_ref().and_then(version).or(self.to_version);
        let shown = |version: Option<u32>| version.map(|version| format!(" ({version})")).unwrap_or_default();
        let title = match &self.target {
            Some(target) => {
                let (from, to) = (shown(version(&self.source)), shown(to));
                format!("look for hazards between {}{from} and {target}{to}", self.source)
            }
            None => format!("look for hazards in {} before version {}", self.source, to.unwrap_or_default()),
        };
        let mut graph =
            ActionGraph::of(vec![Action::new("preflight", title, Op::Preflight(self.op()), Effect::Restart)]);
        if cx.dry_run && open.is_some() {
            graph.warnings.push("the target is not there yet: what only it can tell was left out".to_owned());
        }
        Ok(graph)
    }
}

impl Preflight {
    fn op(&self) -> crate::op::preflight::Preflight {
        let Self { source, target, to_version, method, databases, waive } = self.clone();
        crate::op::preflight::Preflight { source, target, to_version, method, databases, waive }
    }
}
