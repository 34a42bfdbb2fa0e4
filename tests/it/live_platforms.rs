//! Platform files against the stand-ins: a step is decided as in a run, then done for real.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use pgplan_engine::action::{Action, ActionGraph, Output, OutputValue, Outputs};
use pgplan_engine::diagnostic::Problems;
use pgplan_engine::error::{ErrorKind, StepError};
use pgplan_engine::facts::{Facts, Look};
use pgplan_engine::kinds::{self, ExpandCx};
use pgplan_engine::op::{Exec, Op};
use pgplan_engine::perform::{self, Databases, PerformCx, Progress, Report, Reveal, exec, tunnel::Held};
use pgplan_engine::platforms::{self, Platforms};
use pgplan_engine::postgres::ConnInfo;
use pgplan_engine::redact::Redactor;
use pgplan_engine::secret::{Encoding, ExposeSecret as _, SecretString, marker};
use pgplan_engine::tool::{Clients, Places};
use pgplan_engine::yaml::{self, Limits, Node, NodeValue};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, Settings};
use crate::env::{TestEnv, cache_folder};

/// The value of every secret of these tests.
const SECRET: &str = "s3cr3t pa$word";

struct OneSecret;

impl Reveal for OneSecret {
    fn reveal(&self, _: &str) -> Result<SecretString, StepError> {
        Ok(SecretString::from(SECRET.to_owned()))
    }
}

struct NoDatabases;

impl Databases for NoDatabases {
    fn conninfo(&self, name: &str) -> Result<ConnInfo, StepError> {
        Err(StepError::new(ErrorKind::Internal, format!("these tests have no database `{name}`")))
    }
}

/// Steps one after the other, as a run would do them.
struct Bench {
    env: TestEnv,
    platforms: Platforms,
    outputs: BTreeMap<String, Outputs>,
    held: Arc<Held>,
    clients: Arc<Clients>,
}

impl Bench {
    fn new(state: &serde_json::Value) -> Self {
        let env = TestEnv::new();
        env.set_fakes(state);
        Self {
            env,
            platforms: Platforms::built_in().unwrap_or_else(|problems| panic!("{problems:?}")),
            outputs: BTreeMap::new(),
            held: Arc::default(),
            clients: Arc::default(),
        }
    }

    fn home(&self) -> std::path::PathBuf {
        self.env.work().parent().expect("the working folder has one above").to_owned()
    }

    fn cx(&self, step: &str, progress: Progress) -> PerformCx {
        let home = self.home();
        let variables = [
            ("PATH", format!("{}:/usr/bin:/bin", home.join("bin").display())),
            ("PGPLAN_FAKE_STATE", home.join("fakes").display().to_string()),
        ];
        PerformCx {
            run_id: "r1".into(),
            session: 0,
            generation: 0,
            step: step.into(),
            action: "action".into(),
            run_dir: home.join("run"),
            plan_dir: self.env.work(),
            env: variables.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect(),
            cancel: CancellationToken::new(),
            progress,
            secrets: Arc::new(OneSecret),
            databases: Arc::new(NoDatabases),
            redactor: Arc::new(Redactor::new()),
            held: Arc::clone(&self.held),
            idle: Arc::default(),
            clients: Arc::clone(&self.clients),
        }
    }

    /// Decides what a step does, `SECRET` in its body standing for a secret; its looks are really taken.
    async fn decide(&self, step: &str, kind: &str, body: &str) -> Result<ActionGraph, StepError> {
        let mut problems = Problems::default();
        let mut node = yaml::parse(&platforms::file("step", Path::new(""), body), Limits::default(), &mut problems)
            .unwrap_or_else(|| panic!("{problems:?}"));
        put_secrets(&mut node);
        let kind = kinds::find(kind).expect("the kind exists");
        let decoded = (kind.decode)(&node).unwrap_or_else(|problems| panic!("{problems:?}"));
        let (home, work) = (self.home(), self.env.work());
        let cx = ExpandCx {
            step,
            run_dir: &home.join("run"),
            plan_dir: &work,
            inputs: &BTreeMap::new(),
            outputs: &self.outputs,
            earlier: &[],
            platforms: &self.platforms,
            clients: &self.clients,
            dry_run: false,
        };
        let mut facts = Facts::default();
        for look in decoded.looks(&cx)? {
            if let Look::Program { key, exec } = look {
                facts.programs.insert(key, exec::look(&exec, &self.cx(step, Progress::silent())).await?);
            }
        }
        decoded.actions(&facts, &cx)
    }

    async fn perform(&self, step: &str, action: &Action) -> Result<Output, StepError> {
        perform::perform(&action.op, &self.cx(step, Progress::silent())).await
    }

