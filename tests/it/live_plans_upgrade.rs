//! `plans/version-upgrade.yaml`, from the template to the end, on real servers and systemd's stand-in.

use serde_json::json;

use crate::cluster::{Cluster, Settings};
use crate::env::{Outcome, TestEnv};
use crate::live_restore::{DATABASES, load_demo, no_receipts, same};

const PASSWORDS: [&str; 3] = ["0ld S3cret", "n3w S3cret", "app S3cret"];

fn server(version: &str, password: &str) -> Cluster {
    let mut settings = Settings::new(version);
    settings.superuser = "aptible".into();
    settings.password = Some(password.into());
    settings.conf.push("max_locks_per_transaction = 256".into());
    settings.conf.push("wal_level = logical".into());
    Cluster::with(settings)
}

fn pgplan(env: &TestEnv, args: &[&str], vars: &[String]) -> Outcome {
    let mut all: Vec<&str> = args.to_vec();
    all.extend(vars.iter().map(String::as_str));
    let [source, target, app] = PASSWORDS;
    let said = env
        .command(&all)
        .env("SOURCE_PASSWORD", source)
        .env("TARGET_PASSWORD", target)
        .env("APP_PASSWORD", app)
        .output()
        .expect("pgplan starts");
    Outcome::of(&said)
}

#[test]
fn a_newcomers_upgrade_from_the_template() {
    let (source, target) = (server("15", PASSWORDS[0]), server("18", PASSWORDS[1]));
    source.psql("postgres", "CREATE DATABASE db");
    load_demo(&source);
    let env = TestEnv::new();
    env.set_fakes(&json!({ "units": { "app.service": "active" } }));
    let file = env.write("app.env", "# the application\nDATABASE_URL=old\nMODE=production\n");
    env.pgplan(&["init", "version-upgrade"]).expect(0);
    let vars = [
        format!("--var=source_port={}", source.port),
        format!("--var=target_port={}", target.port),
        format!("--var=env_file={}", file.display()),
        "--var=database=db".to_owned(),
        "--var=user=aptible".to_owned(),
    ];
    let plan = "version-upgrade.yaml";
    pgplan(&env, &["check", plan], &vars).expect(0);
    pgplan(&env, &["check", "--live", plan], &vars).expect(0);
    let shown = pgplan(&env, &["plan", plan, "--allow-programs"], &vars).expect(0);
    assert!(shown.stdout.contains("DATABASE_URL"), "{}", shown.stdout);

    // Nobody says yes: nothing but looks has been done.
    let asked = pgplan(&env, &["apply", plan], &vars).expect(5);
    assert!(asked.stderr.contains("The application stops now"), "{}", asked.stderr);
    assert_eq!(env.fakes()["units"]["app.service"], "active");
    let done = pgplan(&env, &["apply", plan, "--yes", "--events", "events.json"], &vars).expect(0);
    assert!(done.stderr.contains("downtime"), "{}", done.stderr);
    same(&source, &target, &DATABASES);
    no_receipts(&target, &DATABASES);
    let url = format!("postgresql://app:app%20S3cret@127.0.0.1:{}/db", target.port);
    let text = env.read("app.env");
    assert!(text.contains("# the application") && text.contains("MODE=production"), "{text}");
    assert!(text.contains(&url), "{text}");
    assert_eq!(env.fakes()["units"]["app.service"], "active");
    // The old server is left fenced, the new one takes connections of everybody.
    let closed = "SELECT count(*) FROM pg_db_role_setting WHERE setdatabase <> 0 AND 'default_transaction_read_only=on' = ANY (setconfig)";
    assert_ne!(source.psql("postgres", closed), "0");
    assert_eq!(target.psql("postgres", closed), "0");
    crate::live_plans::never_told(&env, &done, &PASSWORDS);
}
