//! The way back under fire: a run is killed somewhere, taken back while pgplan, its programs, its server sessions and
//! its servers are killed, done to its end, and taken back again. After each way back everything is as it was before, letter
//! by letter.
//!
//! `PGPLAN_CHAOS_KILLS` says how many kills (`make chaos`: 200), `PGPLAN_CHAOS_SEED` repeats a run.

use std::fs;

use serde_json::{Value, json};

use crate::{
    chaos::no_receipts,
    cluster::Cluster,
    env::{Outcome, TestEnv},
    fire::{Dice, Fire, Session, Struck, Victim, decide, dice, nothing_runs_on, number, rounds, standing},
    live_fence::{HOSTILE, access, load},
};

/// A plan with everything that can be taken back; its last step fails at first.
fn plan(source: &Cluster, target: &Cluster) -> String {
    format!(
        r#"version: 1
name: back
databases:
  source: {{ url: "{}" }}
  through: {{ url: "${{{{ steps.tunnel.outputs.url }}}}" }}
  extra: {{ url: "{}" }}
  shop: {{ url: "{}" }}
  made: {{ url: "${{{{ steps.make.outputs.url }}}}" }}
steps:
  - id: copy
    command: {{ run: [cp, seed, copy] }}
    undo: {{ run: [rm, copy] }}
  - id: tunnel
    tunnel: {{ platform: aptible, name: old, with: {{ environment: production }} }}
  - id: stop-app
    scale: {{ platform: systemd, services: [app.service, idle.service], to: 0 }}
  - id: stop-workers
    scale: {{ platform: aptible, app: orders, services: [cmd, worker], to: 0, with: {{ environment: production }} }}
  - id: stamp
    sql: {{ database: through, run: "INSERT INTO journal VALUES ('stamped', 1)" }}
    undo: {{ database: through, sql: "UPDATE journal SET undone = undone + 1; DELETE FROM journal WHERE what = 'stamped'" }}
  - id: fence
    fence: {{ database: source, grace: 0s, window: 1s }}
  - create_database: {{ on: extra }}
  - id: make
    provision: {{ platform: aptible, name: new, version: "18", with: {{ environment: production }} }}
  - id: fill
    for_each: [a, b, c]
    sql: {{ database: made, run: "INSERT INTO filled VALUES ('${{{{ each.value }}}}')" }}
    undo: {{ database: made, sql: "DELETE FROM filled; UPDATE times SET undone = undone + 1" }}
  - id: merge
    merge_shards:
      from: {{ database: shop, schemas: shard_0..shard_1 }}
      into: {{ database: shop }}
      complete: {{ run: INSERT INTO merged VALUES (true), undo: DELETE FROM merged }}
  - id: repoint
    repoint: {{ file: app.env, set: {{ DATABASE_URL: "postgres://new/shop" }} }}
  - id: lead
    repoint:
      platform: aptible
      app: orders
      set: {{ DB_URL: "postgres://new/db" }}
      back: {{ DB_URL: "postgres://old/db" }}
      with: {{ environment: production }}
  - id: last
    sql: {{ database: shop, run: "INSERT INTO ended SELECT 1 / count(*) FROM mended" }}
    undo: {{ database: shop, sql: "DELETE FROM ended" }}
"#,
        source.url("app"),
        target.url("extra"),
        target.url("shop")
    )
}

const SHOP: &str = "CREATE TABLE client (id bigint PRIMARY KEY, name text NOT NULL);
CREATE TABLE visit (id bigint PRIMARY KEY, client bigint NOT NULL REFERENCES client);
CREATE TABLE merged (yes bool); CREATE TABLE filled (what text); CREATE TABLE ended (n int); CREATE TABLE mended (yes bool);
CREATE TABLE times (undone int); INSERT INTO times VALUES (0);
CREATE SCHEMA shard_0; CREATE TABLE shard_0.client (LIKE client INCLUDING ALL); CREATE TABLE shard_0.visit (LIKE visit INCLUDING ALL);
CREATE SCHEMA shard_1; CREATE TABLE shard_1.client (LIKE client INCLUDING ALL); CREATE TABLE shard_1.visit (LIKE visit INCLUDING ALL);
INSERT INTO shard_0.client SELECT n, 'zero ' || n FROM generate_series(1, 50) n;
INSERT INTO shard_1.client SELECT 100 + n, 'one ' || n FROM generate_series(1, 50) n;
INSERT INTO shard_0.visit SELECT n, 1 + n % 50 FROM generate_series(1, 500) n;
INSERT INTO shard_1.visit SELECT 1000 + n, 101 + n % 50 FROM generate_series(1, 500) n;";

/// The plan with everything around it.
struct Scene<'a> {
    env: TestEnv,
    source: &'a mut Cluster,
    target: &'a mut Cluster,
    /// Whether the source crashed, which may have been behind the fence.
    crashed: bool,
}

