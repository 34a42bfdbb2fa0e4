//! `restore`: a dump into a server, statement by statement through a connection of our own.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Declarations, ExpandCx, Kind,
    declare::{Key, key},
    dump_source::{self, DumpSource, Found},
};
use crate::{
    action::{Action, ActionGraph, Effect},
    artifact::{Contents, DumpArtifact, DumpFormat},
    error::StepError,
    facts::{Depth, Facts, Look},
    op::{Compat, Expected, OnError, Op, Part, RestoreOp},
    quantity::{Span, counted},
};

/// Puts a dump into a server, and fails on the first error that is not expected.
///
/// Each statement goes through a connection of pgplan's own, never through psql: an error names the line, the object
/// and its cause, and applying again goes on behind the last statement that is done, without repeating any. An archive
/// (`format: custom` or `directory`) is restored by `jobs` connections: definitions, data, indexes, constraints, the
/// rest.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Restore {
    /// The step whose dump it is, or `{file: PATH}` for one made earlier; absent = the nearest step before.
    pub from: Option<DumpSource>,
    /// The database that takes it; the dump of a cluster goes on to the other databases of that server.
    pub into: String,
    /// Errors that do not fail the step: the message as the server words it, or `{sqlstate, object}`. One that never
    /// comes is reported.
    #[serde(default)]
    pub expected_errors: Vec<Expected>,
    /// What follows any other error: `stop`, or `collect` to restore the rest and then fail with all of them.
    #[serde(default)]
    pub on_error: OnError,
    /// How many connections restore an archive; 4 when absent.
    pub jobs: Option<usize>,
    /// What happens to options and settings that the target does not know: `strip` leaves them out and reports each.
    #[serde(default)]
    pub compat: Compat,
    /// Longest time of one statement; absent = none.
    pub statement_timeout: Option<Span>,
    /// Settings of the restoring sessions, as `maintenance_work_mem: 1GB`.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

/// Shares of data for each job: enough to keep all busy to the end, few enough to start a reader for each.
const SHARES_PER_JOB: usize = 4;

impl Kind for Restore {
    const NAME: &'static str = "restore";
    const GROUP: &'static str = "data";
    const SUMMARY: &'static str = "Restore a dump and fail on any error that is not expected";
    const EXAMPLE: &'static str =
        "restore:\n  into: target\n  expected_errors:\n    - role \"postgres\" already exists\n";

    fn check(&self, to: &mut Declarations) {
        dump_source::declare(self.from.as_ref(), to);
        to.changes(&self.into, "into");
        for output in ["rows", "bytes", "statements", "errors_expected", "removals"] {
            to.output(output, false);
        }
        if self.jobs == Some(0) {
            to.problem("restore_jobs", key(["jobs"]), "`jobs` must be at least 1", None);
        }
        for (at, expected) in self.expected_errors.iter().enumerate() {
            let place: Key = vec!["expected_errors".into(), at.to_string()];
            match expected {
                Expected::Code(code) if code.sqlstate.len() != 5 => {
                    let message = format!("`{}` is no SQLSTATE", code.sqlstate);
                    to.problem("expected_error", place, message, Some("it has five characters, as 42710"));
                }
                Expected::Message(message) if message.trim().is_empty() => {
                    to.problem("expected_error", place, "an empty message matches nothing", None);
                }
                _ => {}
            }
        }
        for name in self.settings.keys() {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
            if name.is_empty() || !name.chars().all(plain) {
                let place: Key = vec!["settings".into(), name.clone()];
                to.problem("restore_settings", place, format!("`{name}` is no setting's name"), None);
            }
        }
    }

    fn looks(&self, cx: &ExpandCx<'_>) -> Result<Vec<Look>, StepError> {
        let server = Look::Server { database: self.into.clone(), depth: Depth::Server };
        Ok(std::iter::once(server).chain(dump_source::looks(self.from.as_ref(), cx)).collect())
    }

    fn actions(&self, facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        let dump = match dump_source::find(self.from.as_ref(), facts, cx)? {
            Found::Dump(dump) => *dump,
            Found::NotYet(mut graph, which) => {
                let place = facts.servers.get(&self.into).map_or(self.into.as_str(), |server| server.label.as_str());
                let expected = match self.expected_errors.len() {
                    0 => "any error fails the step".to_owned(),
                    1 => "1 error is expected, any other fails the step".to_owned(),
                    n => format!("{n} errors are expected, any other fails the step"),
                };
                graph.warnings.push(format!("{which} is restored into {place}; {expected}"));
                return Ok(*graph);
            }
        };
        let jobs = self.jobs.unwrap_or(4);
        let mut graph = match (&dump.format, &dump.contents) {
            (DumpFormat::Plain, _) => ActionGraph::of(vec![self.script(&dump)]),
            (_, contents) => ActionGraph::of(self.archive(&dump, &contents.clone().unwrap_or_default(), jobs)),
        };
        graph.jobs = Some(jobs);
        Ok(graph)
    }
}

