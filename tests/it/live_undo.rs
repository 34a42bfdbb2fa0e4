//! Going back, editing a plan between two sessions, consent from elsewhere: through the binary, on a real server.

use std::{fs, time::Duration};

use nix::sys::signal::Signal;

use crate::{
    cluster::Cluster,
    env::{Outcome, TestEnv},
    live_claims::{plan, signal, until},
};

/// A plan with one step of each kind that can be taken back on this machine and server; its last step fails at first.
fn undoable(server: &Cluster) -> String {
    let steps = r#"  - create_database: { on: new }
  - sql: { database: db, run: "INSERT INTO log VALUES ('done')" }
    undo: { database: db, sql: "DELETE FROM log" }
  - command: { run: [cp, seed, copy] }
    undo: { run: [rm, copy] }
  - repoint: { file: app.env, set: { DATABASE_URL: new } }
  - id: last
    command: { run: [test, -e, mended] }
    undo: none
"#;
    let text = plan("p", &server.url("postgres"), steps);
    let new = server.url("new_one");
    text.replace("databases: { db:", &format!("databases: {{ new: {{ url: \"{new}\" }}, db:"))
}

fn state(env: &TestEnv, server: &Cluster) -> (String, String, bool, String) {
    let databases = server.psql("postgres", "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database");
    let log = server.psql("postgres", "SELECT count(*) FROM log");
    (databases, log, env.work().join("copy").exists(), env.read("app.env"))
}

fn prepared(server: &Cluster) -> TestEnv {
    server.psql("postgres", "CREATE TABLE log (what text)");
    let env = TestEnv::new();
    env.write("p.yaml", &undoable(server));
    env.write("seed", "x");
    env.write("app.env", "# the app\nDATABASE_URL=old\n");
    env
}

#[test]
fn run_undo_run_finish() {
    let server = Cluster::start("18");
    let env = prepared(&server);
    let before = state(&env, &server);
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    assert_ne!(state(&env, &server), before);

    let asked = env.pgplan(&["undo", "p.yaml"]).expect(5);
    assert!(asked.stderr.contains("take back"), "{}", asked.stderr);
    let shown = env.pgplan(&["undo", "p.yaml", "--dry-run"]).expect(0);
    assert!(shown.stderr.contains("DROP DATABASE"), "{}", shown.stderr);
    let undone = env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert!(undone.stderr.contains("the run has been taken back"), "{}", undone.stderr);
    assert_eq!(state(&env, &server), before);
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan'"), "0");
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(2);

    env.write("mended", "");
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    let (databases, log, copy, app) = state(&env, &server);
    assert!(databases.contains("new_one") && log == "1" && copy && app.contains("DATABASE_URL=new"));
    // What is done is taken back too, when a person says so.
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(state(&env, &server), before);
}

#[test]
fn a_plan_may_say_that_a_failure_leads_back() {
    let server = Cluster::start("18");
    let env = prepared(&server);
    env.write("p.yaml", &undoable(&server).replace("name: p\n", "name: p\non_failure: undo\n"));
    let before = state(&env, &server);
    let undone = env.pgplan(&["apply", "p.yaml"]).expect(1);
    assert!(undone.stderr.contains("going back: a step failed"), "{}", undone.stderr);
    assert_eq!(state(&env, &server), before);
}

#[test]
fn the_way_back_ends_at_the_point_of_no_return() {
    let env = TestEnv::new();
    let steps = r#"  - id: one
    command: { run: [touch, one] }
    undo: { run: [rm, one] }
  - id: two
    command: { run: [touch, two] }
    undo: { run: [rm, two] }
    point_of_no_return: true
  - id: three
    command: { run: [touch, three] }
    undo: { run: [rm, three] }
  - id: four
    command: { run: [test, -e, mended] }
"#;
    env.write("p.yaml", &format!("version: 1\nname: p\nsteps:\n{steps}"));
    let there = || ["one", "two", "three"].map(|name| env.work().join(name).exists());
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    let undone = env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert!(undone.stderr.contains("`two` is the point of no return"), "{}", undone.stderr);
    assert_eq!(there(), [true, true, false]);
    env.write("mended", "");
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    assert_eq!(there(), [true, true, true]);
}

