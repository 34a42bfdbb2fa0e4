//! Real PostgreSQL servers, one per test.
//!
//! A [`Cluster`] lives in a folder with a short path (a socket's path has 107 bytes), copied from a template data
//! directory that is made once per machine. Root starts it as `postgres` or `nobody`, since the server refuses to run
//! as root.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use tempfile::TempDir;

use crate::env::{Outcome, bin_folder, cache_folder};

/// What a server is to be like.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// The installed version: `13`, `15`, `15.18`, `16` or `18`.
    pub(crate) version: String,
    pub(crate) superuser: String,
    /// With a password, TCP connections need it (SCRAM); without, they are trusted. The socket is always trusted.
    pub(crate) password: Option<String>,
    /// Lines of `postgresql.conf`.
    pub(crate) conf: Vec<String>,
    /// Off makes a server quick and unsafe at a power cut, which no test has.
    pub(crate) fsync: bool,
}

impl Settings {
    /// Returns the settings of a plain server: superuser `postgres`, no password.
    pub(crate) fn new(version: &str) -> Self {
        Self { version: version.into(), superuser: "postgres".into(), password: None, conf: Vec::new(), fsync: false }
    }
}

/// A running server of the test's own, stopped and removed at the end.
pub(crate) struct Cluster {
    settings: Settings,
    folder: TempDir,
    pub(crate) port: u16,
    postmaster: Option<Child>,
}

impl Cluster {
    /// Starts a plain server of a version.
    pub(crate) fn start(version: &str) -> Self {
        Self::with(Settings::new(version))
    }

