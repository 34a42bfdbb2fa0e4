//! Locks on servers, what dead sessions leave behind, poolers: through the binary, against real servers.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command},
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cluster::Cluster,
    env::{Outcome, TestEnv, bin_folder},
};

/// Waits until something is so; fails the test after a time in which it surely would be.
#[track_caller]
pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so() {
        assert!(Instant::now() < deadline, "it never came about: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Returns a plan that changes one database, with these steps.
pub(crate) fn plan(name: &str, url: &str, steps: &str) -> String {
    format!("version: 1\nname: {name}\ndatabases: {{ db: {{ url: \"{url}\" }} }}\nsteps:\n{steps}")
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(child.id()).expect("a process id fits"));
    kill(pid, signal).expect("the child runs");
}

fn busy(server: &Cluster) -> bool {
    server.psql(
        "postgres",
        "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgplan%' AND state = 'active' \
         AND query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()",
    ) != "0"
}

const SLOW: &str = "  - sql: { database: db, run: [\"INSERT INTO done VALUES ('slow')\", \"SELECT pg_sleep(600)\"] }\n";
const QUICK: &str = "  - sql: { database: db, run: \"INSERT INTO done VALUES ('quick')\" }\n";

#[test]
fn two_runs_never_change_one_server() {
    let server = Cluster::start("18");
    server.psql("postgres", "CREATE TABLE done (what text)");
    let (first, second) = (TestEnv::new(), TestEnv::new());
    first.write("one.yaml", &plan("one", &server.url("postgres"), SLOW));
    second.write("two.yaml", &plan("two", &server.url("postgres"), QUICK));
    let mut holder = first.command(&["apply", "one.yaml"]).spawn().expect("pgplan starts");
    until("the first run works", || busy(&server));

    let refused = second.pgplan(&["apply", "two.yaml"]).expect(3);
    assert!(refused.stderr.contains("another run is changing"), "{}", refused.stderr);
    assert!(refused.stderr.contains(&format!(":{}", holder.id())), "names the holder: {}", refused.stderr);
    let same = first.pgplan(&["apply", "one.yaml"]).expect(3);
    assert!(same.stderr.contains(&format!("process {}", holder.id())), "{}", same.stderr);

    signal(&holder, Signal::SIGTERM);
    assert_eq!(holder.wait().expect("it ends").code(), Some(4));
    second.pgplan(&["apply", "two.yaml"]).expect(0);
    assert_eq!(server.psql("postgres", "SELECT what FROM done"), "quick");
}

#[test]
fn a_lock_that_lives_elsewhere_does_not_stand_for_a_lost_one() {
    let (mut server, other) = (Cluster::start("18"), Cluster::start("18"));
    server.psql("postgres", "CREATE TABLE done (what text)");
    server.psql("postgres", "CREATE DATABASE b");
    server.psql("b", "CREATE TABLE done (what text)");
    other.psql("postgres", "CREATE TABLE gate (open bool); INSERT INTO gate VALUES (false)");
    let (first, second) = (TestEnv::new(), TestEnv::new());
    let (a, b, c) = (server.url("postgres"), server.url("b"), other.url("postgres"));
    let wait = "DO $$ BEGIN LOOP EXIT WHEN (SELECT open FROM gate); PERFORM pg_sleep(0.02); END LOOP; END $$";
    first.write(
        "one.yaml",
        &format!(
            "version: 1\nname: one\ndatabases: {{ a: {{ url: \"{a}\" }}, b: {{ url: \"{b}\" }}, c: {{ url: \"{c}\" }} }}\nsteps:\n\
             \x20 - {{ id: in_a, sql: {{ database: a, run: \"INSERT INTO done VALUES ('a')\" }} }}\n\
             \x20 - {{ id: in_b, sql: {{ database: b, run: \"INSERT INTO done VALUES ('b')\" }} }}\n\
             \x20 - {{ id: in_c, sql: {{ database: c, run: \"{wait}\" }} }}\n\
             \x20 - {{ id: again, sql: {{ database: b, run: \"INSERT INTO done VALUES ('unlocked')\" }} }}\n"
        ),
    );
    second.write("two.yaml", &plan("two", &a, SLOW));
    let mut command = first.command(&["apply", "one.yaml"]);
    let mut child = command.stderr(std::process::Stdio::piped()).spawn().expect("pgplan starts");
    until("the run waits on the other server", || busy(&other));
    server.restart();
    let mut holder = second.command(&["apply", "two.yaml"]).spawn().expect("pgplan starts");
    until("the second run works", || busy(&server));

    other.psql("postgres", "UPDATE gate SET open = true");
    // One that works on without a lock would wait at its end for the other run.
    until("the first run has ended", || child.try_wait().expect("it can be asked").is_some());
    let refused = Outcome::of(&child.wait_with_output().expect("pgplan ends"));
    assert!(!refused.status.success(), "{}", refused.stderr);
    assert!(refused.stderr.contains("another run is changing"), "{}", refused.stderr);
    assert_eq!(server.psql("b", "SELECT string_agg(what, ' ') FROM done"), "b");
    signal(&holder, Signal::SIGTERM);
    holder.wait().expect("it ends");
}

#[test]
fn what_a_killed_run_left_running_is_ended_and_done_once() {
    let server = Cluster::start("18");
    server.psql(
        "postgres",
        "CREATE TABLE done (what text); CREATE TABLE gate (open bool); INSERT INTO gate VALUES (false)",
    );
    let env = TestEnv::new();
    let steps = "  - sql:\n      database: db\n      run:\n        - INSERT INTO done VALUES ('once')\n        - SELECT CASE WHEN NOT open THEN pg_sleep(600) END FROM gate\n";
    env.write("p.yaml", &plan("p", &server.url("postgres"), steps));
    for _ in 0..2 {
        let mut child = env.command(&["apply", "p.yaml"]).spawn().expect("pgplan starts");
        until("the statement runs", || busy(&server));
        signal(&child, Signal::SIGKILL);
        child.wait().expect("it is dead");
        assert!(busy(&server), "the server works on after its client was killed");
    }
    server.psql("postgres", "UPDATE gate SET open = true");
    let done = env.pgplan(&["apply", "p.yaml"]).expect(0);
    assert!(done.stderr.contains("going on"), "{}", done.stderr);
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM done"), "1");
    let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgplan%'";
    until("no session is left", || server.psql("postgres", left) == "0");
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan'"), "0");
}

#[test]
fn a_lock_of_a_killed_run_is_nobodys() {
    let server = Cluster::start("18");
    server.psql("postgres", "CREATE TABLE done (what text)");
    let (first, second) = (TestEnv::new(), TestEnv::new());
    first.write("one.yaml", &plan("one", &server.url("postgres"), SLOW));
    second.write("two.yaml", &plan("two", &server.url("postgres"), QUICK));
    let mut holder = first.command(&["apply", "one.yaml"]).spawn().expect("pgplan starts");
    until("the first run works", || busy(&server));
    signal(&holder, Signal::SIGKILL);
    holder.wait().expect("it is dead");
    until("the second run gets the lock", || {
        second.command(&["apply", "two.yaml"]).status().expect("pgplan runs").success()
    });
}

#[test]
fn a_run_stopped_in_the_middle_of_a_dump_holds_its_lease_and_goes_on() {
    let server = Cluster::start("18");
    server.psql("postgres", "CREATE TABLE t AS SELECT n FROM generate_series(1, 1000) n");
    let env = TestEnv::new();
    env.write("p.yaml", &plan("p", &server.url("postgres"), "  - dump: { from: db }\n"));
    // Keeps pg_dump waiting for its lock on the table.
    let gate = "BEGIN; LOCK TABLE t; SELECT pg_sleep(600)";
    let mut keeper = Command::new(server.bin("psql"))
        .args(["-XAtqc", gate, &server.url("postgres")])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("psql starts");
    until("the table is locked", || {
        server.psql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1"
    });
    let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    let child = env.command(&["apply", "p.yaml"]).spawn().expect("pgplan starts");
    until("pg_dump waits", || server.psql("postgres", waiting) != "0");
    let state = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is there");
        stat.rsplit_once(") ").expect("its name is in parentheses").1.chars().next()
    };
    signal(&child, Signal::SIGTSTP);
    // The kernel drops it where no shell could continue the process; that it stops is what matters here.
    std::thread::sleep(Duration::from_millis(200));
    if state(child.id()) != Some('T') {
        signal(&child, Signal::SIGSTOP);
    }
    until("it stands still", || state(child.id()) == Some('T'));
    let refused = env.pgplan(&["apply", "p.yaml"]).expect(3);
    assert!(refused.stderr.contains(&format!("process {}", child.id())), "{}", refused.stderr);
    let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    assert_eq!(server.psql("postgres", end), "1");
    keeper.wait().expect("psql ends");
    // pg_dump may come to its end meanwhile; pgplan hears of it when it goes on.
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(state(child.id()), Some('T'));
    signal(&child, Signal::SIGCONT);
    let done = Outcome::of(&child.wait_with_output().expect("pgplan ends")).expect(0);
    assert!(done.stderr.contains("plan p is done"), "{}", done.stderr);
}

