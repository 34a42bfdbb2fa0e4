//! The loop against a scripted world: failures, retries, lost sessions, and a journal cut at every event.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::*;
use crate::{
    action::{Effect, SeenServer},
    check,
    error::ErrorKind,
    journal::sqlite::process_start,
    state::{ActionStatus, StepStatus},
    timing::{Machine, TimedServer, TimedStep},
};

/// What a scripted action does at its next attempt.
#[derive(Debug, Clone)]
enum Act {
    Succeed,
    Fail(ErrorKind),
    Last(Duration),
    Hang,
}

#[derive(Default)]
struct Scripted {
    acts: Mutex<BTreeMap<String, Vec<Act>>>,
    effects: BTreeMap<String, Effect>,
    done: Mutex<Vec<String>>,
    at_once: Mutex<(usize, usize)>,
    per_step: usize,
    volatile: Option<String>,
    proof: Option<String>,
    /// The step whose survey sees the database `source`, and its bytes.
    sees: Option<(String, u64)>,
}

impl Scripted {
    fn new() -> Self {
        Self { per_step: 1, ..Self::default() }
    }

    fn act(self, action: &str, acts: &[Act]) -> Self {
        self.acts.lock().unwrap().insert(action.to_owned(), acts.to_vec());
        self
    }

    fn effect(mut self, step: &str, effect: Effect) -> Self {
        self.effects.insert(step.to_owned(), effect);
        self
    }

    fn done(&self) -> Vec<String> {
        self.done.lock().unwrap().clone()
    }
}

impl World for Scripted {
    async fn open(&self, step: &Step, _: LookCx) -> Result<Opened, StepError> {
        let effect = self.effects.get(&step.id).copied().unwrap_or(Effect::Restart);
        let items = if step.for_each.is_some() { vec!["a/", "b/", "c/", "d/"] } else { vec![""] };
        let mut actions = Vec::new();
        for item in items {
            for index in 0..self.per_step {
                let op = Op::Approve { message: String::new() };
                let mut action = Action::new(format!("{item}{index}"), format!("act {item}{index}"), op, effect);
                action.volatile = self.volatile.as_ref() == Some(&step.id);
                action.proof = self.proof.as_ref() == Some(&step.id);
                actions.push(match index.checked_sub(1) {
                    Some(before) => action.after([format!("{item}{before}")]),
                    None => action,
                });
            }
        }
        let seen = self.sees.iter().filter(|(sees, _)| *sees == step.id);
        let seen = seen.map(|(_, bytes)| ("source".to_owned(), SeenServer { bytes: *bytes, ..SeenServer::default() }));
        Ok(Opened::Actions(ActionGraph { servers: seen.collect(), ..ActionGraph::of(actions) }))
    }

    async fn perform(&self, step: &Step, action: &Action, cx: ActionCx) -> Result<Output, StepError> {
        let name = format!("{}/{}", step.id, action.id);
        let act = {
            let mut acts = self.acts.lock().unwrap();
            let left = acts.get_mut(&name).filter(|left| !left.is_empty());
            left.map_or(Act::Succeed, |left| left.remove(0))
        };
        {
            let mut at_once = self.at_once.lock().unwrap();
            at_once.0 += 1;
            at_once.1 = at_once.1.max(at_once.0);
        }
        tokio::task::yield_now().await;
        let result = match act {
            Act::Succeed => {
                self.done.lock().unwrap().push(name);
                Ok(Output::default().with("n", 1))
            }
            Act::Last(time) => {
                tokio::time::sleep(time).await;
                self.done.lock().unwrap().push(name);
                Ok(Output::default())
            }
            Act::Fail(kind) => Err(StepError::new(kind, "scripted")),
            Act::Hang => {
                cx.cancel.cancelled().await;
                Err(StepError::new(ErrorKind::Interrupted, "cancelled"))
            }
        };
        self.at_once.lock().unwrap().0 -= 1;
        result
    }

    async fn ensure(&self, _: &Step, _: LookCx) -> Result<(), StepError> {
        Ok(())
    }

    fn own_undo(&self, _: &Step, _: Arc<BTreeMap<String, Outputs>>) -> Result<Option<OwnUndo>, StepError> {
        Ok(None)
    }

    async fn settle(&self, _: BTreeMap<String, Receipted>, _: Arc<BTreeMap<String, Outputs>>) -> Vec<String> {
        Vec::new()
    }

