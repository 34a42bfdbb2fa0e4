//! What a step has done: its actions of now, and those of earlier doings whose effect stands.
//!
//! A step is begun anew when a person says so (`--rerun`), when one before it is done again, and when it was edited. That
//! takes nothing back: what it did before is kept here, for the way back, for receipts, and for kinds that remember how
//! things were before the run.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{ActionState, ActionStatus, IllegalMove, Move, StepState, StepStatus, moved};
use crate::{
    action::{Action, ActionGraph, Outputs},
    event::Event,
};

impl StepState {
    /// Returns the outputs of all finished actions; a later action's value wins.
    #[must_use]
    pub fn outputs(&self) -> Outputs {
        let finished = self.actions.iter().filter(|action| action.status == ActionStatus::Finished);
        finished.filter_map(|action| action.output.as_ref()).flat_map(|output| output.outputs.clone()).collect()
    }

    /// Returns which doing of an action this is, counted over `--rerun` and what was taken back: each has receipts of
    /// its own.
    #[must_use]
    pub fn generation_of(&self, action: &str) -> u32 {
        self.generation + self.action(action).map_or(0, |action| action.doing)
    }

    /// Returns the action of this id.
    #[must_use]
    pub fn action(&self, id: &str) -> Option<&ActionState> {
        self.actions.iter().find(|state| state.action.id == id)
    }

    /// Returns everything that the step has begun and that was not taken back, the oldest doing first.
    pub fn begun(&self) -> impl Iterator<Item = &ActionState> {
        self.doings().filter(|action| action.is_begun())
    }

    /// Returns what each action gave that was done and not taken back, the oldest doing first.
    pub(crate) fn given(&self) -> Vec<Outputs> {
        let outputs = self.begun().filter_map(|action| action.output.as_ref()).map(|output| output.outputs.clone());
        outputs.filter(|outputs| !outputs.is_empty()).collect()
    }

    /// Returns what was done and not taken back has given, earlier doings included; a later value wins.
    pub(super) fn standing_outputs(&self) -> Outputs {
        self.given().into_iter().flatten().collect()
    }

    /// Returns all actions, those of earlier doings first, also those that were taken back.
    pub(crate) fn doings(&self) -> impl Iterator<Item = &ActionState> {
        self.earlier.iter().chain(&self.actions)
    }

    /// Returns when the step began to do something that stands.
    pub(crate) fn first_begun_at(&self) -> Option<Timestamp> {
        self.earlier.iter().filter_map(|action| action.started_at).min().or(self.started_at)
    }

    /// Begins the step anew; what it has done stands.
    pub(super) fn reopen(&mut self) {
        let doings = self.actions.iter().map(|action| action.doing).max().unwrap_or_default();
        let mut earlier = std::mem::take(&mut self.earlier);
        earlier.extend(std::mem::take(&mut self.actions).into_iter().filter(ActionState::is_begun));
        *self = Self { generation: self.generation + doings + 1, earlier, ..Self::default() };
    }

    /// Puts a new list of actions in place. One that is to do the same under the same id stays as it is, with what takes it
    /// back; of one that is to do something else, and of one that is not listed any more, what was done stands.
    pub(super) fn expand(&mut self, graph: &ActionGraph, event: &Event) {
        let mut old: BTreeMap<String, ActionState> =
            std::mem::take(&mut self.actions).into_iter().map(|state| (state.action.id.clone(), state)).collect();
        for action in &graph.actions {
            let found = old.remove(&action.id);
            let found = found.filter(|state| state.status != ActionStatus::Pending || state.is_begun());
            self.actions.push(match found {
                None => ActionState::new(action.clone()),
                // Whether it was done is for a person to say, whatever it is to do now.
                Some(state) if state.action.op == action.op || state.status == ActionStatus::Indeterminate => {
                    ActionState { action: Action { undo: state.action.undo.clone(), ..action.clone() }, ..state }
                }
                Some(state) => {
                    // A receipt of one that was cut says whether it was done with its old text.
                    let doing = state.doing + u32::from(state.status == ActionStatus::Finished);
                    self.earlier.extend(Some(state).filter(ActionState::is_begun));
                    ActionState { doing, ..ActionState::new(action.clone()) }
                }
            });
        }
        self.earlier.extend(old.into_values().filter(ActionState::is_begun));
        self.graph = ActionGraph { actions: Vec::new(), ..graph.clone() };
        (self.status, self.stale) = (StepStatus::Running, false);
        self.started_at.get_or_insert(event.at);
    }

    /// Moves all doings of an action on the way `back`; elsewhere, where a person says that it was taken back, the last.
    pub(super) fn move_back(&mut self, action: &str, by: Move, back: bool, event: &Event) -> Result<(), IllegalMove> {
        let mut any = false;
        let is_it = |state: &&mut ActionState| state.action.id == action;
        let earlier = if back { self.earlier.as_mut_slice() } else { &mut [] };
        for state in earlier.iter_mut().filter(is_it).filter(|state| state.status != ActionStatus::Undone) {
            state.status = next(state, by, event)?;
            state.undo_failed = by == Move::FailUndo;
            any = true;
        }
        match self.actions.iter_mut().find(is_it) {
            Some(state) if !any || moved(state.status, by).is_some() => {
                state.status = next(state, by, event)?;
                state.undo_failed = by == Move::FailUndo;
                if by == Move::Undo {
                    state.doing += 1;
                    state.output = None;
                    state.attempts = 0;
                }
            }
            None if !any => {
                return Err(IllegalMove {
                    seq: event.seq,
                    what: format!("{by:?} of action {action}, which is unknown"),
                });
            }
            Some(_) | None => {}
        }
        Ok(())
    }

    /// Takes an earlier doing that was being taken back for one that still is to be; returns whether there is one.
    pub(super) fn stands_again(&mut self, action: &str) -> bool {
        let mut any = false;
        for state in &mut self.earlier {
            if state.action.id == action && state.status == ActionStatus::Undoing {
                state.status = ActionStatus::Pending;
                any = true;
            }
        }
        any
    }

    /// Returns whether all that was begun has been taken back.
    pub(super) fn is_taken_back(&self) -> bool {
        let back = |action: &ActionState| action.status == ActionStatus::Undone || action.attempts == 0;
        self.doings().all(back)
    }
}

fn next(state: &ActionState, by: Move, event: &Event) -> Result<ActionStatus, IllegalMove> {
    moved(state.status, by).ok_or_else(|| IllegalMove {
        seq: event.seq,
        what: format!("{by:?} of action {} that is {:?}", state.action.id, state.status),
    })
}

impl ActionState {
    pub(super) fn new(action: Action) -> Self {
        Self {
            action,
            status: ActionStatus::Pending,
            attempts: 0,
            output: None,
            error: None,
            started_at: None,
            ended_at: None,
            retrying: false,
            cuts: 0,
            doing: 0,
            undo_failed: false,
        }
    }

    /// Returns whether it was begun and not taken back: its effect, or a part of it, may be there.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        match self.status {
            ActionStatus::Started
            | ActionStatus::Finished
            | ActionStatus::Failed
            | ActionStatus::Indeterminate
            | ActionStatus::Undoing => true,
            ActionStatus::Pending => self.attempts > 0,
            ActionStatus::Undone => false,
        }
    }
}
