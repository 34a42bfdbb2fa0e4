//! Operations on servers and the data in them.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    postgres::quote::{ident, literal},
    secret::Text,
};

/// SQL to run in a database of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunSql {
    /// The database's name in the plan.
    pub database: String,
    /// The SQL.
    pub source: SqlSource,
    /// Whether all of it is one transaction, in which a receipt is written too.
    pub transaction: bool,
    /// Whether the session may only read; nothing is recorded in the database then.
    pub read_only: bool,
    /// What must come out.
    #[serde(default)]
    pub expect: SqlExpect,
}

/// Where SQL comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SqlSource {
    /// Written in the plan.
    Text(Vec<Text>),
    /// A file, relative to the plan's folder.
    File(PathBuf),
}

/// What SQL must give.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SqlExpect {
    /// Rows that the last statement returned or changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
    /// The first column of the first row that the last query returned, as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Text>,
}

/// A database to create.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateDatabase {
    /// The database of the plan whose server is meant.
    pub on: String,
    /// The new database's name; absent = the one that the plan's database names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `OWNER`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// `ENCODING`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// `LC_COLLATE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lc_collate: Option<String>,
    /// `LC_CTYPE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lc_ctype: Option<String>,
    /// `TEMPLATE`.
    pub template: String,
    /// `TABLESPACE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tablespace: Option<String>,
    /// Its comment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether a database of this name that was there before is taken as it is.
    pub keep_existing: bool,
    /// Whether it was there when the step was surveyed; what appears after that is this run's own or a stranger's.
    pub existed: bool,
}

impl CreateDatabase {
    /// Returns the statement that creates the database under this name.
    #[must_use]
    pub fn sql(&self, name: &str) -> String {
        let mut sql = format!("CREATE DATABASE {} TEMPLATE {}", ident(name), ident(&self.template));
        let names = [("OWNER", &self.owner), ("TABLESPACE", &self.tablespace)];
        let values = [("ENCODING", &self.encoding), ("LC_COLLATE", &self.lc_collate), ("LC_CTYPE", &self.lc_ctype)];
        for (word, value) in names {
            sql.extend(value.iter().map(|value| format!(" {word} {}", ident(value))));
        }
        for (word, value) in values {
            sql.extend(value.iter().map(|value| format!(" {word} {}", literal(value))));
        }
        sql
    }
}

/// A database to drop, if this run created it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropDatabase {
    /// The database of the plan whose server is meant.
    pub on: String,
    /// Its name; absent = the one that the plan's database names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What to vacuum in a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vacuum {
    /// The database of the plan whose server is meant.
    pub database: String,
    /// The database on that server.
    pub dbname: String,
    /// What of that database.
    pub part: VacuumPart,
    /// Whether statistics are gathered.
    pub analyze: bool,
    /// `VACUUM FULL`.
    pub full: bool,
    /// `VACUUM (FREEZE)`.
    pub freeze: bool,
}

/// A table to vacuum.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VacuumTable {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its size when it was looked at, bytes.
    pub bytes: u64,
}

/// A part of a database that one action vacuums.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VacuumPart {
    /// All of it.
    Database,
    /// Some tables or materialized views, in this order.
    Tables(Vec<VacuumTable>),
    /// The statistics of a partitioned table as a whole; it has no rows of its own to vacuum.
    Partitioned {
        /// Its schema.
        schema: String,
        /// Its name.
        name: String,
    },
    /// The server's own tables: `pg_catalog`, `information_schema`.
    Catalogs,
}

/// Two databases to compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pair {
    /// The database of the plan whose server is on the left.
    pub left: String,
    /// The database on the left server.
    pub left_dbname: String,
    /// The database of the plan whose server is on the right.
    pub right: String,
    /// The database on the right server.
    pub right_dbname: String,
}

/// Clusters to compare.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompareClusters {
    /// The database of the plan whose server is on the left.
    pub left: String,
    /// The database of the plan whose server is on the right.
    pub right: String,
    /// What is compared.
    pub aspects: Vec<Aspect>,
    /// Whether each side must have the databases that the other has.
    pub same_databases: bool,
}

/// Databases whose objects are compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompareObjects {
    /// The databases.
    pub pair: Pair,
    /// What is compared.
    pub aspects: Vec<Aspect>,
    /// Relations left out: `schema.name`, `*` and `?` as in file names.
    pub exclude: Vec<String>,
    /// Whether the states of sequences are compared.
    pub sequences: bool,
    /// Whether large objects are compared.
    pub large_objects: bool,
}

/// Tables whose rows are compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompareRows {
    /// The databases.
    pub pair: Pair,
    /// The tables, schema and name.
    pub tables: Vec<(String, String)>,
    /// Whether contents are compared, or counts only.
    pub contents: bool,
}

/// The comparisons of a step, to be judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgeComparison {
    /// The comparisons by action id; one that found differences is done again before it counts.
    pub comparisons: Vec<(String, Comparison)>,
    /// Differences that are expected: patterns over the object's name, `*` and `?` as in file names.
    pub ignore: Vec<String>,
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Comparison {
    /// Of clusters.
    Clusters(CompareClusters),
    /// Of objects.
    Objects(CompareObjects),
    /// Of rows.
    Rows(CompareRows),
}

/// What of the catalogs is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// Roles with their attributes; predefined ones (`pg_…`) are left out.
    Roles,
    /// Who is a member of which role.
    Memberships,
    /// Password verifiers; needs superusers on both sides.
    Passwords,
    /// Settings of roles and databases (`ALTER ROLE … SET`, `ALTER DATABASE … SET`).
    Settings,
    /// Encoding and locale of the database.
    Locale,
    /// Schemas, tables, views, extensions and other objects by name.
    Objects,
    /// Defaults, NOT NULL, identity and collations of columns.
    Columns,
    /// Constraints.
    Constraints,
    /// Indexes.
    Indexes,
    /// Triggers.
    Triggers,
    /// Functions with a digest of their bodies.
    Functions,
    /// Enums, domains and composite types.
    Types,
    /// Row security policies.
    Policies,
    /// Owners.
    Owners,
    /// Privileges, default privileges too.
    Acls,
    /// Comments.
    Comments,
}

impl Aspect {
    /// Every aspect.
    pub const ALL: [Self; 16] = [
        Self::Roles,
        Self::Memberships,
        Self::Passwords,
        Self::Settings,
        Self::Locale,
        Self::Objects,
        Self::Columns,
        Self::Constraints,
        Self::Indexes,
        Self::Triggers,
        Self::Functions,
        Self::Types,
        Self::Policies,
        Self::Owners,
        Self::Acls,
        Self::Comments,
    ];

    /// Returns whether it belongs to the cluster rather than to a database.
    #[must_use]
    pub fn of_cluster(self) -> bool {
        matches!(self, Self::Roles | Self::Memberships | Self::Passwords)
    }
}
