//! Fences on real servers beside and after each other, and what others do meanwhile.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use crate::{
    cluster::Cluster,
    env::TestEnv,
    live_claims::{plan, until},
    live_fence::{access, as_role, load, said},
    live_plans::output,
};

/// Who may connect to `app` and `postgres` of those who always may when nothing is fenced.
fn may_connect(server: &Cluster) -> String {
    server.psql(
        "postgres",
        "SELECT has_database_privilege('writer', 'app', 'CONNECT'), has_database_privilege('writer', 'postgres', 'CONNECT')",
    )
}

#[test]
fn two_fences_on_one_server_are_two() {
    let server = Cluster::start("16");
    load(&server);
    let before = access(&server);
    let env = TestEnv::new();
    let steps = "  - id: one\n    fence: { database: db, databases: [app], grace: 0s, window: 1s }\n  - id: two\n    fence: { database: db, databases: [postgres], grace: 0s, window: 1s }\n  - id: half\n    unfence: { fence: one }\n  - id: last\n    command: { run: [test, -e, mended] }\n";
    env.write("p.yaml", &plan("p", &server.url("app"), steps));
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    // The first is open again, the second is not.
    assert_eq!(may_connect(&server), "t|f");
    env.write("mended", "");
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    assert_eq!(may_connect(&server), "t|f");
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(access(&server), before);
}

#[test]
fn what_is_written_between_two_fences_is_nothing_to_the_second() {
    let server = Cluster::start("16");
    load(&server);
    let before = access(&server);
    let env = TestEnv::new();
    let write = format!(
        "[{}, -Xqc, INSERT INTO log VALUES ('between'), -d, \"{}\"]",
        server.bin("psql").display(),
        server.url("app")
    );
    let steps = format!(
        "  - id: one\n    fence: {{ database: db, grace: 0s, window: 1s }}\n  - unfence: {{ fence: one }}\n  - id: write\n    command: {{ run: {write} }}\n  - id: two\n    fence: {{ database: db, grace: 0s, window: 1s }}\n"
    );
    env.write("p.yaml", &plan("p", &server.url("app"), &steps));
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    assert_eq!(server.psql("app", "SELECT who FROM log"), "between");
    assert_eq!(may_connect(&server), "f|f");
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(access(&server), before);
}

/// What others do to fenced databases: a new right, a new limit, a new default, and a right less.
const MEANWHILE: &str = r#"SET ROLE owner; GRANT CONNECT ON DATABASE app TO late; RESET ROLE;
REVOKE CONNECT ON DATABASE app FROM monitoring;
ALTER DATABASE app CONNECTION LIMIT 5;
ALTER DATABASE "ap'p ""x\; --" SET default_transaction_read_only = 'off';
ALTER ROLE member IN DATABASE app SET default_transaction_read_only = 'no';"#;

/// What `MEANWHILE` changes, as it is: who may connect, the limits, the defaults.
fn changed(server: &Cluster) -> String {
    server.psql(
        "postgres",
        r#"SELECT string_agg(coalesce(rolname, 'PUBLIC'), ' ' ORDER BY rolname) FROM pg_database, aclexplode(datacl)
             LEFT JOIN pg_roles r ON r.oid = grantee WHERE datname = 'app' AND privilege_type = 'CONNECT';
           SELECT string_agg(datconnlimit::text, ' ' ORDER BY datname) FROM pg_database WHERE NOT datistemplate;
           SELECT string_agg(c, ' ' ORDER BY setrole, datname) FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase,
             unnest(setconfig) c WHERE c LIKE 'default\_%'"#,
    )
}

const OTHERS: [&str; 5] = [
    "others gave the right of late to connect to app (grantor owner)",
    "others took away the right of monitoring to connect to app (grantor owner)",
    "others set the connection limit of app to 5 (it was -1)",
    "others set `default_transaction_read_only` of ap'p \"x\\; -- to off",
    "others set `default_transaction_read_only` of member in app to no",
];

const STOPPED: &str = "  - fence: { database: db, databases: [app, \"ap'p \\\"x\\\\; --\"], grace: 0s, window: 1s, allow: { roles: [monitoring] } }\n  - id: last\n    command: { run: [test, -e, mended] }\n";

const KEPT: &str = "late owner PUBLIC\n77 5 -1\ndefault_transaction_read_only=off default_transaction_read_only=no";

#[test]
fn what_others_change_behind_a_fence_stays_and_is_told() {
    let server = Cluster::start("15");
    load(&server);
    server.psql("postgres", "GRANT CONNECT ON DATABASE app TO monitoring");
    let env = TestEnv::new();
    env.write("p.yaml", &plan("p", &server.url("app"), STOPPED));
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    server.psql("postgres", MEANWHILE);
    let undone = env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    for line in OTHERS {
        said(&undone, &format!("{line}, which stays"));
    }
    assert_eq!(changed(&server), KEPT);
}

