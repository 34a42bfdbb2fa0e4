//! Comparing the rows of tables.
//!
//! Both servers send the same columns of a table, by name and in the left side's order, as COPY text under pinned
//! settings, both at once; neither sorts. Each side is one session with one snapshot for the whole batch.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::{
    ComparedTable, Piece, Sides,
    columns::{Name, Table, read, shown},
    no_such_database,
};
use crate::{
    digest::{LineDigest, Rows},
    error::{ErrorKind, StepError},
    op::data::CompareRows,
    perform::{PerformCx, Progress},
    postgres::{
        Session,
        quote::on_one_line,
        rows::{number, rows, text},
    },
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
    let mut plan = Vec::new();
    for name in &op.tables {
        let shown = shown(&op.pair.left_dbname, name);
        // A table that only one side has is found with the objects.
        let (Some(on_left), Some(on_right)) = (left.get(name), right.get(name)) else { continue };
        if let Some(why) = why_not(on_left, on_right) {
            piece.note(format!("{shown} was not compared: {why}"));
            continue;
        }
        let columns = same_columns(&shown, on_left, on_right, piece);
        let statements = if op.contents {
            (on_left.copy(name, &columns, &encoding), on_right.copy(name, &columns, &encoding))
        } else {
            (on_left.count(name), on_right.count(name))
        };
        plan.push((name, shown, on_left.relkind, statements));
    }
    let meter = Meter { progress: cx.progress.clone(), bytes: AtomicU64::new(0), rows: AtomicU64::new(0) };
    let (lefts, rights): (Vec<&str>, Vec<&str>) =
        plan.iter().map(|(.., (left, right))| (left.as_str(), right.as_str())).unzip();
    let silent = Meter { progress: Progress::silent(), bytes: AtomicU64::new(0), rows: AtomicU64::new(0) };
    let (lefts, rights) = tokio::try_join!(
        sums(&sides.left, &lefts, op.contents, Arc::new(meter), &cx.cancel),
        sums(&sides.right, &rights, op.contents, Arc::new(silent), &cx.cancel),
    )?;
    for ((name, shown, relkind, _), (left, right)) in plan.into_iter().zip(lefts.into_iter().zip(rights)) {
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
    format!("{} rows with digest {}", rows.rows, &rows.digest.to_string()[..12])
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

async fn sums(
    session: &Session,
    statements: &[&str],
    contents: bool,
    meter: Arc<Meter>,
    cancel: &CancellationToken,
) -> Result<Vec<Rows>, StepError> {
    let mut sums = Vec::with_capacity(statements.len());
    for statement in statements {
        if cancel.is_cancelled() {
            return Err(StepError::new(ErrorKind::Interrupted, "stopped"));
        }
        let sum = if contents {
            digest_of(session, statement, &meter).await?
        } else {
            let found = rows(session, "count rows", statement).await?;
            let rows = found.first().and_then(|row| number(row, 0)).unwrap_or_default();
            meter.add(0, rows);
            Rows { rows, ..Rows::default() }
        };
        sums.push(sum);
    }
    Ok(sums)
}

/// Hashes all rows that a COPY statement sends; on a thread of its own, so that both sides are hashed at once.
async fn digest_of(session: &Session, copy: &str, meter: &Arc<Meter>) -> Result<Rows, StepError> {
    let wrong = |error: &tokio_postgres::Error| {
        session
            .error("read a table", error)
            .detail(format!("statement: {copy}"))
            .detail(format!("on {}", session.label()))
    };
    let stream = session.client().copy_out(copy).await.map_err(|error| wrong(&error))?;
    let meter = Arc::clone(meter);
    let hashing = tokio::spawn(async move {
        let mut stream = std::pin::pin!(stream.ready_chunks(256));
        let (mut digest, mut told) = (LineDigest::default(), Rows::default());
        while let Some(pieces) = stream.next().await {
            for piece in pieces {
                digest.push(&piece?);
            }
            let sum = digest.sum();
            if sum.bytes - told.bytes >= REPORT_EVERY {
                meter.add(sum.bytes - told.bytes, sum.rows - told.rows);
                told = sum;
            }
        }
        let sum = digest.finish();
        meter.add(sum.bytes - told.bytes, sum.rows - told.rows);
        Ok::<_, tokio_postgres::Error>(sum)
    });
    match hashing.await {
        Ok(sum) => sum.map_err(|error| wrong(&error)),
        Err(error) => Err(StepError::new(ErrorKind::Internal, format!("hashing rows ended early: {error}"))),
    }
}
