//! The one place that changes the world: each operation of [`crate::op`] is carried out by one function.
//!
//! Secrets are put in at the last moment ([`PerformCx::reveal`]) and told to the redactor as they are, so nothing that
//! a program echoes shows them.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

use secrecy::SecretString;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    action::Output,
    error::{ErrorKind, StepError},
    op::Op,
    postgres::ConnInfo,
    redact::Redactor,
    secret::Text,
    tool::Clients,
};

pub mod cluster;
pub mod compare;
pub mod create_database;
pub mod detach;
pub mod disk;
pub mod dump;
pub mod edit;
pub mod exec;
pub(crate) mod existing_dump;
pub mod fence;
pub mod filter;
pub mod hide;
pub mod idle;
pub mod merge;
pub(crate) mod parse;
pub mod preflight;
mod remember;
pub mod restore;
pub mod run_sql;
pub mod schema_trial;
pub(crate) mod session;
mod text;
pub mod tunnel;
pub mod vacuum;

/// What carrying out one action needs to know, besides its operation.
#[derive(Clone)]
pub struct PerformCx {
    /// The run's id.
    pub run_id: String,
    /// Which session of the run this is, from 0.
    pub session: u32,
    /// How often the step was begun anew: receipts of an earlier time do not count.
    pub generation: u32,
    /// The step's id.
    pub step: String,
    /// The action's id.
    pub action: String,
    /// The folder of the run's artifacts, private to the user.
    pub run_dir: PathBuf,
    /// The folder of the plan, against which its paths are resolved.
    pub plan_dir: PathBuf,
    /// The step's variables for the programs it starts.
    pub env: BTreeMap<String, Text>,
    /// Ends the work: programs are stopped, queries cancelled.
    pub cancel: CancellationToken,
    /// Where the work reports how far it is.
    pub progress: Progress,
    /// The values of secrets.
    pub secrets: Arc<dyn Reveal + Send + Sync>,
    /// The addresses of the plan's databases.
    pub databases: Arc<dyn Databases + Send + Sync>,
    /// Takes secrets out of what programs print.
    pub redactor: Arc<Redactor>,
    /// The tunnels that run.
    pub held: Arc<tunnel::Held>,
    /// The sessions that actions have left for the next of their step.
    pub idle: Arc<idle::Idle>,
    /// The installed PostgreSQL programs.
    pub clients: Arc<Clients>,
}

/// Carries out one operation.
///
/// # Errors
/// Those of the operation's own function.
pub async fn perform(op: &Op, cx: &PerformCx) -> Result<Output, StepError> {
    match op {
        Op::Exec(op) => exec::exec(op, cx).await,
        Op::Tunnel(op) => tunnel::open(op, cx).await,
        Op::EditFile(op) => edit::edit(op, cx).await,
        Op::RestoreFile { path, backup } => edit::restore(path, backup).await,
        Op::CreateCluster(op) => cluster::create(op, cx).await,
        Op::RemoveCluster { folder, of_this_run } => cluster::remove(folder, *of_this_run, cx).await,
        Op::Dump(op) => dump::dump(op, cx).await,
        Op::Filter(op) => filter::filter(op, cx).await,
        Op::Restore(op) => restore::restore(op, cx).await,
        Op::Remember { values, file } => remember::remember(values, file.as_deref(), cx),
        Op::RunSql(op) => run_sql::run(op, cx).await,
        Op::CreateDatabase(op) => create_database::create(op, cx).await,
        Op::DropDatabase(op) => create_database::drop_created(op, cx).await,
        Op::Vacuum(op) => vacuum::vacuum(op, cx).await,
        Op::Compare { comparison } => compare::compare(comparison, cx).await,
        Op::JudgeComparison(op) => compare::judge(op, cx).await,
        Op::Fence(op) => fence::fence(op, cx).await,
        Op::Unfence(op) => fence::unfence(op, cx).await,
        Op::StillQuiet(op) => fence::still_quiet(op, cx).await,
        Op::SchemaTrial(op) => Box::pin(schema_trial::schema_trial(op, cx)).await,
        Op::EndTrial(place) => schema_trial::end_trial(place, cx).await,
        Op::Preflight(op) => preflight::preflight(op, cx).await,
        Op::MapKeys(op) => merge::map_keys(op, cx).await,
        Op::FillTables(op) => merge::fill(op, cx).await,
        Op::ProveMerge(op) => merge::prove(op, cx).await,
        Op::EmptyTables(op) => merge::empty(op, cx).await,
        Op::Approve { .. } => {
            Err(StepError::new(ErrorKind::Internal, "a question is put by the world, not by the performer"))
        }
    }
}