impl Restore {
    fn op(&self, dump: &DumpArtifact, part: Part) -> Op {
        let mut dump = dump.clone();
        if !(dump.format == DumpFormat::Custom && matches!(part, Part::Data { .. })) {
            // Journalled with every action, and needed by these only.
            dump.table_bytes.clear();
        }
        let timeout = self.statement_timeout.map_or(0, |span| span.0.as_millis());
        Op::Restore(RestoreOp {
            dump,
            into: self.into.clone(),
            part,
            expected: self.expected_errors.clone(),
            on_error: self.on_error,
            compat: self.compat,
            statement_timeout_ms: u64::try_from(timeout).unwrap_or(u64::MAX),
            settings: self.settings.clone(),
        })
    }

    fn script(&self, dump: &DumpArtifact) -> Action {
        let title = format!("restore {} into {}, statement by statement", dump.path.display(), self.into);
        Action::new("restore", title, self.op(dump, Part::Script), Effect::Transaction)
            .estimate(dump.text_bytes.or(Some(dump.bytes)), None)
    }

    fn archive(&self, dump: &DumpArtifact, contents: &Contents, jobs: usize) -> Vec<Action> {
        let of = |whole: usize| if jobs == 1 { whole.min(1) } else { whole.min(jobs * SHARES_PER_JOB) };
        let into = &self.into;
        let action = |id: String, title: String, part| Action::new(id, title, self.op(dump, part), Effect::Transaction);
        let schema = format!("restore the definitions of {} into {into}", dump.path.display());
        let mut all = vec![action("schema".into(), schema, Part::Schema)];
        let (shares, mut data) = (of(contents.tables), Vec::new());
        for n in 1..=shares {
            let tables = counted(contents.tables as u64, "table");
            let title = format!("copy the data of {tables} into {into}, share {n} of {shares}");
            let one = action(format!("data/{n}"), title, Part::Data { n, of: shares }).after(["schema"]);
            all.push(one.estimate(Some(dump.bytes / shares as u64), None));
            data.push(format!("data/{n}"));
        }
        let objects = if contents.large_objects { "sequences and large objects" } else { "sequences" };
        let title = format!("set {objects} in {into}");
        all.push(action("data/other".into(), title, Part::OtherData).after(["schema"]));
        data.push("data/other".into());
        let (shares, mut before) = (of(contents.indexes), data.clone());
        for n in 1..=shares {
            let title = format!("build {} indexes in {into}, share {n} of {shares}", contents.indexes);
            all.push(action(format!("indexes/{n}"), title, Part::Indexes { n, of: shares }).after(data.clone()));
            before.push(format!("indexes/{n}"));
        }
        let title = format!("attach partitioned indexes and check foreign keys in {into}");
        all.push(action("constraints".into(), title, Part::Constraints).after(before));
        let title = format!("restore triggers, rules, privileges and materialized views in {into}");
        all.push(action("rest".into(), title, Part::Rest).after(["constraints"]));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expected_errors_have_two_forms() {
        let step: Restore = serde_json::from_value(serde_json::json!({
            "into": "t",
            "expected_errors": ["role \"a\" already exists", {"sqlstate": "42710", "object": "role b"}, {"sqlstate": "1", "object": "x"}],
        }))
        .unwrap();
        let mut to = Declarations::default();
        step.check(&mut to);
        assert_eq!(
            to.problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>(),
            ["`1` is no SQLSTATE"]
        );
    }

    #[test]
    fn an_archive_is_split_into_journalled_actions() {
        let step: Restore = serde_json::from_value(serde_json::json!({"into": "t", "jobs": 2})).unwrap();
        let dump: DumpArtifact = serde_json::from_value(serde_json::json!({
            "step": "dump", "path": "dump/db.dir", "format": "directory", "scope": "database", "bytes": 10, "sha256": "",
            "source_version_num": 150020, "client_version": 150020, "database": "db",
        }))
        .unwrap();
        let contents = Contents { tables: 3, indexes: 9, large_objects: true, entries: 20 };
        let actions = step.archive(&dump, &contents, 2);
        let ids: Vec<&str> = actions.iter().map(|action| action.id.as_str()).collect();
        assert_eq!(ids[..5], ["schema", "data/1", "data/2", "data/3", "data/other"]);
        assert_eq!(ids.len(), 5 + 8 + 2);
        let constraints = &actions[ids.len() - 2];
        assert_eq!(constraints.after.len(), 4 + 8);
        assert_eq!(actions[1].after, ["schema"]);
    }
}
