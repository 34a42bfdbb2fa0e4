//! `rehearse`: the whole plan against throwaway servers, and what follows from it: times, predictions, the budget.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;
use serde_json::{Value, json};

use crate::cluster::Cluster;
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
    // What is left is the journal, the report and the times; servers, dumps and the password are gone.
    let id = record["id"].as_str().expect("it has an id");
    assert!(!servers_of(&env, id).exists());
    let left: Vec<String> = files(&rehearsals(&env).join(id))
        .iter()
        .map(|path| path.file_name().expect("a file has a name").to_string_lossy().into_owned())
        .filter(|name| !name.starts_with("state.db"))
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

/// Kills a rehearsal while it fills its servers; the next one, of a sample, finds and removes them.
fn a_killed_rehearsal_is_cleaned_up_by_the_next(env: &TestEnv, source: &Cluster, target: &Cluster) {
    let known: Vec<PathBuf> = folders(&rehearsals(env));
    let file = plan("aptible-upgrade.yaml");
    let addresses = addresses(source, target);
    let mut args = vec!["rehearse", file.as_str()];
    args.extend(addresses.iter().map(String::as_str));
    let mut child = env.command(&args).spawn().expect("pgplan starts");
    let deadline = Instant::now() + Duration::from_secs(120);
    let id = loop {
        assert!(Instant::now() < deadline, "no server was made");
        std::thread::sleep(Duration::from_millis(20));
        let Some(folder) = folders(&rehearsals(env)).into_iter().find(|folder| !known.contains(folder)) else {
            continue;
        };
        let id = folder.file_name().expect("it has a name").to_string_lossy().into_owned();
        let stamp = fs::read_to_string(servers_of(env, &id).join("copy-0/pgplan.json")).unwrap_or_default();
        if stamp.contains("\"complete\":true") {
            break id;
        }
    };
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    let server = servers_of(env, &id).join("copy-0");
    let pid = fs::read_to_string(server.join("data/postmaster.pid")).expect("the server runs");
    let pid: i32 = pid.lines().next().and_then(|pid| pid.parse().ok()).expect("a pid");
    let mut more: Vec<String> = addresses.to_vec();
    more.extend(["--sample".to_owned(), "20%".to_owned()]);
    let said = rehearse(env, &more).expect(0);
    assert!(said.stderr.contains(&format!("removed what the killed rehearsal {id} had left")), "{}", said.stderr);
    assert!(said.stderr.contains("sample: db: "), "{}", said.stderr);
    assert!(!servers_of(env, &id).exists());
    assert!(nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_err(), "the server still runs");
}

fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.expect("it can be read").path()).filter(|path| path.is_dir()).collect()
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
