//! `dump`: a server or a database into a file of the run's folder.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Declarations, ExpandCx, Handed, Kind,
    declare::{Key, key},
};
use crate::{
    action::{Action, ActionGraph, Effect},
    artifact::{DumpFormat, DumpScope},
    error::{ErrorKind, StepError},
    facts::{Depth, Facts, Look, ServerFacts},
    op::{Compress, DumpOp, Op},
    tool::version_name,
};

/// Makes a dump of a database, or of a whole server with its roles, with the client that fits the source.
///
/// The dump lies in the run's folder, readable by the user alone, with its SHA-256 in the journal; `filter` and
/// `restore` find it by themselves. A dump without its last line, or from a client that failed, is no dump. The
/// password is handed over in a password file, never on a command line.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dump {
    /// The database to dump; with `scope: cluster` its whole server.
    pub from: String,
    /// How much: `database` (pg_dump) or `cluster` (pg_dumpall: roles, tablespaces, every database).
    #[serde(default)]
    pub scope: DumpScope,
    /// `plain` (SQL), `custom` or `directory` (archives, restored by several jobs). A cluster is always plain.
    #[serde(default)]
    pub format: DumpFormat,
    /// How many processes write a directory.
    pub jobs: Option<usize>,
    /// `none`, `zstd` or `zstd:LEVEL`. Absent: zstd for plain text, the client's own way for archives.
    pub compress: Option<String>,
    /// No data.
    #[serde(default)]
    pub schema_only: bool,
    /// No definitions.
    #[serde(default)]
    pub data_only: bool,
    /// Of a cluster, only roles and tablespaces.
    #[serde(default)]
    pub globals_only: bool,
    /// Only these tables (patterns of `pg_dump --table`).
    #[serde(default)]
    pub tables: Vec<String>,
    /// All but these tables (patterns of `pg_dump --exclude-table`).
    #[serde(default)]
    pub exclude_tables: Vec<String>,
    /// These tables without their data.
    #[serde(default)]
    pub exclude_table_data: Vec<String>,
    /// Only these schemas.
    #[serde(default)]
    pub schemas: Vec<String>,
    /// All but these schemas.
    #[serde(default)]
    pub exclude_schemas: Vec<String>,
    /// Of a cluster, all but these databases.
    #[serde(default)]
    pub exclude_databases: Vec<String>,
    /// No commands that set owners.
    #[serde(default)]
    pub no_owner: bool,
    /// No privileges.
    #[serde(default)]
    pub no_privileges: bool,
    /// Further options of the client, each a word: `--lock-wait-timeout=60s`.
    #[serde(default)]
    pub options: Vec<String>,
    /// The program to use instead of the installed one that fits the source.
    pub client: Option<PathBuf>,
}

/// Options that pgplan sets itself, or that would say where to connect.
const OWN: &[&str] = &[
    "-h",
    "-p",
    "-U",
    "-d",
    "-W",
    "-w",
    "-f",
    "-F",
    "-Z",
    "-j",
    "-l",
    "--host",
    "--port",
    "--username",
    "--dbname",
    "--database",
    "--password",
    "--no-password",
    "--file",
    "--format",
    "--compress",
    "--jobs",
];
/// How many tables' sizes go with the dump.
const LISTED_TABLES: usize = 200;

impl Kind for Dump {
    const NAME: &'static str = "dump";
    const GROUP: &'static str = "data";
    const SUMMARY: &'static str = "Dump a database or a whole server into a file";
    const EXAMPLE: &'static str = "dump:\n  from: source\n  scope: cluster\n";

    fn check(&self, to: &mut Declarations) {
        to.reads(&self.from, "from");
        to.makes(Handed::Dump);
        to.output("dump", false);
        let mut wrong =
            |at: &str, message: &str, help: &str| to.problem("dump_options", key([at]), message, Some(help));
        let cluster = self.scope == DumpScope::Cluster;
        if cluster && self.format != DumpFormat::Plain {
            wrong(
                "format",
                "a cluster can be dumped as plain text only",
                "leave out `format`, or use one dump per database",
            );
        }
        if self.globals_only && !cluster {
            wrong("globals_only", "roles and tablespaces belong to the cluster", "add `scope: cluster`");
        }
        if self.schema_only && self.data_only {
            wrong("data_only", "`schema_only` and `data_only` together leave nothing", "leave out one of them");
        }
        if self.jobs.is_some() && self.format != DumpFormat::Directory {
            wrong("jobs", "only a directory is written by several jobs", "use `format: directory`");
        }
        if self.jobs == Some(0) {
            wrong("jobs", "`jobs` must be at least 1", "leave it out for one job");
        }
        if let Err(message) = self.compression() {
            wrong("compress", &message, "use none, zstd or zstd:LEVEL");
        }
        let selects = [
            ("tables", &self.tables),
            ("exclude_tables", &self.exclude_tables),
            ("exclude_table_data", &self.exclude_table_data),
            ("schemas", &self.schemas),
            ("exclude_schemas", &self.exclude_schemas),
        ];
        for (at, patterns) in selects {
            if cluster && !patterns.is_empty() {
                wrong(at, "tables and schemas are chosen for one database", "leave out `scope: cluster`");
            }
        }
        if !cluster && !self.exclude_databases.is_empty() {
            wrong("exclude_databases", "a database is left out of a cluster's dump only", "add `scope: cluster`");
        }
        for (at, option) in self.options.iter().enumerate() {
            let place: Key = vec!["options".into(), at.to_string()];
            if let Some(problem) = refused_option(option) {
                to.problem("dump_options", place, problem, Some("use the step's own keys"));
            }
        }
    }

