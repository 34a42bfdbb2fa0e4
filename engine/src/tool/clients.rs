//! The installed PostgreSQL programs, and which of them fits a server.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::Program;
use crate::{
    error::{ErrorKind, StepError},
    redact::Redactor,
};

/// Folders with a folder for each version in them: what stands before and behind the version's name.
const VERSIONED: [(&str, &str, &str); 5] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/usr", "pgsql-", "bin"),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
];

/// The programs that pgplan may use.
const PROGRAMS: [&str; 11] = [
    "pg_dump",
    "pg_dumpall",
    "pg_restore",
    "psql",
    "vacuumdb",
    "postgres",
    "initdb",
    "pg_ctl",
    "pg_upgrade",
    "pg_controldata",
    "pg_basebackup",
];

/// How many bytes of a version are looked at.
const LONGEST_VERSION: usize = 32;

/// Where to look for PostgreSQL's programs, besides the folders where packages put them.
#[derive(Debug, Clone, Default)]
pub struct Places {
    /// The value of `PGPLAN_PG_BIN`: folders of programs, separated as in `PATH`; they come first.
    pub pg_bin: Option<OsString>,
    /// The value of `PATH`.
    pub path: Option<OsString>,
    /// The cache folder, which may hold `postgres/VERSION/bin`.
    pub cache: Option<PathBuf>,
}

impl Places {
    /// Returns the places that the process's environment names.
    #[must_use]
    pub fn from_vars(vars: &BTreeMap<String, String>) -> Self {
        Self {
            pg_bin: vars.get("PGPLAN_PG_BIN").map(Into::into),
            path: vars.get("PATH").map(Into::into),
            cache: cache_folder(vars),
        }
    }
}

/// Returns pgplan's cache folder, where its test and demo setup puts PostgreSQL: `PGPLAN_CACHE`, for root
/// `/var/cache/pgplan`, else `XDG_CACHE_HOME/pgplan` or `~/.cache/pgplan`.
fn cache_folder(vars: &BTreeMap<String, String>) -> Option<PathBuf> {
    let set = |name: &str| vars.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = set("PGPLAN_CACHE") {
        return Some(folder);
    }
    if nix::unistd::geteuid().is_root() {
        return Some(PathBuf::from("/var/cache/pgplan"));
    }
    set("XDG_CACHE_HOME").or_else(|| Some(set("HOME")?.join(".cache"))).map(|folder| folder.join("pgplan"))
}

/// One installation: a folder with programs of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// The folder of the programs.
    pub dir: PathBuf,
    /// The version as the server counts: 150020 is 15.20, 90624 is 9.6.24.
    pub version_num: u32,
    /// The names of the programs that are there.
    pub programs: BTreeSet<String>,
}

impl Client {
    /// Returns the major version: 15, or 9 for all of 9.x.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.version_num / 10_000
    }

    /// Returns the path of a program of this installation.
    #[must_use]
    pub fn path(&self, program: &str) -> PathBuf {
        self.dir.join(program)
    }
}

/// All installations that were found, in the order in which they were looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Clients {
    /// The installations.
    pub found: Vec<Client>,
}

impl Clients {
    /// Looks for installations and asks each for its version.
    ///
    /// A folder whose programs do not tell their version is left out.
    pub async fn find(places: &Places) -> Self {
        let configured = join_all(pg_configs(places).into_iter().map(bindir)).await;
        let asked = folders(places, configured.into_iter().flatten()).into_iter().map(ask);
        Self { found: join_all(asked).await.into_iter().flatten().collect() }
    }

    /// Returns the installation whose `program` is right for a server of this version.
    ///
    /// It is never older than the server. One of the server's own major version that knows its minor version comes
    /// first (a minor release may put into the catalogs what only its own `pg_dump` knows to leave out), then the
    /// newest.
    ///
    /// # Errors
    /// [`ErrorKind::ToolMissing`] naming what is there and what to install.
    pub fn for_server(&self, program: &str, server_version_num: u32) -> Result<&Client, StepError> {
        let wanted = branch(server_version_num);
        let fitting = || {
            let having = self.found.iter().filter(|client| client.programs.contains(program));
            having.filter(|client| branch(client.version_num) >= wanted)
        };
        let knows = |client: &&Client| branch(client.version_num) == wanted && client.version_num >= server_version_num;
        newest(fitting().filter(knows)).or_else(|| newest(fitting())).ok_or_else(|| {
            let version = version_name(server_version_num);
            let message = format!("no `{program}` for a server of version {version} is installed");
            self.missing(program, branch_name(server_version_num), message)
        })
    }

    /// Returns the newest installation of this major version that has all of `programs`.
    ///
    /// # Errors
    /// [`ErrorKind::ToolMissing`] naming what is there and what to install.
    pub fn of_major(&self, programs: &[&str], major: u32) -> Result<&Client, StepError> {
        let complete = |client: &&Client| programs.iter().all(|program| client.programs.contains(*program));
        newest(self.found.iter().filter(|client| client.major() == major).filter(complete)).ok_or_else(|| {
            let message = format!("PostgreSQL {major} with `{}` is not installed", programs.join("`, `"));
            self.missing(programs.first().copied().unwrap_or("postgres"), major.to_string(), message)
        })
    }

