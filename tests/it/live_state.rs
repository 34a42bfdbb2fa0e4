//! A journal that several machines share: through the binary, against real servers.

use std::process::Child;

use nix::sys::signal::Signal;

use crate::{
    cluster::{Cluster, Settings},
    env::{Outcome, TestEnv},
    live_claims::{Bouncer, plan, signal, until},
};

/// A server with a database for the journal and one for the plan, whose step waits at a gate.
fn server() -> Cluster {
    with_databases(Cluster::start("18"))
}

fn with_databases(server: Cluster) -> Cluster {
    server.psql("postgres", "CREATE DATABASE state; CREATE DATABASE app");
    server.psql("app", "CREATE TABLE done (what text); CREATE TABLE gate (open bool); INSERT INTO gate VALUES (false)");
    server
}

const STEPS: &str = "  - id: first\n    sql: { database: db, run: \"INSERT INTO done VALUES ('first')\" }\n  \
    - id: second\n    sql:\n      database: db\n      run:\n        - INSERT INTO done VALUES ('second')\n        \
    - SELECT CASE WHEN NOT open THEN pg_sleep(600) END FROM gate\n";

fn env(server: &Cluster) -> TestEnv {
    let env = TestEnv::new();
    env.write("p.yaml", &plan("p", &server.url("app"), STEPS));
    env
}

fn begin(env: &TestEnv, server: &Cluster, state: &str) -> Child {
    let child = env.command(&["apply", "p.yaml", "--state", state]).spawn().expect("pgplan starts");
    until("the second step runs", || {
        let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'app' AND query LIKE '%pg_sleep%' \
                   AND state = 'active' AND application_name LIKE 'pgplan%'";
        server.psql("postgres", sql) != "0"
    });
    child
}

fn done(server: &Cluster) -> String {
    server.psql("app", "SELECT string_agg(what, ' ' ORDER BY what) FROM done")
}

#[test]
fn two_machines_never_run_one_plan_and_one_goes_on_for_the_other() {
    let server = server();
    let state = server.url("state");
    let (here, there) = (env(&server), env(&server));
    let mut holder = begin(&here, &server, &state);
    let refused = there.pgplan(&["apply", "p.yaml", "--state", &state]).expect(3);
    assert!(refused.stderr.contains(&format!("process {}", holder.id())), "{}", refused.stderr);
    let running = there.pgplan(&["status", "--state", &state]).expect(0).stdout;
    assert!(running.contains(&format!("running: process {}", holder.id())), "{running}");

    signal(&holder, Signal::SIGKILL);
    holder.wait().expect("it is dead");
    server.psql("app", "UPDATE gate SET open = true");
    let on = there.pgplan(&["apply", "p.yaml", "--state", &state]).expect(0);
    assert!(on.stderr.contains("going on") && on.stderr.contains("1 step is done"), "{}", on.stderr);
    assert_eq!(done(&server), "first second");
    assert!(!there.work().join(".pgplan/state.db").exists());
    let runs = here.pgplan(&["runs", "--json", "--state", &state]).expect(0).stdout;
    assert!(runs.contains("\"succeeded\"") && runs.matches("\"run\"").count() == 1, "{runs}");
}

/// A holder that was away too long finds another one's lease: it ends what it does, at once.
#[test]
fn a_holder_whose_lease_was_taken_over_stops_its_programs() {
    let server = server();
    let state = server.url("state");
    let env = TestEnv::new();
    env.write(
        "p.yaml",
        "version: 1\nname: p\nsteps:\n  - { id: one, command: [sh, -c, 'echo $$ > begun; sleep 600; touch ended'] }\n",
    );
    let child = env.command(&["apply", "p.yaml", "--state", &state]).spawn().expect("pgplan starts");
    until("the program runs", || env.work().join("begun").exists() && !env.read("begun").is_empty());
    // What another machine does once the lock has been free for long enough.
    server.psql(
        "state",
        "UPDATE pgplan_state.lease SET epoch = epoch + 1; SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
         WHERE application_name LIKE 'pgplan-state%'",
    );
    let told = Outcome::of(&child.wait_with_output().expect("it ends")).expect(3).stderr;
    assert!(told.contains("another process has taken over the run"), "{told}");
    let program = env.read("begun").trim().to_owned();
    until("the program has ended", || !std::path::Path::new("/proc").join(&program).exists());
    assert!(!env.work().join("ended").exists());
}

