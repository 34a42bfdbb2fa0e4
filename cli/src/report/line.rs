//! A run as plain lines: for pipes, logs and CI. The bar reporter prints the same lines above its bars.

use std::{
    collections::BTreeMap,
    io,
    time::{Duration, Instant},
};

use pgplan_engine::{
    event::{Event, EventKind, Outcome},
    plan::Downtime,
    quantity::counted,
    run::Reporter,
    state::{RunState, StepStatus},
};

use crate::ui::{Tone, bytes, duration, paint};

/// How often a long action says how far it is.
const PROGRESS_EVERY: Duration = Duration::from_secs(10);

/// Prints one line an event; `print` takes a finished line without its end.
pub(crate) struct Line<P> {
    print: P,
    spoke: BTreeMap<(String, String), Instant>,
}

impl<P: FnMut(&str) -> io::Result<()>> Line<P> {
    /// Returns a reporter over this way of printing.
    pub(crate) fn new(print: P) -> Self {
        Self { print, spoke: BTreeMap::new() }
    }

    fn progress(&mut self, step: &str, action: &str, text: &str) -> io::Result<()> {
        let key = (step.to_owned(), action.to_owned());
        let last = self.spoke.entry(key).or_insert_with(Instant::now);
        if last.elapsed() >= PROGRESS_EVERY {
            *last = Instant::now();
            return (self.print)(text);
        }
        Ok(())
    }
}

impl<P: FnMut(&str) -> io::Result<()>> Reporter for Line<P> {
    fn event(&mut self, event: &Event, state: &RunState) -> io::Result<()> {
        if let EventKind::ActionProgress { step, action, bytes: done, rows, total } = &event.kind {
            let text = format!("{} {}", label(step, action), progress_text(*done, *rows, *total));
            return self.progress(step, action, &text);
        }
        if let EventKind::ActionStarted { step, action, .. } = &event.kind {
            self.spoke.insert((step.clone(), action.clone()), Instant::now());
        }
        match text(event, state) {
            Some(text) => (self.print)(&text),
            None => Ok(()),
        }
    }
}

/// Returns how far an action is: `512 MiB of about 1.4 GiB (37 %), 12,000 rows`.
pub(crate) fn progress_text(done: u64, rows: u64, total: Option<u64>) -> String {
    let mut parts = Vec::new();
    if done > 0 || rows == 0 {
        parts.push(match total {
            Some(total) if total > 0 => {
                format!("{} of about {} ({} %)", bytes(done), bytes(total), (done * 100 / total).min(100))
            }
            _ => bytes(done),
        });
    }
    if rows > 0 {
        parts.push(counted(rows, "row"));
    }
    parts.join(", ")
}

fn label(step: &str, action: &str) -> String {
    if step == action { paint(step, Tone::Strong) } else { format!("{} {action}:", paint(step, Tone::Strong)) }
}

