use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use pgplan_engine::{
    event::Outcome,
    plan::Plan,
    run::{Direction, Run, Stop, World},
    state::RunState,
    undo::{WayBack, way_back},
    world::{Answer, Consent, Real},
};

use super::{
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

/// Take back what the newest run of a plan did
///
/// Goes back in reverse order over what was done, failed or was cut in the middle, up to the plan's point of no return.
/// After an error or an interruption the same command goes on.
#[derive(Debug, Args)]
pub(crate) struct Undo {
    #[command(flatten)]
    plan: PlanArgs,
    /// Show what would be taken back and stop
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    shown: Shown,
}

impl Undo {
    pub(crate) fn run(&self, ui: &mut Ui, state: Option<&Path>) -> io::Result<Exit> {
        let args = match Given::read(ui, &self.plan) {
            Ok(saved) => saved.as_ref().map_or_else(|| self.plan.clone(), Given::args),
            Err(exit) => return Ok(exit),
        };
        let mut session = match Session::open(ui, &args, state, false)? {
            Ok(session) => session,
            Err(exit) => return Ok(exit),
        };
        let over = |last: &RunState| matches!(last.outcome, Some(Outcome::Undone | Outcome::Abandoned));
        let result = match session.last.clone().filter(|last| !over(last)) {
            None => {
                let name = &session.plan.name;
                ui.fail(format!("plan {name} has no run that could be taken back"), "`pgplan runs` lists the runs");
                Ok(Exit::BadInput)
            }
            Some(old) => {
                let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
                let result = runtime.block_on(self.session(ui, &mut session, &old, &args.platforms));
                runtime.shutdown_timeout(std::time::Duration::from_secs(1));
                result
            }
        };
        session.close(ui, result)
    }

    async fn session(
        &self,
        ui: &mut Ui,
        session: &mut Session,
        old: &RunState,
        platforms: &[PathBuf],
    ) -> io::Result<Exit> {
        let bars = self.shown.bars(ui);
        let stop = Stop::default();
        let consent = self.shown.consent(ui, bars.as_ref(), &stop);
        let settings = session.settings(&old.id, Some(old), platforms, consent.clone());
        let (now, handle) = (Now::default(), bars.as_ref().map(Bar::handle));
        listen(&stop, &now, handle, session.journal.lost())?;
        let made = tokio::select! {
            made = Real::new(Arc::clone(&session.plan), settings, crate::args::environment()) => made,
            () = stop.politely.cancelled() => return Ok(stopped(ui)),
        };
        let world = match made {
            Ok(world) => Arc::new(faults::around(world)),
            Err(error) => {
                ui.error(&error);
                return Ok(Exit::of_error(error.kind));
            }
        };
        let outputs = Arc::new(old.standing_outputs());
        let way = match way_back(&session.plan, old, |step| world.own_undo(step, Arc::clone(&outputs))) {
            Ok(way) => way,
            Err(error) => {
                ui.error(&error);
                return Ok(Exit::of_error(error.kind));
            }
        };
        ui.say(shown(&session.plan, old, &way));
        if self.dry_run {
            return Ok(Exit::Done);
        }
        if let Some(exit) = agreed(ui, &consent, &stop).await {
            return Ok(exit);
        }
        let reporters = self.shown.reporters(ui, bars, &now)?;
        let (plan, me) = (Arc::clone(&session.plan), session.me.clone());
        let mut run = match Run::resume(&plan, &mut session.journal, &old.id, me, Direction::Back, reporters) {
            Ok(run) => run,
            Err(error) => return Ok(run_failed(ui, &error)),
        };
        let hints = ui.hints.clone();
        let command = |verb: &str| self.plan.command(verb, &hints);
        let told = match Box::pin(run.undo(&world, &stop, "`pgplan undo` was called")).await {
            Ok(ending) => self.shown.tell(ui, &plan, run.state(), &ending, command),
            Err(error) => return Ok(run_failed(ui, &error)),
        };
        drop(run);
        let run_dir = session.state.runs.join(&old.id);
        report::leave(ui, &session.journal, &old.id, &run_dir, &run_dir, false);
        told
    }
}

/// Ends the command before anything was taken back, as it was told to stop.
fn stopped(ui: &mut Ui) -> Exit {
    // A question that was left without an answer has the terminal still.
    ui.restore_terminal();
    ui.say("nothing was taken back");
    Exit::Interrupted
}

/// Asks before anything is taken back; returns how the command ends when it is not wanted.
async fn agreed(ui: &mut Ui, consent: &Consent, stop: &Stop) -> Option<Exit> {
    match consent {
        Consent::Given => None,
        Consent::Ask(ask) => {
            let ask = Arc::clone(ask);
            let asked = tokio::task::spawn_blocking(move || ask("take all of this back?"));
            let answer = tokio::select! {
                answer = asked => answer.unwrap_or(Answer::No),
                () = stop.politely.cancelled() => Answer::Stop,
            };
            match answer {
                Answer::Yes => None,
                Answer::No => {
                    ui.say("nothing was taken back");
                    Some(Exit::NeedsPerson)
                }
                Answer::Stop => Some(stopped(ui)),
            }
        }
        Consent::Nobody => {
            ui.fail("nobody is there to agree", "undo on a terminal, or with --yes");
            Some(Exit::NeedsPerson)
        }
    }
}

/// Returns what will be taken back, in order.
fn shown(plan: &Plan, old: &RunState, way: &WayBack) -> String {
    let mut text = format!("way back of run {} of plan {}\n", old.id, plan.name);
    for (at, back) in way.backs.iter().enumerate() {
        let what = if !back.ops.is_empty() || back.stays { back.title.as_str() } else { "nothing needs to be done" };
        text.push_str(&format!("{:>4}. {} {what}\n", at + 1, paint(&back.step, Tone::Strong)));
        for line in back.ops.iter().flat_map(pgplan_engine::op::Op::shown) {
            text.push_str(&format!("        {line}\n"));
        }
    }
    match &way.stops_at {
        Some(step) => text.push_str(&format!("`{step}` is the point of no return: what was done up to it stays\n")),
        None if way.backs.is_empty() => text.push_str("  nothing was done\n"),
        None => {}
    }
    text
}
