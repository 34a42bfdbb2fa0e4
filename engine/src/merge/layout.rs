//! What follows from a plan's wishes and the catalogs: where every column of every merged row comes from, in which
//! order tables are filled, and what is in the way.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    catalog::{Catalog, Column, ForeignKey, Relation, UniqueKey},
    order,
    remap::{self, Changed, largest},
    spec::{Conflict, Existing, Method, Place, Source, Spec, TableMap, Tolerated},
    types::{Fit, fit},
};
use crate::{
    pattern::any_matches,
    postgres::quote::{ident, literal, on_one_line, qualified},
};

/// How much a finding weighs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Nothing is merged as long as it is so.
    Blocks,
    /// The reader must know of it.
    Notes,
}

/// Something about a table, or about some sources of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// How much it weighs.
    pub severity: Severity,
    /// The target's table; empty for what is about sources as a whole.
    pub table: String,
    /// What is so, and what is done about it or what could be.
    pub message: String,
    /// The sources for which it is so, in their order; empty = it is about the target.
    pub sources: Vec<String>,
}

impl Finding {
    /// Returns a finding about the target's table.
    #[must_use]
    pub fn of(severity: Severity, table: &str, message: impl Into<String>) -> Self {
        Self { severity, table: table.to_owned(), message: message.into(), sources: Vec::new() }
    }
}

/// One column of a merged row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filled {
    /// The target's column.
    pub column: String,
    /// The SQL expression over the source's table, named `s`.
    pub expression: String,
    /// The table whose map of new keys its value goes through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mapped: Option<String>,
}

/// The rows that one source gives to one table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// The source's label.
    pub label: String,
    /// Where its table is.
    pub place: Place,
    /// Its table.
    pub table: String,
    /// `pg_total_relation_size`, bytes.
    pub bytes: u64,
    /// The columns that it fills, in the target's order.
    pub filled: Vec<Filled>,
    /// Conditions of the target that the source's own catalog does not promise: what is violated, as an expression
    /// over the merged row `r`, with words for it.
    pub doubts: Vec<(String, String)>,
    /// Foreign keys of the target that the source's own foreign keys promise.
    pub promises: BTreeSet<String>,
}

impl Part {
    /// Returns the source's table, quoted.
    #[must_use]
    pub fn relation(&self) -> String {
        qualified(&self.place.schema, &self.table)
    }

    /// Returns the query that gives its rows as they are merged (keys that go through a map still as they were).
    #[must_use]
    pub fn select(&self, columns: &[String]) -> String {
        let one = |filled: &Filled| {
            let name = ident(&filled.column);
            if filled.expression == format!("s.{name}") {
                filled.expression.clone()
            } else {
                format!("{} AS {name}", filled.expression)
            }
        };
        let wanted = self.filled.iter().filter(|filled| columns.contains(&filled.column));
        let list = wanted.map(one).collect::<Vec<_>>().join(", ");
        format!("SELECT {list} FROM {} s", self.relation())
    }

    /// Returns the names of the columns that it fills.
    #[must_use]
    pub fn columns(&self) -> Vec<String> {
        self.filled.iter().map(|filled| filled.column.clone()).collect()
    }
}

/// One table of the target and all that comes into it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TableLayout {
    /// Its name.
    pub name: String,
    /// The table as the target has it.
    pub relation: Relation,
    /// The columns that every source fills: what is compared at the end.
    pub common: Vec<String>,
    /// What each source gives, in the order of the sources.
    pub parts: Vec<Part>,
    /// What becomes of rows with the same key.
    pub conflict: Conflict,
    /// The column whose values are new keys that the table's own default gives.
    pub own_new_key: Option<String>,
}

/// A merge, worked out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Layout {
    /// The tables by group; a group is filled in one transaction, after the groups before it that it refers to.
    pub groups: Vec<Vec<TableLayout>>,
    /// Tables of the target that are left as they are because no source has them, or because they are skipped.
    pub untouched: Vec<String>,
    /// What must be known, the gravest first.
    pub findings: Vec<Finding>,
}

