//! Dumps of real servers, filtered and restored into newer ones, with everything that can get in the way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use pgplan_engine::action::{Output, OutputValue, Outputs};
use pgplan_engine::artifact::DumpArtifact;
use pgplan_engine::error::{ErrorKind, StepError};
use pgplan_engine::facts::{Depth, Facts};
use pgplan_engine::kinds::{self, ExpandCx, Kind};
use pgplan_engine::perform::{Databases, PerformCx, Progress, Report, Reveal, perform};
use pgplan_engine::platforms::Platforms;
use pgplan_engine::postgres::{ConnInfo, Environment};
use pgplan_engine::secret::SecretString;
use pgplan_engine::survey;
use pgplan_engine::tool::{Clients, Places};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, Settings};
use crate::env::bin_folder;

/// The errors that the demo's restore must meet: the roles and the database that the target has already.
pub(crate) const DEMO_ERRORS: [&str; 3] =
    [r#"role "aptible" already exists"#, r#"role "postgres" already exists"#, r#"database "db" already exists"#];

/// A run's folder and the addresses of its plan.
struct Bench {
    folder: TempDir,
    urls: BTreeMap<String, String>,
    versions: Vec<&'static str>,
    outputs: BTreeMap<String, Outputs>,
    cancel: CancellationToken,
    reports: Option<tokio::sync::mpsc::UnboundedReceiver<Report>>,
}

struct Addresses(BTreeMap<String, String>);

impl Databases for Addresses {
    fn conninfo(&self, name: &str) -> Result<ConnInfo, StepError> {
        let env = Environment { os_user: Some("nobody".into()), ..Environment::default() };
        Ok(ConnInfo::parse(&self.0[name], &env).expect("the URL is well formed"))
    }
}

impl Reveal for Addresses {
    fn reveal(&self, name: &str) -> Result<SecretString, StepError> {
        Err(StepError::new(ErrorKind::Internal, name))
    }
}

impl Bench {
    fn new<const N: usize>(urls: [(&str, String); N]) -> Self {
        let urls = urls.into_iter().map(|(name, url)| (name.to_owned(), url)).collect();
        let folder = tempfile::Builder::new().prefix("pgplan-run-").tempdir().expect("a folder can be made");
        Self {
            folder,
            urls,
            versions: vec!["15", "15.18", "16", "18"],
            outputs: BTreeMap::new(),
            cancel: CancellationToken::new(),
            reports: None,
        }
    }

    fn run_dir(&self) -> &Path {
        self.folder.path()
    }

    async fn clients(&self) -> Clients {
        let folders: Vec<PathBuf> = self.versions.iter().map(|version| bin_folder(version)).collect();
        let pg_bin = Some(std::env::join_paths(folders).expect("the folders have no colon"));
        let mut clients = Clients::find(&Places { pg_bin, ..Places::default() }).await;
        // What the machine has besides is no part of a test.
        let wanted: Vec<PathBuf> = self.versions.iter().map(|version| bin_folder(version)).collect();
        clients.found.retain(|client| wanted.contains(&client.dir));
        clients
    }

    async fn cx(&mut self, step: &str, action: &str) -> PerformCx {
        let (progress, reports) = Progress::channel();
        self.reports = Some(reports);
        PerformCx {
            run_id: "run-1".into(),
            session: 0,
            generation: 0,
            step: step.into(),
            action: action.into(),
            run_dir: self.run_dir().to_path_buf(),
            plan_dir: self.run_dir().to_path_buf(),
            env: BTreeMap::new(),
            cancel: self.cancel.clone(),
            progress,
            secrets: Arc::new(Addresses(BTreeMap::new())),
            databases: Arc::new(Addresses(self.urls.clone())),
            redactor: Arc::default(),
            held: Arc::default(),
            idle: Arc::default(),
            clients: Arc::new(self.clients().await),
        }
    }

    /// Does a step as the run would, its actions one after the other; returns what each reported.
    async fn step<K: Kind>(&mut self, id: &str, takes: Option<&str>, body: Value) -> Result<Vec<Output>, StepError> {
        let kind: K = serde_json::from_value(body).expect("the step is well formed");
        let mut facts = Facts::default();
        let inputs: BTreeMap<String, String> =
            takes.map(|from| ("from".to_owned(), from.to_owned())).into_iter().collect();
        let outputs = self.outputs.clone();
        let run_dir = self.run_dir().to_path_buf();
        let clients = self.clients().await;
        let platforms = Platforms::built_in().expect("the platforms are well formed");
        let cx = ExpandCx {
            step: id,
            run_dir: &run_dir,
            plan_dir: &run_dir,
            inputs: &inputs,
            outputs: &outputs,
            dry_run: false,
            clients: &clients,
            platforms: &platforms,
        };
        for look in kind.looks(&cx)? {
            if let pgplan_engine::facts::Look::Server { database, depth } = look {
                let info = Addresses(self.urls.clone()).conninfo(&database)?;
                facts.servers.insert(database, survey::server(&info, depth.min(Depth::Tables)).await?);
            }
        }
        let graph = kind.actions(&facts, &cx)?;
        let (mut all, mut finished) = (Vec::new(), BTreeSet::new());
        let mut waiting: VecDeque<_> = graph.actions.into_iter().collect();
        let mut running = tokio::task::JoinSet::new();
        while !waiting.is_empty() || !running.is_empty() {
            while let Some(at) = waiting.iter().position(|action| action.after.iter().all(|id| finished.contains(id)))
                && running.len() < graph.jobs.unwrap_or(1)
            {
                let action = waiting.remove(at).expect("it was found");
                let cx = self.cx(id, &action.id).await;
                running.spawn(async move { (action.id.clone(), perform(&action.op, &cx).await) });
            }
            let (action, output) = running.join_next().await.expect("an action runs").expect("it does not panic");
            let output = output?;
            finished.insert(action);
            self.outputs.entry(id.to_owned()).or_default().extend(output.outputs.clone());
            all.push(output);
        }
        Ok(all)
    }

    async fn dump(&mut self, body: Value) -> Result<DumpArtifact, StepError> {
        self.step::<kinds::dump::Dump>("dump", None, body).await?;
        Ok(self.artifact("dump"))
    }

    async fn restore(&mut self, from: &str, body: Value) -> Result<Output, StepError> {
        let all = self.step::<kinds::restore::Restore>("restore", Some(from), body).await?;
        Ok(all.into_iter().last().expect("a restore has an action"))
    }

    fn artifact(&self, step: &str) -> DumpArtifact {
        DumpArtifact::from_output(&self.output(step, "dump")).expect("the output is a dump")
    }

    fn output(&self, step: &str, name: &str) -> Value {
        match &self.outputs[step][name] {
            OutputValue::Plain(value) => value.clone(),
            OutputValue::Secret(_) => panic!("{step}.{name} is a secret"),
        }
    }

    fn set_artifact(&mut self, step: &str, dump: &DumpArtifact) {
        let value = serde_json::to_value(dump).expect("a dump is JSON");
        self.outputs.entry(step.to_owned()).or_default().insert("dump".into(), OutputValue::Plain(value));
    }
}

fn aptible(version: &str) -> Cluster {
    aptible_with(version, "pa:s'w rd")
}

/// A server as Aptible makes it: two superusers and the database `db`.
pub(crate) fn aptible_with(version: &str, password: &str) -> Cluster {
    let mut settings = Settings::new(version);
    settings.superuser = "aptible".into();
    settings.password = Some(password.into());
    settings.conf.push("max_locks_per_transaction = 256".into());
    settings.conf.push("wal_level = logical".into());
    let cluster = Cluster::with(settings);
    cluster.psql("postgres", "CREATE ROLE postgres SUPERUSER LOGIN; CREATE DATABASE db");
    cluster
}

/// The demo's cluster on 15.20, smaller by a factor of ten.
fn demo() -> Cluster {
    let source = aptible("15");
    load_demo(&source);
    source
}

/// Loads the demo's data, smaller by a factor of ten.
pub(crate) fn load_demo(source: &Cluster) {
    // psql's \gset and \set are part of it.
    source.psql("db", demo_sql());
}

/// The SQL of the demo's data.
pub(crate) fn demo_sql() -> &'static str {
    static LOAD: LazyLock<String> = LazyLock::new(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/demo/load.sql");
        let text = fs::read_to_string(path).expect("the demo is there");
        ["60000", "120000", "40000"].iter().fold(text, |text, rows| {
            let tenth = format!("generate_series(1, {}) ", &rows[..rows.len() - 1]);
            text.replace(&format!("generate_series(1, {rows}) "), &tenth)
        })
    });
    &LOAD
}