#[test]
fn an_undo_that_fails_is_stuck_and_goes_on_when_it_is_mended() {
    let env = TestEnv::new();
    let steps = r#"  - id: one
    command: { run: [touch, one] }
    undo: { run: [rm, one] }
  - id: two
    command: { run: [touch, two] }
    undo: { run: [rm, two, elsewhere/two] }
  - id: three
    command: { run: [test, -e, mended] }
"#;
    env.write("p.yaml", &format!("version: 1\nname: p\nsteps:\n{steps}"));
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    let stuck = env.pgplan(&["undo", "p.yaml", "--yes"]).expect(5);
    assert!(stuck.stderr.contains("stuck on its way back") && stuck.stderr.contains("elsewhere"), "{}", stuck.stderr);
    let refused = env.pgplan(&["apply", "p.yaml"]).expect(5);
    assert!(refused.stderr.contains("on its way back"), "{}", refused.stderr);
    // It ended by itself: when its cause is mended the same command goes on.
    assert!(stuck.stderr.contains("undo again") && !stuck.stderr.contains("apply again"), "{}", stuck.stderr);
    let again = env.pgplan(&["undo", "p.yaml", "--yes"]).expect(5);
    assert!(!again.stderr.contains("cut in the middle"), "{}", again.stderr);
    env.write("two", "");
    env.write("elsewhere/two", "");
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    let left = ["one", "two", "elsewhere/two"].map(|name| env.work().join(name).exists());
    assert_eq!(left, [false; 3]);
}

#[test]
fn a_step_of_many_items_is_taken_back_item_by_item() {
    let env = TestEnv::new();
    let steps = r#"  - id: named
    for_each: [a, b/c, d]
    max_parallel: 1
    command: { run: [sh, -c, "echo +${{ each.key }} >> log; test ${{ each.key }} != d || test -e mended"] }
    undo: { run: [sh, -c, "echo -${{ each.value }} >> log"] }
"#;
    let text = |steps: &str| format!("version: 1\nname: p\nmax_parallel: 1\nsteps:\n{steps}");
    env.write("p.yaml", &text(&steps.replace("d]", "d, never]")));
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(env.read("log"), "+a\n+b/c\n+d\n-d\n-b/c\n-a\n");

    // An item that the plan has no more cannot be taken back, and is not left out in silence.
    env.write("log", "");
    env.write("p.yaml", &text(steps));
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    env.write("p.yaml", &text(&steps.replace("b/c, ", "")));
    let refused = env.pgplan(&["undo", "p.yaml", "--yes"]).expect(2).stderr;
    assert!(refused.contains("which its `for_each` has no more"), "{refused}");
    env.write("p.yaml", &text(steps));
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);

    // What its programs are told tells the item as well, to the undo of the step and of its kind.
    for (own, undo) in [(true, "undo: { run: [sh, -c, 'echo -$IT >> log'] }"), (false, "")] {
        env.write("log", "");
        let kinds = if own { "" } else { ", undo: [sh, -c, 'echo -$IT >> log']" };
        let told = format!(
            "  - id: told\n    for_each: [a, b]\n    max_parallel: 1\n    env: {{ IT: \"${{{{ each.value }}}}\" }}\n    \
             command: {{ run: [sh, -c, 'echo +$IT >> log']{kinds} }}\n    {undo}\n  \
             - {{ id: then, command: [test, -e, mended] }}\n"
        );
        env.write("p.yaml", &text(&told));
        env.pgplan(&["apply", "p.yaml"]).expect(1);
        env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
        assert_eq!(env.read("log"), "+a\n+b\n-b\n-a\n");
    }
}