#[test]
fn a_killed_run_goes_on_and_the_other_commands_know_it() {
    let server = server();
    let env = env(&server);
    env.write("p.yaml", &format!("state: {}\n{}", server.url("state"), plan("p", &server.url("app"), STEPS)));
    let mut child = env.command(&["apply", "p.yaml"]).spawn().expect("pgplan starts");
    until("the second step runs", || {
        server.psql("app", "SELECT count(*) FROM done") == "1" && {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND state = 'active' \
                   AND application_name LIKE 'pgplan%'";
            server.psql("postgres", sql) != "0"
        }
    });
    signal(&child, Signal::SIGKILL);
    child.wait().expect("it is dead");
    let state = server.url("state");
    let command = |args: &[&str]| {
        let mut command = env.command(args);
        command.env("PGPLAN_STATE", &state);
        crate::env::Outcome::of(&command.output().expect("pgplan starts"))
    };
    let status = command(&["status"]).expect(0).stdout;
    assert!(status.contains("killed; apply again"), "{status}");
    assert!(command(&["log"]).expect(0).stdout.contains("first"));
    command(&["approve", "p", "second"]).expect(0);
    command(&["resolve", "second", "--as", "done"]).expect(2);
    server.psql("app", "UPDATE gate SET open = true");
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    assert_eq!(done(&server), "first second");
    command(&["abandon", "p"]).expect(2);
    env.pgplan(&["status"]).expect(2);
    assert!(command(&["--help"]).expect(0).stdout.find(&state).is_none(), "help does not show the URL");
}

#[test]
fn a_state_server_that_is_gone_stops_the_run_and_is_named() {
    let server = server();
    let mut journal = Cluster::start("16");
    let state = journal.url("postgres");
    let env = env(&server);
    let child = begin(&env, &server, &state);
    journal.stop();
    server.psql("app", "UPDATE gate SET open = true");
    // The gate was read before it was opened: let the statement come to its end.
    server.psql(
        "postgres",
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()",
    );
    let outcome = crate::env::Outcome::of(&child.wait_with_output().expect("it ends")).expect(1);
    let name = format!("postgres://postgres@127.0.0.1:{}/postgres", journal.port);
    assert!(outcome.stderr.contains(&format!("the journal in {name} cannot be used")), "{}", outcome.stderr);
    env.pgplan(&["status", "--state", &state]).expect(1);
    let port = journal.port;
    journal.restart();
    assert_eq!(journal.port, port);
    env.pgplan(&["apply", "p.yaml", "--state", &state]).expect(0);
    assert_eq!(done(&server), "first second");
}

#[test]
fn a_state_server_that_is_restarted_is_waited_for() {
    let server = server();
    let mut journal = Cluster::start("16");
    let state = journal.url("postgres");
    let env = env(&server);
    let mut child = begin(&env, &server, &state);
    journal.kill9();
    journal.restart();
    assert_eq!(journal.url("postgres"), state);
    until("the lock is taken anew", || {
        journal.psql("postgres", "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'") == "1"
    });
    let second = self::env(&server);
    second.pgplan(&["apply", "p.yaml", "--state", &state]).expect(3);
    signal(&child, Signal::SIGTERM);
    assert_eq!(child.wait().expect("it ends").code(), Some(4));
    server.psql("app", "UPDATE gate SET open = true");
    env.pgplan(&["apply", "p.yaml", "--state", &state]).expect(0);
    assert_eq!(done(&server), "first second");
}