impl Layout {
    /// Works a merge out. `catalogs` holds those of the sources and of the target by place (database, schema);
    /// `step` is the distance between two sources' ranges of keys, where that is known.
    #[must_use]
    pub fn new(
        spec: &Spec,
        sources: &[Source],
        catalogs: &BTreeMap<(String, String), Catalog>,
        step: Option<u64>,
    ) -> Self {
        let empty = Catalog::default();
        let at = |place: &Place| catalogs.get(&(place.database.clone(), place.schema.clone())).unwrap_or(&empty);
        let mut maker = Maker { spec, target: at(&spec.into), found: Vec::new(), step, tables: BTreeMap::new() };
        if !maker.target.exists {
            maker.block("", format!("the target has no schema {}", on_one_line(&spec.into.schema)));
        }
        if sources.is_empty() {
            maker.block("", "no schema fits; check the pattern");
        }
        for (index, source) in sources.iter().enumerate() {
            maker.source(index, source, at(&source.place));
        }
        maker.finish(sources)
    }

    /// Returns the tables in the order in which they are filled.
    pub fn tables(&self) -> impl Iterator<Item = &TableLayout> {
        self.groups.iter().flatten()
    }

    /// Returns whether something is in the way.
    #[must_use]
    pub fn is_blocked(&self) -> bool {
        self.findings.iter().any(|finding| finding.severity == Severity::Blocks)
    }
}

/// Gathers the parts and what is said of them.
struct Maker<'a> {
    spec: &'a Spec,
    target: &'a Catalog,
    found: Vec<Finding>,
    step: Option<u64>,
    /// Parts by the target's table; the number is the source's.
    tables: BTreeMap<String, Vec<(usize, Part)>>,
}