/// A real pgbouncer before a server.
pub(crate) struct Bouncer {
    child: Child,
    pub(crate) port: u16,
    _folder: tempfile::TempDir,
}

impl Bouncer {
    pub(crate) fn start(server: &Cluster, mode: &str) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
        let ini = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\n",
            server.port
        );
        fs::write(&ini, text).expect("the configuration can be written");
        for path in [folder.path().to_owned(), ini.clone()] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(path, mode).expect("others may read it");
        }
        let program: PathBuf = bin_folder("pgbouncer").join("pgbouncer");
        let mut command = Command::new(program);
        command.arg("-q").arg(&ini).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
        crate::cluster::drop_root(&mut command);
        let child = command.spawn().expect("pgbouncer starts");
        until("pgbouncer listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, port, _folder: folder }
    }

    fn apply(&self, env: &TestEnv) -> Outcome {
        let url = format!("postgresql://postgres@127.0.0.1:{}/postgres", self.port);
        env.write("p.yaml", &plan("p", &url, QUICK));
        env.pgplan(&["apply", "p.yaml", "--fresh"])
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.child.kill().and_then(|()| self.child.wait()).ok();
    }
}

#[test]
fn a_transaction_pooler_is_refused_and_a_session_pooler_is_not() {
    let server = Cluster::start("18");
    server.psql("postgres", "CREATE TABLE done (what text)");
    let env = TestEnv::new();
    for mode in ["transaction", "statement"] {
        let refused = Bouncer::start(&server, mode).apply(&env).expect(3);
        assert!(refused.stderr.contains("pooler"), "{mode}: {}", refused.stderr);
        assert_eq!(server.psql("postgres", "SELECT count(*) FROM done"), "0");
    }
    Bouncer::start(&server, "session").apply(&env).expect(0);
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM done"), "1");
}
