//! What can be done next: plain data from the plan and the state; no clock, no task, no I/O.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    action::Effect,
    error::StepError,
    plan::{Plan, RunOn, Step},
    state::{ActionState, ActionStatus, RunState, StepState, StepStatus},
};

/// A move that the loop can make now.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Evaluate the step's condition, survey it and list its actions.
    Open {
        /// The step.
        step: String,
    },
    /// The step does not run, by its own `run_on`.
    Skip {
        /// The step.
        step: String,
        /// Why.
        reason: String,
    },
    /// The step cannot run.
    Block {
        /// The step.
        step: String,
        /// The need that keeps it from running.
        by: String,
    },
    /// Do an action.
    Start {
        /// The step.
        step: String,
        /// The action.
        action: String,
    },
    /// All actions of the step are finished.
    Finish {
        /// The step.
        step: String,
    },
    /// The step cannot be finished.
    Fail {
        /// The step.
        step: String,
        /// Its first error.
        error: StepError,
    },
}

/// What this session is busy with, beyond what the journal knows.
#[derive(Debug, Clone, Default)]
pub struct Busy {
    /// Steps being opened, and those whose `ensures` is being looked at.
    pub looking: BTreeSet<String>,
    /// Actions being done, as step and action.
    pub running: BTreeSet<(String, String)>,
    /// Steps that must not start (beyond `--until`).
    pub held_back: BTreeSet<String>,
    /// Whether a stop was asked for: nothing new is opened or started.
    pub stopping: bool,
}

/// Returns every move that can be made now, in the order of the plan.
#[must_use]
pub fn next(plan: &Plan, state: &RunState, busy: &Busy) -> Vec<Next> {
    let mut moves = Vec::new();
    let mut free = plan.max_parallel.saturating_sub(busy.running.len());
    let waiting = waiting(plan, state);
    let cut_off = cut_off(plan, state);
    for step in &plan.steps {
        if waiting.contains(step.id.as_str()) {
            continue;
        }
        let by = cut_off.get(step.id.as_str()).copied();
        match state.steps.get(&step.id) {
            Some(running) if running.status == StepStatus::Running => {
                // One that was begun in an earlier session goes on when what it needs is there again, and not at all when
                // that has failed.
                let (mut none, before) = (0, moves.len());
                let waits = by.is_some() || busy.held_back.contains(&step.id);
                act(step, running, &state.id, busy, if waits { &mut none } else { &mut free }, &mut moves);
                if let Some(by) = by.filter(|_| moves.len() == before && is_still(step, busy)) {
                    moves.push(Next::Block { step: step.id.clone(), by: by.to_owned() });
                }
            }
            Some(over) if over.status.is_over() => {}
            Some(_) | None => open(step, state, by, busy, &mut moves),
        }
    }
    moves
}

/// Returns the steps that a step before them keeps waiting, directly or through others.
///
/// A step that is over has its ancestors over, except where a resumed run does one of them again (a tunnel): then all
/// that come after it and are not over wait, too, since they may use what it gives.
fn waiting<'a>(plan: &'a Plan, state: &RunState) -> BTreeSet<&'a str> {
    let mut after: BTreeMap<&str, Vec<&'a str>> = BTreeMap::new();
    for step in &plan.steps {
        for need in &step.needs {
            after.entry(need.as_str()).or_default().push(step.id.as_str());
        }
    }
    let mut waiting = BTreeSet::new();
    let mut reached: Vec<&str> =
        plan.steps.iter().map(|step| step.id.as_str()).filter(|id| !state.status(id).is_over()).collect();
    while let Some(step) = reached.pop() {
        for later in after.get(step).into_iter().flatten() {
            if waiting.insert(*later) {
                reached.push(later);
            }
        }
    }
    waiting
}

/// Returns the steps that cannot be done because one before them has failed, with that one.
///
/// Mostly it is a direct need that is not satisfied. But a resumed run may do a step again (a tunnel, a proof) whose
/// dependants are over: when that fails, what comes after those must not be done either.
fn cut_off<'a>(plan: &'a Plan, state: &RunState) -> BTreeMap<&'a str, &'a str> {
    let failed = |id: &str| matches!(state.status(id), StepStatus::Failed | StepStatus::Blocked);
    let mut cut: BTreeMap<&str, &str> = BTreeMap::new();
    let mut reached: Vec<&str> = plan.steps.iter().map(|step| step.id.as_str()).filter(|id| failed(id)).collect();
    while let Some(before) = reached.pop() {
        for step in &plan.steps {
            let comes_after = step.run_on == RunOn::Success && step.needs.iter().any(|need| need == before);
            if comes_after && !cut.contains_key(step.id.as_str()) {
                cut.insert(&step.id, before);
                reached.push(&step.id);
            }
        }
    }
    cut
}

/// Decides about a step that has not been opened; `cut_off` = the step whose failure keeps it from being.
fn open(step: &Step, state: &RunState, cut_off: Option<&str>, busy: &Busy, moves: &mut Vec<Next>) {
    if busy.looking.contains(&step.id) || busy.held_back.contains(&step.id) || busy.stopping {
        return;
    }
    let unmet = step.needs.iter().map(String::as_str).find(|need| !state.status(need).satisfies()).or(cut_off);
    let id = step.id.clone();
    moves.push(match (step.run_on, unmet) {
        (RunOn::Success, Some(by)) => Next::Block { step: id, by: by.to_owned() },
        (RunOn::Failure, None) => Next::Skip { step: id, reason: "no step that it needs failed".to_owned() },
        (RunOn::Success, None) | (RunOn::Failure, Some(_)) | (RunOn::Always, _) => Next::Open { step: id },
    });
}

