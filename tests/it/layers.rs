//! The layers of `docs/architecture.md`: which part of the engine may know which other part.
//!
//! The test reads the paths that begin with `crate::` (also those in nested braces and in the middle of code) and those
//! into crates that one file alone may know. What only tests contain is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// One rule. Names are prefixes of paths without `crate::`; those of other crates begin with `::`.
#[derive(Debug)]
enum Rule {
    /// These modules import of the engine nothing but these, and themselves.
    Only { who: &'static [&'static str], of: &'static [&'static str] },
    /// These modules never import these.
    Never { who: &'static [&'static str], of: &'static [&'static str] },
    /// This is imported by these modules alone.
    By { what: &'static str, who: &'static [&'static str] },
}

/// The section "Layers", in its order.
const RULES: [Rule; 20] = [
    Rule::Only { who: &["source", "secret", "error", "explain", "pattern", "spelling", "guard", "lock"], of: &[] },
    Rule::Only { who: &["diagnostic"], of: &["source"] },
    Rule::Only { who: &["yaml"], of: &["diagnostic", "quantity", "secret", "source", "spelling"] },
    Rule::Only { who: &["sql"], of: &["error"] },
    Rule::Only { who: &["action"], of: &["op"] },
    Rule::Only { who: &["merge"], of: &["pattern", "postgres::quote"] },
    Rule::Only { who: &["op"], of: &["artifact", "merge", "postgres::quote", "secret", "sql"] },
    Rule::Only { who: &["facts"], of: &["artifact", "merge", "op", "preflight::report"] },
    Rule::Only { who: &["preflight"], of: &["error", "facts", "op", "pattern", "postgres::quote", "quantity"] },
    Rule::Only {
        who: &["kinds"],
        of: &[
            "action",
            "artifact",
            "diagnostic",
            "error",
            "facts",
            "merge",
            "op",
            "pattern",
            "platforms",
            "postgres::quote",
            "preflight",
            "quantity",
            "receipt::SCHEMA",
            "secret",
            "spelling",
            "sql",
            "tool::Clients",
            "tool::version_name",
            "yaml",
        ],
    },
    Rule::Only { who: &["event", "state", "schedule"], of: &["action", "error", "event", "plan", "state"] },
    Rule::Only { who: &["journal"], of: &["error", "event", "lock", "postgres"] },
    Rule::Never {
        who: &["perform", "postgres", "tool", "survey"],
        of: &["journal", "run", "state", "schedule", "plan", "document", "kinds", "world"],
    },
    Rule::Never { who: &["run"], of: &["kinds", "perform", "postgres", "tool", "world"] },
    Rule::Only { who: &["timing", "downtime"], of: &["error", "event", "op", "plan", "quantity", "state", "timing"] },
    Rule::By { what: "run", who: &["attempt", "undo", "world", "preview", "rehearsal"] },
    Rule::By { what: "journal", who: &["run", "undo", "world", "locate"] },
    Rule::By { what: "::miette", who: &["diagnostic"] },
    Rule::By { what: "::granit_parser", who: &["yaml"] },
    Rule::By { what: "::rusqlite", who: &["journal"] },
];

/// Crates whose users are looked for.
const CRATES: [&str; 3] = ["miette", "granit_parser", "rusqlite"];

/// What a file imports, and which modules it declares for tests only, by their paths relative to the file's folder.
#[derive(Debug, Default)]
struct Imports {
    paths: BTreeSet<String>,
    test_files: Vec<String>,
}

impl Imports {
    fn of(text: &str) -> Self {
        let mut imports = Self::default();
        imports.read(text.parse().expect("the file is Rust"));
        imports
    }

    fn read(&mut self, stream: TokenStream) {
        let tokens: Vec<TokenTree> = stream.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            if is_test_attribute(&tokens[at..]) {
                at = self.skip_item(&tokens, at);
                continue;
            }
            at += 1;
            match token {
                TokenTree::Group(group) => self.read(group.stream()),
                TokenTree::Ident(name) if is_separator(&tokens, at) => {
                    let name = name.to_string();
                    if name == "crate" {
                        at = self.path(&tokens, at, &mut Vec::new());
                    } else if CRATES.contains(&name.as_str()) {
                        at = self.path(&tokens, at, &mut vec![format!("::{name}")]);
                    }
                }
                _ => {}
            }
        }
    }

    /// Reads the rest of a path, which begins with `::` at `at`; returns where it ends.
    fn path(&mut self, tokens: &[TokenTree], mut at: usize, path: &mut Vec<String>) -> usize {
        while is_separator(tokens, at) {
            match tokens.get(at + 2) {
                Some(TokenTree::Ident(name)) if name == "self" => {}
                Some(TokenTree::Ident(name)) => path.push(name.to_string()),
                Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Brace => {
                    let inner: Vec<TokenTree> = group.stream().into_iter().collect();
                    for part in inner.split(|token| matches!(token, TokenTree::Punct(comma) if comma.as_char() == ','))
                    {
                        let mut path = path.clone();
                        if let Some(TokenTree::Ident(name)) = part.first() {
                            if name != "self" {
                                path.push(name.to_string());
                            }
                            self.path(part, 1, &mut path);
                        }
                    }
                    return at + 3;
                }
                _ => break,
            }
            at += 3;
        }
        self.paths.insert(path.join("::"));
        at
    }

    /// Skips an item with its attributes; remembers the file of a module.
    fn skip_item(&mut self, tokens: &[TokenTree], mut at: usize) -> usize {
        let mut file = None;
        while let [TokenTree::Punct(hash), TokenTree::Group(attribute), ..] = &tokens[at..]
            && hash.as_char() == '#'
        {
            let text = attribute.stream().to_string();
            file = text.strip_prefix("path = \"").and_then(|path| path.strip_suffix('"')).map(str::to_owned).or(file);
            at += 2;
        }
        let mut before = None;
        while let Some(token) = tokens.get(at) {
            at += 1;
            match token {
                TokenTree::Punct(end) if end.as_char() == ';' => {
                    self.test_files.extend(file.or(before).filter(|name| name != "use"));
                    break;
                }
                TokenTree::Group(body) if body.delimiter() == Delimiter::Brace => break,
                TokenTree::Ident(name) => before = Some(format!("{name}.rs")),
                _ => {}
            }
        }
        at
    }
}

