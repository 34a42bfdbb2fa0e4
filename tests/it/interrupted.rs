//! `pgplan apply` that is stopped or killed, and what the next one does.

use std::process::Child;
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::env::{Outcome, TestEnv};

/// Starts `pgplan apply` and waits until a step has made the file `begun`.
fn start(env: &TestEnv) -> Child {
    let child = env.command(&["apply", "plan.yaml", "--state", "the state"]).spawn().expect("pgplan starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    while !env.work().join("begun").exists() {
        assert!(Instant::now() < deadline, "the step does not begin");
        sleep(Duration::from_millis(10));
    }
    child
}

fn end(child: Child, signal: Signal) -> Outcome {
    kill(Pid::from_raw(i32::try_from(child.id()).expect("it fits")), signal).expect("pgplan still runs");
    Outcome::of(&child.wait_with_output().expect("pgplan ends"))
}

fn again(env: &TestEnv, args: &[&str]) -> Outcome {
    env.pgplan(&[args, &["--state", "the state"]].concat())
}

const SLOW: &str = "touch begun; test -e go || sleep 600; echo slow >> log";

fn plan(env: &TestEnv, check: &str) {
    env.write(
        "plan.yaml",
        &format!(
            "version: 1\nsteps:\n  - {{ id: one, command: [sh, -c, 'echo one >> log'] }}\n  \
             - {{ id: slow, command: {{ run: [sh, -c, '{SLOW}'] {check} }} }}\n  \
             - {{ id: end, command: [sh, -c, 'echo end >> log'] }}\n"
        ),
    );
}

#[test]
fn an_interrupt_says_how_to_go_on_and_that_works() {
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        let env = TestEnv::new();
        plan(&env, ", done_if: { run: [grep, -q, slow, log] }");
        let stopped = end(start(&env), signal).expect(4);
        let line = "interrupted; go on with: pgplan apply plan.yaml --state 'the state'\n";
        assert!(stopped.stderr.contains(line), "{}", stopped.stderr);
        assert!(again(&env, &["status"]).expect(0).stdout.contains("interrupted"));
        env.write("go", "");
        let done = again(&env, &["apply", "plan.yaml"]).expect(0).stderr;
        assert!(done.contains("1 step is done and is not repeated"), "{done}");
        assert_eq!(env.read("log"), "one\nslow\nend\n");
    }
}

#[test]
fn a_program_cut_by_kill_waits_for_a_person() {
    for (verdict, log) in [("done", "one\nend\n"), ("retry", "one\nslow\nend\n")] {
        let env = TestEnv::new();
        plan(&env, "");
        let killed = end(start(&env), Signal::SIGKILL);
        assert_eq!(killed.status.code(), None);
        assert!(again(&env, &["status"]).expect(0).stdout.contains("killed; apply again to go on"));
        env.write("go", "");
        let asks = again(&env, &["apply", "plan.yaml"]).expect(5).stderr;
        assert!(asks.contains("it is not known whether `run sh -c"), "{asks}");
        assert!(asks.contains("pgplan resolve slow --as done"), "{asks}");
        assert!(asks.contains("! end blocked: it needs `slow`"), "{asks}");
        again(&env, &["apply", "plan.yaml"]).expect(5);
        assert_eq!(env.read("log"), "one\n", "nothing is repeated silently");
        again(&env, &["resolve", "slow", "--as", verdict]).expect(0);
        again(&env, &["apply", "plan.yaml"]).expect(0);
        assert_eq!(env.read("log"), log);
    }
}
