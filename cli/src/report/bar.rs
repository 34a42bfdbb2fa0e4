//! A run on a terminal: the lines of [`super::line`], and below them a bar for each action that is being done.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use pgplan_engine::{
    event::{Event, EventKind},
    run::Reporter,
    state::RunState,
};

use super::line;
use crate::args::Hints;

/// Bars on stderr.
pub(crate) struct Bar {
    bars: MultiProgress,
    held: Held,
    running: BTreeMap<(String, String), ProgressBar>,
    hints: Hints,
}

impl Bar {
    /// Returns a reporter that draws on stderr.
    pub(crate) fn new(hints: Hints) -> Self {
        Self { bars: MultiProgress::new(), held: Held::default(), running: BTreeMap::new(), hints }
    }

    /// Returns a handle that can clear the bars for a moment while something else uses the terminal.
    pub(crate) fn handle(&self) -> MultiProgress {
        self.bars.clone()
    }

    /// Returns what keeps the bars away while a question is asked.
    pub(crate) fn quiet(&self) -> Quiet {
        Quiet { bars: self.bars.clone(), held: Arc::clone(&self.held) }
    }

    fn spinner(title: &str) -> ProgressBar {
        let bar = ProgressBar::no_length().with_style(spinner_style()).with_message(title.to_owned());
        bar.enable_steady_tick(Duration::from_millis(120));
        bar
    }
}

/// The lines that came up while a question is asked; absent when none is.
type Held = Arc<Mutex<Option<Vec<String>>>>;

/// Keeps the bars away from a question. The run goes on meanwhile: its lines are printed after the answer.
#[derive(Clone)]
pub(crate) struct Quiet {
    bars: MultiProgress,
    held: Held,
}

impl Quiet {
    /// Asks, with nothing else written to the terminal.
    pub(crate) fn during<R>(&self, ask: impl FnOnce() -> R) -> R {
        if let Err(error) = self.bars.clear() {
            tracing::debug!(%error, "the bars cannot be cleared");
        }
        self.bars.set_draw_target(ProgressDrawTarget::hidden());
        let held = || self.held.lock().unwrap_or_else(PoisonError::into_inner);
        *held() = Some(Vec::new());
        let answer = ask();
        self.bars.set_draw_target(ProgressDrawTarget::stderr());
        let lines = held().take().unwrap_or_default();
        for line in lines {
            if let Err(error) = self.bars.println(line) {
                tracing::debug!(%error, "a line cannot be printed");
            }
        }
        answer
    }
}

fn spinner_style() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {wide_msg} {elapsed:>6}")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn bytes_style() -> ProgressStyle {
    let template =
        "{spinner} {msg:40!} {bar:20} {binary_bytes:>10}/{binary_total_bytes} {binary_bytes_per_sec} ETA {eta}";
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Reporter for Bar {
    fn event(&mut self, event: &Event, state: &RunState) -> io::Result<()> {
        match &event.kind {
            EventKind::ActionStarted { step, action, .. } => {
                let found = state.steps.get(step).and_then(|state| state.action(action));
                let title = found.map_or(action.as_str(), |found| found.action.title.as_str());
                let bar = self.bars.add(Self::spinner(&format!("{step}: {title}")));
                self.running.insert((step.clone(), action.clone()), bar);
                return Ok(());
            }
            EventKind::ActionProgress { step, action, bytes, rows, total } => {
                if let Some(bar) = self.running.get(&(step.clone(), action.clone())) {
                    if let Some(total) = total.filter(|total| *total > 0) {
                        if bar.length().is_none() {
                            bar.set_style(bytes_style());
                        }
                        bar.set_length(total.max(*bytes));
                        bar.set_position(*bytes);
                    } else {
                        bar.set_message(format!("{step}: {}", line::progress_text(*bytes, *rows, None)));
                    }
                }
                return Ok(());
            }
            EventKind::ActionFinished { step, action, .. }
            | EventKind::ActionFailed { step, action, .. }
            | EventKind::ActionIndeterminate { step, action } => {
                if let Some(bar) = self.running.remove(&(step.clone(), action.clone())) {
                    bar.finish_and_clear();
                }
            }
            EventKind::RunEnded { .. } | EventKind::RunInterrupted { .. } => self.bars.clear()?,
            _ => {}
        }
        match line::text(event, state) {
            Some(text) => {
                let text = self.hints.complete(&text);
                match self.held.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
                    Some(held) => held.push(text),
                    None => return self.bars.println(text),
                }
                Ok(())
            }
            None => Ok(()),
        }
    }
}
