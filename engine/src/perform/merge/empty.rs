//! Taking a merge back: tables that were empty before it are emptied again.

use secrecy::ExposeSecret as _;

use super::{Filled, Sessions, exactly_once, receipts_of_tables};
use crate::{
    action::Output,
    error::{ErrorKind, StepError},
    op::merge::EmptyTables,
    perform::PerformCx,
    postgres::{
        connect::execute,
        quote::{on_one_line, qualified},
        rows::count,
    },
    quantity::counted,
    receipt,
};

/// Empties the tables when they hold just as many rows as the merge put in; exactly once, as its receipt tells when
/// pgplan ended before the journal knew.
///
/// # Errors
/// What the server said; [`ErrorKind::Refused`] when a table holds other rows, too.
pub async fn empty(op: &EmptyTables, cx: &PerformCx) -> Result<Output, StepError> {
    let sessions = Sessions::open(cx, &op.into, std::iter::empty()).await?;
    let work = exactly_once(cx, &sessions.target, op, || in_transaction(op, cx, &sessions));
    let done = cx.cancellable(&sessions.all(), Box::pin(work)).await;
    sessions.close().await;
    done
}

async fn in_transaction(op: &EmptyTables, cx: &PerformCx, sessions: &Sessions) -> Result<Output, StepError> {
    let session = &sessions.target;
    let receipts = receipt::all(session, &cx.run_id, &receipts_of_tables(cx, &op.own)).await?;
    for sql in &op.first {
        execute(session, "take the mark of completion back", cx.reveal(sql)?.expose_secret()).await?;
    }
    let mut gone = 0;
    for (table, expected) in &op.tables {
        let name = qualified(&op.into.schema, table);
        execute(session, "lock the table", &format!("LOCK TABLE {name} IN SHARE ROW EXCLUSIVE MODE")).await?;
        let held = count(session, "count the rows", &format!("SELECT pg_catalog.count(*) FROM {name}")).await?;
        let mut merged: Vec<Filled> = Vec::new();
        for receipt in &receipts {
            merged.extend(receipt.output(table)?);
        }
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
