//! Files and folders of a rehearsal: for the user's eyes only.

use std::{fs, io::Write as _, os::unix::fs::DirBuilderExt as _, path::Path};

use crate::error::StepError;

/// Makes a folder and those above it (0700).
///
/// # Errors
/// When it cannot be made.
pub(super) fn make_folder(folder: &Path) -> Result<(), StepError> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| StepError::io("make the folder", folder, &error))
}

/// Writes a file of mode 600, whole or not at all.
///
/// # Errors
/// When it cannot be written.
pub(super) fn write(file: &Path, text: &str) -> Result<(), StepError> {
    let wrong = |error: std::io::Error| StepError::io("write", file, &error);
    let mut fresh = tempfile::NamedTempFile::new_in(file.parent().unwrap_or(Path::new("."))).map_err(wrong)?;
    fresh.write_all(text.as_bytes()).and_then(|()| fresh.as_file().sync_all()).map_err(wrong)?;
    fresh.persist(file).map(drop).map_err(|error| wrong(error.error))
}
