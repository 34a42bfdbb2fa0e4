//! `filter`: what of a dump is left out when it is restored.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Declarations, ExpandCx, Handed, Kind,
    declare::{Key, key},
    dump_source::{self, DumpSource, Found},
};
use crate::{
    action::{Action, ActionGraph, Effect},
    error::StepError,
    facts::{Facts, Look},
    op::{FilterOp, Op, Unmatched},
    sql::{
        Filter as Rules, FilterRules,
        filter::{PatternRule, ReplaceRule},
    },
};

/// Decides what of a dump is left out: roles the target must not be told about, owners, privileges, statements by text.
///
/// The dump is read once, statement by statement, and every removal is reported with its reason; rows of data are never
/// looked at, whatever they say. The data is not copied: the restore applies the same rules. A pattern that matches
/// nothing is a mistake and fails the step; a role that the dump never mentions is a warning (`unmatched` changes both).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// The step whose dump it is, or `{file: PATH}` for one made earlier; absent = the nearest step before.
    pub from: Option<DumpSource>,
    /// Roles that the restore must neither create, change nor refer to.
    #[serde(default)]
    pub reserved_roles: Vec<String>,
    /// Roles that keep the password they have on the target.
    #[serde(default)]
    pub drop_passwords_of: Vec<String>,
    /// Role attributes that the target refuses, as `SUPERUSER` or `BYPASSRLS`.
    #[serde(default)]
    pub drop_role_attributes: Vec<String>,
    /// Everything belongs to the restoring role.
    #[serde(default)]
    pub no_owner: bool,
    /// No privileges; memberships of roles stay.
    #[serde(default)]
    pub no_acl: bool,
    /// Everything lies in the target's default tablespace.
    #[serde(default)]
    pub no_tablespaces: bool,
    /// Statements to drop, by their text.
    #[serde(default)]
    pub drop: Vec<PatternRule>,
    /// Statements to rewrite, by their text.
    #[serde(default)]
    pub replace: Vec<ReplaceRule>,
    /// The database it will be restored into: what its version does not know is reported here already.
    #[serde(rename = "for")]
    pub target: Option<String>,
    /// What a rule that matches nothing is. Absent: an error for `drop` and `replace`, a warning for roles.
    pub unmatched: Option<Unmatched>,
}

impl Kind for Filter {
    const NAME: &'static str = "filter";
    const GROUP: &'static str = "data";
    const SUMMARY: &'static str = "Leave roles, owners or statements out of a dump";
    const EXAMPLE: &'static str = "filter:\n  reserved_roles: [aptible, postgres]\n";

    fn check(&self, to: &mut Declarations) {
        dump_source::declare(self.from.as_ref(), to);
        to.makes(Handed::Dump);
        to.output("dump", false);
        to.output("removals", false);
        if let Some(target) = &self.target {
            to.reads(target, "for");
        }
        let patterns = self.drop.iter().map(|rule| ("drop", &rule.pattern));
        let patterns =
            patterns.enumerate().chain(self.replace.iter().map(|rule| ("replace", &rule.pattern)).enumerate());
        for (at, (list, pattern)) in patterns {
            let place: Key = vec![list.into(), at.to_string(), "pattern".into()];
            if let Err(error) = regex::bytes::Regex::new(pattern) {
                let help = "escape parentheses, dots and dollar signs with a backslash";
                to.problem("pattern", place, format!("no regular expression: {error}"), Some(help));
            }
        }
        if Rules::new(self.rules()).is_ok_and(|rules| rules.rules().is_empty()) && self.target.is_none() {
            to.warning("no_rules", key([]), "this filter has no rule and leaves everything in", None);
        }
    }

    fn looks(&self, cx: &ExpandCx<'_>) -> Result<Vec<Look>, StepError> {
        Ok(dump_source::looks(self.from.as_ref(), cx).into_iter().collect())
    }

    fn actions(&self, facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        let dump = match dump_source::find(self.from.as_ref(), facts, cx)? {
            Found::Dump(dump) => *dump,
            Found::NotYet(mut graph, which) => {
                graph.warnings.push(format!("the rules are applied to {which}; removals are known after it"));
                return Ok(*graph);
            }
        };
        let (patterns, roles) = match self.unmatched {
            None => (Unmatched::Error, Unmatched::Warn),
            Some(both) => (both, both),
        };
        let title = format!("read the dump {} and decide what is left out", dump.path.display());
        let bytes = dump.text_bytes.or(Some(dump.bytes));
        let op = FilterOp {
            dump,
            rules: self.rules(),
            target: self.target.clone(),
            unmatched_patterns: patterns,
            unmatched_roles: roles,
        };
        let action = Action::new("filter", title, Op::Filter(op), Effect::Restart);
        Ok(ActionGraph::of(vec![action.estimate(bytes, None)]))
    }
}

impl Filter {
    pub(super) fn rules(&self) -> FilterRules {
        FilterRules {
            reserved_roles: self.reserved_roles.clone(),
            drop_passwords_of: self.drop_passwords_of.clone(),
            drop_role_attributes: self.drop_role_attributes.clone(),
            no_owner: self.no_owner,
            no_acl: self.no_acl,
            no_tablespaces: self.no_tablespaces,
            drop: self.drop.clone(),
            replace: self.replace.clone(),
            target: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_patterns_and_empty_filters_are_reported() {
        let messages = |json| {
            let filter: Filter = serde_json::from_value(json).unwrap();
            let mut to = Declarations::default();
            filter.check(&mut to);
            to.problems.iter().map(|problem| problem.key.join(".")).collect::<Vec<_>>()
        };
        assert_eq!(messages(serde_json::json!({"drop": [{"pattern": "ok"}, {"pattern": "("}]})), ["drop.1.pattern"]);
        assert_eq!(messages(serde_json::json!({})), [""]);
        assert_eq!(messages(serde_json::json!({"reserved_roles": ["a"]})), [""; 0]);
    }
}
