//! Kills pgplan, its programs, its server sessions and its servers at random moments, and lets it go on until it is
//! done: every row is there, what must happen once has happened once, nothing is left running, and nothing that went
//! wrong was ever called a success.
//!
//! `PGPLAN_CHAOS_KILLS` says how many (`make chaos`: 200), `PGPLAN_CHAOS_SEED` repeats a run.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::{
    cluster::Cluster,
    env::TestEnv,
    fire::{Dice, Fire, Session, Struck, Victim, decide, dice, nothing_runs_on, number, rounds, standing},
    live_fence::access,
};

const SOURCE: &str = "
CREATE ROLE app LOGIN PASSWORD 'app-password'; CREATE ROLE reader; GRANT reader TO app;
CREATE DATABASE shop OWNER app; CREATE DATABASE scrap;
ALTER ROLE app SET default_transaction_read_only = off; ALTER DATABASE shop SET work_mem = '8MB';
\\connect shop
CREATE SCHEMA sales AUTHORIZATION app;
CREATE TABLE sales.item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, price numeric(9,2));
CREATE TABLE sales.line (id bigint PRIMARY KEY, item bigint NOT NULL REFERENCES sales.item, n int CHECK (n > 0), at timestamptz);
CREATE TABLE sales.note (body text, tags text[], raw bytea);
INSERT INTO sales.item (name, price) SELECT 'item ' || n, n / 7.0 FROM generate_series(1, 4000) n;
INSERT INTO sales.line SELECT n, 1 + n % 4000, 1 + n % 9, timestamptz '2026-01-01' + n * interval '1 min' FROM generate_series(1, 40000) n;
INSERT INTO sales.note SELECT repeat(md5(n::text), 4), ARRAY['a' || n % 5, NULL], decode(md5(n::text), 'hex') FROM generate_series(1, 8000) n;
CREATE INDEX ON sales.line (item, at); CREATE INDEX ON sales.note USING gin (tags);
CREATE VIEW sales.total AS SELECT item, sum(n) FROM sales.line GROUP BY 1;
GRANT SELECT ON ALL TABLES IN SCHEMA sales TO reader;
CREATE TABLE sales.stamp (what text); CREATE TABLE sales.once (what text);
CREATE TABLE client (id bigint PRIMARY KEY, name text NOT NULL);
CREATE TABLE visit (id bigint PRIMARY KEY, client bigint NOT NULL REFERENCES client, page text);
CREATE TABLE merged (yes bool);
CREATE SCHEMA shard_0; CREATE TABLE shard_0.client (LIKE client INCLUDING ALL); CREATE TABLE shard_0.visit (LIKE visit INCLUDING ALL);
CREATE SCHEMA shard_1; CREATE TABLE shard_1.client (LIKE client INCLUDING ALL); CREATE TABLE shard_1.visit (LIKE visit INCLUDING ALL);
INSERT INTO shard_0.client SELECT n, 'zero ' || n FROM generate_series(1, 300) n;
INSERT INTO shard_1.client SELECT 1000 + n, 'one ' || n FROM generate_series(1, 300) n;
INSERT INTO shard_0.visit SELECT n, 1 + n % 300, md5(n::text) FROM generate_series(1, 3000) n;
INSERT INTO shard_1.visit SELECT 100000 + n, 1001 + n % 300, md5(n::text) FROM generate_series(1, 3000) n;
SELECT lo_from_bytea(0, decode(md5(n::text), 'hex')) FROM generate_series(1, 20) n;
";