    /// Starts a server as wanted.
    pub(crate) fn with(settings: Settings) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("pg")
            .rand_bytes(6)
            .tempdir_in("/tmp")
            .expect("a folder in /tmp can be made");
        give_to_server_user(folder.path());
        let mut cluster = Self { settings, folder, port: 0, postmaster: None };
        cluster.fill();
        cluster.restart();
        if let Some(password) = &cluster.settings.password {
            let (role, password) = (cluster.settings.superuser.replace('"', "\"\""), password.replace('\'', "''"));
            cluster.psql(
                "postgres",
                &format!("SET password_encryption = 'scram-sha-256'; ALTER ROLE \"{role}\" PASSWORD '{password}'"),
            );
        }
        cluster
    }

    /// Puts a fresh server of the same kind in its place.
    pub(crate) fn renew(&mut self) {
        self.stop();
        fs::remove_dir_all(self.data()).expect("the data directory can be removed");
        self.fill();
        self.restart();
    }

    fn fill(&self) {
        let template = template(&self.settings);
        let copied = as_server_user("cp").arg("-r").arg("--reflink=auto").arg(&template).arg(self.data()).status();
        assert!(copied.is_ok_and(|status| status.success()), "cannot copy the template {}", template.display());
        self.configure();
    }

    fn configure(&self) {
        let on = if self.settings.fsync { "on" } else { "off" };
        let mut conf = format!(
            "fsync = {on}\nsynchronous_commit = {on}\nfull_page_writes = {on}\njit = off\nlisten_addresses = '127.0.0.1'\n\
             unix_socket_directories = '{}'\nshared_buffers = 32MB\nlog_line_prefix = '%m [%p] %a '\n",
            self.folder.path().display()
        );
        for line in &self.settings.conf {
            conf.push_str(line);
            conf.push('\n');
        }
        let hosts = if self.settings.password.is_some() { "scram-sha-256" } else { "trust" };
        let hba = format!("local all,replication all trust\nhost all,replication all 127.0.0.1/32 {hosts}\n");
        for (name, text, append) in [("postgresql.conf", conf, true), ("pg_hba.conf", hba, false)] {
            let file = File::options().append(append).write(true).truncate(!append).open(self.data().join(name));
            file.and_then(|mut file| file.write_all(text.as_bytes()))
                .expect("the server's configuration can be written");
        }
    }

    /// Starts the server again, also after [`Cluster::stop`] and [`Cluster::kill9`]; keeps its port when that is free.
    pub(crate) fn restart(&mut self) {
        self.stop();
        for _ in 0..8 {
            if self.port == 0 {
                let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
                self.port = free.expect("a port is free").port();
            }
            if self.launch() {
                return;
            }
            self.port = 0;
        }
        panic!("the server does not start:\n{}", self.log());
    }

    /// Starts the server once and waits until it takes connections; returns whether it does.
    fn launch(&mut self) -> bool {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join("log"))
            .expect("the log can be opened");
        let mut command = as_server_user(self.bin("postgres"));
        command.arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("the log can be shared")).stderr(log);
        let mut postmaster = command.spawn().expect("the server's program starts");
        let deadline = Instant::now() + Duration::from_secs(60);
        while Instant::now() < deadline {
            if postmaster.try_wait().expect("the server can be waited for").is_some() {
                return false;
            }
            let status = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            let own = status.lines().next() == Some(&postmaster.id().to_string());
            if own && status.lines().nth(7).is_some_and(|line| line.trim() == "ready") {
                self.postmaster = Some(postmaster);
                return true;
            }
            sleep(Duration::from_millis(5));
        }
        postmaster.kill().and_then(|()| postmaster.wait()).expect("the server can be killed");
        false
    }

    /// Stops the server in good order; clients are cut off.
    pub(crate) fn stop(&mut self) {
        self.end(Signal::SIGINT);
    }

    /// Starts the server again with the programs of another minor version.
    pub(crate) fn restart_as(&mut self, version: &str) {
        self.stop();
        version.clone_into(&mut self.settings.version);
        self.restart();
    }

    /// Kills the server and its backends at once, as a power cut would.
    pub(crate) fn kill9(&mut self) {
        let Some(postmaster) = &self.postmaster else {
            return;
        };
        let children = children_of(postmaster);
        self.end(Signal::SIGKILL);
        for pid in children {
            kill(Pid::from_raw(pid), Signal::SIGKILL).ok();
            while kill(Pid::from_raw(pid), None).is_ok() && !is_zombie(pid) {
                sleep(Duration::from_millis(2));
            }
        }
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut postmaster) = self.postmaster.take() else {
            return;
        };
        let pid = Pid::from_raw(i32::try_from(postmaster.id()).expect("a process id fits"));
        kill(pid, signal).ok();
        let deadline = Instant::now() + Duration::from_secs(30);
        while postmaster.try_wait().is_ok_and(|status| status.is_none()) {
            if Instant::now() > deadline {
                kill(pid, Signal::SIGKILL).ok();
            }
            sleep(Duration::from_millis(5));
        }
    }

    /// Returns the processes of sessions that came over TCP: all but those of [`Cluster::psql`].
    pub(crate) fn sessions(&self) -> Vec<i32> {
        let title = |pid: &i32| fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut found = self.postmaster.as_ref().map(children_of).unwrap_or_default();
        found.retain(|pid| title(pid).contains(" 127.0.0.1("));
        found
    }

    /// Starts the server again when it was killed.
    pub(crate) fn revive(&mut self) {
        if self.postmaster.is_none() {
            self.restart();
        }
    }

    /// Returns the folder of the server's socket.
    pub(crate) fn socket(&self) -> &Path {
        self.folder.path()
    }

    /// Returns the server's data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Returns what the server wrote to its log.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Returns a program of the server's version, or of 18 where that version came without its clients (13).
    pub(crate) fn bin(&self, program: &str) -> PathBuf {
        let own = bin_folder(&self.settings.version).join(program);
        if own.exists() { own } else { bin_folder("18").join(program) }
    }

    /// Returns the URL of a database over TCP, with the password when there is one.
    pub(crate) fn url(&self, database: &str) -> String {
        let password = self.settings.password.as_deref().map(|text| format!(":{}", escape(text))).unwrap_or_default();
        format!(
            "postgresql://{}{password}@127.0.0.1:{}/{}",
            escape(&self.settings.superuser),
            self.port,
            escape(database)
        )
    }

    /// Runs SQL through `psql` as the superuser and returns the rows, unaligned, without the last newline.
    #[track_caller]
    pub(crate) fn psql(&self, database: &str, sql: &str) -> String {
        self.try_psql(database, sql).unwrap_or_else(|stderr| panic!("psql failed in {database}: {stderr}\n{sql}"))
    }

    /// As [`Cluster::psql`]; the error is what `psql` wrote to stderr.
    pub(crate) fn try_psql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut command = Command::new(self.bin("psql"));
        command.args(["-XqAt", "-v", "ON_ERROR_STOP=1", "-f", "-"]).env_clear().env("PGCLIENTENCODING", "UTF8");
        command.env("PGHOST", self.socket()).env("PGPORT", self.port.to_string());
        command.env("PGUSER", &self.settings.superuser).env("PGDATABASE", database);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("psql starts");
        let mut stdin = child.stdin.take().expect("stdin is a pipe");
        let sql = sql.to_owned();
        let writer = std::thread::spawn(move || stdin.write_all(sql.as_bytes()));
        let outcome = Outcome::of(&child.wait_with_output().expect("psql ends"));
        writer.join().expect("the writer ends").ok();
        if outcome.status.success() {
            Ok(outcome.stdout.trim_end_matches('\n').to_owned())
        } else {
            Err(outcome.stderr)
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.end(Signal::SIGQUIT);
    }
}