    async fn close(&self) -> Vec<String> {
        Vec::new()
    }
}

fn plan(steps: &str) -> Plan {
    let text = format!("version: 1\nname: t\nsteps:\n{steps}");
    let checked = check::check_text("t.yaml", PathBuf::from("."), text, &check::Options::default());
    checked.plan.expect("the test's plan is valid")
}

fn me() -> Holder {
    let pid = std::process::id();
    Holder {
        host: "here".to_owned(),
        pid,
        started: process_start(pid).unwrap(),
        user: "me".to_owned(),
        version: "0".to_owned(),
        since: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn journal(folder: &tempfile::TempDir) -> Journal {
    let mut journal = Journal::open_folder(folder.path()).unwrap();
    journal.acquire("t", &me()).unwrap();
    journal
}

async fn apply(plan: &Plan, journal: &mut Journal, world: Scripted) -> (Arc<Scripted>, Ending, RunState) {
    let resumed = journal.runs().unwrap().iter().any(|run| run.id == "r");
    let run = match resumed {
        true => Run::resume(
            plan,
            journal,
            "r",
            me(),
            Direction::Forward { most_cuts: MOST_CUTS, rerun: None, accept: false },
            Vec::new(),
        ),
        false => Run::begin(plan, journal, "r", me(), Vec::new()),
    };
    let mut run = run.unwrap();
    let world = Arc::new(world);
    let ending = run.drive(&world, &Wishes::default(), &Stop::default()).await.unwrap();
    let state = run.state().clone();
    (world, ending, state)
}

const CHAIN: &str = "  - { id: a, approve: { message: m } }\n  - { id: b, approve: { message: m } }\n  - { id: c, approve: { message: m } }\n";

#[tokio::test]
async fn a_chain_is_done_in_order_and_only_once() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(CHAIN);
    let (world, ending, state) = apply(&plan, &mut journal(&folder), Scripted::new()).await;
    assert_eq!(ending, Ending::Ended(Outcome::Succeeded));
    assert_eq!(world.done(), ["a/0", "b/0", "c/0"]);
    assert_eq!(state.outcome, Some(Outcome::Succeeded));
}

#[tokio::test]
async fn a_failure_blocks_what_needs_it_and_the_next_session_goes_on_from_there() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(CHAIN);
    let mut journal = journal(&folder);
    let world = Scripted::new().act("b/0", &[Act::Fail(ErrorKind::Sql)]);
    let (world, ending, state) = apply(&plan, &mut journal, world).await;
    assert_eq!((ending, world.done()), (Ending::Ended(Outcome::Failed), vec!["a/0".to_owned()]));
    assert_eq!(state.status("c"), StepStatus::Blocked);
    let (world, ending, state) = apply(&plan, &mut journal, Scripted::new()).await;
    assert_eq!((ending, world.done()), (Ending::Ended(Outcome::Succeeded), vec!["b/0".to_owned(), "c/0".to_owned()]));
    assert_eq!(state.resumes, 1);
}

#[tokio::test]
async fn independent_steps_go_on_beside_a_failure() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan("  - { id: a, approve: { message: m } }\n  - { id: b, needs: [], approve: { message: m } }\n");
    let world = Scripted::new().act("a/0", &[Act::Fail(ErrorKind::Sql)]);
    let (world, ending, _) = apply(&plan, &mut journal(&folder), world).await;
    assert_eq!((ending, world.done()), (Ending::Ended(Outcome::Failed), vec!["b/0".to_owned()]));
}

#[tokio::test]
async fn transient_errors_are_retried_and_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(
        "  - { id: a, approve: { message: m }, retry: { attempts: 3, delay: 1ms } }\n  - { id: b, needs: [], approve: { message: m }, retry: { attempts: 3, delay: 1ms } }\n",
    );
    let twice = [Act::Fail(ErrorKind::Connection), Act::Fail(ErrorKind::Connection)];
    let world = Scripted::new().act("a/0", &twice).act("b/0", &[Act::Fail(ErrorKind::Permission)]);
    let (world, ending, state) = apply(&plan, &mut journal(&folder), world).await;
    assert_eq!((ending, world.done()), (Ending::Ended(Outcome::Failed), vec!["a/0".to_owned()]));
    assert_eq!(state.steps["a"].actions[0].attempts, 3);
    assert_eq!(state.steps["b"].actions[0].attempts, 1);
}

