//! `rehearse`: the whole plan against throwaway servers, and what follows from it: times, predictions, the budget.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Settings};
use crate::env::{Outcome, TestEnv, bin_folder};
use crate::live_plans::{files, plan};
use crate::live_restore::{DATABASES, aptible_with, image, load_demo};

const PASSWORDS: [&str; 2] = ["0ldS3cretOfAptible", "n3wS3cretOfAptible"];
const APP_URL: &str = "postgresql://app:S3cretInTheApp@db.internal/db";

/// Two servers and an application as the stand-ins know it; the passwords stand in the password file.
fn surroundings(versions: [&str; 2]) -> (TestEnv, Cluster, Cluster) {
    let env = TestEnv::new();
    let [source, target] = [aptible_with(versions[0], PASSWORDS[0]), aptible_with(versions[1], PASSWORDS[1])];
    load_demo(&source);
    env.set_fakes(&json!({
        "apps": { "orders": { "environment": "production", "services": { "cmd": 2, "worker": 3 },
                              "config": { "DB_URL": APP_URL } } },
        "databases": {
            "orders-15": { "environment": "production", "version": "15", "url": source.url("db") },
            "orders-18": { "environment": "production", "version": "18", "url": target.url("db") } } }));
    let lines = [(source.port, PASSWORDS[0]), (target.port, PASSWORDS[1])];
    let lines = lines.map(|(port, password)| format!("127.0.0.1:{port}:*:aptible:{password}\n"));
    let file = env.work().join("../home/.pgpass");
    fs::write(&file, lines.concat()).expect("the password file can be written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its mode can be set");
    (env, source, target)
}

fn addresses(source: &Cluster, target: &Cluster) -> [String; 4] {
    let address = |name: &str, cluster: &Cluster| format!("{name}=postgresql://aptible@127.0.0.1:{}/db", cluster.port);
    ["--address".into(), address("source", source), "--address".into(), address("target", target)]
}

fn rehearse(env: &TestEnv, more: &[String]) -> Outcome {
    let file = plan("aptible-upgrade.yaml");
    let mut args = vec!["rehearse", file.as_str(), "--assume", "1s"];
    args.extend(more.iter().map(String::as_str));
    env.pgplan(&args)
}

fn rehearsals(env: &TestEnv) -> PathBuf {
    env.work().join(".pgplan/rehearsals/aptible-upgrade")
}

/// Returns the timing records, oldest first.
fn records(env: &TestEnv) -> Vec<Value> {
    let mut found: Vec<PathBuf> =
        files(&rehearsals(env)).into_iter().filter(|path| path.parent() == Some(&rehearsals(env))).collect();
    found.sort();
    let read = |path: &PathBuf| serde_json::from_str(&fs::read_to_string(path).expect("it can be read"));
    found.iter().map(|path| read(path).expect("it is JSON")).collect()
}

/// Returns where the throwaway servers of a rehearsal lie.
fn servers_of(env: &TestEnv, id: &str) -> PathBuf {
    if geteuid().is_root() {
        Path::new("/var/lib/pgplan").join(format!("rehearsal-{id}"))
    } else {
        rehearsals(env).join(id).join("servers")
    }
}

