//! A program that runs: what it prints, its end, the end of its whole group.

use std::{
    fmt, io,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, ChildStdin, ChildStdout, Command},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Captured, GRACE, OnLine, Stream, capture};
use crate::{
    error::{ErrorKind, StepError},
    guard,
    redact::Redactor,
};

/// How long to wait for the end of output whose program has ended: a daemon may hold the pipe for ever.
const DRAIN: Duration = Duration::from_secs(2);
/// How many of the last lines a failure shows.
const SHOWN_LINES: usize = 20;

pub(super) fn read<R>(pipe: R, stream: Stream, captured: &Captured, on_line: Option<&OnLine>) -> JoinHandle<()>
where
    R: tokio::io::AsyncRead + Unpin + Send + 'static,
{
    let on_line = on_line.cloned();
    tokio::spawn(capture::pump(pipe, captured.clone(), move |line| {
        if let Some(on_line) = &on_line {
            on_line(stream, line);
        }
    }))
}

pub(super) async fn drain(reader: Option<JoinHandle<()>>) {
    if let Some(reader) = reader {
        let stop = reader.abort_handle();
        if timeout(DRAIN, reader).await.is_err() {
            stop.abort();
        }
    }
}

/// A program that was started. Dropped before its end, its group is killed at once.
pub struct Running {
    pub(super) shown: String,
    pub(super) child: Child,
    pub(super) stdin: Option<ChildStdin>,
    pub(super) stdout: Option<ChildStdout>,
    pub(super) group: Option<Pid>,
    pub(super) guard: Option<Guard>,
    pub(super) reader: Option<JoinHandle<()>>,
    pub(super) stderr: Captured,
    pub(super) deadline: Option<(Duration, Instant)>,
    pub(super) keep: usize,
    pub(super) on_line: Option<OnLine>,
    pub(super) pgpass: Option<tempfile::TempPath>,
    pub(super) redactor: Arc<Redactor>,
    pub(super) ended: bool,
}

impl Running {
    /// Returns the program's standard output, the first time it is asked for.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.stdout.take()
    }

    /// Returns the program's standard input when it was started with a pipe, the first time it is asked for.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.stdin.take()
    }

    /// Returns what the program wrote to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> &Captured {
        &self.stderr
    }

    /// Returns the number of the program's process group.
    #[must_use]
    pub fn group(&self) -> Option<i32> {
        self.group.map(Pid::as_raw)
    }

    /// Reads standard output into `captured` in the background, and every line to the program's `on_line`.
    pub(crate) fn capture_stdout(&mut self, captured: &Captured) -> Option<JoinHandle<()>> {
        let pipe = self.stdout.take()?;
        Some(read(pipe, Stream::Stdout, captured, self.on_line.as_ref()))
    }

    /// Returns the exit status if the program has ended by itself.
    ///
    /// # Errors
    /// [`ErrorKind::Tool`] when the system cannot tell.
    pub fn poll(&mut self) -> Result<Option<ExitStatus>, StepError> {
        self.child.try_wait().map_err(|error| self.unknown(&error))
    }

    /// Waits until the program and all of its group have ended.
    ///
    /// # Errors
    /// [`ErrorKind::Interrupted`] when `cancel` was called and [`ErrorKind::Timeout`] after the program's time limit:
    /// in both cases the group has been ended before.
    pub async fn wait(&mut self, cancel: &CancellationToken) -> Result<ExitStatus, StepError> {
        let deadline = self.deadline;
        let late = async {
            match deadline {
                Some((limit, at)) => {
                    tokio::time::sleep_until(at).await;
                    limit
                }
                None => std::future::pending().await,
            }
        };
        let error = tokio::select! {
            status = self.child.wait() => {
                let status = status.map_err(|error| self.unknown(&error))?;
                self.finish().await?;
                return Ok(status);
            }
            () = cancel.cancelled() => {
                StepError::new(ErrorKind::Interrupted, format!("`{}` was stopped", self.shown))
            }
            limit = late => {
                let message = format!("`{}` did not end within {}", self.shown, seconds(limit));
                StepError::new(ErrorKind::Timeout, message)
            }
        };
        self.stop(&[Signal::SIGTERM]).await?;
        Err(self.with_last_lines(error))
    }

    /// Ends the program: each signal in turn to the whole group with [`GRACE`] to obey it, then KILL.
    ///
    /// # Errors
    /// [`ErrorKind::Tool`] when the group cannot be ended: a process of another user, or one that hangs in the kernel.
    pub async fn stop(&mut self, signals: &[Signal]) -> Result<(), StepError> {
        for signal in signals {
            self.signal(*signal);
            // A stopped process (one that reached for the terminal) hears nothing before it goes on.
            self.signal(Signal::SIGCONT);
            if timeout(GRACE, self.child.wait()).await.is_ok() {
                return self.finish().await;
            }
        }
        self.signal(Signal::SIGKILL);
        if timeout(GRACE, self.child.wait()).await.is_err() {
            return Err(StepError::new(ErrorKind::Tool, format!("`{}` cannot be ended", self.shown)));
        }
        self.finish().await
    }

    fn signal(&self, signal: Signal) {
        if let Some(group) = self.group {
            // Fails when the group has ended meanwhile, which is what is wanted.
            killpg(group, signal).ok();
        }
    }

    /// After the program itself has ended: ends what it left in its group, lets the guard go, reads what is left.
    async fn finish(&mut self) -> Result<(), StepError> {
        if self.ended {
            return Ok(());
        }
        self.ended = true;
        let guard = self.guard.as_ref().and_then(|guard| guard.child.id());
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if !self.leftovers(guard) {
                break;
            }
            self.signal(signal);
            let until = Instant::now() + GRACE;
            while self.leftovers(guard) && Instant::now() < until {
                sleep(Duration::from_millis(20)).await;
            }
        }
        let stuck = self.leftovers(guard);
        if let Some(guard) = self.guard.take() {
            guard.release().await;
        }
        drain(self.reader.take()).await;
        self.pgpass = None;
        if stuck {
            let message = format!("`{}` left programs behind that cannot be ended", self.shown);
            return Err(StepError::new(ErrorKind::Tool, message));
        }
        Ok(())
    }

    fn leftovers(&self, guard: Option<u32>) -> bool {
        self.group.is_some_and(|group| guard::is_alive(group, guard))
    }

    fn unknown(&self, error: &io::Error) -> StepError {
        StepError::new(ErrorKind::Tool, format!("cannot tell what became of `{}`: {error}", self.shown))
    }

    fn with_last_lines(&self, error: StepError) -> StepError {
        last_lines(&self.stderr, &self.redactor).into_iter().fold(error, StepError::detail)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.ended {
            self.signal(Signal::SIGKILL);
        }
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Running({})", self.shown)
    }
}

