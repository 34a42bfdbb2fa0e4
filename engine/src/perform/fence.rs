//! Keeping writers out of databases, proving that they are out, and letting them in again.
//!
//! Closing is one transaction over all databases (`access`), so nothing is ever half closed. What is proved is not
//! that the door is shut but that nobody comes through it (`quiet`): a superuser, the role that pgplan itself uses, or
//! whoever switches read-only off for himself, is seen and named.
//!
//! How everything was before is in the journal as part of the operation. A note of each fence in the run's folder
//! holds it, too, for a step that is begun anew while its own fence stands, and the first proof for one that is proved
//! again.

mod access;
mod counters;
mod quiet;
mod sessions;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use self::quiet::Proved;
use super::{PerformCx, compare::write_json};
use crate::{
    action::Output,
    error::{ErrorKind, StepError},
    op::fence::{Access, FenceOp, Quiet, StillQuietOp, UnfenceOp},
    postgres::{
        Session,
        connect::execute,
        quote::on_one_line,
        rows::{flag, rows, text},
    },
};

/// How many lines of blame an error holds.
const NAMED: usize = 20;

/// What is written down of a fence.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    /// How the databases were; absent = they are open again.
    before: Option<Vec<Access>>,
    /// How they were, also when they are open again: what a server that got the fence by a dump is to be like. A step
    /// that is begun anew while its fence stands sees them fenced.
    unfenced: Option<Vec<Access>>,
    /// How the fence left them; absent = they have not been closed yet.
    closed: Option<Vec<Access>>,
    /// Whether quiet was proved since the databases were closed last: until then nobody knows how closing has left settings.
    #[serde(default)]
    settled: bool,
    /// How often the step had been begun anew when `quiet` was proved.
    generation: u32,
    /// The first proof.
    quiet: Option<Quiet>,
}

/// Who pgplan is on the server.
struct Me {
    role: String,
    superuser: bool,
}

/// Closes databases to writers, ends their sessions and proves that nobody writes; what was closed before is proved again.
///
/// Outputs: `quiet`, `ended`.
///
/// # Errors
/// [`ErrorKind::Verification`] naming who is to blame when quiet cannot be proved, or what has moved since the first
/// proof; [`ErrorKind::Refused`] for databases that another run has fenced, or whose privileges were changed since the
/// step was listed; what the server said. But for a stop, the
/// databases are open again then, as they were, unless the operation says `keep`.
pub async fn fence(op: &FenceOp, cx: &PerformCx) -> Result<Output, StepError> {
    let error = match Box::pin(close(op, cx)).await {
        Err(error) if error.kind != ErrorKind::Interrupted && !op.keep => error,
        other => return other,
    };
    // Without a note nothing was changed.
    let Some(before) = read_note(cx, &op.step, &op.database)?.before else { return Err(error) };
    let back = UnfenceOp { step: op.step.clone(), database: op.database.clone(), on: op.database.clone(), before };
    Err(match Box::pin(take_back(&back, cx)).await {
        Ok(warnings) => {
            warnings.into_iter().fold(error, StepError::detail).detail("the databases are open again, as they were")
        }
        Err(why) => error
            .detail(format!("the databases could not be opened again: {why}"))
            .help("mend the cause of both, then apply again, or take the run back with `pgplan undo`"),
    })
}

async fn close(op: &FenceOp, cx: &PerformCx) -> Result<Output, StepError> {
    let names: Vec<&str> = op.before.iter().map(|access| access.name.as_str()).collect();
    // A server counts all that a session has changed when it ends: the session that proves must be another one.
    let session = open(&op.database, cx).await?;
    let work = async {
        quiet::refuse_standing_writers(&session, &names).await?;
        let mut note = read_note(cx, &op.step, &op.database)?;
        let stood = note.before.is_some();
        if !stood {
            refuse_fenced(op)?;
            access::refuse_changed(&op.before, &session).await?;
            (note.before, note.unfenced, note.closed) = (Some(op.before.clone()), Some(op.before.clone()), None);
            note.settled = false;
            write_json(&note_file(cx, &op.step, &op.database), &note)?;
        }
        let me = whoami(&session).await?;
        let mut before = note.before.take().unwrap_or_default();
        let theirs = match &note.closed {
            Some(closed) => access::adopt(&mut before, closed, &session).await?,
            None => Vec::new(),
        };
        let closed = access::close(op, &before, &me, &session).await?;
        (note.before, note.closed) = (Some(before), Some(closed));
        // What is not written down could not be told from what others do.
        write_json(&note_file(cx, &op.step, &op.database), &note)?;
        execute(&session, "commit", "COMMIT").await?;
        Ok((note, me, theirs))
    };
    let done = cx.cancellable(&[&session], Box::pin(work)).await;
    session.close().await;
    let (note, me, theirs) = done?;
    let session = open(&op.database, cx).await?;
    let work = async {
        let ended = sessions::end_all(op, &names, &me, cx, &session).await?;
        Ok((ended, quiet::prove(op, &names, &me, cx, &session).await?))
    };
    let done = cx.cancellable(&[&session], Box::pin(work)).await;
    session.close().await;
    let told = done.and_then(|(ended, proved)| told(op, note, cx, ended, proved));
    match told {
        Ok(mut output) => {
            output.warnings.extend(theirs);
            Ok(output)
        }
        Err(error) => Err(theirs.into_iter().fold(error, StepError::detail)),
    }
}

