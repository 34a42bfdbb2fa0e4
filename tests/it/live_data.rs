//! Surveys, SQL with receipts, databases and vacuum against real servers.

use pgplan_engine::error::ErrorKind;
use pgplan_engine::facts::Depth;
use pgplan_engine::kinds::create_database::CreateDatabase;
use pgplan_engine::kinds::sql::Sql;
use pgplan_engine::kinds::vacuum::Vacuum;
use pgplan_engine::kinds::verify::Verify;
use pgplan_engine::postgres::connect::connect;
use pgplan_engine::{perform, receipt, survey};
use serde_json::json;

use crate::cluster::Cluster;
use crate::engine::Engine;
use crate::env::TestEnv;

/// Everything that a change of any kind would leave a trace in: every writing transaction has an id of its own.
///
/// The position in the WAL is not among it: with checksums, looking at a page may write its hint bits there.
fn state(server: &Cluster) -> String {
    server.psql(
        "postgres",
        "SELECT txid_snapshot_xmax(txid_current_snapshot()), (SELECT string_agg(datname, ',') FROM pg_database), \
         (SELECT count(*) FROM pg_class)",
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_survey_and_a_dry_run_change_nothing() {
    for version in ["13", "15", "18"] {
        let server = Cluster::start(version);
        let hostile = "CREATE TABLE \"a\"\"b'; DROP TABLE t; --\nc\" (x integer); CREATE TABLE t (x integer) WITH (fillfactor = 50);
             INSERT INTO t SELECT generate_series(1, 1000); ALTER TABLE t ALTER x SET (n_distinct = 5); ANALYZE t;
             CREATE TABLE p (k integer) PARTITION BY LIST (k); CREATE TABLE p1 PARTITION OF p DEFAULT;
             CREATE ROLE nobody_special LOGIN; CREATE DATABASE closed ALLOW_CONNECTIONS false";
        for statement in hostile.split_inclusive(";\n").flat_map(|part| part.split("; C")) {
            // One by one, since CREATE DATABASE takes no company.
            let statement = if statement.starts_with("REATE") { format!("C{statement}") } else { statement.to_owned() };
            server.psql("postgres", &statement);
        }
        server.psql("postgres", "CHECKPOINT");
        let engine = Engine::new([("db", &server, "postgres"), ("gone", &server, "no such database")]);
        let before = state(&server);
        let facts = survey::server(&engine.conninfo("db"), Depth::AllTables).await.expect("the server answers");
        assert_eq!(before, state(&server), "the survey of {version} left a trace");
        assert_eq!(facts.major().to_string(), version);
        assert!(facts.superuser && facts.dbname_exists && facts.system_identifier.is_some());
        assert_eq!(facts.settings["max_locks_per_transaction"], "64");
        assert_eq!(
            (facts.settings["transaction_read_only"].as_str(), facts.settings["in_recovery"].as_str()),
            ("off", "off")
        );
        let closed = facts.database("closed").expect("it is listed");
        assert!(!closed.allows_connections && closed.tables.is_none());
        let tables = facts.database("postgres").and_then(|db| db.tables.as_ref()).expect("tables were wanted");
        let names: Vec<&str> = tables.iter().map(|table| table.name.as_str()).collect();
        assert_eq!(names, ["a\"b'; DROP TABLE t; --\nc", "p", "p1", "t"]);
        let t = &tables[3];
        assert!(t.rows == Some(1000) && t.bytes > 30_000, "{t:?}");
        let ours: Vec<&str> = t.options.iter().map(String::as_str).filter(|name| *name != "pg_attver").collect();
        assert_eq!(ours, ["fillfactor", "n_distinct"]);
        assert!(tables[2].is_partition && tables[1].relkind == 'p');

        let absent =
            survey::server(&engine.conninfo("gone"), Depth::AllTables).await.expect("another database answers");
        assert!(!absent.dbname_exists && absent.database("postgres").is_some_and(|db| db.tables.is_some()));

        let mut poor = engine.conninfo("db");
        poor.user = "nobody_special".to_owned();
        let poor = survey::server(&poor, Depth::AllTables).await.expect("a poor role may look too");
        assert!(!poor.superuser && poor.databases.len() == facts.databases.len());

        engine.actions::<Verify>(json!({ "left": "db", "right": "gone" })).await.expect("it lists");
        engine.actions::<Vacuum>(json!({ "database": "db" })).await.expect("it lists");
        engine.actions::<CreateDatabase>(json!({ "on": "gone" })).await.expect("it lists");
        assert_eq!(before, state(&server), "the dry run on {version} left a trace");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_happens_exactly_once() {
    let server = Cluster::start("15");
    server.psql("postgres", "CREATE TABLE t (x integer)");
    let engine = Engine::new([("db", &server, "postgres")]);
    let body = json!({ "database": "db", "run": "INSERT INTO t VALUES (1), (2); SELECT count(*) AS n FROM t",
                       "expect": { "rows": 1, "value": 2 } });
    let first = engine.step::<Sql>(body.clone()).await.expect("it runs");
    assert!(!first.already_done);
    let again = engine.step::<Sql>(body).await.expect("it is done");
    assert!(again.already_done);
    assert_eq!(serde_json::to_value(&first.outputs).ok(), serde_json::to_value(&again.outputs).ok());
    assert_eq!(serde_json::to_value(&first.outputs["value"]).ok(), Some(json!({ "plain": "2" })));
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM t"), "2");

    let other = json!({ "database": "db", "run": "INSERT INTO t VALUES (3)" });
    let error = engine.step::<Sql>(other).await.expect_err("another text under the same name");
    assert_eq!(error.kind, ErrorKind::Refused);

    let session = connect(&engine.conninfo("db"), "test").await.expect("it connects");
    receipt::drop_receipts(&session, "another run").await.expect("it drops nothing");
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM pgplan.receipt"), "1");
    receipt::drop_receipts(&session, "run1").await.expect("it drops");
    receipt::drop_receipts(&session, "run1").await.expect("nothing is left to drop");
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan'"), "0");
}

/// Users have event triggers that log each change of the schema, or forbid it.
#[tokio::test(flavor = "multi_thread")]
async fn event_triggers_do_not_see_the_receipts() {
    for version in ["13", "15", "18"] {
        let server = Cluster::start(version);
        server.psql(
            "postgres",
            "CREATE TABLE seen (tag text); CREATE FUNCTION see() RETURNS event_trigger LANGUAGE plpgsql AS
               'BEGIN INSERT INTO public.seen VALUES (tg_tag); IF tg_tag LIKE ''DROP%'' THEN RAISE ''forbidden''; END IF; END';
             CREATE EVENT TRIGGER see ON ddl_command_end EXECUTE FUNCTION see(); CREATE TABLE t (x integer)",
        );
        let engine = Engine::new([("db", &server, "postgres")]);
        engine.step::<Sql>(json!({ "database": "db", "run": "INSERT INTO t VALUES (1)" })).await.expect("it runs");
        let session = connect(&engine.conninfo("db"), "test").await.expect("it connects");
        receipt::drop_receipts(&session, "run1").await.expect("it drops");
        crate::live_restore::no_receipts(&server, &["postgres"]);
        assert_eq!(server.psql("postgres", "SELECT string_agg(tag, ',') FROM seen"), "CREATE TABLE", "on {version}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sql_that_fails_leaves_nothing() {
    let server = Cluster::start("15");
    server.psql("postgres", "CREATE TABLE t (x integer PRIMARY KEY); CREATE ROLE r; GRANT INSERT ON t TO r");
    let engine = Engine::new([("db", &server, "postgres")]);
    let count = || server.psql("postgres", "SELECT count(*) FROM t");
    let run = |run: &str| engine.step::<Sql>(json!({ "database": "db", "run": run, "expect": { "rows": 1 } }));

    let error = run("INSERT INTO t VALUES (1); INSERT INTO t VALUES (1)").await.expect_err("a duplicate");
    assert_eq!(error.sqlstate.as_deref(), Some("23505"));
    assert!(error.details.iter().any(|line| line == "statement 2 of 2"), "{:?}", error.details);
    let error = run("INSERT INTO t VALUES (1), (2)").await.expect_err("two rows");
    assert_eq!((error.kind, count().as_str()), (ErrorKind::Verification, "0"));
    let error = run("INSERT INTO t VALUES (1); COMMIT").await.expect_err("not in a transaction");
    assert_eq!((error.kind, count().as_str()), (ErrorKind::Plan, "0"));
    let read_only = json!({ "database": "db", "run": "INSERT INTO t VALUES (1)", "read_only": true });
    let error = engine.step::<Sql>(read_only).await.expect_err("only reading");
    assert_eq!(error.sqlstate.as_deref(), Some("25006"));

    // A role that was set does not write the receipt.
    run("SET ROLE r; INSERT INTO t VALUES (1)").await.expect("it runs");
    assert_eq!(count(), "1");
    std::fs::write(engine.folder().join("x.sql"), "CREATE INDEX CONCURRENTLY i ON t (x);\nVACUUM t; -- done\n")
        .expect("the file can be written");
    let file = json!({ "database": "db", "file": "x.sql", "transaction": false });
    engine.step::<Sql>(file).await.expect("statement by statement");
    assert_eq!(server.psql("postgres", "SELECT count(*) FROM pg_class WHERE relname = 'i'"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_step_stops_its_statement() {
    let server = Cluster::start("15");
    let engine = Engine::new([("db", &server, "postgres")]);
    let body = json!({ "database": "db", "run": "SELECT pg_sleep(60)", "transaction": false });
    let action = engine.actions::<Sql>(body).await.expect("it lists").actions.remove(0);
    let cx = engine.cx("sql", "sql");
    let cancel = cx.cancel.clone();
    let work = tokio::spawn(async move { perform::perform(&action.op, &cx).await });
    let running =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgplan run1.0 sql' AND state = 'active'";
    while server.psql("postgres", running) == "0" {}
    cancel.cancel();
    let error = work.await.expect("no panic").expect_err("it was told to stop");
    assert_eq!(error.kind, ErrorKind::Interrupted);
    assert_eq!(server.psql("postgres", running), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_created_once_and_dropped_only_when_it_is_ours() {
    let server = Cluster::start("18");
    server.psql("postgres", "CREATE ROLE app LOGIN");
    let name = "new \"db\"; --";
    let engine = Engine::new([("db", &server, name)]);
    let body = json!({ "on": "db", "owner": "app", "encoding": "UTF8", "locale": "C", "comment": "it's new" });
    let action = engine.actions::<CreateDatabase>(body.clone()).await.expect("it lists").actions.remove(0);
    let undo = action.undo.clone().expect("it can be undone");
    let made = engine.perform("create_database", action.clone()).await.expect("it is created");
    assert!(!made.already_done);
    let again = engine.perform("create_database", action.clone()).await.expect("a cut run finds its own");
    assert!(again.already_done);
    let found = "SELECT datcollate, pg_get_userbyid(datdba), shobj_description(oid, 'pg_database') FROM pg_database \
                 WHERE datname LIKE 'new%'";
    assert_eq!(server.psql("postgres", found), "C|app|it's new");
    let error = engine.actions::<CreateDatabase>(body).await.expect_err("it is there");
    assert_eq!(error.kind, ErrorKind::Refused);
    let kept = engine.step::<CreateDatabase>(json!({ "on": "db", "if_exists": "keep" })).await.expect("it is kept");
    assert!(kept.already_done);

    let undoing = pgplan_engine::action::Action { op: *undo, ..action.clone() };
    let session = connect(&engine.conninfo("db"), "someone").await.expect("it connects");
    let error = engine.perform("create_database", undoing.clone()).await.expect_err("in use");
    assert_eq!(error.kind, ErrorKind::Refused);
    session.close().await;
    while server.psql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'someone'") != "0" {}
    engine.perform("create_database", undoing.clone()).await.expect("it is dropped");
    assert_eq!(server.psql("postgres", found), "");
    server.psql("postgres", "CREATE DATABASE \"new \"\"db\"\"; --\"");
    let error = engine.perform("create_database", undoing).await.expect_err("a stranger's");
    assert!(error.message.contains("was not created by this run"), "{error}");
    server.psql(name, "CREATE TABLE t ()");
    let error = engine.perform("create_database", action).await.expect_err("a stranger's, with tables");
    assert_eq!(error.kind, ErrorKind::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn vacuum_analyzes_everything_parents_too() {
    for version in ["13", "15", "18"] {
        let server = Cluster::start(version);
        server.psql("postgres", "CREATE DATABASE \"odd \"\"name\"");
        server.psql(
            "odd \"name",
            "CREATE TABLE \"t\"\";\n--\" AS SELECT generate_series(1, 500) AS x; \
             CREATE TABLE p (k integer) PARTITION BY RANGE (k); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9); \
             CREATE TABLE p2 PARTITION OF p DEFAULT PARTITION BY RANGE (k); CREATE TABLE p21 PARTITION OF p2 DEFAULT; \
             INSERT INTO p SELECT generate_series(1, 100); CREATE MATERIALIZED VIEW m AS SELECT count(*) FROM p;",
        );
        let engine = Engine::new([("db", &server, "postgres")]);
        let rows = |database| server.psql(database, "SELECT reltuples FROM pg_class WHERE relname LIKE 't\"%'");
        let analyzed = || {
            let sql = "SELECT string_agg(DISTINCT c.relname, ',' ORDER BY c.relname) FROM pg_statistic s \
                       JOIN pg_class c ON c.oid = s.starelid WHERE c.oid >= 16384 AND c.relname !~ '^t'";
            server.psql("odd \"name", sql)
        };
        for body in [json!({ "database": "db" }), json!({ "database": "db", "full": true, "freeze": true })] {
            let graph = engine.actions::<Vacuum>(body).await.expect("it lists");
            let ids: Vec<&str> = graph.actions.iter().map(|action| action.id.as_str()).collect();
            assert_eq!(ids, ["odd \"name", "postgres"]);
            for action in graph.actions {
                let output = engine.perform("vacuum", action).await.expect("it vacuums");
                assert_eq!(output.warnings, [""; 0]);
            }
            assert_eq!((analyzed().as_str(), rows("odd \"name").as_str()), ("m,p,p1,p2,p21", "500"), "{version}");
            server.psql("odd \"name", "DELETE FROM pg_statistic");
        }

        let by_table = json!({ "database": "db", "jobs": 2, "databases": ["odd \"name"] });
        let graph = engine.actions::<Vacuum>(by_table.clone()).await.expect("it lists");
        let mut ids: Vec<&str> = graph.actions.iter().map(|action| action.id.as_str()).collect();
        assert_eq!(graph.jobs, Some(2));
        assert_eq!(ids.pop(), Some("odd \"name/pg_catalog"));
        let parents = if version == "18" { &["p2", "p"][..] } else { &["p"] };
        let parents: Vec<String> = parents.iter().map(|name| format!("odd \"name/public.{name}")).collect();
        assert_eq!(ids.split_off(ids.len() - parents.len()), parents, "{version}");
        ids.sort_unstable();
        let alone = "odd \"name/public.t\";\\n-- and 1 more";
        match version {
            "18" => assert_eq!(ids, ["odd \"name/public.p1", "odd \"name/public.p21", alone]),
            _ => assert_eq!(ids, ["odd \"name/public.p1 and 1 more", alone]),
        }
        server.psql("odd \"name", "DROP MATERIALIZED VIEW m; CREATE ROLE app LOGIN; ALTER TABLE p1 OWNER TO app");
        for action in graph.actions {
            let one_has_gone = action.id == alone;
            let output = engine.perform("vacuum", action).await.expect("it vacuums");
            assert_eq!((output.warnings.len(), output.summary == "1 table"), (0, one_has_gone), "{output:?}");
        }
        assert_eq!((analyzed().as_str(), rows("odd \"name").as_str()), ("p,p1,p2,p21", "500"), "{version}");

        server.psql("odd \"name", "DELETE FROM pg_statistic");
        let mut poor = Engine::new([("db", &server, "postgres")]);
        poor.set_user("app");
        let graph = poor.actions::<Vacuum>(by_table).await.expect("it lists");
        assert_eq!(graph.warnings, ["4 tables of odd \"name are left out: app may not vacuum"]);
        assert_eq!(graph.actions[0].id, "odd \"name/public.p1");
        poor.perform("vacuum", graph.actions[0].clone()).await.expect("it vacuums its own");
        assert_eq!(analyzed(), "p1", "{version}: its parents belong to another role");
    }
}

#[test]
fn vacuum_lists_journals_and_does_all_tables() {
    let (env, server) = (TestEnv::new(), Cluster::start("18"));
    server.psql("postgres", "CREATE DATABASE shop");
    let tables = "SELECT format('CREATE TABLE t%s AS SELECT generate_series(1, %s)', n, n * n * 10) \
                  FROM generate_series(1, 60) n";
    server.psql("shop", &server.psql("shop", tables).replace('\n', ";"));
    let plan = r#"
version: 1
name: vacuum
databases: { target: "URL" }
steps:
  - vacuum: { database: target, jobs: 2, databases: [shop] }
  - { id: copy, needs: [vacuum], sql: { database: target, run: "CREATE DATABASE copy TEMPLATE shop", transaction: false } }
"#;
    env.write("plan.yaml", &plan.replace("URL", &server.url("postgres")));
    let dry = env.pgplan(&["plan", "plan.yaml"]).expect(0).stdout;
    let line = |text: &str| dry.lines().any(|line| line.contains(text));
    assert!(line("1. vacuum and analyze 50 tables, public.t"), "{dry}");
    assert!(line("2. vacuum and analyze 10 tables, public.t"), "{dry}");
    assert!(line("3. vacuum and analyze the server's own tables in shop on target"), "{dry}");
    // A session left open in `shop` would be in the way of its copy.
    env.pgplan(&["apply", "plan.yaml", "--yes"]).expect(0);
    let log = env.pgplan(&["log", "--json"]).expect(0).stdout;
    let ended = log.lines().filter(|line| line.contains("\"action\":\"shop/") && line.contains("action_finished"));
    assert_eq!(ended.count(), 3, "{log}");
    let analyzed = "SELECT count(*), count(last_analyze), count(last_vacuum) FROM pg_stat_user_tables";
    assert_eq!(server.psql("shop", analyzed), "60|60|60");
}
