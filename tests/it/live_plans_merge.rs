//! The plans that merge, applied as they are by the program on real servers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::cluster::{Cluster, Settings};
use crate::env::TestEnv;
use crate::live_merge::{all_arrived, shards};
use crate::live_merge_databases::{SHOP, shop};
use crate::live_plans::{apply, never_told};

const PASSWORD: &str = "merge S3cret";

/// A server with a role that owns nothing yet and is no superuser.
fn server(role: &str) -> Cluster {
    let mut settings = Settings::new("18");
    settings.password = Some("superuser".into());
    let server = Cluster::with(settings);
    server.psql("postgres", &format!("CREATE ROLE {role} LOGIN CREATEDB PASSWORD '{PASSWORD}'"));
    server
}

/// Gives a database and all that is in it to a role.
fn give(server: &Cluster, database: &str, role: &str) {
    server.psql(
        database,
        &format!(
            "DO $$ DECLARE o record; BEGIN \
             FOR o IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP \
               EXECUTE format('ALTER SCHEMA %I OWNER TO {role}', o.nspname); END LOOP; \
             FOR o IN SELECT c.oid::regclass AS name FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
                      WHERE relkind IN ('r', 'v') AND nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP \
               EXECUTE format('ALTER TABLE %s OWNER TO {role}', o.name); END LOOP; \
             FOR o IN SELECT c.oid::regclass AS name FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
                      WHERE relkind = 'S' AND nspname !~ '^pg_' AND NOT EXISTS (SELECT FROM pg_depend d \
                        WHERE d.objid = c.oid AND d.deptype IN ('a', 'i')) LOOP \
               EXECUTE format('ALTER SEQUENCE %s OWNER TO {role}', o.name); END LOOP; END $$; \
             ALTER DATABASE {database} OWNER TO {role}"
        ),
    );
}

/// Programs of the depot: each writes down that it ran.
fn programs(env: &TestEnv) -> Vec<(&'static str, String)> {
    let path = env.write("program", "#!/bin/sh\necho \"$@\" >> ran\n");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it can be made executable");
    let secret = env.write("pwfile", &format!("{PASSWORD}\n"));
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).expect("it can be made private");
    let word = |what: &str| format!("[{}, {what}]", path.display());
    vec![
        ("uninstall", word("uninstall")),
        ("install", word("install")),
        ("check_services", word("status")),
        ("password_file", env.work().join("pwfile").display().to_string()),
    ]
}

fn with<'a>(vars: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    vars.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

/// What the programs wrote down, wherever they ran: in the folder of the plan.
fn ran() -> String {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../plans/ran");
    let text = fs::read_to_string(file).unwrap_or_default();
    fs::remove_file(file).expect("the programs ran");
    text
}

