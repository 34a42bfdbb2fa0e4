//! `pgplan apply` with real programs: what each common key of a step does at run time.

use serde_json::Value;

use crate::env::{Outcome, TestEnv};

/// Writes a plan of these steps and applies it.
fn apply(env: &TestEnv, steps: &str, args: &[&str]) -> Outcome {
    env.write("plan.yaml", &format!("version: 1\nname: t\n{steps}"));
    env.pgplan(&[&["apply", "plan.yaml"], args].concat())
}

fn status(env: &TestEnv) -> Value {
    let text = env.pgplan(&["status", "--json"]).expect(0).stdout;
    serde_json::from_str::<Value>(&text).expect("it is JSON")["run"].clone()
}

#[track_caller]
fn has(text: &str, wanted: &str) {
    assert!(text.contains(wanted), "no `{wanted}` in:\n{text}");
}

fn exists(env: &TestEnv, name: &str) -> bool {
    env.work().join(name).exists()
}

#[test]
fn for_each_does_a_step_for_every_item_and_its_env_knows_the_item() {
    let env = TestEnv::new();
    let done = apply(
        &env,
        r#"vars: { shards: { a/1: one, b: two } }
steps:
  - id: list
    for_each: [x, y, z]
    max_parallel: 1
    command: [sh, -c, 'echo "$0 $ITEM" >> list', "${{ each.index }}"]
    env: { ITEM: "${{ each.value }}" }
  - id: map
    for_each: "${{ vars.shards }}"
    max_parallel: 1
    command: [sh, -c, 'echo "$ITEM" >> map']
    env: { ITEM: "${{ each.key }}=${{ each.value }}" }
"#,
        &[],
    )
    .expect(0);
    assert_eq!(env.read("list"), "0 x\n1 y\n2 z\n");
    assert_eq!(env.read("map"), "a/1=one\nb=two\n");
    has(&done.stderr, "✓ map [a/1] run sh");
    let ids: Vec<Value> = status(&env)["steps"]["map"]["actions"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|action| action["id"].clone())
        .collect();
    assert_eq!(ids, ["a%2F1/run", "b/run"]);
}

#[test]
fn fail_fast_keeps_the_other_items_from_starting_and_without_it_they_go_on() {
    let steps = |fast: bool| {
        format!(
            "steps:\n  - for_each: [x, y, z]\n    max_parallel: 1\n    fail_fast: {fast}\n    \
             command: [sh, -c, 'echo $ITEM >> log; test $ITEM != y']\n    env: {{ ITEM: \"${{{{ each.value }}}}\" }}\n"
        )
    };
    let fast = TestEnv::new();
    apply(&fast, &steps(true), &[]).expect(1);
    assert_eq!(fast.read("log"), "x\ny\n");
    let slow = TestEnv::new();
    apply(&slow, &steps(false), &[]).expect(1);
    assert_eq!(slow.read("log"), "x\ny\nz\n");
}

#[test]
fn independent_steps_run_side_by_side_within_the_limit() {
    // Each step waits until the other has begun: one after the other they would wait for ever.
    let steps = "steps:\n  - { id: a, needs: [], timeout: 30s, command: [sh, -c, 'touch a; until test -e b; do sleep 0.02; done'] }\n  \
                 - { id: b, needs: [], timeout: 30s, command: [sh, -c, 'touch b; until test -e a; do sleep 0.02; done'] }\n";
    let env = TestEnv::new();
    apply(&env, &format!("max_parallel: 2\n{steps}"), &[]).expect(0);
    // With a limit of one, a second that finds the first at work says so.
    let alone = "sh, -c, 'mkdir busy || exit 9; sleep 0.05; rmdir busy'";
    let lonely = TestEnv::new();
    let steps: String = (0..4).map(|n| format!("  - {{ id: s{n}, needs: [], command: [{alone}] }}\n")).collect();
    apply(&lonely, &format!("max_parallel: 1\nsteps:\n{steps}"), &[]).expect(0);
}

