//! Looks that take long (`done_if`, `ensures`, surveys) and a person who does not want to wait: INT is heard at once, and
//! so is the step's `timeout`; nothing is recorded that was not seen, and nothing is left at work.

use std::{
    path::Path,
    process::Child,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cluster::Cluster,
    env::{Outcome, TestEnv},
    live_claims::{plan, until},
};

/// Far longer than a person waits, far shorter than the looks take.
const SOON: Duration = Duration::from_secs(8);

fn start(env: &TestEnv, begun: impl Fn() -> bool) -> Child {
    let mut child = env.command(&["apply", "plan.yaml"]).spawn().expect("pgplan starts");
    until("the look is under way", || begun() || child.try_wait().expect("it can be asked").is_some());
    child
}

fn interrupt(child: Child) -> Outcome {
    let asked = Instant::now();
    kill(Pid::from_raw(i32::try_from(child.id()).expect("it fits")), Signal::SIGINT).expect("it is not waited for yet");
    let said = Outcome::of(&child.wait_with_output().expect("pgplan ends"));
    assert!(asked.elapsed() < SOON, "it was heard after {:?}: {}", asked.elapsed(), said.stderr);
    said.expect(4)
}

fn status_of(env: &TestEnv, step: &str) -> String {
    let said = env.pgplan(&["status", "--json"]).expect(0).stdout;
    let state: serde_json::Value = serde_json::from_str(&said).expect("status prints JSON");
    state["run"]["steps"][step]["status"].as_str().unwrap_or("never begun").to_owned()
}

#[test]
fn a_program_that_looks_hears_the_first_interrupt() {
    let look = "touch begun; test -e go || sleep 600; test -e made";
    for (check, before, status) in [("done_if", "", "never begun"), ("ensures", "made\n", "running")] {
        let env = TestEnv::new();
        let text = "version: 1\nsteps:\n  - id: make\n    command: [sh, -c, 'touch made; echo made >> log']\n    \
                    continue_on_error: true\n    CHECK: { run: [sh, -c, 'LOOK'] }\n  - command: [sh, -c, 'echo end >> log']\n";
        env.write("plan.yaml", &text.replace("CHECK", check).replace("LOOK", look));
        let begun = env.work().join("begun");
        let said = interrupt(start(&env, || begun.exists())).stderr;
        assert!(said.contains("interrupted; go on with: pgplan apply plan.yaml"), "{said}");
        assert!(!said.contains("failed"), "{said}");
        assert_eq!(status_of(&env, "make"), status, "{check}");
        assert_eq!(read(&env.work().join("log")), before, "{check}: what comes after it has not begun");
        env.write("go", "");
        env.pgplan(&["apply", "plan.yaml"]).expect(0);
        assert_eq!(env.read("log"), "made\nend\n", "{check}");
    }
}

fn read(path: &Path) -> String {
    if path.exists() { std::fs::read_to_string(path).expect("it can be read") } else { String::new() }
}

#[test]
fn a_query_that_looks_is_cancelled_on_the_server() {
    let (server, env) = (Cluster::start("18"), TestEnv::new());
    // The session that asked before may not have ended yet, and its question holds the same words.
    let at_work =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND query NOT LIKE '%count%'";
    for check in ["done_if", "ensures"] {
        let steps = format!(
            "  - id: ask\n    sql: {{ database: db, run: 'SELECT 1' }}\n    \
             {check}: {{ database: db, sql: 'SELECT pg_sleep(600) IS NULL' }}\n"
        );
        env.write("plan.yaml", &plan(check, &server.url("postgres"), &steps));
        interrupt(start(&env, || server.psql("postgres", at_work) == "1"));
        // Asked once: pgplan has waited for it.
        assert_eq!(server.psql("postgres", at_work), "0", "{check}");
    }
}

#[test]
fn a_server_that_does_not_answer_is_not_waited_for() {
    let (server, env) = (Cluster::start("18"), TestEnv::new());
    let postmaster = Stopped::of(&server);
    let databases =
        format!("databases:\n  target: {{ url: \"{}\", connect_timeout: 300 EXPECT }}\n", server.url("postgres"));
    let text = format!(
        "version: 1\n{databases}steps:\n  - command: [touch, begun]\n  - sql: {{ database: target, run: 'SELECT 1' }}\n"
    );
    let begun = env.work().join("begun");

    env.write("plan.yaml", &text.replace("EXPECT", ""));
    let child = start(&env, || begun.exists());
    sleep(Duration::from_millis(500));
    let said = interrupt(child).stderr;
    assert!(said.contains("interrupted; go on with: pgplan apply plan.yaml"), "{said}");

    // The same before the run has begun: there is no trace of it.
    let fresh = TestEnv::new();
    fresh.write("plan.yaml", &text.replace("EXPECT", ", expect: { major: 18 }"));
    let lease = fresh.work().join(".pgplan/state.db");
    let child = start(&fresh, || lease.exists());
    sleep(Duration::from_millis(1500));
    let said = interrupt(child).stderr;
    assert!(said.contains("interrupted before anything was begun; begin with: pgplan apply plan.yaml"), "{said}");
    assert!(!fresh.work().join("begun").exists());
    let runs = std::fs::read_dir(fresh.work().join(".pgplan/runs")).expect("the folder is there");
    assert_eq!(runs.count(), 0, "its folder is left");

    drop(postmaster);
    for env in [&env, &fresh] {
        env.pgplan(&["apply", "plan.yaml"]).expect(0);
    }
}

#[test]
fn a_look_ends_with_the_timeout_of_its_step() {
    let env = TestEnv::new();
    for (check, message) in [
        ("done_if", "to look at what step `make` has to do took longer than its timeout of 1s"),
        ("ensures", "the `ensures` of step `make` took longer than its timeout of 1s"),
    ] {
        env.write(
            "plan.yaml",
            &format!(
                "version: 1\nname: {check}\nsteps:\n  - id: make\n    command: [touch, made]\n    timeout: 1s\n    \
                 {check}: {{ run: [sleep, '600'] }}\n"
            ),
        );
        let asked = Instant::now();
        let said = env.pgplan(&["apply", "plan.yaml"]).expect(1).stderr;
        assert!(asked.elapsed() < SOON && said.contains(message), "{said}");
    }
}

/// A postmaster that does not run on: its port takes connections, and nobody answers.
struct Stopped(Pid);

impl Stopped {
    fn of(server: &Cluster) -> Self {
        let pid = read(&server.data().join("postmaster.pid"));
        let pid = pid.lines().next().expect("its first line is the process").parse().expect("it is a number");
        let pid = Pid::from_raw(pid);
        kill(pid, Signal::SIGSTOP).expect("it runs");
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        kill(self.0, Signal::SIGCONT).expect("it is there");
    }
}
