//! What a long look at servers is doing: a line that goes away on a terminal, now and then a line elsewhere.

use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar};
use pgplan_engine::world::Watch;

use super::bar::spinner;
use crate::ui::{Tone, paint};

/// How often a look says what it does where lines stay; a quicker one says nothing.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Returns a watch that draws among these bars.
pub(crate) fn bars(bars: MultiProgress) -> Watch {
    let shown: Mutex<BTreeMap<String, ProgressBar>> = Mutex::default();
    Watch::new(move |step, doing| {
        let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
        match doing {
            Some(doing) => {
                let bar = shown.entry(step.to_owned()).or_insert_with(|| bars.add(spinner("")));
                bar.set_message(text(step, doing));
            }
            None => {
                if let Some(bar) = shown.remove(step) {
                    bar.finish_and_clear();
                }
            }
        }
    })
}

/// Returns a watch that prints lines on stderr.
pub(crate) fn lines() -> Watch {
    let spoke: Mutex<BTreeMap<String, Instant>> = Mutex::default();
    Watch::new(move |step, doing| {
        let mut spoke = spoke.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(doing) = doing else {
            spoke.remove(step);
            return;
        };
        let last = spoke.entry(step.to_owned()).or_insert_with(Instant::now);
        if last.elapsed() >= LINE_EVERY {
            *last = Instant::now();
            if writeln!(anstream::stderr(), "{}", text(step, doing)).is_err() {
                tracing::debug!("stderr is closed");
            }
        }
    })
}

fn text(step: &str, doing: &str) -> String {
    format!("{} looking at {doing}", paint(step, Tone::Strong))
}
