//! A schema restored only to see whether it can be.

use serde::{Deserialize, Serialize};

use super::{Compat, CreateCluster, DumpOp, Expected};
use crate::sql::FilterRules;

/// A schema to be tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrialOp {
    /// The dump of the roles that must be there first; absent = they are, or the schema's dump has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles: Option<DumpOp>,
    /// The dump of the schema, without data.
    pub schema: DumpOp,
    /// The database that is made for it, on a server of its own; absent = the dump makes its databases itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dbname: Option<String>,
    /// That database's encoding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encoding: Option<String>,
    /// What is left out.
    pub rules: FilterRules,
    /// Where it is tried.
    pub place: TrialPlace,
    /// Errors that do not count.
    pub expected: Vec<Expected>,
    /// What happens to options and settings that the target does not know.
    pub compat: Compat,
}

/// Where a schema is tried; what is made there is removed again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TrialPlace {
    /// A server of its own on this machine.
    Cluster(CreateCluster),
    /// A database of its own on a server that is there.
    Database {
        /// The database of the plan whose server is meant.
        on: String,
        /// The name of the database that is made and dropped.
        name: String,
    },
}
