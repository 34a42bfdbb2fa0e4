//! The world outside of the loop, for real: servers, programs, files and people.
//!
//! [`Real::open`] renders a step, looks at what it asks for and lists its actions; [`World::perform`] hands an action to
//! [`crate::perform`]. A dry run uses the same `open` and never calls `perform`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::Timestamp;
use secrecy::ExposeSecret;
use tokio_postgres::SimpleQueryMessage;
use tokio_util::sync::CancellationToken;

mod claimed;
mod receipts;
mod watch;

pub use receipts::Left;
pub use watch::Watch;

use crate::{
    action::{Action, ActionGraph, Output, OutputValue, Outputs, SeenServer},
    claim::Claims,
    diagnostic::Problems,
    document::{Question, Undo},
    each::{item_id, items_of, with_item},
    error::{ErrorKind, StepError},
    facts::ServerFacts,
    journal::apart::Apart,
    kinds::{self, ExpandCx},
    lookup::{Lookup, plan_error},
    op::{
        Exec, Op, Probe,
        data::{RunSql, SqlExpect, SqlSource},
    },
    perform::{self, PerformCx, Progress, Report, hide, idle::Idle, session::unless_stopped, tunnel::Held},
    plan::{Plan, Step},
    platforms::{self, Platforms},
    postgres::{ConnInfo, Environment, connect::connect_read_only, dropped_sessions_end},
    preflight,
    preview::Server,
    redact::Redactor,
    run::{ActionCx, LookCx, Opened, OwnUndo, Receipted, Word, World},
    secret::Text,
    template::{self, Known, Scope},
    tool::{Clients, Places, version_name},
    vault::Vault,
    yaml::{Node, NodeValue},
};

mod expect;
mod look;
mod process;

pub use process::this_process;

/// What a person says to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Yes.
    Yes,
    /// No.
    No,
    /// Neither: Ctrl-C, which stops the run as INT does.
    Stop,
}

/// Who says yes.
#[derive(Clone)]
pub enum Consent {
    /// `--yes`: every question is answered already.
    Given,
    /// Nobody is there: a question makes the step wait for a person.
    Nobody,
    /// Asks a person; blocks until there is an answer.
    Ask(Arc<dyn Fn(&str) -> Answer + Send + Sync>),
}

impl std::fmt::Debug for Consent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Given => "Given",
            Self::Nobody => "Nobody",
            Self::Ask(_) => "Ask",
        })
    }
}

/// What a session may do and where.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The run's id.
    pub run_id: String,
    /// Which session of the run this is, from 0.
    pub session: u32,
    /// The folder of the run's files; made (0700) unless this is a dry run.
    pub run_dir: PathBuf,
    /// Platform files of the user's own.
    pub platforms: Vec<PathBuf>,
    /// Who says yes.
    pub consent: Consent,
    /// Whether programs named in the plan may be started to look (an apply always may).
    pub allow_programs: bool,
    /// Whether nothing is to be changed.
    pub dry_run: bool,
    /// Databases that an earlier session of this run has begun to change: they need not be empty any more.
    pub changed_before: BTreeSet<String>,
    /// Steps that a person has approved from elsewhere, for the plan as it is.
    pub approved: BTreeSet<String>,
    /// The database of the journal, when it is in one: it must be none of the plan's.
    pub state: Option<ConnInfo>,
    /// Who hears what long looks are doing.
    pub watch: Option<Watch>,
}

/// The real world.
pub struct Real {
    plan: Arc<Plan>,
    settings: Settings,
    started_at: Timestamp,
    environment: Arc<Environment>,
    vault: Arc<Vault>,
    redactor: Arc<Redactor>,
    pub(crate) clients: Arc<Clients>,
    platforms: Arc<Platforms>,
    held: Arc<Held>,
    idle: Arc<Idle>,
    claims: Claims,
    checked: Mutex<BTreeSet<String>>,
    apart: Apart,
    seen: Mutex<BTreeMap<String, Server>>,
    reports: Mutex<BTreeMap<String, Vec<preflight::report::Report>>>,
}

