//! Where the journal is: what `--state` or PGPLAN_STATE says, else what the plan says, else `.pgplan`.

use std::{
    io,
    path::{Path, PathBuf},
};

use pgplan_engine::{
    error::StepError,
    journal::Location,
    locate::{self, Written},
    plan::Plan,
};

use crate::{args::environment, exit::Exit, ui::Ui};

/// Where the journal is, as it is written, and found.
pub(crate) struct State {
    /// Where it is.
    pub(crate) location: Location,
    /// The folder of the runs' files, absolute.
    pub(crate) runs: PathBuf,
}

/// Finds the journal for a command about runs.
pub(crate) fn of_runs(ui: &mut Ui, given: Option<&Path>) -> io::Result<Result<State, Exit>> {
    found(ui, given.map(Written::given).unwrap_or_default(), None)
}

/// Finds the journal for a command about a plan, which must not be in one of the plan's databases.
pub(crate) fn of_plan(ui: &mut Ui, given: Option<&Path>, plan: &Plan) -> io::Result<Result<State, Exit>> {
    match written(given, plan) {
        Ok(written) => found(ui, written, Some(plan)),
        Err(error) => Ok(Err(told(ui, &error))),
    }
}

/// Returns the folder of the runs' files of a plan; reads no secret.
pub(crate) fn runs(given: Option<&Path>, plan: &Plan) -> Result<PathBuf, StepError> {
    let runs = written(given, plan)?.runs();
    std::path::absolute(&runs).map_err(|error| StepError::io("find the folder", &runs, &error))
}

fn written(given: Option<&Path>, plan: &Plan) -> Result<Written, StepError> {
    match given {
        Some(given) => Ok(Written::given(given)),
        None => Ok(Written::in_plan(plan)?.unwrap_or_default()),
    }
}

fn found(ui: &mut Ui, written: Written, plan: Option<&Plan>) -> io::Result<Result<State, Exit>> {
    let (vars, runs) = (environment(), std::path::absolute(written.runs())?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let located = runtime.block_on(written.locate(plan, &vars)).and_then(|location| {
        plan.map_or(Ok(()), |plan| locate::refuse_own(&location, plan, &vars))?;
        Ok(location)
    });
    Ok(match located {
        Ok(location) => Ok(State { location, runs }),
        Err(error) => Err(told(ui, &error)),
    })
}

fn told(ui: &mut Ui, error: &StepError) -> Exit {
    ui.error(error);
    Exit::of_error(error.kind)
}
