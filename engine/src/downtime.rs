//! How long the application will be down: predicted from what rehearsals and runs have measured.
//!
//! The window begins when the step with `downtime: begin` has been surveyed and ends with the step with `downtime: end`;
//! it is as long as the longest path between them. Each step on it takes as long as in the rehearsals, scaled by how much
//! the data has grown since. A step that a rehearsal only simulates takes as long as in the last run of the plan, else as
//! long as was assumed. What is said of the range is a bound for what was seen, widened; no promise.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    event::Outcome,
    plan::{Downtime, Plan, Step},
    quantity::duration,
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
            reservations.push("steps of the downtime were edited since the rehearsal".to_owned());
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

    /// Returns the whole window.
    #[must_use]
    pub fn whole(&self) -> Prediction {
        let path = self.longest(None, |span| span.likely);
        let sum = |of: fn(&Span) -> f64| self.longest(None, of).iter().map(|id| of(&self.spans[id])).sum::<f64>();
        Prediction {
            ms: rounded(sum(|span| span.likely)),
            low_ms: rounded(sum(|span| span.low)),
            high_ms: rounded(sum(|span| span.high)),
            budget_ms: self.plan.downtime_budget.map(|budget| u64::try_from(budget.as_millis()).unwrap_or(u64::MAX)),
            rehearsals: self.rehearsals,
            newest: self.newest.at,
            steps: path
                .iter()
                .map(|id| (id, &self.spans[id]))
                .map(|(id, span)| PredictedStep { id: (*id).to_owned(), ms: rounded(span.likely), basis: span.basis })
                .collect(),
            reservations: self.reservations.clone(),
        }
    }

    /// Returns how long it takes from the begin of a step to the end of the window; `None` for a step outside of it.
    #[must_use]
    pub fn rest(&self, step: &str) -> Option<Duration> {
        let path = self.longest(Some(step), |span| span.likely);
        let ms: f64 = path.iter().map(|id| self.spans[id].likely).sum();
        (!path.is_empty()).then(|| Duration::from_millis(rounded(ms)))
    }

    /// Returns the longest path of the window, or the longest that begins with a step, in order.
    fn longest(&self, first: Option<&str>, of: impl Fn(&Span) -> f64) -> Vec<&'a str> {
        let mut known: BTreeMap<&str, (f64, Vec<&'a str>)> = BTreeMap::new();
        let mut open: Vec<&Step> =
            self.plan.steps.iter().filter(|step| self.window.contains(step.id.as_str())).collect();
        while !open.is_empty() {
            let before = open.len();
            open.retain(|step| {
                let needs: Vec<&str> =
                    step.needs.iter().map(String::as_str).filter(|need| self.window.contains(need)).collect();
                if needs.iter().any(|need| !known.contains_key(need)) {
                    return true;
                }
                let longest = needs.iter().map(|need| &known[need]);
                let longest = longest.max_by(|a, b| (!a.1.is_empty()).cmp(&!b.1.is_empty()).then(a.0.total_cmp(&b.0)));
                let (mut ms, mut path) = longest.cloned().unwrap_or_default();
                // What does not come after `first` does not count when only the rest is asked for.
                let counts = first.is_none_or(|first| first == step.id || path.contains(&first));
                if first == Some(step.id.as_str()) {
                    (ms, path) = (0.0, Vec::new());
                }
                if counts {
                    ms += of(&self.spans[step.id.as_str()]);
                    path.push(step.id.as_str());
                } else {
                    (ms, path) = (0.0, Vec::new());
                }
                known.insert(step.id.as_str(), (ms, path));
                false
            });
            if open.len() == before {
                break;
            }
        }
        let ends = self.plan.steps.iter().filter(|step| step.downtime == Some(Downtime::End));
        let paths = ends.filter_map(|step| known.remove(step.id.as_str()));
        paths.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, path)| path).unwrap_or_default()
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

