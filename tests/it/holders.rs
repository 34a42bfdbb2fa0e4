//! Who holds the lease of a plan in a folder: a lock tells the living from the dead, whatever they are called.

use std::process::Child;

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    env::{Outcome, TestEnv},
    live_claims::{signal, until},
};

const PLAN: &str = "version: 1\nname: p\nsteps:\n  - { id: one, command: [sh, -c, 'echo one >> log'] }\n  \
    - id: slow\n    command:\n      run: [sh, -c, 'BODY']\n      done_if: { run: [grep, -q, slow, log] }\n";

/// A step beside them that waits for a person.
const LOST: &str = "  - { id: lost, needs: [], command: [sh, -c, 'kill -9 $$'] }\n";

/// Its program is in a session of its own, where the guard that ends the programs of a dead pgplan does not reach it.
const DEAF: &str = "setsid sh -c \"echo \\$\\$ > pid; mv pid deaf; exec sleep 600\" & until test -e deaf; do \
                    sleep 0.01; done; touch begun; test -e go || sleep 600; echo slow >> log";
const SLOW: &str = "touch begun; until test -e go; do sleep 0.01; done; echo slow >> log";

/// Starts a run and waits until its second step runs.
fn begin(env: &TestEnv, body: &str) -> Child {
    begin_with(env, body, "")
}

fn begin_with(env: &TestEnv, body: &str, more: &str) -> Child {
    env.write("p.yaml", &(PLAN.replace("BODY", body) + more));
    let child = env.command(&["apply", "p.yaml"]).spawn().expect("pgplan starts");
    until("the step runs", || env.work().join("begun").exists());
    child
}

/// Waits until the run has noted that a person must decide about its step `lost`.
fn is_lost(env: &TestEnv) {
    until("the step waits for a person", || {
        env.pgplan(&["log"]).expect(0).stdout.contains("lost failed: it is not known")
    });
}

fn kill_it(mut child: Child) {
    signal(&child, Signal::SIGKILL);
    child.wait().expect("it is dead");
}

/// Lets the lease name its holder as another machine would see it, or, without a `host`, another pid namespace.
fn rename_holder(env: &TestEnv, host: Option<&str>, pid: u32) {
    let journal = rusqlite::Connection::open(env.work().join(".pgplan/state.db")).expect("the journal opens");
    let sql = "UPDATE lease SET holder = json_set(holder, '$.pid', ?1, '$.host', coalesce(?2, holder ->> '$.host'))";
    assert_eq!(journal.execute(sql, (pid, host)).expect("the lease can be written"), 1);
}

#[test]
fn a_killed_run_is_taken_over_whatever_its_host_was_called() {
    for (command, then) in [
        (&["apply", "p.yaml"][..], "going on with run"),
        (&["apply", "p.yaml", "--fresh"], "is given up"),
        (&["abandon", "p"], "is given up"),
        (&["resolve", "lost", "--as", "done"], "noted; go on"),
        (&["approve", "p", "slow"], "noted; go on"),
    ] {
        let env = TestEnv::new();
        let child = if command[0] == "resolve" { begin_with(&env, SLOW, LOST) } else { begin(&env, SLOW) };
        let pid = child.id();
        if command[0] == "resolve" {
            is_lost(&env);
        }
        kill_it(child);
        rename_holder(&env, Some("another-host"), pid);
        let status = env.pgplan(&["status"]).expect(0).stdout;
        assert!(status.contains("killed; apply again to go on"), "{status}");
        env.write("go", "");
        let said = env.pgplan(command).expect(0).stderr;
        assert!(said.contains(then), "{command:?}: {said}");
        let log = match command {
            ["apply", "p.yaml"] => "one\nslow\n",
            ["apply", ..] => "one\none\nslow\n",
            _ => "one\n",
        };
        assert_eq!(env.read("log"), log);
    }
}

#[test]
fn a_living_run_is_not_taken_over_though_its_process_cannot_be_seen() {
    for host in [Some("another-host"), None] {
        let env = TestEnv::new();
        let child = begin_with(&env, SLOW, LOST);
        is_lost(&env);
        // Above the kernel's highest pid.
        rename_holder(&env, host, 4_194_305);
        let named = format!("process 4194305 on {}", host.unwrap_or_default());
        for command in [
            &["apply", "p.yaml"][..],
            &["apply", "p.yaml", "--fresh"],
            &["abandon", "p"],
            &["resolve", "lost", "--as", "done"],
            &["approve", "p", "slow"],
            &["undo", "p.yaml"],
        ] {
            let said = env.pgplan(command).expect(3).stderr;
            assert!(said.contains(&named), "{command:?}: {said}");
        }
        let status = env.pgplan(&["status"]).expect(0).stdout;
        assert!(status.contains(&format!("running: {named}")), "{status}");
        env.write("go", "");
        // It ends as it does alone: all but the step for a person is done.
        Outcome::of(&child.wait_with_output().expect("it ends")).expect(5);
        assert_eq!(env.read("log"), "one\nslow\n");
        env.pgplan(&["resolve", "lost", "--as", "done"]).expect(0);
        env.pgplan(&["apply", "p.yaml"]).expect(0);
        assert_eq!(env.read("log"), "one\nslow\n");
    }
}

#[test]
fn a_program_that_outlives_a_killed_run_does_not_hold_its_lease() {
    let env = TestEnv::new();
    let child = begin(&env, DEAF);
    kill_it(child);
    let deaf = Pid::from_raw(env.read("deaf").trim().parse().expect("the program wrote its id"));
    env.write("go", "");
    std::fs::write(env.work().join("log"), "one\nslow\n").expect("it can be written");
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    kill(deaf, Signal::SIGKILL).expect("the program has outlived the run");
}
