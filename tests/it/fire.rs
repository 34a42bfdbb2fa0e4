//! Strikes at random moments of a session of pgplan, and what a person does between two sessions.
#![expect(clippy::print_stdout, reason = "the seed repeats a run that failed")]

use std::{
    collections::BTreeMap,
    fs,
    process::Child,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;

use crate::{
    cluster::Cluster,
    env::{Outcome, TestEnv},
    live_claims::until,
};

/// Splitmix64: the same seed gives the same run.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("it is a number"))
}

/// Returns the dice of this run; `PGPLAN_CHAOS_SEED` repeats one.
pub(crate) fn dice() -> Dice {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map(|age| age.as_millis());
    let seed = number("PGPLAN_CHAOS_SEED", now.map_or(1, |ms| u64::try_from(ms).unwrap_or(1)));
    println!("seed {seed}");
    Dice(seed)
}

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Victim {
    Pgplan,
    Program,
    Backend,
    Target,
    Source,
}

/// How often each of them was.
pub(crate) type Struck = BTreeMap<Victim, u64>;

/// Strikes in rounds until there are enough, and tells how many there were of each kind.
pub(crate) fn rounds(kills: u64, most: u64, mut round: impl FnMut(u64) -> Struck) {
    let (mut struck, mut rounds) = (Struck::new(), 0);
    while struck.values().sum::<u64>() < kills {
        let left = kills - struck.values().sum::<u64>();
        for (victim, times) in round(left.min(most)) {
            *struck.entry(victim).or_default() += times;
        }
        rounds += 1;
    }
    println!("{} kills in {rounds} runs: {struck:?}", struck.values().sum::<u64>());
}

/// Returns the processes that were started with this test's folder in their environment.
fn processes_of(env: &TestEnv) -> Vec<(i32, String)> {
    let mark = format!("PGPLAN_FAKE_STATE={}", env.work().with_file_name("fakes").display());
    let entries = fs::read_dir("/proc").expect("Linux has /proc").flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    ids.filter_map(|id| {
        let environ = fs::read(format!("/proc/{id}/environ")).ok()?;
        let ours = environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes());
        let words = fs::read_to_string(format!("/proc/{id}/cmdline")).ok()?.replace('\0', " ");
        ours.then_some((id, words))
    })
    .collect()
}

fn send(pid: i32, signal: Signal) {
    // It may have ended by itself meanwhile.
    kill(Pid::from_raw(pid), signal).ok();
}

/// How a session of pgplan ended that may have been struck.
pub(crate) struct Session {
    pub(crate) said: Outcome,
    pub(crate) struck: Option<Victim>,
}

impl Session {
    /// Returns the exit code; `None` only when pgplan itself was killed.
    #[track_caller]
    pub(crate) fn code(&self) -> Option<i32> {
        let code = self.said.status.code();
        let killed = self.struck == Some(Victim::Pgplan);
        assert!(code.is_some() || killed, "{} by itself\n{}", self.said.status, self.said.stderr);
        code
    }

    /// Fails unless something was struck that can make a step fail.
    #[track_caller]
    pub(crate) fn is_excused(&self) {
        let excused = self.struck.is_some_and(|victim| victim != Victim::Pgplan);
        assert!(excused, "{} without a reason ({:?})\n{}", self.said.status, self.struck, self.said.stderr);
    }
}

/// Strikes at random moments.
pub(crate) struct Fire<'a> {
    pub(crate) dice: &'a mut Dice,
    /// How many strikes there are at most.
    pub(crate) budget: u64,
    /// What was struck.
    pub(crate) struck: Struck,
    sessions: u64,
}

impl<'a> Fire<'a> {
    pub(crate) fn new(dice: &'a mut Dice, budget: u64) -> Self {
        Self { dice, budget, struck: Struck::new(), sessions: 0 }
    }