#[test]
fn habitat_merges_its_shards_and_then_its_databases() {
    let server = server("hab");
    shards(&server, "builder_originsrv", 20);
    server.psql("postgres", "CREATE DATABASE builder_sessionsrv");
    server.psql(
        "builder_sessionsrv",
        "DO $$ DECLARE s text; BEGIN FOREACH s IN ARRAY ARRAY['public', 'shard_0', 'shard_1', 'shard_2', 'shard_3', 'shard_4', 'shard_5', 'shard_6', 'shard_7'] LOOP \
           EXECUTE format('CREATE SCHEMA IF NOT EXISTS %I', s); \
           EXECUTE format('CREATE TABLE %1$I.accounts (id bigint PRIMARY KEY, name text, email text); \
                           CREATE TABLE %1$I.account_tokens (id bigint PRIMARY KEY, account_id bigint REFERENCES %1$I.accounts, token text)', s); END LOOP; END $$; \
         INSERT INTO shard_1.accounts VALUES (1, 'ann', 'a@example.test'); INSERT INTO shard_4.accounts VALUES (2, 'bob', NULL); \
         INSERT INTO shard_4.account_tokens VALUES (1, 2, 'x'); CREATE TABLE public.flags (shard_migration_complete bool DEFAULT false)",
    );
    for database in ["builder_originsrv", "builder_sessionsrv"] {
        give(&server, database, "hab");
    }
    let env = TestEnv::new();
    let mut vars = programs(&env);
    vars.extend([("port", server.port.to_string()), ("last_shard", "7".to_owned())]);
    let asked = apply(&env, "habitat-merge-shards.yaml", &with(&vars), &[]).expect(5);
    assert!(asked.stderr.contains("its shards are merged into `public`"), "{}", asked.stderr);
    let done = apply(&env, "habitat-merge-shards.yaml", &with(&vars), &["--yes"]).expect(0);
    assert_eq!(ran(), "uninstall\ninstall\nstatus\n");
    all_arrived(&server, "builder_originsrv");
    assert_eq!(
        server.psql(
            "builder_sessionsrv",
            "SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM account_tokens)"
        ),
        "2|1"
    );
    never_told(&env, &done, &[PASSWORD]);

    // The new schema is that of originsrv's public tables, changed as Builder's next version has it.
    let dump = std::process::Command::new(server.bin("pg_dump"))
        .args([
            "--schema-only",
            "--schema=public",
            "--no-owner",
            "--no-comments",
            "--restrict-key=x",
            "-d",
            &server.url("builder_originsrv"),
        ])
        .output()
        .expect("pg_dump starts");
    let text = String::from_utf8(dump.stdout).expect("it is text");
    let plain = |line: &&str| {
        !line.starts_with('\\')
            && !line.starts_with("CREATE SCHEMA")
            && !line.starts_with("SELECT pg_catalog.set_config")
    };
    let schema: String = text.lines().filter(plain).map(|line| format!("{line}\n")).collect();
    env.write(
        "builder.sql",
        &format!(
            "{schema}\nALTER TABLE public.origins DROP COLUMN session_sync; ALTER TABLE public.origin_packages ADD ident_array text[]; \
             ALTER TABLE public.origin_invitations ADD CHECK (id IS NOT NULL); \
             CREATE TABLE public.accounts (id bigserial PRIMARY KEY, name text, email text); \
             CREATE TABLE public.account_tokens (id bigserial PRIMARY KEY, account_id bigint REFERENCES public.accounts, token text);\n"
        ),
    );
    server.psql("builder_originsrv", "ALTER TABLE origin_invitations ADD account_sync bool DEFAULT false");
    vars.retain(|(name, _)| *name != "last_shard");
    vars.push(("schema", env.work().join("builder.sql").display().to_string()));
    server.psql("builder_sessionsrv", "UPDATE flags SET shard_migration_complete = false");
    let refused = apply(&env, "habitat-merge-databases.yaml", &with(&vars), &["--yes"]).expect(6);
    assert!(refused.stderr.contains("sessionsrv-is-merged"), "{}", refused.stderr);
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'builder'"), "0");
    server.psql("builder_sessionsrv", "UPDATE flags SET shard_migration_complete = true");
    apply(&env, "habitat-merge-databases.yaml", &with(&vars), &["--yes"]).expect(0);
    assert_eq!(ran(), "uninstall\ninstall\nstatus\n");
    let found = "SELECT (SELECT count(*) FROM origin_packages WHERE ident_array[2] = 'pkg'), (SELECT count(*) FROM origins), (SELECT count(*) FROM accounts)";
    assert_eq!(server.psql("builder", found), "320|16|2");
}

#[test]
fn tenants_and_shards_from_a_template() {
    let server = server("app");
    for (database, rows) in [("tenant_a", 10), ("tenant_b", 20)] {
        shop(&server, database, rows);
    }
    server.psql("postgres", "CREATE DATABASE all_tenants");
    server.psql("all_tenants", SHOP);
    for database in ["tenant_a", "tenant_b", "all_tenants"] {
        give(&server, database, "app");
    }
    let env = TestEnv::new();
    let port = server.port.to_string();
    let vars = [("port_a", port.as_str()), ("port_b", &port), ("port_all", &port)];
    let mut args = vec!["apply".to_owned(), crate::live_plans::plan("merge-tenants.yaml"), "--yes".to_owned()];
    args.extend(vars.iter().map(|(name, value)| format!("--var={name}={value}")));
    let done = env.command(&args.iter().map(String::as_str).collect::<Vec<_>>()).env("APP_PASSWORD", PASSWORD).output();
    crate::env::Outcome::of(&done.expect("pgplan starts")).expect(0);
    let found = "SELECT (SELECT count(*) FROM orders o JOIN customers c ON c.id = customer_id), (SELECT count(DISTINCT tenant) FROM customers)";
    assert_eq!(server.psql("all_tenants", found), "90|2");

    shards(&server, "app", 5);
    give(&server, "app", "app");
    let listed = env.pgplan(&["init"]).expect(0);
    assert!(listed.stdout.contains("merge-shards"), "{}", listed.stdout);
    env.pgplan(&["init", "merge-shard"]).expect(2);
    env.pgplan(&["init", "merge-shards"]).expect(0);
    env.pgplan(&["init", "merge-shards"]).expect(2);
    env.pgplan(&["init", "merge-shards", "--force"]).expect(0);
    env.pgplan(&["check", "merge-shards.yaml"]).expect(0);
    let args = [
        "apply",
        "merge-shards.yaml",
        "--yes",
        "--var=shards=shard_#",
        "--var=skip=[__diesel_schema_migrations]",
        &format!("--var=port={port}"),
    ];
    let done = env.command(&args).env("APP_PASSWORD", PASSWORD).output();
    crate::env::Outcome::of(&done.expect("pgplan starts")).expect(0);
    assert_eq!(server.psql("app", "SELECT count(*) FROM public.origin_packages"), "80");
}
