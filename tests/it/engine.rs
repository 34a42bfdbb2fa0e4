//! Steps carried out by the engine's library against servers of the test's own, without the command line.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use pgplan_engine::action::{Action, ActionGraph, Output};
use pgplan_engine::error::{ErrorKind, StepError};
use pgplan_engine::facts::{Facts, Look};
use pgplan_engine::kinds::{ExpandCx, Kind};
use pgplan_engine::perform::{self, Databases, PerformCx, Progress, Reveal};
use pgplan_engine::platforms::Platforms;
use pgplan_engine::postgres::{ConnInfo, Environment};
use pgplan_engine::redact::Redactor;
use pgplan_engine::secret::SecretString;
use pgplan_engine::survey;
use pgplan_engine::tool::Clients;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;

/// A plan's databases and the folder of a run.
pub(crate) struct Engine {
    databases: Arc<Urls>,
    folder: TempDir,
}

struct Urls(BTreeMap<String, String>);

impl Databases for Urls {
    fn conninfo(&self, name: &str) -> Result<ConnInfo, StepError> {
        let url = self.0.get(name).ok_or_else(|| StepError::new(ErrorKind::Internal, "no such database"))?;
        ConnInfo::parse(url, &Environment::default())
            .map_err(|error| StepError::new(ErrorKind::Internal, error.to_string()))
    }
}

impl Reveal for Urls {
    fn reveal(&self, name: &str) -> Result<SecretString, StepError> {
        Ok(SecretString::from(format!("value of {name}")))
    }
}

impl Engine {
    /// Returns an engine that knows a database of a server by each name.
    pub(crate) fn new<const N: usize>(databases: [(&str, &Cluster, &str); N]) -> Self {
        let url = |(name, cluster, database): (&str, &Cluster, &str)| (name.to_owned(), cluster.url(database));
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        Self { databases: Arc::new(Urls(databases.into_iter().map(url).collect())), folder }
    }

    /// Returns the folder that stands for those of the plan and of the run.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Connects as another role from now on.
    pub(crate) fn set_user(&mut self, user: &str) {
        let urls = self
            .databases
            .0
            .iter()
            .map(|(name, url)| (name.clone(), url.replace("//postgres@", &format!("//{user}@"))));
        self.databases = Arc::new(Urls(urls.collect()));
    }

    /// Returns the connection to a database.
    pub(crate) fn conninfo(&self, name: &str) -> ConnInfo {
        self.databases.conninfo(name).expect("the URL can be read")
    }

    /// Returns what an action knows.
    pub(crate) fn cx(&self, step: &str, action: &str) -> PerformCx {
        PerformCx {
            run_id: "run1".to_owned(),
            session: 0,
            generation: 0,
            step: step.to_owned(),
            action: action.to_owned(),
            run_dir: self.folder.path().to_owned(),
            plan_dir: self.folder.path().to_owned(),
            env: BTreeMap::new(),
            cancel: CancellationToken::new(),
            progress: Progress::silent(),
            secrets: self.databases.clone(),
            databases: self.databases.clone(),
            redactor: Arc::new(Redactor::new()),
            held: Arc::default(),
            idle: Arc::default(),
            clients: Arc::default(),
        }
    }

    /// Surveys and lists the actions of a step.
    pub(crate) async fn actions<K: Kind>(&self, body: serde_json::Value) -> Result<ActionGraph, StepError> {
        let kind: K = serde_json::from_value(body).expect("the step's body fits its kind");
        let none = BTreeMap::new();
        let outputs = BTreeMap::new();
        let cx = ExpandCx {
            step: K::NAME,
            run_dir: self.folder.path(),
            plan_dir: self.folder.path(),
            inputs: &none,
            outputs: &outputs,
            dry_run: false,
            clients: &Clients::default(),
            earlier: &[],
            platforms: &Platforms::default(),
        };
        let mut facts = Facts::default();
        for look in kind.looks(&cx)? {
            let Look::Server { database, depth } = look else { panic!("only servers can be looked at here") };
            let found = survey::server(&self.conninfo(&database), depth).await?;
            facts.servers.insert(database, found);
        }
        kind.actions(&facts, &cx)
    }

    /// Carries out one action, on a task of its own as the run does.
    pub(crate) async fn perform(&self, step: &str, action: Action) -> Result<Output, StepError> {
        let cx = self.cx(step, &action.id);
        let task = tokio::spawn(async move { perform::perform(&action.op, &cx).await });
        task.await.expect("the action does not panic")
    }

    /// Carries out a whole step and returns what its last action gave.
    pub(crate) async fn step<K: Kind>(&self, body: serde_json::Value) -> Result<Output, StepError> {
        let mut last = Output::default();
        for action in self.actions::<K>(body).await?.actions {
            last = self.perform(K::NAME, action).await?;
        }
        Ok(last)
    }
}
