//! Going back: what a run did is taken back in reverse order, up to the point of no return.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::mpsc::unbounded_channel;

use crate::{
    action::{Action, Effect},
    error::{ErrorKind, StepError},
    event::{EventKind, Outcome},
    op::Op,
    plan::{Plan, Step},
    run::{ActionCx, Ending, OwnUndo, Run, RunError, Stop, Words, World},
    state::{ActionState, ActionStatus, RunState, StepState},
};

/// One thing to take back.
#[derive(Debug, Clone, PartialEq)]
pub struct Back {
    /// The step.
    pub step: String,
    /// The actions that are taken back with it: one, or all of a step that has an `undo` of its own.
    pub actions: Vec<String>,
    /// What is done, in this order; nothing = nothing needs to be done (a check, a dump file, an approval).
    pub ops: Vec<Op>,
    /// For people.
    pub title: String,
    /// Whether what was done stays, because nothing says how to take it back.
    pub stays: bool,
}

/// What can be taken back, in the order in which it is, and what keeps the rest from it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct WayBack {
    /// In order.
    pub backs: Vec<Back>,
    /// The step that is the point of no return, when it has been begun: what lies before it stays.
    pub stops_at: Option<String>,
}

/// Returns the way back of a run; `own` gives what a step's own `undo` says.
///
/// # Errors
/// When a step's own `undo` cannot be rendered, or is none for an item that was begun.
pub fn way_back(
    plan: &Plan,
    state: &RunState,
    own: impl Fn(&Step) -> Result<Option<OwnUndo>, StepError>,
) -> Result<WayBack, StepError> {
    let mut way = WayBack::default();
    let begun = |step: &Step| -> Vec<&ActionState> {
        state.steps.get(&step.id).map_or_else(Vec::new, |step| step.begun().collect())
    };
    // The last begun first. What a later session has opened or proved anew was begun again after steps that stand on it:
    // it is not taken back before them, nor when the point of no return lies after it.
    let mut waiting: Vec<&Step> = plan.steps.iter().filter(|step| !begun(step).is_empty()).collect();
    waiting.sort_by_key(|step| std::cmp::Reverse(state.steps.get(&step.id).and_then(StepState::first_begun_at)));
    let carries = |step: &Step, waiting: &[&Step]| waiting.iter().any(|later| plan.is_ancestor(&step.id, &later.id));
    while let Some(at) = waiting.iter().position(|step| !carries(step, &waiting)) {
        let step = waiting.remove(at);
        let actions = begun(step);
        if step.point_of_no_return {
            way.stops_at = Some(step.id.clone());
            break;
        }
        let mut doings: BTreeMap<&str, Vec<&ActionState>> = BTreeMap::new();
        for action in actions {
            doings.entry(&action.action.id).or_default().push(action);
        }
        let mut last_first: Vec<(&str, Vec<&ActionState>)> = doings.into_iter().collect();
        let last = |doings: &[&ActionState]| doings.iter().filter_map(|action| action.started_at).max();
        last_first.sort_by_key(|(_, doings)| std::cmp::Reverse(last(doings)));
        let ids = || last_first.iter().map(|(id, _)| (*id).to_owned());
        match own(step)? {
            Some(OwnUndo::Step(op)) => {
                let (ops, title) = (op.map(|op| *op).into_iter().collect(), format!("undo of {}", step.id));
                way.backs.push(Back { step: step.id.clone(), actions: ids().collect(), ops, title, stays: false });
            }
            Some(OwnUndo::Items(items)) => way.backs.extend(by_item(step, ids(), items)?),
            None => way.backs.extend(last_first.iter().filter_map(|(_, doings)| back_of(&step.id, doings))),
        }
    }
    Ok(way)
}

/// Returns how the doings of one action are taken back, given the oldest first: the last first, since each found things as
/// the one before had left them, and every way back once, as the oldest doing knows it.
fn back_of(step: &str, doings: &[&ActionState]) -> Option<Back> {
    let last = &doings.last()?.action;
    let mut ways: Vec<(&Op, &str)> = Vec::new();
    for doing in doings {
        if let Some(op) = doing.action.undo.as_deref()
            && !ways.iter().any(|(known, _)| is_same_way(known, op))
        {
            ways.push((op, &doing.action.title));
        }
    }
    ways.reverse();
    let stays = ways.is_empty() && doings.iter().any(|doing| is_lasting(&doing.action.op));
    let titles: Vec<&str> = ways.iter().map(|(_, title)| *title).collect();
    let title = match (stays, ways.is_empty()) {
        (true, _) => format!("stays as it is: {}", last.title),
        (false, true) => format!("take back: {}", last.title),
        (false, false) => format!("take back: {}", titles.join("; ")),
    };
    let ops = ways.into_iter().map(|(op, _)| op.clone()).collect();
    Some(Back { step: step.to_owned(), actions: vec![last.id.clone()], ops, title, stays })
}

