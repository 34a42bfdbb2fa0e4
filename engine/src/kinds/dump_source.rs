//! Where `filter` and `restore` take a dump from: a step of the plan, or a file that is there already.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Declarations, ExpandCx, Handed, declare::key};
use crate::{
    action::{ActionGraph, OutputValue},
    artifact::DumpArtifact,
    error::{ErrorKind, StepError},
    facts::{Facts, Look},
};

/// A step that makes a dump, or a dump made earlier.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum DumpSource {
    /// The id of the step.
    Step(String),
    /// A file or folder.
    File(DumpFile),
}

/// A dump that `pg_dump` or `pg_dumpall` wrote earlier, whoever called it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DumpFile {
    /// The file, or the folder of `--format=directory`, relative to the plan. What it is shows in its first bytes: an
    /// archive, or SQL, also compressed with zstd.
    pub file: PathBuf,
    /// The SHA-256 it must have, in hex; of a folder that of its list as `sha256sum` prints it, by name.
    pub sha256: Option<String>,
}

/// A dump, or what is to be said when there is none yet.
pub(super) enum Found {
    /// The dump.
    Dump(Box<DumpArtifact>),
    /// In a dry run: nothing to work on yet. The graph says after which step, the text which dump is meant.
    NotYet(Box<ActionGraph>, String),
}

/// Declares that a step takes a dump under `from`.
pub(super) fn declare(from: Option<&DumpSource>, to: &mut Declarations) {
    match from {
        None => to.takes("from", Handed::Dump, None),
        Some(DumpSource::Step(id)) => to.takes("from", Handed::Dump, Some(id)),
        Some(DumpSource::File(DumpFile { file, sha256 })) => {
            if file.as_os_str().is_empty() {
                to.problem("bad_file", key(["from", "file"]), "the name of the file is empty", None);
            }
            let hex = |text: &String| text.len() == 64 && text.chars().all(|c| c.is_ascii_hexdigit());
            if sha256.as_ref().is_some_and(|text| !text.is_empty() && !hex(text)) {
                let help = "it is what `sha256sum` prints: 64 hexadecimal digits";
                to.problem("bad_value", key(["from", "sha256"]), "this is no SHA-256", Some(help));
            }
        }
    }
}

/// Returns the look that a file needs.
pub(super) fn looks(from: Option<&DumpSource>, cx: &ExpandCx<'_>) -> Option<Look> {
    match from {
        Some(DumpSource::File(named)) => Some(Look::Dump { file: cx.plan_dir.join(&named.file) }),
        None | Some(DumpSource::Step(_)) => None,
    }
}

/// Returns the dump that a step takes under `from`.
pub(super) fn find(from: Option<&DumpSource>, facts: &Facts, cx: &ExpandCx<'_>) -> Result<Found, StepError> {
    let Some(DumpSource::File(named)) = from else {
        let step = cx.inputs.get("from").ok_or_else(|| {
            StepError::new(ErrorKind::Internal, format!("no step makes the dump that `{}` takes", cx.step))
        })?;
        return match cx.outputs.get(step).and_then(|outputs| outputs.get("dump")) {
            Some(OutputValue::Plain(value)) => DumpArtifact::from_output(value).map(|dump| Found::Dump(Box::new(dump))),
            _ if cx.dry_run => {
                Ok(Found::NotYet(Box::new(ActionGraph::known_after(step)), format!("the dump that `{step}` makes")))
            }
            _ => Err(StepError::new(ErrorKind::Internal, format!("the step `{step}` has left no dump"))),
        };
    };
    let file = cx.plan_dir.join(&named.file);
    let Some(dump) = facts.dumps.get(&file) else {
        if cx.dry_run {
            let text = format!("the dump {}, which is not there yet,", file.display());
            return Ok(Found::NotYet(Box::default(), text));
        }
        return Err(StepError::new(ErrorKind::Internal, format!("the dump {} was not looked at", file.display())));
    };
    match named.sha256.as_deref().filter(|wanted| !wanted.is_empty()) {
        Some(wanted) if !wanted.eq_ignore_ascii_case(&dump.sha256) => {
            let message = format!("the dump {} is not the one that the plan means", file.display());
            Err(StepError::new(ErrorKind::Verification, message)
                .detail(format!("sha256 should be {}", wanted.to_ascii_lowercase()))
                .detail(format!("sha256 is        {}", dump.sha256))
                .help("copy the dump again, or correct `sha256`"))
        }
        _ => Ok(Found::Dump(Box::new(dump.clone()))),
    }
}

#[cfg(test)]
mod tests {
    use crate::kinds::{restore::Restore, testing::problems};

    #[test]
    fn a_dump_comes_from_a_step_or_a_file() {
        let from = |text: &str| format!("{{ into: target, from: {text} }}");
        assert_eq!(problems::<Restore>(&from("dump")), [""; 0]);
        assert_eq!(problems::<Restore>(&from("{ file: old.dump, sha256: '' }")), [""; 0]);
        assert_eq!(problems::<Restore>(&from("{ file: old.dump, sha256: abc }")), ["bad_value"]);
        assert_eq!(problems::<Restore>(&from("{ file: '' }")), ["bad_file"]);
    }
}
