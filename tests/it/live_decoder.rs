//! The decoder of restore errors, asked with what real servers say.

use std::collections::{BTreeMap, BTreeSet};

use pgplan_engine::{
    explain::{ALL, DUMPING, decode},
    postgres::{ConnInfo, Environment, Session, connect::connect},
};

use crate::cluster::{Cluster, Settings};
use crate::env::TestEnv;

/// Known errors that no server of the tests can be brought to, and why.
const UNTESTED: [(&str, &str); 4] = [
    ("disk_full", "needs a full disk under a server"),
    ("out_of_memory", "needs a machine without memory"),
    ("missing_locale", "which locales a machine has differs"),
    ("missing_library_symbol", "needs a library of another age"),
];

/// What makes each error: its code, as which role, what goes before, the statement that fails.
const CASES: &[(&str, &str, &str, &str)] = &[
    ("missing_extension", "postgres", "", "CREATE EXTENSION no_such_extension"),
    ("extension_needs_superuser", "poor", "", "CREATE EXTENSION postgres_fdw"),
    ("missing_library", "postgres", "", "CREATE FUNCTION c() RETURNS int LANGUAGE c AS '$libdir/no_such_library', 'c'"),
    (
        "empty_search_path",
        "postgres",
        "CREATE TABLE public.t (a int); CREATE FUNCTION public.f(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS \
         'BEGIN RETURN (SELECT count(*) FROM t); END'; INSERT INTO public.t VALUES (1); SET search_path = ''",
        "CREATE INDEX ON public.t (public.f(a))",
    ),
    ("missing_role", "postgres", "", "ALTER TABLE t OWNER TO nobody"),
    ("missing_role", "postgres", "", "GRANT SELECT ON t TO nobody"),
    ("missing_tablespace", "postgres", "", "CREATE TABLE s (a int) TABLESPACE elsewhere"),
    ("missing_tablespace_folder", "postgres", "", "CREATE TABLESPACE elsewhere LOCATION '/no/such/folder'"),
    ("missing_language", "postgres", "", "CREATE FUNCTION l() RETURNS int LANGUAGE plruby AS ''"),
    ("missing_collation", "postgres", "", "CREATE TABLE s (a text COLLATE pg_catalog.\"xx_YY\")"),
    ("missing_setting", "postgres", "", "ALTER ROLE postgres SET operator_precedence_warning = on"),
    ("missing_option", "postgres", "", "ALTER TABLE t ALTER COLUMN a SET (pg_attver = 1)"),
    ("invalid_setting", "postgres", "", "ALTER ROLE postgres SET password_encryption = 'on'"),
    ("missing_type", "postgres", "", "CREATE TABLE s (a abstime)"),
    (
        "changed_function",
        "postgres",
        "",
        "CREATE AGGREGATE collect(anyelement) (SFUNC = array_append, STYPE = anyarray, INITCOND = '{}')",
    ),
    ("changed_function", "postgres", "", "CREATE VIEW v AS SELECT !! a FROM t"),
    ("postfix_operator", "postgres", "", "CREATE OPERATOR !!! (LEFTARG = int, FUNCTION = int4um)"),
    ("broken_tsvector", "postgres", "", "SELECT $$'' 'x'$$::tsvector"),
    ("backslash_line", "postgres", "", "\\restrict abc"),
    ("foreign_key_types", "postgres", "CREATE TABLE key (a text PRIMARY KEY)", "CREATE TABLE s (a int REFERENCES key)"),
    ("already_there", "postgres", "", "CREATE TABLE t (a int)"),
    ("already_there", "postgres", "", "CREATE ROLE postgres"),
    ("already_there", "postgres", "", "CREATE DATABASE postgres"),
    (
        "duplicate_key",
        "postgres",
        "CREATE TABLE two AS SELECT 1 AS a UNION ALL SELECT 1",
        "CREATE UNIQUE INDEX ON two (a)",
    ),
    (
        "broken_foreign_key",
        "postgres",
        "CREATE TABLE child AS SELECT 'x' AS a",
        "ALTER TABLE child ADD CONSTRAINT f FOREIGN KEY (a) REFERENCES key",
    ),
    ("wrong_partition", "postgres", "CREATE TABLE p (a int) PARTITION BY LIST (a)", "INSERT INTO p VALUES (1)"),
    ("broken_check", "postgres", "CREATE TABLE c (a int CHECK (a > 1))", "INSERT INTO c VALUES (1)"),
    ("broken_check", "postgres", "CREATE TABLE n (a int NOT NULL)", "INSERT INTO n VALUES (NULL)"),
    ("missing_relation", "postgres", "", "CREATE VIEW v AS SELECT checkpoints_timed FROM pg_stat_bgwriter"),
    ("missing_relation", "postgres", "", "ALTER TABLE ONLY public.nothing ADD PRIMARY KEY (a)"),
    ("not_the_owner", "poor", "", "COMMENT ON EXTENSION plpgsql IS 'x'"),
    ("cannot_become", "poor", "CREATE SCHEMA own", "ALTER SCHEMA own OWNER TO postgres"),
    ("cannot_grant", "postgres", "CREATE ROLE a; CREATE ROLE b; CREATE ROLE g", "GRANT a TO b GRANTED BY g"),
    ("superuser_only", "poor", "", "CREATE ROLE boss SUPERUSER"),
    ("no_right", "poor", "", "CREATE TABLE public.mine (a int)"),
    (
        "out_of_locks",
        "postgres",
        "",
        "DO $$ BEGIN FOR n IN 1..20000 LOOP EXECUTE format('CREATE TABLE l%s (a int)', n); END LOOP; END $$",
    ),
    ("timeout", "postgres", "SET statement_timeout = 20", "SELECT pg_sleep(10)"),
    ("read_only", "postgres", "SET default_transaction_read_only = on", "CREATE TABLE r (a int)"),
    ("invalid_bytes", "postgres", "SET client_encoding = 'SQL_ASCII'", "SELECT E'\\xff'"),
    ("invalid_bytes", "postgres", "SET client_encoding = 'LATIN1'", "SELECT U&'\\4E00'"),
];

