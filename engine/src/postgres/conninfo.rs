//! A connection, fully described: what libpq would know after reading string, service file, environment and defaults.
//!
//! Follows the PostgreSQL manual's chapters 34.1 (connection strings), 34.15 (environment variables), 34.16 (password
//! file), 34.17 (service file) and 34.19 (TLS). Passwords are held as secrets; `Debug`, [`ConnInfo::label`] and errors
//! do not show them.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::environment::Environment;
use super::parameters::{ConnInfoError, Origin, Parameters, Problem, variables};
use super::pgpass::{PassFile, escape, push_line};
use super::quote::{conninfo_value, percent};
use crate::secret::{ExposeSecret as _, SecretString};

/// How TLS is asked for (`sslmode`; PostgreSQL manual, 34.19.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// Plain first, TLS if the server refuses that.
    Allow,
    /// TLS first, plain if the server or the certificate does not allow it; the default.
    Prefer,
    /// TLS; the certificate is verified only when root certificates are there.
    Require,
    /// TLS, and a trusted authority has signed the certificate.
    VerifyCa,
    /// TLS, a trusted signature, and the certificate names the host.
    VerifyFull,
}

/// How TLS begins (`sslnegotiation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslNegotiation {
    /// The server is asked first.
    Postgres,
    /// At once; servers from version 17 on.
    Direct,
}

/// Who may sign the server's certificate (`sslrootcert`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCert {
    /// The authorities of the operating system.
    System,
    /// The certificates of a PEM file.
    File(PathBuf),
}

/// A version of TLS (`ssl_min_protocol_version`, `ssl_max_protocol_version`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2, the oldest that pgplan speaks.
    V1_2,
    /// TLS 1.3.
    V1_3,
}

/// What the session must be (`target_session_attrs`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSessionAttrs {
    /// Anything.
    Any,
    /// Transactions may write.
    ReadWrite,
    /// Transactions may not write.
    ReadOnly,
    /// Not in hot standby.
    Primary,
    /// In hot standby.
    Standby,
    /// A standby if there is one, else anything.
    PreferStandby,
}

/// Whether a SCRAM login is bound to the TLS channel (`channel_binding`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where it can be.
    Prefer,
    /// Else no login.
    Require,
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// A host name or IP address.
    Tcp(String),
    /// The folder of a Unix-domain socket.
    Unix(PathBuf),
}

/// One of the servers that are tried in turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Where it listens; the name is what a certificate is compared with.
    pub address: Address,
    /// The numeric address to use instead of looking the name up.
    pub hostaddr: Option<IpAddr>,
    /// The port, also part of a socket's file name.
    pub port: u16,
}

/// Everything about TLS.
#[derive(Debug, Clone)]
pub struct TlsSettings {
    /// How TLS is asked for.
    pub mode: SslMode,
    /// How TLS begins.
    pub negotiation: SslNegotiation,
    /// Who may sign the server's certificate; `~/.postgresql/root.crt` when nothing was said and it exists.
    pub root_cert: Option<RootCert>,
    /// Certificates that were taken back (`sslcrl`).
    pub crl: Option<PathBuf>,
    /// The client's certificate, with its chain; `None` also for `sslcertmode=disable`.
    pub cert: Option<PathBuf>,
    /// The client's private key.
    pub key: Option<PathBuf>,
    /// The password of the private key.
    pub key_password: Option<SecretString>,
    /// Whether the host's name is told to the server before encryption (`sslsni`).
    pub sni: bool,
    /// The oldest TLS version that is accepted.
    pub min_version: TlsVersion,
    /// The newest TLS version that is offered.
    pub max_version: TlsVersion,
}

/// How a TCP connection is kept alive; `None` leaves a value to the operating system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keepalives {
    /// Whether the connection is probed at all.
    pub enabled: bool,
    /// Idle time before the first probe.
    pub idle: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
    /// Probes that may go unanswered.
    pub count: Option<u32>,
    /// Longest time that sent data may stay unacknowledged (`tcp_user_timeout`).
    pub user_timeout: Option<Duration>,
}

