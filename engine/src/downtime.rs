//! How long the application will be down: predicted from what rehearsals and runs have measured.
//!
//! What is left of the plan is played through: each step begins when all that it needs are over, and takes as long as in
//! the rehearsals, scaled by how much the data has grown since. Begins and ends of the downtime make windows as they do in
//! a run (`state/windows.rs`), a begin counting from the end of its survey; the downtime is their sum. A step that a rehearsal only simulates takes as long as in the last run of the plan, else as
//! long as was assumed. What is said of the range is a bound for what was seen, widened; no promise.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    event::Outcome,
    plan::{Downtime, Plan, RunOn, Step},
    quantity::duration,
    state::{RunState, StepState, StepStatus, Window, Windows},
    timing::{TimedStep, Timing},
};

/// How far a step may be off beyond what was seen: a fifth.
const MARGIN: f64 = 0.2;
/// What is added to the margin for each factor of e between the data then and now.
const MARGIN_BY_SIZE: f64 = 0.25;
/// An assumed time may be this many times longer; or nothing at all.
const ASSUMED_FACTOR: f64 = 3.0;
/// How many of the newest rehearsals count.
const NEWEST: usize = 5;

/// Kinds whose time does not grow with the data.
const UNSCALED: [&str; 12] = [
    "scale",
    "repoint",
    "command",
    "tunnel",
    "provision",
    "deprovision",
    "notify",
    "approve",
    "record",
    "preflight",
    "create_database",
    "wait",
];

/// A predicted downtime, milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Prediction {
    /// What is likely.
    pub ms: u64,
    /// The lower end of the range.
    pub low_ms: u64,
    /// The upper end of the range.
    pub high_ms: u64,
    /// The plan's budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_ms: Option<u64>,
    /// How many rehearsals it is made of.
    pub rehearsals: usize,
    /// When the newest of them began.
    pub newest: Timestamp,
    /// Steps on the longest path, in order.
    pub steps: Vec<PredictedStep>,
    /// What the reader must know of it.
    pub reservations: Vec<String>,
}

/// A step of a prediction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PredictedStep {
    /// Its id.
    pub id: String,
    /// How long, milliseconds.
    pub ms: u64,
    /// Where that is from.
    pub basis: Basis,
}

/// Where a step's time is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// From rehearsals.
    Rehearsed,
    /// From the last run.
    Run,
    /// Assumed, as nothing has measured it.
    Assumed,
}

/// How large a server's data is now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Bytes of its databases.
    pub bytes: u64,
    /// Rows of its tables, where all are known.
    pub rows: Option<u64>,
}

/// How long a step takes, milliseconds.
#[derive(Debug, Clone, Copy)]
struct Span {
    likely: f64,
    low: f64,
    high: f64,
    basis: Basis,
}

/// When a step begins and ends, and which step it has waited for last.
#[derive(Debug)]
struct Played<'a> {
    from: Timestamp,
    to: Timestamp,
    after: Option<&'a str>,
}

/// How the rest of a run goes.
#[derive(Debug)]
struct Course<'a> {
    windows: Windows,
    played: BTreeMap<&'a str, Played<'a>>,
    end: Timestamp,
}

/// What is predicted for the steps of a plan.
#[derive(Debug)]
pub struct Forecast<'a> {
    plan: &'a Plan,
    spans: BTreeMap<&'a str, Span>,
    window: BTreeSet<&'a str>,
    newest: &'a Timing,
    rehearsals: usize,
    reservations: Vec<String>,
}

