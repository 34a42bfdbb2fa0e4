//! Takes known secrets out of what an action gives and says, before anything of it is stored or shown.
//!
//! A server's answer may hold what a statement was given (`Key (token)=(…) already exists`), and so may a value that it
//! returns or that a program prints. Messages get the secret's name in its place. A value cannot be changed: later
//! steps use it. So it becomes a secret itself, which lives in memory only.

use secrecy::SecretString;
use serde_json::Value;

use super::parse::as_text;
use crate::{
    action::{Output, OutputValue, Outputs},
    error::StepError,
    op::Op,
    redact::Redactor,
};

/// Returns the error without known secrets.
#[must_use]
pub fn error(error: StepError, redactor: &Redactor) -> StepError {
    let hide = |text: &String| redactor.redact(text).into_owned();
    StepError {
        message: hide(&error.message),
        details: error.details.iter().map(hide).collect(),
        help: error.help.as_ref().map(hide),
        kind: error.kind,
        sqlstate: error.sqlstate,
    }
}

/// Returns what an operation gave without known secrets.
#[must_use]
pub fn output(output: Output, op: &Op, redactor: &Redactor) -> Output {
    let hide = |text: &String| redactor.redact(text).into_owned();
    Output {
        summary: hide(&output.summary),
        warnings: output.warnings.iter().map(hide).collect(),
        outputs: if is_read_back(op) { output.outputs } else { outputs(output.outputs, redactor) },
        ..output
    }
}

/// Returns the outputs; a plain one that holds a known secret is a secret from now on.
#[must_use]
pub fn outputs(outputs: Outputs, redactor: &Redactor) -> Outputs {
    let hidden = |value: OutputValue| match value {
        OutputValue::Plain(value) if holds_secret(&value, redactor) => {
            OutputValue::Secret(Some(SecretString::from(as_text(&value))))
        }
        OutputValue::Plain(_) | OutputValue::Secret(_) => value,
    };
    outputs.into_iter().map(|(name, value)| (name, hidden(value))).collect()
}

/// Returns whether pgplan itself reads the outputs in a later session. They are names and numbers of its own making: a
/// database that is called like its password must not make its dump unreadable after a resume.
fn is_read_back(op: &Op) -> bool {
    matches!(op, Op::Dump(_) | Op::Filter(_) | Op::Remember { .. } | Op::Fence(_))
}

fn holds_secret(value: &Value, redactor: &Redactor) -> bool {
    match value {
        Value::Null | Value::Bool(_) => false,
        Value::Number(number) => redactor.knows(&number.to_string()),
        Value::String(text) => redactor.knows(text),
        Value::Array(items) => items.iter().any(|item| holds_secret(item, redactor)),
        Value::Object(entries) => {
            entries.iter().any(|(name, value)| redactor.knows(name) || holds_secret(value, redactor))
        }
    }
}