/// Fails when a page loads anything from anywhere.
#[track_caller]
fn stands_alone(page: &str) {
    for loading in ["<script", "<link", "<img", "<iframe", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(loading), "the page holds `{loading}`");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn a_plan_is_rehearsed_without_touching_anything_real() {
    let (env, source, target) = surroundings(["15", "18"]);
    let before = DATABASES.map(|database| image(&source, database));
    let fakes = env.fakes();
    let said = rehearse(&env, &addresses(&source, &target)).expect(0);
    assert!(said.stderr.contains("would scale cmd of orders to 0"), "{}", said.stderr);
    assert!(said.stderr.contains("nothing real was changed"), "{}", said.stderr);
    assert!(said.stderr.contains("predicted downtime: about"), "{}", said.stderr);
    // Nothing real was touched: not one program of the platform was started.
    assert_eq!(env.fake_calls(), Vec::<String>::new());
    assert_eq!(env.fakes(), fakes);
    assert_eq!(DATABASES.map(|database| image(&source, database)), before);
    assert_eq!(target.psql("db", "SELECT count(*) FROM pg_roles WHERE rolname IN ('app', 'analyst')"), "0");
    for cluster in [&source, &target] {
        assert_eq!(cluster.psql("db", "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan'"), "0");
        assert!(
            !cluster.psql("db", "SELECT string_agg(application_name, ' ') FROM pg_stat_activity").contains("pgplan ")
        );
    }
    // The rehearsal itself did the whole plan on data of this size.
    let [record] = records(&env).try_into().expect("there is one record");
    assert_eq!((&record["outcome"], &record["sample"]), (&json!("succeeded"), &Value::Null));
    let step = |id: &str| record["steps"].as_array().and_then(|all| all.iter().find(|step| step["id"] == id).cloned());
    assert_eq!(step("restore").expect("it was done")["simulated"], json!(false));
    assert_eq!(step("repoint").expect("it was done")["simulated"], json!(true));
    let actions = record["actions"].as_array().expect("a list");
    let dump = actions.iter().find(|action| action["op"] == "dump").expect("a dump was made");
    assert!(dump["bytes"].as_u64() > Some(100_000) && dump["ms"].as_u64() > Some(0), "{dump}");
    assert!(record["servers"]["source"]["bytes"].as_u64() > Some(1_000_000), "{}", record["servers"]);
    // What is left is the journal with its locks, the report and the times; servers, dumps and the password are gone.
    let id = record["id"].as_str().expect("it has an id");
    assert!(!servers_of(&env, id).exists());
    let left: Vec<String> = files(&rehearsals(&env).join(id))
        .iter()
        .map(|path| path.file_name().expect("a file has a name").to_string_lossy().into_owned())
        .filter(|name| !name.starts_with("state."))
        .collect();
    assert_eq!(left.len(), 3, "{left:?}");
    let page = fs::read_to_string(rehearsals(&env).join(id).join("report.html")).expect("there is a report");
    stands_alone(&page);
    assert!(page.contains("A rehearsal") && page.contains("<svg") && page.contains("Verification: verify"));
    let account: Value =
        serde_json::from_str(&fs::read_to_string(rehearsals(&env).join(id).join("report.json")).expect("it is there"))
            .expect("it is JSON");
    assert_eq!(account["verifications"][0]["equal"], json!(true));
    assert!(account["downtime"][0]["ms"].as_u64() > Some(0));
    for path in files(&env.work().join(".pgplan")) {
        let bytes = fs::read(&path).expect("the file can be read");
        for secret in PASSWORDS.into_iter().chain(["S3cretInTheApp"]) {
            assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{}", path.display());
        }
    }
    // The prediction stands in the dry run.
    let file = plan("aptible-upgrade.yaml");
    let dry = env.pgplan(&["plan", &file]).expect(0).stdout;
    assert!(dry.contains("predicted downtime: about") && dry.contains("start-app 1.0 s, assumed"), "{dry}");
    let json: Value =
        serde_json::from_str(&env.pgplan(&["plan", &file, "--format", "json"]).expect(0).stdout).expect("it is JSON");
    assert!(
        json["downtime"]["ms"].as_u64() > Some(0)
            && json["downtime"]["high_ms"].as_u64() > json["downtime"]["ms"].as_u64()
    );
    assert!(env.pgplan(&["plan", &file, "--format", "markdown"]).expect(0).stdout.contains("### Downtime"));

    a_killed_rehearsal_is_cleaned_up_by_the_next(&env, &source, &target);
    an_interrupted_rehearsal_leaves_nothing(&env, &source, &target);
    let sampled = records(&env).pop().expect("the last one is there");
    let share = sampled["servers"]["source"]["share"].as_f64().expect("a number");
    assert!((0.01..1.0).contains(&share), "{sampled:#}");

    // A physical clone of the source, and for the target an empty server that nobody looks at.
    let [_, address, ..] = addresses(&source, &target);
    let more = ["--address".to_owned(), address, "--clone".into(), "source".into(), "--empty".into(), "target".into()];
    let cloned = rehearse(&env, &more).expect(0);
    assert!(cloned.stderr.contains("by pg_basebackup"), "{}", cloned.stderr);
    assert!(cloned.stderr.contains("target: an empty server takes its place"), "{}", cloned.stderr);
    assert_eq!(records(&env).last().expect("it is there")["outcome"], json!("succeeded"));

    // A run of the plan leaves its report, and the rehearsals were none of its runs.
    let done = crate::live_plans::apply(&env, "aptible-upgrade.yaml", &[], &["--yes"]).expect(0);
    assert!(done.stderr.contains("report.html"), "{}", done.stderr);
    let told = env.pgplan(&["report"]).expect(0).stdout;
    stands_alone(&told);
    assert!(told.contains("Run of aptible-upgrade") && told.contains(">succeeded<"));
    for secret in PASSWORDS {
        assert!(!told.contains(secret));
    }
    let markdown = env.pgplan(&["report", "aptible-upgrade", "--format", "markdown"]).expect(0).stdout;
    assert!(markdown.contains("## Downtime") && markdown.contains("## Left out by filter"), "{markdown}");
    // Now the application's steps were measured, too.
    let dry = env.pgplan(&["plan", &file]).expect(0).stdout;
    assert!(dry.contains(", last run") && !dry.contains(", assumed"), "{dry}");
    a_backup_is_rehearsed_with(&env, &target);
}

const FROM_BACKUP: &str = "\
version: 1
name: from-backup
databases:
  source: { url: postgresql://nobody@127.0.0.1:1/app, expect: { major: 18 } }
steps:
  - sql: { database: source, run: SELECT sum(n) FROM t, read_only: true, expect: { value: '6' } }
";

/// Rehearses with a dump in place of a server that cannot be reached, then with an address that holds a password.
fn a_backup_is_rehearsed_with(env: &TestEnv, server: &Cluster) {
    server.psql("postgres", "CREATE DATABASE app");
    server.psql("app", "CREATE TABLE t AS SELECT generate_series(1, 3) AS n");
    let mut dump = std::process::Command::new(bin_folder("18").join("pg_dump"));
    dump.args(["--format=custom", "--no-owner", "--no-acl", "--file"]).arg(env.work().join("app.dump"));
    dump.arg(format!("--dbname=postgresql://aptible@127.0.0.1:{}/app", server.port)).env("PGPASSWORD", PASSWORDS[1]);
    assert!(dump.status().expect("pg_dump starts").success());
    env.write("from-backup.yaml", FROM_BACKUP);
    let said = env.pgplan(&["rehearse", "from-backup.yaml", "--backup", "source=app.dump"]).expect(0);
    assert!(said.stderr.contains("restoring") && said.stderr.contains("was rehearsed"), "{}", said.stderr);
    let address = "source=postgresql://aptible:S3cretOnTheLine@127.0.0.1/app";
    let refused = env.pgplan(&["rehearse", "from-backup.yaml", "--address", address]).expect(2);
    assert!(refused.stderr.contains("~/.pgpass") && !refused.stderr.contains("S3cretOnTheLine"), "{}", refused.stderr);
    env.pgplan(&["rehearse", "from-backup.yaml", "--sample", "100"]).expect(2);
    env.pgplan(&["rehearse", "from-backup.yaml", "--empty", "other"]).expect(2);
}

/// Starts a rehearsal; returns it, filling its first server, and its id.
fn filling(env: &TestEnv, more: &[String]) -> (Child, String) {
    let known: Vec<PathBuf> = folders(&rehearsals(env));
    let file = plan("aptible-upgrade.yaml");
    let mut args = vec!["rehearse", file.as_str()];
    args.extend(more.iter().map(String::as_str));
    let child = env.command(&args).spawn().expect("pgplan starts");
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut filled = None;
    while filled.is_none() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
        let new = folders(&rehearsals(env)).into_iter().find(|folder| !known.contains(folder));
        let id = new.and_then(|folder| Some(folder.file_name()?.to_string_lossy().into_owned()));
        filled = id.filter(|id| {
            let stamp = fs::read_to_string(servers_of(env, id).join("copy-0/pgplan.json")).unwrap_or_default();
            stamp.contains("\"complete\":true")
        });
    }
    (child, filled.expect("no server was made"))
}

/// Returns the process of the first throwaway server.
fn server_process(env: &TestEnv, id: &str) -> Pid {
    let file = servers_of(env, id).join("copy-0/data/postmaster.pid");
    let text = fs::read_to_string(file).expect("the server runs");
    Pid::from_raw(text.lines().next().and_then(|pid| pid.parse().ok()).expect("a pid"))
}

/// Fails when a process runs; one that only waits for its parent's notice has ended.
#[track_caller]
fn has_ended(process: Pid) {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    assert!(state.is_empty() || state.starts_with('Z'), "the server still runs: {stat}");
}

/// Kills a rehearsal while it fills its servers; the next one, of a sample, finds and removes them.
fn a_killed_rehearsal_is_cleaned_up_by_the_next(env: &TestEnv, source: &Cluster, target: &Cluster) {
    let addresses = addresses(source, target);
    let (mut child, id) = filling(env, &addresses);
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    let server = server_process(env, &id);
    let mut more: Vec<String> = addresses.to_vec();
    more.extend(["--sample".to_owned(), "20%".to_owned()]);
    let said = rehearse(env, &more).expect(0);
    assert!(said.stderr.contains(&format!("removed what the killed rehearsal {id} had left")), "{}", said.stderr);
    assert!(said.stderr.contains("sample: db: "), "{}", said.stderr);
    assert!(!servers_of(env, &id).exists());
    has_ended(server);
}

/// Stops a rehearsal while it fills its servers: it removes all it has made.
fn an_interrupted_rehearsal_leaves_nothing(env: &TestEnv, source: &Cluster, target: &Cluster) {
    let before = records(env).len();
    let (child, id) = filling(env, &addresses(source, target));
    let server = server_process(env, &id);
    kill(Pid::from_raw(i32::try_from(child.id()).expect("it fits")), Signal::SIGINT).expect("it runs");
    let said = Outcome::of(&child.wait_with_output().expect("it ends")).expect(4).stderr;
    assert!(said.contains("removing the throwaway servers"), "{said}");
    assert!(!servers_of(env, &id).exists());
    has_ended(server);
    assert_eq!(records(env).len(), before);
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.expect("it can be read").path()).filter(|path| path.is_dir()).collect()
}

