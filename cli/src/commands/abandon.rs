use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::Args;
use pgplan_engine::{
    error::{ErrorKind, StepError},
    event::{EventKind, Outcome},
    plan::Plan,
    run::{Receipted, World as _, receipted_in},
    state::RunState,
    world::{Consent, Left, Real, Settings},
};

use super::{Found, find_unfinished, journal_failed, load};
use crate::{
    args::{PlanArgs, RunArgs, environment},
    exit::Exit,
    ui::{Tone, Ui, paint},
};

/// Give up an unfinished run: nothing is taken back, and the next apply begins anew
///
/// Its receipts are dropped from the databases where they can be reached; it is told which stay, and how to drop them.
#[derive(Debug, Args)]
pub(crate) struct Abandon {
    #[command(flatten)]
    run: RunArgs,
}

impl Abandon {
    pub(crate) fn run(&self, ui: &mut Ui, state: Option<&Path>) -> io::Result<Exit> {
        let mut found = match find_unfinished(ui, state, &self.run)? {
            Ok(found) => found,
            Err(exit) => return Ok(exit),
        };
        // Ended first: without its receipts the run could not go on.
        if let Err(error) = found.record(vec![EventKind::RunEnded { outcome: Outcome::Abandoned }]) {
            return Ok(journal_failed(ui, &error));
        }
        ui.say(format!("run {} is given up; what it did stays as it is", found.state.id));
        drop_receipts(ui, &found)?;
        Ok(Exit::Done)
    }
}

/// Drops what the run has left in databases, as its plan and the variables it was begun with tell.
fn drop_receipts(ui: &mut Ui, found: &Found) -> io::Result<()> {
    let run = &found.state;
    if !has_receipts(run) {
        return Ok(());
    }
    let args = PlanArgs {
        file: PathBuf::from(&run.path),
        vars: run.given.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        platforms: run.platforms.iter().map(PathBuf::from).collect(),
    };
    let plan = load::unseen(ui, &args).ok().filter(|plan| plan.name == run.plan);
    let Some(plan) = plan.map(Arc::new) else {
        let why = format!("{} cannot be read as the plan of this run", run.path);
        tell_all(ui, run, &StepError::new(ErrorKind::Plan, why));
        return Ok(());
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match world(&plan, run, &args.platforms).await {
            Ok(world) => {
                forget(ui, &world, run).await;
                for warning in world.close().await {
                    ui.say(format!("{} {warning}", paint("warning:", Tone::Warn)));
                }
            }
            Err(error) => tell_all(ui, run, &error),
        }
    });
    Ok(())
}

async fn world(plan: &Arc<Plan>, run: &RunState, platforms: &[PathBuf]) -> Result<Real, StepError> {
    let settings = Settings {
        run_id: run.id.clone(),
        session: run.resumes + 1,
        run_dir: PathBuf::from("RUN"),
        platforms: platforms.to_vec(),
        consent: Consent::Nobody,
        allow_programs: true,
        // It makes no folder; only receipts are touched.
        dry_run: true,
        changed_before: BTreeSet::new(),
        approved: BTreeSet::new(),
        state: None,
        watch: None,
    };
    Real::new(Arc::clone(plan), settings, environment()).await
}

/// Drops the receipts of a run that was given up, and says which stay.
pub(super) async fn forget(ui: &mut Ui, world: &Real, run: &RunState) {
    match world.forget(run).await {
        Ok(left) => left.iter().for_each(|left| tell(ui, run, left)),
        Err(error) => tell_all(ui, run, &error),
    }
}

fn has_receipts(run: &RunState) -> bool {
    let begun = run.steps.values().flat_map(|step| step.earlier.iter().chain(&step.actions));
    let begun = begun.filter(|action| action.started_at.is_some());
    run.going_back || begun.map(|action| &action.action.op).any(|op| receipted_in(op).is_some())
}

fn tell_all(ui: &mut Ui, run: &RunState, error: &StepError) {
    let what = "receipts of the run may be in the databases that it changed";
    ui.say(format!("{} {what}: {}", paint("warning:", Tone::Warn), error.message));
    ui.say(how(run));
}

fn tell(ui: &mut Ui, run: &RunState, left: &Left) {
    let place = match left.wide {
        Receipted::Database => format!("`{}`", left.database),
        Receipted::Server => format!("the databases of the server of `{}`", left.database),
    };
    let what = format!("receipts of run {} stay in {place}: {}", run.id, left.error.message);
    ui.say(format!("{} {what}", paint("warning:", Tone::Warn)));
    for detail in &left.error.details {
        ui.say(format!("  {detail}"));
    }
    ui.say(how(run));
}

fn how(run: &RunState) -> String {
    format!(
        "{} they hinder no other run; drop them there with: DELETE FROM pgplan.receipt WHERE run = '{}'; and, when that \
         table is empty: DROP SCHEMA pgplan CASCADE;",
        paint("help:", Tone::Strong),
        run.id
    )
}
