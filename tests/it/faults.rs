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
    live_merge::{arrived_from, some_shards},
    live_merge_databases::{SHOP, shop},
    live_plans::plan,
    live_plans_merge::{PASSWORD, give, programs, ran, server, sessions, write_builder},
    live_restore::{aptible_with, image, no_receipts},
};

/// A plan with everything around it, made anew for each fault.
struct Scene {
    env: TestEnv,
    source: Cluster,
    /// The other server; without one, everything happens on one.
    target: Option<Cluster>,
    plan: &'static str,
    vars: Vec<(String, String)>,
    /// The step that a person let be done again although it had been done.
    repeated: Option<String>,
}

impl Scene {
    fn command(&self, more: &[&str]) -> std::process::Command {
        let mut args = vec!["apply".to_owned(), plan(self.plan), "--yes".to_owned()];
        args.extend(self.vars.iter().map(|(name, value)| format!("--var={name}={value}")));
        args.extend(more.iter().map(|word| (*word).to_owned()));
        let mut command = self.env.command(&args.iter().map(String::as_str).collect::<Vec<_>>());
        command.env("APP_PASSWORD", PASSWORD).env("SOURCE_PASSWORD", "super").env("TARGET_PASSWORD", "super");
        command
    }

    fn target(&self) -> &Cluster {
        self.target.as_ref().unwrap_or(&self.source)
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
    Scene { env, source, target: Some(target), plan: "aptible-upgrade.yaml", vars: Vec::new(), repeated: None }
}

fn aptible_is_right(scene: &Scene) {
    assert_eq!(image(&scene.source, "db"), image(scene.target(), "db"));
    no_receipts(scene.target(), &["db", "postgres"]);
    let app = &scene.env.fakes()["apps"]["orders"];
    assert_eq!(app["services"], json!({ "cmd": 2, "worker": 3 }));
    assert_eq!(app["config"]["DB_URL"], json!(scene.target().url("db")));
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
    Scene { env, source, target: Some(target), plan, vars, repeated: None }
}

fn backup_is_right(scene: &Scene) {
    assert_eq!(scene.env.fakes()["services"]["habitat/builder-api"], "up");
    let dump = scene.env.work().join("kept/builder.dump");
    let listed = std::process::Command::new(scene.target().bin("pg_restore")).arg("-l").arg(dump).output();
    let listed = listed.expect("pg_restore starts");
    assert!(String::from_utf8_lossy(&listed.stdout).contains("TABLE DATA public t hab"), "the dump is whole");
}

fn restore_is_right(scene: &Scene) {
    assert_eq!(scene.env.fakes()["services"]["habitat/builder-api"], "up");
    assert_eq!(image(&scene.source, "builder"), image(scene.target(), "builder"));
    no_receipts(scene.target(), &["builder", "postgres"]);
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
    Scene { env, source, target: Some(target), plan: "dokku-restore-practice.yaml", vars: Vec::new(), repeated: None }
}

fn dokku_is_right(scene: &Scene) {
    let rows = "SELECT count(*), md5(string_agg(body, '' ORDER BY id)) FROM t";
    assert_eq!(scene.source.psql("happycows_db", rows), scene.target().psql("happycows_practice_db", rows));
    no_receipts(scene.target(), &["happycows_practice_db"]);
    let app = &scene.env.fakes()["apps"]["happycows-practice"];
    assert_eq!((&app["git_sha"], &app["running"]), (&json!("82eeec6fe1"), &json!(true)));
}

/// An application on one machine, whose server gets a newer version.
fn upgrade() -> Scene {
    let env = TestEnv::new();
    let (source, target) = (with_password("15", "super"), with_password("18", "super"));
    source.psql("postgres", "CREATE DATABASE app");
    source.psql("app", ROWS);
    env.set_fakes(&json!({ "units": { "app.service": "active" } }));
    let file = env.write("app.env", "DATABASE_URL=old\nMODE=production\n");
    let vars = [
        ("source_port", source.port.to_string()),
        ("target_port", target.port.to_string()),
        ("env_file", file.display().to_string()),
    ];
    let vars = vars.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Scene { env, source, target: Some(target), plan: "version-upgrade.yaml", vars, repeated: None }
}

fn upgrade_is_right(scene: &Scene) {
    assert_eq!(image(&scene.source, "app"), image(scene.target(), "app"));
    no_receipts(scene.target(), &["app", "postgres"]);
    assert_eq!(scene.env.fakes()["units"]["app.service"], "active");
    let text = scene.env.read("app.env");
    assert!(text.contains(&format!(":{}/app", scene.target().port)) && text.contains("MODE=production"), "{text}");
    let closed = "SELECT count(*) FROM pg_db_role_setting WHERE setdatabase <> 0 AND 'default_transaction_read_only=on' = ANY (setconfig)";
    assert_ne!(scene.source.psql("postgres", closed), "0", "nothing is written to the old server by mistake");
    assert_eq!(scene.target().psql("postgres", closed), "0");
}

/// How many shards the fault scenes have.
const SHARDS: u32 = 2;

/// A depot whose shards are to be merged.
fn depot(plan: &'static str) -> Scene {
    let (env, source) = (TestEnv::new(), server("hab"));
    some_shards(&source, "builder_originsrv", SHARDS, 5);
    sessions(&source, SHARDS - 1);
    let mut vars: Vec<(String, String)> =
        programs(&env).into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    vars.push(("port".to_owned(), source.port.to_string()));
    if plan == "habitat-merge-shards.yaml" {
        vars.push(("last_shard".to_owned(), (SHARDS - 1).to_string()));
    } else {
        write_builder(&env, &source);
        vars.push(("schema".to_owned(), env.work().join("builder.sql").display().to_string()));
        source.psql(
            "builder_originsrv",
            "INSERT INTO flags VALUES (true); ALTER TABLE origin_invitations ADD account_sync bool DEFAULT false; \
             INSERT INTO origins (id, name) VALUES (1, 'core'), (2, 'größe'); \
             INSERT INTO origin_packages (id, origin_id, ident) SELECT n, 1 + n % 2, 'core/pkg/' || n FROM generate_series(1, 9) n",
        );
        source.psql(
            "builder_sessionsrv",
            "INSERT INTO flags VALUES (true); INSERT INTO accounts SELECT * FROM shard_0.accounts",
        );
    }
    for database in ["builder_originsrv", "builder_sessionsrv"] {
        give(&source, database, "hab");
    }
    Scene { env, source, target: None, plan, vars, repeated: None }
}

fn shards_are_merged(scene: &Scene) {
    arrived_from(&scene.source, "builder_originsrv", SHARDS);
    let found = "SELECT (SELECT string_agg(name, ',' ORDER BY id) FROM accounts), (SELECT count(*) FROM account_tokens), \
                 (SELECT string_agg(shard_migration_complete::text, ',') FROM flags)";
    assert_eq!(scene.source.psql("builder_sessionsrv", found), "ann,bob|1|true");
    no_receipts(&scene.source, &["builder_originsrv", "builder_sessionsrv"]);
    programs_ran(scene);
}

fn databases_are_merged(scene: &Scene) {
    let found = "SELECT (SELECT string_agg(ident_array[3], '' ORDER BY id) FROM origin_packages), \
                 (SELECT string_agg(name, ',' ORDER BY id) FROM origins), (SELECT string_agg(name, ',') FROM accounts)";
    assert_eq!(scene.source.psql("builder", found), "123456789|core,größe|ann");
    no_receipts(&scene.source, &["builder", "builder_originsrv", "builder_sessionsrv"]);
    programs_ran(scene);
}

/// Each program ran once, in this order; twice the one whose answer was lost and of which a person said so.
fn programs_ran(scene: &Scene) {
    let programs = [("uninstall", "uninstall"), ("install", "install"), ("services", "status")];
    let times = |step: &str| if scene.repeated.as_deref() == Some(step) { 2 } else { 1 };
    let wanted = programs.iter().flat_map(|(step, word)| std::iter::repeat_n(*word, times(step)));
    assert_eq!(ran(&scene.env).lines().collect::<Vec<_>>(), wanted.collect::<Vec<_>>());
}

fn tenants() -> Scene {
    let (env, source, target) = (TestEnv::new(), server("app"), server("app"));
    shop(&source, "tenant_a", 3);
    shop(&target, "tenant_b", 5);
    target.psql("postgres", "CREATE DATABASE all_tenants");
    target.psql("all_tenants", SHOP);
    give(&source, "tenant_a", "app");
    give(&target, "tenant_b", "app");
    give(&target, "all_tenants", "app");
    let port = |server: &Cluster| server.port.to_string();
    let ports = [("port_a", port(&source)), ("port_b", port(&target)), ("port_all", port(&target))];
    let vars = ports.into_iter().map(|(name, port)| (name.to_owned(), port)).collect();
    Scene { env, source, target: Some(target), plan: "merge-tenants.yaml", vars, repeated: None }
}

fn tenants_are_merged(scene: &Scene) {
    let found = "SELECT (SELECT count(*) FROM customers), (SELECT count(*) FROM orders), (SELECT count(*) FROM currencies), \
         (SELECT count(*) FROM lines l JOIN orders o ON o.id = l.order_id JOIN customers c ON c.id = o.customer_id WHERE l.note = c.email), \
         (SELECT count(*) FROM notes n JOIN customers c ON c.id = n.about WHERE n.body = c.email)";
    assert_eq!(scene.target().psql("all_tenants", found), "8|24|1|48|8");
    no_receipts(scene.target(), &["all_tenants"]);
}

fn template() -> Scene {
    let (env, source) = (TestEnv::new(), server("app"));
    some_shards(&source, "app", SHARDS, 5);
    source.psql("app", "INSERT INTO flags VALUES (true)");
    give(&source, "app", "app");
    let shards = format!("shard_0..shard_{}", SHARDS - 1);
    let vars =
        [("port", source.port.to_string()), ("shards", shards), ("skip", "[__diesel_schema_migrations]".to_owned())];
    let vars = vars.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Scene { env, source, target: None, plan: "merge-shards.yaml", vars, repeated: None }
}

fn template_is_merged(scene: &Scene) {
    arrived_from(&scene.source, "app", SHARDS);
    no_receipts(&scene.source, &["app"]);
}

/// Returns the actions that a run has begun, as `step/action`, and whether their effect cannot be seen.
fn actions(env: &TestEnv) -> Vec<(String, bool)> {
    let log = env.pgplan(&["log", "--json"]).expect(0);
    let events: Vec<Value> =
        log.stdout.lines().map(|line| serde_json::from_str(line).expect("an event is JSON")).collect();
    let of = |event: &&Value, name: &str| event["event"] == name;
    let is_opaque = |started: &Value| {
        let expanded = events.iter().filter(|event| of(event, "step_expanded") && event["step"] == started["step"]);
        let mut listed = expanded.flat_map(|event| event["graph"]["actions"].as_array().into_iter().flatten());
        let found = listed.find(|action| action["id"] == started["action"]).expect("what is begun was listed");
        found["effect"] == "opaque"
    };
    let begun = events.iter().filter(|event| of(event, "action_started"));
    let name = |event: &Value| format!("{}/{}", event["step"], event["action"]).replace('"', "");
    begun.map(|event| (name(event), is_opaque(event))).collect()
}

/// Strikes one action of a fresh scene, lets pgplan go on and looks at the end.
fn strike(scene: &mut Scene, (action, is_opaque): &(String, bool), how: &str, is_right: fn(&Scene)) {
    let what = format!("{} {action}:{how}", scene.plan);
    let (step, id) = action.split_once('/').expect("an action has a step");
    let mut command = scene.command(&["--events", "events.json"]);
    let mut child = command.env("PGPLAN_FAULT", format!("{action}:{how}")).spawn().expect("pgplan starts");
    if how == "hold" {
        let begun = format!("\"event\":\"action_started\",\"step\":\"{step}\",\"action\":{}", json!(id));
        let path = scene.env.work().join("events.json");
        until(&format!("{what} is begun"), || {
            fs::read_to_string(&path).unwrap_or_default().contains(&begun)
                || child.try_wait().expect("it can be asked").is_some()
        });
        signal(&child, Signal::SIGTERM);
    }
    let struck = Outcome::of(&child.wait_with_output().expect("pgplan ends"));
    // Only what nobody can see is asked.
    let is_lost = *is_opaque && how != "before";
    let code = match how {
        "hold" => 4,
        "after" if is_lost => 5,
        _ => 1,
    };
    assert_eq!(struck.status.code(), Some(code), "{what}:\n{}", struck.stderr);
    if is_lost {
        let asked = scene.apply();
        assert_eq!(asked.status.code(), Some(5), "{what}: {}\n--- then\n{}", struck.stderr, asked.stderr);
        // The message names the words that answer.
        assert!(asked.stderr.contains(&format!("pgplan resolve {step} --as done")), "{what}:\n{}", asked.stderr);
        scene.env.pgplan(&["resolve", step, "--as", "retry"]).expect(0);
        scene.repeated = (how == "after").then(|| step.to_owned());
    }
    let said = scene.apply();
    assert_eq!(said.status.code(), Some(0), "{what}: {}\n--- then\n{}", struck.stderr, said.stderr);
    is_right(scene);
}

fn every_action(first: &Scene, new: fn() -> Scene, is_right: fn(&Scene), least: usize) {
    let done = first.apply();
    assert_eq!(done.status.code(), Some(0), "{}", done.stderr);
    is_right(first);
    let actions = actions(&first.env);
    assert!(actions.len() >= least, "{actions:?}");
    let all = std::env::var("PGPLAN_FAULTS").is_ok_and(|value| value == "all");
    let day = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |age| age.as_secs());
    let faults: Vec<_> =
        actions.iter().flat_map(|action| ["before", "after", "hold"].map(|how| (action, how))).collect();
    let step = if all { 1 } else { faults.len().div_ceil(3) };
    let offset = if all { 0 } else { usize::try_from(day).unwrap_or(0) % step };
    for (action, how) in faults.iter().skip(offset).step_by(step) {
        println!("{} {}:{how}", first.plan, action.0);
        strike(&mut new(), action, how, is_right);
    }
}

