//! `fence` and `unfence` on real servers: writers under every role, what is proved, and everything as it was afterwards.

use std::{
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{JoinHandle, sleep, spawn},
    time::{Duration, Instant},
};

use nix::sys::signal::Signal;

use crate::{
    cluster::{Cluster, Settings},
    env::{Outcome, TestEnv},
    live_claims::{plan, signal, until},
    live_plans::output,
};

/// A database whose name must be quoted everywhere.
pub(crate) const HOSTILE: &str = "ap'p \"x\\; --";

/// A name that pgplan's own sessions could have.
const FORGED: &str = "pgplan 1.0 forged";

/// Roles, grants by others, settings of databases and roles, in an order that GRANT alone would not bring back.
pub(crate) fn load(server: &Cluster) {
    server.psql(
        "postgres",
        r#"CREATE ROLE owner LOGIN; CREATE ROLE writer LOGIN; CREATE ROLE boss LOGIN SUPERUSER;
CREATE ROLE "lead'; --" LOGIN; CREATE ROLE member LOGIN; CREATE ROLE monitoring LOGIN;
ALTER ROLE writer SET default_transaction_read_only = off; ALTER ROLE writer SET work_mem = '9MB';
CREATE DATABASE app OWNER owner;
CREATE DATABASE "ap'p ""x\; --" OWNER "lead'; --" CONNECTION LIMIT 77;
ALTER DATABASE "ap'p ""x\; --" SET work_mem = '8MB';
ALTER DATABASE "ap'p ""x\; --" SET default_transaction_read_only = 'false';
ALTER DATABASE "ap'p ""x\; --" SET statement_timeout = '1h';
ALTER ROLE member IN DATABASE app SET search_path = 'a b', c;
ALTER ROLE member IN DATABASE app SET default_transaction_read_only = '0';
ALTER ROLE member IN DATABASE app SET work_mem = '7MB';
REVOKE ALL ON DATABASE "ap'p ""x\; --" FROM PUBLIC;
GRANT CONNECT ON DATABASE "ap'p ""x\; --" TO member;
GRANT CONNECT, CREATE ON DATABASE "ap'p ""x\; --" TO boss WITH GRANT OPTION;
SET ROLE boss; RESET ROLE;
GRANT CONNECT ON DATABASE "ap'p ""x\; --" TO writer WITH GRANT OPTION;
SET SESSION AUTHORIZATION writer; GRANT CONNECT ON DATABASE "ap'p ""x\; --" TO monitoring, owner; RESET SESSION AUTHORIZATION;
CREATE ROLE late; GRANT TEMP ON DATABASE "ap'p ""x\; --" TO PUBLIC; GRANT CONNECT ON DATABASE "ap'p ""x\; --" TO late;
"#,
    );
    for database in ["app", HOSTILE] {
        server.psql(
            database,
            "CREATE TABLE log (who text, at timestamptz DEFAULT now()); GRANT ALL ON log TO PUBLIC; \
             CREATE SEQUENCE counter; GRANT ALL ON counter TO PUBLIC; \
             CREATE TABLE orders AS SELECT g AS id FROM generate_series(1, 1000) g; GRANT SELECT ON orders TO PUBLIC",
        );
    }
}

/// All that a fence could change, as it is written in the catalogs.
pub(crate) fn access(server: &Cluster) -> String {
    server.psql(
        "postgres",
        "SELECT datname, datconnlimit, coalesce(datacl::text, 'NULL'), datallowconn FROM pg_database ORDER BY 1; \
         SELECT setdatabase, setrole, setconfig::text FROM pg_db_role_setting ORDER BY 1, 2; \
         SELECT * FROM pg_shdepend WHERE classid = 'pg_database'::regclass ORDER BY objid, refobjid, deptype; \
         SELECT rolname, rolcanlogin, rolconnlimit FROM pg_roles ORDER BY 1",
    )
}

