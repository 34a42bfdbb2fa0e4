//! Kills pgplan, its programs, its server sessions and its servers at random moments, and lets it go on until it is
//! done: every row is there, what must happen once has happened once, nothing is left running, and nothing that went
//! wrong was ever called a success.
//!
//! `PGPLAN_CHAOS_KILLS` says how many (`make chaos`: 200), `PGPLAN_CHAOS_SEED` repeats a run.
#![expect(clippy::print_stdout, reason = "the seed repeats a run that failed")]

use std::{
    collections::BTreeMap,
    fs,
    process::Child,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cluster::Cluster,
    env::{Outcome, TestEnv},
};

/// Splitmix64: the same seed gives the same run.
pub(crate) struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

pub(crate) fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("it is a number"))
}

const SOURCE: &str = "
CREATE ROLE app LOGIN PASSWORD 'app-password'; CREATE ROLE reader; GRANT reader TO app;
CREATE DATABASE shop OWNER app;
\\connect shop
CREATE SCHEMA sales AUTHORIZATION app;
CREATE TABLE sales.item (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE, price numeric(9,2));
CREATE TABLE sales.line (id bigint PRIMARY KEY, item bigint NOT NULL REFERENCES sales.item, n int CHECK (n > 0), at timestamptz);
CREATE TABLE sales.note (body text, tags text[], raw bytea);
INSERT INTO sales.item (name, price) SELECT 'item ' || n, n / 7.0 FROM generate_series(1, 4000) n;
INSERT INTO sales.line SELECT n, 1 + n % 4000, 1 + n % 9, timestamptz '2026-01-01' + n * interval '1 min' FROM generate_series(1, 40000) n;
INSERT INTO sales.note SELECT repeat(md5(n::text), 4), ARRAY['a' || n % 5, NULL], decode(md5(n::text), 'hex') FROM generate_series(1, 8000) n;
CREATE INDEX ON sales.line (item, at); CREATE INDEX ON sales.note USING gin (tags);
CREATE VIEW sales.total AS SELECT item, sum(n) FROM sales.line GROUP BY 1;
GRANT SELECT ON ALL TABLES IN SCHEMA sales TO reader;
SELECT lo_from_bytea(0, decode(md5(n::text), 'hex')) FROM generate_series(1, 20) n;
";

/// A plan with every class of effect: opaque, probe, restart, transaction.
fn plan(source: &Cluster, target: &Cluster) -> String {
    format!(
        r#"version: 1
name: chaos
databases:
  source: {{ url: "{}" }}
  target: {{ url: "{}" }}
  extra: {{ url: "{}" }}
  shop: {{ url: "{}" }}
steps:
  - id: announce
    command: {{ run: [sh, -c, "echo announced >> opaque.log"] }}
  - id: stop-app
    downtime: begin
    scale: {{ platform: systemd, services: [app.service, worker.service], to: 0 }}
  - dump: {{ from: source, scope: cluster }}
  - filter: {{ drop_passwords_of: [nobody] }}
  - restore: {{ into: target, expected_errors: ['role "postgres" already exists'] }}
  - verify: {{ left: source, right: target }}
  - create_database: {{ on: extra }}
  - id: count
    for_each: [a, b, c, d, e, f]
    sql:
      database: shop
      run:
        - "INSERT INTO sales.note (body) VALUES ('counted ${{{{ each.value }}}}')"
        - "SELECT pg_sleep(0.05)"
  - id: repoint
    repoint: {{ file: app.env, set: {{ DATABASE_URL: "postgres://new/shop" }} }}
  - id: mark
    command: {{ run: [sh, -c, "echo marked > mark"], done_if: {{ run: [grep, -q, marked, mark] }} }}
  - id: start-app
    downtime: end
    scale: {{ restore: stop-app }}
  - vacuum: {{ database: target, analyze: true }}
  - id: end
    command: {{ run: [sh, -c, "echo ended >> opaque.log"] }}
"#,
        source.url("postgres"),
        target.url("postgres"),
        target.url("extra"),
        target.url("shop")
    )
}

/// What is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Victim {
    Pgplan,
    Program,
    Backend,
    Target,
    Source,
}

/// Returns the processes that were started with this test's folder in their environment.
fn processes_of(env: &TestEnv) -> Vec<(i32, String)> {
    let mark = format!("PGPLAN_FAKE_STATE={}", env.work().with_file_name("fakes").display());
    let entries = fs::read_dir("/proc").expect("Linux has /proc").flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    ids.filter_map(|id| {
        let environ = fs::read(format!("/proc/{id}/environ")).ok()?;
        let ours = environ.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes());
        let words = fs::read_to_string(format!("/proc/{id}/cmdline")).ok()?.replace('\0', " ");
        ours.then_some((id, words))
    })
    .collect()
}

