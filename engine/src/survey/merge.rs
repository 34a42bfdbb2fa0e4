//! A look at what is to be merged: catalogs, rows by source and table, keys that meet, references that lead nowhere.
//!
//! Each database is read in one read-only transaction, so that all answers are about the same moment. Where all rows are in
//! one database, questions are put as SQL; between databases, servers send their keys in order and the streams are
//! compared as they come, in constant memory.

mod catalog;
mod content;
mod data;
mod streams;

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    error::{ErrorKind, StepError},
    facts::MergeFacts,
    merge::{
        Catalog, Conflict, Existing, Finding, Layout, Method, OFFSET_STEP, Severity, Source, Spec, look_alikes,
        overflow,
    },
    postgres::{
        ConnInfo, Session,
        connect::{connect_read_only, execute},
        pin::{Floats, pin_session},
        quote::{ident, literal, on_one_line},
        rows::{self, first},
    },
    quantity::counted,
};

/// The sessions of a look.
struct Sessions {
    infos: BTreeMap<String, ConnInfo>,
    /// One for each database, by its name in the plan.
    open: BTreeMap<String, Session>,
    floats: Floats,
}

impl Sessions {
    async fn open(infos: &BTreeMap<String, ConnInfo>) -> Result<Self, StepError> {
        let mut sessions = BTreeMap::new();
        for (name, info) in infos {
            let session = connect_read_only(info, super::APPLICATION_NAME).await?;
            sessions.insert(name.clone(), session);
        }
        let versions = || sessions.values().map(Session::server_version_num);
        let (lowest, highest) = (versions().min().unwrap_or_default(), versions().max().unwrap_or_default());
        let floats = Floats::for_pair(lowest, highest);
        for session in sessions.values() {
            begin(session, floats).await?;
        }
        Ok(Self { infos: infos.clone(), open: sessions, floats })
    }

    /// Opens a second session with a database, which sees what the first one sees.
    async fn beside(&self, database: &str) -> Result<Session, StepError> {
        let first = self.of(database)?;
        let Some(info) = self.infos.get(database) else {
            return Err(StepError::new(ErrorKind::Internal, format!("`{database}` is not connected")));
        };
        let doing = "share a snapshot";
        let path =
            rows::first(first, doing, "SELECT pg_catalog.current_setting('search_path')").await?.unwrap_or_default();
        let snapshot = rows::first(first, doing, "SELECT pg_catalog.pg_export_snapshot()").await?.unwrap_or_default();
        let session = connect_read_only(info, super::APPLICATION_NAME).await?;
        begin(&session, self.floats).await?;
        execute(&session, doing, &format!("SET TRANSACTION SNAPSHOT {}", literal(&snapshot))).await?;
        let path = format!("SELECT pg_catalog.set_config('search_path', {}, true)", literal(&path));
        execute(&session, doing, &path).await?;
        Ok(session)
    }

    fn of(&self, database: &str) -> Result<&Session, StepError> {
        let missing = || StepError::new(ErrorKind::Internal, format!("`{database}` is not connected"));
        self.open.get(database).ok_or_else(missing)
    }

    async fn close(self) {
        for session in self.open.into_values() {
            session.close().await;
        }
    }
}

