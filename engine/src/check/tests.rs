use super::{steps::Draft, *};
use crate::{kinds::Handed, plan::Reason};

fn checked(text: &str) -> Checked {
    check_text("plan.yaml", PathBuf::from("."), text.to_owned(), &Options::default())
}

fn codes(text: &str) -> Vec<&'static str> {
    checked(text).problems.iter().map(|problem| problem.code).collect()
}

const GOOD: &str = r#"
version: 1
name: small
vars:
  app: orders
  jobs: { type: int, default: 4 }
  bucket: "${{ vars.app }}-dumps"
secrets:
  old: { env: OLD }
databases:
  source: { url: "postgres://u@h/db", password: "${{ secrets.old }}", expect: { major: 15 } }
on_failure: undo
downtime: { budget: 5m }
steps:
  - approve: { message: "start ${{ vars.bucket }}?" }
    timeout: 1h30m
    retry: { attempts: 5, delay: 2s }
  - id: more
    needs: [approve]
    approve: { message: "${{ databases.source.host }} ok?" }
    if: vars.jobs > 3
    for_each: [a, b]
  - id: last
    needs: more
    approve: { message: "bye" }
    run_on: always
"#;

#[test]
fn a_good_plan_is_whole() {
    let Checked { plan, problems } = checked(GOOD);
    assert_eq!(problems, []);
    let plan = plan.unwrap();
    assert_eq!(plan.vars["bucket"], "orders-dumps");
    assert_eq!(plan.steps.iter().map(|step| step.needs.join(",")).collect::<Vec<_>>(), ["", "approve", "more"]);
    assert_eq!(plan.edges.len(), 2);
    assert_eq!(plan.edges[0].reason, Reason::Declared);
    assert_eq!(plan.steps[0].retry.attempts, 5);
    assert_eq!(plan.downtime_budget, Some(std::time::Duration::from_secs(300)));
}

#[test]
fn the_key_of_a_listed_item_is_its_text_as_in_a_run() {
    let plan = |key: &str| {
        format!(
            "version: 1\ndatabases: {{ a: \"postgres://u@h/a\", b: \"postgres://u@h/b\" }}\nsteps:\n  - id: both\n    \
             sql: {{ database: \"${{{{ each.{key} }}}}\", run: \"SELECT 1\" }}\n    for_each: [a, b]\n"
        )
    };
    assert_eq!(codes(&plan("key")), [""; 0]);
    assert_eq!(codes(&plan("value")), [""; 0]);
    assert_eq!(codes(&plan("index")), ["wrong_type"]);
}

#[test]
fn fingerprints_follow_what_is_done_only() {
    let plan = |text: &str| checked(text).plan.unwrap();
    let (one, same) =
        (plan(GOOD), plan(&GOOD.replace("timeout: 1h30m", "timeout: 2h").replace("name: small", "name: x")));
    assert_eq!(one.fingerprint, same.fingerprint);
    let changed = plan(&GOOD.replace("app: orders", "app: invoices"));
    assert_ne!(one.steps[0].fingerprint, changed.steps[0].fingerprint);
    assert_eq!(one.steps[2].fingerprint, changed.steps[2].fingerprint);
    assert_ne!(one.fingerprint, changed.fingerprint);
}

