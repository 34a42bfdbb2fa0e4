//! Looks through a dump once and decides what of it is left out; the data stays where it is.

use std::{collections::BTreeSet, fs, os::unix::fs::OpenOptionsExt as _, path::Path};

use super::{
    PerformCx,
    restore::archive::Archive,
    text::{Chunk, Chunks},
};
use crate::{
    action::Output,
    artifact::{DumpArtifact, DumpFormat},
    error::{ErrorKind, StepError},
    op::{FilterOp, Part, Unmatched},
    postgres::connect::connect_read_only,
    quantity::counted,
    sql::{
        Filter, FilterReport, FilterRules, Piece, ReadOptions, Reader,
        filter::{Reason, TargetAbilities},
    },
};

/// Shortest way of the text between two reports of progress.
const REPORTED: u64 = 4 << 20;

/// Applies the rules to all statements of a dump, and returns the dump with the rules as the output `dump`.
///
/// # Errors
/// [`ErrorKind::Verification`] when the dump is damaged, [`ErrorKind::Plan`] when a rule matches nothing and must.
pub async fn filter(op: &FilterOp, cx: &PerformCx) -> Result<Output, StepError> {
    let rules = rules(op, cx).await?;
    let filter = Filter::new(rules.clone())?;
    let mut report = FilterReport::new(&filter);
    let mut pass = Pass { filter: &filter, report: &mut report, cx, total: op.dump.text_bytes };
    match op.dump.format {
        DumpFormat::Plain => pass.read(Chunks::of_dump(&op.dump, &cx.run_dir)?, &op.dump).await?,
        DumpFormat::Custom | DumpFormat::Directory => {
            let (dump, run_dir) = (op.dump.clone(), cx.run_dir.clone());
            let verified = tokio::task::spawn_blocking(move || dump.verify(&run_dir)).await;
            verified
                .map_err(|error| StepError::new(ErrorKind::Internal, format!("the check was given up: {error}")))??;
            let archive = Archive::open(&op.dump, cx).await?;
            for part in [Part::Schema, Part::Constraints, Part::Indexes { n: 1, of: 1 }, Part::Rest] {
                if let Some(mut text) = archive.start(part)? {
                    pass.read(text.chunks()?, &op.dump).await?;
                    text.end(cx).await?;
                }
            }
        }
    }
    let warnings = unmatched(op, &filter, &report)?;
    let list = cx.run_dir.join(&cx.step).join("removals.json");
    write(&list, &report)?;
    let dump = DumpArtifact { rules: Some(rules), ..op.dump.clone() };
    let value = serde_json::to_value(&dump)
        .map_err(|error| StepError::new(ErrorKind::Internal, format!("the dump cannot be described: {error}")))?;
    let removed = report.removals.len() as u64 + report.unlisted;
    let counts: Vec<String> = report.counts.iter().map(|(reason, n)| format!("{n} × {reason}")).collect();
    let summary = match removed {
        0 => "every statement stays".to_owned(),
        n => format!("{} left out or changed: {}; see {}", counted(n, "statement"), counts.join(", "), list.display()),
    };
    let output = Output::said(summary).with("dump", value).with("removals", serde_json::json!(report.counts));
    Ok(Output { warnings, ..output })
}

/// Returns the plan's rules, with what is known of the target.
async fn rules(op: &FilterOp, cx: &PerformCx) -> Result<FilterRules, StepError> {
    let mut rules = op.rules.clone();
    if let Some(existing) = op.dump.rules.clone() {
        rules = merged(existing, rules);
    }
    let Some(target) = &op.target else { return Ok(rules) };
    let session = connect_read_only(&cx.databases.conninfo(target)?, "pgplan-look filter").await?;
    let major = session.server_version_num() / 10_000;
    // A server that stamps its own columns knows the stamp; others refuse it.
    let stamped = "SELECT FROM pg_catalog.pg_attribute WHERE attoptions::text LIKE '%pg_attver=%' LIMIT 1";
    let rows = session.client().simple_query(stamped).await;
    let rows = rows.map_err(|error| session.error("look at the target's columns", &error))?;
    let knows = rows.iter().any(|message| matches!(message, tokio_postgres::SimpleQueryMessage::Row(_)));
    session.close().await;
    let unknown_column_options = if knows { Vec::new() } else { vec!["pg_attver".to_owned()] };
    rules.target = Some(TargetAbilities { major, unknown_column_options, ..TargetAbilities::default() });
    Ok(rules)
}

