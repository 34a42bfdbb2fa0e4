//! `merge_databases`: tables of several databases into one.

use std::collections::{BTreeMap, BTreeSet};

use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Declarations, ExpandCx, Kind,
    declare::key,
    merging::{Complete, Into, KeysBody, Merging, TableOptions, public},
};
use crate::{
    action::ActionGraph,
    error::StepError,
    facts::{Facts, Look},
    merge::{Conflict, Existing, Place, Selection, Source, TableMap, Tolerated},
    quantity::Size,
};

/// Merges named tables, or all tables, of several databases into one schema.
///
/// Works as `merge_shards` does, with the same look before and the same proof after; the sources are different here, so
/// each says which of its tables are taken, what must be true of it first, and what becomes of columns: left out,
/// renamed, or computed by an SQL expression. Sources are read in read-only sessions. The target's tables must be there:
/// make them with `create_database` and `sql: { file: schema.sql }`. A run that was cut goes on; `complete` runs when
/// all tables are there and proved, so whoever waits for its mark sees all or nothing.
///
/// Outputs: as those of `merge_shards`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MergeDatabases {
    /// The sources, in the order in which their rows count when several hold the same key.
    pub from: Vec<From>,
    /// Where the rows go.
    pub into: Into,
    /// Tables of the sources that are left out; `*` and `?` stand for any characters and any one.
    #[serde(default)]
    pub skip: Vec<String>,
    /// What becomes of a row whose key another row has.
    #[serde(default)]
    pub on_conflict: Conflict,
    /// Options for single tables of the target.
    #[serde(default)]
    pub tables: BTreeMap<String, TableOptions>,
    /// What rows that the target holds before the merge mean.
    #[serde(default)]
    pub existing_rows: Existing,
    /// Whether triggers and rules of the target fire for merged rows; foreign keys are checked in any case.
    #[serde(default)]
    pub triggers: bool,
    /// New keys for sources whose keys meet; what refers to them follows.
    #[serde(default)]
    pub keys: Option<KeysBody>,
    /// A column that takes the name of the source, in the target's tables that have it.
    #[serde(default)]
    pub provenance: Option<String>,
    /// Differences between sources and target that are allowed.
    #[serde(default)]
    pub allow: BTreeSet<Tolerated>,
    /// How many tables are filled at once; 2 when absent.
    #[serde(default)]
    pub jobs: Option<usize>,
    /// Tables of more than this size go source by source, each in a transaction of its own; 1 GiB when absent.
    #[serde(default)]
    pub split_above: Option<Size>,
    /// What is done when all has been proved.
    #[serde(default)]
    pub complete: Option<Complete>,
}

/// One source.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct From {
    /// The database of the plan.
    pub database: String,
    /// The schema in it.
    #[serde(default = "public")]
    pub schema: String,
    /// Its tables: a list of names, or names with what becomes of their columns; absent = all that the target has, too.
    #[serde(default)]
    pub tables: Option<Tables>,
    /// Queries that must each give true before anything is merged.
    #[serde(default)]
    pub requires: Vec<String>,
}

/// Tables of a source.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Tables {
    /// Names.
    Names(Vec<String>),
    /// Names with what becomes of their columns.
    Mapped(BTreeMap<String, Columns>),
}

/// What becomes of a table and its columns.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Columns {
    /// The target's table; absent = the one of the same name.
    #[serde(default)]
    pub to: Option<String>,
    /// Columns that are left out.
    #[serde(default)]
    pub except: BTreeSet<String>,
    /// Column → the target's column.
    #[serde(default)]
    pub rename: BTreeMap<String, String>,
    /// The target's column → SQL expression over the source's columns.
    #[serde(default)]
    pub derive: BTreeMap<String, String>,
}

impl Kind for MergeDatabases {
    const NAME: &'static str = "merge_databases";
    const GROUP: &'static str = "data";
    const SUMMARY: &'static str = "Merge tables of several databases into one";
    const EXAMPLE: &'static str = "merge_databases: { from: [{ database: source, tables: { origins: { except: [session_sync] }, packages: {} } }], into: { database: target } }";

    fn check(&self, to: &mut Declarations) {
        if self.from.is_empty() {
            to.problem("merge_from", key(["from"]), "there is no source", Some("write `from: [{ database: db }]`"));
        }
        let mut seen = BTreeSet::new();
        for (index, from) in self.from.iter().enumerate() {
            let at = |name: &str| vec!["from".to_owned(), index.to_string(), name.to_owned()];
            to.databases.push((from.database.clone(), at("database"), super::Use::Reads));
            if !seen.insert((&from.database, &from.schema)) {
                let message = format!("the schema {} of `{}` stands there twice", from.schema, from.database);
                to.problem("merge_from", at("database"), message, Some("name all its tables in one entry"));
            }
            if from.database == self.into.database && from.schema == self.into.schema {
                let message = format!("`{}` would be merged into itself", self.into.database);
                to.problem("merge_from", at("database"), message, None);
            }
        }
        self.merging().check(to);
    }

    fn looks(&self, _cx: &ExpandCx<'_>) -> Result<Vec<Look>, StepError> {
        Ok(self.merging().looks())
    }

    fn actions(&self, facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        self.merging().actions(facts, cx)
    }
}

impl MergeDatabases {
    fn merging(&self) -> Merging<'_> {
        let several = |from: &From| self.from.iter().filter(|other| other.database == from.database).count() > 1;
        let source = |from: &From| Source {
            label: if several(from) { format!("{}.{}", from.database, from.schema) } else { from.database.clone() },
            place: Place { database: from.database.clone(), schema: from.schema.clone() },
            tables: from.tables.as_ref().map(Tables::maps),
            requires: from.requires.clone(),
        };
        Merging {
            from: Selection::Sources(self.from.iter().map(source).collect()),
            into: &self.into,
            skip: &self.skip,
            on_conflict: self.on_conflict,
            tables: &self.tables,
            existing_rows: self.existing_rows,
            triggers: self.triggers,
            keys: self.keys.as_ref(),
            provenance: self.provenance.as_ref(),
            allow: &self.allow,
            jobs: self.jobs,
            split_above: self.split_above.as_ref(),
            complete: self.complete.as_ref(),
        }
    }
}

impl Tables {
    fn maps(&self) -> BTreeMap<String, TableMap> {
        match self {
            Self::Names(names) => names.iter().map(|name| (name.clone(), TableMap::default())).collect(),
            Self::Mapped(tables) => {
                let map = |columns: &Columns| TableMap {
                    to: columns.to.clone(),
                    except: columns.except.clone(),
                    rename: columns.rename.clone(),
                    derive: columns.derive.clone(),
                };
                tables.iter().map(|(name, columns)| (name.clone(), map(columns))).collect()
            }
        }
    }
}
