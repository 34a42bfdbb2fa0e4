//! Restores that go wrong: what stops them, what they tell, and how they go on.

use super::*;

/// A database whose restore meets one error in the middle: a role that the target does not have.
fn with_missing_role() -> Cluster {
    let source = Cluster::start("15");
    source.psql(
        "postgres",
        "CREATE ROLE gone; CREATE TABLE a AS SELECT n FROM generate_series(1, 500) n; CREATE TABLE b (n int); \
         ALTER TABLE b OWNER TO gone; INSERT INTO b SELECT generate_series(1, 700); CREATE TABLE c (n int PRIMARY KEY); \
         INSERT INTO c VALUES (1); CREATE VIEW v AS SELECT * FROM a; ALTER VIEW v OWNER TO gone",
    );
    source
}

#[tokio::test]
async fn an_unexpected_error_stops_with_its_place_and_the_restore_goes_on_there() {
    let (source, target) = (with_missing_role(), Cluster::start("18"));
    let mut bench = Bench::new([("source", source.url("postgres")), ("target", target.url("postgres"))]);
    let dump = bench.dump(json!({"from": "source", "compress": "none"})).await.expect("the dump is made");
    let error = bench.restore("dump", json!({"into": "target"})).await.expect_err("the role is missing");
    assert_eq!((error.kind, error.sqlstate.as_deref()), (ErrorKind::UnexpectedError, Some("42704")));
    let text = fs::read_to_string(dump.file(bench.run_dir())).expect("the dump is text");
    let line = 1 + text.lines().position(|line| line == "ALTER TABLE public.b OWNER TO gone;").expect("it is there");
    assert_eq!(error.message, format!("role \"gone\" does not exist (line {line} of the dump, table public.b)"));
    for detail in ["SQLSTATE 42704", "archive entry: TABLE public b", "statement: ALTER TABLE public.b OWNER TO gone;"]
    {
        assert!(error.details.iter().any(|line| line == detail), "{detail}: {error:#?}");
    }
    assert!(error.advice().contains("expected_errors"), "{error:#?}");
    assert_eq!(target.psql("postgres", "SELECT to_regclass('a'), to_regclass('b'), to_regclass('c')"), "a|b|");
    target.psql("postgres", "CREATE ROLE gone");
    let done = bench.restore("dump", json!({"into": "target"})).await.unwrap_or_else(|error| panic!("{error:#?}"));
    assert_eq!(done.rows, Some(1201));
    same(&source, &target, &["postgres"]);
}

#[tokio::test]
async fn collected_errors_fail_at_the_end_and_are_tried_again() {
    let (source, target) = (with_missing_role(), Cluster::start("18"));
    target.psql("postgres", "CREATE TABLE c (other text)");
    let mut bench = Bench::new([("source", source.url("postgres")), ("target", target.url("postgres"))]);
    bench.dump(json!({"from": "source"})).await.expect("the dump is made");
    let body = json!({"into": "target", "on_error": "collect"});
    let error = bench.restore("dump", body.clone()).await.expect_err("the role is missing");
    assert_eq!(
        (error.kind, error.message.as_str()),
        (ErrorKind::UnexpectedError, "5 statements failed unexpectedly"),
        "{error:#?}"
    );
    assert!(
        error.details.iter().any(|line| line.starts_with("42P07: relation \"c\" already exists (line ")),
        "{error:#?}"
    );
    // The rows of a refused COPY never became SQL.
    assert_eq!(
        target.psql("postgres", "SELECT (SELECT count(*) FROM a), (SELECT count(*) FROM b), (SELECT count(*) FROM c)"),
        "500|700|0"
    );
    target.psql("postgres", "CREATE ROLE gone; DROP TABLE c");
    let done = bench.restore("dump", body).await.unwrap_or_else(|error| panic!("{error:#?}"));
    assert_eq!(done.rows, Some(1201));
    same(&source, &target, &["postgres"]);
}

