//! The proof that nobody writes, and what becomes of it.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::{Instant, sleep};

use super::{
    Me, blame,
    counters::{Sample, sample},
    go_on,
    sessions::{Seen, end_seen, seen},
};
use crate::{
    error::{ErrorKind, StepError},
    op::fence::{FenceOp, Quiet},
    perform::PerformCx,
    postgres::{
        Session,
        quote::{literal, on_one_line},
        rows::{rows, text},
    },
};

/// How often sessions are looked at during the window: one that connects, writes and goes takes a few milliseconds.
const POLL: Duration = Duration::from_millis(5);
/// How long a server may take to count what an ended session has done.
const SETTLE: Duration = Duration::from_secs(1);
/// How many windows are tried: a pool that meets closed doors for the first time is not blamed for knocking.
const ROUNDS: u32 = 3;

/// Quiet, proved.
pub(super) struct Proved {
    pub(super) quiet: Quiet,
    pub(super) notes: Vec<String>,
}

/// What has moved since quiet was proved.
#[derive(Debug, Default)]
pub(super) struct Moved {
    /// What must not.
    pub(super) changes: Vec<String>,
    /// What need not mean anything.
    pub(super) notes: Vec<String>,
}

/// Refuses what writes without a session that could be ended: prepared transactions and subscriptions.
pub(super) async fn refuse_standing_writers(session: &Session, names: &[&str]) -> Result<(), StepError> {
    let lines = standing_writers(session, names).await?;
    if lines.is_empty() {
        return Ok(());
    }
    let error =
        StepError::new(ErrorKind::Verification, "quiet cannot be proved: changes are pending or come from elsewhere");
    Err(blame(error, lines).help(
        "commit or roll back prepared transactions (COMMIT PREPARED, ROLLBACK PREPARED), and disable subscriptions \
         (ALTER SUBSCRIPTION … DISABLE), then apply again",
    ))
}

async fn standing_writers(session: &Session, names: &[&str]) -> Result<Vec<String>, StepError> {
    let list: Vec<String> = names.iter().map(|name| literal(name)).collect();
    let list = list.join(", ");
    let sql = format!(
        "SELECT gid, owner, database, to_char(prepared, 'YYYY-MM-DD HH24:MI:SS') FROM pg_catalog.pg_prepared_xacts \
         WHERE database IN ({list}) ORDER BY 1"
    );
    let prepared = rows(session, "list the prepared transactions", &sql).await?;
    let mut lines: Vec<String> = prepared
        .iter()
        .map(|row| {
            let (gid, owner, database, since) = (text(row, 0), text(row, 1), text(row, 2), text(row, 3));
            on_one_line(&format!("prepared transaction {gid} of role {owner} in {database}, since {since}"))
        })
        .collect();
    if session.server_version_num() >= 100_000 {
        let sql = format!(
            "SELECT s.subname, d.datname FROM pg_catalog.pg_subscription s \
             JOIN pg_catalog.pg_database d ON d.oid = s.subdbid \
             WHERE s.subenabled AND d.datname IN ({list}) ORDER BY 1, 2"
        );
        let subscriptions = rows(session, "list the subscriptions", &sql).await?;
        lines.extend(subscriptions.iter().map(|row| {
            on_one_line(&format!("subscription {} in {} brings changes from elsewhere", text(row, 0), text(row, 1)))
        }));
    }
    Ok(lines)
}