#[tokio::test]
async fn a_timeout_cancels_and_fails_the_step() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan("  - { id: a, approve: { message: m }, timeout: 20ms }\n");
    let (_, ending, state) = apply(&plan, &mut journal(&folder), Scripted::new().act("a/0", &[Act::Hang])).await;
    assert_eq!(ending, Ending::Ended(Outcome::Failed));
    assert_eq!(state.steps["a"].error.as_ref().unwrap().kind, ErrorKind::Timeout);
}

#[tokio::test]
async fn a_tolerated_failure_is_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(
        "  - { id: a, approve: { message: m }, continue_on_error: true }\n  - { id: b, approve: { message: m } }\n",
    );
    let world = Scripted::new().act("a/0", &[Act::Fail(ErrorKind::Sql)]);
    let (world, ending, state) = apply(&plan, &mut journal(&folder), world).await;
    assert_eq!((ending, world.done()), (Ending::Ended(Outcome::Succeeded), vec!["b/0".to_owned()]));
    assert_eq!(state.warnings.len(), 1);
}

#[tokio::test]
async fn run_on_decides_with_regard_to_failures() {
    let steps = "  - { id: a, approve: { message: m } }\n  - { id: f, needs: [a], run_on: failure, approve: { message: m } }\n  - { id: z, needs: [a, f], run_on: always, approve: { message: m } }\n";
    let good = tempfile::tempdir().unwrap();
    let plan = plan(steps);
    let (world, _, state) = apply(&plan, &mut journal(&good), Scripted::new()).await;
    assert_eq!(world.done(), ["a/0", "z/0"]);
    assert_eq!(state.status("f"), StepStatus::Skipped);
    let bad = tempfile::tempdir().unwrap();
    let world = Scripted::new().act("a/0", &[Act::Fail(ErrorKind::Sql)]);
    let (world, ending, _) = apply(&plan, &mut journal(&bad), world).await;
    assert_eq!((ending, world.done()), (Ending::Ended(Outcome::Failed), vec!["f/0".to_owned(), "z/0".to_owned()]));
}

#[tokio::test]
async fn for_each_keeps_to_its_limit_and_without_fail_fast_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let plan =
        plan("  - { id: a, approve: { message: m }, for_each: [a, b, c, d], max_parallel: 2, fail_fast: false }\n");
    let mut world = Scripted::new().act("a/b/0", &[Act::Fail(ErrorKind::Sql)]);
    world.per_step = 2;
    let (world, ending, _) = apply(&plan, &mut journal(&folder), world).await;
    assert_eq!(ending, Ending::Ended(Outcome::Failed));
    let mut done = world.done();
    done.sort();
    assert_eq!(done, ["a/a/0", "a/a/1", "a/c/0", "a/c/1", "a/d/0", "a/d/1"]);
    assert!(world.at_once.lock().unwrap().1 <= 2);
}

#[tokio::test]
async fn an_opaque_action_that_was_cut_waits_for_a_person() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(CHAIN);
    let mut journal = journal(&folder);
    let world = Arc::new(Scripted::new().act("b/0", &[Act::Hang]).effect("b", Effect::Opaque));
    let stop = Stop::default();
    let mut run = Run::begin(&plan, &mut journal, "r", me(), Vec::new()).unwrap();
    let later = stop.clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(50)).await;
        later.ask("SIGINT");
    });
    let ending = run.drive(&world, &Wishes::default(), &stop).await.unwrap();
    assert_eq!(ending, Ending::Interrupted);
    drop(run);
    let (world, ending, _) = apply(&plan, &mut journal, Scripted::new().effect("b", Effect::Opaque)).await;
    assert_eq!((ending, world.done()), (Ending::Ended(Outcome::NeedsPerson), vec![]));
}

