//! What the rows themselves say.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Sessions,
    streams::{Key, Keys, Merged},
};
use crate::{
    error::StepError,
    facts::MergeFacts,
    merge::{
        Conflict, Finding, ForeignKey, OWN, Part, Place, Rows, Severity, Spec, TableLayout, UniqueKey, collisions,
        columns_of, counts, orphans, sorted_keys,
    },
    postgres::{
        Session,
        quote::{ident, on_one_line, qualified},
        rows::{number, rows, text},
    },
    quantity::counted,
};

/// How many examples are told of one finding.
const EXAMPLES: usize = 5;

/// Parts with the numbers by which answers name them.
pub(super) type Numbered<'a> = Vec<(usize, &'a Part)>;

/// Returns the parts of a table by their database.
pub(super) fn by_database(table: &TableLayout) -> BTreeMap<&str, Numbered<'_>> {
    let mut all: BTreeMap<&str, Numbered<'_>> = BTreeMap::new();
    for (number, part) in table.parts.iter().enumerate() {
        all.entry(&part.place.database).or_default().push((number, part));
    }
    all
}

/// Returns the target's table, quoted.
pub(super) fn own(spec: &Spec, table: &TableLayout) -> String {
    qualified(&spec.into.schema, &table.name)
}

/// Counts the rows of parts of one database: label, rows, and what in them the target would refuse.
pub(super) async fn count(
    session: &Session,
    parts: &[(usize, &Part)],
) -> Result<Vec<(String, u64, Vec<String>)>, StepError> {
    let mut all = Vec::new();
    for row in rows(session, "count the rows of the sources", &counts(parts)).await? {
        let number = number(&row, 0).unwrap_or_default();
        let Some((_, part)) = parts.iter().find(|(at, _)| *at as u64 == number) else { continue };
        let wrong = text(&row, 2).split(',').zip(&part.doubts).filter(|(count, _)| !matches!(*count, "" | "0"));
        let rows = |count: &str| counted(count.parse().unwrap_or_default(), "row");
        let wrong =
            wrong.map(|(count, (_, words))| format!("{} with {words}, which the target does not allow", rows(count)));
        let rows = crate::postgres::rows::number(&row, 1).unwrap_or_default();
        all.push((part.label.clone(), rows, wrong.collect()));
    }
    Ok(all)
}

/// What is asked, and of whom.
pub(super) struct Asked<'a> {
    pub(super) spec: &'a Spec,
    pub(super) facts: &'a MergeFacts,
    pub(super) sessions: &'a Sessions,
}

/// A key that several rows have.
struct Collision {
    key: String,
    sources: BTreeSet<i64>,
}

/// Collisions of one unique key.
#[derive(Default)]
struct Collisions {
    keys: u64,
    rows: u64,
    examples: Vec<Collision>,
}

