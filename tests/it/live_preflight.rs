//! Preflights on real servers: sources with hazards are reported without a miss, clean ones without a false alarm.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pgplan_engine::preflight::{all, rule::Severity};
use serde_json::Value;

use crate::cluster::{Cluster, Settings, drop_root};
use crate::env::{TestEnv, bin_folder};
use crate::live_claims::{Bouncer, until};

mod expected;

use expected::{ABOVE_18, CRAFTED, Expected, IN_PLACE, POOR, REPLICATED, RESTRICTED, WITH_18, WITHOUT_ICU};

/// What a preflight found: code → objects by their full names. Process ids are written as N.
type Found = BTreeMap<String, BTreeSet<String>>;

fn of(expected: Expected) -> Found {
    let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    expected.iter().map(|(code, objects)| ((*code).to_owned(), names(objects))).collect()
}

fn full_name(object: &Value) -> String {
    let name = object["name"].as_str().expect("an object has a name");
    let name = if name.starts_with("session ") { "session N" } else { name };
    object["database"].as_str().map_or(name.to_owned(), |database| format!("{database}: {name}"))
}

fn found(report: &Value) -> Found {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let entry = |finding: &Value| {
        let code = finding["code"].as_str().expect("a finding has a code").to_owned();
        (code, list(&finding["objects"]).iter().map(full_name).collect())
    };
    list(&report["findings"]).iter().map(entry).collect()
}

/// Fails unless exactly these findings came, but for those of `known`.
#[track_caller]
fn only(report: &Value, expected: Expected, known: &[&str]) {
    let mut found = found(report);
    found.retain(|code, _| !known.contains(&code.as_str()));
    let mut wanted = of(expected);
    let (mut missed, mut wrong) = (Vec::new(), Vec::new());
    for (code, objects) in &found {
        let wanted = wanted.remove(code).unwrap_or_default();
        missed.extend(wanted.difference(objects).map(|name| format!("{code}: {name}")));
        wrong.extend(objects.difference(&wanted).map(|name| format!("{code}: {name}")));
    }
    missed.extend(wanted.iter().flat_map(|(code, names)| names.iter().map(move |name| format!("{code}: {name}"))));
    assert!(missed.is_empty() && wrong.is_empty(), "missed: {missed:#?}\nfalse alarms: {wrong:#?}");
}

fn unchecked(report: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or("*").to_owned();
    let list = report["unchecked"].as_array().cloned().unwrap_or_default();
    list.iter().map(|one| (text(&one["code"]), text(&one["database"]))).collect()
}

/// Returns the only report of a look at a plan with this step; exit code 6 when something stands in the way.
#[track_caller]
fn look(env: &TestEnv, databases: &str, step: &str) -> Value {
    env.write("plan.yaml", &format!("version: 1\nname: preflight\n{databases}steps:\n  - preflight: {step}\n"));
    let outcome = env.pgplan(&["check", "--live", "plan.yaml", "--json"]);
    let reports: Value =
        serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {}", outcome.stderr));
    let report = reports[0]["report"].clone();
    let blocked = report["findings"].as_array().expect("a list").iter().any(|one| one["severity"] == "blocker");
    outcome.expect(if blocked { 6 } else { 0 });
    report
}

fn databases(pairs: &[(&str, &str)]) -> String {
    let lines = pairs.iter().map(|(name, url)| format!("  {name}: {{ url: '{url}' }}\n"));
    format!("databases:\n{}", lines.collect::<String>())
}

fn append(cluster: &Cluster, file: &str, text: &str) {
    let file = OpenOptions::new().append(true).open(cluster.data().join(file));
    file.and_then(|mut file| file.write_all(text.as_bytes())).expect("the server's configuration can be written");
}

/// A client that keeps a transaction open.
struct Client(Child);

impl Client {
    fn begin(cluster: &Cluster, dbname: &str, sql: &str) -> Self {
        let mut command = Command::new(cluster.bin("psql"));
        command.args(["-Xq", &cluster.url(dbname)]).env_clear();
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child = child.expect("psql starts");
        let stdin = child.stdin.as_mut().expect("stdin is a pipe");
        stdin.write_all(format!("BEGIN; {sql};\n").as_bytes()).expect("psql reads");
        until("the client is in its transaction", || {
            cluster.psql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'") == "1"
        });
        Self(child)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.0.kill().and_then(|()| self.0.wait()).expect("psql can be killed");
    }
}

fn known(lists: &[Expected]) -> Vec<&'static str> {
    lists.iter().flat_map(|list| list.iter().map(|(code, _)| *code)).collect()
}

