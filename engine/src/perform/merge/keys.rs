//! New keys for the rows of a table: a map from each source's key to the target's.

use super::{Sessions, exactly_once};
use crate::{
    action::Output,
    error::StepError,
    op::merge::{MapKeys, map_of},
    perform::PerformCx,
    postgres::{
        connect::execute,
        copy::pipe,
        quote::{ident, literal, qualified},
        rows::first,
    },
    quantity::counted,
};

/// Gives every row of the sources its new key; what its receipt says is done already is not done again.
///
/// # Errors
/// What the server said.
pub async fn map_keys(op: &MapKeys, cx: &PerformCx) -> Result<Output, StepError> {
    let sessions = Sessions::open(cx, &op.into, op.parts.iter()).await?;
    let work = exactly_once(cx, &sessions.target, op, async || in_transaction(op, &sessions).await);
    let done = cx.cancellable(&sessions.all(), Box::pin(work)).await;
    sessions.close().await;
    done
}

async fn in_transaction(op: &MapKeys, sessions: &Sessions) -> Result<Output, StepError> {
    let target = &sessions.target;
    let (map, column) = (map_of(&op.table), ident(&op.column));
    let own = qualified(&op.into.schema, &op.table);
    let sql = format!(
        "CREATE TABLE {map} AS SELECT ''::pg_catalog.text AS source, {column} AS old, {column} AS new FROM {own} WITH NO DATA"
    );
    execute(target, "make the map of keys", &sql).await?;
    for part in &op.parts {
        let columns = std::slice::from_ref(&op.column);
        let select = if sessions.is_local(part) {
            part.select(columns)
        } else {
            let stage = "pg_temp.pgplan_keys";
            let sql = format!(
                "DROP TABLE IF EXISTS {stage}; \
                 CREATE TEMPORARY TABLE pgplan_keys ON COMMIT DROP AS SELECT {column} FROM {own} WITH NO DATA"
            );
            execute(target, "make a place for keys", &sql).await?;
            let out = format!("COPY ({}) TO STDOUT", part.select(columns));
            pipe(sessions.reader(part)?, &out, target, &format!("COPY {stage} FROM STDIN")).await?;
            format!("SELECT {column} FROM {stage}")
        };
        let sql = format!(
            "INSERT INTO {map} SELECT {}, r.{column}, {} FROM ({select}) r ORDER BY r.{column}",
            literal(&part.label),
            op.next
        );
        execute(target, "give new keys", &sql).await.map_err(|error| error.detail(format!("source {}", part.label)))?;
    }
    let sql = format!("CREATE UNIQUE INDEX ON {map} (source, old); CREATE UNIQUE INDEX ON {map} (new); ANALYZE {map}");
    execute(target, "index the map of keys", &sql).await?;
    let count = first(target, "count the keys", &format!("SELECT pg_catalog.count(*) FROM {map}")).await?;
    let keys: u64 = count.and_then(|count| count.parse().ok()).unwrap_or_default();
    let mut output = Output::said(counted(keys, "new key"));
    output.rows = Some(keys);
    Ok(output)
}