fn is_separator(tokens: &[TokenTree], at: usize) -> bool {
    let colon = |token: Option<&TokenTree>| matches!(token, Some(TokenTree::Punct(colon)) if colon.as_char() == ':');
    colon(tokens.get(at)) && colon(tokens.get(at + 1))
}

fn is_test_attribute(tokens: &[TokenTree]) -> bool {
    matches!(tokens, [TokenTree::Punct(hash), TokenTree::Group(attribute), ..]
        if hash.as_char() == '#' && attribute.stream().to_string().replace(' ', "") == "cfg(test)")
}

/// Returns whether `path` is `prefix` or lies in it.
fn lies_in(path: &str, prefix: &str) -> bool {
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// Returns what breaks the rules: one line for each module and what it imports against them.
fn violations(rules: &[Rule], modules: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let mut found = Vec::new();
    for (module, path) in modules.iter().flat_map(|(module, paths)| paths.iter().map(move |path| (module, path))) {
        let top = module.split("::").next().unwrap_or(module);
        let any = |path: &str, prefixes: &[&str]| prefixes.iter().any(|prefix| lies_in(path, prefix));
        for rule in rules {
            let broken = match rule {
                Rule::Only { who, of } => {
                    any(module, who) && !path.starts_with("::") && !lies_in(path, top) && !any(path, of)
                }
                Rule::Never { who, of } => any(module, who) && any(path, of),
                Rule::By { what, who } => lies_in(path, what) && !lies_in(module, what) && !any(module, who),
            };
            if broken {
                found.push(format!("{module} imports {path}, against {rule:?}"));
            }
        }
    }
    found
}

/// Returns the imports of every module of the engine by its path; those that only tests see are left out.
fn engine() -> BTreeMap<String, BTreeSet<String>> {
    let root = Path::new("../engine/src");
    let (mut waiting, mut files) = (vec![root.to_owned()], BTreeMap::new());
    let mut tests: BTreeSet<PathBuf> = BTreeSet::new();
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(&folder).expect("the engine's folder can be read") {
            let path = entry.expect("the engine's folder can be read").path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && path != root.join("lib.rs") {
                let imports = Imports::of(&std::fs::read_to_string(&path).expect("a source file can be read"));
                let own = if path.ends_with("mod.rs") { folder.clone() } else { path.with_extension("") };
                tests.extend(imports.test_files.iter().flat_map(|name| [folder.join(name), own.join(name)]));
                files.insert(path, imports.paths);
            }
        }
    }
    files.retain(|path, _| !tests.contains(path));
    let module = |path: &Path| {
        let path = path.strip_prefix(root).expect("the file is the engine's").with_extension("");
        let names: Vec<_> = path.iter().map(|name| name.to_string_lossy()).filter(|name| name != "mod").collect();
        names.join("::")
    };
    files.into_iter().map(|(path, paths)| (module(&path), paths)).collect()
}