/// Somebody who connects and writes all the time, whatever the defaults of his session are.
struct Writer {
    stop: Arc<AtomicBool>,
    written: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    fn start(server: &Cluster, database: &str, role: &str, application: &'static str) -> Self {
        let (stop, written) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let url = as_role(&server.url(database), role);
        let sql = format!("INSERT INTO public.log VALUES ('{}')", role.replace('\'', "''"));
        let (program, stopped, counted) = (server.bin("psql"), Arc::clone(&stop), Arc::clone(&written));
        let thread = spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let mut psql = Command::new(&program);
                psql.args(["-Xq", "-d", &url, "-c", "SET default_transaction_read_only = off", "-c", &sql])
                    .env("PGAPPNAME", application);
                let done = psql.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("psql starts");
                counted.fetch_add(u64::from(done.success()), Ordering::Relaxed);
                sleep(Duration::from_millis(20));
            }
        });
        let writer = Self { stop, written, thread: Some(thread) };
        until("the writer writes", || writer.written() > 0);
        writer
    }

    fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map(JoinHandle::join);
    }
}

pub(crate) fn as_role(url: &str, role: &str) -> String {
    let escaped = role.replace('\'', "%27").replace(';', "%3B").replace(' ', "%20");
    url.replace("//postgres@", &format!("//{escaped}@"))
}

/// Someone who is connected and does nothing.
fn idle(server: &Cluster, database: &str, role: &str) -> std::process::Child {
    let mut psql = Command::new(server.bin("psql"));
    psql.args(["-Xq", "-d", &as_role(&server.url(database), role)]);
    psql.env("PGAPPNAME", "idler").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = psql.spawn().expect("psql starts");
    until("it is connected", || {
        server.psql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'idler'") == "1"
    });
    child
}

fn rows(server: &Cluster) -> String {
    ["app", HOSTILE].map(|database| server.psql(database, "SELECT count(*) FROM log")).join(" ")
}

pub(crate) fn said<'a>(done: &'a Outcome, what: &str) -> &'a str {
    assert!(done.stderr.contains(what), "`{what}` is not in\n{}", done.stderr);
    &done.stderr
}

pub(crate) const FENCE: &str = "  - fence: { database: db, grace: 0s, window: 1s }\n";

#[test]
fn writers_of_every_ordinary_role_are_stopped_and_undo_brings_back_every_letter() {
    let server = Cluster::start("15");
    load(&server);
    let before = access(&server);
    let env = TestEnv::new();
    let dump = "  - dump: { from: db, scope: cluster }\n  - id: last\n    command: { run: [test, -e, mended] }\n";
    env.write("p.yaml", &plan("p", &server.url("app"), &format!("{FENCE}{dump}")));
    let preview = env.pgplan(&["plan", "p.yaml"]).expect(0);
    assert!(preview.stdout.contains("close ap'p \"x\\; --, app, postgres on db to writers"), "{}", preview.stdout);
    assert_eq!(access(&server), before);

    let writers = [("app", "owner"), ("app", "writer"), ("app", "member"), (HOSTILE, "lead'; --"), (HOSTILE, "writer")];
    let writers = writers.map(|(database, role)| Writer::start(&server, database, role, FORGED));
    env.pgplan(&["apply", "p.yaml", "--json"]).expect(1);
    let fenced = rows(&server);
    let written: Vec<u64> = writers.iter().map(Writer::written).collect();
    sleep(Duration::from_millis(500));
    assert_eq!(rows(&server), fenced);
    assert_eq!(writers.iter().map(Writer::written).collect::<Vec<_>>(), written);
    assert_ne!(access(&server), before);
    // The fence stands while the run waits for a person; a second run does not take it for the ordinary state.
    let other = TestEnv::new();
    other.write("q.yaml", &plan("q", &server.url("app"), FENCE));
    said(&other.pgplan(&["apply", "q.yaml"]).expect(3), "is fenced already");

    env.write("mended", "");
    let done = env.pgplan(&["apply", "p.yaml", "--json"]).expect(0);
    let quiet = output(&done, "fence", "quiet");
    assert!(quiet["lsn"].as_str().is_some_and(|lsn| lsn.contains('/')) && quiet["whole"] == true, "{quiet}");
    assert_eq!(quiet["databases"].as_object().map(serde_json::Map::len), Some(3), "{quiet}");
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(access(&server), before);
    until("they write again", || writers.iter().zip(&written).all(|(writer, before)| writer.written() > *before));
}

