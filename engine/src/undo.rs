//! Going back: what a run did is taken back in reverse order, up to the point of no return.

use std::sync::Arc;

use tokio::sync::mpsc::unbounded_channel;
use tokio_util::sync::CancellationToken;

use crate::{
    action::{Action, Effect},
    error::{ErrorKind, StepError},
    event::{EventKind, Outcome},
    op::Op,
    plan::{Plan, Step},
    run::{ActionCx, Ending, Run, RunError, Words, World},
    state::{ActionState, ActionStatus, RunState},
};

/// One thing to take back.
#[derive(Debug, Clone, PartialEq)]
pub struct Back {
    /// The step.
    pub step: String,
    /// The actions that are taken back with it: one, or all of a step that has an `undo` of its own.
    pub actions: Vec<String>,
    /// What is done; absent = nothing needs to be done (a check, a dump file, an approval).
    pub op: Option<Op>,
    /// For people.
    pub title: String,
}

/// What can be taken back, in the order in which it is, and what keeps the rest from it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WayBack {
    /// In order.
    pub backs: Vec<Back>,
    /// The step that is the point of no return, when it has been begun: what lies before it stays.
    pub stops_at: Option<String>,
}

/// Returns the way back of a run; `own` gives what a step's own `undo` says (`Some(None)`: nothing, on purpose).
///
/// # Errors
/// When a step's own `undo` cannot be rendered.
pub fn way_back(
    plan: &Plan,
    state: &RunState,
    own: impl Fn(&Step) -> Result<Option<Option<Op>>, StepError>,
) -> Result<WayBack, StepError> {
    let mut way = WayBack::default();
    let begun = |step: &Step| -> Vec<&ActionState> {
        let actions = state.steps.get(&step.id).map(|step| step.actions.as_slice()).unwrap_or_default();
        actions.iter().filter(|action| is_begun(action)).collect()
    };
    let mut steps: Vec<&Step> = plan.steps.iter().collect();
    steps.sort_by_key(|step| {
        let first = begun(step).iter().filter_map(|action| action.started_at).min();
        std::cmp::Reverse(first)
    });
    for step in steps {
        let actions = begun(step);
        if actions.is_empty() {
            continue;
        }
        if step.point_of_no_return {
            way.stops_at = Some(step.id.clone());
            break;
        }
        if let Some(op) = own(step)? {
            let ids = actions.iter().map(|action| action.action.id.clone()).collect();
            let title = format!("undo of {}", step.id);
            way.backs.push(Back { step: step.id.clone(), actions: ids, op, title });
            continue;
        }
        let mut last_first = actions;
        last_first.sort_by_key(|action| std::cmp::Reverse(action.started_at));
        way.backs.extend(last_first.into_iter().map(|action| Back {
            step: step.id.clone(),
            actions: vec![action.action.id.clone()],
            op: action.action.undo.as_deref().cloned(),
            title: format!("take back: {}", action.action.title),
        }));
    }
    Ok(way)
}

fn is_begun(action: &ActionState) -> bool {
    match action.status {
        ActionStatus::Started | ActionStatus::Finished | ActionStatus::Failed | ActionStatus::Indeterminate => true,
        ActionStatus::Pending => action.attempts > 0,
        ActionStatus::Undone => false,
    }
}

impl Run<'_> {
    /// Takes back what the run did, in reverse order; each thing taken back is on disk before the next begins.
    ///
    /// Ends as [`Outcome::Undone`] when everything up to the start or the point of no return was taken back, as
    /// [`Outcome::NeedsPerson`] when something could not be: the run is stuck until it is undone again.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn undo<W: World>(&mut self, world: &Arc<W>, stop: &CancellationToken) -> Result<Ending, RunError> {
        let outputs = self.outputs();
        let way = match way_back(self.plan, &self.state, |step| world.own_undo(step, Arc::clone(&outputs))) {
            Ok(way) => way,
            Err(error) => return self.stuck("the way back cannot be told", &error),
        };
        if let Some(step) = &way.stops_at {
            let message = format!("`{step}` is the point of no return: what was done up to it stays");
            self.record(vec![EventKind::Warned { step: Some(step.clone()), message }])?;
        }
        for back in way.backs {
            if stop.is_cancelled() {
                self.record(vec![EventKind::RunInterrupted { by: "a signal".to_owned() }])?;
                return Ok(Ending::Interrupted);
            }
            if let Some(op) = &back.op
                && let Err(error) = self.go_back(world, &back, op.clone(), stop).await
            {
                return self.stuck(&format!("`{}` could not be done", back.title), &error);
            }
            let (step, actions) = (back.step, back.actions);
            let events = actions.into_iter().map(|action| EventKind::ActionUndone { step: step.clone(), action });
            self.record(events.collect())?;
        }
        for message in world.close().await {
            self.record(vec![EventKind::Warned { step: None, message }])?;
        }
        let outcome = if way.stops_at.is_some() { Outcome::NeedsPerson } else { Outcome::Undone };
        self.record(vec![EventKind::RunEnded { outcome }])?;
        Ok(Ending::Ended(outcome))
    }

    async fn go_back<W: World>(
        &self,
        world: &Arc<W>,
        back: &Back,
        op: Op,
        stop: &CancellationToken,
    ) -> Result<(), StepError> {
        let Some(step) = self.plan.step(&back.step) else {
            return Err(StepError::new(ErrorKind::Refused, format!("the plan has no step `{}` any more", back.step)));
        };
        let action = Action::new(format!("undo-{}", back.actions.join("-")), &back.title, op, Effect::Opaque);
        let (sender, _inbox) = unbounded_channel();
        let cx = ActionCx {
            run: self.state.id.clone(),
            attempt: 1,
            cancel: stop.child_token(),
            outputs: self.outputs(),
            words: Words::new(&back.step, &action.id, sender),
        };
        world.perform(step, &action, cx).await.map(drop)
    }

    fn stuck(&mut self, what: &str, error: &StepError) -> Result<Ending, RunError> {
        let message = format!("the run is stuck on its way back: {what}: {error}; help: {}", error.advice());
        self.record(vec![
            EventKind::Warned { step: None, message },
            EventKind::RunEnded { outcome: Outcome::NeedsPerson },
        ])?;
        Ok(Ending::Ended(Outcome::NeedsPerson))
    }
}
