//! Comparing the rows of tables.
//!
//! Both servers send the same columns of a table, by name and in the left side's order, as COPY text under pinned
//! settings (or in binary, where the types allow it), both at once; neither sorts. Each side is one session with one snapshot for the whole batch.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::{
    ComparedTable, Piece, Sides,
    columns::{Name, Table, Wire, read, shown},
    no_such_database,
};
use crate::{
    digest::{BinaryDigest, LineDigest, NotBinary, Rows},
    error::{ErrorKind, StepError},
    op::data::CompareRows,
    perform::{PerformCx, Progress},
    postgres::{
        Session,
        quote::on_one_line,
        rows::{number, rows, text},
    },
    quantity::counted,
};

/// How many bytes go by between two reports.
const REPORT_EVERY: u64 = 4 * 1024 * 1024;

pub(super) async fn compare(op: &CompareRows, cx: &PerformCx) -> Result<Piece, StepError> {
    let mut piece = Piece::default();
    let sides = match Sides::open(&op.pair, cx).await {
        Ok(sides) => sides,
        // The comparison of the objects says so.
        Err(error) if no_such_database(&error) => return Ok(piece),
        Err(error) => return Err(error),
    };
    sides.during(cx, async |sides| compare_between(op, sides, cx, &mut piece).await).await?;
    Ok(piece)
}

async fn compare_between(op: &CompareRows, sides: &Sides, cx: &PerformCx, piece: &mut Piece) -> Result<(), StepError> {
    let (left, right) = tokio::try_join!(read(&sides.left, &op.tables), read(&sides.right, &op.tables))?;
    let encoding = common_encoding(sides).await?;
    // Before 10 a server may have been built with times as floating-point numbers.
    let new = sides.left.server_version_num().min(sides.right.server_version_num()) >= 100_000;
    let (mut plan, mut lefts, mut rights) = (Vec::new(), Vec::new(), Vec::new());
    for name in &op.tables {
        let shown = shown(&op.pair.left_dbname, name);
        // A table that only one side has is found with the objects.
        let (Some(on_left), Some(on_right)) = (left.get(name), right.get(name)) else { continue };
        if let Some(why) = why_not(on_left, on_right) {
            piece.note(format!("{shown} was not compared: {why}"));
            continue;
        }
        let columns = same_columns(&shown, on_left, on_right, piece);
        let (left, right) = if op.contents {
            let binary = new && encoding == "UTF8" && on_left.has_same_bytes(on_right, &columns);
            let wire = if binary { Wire::Binary } else { Wire::Text(encoding.clone()) };
            let (left, right) = (on_left.copy(name, &columns, &wire), on_right.copy(name, &columns, &wire));
            (Ask::Contents(left, wire.clone()), Ask::Contents(right, wire))
        } else {
            (Ask::Count(on_left.count(name)), Ask::Count(on_right.count(name)))
        };
        lefts.push(left);
        rights.push(right);
        plan.push((name, shown, on_left.relkind));
    }
    let meter = Meter { progress: cx.progress.clone(), bytes: AtomicU64::new(0), rows: AtomicU64::new(0) };
    let silent = Meter { progress: Progress::silent(), bytes: AtomicU64::new(0), rows: AtomicU64::new(0) };
    let (lefts, rights) = tokio::try_join!(
        sums(&sides.left, &lefts, Arc::new(meter), &cx.cancel),
        sums(&sides.right, &rights, Arc::new(silent), &cx.cancel),
    )?;
    for ((name, shown, relkind), (left, right)) in plan.into_iter().zip(lefts.into_iter().zip(rights)) {
        judge_table(op, piece, name, &shown, relkind, left, right);
    }
    Ok(())
}

fn judge_table(op: &CompareRows, piece: &mut Piece, name: &Name, shown: &str, relkind: char, left: Rows, right: Rows) {
    let equal = left == right;
    if !equal {
        let (what, on_left, on_right) = if left.rows == right.rows {
            ("contents", brief(&left), brief(&right))
        } else {
            ("rows", left.rows.to_string(), right.rows.to_string())
        };
        if relkind == 'm' {
            let note = "the rows of a materialized view were computed anew; REFRESH both sides to compare them";
            piece.note(format!("{shown}: {what}: left {on_left}, right {on_right} ({note})"));
        } else {
            piece.find(format!("table {shown}"), what, on_left, on_right);
        }
    }
    let table = format!("{}.{}", name.0, name.1);
    let database = op.pair.left_dbname.clone();
    piece.tables.push(ComparedTable { database, table, left, right, equal });
}

fn brief(rows: &Rows) -> String {
    format!("{} with digest {}", counted(rows.rows, "row"), &rows.digest.to_string()[..12])
}

/// Returns why a table is left out on both sides.
fn why_not(left: &Table, right: &Table) -> Option<String> {
    let extension = left.extension.as_ref().or(right.extension.as_ref());
    if let Some(extension) = extension {
        return Some(format!("it belongs to the extension {extension}"));
    }
    if left.relkind == 'f' || right.relkind == 'f' {
        return Some("its rows are on a foreign server".to_owned());
    }
    if left.populated != right.populated {
        let side = if left.populated { "right" } else { "left" };
        return Some(format!("it is not populated on the {side}"));
    }
    (!left.populated).then(|| "it is not populated".to_owned())
}