#[test]
fn a_step_has_the_databases_that_it_uses_in_its_fingerprint() {
    let plan = |database: &str, host: &str| {
        let text = format!(
            "version: 1\nvars: {{ host: {host} }}\nsecrets: {{ s: {{ env: S }} }}\ndatabases: {{ db: {database}, other: \
             \"postgres://u@elsewhere/db\" }}\nsteps:\n  - {{ id: t, command: {{ run: [open], outputs: {{ url: {{ parse: \
             {{ json: /url }} }} }} }} }}\n  - sql: {{ database: db, run: SELECT 1 }}\n  - {{ id: named, command: [see, \
             \"${{{{ databases.db.host }}}}\"] }}\n  - {{ id: asks, command: [go], done_if: {{ database: db, sql: SELECT 1 }} \
             }}\n  - {{ id: apart, sql: {{ database: other, run: SELECT 1 }} }}\n"
        );
        let Checked { plan, problems } = checked(&text);
        plan.unwrap_or_else(|| panic!("{database}: {problems:?}"))
    };
    let differing = |one: &Plan, two: &Plan| -> Vec<String> {
        let pairs = one.steps.iter().zip(&two.steps);
        pairs.filter(|(one, two)| one.fingerprint != two.fingerprint).map(|(one, _)| one.id.clone()).collect()
    };
    let users = ["sql", "named", "asks"];
    let first = plan("\"postgres://u:one@h/db\"", "h");
    assert_eq!(differing(&first, &plan("\"postgres://u:two@h/db\"", "h")), [""; 0]);
    assert_eq!(differing(&first, &plan("\"postgres://u:one@i/db\"", "h")), users);
    assert_eq!(differing(&first, &plan("\"postgres://u:one@${{ vars.host }}/db\"", "h")), [""; 0]);
    assert_eq!(differing(&first, &plan("\"postgres://u:one@${{ vars.host }}/db\"", "i")), users);
    for more in ["expect: { major: 18 }", "expect: { empty: true }", "protect: true"] {
        assert_eq!(differing(&first, &plan(&format!("{{ url: \"postgres://u:one@h/db\", {more} }}"), "h")), users);
    }
    let shown = serde_json::json!({ "address": { "dbname": "db", "host": "h", "user": "u" } });
    assert_eq!(first.steps[1].databases, [("db".to_owned(), shown)].into());

    // What only a step tells stays as it is written, with the variables in it.
    let late = "{ url: \"postgres://u:one${{ secrets.s }}@${{ vars.host }}:${{ steps.t.outputs.url }}/db\" }";
    let (late, other) = (plan(late, "h"), plan(late, "i"));
    assert_eq!(differing(&late, &other), users);
    let shown = serde_json::json!({
        "address": {
            "dbname": "db", "host": "${{ vars.host }}", "password": "${{ secrets.s }}", "port": "${{ steps.t.outputs.url }}",
            "user": "u"
        },
        "vars": { "host": "h" }
    });
    assert_eq!(late.steps[1].databases["db"], shown);
}

#[test]
fn where_a_secret_is_belongs_to_the_plan_and_to_no_step() {
    let plan = |secret: &str| {
        let text = format!(
            "version: 1\nsecrets: {{ s: {secret} }}\ndatabases: {{ db: {{ url: \"postgres://u@h/db\", password: \"${{{{ \
             secrets.s }}}}\" }} }}\nsteps:\n  - sql: {{ database: db, run: SELECT 1 }}\n"
        );
        checked(&text).plan.unwrap()
    };
    let all = [
        "{ env: S }",
        "{ env: T }",
        "{ file: S }",
        "{ file: T }",
        "{ command: [S] }",
        "{ command: [T] }",
        "{ pgpass: { host: h, dbname: d, user: u } }",
        "{ pgpass: { host: h, dbname: d, user: v } }",
    ];
    let plans: Vec<Plan> = all.iter().map(|secret| plan(secret)).collect();
    let wholes: std::collections::BTreeSet<&String> = plans.iter().map(|plan| &plan.fingerprint).collect();
    let steps: std::collections::BTreeSet<&String> = plans.iter().map(|plan| &plan.steps[0].fingerprint).collect();
    assert_eq!((wholes.len(), steps.len()), (all.len(), 1));
}

