//! Journals of real runs, cut behind an event as a kill leaves them, while the world is as it was then.

use std::fs;

use pgplan_engine::{
    action::Effect,
    event::{Event, EventKind},
    journal::{Journal, Location},
    world::this_process,
};
use serde_json::json;

use crate::{cluster::Cluster, env::TestEnv};

fn place(env: &TestEnv) -> Location {
    Location::Folder(env.work().join(".pgplan"))
}

/// Returns the only run of a journal.
fn events(env: &TestEnv) -> (String, String, Vec<Event>) {
    let journal = Journal::open(&place(env)).expect("the journal can be opened");
    let runs = journal.runs().expect("the runs can be read");
    assert_eq!(runs.len(), 1, "{runs:?}");
    let events = journal.events(&runs[0].id).expect("the events can be read");
    (runs[0].id.clone(), runs[0].plan.clone(), events)
}

/// Puts a journal in the place of another that holds just these events.
fn write(env: &TestEnv, run: &str, plan: &str, events: &[Event]) {
    for file in ["state.db", "state.db-wal", "state.db-shm"] {
        let path = env.work().join(".pgplan").join(file);
        // SQLite removes its log when it closes the journal.
        if path.exists() {
            fs::remove_file(path).expect("it can be removed");
        }
    }
    let mut journal = Journal::open(&place(env)).expect("a journal can be made");
    journal.acquire(plan, &this_process()).expect("nobody holds it");
    journal.create_run(run, plan).expect("it has no run yet");
    journal.append(run, events).expect("they go on from each other");
    journal.release().expect("it can be given back");
}

/// Kills a run that ended well right before that was written down.
fn without_its_end(env: &TestEnv) {
    let (run, plan, events) = events(env);
    let last = events.last().map(|event| &event.kind);
    assert!(matches!(last, Some(EventKind::RunEnded { .. })), "{last:?}");
    write(env, &run, &plan, &events[..events.len() - 1]);
}

/// A tunnel of one's own, whose number is in a file, and steps around it that close it.
const BEHIND_A_TUNNEL: &str = r#"version: 1
name: p
databases: { through: { url: "${{ steps.tunnel.outputs.url }}" } }
steps:
  - id: first
    command: { run: ["true"] }
    undo: { run: [sh, cut] }
  - id: tunnel
    tunnel:
      run: [sh, -c, "echo $$ > pid; exec aptible db:tunnel old"]
      outputs: { url: { parse: { regex: 'Connect at (postgres(?:ql)?://\S+)' }, secret: true } }
  - id: note
    sql: { database: through, run: "INSERT INTO log VALUES ('done')" }
    undo: { database: through, sql: "DELETE FROM log" }
  - id: last
    command: { run: [sh, cut] }
    undo: none
"#;

/// Returns a server behind a tunnel, and where the plan is that ends the tunnel with its last step.
fn behind_a_tunnel() -> (Cluster, TestEnv) {
    let server = Cluster::start("15");
    server.psql("postgres", "CREATE TABLE log (what text)");
    let env = TestEnv::new();
    env.set_fakes(&json!({ "databases": { "old": { "version": "15", "url": server.url("postgres") } } }));
    env.write("p.yaml", BEHIND_A_TUNNEL);
    env.write("cut", "kill $(cat pid)");
    (server, env)
}

#[test]
fn receipts_behind_a_tunnel_go_when_a_run_was_killed_before_its_end() {
    let (server, env) = behind_a_tunnel();
    let receipts = || server.psql("postgres", "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan'");
    let rows = || server.psql("postgres", "SELECT count(*) FROM log");
    for (command, word, left) in [("apply", "succeeded", "1"), ("undo", "undone", "0")] {
        let done = env.pgplan(&[command, "p.yaml", "--yes"]).expect(0).stderr;
        assert!(done.contains("the receipts in `through` could not be dropped"), "{done}");
        assert_eq!((receipts().as_str(), rows().as_str()), ("1", left));
        without_its_end(&env);
        let done = env.pgplan(&[command, "p.yaml", "--yes"]).expect(0).stderr;
        assert!(!done.contains("could not be dropped"), "{done}");
        assert_eq!((receipts().as_str(), rows().as_str()), ("0", left), "{done}");
        assert!(env.pgplan(&["runs"]).expect(0).stdout.contains(word));
    }
}

