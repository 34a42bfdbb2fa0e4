//! PostgreSQL servers of pgplan's own on this machine.
//!
//! One lives in one folder, mode 700, that belongs to the user it runs as: `data`, `log`, the socket, `pgpass` (the
//! superuser's random password, mode 600, nowhere else) and `pgplan.json`, by which pgplan knows that the folder is
//! its own and may be removed. TCP is open on the loopback only, and every connection needs the password (SCRAM).
//! It is an ordinary server: durable settings stay on, and it goes on running when pgplan ends.
//!
//! `PostgreSQL` refuses to run as root, so root starts it as another user.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _, chown, fchown},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use nix::{
    fcntl::OFlag,
    unistd::{User, geteuid},
};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

pub(crate) mod clone;

use super::PerformCx;
use crate::{
    action::{Output, OutputValue},
    error::{ErrorKind, StepError},
    op::CreateCluster,
    postgres::ConnInfo,
    secret::percent_encode,
    tool::{Client, Finished, Program},
};

/// The longest path of a socket, bytes: `sun_path` less its final zero.
const LONGEST_SOCKET: usize = 107;
/// How often another free port is tried.
const PORTS: usize = 5;
/// How long initdb may take, and how long a server may take to start or stop.
const PATIENCE: Duration = Duration::from_secs(300);

/// What `pgplan.json` says of a server.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Stamp {
    version: u32,
    bin: PathBuf,
    user: Option<String>,
    superuser: String,
    port: u16,
    /// Whether it was made to the end.
    complete: bool,
    /// The run that made it; absent where that was not yet noted.
    #[serde(default)]
    run: Option<String>,
}

/// Makes the server and starts it; one that is there already is started.
///
/// Outputs: `url` (secret), `port`, `data_dir`, `socket`.
///
/// # Errors
/// [`ErrorKind::ToolMissing`] when the version is not installed, [`ErrorKind::Refused`] when the folder holds something
/// else, [`ErrorKind::Tool`] with the server's log when it does not start.
pub async fn create(op: &CreateCluster, cx: &PerformCx) -> Result<Output, StepError> {
    let mut made = Cluster::open(&op.folder)?;
    if let Some(found) = &made
        && (!found.stamp.complete || found.stamp.version != op.version)
    {
        if found.stamp.complete {
            let message = format!("{} holds a server of version {}", op.folder.display(), found.stamp.version);
            return Err(
                StepError::new(ErrorKind::Refused, message).help("name another `data_dir`, or remove that server")
            );
        }
        // An earlier attempt was cut: nothing in it can be of use to anyone.
        found.remove(cx).await?;
        made = None;
    }
    let already_done = made.is_some();
    let cluster = match made {
        Some(made) => made,
        None => make(op, None, cx).await?,
    };
    cluster.start(cx).await?;
    let summary = format!("runs on port {} in {}", cluster.stamp.port, cluster.folder.display());
    let mut output = Output { already_done, ..Output::said(summary) }
        .with("url", OutputValue::Secret(Some(cluster.url(cx)?)))
        .with("port", cluster.stamp.port)
        .with("data_dir", cluster.data().display().to_string());
    if let Some(socket) = cluster.socket() {
        output = output.with("socket", socket.display().to_string());
    }
    Ok(output)
}

/// Stops the server and removes its folder; one that is not there counts as removed. One that another run made stays
/// when only this run's is to go.
///
/// # Errors
/// [`ErrorKind::Refused`] when pgplan did not make the folder, [`ErrorKind::Tool`] when the server does not stop.
pub async fn remove(folder: &Path, of_this_run: bool, cx: &PerformCx) -> Result<Output, StepError> {
    match Cluster::open(folder)? {
        Some(cluster) if of_this_run && cluster.stamp.run.as_ref() != Some(&cx.run_id) => {
            let summary = format!("the server in {} stays: this run has not made it", folder.display());
            Ok(Output { already_done: true, ..Output::said(summary) })
        }
        Some(cluster) => {
            cluster.remove(cx).await?;
            Ok(Output::said(format!("stopped the server and removed {}", folder.display())))
        }
        None => Ok(Output { already_done: true, ..Output::said("there is no such server any more") }),
    }
}

