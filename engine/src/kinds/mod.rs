//! What a step can be. One file or folder per kind: its keys, help, example, check and actions; one list names them.
//!
//! A kind decides and never does: [`Kind::looks`] says what must be known, [`Kind::actions`] turns the facts into data.

use std::sync::LazyLock;

use serde::de::DeserializeOwned;

use crate::{
    action::{ActionGraph, Outputs},
    error::StepError,
    facts::{Facts, Look},
    platforms::Platforms,
    tool::Clients,
};

pub mod approve;
pub mod command;
pub mod create_database;
pub mod declare;
pub mod deprovision;
pub mod dump;
pub mod dump_source;
pub mod fence;
pub mod filter;
pub mod merge_databases;
pub mod merge_shards;
mod merging;
pub mod preflight;
pub mod provision;
pub mod record;
mod registry;
pub mod repoint;
pub mod restore;
pub mod scale;
pub mod schema_trial;
pub mod sql;
pub mod tunnel;
pub mod unfence;
pub mod vacuum;
pub mod verify;

pub use declare::{Declarations, Handed, Use};
use registry::entry;
pub use registry::{Decoded, ErasedKind, KindEntry};

/// Every kind, in the order of the reference.
#[must_use]
pub fn all() -> &'static [KindEntry] {
    static ALL: LazyLock<Vec<KindEntry>> = LazyLock::new(|| {
        vec![
            entry::<preflight::Preflight>(),
            entry::<verify::Verify>(),
            entry::<schema_trial::SchemaTrial>(),
            entry::<record::Record>(),
            entry::<scale::Scale>(),
            entry::<repoint::Repoint>(),
            entry::<command::Command>(),
            entry::<tunnel::Tunnel>(),
            entry::<approve::Approve>(),
            entry::<fence::Fence>(),
            entry::<unfence::Unfence>(),
            entry::<provision::Provision>(),
            entry::<create_database::CreateDatabase>(),
            entry::<deprovision::Deprovision>(),
            entry::<dump::Dump>(),
            entry::<filter::Filter>(),
            entry::<restore::Restore>(),
            entry::<sql::Sql>(),
            entry::<vacuum::Vacuum>(),
            entry::<merge_shards::MergeShards>(),
            entry::<merge_databases::MergeDatabases>(),
        ]
    });
    &ALL
}

/// Returns the kind of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static KindEntry> {
    all().iter().find(|kind| kind.name == name)
}

/// One kind of step. The type is the step's body as written under the kind's key, after templates were rendered.
///
/// Doc comments of the type and its fields are the reference documentation and the schema's descriptions.
pub trait Kind: DeserializeOwned + schemars::JsonSchema + Send + Sync + 'static {
    /// The key in the plan: `dump`.
    const NAME: &'static str;
    /// The group in the reference: `look`, `application`, `servers`, `data`, `backups`.
    const GROUP: &'static str;
    /// One imperative line without a period.
    const SUMMARY: &'static str;
    /// A step as YAML, complete and valid, as a list item body (`dump: { from: source }`).
    const EXAMPLE: &'static str;
    /// Keys that may name a step of the plan whose body then stands in their place, with the kind of that step.
    const BORROWS: &'static [(&'static str, &'static str)] = &[];

    /// Says what the step uses, gives and refers to, and reports what is wrong with it, without touching anything.
    fn check(&self, to: &mut Declarations);

    /// Returns what must be looked at before the actions can be listed.
    ///
    /// # Errors
    /// When what to look at cannot be told (an input that is not as declared).
    fn looks(&self, _cx: &ExpandCx<'_>) -> Result<Vec<Look>, StepError> {
        Ok(Vec::new())
    }

    /// Lists what will be done; pure.
    ///
    /// # Errors
    /// When the facts forbid the step: a guard, a missing client program, an object that is not there.
    fn actions(&self, facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError>;
}

/// What a kind may know when it lists its actions, besides the facts.
pub struct ExpandCx<'a> {
    /// The step's id.
    pub step: &'a str,
    /// The folder of the run's artifacts; in a dry run the folder that would be used.
    pub run_dir: &'a std::path::Path,
    /// The folder of the plan, against which its paths are resolved.
    pub plan_dir: &'a std::path::Path,
    /// The ancestor that makes what this step takes, by the key given to [`Declarations::takes`].
    pub inputs: &'a std::collections::BTreeMap<String, String>,
    /// The outputs of finished steps by step id; in a dry run empty.
    pub outputs: &'a std::collections::BTreeMap<String, Outputs>,
    /// What each action of the step itself gave when it was done before in this run, the oldest doing first.
    pub earlier: &'a [Outputs],
    /// The platforms that the plan may name.
    pub platforms: &'a Platforms,
    /// The installed PostgreSQL programs.
    pub clients: &'a Clients,
    /// Whether this is a dry run: what is not known becomes `known_after`, not an error.
    pub dry_run: bool,
}

#[cfg(test)]
pub(crate) mod testing;
