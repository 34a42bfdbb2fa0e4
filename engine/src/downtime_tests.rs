//! Predictions from records that are written down here.

use std::path::PathBuf;

use super::*;
use crate::{check, event::Holder, timing::Machine, timing::TimedServer};

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
    let times = [("before", 900, 0), ("stop", 50, 40), ("dump", 10_000, 10), ("write", 7_000, 0), ("verify", 4_000, 5)];
    let steps = times.into_iter().chain([("start", 20, 0), ("after", 500, 0)]).map(|(id, ms, survey_ms)| TimedStep {
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
    assert!(!whole.passes_budget() && !whole.may_pass_budget());
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// Returns a run whose downtime began in second 100; each step began when the second says and ended at the other.
fn under_way(steps: &[(&str, i64, Option<i64>)]) -> RunState {
    let mut state = RunState::default();
    state.downtime.begin("stop", at(100));
    for (id, from, to) in steps {
        let status = if to.is_some() { StepStatus::Succeeded } else { StepStatus::Running };
        let step = StepState { status, started_at: Some(at(*from)), ended_at: to.map(at), ..StepState::default() };
        state.steps.insert((*id).to_owned(), step);
    }
    state
}

#[test]
fn the_rest_is_the_longest_path_over_all_that_has_not_ended() {
    let plan = plan();
    let rehearsals = [rehearsal(&plan, 1)];
    let forecast = Forecast::of(&plan, &rehearsals, None, &now(1_000_000), "here").unwrap();
    let rest =
        |steps: &[(&str, i64, Option<i64>)], second: i64| forecast.rest(&under_way(steps), at(second)).as_secs_f64();
    let stopped = ("stop", 100, Some(101));
    // `write` is about to begin; what comes after it waits for `dump`, too, which takes 10 s.
    assert_eq!(rest(&[stopped], 101), 10.0 + 4.0 + 1.0);
    assert_eq!(rest(&[stopped, ("dump", 101, None)], 104), 7.0 + 4.0 + 1.0);
    // A step that lasts longer than it should is taken to end now: then `write` is the longest path.
    assert_eq!(rest(&[stopped, ("dump", 101, None)], 121), 1.0 + 4.0 + 1.0);
    let moved = [stopped, ("dump", 101, Some(111)), ("write", 101, Some(102))];
    assert_eq!(rest(&moved, 111), 4.0 + 1.0);
    assert_eq!(rest(&[moved.as_slice(), &[("verify", 111, Some(115))]].concat(), 115), 1.0);
    // Before the downtime all of it is to come, and after it nothing.
    assert_eq!(forecast.rest(&RunState::default(), at(0)).as_secs_f64(), 16.0);
    let mut over = under_way(&[moved.as_slice(), &[("verify", 111, Some(115)), ("start", 115, Some(116))]].concat());
    over.downtime.end("start", at(116), &[]);
    assert_eq!(forecast.rest(&over, at(130)).as_secs_f64(), 0.0);
}

#[test]
fn what_an_earlier_session_has_done_of_a_step_counts_whole() {
    let plan = plan();
    let rehearsals = [rehearsal(&plan, 1)];
    let forecast = Forecast::of(&plan, &rehearsals, None, &now(1_000_000), "here").unwrap();
    let mut state = under_way(&[("stop", 100, Some(101)), ("dump", 101, None)]);
    state.holder = Some(Holder {
        host: "here".to_owned(),
        pid: 1,
        started: 1,
        user: "me".to_owned(),
        version: "0".to_owned(),
        since: at(3_600),
    });
    assert_eq!(forecast.rest(&state, at(3_602)).as_secs_f64(), 8.0 + 4.0 + 1.0);
}

/// Two windows with `work` between them; the first has two begins and two ends.
const WINDOWS: &str = "\
version: 1
name: small
databases:
  source: { url: postgres://u@h/db }
steps:
  - id: before
    downtime: begin
    command: { run: [a] }
  - id: stop
    downtime: begin
    command: { run: [a] }
  - id: dump
    downtime: end
    dump: { from: source }
  - id: write
    needs: [stop]
    downtime: end
    command: { run: [a] }
  - id: rescue
    needs: [stop]
    run_on: failure
    downtime: end
    command: { run: [a] }
  - id: verify
    needs: [dump, write]
    sql: { database: source, run: SELECT 1 }
  - id: start
    downtime: begin
    command: { run: [a] }
  - id: after
    downtime: end
    command: { run: [a] }
";

#[test]
fn the_windows_of_a_plan_are_summed_without_the_time_between_them() {
    let checked = check::check_text("plan.yaml", PathBuf::from("."), WINDOWS.to_owned(), &check::Options::default());
    let plan = checked.plan.unwrap_or_else(|| panic!("{:?}", checked.problems));
    let rehearsals = [rehearsal(&plan, 1)];
    let forecast = Forecast::of(&plan, &rehearsals, None, &now(1_000_000), "here").unwrap();
    let whole = forecast.whole();
    let steps: Vec<(&str, u64)> = whole.steps.iter().map(|step| (step.id.as_str(), step.ms)).collect();
    assert_eq!(steps, [("before", 1_000), ("stop", 1_000), ("dump", 10_000), ("start", 1_000), ("after", 1_000)]);
    assert_eq!(whole.ms, 12_000 + 2_000);
    assert!(!whole.reservations.iter().any(|line| line.contains("rescue")), "{:?}", whole.reservations);
    // Between the windows the second is to come.
    let done =
        [("before", 99, Some(100)), ("stop", 100, Some(101)), ("dump", 101, Some(111)), ("write", 101, Some(102))];
    let mut state = under_way(&done);
    state.downtime.end("dump", at(111), &[]);
    assert_eq!(forecast.rest(&state, at(112)).as_secs_f64(), 2.0);
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