/// A plan with every class of effect, what lives as long as a session, what is proved anew, and every kind of step that
/// changes something.
fn plan(source: &Cluster, target: &Cluster) -> String {
    format!(
        r#"version: 1
name: chaos
databases:
  source: {{ url: "{}" }}
  through: {{ url: "${{{{ steps.tunnel.outputs.url }}}}" }}
  target: {{ url: "{}" }}
  extra: {{ url: "{}" }}
  shop: {{ url: "{}" }}
  made: {{ url: "${{{{ steps.make.outputs.url }}}}" }}
  scrap: {{ url: "{}" }}
steps:
  - preflight: {{ source: source, target: target }}
  - approve: {{ message: "go on?" }}
  - id: announce
    command: {{ run: [sh, -c, "echo announced >> opaque.log"] }}
  - id: tunnel
    tunnel: {{ platform: aptible, name: old, with: {{ environment: production }} }}
  - id: stop-app
    downtime: begin
    scale: {{ platform: systemd, services: [app.service, worker.service], to: 0 }}
  - id: stamp
    sql: {{ database: through, run: "INSERT INTO sales.stamp VALUES ('stopped')" }}
  - id: fence
    fence: {{ database: source, grace: 0s, window: 1s }}
  - dump: {{ from: through, scope: cluster }}
  - filter: {{ drop_passwords_of: [nobody] }}
  - restore: {{ into: target, expected_errors: ['role "postgres" already exists'] }}
  - verify: {{ left: source, right: target }}
  - id: open-target
    unfence: {{ fence: fence, on: target }}
  - id: reopen
    unfence: {{ database: source }}
  - create_database: {{ on: extra }}
  - id: make
    provision: {{ platform: aptible, name: new, version: "18", with: {{ environment: production }} }}
  - id: count
    for_each: [a, b, c, d, e, f]
    sql:
      database: made
      run:
        - "INSERT INTO sales.note (body) VALUES ('counted ${{{{ each.value }}}}')"
        - "SELECT pg_sleep(0.05)"
  - id: merge
    merge_shards:
      from: {{ database: shop, schemas: shard_0..shard_1 }}
      into: {{ database: shop }}
      complete: {{ run: INSERT INTO merged VALUES (true) }}
  - id: tidy
    sql: {{ database: shop, run: "INSERT INTO sales.once VALUES ('tidied')", transaction: false }}
  - id: repoint
    repoint: {{ file: app.env, set: {{ DATABASE_URL: "postgres://new/shop" }} }}
  - id: mark
    command: {{ run: [sh, -c, "echo marked > mark"], done_if: {{ run: [grep, -q, marked, mark] }} }}
  - id: start-app
    downtime: end
    scale: {{ restore: stop-app }}
  - vacuum: {{ database: target, analyze: true }}
  - id: scrap
    deprovision: {{ database: scrap, platform: aptible, name: scrap, with: {{ environment: production }} }}
  - id: end
    command: {{ run: [sh, -c, "echo ended >> opaque.log"] }}
"#,
        source.url("postgres"),
        target.url("postgres"),
        target.url("extra"),
        target.url("shop"),
        source.url("scrap"),
    )
}

/// Looks whether an opaque step was done, as a person would.
fn is_done(env: &TestEnv, target: &Cluster, step: &str) -> bool {
    let logged = |word: &str| {
        fs::read_to_string(env.work().join("opaque.log")).unwrap_or_default().lines().any(|line| line == word)
    };
    match step {
        "announce" => logged("announced"),
        "end" => logged("ended"),
        "tidy" => target.psql("shop", "SELECT count(*) FROM sales.once") != "0",
        "scrap" => env.fakes()["databases"]["scrap"]["status"] == "deprovisioned",
        other => panic!("whether `{other}` was done can be seen, and a person is asked"),
    }
}