fn kill_now(pid: i32) {
    // It may have ended by itself meanwhile.
    kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
}

/// Strikes once; returns what was struck, which need not be what was wanted when that was not there.
fn strike(victim: Victim, pgplan: &mut Child, env: &TestEnv, source: &mut Cluster, target: &mut Cluster) -> Victim {
    match victim {
        Victim::Program => {
            let own = i32::try_from(pgplan.id()).expect("a process id fits");
            let programs = processes_of(env);
            let guarded = |words: &str| words.contains("__guard") || words.starts_with(env!("CARGO_BIN_EXE_pgplan"));
            if let Some((pid, _)) = programs.iter().find(|(pid, words)| *pid != own && !guarded(words)) {
                kill_now(*pid);
                return Victim::Program;
            }
        }
        Victim::Backend => {
            let sql = "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity \
                       WHERE application_name LIKE 'pgplan%' ORDER BY random() LIMIT 1) one";
            if target.psql("postgres", sql) != "0" || source.psql("postgres", sql) != "0" {
                return Victim::Backend;
            }
        }
        Victim::Target => {
            target.kill9();
            return Victim::Target;
        }
        Victim::Source => {
            source.kill9();
            return Victim::Source;
        }
        Victim::Pgplan => {}
    }
    kill_now(i32::try_from(pgplan.id()).expect("a process id fits"));
    Victim::Pgplan
}

/// Strikes at random moments.
pub(crate) struct Fire<'a> {
    pub(crate) dice: &'a mut Dice,
    /// How many strikes there are at most.
    pub(crate) budget: u64,
    /// What was struck.
    pub(crate) struck: BTreeMap<Victim, u64>,
}

impl Fire<'_> {
    /// Applies a plan and strikes once, if it has not ended by then; returns how it ended. All servers are up again.
    pub(crate) fn apply(
        &mut self,
        attempt: u64,
        env: &TestEnv,
        plan: &str,
        source: &mut Cluster,
        target: &mut Cluster,
    ) -> Outcome {
        let mut child = env.command(&["apply", plan]).spawn().expect("pgplan starts");
        let aims = self.struck.values().sum::<u64>() < self.budget;
        let wait = Duration::from_millis(self.dice.below(150 + 60 * attempt));
        let victim = match self.dice.below(10) {
            0..5 => Victim::Pgplan,
            5 => Victim::Program,
            6 | 7 => Victim::Backend,
            8 => Victim::Target,
            _ => Victim::Source,
        };
        let began = Instant::now();
        while aims && began.elapsed() < wait && child.try_wait().expect("it can be asked").is_none() {
            std::thread::sleep(Duration::from_millis(2));
        }
        if aims && child.try_wait().expect("it can be asked").is_none() {
            *self.struck.entry(strike(victim, &mut child, env, source, target)).or_default() += 1;
        }
        let said = Outcome::of(&child.wait_with_output().expect("pgplan ends"));
        target.revive();
        source.revive();
        said
    }
}

/// Returns the dice of this run; `PGPLAN_CHAOS_SEED` repeats one.
pub(crate) fn dice() -> Dice {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map(|age| age.as_millis());
    let seed = number("PGPLAN_CHAOS_SEED", now.map_or(1, |ms| u64::try_from(ms).unwrap_or(1)));
    println!("seed {seed}");
    Dice(seed)
}

/// Fails unless every session and program of pgplan's has ended.
pub(crate) fn nothing_runs_on(env: &TestEnv, servers: [&Cluster; 2]) {
    let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'pgplan%'";
    crate::live_claims::until("no session is left", || {
        servers.iter().all(|server| server.psql("postgres", left) == "0")
    });
    crate::live_claims::until("no program is left", || processes_of(env).is_empty());
}

/// Does what a person does when pgplan does not know whether an opaque step was done: looks, and says so.
fn decide(env: &TestEnv) {
    let log = fs::read_to_string(env.work().join("opaque.log")).unwrap_or_default();
    let status = env.pgplan(&["status", "--json"]).expect(0);
    let state: serde_json::Value = serde_json::from_str(&status.stdout).expect("status prints JSON");
    let mut decided = 0;
    for (step, word) in [("announce", "announced"), ("end", "ended")] {
        let actions = &state["run"]["steps"][step]["actions"];
        let lost = |action: &serde_json::Value| action["status"] == "indeterminate";
        if actions.as_array().is_some_and(|actions| actions.iter().any(lost)) {
            let verdict = if log.lines().any(|line| line == word) { "done" } else { "retry" };
            env.pgplan(&["resolve", step, "--as", verdict]).expect(0);
            decided += 1;
        }
    }
    assert!(decided > 0, "a person was asked about nothing: {}", status.stdout);
}

