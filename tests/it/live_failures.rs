//! What goes wrong with real servers: a message that names the cause, the right exit code, and a way on.

use std::fs;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Settings};
use crate::env::{Outcome, TestEnv, bin_folder};

/// A working folder with a plan that moves `postgres` from one server to another.
fn move_plan(env: &TestEnv, source: &str, target: &str, steps: &str) {
    let plan = format!("version: 1\nname: move\ndatabases:\n  source: {source}\n  target: {target}\nsteps:\n{steps}");
    env.write("plan.yaml", &plan);
}

const MOVE: &str = "  - dump: { from: source }\n  - restore: { into: target }\n";

fn url(server: &Cluster) -> String {
    format!("{{ url: \"{}\" }}", server.url("postgres"))
}

fn apply(env: &TestEnv) -> Outcome {
    env.pgplan(&["apply", "plan.yaml"])
}

#[track_caller]
fn has(text: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(text.contains(wanted), "no `{wanted}` in:\n{text}");
    }
}

#[test]
fn a_plan_that_cannot_be_read_is_told_from_one_that_is_wrong() {
    let env = TestEnv::new();
    fs::create_dir(env.work().join("folder.yaml")).expect("a folder can be made");
    fs::write(env.work().join("latin.yaml"), b"version: 1\nname: caf\xe9\n").expect("a file can be written");
    for (name, wanted) in [("gone.yaml", "No such file"), ("folder.yaml", "is a directory"), ("latin.yaml", "UTF-8")] {
        for command in ["apply", "plan", "check"] {
            let said = env.pgplan(&[command, name]).expect(2).stderr;
            has(&said, &[name, wanted, "help: "]);
        }
    }
    assert!(!env.work().join(".pgplan").exists());
}

#[test]
fn a_wrong_password_names_the_server_and_the_right_one_goes_on() {
    let mut settings = Settings::new("15");
    settings.password = Some("right".into());
    let (source, env) = (Cluster::with(settings), TestEnv::new());
    let plan = format!(
        "version: 1\nsecrets: {{ pw: {{ env: PW }} }}\ndatabases:\n  source: {{ url: \"postgres://postgres@127.0.0.1:{}/postgres\", password: \"${{{{ secrets.pw }}}}\" }}\nsteps:\n  - {{ id: first, command: [touch, first] }}\n  - dump: {{ from: source }}\n",
        source.port
    );
    env.write("plan.yaml", &plan);
    let with = |password: &str| {
        let mut command = env.command(&["apply", "plan.yaml"]);
        Outcome::of(&command.env("PW", password).output().expect("pgplan starts"))
    };
    let said = with("wrong-one").expect(1).stderr;
    has(&said, &["password authentication failed", &format!("127.0.0.1:{}", source.port), "help:"]);
    assert!(!said.contains("wrong-one"), "{said}");
    let done = with("right").expect(0).stderr;
    has(&done, &["1 step is done and is not repeated"]);
}

#[test]
fn a_target_killed_in_the_middle_of_a_restore_is_restored_when_it_is_back() {
    let source = Cluster::start("15");
    source.psql(
        "postgres",
        "CREATE TABLE a AS SELECT generate_series(1, 1000) AS n; CREATE TABLE b AS SELECT generate_series(1, 2000) AS n",
    );
    let mut settings = Settings::new("18");
    settings.fsync = true;
    let (mut target, env) = (Cluster::with(settings), TestEnv::new());
    // The restore stops at the second table and stays there.
    target.psql("postgres", "CREATE DATABASE new");
    target.psql(
        "new",
        "CREATE FUNCTION hold() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN
             IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity = 'public.b') THEN
                 PERFORM pg_sleep(600); END IF; END $$;
         CREATE EVENT TRIGGER hold ON ddl_command_end EXECUTE FUNCTION hold()",
    );
    move_plan(&env, &url(&source), &format!("{{ url: \"{}\" }}", target.url("new")), MOVE);
    let child = env.command(&["apply", "plan.yaml"]).spawn().expect("pgplan starts");
    let deadline = Instant::now() + Duration::from_secs(60);
    while target.psql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") != "1" {
        assert!(Instant::now() < deadline, "the restore does not come to the second table");
        sleep(Duration::from_millis(20));
    }
    target.kill9();
    let said = Outcome::of(&child.wait_with_output().expect("pgplan ends")).expect(1).stderr;
    has(&said, &["step restore", "check that the server runs"]);
    has(&apply(&env).expect(1).stderr, &[&format!("127.0.0.1:{}", target.port)]);
    target.restart();
    target.psql("new", "DROP EVENT TRIGGER hold; DROP FUNCTION hold");
    let done = apply(&env).expect(0).stderr;
    has(&done, &["1 step is done and is not repeated"]);
    assert_eq!(target.psql("new", "SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b)"), "1000|2000");
}

