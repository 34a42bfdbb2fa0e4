//! Where connections come from, what a session is like, and what is said when there is none.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pgplan_engine::error::{ErrorKind, StepError};
use pgplan_engine::postgres::connect::{connect, connect_read_only};
use pgplan_engine::postgres::conninfo::ClientEnv;
use pgplan_engine::postgres::pin::{Floats, pin_session};
use pgplan_engine::postgres::quote::{ident, literal};
use pgplan_engine::postgres::{ConnInfo, Environment, Session};
use pgplan_engine::secret::ExposeSecret as _;

use crate::cluster::{Cluster, Settings};
use crate::env::Outcome;

fn guarded(version: &str) -> Cluster {
    let mut settings = Settings::new(version);
    settings.password = Some("pa:s\\s w'rd".into());
    settings.conf.push("listen_addresses = '127.0.0.1,::1'".into());
    let cluster = Cluster::with(settings);
    let hba =
        "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\nhost postgres postgres ::1/128 scram-sha-256\n";
    fs::write(cluster.data().join("pg_hba.conf"), hba).expect("pg_hba.conf");
    cluster.psql("postgres", "SELECT pg_reload_conf()");
    cluster
}

fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

fn parse(text: &str) -> ConnInfo {
    let env = Environment { os_user: Some("nobody".into()), ..Environment::default() };
    ConnInfo::parse(text, &env).expect("the description is well formed")
}

async fn open(text: &str) -> Result<Session, StepError> {
    connect(&parse(text), "pgplan test").await
}

async fn value(session: &Session, sql: &str) -> String {
    session.client().query_one(sql, &[]).await.expect("the query runs").get(0)
}

