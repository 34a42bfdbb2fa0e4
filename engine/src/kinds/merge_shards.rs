//! `merge_shards`: many schemas or databases of the same tables into one schema.

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
    merge::{Conflict, Existing, Place, Selection, Source, Tolerated},
    quantity::Size,
};

/// The most schemas that a range may name.
const MOST: u64 = 10_000;

/// Merges the rows of many schemas of a database, or of many databases, into one schema.
///
/// Before anything changes, sources and target are read through once: missing sources and tables, columns of another type
/// or name, keys that two rows have, references that lead nowhere, rows that the target holds already. A dry run shows
/// all of it with the rows of each source; what blocks is refused with every reason in one report.
///
/// Tables are filled in the order of their foreign keys, each in one transaction with a receipt: after a crash the merge
/// goes on where it stopped, and no row comes twice. Columns are taken by name. Tables whose foreign keys lead around
/// in a circle are filled together, those keys checked at the end. Large tables go source by source.
///
/// At the end the contents of every table are compared with what the sources give now, foreign keys are checked,
/// sequences advanced past every value in their own scheme, and only then, in the same transaction, `complete` runs.
/// The sources stay as they are. Run again on a target that holds just these rows, the merge proves it and moves nothing.
///
/// Outputs: `tables` (rows by table and source), `rows`, `sequences` (how many were advanced), `marked`; under the name
/// of each table what its receipt says.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MergeShards {
    /// Where the rows come from.
    pub from: From,
    /// Where they go.
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

/// Sources: `database` with `schemas`, or `databases`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct From {
    /// The database of the plan that holds the schemas.
    #[serde(default)]
    pub database: Option<String>,
    /// Its schemas: a list, a range (`shard_0..shard_127`), or a pattern in which `#` stands for a number, `*` for any
    /// characters and `?` for one.
    #[serde(default)]
    pub schemas: Option<Schemas>,
    /// Databases of the plan, each a source under its name.
    #[serde(default)]
    pub databases: Vec<String>,
    /// With `databases`: the schema in each of them.
    #[serde(default)]
    pub schema: Option<String>,
}

/// Schemas by name, range or pattern.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Schemas {
    /// A range or a pattern.
    Text(String),
    /// Names.
    Names(Vec<String>),
}

impl Kind for MergeShards {
    const NAME: &'static str = "merge_shards";
    const GROUP: &'static str = "data";
    const SUMMARY: &'static str = "Merge many schemas or databases of the same tables into one schema";
    const EXAMPLE: &'static str = "merge_shards: { from: { database: target, schemas: shard_0..shard_127 }, into: { database: target }, skip: [__diesel_schema_migrations] }";

    fn check(&self, to: &mut Declarations) {
        match self.selection() {
            Ok(_) => {}
            Err((at, message)) => to.problem(
                "merge_from",
                key(["from", at]),
                message,
                Some("write `from: { database: db, schemas: shard_0..shard_127 }` or `from: { databases: [a, b] }`"),
            ),
        }
        if let Some(database) = &self.from.database {
            to.databases.push((database.clone(), key(["from", "database"]), super::Use::Reads));
        }
        for database in &self.from.databases {
            to.databases.push((database.clone(), key(["from", "databases"]), super::Use::Reads));
        }
        if self.from.databases.contains(&self.into.database) && self.source_schema() == self.into.schema {
            let message = format!("`{}` would be merged into itself", self.into.database);
            to.problem("merge_from", key(["from", "databases"]), message, None);
        }
        self.merging(Selection::Sources(Vec::new())).check(to);
    }

    fn looks(&self, _cx: &ExpandCx<'_>) -> Result<Vec<Look>, StepError> {
        Ok(self.merging(self.selection().map_err(wrong)?).looks())
    }

    fn actions(&self, facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        self.merging(self.selection().map_err(wrong)?).actions(facts, cx)
    }
}