impl Maker<'_> {
    fn block(&mut self, table: &str, message: impl Into<String>) {
        self.found.push(Finding::of(Severity::Blocks, table, message));
    }

    /// Says something of one source; the same about others is told once.
    fn tell(&mut self, severity: Severity, table: &str, source: &str, message: String) {
        let same = |finding: &&mut Finding| {
            finding.severity == severity && finding.table == table && finding.message == message
        };
        match self.found.iter_mut().find(same) {
            Some(finding) => finding.sources.push(source.to_owned()),
            None => {
                self.found.push(Finding { sources: vec![source.to_owned()], ..Finding::of(severity, table, message) })
            }
        }
    }

    fn tolerated(&self, what: Tolerated) -> Severity {
        if self.spec.allow.contains(&what) { Severity::Notes } else { Severity::Blocks }
    }

    fn source(&mut self, index: usize, source: &Source, catalog: &Catalog) {
        if !catalog.exists {
            let message = format!("the schema {} does not exist", on_one_line(&source.place.schema));
            self.tell(self.tolerated(Tolerated::MissingSources), "", &source.label, message);
            return;
        }
        let plain = TableMap::default();
        let named: Vec<(&String, &TableMap)> = match &source.tables {
            Some(tables) => tables.iter().collect(),
            None => catalog.tables.keys().map(|name| (name, &plain)).collect(),
        };
        for (name, map) in named {
            let to = map.to.as_ref().unwrap_or(name);
            if any_matches(&self.spec.skip, name) {
                continue;
            }
            let Some(relation) = catalog.tables.get(name) else {
                let message = format!("it has no table {}", on_one_line(name));
                self.tell(self.tolerated(Tolerated::MissingTables), to, &source.label, message);
                continue;
            };
            let Some(target) = self.target.tables.get(to) else {
                let message = "the target has no such table; its rows would be left behind".to_owned();
                self.tell(self.tolerated(Tolerated::ExtraTables), to, &source.label, message);
                continue;
            };
            let part = self.part(source, (name, relation), (to, target), map);
            self.tables.entry(to.clone()).or_default().push((index, part));
        }
    }

    fn part(&mut self, source: &Source, from: (&String, &Relation), to: (&String, &Relation), map: &TableMap) -> Part {
        let ((name, relation), (to, target)) = (from, to);
        let mut used: BTreeSet<&str> = map.except.iter().map(String::as_str).collect();
        let mut filled = Vec::new();
        for column in target.columns.iter().filter(|column| !column.generated) {
            let mut fill = |expression: String| {
                filled.push(Filled { column: column.name.clone(), expression, mapped: None });
            };
            if self.spec.provenance.as_ref() == Some(&column.name) {
                used.insert(&column.name);
                fill(format!("{}::pg_catalog.text", literal(&source.label)));
                continue;
            }
            if let Some(expression) = map.derive.get(&column.name) {
                used.extend(
                    relation
                        .columns
                        .iter()
                        .map(|c| c.name.as_str())
                        .filter(|name| expression.contains(name) || expression.contains(&ident(name))),
                );
                fill(format!("({expression})"));
                continue;
            }
            let renamed = map.rename.iter().find(|(_, new)| **new == column.name).map(|(old, _)| old.as_str());
            let same = (!map.rename.contains_key(&column.name)).then_some(column.name.as_str());
            let found = renamed.or(same).filter(|name| !map.except.contains(*name));
            let Some(other) = found.and_then(|name| relation.column(name)) else {
                self.missing_column(source, to, column);
                continue;
            };
            used.insert(&other.name);
            let together = source.place.database == self.spec.into.database;
            match fit(other, &source.place.schema, column, &self.spec.into.schema, together) {
                Fit::Same => fill(format!("s.{}", ident(&other.name))),
                Fit::Wider => {
                    fill(format!("s.{}", ident(&other.name)));
                    let message = format!(
                        "column {}: {} becomes {}",
                        on_one_line(&column.name),
                        other.type_name,
                        column.type_name
                    );
                    self.tell(Severity::Notes, to, &source.label, message);
                }
                Fit::Cast(expression) => fill(format!("s.{expression}")),
                Fit::No(why) => {
                    let message =
                        format!("column {}: {why}; say in `derive` how it becomes so", on_one_line(&column.name));
                    self.tell(Severity::Blocks, to, &source.label, message);
                }
            }
            self.default_drift(source, to, other, column);
        }
        for column in relation.columns.iter().filter(|column| !used.contains(column.name.as_str())) {
            if target.column(&column.name).is_some_and(|column| column.generated) {
                continue;
            }
            let message =
                format!("the target has no column {}; its values would be left behind", on_one_line(&column.name));
            self.tell(self.tolerated(Tolerated::ExtraColumns), to, &source.label, message);
        }
        self.unknown_columns(source, to, map, relation, target);
        let order = |relation: &Relation| -> Vec<String> {
            relation
                .columns
                .iter()
                .map(|c| c.name.clone())
                .filter(|name| filled.iter().any(|f| f.column == *name))
                .collect()
        };
        if map.rename.is_empty() && map.derive.is_empty() && order(relation) != order(target) {
            let message = "its columns stand in another order; they are taken by name".to_owned();
            self.tell(Severity::Notes, to, &source.label, message);
        }
        if relation.hides_rows {
            self.tell(Severity::Blocks, to, &source.label, "row-level security hides rows from this role".to_owned());
        }
        let doubts = doubts(&filled, relation, target);
        let promises = promises(&filled, source, relation, target, &self.spec.into.schema);
        let (label, place, table) = (source.label.clone(), source.place.clone(), name.clone());
        Part { label, place, table, bytes: relation.bytes, filled, doubts, promises }
    }

    fn missing_column(&mut self, source: &Source, table: &str, column: &Column) {
        let name = on_one_line(&column.name);
        let fills = match (&column.default, column.identity) {
            (Some(default), _) => format!("its default {} would fill it", on_one_line(default)),
            (None, Some(_)) => "the target would count it up".to_owned(),
            (None, None) if column.not_null => {
                let message = format!("it has no column {name}, which must not be null and has no default");
                return self.tell(Severity::Blocks, table, &source.label, message);
            }
            (None, None) => "it would be null".to_owned(),
        };
        let message = format!("it has no column {name}; {fills}");
        self.tell(self.tolerated(Tolerated::MissingColumns), table, &source.label, message);
    }

    /// Notes defaults that differ by more than the schema's name: the values are taken as they are.
    fn default_drift(&mut self, source: &Source, table: &str, from: &Column, to: &Column) {
        let own = |column: &Column, schema: &str| {
            let text = column.default.clone().unwrap_or_default();
            // Inside a literal, as of a sequence, quotes are doubled.
            let quoted = format!("{}.", ident(schema));
            text.replace(&format!("{schema}."), "").replace(&quoted.replace('\'', "''"), "").replace(&quoted, "")
        };
        let (theirs, ours) = (own(from, &source.place.schema), own(to, &self.spec.into.schema));
        if theirs != ours {
            let word = |text: &str| if text.is_empty() { "none".to_owned() } else { on_one_line(text) };
            let message = format!(
                "column {}: its default is {}, the target's {}; values are taken as they are",
                on_one_line(&to.name),
                word(&theirs),
                word(&ours)
            );
            self.tell(Severity::Notes, table, &source.label, message);
        }
    }

    /// Refuses columns that the plan names and nobody has.
    fn unknown_columns(&mut self, source: &Source, table: &str, map: &TableMap, from: &Relation, to: &Relation) {
        let gone = map.except.iter().chain(map.rename.keys()).filter(|name| from.column(name).is_none());
        let gone: Vec<String> = gone
            .map(|name| format!("the plan names the column {}, which it does not have", on_one_line(name)))
            .collect();
        let unknown = map.derive.keys().chain(map.rename.values()).filter(|name| to.column(name).is_none());
        let unknown: Vec<String> = unknown
            .map(|name| format!("the plan fills the column {}, which the target does not have", on_one_line(name)))
            .collect();
        for message in gone.into_iter().chain(unknown) {
            self.tell(Severity::Blocks, table, &source.label, message);
        }
    }

    /// Puts the parts together.
    fn finish(mut self, sources: &[Source]) -> Layout {
        let schema = &self.spec.into.schema;
        let names: Vec<String> = self.tables.keys().cloned().collect();
        self.missing_tables(sources, &names);
        let changed = match &self.spec.keys {
            Some(keys) => remap::changed(keys, self.target, schema, &names, &mut self.found),
            None => Changed::new(),
        };
        if let Some(column) = &self.spec.provenance
            && !names
                .iter()
                .any(|name| self.target.tables.get(name).is_some_and(|table| table.column(column).is_some()))
        {
            self.block(
                "",
                format!("no table of the target has the column {} for the provenance; add it", on_one_line(column)),
            );
        }
        let groups = order::groups(&names, self.target, schema);
        let mut tables: BTreeMap<String, TableLayout> = BTreeMap::new();
        for (name, parts) in std::mem::take(&mut self.tables) {
            if let Some(relation) = self.target.tables.get(&name) {
                let table = self.table(name.clone(), relation.clone(), parts, &changed);
                tables.insert(name, table);
            }
        }
        let groups =
            groups.into_iter().map(|group| group.iter().filter_map(|name| tables.remove(name)).collect()).collect();
        let untouched = self.target.tables.keys().filter(|name| !names.contains(name)).cloned().collect();
        self.found.sort();
        Layout { groups, untouched, findings: self.found }
    }

    /// Tells which sources lack a table that others have.
    fn missing_tables(&mut self, sources: &[Source], names: &[String]) {
        // Databases that are merged are different by nature; shards are not.
        if sources.iter().any(|source| source.tables.is_some()) {
            return;
        }
        let absent: BTreeSet<String> = self
            .found
            .iter()
            .filter(|finding| finding.table.is_empty())
            .flat_map(|finding| finding.sources.clone())
            .collect();
        for name in names {
            let has: BTreeSet<usize> = self.tables.get(name).into_iter().flatten().map(|(index, _)| *index).collect();
            for (index, source) in sources.iter().enumerate() {
                if !has.contains(&index) && !absent.contains(&source.label) {
                    let message = "it has no such table".to_owned();
                    self.tell(self.tolerated(Tolerated::MissingTables), name, &source.label, message);
                }
            }
        }
    }

    fn table(&mut self, name: String, relation: Relation, parts: Vec<(usize, Part)>, changed: &Changed) -> TableLayout {
        if relation.hides_rows {
            self.block(&name, "row-level security hides the target's rows from this role");
        }
        let conflict = self.spec.conflict(&name);
        if conflict != Conflict::Fail && self.spec.triggers && !relation.rules.is_empty() {
            self.block(
                &name,
                "PostgreSQL takes no ON CONFLICT on a table with rules; say `triggers: false`, or drop the rules",
            );
        }
        let method = self.spec.keys.as_ref().map(|keys| keys.method);
        let columns = changed.get(&name);
        let mut done = Vec::new();
        for (index, mut part) in parts {
            for filled in &mut part.filled {
                let Some(root) = columns.and_then(|columns| columns.get(&filled.column)) else { continue };
                match method {
                    Some(Method::NewId) => filled.mapped = Some(root.clone()),
                    Some(Method::Offset) => {
                        let shift = self.shift(index);
                        self.overflow(&name, &relation, &filled.column, shift);
                        if shift > 0 {
                            filled.expression = format!("({} + {shift})", filled.expression);
                        }
                    }
                    None => {}
                }
            }
            done.push(part);
        }
        let fills = |part: &Part, column: &str| part.filled.iter().any(|filled| filled.column == column);
        let common = relation.columns.iter().map(|column| column.name.clone());
        let common = common.filter(|column| done.iter().all(|part| fills(part, column))).collect();
        let own = columns.and_then(|columns| columns.iter().find(|(_, root)| **root == name));
        let own_new_key = own.filter(|_| method == Some(Method::NewId)).map(|(column, _)| column.clone());
        TableLayout { name, relation, common, parts: done, conflict, own_new_key }
    }

    /// Returns what is added to the keys of a source; with rows in the target, the first range is theirs.
    fn shift(&self, index: usize) -> u64 {
        let first = u64::from(self.spec.existing_rows == Existing::Keep);
        (index as u64 + first).saturating_mul(self.step.unwrap_or(0))
    }

    fn overflow(&mut self, table: &str, relation: &Relation, column: &str, shift: u64) {
        let type_name = relation.column(column).map(|column| column.type_name.as_str()).unwrap_or_default();
        let step = self.step.unwrap_or(0);
        if largest(type_name).is_some_and(|largest| shift.saturating_add(step) > largest) {
            let message = format!(
                "column {} is {type_name}, too small for ranges of {step}; make it bigint, or use `method: new_id`",
                on_one_line(column)
            );
            if !self.found.iter().any(|finding| finding.table == table && finding.message == message) {
                self.block(table, message);
            }
        }
    }
}

