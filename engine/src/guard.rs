//! Ends the programs of a pgplan that was killed.
//!
//! `kill -9` of pgplan gives it no time to stop what it started, and the kernel does not do it either: `pg_restore`
//! and its workers would go on writing. So before a program is started, pgplan starts a *guard*: itself, as
//! `pgplan __guard`, the leader of a new process group, reading a pipe whose other end pgplan alone holds. The program
//! is then started inside that group: from its first instruction on it is guarded. When the program has ended, one byte
//! tells the guard to leave. When the pipe closes without that byte, pgplan is gone, and the guard ends the group:
//! TERM, a short grace, KILL.
//!
//! Files named on its command line (a password file) are removed by the guard in either case.

use std::{
    ffi::OsString,
    io::{self, Read as _},
    path::PathBuf,
    sync::OnceLock,
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::signal::{SigSet, Signal, killpg},
    unistd::{Pid, getpgrp},
};

/// The hidden subcommand under which the command line must call [`guard_main`], before it reads anything else.
pub const SUBCOMMAND: &str = "__guard";

/// How long the programs of a dead pgplan may take to obey TERM.
const GRACE: Duration = Duration::from_secs(2);

static COMMAND: OnceLock<Vec<OsString>> = OnceLock::new();

/// Turns guards on: `command` is the program, with its first arguments, that calls [`guard_main`].
///
/// Without it (the engine used as a library) programs are not ended when the process is killed. A second call changes
/// nothing.
pub fn enable(command: Vec<OsString>) {
    COMMAND.get_or_init(|| command);
}

/// Turns guards on with this executable as the guard.
pub fn enable_self() {
    let running = PathBuf::from("/proc/self/exe");
    // The link stays true when the file is replaced by an upgrade while a run goes on.
    let program = if running.exists() { Ok(running) } else { std::env::current_exe() };
    if let Ok(program) = program {
        enable(vec![program.into_os_string(), SUBCOMMAND.into()]);
    }
}

/// Returns the command that starts a guard, when guards are on.
pub(crate) fn command() -> Option<&'static [OsString]> {
    COMMAND.get().map(Vec::as_slice)
}

/// Runs as a guard until told to leave or until the pipe on standard input closes; `files` are removed at the end.
///
/// Returns the exit code: 0 when told to leave. When the pipe closed it ends its own process group and so itself.
#[must_use]
pub fn guard_main(files: &[OsString]) -> i32 {
    // Signals for the whole group are for the program; the guard goes last.
    let mut blocked = SigSet::all();
    for signal in [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGFPE, Signal::SIGILL] {
        blocked.remove(signal);
    }
    if blocked.thread_block().is_err() {
        return 70;
    }
    let mut byte = [0];
    let told = loop {
        match io::stdin().lock().read(&mut byte) {
            Ok(read) => break read == 1,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break false,
        }
    };
    let failures = files.iter().filter(|file| remove(file).is_err()).count();
    if !told {
        end_own_group();
    }
    i32::from(failures > 0)
}

fn remove(file: &OsString) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Ends every process of this group, the caller last.
fn end_own_group() {
    let group = getpgrp();
    for signal in [Signal::SIGTERM, Signal::SIGCONT] {
        // The group holds at least the caller, so only a lack of rights over all others can fail; KILL tries again.
        killpg(group, signal).ok();
    }
    let until = Instant::now() + GRACE;
    while Instant::now() < until && is_alive(group, Some(std::process::id())) {
        sleep(Duration::from_millis(20));
    }
    killpg(group, Signal::SIGKILL).ok();
}

/// Returns whether a process runs in the group, zombies and `except` aside.
///
/// Where `/proc` is not there, zombies and `except` count as running.
pub(crate) fn is_alive(group: Pid, except: Option<u32>) -> bool {
    if killpg(group, None) == Err(Errno::ESRCH) {
        return false;
    }
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return true;
    };
    let ids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| Some(*id) != except).any(|id| {
        // `PID (NAME) STATE PPID PGRP …`; the name may hold blanks and brackets.
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let mut fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let state = fields.next();
        !matches!(state, Some("Z" | "X") | None) && fields.nth(1) == Some(group.to_string().as_str())
    })
}
