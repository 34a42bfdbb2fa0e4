//! What a dump is once it is made: a file or folder below the run's folder, its digest, and what it holds.
//!
//! The step `dump` gives a [`DumpArtifact`] as its output `dump`; `filter` hands the same one on with rules added, and
//! `restore` reads it. The data exists once. Before anything is done with it, [`DumpArtifact::verify`] reads it and
//! compares the digest, so that a damaged or changed file is found before the first statement reaches a server.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    error::{ErrorKind, StepError},
    sql::FilterRules,
};

/// How much is read at once.
const CHUNK: usize = 256 * 1024;

/// How a dump is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DumpFormat {
    /// A script of SQL statements and COPY data.
    #[default]
    Plain,
    /// One archive file of `pg_dump --format=custom`.
    Custom,
    /// A folder of `pg_dump --format=directory`, written and read by several jobs.
    Directory,
}

/// How much of the server is dumped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DumpScope {
    /// Roles, tablespaces and all databases, by `pg_dumpall`.
    Cluster,
    /// The database that the plan names, by `pg_dump`.
    #[default]
    Database,
}

/// What an archive holds, as far as a restore must know to split its work.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// Tables with data.
    pub tables: usize,
    /// Indexes, primary keys, unique and exclusion constraints.
    pub indexes: usize,
    /// Whether there are large objects.
    pub large_objects: bool,
    /// Entries in all.
    pub entries: usize,
}

/// A dump that was made.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DumpArtifact {
    /// The step that made it; empty for a file that was there before.
    pub step: String,
    /// The file or folder, relative to the run's folder, or absolute for one that was there before.
    pub path: PathBuf,
    /// How it is written.
    pub format: DumpFormat,
    /// How much of the server it holds.
    pub scope: DumpScope,
    /// Whether a plain file is compressed with zstd as a whole; archives are compressed inside.
    #[serde(default)]
    pub zstd: bool,
    /// Size of the file, or of all files of the folder, bytes.
    pub bytes: u64,
    /// Size of the uncompressed text of a plain dump, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_bytes: Option<u64>,
    /// SHA-256 in hex: of the file, or of the folder's list of files with theirs (see [`digest`]).
    pub sha256: String,
    /// The source's `server_version_num`.
    pub source_version_num: u32,
    /// The version of the client that wrote it, counted like the server's.
    pub client_version: u32,
    /// The database; of a cluster dump the one that the plan names.
    pub database: String,
    /// What an archive holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contents: Option<Contents>,
    /// Sizes of the largest tables when the dump was listed, `schema.name` → bytes; spreads the work of a restore.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub table_bytes: BTreeMap<String, u64>,
    /// What a `filter` step wants left out when it is restored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<FilterRules>,
}

impl DumpArtifact {
    /// Returns the artifact that a step gave as its output `dump`.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] when the output is not one.
    pub fn from_output(value: &serde_json::Value) -> Result<Self, StepError> {
        Self::deserialize(value)
            .map_err(|error| StepError::new(ErrorKind::Internal, format!("the output `dump` is no dump: {error}")))
    }

    /// Returns where the dump lies.
    #[must_use]
    pub fn file(&self, run_dir: &Path) -> PathBuf {
        run_dir.join(&self.path)
    }

    /// Checks that the dump is there and unchanged; reads all of it, so call it where blocking is allowed.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when it cannot be read, [`ErrorKind::Verification`] when it is not what was written.
    pub fn verify(&self, run_dir: &Path) -> Result<(), StepError> {
        let path = self.file(run_dir);
        let (bytes, sha256) = digest(&path).map_err(|error| self.unreadable("read the dump", &path, &error))?;
        self.compare(&path, bytes, &sha256)
    }

    /// Returns why the dump cannot be read; one that is missing may lie on the machine where its step ran.
    pub(crate) fn unreadable(&self, doing: &str, path: &Path, error: &io::Error) -> StepError {
        let new = StepError::io(doing, path, error);
        if self.step.is_empty() || error.kind() != io::ErrorKind::NotFound {
            return new;
        }
        let step = &self.step;
        new.detail(format!("step `{step}` wrote it; a run's files stay on the machine that made them"))
            .help(format!("go on where step `{step}` ran, or make the dump again: apply with --rerun {step}"))
    }

    /// Compares what was read of the dump with what was written.
    pub(crate) fn compare(&self, path: &Path, bytes: u64, sha256: &str) -> Result<(), StepError> {
        if bytes == self.bytes && sha256 == self.sha256 {
            return Ok(());
        }
        let message = match self.step.as_str() {
            "" => format!("the dump {} is not what it was when the step began", path.display()),
            step => format!("the dump {} is not what step `{step}` wrote", path.display()),
        };
        let new = StepError::new(ErrorKind::Verification, message);
        let new = match bytes == self.bytes {
            true => new.detail(format!("sha256 was {}", self.sha256)).detail(format!("sha256 is  {sha256}")),
            false => new.detail(format!("it was {} bytes long and has {bytes} now", self.bytes)),
        };
        Err(match self.step.as_str() {
            "" => new.help("copy the dump again, and apply into a fresh target"),
            step => new.help(format!("make the dump again: apply with --rerun {step}")),
        })
    }

