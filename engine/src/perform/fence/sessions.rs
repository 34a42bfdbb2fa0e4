//! The sessions of others in fenced databases: seen, told apart, ended.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::{Instant, sleep};

use super::{Me, go_on};
use crate::{
    error::StepError,
    op::fence::FenceOp,
    pattern::any_matches,
    perform::PerformCx,
    postgres::{
        Session,
        quote::{literal, on_one_line},
        rows::{count_in, first, flag, rows, text},
    },
};

/// How often sessions are looked at while they may end by themselves.
const LOOK: Duration = Duration::from_millis(200);
/// How long ended sessions may take to be gone; who comes back for so long is left to the proof.
const GONE: Duration = Duration::from_secs(5);

/// The `backend_type` of sessions that replicate.
const WALSENDER: &str = "walsender";

/// A session in a fenced database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) pid: u64,
    database: String,
    role: String,
    superuser: bool,
    application: String,
    address: String,
    /// `backend_type`, when it is no ordinary client. A background process is not ended: its master would start it again.
    worker: Option<String>,
    since: String,
    query_start: String,
    state: String,
    /// The transaction id that it has, which only writers need.
    xid: Option<String>,
    /// Whether it may stay, as long as it does not write.
    allowed: bool,
    /// Why it could not be ended.
    kept: Option<String>,
}

impl Seen {
    fn is_to_end(&self) -> bool {
        matches!(self.worker.as_deref(), None | Some(WALSENDER)) && !self.allowed
    }

    /// Returns what sessions of the same client have in common.
    pub(super) fn whose(&self) -> String {
        let Self { database, role, application, address, worker, .. } = self;
        format!("{database}\0{role}\0{application}\0{address}\0{worker:?}")
    }

    /// Returns who it is and what to do, for the one who has to find it.
    pub(super) fn blame(&self) -> String {
        let Self { pid, database, role, application, address, since, query_start, .. } = self;
        let what = match self.worker.as_deref() {
            Some(WALSENDER) => format!("replication session {pid}"),
            Some(worker) => format!("background process {pid} ({worker})"),
            None => format!("session {pid}"),
        };
        let role = if self.superuser { format!("superuser {role}") } else { format!("role {role}") };
        let app = if application.is_empty() { "no name".to_owned() } else { application.clone() };
        let asked =
            if query_start.is_empty() { "no query yet".to_owned() } else { format!("last query {query_start}") };
        let state = if self.state.is_empty() { String::new() } else { format!(", {}", self.state) };
        let xid = self.xid.as_ref().map(|xid| format!(", in transaction {xid}")).unwrap_or_default();
        let kept = self.kept.as_ref().map(|why| format!("; it cannot be ended: {why}")).unwrap_or_default();
        on_one_line(&format!(
            "{what} of {role} ({app}) from {address} in {database}, since {since}, {asked}{state}{xid}{kept}"
        ))
    }
}

/// Returns the sessions of others in these databases; of those that are allowed just the ones that write.
pub(super) async fn seen(op: &FenceOp, names: &[&str], me: &Me, session: &Session) -> Result<Vec<Seen>, StepError> {
    let (kind, xid) = match session.server_version_num() {
        0..90_400 => ("NULL", "NULL"),
        90_400..100_000 => ("NULL", "backend_xid"),
        _ => ("backend_type", "backend_xid"),
    };
    let list: Vec<String> = names.iter().map(|name| literal(name)).collect();
    let sql = format!(
        "SELECT a.pid, a.datname, coalesce(a.usename, '?'), coalesce(r.rolsuper, false), \
                coalesce(a.application_name, ''), coalesce(host(a.client_addr), 'a local socket'), {kind}, \
                to_char(a.backend_start, 'HH24:MI:SS'), to_char(a.query_start, 'HH24:MI:SS'), a.state, {xid} \
         FROM pg_catalog.pg_stat_activity a LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid \
         WHERE a.pid <> pg_catalog.pg_backend_pid() AND a.datname IN ({}) ORDER BY a.pid",
        list.join(", ")
    );
    let found = rows(session, "list the sessions", &sql).await?;
    let of = |row: &tokio_postgres::SimpleQueryRow| {
        // What the role may not see is empty: a client then.
        let kind = row.get(6).filter(|kind| *kind != "client backend");
        let pid = count_in(session, "list the sessions", row, 0)?;
        Ok(Seen {
            pid,
            database: text(row, 1).to_owned(),
            role: text(row, 2).to_owned(),
            superuser: flag(row, 3),
            application: text(row, 4).to_owned(),
            address: text(row, 5).to_owned(),
            worker: kind.map(str::to_owned),
            since: text(row, 7).to_owned(),
            query_start: text(row, 8).to_owned(),
            state: text(row, 9).to_owned(),
            xid: row.get(10).map(str::to_owned),
            allowed: false,
            kept: None,
        })
    };
    let all = found.iter().map(of).collect::<Result<Vec<Seen>, StepError>>()?;
    Ok(all.into_iter().filter_map(|seen| counts(seen, op, me)).collect())
}