    /// Runs pgplan and strikes once, if it has not ended by then; returns how it ended. All servers are up again.
    pub(crate) fn session(
        &mut self,
        env: &TestEnv,
        args: &[&str],
        source: &mut Cluster,
        target: &mut Cluster,
    ) -> Session {
        self.sessions += 1;
        let events = format!("events-{}.json", self.sessions);
        let mut child = env.command(&[args, &["--events", &events]].concat()).spawn().expect("pgplan starts");
        let aims = self.struck.values().sum::<u64>() < self.budget;
        let victim = match self.dice.below(10) {
            0..5 => Victim::Pgplan,
            5 => Victim::Program,
            6 | 7 => Victim::Backend,
            8 => Victim::Target,
            _ => Victim::Source,
        };
        // Some moments lie anywhere in time, others just behind an event, wherever in the run that is.
        let (after, wait) = match self.dice.below(3) {
            0 => (0, self.dice.below(150 + 60 * self.sessions)),
            _ => (1 + self.dice.below(50), self.dice.below(40)),
        };
        let path = env.work().join(events);
        let told = || fs::read(&path).unwrap_or_default().iter().filter(|byte| **byte == b'\n').count();
        let mut ended = || child.try_wait().expect("it can be asked").is_some();
        while aims && told() < usize::try_from(after).expect("it is small") && !ended() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let began = Instant::now();
        while aims && began.elapsed() < Duration::from_millis(wait) && !ended() {
            std::thread::sleep(Duration::from_millis(2));
        }
        let struck = (aims && !ended()).then(|| strike(victim, self.dice, &mut child, env, source, target));
        struck.into_iter().for_each(|victim| *self.struck.entry(victim).or_default() += 1);
        let said = Outcome::of(&child.wait_with_output().expect("pgplan ends"));
        target.revive();
        source.revive();
        Session { said, struck }
    }
}

/// Strikes once; returns what was struck, which need not be what was wanted when that was not there.
fn strike(
    victim: Victim,
    dice: &mut Dice,
    pgplan: &mut Child,
    env: &TestEnv,
    source: &mut Cluster,
    target: &mut Cluster,
) -> Victim {
    let mut one_of = |pids: Vec<i32>| {
        let at = dice.below(pids.len().max(1) as u64);
        usize::try_from(at).ok().and_then(|at| pids.get(at).copied())
    };
    match victim {
        Victim::Program => {
            let own = i32::try_from(pgplan.id()).expect("a process id fits");
            let programs = processes_of(env);
            let guarded = |words: &str| words.contains("__guard") || words.starts_with(env!("CARGO_BIN_EXE_pgplan"));
            let programs = programs.into_iter().filter(|(pid, words)| *pid != own && !guarded(words));
            if let Some(pid) = one_of(programs.map(|(pid, _)| pid).collect()) {
                send(pid, Signal::SIGKILL);
                return Victim::Program;
            }
        }
        Victim::Backend => {
            // As pg_terminate_backend does; asked of the server, its session would be one that a fence sees.
            if let Some(pid) = one_of([target.sessions(), source.sessions()].concat()) {
                send(pid, Signal::SIGTERM);
                return Victim::Backend;
            }
        }
        Victim::Target => {
            target.kill9();
            return Victim::Target;
        }
        Victim::Source => {
            source.kill9();
            return Victim::Source;
        }
        Victim::Pgplan => {}
    }
    send(i32::try_from(pgplan.id()).expect("a process id fits"), Signal::SIGKILL);
    Victim::Pgplan
}

/// Fails unless every session and program of pgplan's has ended.
pub(crate) fn nothing_runs_on(env: &TestEnv, servers: [&Cluster; 2]) {
    let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgplan%'";
    until("no session is left", || servers.iter().all(|server| server.psql("postgres", left) == "0"));
    until("no program is left", || processes_of(env).is_empty());
}

/// Returns how the newest run stands in one word; `None` when there is no run.
pub(crate) fn standing(env: &TestEnv) -> Option<String> {
    let runs = env.pgplan(&["runs", "--json"]).expect(0).stdout;
    let runs: Vec<Value> = serde_json::from_str(&runs).expect("runs prints JSON");
    runs.last().map(|run| run["status"].as_str().expect("a status is text").to_owned())
}

/// Does what a person does when pgplan does not know whether a step was done: looks, and says so. `is_done` looks at
/// the effect of a step.
pub(crate) fn decide(env: &TestEnv, said: &Outcome, servers: [&Cluster; 2], is_done: impl Fn(&str) -> bool) {
    // What was cut may still be on its way.
    nothing_runs_on(env, servers);
    let status = env.pgplan(&["status", "--json"]).expect(0).stdout;
    let state: Value = serde_json::from_str(&status).expect("status prints JSON");
    let steps = state["run"]["steps"].as_object().expect("steps by id");
    let is_lost = |step: &Value| {
        let mut actions = step["actions"].as_array().into_iter().flatten();
        actions.any(|action| action["status"] == "indeterminate")
    };
    let lost: Vec<&String> = steps.iter().filter(|(_, step)| is_lost(step)).map(|(id, _)| id).collect();
    assert!(!lost.is_empty(), "a person was asked about nothing: {}", said.stderr);
    for step in lost {
        let asked = format!("pgplan resolve {step} --as done");
        assert!(said.stderr.contains(&asked), "a person is not told to say `{asked}`: {}", said.stderr);
        let verdict = if is_done(step) { "done" } else { "retry" };
        env.pgplan(&["resolve", step, "--as", verdict]).expect(0);
    }
}
