//! Operations of a merge.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    merge::{Conflict, ForeignKey, Part, Place, Sequence, map_name},
    postgres::quote::{ident, ident_list, qualified},
    secret::Text,
};

/// Tables to fill in one transaction, with the receipt in it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FillTables {
    /// Where the tables are.
    pub into: Place,
    /// The tables; several when foreign keys lead around in a circle.
    pub tables: Vec<FillTable>,
    /// Whether triggers and rules of the tables fire.
    pub triggers: bool,
    /// Constraints that are checked at the end: table, name, whether they are deferrable as they are.
    pub deferred: Vec<(String, String, bool)>,
}

/// A table to fill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FillTable {
    /// Its name.
    pub name: String,
    /// The columns that are compared at the end.
    pub columns: Vec<String>,
    /// Columns whose values go through a map of new keys: column → the table whose map it is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mapped: BTreeMap<String, String>,
    /// Where rows come from, in order.
    pub parts: Vec<Part>,
    /// What becomes of rows with the same key.
    pub conflict: Conflict,
    /// The primary key, for telling whether two rows with one key are the same.
    pub key: Vec<String>,
    /// Whether an identity column that only the server fills takes the sources' values.
    pub overriding: bool,
    /// Triggers that are off meanwhile, with how each is enabled.
    pub triggers: Vec<(String, char)>,
    /// Rules that are off meanwhile, with how each is enabled.
    pub rules: Vec<(String, char)>,
}

impl FillTable {
    /// Returns the statement that puts rows of the query `select` into the table; `returning` gives them back.
    #[must_use]
    pub fn insert(&self, schema: &str, part: &Part, select: &str, returning: bool) -> String {
        let columns = part.columns();
        let value = |filled: &crate::merge::Filled| match &filled.mapped {
            Some(table) => format!(
                "(SELECT m.new FROM {} m WHERE m.source = {} AND m.old = r.{})",
                map_of(table),
                crate::postgres::quote::literal(&part.label),
                ident(&filled.column)
            ),
            None => format!("r.{}", ident(&filled.column)),
        };
        let mapped = part.filled.iter().any(|filled| filled.mapped.is_some());
        let rows = if mapped {
            format!("SELECT {} FROM ({select}) r", part.filled.iter().map(value).collect::<Vec<_>>().join(", "))
        } else {
            select.to_owned()
        };
        let overriding = if self.overriding { " OVERRIDING SYSTEM VALUE" } else { "" };
        let conflict = if self.conflict == Conflict::Fail { "" } else { " ON CONFLICT DO NOTHING" };
        let returning = match returning {
            true => format!(" RETURNING {}", self.as_in_the_sources(&qualified(schema, &self.name))),
            false => String::new(),
        };
        format!(
            "INSERT INTO {} ({}){overriding} {rows}{conflict}{returning}",
            qualified(schema, &self.name),
            ident_list(&columns)
        )
    }

    /// Returns the compared columns of the relation `alias`, changed keys as they were in the sources.
    fn as_in_the_sources(&self, alias: &str) -> String {
        let value = |column: &String| match self.mapped.get(column) {
            Some(table) => {
                format!("(SELECT m.old FROM {} m WHERE m.new = {alias}.{1}) AS {1}", map_of(table), ident(column))
            }
            None => format!("{alias}.{}", ident(column)),
        };
        self.columns.iter().map(value).collect::<Vec<_>>().join(", ")
    }

    /// Returns the query for the table's rows as the sources would give them.
    #[must_use]
    pub fn select(&self, schema: &str) -> String {
        format!("SELECT {} FROM {} t", self.as_in_the_sources("t"), qualified(schema, &self.name))
    }
}

/// Returns the table that says which keys of a table became which, quoted.
#[must_use]
pub fn map_of(table: &str) -> String {
    qualified("pgplan", &map_name(table))
}

/// New keys to give to the rows of a table, before the rows themselves are moved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MapKeys {
    /// Where the table is.
    pub into: Place,
    /// The table.
    pub table: String,
    /// Its key.
    pub column: String,
    /// The expression that gives a new one.
    pub next: String,
    /// Where rows come from.
    pub parts: Vec<Part>,
}

/// The proof that a merge is complete, and what is done when it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProveMerge {
    /// Where the tables are.
    pub into: Place,
    /// The tables.
    pub tables: Vec<FillTable>,
    /// Foreign keys by table.
    pub foreign_keys: Vec<(String, ForeignKey)>,
    /// The target's sequences, to be advanced past what was merged.
    pub sequences: Vec<Sequence>,
    /// Whether the merge was done by an earlier run: there are no receipts.
    pub by_another_run: bool,
    /// SQL that marks the merge as complete, in the transaction of the last check.
    pub complete: Vec<Text>,
    /// A query that tells whether it is marked already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unless: Option<Text>,
}

impl ProveMerge {
    /// Returns where the sources are, each place once.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let mut places: Vec<Place> = Vec::new();
        for part in self.tables.iter().flat_map(|table| &table.parts) {
            if !places.contains(&part.place) {
                places.push(part.place.clone());
            }
        }
        places
    }
}

/// Tables to empty again, that were empty before the merge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EmptyTables {
    /// Where the tables are.
    pub into: Place,
    /// The tables, with how many rows the merge put in where that is known beforehand.
    pub tables: Vec<(String, Option<u64>)>,
    /// SQL before it, in the same transaction.
    pub first: Vec<Text>,
    /// The id of the action that is taken back, in its step.
    pub own: String,
}
