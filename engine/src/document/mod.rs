//! The plan as it is written: every part with its place, nothing looked up or evaluated yet.

mod include;
mod keys;
mod question;
mod sections;
mod step;

use std::{path::Path, sync::Arc};

pub use include::{load, load_text};
pub use keys::{DowntimeGoal, Needs, RetryKeys, Settings, StepKeys};
pub use question::{Question, Undo};
pub use sections::{DatabaseKeys, PgpassKeys, SecretKeys, VarKeys, VarType};
pub use step::{COMMON_KEYS, StepDecl};

use crate::{
    diagnostic::{Diagnostic, Problems},
    source::{Place, SourceFile},
    spelling,
    yaml::{Key, Node, NodeValue},
};

/// The version of the plan language.
pub const VERSION: i64 = 1;

/// The keys at the top of a plan file.
pub const TOP_KEYS: [&str; 11] = [
    "version",
    "name",
    "vars",
    "secrets",
    "databases",
    "steps",
    "include",
    "on_failure",
    "max_parallel",
    "state",
    "downtime",
];

/// A plan with all the files it includes.
#[derive(Debug, Clone)]
pub struct Document {
    /// The file that was asked for.
    pub file: Arc<SourceFile>,
    /// Variables; where a name is there twice, the outer file's value counts.
    pub vars: Vec<(Key, Node)>,
    /// Secrets.
    pub secrets: Vec<(Key, Node)>,
    /// Databases.
    pub databases: Vec<(Key, Node)>,
    /// Steps: those of included files first.
    pub steps: Vec<StepDecl>,
    /// `name`, `on_failure`, `max_parallel`, `state` and `downtime` of the outer file, as one mapping.
    pub settings: Node,
}

impl Document {
    /// Returns the folder of the plan.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.file.folder
    }
}

/// The content of one file.
struct Content {
    vars: Vec<(Key, Node)>,
    secrets: Vec<(Key, Node)>,
    databases: Vec<(Key, Node)>,
    steps: Vec<StepDecl>,
    include: Vec<(String, Place)>,
    settings: Node,
}

/// The key by which a saved plan is known.
pub(crate) const SAVED_PLAN: &str = "pgplan_saved";

/// Returns the sections of a file's root mapping.
fn read(root: Node, problems: &mut Problems) -> Option<Content> {
    let Node { place, value } = root;
    let NodeValue::Map(entries) = value else {
        let message = format!("a plan is a mapping, this is {}", value.describe());
        let help = "begin with `version: 1`";
        problems.push(Diagnostic::error("not_a_plan", message).at(&place, "here").help(help));
        return None;
    };
    if let Some((key, _)) = entries.iter().find(|(key, _)| key.text == SAVED_PLAN) {
        problems.push(
            Diagnostic::error("saved_plan", "this is a saved plan, which only `pgplan apply` takes")
                .at(&key.place, "by this it is known")
                .help("name the plan file that it was made from; it stands under `path` of `saved`"),
        );
        return None;
    }
    check_version(&entries, &place, problems);
    let mut content = Content {
        vars: Vec::new(),
        secrets: Vec::new(),
        databases: Vec::new(),
        steps: Vec::new(),
        include: Vec::new(),
        settings: Node::new(Place::new(&place.file, place.span.start..place.span.start), NodeValue::Null),
    };
    let mut settings = Vec::new();
    for (key, node) in entries {
        match key.text.as_str() {
            "version" => {}
            "vars" => content.vars = mapping(&key, node, problems),
            "secrets" => content.secrets = mapping(&key, node, problems),
            "databases" => content.databases = mapping(&key, node, problems),
            "steps" => content.steps = step::read_list(&key, node, problems),
            "include" => content.include = includes(&node, problems),
            "name" | "on_failure" | "max_parallel" | "state" | "downtime" => settings.push((key, node)),
            other if other.starts_with("x-") => {}
            other => {
                let help = spelling::did_you_mean(other, TOP_KEYS);
                problems.push(
                    Diagnostic::error("unknown_key", format!("a plan has no key `{other}`"))
                        .at(&key.place, "here")
                        .maybe_help(help),
                );
            }
        }
    }
    content.settings.value = NodeValue::Map(settings);
    Some(content)
}

fn check_version(entries: &[(Key, Node)], place: &Place, problems: &mut Problems) {
    let help = "write `version: 1`";
    match entries.iter().find(|(key, _)| key.text == "version") {
        None => {
            let place = entries.first().map_or(place, |(key, _)| &key.place);
            problems.push(
                Diagnostic::error("missing_version", "the plan does not say its version")
                    .at(place, "the file begins here")
                    .help(help),
            );
        }
        Some((_, node)) if node.value == NodeValue::Int(VERSION) => {}
        Some((_, node)) => problems.push(
            Diagnostic::error("unsupported_version", format!("this pgplan reads plans of version {VERSION}"))
                .at(&node.place, "this is another version")
                .help(help),
        ),
    }
}

fn mapping(key: &Key, node: Node, problems: &mut Problems) -> Vec<(Key, Node)> {
    match node.value {
        NodeValue::Map(entries) => entries.into_iter().filter(|(key, _)| !key.text.starts_with("x-")).collect(),
        NodeValue::Null => Vec::new(),
        other => {
            let message = format!("`{}` must be a mapping of names, not {}", key.text, other.describe());
            problems.push(Diagnostic::error("wrong_type", message).at(&node.place, "here"));
            Vec::new()
        }
    }
}

fn includes(node: &Node, problems: &mut Problems) -> Vec<(String, Place)> {
    let items: Vec<&Node> = match &node.value {
        NodeValue::Str(_) => vec![node],
        NodeValue::Seq(items) => items.iter().collect(),
        _ => {
            let message = "`include` must be a list of files";
            problems.push(Diagnostic::error("wrong_type", message).at(&node.place, "here"));
            return Vec::new();
        }
    };
    let mut files = Vec::new();
    for item in items {
        match item.as_str() {
            Some(path) => files.push((path.to_owned(), item.place.clone())),
            None => {
                let message = format!("expected the path of a file, found {}", item.value.describe());
                problems.push(Diagnostic::error("wrong_type", message).at(&item.place, "here"));
            }
        }
    }
    files
}