#[test]
fn who_cannot_be_stopped_is_named_and_nothing_stays_changed() {
    let server = Cluster::with(Settings { conf: vec!["max_prepared_transactions = 5".into()], ..Settings::new("15") });
    load(&server);
    let before = access(&server);
    let apply = |text: &str, code: i32| {
        let env = TestEnv::new();
        env.write("p.yaml", &plan("p", &server.url("app"), text));
        let done = env.pgplan(&["apply", "p.yaml"]).expect(code);
        (env, done)
    };
    // Another superuser, one who uses the role of pgplan, and one who takes the name of its sessions, too.
    let writers = [("boss", FORGED), ("postgres", "app"), ("postgres", FORGED)];
    let writers = writers.map(|(role, name)| Writer::start(&server, "app", role, name));
    let (env, failed) = apply(FENCE, 6);
    said(&failed, "quiet cannot be proved");
    said(&failed, "superuser boss (pgplan 1.0 forged) from 127.0.0.1 in app");
    said(&failed, "superuser postgres (app) from 127.0.0.1 in app");
    said(&failed, "\"public\".\"log\" of app:");
    said(&failed, "the databases are open again, as they were");
    assert_eq!(access(&server), before);
    drop(writers);
    let forged = Writer::start(&server, "app", "postgres", FORGED);
    let failed = env.pgplan(&["apply", "p.yaml"]).expect(6);
    said(&failed, "nobody was seen: who wrote came and went between two looks");
    said(&failed, "\"public\".\"log\" of app:");
    drop(forged);

    // What is brought back must not be older than the fence.
    server.psql("postgres", "GRANT CONNECT ON DATABASE app TO late");
    let between = access(&server);
    said(&env.pgplan(&["apply", "p.yaml"]).expect(3), "who may use app has changed since this step was listed");
    env.pgplan(&["apply", "p.yaml", "--rerun", "fence"]).expect(0);
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(access(&server), between);
    server.psql("postgres", "REVOKE CONNECT ON DATABASE app FROM late");
    server.psql("postgres", "UPDATE pg_database SET datacl = NULL WHERE datname = 'app'");
    assert_eq!(access(&server), before);

    server.psql("app", "BEGIN; INSERT INTO log VALUES ('prepared'); PREPARE TRANSACTION 'it''s mine'");
    let (_, failed) = apply(FENCE, 6);
    said(&failed, "prepared transaction it's mine of role postgres in app");
    assert_eq!(access(&server), before);
    server.psql("app", "ROLLBACK PREPARED 'it''s mine'");

    let connection = server.url("postgres");
    server.psql(
        "app",
        &format!("CREATE SUBSCRIPTION feed CONNECTION '{connection}' PUBLICATION p WITH (connect = false)"),
    );
    server.psql("app", "ALTER SUBSCRIPTION feed ENABLE");
    said(&apply(FENCE, 6).1, "subscription feed in app brings changes");
    server.psql(
        "app",
        "ALTER SUBSCRIPTION feed DISABLE; ALTER SUBSCRIPTION feed SET (slot_name = NONE); DROP SUBSCRIPTION feed",
    );

    // One superuser who only looks: he is to be blamed, unless he is allowed to stay.
    let mut watcher = idle(&server, "app", "boss");
    let allowed =
        FENCE.replace("window: 1s", "window: 1s, keep: true, allow: { applications: [idl*], roles: [monitoring] }");
    let (env, done) = apply(&allowed, 0);
    assert!(watcher.try_wait().expect("psql is ours").is_none(), "the watcher was ended: {}", done.stderr);
    let may = "SELECT has_database_privilege('monitoring', 'app', 'CONNECT'), has_database_privilege('owner', 'app', 'CONNECT')";
    assert_eq!(server.psql("postgres", may), "t|f");
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(access(&server), before);
    watcher.kill().and_then(|()| watcher.wait()).expect("it can be ended");

    // `keep` leaves the fence, and the run takes it back.
    let boss = Writer::start(&server, "app", "boss", FORGED);
    let (env, _) = apply(&FENCE.replace("window: 1s", "window: 1s, keep: true"), 6);
    assert_ne!(access(&server), before);
    drop(boss);
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(access(&server), before);
}