/// Gives the values of secrets by the names they have in the plan: `secrets.old`, `steps.tunnel.outputs.url`.
pub trait Reveal {
    /// Returns the value.
    ///
    /// # Errors
    /// When it cannot be had: not resolved, or an output that lived in another process.
    fn reveal(&self, name: &str) -> Result<SecretString, StepError>;
}

/// Gives the addresses of the plan's databases by their names.
pub trait Databases {
    /// Returns how to connect, password included.
    ///
    /// # Errors
    /// When the plan has no such database, its address is wrong, or a secret in it cannot be had.
    fn conninfo(&self, name: &str) -> Result<ConnInfo, StepError>;
}

impl PerformCx {
    /// Returns under which name the step's receipts are kept: its id, and how often it was begun anew.
    #[must_use]
    pub fn receipt_step(&self) -> String {
        match self.generation {
            0 => self.step.clone(),
            again => format!("{}@{again}", self.step),
        }
    }

    /// Returns the text with its secrets put in; from now on they are redacted.
    ///
    /// # Errors
    /// Those of [`Reveal::reveal`]; [`ErrorKind::Internal`] for a value that only a later step gives.
    pub fn reveal(&self, text: &Text) -> Result<SecretString, StepError> {
        if let Some(step) = text.known_after() {
            return Err(StepError::new(ErrorKind::Internal, format!("a value of the step `{step}` is not known yet")));
        }
        text.reveal(|name| {
            let value = self.secrets.reveal(name)?;
            self.redactor.add(name, &value);
            Ok(value)
        })
    }
}

impl fmt::Debug for PerformCx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PerformCx({} {}/{})", self.run_id, self.step, self.action)
    }
}

/// How far an action is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// Moved or checked since its start.
    Amount {
        /// Bytes.
        bytes: u64,
        /// Rows.
        rows: u64,
        /// Bytes in all, where that is known.
        total: Option<u64>,
    },
    /// A line that a program printed, redacted.
    Line(String),
}

/// The sending end of an action's reports; clones share it.
#[derive(Debug, Clone)]
pub struct Progress(Option<mpsc::UnboundedSender<Report>>);

impl Progress {
    /// Returns a progress and the end at which its reports arrive.
    #[must_use]
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Report>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(Some(sender)), receiver)
    }

    /// Returns a progress nobody listens to.
    #[must_use]
    pub fn silent() -> Self {
        Self(None)
    }

    /// Reports what was moved since the action's start.
    pub fn report(&self, bytes: u64, rows: u64, total: Option<u64>) {
        self.send(Report::Amount { bytes, rows, total });
    }

    /// Reports a line that a program printed; the caller has redacted it.
    pub fn line(&self, text: impl Into<String>) {
        self.send(Report::Line(text.into()));
    }

    fn send(&self, report: Report) {
        if let Some(sender) = &self.0 {
            // Nobody listens any more once the run is over.
            sender.send(report).ok();
        }
    }
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    struct Known(BTreeMap<String, String>);

    impl Reveal for Known {
        fn reveal(&self, name: &str) -> Result<SecretString, StepError> {
            let value = self.0.get(name).cloned().map(SecretString::from);
            value.ok_or_else(|| StepError::new(ErrorKind::Internal, format!("`{name}` is not known")))
        }
    }

    impl Databases for Known {
        fn conninfo(&self, name: &str) -> Result<ConnInfo, StepError> {
            Err(StepError::new(ErrorKind::Internal, format!("there is no database `{name}`")))
        }
    }

    /// Returns surroundings that know these secrets, for the step `step`.
    pub(crate) fn cx(secrets: &[(&str, &str)]) -> PerformCx {
        let secrets = secrets.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        PerformCx {
            run_id: "run".to_owned(),
            session: 0,
            generation: 0,
            step: "step".to_owned(),
            action: "action".to_owned(),
            run_dir: std::env::temp_dir(),
            plan_dir: std::env::temp_dir(),
            env: BTreeMap::new(),
            cancel: CancellationToken::new(),
            progress: Progress::silent(),
            secrets: Arc::new(Known(secrets)),
            databases: Arc::new(Known(BTreeMap::new())),
            redactor: Arc::new(Redactor::new()),
            held: Arc::default(),
            idle: Arc::default(),
            clients: Arc::default(),
        }
    }
}
