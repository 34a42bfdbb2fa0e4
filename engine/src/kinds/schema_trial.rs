//! `schema_trial`: whether the target would take the schema, known in seconds.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Declarations, ExpandCx, Kind, declare::key, filter::Filter, provision::default_folder};
use crate::{
    action::{Action, ActionGraph, Effect},
    artifact::{DumpFormat, DumpScope},
    error::{ErrorKind, StepError},
    facts::{Depth, Facts, Look, ServerFacts},
    op::{
        Compat, Compress, CreateCluster, DumpOp, Expected, Op,
        trial::{TrialOp, TrialPlace},
    },
    postgres::quote::on_one_line,
    sql::FilterRules,
};

/// The superuser of a trial's own server: no role of a dump is called so.
const SUPERUSER: &str = "pgplan_trial";

/// Restores the schema alone, filtered as the real step would, and reports every error at once.
///
/// The schema of the source is dumped without data, filtered by the rules of a `filter` step of the plan (or by rules of
/// its own), and restored into a server of `version` that is made for it on this machine and removed again, or into a
/// database of its own on the server of `target`, which is dropped again. The restore goes on after an error, so that
/// all of them are in one report; any that `expected_errors` does not name fails the step.
///
/// On a server of its own the roles of the source are created first. Passwords and tablespaces are left out. What the
/// trial cannot tell: extensions and locales are those of this machine, and constraints meet no data.
///
/// Outputs: `statements`, `errors_expected`, `removals`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SchemaTrial {
    /// The database of the plan whose schema is tried.
    pub source: String,
    /// How much: `database`, or `cluster` for the whole server.
    #[serde(default)]
    pub scope: DumpScope,
    /// Major version of a server that is made for the trial; its programs must be installed.
    #[serde(default)]
    pub version: Option<u32>,
    /// A database of the plan on whose server the trial is made instead; only with `scope: database`.
    #[serde(default)]
    pub target: Option<String>,
    /// The id of the `filter` step of the plan whose rules count, or rules as there.
    #[serde(default)]
    pub filter: Option<TrialFilter>,
    /// Errors that do not fail the step, as in `restore`; one that never comes is no matter.
    #[serde(default)]
    pub expected_errors: Vec<Expected>,
    /// What happens to options and settings that the target does not know, as in `restore`.
    #[serde(default)]
    pub compat: Compat,
    /// The system user that the server runs as when pgplan runs as root; `postgres`, else `nobody`, when not given.
    #[serde(default)]
    pub run_as: Option<String>,
}

/// Where the rules come from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TrialFilter {
    /// The id of a `filter` step.
    Step(String),
    /// Rules as those of a `filter` step.
    Rules(Box<Filter>),
}

impl Kind for SchemaTrial {
    const NAME: &'static str = "schema_trial";
    const GROUP: &'static str = "look";
    const SUMMARY: &'static str = "Try whether a server takes the schema, and report every error at once";
    const EXAMPLE: &'static str = "schema_trial: { source: source, version: 18, filter: { no_owner: true } }";
    const BORROWS: &'static [(&'static str, &'static str)] = &[("filter", Filter::NAME)];

    fn check(&self, to: &mut Declarations) {
        to.reads(&self.source, "source");
        match (&self.target, self.version) {
            (Some(target), None) => {
                to.changes(target, "target");
                if self.scope == DumpScope::Cluster {
                    let message = "roles and databases of a whole server would stay on the server of `target`";
                    let help = "give `version` for a server that is removed again";
                    to.problem("conflicting_keys", key(["scope"]), message, Some(help));
                }
            }
            (None, Some(_)) => {}
            (Some(_), Some(_)) => {
                to.problem("conflicting_keys", key(["target"]), "`target` cannot stand beside `version`", None);
            }
            (None, None) => {
                let help = "`version: 18` makes a server for the trial, `target: NAME` takes one that is there";
                to.problem("missing_key", key([]), "`version` or `target` is missing", Some(help));
            }
        }
        for output in ["statements", "errors_expected", "removals"] {
            to.output(output, false);
        }
    }

    fn looks(&self, _cx: &ExpandCx<'_>) -> Result<Vec<Look>, StepError> {
        let look = |database: &String| Look::Server { database: database.clone(), depth: Depth::Server };
        Ok(std::iter::once(&self.source).chain(&self.target).map(look).collect())
    }

