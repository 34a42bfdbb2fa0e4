//! A rehearsal: the whole plan, run for real against throwaway servers.
//!
//! Each server that the plan names gets a copy on this machine ([`copy`]): same major version, the settings that matter
//! for speed, roles and data dumped from the real one in read-only sessions, or read from a backup. One whose address
//! only a step of the plan tells is replaced by an empty server. The plan is the same but for the addresses of its
//! databases; it is driven by the same loop over [`Rehearsal`], a world in which everything on servers is real and
//! everything that touches the application is only said (`simulate`).
//!
//! All of it lies in one folder and under one folder of servers, both named after the rehearsal, so that what a killed
//! one has left is found and removed by the next ([`leftovers`]).

mod addresses;
pub mod copy;
mod files;
pub mod leftovers;
mod origins;
pub mod sample;
mod settings;
mod simulate;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

pub use simulate::is_simulated;

use crate::{
    action::{Action, Output, Outputs},
    error::StepError,
    op::{CreateCluster, Op},
    plan::{Plan, SecretSource, Step},
    run::{ActionCx, LookCx, Opened, OwnUndo, Receipted, World},
    timing::TimedServer,
    world::{Consent, Real, Settings},
    yaml::Node,
};

/// The name of the secret that opens the throwaway servers.
const SECRET: &str = "pgplan_rehearsal";

/// What a rehearsal is to be like.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Its id.
    pub id: String,
    /// Its folder, private to the user, which is there already.
    pub folder: PathBuf,
    /// Where the real database is, for those whose address a step tells: name → URL without a password.
    pub addresses: BTreeMap<String, String>,
    /// Databases that are filled from a dump file instead of the real server: name → file.
    pub backups: BTreeMap<String, PathBuf>,
    /// Databases whose server is copied physically, by `pg_basebackup`.
    pub clones: BTreeSet<String>,
    /// Databases that are not looked at: an empty server takes their place, and their secrets are not read.
    pub empty: BTreeSet<String>,
    /// Which share of the rows is copied, 0 to 1; absent = all.
    pub sample: Option<f64>,
    /// Platform files of the user's own.
    pub platforms: Vec<PathBuf>,
    /// Whether programs of the plan may be started to look at the application.
    pub allow_programs: bool,
}

/// A rehearsal that can begin.
pub struct Prepared {
    /// The plan with the throwaway servers for its databases.
    pub plan: Arc<Plan>,
    /// The world to run it in.
    pub world: Rehearsal,
    /// What was copied, by the database's name in the plan.
    pub servers: BTreeMap<String, TimedServer>,
    /// What the sample is, when there is one.
    pub sample: Option<String>,
}

/// Makes the throwaway servers and fills them; `say` is told what is done, line by line.
///
/// What it made is removed by [`leftovers::remove`], also after an error.
///
/// # Errors
/// When a real server cannot be read, or a copy cannot be made or filled; [`crate::error::ErrorKind::Interrupted`] when
/// it was cancelled.
pub async fn prepare(
    plan: &Plan,
    options: &Options,
    vars: &BTreeMap<String, String>,
    cancel: &tokio_util::sync::CancellationToken,
    say: &mut (dyn FnMut(String) + Send),
) -> Result<Prepared, StepError> {
    let mut rehearsed = plan.clone();
    forget_secrets(&mut rehearsed, &options.empty);
    forget_programs(&mut rehearsed, say);
    let copied = Box::pin(copy::all(&rehearsed, options, vars, cancel, say)).await?;
    rehearsed.databases.extend(copied.databases);
    rehearsed.secrets.insert(SECRET.to_owned(), SecretSource::File(copied.password_file));
    let rehearsed = Arc::new(rehearsed);
    let settings = |dry_run: bool| Settings {
        run_id: options.id.clone(),
        session: 0,
        run_dir: options.folder.clone(),
        platforms: options.platforms.clone(),
        consent: Consent::Given,
        allow_programs: options.allow_programs || !dry_run,
        dry_run,
        changed_before: BTreeSet::new(),
        approved: BTreeSet::new(),
        state: None,
        watch: None,
    };
    let real = Real::new(Arc::clone(&rehearsed), settings(false), vars.clone()).await?;
    let looking = Real::new(Arc::clone(&rehearsed), settings(true), vars.clone()).await?;
    let world = Rehearsal { real, looking, servers: servers_folder(options) };
    Ok(Prepared { plan: rehearsed, world, servers: copied.servers, sample: copied.sample })
}

