//! `verify` finds every kind of difference between real servers, and none between equal ones.

use pgplan_engine::error::{ErrorKind, StepError};
use pgplan_engine::kinds::verify::Verify;
use serde_json::json;

use crate::cluster::Cluster;
use crate::engine::Engine;

/// One of everything whose text could differ between versions, and names that must be quoted.
const RICH: &str = r#"
CREATE ROLE app LOGIN CONNECTION LIMIT 5 VALID UNTIL '2030-01-01';
CREATE ROLE readers; GRANT readers TO app; ALTER ROLE app SET work_mem = '8MB';
COMMENT ON ROLE app IS 'the application';
CREATE TYPE mood AS ENUM ('sad', 'it''s ok', 'happy');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE TYPE pair AS (a double precision, b text);
CREATE TABLE every (
  id bigserial PRIMARY KEY, f4 real, f8 double precision, n numeric, j json, jb jsonb, t text, c char(5), b bytea,
  ts timestamp, tz timestamptz, d date, i interval, tt timetz, m mood, p positive, pr pair, prs pair[], arr integer[],
  tarr text[][], r int4range, rn numrange, ip inet, mac macaddr, bits varbit, u uuid, x xml, tsv tsvector, q tsquery, money money,
  pt point, pg polygon, bool boolean, lsn pg_lsn, jp jsonpath, g integer GENERATED ALWAYS AS (p * 2) STORED,
  CONSTRAINT sane CHECK (f8 IS NULL OR f8 <> 42));
INSERT INTO every (f4, f8, n, j, jb, t, c, b, ts, tz, d, i, tt, m, p, pr, prs, arr, tarr, r, rn, ip, mac, bits, u, x, tsv, q,
  money, pt, pg, bool, lsn, jp) VALUES
 (0.1, 0.1::float8 + 0.2, 1.10, '{"b": 1,  "a": [1]}', '{"b": 1, "a": 1.50}', E'tab\t nl\n back\\slash \\N "q"', 'x', '\x00ff0a',
  'infinity', '2024-02-29 12:00:00.123456+05:30', '-infinity', '1 year 2 mons -3 days 04:05:06.7', '12:00:00+02', 'it''s ok', 7,
  ROW(1e-300, 'a,b"c'), ARRAY[ROW(1.5, NULL)::pair, NULL], '{1,NULL,3}', '{{a,"b c"},{NULL,"\"q\""}}', '[1,5)', '(1.5,]',
  '10.0.0.0/8', '08:00:2b:01:02:03', B'10110', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '<a>ü</a>', 'fat:2 cat', 'fat & !rat',
  12.34, '(0.1,2)', '((0,0),(1,1),(1,0.3))', true, '16/B374D848', '$.a[*] ? (@ > 1)'),
 ('NaN', '-Infinity', 'NaN', 'null', 'null', 'größe 漢字 🐘', '', '', '0044-03-15 BC', 'infinity', '2024-01-01', '-00:00:00.000001',
  '00:00:00-15:59', 'sad', 1, NULL, '{}', '{}', '{}', 'empty', '(,)', '::1', '08:00:2b:01:02:04', B'', NULL, NULL, '', NULL,
  -0.01, NULL, NULL, false, '0/0', NULL),
 (1.1754944e-38, 2.2250738585072014e-308, 123456789012345678901234567890.000000000100, NULL, '[]', '', NULL, NULL, NULL, NULL,
  NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL,
  NULL, NULL, NULL);
CREATE TABLE plain (a smallint, b integer, c bigint, d boolean, e text, f varchar(9), g char(4), h bytea, i date, j time,
  k timestamp, l timestamptz(3), m interval, n uuid, o jsonb, p json, q oid);
INSERT INTO plain VALUES (1, -2, 3, true, E'tab\t \\N 🐘', 'v', 'c', '\x00ff0a', '4713-01-01 BC', '24:00', '-infinity',
  '2024-02-29 12:00:00.1234+05:30', '1 year -3 days 04:05:06.7', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
  '{"b": 1, "a": [1.50, null, "é"]}', '{"b":  1}', 4000000000), (0, 0, 0, false, '', '', '', '', 'infinity',
  '00:00', 'infinity', 'infinity', '0', NULL, '[]', 'null', 0);
