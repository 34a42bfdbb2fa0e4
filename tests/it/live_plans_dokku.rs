//! The practice of a restore on Dokku: production is read, everything else is made.

use std::fs;

use serde_json::json;

use crate::cluster::{Cluster, Settings};
use crate::env::TestEnv;
use crate::live_plans::{apply, dry_run, files, never_told, output};
use crate::live_restore::{image, no_receipts};

fn server(password: &str, database: &str) -> Cluster {
    let mut settings = Settings::new("15");
    settings.password = Some(password.into());
    let cluster = Cluster::with(settings);
    cluster.psql("postgres", &format!("CREATE DATABASE {database}"));
    cluster
}

#[test]
fn a_restore_is_practised_beside_production() {
    let (env, passwords) = (TestEnv::new(), ["23d453c5b7d486fc", "9f00aa17c1ce53b2"]);
    let (production, practice) = (server(passwords[0], "happycows_db"), server(passwords[1], "happycows_practice_db"));
    production.psql(
        "happycows_db",
        "CREATE ROLE reader; CREATE TABLE users (id bigserial PRIMARY KEY, email text UNIQUE); \
         CREATE TABLE commons (id bigserial PRIMARY KEY, name text, cow_price float8, starting_date timestamp); \
         CREATE TABLE user_commons (user_id bigint REFERENCES users, commons_id bigint REFERENCES commons, \
             total_wealth float8, PRIMARY KEY (user_id, commons_id)); GRANT SELECT ON users TO reader; \
         INSERT INTO users (email) SELECT 'u' || n || '@ucsb.edu' FROM generate_series(1, 300) n; \
         INSERT INTO commons (name, cow_price) SELECT 'c' || n, n / 3.0 FROM generate_series(1, 9) n; \
         INSERT INTO user_commons SELECT u, c, u * 1.1 FROM generate_series(1, 300) u, generate_series(1, 9) c",
    );
    let before = image(&production, "happycows_db");
    env.set_fakes(&json!({
        "apps": { "happycows": { "services": { "web": 2 }, "config": { "DATABASE_URL": "as it was" }, "git_sha": "82eeec6fe1" } },
        "databases": { "happycows-db": { "url": production.url("happycows_db"), "version": "15.20", "links": "happycows" } },
        "spare": { "15.20": practice.url("happycows_practice_db") } }));
    insta::assert_snapshot!("dokku_restore_practice", dry_run(&env, "dokku-restore-practice.yaml", &[], &[]));
    assert_eq!(env.fakes()["databases"].as_object().map(serde_json::Map::len), Some(1), "a dry run makes nothing");

    let state = env.fakes();
    let calls = env.fake_calls().len();
    let done = apply(&env, "dokku-restore-practice.yaml", &[], &[]).expect(0);
    never_told(&env, &done, &passwords);
    assert_eq!(output(&done, "verify", "equal"), json!(true));
    no_receipts(&practice, &["happycows_practice_db"]);
    let rows =
        "SELECT (SELECT count(*) FROM users), (SELECT count(*) FROM commons), (SELECT count(*) FROM user_commons)";
    assert_eq!(practice.psql("happycows_practice_db", rows), "300|9|2700");
    let of_tables = |image: &str| image.lines().take(3).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(of_tables(&image(&practice, "happycows_practice_db")), of_tables(&before));

    // Nothing in production has changed: neither rows nor objects, neither app nor service.
    assert_eq!(image(&production, "happycows_db"), before);
    let after = env.fakes();
    assert_eq!(after["apps"]["happycows"], state["apps"]["happycows"]);
    assert_eq!(after["databases"]["happycows-db"], state["databases"]["happycows-db"]);
    let reads = ["dokku postgres:info happycows-db", "dokku git:report happycows", "dokku version"];
    let of_production = |call: &String| !call.contains("happycows-practice") && !reads.contains(&call.as_str());
    let others: Vec<String> = env.fake_calls().split_off(calls).into_iter().filter(of_production).collect();
    assert_eq!(others, [""; 0]);

    // The practice app runs the recorded commit on its own database.
    let app = &after["apps"]["happycows-practice"];
    assert_eq!((&app["git_sha"], &app["running"]), (&json!("82eeec6fe1"), &json!(true)));
    let address = app["config"]["DATABASE_URL"].as_str().expect("it is linked");
    assert!(address.contains(passwords[1]) && address.contains("@dokku-postgres-happycows-practice-db:"), "{address}");
    let record = files(&env.work().join(".pgplan")).into_iter().find(|path| path.ends_with("record.json"));
    let record = fs::read_to_string(record.expect("the facts are kept")).expect("they can be read");
    let record: serde_json::Value = serde_json::from_str(&record).expect("they are JSON");
    assert_eq!(record["git_sha"], "82eeec6fe1");
    assert!(record["production"]["version"].as_str().is_some_and(|version| version.starts_with("15.20")), "{record}");
}

#[test]
fn a_practice_database_that_differs_is_found() {
    let (env, passwords) = (TestEnv::new(), ["23d453c5b7d486fc", "9f00aa17c1ce53b2"]);
    let (production, practice) = (server(passwords[0], "happycows_db"), server(passwords[1], "happycows_practice_db"));
    production.psql("happycows_db", "CREATE TABLE cows AS SELECT n FROM generate_series(1, 10) n");
    // What a user does between dump and comparison is a difference.
    practice.psql(
        "happycows_practice_db",
        "CREATE FUNCTION meddle() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN \
         IF tg_tag = 'CREATE TABLE' THEN CREATE RULE r AS ON INSERT TO cows DO ALSO NOTHING; END IF; END $$",
    );
    env.set_fakes(&json!({
        "apps": { "happycows": { "services": { "web": 2 }, "config": {}, "git_sha": "82eeec6fe1" } },
        "databases": { "happycows-db": { "url": production.url("happycows_db"), "version": "15.20" } },
        "spare": { "15.20": practice.url("happycows_practice_db") } }));
    let failed = apply(&env, "dokku-restore-practice.yaml", &[], &[]);
    assert_eq!(failed.status.code(), Some(6), "{}", failed.stderr);
    assert!(failed.stderr.contains("meddle"), "{}", failed.stderr);
    assert!(!env.fake_calls().iter().any(|call| call.contains("ps:rebuild")), "the app is not built on it");
}