#[tokio::test]
async fn a_journal_cut_at_every_event_is_resumed_to_the_same_end() {
    let whole = tempfile::tempdir().unwrap();
    let plan = plan(CHAIN);
    let mut first = journal(&whole);
    let mut world = Scripted::new();
    world.per_step = 3;
    let (_, _, end) = apply(&plan, &mut first, world).await;
    let events = first.events("r").unwrap();
    for cut in 1..events.len() {
        let folder = tempfile::tempdir().unwrap();
        let mut journal = journal(&folder);
        journal.create_run("r", "t").unwrap();
        journal.append("r", &events[..cut]).unwrap();
        let finished_before: Vec<String> = events[..cut]
            .iter()
            .filter_map(|event| match &event.kind {
                EventKind::ActionFinished { step, action, .. } => Some(format!("{step}/{action}")),
                _ => None,
            })
            .collect();
        let mut world = Scripted::new();
        world.per_step = 3;
        let (world, ending, state) = apply(&plan, &mut journal, world).await;
        assert_eq!(ending, Ending::Ended(Outcome::Succeeded), "cut after event {cut}");
        assert!(world.done().iter().all(|done| !finished_before.contains(done)), "repeated after event {cut}");
        for (id, step) in &end.steps {
            assert_eq!(state.steps[id].status, step.status, "cut after event {cut}");
            assert!(state.steps[id].actions.iter().all(|action| action.status == ActionStatus::Finished));
        }
    }
}

#[tokio::test]
async fn a_journal_torn_in_the_middle_of_a_record_is_resumed_to_the_same_end() {
    let whole = tempfile::tempdir().unwrap();
    let plan = plan(CHAIN);
    // As long as the journal is open, its last records stand in the write-ahead log alone.
    let mut first = journal(&whole);
    apply(&plan, &mut first, Scripted::new()).await;
    let read = |name: &str| std::fs::read(whole.path().join(name)).unwrap();
    let (file, log) = (read("state.db"), read("state.db-wal"));
    let (mut cuts, mut anew) = (0, 0);
    for at in (0..=log.len()).step_by(1009) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("state.db"), &file).unwrap();
        std::fs::write(folder.path().join("state.db-wal"), &log[..at]).unwrap();
        let mut journal = journal(&folder);
        let known = journal.runs().unwrap().iter().any(|run| run.id == "r");
        let before = if known { journal.events("r").unwrap() } else { Vec::new() };
        let finished: Vec<String> = before
            .iter()
            .filter_map(|event| match &event.kind {
                EventKind::ActionFinished { step, action, .. } => Some(format!("{step}/{action}")),
                _ => None,
            })
            .collect();
        if known && before.is_empty() {
            // A run without its first event was never begun; the command line begins another.
            continue;
        }
        let (world, ending, state) = apply(&plan, &mut journal, Scripted::new()).await;
        assert_eq!(ending, Ending::Ended(Outcome::Succeeded), "torn at byte {at}");
        assert!(world.done().iter().all(|done| !finished.contains(done)), "repeated, torn at byte {at}");
        assert!(state.steps.values().all(|step| step.status == StepStatus::Succeeded), "torn at byte {at}");
        (cuts, anew) = (cuts + 1, anew + usize::from(!known));
    }
    assert!(cuts > 20 && anew < cuts, "{cuts} cuts, {anew} of them before the run");
}

#[tokio::test]
async fn what_runs_whatever_happened_runs_again_after_what_had_failed() {
    let folder = tempfile::tempdir().unwrap();
    let text = "  - { id: stop, approve: { message: m } }\n  - { id: work, approve: { message: m } }\n  - { id: start, run_on: always, approve: { message: m } }\n  - { id: look, approve: { message: m } }\n";
    let plan = plan(text);
    let mut journal = journal(&folder);
    let failing = Scripted::new().act("stop/0", &[Act::Fail(ErrorKind::Sql)]);
    let (world, ending, _) = apply(&plan, &mut journal, failing).await;
    assert_eq!((ending, world.done()), (Ending::Ended(Outcome::Failed), vec!["start/0".into(), "look/0".into()]));
    let (world, ending, _) = apply(&plan, &mut journal, Scripted::new()).await;
    assert_eq!(ending, Ending::Ended(Outcome::Succeeded));
    assert_eq!(world.done(), ["stop/0", "work/0", "start/0", "look/0"]);
}

