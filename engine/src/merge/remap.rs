//! Keys that change on the way: which columns hold them, and what they become.

use std::collections::BTreeMap;

use super::{
    catalog::{Catalog, Column},
    layout::{Finding, Severity},
    spec::{Keys, Method},
};

/// The smallest distance between the ranges of two sources.
pub const OFFSET_STEP: u64 = 1_000_000;

/// Columns that hold changed keys: table → column → the table whose key it is.
pub(super) type Changed = BTreeMap<String, BTreeMap<String, String>>;

/// Returns the name of the table, in pgplan's own schema, that says which key became which.
#[must_use]
pub fn map_name(table: &str) -> String {
    format!("new_keys_of_{table}")
}

/// Finds the columns whose values change: the keys, the foreign keys that lead to them, and the declared references.
pub(super) fn changed(
    keys: &Keys,
    target: &Catalog,
    schema: &str,
    tables: &[String],
    found: &mut Vec<Finding>,
) -> Changed {
    let mut changed = Changed::new();
    let mut refuse = |table: &str, message: String| found.push(Finding::of(Severity::Blocks, table, message));
    let wanted: Vec<&String> =
        if keys.tables.is_empty() { tables.iter().collect() } else { keys.tables.iter().collect() };
    for name in wanted {
        let Some(table) = target.tables.get(name).filter(|_| tables.contains(name)) else {
            refuse(name, format!("`keys.tables` names {name}, which is not merged"));
            continue;
        };
        let column = match table.primary_key() {
            Some([one]) => table.column(one),
            _ => None,
        };
        // A key that is a reference itself changes with what it refers to.
        let refers = |column: &Column| table.foreign_keys.iter().any(|key| key.columns.contains(&column.name));
        match column.filter(|column| !refers(column)) {
            Some(column) if can_change(keys.method, column) => {
                changed.entry(name.clone()).or_default().insert(column.name.clone(), name.clone());
            }
            // Without a list, tables with other keys are none of those that are meant.
            _ if keys.tables.is_empty() => {}
            Some(column) => refuse(name, why_not(keys.method, column)),
            None => refuse(name, "its primary key is not one column of its own, so it cannot be changed".to_owned()),
        }
    }
    follow(&mut changed, target, schema);
    for (column, to) in &keys.references {
        let known = column
            .split_once('.')
            .filter(|(table, column)| target.tables.get(*table).is_some_and(|table| table.column(column).is_some()));
        let primary = target.tables.get(to).and_then(|table| table.primary_key()).and_then(<[String]>::first);
        let root = primary.and_then(|primary| changed.get(to)?.get(primary)).cloned();
        match (known, root) {
            (Some((table, column)), Some(root)) => {
                changed.entry(table.to_owned()).or_default().insert(column.to_owned(), root);
            }
            (Some((table, _)), None) => {
                refuse(table, format!("`keys.references` leads to {to}, whose keys do not change"));
            }
            (None, _) => refuse(to, format!("`keys.references` names {column}, which the target does not have")),
        }
    }
    follow(&mut changed, target, schema);
    changed
}

/// Follows foreign keys until nothing is added: a reference to a changed column is one.
fn follow(changed: &mut Changed, target: &Catalog, schema: &str) {
    loop {
        let mut more = Vec::new();
        for (name, table) in &target.tables {
            for key in table.foreign_keys.iter().filter(|key| key.to_schema == schema) {
                for (from, to) in key.columns.iter().zip(&key.to_columns) {
                    let root = changed.get(&key.to_table).and_then(|columns| columns.get(to));
                    let known = changed.get(name).is_some_and(|columns| columns.contains_key(from));
                    if let Some(root) = root.filter(|_| !known) {
                        more.push((name.clone(), from.clone(), root.clone()));
                    }
                }
            }
        }
        if more.is_empty() {
            return;
        }
        for (table, column, root) in more {
            changed.entry(table).or_default().insert(column, root);
        }
    }
}

fn can_change(method: Method, column: &Column) -> bool {
    match method {
        Method::Offset => largest(&column.type_name).is_some(),
        Method::NewId => column.identity.is_some() || column.default.is_some(),
    }
}

fn why_not(method: Method, column: &Column) -> String {
    match method {
        Method::Offset => format!("its key {} is {}; an offset needs an integer", column.name, column.type_name),
        Method::NewId => format!("its key {} has no default that could give new ones", column.name),
    }
}

/// Returns the largest value of an integer type.
pub(super) fn largest(type_name: &str) -> Option<u64> {
    match type_name {
        "smallint" => Some(i16::MAX.cast_unsigned().into()),
        "integer" => Some(i32::MAX.cast_unsigned().into()),
        "bigint" => Some(i64::MAX.cast_unsigned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::merge::catalog::{ForeignKey, Relation, UniqueKey};

    fn table(columns: &[&str], primary: &[&str], references: &[(&str, &str)]) -> Relation {
        let column =
            |name: &&str| Column { name: (*name).to_owned(), type_name: "integer".to_owned(), ..Column::default() };
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let key = UniqueKey { primary: true, columns: Some(owned(primary)), ..UniqueKey::default() };
        let foreign = |(column, to): &(&str, &str)| ForeignKey {
            columns: owned(&[column]),
            to_schema: "public".to_owned(),
            to_table: (*to).to_owned(),
            to_columns: owned(&["id"]),
            ..ForeignKey::default()
        };
        Relation {
            columns: columns.iter().map(column).collect(),
            keys: vec![key],
            foreign_keys: references.iter().map(foreign).collect(),
            ..Relation::default()
        }
    }

    #[test]
    fn references_follow_their_keys_and_declared_ones_too() {
        let tables = BTreeMap::from([
            ("customers".to_owned(), table(&["id"], &["id"], &[])),
            ("details".to_owned(), table(&["id"], &["id"], &[("id", "customers")])),
            ("notes".to_owned(), table(&["detail", "about"], &["detail"], &[("detail", "details")])),
            ("countries".to_owned(), table(&["code", "name"], &["code", "name"], &[])),
        ]);
        let names: Vec<String> = tables.keys().cloned().collect();
        let target = Catalog { exists: true, tables, ..Catalog::default() };
        let references = BTreeMap::from([("notes.about".to_owned(), "customers".to_owned())]);
        let keys = Keys { method: Method::Offset, tables: Vec::new(), step: None, references };
        let mut found = Vec::new();
        let changed = changed(&keys, &target, "public", &names, &mut found);
        assert_eq!(found, []);
        let told: Vec<String> = changed
            .iter()
            .flat_map(|(table, columns)| columns.iter().map(move |(column, root)| format!("{table}.{column}<{root}")))
            .collect();
        assert_eq!(
            told,
            ["customers.id<customers", "details.id<customers", "notes.about<customers", "notes.detail<customers"]
        );
    }
}