/// Everything that tells one database from another, without what differs between versions.
pub(crate) fn image(cluster: &Cluster, database: &str) -> String {
    // A database may have settings of its own, which the dump of the database alone does not carry.
    let ask = |sql: &str| cluster.psql(database, &format!("SET search_path = ''; SET timezone = 'UTC'; {sql}"));
    let tables = ask(
        "SELECT format('%I.%I', nspname, relname) FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
         WHERE relkind IN ('r', 'm') AND relispopulated AND nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'pgplan') ORDER BY 1",
    );
    let mut image = String::new();
    for table in tables.lines() {
        let rows =
            ask(&format!("SELECT count(*), md5(string_agg(md5(t::text), '' ORDER BY md5(t::text))) FROM {table} t"));
        image.push_str(&format!("{table} {rows}\n"));
    }
    for sql in [
        "SELECT format('%I.%I', schemaname, sequencename), last_value FROM pg_sequences ORDER BY 1",
        "SELECT format('%I.%I', schemaname, indexname), indexdef FROM pg_indexes WHERE schemaname !~ '^pg_' AND schemaname <> 'pgplan' ORDER BY 1",
        "SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint WHERE contype <> 'n' AND connamespace::regnamespace::text NOT IN ('pg_catalog', 'information_schema', 'pgplan') ORDER BY 1, 2",
        "SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2",
        "SELECT n.nspname, relname, relowner::regrole, relacl FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace \
         WHERE nspname !~ '^pg_' AND nspname NOT IN ('information_schema', 'pgplan') AND relkind IN ('r', 'v', 'm', 'p', 'S') AND relacl IS NOT NULL ORDER BY 1, 2",
        "SELECT oid, lomowner::regrole, lomacl, md5(lo_get(oid)) FROM pg_largeobject_metadata ORDER BY 1",
        "SELECT evtname FROM pg_event_trigger ORDER BY 1",
        "SELECT pubname FROM pg_publication ORDER BY 1",
        "SELECT polrelid::regclass::text, polname FROM pg_policy ORDER BY 1, 2",
        "SELECT stxrelid::regclass::text, stxname FROM pg_statistic_ext ORDER BY 1, 2",
        "SELECT ev_class::regclass::text, rulename FROM pg_rewrite WHERE rulename <> '_RETURN' AND ev_class >= 16384 ORDER BY 1, 2",
        "SELECT objoid, description FROM pg_description WHERE classoid = 'pg_largeobject'::regclass ORDER BY 1",
    ] {
        // From 17 on MAINTAIN (m) is among the rights of an owner.
        image.push_str(&ask(sql).replace("Dxtm/", "Dxt/"));
        image.push('\n');
    }
    image
}