#[test]
fn an_unexpected_error_fails_the_restore_and_the_mended_plan_goes_on() {
    let (source, target, env) = (Cluster::start("15"), Cluster::start("18"), TestEnv::new());
    source.psql("postgres", "CREATE ROLE app; CREATE TABLE t AS SELECT 1 AS n; ALTER TABLE t OWNER TO app");
    move_plan(&env, &url(&source), &url(&target), MOVE);
    let said = apply(&env).expect(1).stderr;
    has(&said, &["role \"app\" does not exist", "expected_errors", "pgplan explain missing_role", "CREATE ROLE app"]);
    target.psql("postgres", "CREATE ROLE app");
    has(&apply(&env).expect(0).stderr, &["1 step is done and is not repeated"]);
    assert_eq!(target.psql("postgres", "SELECT tableowner FROM pg_tables WHERE tablename = 't'"), "app");
}

#[test]
fn a_target_that_is_not_empty_is_refused_and_taken_when_it_is() {
    let (source, target, env) = (Cluster::start("15"), Cluster::start("18"), TestEnv::new());
    source.psql("postgres", "CREATE TABLE t AS SELECT 1 AS n");
    target.psql("postgres", "CREATE TABLE old ()");
    let empty = format!("{{ url: \"{}\", expect: {{ empty: true }} }}", target.url("postgres"));
    let steps =
        format!("  - {{ id: first, command: [touch, first] }}\n{MOVE}  - {{ id: last, command: [test, -e, go] }}\n");
    move_plan(&env, &url(&source), &empty, &steps);
    let said = apply(&env).expect(3).stderr;
    has(&said, &["database `target` should be empty and holds 1 table", "first table: public.old", "fresh target"]);
    assert!(!env.work().join("first").exists(), "it is told before anything is changed");
    target.psql("postgres", "DROP TABLE old");
    apply(&env).expect(1);
    env.write("go", "");
    // What the run itself has put there is no reason to refuse.
    apply(&env).expect(0);
    assert_eq!(target.psql("postgres", "SELECT n FROM t"), "1");
}

#[test]
fn a_difference_ends_with_six_and_names_the_table() {
    let (source, target, env) = (Cluster::start("15"), Cluster::start("18"), TestEnv::new());
    for server in [&source, &target] {
        server.psql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 100) AS n");
    }
    target.psql("postgres", "UPDATE t SET n = 101 WHERE n = 100");
    move_plan(&env, &url(&source), &url(&target), "  - verify: { left: source, right: target }\n");
    let said = apply(&env).expect(6).stderr;
    has(&said, &["public.t"]);
    target.psql("postgres", "UPDATE t SET n = 100 WHERE n = 101");
    apply(&env).expect(0);
}

#[test]
fn a_missing_client_says_what_to_install() {
    if fs::exists("/usr/lib/postgresql/18").unwrap_or(true) {
        return; // What the system has installed is found by itself.
    }
    let (source, env) = (Cluster::start("18"), TestEnv::new());
    source.psql("postgres", "CREATE TABLE t AS SELECT 1 AS n");
    move_plan(&env, &url(&source), &url(&source), "  - dump: { from: source }\n");
    fs::create_dir(env.work().join("none")).expect("a folder can be made");
    let with = |folder: &std::path::Path| {
        let mut command: Command = env.command(&["apply", "plan.yaml"]);
        command.env("PATH", "/bin").env("PGPLAN_CACHE", env.work().join("none")).env("PGPLAN_PG_BIN", folder);
        Outcome::of(&command.output().expect("pgplan starts"))
    };
    let said = with(&env.work().join("none")).expect(1).stderr;
    has(&said, &["pg_dump", "18", "PGPLAN_PG_BIN"]);
    with(&bin_folder("18")).expect(0);
}

#[test]
fn a_full_disk_fails_the_dump_and_space_lets_it_go_on() {
    if !nix::unistd::geteuid().is_root() {
        return; // Only root may mount a small file system.
    }
    let (source, env) = (Cluster::start("15"), TestEnv::new());
    source.psql("postgres", "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 200000) n");
    move_plan(&env, &url(&source), &url(&source), "  - dump: { from: source }\n");
    let state = env.work().join("small");
    fs::create_dir(&state).expect("a folder can be made");
    let call = |args: &[&str]| Command::new(args[0]).args(&args[1..]).arg(&state).status().is_ok_and(|s| s.success());
    if !call(&["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs"]) {
        return; // A container may forbid it.
    }
    let first = env.pgplan(&["apply", "plan.yaml", "--state", "small"]);
    let more = call(&["mount", "-o", "remount,size=64m"]);
    let second = env.pgplan(&["apply", "plan.yaml", "--state", "small"]);
    assert!(call(&["umount"]) && more);
    has(&first.expect(1).stderr, &["No space left", "free space"]);
    second.expect(0);
}
