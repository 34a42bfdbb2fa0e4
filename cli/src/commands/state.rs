//! Where the journal is: what `--state` or PGPLAN_STATE says, else what the plan says, else `.pgplan`.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use pgplan_engine::{
    error::StepError,
    journal::Location,
    locate::{self, Written},
    plan::Plan,
};

use crate::{
    args::environment,
    exit::Exit,
    ui::{Tone, Ui, paint},
};

/// Where the journal is, as it is written, and found.
pub(crate) struct State {
    /// Where it is.
    pub(crate) location: Location,
    /// The folder of the runs' files, absolute.
    pub(crate) runs: PathBuf,
}

/// Finds the journal for a command about runs; `plan` may say where it is.
pub(crate) fn of_runs(ui: &mut Ui, given: Option<&Path>, plan: Option<&Plan>) -> io::Result<Result<State, Exit>> {
    let written = plan.map_or_else(|| Ok(given.map(Written::given).unwrap_or_default()), |plan| written(given, plan));
    match written {
        Ok(written) => found(ui, written, plan, |_, _| Ok(())),
        Err(error) => Ok(Err(told(ui, &error))),
    }
}

/// Finds the journal for a command about a plan, which must not be in one of the plan's databases.
pub(crate) fn of_plan(ui: &mut Ui, given: Option<&Path>, plan: &Plan) -> io::Result<Result<State, Exit>> {
    match written(given, plan) {
        Ok(written) => found(ui, written, Some(plan), |location, vars| locate::refuse_own(location, plan, vars)),
        Err(error) => Ok(Err(told(ui, &error))),
    }
}

/// Finds the journal for a dry run, which opens none: `None` for the location when a program would have to tell it and
/// none may be started.
pub(crate) fn for_look(
    ui: &mut Ui,
    given: Option<&Path>,
    plan: &Plan,
    programs: bool,
) -> io::Result<Result<(PathBuf, Option<Location>), Exit>> {
    let written = match written(given, plan) {
        Ok(written) => written,
        Err(error) => return Ok(Err(told(ui, &error))),
    };
    if !programs && written.needs_program(plan) {
        let warning = "a program tells where the journal is, so whether it is in a database of the plan is not known";
        ui.say(format!("{} {warning}; --allow-programs starts it", paint("warning:", Tone::Warn)));
        return Ok(Ok((std::path::absolute(written.runs())?, None)));
    }
    let own = |location: &Location, vars: &BTreeMap<String, String>| locate::refuse_own(location, plan, vars);
    Ok(found(ui, written, Some(plan), own)?.map(|state| (state.runs, Some(state.location))))
}

fn written(given: Option<&Path>, plan: &Plan) -> Result<Written, StepError> {
    match given {
        Some(given) => Ok(Written::given(given)),
        None => Ok(Written::in_plan(plan)?.unwrap_or_default()),
    }
}

fn found(
    ui: &mut Ui,
    written: Written,
    plan: Option<&Plan>,
    judge: impl Fn(&Location, &BTreeMap<String, String>) -> Result<(), StepError>,
) -> io::Result<Result<State, Exit>> {
    let (vars, runs) = (environment(), std::path::absolute(written.runs())?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let located = runtime.block_on(written.locate(plan, &vars)).and_then(|location| {
        judge(&location, &vars)?;
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
