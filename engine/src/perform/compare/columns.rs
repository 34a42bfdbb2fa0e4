//! What the tables of a batch are made of, asked for in one query per side.

use std::collections::BTreeMap;

use crate::{
    error::{ErrorKind, StepError},
    postgres::{
        Session,
        quote::{ident, ident_list, literal, on_one_line, qualified},
        rows::{flag, rows, text},
    },
};

/// Schema and name.
pub(super) type Name = (String, String);

/// A table as one side has it.
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// `pg_class.relkind`.
    pub(super) relkind: char,
    /// Whether a materialized view holds rows.
    pub(super) populated: bool,
    /// The extension that it is a part of.
    pub(super) extension: Option<String>,
    /// Columns in their order: name, type, whether generated.
    pub(super) columns: Vec<Column>,
}

#[derive(Debug, Clone, serde::Deserialize)]
pub(super) struct Column {
    pub(super) name: String,
    #[serde(rename = "type")]
    pub(super) type_name: String,
    pub(super) generated: bool,
    /// `atttypid`.
    oid: u32,
}

/// How rows are sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wire {
    /// As COPY text in this encoding: what every type has, the same on every version.
    Text(String),
    /// As COPY binary: takes the server a third less work.
    Binary,
}

/// Types whose binary form is the same on every version from 10 on and tells what the text tells, by `pg_type.oid`
/// (these never change): bool, bytea, int8, int2, int4, text, oid, json, bpchar, varchar, date, time, timestamp,
/// timestamptz, interval, uuid, jsonb.
///
/// Not among them: floats and numeric (NaN has several binary forms), arrays and composites (they hold oids of types).
const SAME_BYTES: [u32; 17] = [16, 17, 20, 21, 23, 25, 26, 114, 1042, 1043, 1082, 1083, 1114, 1184, 1186, 2950, 3802];

/// Reads those of the tables that exist.
pub(super) async fn read(session: &Session, names: &[Name]) -> Result<BTreeMap<Name, Table>, StepError> {
    if names.is_empty() {
        return Ok(BTreeMap::new());
    }
    let generated = if session.server_version_num() >= 120_000 { "a.attgenerated <> ''" } else { "false" };
    let wanted: Vec<String> =
        names.iter().map(|(schema, name)| format!("({}, {})", literal(schema), literal(name))).collect();
    let sql = format!(
        "SELECT n.nspname, c.relname, c.relkind, c.relispopulated, \
                (SELECT e.extname FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid \
                 WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid \
                   AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e'), \
                (SELECT coalesce(json_agg(json_build_object('name', a.attname, 'type', \
                          format_type(a.atttypid, a.atttypmod), 'generated', {generated}, \
                          'oid', a.atttypid::bigint) ORDER BY a.attnum), '[]') \
                 FROM pg_catalog.pg_attribute a \
                 WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE (n.nspname::text, c.relname::text) IN (VALUES {})",
        wanted.join(", ")
    );
    let mut tables = BTreeMap::new();
    for row in rows(session, "read the columns of the tables", &sql).await? {
        let columns = serde_json::from_str(text(&row, 5))
            .map_err(|error| StepError::new(ErrorKind::Internal, format!("columns cannot be read: {error}")))?;
        let table = Table {
            relkind: text(&row, 2).chars().next().unwrap_or('r'),
            populated: flag(&row, 3),
            extension: row.get(4).map(str::to_owned),
            columns,
        };
        tables.insert((text(&row, 0).to_owned(), text(&row, 1).to_owned()), table);
    }
    Ok(tables)
}

impl Table {
    /// Returns the names of the columns that `other` has too, in this table's order.
    pub(super) fn common<'a>(&'a self, other: &Self) -> Vec<&'a str> {
        let has = |name: &str| other.columns.iter().any(|column| column.name == name);
        self.columns.iter().map(|column| column.name.as_str()).filter(|name| has(name)).collect()
    }

    /// Returns whether the binary forms of these columns can be compared with another side's.
    pub(super) fn has_same_bytes(&self, other: &Self, columns: &[&str]) -> bool {
        columns.iter().all(|name| {
            let find = |table: &Self| table.columns.iter().find(|column| column.name == *name).map(|column| column.oid);
            let oid = find(self);
            oid == find(other) && oid.is_some_and(|oid| SAME_BYTES.contains(&oid))
        })
    }

    /// Returns the statement that sends these columns of all its rows.
    ///
    /// The table itself is copied where that gives the same rows, because it is quicker than a query.
    pub(super) fn copy(&self, (schema, name): &Name, columns: &[&str], wire: &Wire) -> String {
        let (table, list) = (qualified(schema, name), ident_list(columns));
        let generated = |name: &&str| self.columns.iter().any(|column| column.generated && column.name == **name);
        let options = match wire {
            Wire::Text(encoding) => format!("WITH (FORMAT text, ENCODING {})", literal(encoding)),
            Wire::Binary => "WITH (FORMAT binary)".to_owned(),
        };
        if self.relkind == 'r' && !columns.is_empty() && !columns.iter().any(generated) {
            return format!("COPY {table} ({list}) TO STDOUT {options}");
        }
        format!("COPY (SELECT {list} FROM {}{table}) TO STDOUT {options}", self.only())
    }

    /// Returns the statement that counts its rows.
    pub(super) fn count(&self, (schema, name): &Name) -> String {
        format!("SELECT pg_catalog.count(*) FROM {}{}", self.only(), qualified(schema, name))
    }

    /// Children of a table are tables of their own; a partitioned table has no rows but those of its partitions.
    fn only(&self) -> &'static str {
        if self.relkind == 'p' { "" } else { "ONLY " }
    }
}

/// Returns a name for messages: quoted only where it could be misread.
pub(super) fn shown(dbname: &str, (schema, name): &Name) -> String {
    let part = |text: &str| {
        let plain = |c: char| c.is_alphanumeric() || c == '_' || c == '$' || c == '-';
        if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { on_one_line(&ident(text)) }
    };
    format!("{}:{}.{}", part(dbname), part(schema), part(name))
}