#[test]
fn if_and_run_on_decide_what_runs() {
    let steps = |code: u8| {
        format!(
            "vars: {{ big: false }}\nsteps:\n  - {{ id: no, if: vars.big, command: [touch, no] }}\n  \
             - {{ id: main, command: [sh, -c, 'exit {code}'] }}\n  \
             - {{ id: next, needs: [main], command: [touch, next] }}\n  \
             - {{ id: rescue, needs: [main], run_on: failure, command: [touch, rescue] }}\n  \
             - {{ id: always, needs: [next, rescue], run_on: always, command: [touch, always] }}\n"
        )
    };
    let good = TestEnv::new();
    let said = apply(&good, &steps(0), &[]).expect(0).stderr;
    has(&said, "- no skipped: its `if` says no");
    has(&said, "- rescue skipped: no step that it needs failed");
    let made = |env: &TestEnv| ["no", "next", "rescue", "always"].map(|name| exists(env, name));
    assert_eq!(made(&good), [false, true, false, true]);
    let bad = TestEnv::new();
    let said = apply(&bad, &steps(7), &[]).expect(1).stderr;
    assert_eq!(made(&bad), [false, false, true, true]);
    has(&said, "! next blocked: it needs `main`");
    has(&said, "error: `sh -c 'exit 7'` ended with exit code 7");
    assert_eq!(status(&bad)["steps"]["next"]["reason"], "main");
}

#[test]
fn retry_tries_again_what_it_names_and_nothing_else() {
    let env = TestEnv::new();
    let said = apply(
        &env,
        "steps:\n  - retry: { attempts: 3, delay: 20ms, backoff: 3, jitter: 0, errors: [tool] }\n    \
         command: [sh, -c, 'echo x >> tries; test $(wc -l < tries) = 3']\n",
        &[],
    )
    .expect(0)
    .stderr;
    assert_eq!(env.read("tries"), "x\nx\nx\n");
    has(&said, "again in 20 ms");
    has(&said, "again in 60 ms");
    has(&said, "(attempt 3)");
    let other = TestEnv::new();
    let steps = "steps:\n  - retry: { attempts: 3, delay: 1ms, errors: [connection] }\n    command: [sh, -c, 'echo x >> tries; exit 1']\n";
    apply(&other, steps, &[]).expect(1);
    assert_eq!(other.read("tries"), "x\n");
}

#[test]
fn a_timeout_ends_the_program_and_a_person_decides_unless_a_check_can_tell() {
    let env = TestEnv::new();
    let steps = |check: &str| {
        format!(
            "steps:\n  - id: slow\n    timeout: 300ms\n    command: {{ run: [sh, -c, 'test -e quick || sleep 60'] {check} }}\n"
        )
    };
    let said = apply(&env, &steps(", done_if: { run: [test, -e, nothing] }"), &[]).expect(1).stderr;
    has(&said, "took longer than its timeout of 300ms");
    let env = TestEnv::new();
    let said = apply(&env, &steps(""), &[]).expect(5).stderr;
    has(&said, "pgplan resolve slow --as done");
    env.pgplan(&["resolve", "slow", "--as", "retry"]).expect(0);
    env.write("quick", "");
    env.pgplan(&["apply", "plan.yaml"]).expect(0);
}

#[test]
fn a_tolerated_failure_is_a_warning_also_that_of_ensures() {
    let env = TestEnv::new();
    let said = apply(
        &env,
        "steps:\n  - { id: a, continue_on_error: true, command: [sh, -c, 'exit 3'] }\n  \
         - { id: b, continue_on_error: true, command: [touch, b], ensures: { run: [test, -e, c] } }\n  \
         - { id: d, command: [touch, d] }\n",
        &[],
    )
    .expect(0)
    .stderr;
    has(&said, "warning: a step `a` failed and the plan goes on: `sh -c 'exit 3'` ended with exit code 3");
    has(&said, "warning: b step `b` failed and the plan goes on: step `b` was done, but its `ensures` does not hold");
    has(&said, "warnings        2");
    assert!(exists(&env, "d"));
}