#[test]
fn a_password_in_clear_is_no_part_of_the_fingerprint() {
    let plan = |database: &str| {
        let text = format!(
            "version: 1\nsecrets: {{ s: {{ env: S }}, t: {{ env: T }} }}\ndatabases: {{ db: {database} }}\nsteps:\n  \
             - sql: {{ database: db, run: SELECT 1 }}\n"
        );
        let Checked { plan, problems } = checked(&text);
        plan.unwrap_or_else(|| panic!("{database}: {problems:?}")).fingerprint
    };
    let same = [
        ("\"postgres://u:one@h/db\"", "\"postgres://u:two@h/db\""),
        ("\"postgres://u@h/db?password=one\"", "\"postgres://u@h/db?password=two\""),
        ("\"host=h user=u password='o n e'\"", "\"host=h user=u password=two\""),
        ("{ url: \"postgres://u@h/db\", password: one }", "{ url: \"postgres://u@h/db\", password: two }"),
        ("\"postgres://u@h/db?sslpassword=one\"", "\"postgres://u@h/db?sslpassword=two\""),
        ("\"postgres://u:one@${{ plan.name }}/db\"", "\"postgres://u:two@${{ plan.name }}/db\""),
    ];
    for (one, two) in same {
        assert_eq!(plan(one), plan(two), "{one}");
    }
    let others = [
        ("\"postgres://u:one@h/db\"", "\"postgres://v:one@h/db\""),
        ("\"postgres://u:one@h/db\"", "\"postgres://u:one@h/other\""),
        ("\"postgres://u:${{ secrets.s }}@h/db\"", "\"postgres://u:${{ secrets.t }}@h/db\""),
        (
            "{ url: \"postgres://u@h/db\", password: \"${{ secrets.s }}\" }",
            "{ url: \"postgres://u@h/db\", password: \"${{ secrets.t }}\" }",
        ),
    ];
    for (one, two) in others {
        assert_ne!(plan(one), plan(two), "{one}");
    }
}

#[test]
fn the_place_of_the_journal_is_checked_where_it_stands() {
    let problems = |state: &str| {
        let text = format!(
            "version: 1\nvars: {{ folder: f }}\nsecrets: {{ url: {{ env: URL }} }}\nstate: {state}\nsteps:\n  \
             - approve: {{ message: a }}\n"
        );
        let found = checked(&text).problems;
        let told = found.iter().map(|problem| format!("{} {}", problem.code, problem.place().unwrap()));
        told.collect::<Vec<_>>().join("; ")
    };
    for good in ["here", "\"${{ vars.folder }}/x\"", "\"${{ secrets.url }}\"", "postgres://u@h/db"] {
        assert_eq!(problems(good), "", "{good}");
    }
    let wrong = [
        ("\"${{ vars.foldr }}\"", "undefined_variable plan.yaml:4:"),
        ("\"${{ secrets.nothing }}\"", "undefined_secret plan.yaml:4:"),
        ("\"${{ steps.approve.outputs.x }}\"", "not_usable_here plan.yaml:4:"),
        ("\"postgres://u@[h/db\"", "bad_database_address plan.yaml:4:"),
        ("\"mysql://u@h/db\"", "bad_database_address plan.yaml:4:"),
        ("\"postgres://u:pw@h/db\"", "password_in_clear plan.yaml:4:"),
    ];
    for (state, expected) in wrong {
        let found = problems(state);
        assert!(found.starts_with(expected), "{state}: {found}");
    }
}

#[test]
fn all_problems_of_a_file_in_one_report() {
    let text = r#"
version: 1
nmae: x
vars: { jobs: { type: int, default: many } }
databases: { source: "postgres://u:pw@h/db" }
steps:
  - approev: { message: a }
  - approve: { message: "${{ vars.nothing }}" }
    needs: [nowhere]
    timeout: 5
  - approve: { mesage: a }
    retry: { atempts: 1 }
"#;
    let expected = [
        "unknown_key",
        "var_type",
        "password_in_clear",
        "unknown_kind",
        "undefined_variable",
        "unknown_need",
        "bad_value",
        "duplicate_step",
        "unknown_key",
        "unknown_key",
    ];
    assert_eq!(codes(text), expected);
}

#[test]
fn a_circle_is_shown_whole() {
    let text = "version: 1\nsteps:\n  - { id: a, needs: c, approve: { message: m } }\n  - { id: b, approve: { message: m } }\n  - { id: c, approve: { message: m } }\n";
    let problems = checked(text).problems;
    assert_eq!(problems[0].message, "these steps wait for each other: `a` → `c` → `b` → `a`");
    assert_eq!(problems[0].labels.len(), 3);
}