const POOR: &str = "\
version: 1
name: poor
databases:
  source: { url: 'SOURCE' }
  target: { url: 'TARGET' }
steps:
  - dump: { from: source, scope: database }
  - filter: { no_owner: true, no_acl: true }
  - restore: { into: target }
  - verify: { left: source, right: target, ignore: [role mover, membership mover *] }
";

/// On a hosted server nobody is a superuser: what the role may not enter is left out, and said.
#[test]
fn a_role_that_is_no_superuser_rehearses_what_it_may_read() {
    let env = TestEnv::new();
    let (source, target) = (Cluster::start("15"), Cluster::start("18"));
    source.psql("postgres", "CREATE ROLE mover LOGIN; GRANT pg_read_all_data TO mover");
    for database in ["app", "closed"] {
        source.psql("postgres", &format!("CREATE DATABASE {database}"));
        source.psql(
            database,
            "CREATE TABLE t AS SELECT g AS n, repeat('x', 100) AS text FROM generate_series(1, 40000) g;
             CREATE TABLE small AS SELECT 1 AS n",
        );
    }
    source.psql("postgres", "REVOKE CONNECT ON DATABASE closed FROM PUBLIC");
    target.psql("postgres", "CREATE DATABASE app");
    let url = source.url("app").replacen("postgres@", "mover@", 1);
    env.write("poor.yaml", &POOR.replace("SOURCE", &url).replace("TARGET", &target.url("app")));
    let before = (image(&source, "app"), image(&target, "app"));

    let said = env.pgplan(&["rehearse", "poor.yaml", "--sample", "25%"]).expect(0).stderr;
    assert!(said.contains("closed: role mover may not enter it, so the copy does not have it"), "{said}");
    assert!(said.contains("sample: app: 1 table with 25 % of the pages each, 1 table whole"), "{said}");
    assert!(said.contains("plan poor was rehearsed"), "{said}");
    assert_eq!(before, (image(&source, "app"), image(&target, "app")));
    let refused = env.pgplan(&["rehearse", "poor.yaml", "--clone", "source"]).expect(1);
    assert!(refused.stderr.contains("REPLICATION"), "{}", refused.stderr);
}

