//! Restoring a schema only to see whether it can be, into something that is removed again whatever happens.
//!
//! It is made of the operations of the real steps: a dump, a server, a filter, a restore that goes on after errors. What
//! an attempt that was killed has left is removed before the next one, and by undo.

use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

use super::{Databases, PerformCx, cluster, detach, dump, filter, restore};
use crate::{
    action::{Output, OutputValue},
    artifact::DumpArtifact,
    error::{ErrorKind, StepError},
    op::{
        DumpOp, FilterOp, OnError, Part, RestoreOp, Unmatched,
        trial::{TrialOp, TrialPlace},
    },
    postgres::{
        ConnInfo, Environment, Session,
        connect::{connect, execute},
        quote::{ident, literal},
        rows::rows,
    },
    quantity::counted,
};

/// What the place of the trial is called among the plan's databases; no database of a plan can be called so.
const TRIAL: &str = "the schema trial";

/// The plan's databases, and the place of the trial.
struct WithTrial {
    others: Arc<dyn Databases + Send + Sync>,
    trial: ConnInfo,
}

impl Databases for WithTrial {
    fn conninfo(&self, name: &str) -> Result<ConnInfo, StepError> {
        if name == TRIAL { Ok(self.trial.clone()) } else { self.others.conninfo(name) }
    }
}

/// Tries a schema; what was made for it is gone afterwards.
///
/// Outputs: `statements`, `errors_expected`, `removals`.
///
/// # Errors
/// [`ErrorKind::Verification`] with every error of the restore that is not expected; those of the dump, of the server
/// and of the filter.
pub async fn schema_trial(op: &TrialOp, cx: &PerformCx) -> Result<Output, StepError> {
    end_trial(&op.place, cx).await?;
    let tried = Box::pin(attempt(op, cx)).await;
    let ended = end_trial(&op.place, cx).await;
    match (tried, ended) {
        (Ok(output), Ok(_)) => Ok(output),
        (Ok(_), Err(error)) => Err(error),
        (Err(error), Ok(_)) => Err(error),
        (Err(error), Err(why)) => Err(error.detail(format!("what was made for the trial is left: {why}"))),
    }
}

/// Removes what was made for a trial, also when the run has been told to stop.
///
/// # Errors
/// What keeps it from being removed.
pub async fn end_trial(place: &TrialPlace, cx: &PerformCx) -> Result<Output, StepError> {
    let cx = PerformCx { cancel: CancellationToken::new(), ..cx.clone() };
    match place {
        TrialPlace::Cluster(op) => cluster::remove(&op.folder, true, &cx).await,
        TrialPlace::Database { on, name } => {
            let session = cx.connect_beside(on, name).await?;
            let dropped = drop_database(&session, on, name, &cx).await;
            session.close().await;
            dropped.map(|()| Output::said(format!("{name} is gone")))
        }
    }
}

/// Drops the subscriptions that the schema has, which keep their database: without a word to their publishers.
async fn drop_subscriptions(on: &str, name: &str, cx: &PerformCx) -> Result<(), StepError> {
    let session = cx.connect(on, Some(name)).await?;
    let dropped = async {
        for subscription in detach::subscriptions(&session).await? {
            execute(&session, "drop a subscription", &format!("DROP SUBSCRIPTION {}", ident(&subscription))).await?;
        }
        Ok(())
    };
    let dropped = dropped.await;
    session.close().await;
    dropped
}

async fn drop_database(session: &Session, on: &str, name: &str, cx: &PerformCx) -> Result<(), StepError> {
    // Sessions of an attempt that was killed work on until they notice.
    let sql = format!(
        "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE datname = {}",
        literal(name)
    );
    execute(session, "end what uses the database of the trial", &sql).await?;
    // One whose removal was cut short (connection limit -2) cannot be entered any more.
    let sql = format!("SELECT FROM pg_catalog.pg_database WHERE datname = {} AND datconnlimit <> -2", literal(name));
    if !rows(session, "look for the database of the trial", &sql).await?.is_empty() {
        drop_subscriptions(on, name, cx).await?;
    }
    execute(session, "drop the database of the trial", &format!("DROP DATABASE IF EXISTS {}", ident(name))).await
}

