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
}

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
                          format_type(a.atttypid, a.atttypmod), 'generated', {generated}) ORDER BY a.attnum), '[]') \
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

    /// Returns the statement that sends these columns of all its rows.
    ///
    /// The table itself is copied where that gives the same rows, because it is quicker than a query.
    pub(super) fn copy(&self, (schema, name): &Name, columns: &[&str], encoding: &str) -> String {
        let (table, list) = (qualified(schema, name), ident_list(columns));
        let generated = |name: &&str| self.columns.iter().any(|column| column.generated && column.name == **name);
        let options = format!("WITH (FORMAT text, ENCODING {})", literal(encoding));
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