/// Returns a session that stands in the way, marked when it is allowed and does so only by writing.
fn counts(seen: Seen, op: &FenceOp, me: &Me) -> Option<Seen> {
    // A stranger may take the name, not the role as well.
    let own = seen.role == me.role && ["pgplan ", "pgplan-"].iter().any(|name| seen.application.starts_with(name));
    let name = match seen.worker.as_deref() {
        // It reads for others, until it runs SQL as a session with `replication=database` may; then it is like any.
        Some(WALSENDER) if seen.xid.is_none() => return None,
        // They read for others, or vacuum; a parallel worker belongs to a session that is in the list.
        Some("parallel worker" | "autovacuum worker" | "autovacuum launcher") => return None,
        None | Some(WALSENDER) if own => return None,
        None | Some(WALSENDER) => &seen.application,
        Some(worker) => worker,
    };
    let allowed = any_matches(&op.allow_roles, &seen.role) || any_matches(&op.allow_applications, name);
    (!allowed || seen.xid.is_some()).then_some(Seen { allowed, ..seen })
}

/// Waits until all clients have ended by themselves, then ends those that have not; returns how many it ended.
///
/// Who comes back all the time is not waited for: the proof names him.
pub(super) async fn end_all(
    op: &FenceOp,
    names: &[&str],
    me: &Me,
    cx: &PerformCx,
    session: &Session,
) -> Result<u64, StepError> {
    let until = Instant::now() + Duration::from_millis(op.grace_ms);
    let mut told = usize::MAX;
    loop {
        let left = clients(op, names, me, session).await?;
        if left.is_empty() {
            return Ok(0);
        }
        if Instant::now() >= until {
            break;
        }
        if left.len() != told {
            told = left.len();
            cx.progress.line(format!("waiting for {told} sessions to end: {}", left[0].blame()));
        }
        sleep(LOOK).await;
        go_on(cx)?;
    }
    let (mut ended, mut stuck) = (BTreeSet::new(), BTreeSet::new());
    let until = Instant::now() + GONE;
    while Instant::now() < until {
        go_on(cx)?;
        let mut left = clients(op, names, me, session).await?;
        left.retain(|seen| !stuck.contains(&seen.pid));
        if left.is_empty() {
            break;
        }
        for seen in left {
            let ends = end(&seen, session).await?.is_none();
            if ends { &mut ended } else { &mut stuck }.insert(seen.pid);
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(ended.len() as u64)
}

async fn clients(op: &FenceOp, names: &[&str], me: &Me, session: &Session) -> Result<Vec<Seen>, StepError> {
    let all = seen(op, names, me, session).await?;
    Ok(all.into_iter().filter(Seen::is_to_end).collect())
}

/// Ends a session; returns why it cannot be.
async fn end(seen: &Seen, session: &Session) -> Result<Option<String>, StepError> {
    let sql = format!("SELECT pg_catalog.pg_terminate_backend({})", seen.pid);
    match first(session, "end a session", &sql).await {
        Ok(_) => Ok(None),
        Err(error) if error.sqlstate.as_deref() == Some("42501") => Ok(Some(error.message)),
        Err(error) => Err(error),
    }
}

/// Ends the clients among these; returns all, with why some could not be ended.
pub(super) async fn end_seen(seen: Vec<Seen>, session: &Session) -> Result<Vec<Seen>, StepError> {
    let mut all = Vec::with_capacity(seen.len());
    for mut one in seen {
        if one.is_to_end() {
            one.kept = end(&one, session).await?;
        }
        all.push(one);
    }
    Ok(all)
}