#[test]
fn no_module_imports_what_is_not_for_it() {
    let engine = engine();
    assert!(engine.len() > 100 && engine["kinds::dump"].contains("op::Op"), "{engine:#?}");
    for rule in &RULES {
        let names = match rule {
            Rule::Only { who, .. } | Rule::Never { who, .. } | Rule::By { who, .. } => *who,
        };
        for name in names {
            assert!(engine.keys().any(|module| lies_in(module, name)), "{name} of {rule:?} is no module");
        }
    }
    let found = violations(&RULES, &engine);
    assert!(found.is_empty(), "see docs/architecture.md, Layers:\n{}", found.join("\n"));
}

#[test]
fn a_violation_is_found_wherever_it_stands() {
    let text = r#"
        //! Not [`crate::run::InAComment`].
        use crate::{action::Action, perform::{self, exec::{look, probe as ask}}};
        use std::{fs, path::Path};
        fn one() -> crate::error::StepError { let text = "crate::run::InAString"; call!(crate::journal::Journal::open(x)) }
        #[derive(miette::Diagnostic)]
        pub(crate) struct Shown;
        #[cfg(test)]
        mod tests { use crate::world::World; }
        #[cfg(test)]
        #[path = "other_tests.rs"]
        mod more_tests;
        #[cfg(test)]
        pub(crate) mod testing;
        fn last() { crate::vault::open(); }
    "#;
    let imports = Imports::of(text);
    let wanted = [
        "::miette::Diagnostic",
        "action::Action",
        "error::StepError",
        "journal::Journal::open",
        "perform",
        "perform::exec::look",
        "perform::exec::probe",
        "vault::open",
    ];
    assert_eq!(imports.paths.iter().collect::<Vec<_>>(), wanted);
    assert_eq!(imports.test_files, ["other_tests.rs", "testing.rs"]);

    let kinds = BTreeMap::from([("kinds::made_up".to_owned(), imports.paths)]);
    let broken = |rule: Rule| {
        let lines = violations(&[rule], &kinds).into_iter();
        lines.map(|line| line.split([' ', ',']).nth(2).map(str::to_owned).expect("a line names the import")).collect()
    };
    let only: Vec<String> = broken(Rule::Only { who: &["kinds"], of: &["action", "error", "perform::exec", "vault"] });
    assert_eq!(only, ["journal::Journal::open", "perform"]);
    let never: Vec<String> = broken(Rule::Never { who: &["kinds"], of: &["perform"] });
    assert_eq!(never, ["perform", "perform::exec::look", "perform::exec::probe"]);
    let by: Vec<String> = broken(Rule::By { what: "::miette", who: &["diagnostic"] });
    assert_eq!(by, ["::miette::Diagnostic"]);
    let others: Vec<String> = broken(Rule::Only { who: &["kind"], of: &[] });
    assert!(others.is_empty(), "{others:?}");
}
