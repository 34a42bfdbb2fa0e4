//! What a plan asks for.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::pattern;

/// A schema in a database of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// The database's name in the plan.
    pub database: String,
    /// The schema.
    pub schema: String,
}

/// One source of rows: a shard, a tenant, a database that is merged with others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// What it is called in messages, in the provenance column and in receipts; unique.
    pub label: String,
    /// Where it is.
    pub place: Place,
    /// The tables that are taken and what becomes of their columns; absent = all tables that the target has, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<BTreeMap<String, TableMap>>,
    /// Queries that must each give true.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
}

/// How one table of a source becomes rows of the target.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableMap {
    /// The target's table; absent = the one of the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Columns of the source that are left out.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub except: BTreeSet<String>,
    /// Column of the source → column of the target.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rename: BTreeMap<String, String>,
    /// Column of the target → SQL expression over the source's columns.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub derive: BTreeMap<String, String>,
}

/// Which sources there are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selection {
    /// Schemas of one database, each named.
    Schemas {
        /// The database's name in the plan.
        database: String,
        /// The schemas, in the order in which their rows count when several hold the same key.
        names: Vec<String>,
    },
    /// The schemas of one database that a pattern fits: `*` any characters, `?` one, `#` a number.
    Pattern {
        /// The database's name in the plan.
        database: String,
        /// The pattern.
        pattern: String,
    },
    /// Places in any databases.
    Sources(Vec<Source>),
}

/// What becomes of a row whose key another row has already.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Conflict {
    /// The merge is refused.
    #[default]
    Fail,
    /// The row of the first source stays (with `existing_rows: keep`, the target's own before all).
    Keep,
    /// A row that is the same in every column is taken once; one that differs refuses the merge.
    SkipIdentical,
}

/// What rows that the target holds before the merge mean.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Existing {
    /// The merge is refused, unless they are just the rows that it would give.
    #[default]
    Refuse,
    /// They stay, and the merged rows come beside them.
    Keep,
}

/// How keys that several sources have are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// Every source gets a range of numbers of its own: its place in the list times `step` is added.
    Offset,
    /// Every row gets the next value of the target column's default (a sequence, an identity, a generated UUID).
    NewId,
}

/// Keys that change on the way, and what refers to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    /// How.
    pub method: Method,
    /// Tables whose primary keys change; empty = every table with a primary key of one column that can.
    pub tables: Vec<String>,
    /// The distance between two sources' ranges; absent = the next power of ten above every key.
    pub step: Option<u64>,
    /// Columns that refer to a changed key without a foreign key: `table.column` → table.
    pub references: BTreeMap<String, String>,
}

/// A difference between a source and the target that the plan allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tolerated {
    /// A named source does not exist.
    MissingSources,
    /// A source lacks a table that others have.
    MissingTables,
    /// A source lacks a column; the target's default fills it.
    MissingColumns,
    /// A source has a column that the target has not; its values are left behind.
    ExtraColumns,
    /// A source has a table that the target has not; its rows are left behind.
    ExtraTables,
}

/// All that a step asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spec {
    /// Where the rows come from.
    pub from: Selection,
    /// Where they go.
    pub into: Place,
    /// Tables that are left out: patterns.
    pub skip: Vec<String>,
    /// What becomes of rows with the same key.
    pub on_conflict: Conflict,
    /// The same for single tables of the target.
    pub conflicts: BTreeMap<String, Conflict>,
    /// What rows in the target mean.
    pub existing_rows: Existing,
    /// Whether triggers and rules of the target fire for merged rows.
    pub triggers: bool,
    /// Keys that change on the way.
    pub keys: Option<Keys>,
    /// A column of the target's tables that takes the source's label.
    pub provenance: Option<String>,
    /// Differences that are allowed.
    pub allow: BTreeSet<Tolerated>,
}

impl Spec {
    /// Returns the databases of the plan that are read, each once.
    #[must_use]
    pub fn read_databases(&self) -> Vec<String> {
        let mut names: Vec<String> = match &self.from {
            Selection::Schemas { database, .. } | Selection::Pattern { database, .. } => vec![database.clone()],
            Selection::Sources(sources) => sources.iter().map(|source| source.place.database.clone()).collect(),
        };
        names.sort();
        names.dedup();
        names
    }

    /// Returns what becomes of rows with the same key in a table of the target.
    #[must_use]
    pub fn conflict(&self, table: &str) -> Conflict {
        self.conflicts.get(table).copied().unwrap_or(self.on_conflict)
    }

