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
fn a_run_that_ends_in_one_place_again_and_again_waits_for_a_person() {
    let env = TestEnv::new();
    plan(&env, ", done_if: { run: [grep, -q, slow, log] }");
    let begun = env.work().join("begun");
    for _ in 0..3 {
        if begun.exists() {
            std::fs::remove_file(&begun).expect("the file can be removed");
        }
        end(start(&env), Signal::SIGKILL);
    }
    let few = || {
        let mut command = env.command(&["apply", "plan.yaml", "--state", "the state"]);
        Outcome::of(&command.env("PGPLAN_MOST_CUTS", "3").output().expect("pgplan starts"))
    };
    env.write("go", "");
    for _ in 0..2 {
        let asks = few().expect(5).stderr;
        assert!(asks.contains("pgplan ended 3 times in a row in the middle of `run sh -c"), "{asks}");
        assert!(asks.contains("step slow"), "{asks}");
        assert!(asks.contains("`pgplan log --state 'the state'`"), "{asks}");
        assert!(asks.contains("`pgplan resolve slow --as done --run "), "{asks}");
    }
    assert_eq!(env.read("log"), "one\n", "nothing is repeated silently");
    again(&env, &["resolve", "slow", "--as", "retry"]).expect(0);
    few().expect(0);
    assert_eq!(env.read("log"), "one\nslow\nend\n");
}

/// Returns what a text says between two pieces, as words of a shell's line.
fn command_in(text: &str, from: &str, to: &str) -> Vec<String> {
    let (_, rest) = text.split_once(from).unwrap_or_else(|| panic!("no `{from}` in {text}"));
    let (line, _) = rest.split_once(to).unwrap_or_else(|| panic!("no `{to}` after `{from}` in {text}"));
    let words = std::process::Command::new("sh").args(["-c", &format!("printf '%s\\n' {from}{line}")]).output();
    let words = String::from_utf8(words.expect("sh starts").stdout).expect("it is text");
    words.lines().skip(1).map(str::to_owned).collect()
}

#[test]
fn what_is_suggested_can_be_pasted() {
    let env = TestEnv::new();
    let platform = "name: mine\nabout: Nothing.\ndocs: [https://example.org/]\n";
    env.write("my own.yaml", platform);
    let text = "version: 1\nvars: { word: x }\nsteps:\n  - approve: { message: \"go on?\" }\n  \
                - { id: slow, command: { run: [sh, -c, 'touch begun; test -e go || sleep 600; echo ${{ vars.word }} >> log'] } }\n";
    let pasted = |said: &str, from: &str, to: &str| {
        let words = command_in(said, from, to);
        env.pgplan(&words.iter().map(String::as_str).collect::<Vec<_>>())
    };
    // The journal is where --state says, then where the plan says.
    for (folder, given) in [("the state", true), ("its place", false)] {
        let state = if given { String::new() } else { format!("state: {folder}\n") };
        env.write("plan.yaml", &format!("name: {}\n{state}{text}", folder.replace(' ', "-")));
        for file in ["begun", "go", "log"] {
            std::fs::remove_file(env.work().join(file)).ok();
        }
        let mut first = vec!["apply", "plan.yaml", "--var", "word=it is", "--platform", "my own.yaml"];
        first.extend(given.then_some(["--state", folder]).into_iter().flatten());
        let waits = env.pgplan(&first).expect(5);
        let noted = pasted(&waits.stderr, "pgplan approve ", "`").expect(0);
        let go_on = command_in(&noted.stderr, "pgplan apply ", "\n");
        assert_eq!(go_on, first, "{}", noted.stderr);
        let child = env.command(&first).spawn().expect("pgplan starts");
        let deadline = Instant::now() + Duration::from_secs(60);
        while !env.work().join("begun").exists() {
            assert!(Instant::now() < deadline, "the step does not begin");
            sleep(Duration::from_millis(10));
        }
        end(child, Signal::SIGKILL);
        env.write("go", "");
        let asks = env.pgplan(&first).expect(5);
        let noted = pasted(&asks.stderr, "pgplan resolve slow --as done", "`").expect(0);
        pasted(&noted.stderr, "pgplan apply ", "\n").expect(0);
        let of_plan = [if given { "--state" } else { "--plan" }, if given { folder } else { "plan.yaml" }];
        for command in ["status", "log", "runs"] {
            let said = env.pgplan(&[&[command][..], &of_plan].concat()).expect(0);
            assert!(command == "log" || said.stdout.contains(&folder.replace(' ', "-")), "{}", said.stdout);
        }
        assert!(env.work().join(folder).join("state.db").exists());
    }
    assert!(!env.work().join(".pgplan").exists(), "a journal was made where none was named");
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

/// A run that another version of pgplan wrote, or that somebody edited: it is told, and it does not lock its plan up.
#[test]
fn a_run_that_cannot_be_read_is_told_and_a_fresh_one_can_begin() {
    let env = TestEnv::new();
    env.write("plan.yaml", "version: 1\nsteps:\n  - { id: one, command: [sh, -c, 'echo one >> log; test -e go'] }\n");
    again(&env, &["apply", "plan.yaml"]).expect(1);
    let file = env.work().join("the state/state.db");
    let mut stored = std::fs::read(&file).expect("the journal can be read");
    let known = b"\"action_failed\"";
    let mut changed = 0;
    for at in 0..stored.len() - known.len() {
        if stored[at..].starts_with(known) {
            stored[at + 1] = b'X';
            changed += 1;
        }
    }
    assert_eq!(changed, 1);
    std::fs::write(&file, stored).expect("the journal can be written");

    for args in [&["apply", "plan.yaml"][..], &["status"], &["log"], &["report"]] {
        let told = again(&env, args).expect(1).stderr;
        assert!(told.contains("cannot be read: unknown variant `Xction_failed`"), "{args:?}: {told}");
        assert!(told.contains("begin anew with `pgplan apply --fresh"), "{args:?}: {told}");
    }
    assert!(again(&env, &["runs"]).expect(0).stdout.contains("cannot be read"));
    env.write("go", "");
    let done = again(&env, &["apply", "plan.yaml", "--fresh"]).expect(0).stderr;
    assert!(done.contains("it is left as it is, and a new run begins"), "{done}");
    assert!(again(&env, &["status"]).expect(0).stdout.contains("done"));
    assert_eq!(env.read("log"), "one\none\n");
}
