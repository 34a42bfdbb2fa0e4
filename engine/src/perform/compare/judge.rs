//! The last word of a `verify` step.

use serde::Serialize;

use super::{ComparedTable, Finding, Piece, folder, look, read_piece, write_json, write_piece};
use crate::{
    action::Output,
    error::{ErrorKind, StepError},
    op::data::JudgeComparison,
    pattern::any_matches,
    perform::PerformCx,
    quantity::counted,
};

/// How many differences an error names; the others are in the report.
const NAMED: usize = 20;
/// How many differences the message names.
const IN_MESSAGE: usize = 3;
/// How many tables are listed in the outputs; the report lists all.
const LISTED: usize = 200;

/// The report that lies in the run's folder.
#[derive(Debug, Serialize)]
struct Report<'a> {
    /// Whether everything is the same.
    equal: bool,
    /// Rows compared.
    rows: u64,
    /// Bytes of rows compared, as COPY text.
    bytes: u64,
    /// Sequences, roles, indexes and other things compared.
    objects: u64,
    /// Each table with both sides' numbers.
    tables: &'a [ComparedTable],
    /// What differs.
    differences: &'a [Finding],
    /// What differs and is expected.
    ignored: &'a [Finding],
    /// What was not compared.
    notes: &'a [String],
}

/// Puts the pieces together and fails when anything differs; what did is compared once more before.
///
/// Outputs: `equal`, `tables`, `rows`, `bytes`, `objects`, `differences` (a list of texts), `report` (a file).
///
/// # Errors
/// [`ErrorKind::Verification`] naming the first objects that differ; what the servers said.
pub async fn judge(op: &JudgeComparison, cx: &PerformCx) -> Result<Output, StepError> {
    let mut whole = Piece::default();
    let mut gone: u64 = 0;
    for (action, comparison) in &op.comparisons {
        let piece = match read_piece(cx, action) {
            Some(piece) if piece.findings.is_empty() => piece,
            before => {
                let piece = Box::pin(look(comparison, cx)).await?;
                let before = before.map(|piece| piece.findings).unwrap_or_default();
                // Not what is said of each side: the digest of a password is salted anew each time.
                let still = |old: &&Finding| {
                    piece.findings.iter().any(|new| (&new.object, &new.what) == (&old.object, &old.what))
                };
                gone += before.iter().filter(|old| !still(old)).count() as u64;
                write_piece(cx, action, &piece)?;
                piece
            }
        };
        whole.tables.extend(piece.tables);
        whole.findings.extend(piece.findings);
        whole.notes.extend(piece.notes);
        whole.objects += piece.objects;
    }
    whole.findings.sort();
    whole.findings.dedup();
    let (ignored, differences): (Vec<Finding>, Vec<Finding>) =
        whole.findings.drain(..).partition(|finding| any_matches(&op.ignore, &finding.object));
    let (rows, bytes) = whole.amount();
    let path = folder(cx).join("verification.json");
    let report = Report {
        equal: differences.is_empty(),
        rows,
        bytes,
        objects: whole.objects,
        tables: &whole.tables,
        differences: &differences,
        ignored: &ignored,
        notes: &whole.notes,
    };
    write_json(&path, &report)?;
    if !differences.is_empty() {
        return Err(failure(&differences, &path.display().to_string()));
    }
    let mut output = Output::said(same(&whole, rows, gone, ignored.len() as u64));
    let listed: Vec<serde_json::Value> = whole.tables.iter().take(LISTED).map(entry).collect();
    output = output
        .with("equal", true)
        .with("tables", listed)
        .with("rows", rows)
        .with("bytes", bytes)
        .with("objects", whole.objects)
        .with("differences", Vec::<String>::new())
        .with("report", path.display().to_string());
    output.warnings.extend(ignored.iter().map(|finding| format!("ignored: {finding}")));
    // Rows and bytes were counted by the comparisons already.
    Ok(output)
}

/// Says that all is the same, and with which reservation.
fn same(whole: &Piece, rows: u64, gone: u64, ignored: u64) -> String {
    let (tables, objects) = (counted(whole.tables.len() as u64, "table"), counted(whole.objects, "object"));
    let mut said = format!("{tables} with {} and {objects} are the same", counted(rows, "row"));
    if ignored > 0 {
        said.push_str(&format!(" but for {} that {} ignored", counted(ignored, "difference"), is_or_are(ignored)));
    }
    if gone > 0 {
        said.push_str(&format!("; {} had gone when compared once more", counted(gone, "difference")));
    }
    said
}

fn is_or_are(count: u64) -> &'static str {
    if count == 1 { "is" } else { "are" }
}

fn entry(table: &ComparedTable) -> serde_json::Value {
    serde_json::json!({
        "database": table.database,
        "table": table.table,
        "left": table.left.rows,
        "right": table.right.rows,
        "digest": table.left.digest,
        "equal": table.equal,
    })
}

fn failure(differences: &[Finding], report: &str) -> StepError {
    let some: Vec<String> = differences.iter().take(IN_MESSAGE).map(ToString::to_string).collect();
    let count = differences.len();
    let (counted, more) = (counted(count as u64, "difference"), if count > IN_MESSAGE { "; …" } else { "" });
    let mut error = StepError::new(ErrorKind::Verification, format!("{counted}: {}{more}", some.join("; ")));
    error.details.extend(differences.iter().take(NAMED).map(ToString::to_string));
    if count > NAMED {
        error.details.push(format!("and {} more", count - NAMED));
    }
    error.detail(format!("all of it is in {report}"))
}