#[test]
fn an_undo_that_was_killed_waits_for_a_person() {
    let env = TestEnv::new();
    let steps = r#"  - id: one
    command: { run: [touch, one] }
    undo: { run: [sh, -c, "rm one; kill -9 $$"] }
  - id: two
    done_if: { run: [sh, -c, "kill -9 $$"] }
    command: [touch, two]
"#;
    env.write("p.yaml", &format!("version: 1\nname: p\non_failure: undo\nsteps:\n{steps}"));
    let failed = env.pgplan(&["apply", "p.yaml"]).expect(5);
    // Apply is refused now, and nothing says otherwise.
    let status = env.pgplan(&["status"]).expect(0).stdout;
    for told in [&failed.stderr, &status] {
        assert!(told.contains("undo again") && !told.contains("apply again"), "{told}");
    }
    env.write("one", "");
    let waits = env.pgplan(&["undo", "p.yaml", "--yes"]).expect(5);
    assert!(waits.stderr.contains("cut in the middle"), "{}", waits.stderr);
    assert!(env.work().join("one").exists(), "it was done again");
    env.pgplan(&["resolve", "one", "--as", "undo"]).expect(0);
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
}

const TWO: &str = "version: 1\nname: p\nsteps:\n  - { id: one, command: { run: [sh, -c, \"echo one >> log\"] } }\n  - { id: two, command: { run: [sh, -c, \"echo two >> log; test -e mended\"] } }\n";

#[test]
fn an_edited_step_that_was_done_needs_a_word() {
    let env = TestEnv::new();
    env.write("p.yaml", TWO);
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    // A step that is not over may change.
    env.write("mended", "");
    env.write("p.yaml", &TWO.replace("echo one", "echo uno"));
    let refused = env.pgplan(&["apply", "p.yaml"]).expect(3);
    assert!(refused.stderr.contains("-       \"echo one >> log\""), "{}", refused.stderr);
    assert!(refused.stderr.contains("+       \"echo uno >> log\""), "{}", refused.stderr);
    assert_eq!(env.read("log"), "one\ntwo\n");
    env.pgplan(&["apply", "p.yaml", "--rerun", "one"]).expect(0);
    assert_eq!(env.read("log"), "one\ntwo\nuno\ntwo\n");

    fs::remove_file(env.work().join("mended")).expect("it is there");
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    env.write("mended", "");
    env.write("p.yaml", &TWO.replace("echo one", "echo eins").replace("echo two", "echo zwei"));
    env.pgplan(&["apply", "p.yaml", "--accept"]).expect(0);
    assert_eq!(env.read("log"), "one\ntwo\nuno\ntwo\nuno\ntwo\nzwei\n");
}

#[test]
fn a_run_goes_on_with_its_variables_unless_others_are_given() {
    let env = TestEnv::new();
    let text = "version: 1\nname: p\nvars: { word: default }\nsteps:\n  - { id: one, command: { run: [sh, -c, \"echo ${{ vars.word }} >> log\"] } }\n  - { id: two, command: { run: [sh, -c, \"echo ${{ vars.word }} >> log; test -e mended\"] } }\n";
    env.write("p.yaml", text);
    env.pgplan(&["apply", "p.yaml", "--var", "word=given"]).expect(1);
    env.write("mended", "");
    let on = env.pgplan(&["apply", "p.yaml"]).expect(0);
    assert!(on.stderr.contains("word=given"), "{}", on.stderr);
    assert_eq!(env.read("log"), "given\ngiven\ngiven\n");
}

#[test]
fn consent_can_come_from_elsewhere_and_ends_when_the_plan_changes() {
    let env = TestEnv::new();
    let text = "version: 1\nname: p\nsteps:\n  - approve: { message: \"go on?\" }\n  - { id: then, command: { run: [touch, then] } }\n";
    env.write("p.yaml", text);
    let waits = env.pgplan(&["apply", "p.yaml"]).expect(5);
    assert!(waits.stderr.contains("pgplan approve "), "{}", waits.stderr);
    env.pgplan(&["approve", "p", "approve"]).expect(0);
    env.write("p.yaml", &text.replace("touch, then", "touch, other"));
    env.pgplan(&["apply", "p.yaml"]).expect(5);
    env.write("p.yaml", text);
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    assert!(env.work().join("then").exists());
}

