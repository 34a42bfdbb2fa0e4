//! Every `sslmode` against servers with real certificates: right, wrong, expired, old, none.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use pgplan_engine::error::{ErrorKind, StepError};
use pgplan_engine::postgres::connect::connect;
use pgplan_engine::postgres::{ConnInfo, Environment, Session};
use tempfile::TempDir;

use crate::certificates::{Authority, Pair};
use crate::cluster::{Cluster, Settings};

/// A server with TLS, and the files of its client.
struct Secured {
    cluster: Cluster,
    client: TempDir,
}

impl Secured {
    fn start(version: &str, pair: &Pair, authority: &Authority) -> Self {
        let mut settings = Settings::new(version);
        settings.conf.push("listen_addresses = 'localhost'".into());
        let secured = Self { cluster: Cluster::with(settings), client: tempfile::tempdir().expect("a folder") };
        fs::write(secured.root(), &authority.pair.cert).expect("the root file");
        secured.write("root.crt", &authority.pair.cert);
        secured.hba("hostssl all all all trust\nlocal all all trust\n");
        secured.cluster.psql("postgres", "ALTER SYSTEM SET ssl_ca_file = 'root.crt'");
        secured.present("first", pair);
        secured
    }

    fn root(&self) -> PathBuf {
        self.client.path().join("ca.crt")
    }

    fn write(&self, name: &str, text: &str) {
        let data = self.cluster.data();
        let owner = fs::metadata(&data).expect("the data directory");
        let path = data.join(name);
        fs::write(&path, text).expect("a file of the server");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
        chown(&path, Some(owner.uid()), Some(owner.gid())).expect("its owner");
    }

    fn hba(&self, lines: &str) {
        self.write("pg_hba.conf", lines);
        self.cluster.psql("postgres", "SELECT pg_reload_conf()");
    }

