//! Connecting: which address, with or without TLS, in what order; then making the session fit for a migration.
//!
//! Servers and their addresses are tried in turn. As in libpq (PostgreSQL manual, 34.1.1.3) a server that cannot be
//! reached, is starting up or is not of the wanted sort leads to the next one; a server that answers and refuses ends
//! the search, lest a wrong password be tried everywhere. Settings are made by SET after the login: poolers refuse
//! unknown startup options.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::time::timeout;
use tokio_postgres::{Config, SimpleQueryMessage, config};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::conninfo::{Address, ChannelBinding, ConnInfo, Host, SslMode, SslNegotiation, TargetSessionAttrs};
use super::refusal::{Failure, refusal};
use super::session::Session;
use super::tls::client_config;
use crate::error::StepError;
use crate::secret::ExposeSecret as _;

/// Whether a session may change anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    ReadWrite,
    ReadOnly,
}

/// Connects under this application name, which tags the session for recovery (63 bytes count).
///
/// No statement, lock or idle timeout of role or database holds in the session, and a commit is on disk when it is
/// answered, also where the server's configuration says `synchronous_commit = off`. A superuser gets the server's messages
/// in English, so that they can be compared with what a plan expects.
///
/// # Errors
/// Why the connection failed, naming the server and the remedy; of several servers the last, the others as details.
pub async fn connect(info: &ConnInfo, application_name: &str) -> Result<Session, StepError> {
    connect_with(info, application_name, Access::ReadWrite).await
}

/// Connects as [`connect`] does, for a look only: every transaction is read-only from the start.
///
/// # Errors
/// As for [`connect`].
pub async fn connect_read_only(info: &ConnInfo, application_name: &str) -> Result<Session, StepError> {
    connect_with(info, application_name, Access::ReadOnly).await
}

async fn connect_with(info: &ConnInfo, application_name: &str, access: Access) -> Result<Session, StepError> {
    // A socket is never encrypted: its certificates need not exist.
    let tcp = info.hosts.iter().any(|host| host.hostaddr.is_some() || matches!(host.address, Address::Tcp(_)));
    let config = client_config(&info.tls, tcp).map_err(|error| error.detail(format!("server: {}", info.label())))?;
    let tls = MakeRustlsConnect::new(config);
    let rounds: &[TargetSessionAttrs] = match info.target_session_attrs {
        TargetSessionAttrs::PreferStandby => &[TargetSessionAttrs::Standby, TargetSessionAttrs::Any],
        ref other => std::slice::from_ref(other),
    };
    let mut failures: Vec<StepError> = Vec::new();
    for wanted in rounds {
        failures.clear();
        for host in &info.hosts {
            let addresses = match look_up(info, host).await {
                Ok(addresses) => addresses,
                Err(failure) => {
                    failures.push(refusal(info, host, &failure));
                    continue;
                }
            };
            for address in addresses {
                let attempt = Attempt { info, host, address, application_name, access, wanted: *wanted, tls: &tls };
                match Box::pin(attempt.run()).await {
                    Ok(session) => return Ok(session),
                    Err(failure) => {
                        let last = !failure.leads_on();
                        failures.push(refusal(info, host, &failure));
                        if last {
                            return Err(together(failures));
                        }
                    }
                }
            }
        }
    }
    Err(together(failures))
}

/// Returns the last failure, with the others as its details.
fn together(mut failures: Vec<StepError>) -> StepError {
    let Some(mut last) = failures.pop() else {
        return StepError::new(crate::error::ErrorKind::Internal, "no server to connect to");
    };
    for other in failures {
        let line = format!("before: {}", other.message);
        if other.message != last.message && !last.details.contains(&line) {
            last.details.push(line);
        }
    }
    last
}

async fn look_up(info: &ConnInfo, host: &Host) -> Result<Vec<Option<IpAddr>>, Failure> {
    let name = match (&host.address, host.hostaddr) {
        (_, Some(ip)) => return Ok(vec![Some(ip)]),
        (Address::Unix(_), None) => return Ok(vec![None]),
        (Address::Tcp(name), None) => name.as_str(),
    };
    let found = within(info.connect_timeout, tokio::net::lookup_host((name, host.port))).await?;
    let addresses: Vec<Option<IpAddr>> =
        found.map_err(Failure::Lookup)?.map(|address: SocketAddr| Some(address.ip())).collect();
    if addresses.is_empty() {
        Err(Failure::Lookup(std::io::Error::other("the name has no address")))
    } else {
        Ok(addresses)
    }
}

