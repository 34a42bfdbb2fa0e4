//! The documentation is true: its plans are valid, its links lead somewhere, the tests that it names exist.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::{env::TestEnv, live_plans::files};

fn root() -> PathBuf {
    fs::canonicalize(Path::new(env!("CARGO_MANIFEST_DIR")).join("..")).expect("the project has a root")
}

/// Returns the Markdown files of the project with their texts.
fn pages() -> Vec<(PathBuf, String)> {
    let all = files(&root().join("docs")).into_iter().chain([root().join("README.md")]);
    let pages = all.filter(|path| path.extension().is_some_and(|end| end == "md"));
    pages.map(|path| (path.clone(), fs::read_to_string(path).expect("the page can be read"))).collect()
}

/// Returns the fenced blocks of a language.
fn blocks<'a>(text: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    text.split(fence.as_str()).skip(1).map(|rest| rest.split("\n```").next().unwrap_or_default()).collect()
}

#[test]
fn every_plan_in_the_documentation_is_valid() {
    let env = TestEnv::new();
    let mut checked = 0;
    for (path, text) in pages() {
        for block in blocks(&text, "yaml").into_iter().filter(|block| block.starts_with("version:")) {
            env.write("plan.yaml", block);
            let said = env.pgplan(&["check", "plan.yaml"]);
            assert!(said.status.success(), "{}:\n{block}\n{}", path.display(), said.stderr);
            checked += 1;
        }
    }
    assert!(checked >= 6, "only {checked} plans were found");
}

#[test]
fn every_link_leads_to_a_file() {
    let link = regex::Regex::new(r"\]\(([^)#\s]+)(?:#[^)]*)?\)").expect("the pattern is right");
    let mut seen = 0;
    for (path, text) in pages() {
        for found in link.captures_iter(&text).map(|found| found[1].to_owned()).filter(|to| !to.contains("://")) {
            let target = path.parent().expect("a page has a folder").join(&found);
            assert!(target.exists(), "{} names {found}, which is not there", path.display());
            seen += 1;
        }
    }
    assert!(seen > 20, "only {seen} links were found");
}

#[test]
fn every_test_that_guards_a_promise_exists() {
    let tests = files(&root().join("tests/it")).into_iter().chain(files(&root().join("engine/src")));
    let sources = tests.filter(|path| path.extension().is_some_and(|end| end == "rs"));
    let functions: BTreeSet<String> = sources
        .flat_map(|path| {
            let text = fs::read_to_string(path).expect("the source can be read");
            let names = text.lines().filter_map(|line| line.trim().split_once("fn ")?.1.split('(').next().map(str::to_owned));
            names.collect::<Vec<_>>()
        })
        .collect();
    let promises = fs::read_to_string(root().join("docs/guide/promises.md")).expect("the page is there");
    let words = promises.split('`').skip(1).step_by(2);
    let named: Vec<&str> = words.filter(|word| word.contains('_') && !word.contains(['/', ' '])).collect();
    assert!(named.len() > 15, "{named:?}");
    for name in named {
        assert!(functions.contains(name), "docs/guide/promises.md names {name}, which is no test");
    }
}
