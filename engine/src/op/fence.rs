//! Operations that keep writers out of databases, prove that they are out, and let them in again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Databases to be closed to everybody but pgplan, and to be proved quiet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FenceOp {
    /// The step that fences, by whose id its fence is found again.
    pub step: String,
    /// The database of the plan whose server is meant.
    pub database: String,
    /// The databases as they were before, which is what undo brings back.
    pub before: Vec<Access>,
    /// Whether these are all databases of the server that people use: then nothing on it may use a transaction id.
    pub whole: bool,
    /// How long sessions may take to end by themselves, milliseconds.
    pub grace_ms: u64,
    /// How long nothing may happen, milliseconds.
    pub window_ms: u64,
    /// Roles whose sessions stay: `*` and `?` as in file names.
    pub allow_roles: Vec<String>,
    /// Applications (`application_name`) and background workers whose sessions stay: `*` and `?` as in file names.
    pub allow_applications: Vec<String>,
    /// `CONNECTION LIMIT`; absent = 0 where that keeps out neither pgplan nor roles that are allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_limit: Option<i32>,
    /// Whether the fence stays when quiet cannot be proved.
    pub keep: bool,
}

/// Who may use a database, and whether sessions write by default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// `datname`.
    pub name: String,
    /// `datacl` as text; absent = NULL, the default privileges.
    pub acl: Option<String>,
    /// Who may connect, also by default privileges.
    pub connect: Vec<Grant>,
    /// `datconnlimit`; -1 = none.
    pub connection_limit: i32,
    /// `default_transaction_read_only` of the database, as it is written in `pg_db_role_setting`.
    pub read_only: Option<String>,
    /// Roles that have a `default_transaction_read_only` of their own, which would win over the database's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub roles: Vec<RoleDefault>,
}

/// The right to connect to a database, as it was granted.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Grant {
    /// Who granted it.
    pub grantor: String,
    /// To whom; absent = PUBLIC.
    pub grantee: Option<String>,
    /// Whether the grantee may hand it on.
    pub grantable: bool,
}

/// What a role has in a database for `default_transaction_read_only` (`ALTER ROLE … IN DATABASE … SET`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleDefault {
    /// The role.
    pub role: String,
    /// The value as it is written; absent = none in this database, only for all databases.
    pub read_only: Option<String>,
}

/// Databases to be opened again as they were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnfenceOp {
    /// The step that fenced.
    pub step: String,
    /// The database of the plan whose server it fenced.
    pub database: String,
    /// The database of the plan whose server is opened.
    pub on: String,
    /// How they were.
    pub before: Vec<Access>,
}

impl UnfenceOp {
    /// Returns whether this is the fenced server itself; another one only got the fence by a dump, and may lack roles.
    #[must_use]
    pub fn own(&self) -> bool {
        self.on == self.database
    }
}

/// A proof to be looked at again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StillQuietOp {
    /// The step that gave the proof.
    pub fence: String,
    /// The proof.
    pub quiet: Quiet,
}

/// What a server counted at the end of a window in which nobody wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiet {
    /// The database of the plan whose server is meant.
    pub database: String,
    /// When, by the server's clock.
    pub at: String,
    /// Where the server's log of changes was written to (`pg_current_wal_insert_lsn`).
    pub lsn: String,
    /// Bytes of that log that were written during the window, by whatever (checkpoints and autovacuum write, too).
    pub wal_bytes: u64,
    /// The next transaction id (`txid_snapshot_xmax`).
    pub xid: u64,
    /// How long nothing happened, milliseconds.
    pub window_ms: u64,
    /// Whether all databases that people use were fenced.
    pub whole: bool,
    /// What was counted in each database.
    pub databases: BTreeMap<String, Counters>,
    /// Rows changed since the statistics began in catalogs that all databases share: roles, databases, their settings.
    pub shared: u64,
}

/// What a database has counted since its statistics began.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Rows inserted, updated and deleted, in catalogs too; the planner's statistics are left out.
    pub changes: u64,
    /// A digest over these counts table by table: a table that is dropped takes its own away, so a sum can stand still.
    pub tables: String,
    /// A digest over the values of all sequences.
    pub sequences: String,
    /// How often tables were vacuumed and analyzed, which uses transaction ids.
    pub maintained: u64,
}