    fn looks(&self, _: &ExpandCx<'_>) -> Result<Vec<Look>, StepError> {
        let depth = if self.scope == DumpScope::Cluster { Depth::Server } else { Depth::Tables };
        Ok(vec![Look::Server { database: self.from.clone(), depth }])
    }

    fn actions(&self, facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        let server = facts.servers.get(&self.from);
        let compress = self.compression().map_err(|message| StepError::new(ErrorKind::Plan, message))?;
        let dbname = server.map_or(self.from.as_str(), |server| server.dbname.as_str());
        let cluster = self.scope == DumpScope::Cluster;
        let name = if cluster { "cluster".to_owned() } else { file_name(dbname) };
        let program = if cluster { "pg_dumpall" } else { "pg_dump" };
        let found = match (&self.client, server) {
            (None, Some(server)) => Some(cx.clients.for_server(program, server.version_num)?),
            _ => None,
        };
        let own = self.client.as_ref().map(|path| cx.plan_dir.join(path));
        let op = DumpOp {
            from: self.from.clone(),
            scope: self.scope,
            format: self.format,
            jobs: self.jobs.unwrap_or(1),
            compress,
            args: self.args(),
            client: own.or_else(|| found.map(|client| client.path(program))),
            estimate: server.and_then(|server| self.estimate(server)),
            table_bytes: server.map(table_bytes).unwrap_or_default(),
            name,
        };
        let what = if cluster { "the server of".to_owned() } else { format!("database \"{dbname}\" of") };
        let with = match found {
            Some(client) => format!("{program} {}", version_name(client.version_num)),
            None => program.to_owned(),
        };
        let title = format!("dump {what} {} with {with} into {}", self.from, op.file(cx.step).display());
        let estimate = op.estimate;
        let action = Action::new("dump", title, Op::Dump(op), Effect::Restart).estimate(estimate, None);
        let mut graph = ActionGraph::of(vec![action]);
        if let Some(step) = facts.servers_known_after.get(&self.from) {
            graph.known_after.push(step.clone());
        }
        if let Some(server) = server {
            graph.warnings = self.warnings(server);
        }
        Ok(graph)
    }
}

impl Dump {
    fn compression(&self) -> Result<Compress, String> {
        let Some(text) = &self.compress else { return Ok(Compress::Default) };
        match text.split_once(':').unwrap_or((text, "3")) {
            ("none", "3") => Ok(Compress::None),
            ("zstd", level) => match level.parse() {
                Ok(level @ 1..=22) => Ok(Compress::Zstd(level)),
                _ => Err(format!("`{level}` is no zstd level from 1 to 22")),
            },
            _ => Err(format!("`{text}` is no compression")),
        }
    }

    fn args(&self) -> Vec<String> {
        let mut args = vec!["--no-password".to_owned()];
        if !self.options.iter().any(|option| option.starts_with("-E") || option.starts_with("--encoding")) {
            // Statements and names can then be read whatever the source's encoding is.
            args.push("--encoding=UTF8".into());
        }
        let flags = [
            (self.schema_only, "--schema-only"),
            (self.data_only, "--data-only"),
            (self.globals_only, "--globals-only"),
            (self.no_owner, "--no-owner"),
            (self.no_privileges, "--no-privileges"),
        ];
        args.extend(flags.into_iter().filter(|(on, _)| *on).map(|(_, flag)| flag.to_owned()));
        if self.scope == DumpScope::Database && self.schemas.is_empty() && self.tables.is_empty() {
            // Receipts of a run that had this database as its target.
            args.push("--exclude-schema=pgplan".into());
        }
        let patterns = [
            ("--table", &self.tables),
            ("--exclude-table", &self.exclude_tables),
            ("--exclude-table-data", &self.exclude_table_data),
            ("--schema", &self.schemas),
            ("--exclude-schema", &self.exclude_schemas),
            ("--exclude-database", &self.exclude_databases),
        ];
        for (option, list) in patterns {
            args.extend(list.iter().map(|pattern| format!("{option}={pattern}")));
        }
        match self.format {
            DumpFormat::Plain => {}
            DumpFormat::Custom => args.push("--format=custom".into()),
            DumpFormat::Directory => {
                args.push("--format=directory".into());
                args.push(format!("--jobs={}", self.jobs.unwrap_or(1)));
            }
        }
        args.extend(self.options.iter().cloned());
        args
    }

