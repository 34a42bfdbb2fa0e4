//! From settings as written to a full description: the order is libpq's, what is set first wins.
//!
//! Explicit settings, service file, environment, password file, defaults (PostgreSQL manual, 34.1.2 and 34.15–34.17).
//! Two things are stricter than libpq: a certificate or key file that was named must exist, and a keyword that
//! restricts the connection in a way pgplan cannot keep is refused.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::conninfo::{
    ATTRS, Address, BINDINGS, ChannelBinding, ConnInfo, Host, Keepalives, MODES, NEGOTIATIONS, RootCert, SslMode,
    SslNegotiation, TargetSessionAttrs, TlsSettings, TlsVersion, VERSIONS,
};
use super::environment::Environment;
use super::parameters::{ConnInfoError, Origin, Parameters, Problem};
use super::pgpass::PassFile;
use super::service;

const DEFAULT_PORT: u16 = 5432;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const DEFAULT_SOCKET_FOLDER: &str = "/var/run/postgresql";

impl Parameters {
    /// Completes the settings from service file, environment, password file and defaults.
    ///
    /// # Errors
    /// The first fault, with its place.
    pub fn resolve(&self, env: &Environment) -> Result<ConnInfo, ConnInfoError> {
        let mut all = self.clone();
        let named = |keyword: &str, variable: &str| {
            self.get(keyword).map(|setting| setting.value().to_owned()).or_else(|| env.get(variable).map(str::to_owned))
        };
        if let Some(name) = named("service", "PGSERVICE") {
            let file = named("servicefile", "PGSERVICEFILE");
            all.fill_from(service::find(&name, file.as_deref(), env).map_err(|mut error| {
                if let (Origin::Whole, Some(setting)) = (&error.origin, self.get("service")) {
                    error.origin = setting.origin.clone();
                }
                error
            })?);
        }
        all.fill_from(Self::from_variables(|name| env.get(name))?);
        all.described(env)
    }