async fn within<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Result<T, Failure> {
    match limit {
        Some(limit) => timeout(limit, work).await.map_err(|_| Failure::Timeout(limit)),
        None => Ok(work.await),
    }
}

/// One address of one server.
struct Attempt<'a> {
    info: &'a ConnInfo,
    host: &'a Host,
    address: Option<IpAddr>,
    application_name: &'a str,
    access: Access,
    wanted: TargetSessionAttrs,
    tls: &'a MakeRustlsConnect,
}

impl Attempt<'_> {
    async fn run(&self) -> Result<Session, Failure> {
        // A socket is never encrypted, whatever sslmode says.
        let order: &[bool] = match (self.address, self.info.tls.mode) {
            (None, _) | (_, SslMode::Disable) => &[false],
            (_, SslMode::Allow) => &[false, true],
            (_, SslMode::Prefer) => &[true, false],
            (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[true],
        };
        let mut first: Option<Failure> = None;
        for encrypted in order {
            match within(self.info.connect_timeout, self.once(*encrypted)).await? {
                Ok(session) => return Ok(session),
                Err(failure) if failure.may_differ_with_tls() => match first.take() {
                    // Both ways failed for the way's sake: what the server said to TLS tells more, if it has TLS.
                    Some(plain) if *encrypted => return Err(if failure.is_without_tls() { plain } else { failure }),
                    Some(tls) => return Err(if tls.is_without_tls() { failure } else { tls }),
                    None => first = Some(failure),
                },
                Err(failure) => return Err(failure),
            }
        }
        Err(first.unwrap_or(Failure::Attributes("was not tried")))
    }

    async fn once(&self, encrypted: bool) -> Result<Session, Failure> {
        let connected = self.config(encrypted).connect(self.tls.clone()).await.map_err(Failure::Server)?;
        let label = self.info.with_host(self.host.clone()).label();
        let mut session = Session::start(connected, self.tls.clone(), label, encrypted);
        let state = prepare(&mut session, self.access).await.map_err(Failure::Server)?;
        match mismatch(self.wanted, &state) {
            Some(why) => {
                session.close().await;
                Err(Failure::Attributes(why))
            }
            None => Ok(session),
        }
    }

    fn config(&self, encrypted: bool) -> Config {
        let info = self.info;
        let mut config = Config::new();
        config.user(&info.user).dbname(&info.dbname).port(self.host.port).application_name(self.application_name);
        match (&self.host.address, self.address) {
            (Address::Tcp(name), Some(ip)) => {
                // A name that TLS cannot carry does not matter unless it is to be verified, and then it cannot be.
                let named = ServerName::try_from(name.as_str()).is_ok();
                config.host(if named { name.clone() } else { ip.to_string() }).hostaddr(ip);
            }
            (Address::Tcp(name), None) => {
                config.host(name);
            }
            (Address::Unix(_), Some(ip)) => {
                config.host(ip.to_string()).hostaddr(ip);
            }
            (Address::Unix(folder), None) => {
                config.host_path(folder);
            }
        }
        if let Some(password) = info.password_for(self.host) {
            config.password(password.expose_secret());
        }
        if let Some(options) = &info.options {
            config.options(options);
        }
        config.ssl_mode(if encrypted { config::SslMode::Require } else { config::SslMode::Disable });
        if encrypted && info.tls.negotiation == SslNegotiation::Direct {
            config.ssl_negotiation(config::SslNegotiation::Direct);
        }
        config.channel_binding(match info.channel_binding {
            ChannelBinding::Disable => config::ChannelBinding::Disable,
            ChannelBinding::Prefer => config::ChannelBinding::Prefer,
            ChannelBinding::Require => config::ChannelBinding::Require,
        });
        let keep = &info.keepalives;
        config.keepalives(keep.enabled);
        keep.idle.map(|time| config.keepalives_idle(time));
        keep.interval.map(|time| config.keepalives_interval(time));
        keep.count.map(|count| config.keepalives_retries(count));
        keep.user_timeout.map(|time| config.tcp_user_timeout(time));
        // Also for the connection that a cancel request makes later.
        info.connect_timeout.map(|time| config.connect_timeout(time));
        config
    }
}