/// A description, and what is to be said: kind, SQLSTATE, a part of the message, a part of the help.
type Case = (String, ErrorKind, Option<&'static str>, &'static str, &'static str);

fn login_refusals(at: &str, good: &str, socket: &str) -> Vec<Case> {
    use ErrorKind::{Authentication, Object, Permission, Resources};
    let wrong = "password authentication failed for user";
    vec![
        (format!("{good} password=wrong"), Authentication, Some("28P01"), wrong, "correct the password of postgres"),
        (format!("{at} user=stranger password=x"), Authentication, Some("28P01"), wrong, "the password of stranger"),
        (format!("{at} user=postgres"), Authentication, None, "asks for a password, and none is known", "PGPASSWORD"),
        (format!("{good} dbname=nowhere"), Object, Some("3D000"), "\"nowhere\" does not exist", "database nowhere"),
        (
            format!("{at} user=nologin password=x dbname=postgres"),
            Authentication,
            Some("28000"),
            "not permitted to log in",
            "ALTER ROLE \"nologin\" LOGIN",
        ),
        (
            format!("{at} user=plain password=x dbname=template1"),
            Permission,
            Some("42501"),
            "permission denied for database",
            "GRANT CONNECT ON DATABASE \"template1\" TO \"plain\"",
        ),
        (
            format!("{at} user=crowd password=x dbname=postgres"),
            Resources,
            Some("53300"),
            "too many connections for role \"crowd\"",
            "end idle sessions",
        ),
        (
            format!("{socket} user=missing"),
            Authentication,
            Some("28000"),
            "role \"missing\" does not exist",
            "create the role missing",
        ),
        (format!("{good} channel_binding=require"), Authentication, None, "channel binding", "channel_binding"),
    ]
}

fn network_refusals(good: &str, dead: u16, silent: u16) -> Vec<Case> {
    use ErrorKind::{Authentication, Connection, Timeout};
    vec![
        (format!("{good} sslmode=require"), Authentication, None, "the server has no TLS", "ssl = on"),
        (format!("host=127.0.0.1 port={dead}"), Connection, None, "the connection is refused", "listen_addresses"),
        (
            format!("host=/nowhere port={dead}"),
            Connection,
            None,
            "no such socket",
            "unix_socket_directories has /nowhere",
        ),
        (
            "host=no-such-host.invalid".into(),
            Connection,
            None,
            "host no-such-host.invalid is not known",
            "name service",
        ),
        (format!("host=127.0.0.1 port={silent} connect_timeout=1"), Timeout, None, "no answer within 1 s", "firewalls"),
        (format!("{good} target_session_attrs=standby"), Connection, None, "is not a standby", "target_session_attrs"),
    ]
}

#[tokio::test]
async fn refusals_name_server_reason_and_remedy() {
    let mut cluster = guarded("15");
    let at = format!("host=127.0.0.1 port={}", cluster.port);
    let good = format!("{at} user=postgres dbname=postgres password='pa:s\\\\s w\\'rd'");
    cluster.psql(
        "postgres",
        "CREATE ROLE nologin NOLOGIN PASSWORD 'x'; CREATE ROLE plain LOGIN PASSWORD 'x';
         CREATE ROLE crowd LOGIN PASSWORD 'x' CONNECTION LIMIT 0; REVOKE CONNECT ON DATABASE template1 FROM PUBLIC",
    );
    let quiet = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = quiet.local_addr().expect("its address").port();
    let dead = TcpListener::bind("127.0.0.1:0").and_then(|gone| gone.local_addr()).expect("a port").port();
    let socket = format!("host={} port={}", cluster.socket().display(), cluster.port);
    let mut cases = login_refusals(&at, &good, &socket);
    cases.extend(network_refusals(&good, dead, silent));
    for (text, kind, sqlstate, message, help) in cases {
        let error = open(&text).await.expect_err(&text);
        let shown = format!("{error}\n{:?}\nhelp: {}", error.details, error.advice());
        assert_eq!((error.kind, error.sqlstate.as_deref()), (kind, sqlstate), "{text}\n{shown}");
        assert!(error.message.starts_with("cannot connect to postgres://"), "{shown}");
        assert!(error.message.contains(message) && error.advice().contains(help), "{shown}");
        assert!(!shown.contains("w'rd"), "{shown}");
    }
    let several = format!("{good} host=127.0.0.1,127.0.0.1 port={},{dead} password=wrong", cluster.port);
    let error = open(&several).await.expect_err("a wrong password");
    assert_eq!(error.sqlstate.as_deref(), Some("28P01"), "a refusal ends the search: {error}");
    let several = format!("{good} host=127.0.0.1,127.0.0.1 port={silent},{dead} connect_timeout=1");
    let error = open(&several).await.expect_err("nobody there");
    assert!(
        error.message.contains("refused") && error.details.iter().any(|line| line.contains("no answer")),
        "{error}"
    );
    if has_ipv6() {
        let error = open(&format!("{good} host=::1 dbname=template1")).await.expect_err("no line for it");
        assert!(error.message.contains("[::1]:") && error.message.contains("no pg_hba.conf entry"), "{error}");
        let line = "host \"template1\" \"postgres\" ::1/128 scram-sha-256";
        assert!(error.advice().contains(line), "{}", error.advice());
    }
    cluster.stop();
    let error = open(&good).await.expect_err("it is stopped");
    assert!(error.message.contains("the connection is refused"), "{error}");
}

/// Listens on a port, and gives each client in turn one of these answers before it hangs up.
fn answering(answers: Vec<&'static [u8]>) -> (u16, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("its address").port();
    let serve = move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("a client");
            assert_ne!(stream.read(&mut [0; 512]).expect("it asks"), 0);
            stream.write_all(answer).expect("it listens");
        }
    };
    (port, std::thread::spawn(serve))
}

#[tokio::test]
async fn what_is_no_server_or_not_ready_is_told() {
    let busy = b"E\0\0\0\x30SFATAL\0C57P03\0Mthe database is starting up\0\0\0\0\0\0";
    let (port, server) = answering(vec![b"HTTP/1.1 400 Bad Request\r\n\r\n", b"", b"N", busy]);
    for (mode, part) in [("require", "TLS"), ("require", "closed"), ("require", "no TLS"), ("disable", "starting up")] {
        let text = format!("host=127.0.0.1 port={port} sslmode={mode} connect_timeout=5");
        let error = open(&text).await.expect_err("no server");
        assert!(error.message.starts_with("cannot connect to") && error.message.contains(part), "{error}");
        assert!(error.help.is_some());
    }
    server.join().expect("it ends");

    let cluster = guarded("15");
    let (port, server) = answering(vec![busy]);
    let text = cluster.url("postgres").replace("127.0.0.1", &format!("127.0.0.1:{port},127.0.0.1"));
    let session = open(&format!("{text}?sslmode=disable")).await.expect("the next server is ready");
    assert_eq!(value(&session, "SELECT current_setting('port')").await, cluster.port.to_string());
    server.join().expect("it ends");
}

