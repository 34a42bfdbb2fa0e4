//! Programs: finding PostgreSQL's clients, starting a program under guard, reading what it prints, ending it.
//!
//! The one place that starts processes. A program runs in its own process group, with a guard that ends the group
//! should pgplan be killed ([`crate::guard`]); its standard input is closed or fed; the `PG*` variables of pgplan's
//! own environment do not leak into it, so that nothing but the plan says which server it talks to. When it ends,
//! whatever it left behind in its group is ended too: a daemon leaves the group (`setsid`, as `pg_ctl` does).
//!
//! What a program prints is kept raw here and redacted when it is shown: only then is known what was secret in it.

mod capture;
mod clients;
mod running;
#[cfg(test)]
mod tests;

pub use capture::{Captured, Stream};
pub use clients::{Client, Clients, Places};
pub(crate) use clients::{read_version, version_name, version_number};
pub use running::{Finished, Running};
pub(crate) use running::{ending, last_lines};

use std::{
    ffi::OsString,
    fmt,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use nix::unistd::Pid;
use secrecy::{ExposeSecret, SecretString};
use tokio::{io::AsyncWriteExt as _, process::Command, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    error::{ErrorKind, StepError},
    redact::Redactor,
};
use running::{Guard, drain, read};

/// How long a program may take to obey a signal before the next, stronger one.
pub const GRACE: Duration = Duration::from_secs(5);
/// How much of standard error is kept at its beginning and at its end, bytes.
const KEPT_STDERR: usize = 64 * 1024;

/// Called with every line a program prints, raw.
pub type OnLine = Arc<dyn Fn(Stream, &str) + Send + Sync>;

/// A program to start; `Debug` shows neither arguments nor variables, which may be secret.
pub struct Program {
    program: OsString,
    shown: String,
    args: Vec<OsString>,
    env: Vec<(String, SecretString)>,
    cwd: Option<PathBuf>,
    user: Option<(u32, u32)>,
    stdin: Input,
    pgpass: Option<SecretString>,
    time_limit: Option<Duration>,
    keep: usize,
    on_line: Option<OnLine>,
}

/// What a program reads on standard input.
#[derive(Default)]
enum Input {
    #[default]
    Nothing,
    Text(SecretString),
    Pipe,
}

impl Program {
    /// Returns a program without arguments; a name without a slash is looked up in `PATH`.
    #[must_use]
    pub fn new(program: impl Into<OsString>) -> Self {
        let program = program.into();
        let shown = Path::new(&program).file_name().unwrap_or(&program).to_string_lossy().into_owned();
        Self {
            program,
            shown,
            args: Vec::new(),
            env: Vec::new(),
            cwd: None,
            user: None,
            stdin: Input::Nothing,
            pgpass: None,
            time_limit: None,
            keep: 64 * 1024,
            on_line: None,
        }
    }

    /// Returns the program named like this in messages: its command line without secrets.
    #[must_use]
    pub fn shown(mut self, shown: impl Into<String>) -> Self {
        self.shown = shown.into();
        self
    }

    /// Returns the program with one more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Returns the program with more arguments.
    #[must_use]
    pub fn args<I: IntoIterator<Item = S>, S: Into<OsString>>(mut self, args: I) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Returns the program with a variable in its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<SecretString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Returns the program started in this folder.
    #[must_use]
    pub fn cwd(mut self, folder: impl Into<PathBuf>) -> Self {
        self.cwd = Some(folder.into());
        self
    }

    /// Returns the program run as this user and group, without any further groups; only root may do so.
    #[must_use]
    pub fn user(mut self, uid: u32, gid: u32) -> Self {
        self.user = Some((uid, gid));
        self
    }

    /// Returns the program fed with this text on standard input, which is then closed.
    #[must_use]
    pub fn stdin(mut self, text: SecretString) -> Self {
        self.stdin = Input::Text(text);
        self
    }

    /// Returns the program reading what the caller writes to [`Running::take_stdin`].
    #[must_use]
    pub fn stdin_pipe(mut self) -> Self {
        self.stdin = Input::Pipe;
        self
    }

    /// Returns the program finding these lines as its password file (PostgreSQL manual, "The Password File"): a file
    /// of mode 600, removed when the program has ended or pgplan has died.
    #[must_use]
    pub fn pgpass(mut self, lines: SecretString) -> Self {
        self.pgpass = Some(lines);
        self
    }

    /// Returns the program ended after this time.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// Returns the program of whose output the first and the last `bytes` are kept each; 64 KiB when not told.
    #[must_use]
    pub fn keep(mut self, bytes: usize) -> Self {
        self.keep = bytes;
        self
    }

    /// Returns the program with every line it prints given to `on_line`; standard output only where it is captured.
    #[must_use]
    pub fn on_line(mut self, on_line: OnLine) -> Self {
        self.on_line = Some(on_line);
        self
    }

    /// Starts the program; its standard output is for [`Running::take_stdout`].
    ///
    /// # Errors
    /// [`ErrorKind::ToolMissing`] when there is no such program, [`ErrorKind::Tool`] when it cannot be executed,
    /// [`ErrorKind::Io`] when its password file cannot be written or its folder is not there.
    pub fn start(self, redactor: Arc<Redactor>) -> Result<Running, StepError> {
        if let Some(folder) = self.cwd.as_deref().filter(|folder| !folder.is_dir()) {
            let message = format!("cannot start `{}`: the folder {} is not there", self.shown, folder.display());
            return Err(StepError::new(ErrorKind::Io, message));
        }
        let pgpass = self.pgpass.as_ref().map(write_pgpass).transpose()?;
        let guard = Guard::start(pgpass.as_deref())
            .map_err(|error| StepError::new(ErrorKind::Tool, format!("cannot start the guard of programs: {error}")))?;
        #[expect(clippy::disallowed_methods, reason = "the one place that starts programs")]
        let mut command = Command::new(&self.program);
        command.args(&self.args).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(guard.as_ref().map_or(0, |guard| guard.group.as_raw()));
        #[expect(clippy::disallowed_methods, reason = "what a program inherits is this process's real environment")]
        let inherited = std::env::vars_os();
        for (name, _) in inherited.filter(|(name, _)| is_postgres_variable(name)) {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value.expose_secret())));
        if let Some(file) = &pgpass {
            command.env("PGPASSFILE", file);
        }
        if let Some(folder) = &self.cwd {
            command.current_dir(folder);
        }
        if let Some((uid, gid)) = self.user {
            // With a user given, the standard library drops root's further groups, too.
            command.gid(gid).uid(uid);
        }
        command.stdin(if matches!(self.stdin, Input::Nothing) { Stdio::null() } else { Stdio::piped() });
        let mut child = command.spawn().map_err(|error| not_started(&self.shown, &self.program, &error))?;
        let own = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let group = guard.as_ref().map(|guard| guard.group).or(own);
        let stdin = match (self.stdin, child.stdin.take()) {
            (Input::Text(text), Some(mut pipe)) => {
                // A program that does not read all of its input says so by its exit status, or means it.
                tokio::spawn(async move { pipe.write_all(text.expose_secret().as_bytes()).await.ok() });
                None
            }
            (_, pipe) => pipe,
        };
        let stderr = Captured::new(KEPT_STDERR);
        let reader = child.stderr.take().map(|pipe| read(pipe, Stream::Stderr, &stderr, self.on_line.as_ref()));
        Ok(Running {
            shown: self.shown,
            stdout: child.stdout.take(),
            child,
            stdin,
            group,
            guard,
            reader,
            stderr,
            deadline: self.time_limit.map(|limit| (limit, Instant::now() + limit)),
            keep: self.keep,
            on_line: self.on_line,
            pgpass,
            redactor,
            ended: false,
        })
    }

    /// Runs the program to its end; what it printed is in the result.
    ///
    /// # Errors
    /// As [`Program::start`] and [`Running::wait`]; the exit status is the caller's to judge ([`Finished::check`]).
    pub async fn run(self, redactor: &Arc<Redactor>, cancel: &CancellationToken) -> Result<Finished, StepError> {
        let mut running = self.start(Arc::clone(redactor))?;
        let stdout = Captured::new(running.keep);
        let reader = running.capture_stdout(&stdout);
        let status = running.wait(cancel).await;
        drain(reader).await;
        let Running { shown, stderr, redactor, .. } = &running;
        Ok(Finished {
            status: status?,
            stdout,
            stderr: stderr.clone(),
            shown: shown.clone(),
            redactor: Arc::clone(redactor),
        })
    }
}