impl Scene<'_> {
    /// All that the plan changes, as it is now; how often SQL took something back is counted apart.
    fn state(&self) -> Vec<String> {
        let mut fakes = self.env.fakes();
        // A platform remembers what was destroyed.
        let databases = fakes["databases"].as_object_mut().expect("databases by name");
        databases.retain(|_, database| database["status"] != "deprovisioned");
        let rows = "SELECT (SELECT count(*) FROM client), (SELECT count(*) FROM visit), (SELECT count(*) FROM merged), \
                    (SELECT string_agg(what, ',' ORDER BY what) FROM filled), (SELECT count(*) FROM ended)";
        vec![
            access(self.source),
            self.source.psql(HOSTILE, "SELECT count(*) FROM orders"),
            self.source.psql("app", "SELECT what, undone >= 0 FROM journal ORDER BY 1"),
            self.target.psql("postgres", "SELECT datname, datacl, datconnlimit FROM pg_database ORDER BY 1"),
            self.target.psql("shop", rows),
            fakes["units"].to_string(),
            fakes["apps"].to_string(),
            fakes["databases"].to_string(),
            self.env.read("app.env"),
            fs::read_to_string(self.env.work().join("copy")).unwrap_or_default(),
        ]
    }

    /// How often SQL took things back: of the source, of the target.
    fn taken_back(&self) -> (i32, i32) {
        let number = |text: String| text.parse().expect("it is a number");
        let source = self.source.psql("app", "SELECT undone FROM journal WHERE what = 'counter'");
        (number(source), number(self.target.psql("shop", "SELECT undone FROM times")))
    }

    fn session(&mut self, fire: &mut Fire<'_>, command: &str) -> Session {
        let session = fire.session(&self.env, &[command, "back.yaml", "--yes"], self.source, self.target);
        self.crashed |= session.struck == Some(Victim::Source);
        session
    }

    /// Applies once; returns whether the run has ended well.
    fn apply(&mut self, fire: &mut Fire<'_>, is_mended: bool) -> bool {
        let session = self.session(fire, "apply");
        match session.code() {
            Some(0) => assert!(is_mended, "{}", session.said.stderr),
            None => return standing(&self.env).as_deref() == Some("succeeded"),
            Some(1) if !is_mended && session.said.stderr.contains("division by zero") => return false,
            Some(1) => {
                session.is_excused();
                return false;
            }
            Some(5) => {
                let copied = |step: &str| {
                    assert_eq!(step, "copy");
                    self.env.work().join("copy").exists()
                };
                decide(&self.env, &session.said, [self.source, self.target], copied);
                return false;
            }
            // A server that crashed cannot tell what was written behind the fence: a person goes back and begins anew.
            Some(6) if self.crashed => {
                let said = &session.said.stderr;
                assert!(said.contains("the counters went back") && said.contains("--rerun fence"), "{said}");
                if is_mended {
                    self.undo(fire);
                }
                return false;
            }
            Some(_) => panic!("{}\n{}", session.said.status, session.said.stderr),
        }
        no_receipts(&session, self.source, self.target);
        true
    }

    /// Takes everything back, under fire, until that has ended.
    fn undo(&mut self, fire: &mut Fire<'_>) {
        for _ in 0..200 {
            let session = self.session(fire, "undo");
            let said = &session.said;
            let ended = match session.code() {
                Some(0) => true,
                // It may have been killed between its last event and its end.
                None => standing(&self.env).as_deref() == Some("undone"),
                Some(5) => {
                    if !self.decide_back(said) {
                        session.is_excused();
                    }
                    false
                }
                // A tunnel could not be opened, say, before anything was taken back.
                Some(1) => {
                    session.is_excused();
                    false
                }
                Some(_) => panic!("{}\n{}", said.status, said.stderr),
            };
            if ended {
                assert_eq!(standing(&self.env).as_deref(), Some("undone"));
                no_receipts(&session, self.source, self.target);
                nothing_runs_on(&self.env, [self.source, self.target]);
                // The platform has room again for what it has destroyed.
                let mut fakes = self.env.fakes();
                fakes["spare"] = json!({ "18": self.target.url("shop") });
                self.env.set_fakes(&fakes);
                self.crashed = false;
                return;
            }
        }
        panic!("the way back does not come to an end");
    }

    /// Answers when a person is asked whether something was taken back: only of what programs without a check do.
    fn decide_back(&self, said: &Outcome) -> bool {
        nothing_runs_on(&self.env, [self.source, self.target]);
        let new = &self.env.fakes()["databases"]["new"];
        let is_made = new.is_object() && new["status"] != "deprovisioned";
        let is_there = [("copy", self.env.work().join("copy").exists()), ("make", is_made)];
        for (step, is_there) in is_there {
            if said.stderr.contains(&format!("pgplan resolve {step} --as undo")) {
                let verdict = if is_there { "retry" } else { "undo" };
                self.env.pgplan(&["resolve", step, "--as", verdict]).expect(0);
                return true;
            }
        }
        assert!(!said.stderr.contains("pgplan resolve"), "{}", said.stderr);
        // What was begun and never made cannot be destroyed: the program says so, and the next session asks.
        let never_made = said.stderr.contains("Could not find database new");
        assert!(!never_made || !is_made, "{}", said.stderr);
        never_made
    }
}

