//! The journal in a PostgreSQL database, for several machines: schema `pgplan_state`, `synchronous_commit = on`.
//!
//! The sign of life of a lease's holder is a session-level advisory lock (PostgreSQL manual, 13.3.5) on its connection:
//! it ends with the process, on whatever machine that was. A lease whose lock is free is a dead holder's and is taken
//! over; one whose lock is held is a living one's and never is. A holder whose connection breaks takes the lock anew as
//! soon as the server answers; therefore a taker from another machine looks twice, some seconds apart.
//!
//! The work is done by a thread of the store's own, for which its callers wait: they may be inside a runtime or not.

use std::{
    sync::{Arc, Weak, mpsc::sync_channel},
    time::Duration,
};

use tokio::{
    runtime::Runtime,
    sync::Mutex,
    time::{Instant, sleep, timeout},
};

use tokio_util::sync::CancellationToken;

use super::{FORMAT, JournalError, Row, RunLine, apart::lock_of, damaged, holder_text, known_holder, runs_here};
use crate::{
    error::{ErrorKind, StepError},
    event::Holder,
    postgres::{
        ConnInfo, Session,
        connect::{LONGEST_NAME, connect, execute, fitting},
        pooler,
    },
};

/// How long the server may take for one piece of work before its connection counts as lost.
const ANSWER: Duration = Duration::from_secs(30);
/// How long a server that was lost may take to come back: a restart, a failover.
const COME_BACK: Duration = Duration::from_secs(10);
/// How often the holder of a lease looks after its connection.
const LOOK_AFTER: Duration = Duration::from_millis(500);
/// How long the lock of a holder on another machine must be free before its lease is taken over.
const GRACE: Duration = Duration::from_secs(3);
/// How long a lock may be held by a session whose process is gone, as the server has not noticed yet.
const UNNOTICED: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);

/// What every session of ours sets. The keepalives let the server notice within a minute that a machine is gone.
const SETTINGS: &str = "\
    SELECT pg_catalog.set_config('synchronous_commit', 'on', false) \
    WHERE pg_catalog.current_setting('synchronous_commit') <> 'remote_apply'; \
    SET search_path = pg_catalog; \
    SET tcp_keepalives_idle = 30; SET tcp_keepalives_interval = 10; SET tcp_keepalives_count = 3";

const SCHEMA: &str = "\
    CREATE SCHEMA IF NOT EXISTS pgplan_state; \
    CREATE TABLE IF NOT EXISTS pgplan_state.format (version bigint NOT NULL); \
    CREATE TABLE IF NOT EXISTS pgplan_state.run (id text PRIMARY KEY, plan text NOT NULL, \
        created_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()); \
    CREATE TABLE IF NOT EXISTS pgplan_state.event (run text NOT NULL REFERENCES pgplan_state.run, \
        seq bigint NOT NULL, at text NOT NULL, body text NOT NULL, PRIMARY KEY (run, seq)); \
    CREATE TABLE IF NOT EXISTS pgplan_state.lease (plan text PRIMARY KEY, epoch bigint NOT NULL, holder text);";

/// A journal's database, with the thread that talks to it.
#[derive(Debug)]
pub(super) struct Server {
    link: Arc<Mutex<Link>>,
    runtime: Option<Runtime>,
    label: String,
    /// Cancelled when somebody has taken the lease over.
    lost: CancellationToken,
}

/// The connection and what is held through it.
#[derive(Debug)]
struct Link {
    info: ConnInfo,
    name: String,
    session: Option<Session>,
    /// The server's process of the last session: it is ended before another one takes its place.
    backend_pid: i32,
    lease: Option<Lease>,
}

#[derive(Debug, Clone)]
struct Lease {
    plan: String,
    epoch: i64,
}

/// What a holder of the lease writes.
#[derive(Debug, Clone)]
enum Change {
    Run { id: String, plan: String },
    Events { run: String, rows: Vec<Row> },
}

