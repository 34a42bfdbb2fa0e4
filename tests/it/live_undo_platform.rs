//! Going back over what was done on platforms and on this machine: run → undo → run → finish, the state after the undo
//! equal to that before the run.

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};

use crate::{cluster::Cluster, env::TestEnv};

const STEPS: &str = r#"version: 1
name: p
databases:
  old: { url: "${{ steps.tunnel.outputs.url }}" }
  own: { url: "${{ steps.server.outputs.url }}" }
steps:
  - id: tunnel
    tunnel: { platform: aptible, name: orders-15, with: { environment: production } }
  - id: stop-app
    scale: { platform: aptible, app: orders, services: [cmd, worker], to: 0, with: { environment: production } }
  - id: server
    provision: { managed: { version: 18, data_dir: "DATA" } }
  - id: fill
    sql: { database: own, run: "CREATE TABLE t AS SELECT 1 AS n" }
    undo: { database: own, sql: "DROP TABLE t" }
  - id: note
    sql: { database: old, run: "INSERT INTO log VALUES ('done')" }
    undo: { database: old, sql: "DELETE FROM log" }
  - id: repoint
    repoint: { platform: aptible, app: orders, set: { DB_URL: "postgres://new/db" }, with: { environment: production } }
    undo: { run: [aptible, config:set, --app, orders, "DB_URL=postgres://old/db"] }
  - id: last
    command: { run: [test, -e, mended] }
    undo: none
"#;

/// The folder of the server that the plan makes; what a failed test leaves running in it is ended.
struct Managed(tempfile::TempDir);

impl Managed {
    fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("pgm").tempdir_in("/tmp").expect("a folder in /tmp can be made");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(folder.path(), open).expect("the server's user may pass");
        Self(folder)
    }

    fn data_dir(&self) -> String {
        self.0.path().join("server").display().to_string()
    }

    fn postmasters(&self) -> Vec<i32> {
        let entries = std::fs::read_dir("/proc").expect("Linux has /proc").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
        pids.filter(|pid| {
            let words = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words).into_owned();
            words.contains("postgres\0-D") && words.contains(&self.data_dir())
        })
        .collect()
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        for pid in self.postmasters() {
            // It may have ended by itself.
            kill(Pid::from_raw(pid), Signal::SIGQUIT).ok();
        }
    }
}

/// What the platform, the old server and the machine are like, as far as the plan changes them.
fn state(env: &TestEnv, server: &Cluster, managed: &Managed) -> (Value, String, usize) {
    let app = env.fakes()["apps"]["orders"].clone();
    (app, server.psql("postgres", "SELECT count(*) FROM log"), managed.postmasters().len())
}

#[test]
fn everything_around_an_application_is_taken_back() {
    let server = Cluster::start("15");
    server.psql("postgres", "CREATE TABLE log (what text)");
    let env = TestEnv::new();
    env.set_fakes(&json!({
        "apps": { "orders": { "environment": "production", "services": { "cmd": 2, "worker": 3 },
                              "config": { "DB_URL": "postgres://old/db" } } },
        "databases": { "orders-15": { "environment": "production", "version": "15", "url": server.url("postgres") } } }));
    let managed = Managed::new();
    env.write("p.yaml", &STEPS.replace("DATA", &managed.data_dir()));
    let before = state(&env, &server, &managed);
    assert_eq!(before.2, 0);
    let failed = env.pgplan(&["apply", "p.yaml"]).expect(1);
    assert!(failed.stderr.contains("repoint"), "{}", failed.stderr);
    let between = state(&env, &server, &managed);
    assert_eq!((between.1.as_str(), between.2), ("1", 1), "{}", failed.stderr);
    assert_eq!(between.0["services"], json!({ "cmd": 0, "worker": 0 }));

    // The tunnel ended with the run that failed; the way back opens it again.
    let undone = env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(state(&env, &server, &managed), before, "{}", undone.stderr);

    env.write("mended", "");
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    let after = state(&env, &server, &managed);
    assert_eq!((after.1.as_str(), after.2), ("1", 1));
    assert_eq!(after.0["config"]["DB_URL"], "postgres://new/db");
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(state(&env, &server, &managed), before);
}