impl<'a> Forecast<'a> {
    /// Returns the forecast for a plan with a downtime that was rehearsed to its end; `run` is its last run, `now` how
    /// large the data of its databases is.
    #[must_use]
    pub fn of(
        plan: &'a Plan,
        rehearsals: &'a [Timing],
        run: Option<&Timing>,
        now: &BTreeMap<String, Size>,
        host: &str,
    ) -> Option<Self> {
        let window = window(plan);
        let whole: Vec<&Timing> =
            rehearsals.iter().filter(|one| one.outcome == Outcome::Succeeded && one.plan == plan.name).collect();
        let same: Vec<&Timing> = whole.iter().copied().filter(|one| is_same(plan, one, &window)).collect();
        let edited = same.is_empty();
        let mut counted = if edited { whole } else { same };
        // A sample only stands in where nothing was rehearsed with all of the data.
        if counted.iter().any(|one| one.sample.is_none()) {
            counted.retain(|one| one.sample.is_none());
        }
        counted.drain(..counted.len().saturating_sub(NEWEST));
        let newest = *counted.last().filter(|_| !window.is_empty())?;
        let mut reservations = Vec::new();
        if edited {
            reservations
                .push("steps of the downtime, or databases that they use, were edited since the rehearsal".to_owned());
        }
        if newest.machine.host != host {
            reservations.push(format!("rehearsed on {}, not on this machine", newest.machine.host));
        }
        if let Some(sample) = &newest.sample {
            reservations.push(format!("rehearsed with a sample: {sample}"));
        }
        let mut spans = BTreeMap::new();
        for step in plan.steps.iter().filter(|step| window.contains(step.id.as_str())) {
            let (span, said) = span(step, &counted, run, now);
            spans.insert(step.id.as_str(), span);
            reservations.extend(said);
        }
        let known = newest.servers.keys().any(|name| now.contains_key(name));
        match factor(newest, now, "dump") {
            Some(scale) if (scale - 1.0).abs() > 0.02 => {
                reservations.push(format!("the data is {scale:.2} times what was rehearsed; times are scaled by it"));
            }
            None if !known => {
                reservations.push("the size of the data now is not known: taken as it was at the rehearsal".to_owned());
            }
            Some(_) | None => {}
        }
        Some(Self { plan, spans, window, newest, rehearsals: counted.len(), reservations })
    }

    /// Returns the whole downtime.
    #[must_use]
    pub fn whole(&self) -> Prediction {
        let begin = (&RunState::default(), Timestamp::UNIX_EPOCH);
        let course = self.course(begin, |span| span.likely);
        let bound = |of: fn(&Span) -> f64| millis(self.course(begin, of).total());
        Prediction {
            ms: millis(course.total()),
            low_ms: bound(|span| span.low),
            high_ms: bound(|span| span.high),
            budget_ms: self.plan.downtime_budget.map(|budget| u64::try_from(budget.as_millis()).unwrap_or(u64::MAX)),
            rehearsals: self.rehearsals,
            newest: self.newest.at,
            steps: course.windows.iter().flat_map(|window| self.path(&course, window)).collect(),
            reservations: self.reservations.clone(),
        }
    }

    /// Returns how much longer the downtime of a run lasts from now on, all windows together.
    #[must_use]
    pub fn rest(&self, state: &RunState, now: Timestamp) -> Duration {
        let over = state.downtime.total(now).unwrap_or_default();
        Duration::from_millis(millis(self.course((state, now), |span| span.likely).total() - over))
    }

