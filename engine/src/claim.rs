//! A session's claims on the servers of its plan: two runs never change one server at once, and nothing that a dead
//! session left running there works on behind our back.
//!
//! A claim is a session-level advisory lock (PostgreSQL manual, 13.3.5) that one connection holds as long as this
//! process uses the server: it dies with the process, so that it is never stale. The lock covers the whole server,
//! because a restore of a cluster changes all of it. The connection's `application_name` says whose it is; whoever
//! finds the lock taken reads it there. A lock left by an earlier session *of the same run* (its connection not yet
//! noticed as dead) is taken over: the journal's lease has made sure that this session is the only one of its run.
//!
//! A server works on after its client died. Whoever holds the lock therefore ends the sessions of its own run's earlier
//! sessions, and those of other runs that may change something: their runs would have to hold the lock, so they are dead.
//!
//! A transaction pooler gives each transaction another server session: a lock taken through it protects nothing, so it
//! is found out and refused.

use std::{collections::BTreeMap, time::Duration};

use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};
use tokio_postgres::SimpleQueryRow;

use crate::{
    error::{ErrorKind, StepError},
    event::Holder,
    kinds::{Use, declare::Key},
    postgres::{
        ConnInfo, Session,
        connect::{LONGEST_NAME, connect, fitting},
        pooler,
        quote::literal,
        rows::{first, rows, text},
    },
    survey::MAINTENANCE,
};

/// Two-key advisory locks of pgplan: `pgpl`, then what is locked.
const LOCK_CLASS: i32 = 0x7067_706c;
const WHOLE_SERVER: i32 = 1;
/// How long sessions of an earlier session of this run may take to end once they are told to.
const LEFTOVERS: Duration = Duration::from_secs(30);

/// What a session of ours is for; its name in `pg_stat_activity` begins with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// It may change something: its run holds the server's lock.
    Work,
    /// It only reads.
    Read,
    /// It holds or asks for the lock.
    Lock,
}

impl Purpose {
    fn word(self) -> &'static str {
        match self {
            Self::Work => "pgplan",
            Self::Read => "pgplan-read",
            Self::Lock => "pgplan-lock",
        }
    }
}

/// Returns how the names of a run's sessions begin: `pgplan RUN.SESSION`.
#[must_use]
pub fn tag(purpose: Purpose, run: &str, session: u32) -> String {
    format!("{} {run}.{session}", purpose.word())
}

/// The claims of one session of a run.
#[derive(Debug)]
pub struct Claims {
    run: String,
    session: u32,
    holder: String,
    held: Mutex<BTreeMap<String, Claim>>,
}

#[derive(Debug)]
enum Claim {
    /// The connection that holds the lock.
    Own(Box<Session>, Backend),
    /// The same server as another database of the plan, the one named here, whose connection holds the lock.
    Shared(String),
    /// Only looked through for leftovers: the plan reads from it.
    Looked,
}

/// What the server says of the process of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Backend {
    pid: String,
    /// In seconds; absent when the role may not see it. Processes of two servers may have one number.
    started: Option<String>,
}

impl Backend {
    fn is(&self, other: &Self) -> bool {
        let differ = |(one, other): (&String, &String)| one != other;
        self.pid == other.pid && !self.started.iter().zip(&other.started).any(differ)
    }
}

impl Claims {
    /// Returns the claims of a session; nothing is claimed yet. `session` counts the sessions of the run from 0.
    #[must_use]
    pub fn new(run: &str, session: u32, holder: &Holder) -> Self {
        let holder = format!("{}@{}:{}", holder.user, holder.host, holder.pid);
        Self { run: run.to_owned(), session, holder, held: Mutex::default() }
    }

    /// Makes sure that nothing of an earlier session of this run is at work on the server; asks it once a session.
    ///
    /// # Errors
    /// When the server cannot be reached or the leftovers do not end.
    pub async fn look(&self, database: &str, info: &ConnInfo) -> Result<(), StepError> {
        let mut held = self.held.lock().await;
        if self.session == 0 || held.contains_key(database) {
            return Ok(());
        }
        let session = self.connect(info).await?;
        let ended = self.end_leftovers(&session, false).await;
        session.close().await;
        ended?;
        held.insert(database.to_owned(), Claim::Looked);
        Ok(())
    }