/// There, back, there again and back again, under fire all the time; returns what was struck.
fn round(dice: &mut Dice, budget: u64, source: &mut Cluster, target: &mut Cluster) -> Struck {
    let env = TestEnv::new();
    env.set_fakes(&json!({
        "units": { "app.service": "active", "idle.service": "inactive" },
        "apps": { "orders": { "environment": "production", "services": { "cmd": 2, "worker": 3 },
                              "config": { "DB_URL": "postgres://old/db" } } },
        "spare": { "18": target.url("shop") },
        "databases": { "old": { "environment": "production", "version": "15", "url": source.url("app") } } }));
    env.write("app.env", "# the app\nDATABASE_URL=\"postgres://old/shop\"  # old\n\nMODE=x\n");
    env.write("seed", "seed\n");
    env.write("back.yaml", &plan(source, target));
    for server in [&*source, &*target] {
        // The servers commit asynchronously: what only WAL buffers hold would end with a killed server.
        server.psql("postgres", "CHECKPOINT");
    }
    let mut scene = Scene { env, source, target, crashed: false };
    let before = scene.state();
    let counted = scene.taken_back();
    let sessions = 1 + dice.below(4);
    let mut fire = Fire::new(dice, budget);

    for _ in 0..sessions {
        assert!(!scene.apply(&mut fire, false));
    }
    if let Some(word) = standing(&scene.env) {
        assert_ne!(word, "succeeded");
        scene.undo(&mut fire);
    }
    assert_eq!(scene.state(), before, "it is not as it was");
    let once = |now: (i32, i32), least: (i32, i32)| (now.0 - least.0, now.1 - least.1);
    let (stamps, fills) = once(scene.taken_back(), counted);
    assert!(stamps <= 1 && fills <= 1, "SQL took the same thing back twice: {stamps}, {fills}");

    scene.target.psql("shop", "INSERT INTO mended VALUES (true)");
    scene.target.psql("shop", "CHECKPOINT");
    let ended = (0..200).any(|_| scene.apply(&mut fire, true));
    assert!(ended, "it does not come to an end");
    arrived(&scene);
    let counted = scene.taken_back();
    scene.undo(&mut fire);
    assert_eq!(scene.state(), before, "it is not as it was");
    assert_eq!(once(scene.taken_back(), counted), (1, 1), "SQL takes back once");
    scene.target.psql("shop", "TRUNCATE mended");
    fire.struck
}

/// What the plan brings about, once.
fn arrived(scene: &Scene<'_>) {
    let (env, target) = (&scene.env, &*scene.target);
    assert_eq!(scene.source.psql("app", "SELECT string_agg(what, ',' ORDER BY what) FROM journal"), "counter,stamped");
    let rows = "SELECT (SELECT count(*) FROM client), (SELECT count(*) FROM visit), (SELECT count(*) FROM merged), \
                (SELECT string_agg(what, ',' ORDER BY what) FROM filled), (SELECT count(*) FROM ended)";
    assert_eq!(target.psql("shop", rows), "100|1000|1|a,b,c|1");
    assert_eq!(target.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'extra'"), "1");
    let fakes: Value = env.fakes();
    assert_eq!(fakes["units"], json!({ "app.service": "inactive", "idle.service": "inactive" }));
    assert_eq!(fakes["apps"]["orders"]["services"], json!({ "cmd": 0, "worker": 0 }));
    assert_eq!(fakes["apps"]["orders"]["config"]["DB_URL"], "postgres://new/db");
    assert_eq!(fakes["databases"]["new"]["url"], json!(target.url("shop")));
    assert_eq!(env.read("app.env"), "# the app\nDATABASE_URL=\"postgres://new/shop\"  # old\n\nMODE=x\n");
    assert_eq!(env.read("copy"), "seed\n");
    let closed = "SELECT count(*) FROM pg_database WHERE datconnlimit = 0";
    assert_eq!(scene.source.psql("postgres", closed), "3", "the fence stands");
    nothing_runs_on(env, [scene.source, scene.target]);
}

#[test]
fn nothing_is_lost_on_the_way_back() {
    let kills = number("PGPLAN_CHAOS_KILLS", 6);
    let mut dice = dice();
    let (mut source, mut target) = (Cluster::start("15"), Cluster::start("18"));
    load(&source);
    source.psql("app", "CREATE TABLE journal (what text, undone int); INSERT INTO journal VALUES ('counter', 0)");
    target.psql("postgres", "CREATE DATABASE shop");
    target.psql("shop", SHOP);
    rounds(kills, 20, |budget| round(&mut dice, budget, &mut source, &mut target));
}
