//! `provision`: a new database on a platform, or a server of pgplan's own.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use nix::unistd::geteuid;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Declarations, ExpandCx, Kind, declare::key};
use crate::{
    action::{Action, ActionGraph, Effect},
    error::{ErrorKind, StepError},
    facts::{Facts, Look},
    op::{Capture, CreateCluster, Exec, Op, Parse, Probe},
    platforms::{Platform, Read, Values, captures},
    secret::Text,
};

/// The programs that make a server on this machine and start it.
pub const SERVER_PROGRAMS: [&str; 3] = ["initdb", "pg_ctl", "postgres"];

/// How long a platform may take until a new database can be read, in milliseconds.
const READY_WITHIN_MS: u64 = 30 * 60 * 1000;

/// Makes a new database server.
///
/// On a platform its own command is used; the outputs are what the platform tells of a database (`url`, and on Dokku
/// `internal_ip`, `password`, `user`, `dbname`). A database of that name that is there already is refused, unless
/// `adopt` allows to take it.
///
/// `managed` makes a server on this machine from installed PostgreSQL programs: its data in a private folder, TCP on
/// the loopback only, a random password (SCRAM). It goes on running after the run. Outputs: `url`, `port`, `data_dir`,
/// `socket`.
///
/// Taken back, the database is destroyed; one that was adopted stays, and so does a server in `data_dir` that an earlier
/// run made.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Provision {
    /// The platform: `aptible`, `dokku` or one of your own.
    #[serde(default)]
    pub platform: Option<String>,
    /// The name of the new database on the platform.
    #[serde(default)]
    pub name: Option<Text>,
    /// Its PostgreSQL version, as the platform writes it.
    #[serde(default)]
    pub version: Option<Text>,
    /// The application, where the platform needs it.
    #[serde(default)]
    pub app: Option<Text>,
    /// Further parameters of the platform: `environment`, `disk_size`.
    #[serde(default)]
    pub with: BTreeMap<String, Text>,
    /// Whether a database of that name may be there already.
    #[serde(default)]
    pub adopt: bool,
    /// A server on this machine instead of a platform.
    #[serde(default)]
    pub managed: Option<Managed>,
}

/// A server on this machine.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Managed {
    /// Major version; its server programs must be installed.
    pub version: u32,
    /// The port on the loopback; a free one when not given.
    #[serde(default)]
    pub port: Option<u16>,
    /// The folder that is made for it; when not given one in the run's folder (for root: in `/var/lib/pgplan`).
    #[serde(default)]
    pub data_dir: Option<PathBuf>,
    /// The system user it runs as when pgplan runs as root; `postgres`, else `nobody`, when not given.
    #[serde(default)]
    pub run_as: Option<String>,
    /// The superuser's name.
    #[serde(default = "superuser")]
    pub superuser: String,
    /// The locale of its databases (`initdb --locale`).
    #[serde(default = "locale")]
    pub locale: String,
    /// Settings for its `postgresql.conf`.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

fn superuser() -> String {
    "postgres".to_owned()
}

fn locale() -> String {
    "C.UTF-8".to_owned()
}

impl Kind for Provision {
    const NAME: &'static str = "provision";
    const GROUP: &'static str = "servers";
    const SUMMARY: &'static str = "Make a new database server";
    const EXAMPLE: &'static str = "provision: { managed: { version: 18, settings: { max_connections: \"200\" } } }";

    fn check(&self, to: &mut Declarations) {
        to.output("url", true);
        match (&self.platform, &self.managed) {
            (Some(platform), None) => {
                to.platform(platform, "platform");
                to.open_outputs = true;
                for (name, _) in [("name", self.name.is_some()), ("version", self.version.is_some())]
                    .into_iter()
                    .filter(|(_, given)| !given)
                {
                    to.problem("missing_key", key([]), format!("`{name}` is missing"), None);
                }
            }
            (None, Some(managed)) => {
                for name in ["port", "data_dir", "socket"] {
                    to.output(name, false);
                }
                check_settings(managed, to);
            }
            (Some(_), Some(_)) => {
                to.problem("conflicting_keys", key(["managed"]), "`managed` cannot stand beside `platform`", None);
            }
            (None, None) => to.problem("missing_key", key([]), "`platform` or `managed` is missing", None),
        }
    }

    fn looks(&self, cx: &ExpandCx<'_>) -> Result<Vec<Look>, StepError> {
        let Some(platform) = &self.platform else { return Ok(Vec::new()) };
        let (platform, values) = self.target(platform, cx)?;
        let read = database(platform)?;
        // Whatever its exit code: a database that is not there makes the command fail and print nothing.
        let capture = vec![Capture { name: "lines".to_owned(), parse: Parse::Lines, secret: false }];
        let success_codes = (0..=255).collect();
        let exec = Exec { capture, success_codes, ..read.command.exec(platform, &values)? };
        Ok(vec![Look::Program { key: "database".to_owned(), exec }])
    }