const FOLLOWED: &str = "\
version: 1
name: followed
databases:
  source: { url: 'SOURCE' }
steps:
  - { id: leave, sql: { database: source, run: DROP SUBSCRIPTION news, transaction: false } }
  - { id: write, sql: { database: source, run: INSERT INTO abroad VALUES (1) } }
";

/// What a plan says to other servers through the copy would reach the real ones.
#[test]
fn a_copy_is_cut_off_from_other_servers() {
    let env = TestEnv::new();
    let publisher = Cluster::with(Settings { conf: vec!["wal_level = logical".to_owned()], ..Settings::new("15") });
    let source = Cluster::start("15");
    publisher.psql("postgres", "CREATE TABLE t (n int PRIMARY KEY); CREATE PUBLICATION news FOR TABLE t");
    source.psql("postgres", "CREATE DATABASE app");
    let connection = format!("host=127.0.0.1 port={} user=postgres dbname=postgres", publisher.port);
    source.psql("app", "CREATE TABLE t (n int PRIMARY KEY); CREATE EXTENSION postgres_fdw");
    source.psql("app", &format!("CREATE SUBSCRIPTION news CONNECTION '{connection}' PUBLICATION news"));
    source.psql(
        "app",
        &format!(
            "CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '{}', dbname 'postgres');
             CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user 'postgres');
             CREATE FOREIGN TABLE abroad (n int) SERVER far OPTIONS (table_name 't')",
            publisher.port
        ),
    );
    env.write("followed.yaml", &FOLLOWED.replace("SOURCE", &source.url("app")));
    for more in [&[][..], &["--clone", "source"]] {
        let said = env.pgplan(&[&["rehearse", "followed.yaml"], more].concat()).expect(1).stderr;
        assert!(said.contains("subscription news of app has neither publisher nor slot on the copy"), "{said}");
        assert!(said.contains("foreign server far of app has no user mapping on the copy"), "{said}");
        // The subscription goes, and the row has no way.
        assert!(said.contains("✓ leave ") && said.contains("user mapping not found"), "{said}");
        assert_eq!(publisher.psql("postgres", "SELECT count(*) FROM pg_replication_slots"), "1");
        assert_eq!(publisher.psql("postgres", "SELECT count(*) FROM t"), "0");
        assert_eq!(source.psql("app", "SELECT subenabled FROM pg_subscription"), "t");
    }
}

