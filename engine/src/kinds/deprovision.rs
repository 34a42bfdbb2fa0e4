//! `deprovision`: an old database is destroyed.

use std::{collections::BTreeMap, path::PathBuf};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Declarations, ExpandCx, Kind, declare::key};
use crate::{
    action::{Action, ActionGraph, Effect},
    error::{ErrorKind, StepError},
    facts::{Depth, Facts, Look},
    op::Op,
    platforms::Values,
    secret::Text,
};

/// How many sessions a refusal names.
const SHOWN_SESSIONS: usize = 10;

/// Destroys a database server for good, after a person has said yes.
///
/// It is refused while clients are connected: a forgotten application would lose its database. It is refused for a
/// database that the plan protects (`protect: true`). There is no way back: the platform may delete its backups, too.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Deprovision {
    /// The database of the plan that is destroyed: its sessions are looked at before.
    pub database: String,
    /// The platform: `aptible`, `dokku` or one of your own.
    #[serde(default)]
    pub platform: Option<String>,
    /// The database's name on the platform.
    #[serde(default)]
    pub name: Option<Text>,
    /// The application, where the platform needs it.
    #[serde(default)]
    pub app: Option<Text>,
    /// Further parameters of the platform: `environment`.
    #[serde(default)]
    pub with: BTreeMap<String, Text>,
    /// The folder of a server that `provision: { managed: … }` made, instead of a platform.
    #[serde(default)]
    pub managed: Option<PathBuf>,
    /// The question that is asked; one that names the database when not given.
    #[serde(default)]
    pub message: Option<String>,
}

impl Kind for Deprovision {
    const NAME: &'static str = "deprovision";
    const GROUP: &'static str = "servers";
    const SUMMARY: &'static str = "Destroy an old database server";
    const EXAMPLE: &'static str = "deprovision: { database: source, platform: dokku, name: shop-db-15 }";

    fn check(&self, to: &mut Declarations) {
        to.destroys(&self.database, "database");
        match (&self.platform, &self.managed) {
            (Some(platform), None) => {
                to.platform(platform, "platform");
                if self.name.is_none() {
                    to.problem("missing_key", key([]), "`name` is missing: the database on the platform", None);
                }
            }
            (None, Some(_)) => {}
            (Some(_), Some(_)) => {
                to.problem("conflicting_keys", key(["managed"]), "`managed` cannot stand beside `platform`", None);
            }
            (None, None) => to.problem("missing_key", key([]), "`platform` or `managed` is missing", None),
        }
    }

    fn looks(&self, _: &ExpandCx<'_>) -> Result<Vec<Look>, StepError> {
        Ok(vec![Look::Server { database: self.database.clone(), depth: Depth::Server }])
    }

    fn actions(&self, facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        let mut graph = ActionGraph::default();
        let mut label = format!("`{}`", self.database);
        match (facts.servers.get(&self.database), facts.servers_known_after.get(&self.database)) {
            (Some(server), _) => {
                label = format!("{label} ({})", server.label);
                if let Some(refusal) = connected(&label, &server.sessions) {
                    if !cx.dry_run {
                        return Err(refusal);
                    }
                    // The application is still up while the plan is reviewed.
                    graph.warnings.push(format!("{}; the step is refused while that is so", refusal.message));
                }
            }
            (None, Some(step)) => return Ok(ActionGraph::known_after(step)),
            (None, None) if cx.dry_run => {
                graph.warnings.push(format!("whether clients are connected to {label} was not looked at"));
            }
            (None, None) => {
                let message = format!("it is not known whether clients are connected to {label}");
                return Err(StepError::new(ErrorKind::Internal, message));
            }
        }
        let question =
            self.message.clone().unwrap_or_else(|| format!("destroy the database {label} with all its data?"));
        let ask = Op::Approve { message: question.clone() };
        graph.actions.push(Action::new("approve", format!("ask for consent: {question}"), ask, Effect::Restart));
        let destroy = match (&self.platform, &self.managed) {
            (Some(platform), _) => {
                let platform = cx.platforms.get(platform)?;
                let command = platform.part(platform.deprovision.as_ref(), "destroy a database")?;
                let mut values = Values::given(platform, self.app.as_ref(), &self.with)?;
                if let Some(name) = &self.name {
                    values = values.with("name", name);
                }
                let exec = command.exec(platform, &values)?;
                Action::new("destroy", format!("destroy {label}: {exec}"), Op::Exec(exec), Effect::Opaque)
            }
            (None, folder) => {
                let folder = cx.plan_dir.join(folder.as_deref().unwrap_or(std::path::Path::new("")));
                let title = format!("stop the server of {label} and remove {}", folder.display());
                Action::new("destroy", title, Op::RemoveCluster { folder, of_this_run: false }, Effect::Probe)
            }
        };
        graph.actions.push(destroy.after(["approve"]));
        Ok(graph)
    }
}