#[test]
fn a_state_in_a_database_of_the_plan_is_refused() {
    let server = server();
    server.psql("app", "UPDATE gate SET open = true");
    let env = env(&server);
    let refused = env.pgplan(&["apply", "p.yaml", "--state", &server.url("app")]).expect(3);
    assert!(refused.stderr.contains("cannot be in a database of the plan"), "{}", refused.stderr);
    assert_eq!(server.psql("app", "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan_state'"), "0");
    // The same database by another name.
    let socket = format!("postgres://postgres@/app?host={}&port={}", server.socket().display(), server.port);
    // A dry run says the same, and neither makes nor locks anything.
    for state in [&server.url("app"), &socket] {
        let refused = env.pgplan(&["plan", "p.yaml", "--state", state]).expect(3);
        assert!(refused.stderr.contains("cannot be in a database of the plan"), "{}", refused.stderr);
    }
    env.pgplan(&["plan", "p.yaml", "--state", &server.url("state")]).expect(0);
    for database in ["app", "state"] {
        let schemas = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'pgplan%'";
        assert_eq!(server.psql(database, schemas), "0");
    }
    let refused = env.pgplan(&["apply", "p.yaml", "--state", &socket]).expect(3);
    assert!(refused.stderr.contains("is its `db`"), "{}", refused.stderr);
    assert_eq!(done(&server), "");
    // Another database of that server, and one of the same name elsewhere, are none of the plan's.
    let other = with_databases(Cluster::start("18"));
    env.pgplan(&["apply", "p.yaml", "--state", &other.url("app")]).expect(0);
    env.pgplan(&["apply", "p.yaml", "--state", &server.url("state")]).expect(0);
}

#[test]
fn a_dry_run_does_not_start_the_program_that_tells_where_the_journal_is() {
    let server = server();
    let env = TestEnv::new();
    let secret =
        format!("secrets: {{ url: {{ command: [sh, -c, \"touch started; echo '{}'\"] }} }}\n", server.url("app"));
    let state = "state: \"${{ secrets.url }}\"\n";
    env.write("p.yaml", &format!("{secret}{state}{}", plan("p", &server.url("app"), STEPS)));
    let shown = env.pgplan(&["plan", "p.yaml"]).expect(0);
    assert!(shown.stderr.contains("a program tells where the journal is"), "{}", shown.stderr);
    assert!(!env.work().join("started").exists());
    let refused = env.pgplan(&["plan", "p.yaml", "--allow-programs"]).expect(3);
    assert!(refused.stderr.contains("cannot be in a database of the plan"), "{}", refused.stderr);
}

#[test]
fn a_plan_tells_other_commands_where_its_journal_is() {
    let server = server();
    server.psql("app", "UPDATE gate SET open = true");
    let env = TestEnv::new();
    let steps = format!("  - approve: {{ message: \"go on?\" }}\n{STEPS}");
    let secret = "secrets: { url: { env: JOURNAL } }\nvars: { place: { required: true } }\n";
    let text = format!("{secret}state: \"${{{{ secrets.url }}}}\"\n{}", plan("p", &server.url("app"), &steps));
    env.write("p.yaml", &text);
    let run = |args: &[&str]| {
        let mut command = env.command(args);
        command.env("JOURNAL", server.url("state"));
        crate::env::Outcome::of(&command.output().expect("pgplan starts"))
    };
    let given = ["--plan", "p.yaml", "--var", "place=here"];
    let waits = run(&["apply", "p.yaml", "--var", "place=here"]).expect(5);
    assert!(waits.stderr.contains(" approve --plan p.yaml --var place=here`"), "{}", waits.stderr);
    for command in ["status", "log", "runs"] {
        run(&[&[command][..], &given].concat()).expect(0);
    }
    run(&[&["approve", "p", "approve"][..], &given].concat()).expect(0);
    run(&["apply", "p.yaml"]).expect(2);
    run(&["apply", "p.yaml", "--var", "place=here"]).expect(0);
    run(&[&["abandon"][..], &given].concat()).expect(2);
    assert_eq!(done(&server), "first second");
    assert!(!env.work().join(".pgplan/state.db").exists());
}