/// Returns the rules of two filters, one after the other, as one.
fn merged(mut first: FilterRules, then: FilterRules) -> FilterRules {
    first.reserved_roles.extend(then.reserved_roles);
    first.drop_passwords_of.extend(then.drop_passwords_of);
    first.drop_role_attributes.extend(then.drop_role_attributes);
    first.no_owner |= then.no_owner;
    first.no_acl |= then.no_acl;
    first.no_tablespaces |= then.no_tablespaces;
    first.drop.extend(then.drop);
    first.replace.extend(then.replace);
    first.target = then.target.or(first.target);
    first
}

struct Pass<'a> {
    filter: &'a Filter,
    report: &'a mut FilterReport,
    cx: &'a PerformCx,
    total: Option<u64>,
}

impl Pass<'_> {
    async fn read(&mut self, mut chunks: Chunks, dump: &DumpArtifact) -> Result<(), StepError> {
        let mut reader = Reader::new(ReadOptions::default());
        let (mut read, mut reported, mut ended) = (0, 0, false);
        while !ended {
            match chunks.next().await.map_err(|error| StepError::io("read the dump", &dump.path, &error))? {
                Some(Chunk::Text(text)) => {
                    read += text.len() as u64;
                    reader.push(&text);
                }
                Some(Chunk::End { bytes, sha256 }) => dump.compare(&dump.path, bytes, &sha256)?,
                None => {
                    reader.finish();
                    ended = true;
                }
            }
            while let Some(piece) = reader.piece()? {
                if let Piece::Statement(statement) | Piece::CopyStart(statement) = &piece {
                    let verdict = self.filter.judge(statement);
                    self.report.note(statement, &verdict);
                }
            }
            if read - reported >= REPORTED {
                reported = read;
                self.cx.progress.report(read, 0, self.total);
            }
            if self.cx.cancel.is_cancelled() {
                return Err(StepError::new(ErrorKind::Interrupted, "the filter was stopped"));
            }
        }
        if reader.facts().is_truncated() {
            let message = "the dump is cut off: its last line is missing";
            return Err(StepError::new(ErrorKind::Verification, message).help("make the dump again"));
        }
        Ok(())
    }
}

/// Judges the rules that matched nothing; returns what is to be said about them.
fn unmatched(op: &FilterOp, filter: &Filter, report: &FilterReport) -> Result<Vec<String>, StepError> {
    let patterns: BTreeSet<String> = filter
        .rules()
        .iter()
        .filter(|rule| matches!(rule, Reason::Pattern(_) | Reason::Replaced(_)))
        .map(ToString::to_string)
        .collect();
    let (mut errors, mut warnings) = (Vec::new(), Vec::new());
    for rule in &report.unmatched {
        match if patterns.contains(rule) { op.unmatched_patterns } else { op.unmatched_roles } {
            Unmatched::Error => errors.push(rule.clone()),
            Unmatched::Warn => warnings.push(format!("this rule of the filter matches nothing in the dump: {rule}")),
            Unmatched::Ignore => {}
        }
    }
    let Some(first) = errors.first() else { return Ok(warnings) };
    let message = match errors.len() {
        1 => format!("a rule of the filter matches nothing in the dump: {first}"),
        n => format!("{n} rules of the filter match nothing in the dump"),
    };
    let error = StepError::new(ErrorKind::Plan, message)
        .help("correct the rule, or allow it with `unmatched: warn`; a restore without it would not be what was meant");
    Err(errors.into_iter().fold(error, StepError::detail))
}

/// Writes the full account as JSON, for the user alone.
fn write(path: &Path, report: &FilterReport) -> Result<(), StepError> {
    let failed = |error: std::io::Error| StepError::io("write the list of removals", path, &error);
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(failed)?;
    }
    let file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path).map_err(failed)?;
    serde_json::to_writer_pretty(&file, report).map_err(|error| failed(error.into()))?;
    file.sync_all().map_err(failed)
}