#[test]
fn a_killed_fence_goes_on_and_a_broken_one_is_found() {
    let server = Cluster::start("18");
    load(&server);
    let before = access(&server);
    let env = TestEnv::new();
    let steps = "  - fence: { database: db, grace: 600s, window: 1s }\n  - id: wait\n    command: { run: [sh, -c, \"touch begun; while test ! -e open; do sleep 0.05; done\"], done_if: { run: [test, -e, open] } }\n  - unfence: { fence: fence }\n  - id: last\n    command: { run: [test, -e, mended] }\n";
    env.write("p.yaml", &plan("p", &server.url("app"), steps));
    let mut idler = idle(&server, "app", "owner");
    for (how, code) in [(Signal::SIGKILL, None), (Signal::SIGTERM, Some(4)), (Signal::SIGKILL, None)] {
        let mut child = env.command(&["apply", "p.yaml"]).spawn().expect("pgplan starts");
        until("the fence is set", || access(&server) != before);
        sleep(Duration::from_millis(500));
        signal(&child, how);
        let told = Instant::now();
        assert_eq!(child.wait().expect("it has ended").code(), code);
        assert!(told.elapsed() < Duration::from_secs(20), "it waited for the grace");
    }
    idler.kill().and_then(|()| idler.wait()).expect("it can be ended");
    let mut child = env.command(&["apply", "p.yaml"]).spawn().expect("pgplan starts");
    until("quiet was proved", || env.work().join("begun").exists());
    signal(&child, Signal::SIGKILL);
    child.wait().expect("it is dead");

    // Somebody writes while nobody looks: what later steps have taken is old.
    server.psql("app", "SET default_transaction_read_only = off; INSERT INTO log VALUES ('between')");
    let failed = env.pgplan(&["apply", "p.yaml"]).expect(6);
    said(&failed, "was written to since `fence` proved it quiet");
    said(&failed, "app: 1 rows were changed");
    assert_eq!(access(&server), before);
    env.write("open", "");
    env.pgplan(&["apply", "p.yaml", "--rerun", "fence"]).expect(1);
    assert_eq!(access(&server), before, "the step `unfence` has opened it");
    // What is open again is not fenced by going on.
    env.write("mended", "");
    let done = env.pgplan(&["apply", "p.yaml"]).expect(0);
    assert!(!done.stderr.contains("prove that nobody"), "{}", done.stderr);
    assert_eq!(access(&server), before);
}