/// A connection's full description; see the module.
#[derive(Debug, Clone)]
pub struct ConnInfo {
    /// The servers to try, in this order; at least one.
    pub hosts: Vec<Host>,
    /// The role.
    pub user: String,
    /// The database.
    pub dbname: String,
    /// The password that was given; without one, [`ConnInfo::passfile`] is asked.
    pub password: Option<SecretString>,
    /// The password file; empty when a password was given.
    pub passfile: PassFile,
    /// TLS.
    pub tls: TlsSettings,
    /// Longest time for one attempt; `None` waits for ever. Ten seconds when nothing was said.
    pub connect_timeout: Option<Duration>,
    /// Command-line options for the server, such as `-c work_mem=1GB`.
    pub options: Option<String>,
    /// The application's name as far as the caller has none of its own.
    pub application_name: Option<String>,
    /// What the session must be.
    pub target_session_attrs: TargetSessionAttrs,
    /// Whether a SCRAM login is bound to the TLS channel.
    pub channel_binding: ChannelBinding,
    /// How a TCP connection is kept alive.
    pub keepalives: Keepalives,
}

/// The environment for a client program (`psql`, `pg_dump`, …), with the password kept apart.
#[derive(Debug, Clone)]
pub struct ClientEnv {
    /// Variables without secrets. Remove [`ClientEnv::cleared`] from the inherited environment first.
    pub vars: Vec<(String, String)>,
    /// What to put into a file of mode 600 and name in `PGPASSFILE`; `None` when no password is known.
    pub passfile: Option<SecretString>,
}

impl ClientEnv {
    /// Returns every variable that libpq reads, none of which a client should inherit.
    pub fn cleared() -> impl Iterator<Item = &'static str> {
        variables().chain(["PGSYSCONFDIR", "PGTZ", "PGDATESTYLE", "PGGEQO", "PGLOCALEDIR", "PGHOSTNAME", "PGREALM"])
    }
}

impl ConnInfo {
    /// Reads a URL or `keyword=value` string and completes it from service file, environment, password file, defaults.
    ///
    /// # Errors
    /// The first fault, with its place.
    pub fn parse(text: &str, env: &Environment) -> Result<Self, ConnInfoError> {
        Parameters::parse(text)?.resolve(env)
    }

    /// Returns the same connection to another database.
    #[must_use]
    pub fn with_dbname(&self, dbname: &str) -> Self {
        Self { dbname: dbname.to_owned(), ..self.clone() }
    }

    /// Returns the same connection with this password.
    #[must_use]
    pub fn with_password(&self, password: SecretString) -> Self {
        Self { password: Some(password), passfile: PassFile::default(), ..self.clone() }
    }

    /// Returns the same connection limited to one of its servers.
    #[must_use]
    pub fn with_host(&self, host: Host) -> Self {
        Self { hosts: vec![host], ..self.clone() }
    }

    /// Returns the password for one of the servers: the one that was given, else the password file's.
    #[must_use]
    pub fn password_for(&self, host: &Host) -> Option<&SecretString> {
        let from_file = || self.passfile.password(&host.name_in_passfile(), host.port, &self.dbname, &self.user);
        self.password.as_ref().or_else(from_file)
    }

    /// Returns `postgres://user@host:5432/db`, never with a password: the name of the server in messages.
    ///
    /// A socket shows as `postgres://user@/db?host=/run/postgresql&port=5432`.
    #[must_use]
    pub fn label(&self) -> String {
        let readable = |text: &str| percent(text).replace("%2F", "/");
        let mut text = format!("postgres://{}@", percent(&self.user));
        if self.hosts.iter().all(|host| matches!(host.address, Address::Tcp(_))) {
            let hosts: Vec<String> =
                self.hosts.iter().map(|host| format!("{}:{}", host.bracketed(), host.port)).collect();
            text.push_str(&hosts.join(","));
            return text + "/" + &percent(&self.dbname);
        }
        let hosts: Vec<String> = self.hosts.iter().map(|host| readable(&host.name())).collect();
        let ports: Vec<String> = self.hosts.iter().map(|host| host.port.to_string()).collect();
        // Writing to a string cannot fail.
        write!(text, "/{}?host={}&port={}", percent(&self.dbname), hosts.join(","), ports.join(",")).ok();
        text
    }