#[test]
fn consent_that_was_used_ends_when_what_it_was_given_to_changes() {
    let env = TestEnv::new();
    let text = "version: 1\nname: p\nsteps:\n  - approve: { message: \"go on?\" }\n  \
                - { id: first, command: [sh, -c, 'echo first >> log'] }\n  - { id: then, command: [test, -e, go] }\n";
    env.write("p.yaml", text);
    env.pgplan(&["apply", "p.yaml", "--yes"]).expect(1);
    // What it was given to is still the same.
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    env.write("p.yaml", &text.replace("test, -e, go", "touch, gone"));
    let asks = env.pgplan(&["apply", "p.yaml"]).expect(5).stderr;
    assert!(asks.contains("what comes after it has changed since it was given"), "{asks}");
    assert!(!env.work().join("gone").exists());
    env.pgplan(&["approve", "p", "approve"]).expect(0);
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    assert!(env.work().join("gone").exists());
    assert_eq!(env.read("log"), "first\n");
}

#[test]
fn consent_that_was_used_ends_when_steps_come_go_or_change_places() {
    let step = |id: &str| format!("  - {{ id: {id}, command: [sh, -c, 'echo {id} >> log'] }}\n");
    let (look, destroy, more) = (step("look"), step("destroy"), step("more"));
    let head = "version: 1\nname: p\nsteps:\n  - approve: { message: \"go on?\" }\n  \
                - { id: wait, command: [test, -e, mended] }\n";
    for later in [
        [&look, &destroy, &more].map(String::as_str).concat(),
        [&destroy].map(String::as_str).concat(),
        [&destroy, &look].map(String::as_str).concat(),
    ] {
        let env = TestEnv::new();
        env.write("p.yaml", &format!("{head}{look}{destroy}"));
        env.pgplan(&["apply", "p.yaml", "--yes"]).expect(1);
        // The same, written in another way, is the same.
        env.write("p.yaml", &format!("{head}{look}{}", destroy.replace("id: destroy,", "id: destroy, needs: [look],")));
        env.pgplan(&["apply", "p.yaml"]).expect(1);
        env.write("mended", "");
        env.write("p.yaml", &format!("{head}{later}"));
        let asks = env.pgplan(&["apply", "p.yaml"]).expect(5).stderr;
        assert!(asks.contains("what comes after it has changed since it was given"), "{asks}");
        assert!(!env.work().join("log").exists(), "it was done without asking:\n{later}");
        env.pgplan(&["approve", "p", "approve"]).expect(0);
        env.pgplan(&["apply", "p.yaml"]).expect(0);
        assert_eq!(env.read("log").lines().count(), later.lines().count());
    }
}

#[test]
fn consent_to_one_server_is_none_to_another() {
    let (staging, prod) = (Cluster::start("18"), Cluster::start("18"));
    for server in [&staging, &prod] {
        server.psql("postgres", "CREATE TABLE t (); INSERT INTO t DEFAULT VALUES");
    }
    let env = TestEnv::new();
    let steps = "  - approve: { message: \"empty it?\" }\n  - { id: wait, command: [test, -e, mended] }\n  \
                 - { id: empty, sql: { database: db, run: DELETE FROM t } }\n";
    let with_password = staging.url("postgres").replace("//postgres@", "//postgres:one@");
    env.write("p.yaml", &plan("p", &with_password, steps));
    env.pgplan(&["apply", "p.yaml", "--yes"]).expect(1);
    env.write("mended", "");
    env.write("p.yaml", &plan("p", &prod.url("postgres"), steps));
    let asks = env.pgplan(&["apply", "p.yaml"]).expect(5).stderr;
    assert!(asks.contains("has changed since it was given"), "{asks}");
    assert_eq!(prod.psql("postgres", "SELECT count(*) FROM t"), "1", "it was emptied under the consent to staging");
    env.pgplan(&["apply", "p.yaml", "--yes"]).expect(0);
    assert_eq!(prod.psql("postgres", "SELECT count(*) FROM t"), "0");
    assert_eq!(staging.psql("postgres", "SELECT count(*) FROM t"), "1");
}