impl Real {
    /// Reads the secrets and platforms, finds the client programs and makes the run's folder.
    ///
    /// # Errors
    /// When a secret or a platform cannot be read, the folder cannot be made, or the journal is in a database of the plan.
    pub async fn new(plan: Arc<Plan>, settings: Settings, vars: BTreeMap<String, String>) -> Result<Self, StepError> {
        let redactor = Arc::new(Redactor::new());
        let vault = Arc::new(Vault::new(Arc::clone(&redactor)));
        vault.read_all(&plan, &vars, settings.allow_programs).await?;
        if let Some(password) = settings.state.as_ref().and_then(|info| info.password_for(info.hosts.first()?)) {
            redactor.add("state.password", password);
        }
        let clients = Arc::new(Clients::find(&Places::from_vars(&vars)).await);
        let platforms = Arc::new(load_platforms(&settings.platforms)?);
        if !settings.dry_run {
            crate::journal::sqlite::make_private_folder(&settings.run_dir)
                .map_err(|error| StepError::new(ErrorKind::Io, error.to_string()))?;
        }
        let claims = Claims::new(&settings.run_id, settings.session, &this_process());
        let apart = Apart::new(&plan.name, settings.state.as_ref(), settings.dry_run);
        let world = Self {
            plan,
            settings,
            claims,
            apart,
            started_at: Timestamp::now(),
            environment: Arc::new(Environment::from_vars(vars)),
            vault,
            redactor,
            clients,
            platforms,
            held: Arc::default(),
            idle: Arc::default(),
            checked: Mutex::default(),
            seen: Mutex::default(),
            reports: Mutex::default(),
        };
        world.refuse_own_state().await?;
        Ok(world)
    }

    /// Returns the values for templates: those of finished steps, and of all others that they are not known yet.
    fn scope(&self, outputs: &BTreeMap<String, Outputs>) -> Scope {
        let dir = self.settings.run_dir.display().to_string();
        let scope = Scope::of(&self.plan);
        let mut scope = match self.settings.dry_run {
            true => scope,
            false => scope.with_run(&self.settings.run_id, &dir, &self.started_at.to_string()),
        };
        for (step, outputs) in outputs.iter().filter(|(_, outputs)| !outputs.is_empty()) {
            for (name, value) in outputs {
                if let OutputValue::Secret(Some(value)) = value {
                    self.vault.put(&format!("steps.{step}.outputs.{name}"), value.clone());
                }
            }
            scope.finish(step, outputs);
        }
        scope
    }