    async fn undo(&self, step: &str, action: &Action) -> Result<Output, StepError> {
        let undo = action.undo.as_deref().expect("it can be undone");
        perform::perform(undo, &self.cx(step, Progress::silent())).await
    }

    /// Decides a step and does it.
    async fn step(&mut self, step: &str, kind: &str, body: &str) -> Result<ActionGraph, StepError> {
        let graph = self.decide(step, kind, body).await?;
        for action in &graph.actions {
            let output = self.perform(step, action).await?;
            self.outputs.entry(step.to_owned()).or_default().extend(output.outputs);
        }
        Ok(graph)
    }

    fn secret(&self, step: &str, name: &str) -> String {
        match &self.outputs[step][name] {
            OutputValue::Secret(Some(value)) => value.expose_secret().to_owned(),
            other => panic!("`{name}` is not a secret: {other:?}"),
        }
    }
}

fn put_secrets(node: &mut Node) {
    match &mut node.value {
        NodeValue::Str(text) => *text = text.replace("SECRET", &marker("secrets.pw", Encoding::Raw)),
        NodeValue::Seq(items) => items.iter_mut().for_each(put_secrets),
        NodeValue::Map(entries) => entries.iter_mut().for_each(|(_, node)| put_secrets(node)),
        _ => {}
    }
}

fn shop() -> serde_json::Value {
    json!({ "apps": { "shop": { "services": { "cmd": 2, "worker": 1 }, "config": { "DB_URL": "old" } } } })
}

const DOWN: &str = "{ platform: aptible, app: shop, to: 0 }";

#[tokio::test]
async fn an_application_comes_back_as_it_was() {
    for platform in ["aptible", "dokku"] {
        let mut bench = Bench::new(&shop());
        let down = DOWN.replace("aptible", platform);
        bench.step("down", "scale", &down).await.expect("it scales down");
        assert_eq!(bench.env.fakes()["apps"]["shop"]["services"], json!({ "cmd": 0, "worker": 0 }), "{platform}");
        bench.step("up", "scale", "{ restore: down }").await.expect("it scales up");
        assert_eq!(bench.env.fakes()["apps"]["shop"]["services"], json!({ "cmd": 2, "worker": 1 }), "{platform}");
    }
}

#[tokio::test]
async fn a_lost_answer_is_not_work_done_twice() {
    let mut state = shop();
    state["fail"] =
        json!({ "apps:scale --app shop worker": { "code": 1, "stderr": "lost", "times": 1, "after": true } });
    let bench = Bench::new(&state);
    let graph = bench.decide("down", "scale", DOWN).await.expect("the counts are read");
    let worker = &graph.actions[2];
    let error = bench.perform("down", worker).await.expect_err("the answer was lost");
    assert_eq!((error.kind, error.details.as_slice()), (ErrorKind::Tool, ["lost".to_owned()].as_slice()));
    assert!(bench.perform("down", worker).await.expect("the work is done").already_done);
    let scaled = bench.env.fake_calls().into_iter().filter(|call| call.contains("apps:scale")).count();
    assert_eq!(scaled, 1);
    bench.undo("down", worker).await.expect("it is undone");
    assert_eq!(bench.env.fakes()["apps"]["shop"]["services"]["worker"], 1);
}

#[tokio::test]
async fn a_command_that_lies_is_found_out() {
    let mut state = shop();
    state["fail"] = json!({ "apps:scale": { "code": 0, "stderr": "INFO -- : COMPLETED" } });
    let bench = Bench::new(&state);
    let graph = bench.decide("down", "scale", DOWN).await.expect("the counts are read");
    let Op::Exec(op) = graph.actions[1].op.clone() else { panic!("{graph:?}") };
    let impatient = Exec { confirm_within_ms: Some(100), ..op };
    let error = exec::exec(&impatient, &bench.cx("down", Progress::silent())).await.expect_err("nothing was scaled");
    assert_eq!(error.kind, ErrorKind::Verification);
}

#[tokio::test]
async fn services_of_this_machine_stop_and_start() {
    let state = json!({ "services": { "habitat/builder-api": "up" },
        "units": { "shop.service": "active", "idle.service": "inactive" } });
    let mut bench = Bench::new(&state);
    bench
        .step("hab", "scale", "{ platform: habitat, services: [habitat/builder-api], to: 0 }")
        .await
        .expect("it stops");
    let units = "{ platform: systemd, services: [shop.service, idle.service], to: 0 }";
    bench.step("units", "scale", units).await.expect("they stop");
    assert_eq!(bench.env.fakes()["services"], json!({ "habitat/builder-api": "down" }));
    assert_eq!(bench.env.fakes()["units"]["shop.service"], "inactive");
    bench.step("hab-up", "scale", "{ restore: hab }").await.expect("it starts");
    bench.step("units-up", "scale", "{ restore: units }").await.expect("they start");
    assert_eq!(bench.env.fakes()["services"], json!({ "habitat/builder-api": "up" }));
    assert_eq!(bench.env.fakes()["units"], json!({ "shop.service": "active", "idle.service": "inactive" }));
    let missing = bench.decide("x", "scale", "{ platform: systemd, services: [shoop.service], to: 0 }").await;
    assert_eq!(missing.expect_err("there is no such unit").kind, ErrorKind::Tool);
}

