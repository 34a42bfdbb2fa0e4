//! Comparing two servers: what was found, how it is kept, and when it counts.
//!
//! Each comparison is an action of its own and ends well whatever it finds: it writes a [`Piece`] into the run's
//! folder. The last action of the step ([`judge`]) reads all pieces, does those with differences once more, and fails
//! when differences remain. So the whole picture is there at once, and a resumed step sees what was mended meanwhile.

mod catalog;
mod catalog_sql;
mod clusters;
mod columns;
pub(crate) mod inventory;
mod judge;
mod objects;
mod rows;
mod sequences;

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::PerformCx;
use crate::{
    action::Output,
    digest,
    error::{ErrorKind, StepError},
    op::data::{Comparison, Pair},
    postgres::{
        Session,
        connect::execute,
        pin::{Floats, pin_session},
    },
    quantity::counted,
};

pub use judge::judge;

/// Something that is not the same on both sides.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// The object: `table db:public.orders`, `role app`.
    pub object: String,
    /// What of it differs: `rows`, `contents`, `owner`.
    pub what: String,
    /// What the left side has.
    pub left: String,
    /// What the right side has.
    pub right: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { object, what, left, right } = self;
        write!(f, "{object}: {what}: left {left}, right {right}")
    }
}

/// A table whose rows were compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComparedTable {
    /// The database (on the left side).
    pub database: String,
    /// `schema.name`.
    pub table: String,
    /// What the left side has.
    pub left: digest::Rows,
    /// What the right side has.
    pub right: digest::Rows,
    /// Whether both are the same.
    pub equal: bool,
}

/// What one comparison found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// Tables whose rows were compared.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tables: Vec<ComparedTable>,
    /// How many other things were compared.
    #[serde(default)]
    pub objects: u64,
    /// What differs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// What was not compared, and what differs without being wrong.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

impl Piece {
    fn find(&mut self, object: impl Into<String>, what: &str, left: impl Into<String>, right: impl Into<String>) {
        let (object, what, left, right) = (object.into(), what.to_owned(), left.into(), right.into());
        self.findings.push(Finding { object, what, left, right });
    }

    fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// Returns rows and bytes of the left side.
    fn amount(&self) -> (u64, u64) {
        self.tables.iter().fold((0, 0), |(rows, bytes), table| (rows + table.left.rows, bytes + table.left.bytes))
    }
}

/// Compares, and keeps what was found for the judgement at the end of the step.
///
/// # Errors
/// What the servers said; a difference is not an error yet.
pub async fn compare(comparison: &Comparison, cx: &PerformCx) -> Result<Output, StepError> {
    let piece = Box::pin(look(comparison, cx)).await?;
    write_piece(cx, &cx.action, &piece)?;
    let (rows, bytes) = piece.amount();
    let subject = match comparison {
        Comparison::Rows(_) => {
            format!("{}, {}", counted(piece.tables.len() as u64, "table"), counted(rows, "row"))
        }
        Comparison::Clusters(_) | Comparison::Objects(_) => counted(piece.objects, "object"),
    };
    // The judgement at the end compares once more what differs, and takes out what is ignored.
    let differences = match piece.findings.len() as u64 {
        0 => "no difference".to_owned(),
        n => format!("{}, to be judged", counted(n, "difference")),
    };
    let mut output = Output::said(format!("compared {subject}: {differences}"));
    output.warnings = piece.notes;
    (output.rows, output.bytes) = (Some(rows), Some(bytes));
    Ok(output)
}

async fn look(comparison: &Comparison, cx: &PerformCx) -> Result<Piece, StepError> {
    match comparison {
        Comparison::Clusters(op) => clusters::compare(op, cx).await,
        Comparison::Objects(op) => objects::compare(op, cx).await,
        Comparison::Rows(op) => rows::compare(op, cx).await,
    }
}

fn folder(cx: &PerformCx) -> PathBuf {
    cx.run_dir.join(&cx.step)
}

/// Returns the file of an action's piece; an action's id may hold any character.
fn piece_file(cx: &PerformCx, action: &str) -> PathBuf {
    let digest = blake3::hash(action.as_bytes()).to_hex();
    folder(cx).join(format!("compared-{}.json", &digest[..16]))
}

fn write_piece(cx: &PerformCx, action: &str, piece: &Piece) -> Result<(), StepError> {
    write_json(&piece_file(cx, action), piece)
}

fn read_piece(cx: &PerformCx, action: &str) -> Option<Piece> {
    serde_json::from_slice(&std::fs::read(piece_file(cx, action)).ok()?).ok()
}

/// Writes a file for the user alone, whole or not at all.
pub(super) fn write_json<T: Serialize>(path: &std::path::Path, value: &T) -> Result<(), StepError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let wrong = |error: std::io::Error| StepError::io("write", path, &error);
    let folder = path.parent().unwrap_or(path);
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(wrong)?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(wrong)?;
    serde_json::to_writer_pretty(&mut file, value).map_err(|error| wrong(error.into()))?;
    file.as_file().sync_all().map_err(wrong)?;
    file.persist(path).map_err(|error| wrong(error.error))?;
    Ok(())
}

/// Two pinned sessions, each in a read-only transaction with one snapshot.
struct Sides {
    left: Session,
    right: Session,
}

impl Sides {
    async fn open(pair: &Pair, cx: &PerformCx) -> Result<Self, StepError> {
        let (left, right) = tokio::try_join!(
            cx.connect_read_only(&pair.left, Some(&pair.left_dbname)),
            cx.connect_read_only(&pair.right, Some(&pair.right_dbname)),
        )?;
        let sides = Self { left, right };
        let floats = Floats::for_pair(sides.left.server_version_num(), sides.right.server_version_num());
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        for session in [&sides.left, &sides.right] {
            pin_session(session, floats).await?;
            execute(session, "begin to compare", begin).await?;
        }
        Ok(sides)
    }

    /// Does `work` on both sessions, to its end or until the run is told to stop, and closes them.
    async fn during<T>(
        self,
        cx: &PerformCx,
        work: impl AsyncFnOnce(&Self) -> Result<T, StepError>,
    ) -> Result<T, StepError> {
        let done = cx.cancellable(&[&self.left, &self.right], work(&self)).await;
        if done.is_err() {
            // One side's failure leaves the other in the middle of its answer.
            for session in [&self.left, &self.right] {
                if let Err(error) = session.cancel().await {
                    tracing::debug!("{error}");
                }
            }
        }
        tokio::join!(self.left.close(), self.right.close());
        done
    }
}

/// Returns whether a connection failed because the database does not exist.
fn no_such_database(error: &StepError) -> bool {
    error.kind == ErrorKind::Object && error.sqlstate.as_deref() == Some("3D000")
}
