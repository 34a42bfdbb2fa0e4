//! `record`: facts worth keeping about a migration.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Declarations, ExpandCx, Kind, declare::key};
use crate::{
    action::{Action, ActionGraph, Effect},
    error::{ErrorKind, StepError},
    facts::{Depth, Facts, Look},
    op::{Exec, Op},
    platforms::{Values, captures},
    secret::Text,
};

/// Keeps facts beside the dump: the commit the application runs, versions, sizes.
///
/// Data and code must match: a dump is worth little when nobody knows which commit it belongs to. What is recorded is
/// an output of the step and a JSON file in the run's folder.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The platform that is asked about the application: `dokku` tells `git_sha` and `git_last_updated_at`.
    #[serde(default)]
    pub platform: Option<String>,
    /// The application.
    #[serde(default)]
    pub app: Option<Text>,
    /// Further parameters of the platform.
    #[serde(default)]
    pub with: BTreeMap<String, Text>,
    /// Databases whose version and sizes are recorded.
    #[serde(default)]
    pub databases: Vec<String>,
    /// Further values by name.
    #[serde(default)]
    pub values: BTreeMap<String, Text>,
    /// The file in the run's folder; `STEP.json` when not given.
    #[serde(default)]
    pub file: Option<String>,
}

impl Kind for Record {
    const NAME: &'static str = "record";
    const GROUP: &'static str = "look";
    const SUMMARY: &'static str = "Keep facts about the application and its databases";
    const EXAMPLE: &'static str = "record: { platform: dokku, app: shop, values: { ticket: OPS-1 } }";

    fn check(&self, to: &mut Declarations) {
        if let Some(platform) = &self.platform {
            to.platform(platform, "platform");
            // The platform's file says which; it is not known here.
            to.open_outputs = true;
        }
        for database in &self.databases {
            to.reads(database, "databases");
            to.output(database, false);
        }
        for (name, value) in &self.values {
            to.output(name, false);
            if value.is_tainted() {
                let message = format!("`{name}` holds a secret, which would be written to a file");
                to.problem("secret_not_allowed", key(["values", name]), message, None);
            }
        }
        if self.platform.is_none() && self.databases.is_empty() && self.values.is_empty() {
            to.problem(
                "missing_key",
                key([]),
                "there is nothing to record",
                Some("add `platform`, `databases` or `values`"),
            );
        }
        if self.file.as_ref().is_some_and(|file| file.contains(['/', '\\']) || file.starts_with('.') || file.is_empty())
        {
            to.problem("bad_file", key(["file"]), "the file stands in the run's folder: a plain name", None);
        }
    }

    fn looks(&self, cx: &ExpandCx<'_>) -> Result<Vec<Look>, StepError> {
        let mut looks: Vec<Look> = self
            .databases
            .iter()
            .map(|database| Look::Server { database: database.clone(), depth: Depth::Server })
            .collect();
        if let Some(platform) = &self.platform {
            let platform = cx.platforms.get(platform)?;
            let values = Values::given(platform, self.app.as_ref(), &self.with)?;
            if platform.record.is_empty() {
                platform.part(None::<&()>, "record facts")?;
            }
            for (number, read) in platform.record.iter().enumerate() {
                let exec = Exec { capture: captures(&read.outputs), ..read.command.exec(platform, &values)? };
                looks.push(Look::Program { key: format!("record {number}"), exec });
            }
        }
        Ok(looks)
    }

    fn actions(&self, facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        let mut graph = ActionGraph::default();
        let mut values: BTreeMap<String, Value> = BTreeMap::new();
        if self.platform.is_some() && facts.programs.is_empty() {
            if !cx.dry_run {
                return Err(StepError::new(ErrorKind::Internal, "the platform was not asked"));
            }
            graph.warnings.push("the platform was not asked: no program was started".to_owned());
        }
        for captured in facts.programs.values() {
            values.extend(captured.clone());
        }
        for name in &self.databases {
            if let Some(server) = facts.servers.get(name) {
                let sizes: BTreeMap<&str, u64> =
                    server.databases.iter().map(|database| (database.name.as_str(), database.bytes)).collect();
                values
                    .insert(name.clone(), json!({ "version": server.version, "server": server.label, "bytes": sizes }));
            } else if let Some(step) = facts.servers_known_after.get(name) {
                graph.known_after.push(step.clone());
            }
        }
        for (name, value) in &self.values {
            // In a dry run a value may only be known after a step; it is shown as that.
            values.insert(name.clone(), Value::from(value.to_string()));
        }
        let shown: Vec<String> = values.iter().map(|(name, value)| format!("{name} {}", short(value))).collect();
        let title = if shown.is_empty() {
            "record what the platform tells".to_owned()
        } else {
            format!("record {}", shown.join(", "))
        };
        let file = self.file.clone().unwrap_or_else(|| format!("{}.json", cx.step));
        graph.actions.push(Action::new(
            "record",
            title,
            Op::Remember { values, file: Some(file.into()) },
            Effect::Restart,
        ));
        Ok(graph)
    }
}

fn short(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Object(map) => {
            map.get("version").and_then(Value::as_str).map_or_else(|| value.to_string(), str::to_owned)
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        facts::{DatabaseFacts, ServerFacts},
        kinds::testing::{Expand, expand, problems},
    };

    #[test]
    fn what_was_found_is_kept() {
        let captured = [("git_sha".to_owned(), json!("82eeec6fe1"))].into();
        let database = DatabaseFacts { name: "shop".to_owned(), bytes: 7, ..DatabaseFacts::default() };
        let server = ServerFacts { version: "15.2".to_owned(), databases: vec![database], ..ServerFacts::default() };
        let facts = Facts {
            programs: [("record 0".to_owned(), captured)].into(),
            servers: [("old".to_owned(), server)].into(),
            ..Facts::default()
        };
        let body = "{ platform: dokku, app: shop, databases: [old], values: { ticket: OPS-1 } }";
        let graph = Expand::facts(facts).kind::<Record>(body).unwrap();
        assert_eq!(graph.actions[0].title, "record git_sha 82eeec6fe1, old 15.2, ticket OPS-1");
        let Op::Remember { values, file } = &graph.actions[0].op else { panic!("{graph:?}") };
        assert_eq!(values["old"]["bytes"]["shop"], 7);
        assert_eq!(file.as_deref(), Some(std::path::Path::new("step.json")));
    }

    #[test]
    fn the_platform_is_asked_by_its_own_commands() {
        let looks = Expand::default().looks::<Record>("{ platform: dokku, app: shop }").unwrap();
        let [Look::Program { exec, .. }, _] = looks.as_slice() else { panic!("{looks:?}") };
        assert_eq!(exec.to_string(), "dokku git:report shop");
        assert_eq!(expand::<Record>("{ platform: dokku, app: shop }").unwrap().warnings.len(), 1);
        assert!(Expand::default().looks::<Record>("{ platform: systemd }").is_err());
    }

    #[test]
    fn keys_are_checked() {
        assert_eq!(problems::<Record>("{}"), ["missing_key"]);
        assert_eq!(problems::<Record>("{ values: { a: '(secret s)' } }"), ["secret_not_allowed"]);
        assert_eq!(problems::<Record>("{ values: { a: b }, file: ../x }"), ["bad_file"]);
    }
}
