//! Creating a database, and dropping it again.
//!
//! CREATE DATABASE takes no part in transactions, so its object id is written down in the run's folder: undo drops the
//! database with that id and no other.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{PerformCx, compare::write_json};
use crate::{
    action::Output,
    error::{ErrorKind, StepError},
    op::data::{CreateDatabase, DropDatabase},
    postgres::{
        Session,
        connect::execute,
        quote::{ident, literal, on_one_line},
        rows::{rows, text},
    },
};

/// What is written down of a database that was created.
#[derive(Debug, Serialize, Deserialize)]
struct Created {
    name: String,
    oid: String,
}

/// Creates a database unless it is there.
///
/// A database that was not there when the step was surveyed and is there now is this run's own from before a cut, when
/// it is still empty; one with tables is refused.
///
/// Outputs: `name`, `created`.
///
/// # Errors
/// What the server said; [`ErrorKind::Refused`] when a stranger's database is in the way.
pub async fn create(op: &CreateDatabase, cx: &PerformCx) -> Result<Output, StepError> {
    let name = match &op.name {
        Some(name) => name.clone(),
        None => cx.databases.conninfo(&op.on)?.dbname,
    };
    let session = cx.connect_beside(&op.on, &name).await?;
    let work = create_on(op, &name, cx, &session);
    let done = cx.cancellable(&[&session], Box::pin(work)).await;
    session.close().await;
    let created = done?;
    let shown = on_one_line(&name);
    let mut output = Output::said(if created { format!("created {shown}") } else { format!("{shown} was there") });
    output.already_done = !created;
    Ok(output.with("name", name).with("created", created))
}

async fn create_on(op: &CreateDatabase, name: &str, cx: &PerformCx, session: &Session) -> Result<bool, StepError> {
    let mut created = false;
    if let Some(oid) = oid(session, name).await? {
        if op.existed || (op.keep_existing && written_down(cx, name).is_none()) {
            return Ok(false);
        }
        let ours = written_down(cx, name).is_some_and(|created| created.oid == oid);
        if !ours && !is_empty(op, name, cx).await? {
            let message = format!("a database {} appeared on {} since the survey", on_one_line(name), op.on);
            return Err(StepError::new(ErrorKind::Refused, message).help("find out whose it is; nothing was changed"));
        }
    } else {
        execute(session, "create the database", &op.sql(name)).await?;
        created = true;
    }
    let oid = oid(session, name).await?.unwrap_or_default();
    write_json(&note(cx, name), &Created { name: name.to_owned(), oid })?;
    if let Some(comment) = &op.comment {
        let sql = format!("COMMENT ON DATABASE {} IS {}", ident(name), literal(comment));
        execute(session, "comment on the database", &sql).await?;
    }
    Ok(created)
}

async fn oid(session: &Session, name: &str) -> Result<Option<String>, StepError> {
    let sql = format!("SELECT oid FROM pg_catalog.pg_database WHERE datname = {}", literal(name));
    let found = rows(session, "look for the database", &sql).await?;
    Ok(found.first().map(|row| text(row, 0).to_owned()))
}

async fn is_empty(op: &CreateDatabase, name: &str, cx: &PerformCx) -> Result<bool, StepError> {
    let session = cx.connect_read_only(&op.on, Some(name)).await?;
    let sql = "SELECT 1 FROM pg_catalog.pg_class WHERE oid >= 16384 LIMIT 1";
    let found = rows(&session, "look into the database", sql).await;
    session.close().await;
    Ok(found?.is_empty())
}

fn note(cx: &PerformCx, name: &str) -> PathBuf {
    let digest = blake3::hash(name.as_bytes()).to_hex();
    cx.run_dir.join(&cx.step).join(format!("created-{}.json", &digest[..16]))
}

fn written_down(cx: &PerformCx, name: &str) -> Option<Created> {
    serde_json::from_slice(&std::fs::read(note(cx, name)).ok()?).ok()
}

/// Drops a database that this run created and that nobody is connected to.
///
/// # Errors
/// What the server said; [`ErrorKind::Refused`] when it is another database or sessions are connected to it.
pub async fn drop_created(op: &DropDatabase, cx: &PerformCx) -> Result<Output, StepError> {
    let name = match &op.name {
        Some(name) => name.clone(),
        None => cx.databases.conninfo(&op.on)?.dbname,
    };
    let session = cx.connect_beside(&op.on, &name).await?;
    let done = cx.cancellable(&[&session], Box::pin(drop_on(op, &name, cx, &session))).await;
    session.close().await;
    done
}

async fn drop_on(op: &DropDatabase, name: &str, cx: &PerformCx, session: &Session) -> Result<Output, StepError> {
    let shown = on_one_line(name);
    let refused = |message: String| Err(StepError::new(ErrorKind::Refused, message));
    let Some(oid) = oid(session, name).await? else {
        return Ok(Output { already_done: true, ..Output::said(format!("{shown} is gone")) });
    };
    if written_down(cx, name).is_none_or(|created| created.oid != oid) {
        return refused(format!("the database {shown} on {} was not created by this run", op.on));
    }
    let sql = format!(
        "SELECT usename, application_name, client_addr FROM pg_catalog.pg_stat_activity WHERE datname = {}",
        literal(name)
    );
    let sessions = rows(session, "list the sessions", &sql).await?;
    if !sessions.is_empty() {
        let error = StepError::new(ErrorKind::Refused, format!("{} sessions use the database {shown}", sessions.len()));
        let line = |row: &tokio_postgres::SimpleQueryRow| {
            on_one_line(&format!("{} {} {}", text(row, 0), text(row, 1), text(row, 2)))
        };
        let error = sessions.iter().take(10).fold(error, |error, row| error.detail(line(row)));
        return Err(error.help("end them, then undo again"));
    }
    execute(session, "drop the database", &format!("DROP DATABASE {}", ident(name))).await?;
    std::fs::remove_file(note(cx, name)).ok();
    Ok(Output::said(format!("dropped {shown}")))
}