    fn missing(&self, program: &str, version: String, message: String) -> StepError {
        let package = if matches!(program, "postgres" | "initdb" | "pg_ctl" | "pg_upgrade" | "pg_controldata") {
            "postgresql"
        } else {
            "postgresql-client"
        };
        let mut error = StepError::new(ErrorKind::ToolMissing, message).help(format!(
            "install it (Debian, Ubuntu: `apt-get install {package}-{version}`; Fedora, RHEL: `dnf install \
             postgresql{version}`; macOS: `brew install postgresql@{version}`), or name the folder of its programs in \
             PGPLAN_PG_BIN"
        ));
        let having = self.found.iter().filter(|client| client.programs.contains(program));
        let mut lines: Vec<String> = having
            .map(|client| format!("found {} in {}", version_name(client.version_num), client.dir.display()))
            .collect();
        if lines.is_empty() {
            lines.push(format!("no `{program}` of any version was found"));
        }
        error.details = lines;
        error
    }
}

/// Of equals the first wins: it stands in the place named first.
fn newest<'a>(clients: impl Iterator<Item = &'a Client>) -> Option<&'a Client> {
    clients.fold(None, |best: Option<&Client>, client| match best {
        Some(best) if best.version_num >= client.version_num => Some(best),
        _ => Some(client),
    })
}

/// Returns what PostgreSQL calls the major version, comparable: 15 → 1500, 9.6 → 906.
fn branch(version_num: u32) -> u32 {
    if version_num >= 100_000 { version_num / 10_000 * 100 } else { version_num / 100 }
}

fn branch_name(version_num: u32) -> String {
    let major = version_num / 10_000;
    if major >= 10 { major.to_string() } else { format!("{major}.{}", version_num / 100 % 100) }
}

/// Returns the version as people write it: 150020 → `15.20`.
pub(crate) fn version_name(version_num: u32) -> String {
    format!("{}.{}", branch_name(version_num), version_num % 100)
}

fn split(list: Option<&OsString>) -> Vec<PathBuf> {
    list.into_iter().flat_map(std::env::split_paths).collect()
}

fn pg_configs(places: &Places) -> Vec<PathBuf> {
    let in_path = split(places.path.as_ref()).into_iter().map(|folder| folder.join("pg_config"));
    let mut seen = BTreeSet::new();
    in_path
        .filter(|path| path.is_absolute() && path.is_file())
        .filter(|path| path.canonicalize().is_ok_and(|real| seen.insert(real)))
        .collect()
}

fn folders(places: &Places, configured: impl Iterator<Item = PathBuf>) -> Vec<PathBuf> {
    let mut folders = split(places.pg_bin.as_ref());
    folders.extend(split(places.path.as_ref()));
    folders.extend(configured);
    for (root, prefix, bin) in VERSIONED {
        folders.extend(versions(Path::new(root), prefix).into_iter().map(|folder| folder.join(bin)));
    }
    if let Some(cache) = &places.cache {
        folders.extend(versions(&cache.join("postgres"), "").into_iter().map(|folder| folder.join("bin")));
    }
    let mut seen = BTreeSet::new();
    folders
        .retain(|folder| folder.is_absolute() && folder.canonicalize().is_ok_and(|canonical| seen.insert(canonical)));
    folders
}