/// Returns whether nothing of a step is being done or looked at.
fn is_still(step: &Step, busy: &Busy) -> bool {
    !busy.looking.contains(&step.id) && !busy.running.iter().any(|(running, _)| *running == step.id)
}

/// Decides about a step whose actions are known.
fn act(step: &Step, state: &StepState, run: &str, busy: &Busy, free: &mut usize, moves: &mut Vec<Next>) {
    if busy.looking.contains(&step.id) {
        // Its `ensures` is being looked at: until that holds, it is not over.
        return;
    }
    let by_id: BTreeMap<&str, &ActionState> =
        state.actions.iter().map(|action| (action.action.id.as_str(), action)).collect();
    let running = |action: &ActionState| busy.running.contains(&(step.id.clone(), action.action.id.clone()));
    let in_step = state.actions.iter().filter(|action| running(action)).count();
    if let Some(error) = first_failure(step, state, run) {
        let others = step.for_each.as_ref().is_some_and(|each| !each.fail_fast);
        let more = others && !busy.stopping && state.actions.iter().any(|action| startable(action, &by_id));
        if in_step == 0 && !more {
            moves.push(Next::Fail { step: step.id.clone(), error });
        }
        if !others {
            return;
        }
    }
    if state.actions.iter().all(|action| action.status == ActionStatus::Finished) {
        moves.push(Next::Finish { step: step.id.clone() });
        return;
    }
    if busy.stopping {
        return;
    }
    let mut in_step_free = state.graph.jobs.unwrap_or(usize::MAX).saturating_sub(in_step);
    let limit = step.for_each.as_ref().and_then(|each| each.max_parallel).unwrap_or(usize::MAX);
    let mut instances = if limit == usize::MAX { BTreeSet::new() } else { active_instances(state) };
    for action in &state.actions {
        if *free == 0 || in_step_free == 0 {
            break;
        }
        if !startable(action, &by_id) || running(action) {
            continue;
        }
        if let Some(instance) = instance(action) {
            if !instances.contains(instance) && instances.len() >= limit {
                continue;
            }
            instances.insert(instance);
        }
        *free -= 1;
        in_step_free -= 1;
        moves.push(Next::Start { step: step.id.clone(), action: action.action.id.clone() });
    }
}

fn startable(action: &ActionState, by_id: &BTreeMap<&str, &ActionState>) -> bool {
    action.status == ActionStatus::Pending
        && action
            .action
            .after
            .iter()
            .all(|id| by_id.get(id.as_str()).is_some_and(|a| a.status == ActionStatus::Finished))
}

fn first_failure(step: &Step, state: &StepState, run: &str) -> Option<StepError> {
    let failed = state.actions.iter().filter(|action| action.status == ActionStatus::Failed && !action.retrying);
    let lost = state.actions.iter().find(|action| action.status == ActionStatus::Indeterminate);
    let first = failed.min_by_key(|action| action.ended_at).and_then(|action| action.error.clone());
    first.or_else(|| lost.map(|action| indeterminate(&step.id, action, run)))
}

/// Returns the error of an action that a person has to decide about.
fn indeterminate(step: &str, action: &ActionState, run: &str) -> StepError {
    let title = &action.action.title;
    let decide =
        format!("say `pgplan resolve {step} --as done --run {run}`, `--as retry` or `--as undo`, and apply again");
    let error = |message: String| StepError::new(crate::error::ErrorKind::NeedsPerson, message);
    match action.action.effect {
        Effect::Opaque => error(format!(
            "it is not known whether `{title}` was done: it was cut in the middle, or an error came when a part of it was done"
        ))
            .help(format!("look, then {decide}")),
        Effect::Transaction | Effect::Probe | Effect::Restart => {
            error(format!("pgplan ended {} times in a row in the middle of `{title}`", action.cuts))
                .detail("it could be done again, but something ends pgplan there: memory, a full disk, another program")
                .help(format!("find out what (the system's log, `pgplan log`) and mend it, then {decide}"))
        }
    }
}

/// The instance of a `for_each` step that an action belongs to: the part of its id before the first `/`.
fn instance(action: &ActionState) -> Option<&str> {
    action.action.id.split_once('/').map(|(instance, _)| instance)
}

/// Returns the instances that are begun and not over.
fn active_instances(state: &StepState) -> BTreeSet<&str> {
    #[derive(Default)]
    struct Seen {
        begun: bool,
        unfinished: bool,
        failed: bool,
    }
    let mut instances: BTreeMap<&str, Seen> = BTreeMap::new();
    for action in &state.actions {
        let Some(name) = instance(action) else { continue };
        let seen = instances.entry(name).or_default();
        seen.begun |= action.status != ActionStatus::Pending;
        seen.unfinished |= action.status != ActionStatus::Finished;
        seen.failed |= action.status == ActionStatus::Failed && !action.retrying;
    }
    let active = |seen: &Seen| seen.begun && seen.unfinished && !seen.failed;
    instances.into_iter().filter(|(_, seen)| active(seen)).map(|(name, _)| name).collect()
}