/// What strikes the plan's actions: how it is set up, what must be so at the end, how many actions it has at least.
type Strikes = (&'static str, fn() -> Scene, fn(&Scene), usize);

const PLANS: [Strikes; 9] = [
    ("aptible-upgrade.yaml", aptible, aptible_is_right, 19),
    ("dokku-restore-practice.yaml", dokku, dokku_is_right, 12),
    ("habitat-backup.yaml", || habitat("habitat-backup.yaml"), backup_is_right, 5),
    ("habitat-merge-databases.yaml", || depot("habitat-merge-databases.yaml"), databases_are_merged, 30),
    ("habitat-merge-shards.yaml", || depot("habitat-merge-shards.yaml"), shards_are_merged, 26),
    ("habitat-restore.yaml", || habitat("habitat-restore.yaml"), restore_is_right, 8),
    ("merge-shards.yaml", template, template_is_merged, 20),
    ("merge-tenants.yaml", tenants, tenants_are_merged, 8),
    ("version-upgrade.yaml", upgrade, upgrade_is_right, 14),
];

fn survives(plan: &str) {
    let found = PLANS.iter().find(|(name, ..)| *name == plan);
    let (name, new, is_right, least) = found.expect("the plan is in the list");
    let first = new();
    assert_eq!(first.plan, *name);
    every_action(&first, *new, *is_right, *least);
}

#[test]
fn every_plan_is_struck() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../plans");
    let mut plans: Vec<String> = fs::read_dir(folder)
        .expect("the folder can be read")
        .map(|entry| entry.expect("the entry can be read").file_name().into_string().expect("it is text"))
        .collect();
    plans.sort();
    assert_eq!(plans, PLANS.map(|(name, ..)| name.to_owned()), "every plan has a scene");
    for plan in plans {
        assert!(include_str!("faults.rs").contains(&format!("survives(\"{plan}\")")), "{plan} has no test");
    }
}

#[test]
fn the_aptible_upgrade_survives_a_fault_anywhere() {
    survives("aptible-upgrade.yaml");
}

#[test]
fn the_dokku_practice_survives_a_fault_anywhere() {
    survives("dokku-restore-practice.yaml");
}

#[test]
fn the_habitat_backup_survives_a_fault_anywhere() {
    survives("habitat-backup.yaml");
}

#[test]
fn the_merge_of_habitats_databases_survives_a_fault_anywhere() {
    survives("habitat-merge-databases.yaml");
}

#[test]
fn the_merge_of_habitats_shards_survives_a_fault_anywhere() {
    survives("habitat-merge-shards.yaml");
}

#[test]
fn the_habitat_restore_survives_a_fault_anywhere() {
    survives("habitat-restore.yaml");
}

#[test]
fn the_merge_of_shards_survives_a_fault_anywhere() {
    survives("merge-shards.yaml");
}

#[test]
fn the_merge_of_tenants_survives_a_fault_anywhere() {
    survives("merge-tenants.yaml");
}

#[test]
fn the_upgrade_survives_a_fault_anywhere() {
    survives("version-upgrade.yaml");
}
