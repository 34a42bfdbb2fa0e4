//! What is done again in one run, because a person says so, after a failure or after an edit: what was done before is
//! neither forgotten nor taken for how things were, and the way back covers it.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::json;

use crate::{
    cluster::Cluster,
    env::{Outcome, TestEnv},
    live_claims::{plan, signal, until},
    live_fence::{access, load},
};

fn log(env: &TestEnv) -> String {
    if env.work().join("log").exists() { env.read("log") } else { String::new() }
}

fn remove(env: &TestEnv, name: &str) {
    fs::remove_file(env.work().join(name)).expect("the file is there");
}

/// An application that runs three times.
fn app(env: &TestEnv) {
    env.set_fakes(
        &json!({ "apps": { "shop": { "environment": "production", "services": { "web": 3 }, "config": {} } } }),
    );
}

fn running(env: &TestEnv) -> u64 {
    env.fakes()["apps"]["shop"]["services"]["web"].as_u64().expect("it is a number")
}

const DOWN: &str = "  - { id: down, scale: { platform: aptible, app: shop, services: [web], to: 0 } }\n";

#[test]
fn a_fence_and_a_database_of_a_step_that_is_begun_anew_are_taken_back() {
    let (server, env) = (Cluster::start("16"), TestEnv::new());
    load(&server);
    let before = access(&server);
    let steps = "  - { id: pre, command: ['true'] }\n  - create_database: { on: made }\n  \
                 - fence: { database: db, databases: [app], grace: 0s, window: 1s }\n  - { id: use, command: ['false'] }\n";
    let made = format!("databases: {{ made: {{ url: \"{}\" }}, db:", server.url("made"));
    env.write("p.yaml", &plan("p", &server.url("app"), steps).replace("databases: { db:", &made));
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    assert_ne!(access(&server), before);
    env.pgplan(&["apply", "p.yaml", "--rerun", "pre", "--until", "pre"]).expect(0);
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(access(&server), before, "neither the fence nor the database is left");
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan'"), "0");
}

#[test]
fn the_counts_of_before_the_run_come_back_however_often_it_was_scaled() {
    let steps = format!(
        "version: 1\nname: p\nsteps:\n{DOWN}  - {{ id: use, command: [test, -e, mended] }}\n  - {{ id: up, scale: {{ restore: down }} }}\n"
    );
    for goes_on in [true, false] {
        let env = TestEnv::new();
        app(&env);
        env.write("p.yaml", &steps);
        env.pgplan(&["apply", "p.yaml"]).expect(1);
        assert_eq!(running(&env), 0);
        if goes_on {
            env.write("mended", "");
            env.pgplan(&["apply", "p.yaml", "--rerun", "down"]).expect(0);
        } else {
            env.pgplan(&["apply", "p.yaml", "--rerun", "down"]).expect(1);
            // An edit of what is done, and once more.
            env.write("p.yaml", &steps.replace("to: 0", "to: 1"));
            env.pgplan(&["apply", "p.yaml", "--rerun", "down"]).expect(1);
            assert_eq!(running(&env), 1);
            env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
        }
        assert_eq!(running(&env), 3, "{goes_on}");
    }
}

#[test]
fn the_point_of_no_return_is_one_also_when_a_step_before_it_is_begun_anew() {
    let env = TestEnv::new();
    let step = |id: &str, more: &str| {
        format!(
            "  - {{ id: {id}, command: {{ run: [sh, -c, 'echo {id} >> log; test ! -e broken-{id}'], undo: [sh, -c, 'echo undo {id} >> log'] }}{more} }}\n"
        )
    };
    let steps = [step("a", ""), step("b", ""), step("c", ", point_of_no_return: true"), step("d", "")].concat();
    env.write("p.yaml", &format!("version: 1\nname: p\non_failure: undo\nsteps:\n{steps}"));
    for broken in ["d", "a"] {
        env.write(&format!("broken-{broken}"), "");
    }
    remove(&env, "broken-a");
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    assert_eq!(log(&env), "a\nb\nc\nd\nundo d\n");
    env.write("broken-a", "");
    let said = env.pgplan(&["apply", "p.yaml", "--rerun", "a"]).expect(1);
    assert!(said.stderr.contains("`c` is the point of no return"), "{}", said.stderr);
    assert_eq!(log(&env), "a\nb\nc\nd\nundo d\na\n", "nothing before it is taken back");
}

