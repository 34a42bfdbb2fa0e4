//! SQL of a plan.
//!
//! In a transaction the order is: receipt there? → statements → expectations → receipt → COMMIT. An answer to COMMIT
//! that never came is no harm: the next attempt finds the receipt, or does the work.

use std::pin::pin;

use futures_util::TryStreamExt as _;
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value};
use tokio_postgres::SimpleQueryMessage;

use super::{PerformCx, hide};
use crate::{
    action::{Output, OutputValue, Outputs},
    error::{ErrorKind, StepError},
    op::data::{RunSql, SqlSource},
    postgres::{Session, connect::execute},
    quantity::counted,
    receipt::{self, Key},
    sql::script::statements,
};

/// The longest file of SQL that is read, bytes; more than that is a dump, which `restore` takes.
const LONGEST: u64 = 256 * 1024 * 1024;

/// Runs SQL; what its receipt says is done already is not done again.
///
/// Outputs: `value`, `row`, `rows`, `statements`.
///
/// # Errors
/// What the server said; [`ErrorKind::Verification`] when the result is not as expected; [`ErrorKind::Plan`] for
/// statements that cannot stand there.
pub async fn run(op: &RunSql, cx: &PerformCx) -> Result<Output, StepError> {
    let texts = texts(op, cx)?;
    let statements = split(&texts, op.transaction)?;
    let session = if op.read_only {
        cx.connect_read_only(&op.database, None).await?
    } else {
        cx.connect(&op.database, None).await?
    };
    let work = async {
        match (op.transaction, op.read_only) {
            (true, false) => exactly_once(op, cx, &session, &statements).await,
            (true, true) => {
                execute(&session, "begin", "BEGIN READ ONLY").await?;
                let found = run_all(op, cx, &session, &statements).await?;
                execute(&session, "end", "COMMIT").await?;
                Ok(found)
            }
            (false, _) => run_all(op, cx, &session, &statements).await,
        }
    };
    let done = cx.cancellable(&[&session], Box::pin(work)).await;
    let warnings =
        session.take_notices().iter().filter(|n| n.severity == "WARNING").map(|n| n.message.clone()).collect();
    session.close().await;
    done.map(|output| Output { warnings, ..output })
}

/// Reads the SQL; secrets are put in.
fn texts(op: &RunSql, cx: &PerformCx) -> Result<Vec<String>, StepError> {
    match &op.source {
        SqlSource::Text(texts) => texts.iter().map(|text| Ok(cx.reveal(text)?.expose_secret().to_owned())).collect(),
        SqlSource::File(file) => {
            let path = cx.plan_dir.join(file);
            let wrong = |error: std::io::Error| StepError::io("read", &path, &error);
            if std::fs::metadata(&path).map_err(wrong)?.len() > LONGEST {
                let message = format!("{} is too long for a `sql` step", path.display());
                return Err(StepError::new(ErrorKind::Plan, message).help("load dumps with a `restore` step"));
            }
            Ok(vec![std::fs::read_to_string(&path).map_err(wrong)?])
        }
    }
}

/// Cuts the SQL into statements.
fn split(texts: &[String], transaction: bool) -> Result<Vec<String>, StepError> {
    let mut all = Vec::new();
    for text in texts {
        let found = statements(text, transaction);
        all.extend(found.map_err(|error| StepError::new(ErrorKind::Plan, error.message).help(error.help))?);
    }
    if all.is_empty() {
        return Err(StepError::new(ErrorKind::Plan, "there is no statement to run"));
    }
    Ok(all)
}

async fn exactly_once(
    op: &RunSql,
    cx: &PerformCx,
    session: &Session,
    statements: &[String],
) -> Result<Output, StepError> {
    let key = key(op, cx)?;
    receipt::ensure(session).await.map_err(|error| match error.kind {
        ErrorKind::Permission => error.help(
            "the receipt that makes this happen exactly once needs CREATE on the database; grant it, or set \
             `transaction: false`",
        ),
        _ => error,
    })?;
    execute(session, "begin", "BEGIN").await?;
    if let Some(outputs) = receipt::look(session, &key).await? {
        execute(session, "end", "ROLLBACK").await?;
        let summary = "was done already: its receipt is in the database".to_owned();
        return Ok(Output { outputs, summary, already_done: true, ..Output::default() });
    }
    // Without COMMIT the server rolls back as soon as the session is closed.
    let output = run_all(op, cx, session, statements).await?;
    // The receipt is stored on the server, so secrets leave the outputs before it is written.
    let output = Output { outputs: hide::outputs(output.outputs, &cx.redactor), ..output };
    // The statements may have changed the role for the session.
    execute(session, "write the receipt", "SET LOCAL SESSION AUTHORIZATION DEFAULT; SET LOCAL ROLE NONE").await?;
    receipt::write(session, &key, &output.outputs).await?;
    execute(session, "commit", "COMMIT").await?;
    Ok(output)
}