const BUDGET: &str = "\
version: 1
name: budget
downtime: { budget: 400ms }
steps:
  - id: stop
    downtime: begin
    command: { run: [touch, stopped], undo: [rm, stopped] }
  - id: move
    undo: none
    command: { run: [sleep, '0.5'] }
  - id: go
    point_of_no_return: true
    command: { run: [touch, gone] }
  - id: start
    downtime: end
    command: { run: [touch, started] }
";

#[test]
fn a_downtime_over_its_budget_is_called_off_before_the_point_of_no_return() {
    let env = TestEnv::new();
    env.write("budget.yaml", BUDGET);
    let dry = env.pgplan(&["plan", "budget.yaml"]).expect(0);
    assert!(dry.stderr.contains("whether the budget of 400 ms will be kept"), "{}", dry.stderr);
    let said = env.pgplan(&["apply", "budget.yaml"]);
    assert_eq!(said.status.code(), Some(1), "{}", said.stderr);
    assert!(
        said.stderr.contains("would pass its budget of 400ms") && said.stderr.contains("was never measured"),
        "{}",
        said.stderr
    );
    let there = |name: &str| env.work().join(name).exists();
    assert!(!there("gone") && !there("stopped") && !there("started"), "{}", said.stderr);
    assert_eq!(env.pgplan(&["runs"]).expect(0).stdout.matches("undone").count(), 1);

    // With a rehearsal the rest is known: the run is called off although what is over is within the budget.
    env.write("budget.yaml", &BUDGET.replace("400ms", "5s"));
    let rehearsed = env.pgplan(&["rehearse", "budget.yaml", "--assume", "4s"]).expect(0);
    assert!(rehearsed.stderr.contains("passes the plan's budget of 5.0 s"), "{}", rehearsed.stderr);
    assert!(!there("gone") && !there("stopped") && !there("started"), "{}", rehearsed.stderr);
    let dry = env.pgplan(&["plan", "budget.yaml"]).expect(0).stdout;
    assert!(dry.contains("the predicted downtime passes the plan's budget of 5.0 s"), "{dry}");
    let said = env.pgplan(&["apply", "budget.yaml"]);
    assert_eq!(said.status.code(), Some(1), "{}", said.stderr);
    assert!(said.stderr.contains("8s more are predicted"), "{}", said.stderr);
    assert!(!there("gone") && !there("stopped"), "{}", said.stderr);

    // Within its budget it goes through.
    env.write("budget.yaml", &BUDGET.replace("400ms", "1m"));
    env.pgplan(&["apply", "budget.yaml"]).expect(0);
    assert!(there("gone") && there("started"));
}

