//! Puts a dump into a server, statement by statement through connections of our own.
//!
//! ```text
//! file or pg_restore → Chunks → sql::Reader → script::load → Loader (filter, transactions, receipts) → Target
//! ```
//!
//! A script is one action. An archive is several, each of which asks `pg_restore` for the text of its own entries, so
//! that every statement, whatever it comes from, goes the same way: filtered, judged, receipted.

pub(super) mod archive;
mod expected;
mod failure;
mod grants;
mod loader;
mod receipts;
mod script;
mod target;

use std::collections::BTreeMap;

use self::{
    archive::Archive,
    loader::{Loaded, Loader},
    receipts::{Key, Tally},
};
use super::{PerformCx, text::Chunks};
use crate::{
    action::Output,
    error::{ErrorKind, StepError},
    op::{Part, RestoreOp},
    quantity::counted,
    sql::FilterReport,
};

/// Restores a dump, or a part of an archive.
///
/// # Errors
/// [`ErrorKind::Verification`] when the dump is damaged or cut off, [`ErrorKind::UnexpectedError`] for the first error
/// that the plan does not expect (with `on_error: collect`, after the rest, for all of them), [`ErrorKind::Connection`]
/// when the target is lost: what is done is receipted there, and doing the action again goes on behind it.
pub async fn restore(op: &RestoreOp, cx: &PerformCx) -> Result<Output, StepError> {
    let single = matches!(op.part, Part::Indexes { .. } | Part::Constraints);
    let mut loader = Loader::open(op, cx, key(op, cx)?, single).await?;
    if let Some(databases) = loader.already_complete() {
        loader.clean(&databases).await?;
        let report = FilterReport::default();
        return Ok(told(op, &Loaded { databases, report, warnings: Vec::new(), already_done: true }, &[]));
    }
    let mut others = Vec::new();
    let loaded = match op.part {
        Part::Script => {
            verify(op, cx).await?;
            let chunks = Chunks::of_dump(&op.dump, &cx.run_dir)?;
            script::load(&mut loader, chunks, op.dump.text_bytes, &op.dump, cx).await?;
            loader.finish().await?
        }
        part => {
            if part == Part::Schema {
                verify(op, cx).await?;
            }
            let archive = Archive::open(&op.dump, cx).await?;
            if let Some(mut text) = archive.start(part)? {
                let chunks = text.chunks()?;
                match script::load(&mut loader, chunks, archive.share_bytes(part), &op.dump, cx).await {
                    Ok(()) => text.end(cx).await?,
                    // Text that is cut off is what follows when pg_restore fails.
                    Err(error) if error.kind == ErrorKind::Verification => {
                        return Err(text.end(cx).await.err().unwrap_or(error));
                    }
                    Err(error) => return Err(error),
                }
            }
            if part == Part::Rest {
                let marks = loader.key().of_step(loader.session()).await?;
                others.extend(marks.into_iter().map(|mark| mark.tally));
            }
            loader.finish().await?
        }
    };
    Ok(told(op, &loaded, &others))
}

/// Returns whose receipts the action writes. Rules may change on the way: a statement stays where it is in the dump.
fn key(op: &RestoreOp, cx: &PerformCx) -> Result<Key, StepError> {
    let what = serde_json::to_string(&(&op.dump.sha256, &op.part))
        .map_err(|error| StepError::new(ErrorKind::Internal, format!("the restore cannot be described: {error}")))?;
    let fingerprint = blake3::hash(what.as_bytes()).to_hex().to_string();
    let step = cx.receipt_step();
    let action = format!("{step}/{}", cx.action);
    Ok(Key { run: cx.run_id.clone(), step, action, fingerprint })
}

/// Reads all of the dump before the first statement: a damaged one must not be restored in part.
async fn verify(op: &RestoreOp, cx: &PerformCx) -> Result<(), StepError> {
    let (dump, run_dir) = (op.dump.clone(), cx.run_dir.clone());
    let verified = tokio::task::spawn_blocking(move || dump.verify(&run_dir)).await;
    verified.map_err(|error| StepError::new(ErrorKind::Internal, format!("the check was given up: {error}")))?
}

/// Returns what people and later steps are told; `others` = the other actions of an archive, for its last one.
fn told(op: &RestoreOp, loaded: &Loaded, others: &[Tally]) -> Output {
    let mut sum = Tally::default();
    loaded.databases.values().chain(others).for_each(|tally| sum.add(tally));
    let report = &loaded.report;
    let errors: u64 = sum.expected.values().sum();
    let removed: u64 = report.removals.len() as u64 + report.unlisted;
    let (statements, rows) = (counted(sum.statements, "statement"), counted(sum.rows, "row"));
    let mut parts = vec![format!("{statements}, {rows}, {} of data", counted(sum.bytes, "byte"))];
    if !op.expected.is_empty() {
        parts.push(format!("{} and no other", counted(errors, "expected error")));
    }
    if removed > 0 {
        parts.push(format!("{} left out or changed", counted(removed, "statement")));
    }
    let mut output = Output { rows: Some(sum.rows), bytes: Some(sum.bytes), ..Output::said(parts.join(", ")) };
    output.already_done = loaded.already_done;
    let last = matches!(op.part, Part::Script | Part::Rest);
    if last && !loaded.already_done {
        output.warnings = expected::missing(&op.expected, &sum.expected);
    }
    output.warnings.extend(loaded.warnings.iter().cloned());
    for (reason, n) in report.counts.iter().filter(|(reason, _)| reason.starts_with("the target does not know")) {
        output.warnings.push(format!("{reason}: left out of {}", counted(*n, "statement")));
    }
    if last || op.part == Part::Schema {
        let counts: BTreeMap<&String, &u64> = report.counts.iter().collect();
        output = output.with("removals", serde_json::json!(counts));
    }
    if last {
        output = output
            .with("rows", sum.rows)
            .with("bytes", sum.bytes)
            .with("statements", sum.statements)
            .with("errors_expected", serde_json::json!(sum.expected));
    }
    output
}