    /// Plays through what is left of a run: every step begins when all that it needs are over, and the marks make windows
    /// as those of a run do.
    ///
    /// Of a step that runs, what it has taken in this session is over; what an earlier session has done of it is not
    /// known, so it counts whole.
    fn course(&self, (state, now): (&RunState, Timestamp), of: impl Fn(&Span) -> f64) -> Course<'a> {
        let mut played: BTreeMap<&'a str, Played<'a>> = BTreeMap::new();
        let mut marks: Vec<(Timestamp, &Step, Downtime)> = Vec::new();
        let mut open: Vec<&'a Step> =
            self.plan.steps.iter().filter(|step| self.window.contains(step.id.as_str())).collect();
        while !open.is_empty() {
            let before = open.len();
            open.retain(|step| {
                let needs = || step.needs.iter().map(String::as_str).filter(|need| self.window.contains(need));
                if needs().any(|need| !played.contains_key(need)) {
                    return true;
                }
                let found = state.steps.get(&step.id);
                let status = state.status(&step.id);
                let last = needs().filter_map(|need| played.get_key_value(need)).max_by_key(|(_, played)| played.to);
                let from = last.map_or(now, |(_, played)| played.to);
                let lasts = SignedDuration::from_micros(micros(of(&self.spans[step.id.as_str()])));
                let left = match found.filter(|_| status == StepStatus::Running) {
                    Some(running) => (lasts - spent(step, running, state, now)).max(SignedDuration::ZERO),
                    None if status.is_over() => SignedDuration::ZERO,
                    None => lasts,
                };
                let to = from.checked_add(left).unwrap_or(Timestamp::MAX);
                if step.downtime == Some(Downtime::Begin) && status == StepStatus::Pending {
                    marks.push((from, step, Downtime::Begin));
                }
                if step.downtime == Some(Downtime::End) && !status.is_over() {
                    marks.push((to, step, Downtime::End));
                }
                played.insert(&step.id, Played { from, to, after: last.map(|(id, _)| *id) });
                false
            });
            if open.len() == before {
                break;
            }
        }
        // Of marks at the same time, that of a step which needs the other comes second.
        marks.sort_by_key(|(at, ..)| *at);
        let mut windows = state.downtime.clone();
        for (at, step, mark) in marks {
            match mark {
                Downtime::Begin => windows.begin(&step.id, at),
                Downtime::End => {
                    let over = |end: &str| {
                        let ended = played.get(end).is_some_and(|played| played.to <= at);
                        ended && !matches!(state.status(end), StepStatus::Failed | StepStatus::Blocked)
                    };
                    let left = windows.left(self.plan, &step.id, over);
                    windows.end(&step.id, at, &left);
                }
            }
        }
        let end = played.values().map(|played| played.to).max().unwrap_or(now);
        Course { windows, played, end }
    }

    /// Returns the steps of a window that make it as long as it is, in order.
    fn path(&self, course: &Course<'a>, window: &Window) -> Vec<PredictedStep> {
        let mut path = Vec::new();
        let mut at = window.ended().and_then(|end| course.played.get_key_value(end.step.as_str()));
        while let Some((id, played)) = at.filter(|(_, played)| played.from >= window.from || played.to > window.from) {
            let ms = millis(played.to.duration_since(played.from.max(window.from)));
            path.push(PredictedStep { id: (*id).to_owned(), ms, basis: self.spans[id].basis });
            at = played.after.and_then(|before| course.played.get_key_value(before));
        }
        path.reverse();
        path
    }
}

impl Course<'_> {
    fn total(&self) -> SignedDuration {
        self.windows.total(self.end).unwrap_or_default()
    }
}

impl Prediction {
    /// Returns whether what is likely passes the budget.
    #[must_use]
    pub fn passes_budget(&self) -> bool {
        self.budget_ms.is_some_and(|budget| self.ms > budget)
    }

    /// Returns whether only the upper end of the range passes the budget.
    #[must_use]
    pub fn may_pass_budget(&self) -> bool {
        !self.passes_budget() && self.budget_ms.is_some_and(|budget| self.high_ms > budget)
    }
}

/// Returns how much of a step's time is over; as in [`Timing`], a step begins when all that it needs are over, and one
/// that begins the downtime when it has been surveyed.
fn spent(step: &Step, running: &StepState, state: &RunState, now: Timestamp) -> SignedDuration {
    let needs = step.needs.iter().filter_map(|need| state.steps.get(need)?.ended_at).max();
    let began = needs.filter(|_| step.downtime != Some(Downtime::Begin)).or(running.started_at);
    let session = state.holder.as_ref().map(|holder| holder.since);
    began.max(session).map_or(SignedDuration::ZERO, |began| now.duration_since(began).max(SignedDuration::ZERO))
}

/// Returns the steps that lie between a begin and an end of the downtime, with both; those that run only after a failure
/// are no part of what is predicted.
fn window(plan: &Plan) -> BTreeSet<&str> {
    let marked = |mark: Downtime| plan.steps.iter().filter(move |step| step.downtime == Some(mark));
    let within = |step: &&Step| {
        let after = marked(Downtime::Begin).any(|begin| begin.id == step.id || plan.is_ancestor(&begin.id, &step.id));
        let before = marked(Downtime::End).any(|end| end.id == step.id || plan.is_ancestor(&step.id, &end.id));
        after && before && step.run_on != RunOn::Failure
    };
    plan.steps.iter().filter(within).map(|step| step.id.as_str()).collect()
}

/// Returns whether a rehearsal did the steps of the window as they are now.
fn is_same(plan: &Plan, one: &Timing, window: &BTreeSet<&str>) -> bool {
    let same = |step: &&Step| one.fingerprints.get(&step.id) == Some(&step.fingerprint);
    plan.steps.iter().filter(|step| window.contains(step.id.as_str())).all(|step| same(&step))
}