    fn actions(&self, facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        match (&self.platform, &self.managed) {
            (Some(platform), _) => self.on_platform(platform, facts, cx),
            (None, Some(managed)) => managed.actions(cx),
            (None, None) => Err(StepError::new(ErrorKind::Plan, "neither a platform nor a managed server is named")),
        }
    }
}

impl Provision {
    fn target<'a>(&self, platform: &str, cx: &ExpandCx<'a>) -> Result<(&'a Platform, Values), StepError> {
        let platform = cx.platforms.get(platform)?;
        let mut values = Values::given(platform, self.app.as_ref(), &self.with)?;
        for (name, value) in [("name", &self.name), ("version", &self.version)] {
            if let Some(value) = value {
                values = values.with(name, value);
            }
        }
        Ok((platform, values))
    }

    fn on_platform(&self, platform: &str, facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        let (platform, values) = self.target(platform, cx)?;
        let create = platform.part(platform.provision.as_ref(), "make a database")?;
        let read = database(platform)?;
        let name = self.name.clone().unwrap_or_default();
        let mut graph = ActionGraph::default();
        let lines = facts.programs.get("database").and_then(|captured| captured.get("lines"));
        let is_there = lines.map(|lines| lines.as_u64() > Some(0));
        if is_there.is_none() {
            if !cx.dry_run {
                return Err(StepError::new(ErrorKind::Internal, "the platform was not asked for the database"));
            }
            graph.warnings.push(format!("whether `{name}` is there already is not known: no program was started"));
        }
        if is_there == Some(true) && !self.adopt {
            let message = format!("there is already a database `{name}` on the platform `{}`", platform.name);
            return Err(
                StepError::new(ErrorKind::Refused, message).help("name another one, or set `adopt: true` to use it")
            );
        }
        let look = Exec { capture: captures(&read.outputs), ..read.command.exec(platform, &values)? };
        let exec = Exec {
            done_if: Some(Box::new(Probe { exec: look, stdout: None, found: None })),
            confirm_within_ms: Some(READY_WITHIN_MS),
            ..create.exec(platform, &values)?
        };
        let title = match is_there {
            Some(true) => format!("use the database `{name}` that is there already"),
            _ => format!("make a database: {exec}"),
        };
        // The address is a secret, which no journal keeps: on resume the platform is asked again.
        let mut action = Action::new("create", title, Op::Exec(exec), Effect::Probe).volatile();
        if let (Some(destroy), Some(false)) = (&platform.deprovision, is_there) {
            action = action.undo(Op::Exec(destroy.exec(platform, &values)?));
        }
        graph.actions.push(action);
        Ok(graph)
    }
}

impl Managed {
    fn actions(&self, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        cx.clients.of_major(&SERVER_PROGRAMS, self.version)?;
        let folder = match &self.data_dir {
            Some(folder) => cx.plan_dir.join(folder),
            None => default_folder(cx.run_dir, cx.step),
        };
        let port = self.port.map_or_else(|| "a free port".to_owned(), |port| format!("port {port}"));
        let title =
            format!("make a PostgreSQL {} server in {}, on {port} of the loopback", self.version, folder.display());
        let undo = Op::RemoveCluster { folder: folder.clone(), of_this_run: true };
        let op = Op::CreateCluster(CreateCluster {
            version: self.version,
            folder,
            port: self.port,
            run_as: self.run_as.clone(),
            superuser: self.superuser.clone(),
            locale: self.locale.clone(),
            settings: self.settings.clone(),
        });
        Ok(ActionGraph::of(vec![Action::new("cluster", title, op, Effect::Probe).undo(undo).volatile()]))
    }
}

