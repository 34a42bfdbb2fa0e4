//! Kinds without their types: what the rest of the engine sees of them.

use schemars::{Schema, SchemaGenerator};

use super::{Declarations, ExpandCx, Kind};
use crate::{
    action::ActionGraph,
    diagnostic::Diagnostic,
    error::{ErrorKind, StepError},
    facts::{Facts, Look},
    secret::{self, Text},
    yaml::{self, Node},
};

/// A step's body as its kind, or all that is wrong with it.
pub type Decoded = Result<Box<dyn ErasedKind>, Vec<Diagnostic>>;

/// One kind of the list.
pub struct KindEntry {
    /// The key in the plan.
    pub name: &'static str,
    /// The group in the reference.
    pub group: &'static str,
    /// One imperative line without a period.
    pub summary: &'static str,
    /// A step as YAML, as a list item's body.
    pub example: &'static str,
    /// See [`Kind::BORROWS`].
    pub borrows: &'static [(&'static str, &'static str)],
    /// Returns the schema of the step's body.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
    /// Returns a rendered body as this kind.
    pub decode: fn(&Node) -> Decoded,
}

impl std::fmt::Debug for KindEntry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KindEntry({})", self.name)
    }
}

/// A step's body whose kind is only known at run time; the methods are those of [`Kind`].
pub trait ErasedKind: Send + Sync {
    /// See [`Kind::check`].
    fn check(&self, to: &mut Declarations);

    /// See [`Kind::looks`].
    ///
    /// # Errors
    /// As there.
    fn looks(&self, cx: &ExpandCx<'_>) -> Result<Vec<Look>, StepError>;

    /// See [`Kind::actions`].
    ///
    /// # Errors
    /// As there; also when a secret got into a text that is not a [`Text`].
    fn actions(&self, facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError>;
}

impl<K: Kind> ErasedKind for K {
    fn check(&self, to: &mut Declarations) {
        Kind::check(self, to);
    }

    fn looks(&self, cx: &ExpandCx<'_>) -> Result<Vec<Look>, StepError> {
        Kind::looks(self, cx)
    }

    fn actions(&self, facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        without_markers(Kind::actions(self, facts, cx)?)
    }
}

/// Returns the entry of a kind.
pub(super) fn entry<K: Kind>() -> KindEntry {
    KindEntry {
        name: K::NAME,
        group: K::GROUP,
        summary: K::SUMMARY,
        example: K::EXAMPLE,
        borrows: K::BORROWS,
        schema: SchemaGenerator::subschema_for::<K>,
        decode: |node| yaml::decode::<K>(node).map(|kind| Box::new(kind) as Box<dyn ErasedKind>),
    }
}

/// Refuses marked text outside [`Text`] (which is serialised by its parts, without markers). The deserializer keeps
/// markers out of plain strings, but cannot see inside untagged and flattened types: this is the second lock.
fn without_markers(actions: ActionGraph) -> Result<ActionGraph, StepError> {
    let internal =
        |error: serde_json::Error| StepError::new(ErrorKind::Internal, format!("actions are not JSON: {error}"));
    let mut json = serde_json::to_value(&actions).map_err(internal)?;
    let mut changed = false;
    clean(&mut json, &mut changed)?;
    if changed { serde_json::from_value(json).map_err(internal) } else { Ok(actions) }
}

fn clean(value: &mut serde_json::Value, changed: &mut bool) -> Result<(), StepError> {
    match value {
        serde_json::Value::String(text) if secret::is_marked(text) => {
            let read = Text::from_marked(text).ok().filter(|text| !text.is_tainted());
            *text = read.map(|text| text.to_string()).ok_or_else(|| {
                StepError::new(ErrorKind::Plan, "a secret stands where only plain text is allowed")
                    .help("secrets may stand where a program, a connection or a configuration takes text")
            })?;
            *changed = true;
        }
        serde_json::Value::Array(items) => {
            for item in items {
                clean(item, changed)?;
            }
        }
        serde_json::Value::Object(map) => {
            for (_, item) in map.iter_mut() {
                clean(item, changed)?;
            }
        }
        _ => {}
    }
    Ok(())
}
