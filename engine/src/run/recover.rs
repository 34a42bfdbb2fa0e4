//! Taking up a run: what becomes of the actions that a dead or interrupted session left begun.

use std::collections::BTreeSet;

use super::{Run, RunError};
use crate::{action::Effect, event::EventKind, plan::Step, state::ActionStatus};

/// How often in a row pgplan may end in the middle of an action before a person is asked what is going on.
pub const MOST_CUTS: u32 = 50;

impl Run<'_> {
    /// Decides about actions that a dead or interrupted session left begun, about volatile ones, and about steps whose
    /// text has changed.
    pub(super) fn recover(&mut self, changed: &[String], most_cuts: u32) -> Result<(), RunError> {
        let early = self.come_too_early();
        self.record(early)?;
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
        let edited = changed.iter().filter(|id| self.state.steps.contains_key(*id) && !self.state.status(id).is_over());
        events.extend(edited.map(|step| EventKind::StepChanged { step: step.clone() }));
        self.record(events)
    }

    /// Returns the reopening of steps that are over although one before them is not: `run_on: always` and `failure`
    /// let them run when it failed. It is done again now, and so are they after it: what starts an application must
    /// come after what stops it.
    fn come_too_early(&self) -> Vec<EventKind> {
        let open = |step: &&Step| {
            let state = self.state.steps.get(&step.id);
            // What is open only because its outputs ended with a session is no reason.
            let only_again = state.is_some_and(|state| {
                !state.actions.is_empty()
                    && state.actions.iter().all(|a| a.action.volatile || a.status == ActionStatus::Finished)
            });
            !self.state.status(&step.id).satisfies() && !only_again
        };
        let mut reached: Vec<&str> = self.plan.steps.iter().filter(open).map(|step| step.id.as_str()).collect();
        let mut late = BTreeSet::new();
        while let Some(before) = reached.pop() {
            for step in self.plan.steps.iter().filter(|step| step.needs.iter().any(|need| need == before)) {
                if late.insert(step.id.as_str()) {
                    reached.push(&step.id);
                }
            }
        }
        let over = late.into_iter().filter(|step| self.state.status(step).satisfies());
        let reason = "a step before it had failed and is done again".to_owned();
        over.map(|step| EventKind::StepReopened { step: step.to_owned(), reason: reason.clone() }).collect()
    }

    /// Begins a step anew, and every step after it that has been begun.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn rerun(&mut self, step: &str) -> Result<(), RunError> {
        let mut reached = BTreeSet::from([step.to_owned()]);
        for later in &self.plan.steps {
            if later.needs.iter().any(|need| reached.contains(need)) {
                reached.insert(later.id.clone());
            }
        }
        let begun = self.plan.steps.iter().filter(|step| reached.contains(&step.id));
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
        let mut reached = BTreeSet::from([step]);
        let mut found = false;
        for later in &self.plan.steps {
            if later.needs.iter().any(|need| reached.contains(need.as_str())) {
                reached.insert(&later.id);
                found |= !self.state.status(&later.id).satisfies();
            }
        }
        found
    }
}
