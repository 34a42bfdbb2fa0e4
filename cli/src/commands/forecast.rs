//! The predicted downtime, for the commands that speak of it.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use pgplan_engine::{
    downtime::{Basis, Forecast, Prediction, Size},
    event::Outcome,
    journal::{Journal, JournalError, Location},
    plan::Plan,
    preview::Server,
    run::Budget,
    state::RunState,
    timing::{self, Machine, Timing},
    world::this_process,
};

use crate::ui::{Ui, duration};

/// Returns the folder of all rehearsals; `runs` is that of the runs.
pub(super) fn folder(runs: &Path) -> PathBuf {
    runs.parent().unwrap_or(runs).join("rehearsals")
}

/// Returns the folder of a plan's rehearsals.
pub(super) fn folder_of(runs: &Path, plan: &Plan) -> PathBuf {
    folder(runs).join(plan.name.replace(['/', '\\'], "_"))
}

/// What was measured of a plan.
pub(super) struct Measured {
    rehearsals: Vec<Timing>,
    run: Option<Timing>,
}

impl Measured {
    /// Reads the records of rehearsals and the plan's last run; tells what cannot be read and leaves it out.
    pub(super) fn read(ui: &mut Ui, plan: &Plan, runs: &Path, location: Option<&Location>) -> Self {
        let rehearsals = match timing::read_all(&folder_of(runs, plan)) {
            Ok((rehearsals, wrong)) => {
                wrong.iter().for_each(|wrong| ui.say(format!("warning: {wrong}")));
                rehearsals
            }
            Err(error) => {
                ui.say(format!("warning: {error}"));
                Vec::new()
            }
        };
        if rehearsals.is_empty() {
            return Self { rehearsals, run: None };
        }
        let run = location.map_or(Ok(None), |location| last_run(plan, location)).unwrap_or_else(|error| {
            ui.say(format!("warning: the last run cannot be read: {error}"));
            None
        });
        Self { rehearsals, run }
    }

    /// Returns the forecast for the plan with servers of these sizes.
    pub(super) fn forecast<'a>(&'a self, plan: &'a Plan, now: &BTreeMap<String, Size>) -> Option<Forecast<'a>> {
        Forecast::of(plan, &self.rehearsals, self.run.as_ref(), now, &this_process().host)
    }

    /// Returns whether there is anything to predict from.
    pub(super) fn is_rehearsed(&self) -> bool {
        !self.rehearsals.is_empty()
    }

    /// Returns what a run must know to keep to a budget; `sizes` = how large the data is before it.
    pub(super) fn budget(self, limit: Duration, sizes: BTreeMap<String, Size>) -> Budget {
        Budget { limit, rehearsals: self.rehearsals, last_run: self.run, sizes }
    }
}

/// Returns how large servers are.
pub(super) fn sizes(servers: &BTreeMap<String, Server>) -> BTreeMap<String, Size> {
    let size = |server: &Server| Size { bytes: server.bytes, rows: server.rows };
    servers.iter().map(|(name, server)| (name.clone(), size(server))).collect()
}

/// Returns the record of the plan's last run that was done in one session.
fn last_run(plan: &Plan, location: &Location) -> Result<Option<Timing>, JournalError> {
    let Some(journal) = Journal::open_existing(location)? else { return Ok(None) };
    for run in journal.runs()?.iter().rev().filter(|run| run.plan == plan.name) {
        // What is damaged tells nothing of times.
        let Ok(state) = RunState::fold(&run.id, &journal.events(&run.id)?) else { continue };
        if state.outcome == Some(Outcome::Succeeded) && state.resumes == 0 {
            return Ok(Timing::of(plan, &state, Machine::this(&this_process()), |_| false));
        }
    }
    Ok(None)
}

/// Returns the lines that tell of a prediction.
pub(crate) fn lines(prediction: &Prediction) -> Vec<String> {
    let times = if prediction.rehearsals == 1 { "rehearsal" } else { "rehearsals" };
    let mut lines = vec![format!(
        "predicted downtime: about {} ({} to {}), from {} {times}, the last of {:.0}",
        duration(prediction.ms),
        duration(prediction.low_ms),
        duration(prediction.high_ms),
        prediction.rehearsals,
        prediction.newest,
    )];
    let steps = prediction.steps.iter().map(|step| {
        let basis = match step.basis {
            Basis::Rehearsed => "",
            Basis::Run => ", last run",
            Basis::Assumed => ", assumed",
        };
        format!("{} {}{basis}", step.id, duration(step.ms))
    });
    lines.push(format!("  made of: {}", steps.collect::<Vec<_>>().join("; ")));
    lines.extend(prediction.reservations.iter().map(|line| format!("  {line}")));
    lines
}

/// Returns the warning that a plan has a budget and nothing tells whether it will be kept.
pub(super) fn unknown(plan: &Plan, prediction: Option<&Prediction>) -> Option<String> {
    let budget = plan.downtime_budget.filter(|_| prediction.is_none())?;
    let budget = duration(u64::try_from(budget.as_millis()).unwrap_or(u64::MAX));
    let path = plan.path.display();
    Some(format!(
        "no rehearsal tells whether the budget of {budget} will be kept: `pgplan rehearse {path}` measures it"
    ))
}

/// Returns the warning when a prediction passes the plan's budget, or may.
pub(crate) fn warning(prediction: &Prediction) -> Option<String> {
    let budget = duration(prediction.budget_ms?);
    if prediction.passes_budget() {
        return Some(format!("the predicted downtime passes the plan's budget of {budget}"));
    }
    prediction.may_pass_budget().then(|| {
        format!("the predicted downtime is within the plan's budget of {budget}, but the upper end of its range is not")
    })
}