#[tokio::test]
async fn configuration_is_set_shown_and_never_printed() {
    for platform in ["aptible", "dokku"] {
        let bench = Bench::new(&shop());
        let body = format!(
            "{{ platform: {platform}, app: shop, set: {{ DB_URL: 'postgres://a:SECRET@h/db' }}, back: {{ DB_URL: old }} }}"
        );
        let graph = bench.decide("repoint", "repoint", &body).await.expect("it is decided");
        let (progress, mut reports) = Progress::channel();
        let cx = bench.cx("repoint", progress);
        perform::perform(&graph.actions[0].op, &cx).await.expect("it is set");
        let set = format!("postgres://a:{SECRET}@h/db");
        assert_eq!(bench.env.fakes()["apps"]["shop"]["config"]["DB_URL"], set, "{platform}");
        drop(cx);
        while let Some(Report::Line(line)) = reports.recv().await {
            assert!(!line.contains("s3cr3t"), "{line}");
        }
        assert!(bench.perform("repoint", &graph.actions[0]).await.expect("it is set").already_done);
        bench.undo("repoint", &graph.actions[0]).await.expect("it is undone");
        assert_eq!(bench.env.fakes()["apps"]["shop"]["config"]["DB_URL"], "old", "{platform}");
    }
}

#[tokio::test]
async fn a_database_is_made_once_and_destroyed_when_taken_back() {
    let state = json!({ "spare": { "18": "postgresql://aptible:geheim@10.0.0.9:5432/db" } });
    let mut bench = Bench::new(&state);
    let body = "{ platform: aptible, name: new, version: '18', with: { environment: prod } }";
    let graph = bench.step("new", "provision", body).await.expect("it is made");
    assert_eq!(bench.secret("new", "url"), "postgresql://aptible:geheim@10.0.0.9:5432/db");
    let again = bench.perform("new", &graph.actions[0]).await.expect("on resume it is asked for again");
    assert!(again.already_done && again.outputs.contains_key("url"));
    let other = bench.decide("other", "provision", body).await.expect_err("the name is taken");
    assert_eq!(other.kind, ErrorKind::Refused);
    bench.undo("new", &graph.actions[0]).await.expect("it is undone");
    assert_eq!(bench.env.fakes()["databases"]["new"]["status"], "deprovisioned");
}

#[tokio::test]
async fn dokku_tells_what_a_dump_belongs_to() {
    let state = json!({ "apps": { "cows": { "services": { "web": 1 }, "config": {}, "git_sha": "82eeec6fe1" } },
        "spare": { "15.2": "postgresql://postgres:23d453@172.17.0.19:5432/cows_db" } });
    let mut bench = Bench::new(&state);
    bench.step("record", "record", "{ platform: dokku, app: cows }").await.expect("it is recorded");
    let file = std::fs::read_to_string(bench.home().join("run/record.json")).expect("the file is there");
    let file: serde_json::Value = serde_json::from_str(&file).expect("the file is JSON");
    assert_eq!((&file["git_sha"], &file["git_last_updated_at"]), (&json!("82eeec6fe1"), &json!("1696979162")));
    let body = "{ platform: dokku, name: cows-db, version: '15.2' }";
    bench.step("new", "provision", body).await.expect("it is made");
    assert_eq!(bench.secret("new", "password"), "23d453");
    assert!(matches!(&bench.outputs["new"]["internal_ip"], OutputValue::Plain(ip) if ip == "172.17.0.19"));
}

#[tokio::test]
async fn a_tunnel_leads_to_the_server_until_it_is_closed() {
    let mut settings = Settings::new("15");
    (settings.superuser, settings.password) = ("aptible".into(), Some("pa$word".into()));
    let cluster = Cluster::with(settings);
    let mut bench = Bench::new(&json!({ "databases": { "old": { "url": cluster.url("postgres") } } }));
    bench.step("tunnel", "tunnel", "{ platform: aptible, name: old }").await.expect("it opens");
    let url = bench.secret("tunnel", "url");
    assert_eq!(ask(&cluster, &url), "through");
    bench.held.check().expect("it is up");
    bench.held.close_all().await.expect("it closes");
    let asked = std::process::Command::new(cluster.bin("psql")).args(["-XAtc", "select 1", &url]).output();
    assert!(!asked.expect("psql starts").status.success(), "the tunnel is closed");
    let missing = bench.step("t", "tunnel", "{ platform: aptible, name: nobody }").await.expect_err("there is none");
    assert_eq!(missing.details, ["Could not find database nobody"]);
}