fn versions(root: &Path, prefix: &str) -> Vec<PathBuf> {
    let named = |entry: &std::fs::DirEntry| {
        let name = entry.file_name();
        name.to_str()
            .and_then(|name| name.strip_prefix(prefix))
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(root).into_iter().flatten().flatten().filter(named).map(|entry| entry.path()).collect();
    found.sort();
    found
}

async fn ask(dir: PathBuf) -> Option<Client> {
    let programs: BTreeSet<String> =
        PROGRAMS.into_iter().filter(|name| is_program(&dir.join(name))).map(str::to_owned).collect();
    let first = dir.join(PROGRAMS.into_iter().find(|name| programs.contains(*name))?);
    // To start each program only to hear its version takes half a second where there are many.
    let version_num = match written_version(&first) {
        Some(version_num) => version_num,
        None => read_version(&answer(&first, "--version").await?)?,
    };
    Some(Client { dir, version_num, programs })
}

/// Reads the answer to `--version` where it stands in the program itself: `pg_dump (PostgreSQL) 15.20`.
///
/// `None` for a script, which may start anything, and where there is no such text or more than one version.
fn written_version(program: &Path) -> Option<u32> {
    let content = std::fs::read(program).ok().filter(|content| !content.starts_with(b"#!"))?;
    let before = [program.file_name()?.as_encoded_bytes(), b" (PostgreSQL) "].concat();
    let answers = memchr::memmem::find_iter(&content, &before).map(|at| &content[at + before.len()..]);
    let texts = answers.map(|rest| &rest[..rest.len().min(LONGEST_VERSION)]);
    let versions: BTreeSet<u32> = texts.filter_map(|text| version_number(&String::from_utf8_lossy(text))).collect();
    versions.first().copied().filter(|_| versions.len() == 1)
}

async fn bindir(pg_config: PathBuf) -> Option<PathBuf> {
    answer(&pg_config, "--bindir").await.map(|folder| PathBuf::from(folder.trim()))
}

async fn answer(program: &Path, question: &str) -> Option<String> {
    let asked = Program::new(program).arg(question).time_limit(Duration::from_secs(10));
    let finished = asked.run(&Arc::new(Redactor::new()), &CancellationToken::new()).await.ok()?;
    finished.check(&[]).ok()?;
    finished.stdout.whole()
}

/// Returns whether a path is a PostgreSQL program itself: Debian's wrapper picks a version by rules of its own.
fn is_program(path: &Path) -> bool {
    path.canonicalize().is_ok_and(|real| real.is_file() && real.file_name().is_some_and(|name| name != "pg_wrapper"))
}

/// Reads `pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)` as 150020; a beta or devel version counts as `.0`.
pub(crate) fn read_version(text: &str) -> Option<u32> {
    text.split_once("(PostgreSQL) ").and_then(|(_, version)| version_number(version))
}

/// Returns the version that `text` begins with, counted like the server's: 150020 for `15.20 (Debian 15.20-1)`.
pub(crate) fn version_number(text: &str) -> Option<u32> {
    let version = text.split_whitespace().next()?;
    let end = version.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(version.len());
    let numbers: Option<Vec<u32>> = version[..end].split('.').map(|part| part.parse().ok()).collect();
    match numbers?.as_slice() {
        [major] if *major >= 10 => Some(major * 10_000),
        [major, minor] if *major >= 10 => Some(major * 10_000 + minor),
        [major, minor] => Some(major * 10_000 + minor * 100),
        [major, minor, patch] => Some(major * 10_000 + minor * 100 + patch),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clients(versions: &[u32]) -> Clients {
        let client = |version: &u32| Client {
            dir: PathBuf::from(format!("/pg/{version}")),
            version_num: *version,
            programs: ["pg_dump".to_owned()].into(),
        };
        Clients { found: versions.iter().map(client).collect() }
    }

    fn chosen(versions: &[u32], server: u32) -> Option<u32> {
        clients(versions).for_server("pg_dump", server).ok().map(|client| client.version_num)
    }

    #[test]
    fn the_client_knows_the_servers_minor_version() {
        assert_eq!(chosen(&[180_004, 150_020, 150_018, 160_014], 150_020), Some(150_020));
        assert_eq!(chosen(&[180_004, 150_020, 150_018], 150_018), Some(150_020), "the newest of the same major");
        assert_eq!(chosen(&[180_004, 150_018], 150_020), Some(180_004), "too old a minor is worse than a newer major");
        assert_eq!(chosen(&[150_018], 150_020), Some(150_018), "better than none");
    }

    #[test]
    fn the_client_is_never_older_than_the_server() {
        assert_eq!(chosen(&[150_020], 160_014), None);
        assert_eq!(chosen(&[90_524], 90_600), None, "9.5 is older than 9.6");
        let error = clients(&[150_020]).for_server("pg_dump", 160_014).unwrap_err();
        assert_eq!(error.kind, ErrorKind::ToolMissing);
        assert_eq!(error.message, "no `pg_dump` for a server of version 16.14 is installed");
        assert_eq!(error.details, ["found 15.20 in /pg/150020"]);
        assert!(error.advice().contains("postgresql-client-16"), "{}", error.advice());
    }

    #[test]
    fn versions_are_read_as_programs_print_them() {
        assert_eq!(read_version("pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\n"), Some(150_020));
        assert_eq!(read_version("postgres (PostgreSQL) 9.6.24"), Some(90_624));
        assert_eq!(read_version("pg_dump (PostgreSQL) 19beta1"), Some(190_000));
        assert_eq!(read_version("psql (PostgreSQL) 19devel"), Some(190_000));
        assert_eq!(read_version("GNU grep 3.8"), None);
    }

    #[test]
    fn a_version_is_read_where_a_program_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let read = |content: &[u8]| {
            let mut file = std::fs::File::create(folder.path().join("pg_dump")).unwrap();
            std::io::Write::write_all(&mut file, content).unwrap();
            written_version(&folder.path().join("pg_dump"))
        };
        assert_eq!(read(b"\x7fELF\0pg_dump (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)\0\xff"), Some(150_020));
        assert_eq!(read(b"\x7fELF\0pg_dump (PostgreSQL) %s\n\0"), None, "it is put together when asked");
        assert_eq!(read(b"\x7fELF\0pg_dump (PostgreSQL) 15.20\0pg_dump (PostgreSQL) 16.1\0"), None);
        assert_eq!(read(b"#!/bin/sh\necho 'pg_dump (PostgreSQL) 15.20'\n"), None, "a script is asked");
    }
}
