//! What every end-to-end test stands on: a private folder, a hermetic `pgplan`, and stand-ins.
//!
//! Nothing here reads the caller's environment but `PGPLAN_CACHE` and what names the cache folder without it;
//! `tests/setup/install-postgres.sh` fills that folder.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output, Stdio};

use nix::unistd::geteuid;
use tempfile::TempDir;

const STAND_INS: [&str; 4] = ["aptible", "dokku", "hab", "systemctl"];

/// A private folder with a home, a working folder and the stand-ins' state in it; removed at the end.
pub(crate) struct TestEnv {
    folder: TempDir,
    /// Where the journal is, when it is not in the working folder.
    state: Option<String>,
}

impl TestEnv {
    /// Makes the folder and links the stand-ins where `pgplan` looks first.
    pub(crate) fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("pgplan-").tempdir().expect("a temporary folder can be made");
        let env = Self { folder, state: None };
        for name in ["home", "work", "bin", "tmp", "fakes"] {
            fs::create_dir(env.folder.path().join(name)).expect("a folder can be made in the temporary folder");
        }
        if let Some(program) = option_env!("CARGO_BIN_EXE_pgplan-stand-ins") {
            for name in STAND_INS {
                symlink(program, env.folder.path().join("bin").join(name)).expect("a link can be made");
            }
        }
        env
    }

    /// Makes one whose journal is in this database.
    #[allow(dead_code, reason = "for the tests of killed runs")]
    pub(crate) fn with_state(url: String) -> Self {
        Self { state: Some(url), ..Self::new() }
    }

    /// Returns the folder that `pgplan` is started in.
    pub(crate) fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// Writes a file into the working folder and returns its path.
    #[allow(dead_code, reason = "for the tests of plans")]
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.work().join(name);
        fs::create_dir_all(path.parent().expect("a file has a folder")).expect("the folder can be made");
        fs::write(&path, text).expect("the file can be written");
        path
    }

    /// Reads a file of the working folder.
    #[allow(dead_code, reason = "for the tests of plans")]
    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.work().join(name)).unwrap_or_else(|error| panic!("cannot read {name}: {error}"))
    }

    /// Sets what the stand-ins know; the shape is described in `tests/fakes/state.rs`.
    pub(crate) fn set_fakes(&self, state: &serde_json::Value) {
        assert!(
            self.folder.path().join("bin/aptible").exists(),
            "the stand-ins are not built: use --features stand-ins"
        );
        fs::write(self.folder.path().join("fakes/state.json"), state.to_string()).expect("the state can be written");
    }

    /// Returns what the stand-ins know by now.
    pub(crate) fn fakes(&self) -> serde_json::Value {
        let text = fs::read_to_string(self.folder.path().join("fakes/state.json")).expect("the state can be read");
        serde_json::from_str(&text).expect("the state is JSON")
    }

    /// Returns the calls of the stand-ins so far, each a program with its arguments, joined by blanks.
    pub(crate) fn fake_calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.folder.path().join("fakes/calls.log")).unwrap_or_default();
        let words = |line| serde_json::from_str::<Vec<String>>(line).expect("a call is a list of words");
        text.lines().map(|line| words(line).join(" ")).collect()
    }

    /// Returns a `pgplan` that sees nothing of the caller's environment, not yet started.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.hermetic(Path::new(env!("CARGO_BIN_EXE_pgplan")), args)
    }

    /// Returns a stand-in as `pgplan` would call it: its name, then its arguments.
    pub(crate) fn stand_in(&self, words: &[&str]) -> Command {
        self.hermetic(&self.folder.path().join("bin").join(words[0]), &words[1..])
    }

    fn hermetic(&self, program: &Path, args: &[&str]) -> Command {
        let at = |name: &str| self.folder.path().join(name);
        let mut command = Command::new(program);
        command.args(args).current_dir(at("work")).env_clear();
        command.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", at("bin").display()));
        command.env("HOME", at("home")).env("TMPDIR", at("tmp")).env("PGPLAN_FAKE_STATE", at("fakes"));
        command.env("PGPLAN_FAKE_PG_BIN", bin_folder("18")).env("PGPLAN_CACHE", cache_folder());
        command.envs(self.state.iter().map(|url| ("PGPLAN_STATE", url)));
        command.env("NO_COLOR", "1").env("LANG", "C.UTF-8").env("TZ", "UTC");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `pgplan` to its end.
    pub(crate) fn pgplan(&self, args: &[&str]) -> Outcome {
        Outcome::of(&self.command(args).output().expect("pgplan starts"))
    }
}

/// How a program ended and what it said.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Takes what a finished child left.
    pub(crate) fn of(output: &Output) -> Self {
        Self {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Fails the test, showing both streams, unless the program ended with `code`.
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        let Self { status, stdout, stderr } = &self;
        assert_eq!(status.code(), Some(code), "{status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}");
        self
    }
}

/// Returns the folder of everything that is kept between runs; the same rule as in `install-postgres.sh`.
pub(crate) fn cache_folder() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    match (variable("PGPLAN_CACHE"), geteuid().is_root(), variable("XDG_CACHE_HOME")) {
        (Some(folder), _, _) => folder,
        (None, true, _) => PathBuf::from("/var/cache/pgplan"),
        (None, false, Some(folder)) => folder.join("pgplan"),
        (None, false, None) => variable("HOME").expect("HOME is set").join(".cache/pgplan"),
    }
}

/// Returns the folder of the programs of an installed version.
pub(crate) fn bin_folder(version: &str) -> PathBuf {
    let folder = cache_folder().join("postgres").join(version).join("bin");
    let program = if version == "pgbouncer" { "pgbouncer" } else { "postgres" };
    assert!(
        folder.join(program).exists(),
        "{program} {version} is not in {}: run `make install-postgres`",
        folder.display()
    );
    folder
}