    fn described(&self, env: &Environment) -> Result<ConnInfo, ConnInfoError> {
        let text = |keyword| self.get(keyword).map(|setting| setting.value().to_owned());
        let user = text("user").or_else(|| env.os_user.clone()).filter(|user| !user.is_empty());
        let user = user.ok_or(ConnInfoError { problem: Problem::NoUser, origin: Origin::Whole })?;
        let password = text("password");
        let passfile = match (&password, text("passfile").map(PathBuf::from).or_else(|| env.in_home(".pgpass"))) {
            (None, Some(path)) => PassFile::read(&path),
            _ => PassFile::default(),
        };
        let seconds =
            |keyword| Ok(self.number(keyword)?.filter(|n| *n > 0).map(|n| Duration::from_secs(n.unsigned_abs())));
        Ok(ConnInfo {
            hosts: self.hosts()?,
            dbname: text("dbname").unwrap_or_else(|| user.clone()),
            user,
            password: password.map(Into::into),
            passfile,
            tls: self.tls(env)?,
            connect_timeout: match self.number("connect_timeout")? {
                None => Some(DEFAULT_TIMEOUT),
                Some(_) => seconds("connect_timeout")?,
            },
            options: text("options"),
            application_name: text("application_name"),
            target_session_attrs: self.choose(
                "target_session_attrs",
                ATTRS,
                "any, read-write, read-only, primary, standby or prefer-standby",
                TargetSessionAttrs::Any,
            )?,
            channel_binding: self.choose(
                "channel_binding",
                BINDINGS,
                "disable, prefer or require",
                ChannelBinding::Prefer,
            )?,
            keepalives: Keepalives {
                enabled: self.number("keepalives")? != Some(0),
                idle: seconds("keepalives_idle")?,
                interval: seconds("keepalives_interval")?,
                count: self.number("keepalives_count")?.and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0),
                user_timeout: self
                    .number("tcp_user_timeout")?
                    .filter(|n| *n > 0)
                    .map(|n| Duration::from_millis(n.unsigned_abs())),
            },
        })
    }

    fn hosts(&self) -> Result<Vec<Host>, ConnInfoError> {
        let list = |keyword| self.list(keyword);
        let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
        let count = names.len().max(addresses.len()).max(1);
        for (keyword, found) in [("host", names.len()), ("hostaddr", addresses.len()), ("port", ports.len())] {
            let one_for_all = keyword == "port" && found == 1;
            if found != 0 && found != count && !one_for_all {
                return Err(self.fault(keyword, Problem::Count(found, keyword, count)));
            }
        }
        let mut hosts = Vec::with_capacity(count);
        for at in 0..count {
            let hostaddr = match addresses.get(at) {
                Some(text) if !text.is_empty() => Some(text.parse::<IpAddr>().map_err(|_| {
                    self.fault("hostaddr", Problem::BadValue("hostaddr", "a numeric IPv4 or IPv6 address"))
                })?),
                _ => None,
            };
            let address = match (names.get(at).filter(|name| !name.is_empty()), hostaddr) {
                (Some(name), _) if name.starts_with('/') => Address::Unix(name.into()),
                (Some(name), _) if name.starts_with('@') => {
                    return Err(self.fault("host", Problem::Unsupported("host")));
                }
                (Some(name), _) => Address::Tcp(name.clone()),
                (None, Some(ip)) => Address::Tcp(ip.to_string()),
                (None, None) if Path::new(DEFAULT_SOCKET_FOLDER).is_dir() => {
                    Address::Unix(DEFAULT_SOCKET_FOLDER.into())
                }
                (None, None) => Address::Tcp("localhost".into()),
            };
            let port = ports.get(at).or(ports.first().filter(|_| ports.len() == 1)).map_or("", String::as_str);
            let port = if port.is_empty() { Some(DEFAULT_PORT) } else { port.parse().ok().filter(|port| *port > 0) };
            let port = port.ok_or_else(|| self.fault("port", Problem::BadPort))?;
            hosts.push(Host { address, hostaddr, port });
        }
        Ok(hosts)
    }

    fn tls(&self, env: &Environment) -> Result<TlsSettings, ConnInfoError> {
        let path = |keyword: &str, default: &str| {
            let usual = || env.in_home(&format!(".postgresql/{default}")).filter(|path| path.exists());
            self.get(keyword).map(|setting| PathBuf::from(setting.value())).or_else(usual)
        };
        let system = self.get("sslrootcert").is_some_and(|setting| setting.value() == "system");
        let usual = if system { SslMode::VerifyFull } else { SslMode::Prefer };
        let expected = "disable, allow, prefer, require, verify-ca or verify-full";
        let mode = self.choose("sslmode", MODES, expected, usual)?;
        if system && mode != SslMode::VerifyFull {
            let why = "sslrootcert=system goes only with sslmode=verify-full";
            return Err(self.fault("sslmode", Problem::Contradiction(why)));
        }
        let negotiation =
            self.choose("sslnegotiation", NEGOTIATIONS, "postgres or direct", SslNegotiation::Postgres)?;
        let weak = matches!(mode, SslMode::Disable | SslMode::Allow | SslMode::Prefer);
        if negotiation == SslNegotiation::Direct && weak {
            let why = "sslnegotiation=direct needs sslmode=require or stronger";
            return Err(self.fault("sslnegotiation", Problem::Contradiction(why)));
        }
        let cert_modes = [("allow", true), ("disable", false)];
        let send_cert = self.choose("sslcertmode", &cert_modes, "allow or disable", true)?;
        let cert = path("sslcert", "postgresql.crt").filter(|_| send_cert);
        let versions = "TLSv1.2 or TLSv1.3";
        let (min_version, max_version) = (
            self.choose("ssl_min_protocol_version", VERSIONS, versions, TlsVersion::V1_2)?,
            self.choose("ssl_max_protocol_version", VERSIONS, versions, TlsVersion::V1_3)?,
        );
        if min_version > max_version {
            let why = "ssl_min_protocol_version is above ssl_max_protocol_version";
            return Err(self.fault("ssl_min_protocol_version", Problem::Contradiction(why)));
        }
        Ok(TlsSettings {
            mode,
            negotiation,
            root_cert: if system {
                Some(RootCert::System)
            } else {
                path("sslrootcert", "root.crt").map(RootCert::File)
            },
            crl: path("sslcrl", "root.crl"),
            key: path("sslkey", "postgresql.key").filter(|_| cert.is_some()),
            cert,
            key_password: self.get("sslpassword").map(|setting| setting.value().into()),
            sni: self.number("sslsni")? != Some(0),
            min_version,
            max_version,
        })
    }

    fn list(&self, keyword: &str) -> Vec<String> {
        let text = self.get(keyword).map(|setting| setting.value().to_owned());
        text.map(|text| text.split(',').map(|part| part.trim().to_owned()).collect()).unwrap_or_default()
    }

    fn number(&self, keyword: &'static str) -> Result<Option<i64>, ConnInfoError> {
        let parse = |setting: &super::parameters::Setting| setting.value().trim().parse::<i32>().map(i64::from);
        let wrong = |_| self.fault(keyword, Problem::BadValue(keyword, "a whole number"));
        self.get(keyword).map(parse).transpose().map_err(wrong)
    }

    fn choose<T: Copy>(
        &self,
        keyword: &'static str,
        names: &[(&str, T)],
        expected: &'static str,
        default: T,
    ) -> Result<T, ConnInfoError> {
        let Some(setting) = self.get(keyword) else {
            return Ok(default);
        };
        let found = names.iter().find(|(name, _)| *name == setting.value());
        found.map(|(_, value)| *value).ok_or_else(|| self.fault(keyword, Problem::BadValue(keyword, expected)))
    }

    fn fault(&self, keyword: &str, problem: Problem) -> ConnInfoError {
        ConnInfoError { problem, origin: self.get(keyword).map_or(Origin::Whole, |setting| setting.origin.clone()) }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::Path;
    use std::time::Duration;

    use proptest::prelude::{ProptestConfig, prop_assert_eq, proptest};

    use super::super::conninfo::{Address, ConnInfo, RootCert, SslMode};
    use super::super::environment::Environment;
    use super::super::parameters::{Origin, Problem};
    use crate::secret::ExposeSecret as _;

    fn env(vars: &[(&str, &str)], home: Option<&Path>) -> Environment {
        Environment {
            vars: vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            home: home.map(Path::to_owned),
            os_user: Some("osuser".into()),
        }
    }

    fn parse(text: &str) -> ConnInfo {
        ConnInfo::parse(text, &env(&[], None)).unwrap()
    }

    fn problem(text: &str, vars: &[(&str, &str)]) -> (Problem, Origin) {
        let error = ConnInfo::parse(text, &env(vars, None)).unwrap_err();
        (error.problem, error.origin)
    }

    fn password_of(info: &ConnInfo) -> Option<&str> {
        info.password_for(&info.hosts[0]).map(|password| password.expose_secret())
    }

    #[test]
    fn defaults_are_libpqs() {
        let info = parse("host=h");
        assert_eq!((info.user.as_str(), info.dbname.as_str(), info.hosts[0].port), ("osuser", "osuser", 5432));
        assert_eq!((info.tls.mode, info.connect_timeout), (SslMode::Prefer, Some(Duration::from_secs(10))));
        assert_eq!(parse("user=u").dbname, "u");
        assert_eq!(parse("host=h connect_timeout=0").connect_timeout, None);
        assert_eq!(info.label(), "postgres://osuser@h:5432/osuser");
        let nobody = Environment::default();
        assert_eq!(ConnInfo::parse("host=h", &nobody).unwrap_err().problem, Problem::NoUser);
    }

    #[test]
    fn explicit_beats_service_beats_environment_beats_passfile() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(".pg_service.conf"), "[s]\nhost=service\nport=1\nuser=service\n").unwrap();
        let pgpass = dir.path().join(".pgpass");
        fs::write(&pgpass, "service:1:*:*:one\nservice:2:db:*:two\nservice:2:*:*:three\n").unwrap();
        fs::set_permissions(&pgpass, fs::Permissions::from_mode(0o600)).unwrap();
        let vars = [("PGSERVICE", "s"), ("PGHOST", "env"), ("PGUSER", "env"), ("PGDATABASE", "env")];
        let environment = env(&vars, Some(dir.path()));
        let info = ConnInfo::parse("port=2", &environment).unwrap();
        assert_eq!(info.label(), "postgres://service@service:2/env");
        assert_eq!(password_of(&info), Some("three"));
        assert_eq!(password_of(&info.with_dbname("db")), Some("two"), "the file is asked for the new database");
        assert_eq!(password_of(&info.with_password("given".into())), Some("given"));

        let mut vars = vars.to_vec();
        vars.push(("PGPASSWORD", "from env"));
        let info = ConnInfo::parse("postgres:///x", &env(&vars, Some(dir.path()))).unwrap();
        assert_eq!((info.label().as_str(), password_of(&info)), ("postgres://service@service:1/x", Some("from env")));
    }

    #[test]
    fn several_hosts_sockets_and_ipv6() {
        let info = parse("postgres://u@a:1,[::1]:2,b/d");
        assert_eq!(info.label(), "postgres://u@a:1,[::1]:2,b:5432/d");
        let info = parse("host=a,b port=7 user=u dbname='d e'");
        assert_eq!(info.label(), "postgres://u@a:7,b:7/d%20e");
        let info = parse("postgres://u@%2Ftmp%2Fpg:5433/d");
        assert_eq!(info.hosts[0].address, Address::Unix("/tmp/pg".into()));
        assert_eq!(info.label(), "postgres://u@/d?host=/tmp/pg&port=5433");
        assert_eq!(info.to_url().expose_secret(), "postgres://u@%2Ftmp%2Fpg:5433/d");
        let info = parse("hostaddr=::1 user=u");
        assert_eq!((info.label().as_str(), info.hosts[0].hostaddr.is_some()), ("postgres://u@[::1]:5432/u", true));
        assert_eq!(problem("host=a,b port=1,2,3", &[]), (Problem::Count(3, "port", 2), Origin::Text(9)));
        assert_eq!(problem("host=a hostaddr=::1,::2", &[]).0, Problem::Count(1, "host", 2));
    }

    #[test]
    fn faults_have_places() {
        assert_eq!(problem("host=h", &[("PGPORT", "x")]), (Problem::BadPort, Origin::Variable("PGPORT")));
        assert_eq!(problem("host=h sslmode=on", &[]).1, Origin::Text(7));
        assert_eq!(problem("host=h service=x", &[]), (Problem::UnknownService("x".into()), Origin::Text(7)));
        assert_eq!(problem("host=h", &[("PGREQUIREAUTH", "scram-sha-256")]).0, Problem::Unsupported("require_auth"));
        assert!(matches!(problem("host=h sslrootcert=system sslmode=require", &[]).0, Problem::Contradiction(_)));
        assert!(matches!(problem("host=h sslnegotiation=direct", &[]).0, Problem::Contradiction(_)));
        let text = ConnInfo::parse("postgres://u@h/d?connect_timeout=ten", &env(&[], None)).unwrap_err().to_string();
        assert_eq!(text, "connection string, byte 17: `connect_timeout` must be a whole number");
    }

    #[test]
    fn certificates_have_usual_places() {
        assert_eq!(parse("host=h sslrootcert=system").tls.mode, SslMode::VerifyFull);
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(".postgresql")).unwrap();
        for name in ["root.crt", "postgresql.crt", "postgresql.key"] {
            fs::write(dir.path().join(".postgresql").join(name), "").unwrap();
        }
        let tls = |text| ConnInfo::parse(text, &env(&[], Some(dir.path()))).unwrap().tls;
        assert_eq!(tls("host=h").root_cert, Some(RootCert::File(dir.path().join(".postgresql/root.crt"))));
        assert!(tls("host=h").key.is_some());
        assert!(tls("host=h sslcertmode=disable").cert.is_none());
        assert_eq!(tls("host=h sslrootcert=/x").root_cert, Some(RootCert::File("/x".into())));
    }

    #[test]
    fn clients_get_variables_and_a_password_file() {
        let info = parse("postgres://u%3Av:p%3A%5Cw@h,%2Fsock:2/d?sslmode=require&sslrootcert=/ca&application_name=a");
        let client = info.to_client_env().unwrap();
        let vars: Vec<String> = client.vars.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            vars.join(" "),
            "PGHOST=h,/sock PGPORT=5432,2 PGUSER=u:v PGDATABASE=d PGSSLMODE=require PGSSLROOTCERT=/ca \
             PGCONNECT_TIMEOUT=10 PGAPPNAME=a"
        );
        assert_eq!(client.passfile.unwrap().expose_secret(), "h:5432:*:u\\:v:p\\:\\\\w\n*:2:*:u\\:v:p\\:\\\\w\n");
        assert!(parse("host=h").to_client_env().unwrap().passfile.is_none());
        let error = parse("host=h password='a\nb'").to_client_env().unwrap_err();
        assert_eq!(error.problem, Problem::PasswordNotForFile);
    }

    #[test]
    fn nothing_shows_the_password() {
        let info = parse("postgres://u:hunter2@h/d?sslpassword=hunter2");
        let shown = format!("{info:?} {} {:?} {:?}", info.label(), info.to_client_env(), info.to_url());
        assert!(!shown.contains("hunter2"), "{shown}");
        let environment = env(&[("PGPASSWORD", "hunter2")], None);
        assert!(!format!("{environment:?}").contains("hunter2"));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn descriptions_are_read_back(user in "[^\0]{1,9}", password in "[^\0]{1,9}", dbname in "[^\0]{1,9}", port in 1u16..) {
            let mut info = parse("host=example.org").with_dbname(&dbname).with_password(password.clone().into());
            info.user = user;
            info.hosts[0].port = port;
            for text in [info.to_url(), info.to_conninfo()] {
                let again = parse(text.expose_secret());
                prop_assert_eq!(again.label(), info.label());
                prop_assert_eq!(password_of(&again), Some(password.as_str()));
            }
        }
    }
}