/// One plan from begin to end under fire; returns what was struck.
fn round(dice: &mut Dice, budget: u64, source: &mut Cluster, env: &TestEnv) -> Struck {
    let mut target = Cluster::start("18");
    source.psql("shop", "TRUNCATE sales.stamp");
    // The servers commit asynchronously: what only WAL buffers hold would end with a killed server.
    source.psql("postgres", "CHECKPOINT");
    env.set_fakes(&json!({
        "units": { "app.service": "active", "worker.service": "active" },
        "spare": { "18": target.url("shop") },
        "databases": {
            "old": { "environment": "production", "version": "15", "url": source.url("shop") },
            "scrap": { "environment": "production", "version": "15", "url": source.url("scrap") } } }));
    env.write("app.env", "DATABASE_URL=postgres://old/shop # the database\n");
    env.write("chaos.yaml", &plan(source, &target));
    let open = access(source);
    let mut fire = Fire::new(dice, budget);
    let mut last = String::new();
    let (mut fence_is_lost, mut wanted) = (false, 0);
    for _ in 0..200 {
        let again = ["apply", "chaos.yaml", "--yes", "--rerun", "fence"];
        let args = if wanted > 0 && fenced_anew(env) < wanted { &again[..] } else { &again[..3] };
        let session = fire.session(env, args, source, &mut target);
        fence_is_lost |= session.struck == Some(Victim::Source);
        let ended = match session.code() {
            Some(0) => true,
            // It may have been killed between its last event and its end.
            None => standing(env).as_deref() == Some("succeeded"),
            Some(5) => {
                decide(env, &session.said, [source, &target], |step| is_done(env, &target, step));
                false
            }
            Some(1) => {
                session.is_excused();
                false
            }
            // A server that crashed cannot tell what was written behind the fence: a person begins anew from there, with a
            // fresh target.
            Some(6) if fence_is_lost => {
                let said = &session.said.stderr;
                assert!(said.contains("the counters went back") && said.contains("--rerun fence"), "{said}");
                target.renew();
                (fence_is_lost, wanted) = (false, fenced_anew(env) + 1);
                false
            }
            Some(_) => panic!("{}\n{}\n--- before\n{last}", session.said.status, session.said.stderr),
        };
        if ended {
            assert_eq!(standing(env).as_deref(), Some("succeeded"));
            check(env, source, &target, &session);
            assert_eq!(access(source), open, "the fence has gone without a trace");
            every_class_is_there(env);
            return fire.struck;
        }
        last = session.said.stderr;
    }
    panic!("it does not come to an end; the last session said:\n{last}");
}

fn events(env: &TestEnv) -> Vec<Value> {
    let log = env.pgplan(&["log", "--json"]).expect(0).stdout;
    log.lines().map(|line| serde_json::from_str(line).expect("an event is JSON")).collect()
}

/// Returns how often the run began anew with its fence.
fn fenced_anew(env: &TestEnv) -> usize {
    events(env).iter().filter(|event| event["event"] == "step_reopened" && event["step"] == "fence").count()
}

/// Fails unless the plan has a step of each way of being taken up.
fn every_class_is_there(env: &TestEnv) {
    let of = |event: &Value| event["graph"]["actions"].as_array().cloned().unwrap_or_default();
    let actions: Vec<Value> = events(env).iter().flat_map(of).collect();
    let effects: BTreeSet<&str> = actions.iter().filter_map(|action| action["effect"].as_str()).collect();
    assert_eq!(effects, BTreeSet::from(["opaque", "probe", "restart", "transaction"]));
    for flag in ["volatile", "proof"] {
        assert!(actions.iter().any(|action| action[flag] == true), "nothing is {flag}");
    }
}