#[test]
fn done_if_saves_the_work_and_ensures_proves_it() {
    let env = TestEnv::new();
    let steps = "steps:\n  - { id: a, command: [sh, -c, 'echo x >> a'], done_if: { run: [cat, made], stdout: 'yes' } }\n  \
                 - { id: b, command: [sh, -c, 'echo x >> b'], ensures: { run: [test, -e, mended] } }\n";
    env.write("made", "yes\n");
    let said = apply(&env, steps, &[]).expect(6).stderr;
    has(&said, "- a skipped: its `done_if` says that it is done");
    has(&said, "error: step `b` was done, but its `ensures` does not hold");
    env.write("mended", "");
    env.pgplan(&["apply", "plan.yaml"]).expect(0);
    assert!(!exists(&env, "a"));
    assert_eq!(env.read("b"), "x\n", "what is done is only looked at again");
}

#[test]
fn an_edit_of_what_a_run_has_skipped_or_come_by_is_not_passed_over() {
    let steps = "steps:\n  - { id: a, command: [sh, -c, 'echo a >> log'], if: \"${{ 'no' == 'yes' }}\" }\n  \
                 - { id: b, command: [sh, -c, 'echo b >> log'], done_if: { run: ['true'] } }\n  \
                 - { id: c, command: ['false'], continue_on_error: true }\n  \
                 - { id: d, command: [sh, -c, 'echo d >> log'], run_on: failure, needs: [a, b] }\n  \
                 - { id: e, command: [test, -e, mended], needs: c }\n";
    for (step, before, now, log) in [
        ("a", "'no' == 'yes'", "'yes' == 'yes'", "a\n"),
        ("b", "['true'] }", "['false'] }", "b\n"),
        ("c", "['false'], continue", "[sh, -c, 'echo c >> log'], continue", "c\n"),
        ("d", "echo d", "echo of d", ""),
    ] {
        let env = TestEnv::new();
        apply(&env, steps, &[]).expect(1);
        env.write("mended", "");
        assert!(steps.contains(before), "{before}");
        let edited = steps.replace(before, now);
        if step != "d" {
            let said = apply(&env, &edited, &[]).expect(3).stderr;
            has(&said, &format!("is past `{step}` already, and the plan has changed there since"));
            assert!(said.contains(now.trim_matches(['[', ']', '}', ' '])) || said.contains("echo c"), "{said}");
        }
        let again = if step == "d" { vec![] } else { vec!["--rerun", step] };
        apply(&env, &edited, &again).expect(0);
        assert_eq!(if log.is_empty() { String::new() } else { env.read("log") }, log, "{step}");
        assert_eq!(exists(&env, "log"), !log.is_empty(), "{step}");
    }
}

#[test]
fn downtime_is_measured_and_a_step_may_have_every_key() {
    let env = TestEnv::new();
    let said = apply(
        &env,
        "steps:\n  - { id: down, name: Stop, downtime: begin, undo: none, command: ['true'] }\n  \
         - { id: switch, point_of_no_return: true, undo: { run: [touch, undone] }, command: ['true'] }\n  \
         - { id: up, description: why, downtime: end, command: ['true'] }\n",
        &[],
    )
    .expect(0)
    .stderr;
    has(&said, "◷ down downtime begins");
    has(&said, "◷ up downtime ends");
    assert!(said.lines().any(|line| line.starts_with("downtime   ") && line.ends_with('s')), "{said}");
    assert!(!exists(&env, "undone"));
}

/// Two windows with half a second between them, the first with two begins and two ends.
const WINDOWS: &str = "steps:
  - { id: stop-web, downtime: begin, command: ['true'] }
  - { id: stop-worker, downtime: begin, command: [sleep, '0.2'] }
  - { id: start-web, needs: [stop-worker], downtime: end, command: ['true'] }
  - { id: start-worker, needs: [stop-worker], downtime: end, command: [sleep, '0.4'] }
  - { id: between, needs: [start-web, start-worker], command: [sleep, '0.5'] }
  - { id: stop-again, downtime: begin, command: [sleep, '0.1'] }
  - { id: start-again, downtime: end, command: ['true'] }
";