#[test]
fn receipts_that_cannot_be_reached_any_more_are_told() {
    let (server, env) = behind_a_tunnel();
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    without_its_end(&env);
    env.set_fakes(&json!({}));
    let done = env.pgplan(&["apply", "p.yaml"]).expect(0).stderr;
    assert!(done.contains("`tunnel` leads to receipts and is not open"), "{done}");
    assert!(done.contains("the value of `steps.tunnel.outputs.url` is not known in this session"), "{done}");
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM pgplan.receipt"), "1");
}

/// A plan whose steps are done one by one, so that the world is known at each; with what takes each of them back.
fn one_by_one(server: &Cluster) -> String {
    format!(
        r#"version: 1
name: p
databases: {{ db: {{ url: "{}" }}, new: {{ url: "{}" }} }}
steps:
  - create_database: {{ on: new }}
  - id: one
    sql: {{ database: db, run: "INSERT INTO log VALUES ('one')" }}
    undo: {{ database: db, sql: "DELETE FROM log WHERE what = 'one'" }}
  - id: stop-app
    scale: {{ platform: systemd, services: [app.service], to: 0 }}
  - repoint: {{ file: app.env, set: {{ DATABASE_URL: new }} }}
  - id: each
    for_each: [x, y]
    sql: {{ database: new, run: "CREATE TABLE ${{{{ each.value }}}} ()" }}
    undo: {{ database: new, sql: "DROP TABLE x, y" }}
  - id: two
    sql: {{ database: db, run: "INSERT INTO log VALUES ('two')" }}
    undo: {{ database: db, sql: "DELETE FROM log WHERE what = 'two'" }}
  - approve: {{ message: "go on?" }}
"#,
        server.url("postgres"),
        server.url("new_one")
    )
}

/// What the plan changes, as it is.
fn state(env: &TestEnv, server: &Cluster) -> Vec<String> {
    let databases = server.psql("postgres", "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database");
    let tables = match databases.contains("new_one") {
        true => server.psql("new_one", "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"),
        false => String::new(),
    };
    let log = server.psql("postgres", "SELECT string_agg(what, ' ' ORDER BY what) FROM log");
    vec![databases, tables, log, env.read("app.env"), env.fakes()["units"].to_string()]
}

/// From where on a journal can be cut while the world is as it is at its end: all that was done had been begun. What has
/// receipts needs no such care, as they tell by themselves.
fn first_cut(events: &[Event], session: usize) -> usize {
    let of_session = |at: &usize| *at >= session;
    let effect = events.iter().rev().find_map(|event| match &event.kind {
        EventKind::StepExpanded { graph, .. } => graph.actions.first().map(|action| action.effect),
        _ => None,
    });
    let begun = |at: &usize| matches!(events[*at].kind, EventKind::ActionStarted { .. });
    match effect {
        Some(Effect::Transaction) => session + 1,
        _ => (0..events.len()).filter(of_session).rfind(begun).expect("something was begun") + 1,
    }
}

#[test]
fn a_real_journal_cut_at_every_event_leads_to_the_same_world_and_back() {
    let server = Cluster::start("18");
    server.psql("postgres", "CREATE TABLE log (what text)");
    let env = TestEnv::new();
    env.set_fakes(&json!({ "units": { "app.service": "active" } }));
    env.write("app.env", "DATABASE_URL=old # of the app\n");
    env.write("p.yaml", &one_by_one(&server));
    let before = state(&env, &server);
    let (mut known, mut cuts) = (0, 0);
    for step in ["create_database", "one", "stop-app", "repoint", "each", "two"] {
        let until = ["apply", "p.yaml", "--until", step];
        env.pgplan(&until).expect(0);
        let (run, plan, all) = events(&env);
        let done = state(&env, &server);
        for cut in first_cut(&all, known)..all.len() {
            write(&env, &run, &plan, &all[..cut]);
            env.pgplan(&until).expect(0);
            assert_eq!(state(&env, &server), done, "{step} was cut behind {:?}", all[cut - 1].kind);
            cuts += 1;
        }
        known = events(&env).2.len();
    }
    assert!(cuts > 25, "{cuts} cuts");
    env.pgplan(&["apply", "p.yaml", "--yes"]).expect(0);
    let now = state(&env, &server);
    assert_eq!(now[1..4], ["2", "one two", "DATABASE_URL=new # of the app\n"].map(str::to_owned));
    for database in ["postgres", "new_one"] {
        assert_eq!(server.psql(database, "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan'"), "0");
    }
    // What was written down to go back with is what was there before, through all of that.
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(state(&env, &server), before);
}