#[test]
fn a_dump_from_behind_a_fence_is_verified_and_opened_on_both_sides() {
    let (source, target) = (Cluster::start("15"), Cluster::start("18"));
    load(&source);
    let before = access(&source);
    let env = TestEnv::new();
    let steps = "  - fence: { database: db, grace: 0s, window: 1s }\n  - dump: { from: db, scope: cluster }\n  - restore: { into: new, expected_errors: ['role \"postgres\" already exists'] }\n  - id: between\n    command: { run: [sh, between] }\n  - verify: { left: db, right: new, databases: all }\n  - id: open_new\n    unfence: { database: db, on: new }\n  - unfence: { database: db }\n";
    let text = plan("p", &source.url("app"), steps);
    let text =
        text.replace("databases: { db:", &format!("databases: {{ new: {{ url: \"{}\" }}, db:", target.url("postgres")));
    env.write("p.yaml", &text);
    let write = format!(
        "{} -Xq -d {} -c 'SET default_transaction_read_only = off' -c \"SELECT nextval('counter')\"",
        source.bin("psql").display(),
        source.url("app")
    );
    env.write("between", &write);
    let failed = env.pgplan(&["apply", "p.yaml"]).expect(6);
    said(&failed, "db was written to since `fence` proved it quiet");
    said(&failed, "sequences moved");

    env.write("between", "true");
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(access(&source), before);

    // Begun anew while it stands, the fence sees a fenced server; the new one is to be as the old one was before.
    let target = Cluster::start("18");
    let gate = "  - id: gate\n    command: { run: [test, -e, gate] }\n  - dump:";
    let text = plan("p2", &source.url("app"), &steps.replace("  - dump:", gate));
    let text =
        text.replace("databases: { db:", &format!("databases: {{ new: {{ url: \"{}\" }}, db:", target.url("postgres")));
    env.write("p2.yaml", &text);
    env.pgplan(&["apply", "p2.yaml"]).expect(1);
    env.write("gate", "");
    env.pgplan(&["apply", "p2.yaml", "--rerun", "fence"]).expect(0);
    assert_eq!(access(&source), before);
    let open = "SELECT datname, datconnlimit, (SELECT string_agg(x, ' ' ORDER BY x) FROM (SELECT coalesce(pg_get_userbyid(\
                nullif(grantee, 0)), 'PUBLIC') || is_grantable AS x FROM aclexplode(coalesce(datacl, acldefault('d', datdba))) \
                WHERE privilege_type = 'CONNECT') c) FROM pg_database WHERE NOT datistemplate ORDER BY 1; \
                SELECT coalesce(d.datname, ''), setrole::regrole, setconfig FROM pg_db_role_setting s \
                LEFT JOIN pg_database d ON d.oid = setdatabase ORDER BY 1, 2::text";
    assert_eq!(target.psql("postgres", open), source.psql("postgres", open));
}

#[test]
fn a_fence_that_is_closed_anew_does_not_take_that_for_a_change_by_others() {
    let (source, target, env) = (Cluster::start("15"), Cluster::start("18"), TestEnv::new());
    load(&source);
    let before = access(&source);
    let steps = "  - fence: { database: db, grace: 0s, window: 2s }\n  - dump: { from: db, scope: cluster }\n  - restore: { into: new, expected_errors: ['role \"postgres\" already exists'] }\n  - id: spoil\n    command: { run: [sh, spoil] }\n  - verify: { left: db, right: new, databases: all }\n  - unfence: { database: db }\n";
    let new = format!("databases: {{ new: {{ url: \"{}\" }}, db:", target.url("postgres"));
    env.write("p.yaml", &plan("p", &source.url("app"), steps).replace("databases: { db:", &new));
    let psql = format!("{} -Xq -d {}", target.bin("psql").display(), target.url("app"));
    let spoil = "-c 'SET default_transaction_read_only = off' -c 'CREATE TABLE spoilt AS SELECT 1 AS n'";
    env.write("spoil", &format!("{psql} {spoil}"));
    // The look whether all is quiet is listed now, and done in another session.
    env.pgplan(&["apply", "p.yaml"]).expect(6);
    target.psql("app", "SET default_transaction_read_only = off; DROP TABLE spoilt");

    let child = env.command(&["apply", "p.yaml"]).spawn().expect("pgplan starts");
    let end =
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name LIKE 'pgplan %fence'";
    until("its proof is cut off", || source.psql("postgres", end) != "0");
    let failed = Outcome::of(&child.wait_with_output().expect("pgplan ends")).expect(1);
    said(&failed, "the databases are open again, as they were");
    assert_eq!(access(&source), before);

    let mut child = env.command(&["apply", "p.yaml"]).spawn().expect("pgplan starts");
    until("it is closed anew", || access(&source) != before);
    signal(&child, Signal::SIGKILL);
    child.wait().expect("it is dead");
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    assert_eq!(access(&source), before);
}