    /// Returns the sources, patterns resolved against the schemas that the database has.
    #[must_use]
    pub fn sources(&self, schemas: &BTreeMap<String, Vec<String>>) -> Vec<Source> {
        let of = |database: &String, name: &String| Source {
            label: name.clone(),
            place: Place { database: database.clone(), schema: name.clone() },
            tables: None,
            requires: Vec::new(),
        };
        match &self.from {
            Selection::Schemas { database, names } => names.iter().map(|name| of(database, name)).collect(),
            Selection::Pattern { database, pattern } => {
                let there = schemas.get(database).map(Vec::as_slice).unwrap_or_default();
                let own = |name: &&String| *database != self.into.database || **name != self.into.schema;
                let mut names: Vec<&String> = there.iter().filter(|name| fits(pattern, name)).filter(own).collect();
                names.sort_by_key(|name| in_order(name));
                names.into_iter().map(|name| of(database, name)).collect()
            }
            Selection::Sources(sources) => sources.clone(),
        }
    }
}

/// Returns the schemas whose names look as if they belonged to the sources although the plan does not name them.
#[must_use]
pub fn look_alikes(spec: &Spec, schemas: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let (database, stems): (&String, BTreeSet<&str>) = match &spec.from {
        Selection::Schemas { database, names } => {
            (database, names.iter().map(|name| name.trim_end_matches(|c: char| c.is_ascii_digit())).collect())
        }
        Selection::Pattern { database, pattern } => {
            (database, BTreeSet::from([pattern.split(['*', '?', '#']).next().unwrap_or_default()]))
        }
        Selection::Sources(_) => return Vec::new(),
    };
    let taken: BTreeSet<String> = spec.sources(schemas).into_iter().map(|source| source.place.schema).collect();
    let there = schemas.get(database).map(Vec::as_slice).unwrap_or_default();
    // A stem of two characters says nothing.
    let alike = |name: &&String| stems.iter().any(|stem| stem.len() > 2 && name.starts_with(stem));
    let mut found: Vec<String> = there
        .iter()
        .filter(alike)
        .filter(|name| !taken.contains(*name) && **name != spec.into.schema)
        .cloned()
        .collect();
    found.sort_by_key(|name| in_order(name));
    found
}

/// Returns whether a name fits a pattern in which `#` stands for a number.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((before, after)) = pattern.split_once('#') else { return pattern::matches(pattern, name) };
    // Any run of digits may be the number; what stands before it must fit alone, and what comes after the rest.
    let bytes = name.as_bytes();
    (0..bytes.len()).filter(|at| bytes[*at].is_ascii_digit()).any(|start| {
        let first = start == 0 || !bytes[start - 1].is_ascii_digit();
        let end = start + bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        first && pattern::matches(before, &name[..start]) && fits(after, &name[end..])
    })
}

/// Returns a key that puts `shard_2` before `shard_10`.
fn in_order(name: &str) -> (String, u128, String) {
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit());
    let number = name[stem.len()..].parse().unwrap_or(0);
    (stem.to_owned(), number, name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(from: Selection) -> Spec {
        Spec {
            from,
            into: Place { database: "d".to_owned(), schema: "public".to_owned() },
            skip: Vec::new(),
            on_conflict: Conflict::Fail,
            conflicts: BTreeMap::new(),
            existing_rows: Existing::Refuse,
            triggers: false,
            keys: None,
            provenance: None,
            allow: BTreeSet::new(),
        }
    }

    fn there() -> BTreeMap<String, Vec<String>> {
        let names = ["shard_10", "public", "shard_2", "shard_0_backup", "shard_x", "other"];
        BTreeMap::from([("d".to_owned(), names.iter().map(|name| (*name).to_owned()).collect())])
    }

    #[test]
    fn numbers_are_not_names() {
        assert!(fits("shard_#", "shard_12") && fits("#", "7") && fits("*_#_b?", "a_1_bx"));
        for name in ["shard_", "shard_1x", "shard_0_backup", "shard_x"] {
            assert!(!fits("shard_#", name), "{name}");
        }
        assert!(fits("shard_*", "shard_0_backup"));
    }

    #[test]
    fn a_pattern_takes_numbers_in_their_order_and_shows_what_it_left_out() {
        let spec = spec(Selection::Pattern { database: "d".to_owned(), pattern: "shard_#".to_owned() });
        let labels: Vec<String> = spec.sources(&there()).into_iter().map(|source| source.label).collect();
        assert_eq!(labels, ["shard_2", "shard_10"]);
        assert_eq!(look_alikes(&spec, &there()), ["shard_0_backup", "shard_x"]);
    }

    #[test]
    fn a_list_has_look_alikes_too() {
        let names = vec!["shard_2".to_owned(), "shard_3".to_owned()];
        let spec = spec(Selection::Schemas { database: "d".to_owned(), names });
        assert_eq!(look_alikes(&spec, &there()), ["shard_10", "shard_0_backup", "shard_x"]);
    }
}