#[tokio::test]
async fn what_is_done_stays_done_when_a_proof_before_it_is_cut_or_a_step_is_put_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let chain = plan(CHAIN);
    let mut journal = journal(&folder);
    let proof = || Scripted { proof: Some("a".to_owned()), ..Scripted::new() };
    let (_, ending, _) = apply(&chain, &mut journal, proof().act("c/0", &[Act::Fail(ErrorKind::Sql)])).await;
    assert_eq!(ending, Ending::Ended(Outcome::Failed));
    for kind in [ErrorKind::Connection, ErrorKind::Verification] {
        let (world, _, _) = apply(&chain, &mut journal, proof().act("a/0", &[Act::Fail(kind)])).await;
        assert_eq!(world.done(), [""; 0]);
    }
    let (_, ending, _) = apply(&chain, &mut journal, proof().act("c/0", &[Act::Fail(ErrorKind::Sql)])).await;
    assert_eq!(ending, Ending::Ended(Outcome::Failed));
    let longer = plan(&CHAIN.replace("  - { id: b", "  - { id: new, approve: { message: m } }\n  - { id: b"));
    let (world, ending, _) = apply(&longer, &mut journal, proof()).await;
    assert_eq!(ending, Ending::Ended(Outcome::Succeeded));
    assert_eq!(world.done(), ["a/0", "new/0", "c/0"]);
}

#[tokio::test]
async fn an_edit_is_noticed_by_the_session_after_one_that_went_back() {
    let folder = tempfile::tempdir().unwrap();
    let chain = plan(CHAIN);
    let mut journal = journal(&folder);
    apply(&chain, &mut journal, Scripted::new().act("c/0", &[Act::Fail(ErrorKind::Sql)])).await;
    let edited = plan(&CHAIN.replace("id: c, approve: { message: m }", "id: c, approve: { message: other }"));
    let back = Run::resume(&edited, &mut journal, "r", me(), Direction::Back, Vec::new()).unwrap();
    assert_eq!(back.state().step_fingerprints, super::step_fingerprints(&chain));
    drop(back);
    apply(&edited, &mut journal, Scripted::new()).await;
    let changed = |event: &Event| matches!(&event.kind, EventKind::StepChanged { step } if step == "c");
    assert_eq!(journal.events("r").unwrap().iter().filter(|event| changed(event)).count(), 1);
}

#[tokio::test]
async fn what_is_opened_again_is_open_before_what_comes_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(CHAIN);
    let mut journal = journal(&folder);
    let volatile = || Scripted { volatile: Some("a".to_owned()), ..Scripted::new() };
    let (_, ending, _) = apply(&plan, &mut journal, volatile().act("c/0", &[Act::Fail(ErrorKind::Sql)])).await;
    assert_eq!(ending, Ending::Ended(Outcome::Failed));
    let (world, ending, _) = apply(&plan, &mut journal, volatile()).await;
    assert_eq!((ending, world.done()), (Ending::Ended(Outcome::Succeeded), vec!["a/0".to_owned(), "c/0".to_owned()]));
    // The order in which they were begun is what counts: both could have been done in this order by chance.
    let events = journal.events("r").unwrap();
    let resumed = events.iter().position(|event| matches!(event.kind, EventKind::RunResumed { .. })).unwrap();
    let order: Vec<String> = events[resumed..]
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::ActionStarted { step, .. } => Some(format!("{step} begins")),
            EventKind::ActionFinished { step, .. } => Some(format!("{step} ends")),
            _ => None,
        })
        .collect();
    assert_eq!(order, ["a begins", "a ends", "c begins", "c ends"]);
}

#[tokio::test]
async fn what_cannot_be_opened_again_keeps_all_that_comes_after_it_from_running() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(CHAIN);
    let mut journal = journal(&folder);
    let volatile = || Scripted { volatile: Some("a".to_owned()), ..Scripted::new() };
    let (_, ending, _) = apply(&plan, &mut journal, volatile().act("c/0", &[Act::Fail(ErrorKind::Sql)])).await;
    assert_eq!(ending, Ending::Ended(Outcome::Failed));
    // `c` needs only `b`, which is over.
    let (world, ending, _) = apply(&plan, &mut journal, volatile().act("a/0", &[Act::Fail(ErrorKind::Sql)])).await;
    assert_eq!((ending, world.done()), (Ending::Ended(Outcome::Failed), Vec::<String>::new()));
    let (world, ending, _) = apply(&plan, &mut journal, volatile()).await;
    assert_eq!((ending, world.done()), (Ending::Ended(Outcome::Succeeded), vec!["a/0".to_owned(), "c/0".to_owned()]));
}