/// Returns whether two operations bring the same thing back; what each found before it need not be the same.
fn is_same_way(one: &Op, other: &Op) -> bool {
    match (one, other) {
        (Op::Unfence(one), Op::Unfence(other)) => {
            (&one.step, &one.database, &one.on) == (&other.step, &other.database, &other.on)
        }
        _ => one == other,
    }
}

/// Returns what a step's own `undo` does for each item that was begun, the last first.
fn by_item(
    step: &Step,
    last_first: impl Iterator<Item = String>,
    mut items: BTreeMap<String, Option<Op>>,
) -> Result<Vec<Back>, StepError> {
    let mut begun: Vec<(String, Vec<String>)> = Vec::new();
    for id in last_first {
        let item = id.split_once('/').map_or(id.as_str(), |(item, _)| item).to_owned();
        match begun.iter_mut().find(|(known, _)| *known == item) {
            Some((_, actions)) => actions.push(id),
            None => begun.push((item, vec![id])),
        }
    }
    let back = |(item, actions): (String, Vec<String>)| {
        let Some(op) = items.remove(&item) else {
            let message = format!("`{}` was begun for the item `{item}`, which its `for_each` has no more", step.id);
            return Err(StepError::new(ErrorKind::Plan, message).help("put it back into the plan, then undo again"));
        };
        let title = format!("[{item}] undo of {}", step.id);
        Ok(Back { step: step.id.clone(), actions, ops: op.into_iter().collect(), title, stays: false })
    };
    begun.into_iter().map(back).collect()
}

/// Returns the id of what takes actions back; for those of one item of a `for_each` it begins with the item, as theirs do.
fn back_id(step: &Step, actions: &[String]) -> String {
    let inner = |id: &String| id.split_once('/').map(|(item, inner)| (item.to_owned(), inner.to_owned()));
    let parts: Option<Vec<(String, String)>> = actions.iter().map(inner).collect();
    match parts.filter(|_| step.for_each.is_some()).as_deref() {
        Some([(item, first), rest @ ..]) if rest.iter().all(|(other, _)| other == item) => {
            let inner = std::iter::once(first).chain(rest.iter().map(|(_, inner)| inner));
            format!("{item}/undo-{}", inner.cloned().collect::<Vec<_>>().join("-"))
        }
        _ => format!("undo-{}", actions.join("-")),
    }
}

/// Returns whether an operation that was cut in the middle may simply be done again.
fn is_repeatable(op: &Op) -> bool {
    match op {
        Op::Exec(exec) => exec.done_if.is_some(),
        // Its receipt tells.
        Op::RunSql(sql) => sql.transaction,
        Op::Tunnel(_)
        | Op::EditFile(_)
        | Op::RestoreFile { .. }
        | Op::CreateCluster(_)
        | Op::RemoveCluster { .. }
        | Op::CreateDatabase(_)
        | Op::DropDatabase(_)
        | Op::Vacuum(_)
        | Op::Compare { .. }
        | Op::JudgeComparison(_)
        | Op::Preflight(_)
        | Op::Dump(_)
        | Op::Filter(_)
        | Op::Restore(_)
        | Op::Fence(_)
        | Op::Unfence(_)
        | Op::StillQuiet(_)
        | Op::SchemaTrial(_)
        | Op::EndTrial(_)
        | Op::MapKeys(_)
        | Op::FillTables(_)
        | Op::ProveMerge(_)
        | Op::EmptyTables(_)
        | Op::Approve { .. }
        | Op::Remember { .. } => true,
    }
}

