//! Questions about data, as SQL. Merged rows are called `r` and come from one query per part.
//!
//! Keys that go through a map of new ones are asked for as they are in the source: a foreign key is whole before the
//! change when it is whole after it, since both sides go through the same map, source by source.

use super::{
    catalog::{ForeignKey, UniqueKey},
    layout::{Part, TableLayout},
    spec::Place,
};
use crate::postgres::quote::{ident, ident_list, qualified};

/// How many examples are told.
pub(super) const EXAMPLES: usize = 5;

/// Returns the query for the rows of each part (`number`, `rows`, doubts as numbers with commas between).
#[must_use]
pub fn counts(parts: &[(usize, &Part)]) -> String {
    let one = |(number, part): &(usize, &Part)| {
        if part.doubts.is_empty() {
            return format!("SELECT {number}, pg_catalog.count(*), '' FROM {}", part.relation());
        }
        let doubts = part.doubts.iter().map(|(wrong, _)| format!("pg_catalog.count(*) FILTER (WHERE {wrong})"));
        let doubts = doubts.collect::<Vec<_>>().join(", ");
        format!(
            "SELECT {number}, pg_catalog.count(*), pg_catalog.array_to_string(ARRAY[{doubts}], ',') FROM ({}) r",
            part.select(&part.columns())
        )
    };
    parts.iter().map(one).collect::<Vec<_>>().join(" UNION ALL ")
}

/// Returns the query for the largest value of a column over parts of one database.
#[must_use]
pub fn overflow(parts: &[(usize, &Part)], column: &str) -> String {
    let wanted = [column.to_owned()];
    let one = |(_, part): &(usize, &Part)| {
        format!("SELECT pg_catalog.max(r.{}) m FROM ({}) r", ident(column), part.select(&wanted))
    };
    let all = parts.iter().map(one).collect::<Vec<_>>().join(" UNION ALL ");
    format!("SELECT pg_catalog.max(m) FROM ({all}) a")
}

/// What of a table is read: parts by number, and the rows that the target holds already.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// The table.
    pub table: &'a TableLayout,
    /// Parts of one database, with the numbers by which answers name them.
    pub parts: &'a [(usize, &'a Part)],
    /// Where the target's own rows are, when they count and are in the same database.
    pub own: Option<&'a Place>,
}

/// The number by which answers name the target itself.
pub const OWN: i64 = -1;

impl Rows<'_> {
    /// Returns a query for these columns of all rows, with the number of where each is from in the column `src`.
    fn union(&self, columns: &[String]) -> String {
        let list = |alias: &str| columns.iter().map(|c| format!("{alias}.{}", ident(c))).collect::<Vec<_>>().join(", ");
        let wanted = |part: &&(usize, &Part)| columns.iter().all(|column| part.1.columns().contains(column));
        let of_part = |(number, part): &(usize, &Part)| {
            format!("SELECT {number} AS src, {} FROM ({}) r", list("r"), part.select(columns))
        };
        let mut all: Vec<String> = self.parts.iter().filter(wanted).map(of_part).collect();
        if let Some(own) = self.own {
            all.push(format!("SELECT {OWN} AS src, {} FROM {} t", list("t"), qualified(&own.schema, &self.table.name)));
        }
        all.join(" UNION ALL ")
    }
}

/// Returns the query for keys that several rows have: the key as text, how many rows, their sources, and how many
/// such keys there are in all; a few examples. With `differing`, only keys whose rows are not the same in every column.
#[must_use]
pub fn collisions(rows: Rows<'_>, key: &UniqueKey, differing: bool) -> String {
    let columns = columns_of(rows.table, key);
    let union = rows.union(if differing { &rows.table.common } else { &columns });
    let parts = key.parts.join(", ");
    let text = shown(&key.parts);
    let mut conditions: Vec<String> = key.predicate.iter().map(|predicate| format!("({predicate})")).collect();
    if !key.nulls_not_distinct {
        conditions.extend(key.parts.iter().map(|part| format!("{part} IS NOT NULL")));
    }
    let filter = if conditions.is_empty() { String::new() } else { format!("WHERE {}", conditions.join(" AND ")) };
    let list = rows.table.common.iter().map(|column| ident(column)).collect::<Vec<_>>().join(", ");
    let differ = if differing {
        format!("AND pg_catalog.count(DISTINCT ROW({list})::pg_catalog.text) > 1")
    } else {
        String::new()
    };
    format!(
        "SELECT pg_catalog.min({text}), pg_catalog.count(*), \
                pg_catalog.array_to_string(pg_catalog.array_agg(src ORDER BY src), ','), \
                pg_catalog.count(*) OVER (), pg_catalog.sum(pg_catalog.count(*) - 1) OVER () \
         FROM ({union}) r {filter} GROUP BY {parts} HAVING pg_catalog.count(*) > 1 {differ} \
         ORDER BY 1 LIMIT {EXAMPLES}"
    )
}

