//! `fence`: nobody writes any more, and that is proved.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Declarations, ExpandCx, Handed, Kind,
    declare::key,
    verify::{All, Databases},
};
use crate::{
    action::{Action, ActionGraph, Effect, OutputValue, Outputs},
    error::{ErrorKind, StepError},
    facts::{DatabaseFacts, Depth, Facts, Look, ServerFacts},
    op::{
        Op,
        fence::{Access, FenceOp, Quiet, RoleDefault, UnfenceOp},
    },
    postgres::quote::on_one_line,
    quantity::Span,
};

/// The output that holds how the databases were.
const BEFORE: &str = "before";
/// The output that holds the proof.
const QUIET: &str = "quiet";

/// Keeps writers out of databases, ends their sessions, and proves that nobody writes.
///
/// Nobody but pgplan's own role, and those of `allow`, may connect any more (CONNECT is revoked, and where pgplan is a
/// superuser the connection limit is 0); sessions are read-only by default, also those of roles that say otherwise; who
/// is still connected after `grace` is ended. Then, for `window`, no session of others may be seen, no prepared
/// transaction be pending, no subscription bring changes, and no table, sequence, role or setting may change. Otherwise
/// the step fails, names who is to blame, and takes back what it has set (`keep: true` leaves it).
///
/// How everything was before is in the journal before anything is changed, and undo brings back just that. When the run
/// is taken up later, quiet is proved again; a `verify` whose left side is fenced checks at its end that nothing has
/// moved. Superusers cannot be kept out, only ended and named.
///
/// Outputs: `before`, `quiet` (`lsn`, `xid`, `at`, `databases` with their counters), `ended` (how many sessions were).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fence {
    /// The database of the plan whose server is meant.
    pub database: String,
    /// Which databases of the server: `all` that allow connections and are no templates, or a list of names.
    #[serde(default = "all")]
    pub databases: Databases,
    /// How long sessions may take to end by themselves, before they are ended.
    #[serde(default = "grace")]
    pub grace: Span,
    /// How long nothing may happen for the proof.
    #[serde(default = "window")]
    pub window: Span,
    /// Whose sessions stay: they must not write either.
    #[serde(default)]
    pub allow: Allow,
    /// The databases' connection limit (superusers do not count). Absent: 0 where pgplan is a superuser and no role is
    /// allowed to stay, else it is left as it is.
    #[serde(default)]
    pub connection_limit: Option<i32>,
    /// Whether the fence stays when quiet cannot be proved.
    #[serde(default)]
    pub keep: bool,
}

/// Whose sessions stay; `*` and `?` as in file names.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// Roles.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Names of applications (`application_name`), or of background workers (`backend_type`). Anybody can give a session
    /// any name: it is a convenience, and what such sessions do counts as for all others.
    #[serde(default)]
    pub applications: Vec<String>,
}

fn all() -> Databases {
    Databases::Word(All::All)
}

fn grace() -> Span {
    Span(Duration::from_secs(30))
}

fn window() -> Span {
    Span(Duration::from_secs(5))
}

impl Kind for Fence {
    const NAME: &'static str = "fence";
    const GROUP: &'static str = "servers";
    const SUMMARY: &'static str = "Keep writers out of databases and prove that nobody writes";
    const EXAMPLE: &'static str = "fence: { database: source, grace: 30s, window: 5s, allow: { roles: [monitoring] } }";

    fn check(&self, to: &mut Declarations) {
        to.changes(&self.database, "database");
        to.makes(Handed::Fence);
        for name in [BEFORE, QUIET, "ended"] {
            to.output(name, false);
        }
        if matches!(&self.databases, Databases::Names(names) if names.is_empty()) {
            to.problem("empty_list", key(["databases"]), "no database is named", Some("leave it out for all"));
        }
        if self.window.0 < Duration::from_secs(1) {
            let help = "servers tell what was changed with up to a second's delay";
            to.problem("bad_value", key(["window"]), "`window` must be at least 1s", Some(help));
        }
        if self.connection_limit.is_some_and(|limit| limit < 0) {
            let help = "leave it out for what pgplan sets by itself";
            to.problem("bad_value", key(["connection_limit"]), "`connection_limit` is 0 or more", Some(help));
        }
    }

    fn looks(&self, _cx: &ExpandCx<'_>) -> Result<Vec<Look>, StepError> {
        Ok(vec![Look::Server { database: self.database.clone(), depth: Depth::Server }])
    }