/// Reports columns that are not alike and returns the names of those that both sides have.
fn same_columns<'a>(shown: &str, left: &'a Table, right: &Table, piece: &mut Piece) -> Vec<&'a str> {
    for column in &left.columns {
        let object = format!("column {shown}.{}", on_one_line(&column.name));
        match right.columns.iter().find(|other| other.name == column.name) {
            None => piece.find(object, "existence", "there", "missing"),
            Some(other) if other.type_name != column.type_name => {
                piece.find(object, "type", &column.type_name, &other.type_name);
            }
            Some(_) => {}
        }
    }
    for column in &right.columns {
        if !left.columns.iter().any(|other| other.name == column.name) {
            piece.find(format!("column {shown}.{}", on_one_line(&column.name)), "existence", "missing", "there");
        }
    }
    left.common(right)
}

/// Returns the encoding in which both servers can send: their own when it is the same, so that bytes which are not
/// valid text (`SQL_ASCII`) compare too.
async fn common_encoding(sides: &Sides) -> Result<String, StepError> {
    let sql = "SELECT pg_catalog.current_setting('server_encoding')";
    let doing = "ask for the encoding";
    let (left, right) = tokio::try_join!(rows(&sides.left, doing, sql), rows(&sides.right, doing, sql))?;
    let encoding = |found: &[tokio_postgres::SimpleQueryRow]| found.first().map(|row| text(row, 0).to_owned());
    let (left, right) = (encoding(&left), encoding(&right));
    Ok(left.filter(|left| right.as_ref() == Some(left)).unwrap_or_else(|| "UTF8".to_owned()))
}

/// Counts what goes by, for both people and the report at the end.
struct Meter {
    progress: Progress,
    bytes: AtomicU64,
    rows: AtomicU64,
}

impl Meter {
    /// Adds what a table gave so far since the last call.
    fn add(&self, bytes: u64, rows: u64) {
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let rows = self.rows.fetch_add(rows, Ordering::Relaxed) + rows;
        self.progress.report(bytes, rows, None);
    }
}

/// What is asked of a side.
enum Ask {
    /// The number of rows, by this query.
    Count(String),
    /// All rows, by this COPY.
    Contents(String, Wire),
}

async fn sums(
    session: &Session,
    asked: &[Ask],
    meter: Arc<Meter>,
    cancel: &CancellationToken,
) -> Result<Vec<Rows>, StepError> {
    let mut sums = Vec::with_capacity(asked.len());
    for ask in asked {
        if cancel.is_cancelled() {
            return Err(StepError::new(ErrorKind::Interrupted, "stopped"));
        }
        sums.push(match ask {
            Ask::Contents(copy, wire) => digest_of(session, copy, wire, &meter).await?,
            Ask::Count(query) => {
                let found = rows(session, "count rows", query).await?;
                let rows = found.first().and_then(|row| number(row, 0)).unwrap_or_default();
                meter.add(0, rows);
                Rows { rows, ..Rows::default() }
            }
        });
    }
    Ok(sums)
}

/// The digest of either format.
enum Hasher {
    Text(LineDigest),
    Binary(BinaryDigest),
}

impl Hasher {
    fn push(&mut self, piece: &[u8]) {
        match self {
            Self::Text(digest) => digest.push(piece),
            Self::Binary(digest) => digest.push(piece),
        }
    }

    fn sum(&self) -> Rows {
        match self {
            Self::Text(digest) => digest.sum(),
            Self::Binary(digest) => digest.sum(),
        }
    }

    fn finish(self) -> Result<Rows, NotBinary> {
        match self {
            Self::Text(digest) => Ok(digest.finish()),
            Self::Binary(digest) => digest.finish(),
        }
    }
}

/// Hashes all rows that a COPY statement sends; on a task of its own, so that both sides are hashed at once.
async fn digest_of(session: &Session, copy: &str, wire: &Wire, meter: &Arc<Meter>) -> Result<Rows, StepError> {
    let told = |error: StepError| error.detail(format!("statement: {copy}")).detail(format!("on {}", session.label()));
    let wrong = |error: &tokio_postgres::Error| told(session.error("read a table", error));
    let stream = session.client().copy_out(copy).await.map_err(|error| wrong(&error))?;
    let meter = Arc::clone(meter);
    let mut hasher = match wire {
        Wire::Text(_) => Hasher::Text(LineDigest::default()),
        Wire::Binary => Hasher::Binary(BinaryDigest::default()),
    };
    let hashing = tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream.ready_chunks(256));
        let mut told = Rows::default();
        while let Some(pieces) = stream.next().await {
            for piece in pieces {
                hasher.push(&piece?);
            }
            let sum = hasher.sum();
            if sum.bytes - told.bytes >= REPORT_EVERY {
                meter.add(sum.bytes - told.bytes, sum.rows - told.rows);
                told = sum;
            }
        }
        let sum = hasher.sum();
        meter.add(sum.bytes - told.bytes, sum.rows - told.rows);
        Ok::<_, tokio_postgres::Error>(hasher.finish())
    });
    let internal = |why: String| told(StepError::new(ErrorKind::Internal, why));
    let sum = hashing.await.map_err(|error| internal(format!("hashing rows ended early: {error}")))?;
    sum.map_err(|error| wrong(&error))?.map_err(|error| internal(error.to_string()))
}