async fn begin(session: &Session, floats: Floats) -> Result<(), StepError> {
    pin_session(session, floats).await?;
    execute(session, "begin a look", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await
}

/// Looks at the sources and the target of a merge; `infos` holds the addresses of all its databases.
///
/// # Errors
/// A server cannot be reached, or refused a question that a role which may read every table may ask.
pub async fn look(spec: &Spec, infos: &BTreeMap<String, ConnInfo>) -> Result<MergeFacts, StepError> {
    let sessions = Sessions::open(infos).await?;
    let found = look_through(spec, &sessions).await;
    sessions.close().await;
    found
}

async fn look_through(spec: &Spec, sessions: &Sessions) -> Result<MergeFacts, StepError> {
    let mut schemas = BTreeMap::new();
    for (name, session) in &sessions.open {
        schemas.insert(name.clone(), catalog::schemas(session).await?);
    }
    let sources = spec.sources(&schemas);
    let catalogs = catalogs(spec, &sources, sessions).await?;
    paths(spec, &sources, sessions).await?;
    let mut layout = Layout::new(spec, &sources, &catalogs, None);
    let step = step(spec, &layout, sessions).await?;
    if step.is_some() {
        layout = Layout::new(spec, &sources, &catalogs, step);
    }
    let target = catalogs.get(&(spec.into.database.clone(), spec.into.schema.clone()));
    let mut facts = MergeFacts {
        sources: sources.iter().map(|source| source.label.clone()).collect(),
        look_alikes: look_alikes(spec, &schemas),
        step,
        sequences: target.map(|target| target.sequences.clone()).unwrap_or_default(),
        layout,
        ..MergeFacts::default()
    };
    preconditions(&sources, &mut facts, sessions).await?;
    count(spec, &mut facts, sessions).await?;
    if !facts.merged_already {
        let asked = data::Asked { spec, facts: &facts, sessions };
        let mut found = asked.collisions().await?;
        found.extend(asked.orphans().await?);
        facts.findings.extend(found);
    }
    facts.findings.sort();
    Ok(facts)
}

async fn catalogs(
    spec: &Spec,
    sources: &[Source],
    sessions: &Sessions,
) -> Result<BTreeMap<(String, String), Catalog>, StepError> {
    let mut wanted: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    let places = sources.iter().map(|source| &source.place).chain([&spec.into]);
    for place in places {
        wanted.entry(&place.database).or_default().insert(place.schema.clone());
    }
    let mut catalogs = BTreeMap::new();
    for (database, names) in wanted {
        for (schema, catalog) in catalog::read(sessions.of(database)?, &names).await? {
            catalogs.insert((database.to_owned(), schema), catalog);
        }
    }
    Ok(catalogs)
}

/// Lets expressions of the plan find what stands in the schema of a database's only source.
async fn paths(spec: &Spec, sources: &[Source], sessions: &Sessions) -> Result<(), StepError> {
    for (database, session) in &sessions.open {
        let here = sources.iter().filter(|source| source.place.database == *database);
        let schemas: BTreeSet<&str> = here.map(|source| source.place.schema.as_str()).collect();
        let path = match schemas.first() {
            Some(only) if schemas.len() == 1 => only,
            _ if *database == spec.into.database => spec.into.schema.as_str(),
            _ => continue,
        };
        execute(session, "set the search path", &format!("SET LOCAL search_path = {}", ident(path))).await?;
    }
    Ok(())
}

/// Asks what must be true of each source before it is merged.
async fn preconditions(sources: &[Source], facts: &mut MergeFacts, sessions: &Sessions) -> Result<(), StepError> {
    for source in sources {
        for sql in &source.requires {
            let answer = first(sessions.of(&source.place.database)?, "ask for a precondition", sql).await?;
            if answer.as_deref() != Some("t") {
                let answer = answer.map_or_else(|| "nothing".to_owned(), |answer| on_one_line(&answer));
                let message = format!("what `requires` asks must be true and gives {answer}: {}", on_one_line(sql));
                facts.findings.push(Finding {
                    sources: vec![source.label.clone()],
                    ..Finding::of(Severity::Blocks, "", message)
                });
            }
        }
    }
    Ok(())
}

/// Returns the distance between two sources' ranges of keys: the plan's, or the next power of ten above every key.
async fn step(spec: &Spec, layout: &Layout, sessions: &Sessions) -> Result<Option<u64>, StepError> {
    let Some(keys) = spec.keys.as_ref().filter(|keys| keys.method == Method::Offset) else { return Ok(None) };
    let mut largest: u64 = 0;
    for table in layout.tables() {
        let Some([column]) = table.relation.primary_key() else { continue };
        let listed = keys.tables.is_empty() || keys.tables.contains(&table.name);
        let integer = table
            .relation
            .column(column)
            .is_some_and(|c| matches!(c.type_name.as_str(), "smallint" | "integer" | "bigint"));
        if !listed || !integer || !table.common.contains(column) {
            continue;
        }
        for (database, parts) in data::by_database(table) {
            let found = first(sessions.of(database)?, "look for the largest key", &overflow(&parts, column)).await?;
            largest = largest.max(found.and_then(|found| found.parse().ok()).unwrap_or_default());
        }
        if spec.existing_rows == Existing::Keep {
            let own = format!("SELECT pg_catalog.max({}) FROM {}", ident(column), data::own(spec, table));
            let found = first(sessions.of(&spec.into.database)?, "look for the largest key", &own).await?;
            largest = largest.max(found.and_then(|found| found.parse().ok()).unwrap_or_default());
        }
    }
    Ok(Some(keys.step.unwrap_or_else(|| {
        let mut step = OFFSET_STEP;
        while step <= largest {
            step = step.saturating_mul(10);
        }
        step
    })))
}

/// Counts rows on both sides, and judges those that the target holds.
async fn count(spec: &Spec, facts: &mut MergeFacts, sessions: &Sessions) -> Result<(), StepError> {
    let mut doubtful = Vec::new();
    for table in facts.layout.tables() {
        let counted = facts.rows.entry(table.name.clone()).or_default();
        for (database, parts) in data::by_database(table) {
            for (label, rows, wrong) in data::count(sessions.of(database)?, &parts).await? {
                counted.insert(label.clone(), rows);
                doubtful.extend(wrong.into_iter().map(|message| Finding {
                    sources: vec![label.clone()],
                    ..Finding::of(Severity::Blocks, &table.name, message)
                }));
            }
        }
        let sql = format!("SELECT pg_catalog.count(*) FROM {}", data::own(spec, table));
        let held = first(sessions.of(&spec.into.database)?, "count the target's rows", &sql).await?;
        if let Some(held) = held.and_then(|held| held.parse().ok()).filter(|held| *held > 0) {
            facts.held.insert(table.name.clone(), held);
        }
    }
    facts.findings.append(&mut doubtful);
    if facts.held.is_empty() || spec.existing_rows == Existing::Keep {
        return Ok(());
    }
    let total = |table: &str| facts.rows.get(table).map_or(0, |rows| rows.values().sum::<u64>());
    let same =
        facts.layout.tables().all(|table| total(&table.name) == facts.held.get(&table.name).copied().unwrap_or(0));
    let new_ids = spec.keys.as_ref().is_some_and(|keys| keys.method == Method::NewId);
    let plain = facts.layout.tables().all(|table| table.conflict == Conflict::Fail);
    if same && plain && !new_ids && !facts.layout.is_blocked() {
        facts.merged_already = content::is_same(spec, &facts.layout, sessions).await?;
    }
    if !facts.merged_already {
        let found = facts.held.iter().map(|(table, rows)| {
            let message =
                format!("the target holds {} already; empty it, or say `existing_rows: keep`", counted(*rows, "row"));
            Finding::of(Severity::Blocks, table, message)
        });
        facts.findings.extend(found);
    }
    Ok(())
}
