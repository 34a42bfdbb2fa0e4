//! Makes a dump: the client that fits the source, its output into a file with a digest, or no file at all.
//!
//! Plain text is read from the client's standard output, compressed and digested on its way to `….part`, which gets its
//! name only when the client has ended well, the text has its last line and everything is on disk. Archives are written
//! by the client itself (it goes back in the file to note where each table begins) and digested afterwards.

mod file;

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::ExitStatus,
    sync::Arc,
    time::Duration,
};

use nix::sys::signal::Signal;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use self::file::{Sink, Written};
use super::{PerformCx, restore::archive::Listing, text::CHUNK};
use crate::{
    action::Output,
    artifact::{self, DumpArtifact, DumpFormat, DumpScope},
    claim::Purpose,
    error::{ErrorKind, StepError},
    explain,
    op::{Compress, DumpOp},
    postgres::{ConnInfo, connect::connect_read_only},
    quantity::counted,
    tool::{Client, Program, Running, ending, last_lines, version_name},
};

/// How often the size of an archive in the making is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Shortest way of the text between two reports of progress.
const REPORTED: u64 = 4 << 20;

/// Makes a dump and returns it as the output `dump`.
///
/// # Errors
/// [`ErrorKind::ToolMissing`] without a client for the source, [`ErrorKind::Tool`] when the client fails or its output
/// is cut off, [`ErrorKind::Resources`] when the disk is full; no part of a file is left then.
pub async fn dump(op: &DumpOp, cx: &PerformCx) -> Result<Output, StepError> {
    let from = cx.databases.conninfo(&op.from)?;
    let session = connect_read_only(&from, "pgplan-look dump").await?;
    let source_version_num = session.server_version_num();
    session.close().await;
    let client = client(op, source_version_num, cx).await?;
    let file = cx.run_dir.join(op.file(&cx.step));
    let part = part_of(&file);
    clear(&file).and_then(|()| clear(&part)).map_err(|error| StepError::io("remove the old", &file, &error))?;
    if let Some(folder) = file.parent() {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|error| StepError::io("make the folder", folder, &error))?;
    }
    let job = Job { op, cx, from: &from, client: &client, part: &part };
    let made = match job.make().await {
        Ok(made) => made,
        Err(error) => {
            let removed = clear(&part);
            return Err(match removed {
                Ok(()) => error,
                Err(why) => error.detail(format!("{} is left: {why}", part.display())),
            });
        }
    };
    finish(&part, &file).map_err(|error| StepError::io("put in place", &file, &error))?;
    let contents = match op.format {
        DumpFormat::Plain => None,
        DumpFormat::Custom | DumpFormat::Directory => {
            Some(Listing::read(&client.path("pg_restore"), &file, cx).await?.contents())
        }
    };
    let dump = DumpArtifact {
        step: cx.step.clone(),
        path: op.file(&cx.step),
        format: op.format,
        scope: op.scope,
        zstd: op.zstd().is_some(),
        bytes: made.written.bytes,
        text_bytes: made.written.text_bytes,
        sha256: made.written.sha256,
        source_version_num,
        client_version: client.version_num,
        database: from.dbname.clone(),
        contents,
        table_bytes: op.table_bytes.clone(),
        rules: None,
    };
    let text = dump.text_bytes.filter(|_| dump.zstd).map(|bytes| format!(" ({bytes} of text)")).unwrap_or_default();
    let versions = (version_name(client.version_num), version_name(source_version_num));
    let summary = format!(
        "{}{text} by {} {} from a {} server",
        counted(dump.bytes, "byte"),
        op.program(),
        versions.0,
        versions.1
    );
    let value = serde_json::to_value(&dump)
        .map_err(|error| StepError::new(ErrorKind::Internal, format!("the dump cannot be described: {error}")))?;
    let mut output = Output { bytes: Some(dump.bytes), ..Output::said(summary) }.with("dump", value);
    output.warnings = made.warnings;
    Ok(output)
}

/// Returns the program to dump with: the plan's own, or the installed one that fits the source.
async fn client(op: &DumpOp, source_version_num: u32, cx: &PerformCx) -> Result<Client, StepError> {
    let Some(path) = &op.client else {
        return cx.clients.for_server(op.program(), source_version_num).cloned();
    };
    let finished = Program::new(path).arg("--version").run(&cx.redactor, &cx.cancel).await?;
    finished.check(&[])?;
    let text = finished.stdout.whole().unwrap_or_default();
    let version_num = crate::tool::read_version(&text).ok_or_else(|| {
        let message = format!("`{}` does not tell its version as {} does", path.display(), op.program());
        StepError::new(ErrorKind::Tool, message)
    })?;
    let dir = path.parent().map(Path::to_path_buf).unwrap_or_default();
    Ok(Client { dir, version_num, programs: [op.program().to_owned()].into() })
}

