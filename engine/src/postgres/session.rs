//! A connected session: the client, the task that drives its socket, and what the server said on the side.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::DbError;
use tokio_postgres::{AsyncMessage, CancelToken, Client, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_util::task::TaskTracker;

use super::sqlstate::{chain, server_error};
use crate::error::{ErrorKind, StepError};

/// Notices kept for [`Session::take_notices`]; the oldest go first.
const MOST_NOTICES: usize = 1000;

/// How long the farewell to the server may take before the socket is closed on it.
const FAREWELL: Duration = Duration::from_secs(2);

/// How long a cancel request may take.
const CANCEL_LIMIT: Duration = Duration::from_secs(10);

/// The sessions that were dropped and have not ended yet.
static DROPPED: LazyLock<TaskTracker> = LazyLock::new(TaskTracker::new);

type Stream = <MakeRustlsConnect as tokio_postgres::tls::MakeTlsConnect<Socket>>::Stream;

/// What a server connection consists of before it is driven.
pub(super) type Connected = (Client, Connection<Socket, Stream>);

/// Something the server said beside an answer (a NOTICE or WARNING).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// `NOTICE`, `WARNING`, … in the server's language.
    pub severity: String,
    /// The SQLSTATE.
    pub sqlstate: String,
    /// What it said.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What to do about it.
    pub hint: Option<String>,
}

#[derive(Debug, Default)]
struct Aside {
    notices: VecDeque<Notice>,
    dropped: u64,
    /// Why the connection ended, when it did not end by our own wish.
    ended: Option<String>,
}

/// A session with a server.
///
/// [`Session::close`] says farewell to the server and waits for that. Dropping it, as whoever gives up a look does,
/// cancels the statement that may run before, all in the background; [`dropped_sessions_end`] waits for that.
#[derive(Debug)]
pub struct Session {
    client: Client,
    driver: Driver,
    aside: Arc<Mutex<Aside>>,
    canceller: Canceller,
    label: String,
    pub(super) server_version_num: u32,
    pub(super) backend_pid: i32,
    encrypted: bool,
}

/// Cancels what a session is doing, from anywhere.
#[derive(Clone)]
pub struct Canceller {
    token: CancelToken,
    tls: MakeRustlsConnect,
    label: String,
}

impl std::fmt::Debug for Canceller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Canceller").field("label", &self.label).finish_non_exhaustive()
    }
}

impl Canceller {
    /// Asks the server to cancel the session's statement (PostgreSQL manual, 54.2.8); the statement then fails with
    /// SQLSTATE 57014. Without a running statement nothing happens.
    ///
    /// # Errors
    /// The server could not be asked.
    pub async fn cancel(&self) -> Result<(), StepError> {
        let fault =
            |kind, why: &str| StepError::new(kind, format!("cannot cancel the statement on {}: {why}", self.label));
        match timeout(CANCEL_LIMIT, self.token.cancel_query(self.tls.clone())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(fault(ErrorKind::Connection, &chain(&error))),
            Err(_) => Err(fault(ErrorKind::Timeout, "no answer within 10 seconds")),
        }
    }
}

/// The task that drives the socket; ends by itself when the client is gone.
#[derive(Debug)]
struct Driver {
    task: Option<JoinHandle<()>>,
    canceller: Canceller,
}

impl Driver {
    async fn finish(mut self) {
        if let Some(task) = self.task.take() {
            end(task).await;
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        let Some(task) = self.task.take().filter(|task| !task.is_finished()) else {
            return;
        };
        let (canceller, abort) = (self.canceller.clone(), task.abort_handle());
        let farewell = async move {
            if let Err(error) = canceller.cancel().await {
                tracing::debug!("{error}");
            }
            end(task).await;
        };
        match Handle::try_current() {
            Ok(runtime) => drop(DROPPED.spawn_on(farewell, &runtime)),
            Err(_) => abort.abort(),
        }
    }
}

/// Waits until the servers have ended the statements of all sessions that were dropped, for as long as a farewell may
/// take.
pub async fn dropped_sessions_end() {
    DROPPED.close();
    if timeout(FAREWELL, DROPPED.wait()).await.is_err() {
        tracing::debug!("a server does not hear that its session is over");
    }
    DROPPED.reopen();
}

async fn end(mut task: JoinHandle<()>) {
    if timeout(FAREWELL, &mut task).await.is_err() {
        task.abort();
    }
}

impl Session {
    /// Starts to drive a connection; version and process id are filled in by the caller.
    pub(super) fn start(
        (client, connection): Connected,
        tls: MakeRustlsConnect,
        label: String,
        encrypted: bool,
    ) -> Self {
        let aside = Arc::new(Mutex::new(Aside::default()));
        let task = tokio::spawn(drive(connection, Arc::clone(&aside)));
        let canceller = Canceller { token: client.cancel_token(), tls, label: label.clone() };
        Self {
            client,
            driver: Driver { task: Some(task), canceller: canceller.clone() },
            aside,
            canceller,
            label,
            server_version_num: 0,
            backend_pid: 0,
            encrypted,
        }
    }