#[test]
fn a_database_made_on_a_platform_is_taken_back() {
    let env = TestEnv::new();
    let adopted = json!({ "url": "postgres://postgres:pw@10.0.0.1:5432/old_db", "version": "15.2" });
    env.set_fakes(&json!({
        "databases": { "old-db": adopted }, "apps": {}, "fail": {},
        "spare": { "15.20": "postgres://postgres:pw@10.0.0.2:5432/new_db" } }));
    let before = env.fakes();
    env.write(
        "p.yaml",
        "version: 1\nname: p\nsteps:\n  \
         - id: new\n    provision: { platform: dokku, name: new-db, version: \"15.20\" }\n  \
         - id: old\n    provision: { platform: dokku, name: old-db, version: \"15.2\", adopt: true }\n  \
         - id: last\n    command: { run: [test, -e, mended] }\n    undo: none\n",
    );
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    assert!(env.fakes()["databases"]["new-db"].is_object());
    let undone = env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(env.fakes(), before, "{}", undone.stderr);
    env.write("mended", "");
    env.pgplan(&["apply", "p.yaml"]).expect(0);
    assert!(env.fakes()["databases"]["new-db"].is_object());
    env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!(env.fakes(), before);
}

#[test]
fn a_server_of_an_earlier_run_stays_when_a_later_one_is_taken_back() {
    let env = TestEnv::new();
    let managed = Managed::new();
    let text = |name: &str| {
        let place = managed.data_dir();
        format!(
            "version: 1\nname: {name}\ndatabases: {{ own: {{ url: \"${{{{ steps.server.outputs.url }}}}\" }} }}\nsteps:\n  \
             - id: server\n    provision: {{ managed: {{ version: 18, data_dir: \"{place}\" }} }}\n  \
             - id: {name}\n    sql: {{ database: own, run: \"CREATE TABLE {name} ()\" }}\n    \
             undo: {{ database: own, sql: \"DROP TABLE {name}\" }}\n"
        )
    };
    env.write("first.yaml", &text("first"));
    env.write("second.yaml", &text("second"));
    env.pgplan(&["apply", "first.yaml"]).expect(0);
    let server = managed.postmasters();
    assert_eq!(server.len(), 1);
    for _ in 0..2 {
        env.pgplan(&["apply", "second.yaml"]).expect(0);
        let undone = env.pgplan(&["undo", "second.yaml", "--yes"]).expect(0);
        assert_eq!(managed.postmasters(), server, "{}", undone.stderr);
    }
    // The run that made it takes it back.
    env.pgplan(&["undo", "first.yaml", "--yes"]).expect(0);
    assert_eq!(managed.postmasters(), Vec::<i32>::new());
    assert!(!std::path::Path::new(&managed.data_dir()).exists());
}

#[test]
fn what_a_later_session_opened_again_is_taken_back_after_what_stands_on_it() {
    let server = Cluster::start("18");
    server.psql("postgres", "CREATE TABLE log (what text)");
    let env = TestEnv::new();
    env.set_fakes(&json!({ "databases": {}, "spare": { "18": server.url("postgres") } }));
    let text = "version: 1\nname: p\ndatabases: { new: { url: \"${{ steps.new.outputs.url }}\" } }\nsteps:\n  \
         - id: new\n    provision: { platform: aptible, name: new-db, version: \"18\" }\n  \
         - id: fill\n    sql: { database: new, run: \"INSERT INTO log VALUES ('done')\" }\n    \
           undo: { database: new, sql: \"DELETE FROM log\" }\nPONR  \
         - id: last\n    command: { run: [test, -e, mended] }\n    undo: none\n";
    let made = || env.fakes()["databases"]["new-db"]["status"] != "deprovisioned";
    let rows = || server.psql("postgres", "SELECT count(*) FROM log");

    // What was made before the point of no return stays, however often its address was asked for again since.
    env.write("p.yaml", &text.replace("PONR", "    point_of_no_return: true\n"));
    for _ in 0..2 {
        env.pgplan(&["apply", "p.yaml"]).expect(1);
    }
    let undone = env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert!(undone.stderr.contains("`fill` is the point of no return"), "{}", undone.stderr);
    assert_eq!((made(), rows().as_str()), (true, "1"), "{}", undone.stderr);

    env.write("p.yaml", &text.replace("PONR", ""));
    env.pgplan(&["apply", "p.yaml", "--accept"]).expect(1);
    // Nor does it matter that the last session could not open it.
    let mut down = env.fakes();
    down["fail"] = json!({ "db:url": { "code": 1, "stderr": "down" }, "db:create": { "code": 1, "stderr": "down" } });
    env.set_fakes(&down);
    env.pgplan(&["apply", "p.yaml"]).expect(1);
    down["fail"] = json!({});
    env.set_fakes(&down);
    let undone = env.pgplan(&["undo", "p.yaml", "--yes"]).expect(0);
    assert_eq!((made(), rows().as_str()), (false, "0"), "{}", undone.stderr);
}
