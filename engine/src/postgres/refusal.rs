//! Why a connection failed, said so that the reader can mend it: the server's name, the reason, the remedy.

use std::error::Error as _;
use std::io;
use std::time::Duration;

use rustls::CertificateError;

use super::conninfo::{Address, ConnInfo, Host, RootCert, SslMode};
use super::quote::ident;
use super::sqlstate::{chain, io_cause, server_error};
use crate::error::{ErrorKind, StepError};

/// How one attempt failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The host's name has no address.
    Lookup(io::Error),
    /// It took longer than this.
    Timeout(Duration),
    /// The attempt itself failed, or the server refused.
    Server(tokio_postgres::Error),
    /// The server is not what `target_session_attrs` asks for.
    Attributes(&'static str),
}

impl Failure {
    /// Returns whether the next address or server is to be tried.
    pub(super) fn leads_on(&self) -> bool {
        match self {
            Self::Lookup(_) | Self::Timeout(_) | Self::Attributes(_) => true,
            Self::Server(error) => match error.code() {
                Some(code) => code.code() == "57P03",
                None => !self.is_tls() && (io_cause(error).is_some() || error.is_closed()),
            },
        }
    }

    /// Returns whether the same address may accept with TLS instead of without, or the reverse: TLS itself failed, or
    /// `pg_hba.conf` has no line for this sort of connection.
    pub(super) fn may_differ_with_tls(&self) -> bool {
        let no_entry = matches!(self, Self::Server(error) if error.code().is_some_and(|code| code.code() == "28000"));
        no_entry || self.is_tls()
    }

    /// Returns whether the server has no TLS.
    pub(super) fn is_without_tls(&self) -> bool {
        matches!(self, Self::Server(error) if chain(error).contains("server does not support TLS"))
    }

    fn is_tls(&self) -> bool {
        // tokio-postgres keeps its kinds to itself, but for their words.
        matches!(self, Self::Server(error) if error.to_string().contains("TLS handshake") || tls_cause(error).is_some())
    }
}

/// Returns the TLS error below an error, if there is one; the driver wraps it in an [`io::Error`].
fn tls_cause(error: &tokio_postgres::Error) -> Option<&rustls::Error> {
    io_cause(error).and_then(io::Error::get_ref).and_then(|inner| inner.downcast_ref::<rustls::Error>())
}

/// Returns the failure for the reader.
pub(super) fn refusal(info: &ConnInfo, host: &Host, failure: &Failure) -> StepError {
    let said = |kind, why: &str| {
        let label = info.with_host(host.clone()).label();
        StepError::new(kind, format!("cannot connect to {label}: {why}"))
    };
    match failure {
        Failure::Lookup(error) => said(ErrorKind::Connection, &format!("the host {} is not known", host.name()))
            .detail(error.to_string())
            .help("correct the host's name in the connection, or this machine's name service"),
        Failure::Timeout(limit) => said(ErrorKind::Timeout, &format!("no answer within {} s", limit.as_secs_f64()))
            .help("check address, port and firewalls between here and the server, or raise connect_timeout"),
        Failure::Attributes(why) => said(ErrorKind::Connection, &format!("the server {why}"))
            .help("name the right server, or change target_session_attrs"),
        Failure::Server(error) => match (error.as_db_error(), tls_cause(error)) {
            (Some(db), _) => by_server(info, host, error, db.code().code(), db.message(), &said),
            (None, Some(tls)) => by_tls(info, host, tls, &said),
            (None, None) => by_driver(info, host, error, &said),
        },
    }
}

type Said<'a> = dyn Fn(ErrorKind, &str) -> StepError + 'a;

fn by_server(
    info: &ConnInfo,
    host: &Host,
    error: &tokio_postgres::Error,
    code: &str,
    message: &str,
    said: &Said<'_>,
) -> StepError {
    let mut told = server_error("connect", error);
    let kind = if code == "3D000" { ErrorKind::Object } else { told.kind };
    let mut new = said(kind, &told.message);
    new.details = std::mem::take(&mut told.details);
    new.sqlstate = told.sqlstate.take();
    let (user, dbname) = (&info.user, &info.dbname);
    let help = match code {
        "28P01" => Some(match (&info.password, info.passfile.warning()) {
            (Some(_), _) => format!("correct the password of {user}, or the secret it comes from"),
            (None, Some(warning)) => format!("{warning}; or give the password in the plan's secrets"),
            (None, None) => format!("correct the password of {user} in the password file"),
        }),
        "28000" if message.contains("pg_hba.conf") => {
            let address = message.split("host \"").nth(1).and_then(|rest| rest.split('"').next());
            let mask = |ip: &str| if ip.contains(':') { "128" } else { "32" };
            let line = match address {
                Some(ip) => format!("host {} {} {ip}/{} scram-sha-256", ident(dbname), ident(user), mask(ip)),
                None => format!("local {} {} scram-sha-256", ident(dbname), ident(user)),
            };
            Some(format!("add a line such as `{line}` to the server's pg_hba.conf and reload it"))
        }
        "28000" if message.contains("does not exist") => Some(format!("create the role {user} there, or connect as another")),
        "28000" if message.contains("log in") => Some(format!("ALTER ROLE {} LOGIN, or connect as another role", ident(user))),
        "28000" if message.contains("authentication failed") => {
            Some("the server's pg_hba.conf wants another identity here (peer, ident, certificate): connect as that user, or change its line".into())
        }
        "3D000" => Some(format!("create the database {dbname}, or correct its name in the connection")),
        "53300" => Some("end idle sessions, raise max_connections, or apply again later".into()),
        "57P03" => Some("the server is starting up or shutting down: wait until it is ready, then apply again".into()),
        "42501" => Some(format!("GRANT CONNECT ON DATABASE {} TO {}", ident(dbname), ident(user))),
        "08P01" if message.contains("startup parameter") => {
            Some("a pooler answers: connect to the server itself, or list the parameter in ignore_startup_parameters".into())
        }
        _ => told.help.take(),
    };
    if info.tls.mode == SslMode::Disable && message.contains("no encryption") && matches!(host.address, Address::Tcp(_))
    {
        new.details.push("the connection was not encrypted, as sslmode=disable asks".into());
    }
    new.help = help;
    new
}