pub(crate) const DATABASES: [&str; 3] = ["db", "analytics", "We\"ird 'db"];

#[track_caller]
pub(crate) fn same(source: &Cluster, target: &Cluster, databases: &[&str]) {
    for database in databases {
        let (left, right) = (image(source, database), image(target, database));
        for (left, right) in left.lines().zip(right.lines()) {
            assert_eq!(left, right, "in {database}");
        }
        assert_eq!(left.lines().count(), right.lines().count(), "in {database}:\n{left}\n---\n{right}");
    }
}

#[track_caller]
pub(crate) fn no_receipts(target: &Cluster, databases: &[&str]) {
    for database in databases {
        assert_eq!(
            target.psql(database, "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan'"),
            "0",
            "{database}"
        );
    }
}

#[tokio::test]
async fn a_cluster_goes_from_15_20_to_18_with_the_expected_errors_and_no_other() {
    let (source, target) = (demo(), aptible("18"));
    let mut bench = Bench::new([("source", source.url("db")), ("target", target.url("db"))]);
    let dump = bench.dump(json!({"from": "source", "scope": "cluster"})).await.expect("the dump is made");
    assert_eq!((dump.client_version, dump.source_version_num), (150_020, 150_020));
    assert!(dump.zstd && dump.bytes < dump.text_bytes.expect("a plain dump has text"));
    let mode = fs::metadata(dump.file(bench.run_dir())).expect("the file is there");
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode.permissions()) & 0o777, 0o600);

    let body = json!({"drop_passwords_of": ["aptible"], "for": "target"});
    let filtered = bench.step::<kinds::filter::Filter>("filter", Some("dump"), body).await.expect("the filter runs");
    assert_eq!(filtered[0].warnings, [""; 0]);
    assert_eq!(bench.output("filter", "removals"), json!({"role \"aptible\" keeps the target's password": 1}));
    let list = fs::read_to_string(bench.run_dir().join("filter/removals.json")).expect("the list is written");
    assert!(list.contains("ALTER ROLE aptible") && !list.contains("SCRAM-SHA-256$4096"), "{list}");

    let mut expected: Vec<&str> = DEMO_ERRORS.to_vec();
    expected.push("role \"nobody\" already exists");
    let body = json!({"into": "target", "expected_errors": expected});
    let done = bench.restore("filter", body).await.unwrap_or_else(|error| panic!("{error:#?}"));
    let came = json!({DEMO_ERRORS[0]: 1, DEMO_ERRORS[1]: 1, DEMO_ERRORS[2]: 1});
    assert_eq!(bench.output("restore", "errors_expected"), came);
    assert_eq!(done.warnings.len(), 1, "{:?}", done.warnings);
    assert!(done.warnings[0].contains("nobody"), "{:?}", done.warnings);
    same(&source, &target, &DATABASES);
    let note = target.psql("db", "SELECT count(*) FROM note WHERE body LIKE '%ALTER ROLE aptible%PASSWORD%'");
    assert_eq!(note, "2");
    let memberships = "SELECT roleid::regrole::text, member::regrole::text, grantor::regrole::text, admin_option FROM pg_auth_members \
                       WHERE roleid >= 16384 ORDER BY 1, 2, 3";
    assert_eq!(source.psql("db", memberships), target.psql("db", memberships));
    no_receipts(&target, &["analytics", "We\"ird 'db", "postgres", "template1"]);
    // The password of the target still holds: the next connection uses it.
    let mut again =
        bench.restore("filter", json!({"into": "target", "expected_errors": expected})).await.expect("it is done");
    assert!(again.already_done);
    again.warnings.clear();
}