/// The end state: exact, whatever was struck.
fn check(env: &TestEnv, source: &Cluster, target: &Cluster, session: &Session) {
    let rows = |server: &Cluster, table: &str, rule: &str| {
        server.psql(
            "shop",
            &format!("SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} t {rule}"),
        )
    };
    for table in ["sales.item", "sales.line", "sales.total", "sales.stamp", "shard_0.visit", "shard_1.client"] {
        assert_eq!(rows(source, table, ""), rows(target, table, ""), "{table}\n{}", session.said.stderr);
    }
    let original = "WHERE body NOT LIKE 'counted %'";
    assert_eq!(rows(source, "sales.note", ""), rows(target, "sales.note", original), "sales.note");
    let counted = "SELECT string_agg(body, ', ' ORDER BY body) FROM sales.note WHERE body LIKE 'counted %'";
    let once = ["a", "b", "c", "d", "e", "f"].map(|each| format!("counted {each}")).join(", ");
    assert_eq!(target.psql("shop", counted), once, "each exactly once");
    assert_eq!(source.psql("shop", "SELECT string_agg(what, ',') FROM sales.stamp"), "stopped", "once");
    assert_eq!(
        target.psql("shop", "SELECT string_agg(what, ',') FROM sales.once"),
        "tidied",
        "a person's word is kept"
    );
    let merged = "SELECT (SELECT count(*) FROM merged), \
         (SELECT count(*) FROM (TABLE shard_0.client UNION ALL TABLE shard_1.client EXCEPT ALL TABLE client) x), \
         (SELECT count(*) FROM (TABLE shard_0.visit UNION ALL TABLE shard_1.visit EXCEPT ALL TABLE visit) x), \
         (SELECT count(*) FROM client), (SELECT count(*) FROM visit)";
    assert_eq!(target.psql("shop", merged), "1|0|0|600|6000");
    let settings = "SELECT datname, datconnlimit, has_database_privilege('app', oid, 'CONNECT'), \
         (SELECT string_agg(setrole::regrole || setconfig::text, ' ' ORDER BY setrole) FROM pg_db_role_setting WHERE setdatabase = d.oid) \
         FROM pg_database d WHERE datname IN ('shop', 'postgres') ORDER BY 1";
    assert_eq!(
        source.psql("postgres", settings),
        target.psql("postgres", settings),
        "the target is open as the source is"
    );
    let catalog = "SELECT (SELECT count(*) FROM pg_indexes WHERE schemaname = 'sales'), \
                   (SELECT count(*) FROM pg_constraint WHERE conrelid = 'sales.line'::regclass AND contype <> 'n'), \
                   (SELECT count(*) FROM pg_largeobject_metadata), (SELECT last_value FROM sales.item_id_seq), \
                   pg_has_role('app', 'reader', 'MEMBER'), has_table_privilege('reader', 'sales.line', 'SELECT')";
    assert_eq!(source.psql("shop", catalog), target.psql("shop", catalog));
    assert_eq!(target.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'extra'"), "1");
    assert_eq!(env.read("opaque.log"), "announced\nended\n", "a person's word is kept");
    assert_eq!(env.read("app.env"), "DATABASE_URL=postgres://new/shop # the database\n");
    let fakes = env.fakes();
    assert_eq!(fakes["units"], json!({ "app.service": "active", "worker.service": "active" }));
    assert_eq!(fakes["databases"]["new"]["url"], json!(target.url("shop")));
    assert_eq!(fakes["databases"]["scrap"]["status"], "deprovisioned");
    no_receipts(session, source, target);
    nothing_runs_on(env, [source, target]);
}

const HAS_RECEIPTS: &str = "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan'";

/// Fails unless the run's receipts are gone, or the last session was struck and says where they stay.
pub(crate) fn no_receipts(session: &Session, source: &Cluster, target: &Cluster) {
    let told = |names: &[&str]| {
        let line = |name: &&str| format!("the receipts in `{name}` could not be dropped");
        let told = names.iter().any(|name| session.said.stderr.contains(&line(name)));
        if told {
            session.is_excused();
        }
        told
    };
    for (server, names) in [(source, &["through"][..]), (target, &["target", "shop", "made"])] {
        let found = server.psql("postgres", "SELECT datname FROM pg_database WHERE datallowconn");
        let with = |name: &&str| server.psql(name, HAS_RECEIPTS) != "0";
        let left: Vec<&str> = found.lines().filter(with).collect();
        let said = &session.said.stderr;
        assert!(left.is_empty() || told(names), "{left:?} of {names:?} have receipts\n{said}");
        for name in left {
            // As a person does who was told.
            server.psql(name, "SET default_transaction_read_only = off; DROP SCHEMA pgplan CASCADE; CHECKPOINT");
        }
    }
}

#[test]
fn nothing_is_lost_whatever_is_killed() {
    let kills = number("PGPLAN_CHAOS_KILLS", 6);
    let mut dice = dice();
    let mut source = Cluster::start("15");
    source.psql("postgres", SOURCE);
    rounds(kills, 25, |budget| round(&mut dice, budget, &mut source, &TestEnv::new()));
}

#[test]
fn nothing_is_lost_with_a_shared_journal() {
    let kills = number("PGPLAN_CHAOS_KILLS", 4);
    let mut dice = dice();
    let (mut source, journals) = (Cluster::start("15"), Cluster::start("18"));
    source.psql("postgres", SOURCE);
    let mut runs = 0;
    rounds(kills, 25, |budget| {
        runs += 1;
        journals.psql("postgres", &format!("CREATE DATABASE runs_{runs}"));
        round(&mut dice, budget, &mut source, &TestEnv::with_state(journals.url(&format!("runs_{runs}"))))
    });
}
