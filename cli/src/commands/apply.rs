use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use pgplan_engine::{
    error::StepError,
    event::{EventKind, Outcome},
    journal::sqlite::next_event,
    plan::{OnFailure, Plan, RunOn, Step},
    postgres::dropped_sessions_end,
    run::{Direction, Ending, Run, RunError, Stop, Wishes, World as _},
    state::{RunState, StepStatus},
    world::{Answer, Consent, Real, Settings},
};

use super::{
    abandon::forget,
    forecast::Measured,
    journal_failed,
    plan::PlanCommand,
    report,
    saved::Given,
    session::{Session, listen, run_failed},
    shown::Shown,
};
use crate::{
    args::PlanArgs,
    exit::Exit,
    faults,
    report::{bar::Bar, now::Now},
    ui::{Tone, Ui, paint},
};

/// Run a plan, or go on with its unfinished run
///
/// PLAN may be a saved plan (`pgplan plan PLAN --out FILE`): it is refused when plan or servers have changed since.
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
    /// Do this step again, and every step after it that has been done
    #[arg(long, value_name = "STEP")]
    rerun: Option<String>,
    #[command(flatten)]
    shown: Shown,
}

impl Apply {
    pub(crate) fn run(&self, ui: &mut Ui, state: Option<&Path>) -> io::Result<Exit> {
        if self.dry_run {
            return PlanCommand::of(&self.plan).run(ui, state);
        }
        let saved = match Given::read(ui, &self.plan) {
            Ok(saved) => saved,
            Err(exit) => return Ok(exit),
        };
        let args = saved.as_ref().map_or_else(|| self.plan.clone(), Given::args);
        let mut session = match Session::open(ui, &args, state, self.fresh)? {
            Ok(session) => session,
            Err(exit) => return Ok(exit),
        };
        let old = session.unfinished().filter(|_| !self.fresh);
        let stale = saved.as_ref().and_then(|saved| saved.refuse_plan(ui, &session.plan, &session.state.runs, old));
        let result = match stale.or_else(|| self.refuse(ui, &session)) {
            Some(exit) => Ok(exit),
            None => {
                let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
                let result = runtime.block_on(self.session(ui, &mut session, &args.platforms, saved.as_ref()));
                runtime.shutdown_timeout(std::time::Duration::from_secs(1));
                result
            }
        };
        session.close(ui, result)
    }

    /// Refuses what the arguments ask for where it cannot be.
    fn refuse(&self, ui: &mut Ui, session: &Session) -> Option<Exit> {
        for (option, step) in [("--until", &self.until), ("--rerun", &self.rerun)] {
            if let Some(step) = step.as_ref().filter(|step| session.plan.step(step).is_none()) {
                ui.fail(format!("{option}: the plan has no step `{step}`"), "`pgplan graph` shows the steps");
                return Some(Exit::BadInput);
            }
        }
        let Some(old) = session.unfinished() else {
            if let Some(step) = &self.rerun {
                let message = format!("--rerun {step}: no run of plan {} is unfinished", session.plan.name);
                ui.fail(message, "apply without --rerun: a new run does every step");
                return Some(Exit::BadInput);
            }
            return None;
        };
        if self.fresh {
            return None;
        }
        if old.going_back {
            let message = format!("run {} is on its way back and cannot go forward", old.id);
            let (undo, id) = (self.plan.command("undo", &ui.hints), &old.id);
            ui.fail(message, &format!("finish with `{undo}`, or give the run up with `pgplan abandon {id}`"));
            return Some(Exit::NeedsPerson);
        }
        self.refuse_changed(ui, &session.plan, old)
    }

