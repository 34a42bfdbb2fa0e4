//! Habitat's plans: a dump while the API is down, and back into an empty server.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;

use crate::cluster::{Cluster, Settings};
use crate::env::TestEnv;
use crate::live_plans::{apply, dry_run, never_told, output};
use crate::live_restore::{image, no_receipts};

const PASSWORD: &str = "hab S3cret with blanks";
const API: &str = "habitat/builder-api";

/// A server as Builder uses it: the role `hab`, no superuser, may create databases.
fn server(version: &str) -> Cluster {
    let mut settings = Settings::new(version);
    settings.password = Some("superuser".into());
    let cluster = Cluster::with(settings);
    cluster.psql("postgres", &format!("CREATE ROLE hab LOGIN CREATEDB PASSWORD '{PASSWORD}'"));
    cluster
}

fn fill(cluster: &Cluster) {
    cluster.psql("postgres", "CREATE DATABASE builder OWNER hab");
    cluster.psql(
        "builder",
        "SET ROLE hab; \
         CREATE TABLE public.accounts (id bigserial PRIMARY KEY, name text UNIQUE, email text); \
         CREATE TABLE public.origins (name text PRIMARY KEY, owner_id bigint REFERENCES accounts, created_at timestamptz DEFAULT now()); \
         CREATE TYPE public.origin_package_visibility AS ENUM ('public', 'private', 'hidden'); \
         CREATE TABLE public.origin_packages (id bigserial PRIMARY KEY, origin text REFERENCES origins, ident text, \
             ident_array text[], manifest text, visibility origin_package_visibility NOT NULL DEFAULT 'public'); \
         CREATE INDEX origin_packages_ident ON origin_packages USING gin (ident_array); \
         INSERT INTO accounts (name, email) SELECT 'u' || n, 'u' || n || '@example.test' FROM generate_series(1, 50) n; \
         INSERT INTO origins SELECT 'o' || n, n FROM generate_series(1, 20) n; \
         INSERT INTO origin_packages (origin, ident, ident_array, manifest) \
             SELECT 'o' || (n % 20 + 1), 'o/p/' || n, ARRAY['o', 'p', n::text], repeat('m', n % 300) FROM generate_series(1, 5000) n",
    );
}

/// Answers 200 to every request; returns its URL and the number of requests so far.
fn api() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("http://{}/v1/status", listener.local_addr().expect("it has an address"));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut request = [0; 1024];
            let read = client.read(&mut request).unwrap_or_default();
            if request[..read].starts_with(b"GET /v1/status") {
                count.fetch_add(1, Ordering::SeqCst);
            }
            client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").ok();
        }
    });
    (url, asked)
}

/// The variables that lead a plan to a server of the test.
struct Place {
    port: String,
    config: String,
    dump: String,
    status_url: String,
}

impl Place {
    fn new(env: &TestEnv, cluster: &Cluster, status_url: &str) -> Self {
        let config = env.write(
            "config.toml",
            &format!("log_path = \"/tmp\"\n\n[github]\nclient_secret = \"no\"\npassword = \"wrong\"\n\n[datastore]\nuser = \"hab\"\npassword = \"{PASSWORD}\"\n\n[s3]\npassword = \"wrong\"\n"),
        );
        Self {
            port: cluster.port.to_string(),
            config: config.display().to_string(),
            dump: env.work().join("kept/builder.dump").display().to_string(),
            status_url: status_url.to_owned(),
        }
    }

    fn vars<'a>(&'a self, file: &'a str) -> Vec<(&'a str, &'a str)> {
        vec![("port", &self.port), ("config", &self.config), (file, &self.dump), ("status_url", &self.status_url)]
    }

    fn hide(&self) -> Vec<(String, &'static str)> {
        vec![(self.port.clone(), "PORT"), (self.status_url.clone(), "STATUS_URL")]
    }
}

