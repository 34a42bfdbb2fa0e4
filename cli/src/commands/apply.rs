use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, ValueEnum};
use pgplan_engine::{
    event::{Holder, Outcome},
    journal::{Journal, JournalError, RunLine},
    kinds::Use,
    plan::{Plan, Step},
    run::{Ending, Reporter, Run, RunError, Wishes},
    state::{RunState, StepStatus},
    world::{Real, Settings, this_process},
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{journal_failed, load::load, plan::PlanCommand};
use crate::{
    args::PlanArgs,
    exit::Exit,
    report::{bar::Bar, json::Json, line::Line, summary},
    ui::{Tone, Ui, paint},
};

/// How a run is shown while it goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    /// Bars on a terminal, lines elsewhere
    #[default]
    Auto,
    /// Bars
    Bar,
    /// Lines
    Plain,
    /// Nothing
    None,
}

/// Run a plan, or go on with its unfinished run
///
/// An unfinished run of the same plan is taken up where it stopped. What it has done is never done again.
#[derive(Debug, Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    plan: PlanArgs,
    /// Show what would be done and stop (the same as `pgplan plan`)
    #[arg(long)]
    dry_run: bool,
    /// Begin a new run although an unfinished one is there; that one is given up
    #[arg(long)]
    fresh: bool,
    /// Accept steps that were changed after they had been done
    #[arg(long)]
    accept: bool,
    /// Stop after this step and those it needs
    #[arg(long, value_name = "STEP")]
    until: Option<String>,
    /// Answer yes to every question the plan asks
    #[arg(long)]
    yes: bool,
    /// Print the end state as JSON on stdout
    #[arg(long)]
    json: bool,
    /// Append every event to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// How the run is shown
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    progress: Progress,
}