#[tokio::test]
async fn no_client_and_no_format_loses_a_table() {
    let (source, target) = (demo(), aptible("18"));
    target.psql("db", "CREATE ROLE placeholder");
    let roles = source.psql(
        "db",
        "SELECT format('CREATE ROLE %I;', rolname) FROM pg_roles WHERE oid >= 16384 AND rolname <> 'postgres'",
    );
    target.psql("db", &roles);
    for (client, format, jobs) in [
        ("18", "plain", None),
        ("18", "custom", None),
        ("18", "directory", Some(3)),
        ("15", "custom", None),
        ("15", "directory", Some(2)),
    ] {
        let database = format!("to_{format}_{client}");
        target.psql("db", &format!("CREATE DATABASE {database}"));
        let mut bench = Bench::new([("source", source.url("db")), ("target", target.url(&database))]);
        bench.versions = vec![client];
        let mut body = json!({"from": "source", "format": format});
        if let Some(jobs) = jobs {
            body["jobs"] = json!(jobs);
        }
        let dump = bench.dump(body).await.unwrap_or_else(|error| panic!("{format}: {error:#?}"));
        assert_eq!(dump.client_version, if client == "18" { 180_004 } else { 150_020 });
        let done = bench.restore("dump", json!({"into": "target", "jobs": 3})).await;
        let done = done.unwrap_or_else(|error| panic!("{format}: {error:#?}"));
        let removed = bench.output("restore", "removals");
        if format == "plain" {
            assert!(done.warnings[0].contains("pg_attver"), "{:?}", done.warnings);
            assert!(removed["the target does not know the column option pg_attver"].as_u64() > Some(20), "{removed}");
        }
        let (left, right) = (image(&source, "db"), image(&target, &database));
        for (left, right) in left.lines().zip(right.lines()) {
            assert_eq!(left, right, "{format}");
        }
        assert_eq!(left.lines().count(), right.lines().count(), "{format}");
    }
    let keep = source.psql(
        "db",
        "SELECT attoptions FROM pg_attribute WHERE attrelid = 'shop.customer'::regclass AND attname = 'name'",
    );
    let kept = target.psql(
        "to_plain_18",
        "SELECT attoptions FROM pg_attribute WHERE attrelid = 'shop.customer'::regclass AND attname = 'name'",
    );
    assert!(keep.contains("pg_attver") && kept == "{n_distinct=-0.9}", "{keep} {kept}");
}