/// Returns the steps that lie between the begin and the end of the downtime, with both.
fn window(plan: &Plan) -> BTreeSet<&str> {
    let marked = |mark: Downtime| plan.steps.iter().filter(move |step| step.downtime == Some(mark));
    let within = |step: &&Step| {
        let after = marked(Downtime::Begin).any(|begin| begin.id == step.id || plan.is_ancestor(&begin.id, &step.id));
        let before = marked(Downtime::End).any(|end| end.id == step.id || plan.is_ancestor(&step.id, &end.id));
        after && before
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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::{check, timing::Machine, timing::TimedServer};

    /// Two ways from `stop` to `start`: over `dump` and `load`, and over `write`; `before` and `after` lie outside.
    const PLAN: &str = "\
version: 1
name: small
downtime: { budget: 60s }
databases:
  source: { url: postgres://u@h/db }
steps:
  - id: before
    command: { run: [a] }
  - id: stop
    downtime: begin
    command: { run: [a] }
  - id: dump
    dump: { from: source }
  - id: write
    needs: [stop]
    command: { run: [a] }
  - id: verify
    needs: [dump, write]
    sql: { database: source, run: SELECT 1 }
  - id: start
    downtime: end
    point_of_no_return: true
    command: { run: [a] }
  - id: after
    command: { run: [a] }
";

    fn plan() -> Plan {
        let checked = check::check_text("plan.yaml", PathBuf::from("."), PLAN.to_owned(), &check::Options::default());
        checked.plan.unwrap_or_else(|| panic!("{:?}", checked.problems))
    }

    fn rehearsal(plan: &Plan, factor: u64) -> Timing {
        let times =
            [("before", 900, 0), ("stop", 50, 40), ("dump", 10_000, 10), ("write", 7_000, 0), ("verify", 4_000, 5)];
        let steps =
            times.into_iter().chain([("start", 20, 0), ("after", 500, 0)]).map(|(id, ms, survey_ms)| TimedStep {
                id: id.to_owned(),
                kind: plan.step(id).map_or("", |step| step.kind).to_owned(),
                ms: ms * factor,
                survey_ms,
                simulated: plan.step(id).is_some_and(|step| step.kind == "command"),
            });
        Timing {
            version: 1,
            id: factor.to_string(),
            plan: plan.name.clone(),
            fingerprint: plan.fingerprint.clone(),
            fingerprints: plan.steps.iter().map(|step| (step.id.clone(), step.fingerprint.clone())).collect(),
            at: Timestamp::UNIX_EPOCH,
            outcome: Outcome::Succeeded,
            machine: Machine { host: "here".to_owned(), cpus: 2, pgplan: "0".to_owned() },
            sample: None,
            assumed_ms: 1_000,
            servers: [(
                "source".to_owned(),
                TimedServer { version: "15".to_owned(), bytes: 1_000_000, rows: Some(5_000), share: 1.0 },
            )]
            .into(),
            downtime_ms: None,
            steps: steps.collect(),
            actions: Vec::new(),
        }
    }

    fn now(bytes: u64) -> BTreeMap<String, Size> {
        [("source".to_owned(), Size { bytes, rows: None })].into()
    }

    #[test]
    fn the_window_is_the_longest_path_and_simulated_steps_are_assumed() {
        let plan = plan();
        let rehearsals = [rehearsal(&plan, 1)];
        let forecast = Forecast::of(&plan, &rehearsals, None, &now(1_000_000), "here").unwrap();
        let whole = forecast.whole();
        let steps: Vec<(&str, u64, Basis)> =
            whole.steps.iter().map(|step| (step.id.as_str(), step.ms, step.basis)).collect();
        assert_eq!(
            steps,
            [
                ("stop", 1_000, Basis::Assumed),
                ("dump", 10_000, Basis::Rehearsed),
                ("verify", 4_000, Basis::Rehearsed),
                ("start", 1_000, Basis::Assumed)
            ]
        );
        assert_eq!((whole.ms, whole.low_ms, whole.high_ms), (16_000, 11_200, 22_800));
        assert_eq!(forecast.rest("start"), Some(Duration::from_millis(1_000)));
        assert_eq!(forecast.rest("verify"), Some(Duration::from_millis(5_000)));
        assert_eq!(forecast.rest("write"), Some(Duration::from_millis(6_000)));
        assert_eq!((forecast.rest("before"), forecast.rest("after")), (None, None));
        assert!(!whole.passes_budget() && !whole.may_pass_budget());
    }

    #[test]
    fn a_run_tells_of_the_application_and_growth_is_scaled() {
        let plan = plan();
        let rehearsals = [rehearsal(&plan, 1)];
        let run = rehearsal(&plan, 2);
        let forecast = Forecast::of(&plan, &rehearsals, Some(&run), &now(4_000_000), "here").unwrap().whole();
        // `stop` without what its survey took, then four times the data, then `start`.
        assert_eq!(forecast.ms, (100 - 40) + 40_000 + 16_000 + 40);
        assert!(forecast.steps.iter().all(|step| step.basis != Basis::Assumed));
        assert!(forecast.reservations.iter().any(|line| line.contains("4.00 times")), "{:?}", forecast.reservations);
        assert!(!forecast.passes_budget() && forecast.may_pass_budget());
    }

    #[test]
    fn rehearsals_that_differ_widen_the_range_and_a_sample_only_stands_in() {
        let plan = plan();
        let mut rehearsals = vec![rehearsal(&plan, 1), rehearsal(&plan, 3)];
        let whole = Forecast::of(&plan, &rehearsals, None, &now(1_000_000), "here").unwrap().whole();
        assert_eq!((whole.ms, whole.rehearsals), (1_000 + 20_000 + 8_000 + 1_000, 2));
        assert!(whole.low_ms <= 11_200 && whole.high_ms >= 42_000 * 6 / 5, "{whole:?}");
        let mut sampled = rehearsal(&plan, 9);
        sampled.sample = Some("db: …".to_owned());
        rehearsals.push(sampled);
        assert_eq!(Forecast::of(&plan, &rehearsals, None, &now(1_000_000), "here").unwrap().whole().rehearsals, 2);
        let mut alone = rehearsals.pop().unwrap();
        alone.servers.get_mut("source").unwrap().share = 0.5;
        let only = [alone];
        let scaled = Forecast::of(&plan, &only, None, &BTreeMap::new(), "there").unwrap().whole();
        assert_eq!(scaled.ms, 1_000 + 2 * (90_000 + 36_000) + 1_000);
        assert!(scaled.reservations.iter().any(|line| line.contains("not on this machine")));
    }

    #[test]
    fn nothing_is_predicted_without_a_window_or_a_rehearsal_to_the_end() {
        let plan = plan();
        let mut failed = rehearsal(&plan, 1);
        failed.outcome = Outcome::Failed;
        assert!(Forecast::of(&plan, &[failed], None, &BTreeMap::new(), "here").is_none());
        let mut unmarked = plan.clone();
        unmarked.steps.iter_mut().for_each(|step| step.downtime = None);
        assert!(Forecast::of(&unmarked, &[rehearsal(&plan, 1)], None, &BTreeMap::new(), "here").is_none());
    }
}