/// A program that has ended.
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to standard output.
    pub stdout: Captured,
    /// What it wrote to standard error.
    pub stderr: Captured,
    pub(super) shown: String,
    pub(super) redactor: Arc<Redactor>,
}

impl Finished {
    /// Checks that the program ended with one of these codes, none meaning 0.
    ///
    /// # Errors
    /// [`ErrorKind::Tool`] with the exit code or the signal, and the last lines that the program printed, redacted.
    pub fn check(&self, success_codes: &[i32]) -> Result<(), StepError> {
        let good = if success_codes.is_empty() { &[0] } else { success_codes };
        if self.status.code().is_some_and(|code| good.contains(&code)) {
            return Ok(());
        }
        let error = StepError::new(ErrorKind::Tool, format!("`{}` {}", self.shown, ending(self.status)));
        Err(self.with_last_lines(error))
    }

    /// Returns the error with the last lines that the program printed, redacted, as details.
    #[must_use]
    pub fn with_last_lines(&self, error: StepError) -> StepError {
        let mut lines = last_lines(&self.stderr, &self.redactor);
        if lines.is_empty() {
            lines = last_lines(&self.stdout, &self.redactor);
        }
        lines.into_iter().fold(error, StepError::detail)
    }
}

impl fmt::Debug for Finished {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Finished({}, {})", self.shown, self.status)
    }
}

/// Returns how a program ended, as the end of a sentence.
pub(crate) fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt as _;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with exit code {code}"),
        (None, Some(number)) => match Signal::try_from(number) {
            Ok(signal) => format!("was killed by {signal}"),
            Err(_) => format!("was killed by signal {number}"),
        },
        (None, None) => format!("ended with {status}"),
    }
}

/// Returns the last lines of what a program printed, redacted for a program that may print what nobody knows.
pub(crate) fn last_lines(captured: &Captured, redactor: &Redactor) -> Vec<String> {
    let lines = captured.lines();
    let from = lines.len().saturating_sub(SHOWN_LINES);
    lines[from..].iter().map(|line| shorten(&redactor.redact_unknown(line))).collect()
}

fn shorten(line: &str) -> String {
    match line.char_indices().nth(500) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

fn seconds(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{} s", duration.as_secs())
    } else {
        format!("{:.1} s", duration.as_secs_f64())
    }
}

/// The guard of one program: see [`crate::guard`].
pub(super) struct Guard {
    child: Child,
    pipe: ChildStdin,
    pub(super) group: Pid,
}

impl Guard {
    pub(super) fn start(remove: Option<&Path>) -> io::Result<Option<Self>> {
        let Some([program, args @ ..]) = guard::command() else {
            return Ok(None);
        };
        #[expect(clippy::disallowed_methods, reason = "a program's guard is started beside it, and has none itself")]
        let mut command = Command::new(program);
        command.args(args).args(remove).process_group(0).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let group = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        match (child.stdin.take(), group) {
            (Some(pipe), Some(group)) => Ok(Some(Self { child, pipe, group })),
            _ => Err(io::Error::other("it has no process id")),
        }
    }

    async fn release(self) {
        let Self { mut child, mut pipe, .. } = self;
        // A guard that does not answer was killed with its group; waiting for it leaves no zombie.
        let told = pipe.write_all(b".").await;
        drop(pipe);
        if told.is_err() || timeout(DRAIN, child.wait()).await.is_err() {
            child.kill().await.ok();
        }
    }
}