const GROWING: &str = "\
version: 1
name: growing
downtime: { budget: 5s }
databases:
  source: { url: \"SOURCE\" }
steps:
  - id: stop
    downtime: begin
    command: { run: [touch, stopped], undo: [rm, stopped] }
  - id: go
    point_of_no_return: true
    command: { run: [touch, gone] }
  - id: load
    sql: { database: source, run: SELECT pg_sleep(1.5) }
  - id: start
    downtime: end
    command: { run: [touch, started] }
";

/// The rest of the downtime is predicted for the data as it is now, not as it was rehearsed.
#[test]
fn a_downtime_is_called_off_when_the_data_has_grown_since_the_rehearsal() {
    let env = TestEnv::new();
    let source = Cluster::start("15");
    source.psql("postgres", "CREATE DATABASE app");
    env.write("growing.yaml", &GROWING.replace("SOURCE", &source.url("app")));
    env.pgplan(&["rehearse", "growing.yaml", "--assume", "100ms"]).expect(0);
    let there = |name: &str| env.work().join(name).exists();

    let size = "SELECT sum(pg_database_size(datname))::bigint FROM pg_database WHERE NOT datistemplate";
    let before: u64 = source.psql("app", size).parse().expect("a number");
    source.psql("app", "CREATE TABLE t AS SELECT repeat('x', 1000) AS text FROM generate_series(1, 75000)");
    let now: u64 = source.psql("app", size).parse().expect("a number");
    assert!(now > before * 5, "{before} {now}");
    let said = env.pgplan(&["apply", "growing.yaml"]);
    assert_eq!(said.status.code(), Some(1), "{}", said.stderr);
    assert!(said.stderr.contains("would pass its budget of 5s"), "{}", said.stderr);
    assert!(!there("gone") && !there("stopped"), "{}", said.stderr);

    // As large as it was rehearsed, it goes through.
    source.psql("app", "DROP TABLE t");
    env.pgplan(&["apply", "growing.yaml"]).expect(0);
    assert!(there("gone") && there("started"));
}