#[test]
fn a_database_that_was_changed_elsewhere_needs_a_word() {
    let (staging, prod) = (Cluster::start("18"), Cluster::start("18"));
    let env = TestEnv::new();
    let steps = "  - sql: { database: db, run: CREATE TABLE made () }\n  - { id: wait, command: [test, -e, mended] }\n";
    let [old, new] =
        [&staging, &prod].map(|server| server.url("postgres").replace("//postgres@", "//postgres:hidden@"));
    env.write("p.yaml", &plan("p", &old, steps));
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    env.write("mended", "");
    // Another password is no other database.
    env.write("p.yaml", &plan("p", &new.replace("hidden", "other"), steps));
    let refused = env.pgplan(&["apply", "p.yaml"]).expect(3).stderr;
    assert!(refused.contains("is past `sql` already"), "{refused}");
    for (sign, server) in [("-", &staging), ("+", &prod)] {
        assert!(refused.contains(&format!("{sign}         \"port\": \"{}\"", server.port)), "{refused}");
    }
    assert!(!refused.contains("hidden") && !refused.contains("other"), "{refused}");
    env.write("p.yaml", &plan("p", &old.replace("hidden", "other"), steps));
    env.pgplan(&["apply", "p.yaml"]).expect(0);
}

#[test]
fn consent_from_elsewhere_ends_when_a_secret_is_somewhere_else() {
    let env = TestEnv::new();
    let text = "version: 1\nname: p\nsecrets: { token: { file: one } }\nsteps:\n  - approve: { message: \"go on?\" }\n  \
                - { id: then, command: [touch, then], env: { TOKEN: \"${{ secrets.token }}\" } }\n";
    for name in ["one", "two"] {
        let file = env.write(name, "a-token\n");
        fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("it is ours");
    }
    env.write("p.yaml", text);
    env.pgplan(&["apply", "p.yaml"]).expect(5);
    env.pgplan(&["approve", "p", "approve"]).expect(0);
    env.write("p.yaml", &text.replace("file: one", "file: two"));
    env.pgplan(&["apply", "p.yaml"]).expect(5);
    env.write("p.yaml", text);
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    assert!(env.work().join("then").exists());
}

#[test]
fn a_run_that_is_given_up_stays_as_it_is() {
    let env = TestEnv::new();
    env.write("p.yaml", TWO);
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    env.pgplan(&["abandon"]).expect(0);
    env.pgplan(&["abandon"]).expect(2);
    env.write("mended", "");
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    assert_eq!(env.read("log"), "one\ntwo\none\ntwo\n");
}

#[test]
fn a_stop_while_a_question_waits_gives_the_terminal_back() {
    let env = TestEnv::new();
    let text = "version: 1\nname: p\nsteps:\n  - approve: { message: \"go on?\" }\n";
    env.write("p.yaml", text);
    env.write(
        "session",
        "stty -g > before\nsh -c 'echo $$ > pid; exec \"$PGPLAN\" apply p.yaml'\necho $? > code\nstty -g > after\n",
    );
    // A terminal of its own, as util-linux makes one.
    let mut command = env.command(&[]);
    let program = command.get_program().to_owned();
    let variables: Vec<_> =
        command.get_envs().map(|(name, value)| (name.to_owned(), value.map(ToOwned::to_owned))).collect();
    command = std::process::Command::new("script");
    command.args(["-qefc", "sh session", "typescript"]).current_dir(env.work()).env_clear().env("PGPLAN", program);
    command.envs(variables.into_iter().filter_map(|(name, value)| Some((name, value?)))).env("TERM", "xterm");
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::null());
    let mut terminal = command.spawn().expect("script starts");
    let keyboard = terminal.stdin.take();
    let shown = || fs::read_to_string(env.work().join("typescript")).unwrap_or_default();
    until("it asks", || shown().contains("go on?"));
    let pid = env.read("pid").trim().parse().expect("a process id");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGTERM).expect("pgplan runs");
    until("it has ended", || env.work().join("after").exists());
    drop(keyboard);
    terminal.wait().expect("script ends");
    assert_eq!(env.read("code"), "4\n", "{}", shown());
    assert_eq!(env.read("after"), env.read("before"), "the terminal is not as it was");
    assert!(shown().contains("go on with: "), "{}", shown());
    env.pgplan(&["apply", "p.yaml", "--yes"]).expect(0);
}

