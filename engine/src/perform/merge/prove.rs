//! The proof that all rows arrived, and the mark of completion in the transaction of the last check.
//!
//! What the target holds now must be what it held before and what the sources give now: digests of multisets of rows
//! add up. Where rows were left out on purpose, what was put in stands in the receipts, and the sources must still be
//! what they were. The target's tables are locked against writes meanwhile.

use std::collections::BTreeMap;

use secrecy::ExposeSecret as _;

use super::{Filled, Sessions, exactly_once, item_prefix, receipt_name, sequences};
use crate::{
    action::{Output, OutputValue},
    digest::Rows,
    error::{ErrorKind, StepError},
    merge::{Conflict, ForeignKey, Place},
    op::merge::{FillTable, ProveMerge, map_of},
    perform::PerformCx,
    postgres::{
        Session,
        connect::execute,
        copy::digest,
        quote::{ident, on_one_line, qualified},
        rows::{first, flag, number, rows},
    },
    quantity::counted,
    receipt,
};

/// The action's own id in its step.
const ID: &str = "prove";

/// Proves a merge and marks it complete.
///
/// Outputs: `tables` (rows by table and source), `rows`, `sequences` (how many were advanced), `marked`.
///
/// # Errors
/// [`ErrorKind::Verification`] with every table, source and foreign key that is not as it must be; what the server said.
pub async fn prove(op: &ProveMerge, cx: &PerformCx) -> Result<Output, StepError> {
    let sessions = Sessions::open(cx, &op.into, op.tables.iter().flat_map(|table| &table.parts)).await?;
    let reader = Sessions::open(cx, &op.into, std::iter::empty()).await?;
    let mut all = sessions.all();
    all.push(&reader.target);
    let work = exactly_once(cx, &sessions.target, op, async || {
        Proof { op, cx, sessions: &sessions, reader: &reader.target }.all().await
    });
    let done = cx.cancellable(&all, Box::pin(work)).await;
    sessions.close().await;
    reader.close().await;
    done
}

struct Proof<'a> {
    op: &'a ProveMerge,
    cx: &'a PerformCx,
    sessions: &'a Sessions,
    /// Reads sources in the target's database while the target's session reads the target.
    reader: &'a Session,
}

/// What the sources of a table hold now.
#[derive(Default)]
struct Given {
    sum: Rows,
    rows: BTreeMap<String, u64>,
}