/// Compares a proof with the first one of this fence, and says what was proved.
///
/// A fence that was open in between has changed settings itself; rows count all the same.
fn told(op: &FenceOp, mut note: Note, cx: &PerformCx, ended: u64, proved: Proved) -> Result<Output, StepError> {
    let mut warnings = Vec::new();
    match note.quiet.as_ref().filter(|_| note.generation == cx.generation) {
        Some(first) => {
            let shared = if note.settled { first.shared } else { proved.quiet.shared };
            let moved = quiet::moved(&Quiet { shared, ..first.clone() }, &proved.quiet);
            if !moved.changes.is_empty() {
                let step = &cx.step;
                let message = format!("{} was written to since `{step}` proved it quiet", op.database);
                let error = StepError::new(ErrorKind::Verification, message);
                return Err(blame(error, moved.changes).help(format!(
                    "steps after `{step}` have taken what is old now: do them again with `pgplan apply --rerun {step}`"
                )));
            }
            warnings.extend(moved.notes);
            if !note.settled {
                // From here on settings have to stay as this fence has left them.
                note.quiet.iter_mut().for_each(|first| first.shared = proved.quiet.shared);
                note.settled = true;
                write_json(&note_file(cx, &op.step, &op.database), &note)?;
            }
        }
        None => {
            (note.generation, note.quiet, note.settled) = (cx.generation, Some(proved.quiet.clone()), true);
            write_json(&note_file(cx, &op.step, &op.database), &note)?;
        }
    }
    let Quiet { lsn, window_ms, databases, .. } = &proved.quiet;
    let count = databases.len();
    let noun = if count == 1 { "database" } else { "databases" };
    #[expect(clippy::cast_precision_loss, reason = "a window of seconds, shown with one digit")]
    let seconds = *window_ms as f64 / 1000.0;
    let summary = format!("nobody wrote to {count} {noun} for {seconds:.1} s, at {lsn}; {ended} sessions were ended");
    let value = serde_json::to_value(&proved.quiet)
        .map_err(|error| StepError::new(ErrorKind::Internal, format!("the proof cannot be described: {error}")))?;
    warnings.extend(proved.notes);
    Ok(Output { warnings, ..Output::said(summary).with("quiet", value).with("ended", ended) })
}

/// Opens fenced databases again as they were.
///
/// # Errors
/// What the server said.
pub async fn unfence(op: &UnfenceOp, cx: &PerformCx) -> Result<Output, StepError> {
    let mut op = op.clone();
    let note = read_note(cx, &op.step, &op.database)?;
    if let Some(before) = if op.own() { note.before } else { note.unfenced } {
        op.before = before;
    }
    let warnings = Box::pin(take_back(&op, cx)).await?;
    let count = op.before.len();
    let noun = if count == 1 { "database is" } else { "databases are" };
    let summary = match warnings.len() {
        0 => format!("{count} {noun} open as before"),
        _ => format!("{count} {noun} open again; what differs from before is said above"),
    };
    Ok(Output { warnings, ..Output::said(summary) })
}

async fn take_back(op: &UnfenceOp, cx: &PerformCx) -> Result<Vec<String>, StepError> {
    let note = read_note(cx, &op.step, &op.database)?;
    let session = open(&op.on, cx).await?;
    let work = async {
        let me = whoami(&session).await?;
        access::open(op, note.closed.as_deref().unwrap_or_default(), &me, &session).await
    };
    let done = cx.cancellable(&[&session], Box::pin(work)).await;
    session.close().await;
    let warnings = done?;
    if op.own() {
        // A dump that was made behind the fence is as old as its proof, should the step be done again.
        let note = Note { before: None, ..note };
        write_json(&note_file(cx, &op.step, &op.database), &note)?;
    }
    Ok(warnings)
}