impl Asked<'_> {
    /// Finds rows of several sources, or of a source and the target, with the same key.
    pub(super) async fn collisions(&self) -> Result<Vec<Finding>, StepError> {
        let mut findings = Vec::new();
        for table in self.facts.layout.tables() {
            for key in table.keys() {
                let columns = columns_of(table, key);
                if table.parts.iter().all(|part| !columns.iter().all(|column| part.columns().contains(column))) {
                    continue;
                }
                let found = self.collide(table, key, false).await?;
                if found.keys > 0 {
                    findings.push(self.judge(table, key, found).await?);
                }
            }
        }
        Ok(findings)
    }

    async fn collide(&self, table: &TableLayout, key: &UniqueKey, differing: bool) -> Result<Collisions, StepError> {
        let held = self.facts.held.contains_key(&table.name);
        let parts = by_database(table);
        let target = self.spec.into.database.as_str();
        let databases: BTreeSet<&str> = parts.keys().copied().chain(held.then_some(target)).collect();
        if let [only] = databases.iter().copied().collect::<Vec<_>>().as_slice() {
            let all = parts.get(only).cloned().unwrap_or_default();
            let asked = Rows { table, parts: &all, own: held.then_some(&self.spec.into) };
            return one_database(self.sessions.of(only)?, &collisions(asked, key, differing)).await;
        }
        let mut streams = Vec::new();
        for database in databases {
            let here = parts.get(database).cloned().unwrap_or_default();
            let own = (held && database == target).then_some(&self.spec.into);
            let columns = columns_of(table, key);
            let asked = Rows { table, parts: &here, own };
            streams
                .push(Keys::open(self.sessions.of(database)?, &sorted_keys(asked, &key.parts, &columns, false)).await?);
        }
        several(Merged::new(streams)).await
    }

    /// Says what a collision means and what is done about it.
    async fn judge(&self, table: &TableLayout, key: &UniqueKey, found: Collisions) -> Result<Finding, StepError> {
        let name =
            if key.primary { "primary key".to_owned() } else { format!("unique key {}", on_one_line(&key.name)) };
        let own = |source: &i64| *source == OWN;
        let label = |source: &i64| match usize::try_from(*source).ok().and_then(|at| table.parts.get(at)) {
            Some(part) => part.label.clone(),
            None => "the target".to_owned(),
        };
        let examples = found.examples.iter().map(|example| {
            let labels = example.sources.iter().map(label).collect::<Vec<_>>().join(", ");
            format!("({}) in {labels}", on_one_line(&example.key))
        });
        let examples = examples.collect::<Vec<_>>().join("; ");
        let (severity, then) = match table.conflict {
            Conflict::Fail => (
                Severity::Blocks,
                "remove them, give keys new values (`keys`), or choose another `on_conflict`".to_owned(),
            ),
            Conflict::Keep => (Severity::Notes, format!("{} left out, the first stays", counted(found.rows, "row"))),
            Conflict::SkipIdentical => match self.differing(table, key).await? {
                Some(0) => (Severity::Notes, format!("the same rows, {} left out", counted(found.rows, "row"))),
                Some(keys) => (Severity::Blocks, format!("{} with rows that differ", counted(keys, "key"))),
                None => (Severity::Notes, "rows that differ refuse the merge when they are met".to_owned()),
            },
        };
        let mut sources: BTreeSet<i64> = found.examples.iter().flat_map(|example| example.sources.clone()).collect();
        sources.retain(|source| !own(source));
        let message = format!("{}: {} more than once: {examples}; {then}", name, counted(found.keys, "value"));
        Ok(Finding { sources: sources.iter().map(label).collect(), ..Finding::of(severity, &table.name, message) })
    }

    /// Counts the keys whose rows differ; between databases that is seen only while the rows are moved.
    async fn differing(&self, table: &TableLayout, key: &UniqueKey) -> Result<Option<u64>, StepError> {
        let here = |part: &Part| part.place.database == self.spec.into.database;
        if !table.parts.iter().all(here) {
            return Ok(None);
        }
        Ok(Some(self.collide(table, key, true).await?.keys))
    }

    /// Finds references to rows that no source and not the target has.
    pub(super) async fn orphans(&self) -> Result<Vec<Finding>, StepError> {
        let mut findings = Vec::new();
        for table in self.facts.layout.tables() {
            for key in &table.relation.foreign_keys {
                let parents = (key.to_schema == self.spec.into.schema)
                    .then(|| self.facts.layout.tables().find(|other| other.name == key.to_table))
                    .flatten();
                let doubtful = self.doubtful(table, key, parents);
                if doubtful.is_empty() {
                    continue;
                }
                let found = self.astray(table, &doubtful, key, parents).await?;
                if let Some((examples, count)) = found {
                    let message = format!(
                        "foreign key {}: {} to rows of {} that are nowhere: {}",
                        on_one_line(&key.name),
                        counted(count, "reference"),
                        on_one_line(&key.to_table),
                        examples
                            .iter()
                            .map(|(key, _)| format!("({})", on_one_line(key)))
                            .collect::<Vec<_>>()
                            .join(", "),
                    );
                    let labels: BTreeSet<i64> = examples.iter().map(|(_, source)| *source).collect();
                    let labels = labels.iter().filter_map(|at| table.parts.get(usize::try_from(*at).ok()?));
                    findings.push(Finding {
                        sources: labels.map(|part| part.label.clone()).collect(),
                        ..Finding::of(Severity::Blocks, &table.name, message)
                    });
                }
            }
        }
        Ok(findings)
    }

    /// Returns the parts whose own catalog does not promise that the references lead somewhere.
    fn doubtful<'a>(&self, table: &'a TableLayout, key: &ForeignKey, parents: Option<&TableLayout>) -> Numbered<'a> {
        let promised = |part: &Part| {
            let parent = parents.is_some_and(|parents| parents.parts.iter().any(|other| other.label == part.label));
            part.promises.contains(&key.name) && parent
        };
        let fills = |part: &Part| key.columns.iter().all(|column| part.columns().contains(column));
        table.parts.iter().enumerate().filter(|(_, part)| fills(part) && !promised(part)).collect()
    }

    async fn astray(
        &self,
        table: &TableLayout,
        doubtful: &[(usize, &Part)],
        key: &ForeignKey,
        parents: Option<&TableLayout>,
    ) -> Result<Option<(Vec<(String, i64)>, u64)>, StepError> {
        let target = self.spec.into.database.as_str();
        let held = parents.is_some_and(|parents| self.facts.held.contains_key(&parents.name));
        let mut databases: BTreeSet<&str> = doubtful.iter().map(|(_, part)| part.place.database.as_str()).collect();
        let parent_parts = parents.map(by_database).unwrap_or_default();
        databases.extend(parent_parts.keys());
        if held || parents.is_none() {
            databases.insert(target);
        }
        let new = parents.is_some_and(|parents| parents.own_new_key.is_some());
        if let [only] = databases.iter().copied().collect::<Vec<_>>().as_slice()
            && !new
        {
            let all = parent_parts.get(only).cloned().unwrap_or_default();
            let parents = parents.map(|table| Rows { table, parts: &all, own: held.then_some(&self.spec.into) });
            let sql = orphans(Rows { table, parts: doubtful, own: None }, key, parents);
            let found = rows(self.sessions.of(only)?, "look for references that lead nowhere", &sql).await?;
            let examples = found.iter().map(|row| (text(row, 0).to_owned(), text(row, 1).parse().unwrap_or(OWN)));
            return Ok(found.first().map(|row| (examples.collect(), number(row, 2).unwrap_or_default())));
        }
        self.astray_between(table, doubtful, key, parents, &databases, held).await
    }

    /// Compares the references of several databases with the keys of several databases.
    async fn astray_between(
        &self,
        table: &TableLayout,
        doubtful: &[(usize, &Part)],
        key: &ForeignKey,
        parents: Option<&TableLayout>,
        databases: &BTreeSet<&str>,
        held: bool,
    ) -> Result<Option<(Vec<(String, i64)>, u64)>, StepError> {
        let quoted = |columns: &[String]| columns.iter().map(|column| ident(column)).collect::<Vec<_>>();
        let target = self.spec.into.database.as_str();
        let place = Place { database: target.to_owned(), schema: key.to_schema.clone() };
        let foreign = TableLayout { name: key.to_table.clone(), ..table.clone() };
        // One session sends one stream at a time, so the references come first and are compared in a second session.
        let mut count = 0;
        let mut examples = Vec::new();
        for database in databases {
            let here: Numbered<'_> =
                doubtful.iter().filter(|(_, part)| part.place.database == *database).copied().collect();
            if here.is_empty() {
                continue;
            }
            let asked = Rows { table, parts: &here, own: None };
            let copy = sorted_keys(asked, &quoted(&key.columns), &key.columns, true);
            let session = self.sessions.beside(database).await?;
            let mut references = Merged::new(vec![Keys::open(&session, &copy).await?]);
            let mut streams = Vec::new();
            for database in databases {
                let parent = parents.unwrap_or(&foreign);
                let parts = parents.map(by_database).and_then(|mut parts| parts.remove(database)).unwrap_or_default();
                let own = ((held || parents.is_none()) && *database == target).then_some(&place);
                if parts.is_empty() && own.is_none() {
                    continue;
                }
                let asked = Rows { table: parent, parts: &parts, own };
                let copy = sorted_keys(asked, &quoted(&key.to_columns), &key.to_columns, true);
                streams.push(Keys::open(self.sessions.of(database)?, &copy).await?);
            }
            let mut keys = Merged::new(streams);
            let mut ahead = keys.next().await?;
            while let Some(reference) = references.next().await? {
                while ahead.as_ref().is_some_and(|key| key.key < reference.key) {
                    ahead = keys.next().await?;
                }
                if ahead.as_ref().is_none_or(|key| key.key != reference.key) {
                    count += 1;
                    if examples.len() < EXAMPLES {
                        examples.push((reference.shown(), reference.source));
                    }
                }
            }
            drop(references);
            session.close().await;
            // What was not read to its end must not stand in the way of the next question.
            while keys.next().await?.is_some() {}
        }
        Ok((count > 0).then_some((examples, count)))
    }
}

