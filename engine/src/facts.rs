//! What a survey found: plain data, gathered by read-only looks, from which kinds list their actions.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::{
    artifact::DumpArtifact,
    merge::{Finding, Layout, Sequence, Spec},
    op::{Exec, fence::Grant, preflight::Preflight},
    preflight::report::Report,
};

/// One read-only look that a kind asks for before it lists its actions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Look {
    /// A server behind a database of the plan.
    Server {
        /// The database's name in the plan.
        database: String,
        /// How far to look.
        depth: Depth,
    },
    /// A program that only reads (the current scale of an application). A dry run starts it with
    /// `--allow-programs` only.
    Program {
        /// The name under which its captures are found in [`Facts::programs`].
        key: String,
        /// The program.
        exec: Exec,
    },
    /// What a preflight would find now.
    Preflight(Preflight),
    /// A dump that was made earlier. A dry run goes on when it is not there yet.
    Dump {
        /// The file or folder.
        file: PathBuf,
    },
    /// The sources and the target of a merge: catalogs, counts, what collides.
    Merge(Box<Spec>),
}

/// How far a look at a server goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Depth {
    /// Version, settings, roles, the list of databases with their sizes.
    Server,
    /// The tables of the database the plan names, too.
    Tables,
    /// The tables of every database that allows connections and is not a template, too.
    AllTables,
}

/// All that the looks of a step found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Servers by the name of the database in the plan.
    #[serde(default)]
    pub servers: BTreeMap<String, ServerFacts>,
    /// Databases whose address is only known after a step (value: the step).
    #[serde(default)]
    pub servers_known_after: BTreeMap<String, String>,
    /// What programs printed: look key → capture name → value. A dry run that starts no program leaves the key out.
    #[serde(default)]
    pub programs: BTreeMap<String, BTreeMap<String, serde_json::Value>>,
    /// What a preflight found, with the plan's waivers applied to it.
    #[serde(default)]
    pub preflight: Option<Report>,
    /// Dumps that were made earlier, by their file. A dry run leaves out those that are not there yet.
    #[serde(default)]
    pub dumps: BTreeMap<PathBuf, DumpArtifact>,
    /// What a look at a merge found; absent when one of its databases is only known after a step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub merge: Option<MergeFacts>,
}

/// What sources and target of a merge hold.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MergeFacts {
    /// What follows from the catalogs.
    pub layout: Layout,
    /// The labels of the sources, in their order.
    pub sources: Vec<String>,
    /// Schemas that look like sources and are none.
    pub look_alikes: Vec<String>,
    /// Rows by the target's table and the source's label.
    pub rows: BTreeMap<String, BTreeMap<String, u64>>,
    /// Rows that the target's tables hold; those without any are left out.
    pub held: BTreeMap<String, u64>,
    /// Whether the target holds just what the merge would give.
    pub merged_already: bool,
    /// What the data says, besides the layout's own findings.
    pub findings: Vec<Finding>,
    /// The distance between the ranges of keys of two sources, where keys get an offset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// The target's sequences.
    pub sequences: Vec<Sequence>,
}

/// A server as a read-only session saw it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerFacts {
    /// `server_version_num`: 150020 is 15.20.
    pub version_num: u32,
    /// `server_version` as the server prints it.
    pub version: String,
    /// `pg_control_system().system_identifier`; absent where the role may not call it.
    pub system_identifier: Option<u64>,
    /// Address without the password: `postgres://user@host:5432/db`.
    pub label: String,
    /// The session's role.
    pub user: String,
    /// Whether that role is a superuser.
    pub superuser: bool,
    /// The database that the plan names.
    pub dbname: String,
    /// Whether that database exists (a `create_database` step may make it later).
    pub dbname_exists: bool,
    /// Roles, in `pg_roles` order by name.
    pub roles: Vec<String>,
    /// Settings that kinds ask about, from `pg_settings`.
    pub settings: BTreeMap<String, String>,
    /// Databases by name.
    pub databases: Vec<DatabaseFacts>,
    /// What `ALTER ROLE … SET` and `ALTER DATABASE … SET` have set.
    #[serde(default)]
    pub defaults: Vec<Defaults>,
    /// Other client sessions connected now, one line each.
    pub sessions: Vec<String>,
}

/// A database of a server.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct DatabaseFacts {
    /// `datname`.
    pub name: String,
    /// `pg_database_size`, bytes; 0 where the role may not ask.
    pub bytes: u64,
    /// The owner's name.
    pub owner: String,
    /// `datistemplate`.
    pub is_template: bool,
    /// `datallowconn`.
    pub allows_connections: bool,
    /// The encoding's name.
    pub encoding: String,
    /// `datacl` as text; absent = the default privileges.
    #[serde(default)]
    pub acl: Option<String>,
    /// Who may connect, also by default privileges.
    #[serde(default)]
    pub connect: Vec<Grant>,
    /// `datconnlimit`; -1 = none.
    #[serde(default)]
    pub connection_limit: i32,
    /// Its tables; absent when the look did not go so far.
    pub tables: Option<Vec<TableFacts>>,
}

/// Settings that sessions of a role, in a database, begin with (`pg_db_role_setting`).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Defaults {
    /// The database; absent = every one.
    pub database: Option<String>,
    /// The role; absent = every one.
    pub role: Option<String>,
    /// `default_transaction_read_only` among them, as it is written.
    pub read_only: Option<String>,
}

/// A relation that holds rows.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TableFacts {
    /// Schema.
    pub schema: String,
    /// Name.
    pub name: String,
    /// `pg_class.relkind`: `r` table, `p` partitioned table, `m` materialized view, `f` foreign table.
    pub relkind: char,
    /// Whether it is a partition.
    pub is_partition: bool,
    /// Schema and name of the partitioned table whose partition it is.
    #[serde(default)]
    pub parent: Option<(String, String)>,
    /// Whether the role may vacuum and analyze it: it owns the table or the database, or has `MAINTAIN` on the table.
    #[serde(default)]
    pub may_vacuum: bool,
    /// `pg_total_relation_size`, bytes.
    pub bytes: u64,
    /// `reltuples`; absent when never analyzed.
    pub rows: Option<u64>,
    /// Column options (`attoptions`) and storage options in use, for what the target may not know: `pg_attver`.
    pub options: Vec<String>,
}

impl ServerFacts {
    /// Returns the major version: 15 for 15.20, 9 for 9.6.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.version_num / 10_000
    }

    /// Returns the database of this name.
    #[must_use]
    pub fn database(&self, name: &str) -> Option<&DatabaseFacts> {
        self.databases.iter().find(|database| database.name == name)
    }

    /// Returns the rows of all tables in the databases that people use, by the planner's estimates; `None` unless all are
    /// known.
    #[must_use]
    pub fn rows(&self) -> Option<u64> {
        let mut sum = 0;
        for database in self.user_databases() {
            for table in database.tables.as_ref()?.iter().filter(|table| table.relkind == 'r') {
                sum += table.rows?;
            }
        }
        Some(sum)
    }

    /// Returns the databases people use: no templates, connections allowed, by name.
    pub fn user_databases(&self) -> impl Iterator<Item = &DatabaseFacts> {
        self.databases.iter().filter(|database| !database.is_template && database.allows_connections)
    }
}
