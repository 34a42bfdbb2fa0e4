//! `repoint`: the application's configuration leads to another database.

use std::{collections::BTreeMap, path::Path};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Declarations, ExpandCx, Kind, declare::key};
use crate::{
    action::{Action, ActionGraph, Effect},
    error::{ErrorKind, StepError},
    facts::Facts,
    op::{EditFile, Exec, FileFormat, Found, Op, Parse, Probe},
    platforms::{Config, Platform, Values},
    secret::Text,
};

/// Sets configuration variables of an application: by its platform, or in a file.
///
/// On a platform each variable is set by the platform's own command, and the command that reads it must then show the
/// new value. Some platforms take the value on the command line only: while it is set, other users of the machine
/// could read it in the process list; the dry run says so.
///
/// A file is edited where it stands: comments, order, quotes, mode and owner are kept, the change is atomic, and a
/// copy is kept in the run's folder with which the step is taken back.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Repoint {
    /// The platform: `aptible`, `dokku`, `kubernetes`, `heroku` or one of your own.
    #[serde(default)]
    pub platform: Option<String>,
    /// The application.
    #[serde(default)]
    pub app: Option<Text>,
    /// Further parameters of the platform: `environment`, `namespace`.
    #[serde(default)]
    pub with: BTreeMap<String, Text>,
    /// The file, relative to the plan, instead of a platform. It must not be a symbolic link.
    #[serde(default)]
    pub file: Option<String>,
    /// How the file is written; when not given its name tells (`.env`, `.toml`).
    #[serde(default)]
    pub format: Option<FileFormat>,
    /// The variables with their new values. In a TOML file a dotted key leads into tables: `datastore.host`.
    pub set: BTreeMap<String, Text>,
    /// The values that are set when the step is taken back, on a platform: what was there is not kept, as it is secret.
    #[serde(default)]
    pub back: BTreeMap<String, Text>,
}

impl Kind for Repoint {
    const NAME: &'static str = "repoint";
    const GROUP: &'static str = "application";
    const SUMMARY: &'static str = "Lead an application to another database";
    const EXAMPLE: &'static str =
        "repoint: { file: ./app.env, set: { DATABASE_URL: \"postgres://shop@db.example:5432/shop\" } }";

    fn check(&self, to: &mut Declarations) {
        match (&self.platform, &self.file) {
            (Some(platform), None) => to.platform(platform, "platform"),
            (None, Some(file)) => self.check_file(file, to),
            (Some(_), Some(_)) => {
                to.problem("conflicting_keys", key(["file"]), "`file` cannot stand beside `platform`", None);
            }
            (None, None) => {
                to.problem(
                    "missing_key",
                    key([]),
                    "`platform` or `file` is missing",
                    Some("`file: PATH` edits a file"),
                );
            }
        }
        if self.set.is_empty() {
            to.problem("empty_mapping", key(["set"]), "nothing is set", None);
        }
        let dotted = self.file.is_some();
        for name in self.set.keys().filter(|name| !dotted && !is_variable(name)) {
            let message = format!("`{name}` is not the name of a variable");
            to.problem("bad_variable", key(["set", name]), message, Some("letters, digits and `_`, no digit first"));
        }
        for name in self.back.keys().filter(|name| !self.set.contains_key(*name)) {
            to.problem("unknown_variable", key(["back", name]), format!("`{name}` is not among `set`"), None);
        }
    }

    fn actions(&self, _: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        if let Some(file) = &self.file {
            return Ok(ActionGraph::of(vec![self.edit(file, cx)?]));
        }
        let platform = cx.platforms.get(self.platform.as_deref().unwrap_or_default())?;
        let config = platform.part(platform.config.as_ref(), "set configuration")?;
        let values = Values::given(platform, self.app.as_ref(), &self.with)?;
        let app = values.plain().get("app").map(|app| format!(" of {app}")).unwrap_or_default();
        let mut graph = ActionGraph { jobs: Some(1), ..ActionGraph::default() };
        for (name, value) in &self.set {
            let exec = set(platform, config, &values, name, value)?;
            if exec.secret_argv && exec.argv.iter().any(Text::is_tainted) {
                graph.warnings.push(format!(
                    "while `{name}` is set, other users of this machine can read its value in the process list: \
                     `{}` takes it in no other way",
                    platform.name
                ));
            }
            let mut action = Action::new(name, format!("set {name}{app} to {value}"), Op::Exec(exec), Effect::Probe);
            if let Some(back) = self.back.get(name) {
                action = action.undo(Op::Exec(set(platform, config, &values, name, back)?));
            }
            graph.actions.push(action);
        }
        Ok(graph)
    }
}

impl Repoint {
    fn check_file(&self, file: &str, to: &mut Declarations) {
        for (name, _) in [("app", self.app.is_some()), ("with", !self.with.is_empty()), ("back", !self.back.is_empty())]
            .into_iter()
            .filter(|(_, given)| *given)
        {
            let message = format!("`{name}` has no meaning for a file");
            to.problem("conflicting_keys", key([name]), message, Some("a file is put back from the copy kept of it"));
        }
        match self.format.or_else(|| format_of(file)) {
            None => to.problem(
                "unknown_format",
                key(["file"]),
                "the name does not tell how the file is written",
                Some("add `format: env`, `format: docker_env` or `format: toml`"),
            ),
            Some(FileFormat::Toml) => {}
            Some(FileFormat::Env | FileFormat::DockerEnv) => {
                for name in self.set.keys().filter(|name| !is_variable(name)) {
                    let message = format!("`{name}` is not the name of a variable");
                    to.problem(
                        "bad_variable",
                        key(["set", name]),
                        message,
                        Some("letters, digits and `_`, no digit first"),
                    );
                }
            }
        }
    }