/// Returns the receipt's key; secrets are in the fingerprint by name, and a file by its content.
fn key(op: &RunSql, cx: &PerformCx) -> Result<Key, StepError> {
    let mut hasher = blake3::Hasher::new();
    match &op.source {
        SqlSource::Text(texts) => {
            for text in texts {
                let marked = text.to_marked();
                hasher.update(&(marked.len() as u64).to_le_bytes()).update(marked.as_bytes());
            }
        }
        SqlSource::File(file) => {
            let path = cx.plan_dir.join(file);
            hasher.update(&std::fs::read(&path).map_err(|error| StepError::io("read", &path, &error))?);
        }
    }
    let fingerprint = hasher.finalize().to_hex().to_string();
    Ok(Key { run: cx.run_id.clone(), action: format!("{}/{}", cx.receipt_step(), cx.action), fingerprint })
}

/// What a statement gave.
#[derive(Default)]
struct Given {
    rows: u64,
    first: Option<Map<String, Value>>,
}

async fn run_all(op: &RunSql, cx: &PerformCx, session: &Session, statements: &[String]) -> Result<Output, StepError> {
    let (mut rows, mut first) = (0, None);
    let commits = !op.transaction && !op.read_only;
    for (at, statement) in statements.iter().enumerate() {
        let found = run_one(session, statement).await.map_err(|error| {
            let error = error.detail(format!("statement {} of {}", at + 1, statements.len()));
            match (commits, at) {
                (false, _) => error,
                (true, 0) if error.kind == ErrorKind::Connection => StepError { kind: ErrorKind::Lost, ..error },
                (true, 0) => error,
                (true, _) => lost(error, format!("the first {at} were committed")),
            }
        })?;
        rows = found.rows;
        first = found.first.or(first);
    }
    let value = first.as_ref().and_then(|row| row.values().next().cloned()).unwrap_or(Value::Null);
    expected(op, cx, rows, &value).map_err(|error| match commits {
        true => lost(error, "all statements were committed".to_owned()),
        false => error,
    })?;
    let mut outputs = Outputs::new();
    outputs.insert("value".to_owned(), OutputValue::Plain(value));
    outputs.insert("row".to_owned(), OutputValue::Plain(Value::Object(first.unwrap_or_default())));
    outputs.insert("rows".to_owned(), rows.into());
    outputs.insert("statements".to_owned(), (statements.len() as u64).into());
    let summary = match statements.len() {
        1 => format!("1 statement, {}", counted(rows, "row")),
        n => format!("{}, {} by the last", counted(n as u64, "statement"), counted(rows, "row")),
    };
    Ok(Output { outputs, summary, rows: Some(rows), ..Output::default() })
}

/// Returns the error of a step that has done a part of its work for good; one that was stopped stays what it is.
fn lost(error: StepError, done: String) -> StepError {
    let kind = match error.kind {
        kind @ (ErrorKind::Interrupted | ErrorKind::Timeout) => kind,
        _ => ErrorKind::Lost,
    };
    StepError { kind, ..error.detail(done) }
}

/// Runs one statement; of its rows only the first is kept.
async fn run_one(session: &Session, statement: &str) -> Result<Given, StepError> {
    let wrong = |error: &tokio_postgres::Error| session.error("run the statement", error);
    let stream = session.client().simple_query_raw(statement).await.map_err(|error| wrong(&error))?;
    let mut stream = pin!(stream);
    let mut found = Given::default();
    while let Some(message) = stream.try_next().await.map_err(|error| wrong(&error))? {
        match message {
            SimpleQueryMessage::Row(row) if found.first.is_none() => {
                let value = |at: usize| row.get(at).map_or(Value::Null, Value::from);
                let columns = row.columns().iter().enumerate();
                found.first = Some(columns.map(|(at, column)| (column.name().to_owned(), value(at))).collect());
            }
            SimpleQueryMessage::CommandComplete(rows) => found.rows = rows,
            _ => {}
        }
    }
    Ok(found)
}

fn expected(op: &RunSql, cx: &PerformCx, rows: u64, value: &Value) -> Result<(), StepError> {
    let wrong = |message: String| Err(StepError::new(ErrorKind::Verification, message));
    let undone = if op.transaction && !op.read_only { "; all of it was rolled back" } else { "" };
    if let Some(expected) = op.expect.rows
        && expected != rows
    {
        return wrong(format!("expected {}, got {rows}{undone}", counted(expected, "row")));
    }
    if let Some(text) = &op.expect.value {
        let expected = cx.reveal(text)?;
        let found = match value {
            Value::String(found) => found.as_str(),
            _ => "null",
        };
        let expected = expected.expose_secret();
        let same = found == expected || matches!((expected, found), ("true", "t") | ("false", "f"));
        if !same {
            return wrong(format!("expected the value `{text}`, got `{found}`{undone}"));
        }
    }
    Ok(())
}