#[tokio::test]
async fn a_bad_row_is_told_by_its_line() {
    let (source, target) = (Cluster::start("15"), Cluster::start("18"));
    source.psql("postgres", "CREATE TABLE t (n int CHECK (n < 1000)); INSERT INTO t SELECT generate_series(1, 900); CREATE TABLE z AS SELECT 1 AS x");
    let mut bench = Bench::new([("source", source.url("postgres")), ("target", target.url("postgres"))]);
    let mut dump = bench.dump(json!({"from": "source", "compress": "none"})).await.expect("the dump is made");
    let path = dump.file(bench.run_dir());
    let text = fs::read_to_string(&path).expect("the dump is text").replace("\n77\n78\n", "\n77\nDROP TABLE z;\n");
    fs::write(&path, &text).expect("the dump can be changed");
    let error = bench.restore("dump", json!({"into": "target"})).await.expect_err("the dump was changed");
    assert_eq!(error.kind, ErrorKind::Verification, "{error:#?}");
    (dump.bytes, dump.sha256) = pgplan_engine::artifact::digest(&path).expect("the dump can be read");
    bench.set_artifact("dump", &dump);
    let error = bench.restore("dump", json!({"into": "target"})).await.expect_err("the row is bad");
    let line = 1 + text.lines().position(|line| line == "DROP TABLE z;").expect("it is there");
    assert_eq!(error.sqlstate.as_deref(), Some("22P02"));
    assert!(error.details.contains(&format!("row at line {line} of the dump")), "{error:#?}");
}

#[tokio::test]
async fn a_cut_dump_is_refused() {
    let (source, target) = (Cluster::start("15"), Cluster::start("18"));
    source.psql("postgres", "CREATE TABLE t AS SELECT generate_series(1, 900) n");
    let mut bench = Bench::new([("source", source.url("postgres")), ("target", target.url("postgres"))]);
    let mut dump = bench.dump(json!({"from": "source", "compress": "none"})).await.expect("the dump is made");
    let path = dump.file(bench.run_dir());
    let text = fs::read_to_string(&path).expect("the dump is text");
    for cut in [text.len() / 2, text.find("-- PostgreSQL database dump complete").expect("it is complete")] {
        fs::write(&path, &text[..cut]).expect("the dump can be cut");
        let error = bench.restore("dump", json!({"into": "target"})).await.expect_err("the dump is cut");
        assert_eq!(error.kind, ErrorKind::Verification, "{error:#?}");
        (dump.bytes, dump.sha256) = pgplan_engine::artifact::digest(&path).expect("the dump can be read");
        bench.set_artifact("cut", &dump);
        let error = bench.step::<kinds::filter::Filter>("filter", Some("cut"), json!({"no_owner": true})).await;
        assert_eq!(error.expect_err("the dump is cut").kind, ErrorKind::Verification);
    }
    assert_eq!(target.psql("postgres", "SELECT to_regclass('t')"), "");
}

#[tokio::test]
async fn a_killed_target_loses_nothing() {
    let source = Cluster::start("15");
    source.psql(
        "postgres",
        "CREATE TABLE first AS SELECT n FROM generate_series(1, 1000) n; \
         CREATE TABLE second AS SELECT n, repeat('x', 500) AS x FROM generate_series(1, 200000) n; \
         CREATE TABLE third AS SELECT n FROM generate_series(1, 1000) n; CREATE SEQUENCE s; SELECT setval('s', 77); \
         SELECT lo_from_bytea(0, convert_to(repeat('large ' || n, 30000), 'UTF8')) FROM generate_series(1, 3) n",
    );
    let mut settings = Settings::new("18");
    settings.fsync = true;
    let mut target = Cluster::with(settings);
    let mut bench = Bench::new([("source", source.url("postgres")), ("target", target.url("postgres"))]);
    bench.dump(json!({"from": "source"})).await.expect("the dump is made");
    let mut kills = 0;
    for after in [250, 400, 600, 900, 1400] {
        let ended = {
            let mut restoring = std::pin::pin!(bench.restore("dump", json!({"into": "target"})));
            let early = tokio::select! {
                done = &mut restoring => Some(done),
                () = tokio::time::sleep(Duration::from_millis(after)) => None,
            };
            target.kill9();
            match early {
                Some(done) => done,
                None => restoring.await,
            }
        };
        target.restart();
        bench.urls.insert("target".into(), target.url("postgres"));
        if let Err(error) = ended {
            assert_eq!(error.kind, ErrorKind::Connection, "{error:#?}");
            kills += 1;
        }
    }
    assert!(kills > 0, "the target was never killed in time");
    bench.restore("dump", json!({"into": "target"})).await.unwrap_or_else(|error| panic!("{error:#?}"));
    same(&source, &target, &["postgres"]);
}

