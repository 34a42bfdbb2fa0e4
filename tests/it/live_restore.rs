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

mod failures;

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
            earlier: &[],
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
