//! What a run is doing at this moment, for a person who asks with SIGUSR1.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use pgplan_engine::{
    event::{Event, EventKind},
    run::Reporter,
    state::RunState,
};

use super::line::progress_text;
use crate::ui::{Tone, duration, paint};

/// Follows a run; clones see the same.
#[derive(Clone, Default)]
pub(crate) struct Now(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    run: String,
    steps: usize,
    over: usize,
    acting: BTreeMap<(String, String), Acting>,
}

struct Acting {
    title: String,
    since: Instant,
    progress: Option<String>,
}

impl Now {
    /// Returns what is being done, a line each: `now: dump: dump the server … for 12.0 s, 512 MiB of about 1.4 GiB`.
    pub(crate) fn text(&self) -> String {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = format!("run {}: {} of {} steps are over", seen.run, seen.over, seen.steps);
        for ((step, _), acting) in &seen.acting {
            let ms = u64::try_from(acting.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            let progress = acting.progress.as_ref().map(|text| format!(", {text}")).unwrap_or_default();
            let step = paint(step, Tone::Strong);
            text.push_str(&format!("\nnow: {step}: {} for {}{progress}", acting.title, duration(ms)));
        }
        text
    }
}

impl Reporter for Now {
    fn event(&mut self, event: &Event, state: &RunState) -> io::Result<()> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.run.clone_from(&state.id);
        seen.steps = state.step_fingerprints.len();
        match &event.kind {
            EventKind::ActionStarted { step, action, .. } => {
                let found = state.steps.get(step).and_then(|state| state.action(action));
                let title = found.map_or_else(|| action.clone(), |found| found.action.title.clone());
                let acting = Acting { title, since: Instant::now(), progress: None };
                seen.acting.insert((step.clone(), action.clone()), acting);
            }
            EventKind::ActionProgress { step, action, bytes, rows, total } => {
                if let Some(acting) = seen.acting.get_mut(&(step.clone(), action.clone())) {
                    acting.progress = Some(progress_text(*bytes, *rows, *total));
                }
            }
            EventKind::ActionFinished { step, action, .. }
            | EventKind::ActionFailed { step, action, .. }
            | EventKind::ActionIndeterminate { step, action } => {
                seen.acting.remove(&(step.clone(), action.clone()));
            }
            EventKind::StepFinished { .. }
            | EventKind::StepSkipped { .. }
            | EventKind::StepBlocked { .. }
            | EventKind::StepFailed { .. }
            | EventKind::RunResumed { .. } => {
                seen.over = state.steps.values().filter(|step| step.status.is_over()).count();
            }
            _ => {}
        }
        Ok(())
    }
}
