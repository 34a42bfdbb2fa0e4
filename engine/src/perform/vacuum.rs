//! VACUUM and ANALYZE, table by table, by several sessions at once.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

use tokio::task::JoinSet;

use super::PerformCx;
use crate::{
    action::Output,
    error::{ErrorKind, StepError},
    op::data::Vacuum,
    postgres::{
        Session,
        connect::execute,
        quote::qualified,
        rows::{flag, number, rows, text},
    },
};

/// One statement and the size of its table.
struct Item {
    sql: String,
    bytes: u64,
}

/// What the sessions share.
struct Queue {
    items: Vec<Item>,
    next: AtomicUsize,
    done: AtomicU64,
    total: u64,
}

/// Vacuums a database, the biggest tables first.
///
/// Outputs: `tables`, how many were taken.
///
/// # Errors
/// What the server said. A table that was dropped meanwhile is passed over.
pub async fn vacuum(op: &Vacuum, cx: &PerformCx) -> Result<Output, StepError> {
    let session = cx.connect(&op.database, Some(&op.dbname)).await?;
    let listed = cx.cancellable(&[&session], list(op, &session)).await;
    session.close().await;
    let items = listed?;
    let tables = items.len();
    let total = items.iter().map(|item| item.bytes).sum();
    let queue = Arc::new(Queue { items, next: AtomicUsize::new(0), done: AtomicU64::new(0), total });
    let mut workers = JoinSet::new();
    for _ in 0..op.jobs.clamp(1, tables.max(1)) {
        let (cx, queue, database, dbname) = (cx.clone(), Arc::clone(&queue), op.database.clone(), op.dbname.clone());
        workers.spawn(async move { work(&cx, &queue, &database, &dbname).await });
    }
    let mut warnings = Vec::new();
    let mut failed = None;
    while let Some(worker) = workers.join_next().await {
        let result = worker
            .map_err(|error| StepError::new(ErrorKind::Internal, format!("a session's task ended early: {error}")));
        match result.and_then(|result| result) {
            Ok(more) => warnings.extend(more),
            Err(error) => {
                // The others end after their current table.
                queue.next.store(usize::MAX / 2, Ordering::Relaxed);
                failed = failed.or(Some(error));
            }
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    let mut output = Output::said(format!("{tables} tables")).with("tables", tables as u64);
    output.bytes = Some(total);
    output.warnings = warnings;
    Ok(output)
}

/// Takes statements until there are none; returns what the server warned of.
async fn work(cx: &PerformCx, queue: &Queue, database: &str, dbname: &str) -> Result<Vec<String>, StepError> {
    let session = cx.connect(database, Some(dbname)).await?;
    let all = async {
        let mut warnings = Vec::new();
        // As many sessions take from the list as there are jobs, so nothing waits for a big table but itself.
        while let Some(item) = queue.items.get(queue.next.fetch_add(1, Ordering::Relaxed)) {
            if cx.cancel.is_cancelled() {
                return Err(StepError::new(ErrorKind::Interrupted, "stopped"));
            }
            match execute(&session, "vacuum a table", &item.sql).await {
                Ok(()) => {}
                Err(error) if error.sqlstate.as_deref() == Some("42P01") => {}
                Err(error) => return Err(error.detail(format!("statement: {}", item.sql))),
            }
            let done = queue.done.fetch_add(item.bytes, Ordering::Relaxed) + item.bytes;
            cx.progress.report(done, 0, Some(queue.total));
            let said = session.take_notices();
            warnings
                .extend(said.into_iter().filter(|notice| notice.severity == "WARNING").map(|notice| notice.message));
        }
        Ok(warnings)
    };
    let done = cx.cancellable(&[&session], Box::pin(all)).await;
    session.close().await;
    done
}

/// Lists what is to be done, the biggest table first.
async fn list(op: &Vacuum, session: &Session) -> Result<Vec<Item>, StepError> {
    let version = session.server_version_num();
    let partition = if version >= 100_000 { "c.relispartition" } else { "false" };
    // What a role that owns neither table nor database may not vacuum would only give warnings.
    let maintain = if version >= 170_000 { "OR has_table_privilege(c.oid, 'MAINTAIN')" } else { "" };
    // Sessions that rewrite catalogs at the same time end in deadlocks.
    let catalogs = if op.full { "AND n.nspname <> 'pg_catalog'" } else { "" };
    let sql = format!(
        "SELECT n.nspname, c.relname, c.relkind, {partition}, \
                CASE WHEN c.relkind = 'p' THEN 0 ELSE c.relpages::bigint * current_setting('block_size')::bigint END \
         FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't' AND n.nspname <> 'pgplan' {catalogs} \
           AND (pg_has_role(c.relowner, 'USAGE') {maintain} OR NOT c.relisshared AND \
                (SELECT pg_has_role(datdba, 'USAGE') FROM pg_catalog.pg_database WHERE datname = current_database())) \
         ORDER BY 5 DESC, 1, 2"
    );
    let found = rows(session, "list the tables", &sql).await?;
    let mut items = Vec::new();
    let mut parents = Vec::new();
    for row in &found {
        let name = qualified(text(row, 0), text(row, 1));
        let (relkind, partition) = (text(row, 2), flag(row, 3));
        if relkind == "p" {
            if op.analyze {
                parents.extend(analyze_parent(version, &name, partition));
            }
            continue;
        }
        // Before 18, ANALYZE of the topmost parent does all partitions below it.
        let analyze = op.analyze && !(partition && version < 180_000);
        let bytes = number(row, 4).unwrap_or_default();
        items.push(Item { sql: format!("VACUUM{} {name}", options(op, analyze)), bytes });
    }
    // After the tables themselves: with those that are big, a parent would be in their way.
    items.extend(parents);
    Ok(items)
}

fn analyze_parent(version: u32, name: &str, is_partition: bool) -> Option<Item> {
    if version >= 180_000 {
        return Some(Item { sql: format!("ANALYZE ONLY {name}"), bytes: 0 });
    }
    (!is_partition).then(|| Item { sql: format!("ANALYZE {name}"), bytes: 0 })
}

fn options(op: &Vacuum, analyze: bool) -> String {
    let chosen = [(op.full, "FULL"), (op.freeze, "FREEZE"), (analyze, "ANALYZE")];
    let chosen: Vec<&str> = chosen.iter().filter(|(on, _)| *on).map(|(_, option)| *option).collect();
    if chosen.is_empty() { String::new() } else { format!(" ({})", chosen.join(", ")) }
}