fn by_tls(info: &ConnInfo, host: &Host, error: &rustls::Error, said: &Said<'_>) -> StepError {
    let said = |why: &str| said(ErrorKind::Authentication, why).detail(format!("TLS: {error}"));
    let roots = match &info.tls.root_cert {
        Some(RootCert::File(path)) => path.display().to_string(),
        _ => "the system's certificates".to_owned(),
    };
    match error {
        rustls::Error::InvalidCertificate(certificate) => match certificate {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                said(&format!("nobody in {roots} has signed the server's certificate"))
                    .help("let sslrootcert name the certificate of the authority that signed the server's")
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                said("the server's certificate, or its authority's, has expired")
                    .help("renew the certificate on the server")
            }
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                said("the server's certificate is not valid yet")
                    .help("compare the clocks of this machine and the server")
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                said(&format!("the server's certificate is not for the host {}", host.name())).help(
                    "connect by the name in the certificate (with hostaddr for the address), or use sslmode=verify-ca",
                )
            }
            CertificateError::Revoked => {
                said("the server's certificate has been revoked").help("renew the certificate on the server")
            }
            _ => said("the server's certificate cannot be verified")
                .help("look at it with `openssl s_client -starttls postgres`"),
        },
        rustls::Error::AlertReceived(alert) => {
            let new = said(&format!("the server ended the TLS handshake ({alert:?})"));
            match &info.tls.cert {
                None => new.help("the server may want a client certificate: set sslcert and sslkey"),
                Some(cert) => {
                    new.help(format!("check that the server trusts the client certificate {}", cert.display()))
                }
            }
        }
        _ => said("no TLS agreement with the server")
            .help("check ssl_min_protocol_version and ssl_ciphers on both sides"),
    }
}

fn by_driver(info: &ConnInfo, host: &Host, error: &tokio_postgres::Error, said: &Said<'_>) -> StepError {
    let text = chain(error);
    let socket = matches!(host.address, Address::Unix(_)) && host.hostaddr.is_none();
    if let Some(io) = io_cause(error) {
        let said = |why: &str| said(ErrorKind::Connection, why).detail(io.to_string());
        return match io.kind() {
            io::ErrorKind::ConnectionRefused => {
                said(if socket { "nobody listens on the socket" } else { "the connection is refused" }).help(format!(
                    "check that the server runs and listens on port {} there (listen_addresses)",
                    host.port
                ))
            }
            io::ErrorKind::NotFound => said("there is no such socket").help(format!(
                "check that the server runs with this port, and that its unix_socket_directories has {}",
                host.name()
            )),
            io::ErrorKind::PermissionDenied => {
                said("this user may not open the socket").help("check the rights of the socket and its folder")
            }
            io::ErrorKind::TimedOut => {
                said("no answer").help("check address, port and firewalls between here and the server")
            }
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => said("there is no way to the host")
                .help("check the address and the network between here and the server"),
            io::ErrorKind::InvalidData => said("what listens there does not speak PostgreSQL").help("check the port"),
            _ => said("the server closed the connection before an answer")
                .help("check that a PostgreSQL server listens there, and read its log"),
        };
    }
    let cause = error.source().map(ToString::to_string).unwrap_or_default();
    if cause == "password missing" {
        let new = said(ErrorKind::Authentication, "the server asks for a password, and none is known");
        let new = match info.passfile.warning() {
            Some(warning) => new.detail(warning),
            None => new,
        };
        return new.help("give the password in the plan's secrets, in PGPASSWORD, or in a password file");
    }
    if cause == "server does not support TLS" {
        let new = said(ErrorKind::Authentication, "the server has no TLS");
        return new.help("set ssl = on and a certificate there, or sslmode=disable where the network may be trusted");
    }
    if text.starts_with("authentication error") {
        return said(ErrorKind::Authentication, &format!("no agreement on the login: {cause}"))
            .help("check channel_binding, and the method in the server's pg_hba.conf");
    }
    if error.is_closed() {
        return said(ErrorKind::Connection, "the server closed the connection before an answer")
            .help("check that a PostgreSQL server listens there, and read its log");
    }
    said(ErrorKind::Connection, &text).help("check that a PostgreSQL server listens there, and read its log")
}