/// Returns whether an operation leaves something behind that is not pgplan's own.
fn is_lasting(op: &Op) -> bool {
    match op {
        Op::Exec(_) | Op::Restore(_) | Op::EditFile(_) | Op::CreateCluster(_) | Op::CreateDatabase(_) => true,
        Op::Fence(_) => true,
        Op::RunSql(sql) => !sql.read_only,
        Op::FillTables(_) => true,
        Op::ProveMerge(proof) => !proof.complete.is_empty(),
        Op::MapKeys(_)
        | Op::EmptyTables(_)
        | Op::Tunnel(_)
        | Op::RestoreFile { .. }
        | Op::RemoveCluster { .. }
        | Op::DropDatabase(_)
        | Op::Vacuum(_)
        | Op::Compare { .. }
        | Op::JudgeComparison(_)
        | Op::Preflight(_)
        | Op::Dump(_)
        | Op::Filter(_)
        | Op::Unfence(_)
        | Op::StillQuiet(_)
        | Op::SchemaTrial(_)
        | Op::EndTrial(_)
        | Op::Approve { .. }
        | Op::Remember { .. } => false,
    }
}

impl Run<'_> {
    /// Takes back what the run did, in reverse order; each thing taken back is on disk before the next begins.
    ///
    /// Ends as [`Outcome::Undone`] when everything was taken back, as [`Outcome::Paused`] when everything up to the
    /// point of no return was (the run can go on from there), and as [`Outcome::NeedsPerson`] when something could not
    /// be: the run is stuck until it is undone again.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn undo<W: World>(&mut self, world: &Arc<W>, stop: &Stop, reason: &str) -> Result<Ending, RunError> {
        let ending = tokio::select! {
            ending = self.take_back(world, stop, reason) => ending?,
            () = stop.at_once.cancelled() => Ending::Interrupted,
        };
        self.end(world, stop, &ending).await?;
        Ok(ending)
    }

    async fn take_back<W: World>(&mut self, world: &Arc<W>, stop: &Stop, reason: &str) -> Result<Ending, RunError> {
        let outputs = self.standing_outputs();
        let way = match way_back(self.plan, &self.state, |step| world.own_undo(step, Arc::clone(&outputs))) {
            Ok(way) => way,
            Err(error) => return self.stuck("the way back cannot be told", &error),
        };
        let mut events = vec![EventKind::UndoStarted { reason: reason.to_owned() }];
        if let Some(step) = &way.stops_at {
            let message = format!("`{step}` is the point of no return: what was done up to it stays");
            events.push(EventKind::Warned { step: Some(step.clone()), message });
        }
        self.record(events)?;
        if let Err(error) = self.open_again(world, &way, stop).await {
            return self.stuck("what is needed for the way back cannot be opened again", &error);
        }
        for back in way.backs {
            if stop.politely.is_cancelled() {
                return Ok(Ending::Interrupted);
            }
            let (step, run) = (&back.step, &self.state.id);
            let decide = format!(
                "look, then say `pgplan resolve {step} --as undo --run {run}` when it was taken back or \
                 `pgplan resolve {step} --as retry --run {run}` when it is to be taken back, and undo again"
            );
            let repeatable = back.ops.iter().all(is_repeatable);
            if self.was_cut(&back) && !repeatable {
                let message = format!("it is not known whether `{}` was done: it was cut in the middle", back.title);
                let error = StepError::new(ErrorKind::NeedsPerson, message).help(decide);
                return self.stuck("a person has to look", &error);
            }
            if back.stays {
                let message = format!("{}; nothing says how to take it back", back.title);
                self.record(vec![EventKind::Warned { step: Some(back.step.clone()), message }])?;
            }
            self.record(each(&back, |step, action| EventKind::ActionUndoing { step, action }))?;
            match self.go_back(world, &back, stop).await {
                Ok(warnings) => {
                    let step = Some(back.step.clone());
                    let warned = |message| EventKind::Warned { step: step.clone(), message };
                    self.record(warnings.into_iter().map(warned).collect())?;
                }
                Err(error) if error.kind == ErrorKind::Interrupted => return Ok(Ending::Interrupted),
                Err(error) => {
                    if has_ended(&error) {
                        let failed = |step, action| EventKind::ActionUndoFailed { step, action, error: error.clone() };
                        self.record(each(&back, failed))?;
                    }
                    let error = if has_ended(&error) || repeatable { error } else { error.help(decide) };
                    return self.stuck(&format!("`{}` could not be done", back.title), &error);
                }
            }
            self.record(each(&back, |step, action| EventKind::ActionUndone { step, action }))?;
        }
        Ok(Ending::Ended(if way.stops_at.is_some() { Outcome::Paused } else { Outcome::Undone }))
    }

    /// Opens again what lived only as long as an earlier session and what is to be taken back may need: tunnels,
    /// secrets read from a platform.
    async fn open_again<W: World>(&mut self, world: &Arc<W>, way: &WayBack, stop: &Stop) -> Result<(), StepError> {
        let wanted: Vec<&str> = way.backs.iter().filter(|back| !back.ops.is_empty()).map(|b| b.step.as_str()).collect();
        for step in &self.plan.steps {
            let needed = wanted.iter().any(|later| *later != step.id && self.plan.is_ancestor(&step.id, later));
            // What needs it has been begun, so it was done once; the last session may have ended before it was again.
            let begun = self.state.steps.get(&step.id).into_iter().flat_map(StepState::begun);
            let lost = begun.filter(|state| state.action.volatile && needed && !self.remembers(&step.id));
            for action in last_by_id(lost) {
                self.open_aside(world, step, &action, stop).await?;
            }
        }
        Ok(())
    }

    /// Does an action beside the events of the run, and keeps what it gave for this session.
    pub(crate) async fn open_aside<W: World>(
        &mut self,
        world: &Arc<W>,
        step: &Step,
        action: &Action,
        stop: &Stop,
    ) -> Result<(), StepError> {
        let cx = self.side_cx(&step.id, &action.id, stop);
        let output = world.perform(step, action, cx).await?;
        self.remember(&step.id, &output, true);
        Ok(())
    }

    fn was_cut(&self, back: &Back) -> bool {
        let cut = |doing: &ActionState| doing.status == ActionStatus::Undoing && !doing.undo_failed;
        let mut begun = self.state.steps.get(&back.step).into_iter().flat_map(StepState::begun);
        begun.any(|doing| cut(doing) && back.actions.contains(&doing.action.id))
    }

    fn side_cx(&self, step: &str, action: &str, stop: &Stop) -> ActionCx {
        let (sender, _inbox) = unbounded_channel();
        ActionCx {
            run: self.state.id.clone(),
            attempt: 1,
            generation: self.state.steps.get(step).map_or(0, |state| state.generation),
            cancel: stop.politely.child_token(),
            outputs: self.outputs(),
            words: Words::new(step, action, sender),
        }
    }

    /// Does what takes actions back; returns warnings.
    async fn go_back<W: World>(&self, world: &Arc<W>, back: &Back, stop: &Stop) -> Result<Vec<String>, StepError> {
        let mut warnings = Vec::new();
        for (index, op) in back.ops.iter().enumerate() {
            let Some(step) = self.plan.step(&back.step) else {
                let message = format!("the plan has no step `{}` any more", back.step);
                return Err(StepError::new(ErrorKind::Refused, message));
            };
            let id = back_id(step, &back.actions);
            let id = if index == 0 { id } else { format!("{id}-{index}") };
            let action = Action::new(id, &back.title, op.clone(), Effect::Opaque);
            let cx = self.side_cx(&back.step, &action.id, stop);
            warnings.extend(world.perform(step, &action, cx).await?.warnings);
        }
        Ok(warnings)
    }

    fn stuck(&mut self, what: &str, error: &StepError) -> Result<Ending, RunError> {
        let message = format!("the run is stuck on its way back: {what}: {error}");
        let lines = std::iter::once(message).chain(error.details.iter().cloned());
        let told = lines.chain([format!("help: {}", error.advice_in(true))]).collect::<Vec<_>>().join("\n  ");
        self.record(vec![EventKind::Warned { step: None, message: told }])?;
        Ok(Ending::Ended(Outcome::NeedsPerson))
    }
}

/// Returns whether an error says that what failed has ended by itself, as it does on the way forward: then it may be
/// done again. What was killed or lost is for a person.
fn has_ended(error: &StepError) -> bool {
    !matches!(error.kind, ErrorKind::Lost | ErrorKind::Timeout | ErrorKind::Interrupted)
}

/// Returns the last doing of each action.
pub(crate) fn last_by_id<'a>(doings: impl Iterator<Item = &'a ActionState>) -> Vec<Action> {
    let last: BTreeMap<&str, &Action> = doings.map(|doing| (doing.action.id.as_str(), &doing.action)).collect();
    last.into_values().cloned().collect()
}

fn each(back: &Back, event: impl Fn(String, String) -> EventKind) -> Vec<EventKind> {
    back.actions.iter().map(|action| event(back.step.clone(), action.clone())).collect()
}