    /// Takes the lock of the server, unless it is held already and the connection lives.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when another run has it, naming its holder, or when a transaction pooler answers.
    pub async fn claim(&self, database: &str, info: &ConnInfo) -> Result<(), StepError> {
        let mut held = self.held.lock().await;
        match held.get(database) {
            Some(Claim::Own(session, _)) if !session.is_closed() => return Ok(()),
            // The lock of another server says nothing about this one.
            Some(Claim::Shared(owner)) if lives(&held, owner) => return Ok(()),
            _ => {}
        }
        let session = self.connect(info).await?;
        let direct = match self.connect(info).await {
            Ok(second) => pooler::refuse(&session, second).await,
            Err(error) => Err(error),
        };
        let claimed = match direct {
            Ok(()) => self.lock(&session, &held).await,
            Err(error) => Err(error),
        };
        match claimed {
            Ok(Locked::Here(backend)) => {
                held.insert(database.to_owned(), Claim::Own(Box::new(session), backend));
                Ok(())
            }
            Ok(Locked::By(owner)) => {
                session.close().await;
                held.insert(database.to_owned(), Claim::Shared(owner));
                Ok(())
            }
            Err(error) => {
                session.close().await;
                Err(error)
            }
        }
    }

    /// Gives all claims up.
    pub async fn release(&self) {
        let held = std::mem::take(&mut *self.held.lock().await);
        for claim in held.into_values() {
            if let Claim::Own(session, _) = claim {
                session.close().await;
            }
        }
    }

    /// Connects where a connection is in nobody's way: to a maintenance database, or to the one that is named.
    async fn connect(&self, info: &ConnInfo) -> Result<Session, StepError> {
        let name = fitting(format!("{} {}", tag(Purpose::Lock, &self.run, self.session), self.holder), LONGEST_NAME);
        let maintenance = MAINTENANCE[0];
        match connect(&info.with_dbname(maintenance), &name).await {
            Err(error) if info.dbname != maintenance && is_about_the_database(&error) => connect(info, &name).await,
            result => result,
        }
    }

    /// Returns that this connection holds the lock now, or which claim of this session has it.
    async fn lock(&self, session: &Session, held: &BTreeMap<String, Claim>) -> Result<Locked, StepError> {
        self.end_leftovers(session, false).await?;
        let until = Instant::now() + LEFTOVERS;
        loop {
            let doing = "take the lock of the server";
            let sql = format!("SELECT pg_catalog.pg_try_advisory_lock({LOCK_CLASS}, {WHOLE_SERVER})");
            if first(session, doing, &sql).await?.as_deref() == Some("t") {
                self.end_leftovers(session, true).await?;
                let sql = "SELECT pid, extract(epoch FROM backend_start)::text FROM pg_catalog.pg_stat_activity \
                           WHERE pid = pg_catalog.pg_backend_pid()";
                let found = rows(session, doing, sql).await?;
                let missing = || StepError::new(ErrorKind::Internal, "the server does not list its own process");
                return Ok(Locked::Here(backend(found.first().ok_or_else(missing)?, 0, 1)));
            }
            let sql = format!(
                "SELECT coalesce(a.application_name, ''), coalesce(host(a.client_addr), 'the server itself'), \
                        coalesce(a.backend_start::text, '?'), l.pid, extract(epoch FROM a.backend_start)::text \
                 FROM pg_catalog.pg_locks l LEFT JOIN pg_catalog.pg_stat_activity a USING (pid) \
                 WHERE l.locktype = 'advisory' AND l.granted AND l.classid = {LOCK_CLASS} AND l.objid = {WHOLE_SERVER} \
                   AND l.objsubid = 2 AND l.database = (SELECT oid FROM pg_catalog.pg_database \
                     WHERE datname = pg_catalog.current_database())"
            );
            let found = rows(session, doing, &sql).await?;
            let Some(row) = found.first() else {
                // It was given up between the two questions.
                sleep(Duration::from_millis(20)).await;
                continue;
            };
            let (name, from, since, pid) = (text(row, 0), text(row, 1), text(row, 2), text(row, 3));
            if name.starts_with(&format!("{} ", tag(Purpose::Lock, &self.run, self.session))) {
                let holder = backend(row, 3, 4);
                let owns =
                    |claim: &Claim| matches!(claim, Claim::Own(own, known) if !own.is_closed() && known.is(&holder));
                if let Some((owner, _)) = held.iter().find(|(_, claim)| owns(claim)) {
                    return Ok(Locked::By(owner.clone()));
                }
                // A connection that this process has lost already: the server notices soon.
            }
            let own_run = name.starts_with(&format!("{} {}.", Purpose::Lock.word(), self.run));
            if own_run && Instant::now() < until {
                sleep(Duration::from_millis(100)).await;
                continue;
            }
            let rest = name.strip_prefix(Purpose::Lock.word()).map(str::trim_start);
            let run = rest.and_then(|rest| rest.split_once(' '));
            let who = match run {
                Some((run, holder)) => format!("run {} of {holder}", run.rsplit_once('.').map_or(run, |(run, _)| run)),
                None => format!("a session called `{name}`"),
            };
            return Err(StepError::new(
                ErrorKind::Refused,
                format!("another run is changing {}: {who}", session.label()),
            )
            .detail(format!("its connection comes from {from}, server process {pid}, since {since}"))
            .help("wait until that run has ended, or stop it; the lock ends with its process"));
        }
    }

