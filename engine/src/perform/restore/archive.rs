//! Archives of pg_dump: what is in them, in which order and in how many parts it is restored.
//!
//! `pg_restore` never meets the target. It lists the entries and prints those that are asked for as text; an entry whose
//! text holds a statement that the target refuses (`SET (pg_attver=1)` behind a CREATE TABLE) then loses that statement,
//! not the table.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::Write as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use tempfile::NamedTempFile;

use super::{Chunks, PerformCx};
use crate::{
    artifact::{Contents, DumpArtifact, DumpFormat},
    error::{ErrorKind, StepError},
    op::Part,
    tool::{Program, Running, ending, last_lines},
};

/// Sections of an archive, in the order of a restore.
const SECTIONS: [&str; 3] = ["pre-data", "data", "post-data"];
/// Kinds of entries with more than one word.
const WORDY: &[&str] = &[
    "TABLE DATA",
    "TABLE ATTACH",
    "SEQUENCE SET",
    "SEQUENCE OWNED BY",
    "FK CONSTRAINT",
    "CHECK CONSTRAINT",
    "INDEX ATTACH",
    "MATERIALIZED VIEW DATA",
    "MATERIALIZED VIEW",
    "EVENT TRIGGER",
    "DEFAULT ACL",
    "BLOB METADATA",
    "BLOB COMMENTS",
];

/// One entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    id: u32,
    section: usize,
    kind: String,
    /// Schema, name and owner as `pg_restore --list` prints them.
    rest: String,
}

/// The entries of an archive, in its order.
#[derive(Debug, Clone, Default)]
pub(in crate::perform) struct Listing {
    entries: Vec<Entry>,
}

impl Listing {
    /// Asks `pg_restore` for the entries.
    pub(in crate::perform) async fn read(pg_restore: &Path, archive: &Path, cx: &PerformCx) -> Result<Self, StepError> {
        let mut listing = Self::default();
        for (at, section) in SECTIONS.iter().enumerate() {
            let program = Program::new(pg_restore)
                .arg("--list")
                .arg(format!("--section={section}"))
                .arg(archive)
                .env("LC_ALL", "C".to_owned())
                .keep(256 << 20)
                .shown(format!("pg_restore --list --section={section}"));
            let finished = program.run(&cx.redactor, &cx.cancel).await?;
            finished.check(&[])?;
            let text = finished
                .stdout
                .whole()
                .ok_or_else(|| StepError::new(ErrorKind::Resources, "the archive's list of entries is too long"))?;
            listing.entries.extend(text.lines().filter_map(|line| parse(line, at)));
        }
        Ok(listing)
    }

    /// Returns what a restore must know to split its work.
    pub(in crate::perform) fn contents(&self) -> Contents {
        let count = |part: fn(&Entry) -> bool| self.entries.iter().filter(|entry| part(entry)).count();
        Contents {
            tables: count(|entry| entry.kind == "TABLE DATA"),
            indexes: count(|entry| matches!(entry.kind.as_str(), "INDEX" | "CONSTRAINT") && entry.section == 2),
            large_objects: self.entries.iter().any(|entry| entry.kind.starts_with("BLOB")),
            entries: self.entries.len(),
        }
    }

    /// Returns the entries of a part, in the order in which they are restored.
    fn part(&self, part: Part, size: impl Fn(&Entry) -> u64) -> Vec<&Entry> {
        let of = |wanted: Group| self.entries.iter().filter(move |entry| group(entry) == wanted).collect::<Vec<_>>();
        match part {
            Part::Script => self.entries.iter().collect(),
            Part::Schema => of(Group::Schema),
            Part::OtherData => of(Group::OtherData),
            Part::Constraints => of(Group::Constraints),
            Part::Rest => [of(Group::Rest), of(Group::Privileges), of(Group::Last)].concat(),
            Part::Data { n, of: shares } => share(&of(Group::Data), n, shares, size),
            Part::Indexes { n, of: shares } => share(&of(Group::Indexes), n, shares, |_| 1),
        }
    }
}

/// When an entry is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Group {
    Schema,
    Data,
    OtherData,
    Indexes,
    Constraints,
    Rest,
    Privileges,
    Last,
}

fn group(entry: &Entry) -> Group {
    match (entry.section, entry.kind.as_str()) {
        (_, "DATABASE" | "DATABASE PROPERTIES") => Group::Schema,
        (0, "ACL") | (2, "ACL") => Group::Privileges,
        (0, _) => Group::Schema,
        (1, "TABLE DATA") => Group::Data,
        (1, _) => Group::OtherData,
        (_, "INDEX" | "CONSTRAINT") => Group::Indexes,
        (_, "INDEX ATTACH" | "FK CONSTRAINT" | "CHECK CONSTRAINT" | "STATISTICS") => Group::Constraints,
        // A comment of an event trigger stands behind it.
        (_, "EVENT TRIGGER" | "MATERIALIZED VIEW DATA") => Group::Last,
        (_, "COMMENT" | "SECURITY LABEL") if entry.rest.contains(" EVENT TRIGGER ") => Group::Last,
        _ => Group::Rest,
    }
}