#[tokio::test]
async fn the_stamp_is_an_error_when_it_is_to_be_kept() {
    let (source, target) = (Cluster::start("15"), Cluster::start("18"));
    source.psql("postgres", "CREATE TABLE a (x int); CREATE TABLE b (y int)");
    let mut bench = Bench::new([("source", source.url("postgres")), ("target", target.url("postgres"))]);
    bench.versions = vec!["18"];
    bench.dump(json!({"from": "source"})).await.expect("the dump is made");
    let error =
        bench.restore("dump", json!({"into": "target", "compat": "keep"})).await.expect_err("a stamp is refused");
    assert_eq!((error.kind, error.sqlstate.as_deref()), (ErrorKind::UnexpectedError, Some("22023")), "{error:#?}");
    assert!(error.advice().contains("compat: strip"), "{error:#?}");
}

#[tokio::test]
async fn roles_go_from_13_and_15_to_18_with_their_data() {
    for version in ["13", "15"] {
        let (source, target) = (Cluster::start(version), Cluster::start("18"));
        source.psql(
            "postgres",
            "CREATE ROLE lead CREATEROLE; CREATE ROLE analyst; CREATE ROLE reader; GRANT reader TO lead WITH ADMIN OPTION; \
             SET ROLE lead; GRANT reader TO analyst; RESET ROLE; CREATE DATABASE \"We\"\"ird 'db\" OWNER lead",
        );
        let odd = "We\"ird 'db";
        source.psql(odd, "CREATE TABLE t AS SELECT n, 'x' || n AS x FROM generate_series(1, 1000) n; ALTER TABLE t ADD PRIMARY KEY (n)");
        let mut bench = Bench::new([("source", source.url("postgres")), ("target", target.url("postgres"))]);
        let body = json!({"from": "source", "scope": "cluster", "compress": "none"});
        let dump = bench.dump(body).await.expect("the dump is made");
        let text = fs::read_to_string(dump.file(bench.run_dir())).expect("the dump is text");
        if version == "15" {
            // In this order, 18 refuses the first of them.
            let at = |what: &str| text.find(what).unwrap_or_else(|| panic!("no {what}"));
            assert!(at("GRANT reader TO analyst GRANTED BY lead") < at("GRANT reader TO lead WITH ADMIN OPTION"));
        }
        let expected = json!([{"sqlstate": "42710", "object": "role postgres"}]);
        let done = bench.restore("dump", json!({"into": "target", "expected_errors": expected})).await;
        let done = done.unwrap_or_else(|error| panic!("{version}: {error:#?}"));
        assert_eq!((done.rows, done.warnings.len()), (Some(1000), 0), "{done:?}");
        assert_eq!(bench.output("restore", "errors_expected"), json!({"42710 on role postgres": 1}));
        same(&source, &target, &[odd]);
    }
}

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