#[test]
fn ten_thousand_steps() {
    use std::fmt::Write as _;
    let mut text = "version: 1\nvars: { app: orders }\nsteps:\n".to_owned();
    for step in 0..10_000 {
        writeln!(text, "  - id: s{step}\n    approve: {{ message: \"${{{{ vars.app }}}} {step}\" }}").unwrap();
    }
    let plan = checked(&text).plan.unwrap();
    assert_eq!(plan.steps.len(), 10_000);
}

/// Steps whose artifacts are declared here instead of by kinds.
fn artifacts(text: &str, gives: &[&str], takes: &[(&str, Option<&str>)]) -> (Vec<Draft>, Vec<Diagnostic>) {
    let mut problems = Problems::default();
    let document = document::load_text("p".to_owned(), PathBuf::from("."), text.to_owned(), &mut problems).unwrap();
    let mut drafts = steps::read(document.steps, &Scope::new("p", "."), &mut problems);
    for draft in &mut drafts {
        if gives.contains(&draft.id.as_str()) {
            draft.declared.makes(Handed::Dump);
        }
        for (_, from) in takes.iter().filter(|(id, _)| *id == draft.id) {
            draft.declared.takes("from", Handed::Dump, *from);
        }
    }
    let order = order::build(&drafts, &mut problems);
    artifacts::resolve(&mut drafts, &order, &mut problems);
    (drafts, problems.into_sorted())
}

#[test]
fn a_step_takes_from_its_nearest_ancestor() {
    let step = |id: &str, needs: &str| format!("  - {{ id: {id}, needs: [{needs}], approve: {{ message: m }} }}\n");
    let plan = |steps: &[(&str, &str)]| {
        let steps: String = steps.iter().map(|(id, needs)| step(id, needs)).collect();
        format!("version: 1\nsteps:\n{steps}")
    };
    let chain = plan(&[("dump", ""), ("filter", "dump"), ("stop", "dump"), ("load", "filter, stop")]);
    let (drafts, problems) = artifacts(&chain, &["dump", "filter"], &[("filter", None), ("load", None)]);
    assert_eq!(problems, []);
    assert_eq!((drafts[1].inputs["from"].as_str(), drafts[3].inputs["from"].as_str()), ("dump", "filter"));

    let both = plan(&[("a", ""), ("b", ""), ("load", "a, b"), ("lone", "")]);
    let takes = [("load", None), ("lone", None)];
    let (_, problems) = artifacts(&both, &["a", "b"], &takes);
    assert_eq!(problems.iter().map(|one| one.code).collect::<Vec<_>>(), ["ambiguous_artifact", "artifact_missing"]);
    assert_eq!(problems[0].help.as_deref(), Some("say which: `from: a`"));

    let takes = [("load", Some("b")), ("lone", Some("b"))];
    let (drafts, problems) = artifacts(&both, &["a", "b"], &takes);
    assert_eq!(drafts[2].inputs["from"], "b");
    assert_eq!(problems.iter().map(|one| one.code).collect::<Vec<_>>(), ["not_an_ancestor"]);
}

mod hostile {
    use proptest::prelude::*;

    use super::checked;

    /// Pieces that plans are made of, so that random text gets past the first line.
    fn text() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            Just("version: 1\n".to_owned()),
            Just("steps:\n".to_owned()),
            Just("  - approve: { message: \"".to_owned()),
            Just("\" }\n".to_owned()),
            Just("${{ ".to_owned()),
            Just(" }}".to_owned()),
            Just("steps.a-b.outputs['é']".to_owned()),
            Just("databases: { a: postgres://u:é%zz@h:1,[::1]/d?x=y }\n".to_owned()),
            Just("vars: { é: *a, b: &a [1, {".to_owned()),
            Just("    needs: [approve, b]\n    id: ".to_owned()),
            Just("    for_each: ".to_owned()),
            "[a-z{}\\[\\]:,'\"|&*!%@`$ \n\té\u{e000}\u{1f600}-]{0,12}",
        ];
        proptest::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

        #[test]
        fn no_text_makes_the_check_panic(text in text()) {
            for problem in checked(&text).problems {
                drop((problem.to_string(), problem.to_json(), problem.report().to_string()));
            }
        }
    }
}
