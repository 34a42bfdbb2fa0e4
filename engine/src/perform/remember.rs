//! Values that are known already, handed on to later steps and kept for people.

use std::{
    collections::BTreeMap,
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use serde_json::Value;

use super::PerformCx;
use crate::{
    action::{Output, OutputValue},
    error::{ErrorKind, StepError},
};

/// The longest value that is shown, bytes; all are in the outputs.
const SHOWN: usize = 200;

/// Gives the values as outputs; with `file` also writes them as JSON into the run's folder.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn remember(
    values: &BTreeMap<String, Value>,
    file: Option<&Path>,
    cx: &PerformCx,
) -> Result<Output, StepError> {
    if let Some(file) = file {
        let path = cx.run_dir.join(file);
        if let Some(folder) = path.parent() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
            made.map_err(|error| StepError::io("make", folder, &error))?;
        }
        let text = serde_json::to_string_pretty(values)
            .map_err(|error| StepError::new(ErrorKind::Internal, error.to_string()))?;
        let opened = fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&path);
        opened
            .and_then(|mut opened| {
                opened.write_all(text.as_bytes())?;
                opened.sync_all()
            })
            .map_err(|error| StepError::io("write", &path, &error))?;
    }
    let shown = values.iter().map(|(name, value)| match value.to_string() {
        text if text.len() <= SHOWN => format!("{name}: {text}"),
        _ => format!("{name} is noted"),
    });
    let shown: Vec<String> = shown.collect();
    let outputs = values.iter().map(|(name, value)| (name.clone(), OutputValue::Plain(value.clone()))).collect();
    Ok(Output { outputs, summary: shown.join(", "), ..Output::default() })
}
