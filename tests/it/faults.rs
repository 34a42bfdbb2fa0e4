//! A failure at every action of every plan in `plans/`: refused before it is done, its answer lost after it was done,
//! held until a person interrupts. Afterwards the same command leads to the right end, or a person is asked precisely.
//!
//! By default a few actions of each plan are struck, others every time; `PGPLAN_FAULTS=all` strikes all of them.
#![expect(clippy::print_stdout, reason = "what is struck is shown when it fails")]

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::{
    cluster::{Cluster, Settings},
    env::{Outcome, TestEnv},
    live_claims::{signal, until},
    live_plans::plan,
    live_restore::{aptible_with, image, no_receipts},
};

/// A plan with everything around it, made anew for each fault.
struct Scene {
    env: TestEnv,
    source: Cluster,
    target: Cluster,
    plan: &'static str,
    vars: Vec<(String, String)>,
}

impl Scene {
    fn command(&self, more: &[&str]) -> std::process::Command {
        let mut args = vec!["apply".to_owned(), plan(self.plan), "--yes".to_owned()];
        args.extend(self.vars.iter().map(|(name, value)| format!("--var={name}={value}")));
        args.extend(more.iter().map(|word| (*word).to_owned()));
        self.env.command(&args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn apply(&self) -> Outcome {
        Outcome::of(&self.command(&[]).output().expect("pgplan starts"))
    }
}

const ROWS: &str = "CREATE TABLE t (id bigserial PRIMARY KEY, body text NOT NULL); CREATE INDEX ON t (body); \
                    INSERT INTO t (body) SELECT md5(n::text) FROM generate_series(1, 500) n";

fn with_password(version: &str, password: &str) -> Cluster {
    let mut settings = Settings::new(version);
    settings.password = Some(password.into());
    Cluster::with(settings)
}

fn aptible() -> Scene {
    let (env, source, target) =
        (TestEnv::new(), aptible_with("15", "old-password"), aptible_with("18", "new-password"));
    source.psql("db", ROWS);
    env.set_fakes(&json!({
        "apps": { "orders": { "environment": "production", "services": { "cmd": 2, "worker": 3 },
                              "config": { "DB_URL": source.url("db") } } },
        "databases": {
            "orders-15": { "environment": "production", "version": "15", "url": source.url("db") },
            "orders-18": { "environment": "production", "version": "18", "url": target.url("db") } } }));
    Scene { env, source, target, plan: "aptible-upgrade.yaml", vars: Vec::new() }
}

fn aptible_is_right(scene: &Scene) {
    assert_eq!(image(&scene.source, "db"), image(&scene.target, "db"));
    no_receipts(&scene.target, &["db", "postgres"]);
    let app = &scene.env.fakes()["apps"]["orders"];
    assert_eq!(app["services"], json!({ "cmd": 2, "worker": 3 }));
    assert_eq!(app["config"]["DB_URL"], json!(scene.target.url("db")));
}

fn habitat(plan: &'static str) -> Scene {
    let env = TestEnv::new();
    let (source, target) = (with_password("16", "super"), with_password("18", "super"));
    for server in [&source, &target] {
        server.psql("postgres", "CREATE ROLE hab LOGIN CREATEDB PASSWORD 'hab-password'");
    }
    source.psql("postgres", "CREATE DATABASE builder OWNER hab");
    source.psql(
        "builder",
        &format!("SET ROLE hab; {ROWS}; CREATE TABLE origins AS SELECT 1 n; CREATE TABLE accounts AS SELECT 1 n"),
    );
    env.set_fakes(&json!({ "services": { "habitat/builder-api": "up" } }));
    let config = env.write("config.toml", "[datastore]\nuser = \"hab\"\npassword = \"hab-password\"\n");
    let dump = env.work().join("kept/builder.dump");
    fs::create_dir(env.work().join("kept")).expect("the folder can be made");
    let (file, server) = if plan == "habitat-backup.yaml" { ("copy_to", &source) } else { ("dump", &target) };
    let text = |path: &std::path::Path| path.display().to_string();
    let vars = vec![
        ("port".to_owned(), server.port.to_string()),
        ("config".to_owned(), text(&config)),
        (file.to_owned(), text(&dump)),
        // Nothing answers there in a test.
        ("status_url".to_owned(), String::new()),
    ];
    if file == "dump" {
        let mut command = std::process::Command::new(source.bin("pg_dump"));
        command.args(["-Fc", "-d", &source.url("builder"), "-f"]).arg(&dump);
        assert!(command.status().expect("pg_dump starts").success());
    }
    Scene { env, source, target, plan, vars }
}

fn backup_is_right(scene: &Scene) {
    assert_eq!(scene.env.fakes()["services"]["habitat/builder-api"], "up");
    let dump = scene.env.work().join("kept/builder.dump");
    let listed = std::process::Command::new(scene.target.bin("pg_restore")).arg("-l").arg(dump).output();
    let listed = listed.expect("pg_restore starts");
    assert!(String::from_utf8_lossy(&listed.stdout).contains("TABLE DATA public t hab"), "the dump is whole");
}

fn restore_is_right(scene: &Scene) {
    assert_eq!(scene.env.fakes()["services"]["habitat/builder-api"], "up");
    assert_eq!(image(&scene.source, "builder"), image(&scene.target, "builder"));
    no_receipts(&scene.target, &["builder", "postgres"]);
}

fn dokku() -> Scene {
    let (env, source, target) = (TestEnv::new(), with_password("15", "prod-pw"), with_password("15", "prac-pw"));
    source.psql("postgres", "CREATE DATABASE happycows_db");
    source.psql("happycows_db", ROWS);
    target.psql("postgres", "CREATE DATABASE happycows_practice_db");
    env.set_fakes(&json!({
        "apps": { "happycows": { "services": { "web": 2 }, "config": {}, "git_sha": "82eeec6fe1" } },
        "databases": { "happycows-db": { "url": source.url("happycows_db"), "version": "15.20", "links": "happycows" } },
        "spare": { "15.20": target.url("happycows_practice_db") } }));
    Scene { env, source, target, plan: "dokku-restore-practice.yaml", vars: Vec::new() }
}

fn dokku_is_right(scene: &Scene) {
    let rows = "SELECT count(*), md5(string_agg(body, '' ORDER BY id)) FROM t";
    assert_eq!(scene.source.psql("happycows_db", rows), scene.target.psql("happycows_practice_db", rows));
    no_receipts(&scene.target, &["happycows_practice_db"]);
    let app = &scene.env.fakes()["apps"]["happycows-practice"];
    assert_eq!((&app["git_sha"], &app["running"]), (&json!("82eeec6fe1"), &json!(true)));
}

/// Returns the actions that a run has begun, as `step/action`.
fn actions(env: &TestEnv) -> Vec<String> {
    let log = env.pgplan(&["log", "--json"]).expect(0);
    let events = log.stdout.lines().map(|line| serde_json::from_str::<Value>(line).expect("an event is JSON"));
    let begun = events.filter(|event| event["event"] == "action_started");
    begun.map(|event| format!("{}/{}", event["step"], event["action"]).replace('"', "")).collect()
}

/// Strikes one action of a fresh scene, lets pgplan go on and looks at the end.
fn strike(scene: &Scene, action: &str, how: &str, is_right: fn(&Scene)) {
    let what = format!("{} {action}:{how}", scene.plan);
    let mut command = scene.command(&["--events", "events.json"]);
    let mut child = command.env("PGPLAN_FAULT", format!("{action}:{how}")).spawn().expect("pgplan starts");
    if how == "hold" {
        let (step, id) = action.split_once('/').expect("an action has a step");
        let begun = format!("\"event\":\"action_started\",\"step\":\"{step}\",\"action\":{}", json!(id));
        let path = scene.env.work().join("events.json");
        until(&format!("{what} is begun"), || {
            fs::read_to_string(&path).unwrap_or_default().contains(&begun)
                || child.try_wait().expect("it can be asked").is_some()
        });
        signal(&child, Signal::SIGTERM);
    }
    let struck = Outcome::of(&child.wait_with_output().expect("pgplan ends"));
    assert_ne!(struck.status.code(), Some(0), "{what} was called a success:\n{}", struck.stderr);
    let mut said = scene.apply();
    if said.status.code() == Some(5) {
        // Only what nobody can see is asked, and the message names the words that answer.
        let (step, _) = action.split_once('/').expect("an action has a step");
        assert!(said.stderr.contains(&format!("pgplan resolve {step} --as done")), "{what}:\n{}", said.stderr);
        scene.env.pgplan(&["resolve", step, "--as", "retry"]).expect(0);
        said = scene.apply();
    }
    assert_eq!(said.status.code(), Some(0), "{what}: {}\n--- then\n{}", struck.stderr, said.stderr);
    is_right(scene);
}

fn every_action(new: impl Fn() -> Scene, is_right: fn(&Scene), least: usize) {
    let first = new();
    let done = first.apply();
    assert_eq!(done.status.code(), Some(0), "{}", done.stderr);
    is_right(&first);
    let actions = actions(&first.env);
    assert!(actions.len() >= least, "{actions:?}");
    let all = std::env::var("PGPLAN_FAULTS").is_ok_and(|value| value == "all");
    let day = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs());
    let faults: Vec<(&String, &str)> =
        actions.iter().flat_map(|action| ["before", "after", "hold"].map(|how| (action, how))).collect();
    let step = if all { 1 } else { faults.len().div_ceil(3) };
    let offset = if all { 0 } else { usize::try_from(day).unwrap_or(0) % step };
    for (action, how) in faults.iter().skip(offset).step_by(step) {
        println!("{} {action}:{how}", first.plan);
        strike(&new(), action, how, is_right);
    }
}

#[test]
fn the_aptible_upgrade_survives_a_fault_anywhere() {
    every_action(aptible, aptible_is_right, 19);
}

#[test]
fn the_habitat_backup_survives_a_fault_anywhere() {
    every_action(|| habitat("habitat-backup.yaml"), backup_is_right, 5);
}

#[test]
fn the_habitat_restore_survives_a_fault_anywhere() {
    every_action(|| habitat("habitat-restore.yaml"), restore_is_right, 8);
}

#[test]
fn the_dokku_practice_survives_a_fault_anywhere() {
    every_action(dokku, dokku_is_right, 12);
}