#[test]
fn an_item_that_is_edited_away_is_taken_back_too() {
    let env = TestEnv::new();
    let text = "version: 1\nname: p\nsteps:\n  - id: each\n    for_each: [x, y]\n    command: { run: [sh, -c, 'echo ${{ each.value }} >> log; test ${{ each.value }} = x -o -e mended'], \
                undo: [sh, -c, 'echo undo ${{ each.value }} >> log'] }\n    max_parallel: 1\n";
    env.write("p.yaml", text);
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    env.write("mended", "");
    env.write("p.yaml", &text.replace("[x, y]", "[y]"));
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(log(&env), "x\ny\ny\nundo y\nundo x\n");
}

#[test]
fn an_edit_is_not_forgotten_when_the_step_could_not_be_looked_at() {
    let env = TestEnv::new();
    let text = "version: 1\nname: p\nsteps:\n  - { id: a, command: { run: [sh, -c, 'echo old >> log; exit 1'] } }\n";
    env.write("p.yaml", text);
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    let new = text.replace("echo old >> log; exit 1", "echo new >> log");
    env.write("p.yaml", &new.replace("] } }", "] }, done_if: { run: [./look] } }"));
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    let look = env.write("look", "#!/bin/sh\nexit 1\n");
    fs::set_permissions(look, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it can be made a program");
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    assert_eq!(log(&env), "old\nnew\n");
}

#[test]
fn a_step_is_done_again_when_it_was_stopped_while_a_retry_waited() {
    for how in [Signal::SIGTERM, Signal::SIGKILL] {
        let env = TestEnv::new();
        env.write(
            "p.yaml",
            "version: 1\nname: p\nsteps:\n  - { id: a, command: [sh, -c, 'echo a >> log; test -e mended'], \
             retry: { attempts: 5, delay: 60s, errors: [tool] } }\n  - { id: b, command: [sh, -c, 'echo b >> log'] }\n",
        );
        let child = env.command(&["apply", "p.yaml", "--events", "events"]).spawn().expect("pgplan starts");
        until("the retry waits", || {
            fs::read_to_string(env.work().join("events")).unwrap_or_default().contains("retry_in_ms")
        });
        signal(&child, how);
        child.wait_with_output().expect("pgplan ends");
        env.write("mended", "");
        env.pgplan(&["apply", "p.yaml"]).expect(0);
        assert_eq!(log(&env), "a\na\nb\n", "{how}");
    }
}

#[test]
fn an_application_that_was_started_after_a_failure_is_stopped_again_before_the_rest() {
    let look = "grep -o \"web.: *[0-9]\" \"$PGPLAN_FAKE_STATE/state.json\" | grep -o \"[0-9]\" >> log";
    for (copy, word, seen) in [
        // What can be looked at or begun anew is simply done again.
        (", done_if: { run: ['false'] }", None, "0\n0\n0\n0\n"),
        ("", Some(["--rerun", "down"].as_slice()), "0\n0\n0\n0\n"),
        ("", Some(["--accept"].as_slice()), "0\n0\n3\n"),
    ] {
        let env = TestEnv::new();
        app(&env);
        env.write(
            "p.yaml",
            &format!(
                "version: 1\nname: p\nsteps:\n{DOWN}  - {{ id: copy, command: {{ run: [sh, -c, '{look}'] {copy} }} }}\n  \
                 - {{ id: use, command: [sh, -c, '{look}; test -e mended'] }}\n  \
                 - {{ id: up, run_on: always, scale: {{ restore: down }} }}\n"
            ),
        );
        env.pgplan(&["apply", "p.yaml"]).expect(1);
        assert_eq!((running(&env), log(&env).as_str()), (3, "0\n0\n"));
        env.write("mended", "");
        if word.is_some() {
            for _ in 0..2 {
                let said = env.pgplan(&["apply", "p.yaml"]).expect(5).stderr;
                assert!(said.contains("`copy` would have to be done again"), "{said}");
                assert!(said.contains("--rerun down") && said.contains("--accept"), "{said}");
            }
            assert_eq!(log(&env), "0\n0\n", "nothing is repeated silently");
        }
        env.pgplan(&[&["apply", "p.yaml"], word.unwrap_or_default()].concat()).expect(0);
        assert_eq!((running(&env), log(&env).as_str()), (3, seen), "{word:?}");
    }
}

#[test]
fn the_way_back_of_an_edited_step_takes_back_what_each_doing_did() {
    let env = TestEnv::new();
    let shop = |name: &str| json!({ "environment": "production", "services": { "web": 3 }, "config": { "app": name } });
    env.set_fakes(&json!({ "apps": { "shop": shop("shop"), "blog": shop("blog") } }));
    for name in ["a", "b"] {
        env.write(&format!("{name}.env"), &format!("URL=of-{name}\n"));
    }
    let text = format!(
        "version: 1\nname: p\nsteps:\n{DOWN}  - {{ id: point, repoint: {{ file: a.env, set: {{ URL: new }} }} }}\n  - command: ['false']\n"
    );
    env.write("p.yaml", &text);
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    env.write("p.yaml", &text.replace("app: shop", "app: blog").replace("a.env", "b.env"));
    env.pgplan(&["apply", "p.yaml", "--rerun", "down"]).expect(1);
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    for app in ["shop", "blog"] {
        assert_eq!(env.fakes()["apps"][app]["services"]["web"], 3, "{app}");
    }
    assert_eq!((env.read("a.env"), env.read("b.env")), ("URL=of-a\n".to_owned(), "URL=of-b\n".to_owned()));
}

#[test]
fn files_of_one_name_are_taken_back_each_to_its_own() {
    let env = TestEnv::new();
    for folder in ["a", "b"] {
        fs::create_dir(env.work().join(folder)).expect("the folder can be made");
        env.write(&format!("{folder}/app.env"), &format!("URL=of-{folder}\n"));
    }
    env.write(
        "p.yaml",
        "version: 1\nname: p\nsteps:\n  - { id: point, for_each: [a, b], repoint: { file: \"${{ each.value }}/app.env\", set: { URL: new } } }\n  \
         - command: ['false']\n",
    );
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    for folder in ["a", "b"] {
        assert_eq!(env.read(&format!("{folder}/app.env")), format!("URL=of-{folder}\n"));
    }
}

#[test]
fn an_undo_that_uses_what_steps_gave_can_be_done_again() {
    let text = "version: 1\nname: p\nsteps:\n  \
        - { id: a, command: { run: [sh, -c, 'echo name=x; test ! -e broken-a'], outputs: { name: { parse: { regex: 'name=(.+)' } } } }, undo: { run: [sh, -c, 'test ! -e broken && echo undo ${{ steps.a.outputs.name }} >> log'] } }\n  \
        - { id: b, command: [touch, b], undo: { run: [sh, -c, 'echo undo b of ${{ steps.a.outputs.name }} >> log'] } }\n  \
        - { id: c, command: ['false'] }\n";
    for rerun in [false, true] {
        let env = TestEnv::new();
        env.write("p.yaml", text);
        env.pgplan(&["apply", "p.yaml"]).expect(1);
        if rerun {
            env.write("broken-a", "");
            env.pgplan(&["apply", "p.yaml", "--rerun", "a"]).expect(1);
        }
        env.write("broken", "");
        env.pgplan(&["undo", "p.yaml", "--yes"]).expect(5);
        remove(&env, "broken");
        env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
        assert_eq!(log(&env), "undo b of x\nundo x\n", "{rerun}");
    }
}

#[test]
fn what_a_person_says_of_one_doing_is_not_said_of_the_one_before() {
    let env = TestEnv::new();
    env.write(
        "p.yaml",
        "version: 1\nname: p\nsteps:\n  - { id: a, command: { run: [sh, -c, 'echo a >> log; touch begun; test -e quick || sleep 600'], undo: [sh, -c, 'echo undo a >> log'] } }\n  \
         - command: ['false']\n",
    );
    env.write("quick", "");
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    remove(&env, "quick");
    remove(&env, "begun");
    let child = env.command(&["apply", "p.yaml", "--rerun", "a"]).spawn().expect("pgplan starts");
    until("it is done again", || env.work().join("begun").exists());
    signal(&child, Signal::SIGKILL);
    child.wait_with_output().expect("it is dead");
    env.pgplan(&["apply", "p.yaml"]).expect(5);
    env.pgplan(&["resolve", "a", "--as", "undo"]).expect(0);
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(log(&env), "a\na\nundo a\n", "the first doing stands until it is taken back");
}

#[test]
fn until_holds_back_what_was_begun_before() {
    let env = TestEnv::new();
    env.write(
        "p.yaml",
        "version: 1\nname: p\nsteps:\n  - { id: a, command: [sh, -c, 'echo a >> log'] }\n  \
         - { id: b, command: [sh, -c, 'echo b >> log; test -e mended'] }\n",
    );
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    env.write("mended", "");
    env.pgplan(&["apply", "p.yaml", "--until", "a"]).expect(0);
    assert_eq!(log(&env), "a\nb\n");
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    assert_eq!(log(&env), "a\nb\nb\n");
}

#[test]
fn what_a_person_must_decide_is_never_passed_over() {
    let env = TestEnv::new();
    // Cut by its time, in an attempt after which there is no other.
    env.write(
        "p.yaml",
        "version: 1\nname: p\nsteps:\n  - { id: a, command: [sh, -c, 'echo a >> log; sleep 600'], timeout: 1s, \
         retry: { attempts: 3, errors: [tool] } }\n",
    );
    env.pgplan(&["apply", "p.yaml"]).expect(5);
    env.pgplan(&["apply", "p.yaml"]).expect(5);
    assert_eq!(log(&env), "a\n");

    for step in ["approve: { message: sure }", "command: [sh, -c, 'echo a >> log; kill -9 $$']"] {
        let env = TestEnv::new();
        env.write(
            "p.yaml",
            &format!("version: 1\nname: p\nsteps:\n  - {{ id: a, {step}, continue_on_error: true }}\n  - {{ id: b, command: [sh, -c, 'echo b >> log'] }}\n"),
        );
        for _ in 0..2 {
            env.pgplan(&["apply", "p.yaml"]).expect(5);
        }
        assert!(!log(&env).contains('b'), "{step}");
    }
}

#[test]
fn what_runs_whatever_happened_runs_when_a_step_cannot_go_on() {
    let env = TestEnv::new();
    env.write("ok", "");
    env.write(
        "p.yaml",
        "version: 1\nname: p\nsteps:\n  - { id: way, command: { run: [test, -e, ok], volatile: true } }\n  \
         - { id: work, command: { run: [sh, -c, 'touch begun; test -e go || sleep 600'], done_if: { run: [test, -e, go] } } }\n  \
         - { id: up, run_on: always, command: [sh, -c, 'echo up >> log'] }\n",
    );
    let child = env.command(&["apply", "p.yaml"]).spawn().expect("pgplan starts");
    until("it works", || env.work().join("begun").exists());
    signal(&child, Signal::SIGKILL);
    assert_eq!(Outcome::of(&child.wait_with_output().expect("it is dead")).status.code(), None);
    remove(&env, "ok");
    let said = env.pgplan(&["apply", "p.yaml"]).expect(1);
    assert!(said.stderr.contains("work blocked: it needs `way`"), "{}", said.stderr);
    assert_eq!(log(&env), "up\n");
    env.write("ok", "");
    env.write("go", "");
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    assert_eq!(log(&env), "up\nup\n");
}
