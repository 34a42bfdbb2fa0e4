//! What a preflight is asked to look at.

use serde::{Deserialize, Serialize};

/// A source, and where to it is to go, to be examined for hazards.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preflight {
    /// The database of the plan whose server is the source.
    pub source: String,
    /// The database of the plan whose server is the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The major version of a target that is not there yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to_version: Option<u32>,
    /// How the data gets there.
    #[serde(default)]
    pub method: Method,
    /// The databases of the source; absent = all that are no templates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub databases: Option<Vec<String>>,
    /// Hazards that are accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waive: Vec<Waiver>,
}

/// How the data gets from one version to the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// By a dump and a restore.
    #[default]
    Dump,
    /// By a dump of the schema and logical replication of the rows.
    Replication,
    /// By `pg_upgrade`, in place.
    InPlace,
}

/// A hazard that is accepted, for a while and for a reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Waiver {
    /// The rule's code, as `pgplan explain` and the report have it.
    pub code: String,
    /// Which objects, by their names in the report: `*` and `?` as in file names; absent = all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objects: Vec<String>,
    /// Why it is accepted.
    pub reason: String,
    /// The last day on which it holds (in UTC): `2027-01-31`.
    pub until: String,
}