#[tokio::test]
async fn a_stopped_restore_goes_on() {
    let (source, target) = (Cluster::start("15"), Cluster::start("18"));
    source.psql("postgres", "CREATE TABLE a AS SELECT n FROM generate_series(1, 1000) n; CREATE TABLE b AS SELECT n, repeat('x', 900) AS x FROM generate_series(1, 300000) n");
    let mut bench = Bench::new([("source", source.url("postgres")), ("target", target.url("postgres"))]);
    bench.dump(json!({"from": "source"})).await.expect("the dump is made");
    let cancel = bench.cancel.clone();
    let stopper = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(600)).await;
        cancel.cancel();
    });
    let stopped = bench.restore("dump", json!({"into": "target"})).await;
    stopper.await.expect("the stopper ends");
    assert_eq!(stopped.expect_err("it was stopped").kind, ErrorKind::Interrupted);
    bench.cancel = CancellationToken::new();
    bench.restore("dump", json!({"into": "target"})).await.unwrap_or_else(|error| panic!("{error:#?}"));
    same(&source, &target, &["postgres"]);
}

#[tokio::test]
async fn a_full_disk_leaves_no_dump_behind() {
    let source = Cluster::start("15");
    source.psql("postgres", "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 400000) n");
    if !nix::unistd::geteuid().is_root() {
        return; // Only root may mount a small file system.
    }
    for format in ["plain", "custom", "directory"] {
        let mut bench = Bench::new([("source", source.url("postgres"))]);
        let small = bench.run_dir().join("dump");
        fs::create_dir(&small).expect("a folder can be made");
        let mount = |args: &[&str]| std::process::Command::new(args[0]).args(&args[1..]).arg(&small).status();
        if !mount(&["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs"]).is_ok_and(|status| status.success()) {
            return; // A container may forbid it.
        }
        let result = bench.dump(json!({"from": "source", "format": format})).await;
        let left: Vec<_> =
            fs::read_dir(&small).expect("the folder is there").flatten().map(|entry| entry.path()).collect();
        assert!(mount(&["umount"]).is_ok_and(|status| status.success()));
        let error = result.expect_err("2 MB are too few");
        assert_eq!(error.kind, ErrorKind::Resources, "{format}: {error:#?}");
        assert!(error.advice().contains("free space"), "{error:#?}");
        assert!(left.is_empty(), "{format}: {left:?}");
    }
}

#[tokio::test]
async fn rules_that_match_nothing_are_noticed() {
    let source = Cluster::start("15");
    let row = "INSERT INTO t VALUES ('ALTER ROLE aptible PASSWORD')";
    source.psql("postgres", &format!("CREATE ROLE app; CREATE TABLE t (x text); ALTER TABLE t OWNER TO app; {row}"));
    let mut bench = Bench::new([("source", source.url("postgres"))]);
    bench.dump(json!({"from": "source", "format": "custom"})).await.expect("the dump is made");
    let mut body = json!({"reserved_roles": ["app", "nobody"], "drop": [{"pattern": "^ALTER ROLE aptible"}]});
    let error =
        bench.step::<kinds::filter::Filter>("filter", Some("dump"), body.clone()).await.expect_err("no such statement");
    assert!(error.message.contains("drop pattern `^ALTER ROLE aptible`"), "{error:#?}");
    body["unmatched"] = json!("warn");
    let done = bench.step::<kinds::filter::Filter>("filter", Some("dump"), body).await.expect("only warned");
    assert_eq!(done[0].warnings.len(), 2, "{done:?}");
    assert_eq!(bench.output("filter", "removals"), json!({"role \"app\" is reserved": 1}));
}

