//! Taking up a run: what becomes of the actions that a dead or interrupted session left begun.

use std::collections::{BTreeMap, BTreeSet};

use super::{Run, RunError};
use crate::{
    action::Effect,
    error::{ErrorKind, StepError},
    event::EventKind,
    plan::{RunOn, Step},
    state::{ActionState, ActionStatus, StepStatus},
};

/// How often in a row pgplan may end in the middle of an action before a person is asked what is going on.
pub const MOST_CUTS: u32 = 50;

impl Run<'_> {
    /// Decides about actions that a dead or interrupted session left begun, about volatile ones, and about steps whose
    /// text has changed.
    ///
    /// `before` is where the steps stood when the last session ended.
    pub(super) fn recover(&mut self, changed: &[String], most_cuts: u32) -> Result<(), RunError> {
        let mut events = Vec::new();
        for step in &self.plan.steps {
            let Some(state) = self.state.steps.get(&step.id) else { continue };
            let wanted_later = self.has_unfinished_descendant(&step.id);
            for action in &state.actions {
                let (step, id) = (step.id.clone(), action.action.id.clone());
                let reset = |reason: &str| EventKind::ActionReset {
                    step: step.clone(),
                    action: id.clone(),
                    reason: reason.to_owned(),
                };
                events.extend(match action.status {
                    ActionStatus::Started => Some(match action.action.effect {
                        Effect::Opaque => EventKind::ActionIndeterminate { step, action: id },
                        Effect::Transaction | Effect::Probe | Effect::Restart if action.cuts + 1 >= most_cuts => {
                            EventKind::ActionIndeterminate { step, action: id }
                        }
                        Effect::Transaction | Effect::Probe | Effect::Restart => {
                            reset("it was cut in the middle and is done again")
                        }
                    }),
                    ActionStatus::Finished if action.action.volatile && wanted_later => {
                        Some(reset("what it gave ended with the last session"))
                    }
                    ActionStatus::Finished if action.action.proof && wanted_later && !self.is_ended(&step) => {
                        Some(reset("what it proved may not hold any more"))
                    }
                    _ => None,
                });
            }
        }
        let edited: Vec<&String> = changed.iter().filter(|id| !self.state.status(id).is_over()).collect();
        let edited = edited.into_iter().filter(|id| self.state.steps.contains_key(*id));
        events.extend(edited.map(|step| EventKind::StepChanged { step: step.clone() }));
        self.record(events)
    }

    /// Returns the reopening of steps that ran because one before them had failed (`run_on: always` and `failure` let
    /// them), and of those that ran after them. They are done again, after what had failed: what starts an application
    /// must come after what stops it. All other steps that are done stay done, whatever is open before them: a tunnel
    /// that is opened anew, a proof that is made anew, a step that was put into the plan since.
    ///
    /// What such a step had ended is to be set up again, with all that was done on it: an application that was started
    /// again after a failure has written since. A fence is not: it proves whether somebody has. Where that would repeat what
    /// happens once, a person decides: to `rerun`, or to `accept` what was done.
    ///
    /// `before` is where the steps stood when the last session ended.
    ///
    /// # Errors
    /// [`RunError::Undecided`] when a person has to decide.
    pub(super) fn come_too_early(
        &self,
        before: &BTreeMap<String, StepStatus>,
        rerun: Option<&str>,
        accept: bool,
    ) -> Result<Vec<EventKind>, RunError> {
        let over = |step: &str| self.state.status(step).satisfies();
        let came_short = |need: &String| {
            matches!(before.get(need), Some(StepStatus::Failed | StepStatus::Blocked))
                || !over(need) && !self.is_open_only_again(need)
        };
        let early = self
            .plan
            .steps
            .iter()
            .filter(|step| step.run_on != RunOn::Success && over(&step.id) && step.needs.iter().any(&came_short));
        let mut late = self.with_later(early.map(|step| step.id.as_str()));
        let wanted = self.with_later(rerun);
        loop {
            let reopened = |step: &Step| late.contains(step.id.as_str()) && over(&step.id);
            let ended = |step: &&Step| self.plan.steps.iter().any(|end| reopened(end) && end.ends(&step.id));
            let ended = self.plan.steps.iter().filter(ended).filter(|step| over(&step.id) && !self.is_proof(&step.id));
            let more: Vec<&str> = ended.map(|step| step.id.as_str()).filter(|step| !late.contains(step)).collect();
            if accept || more.is_empty() {
                break;
            }
            for ended in more {
                let again = self.with_later([ended]);
                if !wanted.contains(ended) {
                    self.refuse_to_repeat(ended, again.iter().copied().filter(|step| !late.contains(step)))?;
                }
                late.extend(again);
            }
        }
        let reason = "a step before it had failed and is done again".to_owned();
        let late = late.into_iter().filter(|step| over(step));
        Ok(late.map(|step| EventKind::StepReopened { step: step.to_owned(), reason: reason.clone() }).collect())
    }

    /// Refuses to do steps again that have done what happens once, after one that set up what was ended meanwhile.
    fn refuse_to_repeat<'s>(&self, ended: &str, steps: impl Iterator<Item = &'s str>) -> Result<(), RunError> {
        let once = |action: &ActionState| {
            action.status == ActionStatus::Finished
                && matches!(action.action.effect, Effect::Opaque | Effect::Transaction)
        };
        let is_once = |step: &&str| self.state.steps.get(*step).is_some_and(|state| state.actions.iter().any(once));
        let again: Vec<&str> = steps.filter(is_once).collect();
        if again.is_empty() {
            return Ok(());
        }
        let message = format!(
            "what `{ended}` had set up was ended after a failure, and `{}` would have to be done again with it",
            again.join("`, `")
        );
        let error = StepError::new(ErrorKind::NeedsPerson, message)
            .detail("pgplan does not repeat by itself what happens once")
            .help(format!("do all of it again with --rerun {ended}, or keep what was done with --accept"));
        Err(RunError::Undecided(Box::new(error)))
    }

    /// Returns whether a step proves anew what it had proved.
    fn is_proof(&self, step: &str) -> bool {
        self.state.steps.get(step).is_some_and(|state| state.actions.iter().any(|action| action.action.proof))
    }

    /// Returns whether a step was done and is open only because what it gave or proved does not last.
    fn is_open_only_again(&self, step: &str) -> bool {
        let lasts_not = |action: &ActionState| action.action.volatile || action.action.proof;
        self.state.steps.get(step).is_some_and(|state| {
            let mut actions = state.actions.iter();
            !state.actions.is_empty() && actions.all(|one| lasts_not(one) || one.status == ActionStatus::Finished)
        })
    }

    /// Begins a step anew, and every step after it that has been begun.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub(super) fn rerun(&mut self, step: &str) -> Result<(), RunError> {
        let reached = self.with_later([step]);
        let begun = self.plan.steps.iter().filter(|step| reached.contains(step.id.as_str()));
        let begun = begun.filter(|step| self.state.steps.contains_key(&step.id));
        let events = begun.map(|found| {
            let reason = if found.id == step { "it is to be done again" } else { "a step before it is done again" };
            EventKind::StepReopened { step: found.id.clone(), reason: reason.to_owned() }
        });
        let events = events.collect();
        self.record(events)
    }

    /// Returns whether a step has begun to end what this one set up.
    fn is_ended(&self, step: &str) -> bool {
        let begun = |id: &str| {
            let state = self.state.steps.get(id);
            state.is_some_and(|state| state.actions.iter().any(|action| action.started_at.is_some()))
        };
        self.plan.steps.iter().any(|later| later.ends(step) && begun(&later.id))
    }

    fn has_unfinished_descendant(&self, step: &str) -> bool {
        self.with_later([step]).into_iter().any(|later| later != step && !self.state.status(later).satisfies())
    }

    /// Returns steps with all that come after them, directly or not.
    fn with_later<'s>(&'s self, steps: impl IntoIterator<Item = &'s str>) -> BTreeSet<&'s str> {
        let mut reached: Vec<&str> = steps.into_iter().collect();
        let mut all: BTreeSet<&str> = reached.iter().copied().collect();
        while let Some(before) = reached.pop() {
            for step in self.plan.steps.iter().filter(|step| step.needs.iter().any(|need| need == before)) {
                if all.insert(&step.id) {
                    reached.push(&step.id);
                }
            }
        }
        all
    }
}
