//! Rows on their way from the sources into the target's tables.

use std::collections::BTreeMap;

use tokio_postgres::SimpleQueryMessage;

use super::{Filled, Sessions, exactly_once, outputs_of};
use crate::{
    action::Output,
    digest::Rows,
    error::{ErrorKind, StepError},
    merge::{Conflict, Part},
    op::merge::{FillTable, FillTables, map_of},
    perform::PerformCx,
    postgres::{
        Session,
        connect::execute,
        copy::{digest, pipe},
        quote::{ident, ident_list, literal, on_one_line, qualified},
        rows::{first, number, rows},
    },
    quantity::counted,
};

/// Where rows of another database wait for what becomes of them.
const STAGE: &str = "pg_temp.pgplan_stage";

/// Fills tables in one transaction; what its receipt says is done already is not done again.
///
/// Outputs: for every table `rows` by source, and the digests that the proof needs.
///
/// # Errors
/// What the server said, with table and source; [`ErrorKind::Verification`] for rows of one key that differ and for
/// references that lead nowhere.
pub async fn fill(op: &FillTables, cx: &PerformCx) -> Result<Output, StepError> {
    let sessions = Sessions::open(cx, &op.into, op.tables.iter().flat_map(|table| &table.parts)).await?;
    let work = exactly_once(cx, &sessions.target, op, async || in_transaction(op, cx, &sessions).await);
    let done = cx.cancellable(&sessions.all(), Box::pin(work)).await;
    sessions.close().await;
    done
}

async fn in_transaction(op: &FillTables, cx: &PerformCx, sessions: &Sessions) -> Result<Output, StepError> {
    let session = &sessions.target;
    if !op.triggers {
        switch(session, op, false).await?;
    }
    defer(session, op).await?;
    let mut filled = BTreeMap::new();
    let mut total = 0;
    for table in &op.tables {
        let done = fill_table(op, table, cx, sessions, &mut total).await?;
        filled.insert(table.name.clone(), done);
    }
    // A table with pending checks cannot be altered.
    execute(session, "check the foreign keys", "SET CONSTRAINTS ALL IMMEDIATE").await?;
    for (table, constraint, _) in op.deferred.iter().filter(|(_, _, deferrable)| !deferrable) {
        alter_constraint(session, op, table, constraint, "NOT DEFERRABLE").await?;
    }
    if !op.triggers {
        switch(session, op, true).await?;
    }
    let sources: u64 =
        filled.values().map(|table| table.rows.values().filter(|rows| **rows > 0).count() as u64).max().unwrap_or(0);
    let summary = format!("{} from {}", counted(total, "row"), counted(sources, "source"));
    Ok(Output { outputs: outputs_of(&filled)?, summary, rows: Some(total), ..Output::default() })
}

/// Turns triggers and rules off, or on again as they were; nobody else sees it before the commit.
async fn switch(session: &Session, op: &FillTables, on: bool) -> Result<(), StepError> {
    for table in &op.tables {
        let name = qualified(&op.into.schema, &table.name);
        for (kind, list) in [("TRIGGER", &table.triggers), ("RULE", &table.rules)] {
            for (object, state) in list {
                let how = match (on, state) {
                    (_, 'D') => continue,
                    (false, _) => "DISABLE",
                    (true, 'R') => "ENABLE REPLICA",
                    (true, 'A') => "ENABLE ALWAYS",
                    (true, _) => "ENABLE",
                };
                let sql = format!("ALTER TABLE {name} {how} {kind} {}", ident(object));
                execute(session, "switch triggers", &sql).await?;
            }
        }
    }
    Ok(())
}

/// Lets foreign keys that lead around in a circle be checked at the end.
async fn defer(session: &Session, op: &FillTables) -> Result<(), StepError> {
    for (table, constraint, _) in op.deferred.iter().filter(|(_, _, deferrable)| !deferrable) {
        alter_constraint(session, op, table, constraint, "DEFERRABLE").await?;
    }
    if op.deferred.is_empty() {
        return Ok(());
    }
    let names = op.deferred.iter().map(|(_, constraint, _)| qualified(&op.into.schema, constraint));
    let sql = format!("SET CONSTRAINTS {} DEFERRED", names.collect::<Vec<_>>().join(", "));
    execute(session, "defer the foreign keys", &sql).await
}

async fn alter_constraint(
    session: &Session,
    op: &FillTables,
    table: &str,
    constraint: &str,
    how: &str,
) -> Result<(), StepError> {
    let table = qualified(&op.into.schema, table);
    let sql = format!("ALTER TABLE {table} ALTER CONSTRAINT {} {how}", ident(constraint));
    execute(session, "defer a foreign key", &sql).await
}

async fn fill_table(
    op: &FillTables,
    table: &FillTable,
    cx: &PerformCx,
    sessions: &Sessions,
    total: &mut u64,
) -> Result<Filled, StepError> {
    let schema = &op.into.schema;
    let target = &sessions.target;
    let mut filled = Filled::default();
    let own = qualified(schema, &table.name);
    let held = first(target, "look into the table", &format!("SELECT EXISTS (SELECT FROM {own})")).await?;
    if held.as_deref() == Some("t") && !table.columns.is_empty() {
        filled.before = Some(digest(target, &format!("COPY ({}) TO STDOUT", table.select(schema))).await?);
    }
    let counts = table.conflict != Conflict::Fail;
    for part in &table.parts {
        if cx.cancel.is_cancelled() {
            return Err(StepError::new(ErrorKind::Interrupted, "stopped"));
        }
        let told = |error: StepError| {
            error.detail(format!("table {}, source {}", on_one_line(&table.name), on_one_line(&part.label)))
        };
        let mapped = part.filled.iter().any(|filled| filled.mapped.is_some());
        let rows = if !sessions.is_local(part) && !counts && !mapped {
            bring(sessions.reader(part)?, target, part, &own).await.map_err(told)?
        } else {
            let select = stage(table, part, sessions, &own).await.map_err(told)?;
            nowhere(target, table, part, &select).await.map_err(told)?;
            if counts {
                let (inserted, given) = with_conflicts(target, table, part, schema, &select).await.map_err(told)?;
                *filled.inserted.get_or_insert_default() += inserted;
                *filled.sources.get_or_insert_default() += given;
                inserted.rows
            } else {
                insert(target, &table.insert(schema, part, &select, false)).await.map_err(told)?
            }
        };
        filled.rows.insert(part.label.clone(), rows);
        *total += rows;
        cx.progress.report(0, *total, None);
    }
    Ok(filled)
}