impl Apply {
    pub(crate) fn run(&self, ui: &mut Ui, folder: &Path) -> io::Result<Exit> {
        if self.dry_run {
            return PlanCommand::of(&self.plan).run(ui, folder);
        }
        let plan = match load(ui, &self.plan)? {
            Ok(plan) => plan,
            Err(exit) => return Ok(exit),
        };
        if let Some(step) = self.until.as_ref().filter(|step| plan.step(step).is_none()) {
            ui.fail(format!("--until: the plan has no step `{step}`"), "`pgplan graph` shows the steps");
            return Ok(Exit::BadInput);
        }
        let me = this_process();
        let journal = Journal::open(folder).and_then(|mut journal| {
            journal.acquire(&plan.name, &me)?;
            Ok(journal)
        });
        let mut journal = match journal {
            Ok(journal) => journal,
            Err(error) => return Ok(journal_failed(ui, &error)),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let result = runtime.block_on(self.session(ui, folder, Arc::new(plan), &mut journal, me));
        runtime.shutdown_timeout(std::time::Duration::from_secs(1));
        if let Err(error) = journal.release() {
            return Ok(journal_failed(ui, &error));
        }
        result
    }

    async fn session(
        &self,
        ui: &mut Ui,
        folder: &Path,
        plan: Arc<Plan>,
        journal: &mut Journal,
        me: Holder,
    ) -> io::Result<Exit> {
        let unfinished = match unfinished(journal, &plan) {
            Ok(unfinished) => unfinished,
            Err(error) => return Ok(journal_failed(ui, &error)),
        };
        let resumed = match unfinished {
            Some(old) if self.fresh => {
                if let Err(error) = abandon(journal, &old) {
                    return Ok(journal_failed(ui, &error));
                }
                ui.say(format!("run {} is given up", old.id));
                None
            }
            Some(old) => {
                if let Some(exit) = self.refuse_changed(ui, &plan, &old) {
                    return Ok(exit);
                }
                Some(old)
            }
            None => None,
        };
        let id = resumed.as_ref().map_or_else(new_run_id, |old| old.id.clone());
        let run_dir = std::path::absolute(folder)?.join("runs").join(&id);
        let bars = self.bars(ui);
        let settings = Settings {
            run_id: id.clone(),
            run_dir: run_dir.clone(),
            platforms: self.plan.platforms.clone(),
            consent: self.consent(ui, bars.as_ref()),
            allow_programs: true,
            dry_run: false,
            changed_before: resumed.as_ref().map(|old| changed_databases(&plan, old)).unwrap_or_default(),
        };
        let world = match Real::new(Arc::clone(&plan), settings, crate::args::environment()).await {
            Ok(world) => Arc::new(world),
            Err(error) => {
                ui.error(&error);
                return Ok(Exit::of_error(error.kind));
            }
        };
        let reporters = self.reporters(bars)?;
        let begun = match &resumed {
            Some(_) => Run::resume(&plan, journal, &id, me, reporters),
            None => Run::begin(&plan, journal, &id, me, reporters),
        };
        let mut run = match begun {
            Ok(run) => run,
            Err(error) => return Ok(run_failed(ui, &error)),
        };
        let stop = CancellationToken::new();
        listen(&stop)?;
        let wishes = Wishes { until: self.until.clone(), run_dir };
        let ending = match run.drive(&world, &wishes, &stop).await {
            Ok(ending) => ending,
            Err(error) => return Ok(run_failed(ui, &error)),
        };
        self.tell(ui, &plan, run.state(), &ending)
    }

    fn tell(&self, ui: &mut Ui, plan: &Plan, state: &RunState, ending: &Ending) -> io::Result<Exit> {
        if self.json {
            ui.data(format!("{}\n", serde_json::to_string(state)?))?;
        }
        ui.say(summary::text(plan, state));
        let failed = plan
            .steps
            .iter()
            .filter_map(|step| state.steps.get(&step.id).map(|state| (step, state)))
            .filter(|(_, state)| state.status == StepStatus::Failed)
            .filter_map(|(step, state)| Some((step, state.error.as_ref()?)));
        let mut worst = None;
        for (step, error) in failed {
            ui.say(format!("{} {}", paint("step", Tone::Strong), paint(&step.id, Tone::Strong)));
            ui.error(error);
            worst.get_or_insert(error.kind);
        }
        let again = format!("pgplan apply {}", plan.path.display());
        Ok(match ending {
            Ending::Interrupted => {
                ui.say(format!("{}; go on with: {again}", paint("interrupted", Tone::Warn)));
                Exit::Interrupted
            }
            Ending::Ended(outcome) => {
                match outcome {
                    Outcome::Succeeded => ui.say(paint(format!("plan {} is done", plan.name), Tone::Good)),
                    Outcome::Failed => ui.say(format!("when the cause is mended, go on with: {again}")),
                    Outcome::Paused => ui.say(format!("go on with: {again}")),
                    Outcome::NeedsPerson => ui.say(format!("when that is decided, go on with: {again}")),
                    Outcome::Undone | Outcome::Abandoned => {}
                }
                Exit::of_outcome(*outcome, worst)
            }
        })
    }

    fn refuse_changed(&self, ui: &mut Ui, plan: &Plan, old: &RunState) -> Option<Exit> {
        let changed: Vec<&str> = plan
            .steps
            .iter()
            .filter(|step| old.status(&step.id) == StepStatus::Succeeded)
            .filter(|step| old.step_fingerprints.get(&step.id).is_some_and(|print| *print != step.fingerprint))
            .map(|step| step.id.as_str())
            .collect();
        if changed.is_empty() || self.accept {
            return None;
        }
        let list = changed.join("`, `");
        ui.fail(
            format!("run {} has done `{list}` already, and the plan has changed there since", old.id),
            "take the change back, keep what was done with --accept, or begin anew with --fresh",
        );
        Some(Exit::Refused)
    }

    fn bars(&self, ui: &Ui) -> Option<Bar> {
        let wanted = match self.progress {
            Progress::Auto => ui.interactive,
            Progress::Bar => true,
            Progress::Plain | Progress::None => false,
        };
        wanted.then(Bar::new)
    }

    fn consent(&self, ui: &Ui, bars: Option<&Bar>) -> pgplan_engine::world::Consent {
        use pgplan_engine::world::Consent;
        if self.yes {
            return Consent::Given;
        }
        let terminal = ui.interactive && io::IsTerminal::is_terminal(&io::stdin());
        if !terminal {
            return Consent::Nobody;
        }
        let bars = bars.map(Bar::handle);
        Consent::Ask(Arc::new(move |message: &str| {
            let ask = || inquire::Confirm::new(message).with_default(false).prompt().unwrap_or(false);
            bars.as_ref().map_or_else(ask, |bars| bars.suspend(ask))
        }))
    }

    fn reporters<'a>(&self, bars: Option<Bar>) -> io::Result<Vec<Box<dyn Reporter + 'a>>> {
        let mut reporters: Vec<Box<dyn Reporter>> = Vec::new();
        match bars {
            Some(bars) => reporters.push(Box::new(bars)),
            None if self.progress != Progress::None => {
                let mut err = anstream::stderr();
                reporters.push(Box::new(Line::new(move |line: &str| {
                    use io::Write as _;
                    writeln!(err, "{line}")
                })));
            }
            None => {}
        }
        if let Some(path) = &self.events {
            reporters.push(Box::new(Json(fs::OpenOptions::new().create(true).append(true).open(path)?)));
        }
        Ok(reporters)
    }
}

/// Cancels the token at the first INT or TERM; at the second the process ends, journalled up to its last event.
fn listen(stop: &CancellationToken) -> io::Result<()> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = stop.clone();
    tokio::spawn(async move {
        for first in [true, false] {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
            if first {
                stop.cancel();
            } else {
                std::process::exit(Exit::Interrupted as i32);
            }
        }
    });
    Ok(())
}