    fn estimate(&self, server: &ServerFacts) -> Option<u64> {
        if self.schema_only || self.globals_only {
            return None;
        }
        let bytes = match self.scope {
            DumpScope::Cluster => server.user_databases().map(|database| database.bytes).sum(),
            DumpScope::Database => server.database(&server.dbname)?.bytes,
        };
        Some(bytes)
    }

    fn warnings(&self, server: &ServerFacts) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.scope == DumpScope::Cluster && !self.globals_only {
            let closed: Vec<&str> = server
                .databases
                .iter()
                .filter(|database| !database.allows_connections && database.name != "template0")
                .map(|database| database.name.as_str())
                .collect();
            if !closed.is_empty() {
                warnings
                    .push(format!("pg_dumpall leaves out databases that allow no connections: {}", closed.join(", ")));
            }
        }
        if self.scope == DumpScope::Cluster && !server.superuser && server.version_num > 0 {
            let message = "is no superuser: roles are dumped only if it may read pg_authid (or with \
                           `options: [--no-role-passwords]`)";
            warnings.push(format!("{} {message}", server.user));
        }
        warnings
    }
}

fn refused_option(option: &str) -> Option<String> {
    if !option.starts_with('-') {
        return Some(format!("`{option}` is no option"));
    }
    let name = if option.starts_with("--") {
        option.split('=').next().unwrap_or(option)
    } else {
        option.get(..2).unwrap_or(option)
    };
    OWN.contains(&name).then(|| format!("`{name}` is set by pgplan"))
}

/// Returns `text` as a file name: what is not a letter, digit, `-` or `_` becomes `_`.
pub(super) fn file_name(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '_' }).take(80).collect()
}

fn table_bytes(server: &ServerFacts) -> std::collections::BTreeMap<String, u64> {
    let tables = server.database(&server.dbname).and_then(|database| database.tables.as_ref());
    let mut tables: Vec<_> = tables.into_iter().flatten().collect();
    tables.sort_by_key(|table| std::cmp::Reverse(table.bytes));
    let named =
        tables.iter().take(LISTED_TABLES).map(|table| (format!("{}.{}", table.schema, table.name), table.bytes));
    named.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        facts::DatabaseFacts,
        kinds::testing::Expand,
        tool::{Client, Clients},
    };

    fn step(json: serde_json::Value) -> Dump {
        serde_json::from_value(json).unwrap()
    }

    fn problems(json: serde_json::Value) -> Vec<String> {
        let mut to = Declarations::default();
        step(json).check(&mut to);
        to.problems.into_iter().map(|problem| problem.message).collect()
    }

    #[test]
    fn contradictions_are_found() {
        assert_eq!(problems(serde_json::json!({"from": "a"})), [""; 0]);
        assert_eq!(
            problems(serde_json::json!({"from": "a", "scope": "cluster", "format": "custom", "jobs": 2})).len(),
            2
        );
        assert_eq!(
            problems(serde_json::json!({"from": "a", "options": ["--host=b", "-fx", "x", "--inserts"]})),
            ["`--host` is set by pgplan", "`-f` is set by pgplan", "`x` is no option"]
        );
        assert_eq!(
            problems(serde_json::json!({"from": "a", "compress": "zstd:99"})),
            ["`99` is no zstd level from 1 to 22"]
        );
    }

    #[test]
    fn the_dry_run_shows_the_command_and_the_file() {
        let server = ServerFacts {
            version_num: 150_020,
            dbname: "We\"ird 'db".into(),
            databases: vec![DatabaseFacts { name: "We\"ird 'db".into(), bytes: 7, ..DatabaseFacts::default() }],
            ..ServerFacts::default()
        };
        let client = Client { dir: "/pg/15/bin".into(), version_num: 150_020, programs: ["pg_dump".to_owned()].into() };
        let facts = Facts { servers: [("source".to_owned(), server)].into(), ..Facts::default() };
        let with = Expand { facts, clients: Clients { found: vec![client] }, dry_run: true, ..Expand::default() };
        let graph = with.kind::<Dump>("{ from: source, tables: [a b] }").unwrap();
        let action = &graph.actions[0];
        assert_eq!(
            action.title,
            "dump database \"We\"ird 'db\" of source with pg_dump 15.20 into step/We_ird__db.sql.zst"
        );
        assert_eq!(action.op.shown(), ["/pg/15/bin/pg_dump --no-password --encoding=UTF8 '--table=a b'"]);
        assert_eq!(action.estimate.bytes, Some(7));
        let none = Expand { clients: Clients::default(), ..with };
        assert_eq!(none.kind::<Dump>("{ from: source }").unwrap_err().kind, ErrorKind::ToolMissing);
    }
}