impl Proof<'_> {
    async fn all(&self) -> Result<Output, StepError> {
        let (op, session) = (self.op, &self.sessions.target);
        for table in &op.tables {
            let sql = format!("LOCK TABLE {} IN SHARE MODE", qualified(&op.into.schema, &table.name));
            execute(session, "lock the target's tables", &sql).await?;
        }
        execute(self.reader, "begin to read", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        let recorded = self.recorded().await?;
        let (given, held) = tokio::try_join!(self.given(), self.held())?;
        let mut wrong = Vec::new();
        for table in &op.tables {
            let filled = recorded.get(&table.name).cloned().unwrap_or_default();
            let (Some(given), Some(held)) = (given.get(&table.name), held.get(&table.name)) else { continue };
            wrong.extend(judge(table, &filled, given, *held, op.by_another_run));
        }
        wrong.extend(self.foreign_keys().await?);
        if !wrong.is_empty() {
            let count = wrong.len();
            let message = format!("the merge is not right in {}", counted(count as u64, "place"));
            let error = StepError::new(ErrorKind::Verification, message);
            let error = wrong.into_iter().fold(error, StepError::detail);
            return Err(error.help(
                "nothing was marked as complete; `pgplan undo` empties the target again, then the merge can be done anew",
            ));
        }
        let places: Vec<Place> = op.places();
        let advanced = sequences::advance(self.sessions, &op.into, &op.sequences, &places).await?;
        let marked = self.mark().await?;
        self.drop_maps().await?;
        Ok(self.output(&given, advanced, marked))
    }

    /// Reads what the receipts of the filled tables say; a table that was filled in parts has several.
    async fn recorded(&self) -> Result<BTreeMap<String, Filled>, StepError> {
        let prefix = receipt_name(self.cx, item_prefix(self.cx, ID));
        let receipts = receipt::all(&self.sessions.target, &self.cx.run_id, &prefix).await?;
        let mut all: BTreeMap<String, Filled> = BTreeMap::new();
        for table in &self.op.tables {
            let whole = all.entry(table.name.clone()).or_default();
            for (index, filled) in
                receipts.iter().filter_map(|receipt| receipt.output::<Filled>(&table.name)).enumerate()
            {
                // Before the first part the table was as it was before the merge.
                whole.before = if index == 0 { filled.before } else { earliest(whole.before, filled.before) };
                whole.rows.extend(filled.rows);
                let add = |sum: &mut Option<Rows>, more: Option<Rows>| {
                    if let Some(more) = more {
                        *sum.get_or_insert_default() += more;
                    }
                };
                add(&mut whole.inserted, filled.inserted);
                add(&mut whole.sources, filled.sources);
            }
        }
        Ok(all)
    }

    async fn given(&self) -> Result<BTreeMap<String, Given>, StepError> {
        let mut all = BTreeMap::new();
        let mut bytes = 0;
        for table in &self.op.tables {
            let mut given = Given::default();
            for part in &table.parts {
                let local = self.sessions.is_local(part);
                let session = if local { self.reader } else { self.sessions.reader(part)? };
                let rows = contents(session, &part.select(&table.columns), &table.columns).await?;
                given.rows.insert(part.label.clone(), rows.rows);
                given.sum += rows;
                bytes += rows.bytes;
                self.cx.progress.report(bytes, 0, None);
            }
            all.insert(table.name.clone(), given);
        }
        Ok(all)
    }

    async fn held(&self) -> Result<BTreeMap<String, Rows>, StepError> {
        let mut all = BTreeMap::new();
        for table in &self.op.tables {
            let rows = contents(&self.sessions.target, &table.select(&self.op.into.schema), &table.columns).await?;
            all.insert(table.name.clone(), rows);
        }
        Ok(all)
    }

    /// Looks for references in the target that lead nowhere.
    async fn foreign_keys(&self) -> Result<Vec<String>, StepError> {
        let mut wrong = Vec::new();
        for (table, key) in &self.op.foreign_keys {
            let found =
                rows(&self.sessions.target, "validate a foreign key", &validate(&self.op.into.schema, table, key))
                    .await?;
            let count = found.first().and_then(|row| number(row, 0)).unwrap_or_default();
            if count > 0 {
                let (table, key) = (on_one_line(table), on_one_line(&key.name));
                wrong.push(format!("{table}: foreign key {key}: {} to nowhere", counted(count, "reference")));
            }
        }
        Ok(wrong)
    }

    /// Runs the SQL that marks the merge as complete, unless it is marked already.
    async fn mark(&self) -> Result<Mark, StepError> {
        let session = &self.sessions.target;
        if let Some(unless) = &self.op.unless {
            let sql = self.cx.reveal(unless)?;
            let found = rows(session, "ask whether the merge is marked as complete", sql.expose_secret()).await?;
            if found.first().is_some_and(|row| flag(row, 0)) {
                return Ok(Mark::Already);
            }
        } else if self.op.by_another_run && !self.op.complete.is_empty() {
            return Ok(Mark::Unknown);
        }
        for sql in &self.op.complete {
            execute(session, "mark the merge as complete", self.cx.reveal(sql)?.expose_secret()).await?;
        }
        Ok(if self.op.complete.is_empty() { Mark::None } else { Mark::Now })
    }

    async fn drop_maps(&self) -> Result<(), StepError> {
        for table in self.op.tables.iter().filter(|table| table.mapped.values().any(|root| *root == table.name)) {
            let sql = format!("DROP TABLE IF EXISTS {}", map_of(&table.name));
            execute(&self.sessions.target, "drop the map of keys", &sql).await?;
        }
        Ok(())
    }

    fn output(&self, given: &BTreeMap<String, Given>, advanced: u64, mark: Mark) -> Output {
        let total: u64 = given.values().map(|given| given.rows.values().sum::<u64>()).sum();
        let mut summary = format!(
            "{} with {}: contents equal, {} whole, {} advanced",
            counted(given.len() as u64, "table"),
            counted(total, "row"),
            counted(self.op.foreign_keys.len() as u64, "foreign key"),
            counted(advanced, "sequence"),
        );
        summary.push_str(match mark {
            Mark::Now => "; marked as complete",
            Mark::Already => "; it is marked as complete already",
            Mark::None | Mark::Unknown => "",
        });
        if self.op.by_another_run {
            summary.insert_str(0, "was merged already: ");
        }
        let tables = given.iter().map(|(table, given)| (table.clone(), serde_json::json!(given.rows)));
        let tables = serde_json::Value::Object(tables.collect());
        let mut output = Output::said(summary)
            .with("tables", OutputValue::Plain(tables))
            .with("rows", total)
            .with("sequences", advanced)
            .with("marked", matches!(mark, Mark::Now | Mark::Already));
        output.already_done = self.op.by_another_run;
        if matches!(mark, Mark::Unknown) {
            output.warnings.push(
                "the target was merged before, and without `complete.unless` nobody can tell whether it is marked as \
                 complete: `complete.run` was not run"
                    .to_owned(),
            );
        }
        output
    }
}