/// Stops the server in good order and keeps its data.
///
/// # Errors
/// As [`remove`].
pub async fn stop(folder: &Path, cx: &PerformCx) -> Result<Output, StepError> {
    match Cluster::open(folder)? {
        Some(cluster) => cluster.stop(cx).await.map(|()| Output::said("stopped the server")),
        None => Ok(Output { already_done: true, ..Output::said("there is no such server") }),
    }
}

struct Cluster {
    folder: PathBuf,
    stamp: Stamp,
}

/// Makes a server by initdb, or as a copy of the one that `from` leads to.
async fn make(op: &CreateCluster, from: Option<&ConnInfo>, cx: &PerformCx) -> Result<Cluster, StepError> {
    let client = cx.clients.of_major(&["initdb", "pg_ctl", "postgres"], op.version)?;
    let user = server_user(op.run_as.as_deref())?;
    let failed = |error: &io::Error| StepError::io("make the server's folder", &op.folder, error);
    if let Some(parent) = op.folder.parent() {
        fs::create_dir_all(parent).map_err(|error| failed(&error))?;
    }
    match fs::DirBuilder::new().mode(0o700).create(&op.folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && is_empty(&op.folder) => {
            fs::set_permissions(&op.folder, fs::Permissions::from_mode(0o700)).map_err(|error| failed(&error))?;
        }
        made => made.map_err(|error| failed(&error))?,
    }
    let user_name = user.as_ref().map(|user| user.name.clone());
    if let Some(user) = &user {
        chown(&op.folder, Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(|error| failed(&error))?;
    }
    let mut cluster = Cluster {
        folder: op.folder.clone(),
        stamp: Stamp {
            version: op.version,
            bin: client.dir.clone(),
            user: user_name,
            superuser: op.superuser.clone(),
            port: op.port.unwrap_or(0),
            complete: false,
            run: Some(cx.run_id.clone()),
        },
    };
    cluster.write_stamp()?;
    let password = random_password()?;
    cx.redactor.add(&format!("steps.{}.outputs.url", cx.step), &password);
    match from {
        None => cluster.init(op, &password, client, cx).await?,
        Some(from) => cluster.clone_of(from, op, &password, client, cx).await?,
    }
    cluster.choose_port(op, &password, cx).await?;
    cluster.stamp.complete = true;
    cluster.write_stamp()?;
    Ok(cluster)
}

impl Cluster {
    /// Returns the server in the folder; `None` when the folder is not there or empty.
    fn open(folder: &Path) -> Result<Option<Self>, StepError> {
        if !folder.exists() || is_empty(folder) {
            return Ok(None);
        }
        let file = folder.join("pgplan.json");
        let stamp = fs::read(&file).ok().and_then(|text| serde_json::from_slice(&text).ok());
        match stamp {
            Some(stamp) => Ok(Some(Self { folder: folder.to_owned(), stamp })),
            None => {
                let message = format!("{} is not empty and was not made by pgplan", folder.display());
                Err(StepError::new(ErrorKind::Refused, message).help("name a folder that does not exist yet"))
            }
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    /// Returns the folder of the socket; `None` when its path would be too long.
    fn socket(&self) -> Option<&Path> {
        let longest = self.folder.join(".s.PGSQL.65535");
        (longest.as_os_str().len() <= LONGEST_SOCKET).then_some(self.folder.as_path())
    }

    fn url(&self, cx: &PerformCx) -> Result<SecretString, StepError> {
        let file = self.folder.join("pgpass");
        let text = fs::read_to_string(&file).map_err(|error| StepError::io("read", &file, &error))?;
        let password = text.trim_end().rsplit(':').next().unwrap_or_default();
        let Stamp { superuser, port, .. } = &self.stamp;
        let url = format!("postgresql://{}:{password}@127.0.0.1:{port}/postgres", percent_encode(superuser));
        let url = SecretString::from(url);
        cx.redactor.add(&format!("steps.{}.outputs.url", cx.step), &url);
        Ok(url)
    }

    async fn init(
        &self,
        op: &CreateCluster,
        password: &SecretString,
        client: &Client,
        cx: &PerformCx,
    ) -> Result<(), StepError> {
        let pwfile = self.folder.join("pwfile");
        self.write_private(&pwfile, password.expose_secret())?;
        let program = self.as_user(&client.path("initdb"))?.arg("-D").arg(self.data()).args([
            format!("--username={}", op.superuser),
            format!("--pwfile={}", pwfile.display()),
            format!("--locale={}", op.locale),
            "--auth=scram-sha-256".to_owned(),
            "--encoding=UTF8".to_owned(),
            "--data-checksums".to_owned(),
        ]);
        let finished = self.run(program.shown("initdb"), cx).await;
        fs::remove_file(&pwfile).map_err(|error| StepError::io("remove", &pwfile, &error))?;
        finished?.check(&[]).map_err(|error| {
            let user = self.stamp.user.as_deref().unwrap_or("the user");
            error.help(format!(
                "`{user}` must be able to reach {} and {}: check the rights of the folders above",
                self.folder.display(),
                self.stamp.bin.display()
            ))
        })?;
        let text = "\n# written by pgplan\n".to_owned() + &self.conf(&op.settings);
        let file = self.data().join("postgresql.conf");
        let failed = |error: &io::Error| StepError::io("write", &file, error);
        // The folder belongs to another user, who must not be able to lead root elsewhere.
        let nofollow = OFlag::O_NOFOLLOW.bits();
        let mut conf =
            OpenOptions::new().append(true).custom_flags(nofollow).open(&file).map_err(|error| failed(&error))?;
        conf.write_all(text.as_bytes()).and_then(|()| conf.sync_all()).map_err(|error| failed(&error))
    }

    /// Returns lines of `postgresql.conf`: where the server listens, and these settings.
    fn conf(&self, settings: &BTreeMap<String, String>) -> String {
        let socket = self.socket().map(|folder| folder.display().to_string()).unwrap_or_default();
        let own = [("listen_addresses", "127.0.0.1"), ("unix_socket_directories", socket.as_str())];
        let settings = settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let line =
            |(name, value): (&str, &str)| format!("{name} = '{}'\n", value.replace('\\', r"\\").replace('\'', "''"));
        own.into_iter().chain(settings).map(line).collect()
    }

    /// Starts the server on the port of the plan, else on a free one: between finding and taking it, it may be taken.
    async fn choose_port(
        &mut self,
        op: &CreateCluster,
        password: &SecretString,
        cx: &PerformCx,
    ) -> Result<(), StepError> {
        for attempt in 1.. {
            self.stamp.port = match op.port {
                Some(port) => port,
                None => free_port()?,
            };
            let superuser = self.stamp.superuser.replace('\\', r"\\").replace(':', r"\:");
            let line = format!("127.0.0.1:{}:*:{superuser}:{}\n", self.stamp.port, password.expose_secret());
            self.write_private(&self.folder.join("pgpass"), &line)?;
            match self.start(cx).await {
                Err(error) if op.port.is_none() && attempt < PORTS && names_a_taken_port(&error) => {}
                result => return result,
            }
        }
        Ok(())
    }

    async fn start(&self, cx: &PerformCx) -> Result<(), StepError> {
        if self.runs(cx).await? {
            return Ok(());
        }
        let program = self.pg_ctl()?.args(["start", "-w", "-t", "120", "-l"]).arg(self.log()).arg("-o");
        let program = program.arg(format!("-p {}", self.stamp.port)).arg("-D").arg(self.data());
        let finished = self.run(program.shown("pg_ctl start"), cx).await?;
        finished.check(&[]).map_err(|error| {
            let log = fs::read_to_string(self.log()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let last = lines[lines.len().saturating_sub(10)..].iter();
            let error = StepError { details: Vec::new(), ..error };
            last.fold(error, |error, line| error.detail(cx.redactor.redact(line)))
                .help(format!("the server's log is {}", self.log().display()))
        })
    }

    async fn stop(&self, cx: &PerformCx) -> Result<(), StepError> {
        if !self.runs(cx).await? {
            return Ok(());
        }
        let program = self.pg_ctl()?.args(["stop", "-w", "-t", "120", "-m", "fast", "-D"]).arg(self.data());
        self.run(program.shown("pg_ctl stop"), cx).await?.check(&[])
    }

    async fn runs(&self, cx: &PerformCx) -> Result<bool, StepError> {
        if !self.data().join("postmaster.pid").exists() {
            return Ok(false);
        }
        let program = self.pg_ctl()?.arg("status").arg("-D").arg(self.data());
        let finished = self.run(program.shown("pg_ctl status"), cx).await?;
        // 3: no server is running (PostgreSQL manual, "pg_ctl").
        finished.check(&[0, 3])?;
        Ok(finished.status.success())
    }

    async fn remove(&self, cx: &PerformCx) -> Result<(), StepError> {
        self.stop(cx).await?;
        // The stamp goes last: a removal that was cut can be done again.
        let failed = |error: &io::Error| StepError::io("remove", &self.folder, error);
        for entry in fs::read_dir(&self.folder).map_err(|error| failed(&error))?.flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            match entry.path() {
                path if entry.file_name() == "pgplan.json" => drop(path),
                path if is_folder => fs::remove_dir_all(path).map_err(|error| failed(&error))?,
                path => fs::remove_file(path).map_err(|error| failed(&error))?,
            }
        }
        fs::remove_dir_all(&self.folder).map_err(|error| failed(&error))
    }

    fn pg_ctl(&self) -> Result<Program, StepError> {
        self.as_user(&self.stamp.bin.join("pg_ctl"))
    }

    /// Returns the program started as the server's user.
    fn as_user(&self, program: &Path) -> Result<Program, StepError> {
        let program = Program::new(program).cwd(&self.folder);
        Ok(match self.user()? {
            Some(user) => program.user(user.uid.as_raw(), user.gid.as_raw()),
            None => program,
        })
    }

    /// Returns whom the server runs as when that is not the caller.
    fn user(&self) -> Result<Option<User>, StepError> {
        self.stamp.user.as_deref().filter(|_| geteuid().is_root()).map(find_user).transpose()
    }

    async fn run(&self, program: Program, cx: &PerformCx) -> Result<Finished, StepError> {
        // Messages are read below, and initdb takes what the environment says for granted.
        program
            .env("LC_ALL", "C.UTF-8".to_owned())
            .time_limit(PATIENCE)
            .run(&Arc::clone(&cx.redactor), &cx.cancel)
            .await
    }

    fn write_stamp(&self) -> Result<(), StepError> {
        self.write_private(&self.folder.join("pgplan.json"), &serde_json::json!(self.stamp).to_string())
    }

    /// Writes a file of mode 600 that belongs to the server's user, whole or not at all.
    fn write_private(&self, path: &Path, text: &str) -> Result<(), StepError> {
        let failed = |error: &io::Error| StepError::io("write", path, error);
        let fresh = path.with_extension("new");
        if fresh.exists() {
            fs::remove_file(&fresh).map_err(|error| failed(&error))?;
        }
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh).map_err(|error| failed(&error))?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|error| failed(&error))?;
        if let Some(user) = self.user()? {
            fchown(&file, Some(user.uid.as_raw()), Some(user.gid.as_raw())).map_err(|error| failed(&error))?;
        }
        fs::rename(&fresh, path).map_err(|error| failed(&error))
    }
}

/// Returns whom root starts the server as; `None` when pgplan is not root.
fn server_user(wanted: Option<&str>) -> Result<Option<User>, StepError> {
    if !geteuid().is_root() {
        return match wanted {
            Some(name) if find_user(name)?.uid != geteuid() => {
                let message = format!("only root can run a server as `{name}`");
                Err(StepError::new(ErrorKind::Permission, message)
                    .help("leave `run_as` out, or run pgplan as that user"))
            }
            _ => Ok(None),
        };
    }
    match wanted {
        Some(name) => find_user(name).map(Some),
        None => find_user("postgres").or_else(|_| find_user("nobody")).map(Some),
    }
}

fn find_user(name: &str) -> Result<User, StepError> {
    let user = User::from_name(name).ok().flatten().filter(|user| !user.uid.is_root());
    user.ok_or_else(|| {
        StepError::new(ErrorKind::Refused, format!("there is no system user `{name}` a server could run as"))
            .help("create it, or name another one with `run_as`; PostgreSQL refuses to run as root")
    })
}

fn is_empty(folder: &Path) -> bool {
    fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

fn free_port() -> Result<u16, StepError> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| StepError::new(ErrorKind::Resources, format!("no port is free on the loopback: {error}")))
}

fn names_a_taken_port(error: &StepError) -> bool {
    error
        .details
        .iter()
        .any(|line| line.contains("Address already in use") || line.contains("could not create any TCP"))
}

/// Returns 32 random bytes in hexadecimal digits, which need no quoting anywhere.
pub(crate) fn random_password() -> Result<SecretString, StepError> {
    let source = Path::new("/dev/urandom");
    let mut bytes = [0; 32];
    let read = File::open(source).and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| StepError::io("read", source, &error))?;
    Ok(SecretString::from(bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()))
}