/// Proves that nobody writes during a window; sessions that come meanwhile are ended, and another window is tried.
pub(super) async fn prove(
    op: &FenceOp,
    names: &[&str],
    me: &Me,
    cx: &PerformCx,
    session: &Session,
) -> Result<Proved, StepError> {
    sleep(SETTLE).await;
    let mut lines = Vec::new();
    // Who was seen in an earlier window is to blame for what a later one counts.
    let mut known: BTreeMap<String, Seen> = BTreeMap::new();
    for round in 1..=ROUNDS {
        let first = sample(&op.database, names, cx, session).await?;
        let mut who: BTreeMap<u64, Seen> = BTreeMap::new();
        let until = Instant::now() + Duration::from_millis(op.window_ms);
        while Instant::now() < until {
            go_on(cx)?;
            who.extend(seen(op, names, me, session).await?.into_iter().map(|seen| (seen.pid, seen)));
            sleep(POLL).await;
        }
        let last = sample(&op.database, names, cx, session).await?;
        let mut pending = standing_writers(session, names).await?;
        let who = end_seen(who.into_values().collect(), session).await?;
        let judged = judge(op, &first, &last);
        if who.is_empty() && pending.is_empty() && judged.changes.is_empty() {
            let wal_bytes = position(&last.quiet.lsn).saturating_sub(position(&first.quiet.lsn));
            let quiet = Quiet { window_ms: op.window_ms, wal_bytes, whole: op.whole, ..last.quiet };
            return Ok(Proved { quiet, notes: judged.notes });
        }
        known.extend(who.into_iter().map(|seen| (seen.whose(), seen)));
        lines = known.values().map(Seen::blame).collect();
        lines.append(&mut pending);
        if lines.is_empty() {
            lines.push(
                "nobody was seen: who wrote came and went between two looks, or takes the role and the name of pgplan's \
                 sessions"
                    .to_owned(),
            );
        }
        lines.extend(judged.changes);
        cx.progress.line(format!("not quiet in window {round} of {ROUNDS}: {}", lines[0]));
    }
    let message = match lines.len() {
        1 => format!("quiet cannot be proved: {}", lines[0]),
        count => format!("quiet cannot be proved, for {count} reasons: {}; …", lines[0]),
    };
    Err(blame(StepError::new(ErrorKind::Verification, message), lines).help(
        "stop the writers named above, or let sessions that only read stay with `allow`, then apply again; superusers \
         and pgplan's own role cannot be kept out",
    ))
}

/// Judges two samples from the begin and the end of a window.
fn judge(op: &FenceOp, first: &Sample, last: &Sample) -> Moved {
    let mut moved = Moved::default();
    let name = |table: &str| on_one_line(table);
    for ((database, table), now) in &last.tables {
        let before = first.tables.get(&(database.clone(), table.clone())).copied().unwrap_or_default();
        if *now == before || database.is_empty() && !op.whole {
            continue;
        }
        let place = if database.is_empty() { "all databases".to_owned() } else { name(database) };
        moved.changes.push(match now.checked_sub(before) {
            Some(more) => format!("{} of {place}: {more} rows changed", name(table)),
            None => format!("{} of {place}: its counters went back", name(table)),
        });
    }
    for (database, now) in &last.quiet.databases {
        let before = first.quiet.databases.get(database);
        if before.is_some_and(|before| before.sequences != now.sequences) {
            moved.changes.push(format!("sequences of {} moved", name(database)));
        }
    }
    let uncounted = last.uncounted.iter();
    moved
        .changes
        .extend(uncounted.map(|database| format!("`track_counts` is off in {}: nothing is counted", name(database))));
    let used = last.quiet.xid.saturating_sub(first.quiet.xid);
    if used > 0 && moved.changes.is_empty() {
        let maintained =
            |sample: &Sample| sample.quiet.databases.values().map(|counters| counters.maintained).sum::<u64>();
        if maintained(first) != maintained(last) {
            moved.notes.push(format!("{used} transaction ids were used while tables were vacuumed and analyzed"));
        } else if op.whole {
            moved
                .changes
                .push(format!("{used} transaction ids were used, and nobody was seen: a writer that came and went"));
        } else {
            moved.notes.push(format!("{used} transaction ids were used, by databases that are not fenced"));
        }
    }
    moved
}

/// Reads the counters as they are now, for a comparison with a proof.
pub(super) async fn look(quiet: &Quiet, names: &[&str], cx: &PerformCx, session: &Session) -> Result<Quiet, StepError> {
    let now = sample(&quiet.database, names, cx, session).await?;
    Ok(now.quiet)
}