/// Returns the folder below which the throwaway servers of a rehearsal lie, where the user they run as can reach it.
#[must_use]
pub fn servers_folder(options: &Options) -> PathBuf {
    folder_of_servers(&options.id, &options.folder)
}

fn folder_of_servers(id: &str, folder: &Path) -> PathBuf {
    if nix::unistd::geteuid().is_root() {
        Path::new("/var/lib/pgplan").join(format!("rehearsal-{id}"))
    } else {
        folder.join("servers")
    }
}

/// Forgets the secrets that only databases which are not looked at name.
fn forget_secrets(plan: &mut Plan, empty: &BTreeSet<String>) {
    let named = |database: &crate::plan::Database| {
        let mut text = format!("{} {}", database.url, database.password.as_deref().unwrap_or_default());
        text.extend(database.params.values().map(String::as_str));
        text
    };
    let (gone, kept): (Vec<_>, Vec<_>) = plan.databases.iter().partition(|(name, _)| empty.contains(*name));
    let mut elsewhere: String = kept.iter().map(|(_, database)| named(database)).collect();
    for step in &plan.steps {
        elsewhere.push_str(&step.text().to_string());
        elsewhere.extend(step.env.values().map(|node| node.to_json().to_string()));
    }
    let gone: String = gone.iter().map(|(_, database)| named(database)).collect();
    plan.secrets.retain(|name, _| {
        let name = format!("secrets.{name}");
        !gone.contains(&name) || elsewhere.contains(&name)
    });
}

/// Leaves out checks of steps (`done_if`, `ensures`) that start a program: they ask the real application.
fn forget_programs(plan: &mut Plan, say: &mut (dyn FnMut(String) + Send)) {
    for step in &mut plan.steps {
        for (name, check) in [("done_if", &mut step.done_if), ("ensures", &mut step.ensures)] {
            if check.as_ref().is_some_and(starts_a_program) {
                *check = None;
                say(format!("`{name}` of step `{}` starts a program and is left out", step.id));
            }
        }
    }
}

fn starts_a_program(node: &Node) -> bool {
    node.get("run").is_some()
}

/// The world of a rehearsal.
pub struct Rehearsal {
    real: Real,
    /// Looks at what is simulated as a dry run does.
    looking: Real,
    servers: PathBuf,
}

impl World for Rehearsal {
    async fn open(&self, step: &Step, cx: LookCx) -> Result<Opened, StepError> {
        if !is_simulated(step) {
            return self.real.open(step, cx).await;
        }
        let opened = self.looking.open(step, LookCx { outputs: simulate::known(&cx.outputs), ..cx }).await?;
        Ok(match opened {
            Opened::Actions(graph) => Opened::Actions(simulate::graph(step, graph)),
            skipped @ Opened::Skipped(_) => skipped,
        })
    }

    async fn perform(&self, step: &Step, action: &Action, cx: ActionCx) -> Result<Output, StepError> {
        match &action.op {
            Op::CreateCluster(cluster) => {
                let moved = CreateCluster { folder: self.servers.join(&step.id), port: None, ..cluster.clone() };
                let action = Action { op: Op::CreateCluster(moved), ..action.clone() };
                self.real.perform(step, &action, cx).await
            }
            Op::Exec(_)
            | Op::Tunnel(_)
            | Op::EditFile(_)
            | Op::RestoreFile { .. }
            | Op::RemoveCluster { .. }
            | Op::Approve { .. } => Ok(simulate::output(step, action)),
            _ => self.real.perform(step, action, cx).await,
        }
    }

    async fn ensure(&self, step: &Step, cx: LookCx) -> Result<(), StepError> {
        // What was not done cannot hold.
        if is_simulated(step) { Ok(()) } else { self.real.ensure(step, cx).await }
    }

    fn own_undo(&self, step: &Step, outputs: Arc<BTreeMap<String, Outputs>>) -> Result<Option<OwnUndo>, StepError> {
        self.real.own_undo(step, outputs)
    }

    async fn settle(
        &self,
        databases: BTreeMap<String, Receipted>,
        outputs: Arc<BTreeMap<String, Outputs>>,
    ) -> Vec<String> {
        self.real.settle(databases, outputs).await
    }

    async fn close(&self) -> Vec<String> {
        let mut warnings = self.looking.close().await;
        warnings.extend(self.real.close().await);
        warnings
    }
}
