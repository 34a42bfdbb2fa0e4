//! Configuration files, edited where they stand.
//!
//! Everything but the values is kept: comments, order, quotes, line ends, the file's mode and owner. The new text is
//! written beside the file, made durable, and renamed over it, so a reader sees the old file or the new one and a
//! power cut leaves one of them. A copy of the file as it was is kept in the run's folder, for `undo`.
//!
//! The path is taken literally: when it turns out to be a symbolic link the edit is refused, because the link may have
//! been put there to have another file overwritten.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown},
    path::Path,
};

use nix::fcntl::OFlag;
use secrecy::{ExposeSecret, SecretString};

use super::PerformCx;
use crate::{
    action::Output,
    error::{ErrorKind, StepError},
    op::{EditFile, FileFormat},
};

mod env;
mod toml;

/// Largest file that is edited, bytes: a configuration file, not data.
const LARGEST: u64 = 16 * 1024 * 1024;

/// Puts the values into the file unless they are there already.
///
/// # Errors
/// [`ErrorKind::Io`] when the file cannot be read or replaced, [`ErrorKind::Refused`] when it is a symbolic link or was
/// changed meanwhile, [`ErrorKind::Plan`] when it cannot be understood or a value cannot be written in its format.
pub async fn edit(op: &EditFile, cx: &PerformCx) -> Result<Output, StepError> {
    let set: Vec<(String, SecretString)> =
        op.set.iter().map(|(key, value)| Ok((key.clone(), cx.reveal(value)?))).collect::<Result<_, StepError>>()?;
    let tainted = op.set.values().any(crate::secret::Text::is_tainted);
    let op = op.clone();
    blocking(move || edit_now(&op, &set, tainted)).await
}

/// Puts the file back as it was before it was edited; without a copy it was never edited and nothing happens.
///
/// # Errors
/// As [`edit`].
pub async fn restore(path: &Path, backup: &Path) -> Result<Output, StepError> {
    let (path, backup) = (path.to_owned(), backup.to_owned());
    blocking(move || restore_now(&path, &backup)).await
}

async fn blocking(work: impl FnOnce() -> Result<Output, StepError> + Send + 'static) -> Result<Output, StepError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(StepError::new(ErrorKind::Internal, format!("the edit of a file broke off: {error}"))),
    }
}

fn edit_now(op: &EditFile, set: &[(String, SecretString)], tainted: bool) -> Result<Output, StepError> {
    let old = Opened::read(&op.path)?;
    let new = edited(op.format, &old.text, set).map_err(|problem| {
        let message = format!("cannot edit {}: {}", op.path.display(), problem.message);
        let error = StepError::new(ErrorKind::Plan, message);
        problem.help.iter().fold(error, |error, help| error.help(*help))
    })?;
    let mut output = Output::default();
    if tainted && old.meta.mode() & 0o004 != 0 {
        output.warnings.push(format!("{} holds a secret and can be read by every user", op.path.display()));
    }
    if new == old.text {
        output.already_done = true;
        "the values were there already".clone_into(&mut output.summary);
        return Ok(output);
    }
    keep_copy(&op.backup, &old.text)?;
    replace(&op.path, &new, &old.meta)?;
    let keys: Vec<&str> = set.iter().map(|(key, _)| key.as_str()).collect();
    output.summary = format!("set {}", keys.join(", "));
    Ok(output)
}

fn restore_now(path: &Path, backup: &Path) -> Result<Output, StepError> {
    if !backup.exists() {
        return Ok(Output { already_done: true, ..Output::said("the file was not edited") });
    }
    let kept = Opened::read(backup)?;
    let current = Opened::read(path)?;
    if kept.text == current.text {
        return Ok(Output { already_done: true, ..Output::said("the file was back already") });
    }
    replace(path, &kept.text, &current.meta)?;
    Ok(Output::said("put the file back"))
}

/// Why a text cannot be edited.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    message: String,
    help: Option<&'static str>,
}

impl Problem {
    fn new(message: impl Into<String>, help: Option<&'static str>) -> Self {
        Self { message: message.into(), help }
    }
}

fn edited(format: FileFormat, text: &str, set: &[(String, SecretString)]) -> Result<String, Problem> {
    let set: Vec<(&str, &str)> = set.iter().map(|(key, value)| (key.as_str(), value.expose_secret())).collect();
    match format {
        FileFormat::Env => env::edit(text, &set, env::Quoting::WhereNeeded),
        FileFormat::DockerEnv => env::edit(text, &set, env::Quoting::Never),
        FileFormat::Toml => toml::edit(text, &set),
    }
}

/// A file as it was when it was read.
struct Opened {
    text: String,
    meta: fs::Metadata,
}

impl Opened {
    fn read(path: &Path) -> Result<Self, StepError> {
        let failed = |error: &io::Error| StepError::io("read", path, error);
        if fs::symlink_metadata(path).map_err(|error| failed(&error))?.is_symlink() {
            let to = fs::read_link(path).map_err(|error| failed(&error))?;
            let message = format!("{} is a symbolic link to {}", path.display(), to.display());
            return Err(StepError::new(ErrorKind::Refused, message).help("name the file itself in the plan"));
        }
        // Between the look above and this a link may have been put there: it is not followed.
        let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file =
            OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(|error| failed(&error))?;
        let meta = file.metadata().map_err(|error| failed(&error))?;
        if !meta.is_file() || meta.len() > LARGEST {
            let message = format!("{} is not a configuration file: not a regular file, or over 16 MiB", path.display());
            return Err(StepError::new(ErrorKind::Refused, message));
        }
        let mut text = String::new();
        file.take(LARGEST).read_to_string(&mut text).map_err(|error| failed(&error))?;
        Ok(Self { text, meta })
    }
}

