//! YAML text as nodes that know their place.
//!
//! The dialect is YAML 1.2 with its core schema (chapter 10.3 of the specification): `no` and `off` are strings,
//! `0o17` is an integer, `2024-01-01` is a string. On top of it, what a plan from a stranger must not do is refused:
//! duplicate keys, tags of one's own, aliases that grow without end, deep nesting, huge files, and the private-use
//! characters that [`crate::secret`] builds its markers from.

mod de;
mod decode;
mod parse;
mod scalar;

pub use decode::{decode, salvage};
pub use parse::{Limits, parse};

use crate::source::Place;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The bytes of the value; for a value that came through an alias, those of the anchored value.
    pub place: Place,
    /// What it is.
    pub value: NodeValue,
}

/// A key of a mapping and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key {
    /// The key.
    pub text: String,
    /// The bytes of the key.
    pub place: Place,
}

/// What a [`Node`] can be.
#[derive(Debug, Clone, PartialEq)]
pub enum NodeValue {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction or exponent, an infinity, or a whole number too large for [`NodeValue::Int`].
    Float(f64),
    /// Text; after rendering it may hold markers of secrets.
    Str(String),
    /// A list.
    Seq(Vec<Node>),
    /// A mapping, in the order as written.
    Map(Vec<(Key, Node)>),
    /// A value that is known only after a step has run; made by rendering, never by parsing.
    Unknown {
        /// The text as far as it is known, with markers; wholly a marker when the whole value is unknown.
        text: String,
        /// The step after which it is known.
        after: String,
    },
}

impl NodeValue {
    /// Returns what the value is, for messages: `a string`, `a list`.
    #[must_use]
    pub fn describe(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "true or false",
            Self::Int(_) | Self::Float(_) => "a number",
            Self::Str(_) => "a string",
            Self::Seq(_) => "a list",
            Self::Map(_) => "a mapping",
            Self::Unknown { .. } => "a value that is not known yet",
        }
    }
}

impl Node {
    /// Returns a node with this value.
    #[must_use]
    pub fn new(place: Place, value: NodeValue) -> Self {
        Self { place, value }
    }

    /// Returns the value under `key`; `None` when there is none or the node is no mapping.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|(name, _)| name.text == key).map(|(_, node)| node)
    }

    /// Returns the entries of a mapping; empty for anything else.
    #[must_use]
    pub fn entries(&self) -> &[(Key, Node)] {
        match &self.value {
            NodeValue::Map(entries) => entries,
            _ => &[],
        }
    }

    /// Returns the items of a list; empty for anything else.
    #[must_use]
    pub fn items(&self) -> &[Node] {
        match &self.value {
            NodeValue::Seq(items) => items,
            _ => &[],
        }
    }

    /// Returns the text of a string.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            NodeValue::Str(text) => Some(text),
            _ => None,
        }
    }

    /// Returns the place of the deepest value that `path` leads to; numbers index lists.
    #[must_use]
    pub fn place_of<S: AsRef<str>>(&self, path: &[S]) -> &Place {
        let mut node = self;
        for part in path {
            let part = part.as_ref();
            let inner = match &node.value {
                NodeValue::Map(_) => node.get(part),
                NodeValue::Seq(items) => part.parse::<usize>().ok().and_then(|index| items.get(index)),
                _ => None,
            };
            match inner {
                Some(inner) => node = inner,
                None => break,
            }
        }
        &node.place
    }

    /// Returns the value as JSON, mappings in the order as written; secrets and unknowns as their names in
    /// angle brackets. Infinities and NaN become strings.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value;
        match &self.value {
            NodeValue::Null => Value::Null,
            NodeValue::Bool(value) => Value::Bool(*value),
            NodeValue::Int(value) => Value::from(*value),
            NodeValue::Float(value) => {
                serde_json::Number::from_f64(*value).map_or_else(|| Value::from(value.to_string()), Value::Number)
            }
            NodeValue::Str(text) => Value::String(shown(text)),
            NodeValue::Unknown { text, .. } => Value::String(shown(text)),
            NodeValue::Seq(items) => Value::Array(items.iter().map(Node::to_json).collect()),
            NodeValue::Map(entries) => {
                Value::Object(entries.iter().map(|(key, node)| (key.text.clone(), node.to_json())).collect())
            }
        }
    }

    /// Returns a node made from JSON; all of it at `place`.
    #[must_use]
    pub fn from_json(value: &serde_json::Value, place: &Place) -> Self {
        use serde_json::Value;
        let value = match value {
            Value::Null => NodeValue::Null,
            Value::Bool(value) => NodeValue::Bool(*value),
            Value::Number(number) => match number.as_i64() {
                Some(int) => NodeValue::Int(int),
                None => NodeValue::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Value::String(text) => NodeValue::Str(text.clone()),
            Value::Array(items) => NodeValue::Seq(items.iter().map(|item| Self::from_json(item, place)).collect()),
            Value::Object(map) => NodeValue::Map(
                map.iter()
                    .map(|(key, value)| {
                        (Key { text: key.clone(), place: place.clone() }, Self::from_json(value, place))
                    })
                    .collect(),
            ),
        };
        Self { place: place.clone(), value }
    }

    /// Calls `visit` for the node and every node inside it.
    pub fn walk<'a>(&'a self, visit: &mut impl FnMut(&'a Node)) {
        visit(self);
        match &self.value {
            NodeValue::Seq(items) => items.iter().for_each(|item| item.walk(visit)),
            NodeValue::Map(entries) => entries.iter().for_each(|(_, node)| node.walk(visit)),
            _ => {}
        }
    }
}

/// Returns text with each marker replaced by its name in angle brackets.
fn shown(text: &str) -> String {
    if !crate::secret::is_marked(text) {
        return text.to_owned();
    }
    crate::secret::Text::from_marked(text).map_or_else(|_| "<broken secret>".to_owned(), |text| text.to_string())
}