#[test]
fn the_password_of_the_state_is_nowhere() {
    let password = "very/secret'pw";
    let server = with_databases(Cluster::with(Settings { password: Some(password.into()), ..Settings::new("18") }));
    let env = TestEnv::new();
    let steps = "steps:\n  - id: leak\n    command: [sh, -c, 'echo \"$PGPLAN_STATE\" | tee leaked; exit 3']\n";
    env.write(
        "p.yaml",
        &format!("version: 1\nname: p\nsecrets: {{ url: {{ env: URL }} }}\nstate: ${{{{ secrets.url }}}}\n{steps}"),
    );
    let mut shown = String::new();
    for (variable, args) in [("URL", vec!["apply", "p.yaml"]), ("PGPLAN_STATE", vec!["apply", "p.yaml"])] {
        let mut command = env.command(&args);
        command.env("URL", "unused").env(variable, server.url("state"));
        let outcome = crate::env::Outcome::of(&command.output().expect("pgplan starts")).expect(1);
        shown.push_str(&format!("{}{}", outcome.stdout, outcome.stderr));
    }
    assert_eq!(server.psql("state", "SELECT count(*) FROM pgplan_state.run"), "1");
    for args in [["log", "--json"], ["status", "--json"], ["runs", "--json"]] {
        let outcome = env.pgplan(&[&args[..], &["--state", &server.url("state")]].concat()).expect(0);
        shown.push_str(&format!("{}{}", outcome.stdout, outcome.stderr));
    }
    shown.push_str(&server.psql("state", "SELECT string_agg(body, '') FROM pgplan_state.event"));
    shown.push_str(&server.psql("state", "SELECT string_agg(l::text, '') FROM pgplan_state.lease l"));
    for hidden in ["very/secret", "very%2Fsecret"] {
        assert!(!shown.contains(hidden), "{shown}");
    }
    let wrong = server.url("state").replace("very%2F", "wrong%2F");
    let refused = env.pgplan(&["runs", "--state", &wrong]).expect(1);
    assert!(
        refused.stderr.contains("the journal in postgres://postgres@127.0.0.1") && !refused.stderr.contains("wrong"),
        "{}",
        refused.stderr
    );
    let bad = env.pgplan(&["runs", "--state", "postgres://u:secret@h:port/d"]).expect(2);
    assert!(!bad.stderr.contains("secret"), "{}", bad.stderr);
}

#[test]
fn a_dump_that_lies_on_another_machine_is_told_about() {
    let server = server();
    let (here, there) = (TestEnv::new(), TestEnv::new());
    server.psql("postgres", "CREATE DATABASE copy");
    let text = format!(
        "version: 1\nname: move\ndatabases:\n  app: {{ url: \"{}\" }}\n  copy: {{ url: \"{}\" }}\nsteps:\n  \
         - id: save\n    dump: {{ from: app }}\n  - restore: {{ into: copy }}\n",
        server.url("app"),
        server.url("copy")
    );
    for env in [&here, &there] {
        env.write("p.yaml", &text);
    }
    let state = server.url("state");
    here.pgplan(&["apply", "p.yaml", "--until", "save", "--state", &state]).expect(0);
    let failed = there.pgplan(&["apply", "p.yaml", "--state", &state]).expect(1);
    assert!(failed.stderr.contains("go on where step `save` ran"), "{}", failed.stderr);
    here.pgplan(&["apply", "p.yaml", "--state", &state]).expect(0);
    assert_eq!(server.psql("copy", "SELECT open FROM gate"), "f");
}

#[test]
fn a_state_behind_a_transaction_pooler_is_refused() {
    let server = server();
    server.psql("app", "UPDATE gate SET open = true");
    let env = env(&server);
    let through = |mode| {
        let bouncer = Bouncer::start(&server, mode);
        env.pgplan(&["apply", "p.yaml", "--state", &format!("postgres://postgres@127.0.0.1:{}/state", bouncer.port)])
    };
    let refused = through("transaction").expect(3);
    assert!(refused.stderr.contains("transaction pooler"), "{}", refused.stderr);
    assert_eq!(server.psql("state", "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan_state'"), "0");
    through("session").expect(0);
}