    async fn session(
        &self,
        ui: &mut Ui,
        session: &mut Session,
        platforms: &[PathBuf],
        saved: Option<&Given>,
    ) -> io::Result<Exit> {
        let unfinished = session.unfinished().cloned();
        let (given_up, resumed) = if self.fresh { (unfinished, None) } else { (None, unfinished) };
        let id = resumed.as_ref().map_or_else(new_run_id, |old| old.id.clone());
        let bars = self.shown.bars(ui);
        let stop = Stop::default();
        let consent = self.shown.consent(ui, bars.as_ref(), &stop);
        let mut settings = session.settings(&id, resumed.as_ref(), platforms, consent.clone());
        settings.watch = self.shown.watch(bars.as_ref());
        let mut wishes = Wishes { until: self.until.clone(), run_dir: settings.run_dir.clone(), budget: None };
        let (now, handle) = (Now::default(), bars.as_ref().map(Bar::handle));
        listen(&stop, &now, handle, session.journal.lost())?;
        let saved = saved.filter(|_| resumed.is_none());
        let prepared = tokio::select! {
            prepared = Box::pin(prepare(ui, &session.plan, settings, saved)) => prepared,
            () = stop.politely.cancelled() => {
                dropped_sessions_end().await;
                let mut again = self.plan.command("apply", &ui.hints);
                let rerun = self.rerun.as_ref().map(|step| format!(" --rerun {step}"));
                again.extend(rerun.into_iter().chain(self.fresh.then(|| " --fresh".to_owned())));
                ui.say(format!("{} before anything was begun; begin with: {again}", paint("interrupted", Tone::Warn)));
                Err(Exit::Interrupted)
            }
        };
        let world = match prepared {
            Ok(world) => world,
            Err(exit) => {
                if resumed.is_none() && wishes.run_dir.exists() {
                    // Nothing is in it yet.
                    fs::remove_dir(&wishes.run_dir)?;
                }
                return Ok(exit);
            }
        };
        if let Some(saved) = saved {
            saved.keep(&wishes.run_dir)?;
        }
        if let Some(old) = given_up {
            let ended = next_event(old.seq, EventKind::RunEnded { outcome: Outcome::Abandoned });
            if let Err(error) = session.journal.append(&old.id, &[ended]) {
                return Ok(journal_failed(ui, &error));
            }
            ui.say(format!("run {} is given up", old.id));
            forget(ui, &world, &old).await;
        }
        if let Some(limit) = session.plan.downtime_budget {
            let measured = Measured::read(ui, &session.plan, &session.state.runs, Some(&session.state.location));
            // What an earlier session has seen is the data as it was before the run has changed it.
            let seen = |name: &str| resumed.as_ref().is_some_and(|old| old.servers.contains_key(name));
            let sizes = match measured.is_rehearsed() {
                true => tokio::select! {
                    sizes = world.sizes_now(|name| !seen(name)) => sizes,
                    // The run ends before anything needs them.
                    () = stop.politely.cancelled() => BTreeMap::new(),
                },
                false => BTreeMap::new(),
            };
            wishes.budget = Some(measured.budget(limit, sizes));
        }
        let programs = world.programs();
        let world = Arc::new(faults::around(world));
        let reporters = self.shown.reporters(ui, bars, &now)?;
        let (plan, me) = (Arc::clone(&session.plan), session.me.clone());
        let forward =
            Direction::Forward { most_cuts: faults::most_cuts(), rerun: self.rerun.clone(), accept: self.accept };
        let mut run = match match &resumed {
            Some(_) => Run::resume(&plan, &mut session.journal, &id, me, forward, reporters),
            None => Run::begin(&plan, &mut session.journal, &id, me, reporters),
        } {
            Ok(run) => run,
            Err(error) => return Ok(run_failed(ui, &error)),
        };
        if let Err(error) = run.found_programs(programs) {
            return Ok(run_failed(ui, &error));
        }
        let hints = ui.hints.clone();
        let command = |verb: &str| self.plan.command(verb, &hints);
        let told = match Box::pin(self.drive(&mut run, &world, &wishes, &stop, &consent)).await {
            // What led back was a step that failed, however well the way back went and however far.
            Ok((ending @ Ending::Ended(Outcome::Undone | Outcome::Paused), Led::Back)) => {
                self.shown.tell(ui, &plan, run.state(), &ending, command).map(|_| Exit::Failed)
            }
            Ok((ending, _)) => self.shown.tell(ui, &plan, run.state(), &ending, command),
            Err(error) => return Ok(run_failed(ui, &error)),
        };
        drop(run);
        report::leave(ui, &session.journal, &id, &wishes.run_dir, &wishes.run_dir, false);
        told
    }

    /// Drives the run; after a failed step the plan's `on_failure` may lead back.
    async fn drive(
        &self,
        run: &mut Run<'_>,
        world: &Arc<faults::Acting>,
        wishes: &Wishes,
        stop: &Stop,
        consent: &Consent,
    ) -> Result<(Ending, Led), RunError> {
        let ending = Box::pin(run.drive(world, wishes, stop)).await?;
        if ending != Ending::Ended(Outcome::Failed) {
            return Ok((ending, Led::Forward));
        }
        let (mut back, reason) = match run.is_over_budget() {
            true => (true, "the downtime would pass its budget"),
            false => (false, "a step failed"),
        };
        back |= match (run.plan().on_failure, consent) {
            _ if back => true,
            (OnFailure::Undo, _) => true,
            (OnFailure::Ask, Consent::Ask(ask)) => {
                let ask = Arc::clone(ask);
                let question = "a step failed: take back what was done?";
                let asked = tokio::task::spawn_blocking(move || ask(question));
                tokio::select! {
                    answer = asked => matches!(answer, Ok(Answer::Yes)),
                    () = stop.politely.cancelled() => false,
                }
            }
            (OnFailure::Stop | OnFailure::Ask, _) => false,
        };
        match back {
            true => Box::pin(run.undo(world, stop, reason)).await.map(|ending| (ending, Led::Back)),
            false => Ok((ending, Led::Forward)),
        }
    }