/// What a client has written.
struct Made {
    written: Written,
    warnings: Vec<String>,
}

/// One attempt.
struct Job<'a> {
    op: &'a DumpOp,
    cx: &'a PerformCx,
    from: &'a ConnInfo,
    client: &'a Client,
    part: &'a Path,
}

impl Job<'_> {
    async fn make(&self) -> Result<Made, StepError> {
        let (compress, mut warnings) = self.compression();
        let result = match self.op.format {
            DumpFormat::Plain => self.plain().await,
            DumpFormat::Custom | DumpFormat::Directory => self.archive(compress.as_deref()).await,
        };
        // Whether the client was built with zstd is known only when it is asked for it.
        let unsupported =
            |error: &StepError| error.details.iter().any(|line| line.contains("does not support compression"));
        let mut made = match result {
            Err(error) if compress.is_some() && unsupported(&error) => {
                clear(self.part).map_err(|error| StepError::io("remove", self.part, &error))?;
                warnings.push(format!(
                    "{} {} was built without zstd: the archive is compressed with gzip",
                    self.op.program(),
                    version_name(self.client.version_num)
                ));
                self.archive(None).await?
            }
            other => other?,
        };
        made.warnings.splice(0..0, warnings);
        Ok(made)
    }

    /// Returns the client's option for archives, and what cannot be had.
    fn compression(&self) -> (Option<String>, Vec<String>) {
        match (self.op.format, self.op.compress) {
            (DumpFormat::Plain, _) | (_, Compress::Default) => (None, Vec::new()),
            (_, Compress::None) => (Some("--compress=0".into()), Vec::new()),
            (_, Compress::Zstd(level)) if self.client.version_num >= 160_000 => {
                (Some(format!("--compress=zstd:{level}")), Vec::new())
            }
            (_, Compress::Zstd(_)) => {
                let version = version_name(self.client.version_num);
                (None, vec![format!("pg_dump {version} knows no zstd: the archive is compressed with gzip")])
            }
        }
    }

    fn start(&self, compress: Option<&str>) -> Result<Running, StepError> {
        let env = self.from.to_client_env().map_err(|error| {
            StepError::new(ErrorKind::Plan, format!("the connection of {} cannot be handed to a client", self.op.from))
                .detail(error.to_string())
        })?;
        let path = self.op.client.clone().unwrap_or_else(|| self.client.path(self.op.program()));
        let mut program = Program::new(path).shown(self.op.command_line()).args(&self.op.args).args(compress);
        if self.op.scope == DumpScope::Cluster {
            // pg_dumpall asks here for the list of databases; not everybody may connect to `postgres`.
            program = program.arg(format!("--database={}", self.from.dbname));
        }
        if self.op.format != DumpFormat::Plain {
            program = program.arg("--file").arg(self.part);
        }
        for (name, value) in env.vars {
            program = program.env(name, value);
        }
        program = program.env("PGAPPNAME", self.cx.action_name(Purpose::Read)).env("LC_ALL", "C");
        if let Some(passfile) = env.passfile {
            program = program.pgpass(passfile);
        }
        program.start(Arc::clone(&self.cx.redactor))
    }

    async fn plain(&self) -> Result<Made, StepError> {
        let sink = Sink::create(self.part, self.op.zstd())?;
        let mut running = self.start(None)?;
        let Some(stdout) = running.take_stdout() else {
            return Err(StepError::new(ErrorKind::Internal, "the client's output is gone"));
        };
        let passed = self.pass(stdout, &sink).await;
        if !matches!(passed, Ok(())) {
            running.stop(&[Signal::SIGTERM]).await?;
            let written = sink.finish().await;
            // What went wrong with the file is the cause; a pipe that broke is only what follows.
            return Err(written.err().or(passed.err()).unwrap_or_else(|| self.interrupted()));
        }
        let status = running.wait(&self.cx.cancel).await?;
        let written = sink.finish().await?;
        let warnings = self.judge(&running, status)?;
        if !written.is_complete(self.op.scope) {
            let message = format!("`{}` ended without the last line of a dump", self.op.program());
            return Err(
                StepError::new(ErrorKind::Tool, message).help("apply again; read the source's log if it recurs")
            );
        }
        Ok(Made { written, warnings })
    }

    /// Passes the client's output on until it ends; an error also when the file takes no more.
    async fn pass(&self, mut from: impl AsyncRead + Unpin, sink: &Sink) -> Result<(), StepError> {
        let (mut bytes, mut reported) = (0, 0);
        loop {
            let mut chunk = Vec::with_capacity(CHUNK);
            while chunk.len() < CHUNK {
                let read = tokio::select! {
                    read = from.read_buf(&mut chunk) => read,
                    () = self.cx.cancel.cancelled() => return Err(self.interrupted()),
                };
                let n = read.map_err(|error| {
                    StepError::new(ErrorKind::Tool, format!("cannot read what `{}` writes: {error}", self.op.program()))
                })?;
                if n == 0 {
                    break;
                }
            }
            if chunk.is_empty() {
                return Ok(());
            }
            bytes += chunk.len() as u64;
            if !sink.write(chunk).await {
                return Err(StepError::new(ErrorKind::Io, format!("cannot write {}", self.part.display())));
            }
            if bytes - reported >= REPORTED {
                reported = bytes;
                self.cx.progress.report(bytes, 0, self.op.estimate);
            }
        }
    }

    async fn archive(&self, compress: Option<&str>) -> Result<Made, StepError> {
        let mut running = self.start(compress)?;
        let status = {
            let mut end = std::pin::pin!(running.wait(&self.cx.cancel));
            loop {
                tokio::select! {
                    status = &mut end => break status?,
                    () = tokio::time::sleep(LOOK) => self.cx.progress.report(size(self.part), 0, self.op.estimate),
                }
            }
        };
        let warnings = self.judge(&running, status)?;
        let part = self.part.to_path_buf();
        let digested = tokio::task::spawn_blocking(move || {
            if part.is_file() {
                fs::set_permissions(&part, fs::Permissions::from_mode(0o600))?;
            }
            artifact::digest(&part)
        });
        let (bytes, sha256) = digested
            .await
            .map_err(|error| StepError::new(ErrorKind::Internal, format!("the digest was given up: {error}")))?
            .map_err(|error| StepError::io("read the dump", self.part, &error))?;
        Ok(Made { written: Written { bytes, text_bytes: None, sha256, tail: Vec::new() }, warnings })
    }

    /// Judges how the client ended; returns its warnings.
    fn judge(&self, running: &Running, status: ExitStatus) -> Result<Vec<String>, StepError> {
        let lines = last_lines(running.stderr(), &self.cx.redactor);
        if status.success() {
            return Ok(lines.into_iter().filter(|line| line.contains("warning: ")).collect());
        }
        let has = |text: &str| lines.iter().any(|line| line.contains(text));
        let message = format!("`{}` {}", self.op.command_line(), ending(status));
        let mut error = StepError::new(ErrorKind::Tool, message);
        if has("No space left on device") || has("Disk quota exceeded") {
            error.kind = ErrorKind::Resources;
            error.message = format!("no space is left for the dump {}", self.part.display());
            error = error.help("free space on that file system, or dump with `compress: zstd`, then apply again");
        } else if has("server closed the connection") || has("connection to server") || has("terminating connection") {
            error.kind = ErrorKind::Connection;
        } else if has("permission denied") {
            error.kind = ErrorKind::Permission;
        }
        if let Some(known) = explain::decode_printed(&lines) {
            error = error.detail(format!("cause: {} (`pgplan explain {}`)", known.cause, known.code)).help(known.fix);
        }
        Err(lines.into_iter().fold(error, StepError::detail))
    }

    fn interrupted(&self) -> StepError {
        StepError::new(ErrorKind::Interrupted, format!("`{}` was stopped", self.op.program()))
    }
}

/// Returns the name a dump has while it is made.
fn part_of(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_os_string();
    name.push(".part");
    file.with_file_name(name)
}

fn clear(path: &Path) -> std::io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Gives a finished dump its name, durably.
fn finish(part: &Path, file: &Path) -> std::io::Result<()> {
    fs::rename(part, file)?;
    file.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

fn size(path: &Path) -> u64 {
    let of = |path: &Path| fs::metadata(path).map(|meta| meta.len()).unwrap_or_default();
    if path.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        return entries.map(|entry| of(&entry.path())).sum();
    }
    of(path)
}