    /// Returns the client to run statements with.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Returns the client for what needs it alone: transactions.
    pub fn client_mut(&mut self) -> &mut Client {
        &mut self.client
    }

    /// Returns the server's name for messages, without a password.
    #[must_use]
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Returns the server's version as a number: 150020 is 15.20, 90624 is 9.6.24.
    #[must_use]
    pub fn server_version_num(&self) -> u32 {
        self.server_version_num
    }

    /// Returns the process id of the server's side.
    #[must_use]
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// Returns whether the session is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.encrypted
    }

    /// Returns whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Returns what cancels this session's statement, for another task to hold.
    #[must_use]
    pub fn canceller(&self) -> Canceller {
        self.canceller.clone()
    }

    /// Asks the server to cancel the running statement; see [`Canceller::cancel`].
    ///
    /// # Errors
    /// The server could not be asked.
    pub async fn cancel(&self) -> Result<(), StepError> {
        self.canceller.cancel().await
    }

    /// Takes the notices that came since the last call, oldest first; of more than a thousand the last ones.
    #[must_use]
    pub fn take_notices(&self) -> Vec<Notice> {
        let mut aside = self.aside.lock().unwrap_or_else(PoisonError::into_inner);
        aside.dropped = 0;
        aside.notices.drain(..).collect()
    }

    /// Returns how many notices were dropped since the last [`Session::take_notices`].
    #[must_use]
    pub fn dropped_notices(&self) -> u64 {
        self.aside.lock().unwrap_or_else(PoisonError::into_inner).dropped
    }

    /// Returns a failure that tells all the server said; for a lost connection also why it was lost.
    ///
    /// See [`server_error`].
    #[must_use]
    pub fn error(&self, doing: &str, error: &tokio_postgres::Error) -> StepError {
        let new = server_error(doing, error);
        if new.sqlstate.is_some() || new.kind != ErrorKind::Connection {
            return new;
        }
        let ended = self.aside.lock().unwrap_or_else(PoisonError::into_inner).ended.clone();
        let new = new.detail(format!("server: {}", self.label));
        match ended {
            Some(why) => new.detail(format!("the connection ended: {why}")),
            None => new,
        }
    }

    /// Ends the session and waits until the server has been told, two seconds at most.
    pub async fn close(self) {
        let Self { client, driver, .. } = self;
        drop(client);
        driver.finish().await;
    }
}

async fn drive(mut connection: Connection<Socket, Stream>, aside: Arc<Mutex<Aside>>) {
    loop {
        let message = poll_fn(|cx| connection.poll_message(cx)).await;
        let mut aside = aside.lock().unwrap_or_else(PoisonError::into_inner);
        match message {
            Some(Ok(AsyncMessage::Notice(notice))) => {
                if aside.notices.len() == MOST_NOTICES {
                    aside.notices.pop_front();
                    aside.dropped += 1;
                }
                aside.notices.push_back(Notice::of(&notice));
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                let said = error.as_db_error().map(|db| format!("{} ({})", db.message(), db.code().code()));
                aside.ended = Some(said.unwrap_or_else(|| chain(&error)));
                return;
            }
            None => return,
        }
    }
}

impl Notice {
    fn of(notice: &DbError) -> Self {
        Self {
            severity: notice.severity().to_owned(),
            sqlstate: notice.code().code().to_owned(),
            message: notice.message().to_owned(),
            detail: notice.detail().map(str::to_owned),
            hint: notice.hint().map(str::to_owned),
        }
    }
}