/// Checks that nothing has moved since databases were proved quiet.
///
/// # Errors
/// [`ErrorKind::Verification`] saying what moved; what the server said.
pub async fn still_quiet(op: &StillQuietOp, cx: &PerformCx) -> Result<Output, StepError> {
    let session = open(&op.quiet.database, cx).await?;
    let names: Vec<&str> = op.quiet.databases.keys().map(String::as_str).collect();
    let work = async {
        quiet::refuse_standing_writers(&session, &names).await?;
        quiet::look(&op.quiet, &names, cx, &session).await
    };
    let now = cx.cancellable(&[&session], Box::pin(work)).await;
    session.close().await;
    let now = now?;
    // The step may have been listed before its fence was closed anew, which changes settings.
    let note = read_note(cx, &op.fence, &op.quiet.database)?;
    let shared = note.quiet.map_or(op.quiet.shared, |quiet| quiet.shared);
    let moved = quiet::moved(&Quiet { shared, ..op.quiet.clone() }, &now);
    if !moved.changes.is_empty() {
        let message = format!("{} was written to since `{}` proved it quiet", op.quiet.database, op.fence);
        let help = "what was dumped before that is old: find the writer, then do the fence and what follows it again";
        return Err(blame(StepError::new(ErrorKind::Verification, message), moved.changes).help(help));
    }
    let mut output = Output::said(format!("nothing has moved since {}, at {}", op.quiet.at, now.lsn));
    output.warnings = moved.notes;
    Ok(output)
}

/// Connects to the fenced database itself, where pgplan's role may enter also when it may nowhere else.
async fn open(database: &str, cx: &PerformCx) -> Result<Session, StepError> {
    let session = cx.connect(database, None).await?;
    // The fence makes sessions read-only by default, this one too.
    execute(&session, "prepare the session", "SET default_transaction_read_only = off; SET search_path = pg_catalog")
        .await?;
    Ok(session)
}

/// Ends the work between two looks when the run has been told to stop.
fn go_on(cx: &PerformCx) -> Result<(), StepError> {
    match cx.cancel.is_cancelled() {
        true => {
            Err(StepError::new(ErrorKind::Interrupted, "the fence was stopped on its way; what is closed stays closed"))
        }
        false => Ok(()),
    }
}

async fn whoami(session: &Session) -> Result<Me, StepError> {
    let sql = "SELECT rolname, rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user";
    let found = rows(session, "ask for the session's role", sql).await?;
    let row = found.first().ok_or_else(|| StepError::new(ErrorKind::Object, "the session's role is gone"))?;
    Ok(Me { role: text(row, 0).to_owned(), superuser: flag(row, 1) })
}

/// Refuses databases that look as a fence leaves them: what was there before it could not be told any more.
fn refuse_fenced(op: &FenceOp) -> Result<(), StepError> {
    let looks_fenced = |access: &&Access| {
        access.read_only.as_deref() == Some("on") && access.connect.iter().all(|grant| grant.grantee.is_some())
    };
    let Some(access) = op.before.iter().find(looks_fenced) else { return Ok(()) };
    let name = on_one_line(&access.name);
    let message = format!("the database {name} of {} is fenced already", op.database);
    Err(StepError::new(ErrorKind::Refused, message)
        .detail("its sessions are read-only by default, and PUBLIC may not connect")
        .help("take back the run that fenced it (`pgplan runs`, `pgplan undo`), or leave it out of `databases`"))
}

fn blame(error: StepError, lines: Vec<String>) -> StepError {
    let count = lines.len();
    let error = lines.into_iter().take(NAMED).fold(error, StepError::detail);
    if count > NAMED { error.detail(format!("and {} more", count - NAMED)) } else { error }
}

/// Returns where a fence is written down: a server may have several, one beside or after the other.
fn note_file(cx: &PerformCx, step: &str, database: &str) -> PathBuf {
    let digest = blake3::hash(format!("{step}\0{database}").as_bytes()).to_hex();
    cx.run_dir.join("fences").join(format!("{}.json", &digest[..16]))
}

fn read_note(cx: &PerformCx, step: &str, database: &str) -> Result<Note, StepError> {
    let file = note_file(cx, step, database);
    match std::fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text)
            .map_err(|error| StepError::new(ErrorKind::Io, format!("cannot read {}: {error}", file.display()))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Note::default()),
        Err(error) => Err(StepError::io("read", &file, &error)),
    }
}