fn ask(cluster: &Cluster, url: &str) -> String {
    let asked = std::process::Command::new(cluster.bin("psql")).args(["-XAtc", "select 'through'", url]).output();
    String::from_utf8_lossy(&asked.expect("psql starts").stdout).trim().to_owned()
}

#[tokio::test]
async fn a_server_of_our_own_is_private_durable_and_removed_when_taken_back() {
    let mut bench = Bench::new(&json!({}));
    bench.clients = Arc::new(Clients::find(&Places { cache: Some(cache_folder()), ..Places::default() }).await);
    let newest = bench.clients.of_major(&["initdb", "pg_ctl", "postgres"], 18).expect("18 is installed").clone();
    let folder = tempfile::Builder::new().prefix("pgplan").tempdir_in("/tmp").expect("a folder can be made");
    open_to_all(folder.path());
    let place = folder.path().join("own's");
    let body = format!(
        "{{ managed: {{ version: 18, data_dir: \"{}\", superuser: \"our own:x\", settings: {{ application_name: \"it's\" }} }} }}",
        place.display()
    );
    let graph = bench.step("own", "provision", &body).await.expect("it starts");
    let url = bench.secret("own", "url");
    let psql = |url: &str, sql: &str| {
        let asked = std::process::Command::new(newest.path("psql")).args(["-XAtwc", sql, url]).output();
        let asked = asked.expect("psql starts");
        if asked.status.success() { Some(String::from_utf8_lossy(&asked.stdout).trim().to_owned()) } else { None }
    };
    let settings = "select current_user || ' ' || current_setting('fsync') || ' ' || current_setting('listen_addresses') \
                    || ' ' || current_setting('data_checksums')";
    assert_eq!(psql(&url, settings).as_deref(), Some("our own:x on 127.0.0.1 on"));
    let (before, after) = url.split_once("@127").expect("the server is on the loopback");
    let (login, _) = before.rsplit_once(':').expect("there is a password");
    assert_eq!(psql(&format!("{login}:wrong@127{after}"), "select 1"), None);
    let again = bench.perform("own", &graph.actions[0]).await.expect("it runs");
    assert!(again.already_done);
    assert!(matches!(&again.outputs["url"], OutputValue::Secret(Some(same)) if same.expose_secret() == url));
    perform::cluster::stop(&place, &bench.cx("own", Progress::silent())).await.expect("it stops");
    assert_eq!(psql(&url, "select 1"), None);
    bench.perform("own", &graph.actions[0]).await.expect("it starts again");
    assert_eq!(psql(&url, "select 1").as_deref(), Some("1"));
    bench.undo("own", &graph.actions[0]).await.expect("it is removed");
    assert!(!place.exists());
    bench.undo("own", &graph.actions[0]).await.expect("twice is once");
    std::fs::create_dir(&place).and_then(|()| std::fs::write(place.join("mine"), "x")).expect("a file can be made");
    let refused = bench.undo("own", &graph.actions[0]).await.expect_err("it is not ours");
    assert_eq!(refused.kind, ErrorKind::Refused);
    let refused = bench.perform("own", &graph.actions[0]).await.expect_err("it is not ours");
    assert_eq!(refused.kind, ErrorKind::Refused);
    assert!(place.join("mine").exists());
}

#[tokio::test]
async fn a_server_that_cannot_start_says_why_and_can_be_tried_again() {
    let mut bench = Bench::new(&json!({}));
    bench.clients = Arc::new(Clients::find(&Places { cache: Some(cache_folder()), ..Places::default() }).await);
    let folder = tempfile::Builder::new().prefix("pgplan").tempdir_in("/tmp").expect("a folder can be made");
    open_to_all(folder.path());
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let port = taken.local_addr().expect("it has an address").port();
    let place = folder.path().join("own");
    let body = format!("{{ managed: {{ version: 15, data_dir: \"{}\", port: {port} }} }}", place.display());
    let error = bench.step("own", "provision", &body).await.expect_err("the port is taken");
    assert_eq!(error.message, "`pg_ctl start` ended with exit code 1");
    assert!(error.details.iter().any(|line| line.contains("Address already in use")), "{error:?}");
    drop(taken);
    let graph = bench.step("own", "provision", &body).await.expect("it starts when the port is free");
    assert!(bench.secret("own", "url").contains(&format!("@127.0.0.1:{port}/")));
    bench.undo("own", &graph.actions[0]).await.expect("it is removed");
    assert!(!place.exists());
}

fn open_to_all(folder: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("the mode can be set");
}