fn children_of(postmaster: &Child) -> Vec<i32> {
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", postmaster.id())).unwrap_or_default();
    children.split_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_none_or(|rest| rest.is_empty() || rest.starts_with('Z'))
}

/// Returns the user that servers run as when the tests run as root.
fn server_user() -> Option<User> {
    if !geteuid().is_root() {
        return None;
    }
    let find = |name| User::from_name(name).ok().flatten();
    Some(find("postgres").or_else(|| find("nobody")).expect("the user postgres or nobody exists"))
}

fn as_server_user(program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .env("TZ", "UTC")
        .current_dir("/");
    drop_root(&mut command);
    command
}

/// Lets a program that refuses to run as root run as the servers do.
pub(crate) fn drop_root(command: &mut Command) {
    if let Some(user) = server_user() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
}

fn give_to_server_user(folder: &Path) {
    if let Some(user) = server_user() {
        chown(folder, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("root may give a folder away");
    }
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).expect("the folder's mode can be set");
}

/// Returns a fresh data directory to copy from, made on first use; other test processes wait for it.
fn template(settings: &Settings) -> PathBuf {
    let Settings { version, superuser, .. } = settings;
    let installed = fs::canonicalize(bin_folder(version)).expect("the installed version can be found");
    let made = fs::metadata(installed.join("postgres"))
        .and_then(|file| file.modified())
        .expect("the server's program has a date");
    let made = made.duration_since(std::time::UNIX_EPOCH).map(|age| age.as_secs()).unwrap_or_default();
    let user = server_user().map_or_else(|| "self".to_owned(), |user| user.name);
    let home = cache_folder().join(format!("templates-{user}"));
    fs::create_dir_all(&home).expect("the cache folder is writable");
    give_to_server_user(&home);
    let lock = File::create(cache_folder().join("templates.lock")).expect("the cache folder is writable");
    lock.lock().expect("the templates can be locked");
    let ready = home.join(format!("{version}-{made}-{}", escape(superuser)));
    if !ready.exists() {
        let fresh = home.join("fresh");
        fs::remove_dir_all(&fresh).ok();
        let mut command = as_server_user(installed.join("initdb"));
        command.arg("-D").arg(&fresh).args(["-U", superuser, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"]);
        let outcome = Outcome::of(&command.output().expect("initdb starts"));
        assert!(outcome.status.success(), "initdb failed:\n{}", outcome.stderr);
        fs::rename(&fresh, &ready).expect("the template can be put in place");
    }
    ready
}

/// Percent-encodes what a URL would read as its own.
fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}