    fn actions(&self, facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        if let Some(step) = facts.servers_known_after.get(&self.database) {
            return Ok(ActionGraph::known_after(step));
        }
        let missing = || StepError::new(ErrorKind::Internal, format!("`{}` was not looked at", self.database));
        let server = facts.servers.get(&self.database).ok_or_else(missing)?;
        if server.settings.get("in_recovery").is_some_and(|value| value == "on") {
            let message = format!("{} is a standby: who writes to its primary cannot be kept out there", self.database);
            return Err(StepError::new(ErrorKind::Refused, message).help("fence the primary"));
        }
        let mut graph = ActionGraph::default();
        let mut before = Vec::new();
        for name in self.names(server) {
            match server.database(&name) {
                Some(database) => before.push(access(server, database)),
                None if cx.dry_run => {
                    graph.warnings.push(format!("{} has no database {} yet", self.database, on_one_line(&name)));
                }
                None => {
                    let message = format!("{} has no database {}", self.database, on_one_line(&name));
                    return Err(StepError::new(ErrorKind::Object, message));
                }
            }
        }
        let whole = server.user_databases().all(|database| before.iter().any(|access| access.name == database.name));
        let shown = self.shown(&before);
        if !server.sessions.is_empty() {
            let count = server.sessions.len();
            let noun = if count == 1 { "session is" } else { "sessions are" };
            graph.warnings.push(format!(
                "{count} {noun} connected to {} now: {}",
                self.database,
                some(&server.sessions)
            ));
        }
        graph.actions = vec![self.remember(&before, &shown)?, self.fence(before, whole, &shown, cx)];
        Ok(graph)
    }
}

impl Fence {
    fn names(&self, server: &ServerFacts) -> Vec<String> {
        match &self.databases {
            Databases::Word(_) => server.user_databases().map(|database| database.name.clone()).collect(),
            Databases::Names(names) => names.clone(),
        }
    }

    fn shown(&self, before: &[Access]) -> String {
        let names: Vec<String> = before.iter().map(|access| on_one_line(&access.name)).collect();
        format!("{} on {}", some(&names), self.database)
    }

    fn remember(&self, before: &[Access], shown: &str) -> Result<Action, StepError> {
        let before = Before { database: self.database.clone(), databases: before.to_vec() };
        let value = serde_json::to_value(before)
            .map_err(|error| StepError::new(ErrorKind::Internal, format!("access cannot be described: {error}")))?;
        let op = Op::Remember { values: [(BEFORE.to_owned(), value)].into(), file: None };
        Ok(Action::new("remember", format!("remember who may use {shown}"), op, Effect::Restart))
    }

    fn fence(&self, before: Vec<Access>, whole: bool, shown: &str, cx: &ExpandCx<'_>) -> Action {
        let millis = |span: Span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX);
        let (step, database) = (cx.step.to_owned(), self.database.clone());
        let undo = UnfenceOp { step: step.clone(), on: database.clone(), database, before: before.clone() };
        let op = FenceOp {
            step,
            database: self.database.clone(),
            before,
            whole,
            grace_ms: millis(self.grace),
            window_ms: millis(self.window),
            allow_roles: self.allow.roles.clone(),
            allow_applications: self.allow.applications.clone(),
            connection_limit: self.connection_limit,
            keep: self.keep,
        };
        let title = format!("close {shown} to writers, end their sessions, and prove that nobody writes");
        let action = Action::new("fence", title, Op::Fence(op), Effect::Restart);
        action.after(["remember"]).undo(Op::Unfence(undo)).proof()
    }
}

/// Returns who may use a database now.
fn access(server: &ServerFacts, database: &DatabaseFacts) -> Access {
    let here = |role: Option<&str>| {
        server
            .defaults
            .iter()
            .find(|found| found.database.as_ref() == Some(&database.name) && found.role.as_deref() == role)
            .and_then(|found| found.read_only.clone())
    };
    let own = server.defaults.iter().filter(|found| found.database.as_ref().is_none_or(|name| *name == database.name));
    let mut roles: Vec<&String> = own.filter_map(|found| found.role.as_ref()).collect();
    roles.sort();
    roles.dedup();
    Access {
        name: database.name.clone(),
        acl: database.acl.clone(),
        connect: database.connect.clone(),
        connection_limit: database.connection_limit,
        read_only: here(None),
        roles: roles.into_iter().map(|role| RoleDefault { role: role.clone(), read_only: here(Some(role)) }).collect(),
    }
}

/// Returns the first few of a list for people.
fn some(names: &[String]) -> String {
    const SHOWN: usize = 5;
    match names.len().checked_sub(SHOWN) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", names[..SHOWN].join(", ")),
    }
}

/// How databases were before they were fenced: the output `before`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Before {
    /// The database of the plan whose server is meant.
    pub(super) database: String,
    /// The databases.
    pub(super) databases: Vec<Access>,
}