/// Returns what has moved between a proof and a later look.
pub(super) fn moved(then: &Quiet, now: &Quiet) -> Moved {
    let mut moved = Moved::default();
    for (database, before) in &then.databases {
        let shown = on_one_line(database);
        let Some(now) = now.databases.get(database) else {
            moved.changes.push(format!("{shown} was not looked at"));
            continue;
        };
        match now.changes.checked_sub(before.changes) {
            Some(0) if now.tables == before.tables => {}
            Some(0) => moved
                .changes
                .push(format!("{shown}: rows were changed, and the counters of tables that were dropped are gone")),
            Some(more) => moved.changes.push(format!("{shown}: {more} rows were changed")),
            None => moved.changes.push(format!(
                "{shown}: the counters went back, so that nothing can be said (a crash of the server, \
                 pg_stat_reset, or a table that was dropped)"
            )),
        }
        if now.sequences != before.sequences {
            moved.changes.push(format!("{shown}: sequences moved"));
        }
    }
    // A crash lets all counters begin anew.
    if then.whole && now.shared < then.shared {
        moved.changes.push(
            "roles, databases and their settings: the counters went back, so that nothing can be said (a crash of the \
             server, or pg_stat_reset)"
                .to_owned(),
        );
    } else if then.whole && now.shared > then.shared {
        moved.changes.push("roles, databases or their settings were changed".to_owned());
    }
    if now.xid != then.xid && moved.changes.is_empty() {
        let used = now.xid.saturating_sub(then.xid);
        moved.notes.push(format!(
            "{used} transaction ids were used since {}, though no row that is fenced was changed (vacuum, locks, other \
             databases)",
            then.at
        ));
    }
    moved
}

/// Returns a position in the log of changes as a number of bytes.
fn position(lsn: &str) -> u64 {
    let half = |text: &str| u64::from_str_radix(text, 16).unwrap_or_default();
    lsn.split_once('/').map_or(0, |(high, low)| (half(high) << 32) + half(low))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::fence::Counters;

    fn sample(changes: u64, xid: u64, maintained: u64) -> Sample {
        let counters = Counters { changes, tables: changes.to_string(), sequences: "s".to_owned(), maintained };
        let quiet = Quiet { xid, databases: [("app".to_owned(), counters)].into(), ..Quiet::default() };
        let tables = [(("app".to_owned(), "\"public\".\"t\"".to_owned()), changes)].into();
        Sample { quiet, tables, uncounted: Vec::new() }
    }

    fn op(whole: bool) -> FenceOp {
        let text = serde_json::json!({
            "step": "fence", "database": "db", "before": [], "whole": whole, "grace_ms": 0, "window_ms": 0,
            "allow_roles": [], "allow_applications": [], "keep": false,
        });
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn transaction_ids_count_where_everything_is_fenced() {
        let first = sample(5, 100, 1);
        let of = |whole, last| judge(&op(whole), &first, &last);
        assert!(of(true, sample(5, 100, 1)).changes.is_empty());
        assert!(of(true, sample(6, 101, 1)).changes[0].contains("\"public\".\"t\" of app: 1 rows changed"));
        assert!(of(true, sample(4, 100, 1)).changes[0].contains("went back"));
        assert!(of(true, sample(5, 101, 1)).changes[0].contains("nobody was seen"));
        assert!(of(true, sample(5, 101, 2)).changes.is_empty());
        let part = of(false, sample(5, 101, 1));
        assert_eq!((part.changes.len(), part.notes.len()), (0, 1));
    }

    #[test]
    fn what_moved_since_a_proof() {
        let then = sample(5, 100, 1).quiet;
        let told = |now: Sample| moved(&then, &now.quiet);
        assert!(told(sample(5, 100, 3)).changes.is_empty());
        assert_eq!(told(sample(5, 120, 1)).notes.len(), 1);
        assert_eq!(told(sample(7, 101, 1)).changes, ["app: 2 rows were changed"]);
        assert!(told(sample(0, 100, 0)).changes[0].contains("went back"));
        // A table went with as many counted rows as its catalogs lost.
        let mut dropped = sample(5, 101, 1);
        dropped.quiet.databases.get_mut("app").unwrap().tables = "others".to_owned();
        assert_eq!(
            told(dropped).changes,
            ["app: rows were changed, and the counters of tables that were dropped are gone"]
        );
        let shared = |before: u64, after: u64| {
            let with = |shared| Quiet { shared, whole: true, ..sample(5, 100, 1).quiet };
            moved(&with(before), &with(after)).changes
        };
        assert_eq!(shared(7, 7), Vec::<String>::new());
        assert_eq!(shared(7, 8), ["roles, databases or their settings were changed"]);
        assert!(shared(7, 0)[0].contains("the counters went back"), "{:?}", shared(7, 0));
        assert_eq!(position("1/10"), (1 << 32) + 16);
    }
}