    /// Returns the versions of the installed PostgreSQL programs by their folder, and of pgplan.
    #[must_use]
    pub fn programs(&self) -> BTreeMap<String, String> {
        let found = self.clients.found.iter();
        let found = found.map(|client| (client.dir.display().to_string(), version_name(client.version_num)));
        found.chain([("pgplan".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]).collect()
    }

    /// Returns the servers that were looked at so far.
    #[must_use]
    pub fn servers_seen(&self) -> BTreeMap<String, Server> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns what names stand for before any step is done.
    pub fn names_at_start(&self) -> Lookup {
        self.names(&BTreeMap::new())
    }

    fn names(&self, outputs: &BTreeMap<String, Outputs>) -> Lookup {
        Lookup {
            scope: self.scope(outputs),
            vault: Arc::clone(&self.vault),
            environment: Arc::clone(&self.environment),
        }
    }

    fn perform_cx(
        &self,
        step: &Step,
        action: &str,
        generation: u32,
        names: &Lookup,
        cancel: CancellationToken,
        progress: Progress,
    ) -> Result<PerformCx, StepError> {
        let env = step.env.iter().map(|(name, node)| Ok((name.clone(), text(node, &names.scope)?)));
        Ok(PerformCx {
            run_id: self.settings.run_id.clone(),
            session: self.settings.session,
            generation,
            step: step.id.clone(),
            action: action.to_owned(),
            run_dir: self.settings.run_dir.clone(),
            plan_dir: self.plan.folder.clone(),
            env: env.collect::<Result<_, StepError>>()?,
            cancel,
            progress,
            secrets: Arc::new(names.clone()),
            databases: Arc::new(names.clone()),
            redactor: Arc::clone(&self.redactor),
            held: Arc::clone(&self.held),
            idle: Arc::clone(&self.idle),
            clients: Arc::clone(&self.clients),
        })
    }

    /// Lists the actions of one body: the step's own, or that of one item of its `for_each`.
    async fn expand(&self, step: &Step, names: &Lookup, look: &LookCx) -> Result<ActionGraph, StepError> {
        let body = template::render(&step.body, &names.scope).map_err(|problems| plan_error(&problems))?;
        let entry = kinds::find(step.kind)
            .ok_or_else(|| StepError::new(ErrorKind::Internal, format!("there is no kind `{}`", step.kind)))?;
        let kind = (entry.decode)(&body).map_err(|problems: Vec<_>| plan_error(&problems))?;
        let cx = ExpandCx {
            step: &step.id,
            run_dir: &self.settings.run_dir,
            plan_dir: &self.plan.folder,
            inputs: &step.inputs,
            outputs: &look.outputs,
            earlier: &look.earlier,
            dry_run: self.settings.dry_run,
            clients: &self.clients,
            platforms: &self.platforms,
        };
        let looking = self.perform_cx(step, "look", 0, names, look.cancel.clone(), Progress::silent())?;
        let facts = self.look(&kind.looks(&cx)?, names, &looking).await?;
        let servers = facts.servers.iter().map(|(name, server)| (name.clone(), seen(server))).collect();
        match kind.actions(&facts, &cx) {
            Ok(graph) => Ok(ActionGraph { servers, ..graph }),
            Err(_) if self.settings.dry_run && !facts.servers_known_after.is_empty() => {
                let after = facts.servers_known_after.values().cloned().collect();
                Ok(ActionGraph { known_after: after, ..ActionGraph::default() })
            }
            Err(error) => Err(error),
        }
    }

    /// Lists the actions of every item of a `for_each`, their ids led by the item's key.
    async fn expand_each(
        &self,
        step: &Step,
        items: &Node,
        names: &Lookup,
        look: &LookCx,
    ) -> Result<ActionGraph, StepError> {
        let rendered = template::render(items, &names.scope).map_err(|problems| plan_error(&problems))?;
        let mut whole = ActionGraph::default();
        for (index, (key, value)) in items_of(&rendered)?.into_iter().enumerate() {
            let scope = names.scope.clone().with_each(&key, &value, index);
            let graph = self.expand(step, &Lookup { scope, ..names.clone() }, look).await?;
            let item = item_id(&key);
            for mut action in graph.actions {
                action.id = format!("{item}/{}", action.id);
                action.title = format!("[{key}] {}", action.title);
                action.after = action.after.into_iter().map(|id| format!("{item}/{id}")).collect();
                whole.actions.push(action);
            }
            whole.warnings.extend(graph.warnings);
            whole.known_after.extend(graph.known_after);
            whole.servers.extend(graph.servers);
        }
        Ok(whole)
    }

    /// Evaluates a check of the plan: an expression, a program, a query.
    async fn holds(
        &self,
        step: &Step,
        node: &Node,
        names: &Lookup,
        cancel: &CancellationToken,
    ) -> Result<bool, StepError> {
        if matches!(node.value, NodeValue::Str(_) | NodeValue::Bool(_)) {
            return match template::eval_bool(node, &names.scope).map_err(|problems| plan_error(&problems))? {
                Known::Now(answer) => Ok(answer),
                Known::After(step) => Err(StepError::new(
                    ErrorKind::Plan,
                    format!("a condition depends on step `{step}`, which is not over"),
                )),
            };
        }
        let rendered = template::render(node, &names.scope).map_err(|problems| plan_error(&problems))?;
        let question: Question = crate::yaml::decode(&rendered).map_err(|problems| plan_error(&problems))?;
        let cx = self.perform_cx(step, "check", 0, names, cancel.clone(), Progress::silent())?;
        match question {
            Question::Run { run, stdout } => {
                let exec = Exec { argv: run, ..Exec::default() };
                let stdout = stdout.map(|text| cx.reveal(&text)).transpose()?;
                let stdout = stdout.map(|text| text.expose_secret().to_owned());
                let probe = Probe { exec, stdout, ..Probe::default() };
                Ok(perform::exec::probe(&probe, &cx).await?.is_some())
            }
            Question::Sql { sql, database } => {
                unless_stopped(cancel, Box::pin(query_says_yes(&database, &sql, &cx))).await
            }
            Question::Expression(_) => {
                Err(StepError::new(ErrorKind::Internal, "an expression was taken for another question"))
            }
        }
    }
}

impl World for Real {
    async fn open(&self, step: &Step, cx: LookCx) -> Result<Opened, StepError> {
        match self.open_raw(step, &cx).await {
            Ok(Opened::Actions(mut graph)) => {
                let hide = |text: &String| self.redactor.redact(text).into_owned();
                graph.warnings = graph.warnings.iter().map(hide).collect();
                Ok(Opened::Actions(graph))
            }
            Ok(skipped @ Opened::Skipped(_)) => Ok(skipped),
            Err(error) => Err(hide::error(error, &self.redactor)),
        }
    }

    async fn perform(&self, step: &Step, action: &Action, cx: ActionCx) -> Result<Output, StepError> {
        match self.perform_raw(step, action, cx).await {
            Ok(output) => Ok(hide::output(output, &action.op, &self.redactor)),
            Err(error) => Err(hide::error(error, &self.redactor)),
        }
    }