#[test]
fn a_run_that_is_given_up_leaves_no_receipts() {
    let mut server = Cluster::start("18");
    let env = TestEnv::new();
    let steps = "  - sql: { database: db, run: \"CREATE TABLE made ()\" }\n  - command: { run: [test, -e, mended] }\n";
    env.write("p.yaml", &plan("p", &server.url("postgres"), steps));
    let receipts = |server: &Cluster| {
        let there = server.psql("postgres", "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan'");
        if there == "0" { there } else { server.psql("postgres", "SELECT count(*) FROM pgplan.receipt") }
    };
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    assert_eq!(receipts(&server), "1");
    let given_up = env.pgplan(&["abandon"]).expect(0);
    assert!(!given_up.stderr.contains("warning"), "{}", given_up.stderr);
    assert_eq!(receipts(&server), "0");
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM pg_class WHERE relname = 'made'"), "1", "the rest stays");

    // So does a new run that takes its place.
    server.psql("postgres", "DROP TABLE made");
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    server.psql("postgres", "DROP TABLE made");
    env.pgplan(&["apply", "p.yaml", "--fresh"]).expect(1);
    assert_eq!(receipts(&server), "1", "those of the new run only");

    // What cannot be reached is told with what to do there, and that works.
    server.stop();
    let told = env.pgplan(&["abandon"]).expect(0).stderr;
    assert!(told.contains("stay in `db`"), "{told}");
    server.restart();
    assert_eq!(receipts(&server), "1");
    let (_, sql) = told.split_once("drop them there with: ").expect("it is said how");
    let (delete, drop) = sql.trim().split_once("; and, when that table is empty: ").expect("there are two statements");
    server.psql("postgres", &format!("{delete}; {drop}"));
    assert_eq!(receipts(&server), "0");
}

#[test]
fn the_end_of_a_run_does_not_wait_for_ever_for_its_receipts() {
    let server = Cluster::start("18");
    let steps = "  - sql: { database: db, run: \"CREATE TABLE IF NOT EXISTS made ()\" }\n  \
                 - command: { run: [sh, -c, \"touch begun; while ! test -e go; do sleep 0.05; done\"] }\n";
    for stopped in [true, false] {
        let env = TestEnv::new();
        env.write("p.yaml", &plan("p", &server.url("postgres"), steps));
        let child = env.command(&["apply", "p.yaml"]).spawn().expect("pgplan starts");
        until("the statement is done", || env.work().join("begun").exists());
        // Somebody reads all tables meanwhile, as pg_dump does.
        let mut reader = std::process::Command::new(server.bin("psql"))
            .args(["-XAtqc", "BEGIN; SELECT FROM pgplan.receipt; SELECT pg_sleep(600)", &server.url("postgres")])
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("psql starts");
        let count =
            |what: &str| server.psql("postgres", &format!("SELECT count(*) FROM pg_stat_activity WHERE {what}"));
        until("the table is read", || count("wait_event = 'PgSleep'") == "1");
        env.write("go", "");
        until("the end waits", || count("wait_event_type = 'Lock'") == "1");
        let waits = std::time::Instant::now();
        if stopped {
            signal(&child, Signal::SIGINT);
        }
        let said = Outcome::of(&child.wait_with_output().expect("pgplan ends")).expect(0).stderr;
        assert!(waits.elapsed() < Duration::from_secs(if stopped { 8 } else { 20 }), "{:?}", waits.elapsed());
        assert!(said.contains("plan p is done"), "{said}");
        let told = if stopped { "receipts of the run are left" } else { "the receipts in `db` could not be dropped" };
        assert!(said.contains(told), "{said}");
        assert_eq!(count("wait_event_type = 'Lock'"), "0", "nothing is left that would drop them later");
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        assert_eq!(server.psql("postgres", end), "1");
        reader.wait().expect("psql ends");
        server.psql("postgres", "DROP SCHEMA pgplan CASCADE");
    }
}

