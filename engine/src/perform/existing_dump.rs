//! Looks at a dump that was made earlier: what it is, whole or not, and its digest. Nothing is changed.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use super::{PerformCx, restore::archive::Listing};
use crate::{
    artifact::{self, Contents, DumpArtifact, DumpFormat, DumpScope},
    error::{ErrorKind, StepError},
    tool::{Clients, Program, version_number},
};

/// How much of a script is read to tell whose it is.
const HEAD: u64 = 64 << 10;
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const GZIP: &[u8] = &[0x1f, 0x8b];

/// Returns what a restore must know of the dump. Of a script only the head is understood here: that it is whole shows
/// while it is restored, or looked through by a filter.
///
/// # Errors
/// [`ErrorKind::Io`] when it cannot be read, [`ErrorKind::Refused`] when it is no dump or of a format that cannot be
/// restored, [`ErrorKind::Tool`] when `pg_restore` finds an archive damaged.
pub(crate) async fn look(file: &Path, cx: &PerformCx) -> Result<DumpArtifact, StepError> {
    let path = file.to_owned();
    let read = tokio::task::spawn_blocking(move || Ok((head(&path)?, artifact::digest(&path)?))).await;
    let read: io::Result<_> =
        read.map_err(|error| StepError::new(ErrorKind::Internal, format!("the digest was given up: {error}")))?;
    let ((format, zstd, head), (bytes, sha256)) = read.map_err(|error| StepError::io("read the dump", file, &error))?;
    let mut dump = DumpArtifact {
        step: String::new(),
        path: file.to_owned(),
        format,
        scope: DumpScope::Database,
        zstd,
        bytes,
        text_bytes: (format == DumpFormat::Plain && !zstd).then_some(bytes),
        sha256,
        source_version_num: 0,
        client_version: 0,
        database: String::new(),
        contents: None,
        table_bytes: std::collections::BTreeMap::new(),
        rules: None,
    };
    match format {
        DumpFormat::Plain => {
            dump.scope = scope(&head).ok_or_else(|| no_dump(file, &head))?;
            (dump.source_version_num, dump.client_version) =
                (version(&head, "-- Dumped from database version "), version(&head, "-- Dumped by pg_dump version "));
        }
        DumpFormat::Custom | DumpFormat::Directory => {
            let (text, contents) = list(file, cx).await?;
            dump.source_version_num = version(&text, ";     Dumped from database version: ");
            dump.client_version = version(&text, ";     Dumped by pg_dump version: ");
            let name = text.lines().find_map(|line| line.strip_prefix(";     dbname: "));
            dump.database = name.unwrap_or_default().to_owned();
            dump.contents = Some(contents);
        }
    }
    Ok(dump)
}

/// Returns the format, whether zstd compresses it as a whole, and the beginning of a script.
fn head(path: &Path) -> io::Result<(DumpFormat, bool, String)> {
    if path.is_dir() {
        File::open(path.join("toc.dat"))?;
        return Ok((DumpFormat::Directory, false, String::new()));
    }
    let read = |from: &mut dyn io::Read| -> io::Result<Vec<u8>> {
        let mut head = Vec::new();
        from.take(HEAD).read_to_end(&mut head)?;
        Ok(head)
    };
    let first = read(&mut File::open(path)?)?;
    let text = |head: &[u8]| String::from_utf8_lossy(head).into_owned();
    Ok(match first.as_slice() {
        [b'P', b'G', b'D', b'M', b'P', ..] => (DumpFormat::Custom, false, String::new()),
        head if head.starts_with(ZSTD) => {
            (DumpFormat::Plain, true, text(&read(&mut zstd::Decoder::new(File::open(path)?)?)?))
        }
        head => (DumpFormat::Plain, false, text(head)),
    })
}

/// Tells by its first comment how much of a server a script holds; `None` when no client of PostgreSQL wrote it.
fn scope(head: &str) -> Option<DumpScope> {
    head.lines().find_map(|line| match line.trim_end() {
        "-- PostgreSQL database cluster dump" => Some(DumpScope::Cluster),
        "-- PostgreSQL database dump" => Some(DumpScope::Database),
        _ => None,
    })
}

fn no_dump(file: &Path, head: &str) -> StepError {
    let error = StepError::new(ErrorKind::Refused, format!("{} is no dump of pg_dump or pg_dumpall", file.display()));
    match head.as_bytes() {
        [] => error.detail("the file is empty"),
        // Lossy text no longer has the second byte.
        [first, ..] if *first == GZIP[0] => error.help("it is compressed with gzip: decompress it first (gunzip)"),
        head if head.starts_with(b"toc.dat") => {
            error.help("it is a tar archive: unpack it into a folder and name the folder")
        }
        _ => error.help("name the file that pg_dump or pg_dumpall wrote, from its first line on"),
    }
}

/// Returns the version that stands behind `label`, counted like a server's; 0 when none does.
fn version(text: &str, label: &str) -> u32 {
    text.lines().find_map(|line| version_number(line.strip_prefix(label)?)).unwrap_or(0)
}

/// Asks the newest `pg_restore` for the archive's own words and its contents.
async fn list(file: &Path, cx: &PerformCx) -> Result<(String, Contents), StepError> {
    let pg_restore = newest(&cx.clients)?;
    let program = Program::new(&pg_restore).arg("--list").arg(file).env("LC_ALL", "C".to_owned()).keep(256 << 20);
    let finished = program.shown("pg_restore --list".to_owned()).run(&cx.redactor, &cx.cancel).await?;
    finished.check(&[])?;
    let text = finished.stdout.whole();
    let text = text.ok_or_else(|| StepError::new(ErrorKind::Resources, "the archive's list of entries is too long"))?;
    Ok((text, Listing::read(&pg_restore, file, cx).await?.contents()))
}

fn newest(clients: &Clients) -> Result<std::path::PathBuf, StepError> {
    let having = clients.found.iter().filter(|client| client.programs.contains("pg_restore"));
    match having.max_by_key(|client| client.version_num) {
        Some(client) => Ok(client.path("pg_restore")),
        // Says what to install.
        None => clients.for_server("pg_restore", 100_000).map(|client| client.path("pg_restore")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_is_shows_in_its_first_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("dump");
        let at = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            head(&path).unwrap()
        };
        let script = "--\n-- PostgreSQL database cluster dump\n--\n";
        assert_eq!(at(script.as_bytes()), (DumpFormat::Plain, false, script.to_owned()));
        assert_eq!(scope(script), Some(DumpScope::Cluster));
        assert_eq!(at(&zstd::encode_all(script.as_bytes(), 1).unwrap()), (DumpFormat::Plain, true, script.to_owned()));
        assert_eq!(at(b"PGDMP\x01\x0e").0, DumpFormat::Custom);
        assert_eq!(scope(&at(b"SELECT 1;\n").2), None);
        let advice = |bytes: &[u8]| no_dump(&path, &at(bytes).2).advice().to_string();
        assert!(advice(&[0x1f, 0x8b, 8, 0]).contains("gunzip"));
        assert!(advice(b"toc.dat\0\0\0").contains("tar"));
    }

    #[test]
    fn versions_are_read_as_an_archive_tells_them() {
        let text = ";     Dumped from database version: 15.20 (Debian 15.20-0+deb12u1)\n";
        assert_eq!(version(text, ";     Dumped from database version: "), 150_020);
        assert_eq!(version(text, ";     Dumped by pg_dump version: "), 0);
    }
}