#[tokio::test]
async fn until_stops_after_a_step_and_the_rest_can_follow() {
    let folder = tempfile::tempdir().unwrap();
    let plan = plan(CHAIN);
    let mut journal = journal(&folder);
    let world = Arc::new(Scripted::new());
    let mut run = Run::begin(&plan, &mut journal, "r", me(), Vec::new()).unwrap();
    let wishes = Wishes { until: Some("b".to_owned()), ..Wishes::default() };
    let ending = run.drive(&world, &wishes, &Stop::default()).await.unwrap();
    assert_eq!((ending, world.done()), (Ending::Ended(Outcome::Paused), vec!["a/0".to_owned(), "b/0".to_owned()]));
    drop(run);
    let (world, ending, _) = apply(&plan, &mut journal, Scripted::new()).await;
    assert_eq!((ending, world.done()), (Ending::Ended(Outcome::Succeeded), vec!["c/0".to_owned()]));
}

/// Drives a new run with a budget; returns what was done, and the error of the step that was not begun because of it.
async fn within(plan: &Plan, world: Scripted, budget: Budget) -> (Vec<String>, Option<String>, RunState) {
    let folder = tempfile::tempdir().unwrap();
    let mut journal = journal(&folder);
    let world = Arc::new(world);
    let mut run = Run::begin(plan, &mut journal, "r", me(), Vec::new()).unwrap();
    let wishes = Wishes { budget: Some(budget), ..Wishes::default() };
    run.drive(&world, &wishes, &Stop::default()).await.unwrap();
    let refused = run.state().steps.values().find_map(|step| step.error.as_ref().map(|error| error.message.clone()));
    assert_eq!(run.is_over_budget(), refused.is_some());
    (world.done(), refused, run.state().clone())
}

/// Returns a budget with one rehearsal, in which the steps took so many seconds with 1000 bytes of data.
fn rehearsed(plan: &Plan, seconds: &[(&str, u64)]) -> Budget {
    let steps = seconds.iter().map(|(id, seconds)| TimedStep {
        id: (*id).to_owned(),
        kind: plan.step(id).unwrap().kind.to_owned(),
        ms: seconds * 1_000,
        survey_ms: 0,
        simulated: false,
    });
    let server = TimedServer { version: "15".to_owned(), bytes: 1_000, rows: None, share: 1.0 };
    let timing = Timing {
        version: 1,
        id: "rehearsal".to_owned(),
        plan: plan.name.clone(),
        fingerprint: plan.fingerprint.clone(),
        fingerprints: step_fingerprints(plan),
        at: jiff::Timestamp::UNIX_EPOCH,
        outcome: Outcome::Succeeded,
        machine: Machine { host: "here".to_owned(), cpus: 2, pgplan: "0".to_owned() },
        sample: None,
        assumed_ms: 0,
        servers: [("source".to_owned(), server)].into(),
        downtime_ms: None,
        steps: steps.collect(),
        actions: Vec::new(),
    };
    Budget { rehearsals: vec![timing], ..Budget::default() }
}

const TWO_PARTS: &str = "  - { id: web, downtime: begin, approve: { message: m } }
  - { id: work, approve: { message: m } }
  - { id: worker, downtime: begin, approve: { message: m } }
  - { id: go, point_of_no_return: true, approve: { message: m } }
  - { id: up-web, needs: [go], downtime: end, approve: { message: m } }
  - { id: up-worker, needs: [go], downtime: end, approve: { message: m } }
";

#[tokio::test]
async fn the_downtime_over_counts_from_the_first_of_several_begins() {
    let plan = plan(TWO_PARTS);
    let slow = || Scripted::new().act("work/0", &[Act::Last(Duration::from_millis(400))]);
    let limit = Duration::from_millis(300);
    let (done, refused, _) = within(&plan, slow(), Budget { limit, ..Budget::default() }).await;
    assert_eq!(done, ["web/0", "work/0", "worker/0"]);
    assert!(refused.unwrap().contains("`go`, the point of no return, was not begun"));
    let (done, refused, _) =
        within(&plan, slow(), Budget { limit: Duration::from_secs(60), ..Budget::default() }).await;
    assert_eq!((done.len(), refused), (6, None));
}

#[tokio::test]
async fn a_downtime_ends_when_the_last_of_its_ends_has() {
    let plan = plan(TWO_PARTS);
    let world = Scripted::new().act("up-worker/0", &[Act::Last(Duration::from_millis(300))]);
    let (_, _, state) = within(&plan, world, Budget { limit: Duration::from_secs(60), ..Budget::default() }).await;
    let windows: Vec<_> = state.downtime.iter().collect();
    assert_eq!(windows.len(), 1);
    assert_eq!((windows[0].begin_step.as_str(), windows[0].ended().unwrap().step.as_str()), ("web", "up-worker"));
    assert!(state.downtime().unwrap() >= jiff::SignedDuration::from_millis(300), "{:?}", state.downtime());
}