async fn attempt(op: &TrialOp, cx: &PerformCx) -> Result<Output, StepError> {
    let roles = match &op.roles {
        Some(roles) => Some(dumped(roles, cx).await?),
        None => None,
    };
    let schema = dumped(&op.schema, cx).await?;
    let trial = place(op, cx).await?;
    let cx = PerformCx { databases: Arc::new(WithTrial { others: Arc::clone(&cx.databases), trial }), ..cx.clone() };
    let mut errors: Option<StepError> = None;
    let mut last = Output::default();
    for (what, dump) in roles.map(|roles| ("roles", roles)).into_iter().chain([("schema", schema)]) {
        match restored(op, what, dump, &cx).await {
            Ok(output) => last = output,
            Err(error) if error.kind == ErrorKind::UnexpectedError => match &mut errors {
                Some(first) => first.details.extend(error.details),
                None => errors = Some(error),
            },
            Err(error) => return Err(error),
        }
    }
    match errors {
        None => Ok(Output { summary: format!("the schema can be restored: {}", last.summary), ..last }),
        Some(error) => {
            // Under each statement its cause may stand, indented.
            let count = error.details.iter().filter(|line| !line.starts_with(' ')).count();
            let failed = counted(count as u64, "statement");
            let message = format!("the schema cannot be restored as it is: {failed} failed");
            let new = StepError { kind: ErrorKind::Verification, message, ..error };
            Err(new.help("mend the causes in the source, filter them out, or name them in `expected_errors`"))
        }
    }
}

/// Makes a dump and returns it.
async fn dumped(op: &DumpOp, cx: &PerformCx) -> Result<DumpArtifact, StepError> {
    let output = dump::dump(op, cx).await?;
    artifact(&output)
}

fn artifact(output: &Output) -> Result<DumpArtifact, StepError> {
    match output.outputs.get("dump") {
        Some(OutputValue::Plain(value)) => DumpArtifact::from_output(value),
        _ => Err(StepError::new(ErrorKind::Internal, "no dump was made")),
    }
}

/// Makes the place of the trial and returns how to connect to it.
async fn place(op: &TrialOp, cx: &PerformCx) -> Result<ConnInfo, StepError> {
    let (server, name) = match &op.place {
        TrialPlace::Cluster(cluster) => {
            let made = cluster::create(cluster, cx).await?;
            let Some(OutputValue::Secret(Some(url))) = made.outputs.get("url") else {
                return Err(StepError::new(ErrorKind::Internal, "the server of the trial has no address"));
            };
            let server = parse(url)?;
            match op.dbname.as_deref().filter(|name| *name != "postgres" && *name != "template1") {
                Some(name) => (server, name.to_owned()),
                None => return Ok(server),
            }
        }
        TrialPlace::Database { on, name } => (cx.databases.conninfo(on)?, name.clone()),
    };
    let session = match &op.place {
        TrialPlace::Cluster(_) => connect(&server, &cx.application_name(crate::claim::Purpose::Work)).await?,
        TrialPlace::Database { on, name } => cx.connect_beside(on, name).await?,
    };
    let encoding = op.encoding.as_deref().map(|encoding| format!(" ENCODING {}", literal(encoding)));
    let sql = format!("CREATE DATABASE {} TEMPLATE template0{}", ident(&name), encoding.unwrap_or_default());
    let made = execute(&session, "make the database of the trial", &sql).await;
    session.close().await;
    made.map(|()| server.with_dbname(&name))
}

fn parse(url: &SecretString) -> Result<ConnInfo, StepError> {
    ConnInfo::parse(url.expose_secret(), &Environment::default())
        .map_err(|error| StepError::new(ErrorKind::Internal, format!("the address of the trial's server: {error}")))
}

/// Filters a dump and restores it as far as it can be.
async fn restored(op: &TrialOp, what: &str, dump: DumpArtifact, cx: &PerformCx) -> Result<Output, StepError> {
    let cx = PerformCx { action: format!("{}/{what}", cx.action), ..cx.clone() };
    let filtered = FilterOp {
        dump,
        rules: op.rules.clone(),
        target: None,
        // A rule may be about data, or about roles in the other dump.
        unmatched_patterns: Unmatched::Ignore,
        unmatched_roles: Unmatched::Ignore,
    };
    let dump = artifact(&filter::filter(&filtered, &cx).await?)?;
    let restore = RestoreOp {
        dump,
        into: TRIAL.to_owned(),
        part: Part::Script,
        expected: op.expected.clone(),
        on_error: OnError::Collect,
        compat: op.compat,
        statement_timeout_ms: 0,
        settings: std::collections::BTreeMap::new(),
    };
    let output = restore::restore(&restore, &cx).await?;
    let warnings = output.warnings.iter().filter(|line| !line.starts_with("the expected error ")).cloned().collect();
    Ok(Output { warnings, rows: None, bytes: None, ..output })
}