/// What became of the mark of completion.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mark {
    /// The plan has none.
    None,
    /// It was made.
    Now,
    /// It was there.
    Already,
    /// Nobody can tell.
    Unknown,
}

/// Returns the smaller of two earlier contents: that of the part that came first.
fn earliest(one: Option<Rows>, other: Option<Rows>) -> Option<Rows> {
    let rows = |contents: Option<Rows>| contents.map_or(0, |contents| contents.rows);
    if rows(one) <= rows(other) { one } else { other }
}

/// Returns the digest of a query's rows; without columns to compare, their number.
async fn contents(session: &Session, select: &str, columns: &[String]) -> Result<Rows, StepError> {
    if !columns.is_empty() {
        return digest(session, &format!("COPY ({select}) TO STDOUT")).await;
    }
    let count = first(session, "count rows", &format!("SELECT pg_catalog.count(*) FROM ({select}) r")).await?;
    Ok(Rows { rows: count.and_then(|count| count.parse().ok()).unwrap_or_default(), ..Rows::default() })
}

/// Compares what a table holds with what its sources give.
fn judge(table: &FillTable, filled: &Filled, given: &Given, held: Rows, by_another_run: bool) -> Vec<String> {
    let name = on_one_line(&table.name);
    let mut wrong = Vec::new();
    let all_kept = table.conflict == Conflict::Fail || by_another_run;
    let mut expected = filled.before.unwrap_or_default();
    if all_kept {
        expected += given.sum;
        for (label, rows) in given.rows.iter().filter(|_| !by_another_run) {
            let then = filled.rows.get(label).copied().unwrap_or_default();
            if then != *rows {
                wrong.push(format!(
                    "{name}: {} has changed since: it had {} and has {} now",
                    on_one_line(label),
                    counted(then, "row"),
                    counted(*rows, "row")
                ));
            }
        }
    } else {
        expected += filled.inserted.unwrap_or_default();
        if filled.sources.unwrap_or_default() != given.sum {
            wrong.push(format!("{name}: the sources have changed since its rows were merged"));
        }
    }
    if expected.rows != held.rows {
        wrong.push(format!(
            "{name}: the target holds {}, not {}",
            counted(held.rows, "row"),
            counted(expected.rows, "row")
        ));
    } else if expected != held {
        wrong.push(format!(
            "{name}: {} as expected, and their contents differ from the sources'",
            counted(held.rows, "row")
        ));
    }
    wrong
}

/// Returns the query that counts references of a table that lead nowhere.
fn validate(schema: &str, table: &str, key: &ForeignKey) -> String {
    let set = |word: &str| {
        key.columns.iter().map(|column| format!("r.{} IS NOT NULL", ident(column))).collect::<Vec<_>>().join(word)
    };
    let same = key.columns.iter().zip(&key.to_columns);
    let same = same.map(|(from, to)| format!("p.{} = r.{}", ident(to), ident(from))).collect::<Vec<_>>().join(" AND ");
    let half = if key.match_full && key.columns.len() > 1 {
        format!("(({}) AND NOT ({})) OR ", set(" OR "), set(" AND "))
    } else {
        String::new()
    };
    format!(
        "SELECT pg_catalog.count(*) FROM {} r WHERE {half}({} AND NOT EXISTS (SELECT FROM {} p WHERE {same}))",
        qualified(schema, table),
        set(" AND "),
        qualified(&key.to_schema, &key.to_table)
    )
}