INSERT INTO plain DEFAULT VALUES;
CREATE TABLE twice (a integer, b integer); INSERT INTO twice VALUES (1, 2), (1, 2), (3, 4), (5, NULL);
CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;
CREATE UNLOGGED TABLE quick AS SELECT g AS id, repeat('x', g) AS t FROM generate_series(1, 2000) g;
CREATE TABLE parts (k integer, v text) PARTITION BY RANGE (k);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
CREATE TABLE parts_2 PARTITION OF parts DEFAULT;
INSERT INTO parts SELECT g, 'v' || g FROM generate_series(1, 20) g;
CREATE TABLE parent (id integer); CREATE TABLE child () INHERITS (parent);
INSERT INTO parent VALUES (1); INSERT INTO child VALUES (2);
CREATE MATERIALIZED VIEW mv AS SELECT count(*) AS n FROM twice;
CREATE MATERIALIZED VIEW empty_mv AS SELECT 1 AS one WITH NO DATA;
CREATE VIEW seen AS SELECT a FROM twice;
CREATE SCHEMA "we""ird; --
schema"; CREATE TABLE "we""ird; --
schema"."tab'le ""x""" ("col""umn" text, "select" integer);
INSERT INTO "we""ird; --
schema"."tab'le ""x""" VALUES ('''; DROP TABLE twice; --', 1);
CREATE SEQUENCE counter START 5; SELECT nextval('counter'), nextval('counter');
CREATE SEQUENCE unused;
SELECT lo_from_bytea(77777, decode(repeat('ab', 5000), 'hex')), lo_from_bytea(88888, '');
CREATE INDEX every_tz ON every (tz) WHERE bool; CREATE INDEX lower_t ON twice (lower(a::text), b);
CREATE FUNCTION twice(integer) RETURNS integer LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 2';
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql SET search_path = public AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER touch BEFORE UPDATE ON every FOR EACH ROW EXECUTE FUNCTION touch();
ALTER TABLE twice ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON twice TO app USING (a > 0);
GRANT SELECT, INSERT ON every TO app WITH GRANT OPTION; GRANT SELECT (a) ON twice TO PUBLIC; REVOKE ALL ON FUNCTION touch() FROM PUBLIC;
ALTER TABLE quick OWNER TO app; ALTER DEFAULT PRIVILEGES FOR ROLE app GRANT SELECT ON TABLES TO readers;
COMMENT ON TABLE every IS 'one of each'; COMMENT ON COLUMN every.f8 IS 'double'; COMMENT ON SCHEMA public IS 'ours';
ALTER DATABASE postgres SET statement_timeout = '1min';
CREATE EXTENSION IF NOT EXISTS plpgsql;
"#;

