//! The documentation: plans in it pass the check, links lead somewhere, tests that it names exist.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use crate::env::TestEnv;

/// Folders without documentation or tests of ours.
const NOT_OURS: [&str; 3] = [".git", "target", ".pgplan"];

/// Returns the files below a folder whose names end so, sorted.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder can be read") {
            let entry = entry.expect("the folder can be read");
            let path = entry.path();
            let kind = entry.file_type().expect("the entry can be looked at");
            if kind.is_dir() && !NOT_OURS.iter().any(|name| path.file_name() == Some(OsStr::new(name))) {
                folders.push(path);
            } else if kind.is_file() && path.extension() == Some(OsStr::new(extension)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
}

/// A line of Markdown, or a fenced block with its language and the number of its first line.
enum Piece {
    Line(String),
    Block { language: String, line: usize, text: String },
}

fn pieces(markdown: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut lines = markdown.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else {
            pieces.push(Piece::Line(line.to_owned()));
            continue;
        };
        let inside = lines.by_ref().map(|(_, line)| line).take_while(|line| !line.trim_start().starts_with("```"));
        let text = inside.flat_map(|line| [line, "\n"]).collect();
        pieces.push(Piece::Block { language: language.trim().to_owned(), line: at + 2, text });
    }
    pieces
}

#[test]
fn every_plan_in_the_documentation_passes_the_check() {
    let env = TestEnv::new();
    let mut checked = 0;
    for page in [vec![PathBuf::from("../README.md")], files(Path::new("../docs"), "md")].concat() {
        for piece in pieces(&read(&page)) {
            let Piece::Block { language, line, text } = piece else { continue };
            if language != "yaml" || !text.starts_with("version:") {
                continue;
            }
            env.write("plan.yaml", &text);
            let said = env.pgplan(&["check", "plan.yaml"]);
            assert!(said.status.success(), "the plan at {}:{line} is wrong\n{}", page.display(), said.stderr);
            checked += 1;
        }
    }
    assert!(checked >= 10, "only {checked} plans were found");
}

#[test]
fn every_link_leads_to_a_file() {
    let link = regex::Regex::new(r"\]\(([^)\s]+)\)").expect("the pattern is right");
    let mut broken = Vec::new();
    for page in files(Path::new(".."), "md") {
        let text: String = pieces(&read(&page))
            .into_iter()
            .filter_map(|piece| match piece {
                Piece::Line(line) => Some(line + "\n"),
                Piece::Block { .. } => None,
            })
            .collect();
        for found in link.captures_iter(&text) {
            let target = &found[1];
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            if file.contains("://") || file.starts_with("mailto:") {
                continue;
            }
            let folder = page.parent().expect("a file has a folder");
            let path = if file.is_empty() { page.clone() } else { folder.join(file) };
            if !path.exists() || !(heading.is_empty() || headings(&path).contains(heading)) {
                broken.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere: {broken:#?}");
}

/// Returns the headings of a page as forges make anchors of them.
fn headings(page: &Path) -> BTreeSet<String> {
    let anchor = |title: &str| -> String {
        let kept = title.to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
    };
    pieces(&read(page))
        .into_iter()
        .filter_map(|piece| match piece {
            Piece::Line(line) if line.starts_with('#') => Some(anchor(line.trim_start_matches('#').trim())),
            Piece::Line(_) | Piece::Block { .. } => None,
        })
        .collect()
}

#[test]
fn every_test_behind_a_promise_exists() {
    let sources = ["../tests", "../engine", "../cli"].map(|folder| files(Path::new(folder), "rs")).concat();
    let tests: BTreeSet<String> = sources.iter().flat_map(|path| tests_in(&read(path))).collect();
    let page = read(Path::new("../docs/guide/promises.md"));
    let named: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|line| line.split_once('`'))
        .map(|(name, _)| name)
        .collect();
    assert!(named.len() > 30, "only {} tests are named", named.len());
    let missing: Vec<&&str> = named.iter().filter(|name| !tests.contains(**name)).collect();
    assert!(missing.is_empty(), "promises.md names tests that do not exist: {missing:?}");
}

/// Returns the names of the functions below a `#[test]` or `#[tokio::test…]`.
fn tests_in(source: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut marked = false;
    for line in source.lines().map(str::trim_start) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            marked = true;
        } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| marked) {
            found.extend(rest.split_once('(').map(|(name, _)| name.to_owned()));
            marked = false;
        }
    }
    found
}