/// Returns how the databases were that a step has begun to fence, from its outputs.
///
/// # Errors
/// When the output is there and cannot be read.
pub(super) fn before(outputs: &Outputs) -> Result<Option<Before>, StepError> {
    plain(outputs, BEFORE)
}

/// Returns the proofs about a database of the plan that hold: no step has opened it again.
///
/// # Errors
/// When a proof is there and cannot be read.
pub(super) fn proofs(database: &str, cx: &ExpandCx<'_>) -> Result<Vec<(String, Quiet)>, StepError> {
    let opened = |step: &str| {
        let says = |outputs: &Outputs| match outputs.get(super::unfence::UNFENCED) {
            Some(OutputValue::Plain(value)) => value.as_str() == Some(step),
            _ => false,
        };
        cx.outputs.values().any(says)
    };
    let mut found = Vec::new();
    for (step, outputs) in cx.outputs.iter().filter(|(step, _)| !opened(step)) {
        match plain::<Quiet>(outputs, QUIET) {
            Ok(quiet) => found.extend(quiet.map(|quiet| (step.clone(), quiet))),
            // A step of another kind may have an output of that name; what it was before is written by a fence only.
            Err(error) if matches!(before(outputs), Ok(Some(_))) => return Err(error),
            Err(_) => {}
        }
    }
    found.retain(|(_, quiet)| quiet.database == database);
    Ok(found)
}

fn plain<T: serde::de::DeserializeOwned>(outputs: &Outputs, name: &str) -> Result<Option<T>, StepError> {
    match outputs.get(name) {
        Some(OutputValue::Plain(value)) => serde_json::from_value(value.clone()).map(Some).map_err(|error| {
            StepError::new(ErrorKind::Internal, format!("the output `{name}` cannot be read: {error}"))
        }),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        facts::Defaults,
        kinds::testing::{Expand, problems},
        op::fence::Grant,
    };

    fn facts() -> Facts {
        let grant = Grant { grantor: "o".to_owned(), ..Grant::default() };
        let database = |name: &str| DatabaseFacts {
            name: name.to_owned(),
            allows_connections: true,
            connect: vec![grant.clone()],
            connection_limit: -1,
            ..DatabaseFacts::default()
        };
        let default = |database: Option<&str>, role: Option<&str>, value: &str| Defaults {
            database: database.map(str::to_owned),
            role: role.map(str::to_owned),
            read_only: Some(value.to_owned()),
        };
        let server = ServerFacts {
            databases: vec![database("app"), database("postgres")],
            defaults: vec![default(None, Some("w"), "off"), default(Some("app"), Some("w"), "false")],
            ..ServerFacts::default()
        };
        Facts { servers: [("db".to_owned(), server)].into(), ..Facts::default() }
    }

    #[test]
    fn what_was_before_is_journalled_before_the_fence_and_in_its_undo() {
        let graph = Expand::facts(facts()).kind::<Fence>("{ database: db }").unwrap();
        let [remember, fence] = graph.actions.as_slice() else { panic!("{graph:?}") };
        assert_eq!(fence.after, ["remember"]);
        let Op::Remember { values, .. } = &remember.op else { panic!("{remember:?}") };
        let (Op::Fence(op), Some(Op::Unfence(undo))) = (&fence.op, fence.undo.as_deref()) else { panic!("{fence:?}") };
        assert_eq!(serde_json::to_value(&op.before).unwrap(), values[BEFORE]["databases"]);
        assert_eq!(undo.before, op.before);
        assert_eq!((&undo.step, &undo.database), (&op.step, &op.database));
        assert!(op.whole && fence.proof && !fence.volatile);
        let read_only: Vec<_> = op.before.iter().map(|access| access.roles[0].read_only.as_deref()).collect();
        assert_eq!(read_only, [Some("false"), None]);
    }

    #[test]
    fn a_part_of_a_server_and_a_standby() {
        let part = Expand::facts(facts()).kind::<Fence>("{ database: db, databases: [app] }").unwrap();
        assert!(matches!(&part.actions[1].op, Op::Fence(op) if !op.whole));
        let none = Expand::facts(facts()).kind::<Fence>("{ database: db, databases: [nowhere] }");
        assert_eq!(none.unwrap_err().kind, ErrorKind::Object);
        let mut standby = facts();
        standby.servers.get_mut("db").unwrap().settings.insert("in_recovery".to_owned(), "on".to_owned());
        assert_eq!(Expand::facts(standby).kind::<Fence>("{ database: db }").unwrap_err().kind, ErrorKind::Refused);
    }

    #[test]
    fn keys_are_checked() {
        assert_eq!(
            problems::<Fence>("{ database: db, databases: [], window: 10ms, connection_limit: -1 }"),
            ["empty_list", "bad_value", "bad_value"]
        );
    }
}