#[test]
fn a_fence_that_closes_again_keeps_what_others_changed_for_later() {
    let server = Cluster::start("15");
    load(&server);
    server.psql("postgres", "GRANT CONNECT ON DATABASE app TO monitoring");
    let env = TestEnv::new();
    env.write("p.yaml", &plan("p", &server.url("app"), STOPPED));
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    server.psql("postgres", MEANWHILE);
    let again = env.pgplan(&["apply", "p.yaml"]).expect(1);
    for line in OTHERS {
        said(&again, &format!("{line} while it was fenced: it is closed again"));
    }
    let may = "SELECT has_database_privilege('late', 'app', 'CONNECT')";
    assert_eq!(server.psql("postgres", may), "f");
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(changed(&server), KEPT);
}

#[test]
fn whom_one_who_stays_has_let_in_stays_out() {
    let server = Cluster::start("15");
    load(&server);
    let before = access(&server);
    let env = TestEnv::new();
    // In the other database writer holds CONNECT WITH GRANT OPTION, and has let in monitoring and owner.
    let fence = "  - fence: { database: db, grace: 0s, window: 1s, allow: { roles: [writer] } }\n";
    env.write("p.yaml", &plan("p", &server.url("app"), fence));
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    let may = "SELECT string_agg(rolname, ' ' ORDER BY rolname) FROM pg_database d, aclexplode(datacl) a \
               JOIN pg_roles r ON r.oid = grantee WHERE datname LIKE 'ap''p%' AND privilege_type = 'CONNECT'";
    assert_eq!(server.psql("postgres", may), "writer");
    let undone = env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert!(!undone.stderr.contains("others"), "{}", undone.stderr);
    assert_eq!(access(&server), before);
}

#[test]
fn a_replication_session_that_writes_is_ended() {
    let server = Cluster::start("16");
    load(&server);
    server.psql("postgres", "CREATE ROLE mover LOGIN REPLICATION");
    let url = format!("{}?replication=database", as_role(&server.url("app"), "mover"));
    let mut psql = Command::new(server.bin("psql"));
    psql.args(["-Xq", "-d", &url]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut mover = psql.spawn().expect("psql starts");
    let mut asked = mover.stdin.take().expect("it is piped");
    writeln!(asked, "BEGIN; INSERT INTO log VALUES ('mover');").expect("psql listens");
    let writing = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'walsender' AND backend_xid IS NOT NULL";
    until("it writes", || server.psql("postgres", writing) == "1");
    let env = TestEnv::new();
    let text = plan("p", &server.url("app"), "  - fence: { database: db, grace: 2s, window: 1s }\n");
    env.write("p.yaml", &text);
    let done = env.pgplan(&["apply", "p.yaml", "--json"]).expect(0);
    assert_eq!(output(&done, "fence", "ended"), 1);
    assert_eq!(server.psql("postgres", writing), "0");
    drop(asked);
    mover.wait().expect("it has ended");
}

#[test]
fn a_dropped_table_does_not_hide_what_was_changed() {
    let server = Cluster::start("16");
    load(&server);
    let counted = || -> u64 {
        // A session counts what it has changed when it ends, which is after psql has.
        let others = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'app'";
        until("all have counted", || server.psql("postgres", others) == "0");
        let sum = "SELECT sum(n_tup_ins + n_tup_upd + n_tup_del) FROM pg_stat_all_tables s JOIN pg_class c ON c.oid = relid \
                   WHERE NOT relisshared AND s.relname NOT LIKE 'pg\\_statistic%'";
        server.psql("app", sum).parse().expect("it is a number")
    };
    server.psql("app", "CREATE TABLE probe (n int); CREATE TABLE victim (n int)");
    let begun = counted();
    server.psql("app", "DROP TABLE probe");
    let rows = counted() - begun;
    assert!(rows > 5, "the catalogs lost {rows} rows");
    server.psql("app", &format!("INSERT INTO victim SELECT generate_series(1, {rows})"));
    let env = TestEnv::new();
    let last =
        "  - fence: { database: db, grace: 0s, window: 1s }\n  - id: last\n    command: { run: [test, -e, mended] }\n";
    env.write("p.yaml", &plan("p", &server.url("app"), last));
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    let fenced = counted();
    server.psql("app", "SET default_transaction_read_only = off; DROP TABLE victim");
    assert_eq!(counted(), fenced, "the sum stands still");
    let failed = env.pgplan(&["apply", "p.yaml"]).expect(6);
    said(&failed, "app: rows were changed, and the counters of tables that were dropped are gone");
}
