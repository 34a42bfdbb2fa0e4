//! Taking a merge back: tables that were empty before it are emptied again.

use secrecy::ExposeSecret as _;

use super::{Filled, Sessions, item_prefix, receipt_name};
use crate::{
    action::Output,
    error::{ErrorKind, StepError},
    op::merge::EmptyTables,
    perform::PerformCx,
    postgres::{
        connect::execute,
        quote::{on_one_line, qualified},
        rows::first,
    },
    quantity::counted,
    receipt::{self, Receipt},
};

/// Empties the tables when they hold just as many rows as the merge put in.
///
/// # Errors
/// What the server said; [`ErrorKind::Refused`] when a table holds other rows, too.
pub async fn empty(op: &EmptyTables, cx: &PerformCx) -> Result<Output, StepError> {
    let sessions = Sessions::open(cx, &op.into, std::iter::empty()).await?;
    let done = cx.cancellable(&sessions.all(), Box::pin(in_transaction(op, cx, &sessions))).await;
    sessions.close().await;
    done
}

async fn in_transaction(op: &EmptyTables, cx: &PerformCx, sessions: &Sessions) -> Result<Output, StepError> {
    let session = &sessions.target;
    let receipts = receipt::all(session, &cx.run_id, &receipt_name(cx, item_prefix(cx, &op.own))).await?;
    execute(session, "begin", "BEGIN").await?;
    for sql in &op.first {
        execute(session, "take the mark of completion back", cx.reveal(sql)?.expose_secret()).await?;
    }
    let mut gone = 0;
    for (table, expected) in &op.tables {
        let name = qualified(&op.into.schema, table);
        execute(session, "lock the table", &format!("LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE")).await?;
        let held = first(session, "count the rows", &format!("SELECT pg_catalog.count(*) FROM {name}")).await?;
        let held: u64 = held.and_then(|held| held.parse().ok()).unwrap_or_default();
        let merged: Vec<Filled> = receipts.iter().filter_map(|receipt: &Receipt| receipt.output(table)).collect();
        // When a run has ended well, its receipts are dropped.
        let merged = match (merged.is_empty(), expected) {
            (true, _) if held == 0 => 0,
            (true, Some(expected)) => *expected,
            (true, None) => return Err(unknown(table, held)),
            (false, _) => merged.into_iter().flat_map(|filled| filled.rows.into_values()).sum(),
        };
        if held != merged {
            let (name, held, merged) = (on_one_line(table), counted(held, "row"), counted(merged, "row"));
            let message = format!("{name} holds {held}, and {merged} came by the merge");
            return Err(StepError::new(ErrorKind::Refused, message)
                .help("somebody has written into it since; save those rows and empty the table by hand"));
        }
        gone += merged;
    }
    // In one statement: tables may refer to each other in a circle.
    if let Some((last, others)) = op.tables.split_last() {
        let delete = |(table, _): &(String, Option<u64>)| format!("DELETE FROM {}", qualified(&op.into.schema, table));
        let others = others.iter().enumerate().map(|(at, table)| format!("d{at} AS ({})", delete(table)));
        let with = others.collect::<Vec<_>>().join(", ");
        let with = if with.is_empty() { String::new() } else { format!("WITH {with} ") };
        execute(session, "empty the tables", &format!("{with}{}", delete(last))).await?;
    }
    execute(session, "commit", "COMMIT").await?;
    let mut output = Output::said(format!("{} taken out again", counted(gone, "row")));
    output.rows = Some(gone);
    Ok(output)
}

fn unknown(table: &str, held: u64) -> StepError {
    let message = format!(
        "{} holds {}, and how many came by the merge is not recorded any more",
        on_one_line(table),
        counted(held, "row")
    );
    StepError::new(ErrorKind::Refused, message).help("empty the table by hand when none of its rows is needed")
}
