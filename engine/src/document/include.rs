//! Reading a plan file and the files it includes.
//!
//! A plan may come from a stranger and problems are shown with the lines they are on: so an included file must lie in
//! the folder of the plan or below (links resolved), or `include: [/proc/self/environ]` would print secrets.

use std::{
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{Content, Document, read};
use crate::{
    diagnostic::{Diagnostic, Problems},
    source::{Place, SourceFile},
    yaml::{self, Key, Limits, Node},
};

/// How deep files may include files.
const DEPTH: usize = 8;

/// Reads the plan at `path` with all it includes; `None` when nothing of it can be used.
pub fn load(path: &Path, problems: &mut Problems) -> Option<Document> {
    let text = read_text(path, &path.display().to_string(), None, problems)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    load_text(path.display().to_string(), folder.to_owned(), text, problems)
}

/// Reads a plan from text; `folder` is where relative paths begin.
pub fn load_text(name: String, folder: PathBuf, text: String, problems: &mut Problems) -> Option<Document> {
    let file = Arc::new(SourceFile { name, folder, text });
    let mut loader = Loader { root: file.folder.canonicalize().ok(), stack: Vec::new(), done: Vec::new(), problems };
    if let Ok(path) = Path::new(&file.name).canonicalize() {
        loader.stack.push((path, None));
    }
    let content = loader.file(&file)?;
    Some(Document {
        file,
        vars: content.vars,
        secrets: content.secrets,
        databases: content.databases,
        steps: content.steps,
        settings: content.settings,
    })
}

/// Returns the text of a file, at most as large as a plan may be.
fn read_text(path: &Path, shown: &str, at: Option<&Place>, problems: &mut Problems) -> Option<String> {
    let fail = |code, message: String| {
        let diagnostic = Diagnostic::error(code, message);
        match at {
            Some(place) => diagnostic.at(place, "named here"),
            None => diagnostic,
        }
    };
    let limit = Limits::default().bytes as u64;
    let opened = std::fs::metadata(path).and_then(|found| {
        if found.is_dir() { Err(std::io::ErrorKind::IsADirectory.into()) } else { std::fs::File::open(path) }
    });
    let mut bytes = Vec::new();
    let outcome = opened.and_then(|file| file.take(limit + 1).read_to_end(&mut bytes));
    if let Err(error) = outcome {
        let code = if at.is_some() { "include_not_found" } else { "plan_not_found" };
        let help = at.is_none().then(|| "name the plan's file, such as upgrade.yaml, and check its rights".to_owned());
        problems.push(fail(code, format!("cannot read {shown}: {error}")).maybe_help(help));
        return None;
    }
    if bytes.len() as u64 > limit {
        problems.push(fail("file_too_large", format!("{shown} is larger than {} MiB", limit >> 20)));
        return None;
    }
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let offset = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1;
            problems.push(
                fail("not_utf8", format!("{shown} is not UTF-8: line {line}, byte {offset}"))
                    .help("save the file as UTF-8"),
            );
            None
        }
    }
}

struct Loader<'a> {
    /// The plan's folder, links resolved.
    root: Option<PathBuf>,
    /// The files that are being read, outermost first, each with the place that names it.
    stack: Vec<(PathBuf, Option<Place>)>,
    done: Vec<PathBuf>,
    problems: &'a mut Problems,
}

impl Loader<'_> {
    fn file(&mut self, file: &Arc<SourceFile>) -> Option<Content> {
        let before = self.problems.len();
        let Some(root) = yaml::parse(file, Limits::default(), self.problems) else {
            if self.problems.len() == before {
                self.problems.push(
                    Diagnostic::error("empty_plan", format!("{} is empty", file.name))
                        .help("`pgplan kinds` lists what a step can be"),
                );
            }
            return None;
        };
        let own = read(root, self.problems)?;
        let mut all = Content {
            vars: Vec::new(),
            secrets: Vec::new(),
            databases: Vec::new(),
            steps: Vec::new(),
            include: Vec::new(),
            settings: own.settings,
        };
        for (path, place) in &own.include {
            if let Some(content) = self.include(file, path, place) {
                if let Some((key, _)) = content.settings.entries().iter().find(|(key, _)| key.text != "name") {
                    self.problems.push(
                        Diagnostic::warning(
                            "ignored_setting",
                            format!("`{}` of an included file is not used", key.text),
                        )
                        .at(&key.place, "here")
                        .help("settings are those of the file that pgplan was started with"),
                    );
                }
                all.vars.extend(content.vars);
                self.merge("secret", &mut all.secrets, content.secrets);
                self.merge("database", &mut all.databases, content.databases);
                all.steps.extend(content.steps);
            }
        }
        all.vars.retain(|(key, _)| !own.vars.iter().any(|(own, _)| own.text == key.text));
        all.vars.extend(own.vars);
        self.merge("secret", &mut all.secrets, own.secrets);
        self.merge("database", &mut all.databases, own.databases);
        all.steps.extend(own.steps);
        Some(all)
    }

    fn merge(&mut self, what: &str, into: &mut Vec<(Key, Node)>, more: Vec<(Key, Node)>) {
        for (key, node) in more {
            match into.iter().find(|(had, _)| had.text == key.text) {
                Some((had, _)) => self.problems.push(
                    Diagnostic::error("duplicate_name", format!("the {what} `{}` is declared twice", key.text))
                        .at(&key.place, "again here")
                        .at(&had.place, "first here"),
                ),
                None => into.push((key, node)),
            }
        }
    }

    fn include(&mut self, from: &Arc<SourceFile>, path: &str, place: &Place) -> Option<Content> {
        let problem = |code, message: String| Diagnostic::error(code, message).at(place, "named here");
        let joined = from.folder.join(path);
        let outside = Path::new(path).is_absolute();
        let resolved = match joined.canonicalize() {
            Ok(resolved) if !outside => resolved,
            Err(error) if !outside => {
                self.problems.push(problem("include_not_found", format!("cannot read {path}: {error}")));
                return None;
            }
            _ => joined.clone(),
        };
        if outside || self.root.as_ref().is_none_or(|root| !resolved.starts_with(root)) {
            self.problems.push(
                problem("include_outside", format!("{path} is not in the plan's folder"))
                    .help("an included file must lie in the folder of the plan or below it"),
            );
            return None;
        }
        if let Some(first) = self.stack.iter().position(|(file, _)| *file == resolved) {
            let mut cycle = problem("include_cycle", format!("{path} includes itself"));
            for (_, named) in self.stack[first + 1..].iter().rev() {
                if let Some(named) = named {
                    cycle = cycle.at(named, "which is included here");
                }
            }
            self.problems.push(cycle);
            return None;
        }
        if self.stack.len() > DEPTH {
            self.problems.push(problem("include_too_deep", format!("files include each other more than {DEPTH} deep")));
            return None;
        }
        if self.done.contains(&resolved) {
            return None;
        }
        let text = read_text(&resolved, path, Some(place), self.problems)?;
        let folder = joined.parent().unwrap_or(&from.folder).to_owned();
        let name = Path::new(&from.name).parent().unwrap_or(Path::new("")).join(path).display().to_string();
        let file = Arc::new(SourceFile { name, folder, text });
        self.done.push(resolved.clone());
        self.stack.push((resolved, Some(place.clone())));
        let content = self.file(&file);
        self.stack.pop();
        content
    }
}