#[test]
fn receipts_stay_where_another_run_is_at_work() {
    let server = Cluster::start("18");
    let (env, other) = (TestEnv::new(), TestEnv::new());
    let steps = "  - sql: { database: db, run: \"CREATE TABLE made ()\" }\n  - command: { run: [test, -e, mended] }\n";
    env.write("p.yaml", &plan("p", &server.url("postgres"), steps));
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    other.write(
        "q.yaml",
        &plan("q", &server.url("postgres"), "  - sql: { database: db, run: \"SELECT pg_sleep(600)\" }\n"),
    );
    let mut holder = other.command(&["apply", "q.yaml"]).spawn().expect("pgplan starts");
    until("the other run works", || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND state = 'active' \
                   AND pid <> pg_backend_pid()";
        server.psql("postgres", sql) != "0"
    });
    let told = env.pgplan(&["abandon", "p"]).expect(0).stderr;
    assert!(told.contains("another run is changing") && told.contains("DELETE FROM pgplan.receipt"), "{told}");
    signal(&holder, Signal::SIGTERM);
    assert_eq!(holder.wait().expect("it ends").code(), Some(4), "the other run was disturbed");
}

#[test]
fn a_second_signal_ends_programs_at_once() {
    let env = TestEnv::new();
    // Deaf to TERM: the polite stop would wait for it.
    let script = "trap '' TERM; touch begun; sleep 600 & wait; wait";
    let text = format!("version: 1\nname: p\nsteps:\n  - command: {{ run: [sh, -c, \"{script}\"] }}\n");
    env.write("p.yaml", &text);
    let mut child = env.command(&["apply", "p.yaml"]).spawn().expect("pgplan starts");
    until("the program runs", || env.work().join("begun").exists());
    signal(&child, Signal::SIGINT);
    std::thread::sleep(std::time::Duration::from_millis(200));
    signal(&child, Signal::SIGINT);
    let began = std::time::Instant::now();
    assert_eq!(child.wait().expect("it ends").code(), Some(4));
    assert!(began.elapsed() < std::time::Duration::from_secs(4), "it waited for the deaf program");
    let log = env.pgplan(&["log"]).expect(0);
    assert!(log.stdout.contains("interrupted by SIGINT"), "{}", log.stdout);
    env.pgplan(&["apply", "p.yaml"]).expect(5);
}

#[test]
fn a_stopped_run_goes_on_and_tells_what_it_does_when_asked() {
    let env = TestEnv::new();
    let steps =
        "  - id: wait\n    command: { run: [sh, -c, \"touch begun; while ! test -e mended; do sleep 0.05; done\"] }\n";
    env.write("p.yaml", &format!("version: 1\nname: p\nsteps:\n{steps}"));
    let child = env.command(&["apply", "p.yaml"]).spawn().expect("pgplan starts");
    until("the program runs", || env.work().join("begun").exists());
    signal(&child, Signal::SIGTSTP);
    signal(&child, Signal::SIGCONT);
    signal(&child, Signal::SIGUSR1);
    // The signal is told before the program ends, as pgplan hears of both in one place.
    std::thread::sleep(std::time::Duration::from_millis(300));
    env.write("mended", "");
    let said = crate::env::Outcome::of(&child.wait_with_output().expect("pgplan ends")).expect(0);
    assert!(said.stderr.contains("0 of 1 steps are over"), "{}", said.stderr);
    assert!(said.stderr.contains("now: wait: run sh -c"), "{}", said.stderr);
}