async fn open(cluster: &Cluster, role: &str) -> Session {
    let url = cluster.url("postgres").replacen("postgres@", &format!("{role}@"), 1);
    let info = ConnInfo::parse(&url, &Environment::from_vars(BTreeMap::new())).expect("the URL is one");
    connect(&info, "decoder").await.expect("the server answers")
}

#[tokio::test]
async fn what_servers_say_is_decoded() {
    let conf = ["max_locks_per_transaction = 10", "max_connections = 10"].map(str::to_owned);
    let cluster = Cluster::with(Settings { conf: conf.into(), ..Settings::new("18") });
    cluster.psql("postgres", "CREATE ROLE poor LOGIN CREATEROLE; GRANT CREATE ON DATABASE postgres TO poor");
    let mut wrong = Vec::new();
    for (code, role, before, sql) in CASES {
        let session = open(&cluster, role).await;
        if !before.is_empty() {
            session.client().batch_execute(before).await.unwrap_or_else(|error| panic!("{code}: {before}: {error:?}"));
        }
        let error = session.client().batch_execute(sql).await.expect_err(sql);
        let db = error.as_db_error().unwrap_or_else(|| panic!("{code}: {error:?}"));
        let decoded = decode(db.code().code(), db.message(), db.where_().unwrap_or_default());
        if decoded.as_ref().map(|decoded| decoded.code) != Some(*code) {
            let said = format!("{} {} / {:?}", db.code().code(), db.message(), db.where_());
            wrong.push(format!("{code}: {:?} for {said}", decoded.map(|decoded| decoded.code)));
        }
        session.close().await;
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let mut full = Vec::new();
    let error = loop {
        let url = cluster.url("postgres").replacen("postgres@", "poor@", 1);
        let info = ConnInfo::parse(&url, &Environment::from_vars(BTreeMap::new())).expect("the URL is one");
        match connect(&info, "decoder").await {
            Ok(session) => full.push(session),
            Err(error) => break error,
        }
    };
    let state = error.sqlstate.as_deref().unwrap_or_default();
    assert_eq!(decode(state, &error.message, "").map(|decoded| decoded.code), Some("too_many_sessions"), "{error:?}");
}

#[test]
fn every_known_error_has_a_case_or_says_why_not() {
    let cases = CASES.iter().map(|(code, ..)| *code).chain(UNTESTED.map(|(code, _)| code)).chain(["too_many_sessions"]);
    let cases: BTreeSet<&str> = cases.collect();
    assert_eq!(cases, ALL.iter().map(|known| known.code).collect());
}

/// Errors of dumps that no server of the tests can be brought to, and why.
const UNTESTED_OF_DUMPS: [(&str, &str); 4] = [
    ("dump_timeout", "pg_dump turns the timeouts of roles and databases off"),
    ("dump_of_standby", "needs a standby"),
    ("dump_too_many_sessions", "pgplan's own look comes before and is refused"),
    ("dump_by_older_client", "pgplan takes no client that is older than the source"),
];

/// What makes each error of a dump: its code, as which role, the database and what is in it.
const DUMPS: &[(&str, &str, &str, &str)] = &[
    (
        "dump_row_security",
        "reader",
        "TEMPLATE template0",
        "CREATE TABLE t AS SELECT 1 AS a; ALTER TABLE t ENABLE ROW LEVEL SECURITY; GRANT SELECT ON t TO reader",
    ),
    ("dump_no_right", "reader", "TEMPLATE template0", "CREATE TABLE t AS SELECT 1 AS a"),
    (
        "dump_damaged_data",
        "postgres",
        "TEMPLATE template0",
        "CREATE TABLE t (a text); ALTER TABLE t ALTER a SET STORAGE EXTERNAL; INSERT INTO t VALUES (repeat('x', 100000));
         SET allow_system_table_mods = on;
         UPDATE pg_class SET relkind = 'r' WHERE relname LIKE 'pg\\_toast\\_1____' AND relkind = 't';
         DO $$ BEGIN EXECUTE 'DELETE FROM ' || (SELECT reltoastrelid::regclass FROM pg_class WHERE relname = 't'); END $$;
         UPDATE pg_class SET relkind = 't' WHERE relname LIKE 'pg\\_toast\\_1____' AND relkind = 'r'",
    ),
    (
        "dump_invalid_bytes",
        "postgres",
        "TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'",
        r"CREATE TABLE t (a text); INSERT INTO t VALUES (E'\xff')",
    ),
    (
        "dump_out_of_locks",
        "postgres",
        "TEMPLATE template0",
        "DO $$ BEGIN FOR i IN 1..4000 LOOP EXECUTE format('CREATE TABLE t_%s (a int)', i);
           IF i % 50 = 0 THEN COMMIT; END IF; END LOOP; END $$",
    ),
];

#[test]
fn what_a_dump_says_is_decoded() {
    let env = TestEnv::new();
    let conf = ["max_locks_per_transaction = 10", "max_connections = 10"].map(str::to_owned);
    let cluster = Cluster::with(Settings { conf: conf.into(), ..Settings::new("18") });
    cluster.psql("postgres", "CREATE ROLE reader LOGIN");
    let mut seen: BTreeSet<&str> = UNTESTED_OF_DUMPS.map(|(code, _)| code).into();
    for (code, role, how, content) in DUMPS {
        cluster.psql("postgres", &format!("CREATE DATABASE {code} {how}"));
        cluster.psql(code, content);
        let url = cluster.url(code).replacen("postgres@", &format!("{role}@"), 1);
        env.write(
            "plan.yaml",
            &format!(
                "version: 1\nname: {code}\ndatabases: {{ db: {{ url: \"{url}\" }} }}\n\
                 steps: [{{ dump: {{ from: db, scope: database }} }}]\n"
            ),
        );
        let told = env.pgplan(&["apply", "plan.yaml"]).expect(1).stderr;
        assert!(told.contains(&format!("(`pgplan explain {code}`)")), "{code}: {told}");
        assert!(env.pgplan(&["explain", code]).expect(0).stdout.contains("an error of a dump"));
        seen.insert(code);
    }
    assert_eq!(seen, DUMPING.iter().map(|known| known.code).collect());
}

#[test]
fn explain_tells_about_every_sort_of_code() {
    let env = TestEnv::new();
    let list = env.pgplan(&["explain"]).expect(0).stdout;
    for code in ["parent_not_null", "missing_role", "same_side"] {
        assert!(list.contains(&format!("\n  {code}\n")), "{code} is not in\n{list}");
        let told = env.pgplan(&["explain", code]).expect(0).stdout;
        assert!(told.starts_with(code), "{told}");
    }
    let hazard = env.pgplan(&["explain", "parent_not_null"]).expect(0).stdout;
    assert!(hazard.contains("from before 18 to 18 or later") && hazard.contains("https://"), "{hazard}");
    let error = env.pgplan(&["explain", "missing_role"]).expect(0).stdout;
    assert!(error.contains("CREATE ROLE …") && !error.contains('$'), "{error}");
    let problem = env.pgplan(&["explain", "same_side"]).expect(0).stdout;
    assert!(problem.contains("pgplan check") || problem.contains("same_side"), "{problem}");
    env.pgplan(&["explain", "nonsense"]).expect(2);
}