/// Keeps the first copy: a second attempt must not overwrite it with what the first one wrote.
fn keep_copy(backup: &Path, text: &str) -> Result<(), StepError> {
    let failed = |error: &io::Error| StepError::io("keep a copy of the file as", backup, error);
    if backup.exists() {
        return Ok(());
    }
    let folder = backup.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| failed(&error))?;
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(|error| failed(&error))?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(|error| failed(&error))?;
    match file.persist_noclobber(backup) {
        Err(error) if error.error.kind() != io::ErrorKind::AlreadyExists => Err(failed(&error.error)),
        _ => sync_folder(folder),
    }
}

/// Replaces the file that `old` describes by one with this text and the same mode and owner.
fn replace(path: &Path, text: &str, old: &fs::Metadata) -> Result<(), StepError> {
    let failed = |error: &io::Error| StepError::io("replace", path, error);
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".pgplan-").tempfile_in(folder).map_err(|error| failed(&error))?;
    let made = file.as_file().metadata().map_err(|error| failed(&error))?;
    if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
        fchown(file.as_file(), Some(old.uid()), Some(old.gid())).map_err(|error| failed(&error))?;
    }
    // After the owner: a change of owner may take mode bits away.
    let mode = fs::Permissions::from_mode(old.mode() & 0o7777);
    file.as_file().set_permissions(mode).map_err(|error| failed(&error))?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(|error| failed(&error))?;
    let now = fs::symlink_metadata(path).map_err(|error| failed(&error))?;
    let identity = |meta: &fs::Metadata| (meta.dev(), meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec());
    if identity(&now) != identity(old) {
        let message = format!("{} was changed by someone else while it was edited", path.display());
        return Err(StepError::new(ErrorKind::Refused, message).help("see who writes to it, then apply again"));
    }
    file.persist(path).map_err(|error| failed(&error.error))?;
    sync_folder(folder)
}

fn sync_folder(folder: &Path) -> Result<(), StepError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| StepError::io("sync", folder, &error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn value(text: &str) -> SecretString {
        SecretString::from(text.to_owned())
    }

    fn op(folder: &Path) -> EditFile {
        let (path, backup) = (folder.join("app.env"), folder.join("run/backup/app.env"));
        EditFile { path, format: FileFormat::Env, set: [].into(), backup }
    }

    #[test]
    fn a_file_keeps_its_mode_and_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let op = op(folder.path());
        fs::write(&op.path, "A=1\nB=2\n").unwrap();
        fs::set_permissions(&op.path, fs::Permissions::from_mode(0o640)).unwrap();
        let set = [("A".to_owned(), value("9"))];
        assert_eq!(edit_now(&op, &set, true).unwrap().summary, "set A");
        assert_eq!(fs::read_to_string(&op.path).unwrap(), "A=9\nB=2\n");
        assert_eq!(fs::metadata(&op.path).unwrap().mode() & 0o7777, 0o640);
        assert_eq!(fs::metadata(&op.backup).unwrap().mode() & 0o7777, 0o600);
        assert!(edit_now(&op, &set, true).unwrap().already_done);
        edit_now(&op, &[("A".to_owned(), value("10"))], false).unwrap();
        restore_now(&op.path, &op.backup).unwrap();
        assert_eq!(fs::read_to_string(&op.path).unwrap(), "A=1\nB=2\n", "the first copy counts");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "nothing is left beside the file");
    }

    #[test]
    fn a_link_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let op = op(folder.path());
        fs::write(folder.path().join("victim"), "A=1\n").unwrap();
        symlink("victim", &op.path).unwrap();
        let error = edit_now(&op, &[("A".to_owned(), value("9"))], false).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
        assert!(error.message.ends_with("app.env is a symbolic link to victim"), "{}", error.message);
        assert_eq!(fs::read_to_string(folder.path().join("victim")).unwrap(), "A=1\n");
    }

    #[test]
    fn a_file_that_everyone_reads_is_warned_about() {
        let folder = tempfile::tempdir().unwrap();
        let op = op(folder.path());
        fs::write(&op.path, "").unwrap();
        fs::set_permissions(&op.path, fs::Permissions::from_mode(0o644)).unwrap();
        let output = edit_now(&op, &[("A".to_owned(), value("9"))], true).unwrap();
        assert_eq!(output.warnings.len(), 1);
        assert_eq!(fs::read_to_string(&op.path).unwrap(), "A=9\n");
    }

    #[test]
    fn a_file_that_changes_meanwhile_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let op = op(folder.path());
        fs::write(&op.path, "A=1\n").unwrap();
        let old = Opened::read(&op.path).unwrap();
        fs::write(&op.path, "A=1\nNEW=1\n").unwrap();
        assert_eq!(replace(&op.path, "A=9\n", &old.meta).unwrap_err().kind, ErrorKind::Refused);
        assert_eq!(fs::read_to_string(&op.path).unwrap(), "A=1\nNEW=1\n");
    }
}