#[test]
fn downtime_is_the_same_wherever_it_is_told() {
    let env = TestEnv::new();
    let said = apply(&env, WINDOWS, &[]).expect(0).stderr;
    has(&said, "◷ start-web is up again; the downtime goes on until start-worker is over");
    has(&said, "◷ start-worker downtime ends");
    let json: serde_json::Value =
        serde_json::from_str(&env.pgplan(&["report", "--format", "json"]).expect(0).stdout).expect("it is JSON");
    let windows = json["downtime"].as_array().expect("a list");
    let steps: Vec<_> = windows.iter().map(|window| (&window["begin_step"], &window["end_step"])).collect();
    assert_eq!(
        steps,
        [
            (&serde_json::json!("stop-web"), &serde_json::json!("start-worker")),
            (&serde_json::json!("stop-again"), &serde_json::json!("start-again"))
        ]
    );
    let ms = |window: &serde_json::Value| window["ms"].as_u64().expect("a number");
    assert!(ms(&windows[0]) >= 600 && ms(&windows[1]) >= 100, "{windows:?}");
    let gap = json["took_ms"].as_u64().expect("a number") - ms(&windows[0]) - ms(&windows[1]);
    assert!(gap >= 500, "{gap}");
    let after = |text: &str, label: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(label));
        line.unwrap_or_else(|| panic!("no `{label}` in {text}")).trim().trim_matches('*').to_owned()
    };
    let summary = after(&said, "downtime  ");
    let status = env.pgplan(&["status"]).expect(0).stdout;
    assert_eq!(after(&status, "downtime:"), summary);
    let report = env.pgplan(&["report", "--format", "markdown"]).expect(0).stdout;
    assert_eq!(after(&report, "- downtime:"), summary);
}

#[test]
fn variables_have_types_and_outputs_go_to_later_steps() {
    let env = TestEnv::new();
    env.write(
        "parts/more.yaml",
        "version: 1\nsteps:\n  - { id: included, command: [sh, -c, 'echo \"$0\" > included', \"${{ vars.n + 1 }}\"] }\n",
    );
    let plan = r#"vars: { n: 3, on: false, list: [a, b] }
include: [parts/more.yaml]
steps:
  - id: make
    command: { run: [sh, -c, 'echo build 17 of x; echo other'], outputs: { build: { parse: { regex: 'build (\d+)' } } } }
  - id: use
    if: "vars.on and vars.n > 40"
    command: [sh, -c, 'echo "$B $0" > used', "${{ vars.list | join('-') }}"]
    env: { B: "${{ steps.make.outputs.build }}" }
"#;
    let vars = ["--var", "n=41", "--var", "on=true", "--var", "list=[c, d]"];
    apply(&env, plan, &vars).expect(0);
    assert_eq!((env.read("used").as_str(), env.read("included").as_str()), ("17 c-d\n", "42\n"));
    let said = apply(&env, plan, &["--var", "n=many"]).expect(2).stderr;
    has(&said, "var_type");
    let said = apply(&env, plan, &["--var", "m=1"]).expect(2).stderr;
    has(&said, "m");
}