/// Reads `3416; 1259 16385 TABLE public orders owner`.
fn parse(line: &str, section: usize) -> Option<Entry> {
    let (id, rest) = line.split_once("; ")?;
    let id = id.parse().ok()?;
    let rest = rest.splitn(3, ' ').nth(2)?;
    let wordy = WORDY.iter().find(|kind| rest.strip_prefix(**kind).is_some_and(|rest| rest.starts_with(' ')));
    let kind = *wordy.unwrap_or(&rest.split(' ').next().unwrap_or(rest));
    let rest = rest[kind.len()..].to_owned();
    Some(Entry { id, section, kind: kind.to_owned(), rest })
}

/// Returns the `n`th of `of` shares of about the same size, always the same ones: the largest first, each to the share
/// that has least.
fn share<'e>(entries: &[&'e Entry], n: usize, of: usize, size: impl Fn(&Entry) -> u64) -> Vec<&'e Entry> {
    let mut order: Vec<(u64, usize)> = entries.iter().enumerate().map(|(at, entry)| (size(entry).max(1), at)).collect();
    order.sort_by_key(|(size, at)| (std::cmp::Reverse(*size), *at));
    let mut shares = vec![0_u64; of.max(1)];
    let mut mine = BTreeSet::new();
    for (size, at) in order {
        let least = (0..shares.len()).min_by_key(|share| shares[*share]).unwrap_or_default();
        shares[least] += size;
        if least + 1 == n {
            mine.insert(at);
        }
    }
    mine.into_iter().map(|at| entries[at]).collect()
}

/// An archive that is being restored.
pub(in crate::perform) struct Archive<'a> {
    dump: &'a DumpArtifact,
    cx: &'a PerformCx,
    pg_restore: PathBuf,
    file: PathBuf,
    listing: Listing,
    sizes: BTreeMap<u32, u64>,
}

impl<'a> Archive<'a> {
    /// Lists the archive with the `pg_restore` that belongs to the `pg_dump` which wrote it, or a newer one.
    pub(in crate::perform) async fn open(dump: &'a DumpArtifact, cx: &'a PerformCx) -> Result<Self, StepError> {
        let version = dump.client_version;
        let having = || cx.clients.found.iter().filter(|client| client.programs.contains("pg_restore"));
        let client = match having().find(|client| client.version_num == version) {
            Some(same) => same,
            None => cx.clients.for_server("pg_restore", version)?,
        };
        let (pg_restore, file) = (client.path("pg_restore"), dump.file(&cx.run_dir));
        let listing = Listing::read(&pg_restore, &file, cx).await?;
        let sizes = sizes(&listing, dump, &file);
        Ok(Self { dump, cx, pg_restore, file, listing, sizes })
    }

    /// Returns the bytes that a part has of all data, for the progress.
    pub(super) fn share_bytes(&self, part: Part) -> Option<u64> {
        let bytes = |entry: &Entry| self.sizes.get(&entry.id).copied().unwrap_or_default();
        // A directory's files are compressed: their sizes compare the shares and do not tell the text's length.
        let plain = self.dump.format != DumpFormat::Directory;
        let sum = self.listing.part(part, bytes).iter().map(|entry| bytes(entry)).sum();
        (plain && matches!(part, Part::Data { .. }) && sum > 0).then_some(sum)
    }

    /// Starts to print the text of a part; `None` when there is nothing in it.
    pub(in crate::perform) fn start(&self, part: Part) -> Result<Option<Text>, StepError> {
        let size = |entry: &Entry| self.sizes.get(&entry.id).copied().unwrap_or_default();
        let mut list = String::new();
        for entry in self.listing.part(part, size) {
            // Writing to a string cannot fail.
            writeln!(list, "{};", entry.id).ok();
        }
        if list.is_empty() {
            return Ok(None);
        }
        let written = tempfile::NamedTempFile::new().and_then(|mut file| {
            file.write_all(list.as_bytes())?;
            Ok(file)
        });
        let file = written.map_err(|error| StepError::io("write a list in", &std::env::temp_dir(), &error))?;
        let running = Program::new(&self.pg_restore)
            .args(["--file=-", "--use-list"])
            .arg(file.path())
            .arg(&self.file)
            .env("LC_ALL", "C".to_owned())
            .shown(format!("pg_restore --file=- --use-list … {}", self.dump.path.display()))
            .start(Arc::clone(&self.cx.redactor))?;
        Ok(Some(Text { running, _list: file }))
    }
}

