//! What the catalogs of sources and target say.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The tables of one schema by name; empty for a schema that is not there.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Catalog {
    /// Whether the schema exists.
    pub exists: bool,
    /// Tables and partitioned tables; partitions are left out.
    pub tables: BTreeMap<String, Relation>,
    /// Sequences.
    pub sequences: Vec<Sequence>,
}

/// A table.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Relation {
    /// `pg_class.relkind`: `r` or `p`.
    pub relkind: char,
    /// `pg_total_relation_size`, bytes.
    pub bytes: u64,
    /// Columns in their order; dropped ones are left out.
    pub columns: Vec<Column>,
    /// Primary key, unique constraints and unique indexes.
    pub keys: Vec<UniqueKey>,
    /// Foreign keys.
    pub foreign_keys: Vec<ForeignKey>,
    /// Triggers that people made, and how each is enabled (`pg_trigger.tgenabled`).
    pub triggers: Vec<(String, char)>,
    /// Rules, and how each is enabled (`pg_rewrite.ev_enabled`).
    pub rules: Vec<(String, char)>,
    /// Whether the session's role sees only a part of the rows (row-level security).
    pub hides_rows: bool,
}

/// A column.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Column {
    /// Name.
    pub name: String,
    /// `format_type`, with its modifier; schemas written out except for `pg_catalog`.
    pub type_name: String,
    /// The schema of the type (of the element, for an array).
    pub type_schema: String,
    /// The type's own name (of the element, for an array), without modifier.
    pub type_base: String,
    /// Whether it is an array.
    pub array: bool,
    /// `pg_type.typtype` (of the element, for an array): `b` base, `e` enum, `d` domain, `c` composite, `r` range.
    pub type_kind: char,
    /// For an enum its labels in their order (a line each, as JSON), for a domain the type below it, for a composite its
    /// attributes: what makes two types of one name the same.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub type_shape: String,
    /// NOT NULL.
    pub not_null: bool,
    /// The default's expression.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default: Option<String>,
    /// Whether its value is computed by the server (`GENERATED … STORED` or `VIRTUAL`).
    pub generated: bool,
    /// `a` GENERATED ALWAYS AS IDENTITY, `d` BY DEFAULT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<char>,
}

/// A unique index.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UniqueKey {
    /// The index's name.
    pub name: String,
    /// Whether it is the primary key.
    pub primary: bool,
    /// What is unique: columns, quoted, or expressions.
    pub parts: Vec<String>,
    /// The columns, when every part is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub columns: Option<Vec<String>>,
    /// The condition of a partial index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicate: Option<String>,
    /// Whether NULLs equal each other (NULLS NOT DISTINCT, 15 and later).
    pub nulls_not_distinct: bool,
}

/// A foreign key.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ForeignKey {
    /// The constraint's name.
    pub name: String,
    /// Columns.
    pub columns: Vec<String>,
    /// The schema of the table referred to.
    pub to_schema: String,
    /// The table referred to.
    pub to_table: String,
    /// Its columns.
    pub to_columns: Vec<String>,
    /// DEFERRABLE.
    pub deferrable: bool,
    /// MATCH FULL.
    pub match_full: bool,
}

/// A sequence.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sequence {
    /// Name.
    pub name: String,
    /// The table and column that it feeds: an identity, or a default that is its `nextval` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feeds: Option<(String, String)>,
}

impl Relation {
    /// Returns the column of this name.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Column> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// Returns the primary key's columns.
    #[must_use]
    pub fn primary_key(&self) -> Option<&[String]> {
        self.keys.iter().find(|key| key.primary)?.columns.as_deref()
    }
}