#[tokio::test]
async fn every_way_in_works() {
    let cluster = guarded("18");
    let home = tempfile::tempdir().expect("a folder");
    let (pgpass, service) = (home.path().join(".pgpass"), home.path().join(".pg_service.conf"));
    fs::write(&pgpass, format!("127.0.0.1:{}:*:postgres:pa\\:s\\\\s w'rd\n", cluster.port)).expect("the password file");
    fs::set_permissions(&pgpass, fs::Permissions::from_mode(0o600)).expect("its mode");
    let text = format!("[mine]\nhost=127.0.0.1\nport={}\ndbname=postgres\nuser=postgres\n", cluster.port);
    fs::write(&service, text).expect("the service file");
    let with = |vars: &[(&str, &str)]| Environment {
        vars: vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>(),
        home: Some(home.path().to_owned()),
        os_user: Some("postgres".into()),
    };
    let port = cluster.port.to_string();
    let socket = cluster.socket().display().to_string();
    let mut ways = vec![
        (cluster.url("postgres"), with(&[])),
        (String::new(), with(&[("PGSERVICE", "mine")])),
        ("service=mine".to_owned(), with(&[])),
        ("dbname=template1".to_owned(), with(&[("PGHOST", "127.0.0.1"), ("PGPORT", &port)])),
        (format!("host={socket} port={port}"), with(&[])),
        (format!("postgres:///postgres?host={socket}&port={port}"), with(&[])),
        (format!("host=127.0.0.1,127.0.0.1 port=1,{port}"), with(&[])),
        (format!("host=db.example.org hostaddr=127.0.0.1 port={port} password='pa:s\\\\s w\\'rd'"), with(&[])),
        (format!("host=127.0.0.1 port={port} target_session_attrs=prefer-standby"), with(&[])),
        (format!("host=127.0.0.1 port={port} target_session_attrs=read-write options='-c work_mem=7MB'"), with(&[])),
    ];
    if has_ipv6() {
        ways.push((cluster.url("postgres").replace("127.0.0.1", "[::1]"), with(&[])));
    }
    for (text, env) in ways {
        let info = ConnInfo::parse(&text, &env).expect("the description is well formed");
        let session =
            connect(&info, "pgplan way").await.unwrap_or_else(|error| panic!("{text}: {error} {:?}", error.details));
        assert_eq!(session.server_version_num() / 10_000, 18);
        assert_eq!(value(&session, "SELECT pg_backend_pid()::text").await, session.backend_pid().to_string());
        assert_eq!(value(&session, "SHOW application_name").await, "pgplan way");
        session.close().await;
        by_client(&cluster, &info, home.path());
    }
}

/// Lets `psql` take the same way, with the password in a file.
fn by_client(cluster: &Cluster, info: &ConnInfo, folder: &Path) {
    let client: ClientEnv = info.to_client_env().expect("a password for a file");
    let mut psql = Command::new(cluster.bin("psql"));
    psql.args(["-XAtc", "SELECT 'in'"]).envs(client.vars).env_remove("HOME");
    if let Some(text) = client.passfile {
        let path = folder.join("client-pgpass");
        fs::write(&path, text.expose_secret()).expect("the client's password file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
        psql.env("PGPASSFILE", path);
    }
    let outcome = Outcome::of(&psql.output().expect("psql starts"));
    assert_eq!(outcome.expect(0).stdout, "in\n");
}

#[tokio::test]
async fn sessions_are_fit_for_a_migration() {
    for version in ["13", "18"] {
        let cluster = Cluster::start(version);
        cluster.psql(
            "postgres",
            "ALTER DATABASE postgres SET statement_timeout = '5s'; ALTER ROLE postgres SET lock_timeout = '1s'",
        );
        let session = open(&cluster.url("postgres")).await.expect("it connects");
        for name in ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"] {
            assert_eq!(value(&session, &format!("SHOW {name}")).await, "0", "{name}");
        }
        session
            .client()
            .batch_execute("DO $$BEGIN RAISE WARNING 'careful' USING HINT = 'really'; END$$")
            .await
            .expect("it runs");
        let notices = session.take_notices();
        assert_eq!(
            (notices.len(), notices[0].message.as_str(), notices[0].hint.as_deref()),
            (1, "careful", Some("really"))
        );
        assert!(session.take_notices().is_empty());

        let error = session.client().batch_execute("SELECT 1;\nSELECT 1 / 0").await.expect_err("a division by zero");
        let error = session.error("count", &error);
        assert_eq!(
            (error.message.as_str(), error.kind, error.sqlstate.as_deref()),
            ("division by zero", ErrorKind::Sql, Some("22012"))
        );
        assert!(error.details.contains(&"while trying to count".to_owned()), "{:?}", error.details);

        let canceller = session.canceller();
        let begun = Instant::now();
        let (slept, ()) = tokio::join!(session.client().batch_execute("SELECT pg_sleep(30)"), async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            canceller.cancel().await.expect("the server is asked");
        });
        let error = session.error("sleep", &slept.expect_err("it is cancelled"));
        assert_eq!((error.kind, begun.elapsed() < Duration::from_secs(10)), (ErrorKind::Interrupted, true));

        cluster.psql("postgres", &format!("SELECT pg_terminate_backend({})", session.backend_pid()));
        while !session.is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let error = session.client().batch_execute("SELECT 1").await.expect_err("the session has ended");
        let error = session.error("go on", &error);
        assert_eq!(error.kind, ErrorKind::Connection, "{error}");
        let told = format!("{error} {:?}", error.details);
        assert!(told.contains("terminating connection due to administrator command"), "{told}");

        let reader = connect_read_only(&parse(&cluster.url("postgres")), "pgplan look").await.expect("it connects");
        let refused = reader.client().batch_execute("CREATE TABLE t ()").await.expect_err("it may not write");
        assert_eq!(reader.error("write", &refused).sqlstate.as_deref(), Some("25006"));
        reader.close().await;
        let gone = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgplan%'";
        let deadline = Instant::now() + Duration::from_secs(5);
        while cluster.psql("postgres", gone) != "0" {
            assert!(Instant::now() < deadline, "a session is left behind");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(!cluster.log().contains("unexpected EOF"), "the server was told: {}", cluster.log());
    }
}