#[tokio::test]
async fn a_point_of_no_return_that_begins_the_downtime_keeps_to_the_budget() {
    let plan = plan(
        "  - { id: stop, downtime: begin, point_of_no_return: true, approve: { message: m } }\n  - { id: up, downtime: end, approve: { message: m } }\n",
    );
    let budget =
        |seconds: u64| Budget { limit: Duration::from_secs(seconds), ..rehearsed(&plan, &[("stop", 1), ("up", 4)]) };
    let (done, refused, state) = within(&plan, Scripted::new(), budget(2)).await;
    assert_eq!(done, Vec::<String>::new());
    assert!(refused.unwrap().contains("0s are over, and 5s more are predicted"));
    assert_eq!(state.downtime(), None);
    let (done, refused, _) = within(&plan, Scripted::new(), budget(6)).await;
    assert_eq!((done.len(), refused), (2, None));
}

#[tokio::test]
async fn the_rest_is_scaled_by_what_was_seen_before_the_run_else_by_what_a_step_saw_first() {
    let plan = plan(
        "  - { id: stop, downtime: begin, approve: { message: m } }\n  - { id: look, approve: { message: m } }\n  - { id: go, point_of_no_return: true, approve: { message: m } }\n  - { id: load, sql: { database: source, run: SELECT 1 } }\n  - { id: up, downtime: end, approve: { message: m } }\ndatabases: { source: { url: 'postgres://u@h/db' } }\n",
    );
    let budget = |sizes: &[(&str, u64)]| {
        let mut budget = rehearsed(&plan, &[("stop", 0), ("look", 0), ("go", 0), ("load", 10), ("up", 0)]);
        let sizes = sizes.iter().map(|(name, bytes)| ((*name).to_owned(), Size { bytes: *bytes, rows: None }));
        budget.sizes = sizes.collect();
        Budget { limit: Duration::from_secs(15), ..budget }
    };
    let sees = |bytes: u64| Scripted { sees: Some(("look".to_owned(), bytes)), ..Scripted::new() };
    let refused = |said: Option<String>| said.is_some_and(|said| said.contains("20s more are predicted"));
    // Nothing is known of the size, or it is as it was rehearsed.
    assert_eq!(within(&plan, Scripted::new(), budget(&[])).await.1, None);
    assert_eq!(within(&plan, Scripted::new(), budget(&[("source", 1_000)])).await.1, None);
    // Twice as much, as it was seen before the first step or by a step.
    assert!(refused(within(&plan, Scripted::new(), budget(&[("source", 2_000)])).await.1));
    assert!(refused(within(&plan, sees(2_000), budget(&[])).await.1));
    // What a step sees of a database that was seen before is what the run has made of it.
    assert_eq!(within(&plan, sees(2_000), budget(&[("source", 1_000)])).await.1, None);
}

#[tokio::test]
async fn the_rest_waits_for_what_runs_beside_the_point_of_no_return() {
    let plan = plan(
        "  - { id: stop, downtime: begin, approve: { message: m } }\n  - { id: verify, needs: [stop], approve: { message: m } }\n  - { id: side, needs: [stop], approve: { message: m } }\n  - { id: go, needs: [side], point_of_no_return: true, approve: { message: m } }\n  - { id: up, needs: [go, verify], downtime: end, approve: { message: m } }\n",
    );
    let budget = |limit: Duration| Budget {
        limit,
        ..rehearsed(&plan, &[("stop", 0), ("verify", 5), ("side", 0), ("go", 0), ("up", 0)])
    };
    let lasting = |ms: u64| vec![Act::Last(Duration::from_millis(ms))];
    let world = || Scripted::new().act("verify/0", &lasting(900)).act("side/0", &lasting(600));
    let (done, refused, _) = within(&plan, world(), budget(Duration::from_secs(4))).await;
    assert_eq!(done, ["stop/0", "side/0", "verify/0"]);
    assert!(refused.unwrap().contains("`go`, the point of no return, was not begun"));
    // Of the 5 s of `verify` those 600 ms are over that the downtime has lasted.
    let (done, refused, _) = within(&plan, world(), budget(Duration::from_millis(5_400))).await;
    assert_eq!((done.len(), refused), (5, None));
}