    async fn ensure(&self, step: &Step, cx: LookCx) -> Result<(), StepError> {
        self.ensure_raw(step, &cx).await.map_err(|error| hide::error(error, &self.redactor))
    }

    fn own_undo(&self, step: &Step, outputs: Arc<BTreeMap<String, Outputs>>) -> Result<Option<OwnUndo>, StepError> {
        let Some(node) = &step.undo else { return Ok(None) };
        let names = self.names(&outputs);
        let Some(each) = step.for_each.as_ref().filter(|_| is_undone_by_item(step)) else {
            return Ok(Some(OwnUndo::Step(undo_op(node, &names.scope)?.map(Box::new))));
        };
        let rendered = template::render(&each.items, &names.scope).map_err(|problems| plan_error(&problems))?;
        let items = items_of(&rendered)?.into_iter().enumerate().map(|(index, (key, value))| {
            let scope = names.scope.clone().with_each(&key, &value, index);
            Ok((item_id(&key), undo_op(node, &scope)?))
        });
        Ok(Some(OwnUndo::Items(items.collect::<Result<_, StepError>>()?)))
    }

    async fn settle(
        &self,
        databases: BTreeMap<String, Receipted>,
        outputs: Arc<BTreeMap<String, Outputs>>,
    ) -> Vec<String> {
        self.drop_own_receipts(databases, &outputs).await
    }

    async fn close(&self) -> Vec<String> {
        self.idle.close(|_| true).await;
        self.claims.release().await;
        dropped_sessions_end().await;
        self.held.close_all().await.err().map(|error| error.message).into_iter().collect()
    }
}

impl Real {
    /// Opens a step; errors and warnings may still hold secrets.
    async fn open_raw(&self, step: &Step, cx: &LookCx) -> Result<Opened, StepError> {
        // What the steps before it have left open would be in the way of CREATE DATABASE and the like.
        self.idle.close(|earlier| self.plan.is_ancestor(earlier, &step.id)).await;
        let names = self.names(&cx.outputs);
        let mut warnings = Vec::new();
        if let Some(condition) = &step.condition {
            match template::eval_bool(condition, &names.scope).map_err(|problems| plan_error(&problems))? {
                Known::Now(true) => {}
                Known::Now(false) => return Ok(Opened::Skipped("its `if` says no".to_owned())),
                Known::After(after) => warnings.push(format!("whether it runs is known after {after}")),
            }
        }
        if let Some(check) = &step.done_if {
            if self.settings.dry_run {
                warnings.push("it is skipped when its `done_if` says that it is done".to_owned());
            } else if self.holds(step, check, &names, &cx.cancel).await? {
                return Ok(Opened::Skipped("its `done_if` says that it is done".to_owned()));
            }
        }
        unless_stopped(&cx.cancel, Box::pin(self.claim(step, &names))).await?;
        let mut graph = match &step.for_each {
            Some(each) => self.expand_each(step, &each.items, &names, cx).await?,
            None => self.expand(step, &names, cx).await?,
        };
        warnings.append(&mut graph.warnings);
        graph.warnings = warnings;
        Ok(Opened::Actions(graph))
    }

    /// Does an action; what it gives and says may still hold secrets.
    async fn perform_raw(&self, step: &Step, action: &Action, cx: ActionCx) -> Result<Output, StepError> {
        let names = with_item(step, action, self.names(&cx.outputs))?;
        unless_stopped(&cx.cancel, Box::pin(self.claim(step, &names))).await?;
        let (progress, mut reports) = Progress::channel();
        let perform = self.perform_cx(step, &action.id, cx.generation, &names, cx.cancel.clone(), progress)?;
        let words = cx.words.clone();
        let redactor = Arc::clone(&self.redactor);
        let relay = tokio::spawn(async move {
            while let Some(report) = reports.recv().await {
                words.say(match report {
                    Report::Amount { bytes, rows, total } => Word::Progress { bytes, rows, total },
                    Report::Line(line) => Word::Line(redactor.redact(&line).into_owned()),
                });
            }
        });
        let result = match &action.op {
            Op::Approve { message } => self.approve(&step.id, message, &cx.cancel).await,
            op => perform::perform(op, &perform).await,
        };
        drop(perform);
        if relay.await.is_err() {
            tracing::debug!("the relay of an action's words ended early");
        }
        result.map_err(|error| match self.held.check() {
            Err(tunnel) if error.kind == ErrorKind::Connection => error.detail(tunnel.message),
            Ok(()) | Err(_) => error,
        })
    }