fn check_settings(managed: &Managed, to: &mut Declarations) {
    // PostgreSQL itself takes any name, but its extension scripts, which initdb runs, refuse these in their owner's.
    let name = &managed.superuser;
    if name.is_empty() || name.len() > 63 || name.starts_with("pg_") || name.contains(['"', '$', '\'', '\\']) {
        let help = "1 to 63 bytes, not beginning with `pg_`, without \" $ ' \\";
        let message = format!("`{name}` cannot be the name of a superuser that initdb makes");
        to.problem("bad_superuser", key(["managed", "superuser"]), message, Some(help));
    }
    for name in managed.settings.keys() {
        let word = |c: char| c.is_ascii_alphanumeric() || "_.".contains(c);
        if name.is_empty() || !name.chars().all(word) {
            to.problem(
                "bad_setting",
                key(["managed", "settings", name]),
                format!("`{name}` is not a setting's name"),
                None,
            );
        }
        if ["port", "listen_addresses", "unix_socket_directories"].contains(&name.as_str()) {
            let message = format!("`{name}` is pgplan's to set");
            to.problem(
                "bad_setting",
                key(["managed", "settings", name]),
                message,
                Some("the server is open to this machine only; `port` stands beside `settings`"),
            );
        }
    }
    for (name, value) in managed.settings.iter().filter(|(_, value)| value.chars().any(char::is_control)) {
        let message = format!("the value of `{name}` holds a control character: {value:?}");
        to.problem("bad_setting", key(["managed", "settings", name]), message, None);
    }
}

fn database(platform: &Platform) -> Result<&Read, StepError> {
    platform.part(platform.database.as_ref(), "tell about a database")
}

/// Returns the folder for a server that the plan gives no place, where the user it runs as can reach it.
/// Returns where the server of a step lies; one that root starts must be where its user may go.
pub(super) fn default_folder(run_dir: &Path, step: &str) -> PathBuf {
    if geteuid().is_root() {
        let run = run_dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        Path::new("/var/lib/pgplan").join(format!("{run}-{step}"))
    } else {
        run_dir.join("clusters").join(step)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{
        kinds::testing::{Expand, expand, problems},
        tool::{Client, Clients},
    };

    const STEP: &str = "{ platform: dokku, name: new-db, version: '18.1' }";

    fn lines(lines: u64) -> Facts {
        let captured = [("lines".to_owned(), json!(lines))].into();
        Facts { programs: [("database".to_owned(), captured)].into(), ..Facts::default() }
    }

    #[test]
    fn a_new_database_is_made_read_and_can_be_taken_back() {
        let graph = Expand::facts(lines(0)).kind::<Provision>(STEP).unwrap();
        let [action] = graph.actions.as_slice() else { panic!("{graph:?}") };
        assert_eq!(action.title, "make a database: dokku postgres:create new-db --image-version 18.1");
        let Op::Exec(exec) = &action.op else { panic!("{action:?}") };
        assert_eq!(exec.done_if.as_ref().unwrap().exec.to_string(), "dokku postgres:info new-db");
        assert!(action.volatile);
        let Some(Op::Exec(undo)) = action.undo.as_deref() else { panic!("{action:?}") };
        assert_eq!(undo.to_string(), "dokku postgres:destroy new-db --force");
    }

    #[test]
    fn one_that_is_there_is_refused_or_adopted_and_then_never_destroyed() {
        let error = Expand::facts(lines(7)).kind::<Provision>(STEP).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
        let adopt = STEP.replace(" }", ", adopt: true }");
        let graph = Expand::facts(lines(7)).kind::<Provision>(&adopt).unwrap();
        assert_eq!(graph.actions[0].title, "use the database `new-db` that is there already");
        assert_eq!(graph.actions[0].undo, None);
        let unknown = expand::<Provision>(STEP).unwrap();
        assert_eq!((unknown.warnings.len(), &unknown.actions[0].undo), (1, &None));
    }

    #[test]
    fn a_managed_server_needs_its_version_installed() {
        let body = "{ managed: { version: 18, data_dir: ./new, port: 5499 } }";
        assert_eq!(expand::<Provision>(body).unwrap_err().kind, ErrorKind::ToolMissing);
        let programs = ["initdb", "pg_ctl", "postgres"].map(str::to_owned).into();
        let clients = Clients { found: vec![Client { dir: "/pg/18".into(), version_num: 180_004, programs }] };
        let graph = Expand { clients, dry_run: true, ..Expand::default() }.kind::<Provision>(body).unwrap();
        assert_eq!(graph.actions[0].title, "make a PostgreSQL 18 server in /plan/./new, on port 5499 of the loopback");
    }

    #[test]
    fn keys_are_checked() {
        assert_eq!(problems::<Provision>("{}"), ["missing_key"]);
        assert_eq!(problems::<Provision>("{ platform: dokku }"), ["missing_key", "missing_key"]);
        assert_eq!(
            problems::<Provision>("{ managed: { version: 18, settings: { port: '1', \"a'b\": x, c: \"x\\ny\" } } }"),
            ["bad_setting", "bad_setting", "bad_setting"]
        );
        assert_eq!(problems::<Provision>("{ managed: { version: 18, superuser: \"o'brien\" } }"), ["bad_superuser"]);
    }
}