async fn one_database(session: &Session, sql: &str) -> Result<Collisions, StepError> {
    let found = rows(session, "look for keys that several sources have", sql).await?;
    let mut all = Collisions::default();
    for row in &found {
        all.keys = number(row, 3).unwrap_or_default();
        all.rows = number(row, 4).unwrap_or_default();
        let sources = text(row, 2).split(',').filter_map(|source| source.parse().ok()).collect();
        all.examples.push(Collision { key: text(row, 0).to_owned(), sources });
    }
    Ok(all)
}

async fn several(mut keys: Merged<'_>) -> Result<Collisions, StepError> {
    let mut all = Collisions::default();
    let mut last: Option<Key> = None;
    let mut again = false;
    while let Some(key) = keys.next().await? {
        if let Some(last) = last.as_ref().filter(|last| last.key == key.key) {
            all.rows += 1;
            if !again {
                all.keys += 1;
                if all.examples.len() < EXAMPLES {
                    all.examples.push(Collision { key: last.shown(), sources: BTreeSet::from([last.source]) });
                }
            }
            if let Some(example) = all.examples.last_mut().filter(|example| example.key == key.shown()) {
                example.sources.insert(key.source);
            }
            again = true;
        } else {
            again = false;
        }
        last = Some(key);
    }
    Ok(all)
}