    /// Ends what dead sessions have left running on the server, and waits until it is gone: all of earlier sessions of
    /// this run and, for the holder of the lock, whatever else may change something.
    async fn end_leftovers(&self, session: &Session, locked: bool) -> Result<(), StepError> {
        let doing = "end what a dead session left running";
        let begins = |with: &str| format!("pg_catalog.strpos(application_name, {}) = 1", literal(with));
        let purposes = [Purpose::Work, Purpose::Read, Purpose::Lock];
        let of_run = purposes.map(|purpose| begins(&format!("{} {}.", purpose.word(), self.run))).join(" OR ");
        let own = purposes.map(|purpose| begins(&format!("{} ", tag(purpose, &self.run, self.session)))).join(" OR ");
        let workers = begins(&format!("{} ", Purpose::Work.word()));
        let dead = if locked { format!("{of_run} OR {workers}") } else { of_run };
        let sql = format!(
            "SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity \
             WHERE ({dead}) AND NOT ({own}) AND pid <> pg_catalog.pg_backend_pid()"
        );
        let until = Instant::now() + LEFTOVERS;
        while first(session, doing, &sql).await?.as_deref() != Some("0") {
            if Instant::now() > until {
                let message = format!("a session that a dead run left behind on {} does not end", session.label());
                return Err(StepError::new(ErrorKind::Conflict, message)
                    .detail("its application_name begins with `pgplan`")
                    .help("end it with pg_terminate_backend, then apply again"));
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }
}

/// Returns the databases that a step declares with the strongest use that it makes of each.
#[must_use]
pub fn uses(declared: &[(String, Key, Use)]) -> BTreeMap<&str, Use> {
    let mut uses = BTreeMap::new();
    for (name, _, how) in declared {
        let strongest = uses.entry(name.as_str()).or_insert(*how);
        if *how == Use::Changes {
            *strongest = Use::Changes;
        }
    }
    uses
}

/// Who has the lock of a server.
enum Locked {
    /// The connection that asked.
    Here(Backend),
    /// The claim of this database.
    By(String),
}

/// Returns whether this claim holds a lock by a connection that lives.
fn lives(held: &BTreeMap<String, Claim>, owner: &str) -> bool {
    matches!(held.get(owner), Some(Claim::Own(own, _)) if !own.is_closed())
}

fn backend(row: &SimpleQueryRow, pid: usize, started: usize) -> Backend {
    Backend { pid: text(row, pid).to_owned(), started: row.get(started).map(str::to_owned) }
}

/// Says that the named database cannot be entered, though the server can: it does not exist, or has no CONNECT for us,
/// or pg_hba.conf does not list it.
fn is_about_the_database(error: &StepError) -> bool {
    matches!(error.sqlstate.as_deref(), Some("3D000" | "42501" | "28000" | "55000"))
}