/// Returns the line that tells of a durable event; `None` for those that need no telling.
pub(crate) fn text(event: &Event, state: &RunState) -> Option<String> {
    let title = |step: &str, action: &str| {
        let found = state.steps.get(step).and_then(|state| state.action(action));
        found.map_or_else(|| action.to_owned(), |found| found.action.title.clone())
    };
    Some(match &event.kind {
        EventKind::RunStarted { plan, .. } => {
            format!("{} run {} of plan {plan}", paint("started", Tone::Strong), state.id)
        }
        EventKind::RunResumed { .. } => {
            let done = state.steps.values().filter(|step| step.status == StepStatus::Succeeded).count();
            let kept = match done {
                0 => String::new(),
                1 => "; 1 step is done and is not repeated".to_owned(),
                _ => format!("; {done} steps are done and are not repeated"),
            };
            format!("{} with run {} of plan {}{kept}", paint("going on", Tone::Strong), state.id, state.plan)
        }
        EventKind::StepSkipped { step, reason } => {
            format!("{} {} skipped: {reason}", paint("-", Tone::Dim), paint(step, Tone::Strong))
        }
        EventKind::StepBlocked { step, by } => {
            format!("{} {} blocked: it needs `{by}`", paint("!", Tone::Warn), paint(step, Tone::Strong))
        }
        EventKind::StepFailed { step, error, tolerated } => {
            let (mark, word) = if *tolerated { ("!", "failed, tolerated") } else { ("✗", "failed") };
            let tone = if *tolerated { Tone::Warn } else { Tone::Bad };
            format!("{} {} {word}: {error}", paint(mark, tone), paint(step, Tone::Strong))
        }
        EventKind::ActionStarted { step, action, attempt } => {
            let again = if *attempt > 1 { format!(" (attempt {attempt})") } else { String::new() };
            format!("{} {} {}{again}", paint("·", Tone::Dim), paint(step, Tone::Strong), title(step, action))
        }
        EventKind::ActionFinished { step, action, output, took_ms } => {
            let said = if output.summary.is_empty() { title(step, action) } else { output.summary.clone() };
            let took = paint(duration(*took_ms), Tone::Dim);
            format!("{} {} {said} {took}", paint("✓", Tone::Good), paint(step, Tone::Strong))
        }
        EventKind::ActionFailed { step, action, error, retry_in_ms: Some(wait), .. } => {
            let title = title(step, action);
            let step = paint(step, Tone::Strong);
            format!("{} {step} {title}: {error}; again in {}", paint("!", Tone::Warn), duration(*wait))
        }
        EventKind::ActionIndeterminate { step, action } => {
            let title = title(step, action);
            format!("{} {} cut in the middle: {title}", paint("✗", Tone::Bad), paint(step, Tone::Strong))
        }
        EventKind::ActionReset { step, action, reason } => {
            format!("{} {} {}: {reason}", paint("↻", Tone::Dim), paint(step, Tone::Strong), title(step, action))
        }
        EventKind::UndoStarted { reason } => format!("{} {reason}", paint("going back:", Tone::Strong)),
        EventKind::StepReopened { step, reason } => {
            format!("{} {} begins anew: {reason}", paint("↻", Tone::Dim), paint(step, Tone::Strong))
        }
        EventKind::StepChanged { step } => {
            format!("{} {} was edited and is looked at again", paint("↻", Tone::Dim), paint(step, Tone::Strong))
        }
        EventKind::StepApproved { step, by, .. } => {
            format!("{} {} approved by {by}", paint("✓", Tone::Good), paint(step, Tone::Strong))
        }
        EventKind::ActionUndone { step, action } => {
            format!("{} {} undone: {}", paint("↶", Tone::Good), paint(step, Tone::Strong), title(step, action))
        }
        EventKind::DowntimeMarked { step, mark, left } => {
            let word = match mark {
                Downtime::Begin => "downtime begins".to_owned(),
                Downtime::End if left.is_empty() => "downtime ends".to_owned(),
                Downtime::End => format!("is up again; the downtime goes on until {} is over", left.join(", ")),
            };
            format!("{} {} {word}", paint("◷", Tone::Warn), paint(step, Tone::Strong))
        }
        EventKind::Warned { step, message } => {
            let about = step.as_ref().map(|step| format!("{} ", paint(step, Tone::Strong))).unwrap_or_default();
            format!("{} {about}{message}", paint("warning:", Tone::Warn))
        }
        EventKind::ActionSaid { step, line, .. } => {
            format!("{} {}", paint(format!("  {step} |"), Tone::Dim), line)
        }
        EventKind::RunInterrupted { by } => format!("{} by {by}", paint("interrupted", Tone::Warn)),
        EventKind::RunEnded { outcome } => return ended(*outcome),
        EventKind::ProgramsFound { .. }
        | EventKind::StepExpanded { .. }
        | EventKind::StepFinished { .. }
        | EventKind::ActionUndoing { .. }
        | EventKind::ActionUndoFailed { .. }
        | EventKind::ActionFailed { retry_in_ms: None, .. }
        | EventKind::ActionProgress { .. } => return None,
    })
}

fn ended(outcome: Outcome) -> Option<String> {
    match outcome {
        Outcome::Paused => Some(paint("paused", Tone::Warn)),
        Outcome::Succeeded | Outcome::Failed | Outcome::NeedsPerson | Outcome::Undone | Outcome::Abandoned => None,
    }
}