/// What a session is, as far as `target_session_attrs` asks.
struct State {
    read_only: bool,
    in_recovery: bool,
}

const LOOK: &str = "SELECT pg_catalog.current_setting('server_version_num'), pg_catalog.pg_backend_pid(), \
                    pg_catalog.current_setting('transaction_read_only'), pg_catalog.pg_is_in_recovery()";

async fn prepare(session: &mut Session, access: Access) -> Result<State, tokio_postgres::Error> {
    let messages = session.client().simple_query(LOOK).await?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let text = |at| row.and_then(|row| row.get(at)).unwrap_or_default();
    let state = State { read_only: text(2) == "on", in_recovery: text(3) == "t" };
    let (version, pid) = (text(0).parse().unwrap_or_default(), text(1).parse().unwrap_or_default());
    session.client().batch_execute(&hardening(version, access)).await?;
    (session.server_version_num, session.backend_pid) = (version, pid);
    Ok(state)
}

/// Returns the settings for a migration that a server of this version knows.
fn hardening(version: u32, access: Access) -> String {
    let timeouts = [
        (0, "statement_timeout"),
        (90_300, "lock_timeout"),
        (90_600, "idle_in_transaction_session_timeout"),
        (140_000, "idle_session_timeout"),
        (170_000, "transaction_timeout"),
    ];
    let known = timeouts.iter().filter(|(since, _)| version >= *since);
    let mut sql: String = known.map(|(_, name)| format!("SET {name} = 0; ")).collect();
    sql.push_str("SET client_encoding = 'UTF8'; ");
    // Only a superuser may; for others the server's language stays.
    sql.push_str(
        "SELECT pg_catalog.set_config('lc_messages', 'C', false) FROM pg_catalog.pg_roles \
         WHERE rolname = current_user AND rolsuper; ",
    );
    sql.push_str(match access {
        Access::ReadOnly => "SET default_transaction_read_only = on; ",
        // What is recorded as done must outlive a crash of the server, whatever its configuration says.
        Access::ReadWrite => {
            "SELECT pg_catalog.set_config('synchronous_commit', 'on', false) \
             WHERE pg_catalog.current_setting('synchronous_commit') = 'off'; "
        }
    });
    sql
}

fn mismatch(wanted: TargetSessionAttrs, state: &State) -> Option<&'static str> {
    match wanted {
        TargetSessionAttrs::ReadWrite if state.read_only || state.in_recovery => Some("does not take writes"),
        TargetSessionAttrs::ReadOnly if !(state.read_only || state.in_recovery) => Some("is not read-only"),
        TargetSessionAttrs::Primary if state.in_recovery => Some("is a standby"),
        TargetSessionAttrs::Standby if !state.in_recovery => Some("is not a standby"),
        _ => None,
    }
}

/// Runs statements that return nothing of interest; the failure says what was being done.
///
/// # Errors
/// What the server said.
pub async fn execute(session: &Session, doing: &str, sql: &str) -> Result<(), StepError> {
    session.client().batch_execute(sql).await.map_err(|error| session.error(doing, &error))
}

/// The longest `application_name` that a server keeps, bytes (`NAMEDATALEN` - 1).
pub const LONGEST_NAME: usize = 63;

/// Returns a name of at most so many bytes, cut at a character.
#[must_use]
pub fn fitting(mut name: String, longest: usize) -> String {
    let end = (0..=longest.min(name.len())).rev().find(|at| name.is_char_boundary(*at)).unwrap_or_default();
    name.truncate(end);
    name
}

#[cfg(test)]
mod tests {
    use super::{Access, fitting, hardening};

    #[test]
    fn names_are_cut_at_characters() {
        assert_eq!(fitting("ééé".to_owned(), 3), "é");
        assert_eq!(fitting("abc".to_owned(), 63), "abc");
    }

    #[test]
    fn old_servers_get_only_what_they_know() {
        assert!(!hardening(90_200, Access::ReadWrite).contains("lock_timeout"));
        let old = hardening(90_600, Access::ReadOnly);
        assert!(old.contains("idle_in_transaction_session_timeout = 0") && !old.contains("idle_session_timeout"));
        assert!(old.contains("default_transaction_read_only = on"));
        assert!(hardening(170_000, Access::ReadWrite).contains("transaction_timeout = 0"));
        assert!(!old.contains("synchronous_commit") && hardening(0, Access::ReadWrite).contains("synchronous_commit"));
    }
}