    fn edit(&self, file: &str, cx: &ExpandCx<'_>) -> Result<Action, StepError> {
        let format = self.format.or_else(|| format_of(file)).ok_or_else(|| {
            StepError::new(ErrorKind::Plan, format!("it is not known how {file} is written")).help("add `format`")
        })?;
        let path = cx.plan_dir.join(file);
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        // Files of one name lie in many folders.
        let digest = blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex();
        let backup = cx.run_dir.join("backups").join(format!("{}-{}-{name}", cx.step, &digest[..8]));
        let values: Vec<String> = self.set.iter().map(|(key, value)| format!("{key} = {value}")).collect();
        let title = format!("edit {}: {}", path.display(), values.join(", "));
        let undo = Op::RestoreFile { path: path.clone(), backup: backup.clone() };
        let op = Op::EditFile(EditFile { path, format, set: self.set.clone(), backup });
        Ok(Action::new("edit", title, op, Effect::Probe).undo(undo))
    }
}

fn set(platform: &Platform, config: &Config, values: &Values, name: &str, value: &Text) -> Result<Exec, StepError> {
    let values = values.clone().with("key", &name.into()).with("value", value);
    let entry = matches!(config.get.parse, Parse::Pairs(_) | Parse::JsonPairs { .. }).then(|| name.to_owned());
    let found = Some(Found { parse: config.get.parse.clone(), entry, values: vec![value.clone()] });
    let done_if = Probe { exec: config.get.command.exec(platform, &values)?, stdout: None, found };
    Ok(Exec {
        done_if: Some(Box::new(done_if)),
        confirm_within_ms: Some(config.settle_seconds * 1000),
        ..config.set.exec(platform, &values)?
    })
}

fn format_of(file: &str) -> Option<FileFormat> {
    let name = Path::new(file).file_name()?.to_str()?;
    match name {
        _ if name.ends_with(".toml") => Some(FileFormat::Toml),
        _ if name.ends_with(".env") || name.starts_with(".env") => Some(FileFormat::Env),
        _ => None,
    }
}

fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::testing::{expand, problems};

    #[test]
    fn a_platform_sets_each_variable_and_shows_it() {
        let graph = expand::<Repoint>(
            "{ platform: dokku, app: shop, set: { DB_URL: 'postgres://a:(secret databases.target.password)@h' }, back: { DB_URL: old } }",
        )
        .unwrap();
        let [action] = graph.actions.as_slice() else { panic!("{graph:?}") };
        assert_eq!(action.title, "set DB_URL of shop to postgres://a:<secret databases.target.password>@h");
        assert!(graph.warnings[0].starts_with("while `DB_URL` is set, other users"));
        let Op::Exec(exec) = &action.op else { panic!("{action:?}") };
        assert_eq!(exec.done_if.as_ref().unwrap().exec.to_string(), "dokku config:get shop DB_URL");
        let Some(Op::Exec(undo)) = action.undo.as_deref() else { panic!("{action:?}") };
        assert_eq!(undo.to_string(), "dokku config:set shop DB_URL=old");
    }

    #[test]
    fn a_value_that_can_go_another_way_is_not_on_the_command_line() {
        let body = "{ platform: kubernetes, app: deployment/web, set: { DB_URL: '(secret s)' } }";
        let graph = expand::<Repoint>(body).unwrap();
        let Op::Exec(exec) = &graph.actions[0].op else { panic!("{graph:?}") };
        assert_eq!(exec.to_string(), "kubectl set env deployment/web -");
        assert_eq!(exec.stdin.as_ref().unwrap().to_string(), "DB_URL=<secret s>\n");
        assert!(graph.warnings.is_empty() && !exec.secret_argv);
    }

    #[test]
    fn a_file_is_edited_and_put_back() {
        let edited = |file: &str| {
            let body = format!("{{ file: {file}, set: {{ DB_URL: '(secret s)' }} }}");
            let graph = expand::<Repoint>(&body).unwrap();
            let [action] = graph.actions.as_slice() else { panic!("{graph:?}") };
            let Some(Op::RestoreFile { backup, .. }) = action.undo.as_deref() else { panic!("{action:?}") };
            (action.title.clone(), backup.display().to_string())
        };
        let (title, backup) = edited("config/app.env");
        assert_eq!(title, "edit /plan/config/app.env: DB_URL = <secret s>");
        assert!(backup.starts_with("/runs/r1/backups/step-") && backup.ends_with("-app.env"), "{backup}");
        assert_eq!(edited("config/app.env").1, backup);
        assert_ne!(edited("other/app.env").1, backup, "files of one name");
    }

    #[test]
    fn keys_are_checked() {
        assert_eq!(problems::<Repoint>("{ set: {} }"), ["missing_key", "empty_mapping"]);
        assert_eq!(problems::<Repoint>("{ file: a.env, platform: dokku, set: { A: b } }"), ["conflicting_keys"]);
        assert_eq!(problems::<Repoint>("{ file: settings, set: { A: b } }"), ["unknown_format"]);
        assert_eq!(problems::<Repoint>("{ file: a.env, set: { 'A B': b, 1A: b } }"), ["bad_variable", "bad_variable"]);
        assert_eq!(
            problems::<Repoint>("{ platform: dokku, set: { 'A=x --force': b }, back: { B: c } }"),
            ["bad_variable", "unknown_variable"]
        );
        assert_eq!(problems::<Repoint>("{ file: a.toml, set: { datastore.host: b } }"), [""; 0]);
    }
}