/// Returns the size of each table's data as far as it is known: its file in a directory, else what the survey said.
fn sizes(listing: &Listing, dump: &DumpArtifact, file: &Path) -> BTreeMap<u32, u64> {
    let known: BTreeMap<String, u64> =
        dump.table_bytes.iter().map(|(name, bytes)| (format!(" {} ", name.replacen('.', " ", 1)), *bytes)).collect();
    let files: BTreeMap<String, u64> = match dump.format {
        DumpFormat::Directory => std::fs::read_dir(file)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| {
                let name = entry.file_name().into_string().ok()?;
                let id = name.split('.').next()?.to_owned();
                Some((id, entry.metadata().ok()?.len()))
            })
            .collect(),
        DumpFormat::Plain | DumpFormat::Custom => BTreeMap::new(),
    };
    let size = |entry: &Entry| {
        let surveyed = || known.iter().find(|(name, _)| entry.rest.starts_with(name.as_str())).map(|(_, bytes)| *bytes);
        files.get(&entry.id.to_string()).copied().or_else(surveyed)
    };
    let tables = listing.entries.iter().filter(|entry| entry.kind == "TABLE DATA");
    tables.filter_map(|entry| Some((entry.id, size(entry)?))).collect()
}

/// The text of a part, as `pg_restore` prints it.
pub(in crate::perform) struct Text {
    running: Running,
    _list: NamedTempFile,
}

impl Text {
    pub(in crate::perform) fn chunks(&mut self) -> Result<Chunks, StepError> {
        let pipe = self.running.take_stdout();
        pipe.map(Chunks::of_pipe).ok_or_else(|| StepError::new(ErrorKind::Internal, "pg_restore's output is gone"))
    }

    /// Checks that `pg_restore` has ended well: that what it printed was all.
    pub(in crate::perform) async fn end(mut self, cx: &PerformCx) -> Result<(), StepError> {
        let status = self.running.wait(&cx.cancel).await?;
        if status.success() {
            return Ok(());
        }
        let error = StepError::new(ErrorKind::Tool, format!("`pg_restore` {}", ending(status)));
        Err(last_lines(self.running.stderr(), &cx.redactor).into_iter().fold(error, StepError::detail))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = ";
; Archive created at 2026-11-21
;
6; 2615 16385 SCHEMA - shop shop_owner
3416; 1259 16390 TABLE shop orders shop_owner
3500; 0 0 ACL shop TABLE orders shop_owner
";
    const DATA: &str = "3417; 0 16390 TABLE DATA shop orders shop_owner
3418; 0 16391 TABLE DATA shop item list shop_owner
3501; 0 0 SEQUENCE SET shop orders_id_seq shop_owner
3502; 0 0 BLOBS - BLOBS
";
    const POST: &str = "3300; 2606 1 CONSTRAINT shop orders orders_pkey shop_owner
3301; 1259 2 INDEX shop orders_placed shop_owner
3302; 0 0 INDEX ATTACH shop event_2023_who_idx shop_owner
3303; 2606 3 FK CONSTRAINT shop item item_order_fkey shop_owner
3304; 3466 4 EVENT TRIGGER - log_ddl aptible
3305; 0 5 MATERIALIZED VIEW DATA shop sales shop_owner
3306; 2620 6 TRIGGER shop orders touched shop_owner
3307; 826 7 DEFAULT ACL shop DEFAULT PRIVILEGES FOR TABLES shop_owner
";

    fn listing() -> Listing {
        let all = [LIST, DATA, POST].into_iter().enumerate();
        Listing { entries: all.flat_map(|(at, text)| text.lines().filter_map(move |line| parse(line, at))).collect() }
    }

    fn ids(part: Part) -> Vec<u32> {
        listing().part(part, |entry| if entry.id == 3418 { 9 } else { 1 }).iter().map(|entry| entry.id).collect()
    }

    #[test]
    fn every_entry_is_restored_once() {
        let parts = [
            Part::Schema,
            Part::Data { n: 1, of: 2 },
            Part::Data { n: 2, of: 2 },
            Part::OtherData,
            Part::Indexes { n: 1, of: 2 },
            Part::Indexes { n: 2, of: 2 },
            Part::Constraints,
            Part::Rest,
        ];
        let mut all: Vec<u32> = parts.into_iter().flat_map(ids).collect();
        all.sort_unstable();
        let mut wanted: Vec<u32> = listing().entries.iter().map(|entry| entry.id).collect();
        wanted.sort_unstable();
        assert_eq!(all, wanted);
        assert_eq!(listing().contents(), Contents { tables: 2, indexes: 2, large_objects: true, entries: 15 });
    }

    #[test]
    fn privileges_come_late_and_event_triggers_last() {
        assert_eq!(ids(Part::Schema), [6, 3416]);
        assert_eq!(ids(Part::Data { n: 1, of: 2 }), [3418]);
        assert_eq!(ids(Part::Constraints), [3302, 3303]);
        assert_eq!(ids(Part::Rest), [3306, 3307, 3500, 3304, 3305]);
    }
}