#[test]
fn every_rule_has_a_case_or_says_why_not() {
    let cases: BTreeSet<&str> =
        known(&[CRAFTED, IN_PLACE, REPLICATED, ABOVE_18, RESTRICTED, WITHOUT_ICU, POOR, WITH_18, expected::ALONE])
            .into_iter()
            .collect();
    let tested: BTreeSet<&str> = all().iter().filter(|rule| rule.untested.is_none()).map(|rule| rule.code).collect();
    assert_eq!(cases, tested);
    let codes: BTreeSet<&str> = all().iter().map(|rule| rule.code).collect();
    assert_eq!(codes.len(), all().len(), "a code is there twice");
    for rule in all() {
        assert!(rule.link.starts_with("https://"), "{}: {}", rule.code, rule.link);
        assert!(!rule.title.ends_with('.') && !rule.why.ends_with('.') && !rule.fix.ends_with('.'), "{}", rule.code);
    }
}

#[test]
fn a_crafted_source_is_reported_without_a_miss_and_a_clean_one_without_a_false_alarm() {
    let env = TestEnv::new();
    let conf = vec!["max_prepared_transactions = 5".to_owned()];
    let mut source = Cluster::with(Settings { conf, ..Settings::new("13") });
    let mut target = Cluster::start("18");
    source.psql("postgres", "CREATE DATABASE shop");
    for dbname in ["postgres", "template1"] {
        source.psql(dbname, "REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    }
    source.psql("shop", include_str!("preflight/clean.sql"));
    let both = databases(&[("source", &source.url("shop")), ("target", &target.url("shop"))]);
    let way = |method: &str| format!("{{ source: source, target: target, method: {method} }}");

    // The clean twin.
    let report = look(&env, &both, &way("dump"));
    only(&report, &[], &[]);
    assert!(unchecked(&report).is_empty(), "{report:#}");
    assert!(report["rules"].as_u64() > Some(70), "{report:#}");
    only(&look(&env, &both, &way("in_place")), &[("no_checksums", &["setting data_checksums"])], &[]);
    only(&look(&env, &both, "{ source: source, to_version: 19 }"), &[], &[]);

    craft(&mut source, &mut target);
    let client = Client::begin(&source, "shop", "CREATE TABLE meanwhile (id int PRIMARY KEY)");
    let opened = Instant::now();
    let in_place = look(&env, &both, &way("in_place"));
    let above = look(&env, &both, "{ source: source, to_version: 19, method: in_place }");
    while opened.elapsed() < Duration::from_millis(10_500) {
        std::thread::sleep(Duration::from_millis(100));
    }
    let dumped = look(&env, &both, &way("dump"));
    let replicated = look(&env, &both, &way("replication"));
    only(&dumped, CRAFTED, &[]);
    assert!(CRAFTED.len() >= 40, "{}", CRAFTED.len());
    assert_eq!(unchecked(&dumped), [("*".to_owned(), "abroad".to_owned()), ("*".to_owned(), "mule".to_owned())]);
    only(&in_place, IN_PLACE, &known(&[CRAFTED]));
    only(&above, ABOVE_18, &known(&[CRAFTED, IN_PLACE]));
    only(&replicated, REPLICATED, &known(&[CRAFTED]));
    drop(client);

    shown_alike(&env, &both);
    waived(&env, &both);
}

/// Makes the hazards on both servers.
fn craft(source: &mut Cluster, target: &mut Cluster) {
    append(
        source,
        "postgresql.conf",
        "shared_preload_libraries = 'auto_explain'\nvacuum_defer_cleanup_age = 10\nmax_slot_wal_keep_size = '10GB'\n\
         max_replication_slots = 1\nstandard_conforming_strings = off\n",
    );
    append(source, "pg_hba.conf", "host all far 10.0.0.0/8 radius radiusservers=\"10.0.0.1\" radiussecrets=\"x\"\n");
    append(target, "postgresql.conf", "max_logical_replication_workers = 0\n");
    source.restart();
    target.restart();
    let folder = source.socket().join("tablespace");
    source.psql("postgres", &format!("COPY (SELECT 1) TO PROGRAM 'cat >/dev/null; mkdir {}'", folder.display()));
    let hazards = include_str!("preflight/hazards13.sql");
    source.psql(
        "shop",
        &format!("SET standard_conforming_strings = on;\n\\set tablespace '{}'\n{hazards}", folder.display()),
    );
    target.psql("postgres", include_str!("preflight/target18.sql"));
}

/// The dry run, the apply and every format say the same.
fn shown_alike(env: &TestEnv, both: &str) {
    let plan = format!("version: 1\nname: shown\n{both}steps:\n  - preflight: {{ source: source, target: target }}\n");
    env.write("plan.yaml", &plan);
    let live = env.pgplan(&["check", "--live", "plan.yaml"]).expect(6).stdout;
    let dry = env.pgplan(&["plan", "plan.yaml"]).expect(6).stdout;
    let markdown = env.pgplan(&["check", "--live", "plan.yaml", "--format", "markdown"]).expect(6).stdout;
    for text in [&live, &dry, &markdown] {
        for words in
            ["locker", "arnings", "otes", "parent_not_null", "shop: column public.child.id (NOT NULL in public.parent)"]
        {
            assert!(text.contains(words), "{words} is not in\n{text}");
        }
        assert!(text.contains(r#"role "boss\nman""#) || !text.contains("boss"), "a name is on several lines:\n{text}");
    }
    assert!(live.contains("ALTER TABLE public.child ALTER COLUMN id SET NOT NULL;"), "{live}");
    assert!(dry.contains("would fail: ") && dry.contains("blockers: "), "{dry}");
    assert!(markdown.contains("### Blockers\n") && markdown.contains("[More](https://"), "{markdown}");
    let applied = env.pgplan(&["apply", "plan.yaml"]).expect(6).stderr;
    assert!(applied.contains("blockers: ") && applied.contains("shop: table public.orphan"), "{applied}");
    let folder = env.work().join(".pgplan/runs");
    let kept: Vec<_> = std::fs::read_dir(folder).expect("there is a run").flatten().collect();
    let file = kept[0].path().join("preflight/preflight.json");
    let report: Value = serde_json::from_reader(File::open(file).expect("the report is kept")).expect("it is JSON");
    assert!(found(&report).contains_key("parent_not_null"), "{report:#}");
}

/// Waivers for every blocker let the step pass; one that has expired and one that covers nothing do not.
fn waived(env: &TestEnv, both: &str) {
    let blockers = all().iter().filter(|rule| rule.severity == Severity::Blocker).map(|rule| rule.code);
    let there: Vec<&str> = blockers.filter(|code| CRAFTED.iter().any(|(crafted, _)| crafted == code)).collect();
    let waiver = |code: &str, more: &str, until: &str| {
        format!("        - {{ code: {code}, {more}reason: known and accepted, until: {until} }}\n")
    };
    let plan = |waivers: &str| {
        let step = format!("  - preflight:\n      source: source\n      target: target\n      waive:\n{waivers}");
        env.write("waived.yaml", &format!("version: 1\nname: waived\n{both}steps:\n{step}"));
    };
    let every: String = there.iter().map(|code| waiver(code, "", "2999-12-31")).collect();
    plan(&every);
    let shown = env.pgplan(&["check", "--live", "waived.yaml"]).expect(0).stdout;
    assert!(shown.contains("parent_not_null until 2999-12-31: known and accepted"), "{shown}");
    let applied = env.pgplan(&["apply", "waived.yaml"]).expect(0).stderr;
    assert!(applied.contains("waived until 2999-12-31: parent_not_null"), "{applied}");

    plan(&format!("{every}{}", waiver("sql_ascii", "objects: ['database other'], ", "2999-12-31")));
    let unused = env.pgplan(&["check", "--live", "waived.yaml"]).expect(6).stdout;
    assert!(unused.contains("the waiver of `sql_ascii` is not used: no object `database other` was found"), "{unused}");
    plan(&every.replacen("2999-12-31", "2020-01-31", 1));
    let expired = env.pgplan(&["apply", "waived.yaml", "--fresh"]).expect(6).stderr;
    assert!(expired.contains("has expired: it was until 2020-01-31"), "{expired}");
}

#[test]
fn what_roles_may_not_and_what_a_target_lacks_is_told() {
    let env = TestEnv::new();
    let mut source = Cluster::start("15.18");
    let (with_icu, without) = (Cluster::start("18"), Cluster::start("16"));
    for cluster in [&with_icu, &without] {
        cluster.psql("postgres", "CREATE ROLE limited LOGIN CREATEDB CREATEROLE");
    }
    let limited = |cluster: &Cluster| cluster.url("postgres").replacen("postgres@", "limited@", 1);
    source.psql("postgres", "CREATE DATABASE plain");
    source.psql("postgres", "CREATE ROLE limited; ALTER DATABASE plain OWNER TO limited");
    let own = "SET ROLE limited; CREATE TABLE t (id int PRIMARY KEY, note text); CREATE EXTENSION tablefunc; \
               CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'";
    source.psql("plain", &format!("GRANT CREATE ON SCHEMA public TO limited; {own}"));
    let at = |target: &str| databases(&[("source", &source.url("plain")), ("target", target)]);
    let step = "{ source: source, target: target, databases: [plain] }";
    only(&look(&env, &at(&limited(&with_icu)), step), &[("same_roles", &["role limited"])], &[]);

    source.psql("postgres", "CREATE DATABASE icu LOCALE_PROVIDER icu ICU_LOCALE 'de' TEMPLATE template0");
    source.psql("plain", include_str!("preflight/restricted15.sql"));
    source.psql("icu", "CREATE TABLE words (v tsvector); CREATE INDEX words_v ON words USING gin (v)");
    let report = look(&env, &at(&limited(&with_icu)), step);
    only(&report, RESTRICTED, &["same_roles", "extension_versions"]);
    let step = "{ source: source, target: target, databases: [plain, icu] }";
    let report = look(&env, &at(&without.url("plain")), step);
    only(&report, WITHOUT_ICU, &known(&[RESTRICTED, &[("same_roles", &[])]]));
    let step = "{ source: source, target: target, databases: [plain, icu], method: in_place }";
    let report = look(&env, &at(&with_icu.url("plain")), step);
    only(&report, WITH_18, &known(&[RESTRICTED]));

    // A poor role on the source reads little, and is told what it could not ask.
    let poor = source.url("plain").replacen("postgres@", "poor@", 1);
    let both = databases(&[("source", &poor), ("target", &with_icu.url("plain"))]);
    let step = "{ source: source, target: target, databases: [plain], method: replication }";
    let replicated = look(&env, &both, step);
    let step = "{ source: source, target: target, databases: [plain] }";
    let dumped = look(&env, &both, step);
    for (code, objects) in of(POOR) {
        let either = [&replicated, &dumped].iter().any(|report| found(report).get(&code) == Some(&objects));
        assert!(either, "{code}: {:#?} {:#?}", found(&replicated).get(&code), found(&dumped).get(&code));
    }
    let not_asked: Vec<String> = unchecked(&dumped).into_iter().map(|(code, _)| code).collect();
    for code in ["md5_passwords", "libraries_not_preloaded"] {
        assert!(not_asked.iter().any(|one| one == code), "{code} is not in {not_asked:?}");
    }

    // With checksums, pg_upgrade to 18 has nothing to say about them.
    source.stop();
    let mut command = Command::new(source.bin("pg_checksums"));
    command.args(["--enable", "-D"]).arg(source.data()).env_clear().stdout(Stdio::null());
    drop_root(&mut command);
    assert!(command.status().is_ok_and(|status| status.success()), "pg_checksums fails");
    source.restart();
    let both = databases(&[("source", &source.url("plain"))]);
    let report = look(&env, &both, "{ source: source, to_version: 18, databases: [plain], method: in_place }");
    assert!(!found(&report).contains_key("no_checksums"), "{report:#}");
}

#[test]
fn five_thousand_tables_take_as_many_queries_as_five() {
    let env = TestEnv::new();
    let conf = ["max_connections = 20", "max_locks_per_transaction = 10", "wal_level = logical"].map(str::to_owned);
    let source = Cluster::with(Settings { conf: conf.into(), ..Settings::new("16") });
    let make = |from: u32, to: u32| {
        let one = "CREATE TABLE t%s (id int PRIMARY KEY, note text NOT NULL)";
        for start in (from..=to).step_by(100) {
            let end = to.min(start + 99);
            source.psql(
                "postgres",
                &format!("DO $$ BEGIN FOR n IN {start}..{end} LOOP EXECUTE format('{one}', n); END LOOP; END $$"),
            );
        }
    };
    make(1, 5);
    let both = databases(&[("source", &source.url("postgres")), ("target", &source.url("other"))]);
    let replicated = look(&env, &both, "{ source: source, to_version: 18, method: replication }");
    only(&replicated, &[], &[]);
    let few = look(&env, &both, "{ source: source, to_version: 18 }");
    only(&few, &[], &[]);
    make(6, 5000);
    let begun = Instant::now();
    let many = look(&env, &both, "{ source: source, to_version: 18 }");
    let took = begun.elapsed();
    only(&many, &[("too_few_locks", &["postgres: database postgres"])], &[]);
    assert_eq!(few["queries"], many["queries"]);
    assert!(few["queries"].as_u64() < Some(120), "{}", few["queries"]);
    assert!(took < Duration::from_secs(60), "{took:?}");
}

#[test]
fn servers_and_programs_that_do_not_fit_are_told() {
    let env = TestEnv::new();
    let server = Cluster::start("18");
    let pooler = Bouncer::start(&server, "transaction");
    let alone = databases(&[("source", &server.url("postgres"))]);
    only(&look(&env, &alone, "{ source: source, to_version: 18 }"), &[], &[]);
    only(&look(&env, &alone, "{ source: source, to_version: 16 }"), &[("target_older", &["version 16"])], &[]);

    let pooled = databases(&[("source", &format!("postgresql://postgres@127.0.0.1:{}/postgres", pooler.port))]);
    let report = look(&env, &pooled, "{ source: source, to_version: 18 }");
    let codes: Vec<String> = found(&report).into_keys().collect();
    assert_eq!(codes, ["transaction_pooler"]);
    assert_eq!(unchecked(&report)[0].0, "*");
    drop(pooler);

    // Only the programs of 16, for a server of 18.
    env.write(
        "plan.yaml",
        &format!("version: 1\nname: old\n{alone}steps:\n  - preflight: {{ source: source, to_version: 18 }}\n"),
    );
    let mut command = env.command(&["check", "--live", "plan.yaml"]);
    command.env("PGPLAN_CACHE", env.work()).env("PGPLAN_PG_BIN", bin_folder("16")).env("PATH", env.work());
    let outcome = crate::env::Outcome::of(&command.output().expect("pgplan starts")).expect(6);
    assert!(outcome.stdout.contains("client_too_old") && outcome.stdout.contains("pg_dump 18"), "{}", outcome.stdout);
}

#[test]
fn a_standby_and_jobs_of_pg_cron_are_told() {
    let env = TestEnv::new();
    let conf = ["shared_preload_libraries = 'pg_cron'", "cron.database_name = 'jobs'"].map(str::to_owned);
    let mut source = Cluster::with(Settings { conf: conf.into(), ..Settings::new("15") });
    source.psql("postgres", "CREATE DATABASE jobs");
    let alone = databases(&[("source", &source.url("jobs"))]);
    let step = "{ source: source, to_version: 18 }";
    let before = found(&look(&env, &alone, step));
    assert!(!before.contains_key("standby_source") && !before.contains_key("pg_cron"), "{before:#?}");

    source.psql("jobs", "CREATE EXTENSION pg_cron; SELECT cron.schedule('0 3 * * *', 'VACUUM')");
    source.stop();
    File::create(source.data().join("standby.signal")).expect("the file can be made");
    source.restart();
    assert_eq!(source.psql("jobs", "SELECT pg_is_in_recovery()"), "t");
    let alone = databases(&[("source", &source.url("jobs"))]);
    let after = found(&look(&env, &alone, step));
    assert_eq!(after["pg_cron"], ["jobs: extension pg_cron".to_owned()].into());
    assert_eq!(after["standby_source"].len(), 1, "{after:#?}");
}

#[test]
fn a_plan_without_a_preflight_is_looked_at_as_if_it_had_one() {
    let env = TestEnv::new();
    let server = Cluster::start("16");
    server.psql("postgres", "CREATE DATABASE left_side");
    server.psql("postgres", "CREATE DATABASE right_side");
    server.psql("right_side", "CREATE TABLE t (a int)");
    let both = databases(&[("from", &server.url("left_side")), ("to", &server.url("right_side"))]);
    let steps = "steps:\n  - dump: { from: from }\n  - filter: { no_acl: true }\n  - restore: { into: to }\n";
    env.write("plan.yaml", &format!("version: 1\nname: bare\n{both}{steps}"));
    let shown = env.pgplan(&["check", "--live", "plan.yaml"]).expect(6).stdout;
    assert!(shown.contains("target_not_empty") && shown.contains("right_side: table public.t"), "{shown}");
    server.psql("right_side", "DROP TABLE t");
    env.pgplan(&["check", "--live", "plan.yaml", "--strict"]).expect(0);
    env.write("plan.yaml", &format!("version: 1\nname: bare\n{both}steps:\n  - vacuum: {{ database: to }}\n"));
    let refused = env.pgplan(&["check", "--live", "plan.yaml"]).expect(2).stderr;
    assert!(refused.contains("restores nothing that it dumps"), "{refused}");
}