    /// Opens the text of a plain dump, decompressed; what passes is added to the digest.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(&self, run_dir: &Path) -> io::Result<Text> {
        let file = Digesting { inner: File::open(self.file(run_dir))?, sha256: Sha256::new(), bytes: 0 };
        if self.zstd { Ok(Text::Zstd(Box::new(zstd::Decoder::new(file)?))) } else { Ok(Text::Plain(Box::new(file))) }
    }
}

/// The text of a plain dump.
pub enum Text {
    /// As it lies in the file.
    Plain(Box<Digesting>),
    /// Decompressed.
    Zstd(Box<zstd::Decoder<'static, io::BufReader<Digesting>>>),
}

impl Read for Text {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(file) => file.read(buffer),
            Self::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

impl Text {
    /// Returns the file's length and SHA-256 once all of the text was read.
    ///
    /// # Errors
    /// When the rest of the file cannot be read.
    pub fn finish(self) -> io::Result<(u64, String)> {
        let mut file = match self {
            Self::Plain(file) => *file,
            Self::Zstd(decoder) => {
                let mut reader = decoder.finish();
                io::copy(&mut reader, &mut io::sink())?;
                reader.into_inner()
            }
        };
        io::copy(&mut file, &mut io::sink())?;
        Ok((file.bytes, hex(&file.sha256.finalize())))
    }
}

/// A file whose bytes are added to a digest as they are read.
pub struct Digesting {
    inner: File,
    sha256: Sha256,
    bytes: u64,
}

impl Read for Digesting {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.sha256.update(&buffer[..n]);
        self.bytes += n as u64;
        Ok(n)
    }
}

/// Returns the length and SHA-256 of a file; of a folder the sum of its files' lengths and the SHA-256 of lines
/// `digest  name` for each file, by name.
///
/// # Errors
/// When something cannot be read, or the folder holds a folder or a link.
pub fn digest(path: &Path) -> io::Result<(u64, String)> {
    if !path.is_dir() {
        return digest_file(path);
    }
    let mut names: Vec<PathBuf> = std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>()?;
    names.sort();
    let (mut total, mut list) = (0, String::new());
    for file in names {
        if !file.symlink_metadata()?.is_file() {
            return Err(io::Error::other(format!("{} is no file", file.display())));
        }
        let (bytes, sha256) = digest_file(&file)?;
        total += bytes;
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        // Writing to a string cannot fail.
        writeln!(list, "{sha256}  {name}").ok();
    }
    Ok((total, hex(&Sha256::digest(list))))
}

fn digest_file(path: &Path) -> io::Result<(u64, String)> {
    let (mut file, mut sha256, mut bytes) = (File::open(path)?, Sha256::new(), 0);
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok((bytes, hex(&sha256.finalize()))),
            Ok(n) => {
                sha256.update(&buffer[..n]);
                bytes += n as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns bytes as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        write!(out, "{byte:02x}").ok();
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn artifact(path: &str, bytes: u64, sha256: &str) -> DumpArtifact {
        DumpArtifact {
            step: "dump".into(),
            path: path.into(),
            format: DumpFormat::Plain,
            scope: DumpScope::Database,
            zstd: false,
            bytes,
            text_bytes: None,
            sha256: sha256.into(),
            source_version_num: 150_020,
            client_version: 150_020,
            database: "db".into(),
            contents: None,
            table_bytes: BTreeMap::new(),
            rules: None,
        }
    }

    #[test]
    fn a_changed_dump_is_found() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.sql"), "SELECT 1;\n").unwrap();
        let (bytes, sha256) = digest(&folder.path().join("a.sql")).unwrap();
        let dump = artifact("a.sql", bytes, &sha256);
        dump.verify(folder.path()).unwrap();
        std::fs::write(folder.path().join("a.sql"), "SELECT 2;\n").unwrap();
        let error = dump.verify(folder.path()).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Verification);
        assert!(error.advice().contains("--rerun dump"), "{error:?}");
    }

    #[test]
    fn text_is_decompressed_and_digested_in_one_pass() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sql.zst");
        std::fs::write(&path, zstd::encode_all(&b"SELECT 1;\n"[..], 3).unwrap()).unwrap();
        let (bytes, sha256) = digest(&path).unwrap();
        let dump = DumpArtifact { zstd: true, ..artifact("a.sql.zst", bytes, &sha256) };
        let (mut text, mut out) = (dump.open(folder.path()).unwrap(), String::new());
        text.read_to_string(&mut out).unwrap();
        assert_eq!(out, "SELECT 1;\n");
        assert_eq!(text.finish().unwrap(), (bytes, sha256));
    }

    #[test]
    fn a_folder_has_the_digest_of_its_list() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["toc.dat", "1.dat"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        let (bytes, before) = digest(folder.path()).unwrap();
        assert_eq!(bytes, 12);
        std::fs::rename(folder.path().join("1.dat"), folder.path().join("2.dat")).unwrap();
        assert_ne!(digest(folder.path()).unwrap().1, before);
    }
}