/// Returns how long a step will take, and what must be said of it.
fn span(
    step: &Step,
    counted: &[&Timing],
    run: Option<&Timing>,
    now: &BTreeMap<String, Size>,
) -> (Span, Option<String>) {
    let begins = step.downtime == Some(Downtime::Begin);
    let own = |timed: &TimedStep| timed.ms.saturating_sub(if begins { timed.survey_ms } else { 0 });
    let simulated = counted.iter().rev().find_map(|one| one.step(&step.id)).is_none_or(|timed| timed.simulated);
    let assumed = counted.last().map_or(0, |one| one.assumed_ms);
    if simulated {
        if let Some(timed) = run.and_then(|run| run.step(&step.id)) {
            let ms = float(own(timed));
            return (Span { likely: ms, low: ms * (1.0 - MARGIN), high: ms * (1.0 + MARGIN), basis: Basis::Run }, None);
        }
        let ms = float(assumed);
        let said = format!("`{}` was never measured: {} is assumed for it", step.id, duration(assumed));
        return (Span { likely: ms, low: 0.0, high: ms * ASSUMED_FACTOR, basis: Basis::Assumed }, Some(said));
    }
    let mut seen: Vec<(f64, f64)> = counted
        .iter()
        .filter_map(|one| {
            let timed = one.step(&step.id)?;
            let scale = if UNSCALED.contains(&step.kind) { 1.0 } else { factor(one, now, step.kind).unwrap_or(1.0) };
            Some((float(own(timed)) * scale, MARGIN + MARGIN_BY_SIZE * scale.ln().abs()))
        })
        .collect();
    seen.sort_by(|a, b| a.0.total_cmp(&b.0));
    let margin = seen.iter().map(|(_, margin)| *margin).fold(MARGIN, f64::max);
    let (least, most) = (seen.first().map_or(0.0, |one| one.0), seen.last().map_or(0.0, |one| one.0));
    let likely = match seen.len() {
        0 => 0.0,
        n if n % 2 == 1 => seen[n / 2].0,
        n => f64::midpoint(seen[n / 2 - 1].0, seen[n / 2].0),
    };
    let low = least * (1.0 - margin).max(0.0);
    (Span { likely, low, high: most * (1.0 + margin), basis: Basis::Rehearsed }, None)
}

/// Returns how many times the data that was rehearsed with the data is now; `None` when nothing of it is known. What
/// reads rows (`verify`) is scaled by rows, where they are known then and now; the rest by bytes.
fn factor(one: &Timing, now: &BTreeMap<String, Size>, kind: &str) -> Option<f64> {
    let (mut then_bytes, mut now_bytes, mut then_rows, mut now_rows) = (0.0, 0.0, Some(0.0), Some(0.0));
    for (name, server) in &one.servers {
        let Some(size) = now.get(name) else { continue };
        then_bytes += float(server.bytes) * server.share;
        now_bytes += float(size.bytes);
        then_rows = then_rows.zip(server.rows).map(|(sum, rows)| sum + float(rows) * server.share);
        now_rows = now_rows.zip(size.rows).map(|(sum, rows)| sum + float(rows));
    }
    // Without a size now, a sample still stands for all of the data.
    if now_bytes == 0.0 {
        let (whole, held) = one.servers.values().fold((0.0, 0.0), |(whole, held), server| {
            (whole + float(server.bytes), held + float(server.bytes) * server.share)
        });
        return (held > 0.0 && held < whole).then(|| whole / held);
    }
    let rows = then_rows.zip(now_rows).filter(|(then, now)| *then > 1000.0 && *now > 0.0 && kind == "verify");
    match rows {
        Some((then, now)) => Some(now / then),
        None => (then_bytes > 0.0).then(|| now_bytes / then_bytes),
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds and bytes are far below 2^52")]
fn float(number: u64) -> f64 {
    number as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time is not negative and fits")]
fn rounded(ms: f64) -> u64 {
    ms.max(0.0).round() as u64
}

fn micros(ms: f64) -> i64 {
    i64::try_from(rounded(ms * 1000.0)).unwrap_or(i64::MAX)
}

/// Returns milliseconds, rounded; a time that is negative counts as none.
fn millis(time: SignedDuration) -> u64 {
    u64::try_from((time.as_micros() + 500) / 1000).unwrap_or(0)
}

#[cfg(test)]
#[path = "downtime_tests.rs"]
mod tests;