#[tokio::test]
async fn memory_stays_small_whatever_the_size() {
    let (source, target) = (Cluster::start("15"), Cluster::start("18"));
    source.psql(
        "postgres",
        "CREATE TABLE t AS SELECT n, repeat(md5(n::text), 30) AS x FROM generate_series(1, 310000) n",
    );
    let mut bench = Bench::new([("source", source.url("postgres")), ("target", target.url("postgres"))]);
    let dump = bench.dump(json!({"from": "source"})).await.expect("the dump is made");
    assert!(dump.text_bytes > Some(280 << 20), "{dump:?}");
    bench
        .step::<kinds::filter::Filter>("filter", Some("dump"), json!({"no_owner": true}))
        .await
        .expect("the filter runs");
    let done = bench.restore("filter", json!({"into": "target"})).await.unwrap_or_else(|error| panic!("{error:#?}"));
    assert_eq!(done.rows, Some(310_000));
    let status = fs::read_to_string("/proc/self/status").expect("Linux tells");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the peak is told");
    let kib: u64 = peak.trim().trim_end_matches(" kB").parse().expect("it is a number");
    assert!(kib < 100 << 10, "the peak was {kib} KiB");
    let mut last = None;
    while let Ok(report) = bench.reports.as_mut().expect("reports come").try_recv() {
        last = Some(report);
    }
    let all = dump.text_bytes.expect("a plain dump has text");
    assert_eq!(last, Some(Report::Amount { bytes: all, rows: 310_000, total: Some(all) }));
}

#[tokio::test]
async fn a_database_that_was_there_before_is_never_taken_for_our_own() {
    let (source, target) = (Cluster::start("15"), Cluster::start("18"));
    source.psql("postgres", "CREATE DATABASE shop");
    source.psql("shop", "CREATE TABLE t AS SELECT 1 AS n; CREATE SCHEMA pgplan; CREATE TABLE pgplan.receipt (old int)");
    target.psql("postgres", "CREATE DATABASE shop");
    let mut bench = Bench::new([("source", source.url("postgres")), ("target", target.url("postgres"))]);
    bench.dump(json!({"from": "source", "scope": "cluster"})).await.expect("the dump is made");
    let body = json!({"into": "target", "expected_errors": ["role \"postgres\" already exists"]});
    for _ in 0..2 {
        let error = bench.restore("dump", body.clone()).await.expect_err("the database is there");
        assert_eq!((error.kind, error.sqlstate.as_deref()), (ErrorKind::UnexpectedError, Some("42P04")), "{error:#?}");
    }
    target.psql("postgres", "DROP DATABASE shop");
    bench.restore("dump", body).await.unwrap_or_else(|error| panic!("{error:#?}"));
    assert_eq!(target.psql("shop", "SELECT n FROM t"), "1");
    no_receipts(&target, &["shop"]);
}

#[tokio::test]
async fn a_newer_clients_settings_are_left_out_of_an_older_target() {
    let (source, target) = (Cluster::start("15.18"), Cluster::start("16"));
    source.psql(
        "postgres",
        "CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0; \
         ALTER DATABASE latin SET default_transaction_read_only = on",
    );
    source
        .psql("latin", "SET default_transaction_read_only = off; CREATE TABLE \"größe\" AS SELECT 'straße' AS \"maß\"");
    let mut bench = Bench::new([("source", source.url("postgres")), ("target", target.url("postgres"))]);
    bench.versions = vec!["18"];
    bench.dump(json!({"from": "source", "scope": "cluster"})).await.expect("the dump is made");
    let body = json!({"into": "target", "expected_errors": ["role \"postgres\" already exists"]});
    let done = bench.restore("dump", body).await.unwrap_or_else(|error| panic!("{error:#?}"));
    assert!(done.warnings.iter().any(|line| line.contains("transaction_timeout: left out of")), "{:?}", done.warnings);
    assert!(done.warnings.iter().any(|line| line.contains("default_transaction_read_only")), "{:?}", done.warnings);
    assert_eq!(target.psql("latin", "SELECT \"maß\" FROM \"größe\""), "straße");
}
