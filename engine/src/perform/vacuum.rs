//! VACUUM and ANALYZE: of one table, or of all of a database one by one.

use super::PerformCx;
use crate::{
    action::Output,
    error::{ErrorKind, StepError},
    op::data::{Vacuum, VacuumPart, VacuumTable},
    postgres::{
        Session,
        connect::execute,
        quote::{on_one_line, qualified},
        rows::{flag, number, rows, text},
    },
    quantity::counted,
    survey::may_vacuum,
};

/// One statement and the size of its table.
struct Item {
    sql: String,
    bytes: u64,
}

/// What is to be done, and how many tables of people are left out since the role may not vacuum them.
#[derive(Default)]
struct List {
    items: Vec<Item>,
    left_out: u64,
}

/// Vacuums a part of a database, on a session that the step's last action has left where there is one.
///
/// # Errors
/// What the server said. A table that was dropped meanwhile is passed over.
pub async fn vacuum(op: &Vacuum, cx: &PerformCx) -> Result<Output, StepError> {
    if let Some(session) = cx.idle_session(&op.database, &op.dbname) {
        let result = cx.cancellable(&[&session], Box::pin(part(op, &session, cx))).await;
        cx.leave(&op.database, &op.dbname, session, &result).await;
        match result {
            // It may have been lost while nobody used it; what was done may be done twice.
            Err(error) if error.kind == ErrorKind::Connection => tracing::debug!("an idle session was lost: {error}"),
            result => return result,
        }
    }
    let session = cx.connect(&op.database, Some(&op.dbname)).await?;
    let result = cx.cancellable(&[&session], Box::pin(part(op, &session, cx))).await;
    cx.leave(&op.database, &op.dbname, session, &result).await;
    result
}

async fn part(op: &Vacuum, session: &Session, cx: &PerformCx) -> Result<Output, StepError> {
    match &op.part {
        VacuumPart::Database => all(list(op, session, "true").await?, op, session, cx).await,
        VacuumPart::Catalogs => {
            let own = "(n.nspname ~ '^pg_' OR n.nspname = 'information_schema')";
            all(list(op, session, own).await?, op, session, cx).await
        }
        VacuumPart::Tables(tables) => {
            let sql = |table: &VacuumTable| {
                format!("VACUUM{} {}", options(op, op.analyze), qualified(&table.schema, &table.name))
            };
            if let [table] = tables.as_slice() {
                return one(&sql(table), op, (&table.schema, &table.name), session).await;
            }
            let items = tables.iter().map(|table| Item { sql: sql(table), bytes: table.bytes }).collect();
            all(List { items, left_out: 0 }, op, session, cx).await
        }
        VacuumPart::Partitioned { schema, name } => {
            one(&analyze_parent(session.server_version_num(), &qualified(schema, name)), op, (schema, name), session)
                .await
        }
    }
}

async fn one(sql: &str, op: &Vacuum, (schema, name): (&str, &str), session: &Session) -> Result<Output, StepError> {
    let shown = format!("{} in {}", on_one_line(&format!("{schema}.{name}")), on_one_line(&op.dbname));
    let mut output = Output::said(match run(session, sql).await? {
        true => shown,
        false => format!("{shown} was dropped meanwhile"),
    });
    output.warnings = warnings(session);
    Ok(output)
}

/// Works off a list.
async fn all(list: List, op: &Vacuum, session: &Session, cx: &PerformCx) -> Result<Output, StepError> {
    let total = list.items.iter().map(|item| item.bytes).sum();
    let mut output = Output::default();
    if list.left_out > 0 {
        let (tables, are) = (counted(list.left_out, "table"), if list.left_out == 1 { "is" } else { "are" });
        let dbname = on_one_line(&op.dbname);
        output.warnings.push(format!("{tables} of {dbname} {are} left out: the role may not vacuum"));
    }
    let (mut done, mut tables) = (0, 0);
    for item in &list.items {
        if cx.cancel.is_cancelled() {
            return Err(StepError::new(ErrorKind::Interrupted, "stopped"));
        }
        tables += u64::from(run(session, &item.sql).await?);
        done += item.bytes;
        cx.progress.report(done, 0, Some(total));
        output.warnings.extend(warnings(session));
    }
    output.summary = match op.part {
        VacuumPart::Catalogs => format!("{} of the server in {}", counted(tables, "table"), on_one_line(&op.dbname)),
        _ => counted(tables, "table"),
    };
    output.bytes = Some(total);
    Ok(output)
}

/// Runs a statement; false when its table is not there any more.
async fn run(session: &Session, sql: &str) -> Result<bool, StepError> {
    match execute(session, "vacuum a table", sql).await {
        Ok(()) => Ok(true),
        // undefined_table, invalid_schema_name
        Err(error) if matches!(error.sqlstate.as_deref(), Some("42P01" | "3F000")) => Ok(false),
        Err(error) => Err(error.detail(format!("statement: {sql}"))),
    }
}

fn warnings(session: &Session) -> Vec<String> {
    let said = session.take_notices().into_iter();
    said.filter(|notice| notice.severity == "WARNING").map(|notice| notice.message).collect()
}

/// Lists what is to be done in the schemas `n` of this condition, the biggest table first.
async fn list(op: &Vacuum, session: &Session, schemas: &str) -> Result<List, StepError> {
    let version = session.server_version_num();
    let partition = if version >= 100_000 { "c.relispartition" } else { "false" };
    let may_vacuum = may_vacuum(version);
    // Sessions that rewrite catalogs at the same time end in deadlocks.
    let catalogs = if op.full { "AND n.nspname <> 'pg_catalog'" } else { "" };
    let sql = format!(
        "SELECT n.nspname, c.relname, c.relkind, {partition}, \
                CASE WHEN c.relkind = 'p' THEN 0 ELSE c.relpages::bigint * current_setting('block_size')::bigint END, \
                {may_vacuum}, n.nspname ~ '^pg_' OR n.nspname = 'information_schema' \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't' AND n.nspname <> 'pgplan' AND {schemas} {catalogs} \
         ORDER BY 5 DESC, 1, 2"
    );
    let mut list = List::default();
    let mut parents = Vec::new();
    for row in &rows(session, "list the tables", &sql).await? {
        if !flag(row, 5) {
            // That the catalogs belong to another role is no news.
            list.left_out += u64::from(!flag(row, 6));
            continue;
        }
        let name = qualified(text(row, 0), text(row, 1));
        let (relkind, partition) = (text(row, 2), flag(row, 3));
        // Before 18, ANALYZE of the topmost parent does all partitions below it.
        let with_parent = partition && version < 180_000;
        if relkind == "p" {
            if op.analyze && !with_parent {
                parents.push(Item { sql: analyze_parent(version, &name), bytes: 0 });
            }
            continue;
        }
        let bytes = number(row, 4).unwrap_or_default();
        list.items.push(Item { sql: format!("VACUUM{} {name}", options(op, op.analyze && !with_parent)), bytes });
    }
    // After their partitions, whose sizes are then known.
    list.items.extend(parents);
    Ok(list)
}

fn analyze_parent(version: u32, name: &str) -> String {
    format!("ANALYZE{} {name}", if version >= 180_000 { " ONLY" } else { "" })
}

fn options(op: &Vacuum, analyze: bool) -> String {
    let chosen = [(op.full, "FULL"), (op.freeze, "FREEZE"), (analyze, "ANALYZE")];
    let chosen: Vec<&str> = chosen.iter().filter(|(on, _)| *on).map(|(_, option)| *option).collect();
    if chosen.is_empty() { String::new() } else { format!(" ({})", chosen.join(", ")) }
}