#[test]
fn until_pauses_fresh_begins_anew_and_status_runs_log_and_events_tell() {
    let env = TestEnv::new();
    let steps = "vars: { v: 0 }\nsteps:\n  - { id: a, command: [sh, -c, 'echo a >> log'] }\n  \
                 - { id: b, command: [sh, -c, 'echo b >> log'] }\n  - { id: c, command: [sh, -c, 'echo c >> log; test -e ok'] }\n";
    let said = apply(&env, steps, &["--until", "b", "--events", "events", "--var", "v=1"]).expect(0).stderr;
    has(&said, "go on with: pgplan apply plan.yaml --var v=1\n");
    assert_eq!(env.read("log"), "a\nb\n");
    has(&env.pgplan(&["status"]).expect(0).stdout, "paused");
    let said = apply(&env, steps, &["--until", "zz"]).expect(2).stderr;
    has(&said, "the plan has no step `zz`");

    let nowhere = env.pgplan(&["apply", "plan.yaml", "--var", "v=1", "--events", "no/such/folder"]).expect(1).stderr;
    has(&nowhere, "--events no/such/folder: the file cannot be opened");
    let failed = env.pgplan(&["apply", "plan.yaml", "--var", "v=1", "--json", "--events", "events"]).expect(1);
    assert_eq!(env.read("log"), "a\nb\nc\n");
    has(&failed.stderr, "going on with run");
    has(&failed.stderr, "2 steps are done and are not repeated");
    has(&failed.stderr, "when the cause is mended, go on with: pgplan apply plan.yaml --var v=1\n");
    let state: Value = serde_json::from_str(&failed.stdout).expect("stdout is JSON and nothing else");
    assert_eq!(
        (&state["steps"]["c"]["status"], &state["steps"]["c"]["actions"][0]["title"]),
        (&Value::from("failed"), &Value::from("run sh -c 'echo c >> log; test -e ok'"))
    );

    let said = env.pgplan(&["apply", "plan.yaml", "--var", "v=1", "--fresh"]).expect(1).stderr;
    has(&said, "is given up");
    assert_eq!(env.read("log"), "a\nb\nc\na\nb\nc\n");
    env.write("ok", "");
    env.pgplan(&["apply", "plan.yaml", "--var", "v=1"]).expect(0);
    assert_eq!(env.read("log"), "a\nb\nc\na\nb\nc\nc\n");
    let runs: Value = serde_json::from_str(&env.pgplan(&["runs", "--json"]).expect(0).stdout).expect("JSON");
    let states: Vec<&str> = runs.as_array().expect("a list").iter().filter_map(|run| run["status"].as_str()).collect();
    assert_eq!(states, ["abandoned", "succeeded"]);
    has(&env.pgplan(&["runs"]).expect(0).stdout, "abandoned");
    let log = env.pgplan(&["log", "t"]).expect(0).stdout;
    has(&log, "c run sh -c 'echo c >> log; test -e ok' (attempt 2)");
    for line in env.read("events").lines().chain(env.pgplan(&["log", "--json"]).expect(0).stdout.lines()) {
        serde_json::from_str::<Value>(line).expect("an event a line");
    }
    has(&env.read("events"), "run_resumed");
}

#[test]
fn a_dry_run_starts_no_program_and_leaves_no_trace() {
    let env = TestEnv::new();
    let steps = "secrets: { s: { command: [touch, secret] } }\nsteps:\n  - { id: a, command: [touch, a], done_if: { run: [touch, b] }, env: { S: \"${{ secrets.s }}\" } }\n";
    let said = apply(&env, steps, &["--dry-run"]).expect(0);
    has(&said.stdout, "$ touch a");
    let left: Vec<_> = std::fs::read_dir(env.work()).expect("the folder").flatten().map(|e| e.file_name()).collect();
    assert_eq!(left, ["plan.yaml"]);
}

#[test]
fn a_program_that_spells_a_secret_in_another_way_does_not_give_it_away() {
    let env = TestEnv::new();
    let spellings = [
        "first/sek ret's",
        "first%2Fsek%20ret%27s",
        "'first/sek ret'\\''s'",
        "'first/sek ret''s'",
        "\"first/sek ret's\"",
        "Zmlyc3Qvc2VrIHJldCdz",
    ];
    env.write("spellings", &spellings.join("\n"));
    let steps = "  - id: say\n    command: [cat, spellings]\n  - id: fail\n    command: [sh, -c, 'cat spellings >&2; exit 1']\n";
    env.write("plan.yaml", &format!("version: 1\nsecrets: {{ one: {{ env: ONE }} }}\nsteps:\n{steps}"));
    let mut command = env.command(&["apply", "plan.yaml", "--events", "events"]);
    let done = Outcome::of(&command.env("ONE", spellings[0]).output().expect("it starts")).expect(1);
    let mut seen = vec![done.stdout, done.stderr.clone(), env.read("events")];
    seen.extend([env.pgplan(&["status"]), env.pgplan(&["log", "--json"])].map(|outcome| outcome.expect(0).stdout));
    assert!(done.stderr.matches("<secret secrets.one").count() >= 2 * spellings.len(), "{}", done.stderr);
    for (text, spelling) in seen.iter().flat_map(|text| spellings.map(|spelling| (text, spelling))) {
        assert!(!text.contains(spelling), "{spelling} stands in {text}");
    }
}