/// Returns whether a variable tells PostgreSQL's programs where to go: `PGHOST`, `PGPASSWORD`, `PGSERVICE`, ….
fn is_postgres_variable(name: &std::ffi::OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with("PG") && !name.starts_with("PGPLAN_"))
}

fn write_pgpass(lines: &SecretString) -> Result<tempfile::TempPath, StepError> {
    let failed = |error: &io::Error| StepError::io("write a password file in", &std::env::temp_dir(), error);
    let mut file = tempfile::Builder::new().prefix("pgplan-").suffix(".pgpass").tempfile().map_err(|e| failed(&e))?;
    file.write_all(lines.expose_secret().as_bytes()).map_err(|error| failed(&error))?;
    Ok(file.into_temp_path())
}

fn not_started(shown: &str, program: &OsString, error: &io::Error) -> StepError {
    let name = Path::new(program);
    match error.kind() {
        io::ErrorKind::NotFound => {
            let place = if name.components().count() == 1 { " in PATH" } else { "" };
            StepError::new(ErrorKind::ToolMissing, format!("there is no program `{}`{place}", name.display()))
                .help(format!("install `{}`, or put its folder into PATH", name.display()))
        }
        io::ErrorKind::PermissionDenied => {
            StepError::new(ErrorKind::Tool, format!("the program `{}` may not be executed", name.display()))
                .help("check that the file is executable and its folder can be entered")
        }
        _ => StepError::new(ErrorKind::Tool, format!("cannot start `{shown}`: {error}")),
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Program({})", self.shown)
    }
}