    /// Returns the variables and the password file for a client program, so that no password is on a command line.
    ///
    /// `PGAPPNAME` is set only when the description has an application name. `keepalives…` and `sslpassword` have no
    /// variables and are left out.
    ///
    /// # Errors
    /// A password that a password file cannot hold.
    pub fn to_client_env(&self) -> Result<ClientEnv, ConnInfoError> {
        let vars = self.settings().into_iter().filter_map(|(_, variable, value)| Some((variable?.to_owned(), value)));
        let mut text = String::new();
        for host in &self.hosts {
            // The file serves this one client only, and builds of libpq differ in what a socket's host is called.
            let field = match &host.address {
                Address::Tcp(name) => escape(name),
                Address::Unix(_) => "*".to_owned(),
            };
            match &self.password {
                Some(password) => {
                    let port = host.port.to_string();
                    push_line(&mut text, [&field, &port, "*", &escape(&self.user)], password.expose_secret());
                }
                None => self.passfile.lines_for(&host.name_in_passfile(), host.port, &self.user, &field, &mut text),
            }
        }
        let password = self.password.as_ref().map(|password| password.expose_secret()).unwrap_or_default();
        if [password, &self.user].iter().any(|text| text.contains(['\n', '\r', '\0'])) {
            return Err(ConnInfoError { problem: Problem::PasswordNotForFile, origin: Origin::Whole });
        }
        Ok(ClientEnv { vars: vars.collect(), passfile: (!text.is_empty()).then(|| text.into()) })
    }

    /// Returns the `keyword=value` string with the first server's password, such as a subscription needs.
    #[must_use]
    pub fn to_conninfo(&self) -> SecretString {
        let mut words: Vec<String> = Vec::new();
        for (keyword, _, value) in self.settings() {
            words.push(format!("{keyword}={}", conninfo_value(&value)));
        }
        if let Some(password) = self.hosts.first().and_then(|host| self.password_for(host)) {
            words.push(format!("password={}", conninfo_value(password.expose_secret())));
        }
        words.join(" ").into()
    }

    /// Returns the URL with the first server's password, such as an application's configuration holds.
    ///
    /// Beside user, password, hosts and database it has only the settings that differ from libpq's defaults.
    #[must_use]
    pub fn to_url(&self) -> SecretString {
        let mut text = format!("postgres://{}", percent(&self.user));
        if let Some(password) = self.hosts.first().and_then(|host| self.password_for(host)) {
            text.push(':');
            text.push_str(&percent(password.expose_secret()));
        }
        let hosts: Vec<String> = self.hosts.iter().map(|host| format!("{}:{}", host.bracketed(), host.port)).collect();
        write!(text, "@{}/{}", hosts.join(","), percent(&self.dbname)).ok();
        let mut mark = '?';
        for (keyword, _, value) in self.settings() {
            if !matches!(keyword, "host" | "port" | "user" | "dbname" | "connect_timeout") {
                write!(text, "{mark}{keyword}={}", percent(&value)).ok();
                mark = '&';
            }
        }
        text.into()
    }

    /// Returns keyword, variable and value of all that is not a secret and not libpq's default.
    fn settings(&self) -> Vec<(&'static str, Option<&'static str>, String)> {
        let join = |part: &dyn Fn(&Host) -> String| self.hosts.iter().map(part).collect::<Vec<_>>().join(",");
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let seconds = |time: Option<Duration>| time.map(|time| time.as_secs().to_string());
        let tls = &self.tls;
        let hostaddr = self.hosts.iter().any(|host| host.hostaddr.is_some());
        let root = tls.root_cert.as_ref().map(|root| match root {
            RootCert::System => "system".to_owned(),
            RootCert::File(file) => file.display().to_string(),
        });
        let keep = &self.keepalives;
        let listed = [
            ("host", Some("PGHOST"), Some(join(&|host| host.name()))),
            (
                "hostaddr",
                Some("PGHOSTADDR"),
                hostaddr.then(|| join(&|host| host.hostaddr.map(|ip| ip.to_string()).unwrap_or_default())),
            ),
            ("port", Some("PGPORT"), Some(join(&|host| host.port.to_string()))),
            ("user", Some("PGUSER"), Some(self.user.clone())),
            ("dbname", Some("PGDATABASE"), Some(self.dbname.clone())),
            ("sslmode", Some("PGSSLMODE"), name_of(MODES, tls.mode, Some(SslMode::Prefer))),
            (
                "sslnegotiation",
                Some("PGSSLNEGOTIATION"),
                name_of(NEGOTIATIONS, tls.negotiation, Some(SslNegotiation::Postgres)),
            ),
            ("sslrootcert", Some("PGSSLROOTCERT"), root),
            ("sslcrl", Some("PGSSLCRL"), path(&tls.crl)),
            ("sslcert", Some("PGSSLCERT"), path(&tls.cert)),
            ("sslkey", Some("PGSSLKEY"), path(&tls.key)),
            ("sslsni", Some("PGSSLSNI"), (!tls.sni).then(|| "0".into())),
            (
                "ssl_min_protocol_version",
                Some("PGSSLMINPROTOCOLVERSION"),
                name_of(VERSIONS, tls.min_version, Some(TlsVersion::V1_2)),
            ),
            (
                "ssl_max_protocol_version",
                Some("PGSSLMAXPROTOCOLVERSION"),
                name_of(VERSIONS, tls.max_version, Some(TlsVersion::V1_3)),
            ),
            ("connect_timeout", Some("PGCONNECT_TIMEOUT"), seconds(self.connect_timeout)),
            ("options", Some("PGOPTIONS"), self.options.clone()),
            ("application_name", Some("PGAPPNAME"), self.application_name.clone()),
            (
                "target_session_attrs",
                Some("PGTARGETSESSIONATTRS"),
                name_of(ATTRS, self.target_session_attrs, Some(TargetSessionAttrs::Any)),
            ),
            (
                "channel_binding",
                Some("PGCHANNELBINDING"),
                name_of(BINDINGS, self.channel_binding, Some(ChannelBinding::Prefer)),
            ),
            ("keepalives", None, (!keep.enabled).then(|| "0".into())),
            ("keepalives_idle", None, seconds(keep.idle)),
            ("keepalives_interval", None, seconds(keep.interval)),
            ("keepalives_count", None, keep.count.map(|count| count.to_string())),
            ("tcp_user_timeout", None, keep.user_timeout.map(|time| time.as_millis().to_string())),
        ];
        listed.into_iter().filter_map(|(keyword, variable, value)| Some((keyword, variable, value?))).collect()
    }
}