#[test]
fn a_secret_is_given_to_the_program_and_to_nobody_else() {
    use std::os::unix::fs::PermissionsExt as _;
    let env = TestEnv::new();
    for (name, text) in [("two", "second-sekret\n"), ("pass", "h:5432:d:u:fourth-sekret\n")] {
        let path = env.write(name, text);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("the mode can be set");
    }
    env.write(
        "plan.yaml",
        r#"version: 1
secrets:
  one: { env: ONE }
  two: { file: two }
  three: { command: [printf, 'third-%s', sekret] }
  four: { pgpass: { host: h, dbname: d, user: u, file: pass } }
steps:
  - id: see
    command: { run: [sh, -c, 'echo $ONE $TWO; echo $THREE $FOUR >&2; printf token=%s-%s fifth sekret'], outputs: { token: { secret: true, parse: { regex: 'token=(.*)' } } } }
    env: { ONE: "${{ secrets.one }}", TWO: "${{ secrets.two }}", THREE: "${{ secrets.three }}", FOUR: "${{ secrets.four }}" }
  - id: show
    command: [sh, -c, 'echo $ONE-$FIVE; echo $ONE $TWO $FOUR $FIVE | sha256sum > sum; exit 1']
    env: { ONE: "${{ secrets.one }}", TWO: "${{ secrets.two }}", FOUR: "${{ secrets.four }}", FIVE: "${{ steps.see.outputs.token }}" }
"#,
    );
    let mut command = env.command(&["apply", "plan.yaml", "--events", "events", "--json"]);
    let done = Outcome::of(&command.env("ONE", "first-sekret").output().expect("it starts")).expect(1);
    has(&done.stderr, "<secret secrets.one>-<secret steps.see.outputs.token>");
    let sum = Outcome::of(
        &std::process::Command::new("sh")
            .args(["-c", "echo first-sekret second-sekret fourth-sekret fifth-sekret | sha256sum"])
            .output()
            .expect("sh starts"),
    );
    assert_eq!(env.read("sum"), sum.stdout, "the programs got the values");
    let told = [env.pgplan(&["status", "--json"]), env.pgplan(&["log", "--json"]), env.pgplan(&["status"])];
    let mut seen = vec![done.stdout, done.stderr, env.read("events")];
    seen.extend(told.map(|outcome| outcome.expect(0).stdout));
    for entry in std::fs::read_dir(env.work().join(".pgplan")).expect("the journal is there").flatten() {
        if entry.path().is_file() {
            seen.push(String::from_utf8_lossy(&std::fs::read(entry.path()).expect("it can be read")).into_owned());
        }
    }
    assert!(seen.len() >= 7, "the journal is among it");
    for text in seen {
        assert!(!text.contains("-sekret"), "{text}");
    }
    let missing = env.pgplan(&["apply", "plan.yaml"]).expect(2).stderr;
    has(&missing, "secret `one` cannot be read: the variable ONE is not set");
}

#[test]
fn a_run_that_goes_on_with_other_programs_says_so() {
    let env = TestEnv::new();
    env.write(
        "p.yaml",
        "version: 1\nname: p\nsteps:\n  - command: { run: [test, -e, mended], done_if: { run: [test, -e, mended] } }\n",
    );
    let apply = |version: &str| {
        let mut command = env.command(&["apply", "p.yaml"]);
        command.env("PGPLAN_CACHE", env.work()).env("PGPLAN_PG_BIN", crate::env::bin_folder(version));
        crate::env::Outcome::of(&command.output().expect("pgplan starts"))
    };
    let word = "programs are not those that this run has used so far";
    assert!(!apply("16").expect(1).stderr.contains(word));
    assert!(!apply("16").expect(1).stderr.contains(word));
    let other = apply("18").expect(1);
    assert!(other.stderr.contains(word) && other.stderr.contains("16/bin (16."), "{}", other.stderr);
}