#[tokio::test]
async fn pinned_sessions_write_values_alike() {
    let sql = "SELECT ROW(1.1::float8, 'Infinity'::float4, 0.1::float4 + 0.2::float4, '1 mon 2 days'::interval, \
               '2020-02-03 04:05:06+07'::timestamptz, '\\xdead'::bytea, 12.5::numeric::money, \
               XMLPARSE(CONTENT 'a<b/>'), current_setting('search_path'))::text";
    let mut seen = Vec::new();
    for version in ["13", "15", "18"] {
        let cluster = Cluster::start(version);
        cluster.psql("postgres", "ALTER DATABASE postgres SET DateStyle = 'German'; ALTER DATABASE postgres SET TimeZone = 'Asia/Tokyo'; \
                                  ALTER DATABASE postgres SET bytea_output = 'escape'; ALTER DATABASE postgres SET IntervalStyle = 'iso_8601'");
        let session = open(&cluster.url("postgres")).await.expect("it connects");
        pin_session(&session, Floats::Exact).await.expect("the settings are known");
        seen.push(value(&session, sql).await);
    }
    assert!(seen.iter().all(|text| *text == seen[0]), "{seen:#?}");
    assert!(seen[0].contains("2020-02-02 21:05:06+00") && seen[0].contains("1 mon 2 days"), "{seen:?}");
}

#[tokio::test]
async fn hostile_names_and_values_survive_quoting() {
    let cluster = Cluster::start("15");
    let names = ["a\"b", "x\"; DROP TABLE kept; --", "new\nline", "it's $$ \\ '", "größe", "SELECT", " "];
    for conforming in ["on", "off"] {
        let session = open(&cluster.url("postgres")).await.expect("it connects");
        session
            .client()
            .batch_execute(&format!("SET standard_conforming_strings = {conforming}; SET escape_string_warning = off"))
            .await
            .expect("it sets");
        for name in names {
            let sql =
                format!("CREATE TEMP TABLE {0} ({0} text); INSERT INTO {0} VALUES ({1})", ident(name), literal(name));
            session.client().batch_execute(&sql).await.expect(name);
            assert_eq!(value(&session, &format!("SELECT {0} FROM {0}", ident(name))).await, name);
        }
    }
    let odd = "d'b \\ %/?#@:é";
    cluster.psql("postgres", &format!("CREATE DATABASE {}", ident(odd)));
    let info = parse(&cluster.url("postgres")).with_dbname(odd);
    for text in [info.to_url(), info.to_conninfo()] {
        let session = open(text.expose_secret()).await.expect("it connects");
        assert_eq!(value(&session, "SELECT current_database()::text").await, odd);
    }
}