fn run_failed(ui: &mut Ui, error: &RunError) -> Exit {
    match error {
        RunError::Journal(error) => journal_failed(ui, error),
        RunError::Illegal(error) => {
            ui.fail(error, "this is a bug in pgplan; please report it with the journal");
            Exit::Bug
        }
    }
}

/// Returns the newest run of the plan when it can still go on.
fn unfinished(journal: &Journal, plan: &Plan) -> Result<Option<RunState>, JournalError> {
    let runs = journal.runs()?;
    let Some(RunLine { id, .. }) = runs.into_iter().rev().find(|run| run.plan == plan.name) else { return Ok(None) };
    let events = journal.events(&id)?;
    if events.is_empty() {
        return Ok(None);
    }
    let state = RunState::fold(&id, &events).map_err(|error| JournalError::Damaged {
        run: id.clone(),
        seq: error.seq,
        error: error.what,
    })?;
    Ok(Some(state).filter(RunState::is_unfinished))
}

/// Returns the databases that steps of an earlier session have begun to change.
fn changed_databases(plan: &Plan, old: &RunState) -> BTreeSet<String> {
    let begun =
        |step: &&Step| old.steps.get(&step.id).is_some_and(|state| state.actions.iter().any(|a| a.attempts > 0));
    let used = plan.steps.iter().filter(begun).flat_map(|step| &step.declared.databases);
    used.filter(|(.., how)| *how == Use::Changes).map(|(name, ..)| name.clone()).collect()
}

fn abandon(journal: &mut Journal, old: &RunState) -> Result<(), JournalError> {
    use pgplan_engine::{event::EventKind, journal::sqlite::next_event};
    journal.append(&old.id, &[next_event(old.seq, EventKind::RunEnded { outcome: Outcome::Abandoned })])
}

/// Returns an id that sorts by time and does not repeat: `20261121-093011-4f2a`.
fn new_run_id() -> String {
    let now = jiff::Timestamp::now();
    let spread = u32::try_from(now.subsec_nanosecond()).unwrap_or(0) ^ std::process::id();
    format!("{}-{:04x}", now.strftime("%Y%m%d-%H%M%S"), spread & 0xffff)
}
