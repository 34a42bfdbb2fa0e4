//! The plans in `plans/`, applied as they are by the program, against real servers and the platforms' stand-ins.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::env::{Outcome, TestEnv};
use crate::live_restore::{DATABASES, DEMO_ERRORS, aptible_with, load_demo, no_receipts, same};

pub(crate) fn plan(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plans").join(name);
    fs::canonicalize(path).expect("the plan is there").display().to_string()
}

/// Applies a plan with variables; the end state stands on stdout, the events in `events.json`.
pub(crate) fn apply(env: &TestEnv, name: &str, vars: &[(&str, &str)], more: &[&str]) -> Outcome {
    let mut args = vec!["apply".to_owned(), plan(name), "--json".to_owned(), "--events".to_owned()];
    args.push("events.json".to_owned());
    for (name, value) in vars {
        args.extend(["--var".to_owned(), format!("{name}={value}")]);
    }
    args.extend(more.iter().map(|word| (*word).to_owned()));
    env.pgplan(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(folder).expect("the folder can be read") {
        let path = entry.expect("the entry can be read").path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all
}

/// Fails when a password stands in what was printed or in a file that pgplan left: journal, events, dumps.
#[track_caller]
pub(crate) fn never_told(env: &TestEnv, said: &Outcome, passwords: &[&str]) {
    let kept = files(&env.work().join(".pgplan"));
    assert!(kept.iter().any(|path| path.ends_with("state.db")), "no journal among {kept:?}");
    let kept = kept.into_iter().chain([env.work().join("events.json")]);
    for path in kept {
        let bytes = fs::read(&path).expect("the file can be read");
        for password in passwords {
            let found = bytes.windows(password.len()).any(|part| part == password.as_bytes());
            assert!(!found, "{password} stands in {}", path.display());
        }
    }
    for password in passwords {
        assert!(!said.stdout.contains(password) && !said.stderr.contains(password), "{password} was printed");
    }
}

/// Returns what the dry run of a plan prints, without what differs from run to run.
pub(crate) fn dry_run(env: &TestEnv, name: &str, vars: &[(&str, &str)], hide: &[(String, &str)]) -> String {
    let mut args = vec!["plan".to_owned(), plan(name), "--allow-programs".to_owned()];
    for (name, value) in vars {
        args.extend(["--var".to_owned(), format!("{name}={value}")]);
    }
    let said = env.pgplan(&args.iter().map(String::as_str).collect::<Vec<_>>()).expect(0);
    let folder = Path::new(&plan(name)).parent().expect("a file has a folder").display().to_string();
    let hidden = [
        (folder, "PLANS"),
        (env.work().display().to_string(), "WORK"),
        (crate::env::cache_folder().display().to_string(), "CACHE"),
    ];
    let text = hidden.iter().chain(hide).fold(said.stdout, |text, (what, by)| text.replace(what.as_str(), by));
    without_numbers_in(&text)
}

/// Returns a text without the sizes and minor versions in it.
pub(crate) fn without_numbers_in(text: &str) -> String {
    text.split_inclusive('\n').map(without_numbers).collect()
}

/// Replaces sizes and minor versions in a line: they differ from machine to machine.
fn without_numbers(line: &str) -> String {
    let words: Vec<&str> = line.split(' ').collect();
    let plain = |at: usize, word: &str| {
        let unit = words.get(at + 1).is_some_and(|next| ["B", "KiB", "MiB"].iter().any(|unit| next.starts_with(unit)));
        let version = word.split_once('.').filter(|(major, rest)| {
            major.len() == 2 && [*major, *rest].iter().all(|part| part.starts_with(|c: char| c.is_ascii_digit()))
        });
        match version {
            _ if unit => "N".to_owned(),
            Some((major, rest)) => format!("{major}.N{}", rest.trim_start_matches(|c: char| c.is_ascii_digit())),
            None => word.to_owned(),
        }
    };
    words.iter().enumerate().map(|(at, word)| plain(at, word)).collect::<Vec<_>>().join(" ")
}

/// Returns an output of a step from the end state that `apply --json` prints.
#[track_caller]
pub(crate) fn output(done: &Outcome, step: &str, name: &str) -> Value {
    let state: Value = serde_json::from_str(&done.stdout).expect("the end state is JSON");
    let actions = state["steps"][step]["actions"].as_array().expect("the step has actions").clone();
    let found = actions.iter().rev().find_map(|action| action["output"]["outputs"].get(name).cloned());
    found.unwrap_or_else(|| panic!("{step} has no output {name}"))["plain"].take()
}

#[test]
fn every_plan_is_checked_and_fits_the_schema() {
    let validator = jsonschema::draft7::new(&pgplan_engine::schema::plan_schema()).expect("the schema is one");
    let env = TestEnv::new();
    let mut shown = String::new();
    for path in files(Path::new("../plans")) {
        let name = path.file_name().expect("a file has a name").to_string_lossy().into_owned();
        let mut args = vec!["check".to_owned(), plan(&name), "--strict".to_owned()];
        // The plan that has no default for it.
        if name == "habitat-merge-databases.yaml" {
            let schema = env.write("builder.sql", "CREATE TABLE origins (id bigint)");
            args.push(format!("--var=schema={}", schema.display()));
        }
        let checked = env.pgplan(&args.iter().map(String::as_str).collect::<Vec<_>>()).expect(0);
        let folder = format!("{}/", Path::new(&plan(&name)).parent().expect("it has a folder").display());
        shown.push_str(&checked.stderr.replace(&folder, ""));
        let json = crate::check::to_json(&path).expect("the plan is YAML");
        let errors: Vec<String> = validator.iter_errors(&json).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{name}: {errors:#?}");
        let text = fs::read_to_string(&path).expect("the plan can be read");
        assert!(text.contains(&format!("pgplan apply {name}")), "{name} does not say how it is run");
    }
    let mut lines: Vec<&str> = shown.lines().collect();
    lines.sort_unstable();
    insta::assert_snapshot!("checked_plans", lines.join("\n"));
}

/// The demo's SQL without what PostgreSQL 13 does not know.
fn demo_for_13() -> String {
    let mut sql = crate::live_restore::demo_sql().to_owned();
    let newer = [
        (", multirange_type_name = price_spans", ""),
        ("spans price_spans", "spans price_span"),
        ("{[1,2),[5,)}", "[1,2)"),
        ("UNIQUE NULLS NOT DISTINCT", "UNIQUE"),
        ("CREATE STATISTICS orders_day ON date_trunc('day', placed AT TIME ZONE 'UTC') FROM orders;", ""),
        (
            "BEGIN ATOMIC\n    SELECT CASE WHEN net > 0 THEN (net * 20) / 100 ELSE 0 END;\n    SELECT (net * 20) / 100;\nEND;",
            "AS 'SELECT (net * 20) / 100;';",
        ),
        ("RETURN coalesce($1, 0) + coalesce($2, 0);", "AS 'SELECT coalesce($1, 0) + coalesce($2, 0)';"),
        ("TABLE shop.orders WHERE (id > 0), shop.item", "TABLE shop.orders, shop.item"),
    ];
    for (new, old) in newer {
        assert!(sql.contains(new), "the demo has no `{new}`");
        sql = sql.replace(new, old);
    }
    sql
}

/// An upgrade of the demo's cluster on Aptible, the plan as it is.
fn upgrade(version: &str) {
    let (env, passwords) = (TestEnv::new(), ["0ldS3cretOfAptible", "n3wS3cretOfAptible"]);
    let (source, target) = (aptible_with(version, passwords[0]), aptible_with("18", passwords[1]));
    match version {
        "13" => {
            source.psql("db", &demo_for_13());
        }
        _ => load_demo(&source),
    }
    env.set_fakes(&json!({
        "apps": { "orders": { "environment": "production", "services": { "cmd": 2, "worker": 3 },
                              "config": { "DB_URL": source.url("db") } } },
        "databases": {
            "orders-15": { "environment": "production", "version": version, "url": source.url("db") },
            "orders-18": { "environment": "production", "version": "18", "url": target.url("db") } } }));
    let done = apply(&env, "aptible-upgrade.yaml", &[("source_major", version)], &["--yes"]).expect(0);
    let came = json!({ DEMO_ERRORS[0]: 1, DEMO_ERRORS[1]: 1, DEMO_ERRORS[2]: 1 });
    assert_eq!(output(&done, "restore", "errors_expected"), came);
    assert_eq!(output(&done, "verify", "equal"), json!(true));
    same(&source, &target, &DATABASES);
    no_receipts(&target, &DATABASES);
    let app = &env.fakes()["apps"]["orders"];
    assert_eq!(app["services"], json!({ "cmd": 2, "worker": 3 }));
    assert_eq!(app["config"]["DB_URL"], json!(target.url("db")));
    let stopped = env.fake_calls().iter().filter(|call| call.contains("--container-count 0")).count();
    assert_eq!(stopped, 2, "{:?}", env.fake_calls());
    assert!(!env.fake_calls().iter().any(|call| call.contains("db:deprovision")), "nothing is destroyed");
    never_told(&env, &done, &passwords);
    // The new server's own password is the one that holds, and the roles' passwords came along.
    let hash = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname IN ('app', 'analyst') ORDER BY 1";
    assert_eq!(source.psql("db", hash), target.psql("db", hash));
}

#[test]
fn an_app_on_aptible_goes_from_15_to_18() {
    upgrade("15");
}

#[test]
fn an_app_on_aptible_goes_from_13_to_18() {
    upgrade("13");
}

#[test]
fn a_target_that_is_not_empty_is_refused() {
    let (env, passwords) = (TestEnv::new(), ["0ldS3cretOfAptible", "n3wS3cretOfAptible"]);
    let (source, target) = (aptible_with("15", passwords[0]), aptible_with("18", passwords[1]));
    target.psql("db", "CREATE TABLE other AS SELECT 1 AS n");
    env.set_fakes(&json!({
        "apps": { "orders": { "environment": "production", "services": { "cmd": 2, "worker": 3 },
                              "config": { "DB_URL": "old" } } },
        "databases": {
            "orders-15": { "environment": "production", "version": "15", "url": source.url("db") },
            "orders-18": { "environment": "production", "version": "18", "url": target.url("db") } } }));
    let done = apply(&env, "aptible-upgrade.yaml", &[], &["--yes"]);
    assert_ne!(done.status.code(), Some(0), "{}", done.stderr);
    assert!(done.stderr.contains("should be empty and holds 1 table"), "{}", done.stderr);
    assert_eq!(env.fakes()["apps"]["orders"]["config"]["DB_URL"], "old");
    assert_eq!(target.psql("db", "SELECT count(*) FROM pg_roles WHERE rolname = 'app'"), "0");
}

#[test]
fn the_dry_run_of_an_upgrade_says_what_is_known_before() {
    let env = TestEnv::new();
    env.set_fakes(
        &json!({ "apps": { "orders": { "environment": "production", "services": { "cmd": 2, "worker": 3 } } } }),
    );
    insta::assert_snapshot!("aptible_upgrade", dry_run(&env, "aptible-upgrade.yaml", &[], &[]));
}