fn connected(label: &str, sessions: &[String]) -> Option<StepError> {
    if sessions.is_empty() {
        return None;
    }
    let clients =
        if sessions.len() == 1 { "1 client is".to_owned() } else { format!("{} clients are", sessions.len()) };
    let error = StepError::new(ErrorKind::Refused, format!("{clients} still connected to {label}"))
        .help("find out what they are and lead them to the new database, then apply again");
    Some(sessions.iter().take(SHOWN_SESSIONS).fold(error, |error, session| error.detail(session)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        facts::ServerFacts,
        kinds::testing::{Expand, expand, problems},
    };

    const STEP: &str = "{ database: source, platform: aptible, name: old, with: { environment: prod } }";

    fn found(sessions: &[&str]) -> Facts {
        let sessions = sessions.iter().map(|session| (*session).to_owned()).collect();
        let server = ServerFacts { label: "postgres://a@h:5432/db".to_owned(), sessions, ..ServerFacts::default() };
        Facts { servers: [("source".to_owned(), server)].into(), ..Facts::default() }
    }

    #[test]
    fn a_person_is_asked_first() {
        let graph = Expand::facts(found(&[])).kind::<Deprovision>(STEP).unwrap();
        let titles: Vec<&str> = graph.actions.iter().map(|action| action.title.as_str()).collect();
        assert_eq!(
            titles,
            [
                "ask for consent: destroy the database `source` (postgres://a@h:5432/db) with all its data?",
                "destroy `source` (postgres://a@h:5432/db): aptible db:deprovision old --environment prod"
            ]
        );
        assert_eq!(graph.actions[1].after, ["approve"]);
        assert!(graph.actions.iter().all(|action| action.undo.is_none()));
    }

    #[test]
    fn clients_that_are_connected_stop_it() {
        let error = Expand::facts(found(&["app from 10.0.0.7"])).kind::<Deprovision>(STEP).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
        assert_eq!(error.message, "1 client is still connected to `source` (postgres://a@h:5432/db)");
        assert_eq!(error.details, ["app from 10.0.0.7"]);
        let dry =
            Expand { facts: found(&["x"]), dry_run: true, ..Expand::default() }.kind::<Deprovision>(STEP).unwrap();
        assert!(dry.warnings[0].ends_with("the step is refused while that is so"));
        assert_eq!(Expand::default().kind::<Deprovision>(STEP).unwrap_err().kind, ErrorKind::Internal);
    }

    #[test]
    fn keys_are_checked() {
        assert_eq!(problems::<Deprovision>("{ database: a }"), ["missing_key"]);
        assert_eq!(problems::<Deprovision>("{ database: a, platform: dokku }"), ["missing_key"]);
        assert_eq!(problems::<Deprovision>("{ database: a, managed: ./x }"), [""; 0]);
        let graph = expand::<Deprovision>("{ database: a, managed: ./x }").unwrap();
        assert_eq!(graph.actions[1].title, "stop the server of `a` and remove /plan/./x");
    }
}