/// Returns what the target demands of a row and the source's own catalog does not promise.
fn doubts(filled: &[Filled], from: &Relation, to: &Relation) -> Vec<(String, String)> {
    let promised = |name: &str| from.column(name).is_some_and(|column| column.not_null);
    let columns = to.columns.iter().filter(|column| column.not_null);
    let filled = columns.filter(|column| filled.iter().any(|filled| filled.column == column.name));
    let doubtful = filled.filter(|column| !promised(&column.name));
    doubtful
        .map(|column| (format!("r.{} IS NULL", ident(&column.name)), format!("null in {}", on_one_line(&column.name))))
        .collect()
}

/// Returns the target's foreign keys that the source has, too, between the same columns taken as they are.
fn promises(filled: &[Filled], source: &Source, from: &Relation, to: &Relation, schema: &str) -> BTreeSet<String> {
    let as_it_is = |column: &String| {
        filled.iter().any(|filled| filled.column == *column && filled.expression == format!("s.{}", ident(column)))
    };
    let same = |key: &ForeignKey, other: &ForeignKey| {
        (&key.columns, &key.to_table, &key.to_columns) == (&other.columns, &other.to_table, &other.to_columns)
            && other.to_schema == source.place.schema
            && (other.match_full || !key.match_full)
    };
    let inside = to.foreign_keys.iter().filter(|key| key.to_schema == schema && key.columns.iter().all(as_it_is));
    inside.filter(|key| from.foreign_keys.iter().any(|other| same(key, other))).map(|key| key.name.clone()).collect()
}

impl TableLayout {
    /// Returns the foreign keys that lead out of what one statement fills: those that are checked at the end when the
    /// table is filled together with those it refers to.
    #[must_use]
    pub fn circular<'a>(&'a self, group: &[Self], schema: &str) -> Vec<&'a ForeignKey> {
        let inside =
            |key: &&ForeignKey| key.to_schema == schema && group.iter().any(|table| table.name == key.to_table);
        self.relation.foreign_keys.iter().filter(inside).collect()
    }

    /// Returns the unique keys, but those with a new key in them: two sources never get the same.
    pub fn keys(&self) -> impl Iterator<Item = &UniqueKey> {
        let mapped = |column: &String| {
            let filled =
                self.parts.iter().flat_map(|part| part.filled.iter().filter(move |filled| filled.column == *column));
            filled.into_iter().any(|filled| filled.mapped.is_some())
        };
        self.relation
            .keys
            .iter()
            .filter(move |key| !key.columns.as_ref().is_some_and(|columns| columns.iter().any(mapped)))
    }

    /// Returns whether an identity column that the server alone fills takes values of the sources.
    #[must_use]
    pub fn overrides_identity(&self) -> bool {
        self.relation.columns.iter().any(|column| column.identity == Some('a'))
    }
}