/// Returns the query for a part's rows in the target's session; rows of another database are brought there first.
async fn stage(table: &FillTable, part: &Part, sessions: &Sessions, own: &str) -> Result<String, StepError> {
    let columns = part.columns();
    if sessions.is_local(part) {
        return Ok(part.select(&columns));
    }
    let target = &sessions.target;
    let list = ident_list(&columns);
    let sql = format!(
        "DROP TABLE IF EXISTS {STAGE}; CREATE TEMPORARY TABLE {} ON COMMIT DROP AS SELECT {list} FROM {own} WITH NO DATA",
        STAGE.trim_start_matches("pg_temp.")
    );
    execute(target, &format!("make a place for rows of {}", table.name), &sql).await?;
    bring(sessions.reader(part)?, target, part, STAGE).await?;
    Ok(format!("SELECT {list} FROM {STAGE} s"))
}

/// Sends a part's rows from their database into a table of the target.
async fn bring(from: &Session, to: &Session, part: &Part, into: &str) -> Result<u64, StepError> {
    let columns = part.columns();
    let out = format!("COPY ({}) TO STDOUT", part.select(&columns));
    pipe(from, &out, to, &format!("COPY {into} ({}) FROM STDIN", ident_list(&columns))).await
}

async fn insert(session: &Session, sql: &str) -> Result<u64, StepError> {
    let messages = session.client().simple_query(sql).await;
    let messages =
        messages.map_err(|error| session.error("put rows in", &error).detail(format!("statement: {sql}")))?;
    let count = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::CommandComplete(count) => Some(*count),
        _ => None,
    });
    Ok(count.unwrap_or_default())
}

/// Puts in what has no equal key yet; returns what was put in and what the source has.
async fn with_conflicts(
    session: &Session,
    table: &FillTable,
    part: &Part,
    schema: &str,
    select: &str,
) -> Result<(Rows, Rows), StepError> {
    let common = ident_list(&table.columns);
    let given = digest(session, &format!("COPY (SELECT {common} FROM ({select}) r) TO STDOUT")).await?;
    let inserted = digest(session, &format!("COPY ({}) TO STDOUT", table.insert(schema, part, select, true))).await?;
    if table.conflict == Conflict::SkipIdentical && inserted.rows != given.rows {
        let same = |column: &String| format!("t.{0} = r.{0}", ident(column));
        let on = table.key.iter().map(same).collect::<Vec<_>>().join(" AND ");
        let list =
            |alias: &str| table.columns.iter().map(|c| format!("{alias}.{}", ident(c))).collect::<Vec<_>>().join(", ");
        let sql = format!(
            "SELECT pg_catalog.count(*) FROM ({select}) r LEFT JOIN {} t ON {on} \
             WHERE ROW({})::pg_catalog.text IS DISTINCT FROM ROW({})::pg_catalog.text",
            qualified(schema, &table.name),
            list("r"),
            list("t")
        );
        let differ = first(session, "compare rows of one key", &sql).await?;
        let differ: u64 = differ.and_then(|text| text.parse().ok()).unwrap_or_default();
        if differ > 0 {
            let message = format!("{} with the key of another row and other values", counted(differ, "row"));
            return Err(StepError::new(ErrorKind::Verification, message)
                .help("make the rows the same, or say `on_conflict: keep` for this table; nothing of it was merged"));
        }
    }
    Ok((inserted, given))
}

/// Refuses references through a map of new keys that lead nowhere: they would become null.
async fn nowhere(session: &Session, table: &FillTable, part: &Part, select: &str) -> Result<(), StepError> {
    for filled in &part.filled {
        let Some(to) = &filled.mapped else { continue };
        let column = ident(&filled.column);
        let sql = format!(
            "SELECT pg_catalog.count(*), pg_catalog.min(r.{column}::pg_catalog.text) FROM ({select}) r \
             WHERE r.{column} IS NOT NULL AND NOT EXISTS \
             (SELECT FROM {} m WHERE m.source = {} AND m.old = r.{column})",
            map_of(to),
            literal(&part.label)
        );
        let found = rows(session, "look for references that lead nowhere", &sql).await?;
        let count = found.first().and_then(|row| number(row, 0)).unwrap_or_default();
        if count > 0 {
            let example = found.first().and_then(|row| row.get(1)).unwrap_or_default();
            let message = format!(
                "{} of column {} to a key of {to} that is not there, for example {example}",
                counted(count, "reference"),
                on_one_line(&filled.column)
            );
            let help = "mend the references in the source, or leave the column out of `keys.references`";
            return Err(StepError::new(ErrorKind::Verification, message)
                .detail(format!("table {}", table.name))
                .help(help));
        }
    }
    Ok(())
}
