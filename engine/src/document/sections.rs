//! The typed entries of `vars`, `secrets` and `databases`; schema and reader in one.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::{plan::Expect, secret::Text};

/// What a variable may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VarType {
    /// Text.
    String,
    /// A whole number.
    Int,
    /// A number.
    Number,
    /// True or false.
    Bool,
    /// A list.
    List,
    /// A mapping.
    Map,
    /// A duration such as `90s` or `1h30m`.
    Duration,
    /// A size such as `64MiB`.
    Size,
}

/// A variable with a type.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VarKeys {
    /// What values it takes.
    #[serde(rename = "type")]
    pub kind: Option<VarType>,
    /// Its value unless `--var` gives another.
    #[serde(default)]
    pub default: Option<serde_json::Value>,
    /// What it is for.
    pub description: Option<String>,
    /// Whether `--var` must give it; by default true when there is no default.
    pub required: Option<bool>,
}

/// Where a secret is, never what it is.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SecretKeys {
    /// An environment variable.
    Env(String),
    /// A file that only its owner may read; its first line counts.
    File(String),
    /// A program and its arguments; what it prints, without the line ends behind it.
    Command(Vec<String>),
    /// The matching line of a password file.
    Pgpass(PgpassKeys),
}

/// Which line of a password file (PostgreSQL manual, chapter 34.16).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PgpassKeys {
    /// Host.
    pub host: String,
    /// Port; 5432 by default.
    pub port: Option<u16>,
    /// Database.
    pub dbname: String,
    /// User.
    pub user: String,
    /// The file; by default `PGPASSFILE`, then `~/.pgpass`.
    pub file: Option<String>,
}

/// A database: its URL, or its parts by libpq's names (PostgreSQL manual, chapter 34.1.2).
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DatabaseKeys {
    /// `postgres://user@host:port/dbname?sslmode=…` or `host=… user=… dbname=…`; the password has a key of its own.
    pub url: Option<Text>,
    /// The password; a template that names a secret.
    pub password: Option<Text>,
    /// Host name, address, or the folder of a socket.
    pub host: Option<Text>,
    /// Address to connect to instead of looking the host up.
    pub hostaddr: Option<Text>,
    /// Port; 5432 by default.
    pub port: Option<Text>,
    /// Role.
    pub user: Option<Text>,
    /// Database; by default the role's name.
    pub dbname: Option<Text>,
    /// How TLS is asked for: `disable`, `allow`, `prefer`, `require`, `verify-ca`, `verify-full`.
    pub sslmode: Option<Text>,
    /// The certificates of trusted authorities; `system` for the operating system's.
    pub sslrootcert: Option<Text>,
    /// The client's certificate.
    pub sslcert: Option<Text>,
    /// The client's key.
    pub sslkey: Option<Text>,
    /// Revoked certificates.
    pub sslcrl: Option<Text>,
    /// `postgres` or `direct`.
    pub sslnegotiation: Option<Text>,
    /// `disable`, `prefer` or `require`.
    pub channel_binding: Option<Text>,
    /// `any`, `read-write`, `read-only`, `primary`, `standby` or `prefer-standby`.
    pub target_session_attrs: Option<Text>,
    /// Seconds.
    pub connect_timeout: Option<Text>,
    /// Settings for the session: `-c name=value`.
    pub options: Option<Text>,
    /// A section of `pg_service.conf`.
    pub service: Option<Text>,
    /// A password file.
    pub passfile: Option<Text>,
    /// What the server must be: checked before the first step when it can be reached then, and before the first step that
    /// uses it.
    pub expect: Expect,
    /// Whether destructive steps are refused on it.
    pub protect: bool,
}
