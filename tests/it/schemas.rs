//! The schemas checked in are those of the types, and what pgplan writes fits them.

use std::collections::BTreeSet;

use pgplan_engine::schema::{event_schema, plan_schema};
use serde_json::Value;

use crate::env::TestEnv;
use crate::reference::compare;

#[test]
fn the_schemas_on_disk_are_those_of_the_types() {
    for (name, schema) in [("schemas/plan.v1.json", plan_schema()), ("schemas/event.v1.json", event_schema())] {
        compare(name, &format!("{}\n", serde_json::to_string_pretty(&schema).expect("a schema is JSON")));
    }
    let printed = TestEnv::new().pgplan(&["schema", "--events"]).expect(0).stdout;
    assert_eq!(serde_json::from_str::<Value>(&printed).expect("a schema is JSON"), event_schema());
}

/// Fails unless every line is an event by the schema; returns the events' names.
fn events(lines: &str) -> BTreeSet<String> {
    let schema = event_schema();
    let validator = jsonschema::draft7::new(&schema).expect("the schema is one");
    let event = |line: &str| {
        let event: Value = serde_json::from_str(line).expect("an event is JSON");
        let errors: Vec<String> = validator.iter_errors(&event).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{errors:#?}: {event:#}");
        event["event"].as_str().expect("an event has a name").to_owned()
    };
    lines.lines().map(event).collect()
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

const PLAN: &str = "version: 1
vars: { word: { default: hello } }
steps:
  - id: one
    command: { run: [echo, '${{ vars.word }}'], undo: [echo, back], outputs: { said: { parse: trimmed } } }
  - id: never
    if: vars.word == 'bye'
    command: [echo, never]
  - id: last
    command: [sh, -c, 'echo working; test -e fine']
    retry: { attempts: 2, delay: 10ms }
  - id: after
    command: [echo, '${{ steps.one.outputs.said }}']
";

#[test]
fn events_of_a_failed_a_resumed_and_an_undone_run_fit_the_schema() {
    let env = TestEnv::new();
    env.write("plan.yaml", PLAN);
    env.pgplan(&["apply", "plan.yaml", "--events", "failed.ndjson"]).expect(1);
    let failed = events(&env.read("failed.ndjson"));
    let wanted = [
        "run_started",
        "step_expanded",
        "action_started",
        "action_said",
        "action_finished",
        "step_finished",
        "step_skipped",
        "action_failed",
        "step_failed",
        "run_ended",
    ];
    assert!(failed.is_superset(&names(wanted)), "{failed:?}");

    env.write("fine", "");
    env.pgplan(&["apply", "plan.yaml", "--events", "resumed.ndjson"]).expect(0);
    let resumed = events(&env.read("resumed.ndjson"));
    assert!(resumed.is_superset(&names(["run_resumed", "run_ended"])), "{resumed:?}");

    let logged = events(&env.pgplan(&["log", "--json"]).expect(0).stdout);
    assert!(
        logged.is_superset(&names(["run_started", "run_resumed"])) && !logged.contains("action_said"),
        "{logged:?}"
    );
}

#[test]
fn events_of_a_run_led_back_fit_the_schema() {
    let env = TestEnv::new();
    env.write("plan.yaml", &format!("{PLAN}on_failure: undo\n"));
    env.pgplan(&["apply", "plan.yaml", "--events", "events.ndjson"]);
    let undone = events(&env.read("events.ndjson"));
    assert!(undone.is_superset(&names(["undo_started", "action_undoing", "action_undone"])), "{undone:?}");
}

#[test]
fn what_is_no_event_does_not_fit_the_schema() {
    let schema = event_schema();
    let validator = jsonschema::draft7::new(&schema).expect("the schema is one");
    let wrong = [
        r#"{ "seq": 1, "at": "2026-01-01T00:00:00Z" }"#,
        r#"{ "seq": 1, "at": "2026-01-01T00:00:00Z", "event": "no_such_event", "step": "a" }"#,
        r#"{ "seq": 1, "at": "2026-01-01T00:00:00Z", "event": "step_finished" }"#,
        r#"{ "at": "2026-01-01T00:00:00Z", "event": "step_finished", "step": "a" }"#,
    ];
    for text in wrong {
        assert!(!validator.is_valid(&serde_json::from_str(text).expect("it is JSON")), "{text}");
    }
}