/// One plan from begin to end under fire; returns what was struck.
fn round(dice: &mut Dice, budget: u64, source: &mut Cluster) -> BTreeMap<Victim, u64> {
    let mut target = Cluster::start("18");
    let env = TestEnv::new();
    env.set_fakes(&serde_json::json!({ "units": { "app.service": "active", "worker.service": "active" } }));
    env.write("app.env", "DATABASE_URL=postgres://old/shop # the database\n");
    env.write("chaos.yaml", &plan(source, &target));
    let mut fire = Fire { dice, budget, struck: BTreeMap::new() };
    let mut last = String::new();
    // Strikes get rarer, so that a round ends.
    for attempt in 0..200 {
        let said = fire.apply(attempt, &env, "chaos.yaml", source, &mut target);
        match said.status.code() {
            Some(0) => {
                check(&env, source, &target, &last);
                return fire.struck;
            }
            None | Some(1) => {}
            Some(5) => decide(&env),
            Some(_) => panic!("{}\n{}", said.status, said.stderr),
        }
        last = said.stderr;
    }
    panic!("it does not come to an end; the last session said:\n{last}");
}

/// The end state: exact, whatever was struck.
fn check(env: &TestEnv, source: &Cluster, target: &Cluster, last: &str) {
    let rows = |server: &Cluster, table: &str, rule: &str| {
        server.psql(
            "shop",
            &format!("SELECT count(*), md5(string_agg(t::text, '|' ORDER BY t::text)) FROM {table} t {rule}"),
        )
    };
    for table in ["sales.item", "sales.line", "sales.total"] {
        assert_eq!(rows(source, table, ""), rows(target, table, ""), "{table}; before: {last}");
    }
    let original = "WHERE body NOT LIKE 'counted %'";
    assert_eq!(rows(source, "sales.note", ""), rows(target, "sales.note", original), "sales.note");
    let counted = "SELECT string_agg(body, ', ' ORDER BY body) FROM sales.note WHERE body LIKE 'counted %'";
    let once = ["a", "b", "c", "d", "e", "f"].map(|each| format!("counted {each}")).join(", ");
    assert_eq!(target.psql("shop", counted), once, "each exactly once");
    let catalog = "SELECT (SELECT count(*) FROM pg_indexes WHERE schemaname = 'sales'), \
                   (SELECT count(*) FROM pg_constraint WHERE conrelid = 'sales.line'::regclass AND contype <> 'n'), \
                   (SELECT count(*) FROM pg_largeobject_metadata), (SELECT last_value FROM sales.item_id_seq), \
                   pg_has_role('app', 'reader', 'MEMBER'), has_table_privilege('reader', 'sales.line', 'SELECT')";
    assert_eq!(source.psql("shop", catalog), target.psql("shop", catalog));
    assert_eq!(target.psql("postgres", "SELECT count(*) FROM pg_database WHERE datname = 'extra'"), "1");
    assert_eq!(env.read("opaque.log"), "announced\nended\n", "a person's word is kept");
    assert_eq!(env.read("app.env"), "DATABASE_URL=postgres://new/shop # the database\n");
    assert_eq!(env.fakes()["units"]["app.service"], "active");
    for database in ["shop", "postgres", "extra"] {
        let left = target.psql(database, "SELECT count(*) FROM pg_namespace WHERE nspname = 'pgplan'");
        assert_eq!(left, "0", "receipts are left in {database}");
    }
    nothing_runs_on(env, [source, target]);
}

#[test]
fn nothing_is_lost_whatever_is_killed() {
    let kills = number("PGPLAN_CHAOS_KILLS", 10);
    let mut dice = dice();
    let mut source = Cluster::start("15");
    source.psql("postgres", SOURCE);
    // A crash makes sequences jump to what the log says beforehand (32 values ahead), unless that is on disk already.
    source.psql("postgres", "CHECKPOINT");
    let mut struck: BTreeMap<Victim, u64> = BTreeMap::new();
    let mut rounds = 0;
    while struck.values().sum::<u64>() < kills {
        let left = kills - struck.values().sum::<u64>();
        for (victim, times) in round(&mut dice, left.min(25), &mut source) {
            *struck.entry(victim).or_default() += times;
        }
        rounds += 1;
    }
    println!("{} kills in {rounds} runs: {struck:?}", struck.values().sum::<u64>());
}
