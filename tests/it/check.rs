//! `tests/bad`: one plan for each code; each must give exactly the problems that its first line names.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use pgplan_engine::check::{Options, check_file};
use pgplan_engine::platforms::Platforms;
use pgplan_engine::schema::plan_schema;

use crate::env::TestEnv;

pub(crate) fn bad_plans() -> Vec<PathBuf> {
    let mut plans: Vec<PathBuf> = std::fs::read_dir("../tests/bad")
        .expect("tests/bad is there")
        .map(|entry| entry.expect("tests/bad can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    plans.sort();
    assert!(plans.len() > 60, "only {} bad plans", plans.len());
    plans
}

/// Returns what a comment at the top of the file says after `# key: `.
pub(crate) fn said(path: &Path, key: &str) -> Option<String> {
    let bytes = std::fs::read(path).expect("the plan can be read");
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let prefix = format!("# {key}: ");
    text.lines().take(2).find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
}

fn options(path: &Path) -> Options {
    let vars = said(path, "args").map_or_else(Vec::new, |args| {
        let pair = args.strip_prefix("--var ").and_then(|pair| pair.split_once('=')).expect("--var NAME=VALUE");
        vec![(pair.0.to_owned(), pair.1.to_owned())]
    });
    let platforms = Platforms::built_in().expect("the built-in platforms are right");
    Options { vars, platforms: platforms.names().map(str::to_owned).collect(), ..Options::default() }
}

#[test]
fn every_bad_plan_gives_exactly_its_codes() {
    let handler = miette::GraphicalReportHandler::new_themed(miette::GraphicalTheme::unicode_nocolor())
        .with_links(false)
        .with_width(100);
    let mut shown = String::new();
    for path in bad_plans() {
        let checked = check_file(&path, &options(&path));
        let codes: Vec<&str> = checked.problems.iter().map(|problem| problem.code).collect();
        let expected = said(&path, "expect").unwrap_or_else(|| panic!("{} has no `# expect:`", path.display()));
        assert_eq!(codes.join(", "), expected, "{}: {:#?}", path.display(), checked.problems);
        assert_eq!(checked.plan.is_some(), checked.errors() == 0, "{}", path.display());
        let name = path.file_name().expect("a file has a name").to_string_lossy();
        writeln!(shown, "════ {name}").expect("a string can be written to");
        for problem in &checked.problems {
            handler.render_report(&mut shown, &problem.report()).expect("a report can be rendered");
        }
    }
    let password = shown.lines().find(|line| line.contains("hunter"));
    assert_eq!(password, None, "a password is shown");
    insta::assert_snapshot!("bad_plans", shown);
}

#[test]
fn the_command_ends_as_the_plan_deserves() {
    let env = TestEnv::new();
    let run = |text: &str, args: &[&str]| {
        env.write("plan.yaml", text);
        env.pgplan(&[&["check", "plan.yaml"], args].concat())
    };
    let good = "version: 1\nsteps:\n  - approve: { message: m }\n";
    assert_eq!(run(good, &[]).expect(0).stderr, "plan.yaml: 1 step, 0 databases, no problems.\n");
    let warned = "version: 1\ndatabases: { a: \"postgres://u:pw@h/d\" }\nsteps: []\n";
    run(warned, &[]).expect(0);
    run(warned, &["--strict"]).expect(2);
    let json = run("version: 3\n", &["--json"]).expect(2).stdout;
    let json: serde_json::Value = serde_json::from_str(&json).expect("--json prints JSON");
    assert_eq!(json["problems"][0]["code"], "unsupported_version");
    assert_eq!(json["problems"][0]["labels"][0]["line"], 1);
    env.pgplan(&["check", "nowhere.yaml"]).expect(2);
}

/// Codes of problems that the shape of a plan gives away; the schema must refuse these plans, too.
const STRUCTURAL: [&str; 9] = [
    "unsupported_version",
    "missing_version",
    "unknown_key",
    "unknown_kind",
    "two_kinds",
    "no_kind",
    "wrong_type",
    "unknown_value",
    "secret_in_clear",
];

#[test]
fn the_schema_refuses_what_is_wrong_in_shape() {
    let validator = jsonschema::draft7::new(&plan_schema()).expect("the schema is one");
    let mut refused = BTreeSet::new();
    for path in bad_plans() {
        let expected = said(&path, "expect").unwrap_or_default();
        let Some(json) = to_json(&path) else { continue };
        let valid = validator.is_valid(&json);
        if STRUCTURAL.iter().any(|code| expected.starts_with(code)) && !path.ends_with("for_each_over_text.yaml") {
            assert!(!valid, "the schema accepts {}", path.display());
            refused.insert(expected);
        }
    }
    assert!(refused.len() >= STRUCTURAL.len(), "{refused:?}");
}

#[test]
fn every_example_fits_the_schema_and_the_reader() {
    let validator = jsonschema::draft7::new(&plan_schema()).expect("the schema is one");
    let env = TestEnv::new();
    for kind in pgplan_engine::kinds::all() {
        let step = kind.example.trim_end().replace('\n', "\n    ");
        let path = env.write(&format!("{}.yaml", kind.name), &format!("version: 1\nsteps:\n  - {step}\n"));
        let json = to_json(&path).expect("the example is YAML");
        let errors: Vec<String> = validator.iter_errors(&json).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:#?}", kind.name);
        let checked = check_file(&path, &Options::default());
        let shape = ["unknown_key", "wrong_type", "missing_key", "unknown_value", "bad_value", "not_yaml"];
        let wrong: Vec<_> = checked.problems.iter().filter(|problem| shape.contains(&problem.code)).collect();
        assert!(wrong.is_empty(), "{}: {wrong:#?}", kind.name);
    }
    for plan in std::fs::read_dir("../plans").into_iter().flatten() {
        let path = plan.expect("plans can be read").path();
        if path.extension().is_some_and(|extension| extension == "yaml") {
            let json = to_json(&path).expect("the plan is YAML");
            let errors: Vec<String> = validator.iter_errors(&json).map(|error| error.to_string()).collect();
            assert!(errors.is_empty(), "{}: {errors:#?}", path.display());
        }
    }
}

/// Returns the plan as JSON without looking at its meaning; `None` when it is not YAML.
pub(crate) fn to_json(path: &Path) -> Option<serde_json::Value> {
    use pgplan_engine::{diagnostic::Problems, source::SourceFile, yaml};
    let text = std::fs::read_to_string(path).ok()?;
    let file = SourceFile { name: path.display().to_string(), folder: PathBuf::new(), text };
    Some(yaml::parse(&std::sync::Arc::new(file), yaml::Limits::default(), &mut Problems::default())?.to_json())
}