#[test]
fn an_owner_without_superuser_fences_his_own_database() {
    let server = Cluster::start("13");
    load(&server);
    server.psql(
        "postgres",
        "ALTER ROLE writer RESET default_transaction_read_only; ALTER ROLE member IN DATABASE app RESET ALL",
    );
    let before = access(&server);
    let env = TestEnv::new();
    let fence = "  - fence: { database: db, databases: [app], grace: 0s, window: 1s }\n";
    env.write("p.yaml", &plan("p", &as_role(&server.url("app"), "owner"), fence));
    let writer = Writer::start(&server, "app", "writer", "app");
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    let written = writer.written();
    sleep(Duration::from_millis(300));
    assert_eq!(writer.written(), written);
    let undone = env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    said(&undone, "only a superuser can bring back `NULL`");
    until("he writes again", || writer.written() > written);
    let default = "SELECT datacl FROM pg_database WHERE datname = 'app'";
    assert_eq!(server.psql("postgres", default), "{=Tc/owner,owner=CTc/owner}");
    server.psql("postgres", "UPDATE pg_database SET datacl = NULL WHERE datname = 'app'");
    assert_eq!(access(&server), before);
    // He may not change a role's own setting: then nothing is done at all.
    server.psql("postgres", "ALTER ROLE writer SET default_transaction_read_only = off");
    let before = access(&server);
    let other = TestEnv::new();
    other.write("p.yaml", &plan("p", &as_role(&server.url("app"), "owner"), fence));
    said(&other.pgplan(&["apply", "p.yaml"]).expect(1), "permission denied");
    assert_eq!(access(&server), before);
}

#[test]
fn a_fence_that_was_open_in_between_counts_what_was_written_then() {
    let server = Cluster::start("16");
    load(&server);
    let before = access(&server);
    let env = TestEnv::new();
    let steps = "  - fence: { database: db, grace: 0s, window: 1s }\n  - dump: { from: db }\n  - id: use\n    command: { run: [test, -e, mended] }\n  - unfence: { fence: fence }\n    run_on: always\n";
    env.write("p.yaml", &plan("p", &server.url("app"), steps));
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    assert_eq!(access(&server), before);
    // Nobody wrote: the dump is still good.
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    assert_eq!(access(&server), before);
    server.psql("app", "INSERT INTO log VALUES ('open')");
    env.write("mended", "");
    said(&env.pgplan(&["apply", "p.yaml"]).expect(6), "app: 1 rows were changed");
    assert_eq!(access(&server), before);
    env.pgplan(&["apply", "p.yaml", "--rerun", "fence"]).expect(0);
    assert_eq!(access(&server), before);
}

#[test]
fn receipts_of_steps_before_a_fence_that_stays_go_with_the_run() {
    let server = Cluster::start("15");
    load(&server);
    let env = TestEnv::new();
    let sql = "  - sql: { database: db, run: \"INSERT INTO log VALUES ('plan')\" }\n";
    env.write("p.yaml", &plan("p", &server.url("app"), &format!("{sql}{FENCE}")));
    let done = env.pgplan(&["apply", "p.yaml"]).expect(0);
    assert!(!done.stderr.contains("warning"), "{}", done.stderr);
    let left = "SELECT (SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan'), current_setting('default_transaction_read_only')";
    assert_eq!(server.psql("app", left), "0|on", "the fence stands");
}