fn wrong((_, message): (&'static str, String)) -> StepError {
    StepError::new(crate::error::ErrorKind::Plan, message)
}

impl MergeShards {
    fn merging(&self, from: Selection) -> Merging<'_> {
        Merging {
            from,
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

    fn source_schema(&self) -> String {
        self.from.schema.clone().unwrap_or_else(public)
    }

    /// Returns the sources, or the key that is wrong with words for it.
    fn selection(&self) -> Result<Selection, (&'static str, String)> {
        let From { database, schemas, databases, schema } = &self.from;
        match (database, schemas) {
            (Some(database), Some(schemas)) => {
                if !databases.is_empty() || schema.is_some() {
                    return Err((
                        "databases",
                        "`schemas` of one database and `databases` cannot stand together".to_owned(),
                    ));
                }
                selection_of(database, schemas)
            }
            (Some(_), None) => Err(("database", "`schemas` is missing".to_owned())),
            (None, Some(_)) => Err(("schemas", "`database` is missing".to_owned())),
            (None, None) if databases.is_empty() => Err(("databases", "there is no source".to_owned())),
            (None, None) => {
                let source = |name: &String| Source {
                    label: name.clone(),
                    place: Place { database: name.clone(), schema: self.source_schema() },
                    tables: None,
                    requires: Vec::new(),
                };
                Ok(Selection::Sources(databases.iter().map(source).collect()))
            }
        }
    }
}

fn selection_of(database: &str, schemas: &Schemas) -> Result<Selection, (&'static str, String)> {
    let database = database.to_owned();
    let names = match schemas {
        Schemas::Names(names) if names.is_empty() => return Err(("schemas", "the list is empty".to_owned())),
        Schemas::Names(names) => {
            let mut seen = BTreeSet::new();
            if let Some(twice) = names.iter().find(|name| !seen.insert(*name)) {
                return Err(("schemas", format!("`{twice}` stands there twice")));
            }
            names.clone()
        }
        Schemas::Text(text) => match text.split_once("..") {
            Some((first, last)) => range(first, last).map_err(|message| ("schemas", message))?,
            None if text.contains(['*', '?', '#']) => {
                return Ok(Selection::Pattern { database, pattern: text.clone() });
            }
            None => vec![text.clone()],
        },
    };
    Ok(Selection::Schemas { database, names })
}

/// Returns the names of a range: `shard_0..shard_127`.
fn range(first: &str, last: &str) -> Result<Vec<String>, String> {
    let split = |name: &str| {
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
        let digits = name[stem.len()..].to_owned();
        (stem, digits)
    };
    let ((stem, from), (other, to)) = (split(first.trim()), split(last.trim()));
    let number = |digits: &str| {
        digits.parse::<u64>().map_err(|_| format!("`{first}..{last}` is no range: both names must end in a number"))
    };
    let (low, high) = (number(&from)?, number(&to)?);
    if stem != other || low > high {
        return Err(format!("`{first}..{last}` is no range: the names must differ only in a number that grows"));
    }
    if high - low >= MOST {
        return Err(format!("`{first}..{last}` names more than {MOST} schemas"));
    }
    // `shard_000..shard_127` keeps its width.
    let width = if from.len() > 1 && from.starts_with('0') { from.len() } else { 0 };
    Ok((low..=high).map(|number| format!("{stem}{number:0width$}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_names() {
        assert_eq!(range("s_9", "s_11").unwrap(), ["s_9", "s_10", "s_11"]);
        assert_eq!(range("s_08", "s_10").unwrap(), ["s_08", "s_09", "s_10"]);
        assert_eq!(range("a0", "a0").unwrap(), ["a0"]);
        for (first, last) in [("s_1", "t_2"), ("s_2", "s_1"), ("s", "t"), ("s_0", "s_99999")] {
            assert!(range(first, last).is_err(), "{first}..{last}");
        }
    }

    #[test]
    fn what_names_no_source_is_told_at_its_place() {
        for (from, at) in [
            (serde_json::json!({}), "databases"),
            (serde_json::json!({ "database": "d" }), "database"),
            (serde_json::json!({ "schemas": "s_#" }), "schemas"),
            (serde_json::json!({ "database": "d", "schemas": ["a", "a"] }), "schemas"),
            (serde_json::json!({ "database": "d", "schemas": "b..a" }), "schemas"),
            (serde_json::json!({ "database": "d", "schemas": "a", "databases": ["x"] }), "databases"),
        ] {
            let body = serde_json::json!({ "from": from, "into": { "database": "d" } });
            let mut declared = Declarations::default();
            serde_json::from_value::<MergeShards>(body).unwrap().check(&mut declared);
            let places: Vec<&str> = declared.problems.iter().map(|problem| problem.key[1].as_str()).collect();
            assert_eq!(places, [at], "{from}");
        }
    }
}
