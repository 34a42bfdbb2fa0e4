//! Merging: keys that change, rows that move, and the proof that all of them arrived.
//!
//! Every operation is one transaction in the target with a receipt in it. Receipts also say what was found and moved,
//! so that the proof can tell a source that has changed since from a row that was lost.

mod empty;
mod fill;
mod keys;
mod prove;
mod sequences;

use std::collections::BTreeMap;

pub use empty::empty;
pub use fill::fill;
pub use keys::map_keys;
pub use prove::prove;
use serde::{Deserialize, Serialize};

use super::PerformCx;
use crate::{
    action::{Output, OutputValue, Outputs},
    digest::Rows,
    error::{ErrorKind, StepError},
    merge::{Part, Place},
    postgres::{
        Session,
        connect::execute,
        pin::{Floats, pin_session},
        quote::ident,
    },
    receipt::{self, Key},
};

/// What the receipt of a filled table says; the output's name is the table's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Filled {
    /// Rows put in, by the source's label.
    rows: BTreeMap<String, u64>,
    /// What the table held before; absent when it was empty.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    before: Option<Rows>,
    /// What was put in, where some rows were left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    inserted: Option<Rows>,
    /// What the sources held, where some rows were left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sources: Option<Rows>,
}

/// The target's session and those with sources in other databases.
struct Sessions {
    target: Session,
    database: String,
    /// By the database's name in the plan.
    others: BTreeMap<String, Session>,
}

impl Sessions {
    /// Connects to the target, and to the other databases of these parts to read only.
    async fn open<'a>(cx: &PerformCx, into: &Place, parts: impl Iterator<Item = &'a Part>) -> Result<Self, StepError> {
        let target = cx.connect(&into.database, None).await?;
        let mut others = BTreeMap::new();
        let mut schemas: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for part in parts.filter(|part| part.place.database != into.database) {
            let Place { database, schema } = &part.place;
            schemas.entry(database.clone()).or_default().push(schema.clone());
            if !others.contains_key(database) {
                others.insert(database.clone(), cx.connect_read_only(database, None).await?);
            }
        }
        let versions = || others.values().chain([&target]).map(Session::server_version_num);
        let (lowest, highest) = (versions().min().unwrap_or_default(), versions().max().unwrap_or_default());
        let floats = Floats::for_pair(lowest, highest);
        prepare(&target, floats, Some(&into.schema)).await?;
        for (database, session) in &others {
            let mut schemas = schemas.remove(database).unwrap_or_default();
            schemas.dedup();
            let only = match schemas.as_slice() {
                [only] => Some(only),
                _ => None,
            };
            prepare(session, floats, only.map(String::as_str)).await?;
            execute(session, "begin to read", "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        }
        Ok(Self { target, database: into.database.clone(), others })
    }

    /// Returns the session that reads a part.
    fn reader(&self, part: &Part) -> Result<&Session, StepError> {
        if part.place.database == self.database {
            return Ok(&self.target);
        }
        let missing = || StepError::new(ErrorKind::Internal, format!("`{}` is not connected", part.place.database));
        self.others.get(&part.place.database).ok_or_else(missing)
    }

    fn is_local(&self, part: &Part) -> bool {
        part.place.database == self.database
    }

    /// Returns all sessions, to be cancelled together.
    fn all(&self) -> Vec<&Session> {
        self.others.values().chain([&self.target]).collect()
    }

    async fn close(self) {
        self.target.close().await;
        for session in self.others.into_values() {
            session.close().await;
        }
    }
}

/// Pins a session; what expressions of the plan and triggers name without a schema is found in `schema`.
async fn prepare(session: &Session, floats: Floats, schema: Option<&str>) -> Result<(), StepError> {
    pin_session(session, floats).await?;
    match schema {
        Some(schema) => execute(session, "set the search path", &format!("SET search_path = {}", ident(schema))).await,
        None => Ok(()),
    }
}

/// Does `work` in a transaction with a receipt; what a receipt says is done is not done again.
async fn exactly_once(
    cx: &PerformCx,
    session: &Session,
    op: &impl Serialize,
    work: impl AsyncFnOnce() -> Result<Output, StepError>,
) -> Result<Output, StepError> {
    let text = serde_json::to_vec(op)
        .map_err(|error| StepError::new(ErrorKind::Internal, format!("the operation cannot be written: {error}")))?;
    let key = Key {
        run: cx.run_id.clone(),
        action: receipt_name(cx, &cx.action),
        fingerprint: blake3::hash(&text).to_hex().to_string(),
    };
    receipt::ensure(session).await?;
    execute(session, "begin", "BEGIN").await?;
    if let Some(outputs) = receipt::look(session, &key).await? {
        execute(session, "end", "ROLLBACK").await?;
        let summary = "was done already: its receipt is in the database".to_owned();
        return Ok(Output { outputs, summary, already_done: true, ..Output::default() });
    }
    // Without COMMIT the server rolls back as soon as the session is closed.
    let output = work().await?;
    receipt::write(session, &key, &output.outputs).await?;
    execute(session, "commit", "COMMIT").await?;
    Ok(output)
}

/// Returns the name of an action's receipt.
fn receipt_name(cx: &PerformCx, action: &str) -> String {
    format!("{}/{action}", cx.receipt_step())
}

/// Returns what an item of `for_each` puts before the names of its actions; what takes an action back is named after it.
fn item_prefix<'a>(cx: &'a PerformCx, own: &str) -> &'a str {
    let action = cx.action.strip_prefix("undo-").unwrap_or(&cx.action);
    action.strip_suffix(own).unwrap_or_default()
}

fn outputs_of(filled: &BTreeMap<String, Filled>) -> Result<Outputs, StepError> {
    let value = |(table, filled): (&String, &Filled)| {
        let value = serde_json::to_value(filled)
            .map_err(|error| StepError::new(ErrorKind::Internal, format!("the counts cannot be written: {error}")))?;
        Ok((table.clone(), OutputValue::Plain(value)))
    };
    filled.iter().map(value).collect()
}