    fn refuse_changed(&self, ui: &mut Ui, plan: &Plan, old: &RunState) -> Option<Exit> {
        let changed: Vec<&Step> = plan
            .steps
            .iter()
            .filter(|step| is_past(step, old.status(&step.id)))
            .filter(|step| old.step_fingerprints.get(&step.id).is_some_and(|print| *print != step.fingerprint))
            .filter(|step| !self.rerun.as_ref().is_some_and(|again| is_after(plan, again, &step.id)))
            .collect();
        if changed.is_empty() || self.accept {
            return None;
        }
        let list: Vec<&str> = changed.iter().map(|step| step.id.as_str()).collect();
        for step in &changed {
            ui.say(format!("step {}, as it was and as it is now:", paint(&step.id, Tone::Strong)));
            let before = old.step_texts.get(&step.id).cloned().unwrap_or_default();
            ui.say(difference(&before, &step.text_with_databases()));
        }
        ui.fail(
            format!("run {} is past `{}` already, and the plan has changed there since", old.id, list.join("`, `")),
            &format!(
                "take the change back, keep what was done with --accept, do it again with --rerun {}, or begin anew \
                 with --fresh",
                list[0]
            ),
        );
        Some(Exit::Refused)
    }
}

/// Where a session led.
enum Led {
    Forward,
    Back,
}

/// Looks whether a run can begin or go on: secrets, programs, what the plan expects of its servers and, for a `saved` plan
/// that is begun, that the servers are as they were. What is wrong has been told.
async fn prepare(ui: &mut Ui, plan: &Arc<Plan>, settings: Settings, saved: Option<&Given>) -> Result<Real, Exit> {
    let failed = |ui: &mut Ui, error: StepError| {
        ui.error(&error);
        Exit::of_error(error.kind)
    };
    let world = match Real::new(Arc::clone(plan), settings, crate::args::environment()).await {
        Ok(world) => world,
        Err(error) => return Err(failed(ui, error)),
    };
    if let Err(error) = world.expect_now().await {
        return Err(failed(ui, error));
    }
    let Some(saved) = saved else { return Ok(world) };
    // Held from here on, so that no other run moves a server between the look and the first step.
    let refused = match world.claim_at_start().await {
        Ok(()) => saved.refuse_servers(ui, plan, &world).await,
        Err(error) => Some(failed(ui, error)),
    };
    let Some(exit) = refused else { return Ok(world) };
    for warning in world.close().await {
        ui.say(format!("{} {warning}", paint("warning:", Tone::Warn)));
    }
    Err(exit)
}

/// Returns whether a run has come by a step as the plan had it: done it, skipped it for its condition, or gone on though it
/// had failed. One for after a failure that did not come was never looked at.
fn is_past(step: &Step, status: StepStatus) -> bool {
    status.satisfies() && !(status == StepStatus::Skipped && step.run_on == RunOn::Failure)
}

/// Returns whether a step is another one or comes after it.
fn is_after(plan: &Plan, first: &str, step: &str) -> bool {
    first == step || plan.is_ancestor(first, step)
}

/// Returns the lines that differ between two texts of a step, those of before with `-`, those of now with `+`.
pub(super) fn difference(before: &serde_json::Value, now: &serde_json::Value) -> String {
    let lines = |value: &serde_json::Value| -> Vec<String> {
        let text = serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string());
        text.lines().map(|line| line.trim_end_matches(',').to_owned()).collect()
    };
    let (before, now) = (lines(before), lines(now));
    let gone = before.iter().filter(|line| !now.contains(line)).map(|line| paint(format!("  - {line}"), Tone::Bad));
    let new = now.iter().filter(|line| !before.contains(line)).map(|line| paint(format!("  + {line}"), Tone::Good));
    let all: Vec<String> = gone.chain(new).collect();
    match all.is_empty() {
        true => "  its text is the same: a variable, a file or a default that it uses has changed".to_owned(),
        false => all.join("\n"),
    }
}

/// Returns an id that sorts by time and does not repeat: `20261121-093011-4f2a`.
pub(super) fn new_run_id() -> String {
    let now = jiff::Timestamp::now();
    let spread = u32::try_from(now.subsec_nanosecond()).unwrap_or(0) ^ std::process::id();
    format!("{}-{:04x}", now.strftime("%Y%m%d-%H%M%S"), spread & 0xffff)
}