#[test]
fn a_backup_is_kept_and_restored_into_an_empty_server() {
    let env = TestEnv::new();
    let (old, new) = (server("16"), server("18"));
    fill(&old);
    let before = image(&old, "builder");
    let (status_url, asked) = api();
    env.set_fakes(&json!({ "services": { API: "up" } }));
    fs::create_dir(env.work().join("kept")).expect("the folder can be made");

    let place = Place::new(&env, &old, &status_url);
    let shown = dry_run(&env, "habitat-backup.yaml", &place.vars("copy_to"), &place.hide());
    insta::assert_snapshot!("habitat_backup", shown);
    assert_eq!(env.fakes()["services"][API], "up", "a dry run changes nothing");

    let done = apply(&env, "habitat-backup.yaml", &place.vars("copy_to"), &["--fresh"]).expect(0);
    never_told(&env, &done, &[PASSWORD]);
    assert_eq!(env.fakes()["services"][API], "up");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    let calls = env.fake_calls();
    let at = |words: &str| calls.iter().position(|call| call == words).unwrap_or_else(|| panic!("{words}: {calls:?}"));
    assert!(at("hab svc stop habitat/builder-api") < at("hab svc start habitat/builder-api"));
    let bytes = fs::read(&place.dump).expect("the dump was kept");
    assert!(bytes.starts_with(b"PGDMP"));
    let dump = output(&done, "dump", "dump");
    assert_eq!(dump["bytes"], json!(bytes.len()));
    assert_eq!(image(&old, "builder"), before, "the source is as it was");

    // Back, into a server that has no database of this name.
    let sha256 = dump["sha256"].as_str().expect("it is text").to_owned();
    let place = Place::new(&env, &new, &status_url);
    let mut vars = place.vars("dump");
    vars.push(("sha256", &sha256));
    let shown = dry_run(&env, "habitat-restore.yaml", &vars, &place.hide());
    insta::assert_snapshot!("habitat_restore", shown.replace(&sha256, "SHA256"));
    let done = apply(&env, "habitat-restore.yaml", &vars, &[]).expect(0);
    never_told(&env, &done, &[PASSWORD]);
    assert_eq!(image(&new, "builder"), before);
    no_receipts(&new, &["builder", "postgres"]);
    assert_eq!(new.psql("builder", "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'builder'"), "hab");
    assert_eq!(env.fakes()["services"][API], "up");
    assert_eq!(asked.load(Ordering::SeqCst), 2);

    // A database that holds tables is refused, and nothing is restored on top of it.
    let again = apply(&env, "habitat-restore.yaml", &vars, &["--fresh"]);
    assert_ne!(again.status.code(), Some(0), "{}", again.stderr);
    assert!(again.stderr.contains("should be empty and holds 3 tables"), "{}", again.stderr);
    let stopped = env.fake_calls().iter().filter(|call| *call == "hab svc stop habitat/builder-api").count();
    assert_eq!(stopped, 2, "the refusal comes before the services are stopped");
    assert_eq!(image(&new, "builder"), before);
}

#[test]
fn the_api_comes_back_when_the_dump_fails() {
    let (env, cluster) = (TestEnv::new(), server("16"));
    fill(&cluster);
    cluster.psql("builder", "CREATE TABLE public.not_of_hab (id integer)");
    let (status_url, asked) = api();
    env.set_fakes(&json!({ "services": { API: "up" } }));
    fs::create_dir(env.work().join("kept")).expect("the folder can be made");
    let place = Place::new(&env, &cluster, &status_url);
    let failed = apply(&env, "habitat-backup.yaml", &place.vars("copy_to"), &["--fresh"]).expect(1);
    assert!(failed.stderr.contains("permission denied for table not_of_hab"), "{}", failed.stderr);
    assert!(env.fake_calls().contains(&"hab svc stop habitat/builder-api".to_owned()), "it was down");
    assert_eq!(env.fakes()["services"][API], "up");
    assert_eq!(asked.load(Ordering::SeqCst), 1, "it was asked whether it answers");
    assert!(!fs::exists(&place.dump).expect("it can be looked for"), "there is nothing to keep");
    never_told(&env, &failed, &[PASSWORD]);

    // Mended, the same command goes on: the dump is made while the API is down.
    cluster.psql("builder", "DROP TABLE public.not_of_hab");
    apply(&env, "habitat-backup.yaml", &place.vars("copy_to"), &["--fresh"]).expect(0);
    assert_eq!(env.fakes()["services"][API], "up");
    assert!(fs::read(&place.dump).expect("the dump was kept").starts_with(b"PGDMP"));
}

#[test]
fn an_api_that_cannot_be_stopped_is_not_dumped() {
    let (env, cluster) = (TestEnv::new(), server("16"));
    fill(&cluster);
    env.set_fakes(&json!({ "services": { API: "up" },
        "fail": { "svc stop": { "code": 1, "stderr": "the supervisor does not answer" } } }));
    let place = Place::new(&env, &cluster, "");
    let failed = apply(&env, "habitat-backup.yaml", &place.vars("copy_to"), &["--fresh"]).expect(1);
    assert!(failed.stderr.contains("the supervisor does not answer"), "{}", failed.stderr);
    assert_eq!(env.fakes()["services"][API], "up");
    assert!(!fs::exists(&place.dump).expect("it can be looked for"));
}

#[test]
fn a_damaged_or_another_dump_is_not_restored() {
    let (env, cluster) = (TestEnv::new(), server("18"));
    env.set_fakes(&json!({ "services": { API: "up" } }));
    let place = Place::new(&env, &cluster, "");
    let restore = |text: &[u8], more: &[(&str, &str)]| {
        fs::create_dir_all(env.work().join("kept")).expect("the folder can be made");
        fs::write(&place.dump, text).expect("the file can be written");
        let vars = [place.vars("dump"), more.to_vec()].concat();
        let failed = apply(&env, "habitat-restore.yaml", &vars, &["--fresh"]);
        assert_ne!(failed.status.code(), Some(0), "{}", failed.stderr);
        failed.stderr
    };
    let said = restore(b"-- PostgreSQL database dump\n", &[("sha256", &"0".repeat(64))]);
    assert!(said.contains("is not the one that the plan means"), "{said}");
    assert!(restore(b"SELECT 1;\n", &[]).contains("is no dump of pg_dump or pg_dumpall"));
    assert!(restore(b"PGDMP\x01\x0e\x00", &[]).contains("pg_restore"));
    let said = restore(b"--\n-- PostgreSQL database dump\n--\n\nCREATE TABLE public.origins (a int);\n", &[]);
    assert!(said.contains("cut off") || said.contains("last line"), "{said}");
}