    /// Checks a step's `ensures`; the error may still hold secrets.
    async fn ensure_raw(&self, step: &Step, cx: &LookCx) -> Result<(), StepError> {
        let Some(check) = &step.ensures else { return Ok(()) };
        if self.holds(step, check, &self.names(&cx.outputs), &cx.cancel).await? {
            return Ok(());
        }
        let message = format!("step `{}` was done, but its `ensures` does not hold", step.id);
        Err(StepError::new(ErrorKind::Verification, message).detail(format!("it stands at {}", check.place)))
    }

    async fn approve(&self, step: &str, message: &str, stop: &CancellationToken) -> Result<Output, StepError> {
        let stopped = || Err(StepError::new(ErrorKind::Interrupted, "stopped before there was an answer"));
        let said = match &self.settings.consent {
            _ if self.settings.approved.contains(step) => Answer::Yes,
            Consent::Given => Answer::Yes,
            Consent::Nobody => {
                let error = StepError::new(ErrorKind::NeedsPerson, format!("nobody is there to answer: {message}"));
                let run = &self.settings.run_id;
                return Err(error.help(format!(
                    "say `pgplan approve {run} {step}` and apply again, or apply again on a terminal or with --yes"
                )));
            }
            Consent::Ask(ask) => {
                let (ask, message) = (Arc::clone(ask), message.to_owned());
                let asked = tokio::task::spawn_blocking(move || ask(&message));
                let answer = tokio::select! {
                    answer = asked => answer,
                    () = stop.cancelled() => return stopped(),
                };
                answer.map_err(|error| StepError::new(ErrorKind::Internal, error.to_string()))?
            }
        };
        match said {
            Answer::Yes => Ok(Output::said("consent was given")),
            Answer::No => {
                let error = StepError::new(ErrorKind::NeedsPerson, format!("the answer was no: {message}"));
                Err(error.help("apply again when it may go on"))
            }
            Answer::Stop => stopped(),
        }
    }
}

fn seen(server: &ServerFacts) -> SeenServer {
    let Server { label, version, bytes, .. } = Server::from(server);
    SeenServer { label, version, bytes }
}

/// Runs a query in a read-only session; yes is a first value that is true.
async fn query_says_yes(database: &str, sql: &Text, cx: &PerformCx) -> Result<bool, StepError> {
    let info = cx.databases.conninfo(database)?;
    let session = connect_read_only(&info, "pgplan-look check").await?;
    let sql = cx.reveal(sql)?;
    let rows = session.client().simple_query(sql.expose_secret()).await;
    let rows = rows.map_err(|error| session.error("ask a question of the plan", &error))?;
    let first = rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).map(str::to_owned)),
        _ => None,
    });
    session.close().await;
    Ok(first.flatten().is_some_and(|value| value == "t"))
}

/// Returns the built-in platforms and those of these files.
///
/// # Errors
/// When a file cannot be read or has mistakes.
pub fn load_platforms(files: &[PathBuf]) -> Result<Platforms, StepError> {
    let mut platforms = Platforms::built_in().map_err(|problems| plan_error(&problems.into_sorted()))?;
    for path in files {
        let text = fs::read_to_string(path).map_err(|error| StepError::io("read the platform", path, &error))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut problems = Problems::default();
        platforms.add(&platforms::file(&path.display().to_string(), folder, &text), &mut problems);
        if problems.has_errors() {
            return Err(plan_error(&problems.into_sorted()));
        }
    }
    Ok(platforms)
}

/// Returns whether a step's own `undo` is about each item of its `for_each`: it names the item, or the programs of the
/// step are told it.
fn is_undone_by_item(step: &Step) -> bool {
    let nodes = step.undo.iter().chain(step.env.values());
    nodes.flat_map(|node| template::references(node, false)).any(|(name, _)| name.path[0] == "each")
}

fn undo_op(node: &Node, scope: &Scope) -> Result<Option<Op>, StepError> {
    let rendered = template::render(node, scope).map_err(|problems| plan_error(&problems))?;
    let undo: Undo = crate::yaml::decode(&rendered).map_err(|problems| plan_error(&problems))?;
    Ok(match undo {
        Undo::None => None,
        Undo::Run(argv) => Some(Op::Exec(Exec { argv, ..Exec::default() })),
        Undo::Sql { sql, database } => Some(Op::RunSql(RunSql {
            database,
            source: SqlSource::Text(vec![sql]),
            transaction: true,
            read_only: false,
            expect: SqlExpect::default(),
        })),
    })
}

fn text(node: &Node, scope: &Scope) -> Result<Text, StepError> {
    let rendered = template::render(node, scope).map_err(|problems| plan_error(&problems))?;
    crate::yaml::decode(&rendered).map_err(|problems| plan_error(&problems))
}