    /// Lets the server present another certificate from now on.
    fn present(&self, name: &str, pair: &Pair) {
        self.write(&format!("{name}.crt"), &pair.cert);
        self.write(&format!("{name}.key"), &pair.key);
        for (setting, end) in [("ssl_cert_file", "crt"), ("ssl_key_file", "key")] {
            self.cluster.psql("postgres", &format!("ALTER SYSTEM SET {setting} = '{name}.{end}'"));
        }
        self.cluster.psql("postgres", "ALTER SYSTEM SET ssl = on");
        self.cluster.psql("postgres", "SELECT pg_reload_conf()");
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.cluster.psql("postgres", "SHOW ssl_cert_file; SHOW ssl") != format!("{name}.crt\non") {
            assert!(Instant::now() < deadline, "the server does not take the certificate:\n{}", self.cluster.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    async fn open(&self, host: &str, more: &str) -> Result<Session, StepError> {
        open(&format!("host={host} port={} user=postgres dbname=postgres {more}", self.cluster.port)).await
    }
}

async fn open(text: &str) -> Result<Session, StepError> {
    let env = Environment { os_user: Some("nobody".into()), ..Environment::default() };
    connect(&ConnInfo::parse(text, &env).expect("the description is well formed"), "pgplan test").await
}

fn with_root(mode: &str, root: &Path) -> String {
    format!("sslmode={mode} sslrootcert={}", root.display())
}

/// Returns whether the session is encrypted, as the server sees it too.
async fn encrypted(session: Result<Session, StepError>) -> Result<bool, String> {
    let session = session.map_err(|error| format!("{error}; {:?}", error.details))?;
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let row = session.client().query_one(sql, &[]).await.expect("the server tells");
    assert_eq!(row.get::<_, bool>(0), session.is_encrypted());
    let encrypted = session.is_encrypted();
    session.cancel().await.expect("the cancel request takes the same way");
    session.close().await;
    Ok(encrypted)
}

#[tokio::test]
async fn modes_follow_libpq() {
    let authority = Authority::new("test authority", &[]);
    let server = Secured::start("15", &authority.sign("db", &["localhost", "127.0.0.1"]), &authority);
    let root = server.root();
    // pg_hba.conf has only hostssl lines: what is plain is refused.
    for (mode, expected) in [
        ("disable", Err("no encryption")),
        ("allow", Ok(true)),
        ("prefer", Ok(true)),
        ("require", Ok(true)),
        ("verify-ca", Ok(true)),
        ("verify-full", Ok(true)),
    ] {
        let found = encrypted(server.open("localhost", &with_root(mode, &root)).await).await;
        match expected {
            Ok(expected) => assert_eq!(found, Ok(expected), "{mode}"),
            Err(part) => assert!(found.as_ref().is_err_and(|text| text.contains(part)), "{mode}: {found:?}"),
        }
    }
    assert_eq!(encrypted(server.open("127.0.0.1", &with_root("verify-full", &root)).await).await, Ok(true));
    assert_eq!(
        encrypted(server.open("localhost", "ssl_max_protocol_version=TLSv1.2 sslmode=require").await).await,
        Ok(true)
    );
    let by_name = format!("hostaddr=127.0.0.1 {}", with_root("verify-full", &root));
    assert_eq!(encrypted(server.open("localhost", &by_name).await).await, Ok(true));
    let socket = server.cluster.socket().display().to_string();
    assert_eq!(encrypted(server.open(&socket, "sslmode=verify-full").await).await, Ok(false));

    let error = server.open("localhost", "sslmode=verify-ca").await.expect_err("nobody is trusted");
    assert!(error.message.contains("needs root certificates"), "{error}");

    let error = server.open("localhost", "sslmode=disable").await.expect_err("plain is refused");
    assert_eq!((error.kind, error.sqlstate.as_deref()), (ErrorKind::Authentication, Some("28000")));
    assert!(error.advice().contains("host \"postgres\" \"postgres\" 127.0.0.1/32"), "{}", error.advice());

    server.hba("hostnossl all all all trust\nlocal all all trust\n");
    for (mode, expected) in
        [("disable", Some(false)), ("allow", Some(false)), ("prefer", Some(false)), ("require", None)]
    {
        let found = encrypted(server.open("localhost", &format!("sslmode={mode}")).await).await;
        assert_eq!(found.as_ref().ok().copied(), expected, "{mode}: {found:?}");
    }
}

#[tokio::test]
async fn bad_certificates_are_told_apart() {
    let authority = Authority::new("test authority", &[]);
    let server = Secured::start("18", &authority.sign("other", &["db.example.org"]), &authority);
    let root = server.root();
    let error = server.open("localhost", &with_root("verify-full", &root)).await.expect_err("another host's");
    assert!(error.message.ends_with("the server's certificate is not for the host localhost"), "{error}");
    assert!(error.advice().contains("sslmode=verify-ca"));
    assert_eq!(encrypted(server.open("localhost", &with_root("verify-ca", &root)).await).await, Ok(true));
    let right = format!("hostaddr=127.0.0.1 sslnegotiation=direct {}", with_root("verify-full", &root));
    assert_eq!(encrypted(server.open("db.example.org", &right).await).await, Ok(true));

    server.present("expired", &authority.sign_expired("localhost", &["localhost"]));
    for mode in ["verify-full", "verify-ca", "require"] {
        let error = server.open("localhost", &with_root(mode, &root)).await.expect_err("expired");
        assert!(error.message.contains("has expired"), "{mode}: {error}");
    }
    assert_eq!(encrypted(server.open("localhost", "sslmode=require").await).await, Ok(true), "nothing to verify with");

    let (revoked, list) = authority.sign_revoked("localhost", &["localhost"]);
    server.present("revoked", &revoked);
    assert_eq!(encrypted(server.open("localhost", &with_root("verify-full", &root)).await).await, Ok(true), "no list");
    let crl = server.client.path().join("list.crl");
    fs::write(&crl, list).expect("the revocation list");
    let more = format!("{} sslcrl={}", with_root("verify-full", &root), crl.display());
    let error = server.open("localhost", &more).await.expect_err("revoked");
    assert!(error.message.contains("has been revoked"), "{error} {:?}", error.details);

    let error = server.open("localhost", "sslrootcert=system").await.expect_err("the system does not know it");
    assert_eq!(error.kind, ErrorKind::Authentication, "{error}");
    server.present("stranger", &Authority::new("stranger", &[]).sign("localhost", &["localhost"]));
    for mode in ["verify-full", "verify-ca", "require"] {
        let error = server.open("localhost", &with_root(mode, &root)).await.expect_err("signed by a stranger");
        assert!(error.message.contains("has signed the server's certificate"), "{mode}: {error}");
        assert_eq!(error.kind, ErrorKind::Authentication);
    }
    // As libpq: `prefer` falls back to plain, which pg_hba.conf refuses here.
    let error = server.open("localhost", &with_root("prefer", &root)).await.expect_err("neither way");
    assert!(error.message.contains("has signed the server's certificate"), "{error}");
    server.cluster.psql("postgres", "ALTER SYSTEM SET ssl = off");
    server.cluster.psql("postgres", "SELECT pg_reload_conf()");
    let error = server.open("localhost", "sslmode=require").await.expect_err("no TLS");
    assert!(error.message.ends_with("the server has no TLS"), "{error}");
}

#[tokio::test]
async fn certificates_of_the_manuals_recipes_work() {
    let authority = Authority::new("test authority", &[]);
    let server = Secured::start("15", &authority.sign("localhost", &[]), &authority);
    let root = server.root();
    let full = with_root("verify-full", &root);
    assert_eq!(encrypted(server.open("localhost", &full).await).await, Ok(true), "by its common name");
    let other = server.open("127.0.0.1", &full).await.expect_err("the common name is another");
    assert!(other.message.contains("not for the host 127.0.0.1"), "{other}");

    server.present("old", &authority.sign_version_one("localhost"));
    for more in [full.clone(), format!("{full} ssl_max_protocol_version=TLSv1.2"), "sslmode=require".into()] {
        assert_eq!(encrypted(server.open("localhost", &more).await).await, Ok(true), "version 1, {more}");
    }
    server.present("forged", &Authority::new("test authority", &[]).sign_version_one("localhost"));
    let error = server.open("localhost", &full).await.expect_err("the same name, another key");
    assert!(error.message.contains("has signed the server's certificate"), "{error}");

    let itself = Authority::new("localhost", &["localhost"]);
    server.present("itself", &itself.pair);
    server.open("localhost", &full).await.expect_err("not trusted yet");
    fs::write(&root, &itself.pair.cert).expect("the root file");
    assert_eq!(encrypted(server.open("localhost", &full).await).await, Ok(true), "a trusted self-signed one");
    server.open("127.0.0.1", &full).await.expect_err("but only for its name");
}

#[tokio::test]
async fn client_certificates_log_in() {
    let authority = Authority::new("test authority", &[]);
    let server = Secured::start("15", &authority.sign("localhost", &["localhost"]), &authority);
    server.hba("hostssl all all all cert\nlocal all all trust\n");
    let client = authority.sign("postgres", &[]);
    let (cert, key) = (server.client.path().join("me.crt"), server.client.path().join("me.key"));
    fs::write(&cert, &client.cert).expect("the client's certificate");
    fs::write(&key, &client.key).expect("the client's key");
    let more = format!("sslmode=require sslcert={} sslkey={}", cert.display(), key.display());
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("its mode");
    let error = server.open("localhost", &more).await.expect_err("the key is open to all");
    assert!(error.advice().starts_with("chmod 600"), "{error}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("its mode");
    assert_eq!(encrypted(server.open("localhost", &more).await).await, Ok(true));

    let error = server.open("localhost", "sslmode=require").await.expect_err("no certificate");
    assert_eq!(error.kind, ErrorKind::Authentication, "{error} {:?}", error.details);
    let stranger = Authority::new("stranger", &[]).sign("postgres", &[]);
    fs::write(&cert, &stranger.cert).expect("the client's certificate");
    fs::write(&key, &stranger.key).expect("the client's key");
    let error = server.open("localhost", &more).await.expect_err("a stranger's certificate");
    assert!(error.advice().contains("trusts the client certificate"), "{error} {:?}", error.details);
    fs::write(&key, &client.key).expect("the client's key");
    let error = server.open("localhost", &more).await.expect_err("another key");
    assert!(error.advice().contains("belongs to it"), "{error} {:?}", error.details);
}