    fn actions(&self, facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        for database in std::iter::once(&self.source).chain(&self.target) {
            if let Some(step) = facts.servers_known_after.get(database) {
                return Ok(ActionGraph::known_after(step));
            }
        }
        let missing = || StepError::new(ErrorKind::Internal, format!("`{}` was not looked at", self.source));
        let server = facts.servers.get(&self.source).ok_or_else(missing)?;
        let rules = match &self.filter {
            None => FilterRules::default(),
            Some(TrialFilter::Rules(filter)) => filter.rules(),
            Some(TrialFilter::Step(step)) => {
                return Err(StepError::new(ErrorKind::Internal, format!("the rules of `{step}` were not put in")));
            }
        };
        let place = self.place(server, cx)?;
        let what = match self.scope {
            DumpScope::Cluster => format!("the server of {}", self.source),
            DumpScope::Database => format!("{} of {}", on_one_line(&server.dbname), self.source),
        };
        let title = match &place {
            TrialPlace::Cluster(cluster) => {
                format!("try the schema of {what} on a PostgreSQL {} made for it, and remove that", cluster.version)
            }
            TrialPlace::Database { on, .. } => {
                format!("try the schema of {what} in a database of its own on {on}, and drop that")
            }
        };
        let has_roles = self.scope == DumpScope::Cluster || matches!(place, TrialPlace::Database { .. });
        let op = TrialOp {
            roles: if has_roles { None } else { Some(self.roles(server, cx)?) },
            schema: self.schema(server, cx)?,
            dbname: (self.scope == DumpScope::Database).then(|| server.dbname.clone()),
            encoding: server.database(&server.dbname).map(|database| database.encoding.clone()),
            rules,
            place: place.clone(),
            expected: self.expected(&place),
            compat: self.compat,
        };
        let undo = Op::EndTrial(place);
        let action = Action::new("trial", title, Op::SchemaTrial(Box::new(op)), Effect::Restart);
        Ok(ActionGraph::of(vec![action.undo(undo)]))
    }
}

impl SchemaTrial {
    /// Returns the errors that do not fail the step: the plan's, and that the superuser of a server made for the trial
    /// is there.
    fn expected(&self, place: &TrialPlace) -> Vec<Expected> {
        let own = match place {
            TrialPlace::Cluster(cluster) => {
                Some(Expected::Message(format!("role \"{}\" already exists", cluster.superuser)))
            }
            TrialPlace::Database { .. } => None,
        };
        own.into_iter().filter(|own| !self.expected_errors.contains(own)).chain(self.expected_errors.clone()).collect()
    }

    fn place(&self, server: &ServerFacts, cx: &ExpandCx<'_>) -> Result<TrialPlace, StepError> {
        if let Some(on) = &self.target {
            let run = cx.run_dir.file_name().unwrap_or_default().to_string_lossy();
            let digest = blake3::hash(format!("{run}/{}", cx.step).as_bytes()).to_hex();
            return Ok(TrialPlace::Database { on: on.clone(), name: format!("pgplan_trial_{}", &digest[..16]) });
        }
        let version = self.version.unwrap_or_default();
        cx.clients.of_major(&["initdb", "pg_ctl", "postgres"], version)?;
        // It holds no data and lives for seconds.
        let quick = ["fsync", "synchronous_commit", "full_page_writes", "autovacuum"];
        let settings: BTreeMap<String, String> =
            quick.iter().map(|name| ((*name).to_owned(), "off".to_owned())).collect();
        Ok(TrialPlace::Cluster(CreateCluster {
            version,
            folder: default_folder(cx.run_dir, cx.step),
            port: None,
            run_as: self.run_as.clone(),
            // What the source's superuser granted, nobody else can grant.
            superuser: if server.superuser { server.user.clone() } else { SUPERUSER.to_owned() },
            // Databases of any encoding fit.
            locale: "C".to_owned(),
            settings,
        }))
    }

    fn roles(&self, server: &ServerFacts, cx: &ExpandCx<'_>) -> Result<DumpOp, StepError> {
        self.dump("roles", DumpScope::Cluster, &["--roles-only", "--no-role-passwords"], server, cx)
    }

    fn schema(&self, server: &ServerFacts, cx: &ExpandCx<'_>) -> Result<DumpOp, StepError> {
        let own: &[&str] = match self.scope {
            DumpScope::Cluster => &["--no-role-passwords"],
            DumpScope::Database => &["--exclude-schema=pgplan"],
        };
        let args = [&["--encoding=UTF8", "--schema-only", "--no-tablespaces"], own].concat();
        self.dump("schema", self.scope, &args, server, cx)
    }

    fn dump(
        &self,
        name: &str,
        scope: DumpScope,
        args: &[&str],
        server: &ServerFacts,
        cx: &ExpandCx<'_>,
    ) -> Result<DumpOp, StepError> {
        let program = if scope == DumpScope::Cluster { "pg_dumpall" } else { "pg_dump" };
        let client = cx.clients.for_server(program, server.version_num)?;
        Ok(DumpOp {
            from: self.source.clone(),
            scope,
            format: DumpFormat::Plain,
            jobs: 1,
            compress: Compress::Default,
            args: std::iter::once(&"--no-password").chain(args).map(|arg| (*arg).to_owned()).collect(),
            client: Some(client.path(program)),
            name: name.to_owned(),
            ..DumpOp::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::problems;

    #[test]
    fn keys_are_checked() {
        assert_eq!(problems::<SchemaTrial>("{ source: a, version: 18 }"), [""; 0]);
        assert_eq!(problems::<SchemaTrial>("{ source: a }"), ["missing_key"]);
        assert_eq!(problems::<SchemaTrial>("{ source: a, version: 18, target: b }"), ["conflicting_keys"]);
        assert_eq!(problems::<SchemaTrial>("{ source: a, target: b, scope: cluster }"), ["conflicting_keys"]);
    }
}