/// Returns the columns of a table that a key is made of; for expressions all that every source fills.
#[must_use]
pub fn columns_of(table: &TableLayout, key: &UniqueKey) -> Vec<String> {
    match &key.columns {
        Some(columns) if key.predicate.is_none() => columns.clone(),
        _ => table.common.clone(),
    }
}

/// Returns the query for references that lead nowhere: the reference as text, where it is from, how many in all.
///
/// `parents` are the rows referred to; a table that is not merged is read where it is.
#[must_use]
pub fn orphans(children: Rows<'_>, key: &ForeignKey, parents: Option<Rows<'_>>) -> String {
    let union = children.union(&key.columns);
    let referred = match parents {
        Some(rows) => rows.union(&key.to_columns),
        None => format!("SELECT {} FROM {}", ident_list(&key.to_columns), qualified(&key.to_schema, &key.to_table)),
    };
    let set = key.columns.iter().map(|column| format!("r.{} IS NOT NULL", ident(column))).collect::<Vec<_>>();
    let same = key.columns.iter().zip(&key.to_columns);
    let same = same.map(|(from, to)| format!("p.{} = r.{}", ident(to), ident(from))).collect::<Vec<_>>();
    let parts: Vec<String> = key.columns.iter().map(|column| format!("r.{}", ident(column))).collect();
    // MATCH FULL: a reference that is null in part leads nowhere, too (PostgreSQL manual, CREATE TABLE).
    let broken =
        if key.match_full && key.columns.len() > 1 { format!("({}) OR ", half_null(&set)) } else { String::new() };
    format!(
        "SELECT {}, src, pg_catalog.count(*) OVER () FROM ({union}) r WHERE {broken}({} AND NOT EXISTS \
         (SELECT FROM ({referred}) p WHERE {})) ORDER BY src, 1 LIMIT {EXAMPLES}",
        shown(&parts),
        set.join(" AND "),
        same.join(" AND ")
    )
}

fn half_null(set: &[String]) -> String {
    format!("({}) AND NOT ({})", set.join(" OR "), set.join(" AND "))
}

/// Returns an expression for values as one text.
fn shown(parts: &[String]) -> String {
    let texts = parts.iter().map(|part| format!("({part})::pg_catalog.text")).collect::<Vec<_>>();
    match texts.as_slice() {
        [one] => one.clone(),
        _ => format!("pg_catalog.array_to_string(ARRAY[{}], ', ', 'null')", texts.join(", ")),
    }
}

/// Returns the query that sends keys in an order that is the same on every server: hexadecimal digits of their text,
/// a tab, the number of where each is from.
#[must_use]
pub fn sorted_keys(rows: Rows<'_>, parts: &[String], columns: &[String], distinct: bool) -> String {
    let texts = parts.iter().map(|part| format!("({part})::pg_catalog.text")).collect::<Vec<_>>().join(", ");
    let set = parts.iter().map(|part| format!("{part} IS NOT NULL")).collect::<Vec<_>>().join(" AND ");
    let distinct = if distinct { "DISTINCT" } else { "" };
    format!(
        "COPY (SELECT {distinct} pg_catalog.encode(pg_catalog.convert_to((ARRAY[{texts}])::pg_catalog.text, 'UTF8'), 'hex') \
         COLLATE \"C\" AS k, src FROM ({}) r WHERE {set} ORDER BY 1, 2) TO STDOUT",
        rows.union(columns)
    )
}