async fn verify(left: &Cluster, right: &Cluster) -> Result<pgplan_engine::action::Output, StepError> {
    let engine = Engine::new([("left", left, "postgres"), ("right", right, "postgres")]);
    engine.step::<Verify>(json!({ "left": "left", "right": "right" })).await
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_servers_of_every_version_are_equal() {
    let servers: Vec<Cluster> = ["13", "15", "18"].map(Cluster::start).into_iter().collect();
    for server in &servers {
        server.psql("postgres", RICH);
        // 14 makes a multirange with each range, and writes IN before the arguments of a procedure.
        let newer = "CREATE TYPE span AS RANGE (subtype = numeric); \
                     CREATE PROCEDURE tidy(since timestamptz, \"IN\" text, INOUT n integer) LANGUAGE sql AS 'SELECT 1'";
        server.psql("postgres", newer);
    }
    for (left, right) in [(0, 1), (1, 2), (0, 2), (2, 0)] {
        let output = verify(&servers[left], &servers[right]).await.unwrap_or_else(|error| {
            panic!("{left} and {right}: {error}\n{}", error.details.join("\n"));
        });
        // every, plain, twice, nothing, quick, two partitions, parent, child, the view, the strange one.
        assert!(output.summary.starts_with("11 tables with 2,036 rows and "), "{}", output.summary);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_difference_is_found_and_named() {
    let (left, right) = (Cluster::start("15"), Cluster::start("18"));
    left.psql("postgres", RICH);
    right.psql("postgres", RICH);
    let cases = [
        ("UPDATE every SET f8 = f8 + 1e-15 WHERE id = 1", "table postgres:public.every: contents"),
        ("UPDATE every SET f8 = NULL WHERE id = 2", "table postgres:public.every: contents"),
        ("UPDATE twice SET a = b, b = a WHERE a = 3", "table postgres:public.twice: contents"),
        ("UPDATE every SET t = NULL WHERE t = ''", "table postgres:public.every: contents"),
        ("UPDATE plain SET e = NULL WHERE e = ''", "table postgres:public.plain: contents"),
        (
            "UPDATE plain SET k = k + '1us' WHERE q = 0; UPDATE plain SET l = l + '1ms'",
            "table postgres:public.plain: contents",
        ),
        ("DELETE FROM parts WHERE k = 15", "table postgres:public.parts_2: rows: left 11, right 10"),
        ("INSERT INTO twice VALUES (1, 2)", "table postgres:public.twice: rows: left 4, right 5"),
        (
            "DELETE FROM twice WHERE ctid = (SELECT min(ctid) FROM twice WHERE a = 1); INSERT INTO twice VALUES (3, 4)",
            "table postgres:public.twice: contents",
        ),
        ("SELECT nextval('counter')", "sequence postgres:public.counter: last value: left 6, right 7"),
        ("SELECT nextval('unused')", "sequence postgres:public.unused: last value: left 1 (not used yet), right 1"),
        ("DROP TABLE nothing", "table postgres:public.nothing: existence: left there, right missing"),
        ("CREATE TABLE extra ()", "table postgres:public.extra: existence: left missing, right there"),
        (
            "ALTER TABLE twice DROP COLUMN b CASCADE",
            "column postgres:public.twice.b: existence: left there, right missing",
        ),
        (
            "ALTER TABLE parts ALTER v TYPE varchar",
            "column postgres:public.parts_1.v: type: left text, right character varying",
        ),
        ("DROP INDEX every_tz", "index postgres:public.every_tz: existence: left there, right missing"),
        ("ALTER TABLE every DROP CONSTRAINT sane", "constraint postgres:public.every.sane: existence"),
        ("ALTER TABLE every ALTER n SET NOT NULL", "column postgres:public.every.n: column: left NULL, right NOT NULL"),
        ("DROP TRIGGER touch ON every", "trigger postgres:public.every.touch: existence"),
        (
            "CREATE OR REPLACE FUNCTION twice(integer) RETURNS integer LANGUAGE sql AS 'SELECT $1 * 3'",
            "function postgres:public.twice(integer): definition",
        ),
        ("REVOKE INSERT ON every FROM app", "table postgres:public.every: privileges"),
        ("ALTER TABLE quick OWNER TO postgres", "table postgres:public.quick: owner: left app, right postgres"),
        ("COMMENT ON TABLE every IS 'other'", "table postgres:public.every: comment: left one of each, right other"),
        ("SELECT lo_put(77777, 100, '\\x00')", "large objects of postgres: contents"),
        ("SELECT lo_unlink(88888)", "large objects of postgres: number: left 2, right 1"),
        ("ALTER DATABASE postgres RESET statement_timeout", "setting postgres:statement_timeout: existence"),
        ("ALTER ROLE app NOLOGIN", "role app: attributes"),
        ("REVOKE readers FROM app", "membership app in readers: existence: left there, right missing"),
        ("ALTER ROLE app PASSWORD 'x'", "role app: password: left none, right SCRAM-SHA-256 verifier #"),
        ("ALTER ROLE ALL SET work_mem = '9MB'", "setting of all roles work_mem: existence: left missing, right there"),
        ("ALTER ROLE app SET work_mem = '9MB'", "setting of role app work_mem: setting: left 8MB, right 9MB"),
        ("CREATE DATABASE more", "database more: existence: left missing, right there"),
        ("ALTER TYPE mood ADD VALUE 'new'", "type postgres:public.mood: definition"),
        ("ALTER POLICY own ON twice USING (a > 1)", "policy postgres:public.twice.own: policy"),
    ];
    // The two start out equal.
    let output = verify(&left, &right).await.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(output.warnings.len(), 0);
    right.psql("postgres", "CREATE DATABASE kept TEMPLATE postgres");
    for (change, expected) in cases {
        let error = verify(&left, &right).await.expect_err("the extra database is found");
        assert!(error.details.len() == 2, "before {change}: {:?}", error.details);
        right.psql("postgres", change);
        let error = verify(&left, &right).await.expect_err(change);
        assert_eq!(error.kind, ErrorKind::Verification);
        assert!(error.details.iter().any(|line| line.starts_with(expected)), "{change}: {:?}", error.details);
        restore(&right, change);
    }
}

/// Puts the right side back as it was.
fn restore(server: &Cluster, change: &str) {
    if change.contains("ROLE ALL") {
        server.psql("postgres", "ALTER ROLE ALL RESET work_mem");
    } else if change.contains("ROLE app") || change.contains("readers FROM app") {
        server.psql(
            "postgres",
            "ALTER ROLE app LOGIN PASSWORD NULL; GRANT readers TO app; ALTER ROLE app SET work_mem = '8MB'",
        );
    } else if change.starts_with("CREATE DATABASE") {
        server.psql("postgres", "DROP DATABASE more");
    } else {
        server.psql("kept", "ALTER DATABASE postgres RENAME TO gone");
        server.psql("template1", "CREATE DATABASE postgres TEMPLATE kept; DROP DATABASE gone");
        server.psql("postgres", "ALTER DATABASE postgres SET statement_timeout = '1min'");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_that_was_mended_no_longer_counts() {
    let (left, right) = (Cluster::start("15"), Cluster::start("15"));
    for server in [&left, &right] {
        server.psql("postgres", "CREATE TABLE t AS SELECT g AS id FROM generate_series(1, 100) g");
    }
    right.psql("postgres", "UPDATE t SET id = 0 WHERE id = 7");
    let engine = Engine::new([("left", &left, "postgres"), ("right", &right, "postgres")]);
    let body = json!({ "left": "left", "right": "right", "jobs": 2 });
    let mut actions = engine.actions::<Verify>(body).await.expect("it lists").actions;
    let titles: Vec<&str> = actions.iter().map(|action| action.title.as_str()).collect();
    assert_eq!(
        titles,
        [
            "compare databases, roles, memberships, passwords and settings of left and right",
            "compare the objects, sequences and large objects of postgres",
            "compare the rows of public.t in postgres",
            "judge what was found; compare once more what differs",
        ]
    );
    let verdict = actions.pop().expect("there is a verdict");
    for action in actions {
        engine.perform("verify", action).await.expect("comparing is no failure");
    }
    let error = engine.perform("verify", verdict.clone()).await.expect_err("a row differs");
    assert!(error.message.starts_with("1 difference: table postgres:public.t: contents: left 100 rows with digest "));
    right.psql("postgres", "UPDATE t SET id = 7 WHERE id = 0");
    engine.perform("verify", verdict).await.expect("it was mended");
    let report = std::fs::read(engine.folder().join("verify/verification.json")).expect("there is a report");
    let report: serde_json::Value = serde_json::from_slice(&report).expect("it is JSON");
    assert_eq!((&report["equal"], &report["tables"][0]["left"]["rows"]), (&json!(true), &json!(100)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_or_expected_does_not_fail() {
    let (left, right) = (Cluster::start("15"), Cluster::start("18"));
    left.psql("postgres", "CREATE DATABASE one ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0");
    right.psql("postgres", "CREATE DATABASE two ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0");
    left.psql("postgres", "CREATE ROLE only_here; CREATE ROLE reader LOGIN");
    right.psql("postgres", "CREATE ROLE reader LOGIN");
    for (server, database) in [(&left, "one"), (&right, "two")] {
        server.psql(
            database,
            r"CREATE TABLE bytes (t text); INSERT INTO bytes VALUES (E'gr\xf6\xdfe'), (E'\xff');
            CREATE TABLE log_1 (x integer); CREATE SEQUENCE log_2; SELECT lo_create(5);
            GRANT SELECT ON bytes, log_1 TO reader; GRANT SELECT ON SEQUENCE log_2 TO reader",
        );
    }
    right.psql(
        "two",
        "INSERT INTO log_1 VALUES (1); SELECT nextval('log_2'); CREATE INDEX log_i ON log_1 (x); CREATE SCHEMA pgplan
        CREATE TABLE receipt (x integer)",
    );
    let mut engine = Engine::new([("left", &left, "one"), ("right", &right, "two")]);
    let error = engine.step::<Verify>(json!({ "left": "left", "right": "right", "mode": "counts" })).await;
    let error = error.expect_err("a row, a value and an index");
    // The roles are not compared when one database is compared with another.
    assert_eq!(error.details.len(), 4, "{:?}", error.details);
    let body = json!({ "left": "left", "right": "right", "exclude": ["public.log_*"] });
    let output = engine.step::<Verify>(body.clone()).await.expect("all of it is excluded");
    assert!(output.summary.starts_with("1 table with 2 rows"), "{}", output.summary);
    let body_ignoring = json!({ "left": "left", "right": "right", "ignore": ["* one:public.log_*"] });
    let output = engine.step::<Verify>(body_ignoring).await.expect("all of it is expected");
    assert_eq!(output.warnings.len(), 3, "{:?}", output.warnings);

    for (server, password) in [(&left, "one"), (&right, "other")] {
        server.psql("postgres", &format!("ALTER ROLE reader PASSWORD '{password}'"));
    }
    let body_ignoring = json!({ "left": "left", "right": "right", "databases": "all", "ignore": ["*"] });
    let output = engine.step::<Verify>(body_ignoring).await;
    let output = output.expect("all of it is expected");
    assert!(
        output.warnings.iter().any(|said| said.starts_with("ignored: role reader: password")),
        "{:?}",
        output.warnings
    );
    assert!(!output.summary.contains("had gone"), "{}", output.summary);

    engine.set_user("reader");
    let output = engine.step::<Verify>(body).await.expect("a role without superuser may compare");
    assert!(output.summary.starts_with("1 table with 2 rows"), "{}", output.summary);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_comparison_leaves_no_statement_behind() {
    let (left, right) = (Cluster::start("15"), Cluster::start("18"));
    for server in [&left, &right] {
        server.psql(
            "postgres",
            "CREATE TABLE t AS SELECT g AS id, md5(g::text) AS m, 1.5 AS n FROM generate_series(1, 1500000) g",
        );
    }
    let engine = Engine::new([("left", &left, "postgres"), ("right", &right, "postgres")]);
    let actions =
        engine.actions::<Verify>(json!({ "left": "left", "right": "right" })).await.expect("it lists").actions;
    let action = actions.into_iter().find(|action| action.id.starts_with("rows:")).expect("rows are compared");
    let cx = engine.cx("verify", &action.id);
    let cancel = cx.cancel.clone();
    let work = tokio::spawn(async move { pgplan_engine::perform::perform(&action.op, &cx).await });
    let copying = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'COPY%' AND state = 'active'";
    while right.psql("postgres", copying) == "0" {}
    cancel.cancel();
    let started = std::time::Instant::now();
    let error = work.await.expect("no panic").expect_err("it was told to stop");
    assert_eq!(error.kind, ErrorKind::Interrupted);
    assert!(started.elapsed().as_secs() < 5);
    assert_eq!((left.psql("postgres", copying), right.psql("postgres", copying)), ("0".to_owned(), "0".to_owned()));
}