impl Host {
    /// Returns the host as the `host` keyword takes it.
    #[must_use]
    pub fn name(&self) -> String {
        match &self.address {
            Address::Tcp(name) => name.clone(),
            Address::Unix(folder) => folder.display().to_string(),
        }
    }

    fn bracketed(&self) -> String {
        match &self.address {
            Address::Tcp(name) if name.parse::<Ipv6Addr>().is_ok() => format!("[{name}]"),
            Address::Tcp(name) => percent(name),
            Address::Unix(folder) => percent(&folder.display().to_string()),
        }
    }

    /// libpq calls its default socket folder `localhost` there.
    fn name_in_passfile(&self) -> String {
        let default = ["/var/run/postgresql", "/run/postgresql", "/tmp"];
        match &self.address {
            Address::Unix(folder) if default.iter().any(|path| folder == Path::new(path)) => "localhost".to_owned(),
            _ => self.name(),
        }
    }
}

pub(super) const MODES: &[(&str, SslMode)] = &[
    ("disable", SslMode::Disable),
    ("allow", SslMode::Allow),
    ("prefer", SslMode::Prefer),
    ("require", SslMode::Require),
    ("verify-ca", SslMode::VerifyCa),
    ("verify-full", SslMode::VerifyFull),
];

pub(super) const NEGOTIATIONS: &[(&str, SslNegotiation)] =
    &[("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)];

// What is older than 1.2 is not spoken: as a lower limit it changes nothing.
pub(super) const VERSIONS: &[(&str, TlsVersion)] = &[
    ("TLSv1.2", TlsVersion::V1_2),
    ("TLSv1.3", TlsVersion::V1_3),
    ("TLSv1", TlsVersion::V1_2),
    ("TLSv1.1", TlsVersion::V1_2),
];

pub(super) const ATTRS: &[(&str, TargetSessionAttrs)] = &[
    ("any", TargetSessionAttrs::Any),
    ("read-write", TargetSessionAttrs::ReadWrite),
    ("read-only", TargetSessionAttrs::ReadOnly),
    ("primary", TargetSessionAttrs::Primary),
    ("standby", TargetSessionAttrs::Standby),
    ("prefer-standby", TargetSessionAttrs::PreferStandby),
];

pub(super) const BINDINGS: &[(&str, ChannelBinding)] =
    &[("disable", ChannelBinding::Disable), ("prefer", ChannelBinding::Prefer), ("require", ChannelBinding::Require)];

/// Returns the name of a value, unless it is the default.
fn name_of<T: Copy + PartialEq>(names: &[(&str, T)], value: T, default: Option<T>) -> Option<String> {
    let (name, _) = names.iter().find(|(_, named)| *named == value)?;
    (default != Some(value)).then(|| (*name).to_owned())
}