/// What came of one attempt to take a lease.
enum Attempt {
    Taken(i64),
    /// Its holder lives.
    Held(Holder),
    /// Its lock is held, though nobody is known to hold it: of a process that ended just now, or that is beginning.
    Unclear(Option<Holder>),
    /// Its lock is free; its holder is on another machine, where nothing can be seen of it.
    Silent(Holder),
}

impl Server {
    /// Connects and makes the schema when it is missing.
    pub(super) fn open(info: &ConnInfo) -> Result<Self, JournalError> {
        let server = Self::start(info)?;
        server.wait(|mut link| async move { link.prepare().await })?;
        Ok(server)
    }

    /// Connects; `None` when the database has no journal.
    pub(super) fn open_existing(info: &ConnInfo) -> Result<Option<Self>, JournalError> {
        let server = Self::start(info)?;
        let found = server.wait(|mut link| async move { link.format().await })?;
        Ok(found.map(|_| server))
    }

    fn start(info: &ConnInfo) -> Result<Self, JournalError> {
        let label = info.label();
        let built = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("pgplan-state")
            .enable_all()
            .build();
        let runtime = built.map_err(|error| {
            let error = StepError::new(ErrorKind::Resources, format!("no thread for it can be started: {error}"));
            JournalError::Server { server: label.clone(), error: Box::new(error) }
        })?;
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name);
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        let (user, host) = (user.unwrap_or_default(), host.unwrap_or_default());
        let name = fitting(format!("pgplan-state {}:{host}:{user}", std::process::id()), LONGEST_NAME);
        let link = Link { info: info.clone(), name, session: None, backend_pid: 0, lease: None };
        let link = Arc::new(Mutex::new(link));
        let lost = CancellationToken::new();
        runtime.spawn(look_after(Arc::downgrade(&link), lost.clone()));
        let server = Self { link, runtime: Some(runtime), label, lost };
        server.wait(|mut link| async move { link.refuse_pooler().await })?;
        Ok(server)
    }

    /// Lets the store's thread do something with the link and waits for it.
    fn wait<T, F>(
        &self,
        work: impl FnOnce(tokio::sync::OwnedMutexGuard<Link>) -> F + Send + 'static,
    ) -> Result<T, JournalError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, JournalError>> + Send,
    {
        let ended = || self.error(StepError::new(ErrorKind::Internal, "the thread that talks to it has ended"));
        let (tell, told) = sync_channel(1);
        let link = Arc::clone(&self.link);
        let task = async move {
            let result = work(link.lock_owned().await).await;
            if tell.send(result).is_err() {
                tracing::debug!("nobody waits for the journal any more");
            }
        };
        self.runtime.as_ref().ok_or_else(ended)?.spawn(task);
        told.recv().map_err(|_| ended())?
    }

    fn error(&self, error: StepError) -> JournalError {
        JournalError::Server { server: self.label.clone(), error: Box::new(error) }
    }

    pub(super) fn acquire(&mut self, plan: &str, me: &Holder) -> Result<(), JournalError> {
        let (plan, me) = (plan.to_owned(), me.clone());
        self.wait(|mut link| async move { link.acquire(&plan, &me).await })
    }

    pub(super) fn release(&mut self) -> Result<(), JournalError> {
        self.wait(|mut link| async move { link.release().await })
    }

    pub(super) fn holder(&self, plan: &str, host: &str) -> Result<Option<Holder>, JournalError> {
        let (plan, host) = (plan.to_owned(), host.to_owned());
        self.wait(|mut link| async move { link.holder(&plan, &host).await })
    }

    pub(super) fn create_run(&mut self, id: &str, plan: &str) -> Result<(), JournalError> {
        let change = Change::Run { id: id.to_owned(), plan: plan.to_owned() };
        self.wait(|mut link| async move { link.write(&change).await })
    }

    pub(super) fn append(&mut self, run: &str, rows: Vec<Row>) -> Result<(), JournalError> {
        let change = Change::Events { run: run.to_owned(), rows };
        self.wait(|mut link| async move { link.write(&change).await })
    }

    pub(super) fn events(&self, run: &str) -> Result<Option<Vec<(i64, String)>>, JournalError> {
        let run = run.to_owned();
        self.wait(|mut link| async move { link.events(&run).await })
    }

    pub(super) fn runs(&self) -> Result<Vec<RunLine>, JournalError> {
        self.wait(|mut link| async move { link.runs().await })
    }

    pub(super) fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let closed = self.wait(|mut link| async move {
            link.lease = None;
            if let Some(session) = link.session.take() {
                session.close().await;
            }
            Ok(())
        });
        if let Err(error) = closed {
            tracing::debug!(%error, "the journal's connection was not closed in good order");
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Takes the lock of a held lease anew when its connection has broken, so that nobody takes its holder for dead; tells
/// when somebody has.
async fn look_after(link: Weak<Mutex<Link>>, lost: CancellationToken) {
    loop {
        sleep(LOOK_AFTER).await;
        let Some(link) = link.upgrade() else { return };
        let mut link = link.lock().await;
        if link.lease.is_some()
            && let Err(error) = link.ready(Duration::ZERO).await
        {
            match error {
                JournalError::LeaseLost => lost.cancel(),
                error => tracing::debug!(%error, "the journal's server is away"),
            }
        }
    }
}

impl Link {
    fn error(&self, error: StepError) -> JournalError {
        JournalError::Server { server: self.info.label(), error: Box::new(error) }
    }

    /// Returns how long to wait for a server that is away: not at all before it was there for the first time.
    fn patience(&self) -> Duration {
        if self.backend_pid == 0 { Duration::ZERO } else { COME_BACK }
    }

    /// Returns the session; connects, and takes the lock of a held lease anew, when there is none that lives.
    async fn ready(&mut self, patience: Duration) -> Result<&mut Session, JournalError> {
        if self.session.as_ref().is_none_or(Session::is_closed) {
            self.session = None;
            let mut session = self.connect(patience).await?;
            if let Some(lease) = self.lease.clone() {
                match self.take_anew(&mut session, &lease).await {
                    Ok(()) => {}
                    Err(JournalError::LeaseLost) => {
                        self.lease = None;
                        self.session = Some(session);
                        return Err(JournalError::LeaseLost);
                    }
                    Err(error) => return Err(error),
                }
            }
            self.backend_pid = session.backend_pid();
            self.session = Some(session);
        }
        let gone = StepError::new(ErrorKind::Internal, "there is no connection");
        let (label, session) = (&self.info, self.session.as_mut());
        session.ok_or_else(|| JournalError::Server { server: label.label(), error: Box::new(gone) })
    }

    async fn connect(&self, patience: Duration) -> Result<Session, JournalError> {
        let until = Instant::now() + patience;
        loop {
            let error = match connect(&self.info, &self.name).await {
                Ok(session) => match execute(&session, "prepare the journal's session", SETTINGS).await {
                    Ok(()) => return Ok(session),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if !is_away(&error) || Instant::now() >= until {
                return Err(self.error(error));
            }
            sleep(PAUSE).await;
        }
    }

    /// Takes the lock of a lease that this process holds, over a new connection.
    async fn take_anew(&self, session: &mut Session, lease: &Lease) -> Result<(), JournalError> {
        let until = Instant::now() + UNNOTICED;
        let doing = "take the lock of the lease anew";
        loop {
            let again = async {
                // The server may not have noticed that the old connection is gone; what it was doing there must be over.
                session
                    .client()
                    .execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                         WHERE pid = $1 AND application_name = $2 AND pid <> pg_backend_pid()",
                        &[&self.backend_pid, &self.name],
                    )
                    .await?;
                let transaction = session.client_mut().transaction().await?;
                let sql = "SELECT epoch FROM pgplan_state.lease WHERE plan = $1 FOR UPDATE";
                let row = transaction.query_opt(sql, &[&lease.plan]).await?;
                if row.is_none_or(|row| row.get::<_, i64>(0) != lease.epoch) {
                    return Ok(None);
                }
                let row = transaction.query_one("SELECT pg_try_advisory_lock($1)", &[&lock_of(&lease.plan)]).await?;
                transaction.commit().await?;
                Ok(Some(row.get::<_, bool>(0)))
            };
            match within(again).await.map_err(|failed| self.error(failed.told(session, doing)))? {
                None => return Err(JournalError::LeaseLost),
                Some(true) => return Ok(()),
                Some(false) if Instant::now() >= until => {
                    let message = "another session holds the lock of the lease";
                    return Err(self.error(StepError::new(ErrorKind::Conflict, message)));
                }
                Some(false) => sleep(PAUSE).await,
            }
        }
    }

    /// Does something with the session; a connection that is lost over it, or in doubt, is given up.
    async fn ask<T>(
        &mut self,
        doing: &str,
        work: impl AsyncFnOnce(&mut Session) -> Result<T, tokio_postgres::Error>,
    ) -> Result<T, JournalError> {
        let session = self.ready(self.patience()).await?;
        let failed = match within(work(session)).await {
            Ok(done) => return Ok(done),
            Err(failed) => failed.told(session, doing),
        };
        if is_away(&failed) {
            self.session = None;
        }
        Err(self.error(failed))
    }

    async fn refuse_pooler(&mut self) -> Result<(), JournalError> {
        let second = self.connect(self.patience()).await?;
        let session = self.ready(self.patience()).await?;
        let direct = pooler::refuse(session, second).await;
        direct.map_err(|error| self.error(error))
    }

    /// Returns the format of the journal; `None` when there is none in the database.
    async fn format(&mut self) -> Result<Option<i64>, JournalError> {
        let doing = "look for the journal";
        let found = self
            .ask(doing, async |session| {
                let sql = "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                           WHERE n.nspname = 'pgplan_state' AND c.relname = 'format')";
                if !session.client().query_one(sql, &[]).await?.get::<_, bool>(0) {
                    return Ok(None);
                }
                let row = session.client().query_one("SELECT max(version) FROM pgplan_state.format", &[]).await?;
                Ok(row.get::<_, Option<i64>>(0))
            })
            .await?;
        match found {
            Some(found) if found > FORMAT => Err(JournalError::Format { found, known: FORMAT }),
            found => Ok(found),
        }
    }

    async fn prepare(&mut self) -> Result<(), JournalError> {
        if self.format().await?.is_some() {
            return Ok(());
        }
        // One maker at a time: CREATE … IF NOT EXISTS is not safe against another one.
        let lock = lock_of("");
        let sql = format!(
            "BEGIN; SELECT pg_catalog.pg_advisory_xact_lock({lock}); {SCHEMA} \
             INSERT INTO pgplan_state.format SELECT {FORMAT} WHERE NOT EXISTS (SELECT FROM pgplan_state.format); COMMIT"
        );
        self.ask("make the journal's schema", async |session| session.client().batch_execute(&sql).await).await
    }

    async fn acquire(&mut self, plan: &str, me: &Holder) -> Result<(), JournalError> {
        let began = Instant::now();
        let mut silent: Option<(Holder, Instant)> = None;
        loop {
            let over = silent.as_ref().filter(|(_, since)| since.elapsed() >= GRACE).map(|(holder, _)| holder);
            match self.attempt(plan, me, over).await? {
                Attempt::Taken(epoch) => {
                    self.lease = Some(Lease { plan: plan.to_owned(), epoch });
                    return Ok(());
                }
                Attempt::Held(holder) => {
                    return Err(JournalError::Held { plan: plan.to_owned(), holder: Box::new(holder) });
                }
                Attempt::Unclear(Some(holder)) if began.elapsed() >= UNNOTICED => {
                    return Err(JournalError::Held { plan: plan.to_owned(), holder: Box::new(holder) });
                }
                Attempt::Unclear(None) if began.elapsed() >= UNNOTICED => {
                    let message = format!("a session that says nothing of itself holds the lease of plan `{plan}`");
                    let help = "look in pg_locks for an advisory lock in that database, and end its session";
                    return Err(self.error(StepError::new(ErrorKind::Refused, message).help(help)));
                }
                Attempt::Unclear(_) => silent = None,
                Attempt::Silent(holder) => {
                    let known = silent.take().filter(|(known, _)| *known == holder);
                    silent = known.or_else(|| Some((holder, Instant::now())));
                }
            }
            sleep(PAUSE).await;
        }
    }

    /// Tries once to take a lease; `over` is a holder elsewhere that has been silent for long enough.
    async fn attempt(&mut self, plan: &str, me: &Holder, over: Option<&Holder>) -> Result<Attempt, JournalError> {
        let (mine, lock) = (holder_text(me)?, lock_of(plan));
        self.ask("take the lease", async |session| {
            let transaction = session.client_mut().transaction().await?;
            let sql = "INSERT INTO pgplan_state.lease (plan, epoch) VALUES ($1, 0) ON CONFLICT DO NOTHING";
            transaction.execute(sql, &[&plan]).await?;
            let sql = "SELECT epoch, holder FROM pgplan_state.lease WHERE plan = $1 FOR UPDATE";
            let row = transaction.query_one(sql, &[&plan]).await?;
            let (epoch, holder) = (row.get::<_, i64>(0) + 1, known_holder(row.get(1)));
            let free: bool = transaction.query_one("SELECT pg_try_advisory_lock($1)", &[&lock]).await?.get(0);
            let here = |holder: &Holder| holder.host == me.host;
            let found = match holder {
                Some(holder) if !free && here(&holder) && !runs_here(&holder) => Attempt::Unclear(Some(holder)),
                Some(holder) if !free => Attempt::Held(holder),
                None if !free => Attempt::Unclear(None),
                // It lives, and has lost its connection for the moment.
                Some(holder) if holder != *me && here(&holder) && runs_here(&holder) => Attempt::Held(holder),
                Some(holder) if !here(&holder) && over != Some(&holder) => Attempt::Silent(holder),
                Some(_) | None => Attempt::Taken(epoch),
            };
            match found {
                Attempt::Taken(epoch) => {
                    let sql = "UPDATE pgplan_state.lease SET epoch = $2, holder = $3 WHERE plan = $1";
                    transaction.execute(sql, &[&plan, &epoch, &mine]).await?;
                }
                Attempt::Held(_) | Attempt::Unclear(_) | Attempt::Silent(_) if free => {
                    transaction.execute("SELECT pg_advisory_unlock($1)", &[&lock]).await?;
                }
                Attempt::Held(_) | Attempt::Unclear(_) | Attempt::Silent(_) => {}
            }
            transaction.commit().await?;
            Ok(found)
        })
        .await
    }

    async fn release(&mut self) -> Result<(), JournalError> {
        let Some(Lease { plan, epoch }) = self.lease.take() else { return Ok(()) };
        if self.session.as_ref().is_none_or(Session::is_closed) {
            // The lock has ended with the connection, and with this process its lease does.
            return Ok(());
        }
        self.ask("give the lease back", async |session| {
            let sql = "UPDATE pgplan_state.lease SET holder = NULL WHERE plan = $1 AND epoch = $2";
            session.client().execute(sql, &[&plan, &epoch]).await?;
            session.client().execute("SELECT pg_advisory_unlock_all()", &[]).await
        })
        .await
        .map(drop)
    }

    async fn holder(&mut self, plan: &str, host: &str) -> Result<Option<Holder>, JournalError> {
        let lock = lock_of(plan);
        let (holder, held) = self
            .ask("look who holds the lease", async |session| {
                let sql = "SELECT holder FROM pgplan_state.lease WHERE plan = $1";
                let row = session.client().query_opt(sql, &[&plan]).await?;
                let held = session.client().query_one(super::apart::IS_HELD, &[&lock]).await?.get::<_, bool>(0);
                Ok((row.and_then(|row| row.get(0)), held))
            })
            .await?;
        Ok(known_holder(holder).filter(|holder| held || holder.host == host && runs_here(holder)))
    }

    /// Writes what needs the lease. An answer that was lost is asked for once, after the server has come back.
    async fn write(&mut self, change: &Change) -> Result<(), JournalError> {
        self.ready(self.patience()).await?;
        match self.try_write(change, false).await {
            Err(JournalError::Server { error, .. }) if is_away(&error) => {
                self.ready(self.patience()).await?;
                self.try_write(change, true).await
            }
            result => result,
        }
    }

    /// Writes in one transaction that holds the lease's row; `again`: unless an earlier attempt has written it.
    async fn try_write(&mut self, change: &Change, again: bool) -> Result<(), JournalError> {
        let Lease { plan, epoch } = self.lease.clone().ok_or(JournalError::LeaseLost)?;
        let written = self
            .ask("write to the journal", async |session| {
                let transaction = session.client_mut().transaction().await?;
                let sql = "SELECT epoch FROM pgplan_state.lease WHERE plan = $1 FOR UPDATE";
                let row = transaction.query_opt(sql, &[&plan]).await?;
                if row.is_none_or(|row| row.get::<_, i64>(0) != epoch) {
                    return Ok(Err(JournalError::LeaseLost));
                }
                match change {
                    Change::Run { id, plan } => {
                        let known = "SELECT FROM pgplan_state.run WHERE id = $1 AND plan = $2";
                        if !again || transaction.query_opt(known, &[id, plan]).await?.is_none() {
                            let sql = "INSERT INTO pgplan_state.run (id, plan) VALUES ($1, $2)";
                            transaction.execute(sql, &[id, plan]).await?;
                        }
                    }
                    Change::Events { run, rows } => {
                        let known = "SELECT body FROM pgplan_state.event WHERE run = $1 AND seq = $2";
                        let insert = "INSERT INTO pgplan_state.event VALUES ($1, $2, $3, $4)";
                        for Row { seq, at, body } in rows {
                            let found = if again { transaction.query_opt(known, &[run, seq]).await? } else { None };
                            match found.map(|row| row.get::<_, String>(0)) {
                                Some(other) if other != *body => {
                                    return Ok(Err(damaged(run, seq.unsigned_abs(), &"another one stands there")));
                                }
                                Some(_) => {}
                                None => {
                                    transaction.execute(insert, &[run, seq, at, body]).await?;
                                }
                            }
                        }
                    }
                }
                transaction.commit().await?;
                Ok(Ok(()))
            })
            .await?;
        if matches!(written, Err(JournalError::LeaseLost)) {
            self.lease = None;
        }
        written
    }

    async fn events(&mut self, run: &str) -> Result<Option<Vec<(i64, String)>>, JournalError> {
        self.ask("read the journal", async |session| {
            let known = session.client().query_opt("SELECT FROM pgplan_state.run WHERE id = $1", &[&run]).await?;
            if known.is_none() {
                return Ok(None);
            }
            let sql = "SELECT seq, body FROM pgplan_state.event WHERE run = $1 ORDER BY seq";
            let rows = session.client().query(sql, &[&run]).await?;
            Ok(Some(rows.into_iter().map(|row| (row.get(0), row.get(1))).collect()))
        })
        .await
    }

    async fn runs(&mut self) -> Result<Vec<RunLine>, JournalError> {
        self.ask("list the runs", async |session| {
            let rows =
                session.client().query("SELECT id, plan FROM pgplan_state.run ORDER BY created_at, id", &[]).await?;
            Ok(rows.into_iter().map(|row| RunLine { id: row.get(0), plan: row.get(1) }).collect())
        })
        .await
    }
}

/// Why a piece of work came to nothing.
enum Failed {
    Said(tokio_postgres::Error),
    Silence,
}

impl Failed {
    fn told(self, session: &Session, doing: &str) -> StepError {
        match self {
            Self::Said(error) => session.error(doing, &error),
            Self::Silence => {
                let message = format!("cannot {doing}: no answer within {} s", ANSWER.as_secs());
                StepError::new(ErrorKind::Connection, message)
            }
        }
    }
}

async fn within<T>(work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, Failed> {
    match timeout(ANSWER, work).await {
        Ok(result) => result.map_err(Failed::Said),
        Err(_) => Err(Failed::Silence),
    }
}

/// Says that the server is not there, or not any more, so that it may help to ask it again.
fn is_away(error: &StepError) -> bool {
    matches!(error.kind, ErrorKind::Connection | ErrorKind::Timeout)
}
