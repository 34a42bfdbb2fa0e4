//! Text that may carry secrets.
//!
//! A template never sees the value of a secret: it sees a *marker*, a run of private-use characters that names the
//! secret and how to encode it. [`Text::from_marked`] cuts the rendered string into parts; only
//! [`Text::reveal`], called at the moment a program is started or a connection is opened, puts the values in.
//! So a tainted value cannot reach a log, an event, a report or a saved plan: those hold the parts, never the values.
//! A filter that would change a secret (`upper`, `replace`, a slice) breaks its marker and is reported.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator};
pub use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Deserializer, Serialize};

const OPEN: char = '\u{E000}';
const CLOSE: char = '\u{E001}';
const RAW: char = '\u{E002}';
const URL: char = '\u{E003}';
const UNKNOWN: char = '\u{E004}';
const BASE: u32 = 0xE100;

/// The name of the newtype that tells the plan's deserializer "markers are welcome here".
pub const TEXT_TYPE: &str = "$pgplan::Text";

/// How a secret is written into the text around it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Encoding {
    /// As it is.
    Raw,
    /// Percent-encoded for a URL (RFC 3986, everything but unreserved characters).
    Url,
}

/// One part of a [`Text`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// Characters anyone may read.
    Plain(String),
    /// A secret by name: `secrets.old`, `databases.target.password`, `steps.tunnel.outputs.url`.
    Secret {
        /// The dotted path of the expression that gave it.
        name: String,
        /// How its value is written.
        encoding: Encoding,
    },
    /// A value only known after a step has run; met in dry runs only.
    Unknown {
        /// The step after which it is known.
        after: String,
    },
}

/// Text with secrets named inside it; `Debug`, `Display` and serde never show their values.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Text {
    parts: Vec<Part>,
}

/// A filter changed a secret's marker: the rendered text holds a piece of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a secret cannot be changed by a filter or a function")]
pub struct BrokenMarker;

/// Returns the marker that stands for the secret `name` in rendered text.
#[must_use]
pub fn marker(name: &str, encoding: Encoding) -> String {
    mark(if encoding == Encoding::Raw { RAW } else { URL }, name)
}

/// Returns the marker for a value that is only known after the step `after`.
#[must_use]
pub fn unknown_marker(after: &str) -> String {
    mark(UNKNOWN, after)
}

fn mark(how: char, name: &str) -> String {
    let hidden = name.bytes().filter_map(|byte| char::from_u32(BASE + u32::from(byte)));
    [OPEN, how].into_iter().chain(hidden).chain([CLOSE]).collect()
}

/// Returns whether `text` holds a character that markers are made of.
#[must_use]
pub fn is_marked(text: &str) -> bool {
    text.chars().any(|c| ('\u{E000}'..='\u{E1FF}').contains(&c))
}

impl Text {
    /// Returns text without secrets.
    #[must_use]
    pub fn plain(text: impl Into<String>) -> Self {
        Self { parts: vec![Part::Plain(text.into())] }
    }

    /// Returns text made of one secret.
    #[must_use]
    pub fn secret(name: &str) -> Self {
        Self { parts: vec![Part::Secret { name: name.to_owned(), encoding: Encoding::Raw }] }
    }

    /// Returns the parts of a rendered string.
    ///
    /// # Errors
    /// When a marker is incomplete because something changed it.
    pub fn from_marked(marked: &str) -> Result<Self, BrokenMarker> {
        let mut parts = Vec::new();
        let mut rest = marked;
        while let Some(start) = rest.find(OPEN) {
            push_plain(&mut parts, &rest[..start])?;
            let inner = &rest[start + OPEN.len_utf8()..];
            let end = inner.find(CLOSE).ok_or(BrokenMarker)?;
            parts.push(read_marker(&inner[..end])?);
            rest = &inner[end + CLOSE.len_utf8()..];
        }
        push_plain(&mut parts, rest)?;
        Ok(Self { parts })
    }

    /// Returns the string with markers in the place of secrets; the inverse of [`Text::from_marked`].
    #[must_use]
    pub fn to_marked(&self) -> String {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Plain(text) => text.clone(),
                Part::Secret { name, encoding } => marker(name, *encoding),
                Part::Unknown { after } => unknown_marker(after),
            })
            .collect()
    }

    /// Returns the parts in order.
    #[must_use]
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Returns whether a secret stands in the text.
    #[must_use]
    pub fn is_tainted(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, Part::Secret { .. }))
    }

    /// Returns the step after which the text is wholly known; `None` when it is known now.
    #[must_use]
    pub fn known_after(&self) -> Option<&str> {
        self.parts.iter().find_map(|part| match part {
            Part::Unknown { after } => Some(after.as_str()),
            Part::Plain(_) | Part::Secret { .. } => None,
        })
    }

    /// Returns the string when it holds neither a secret nor an unknown.
    #[must_use]
    pub fn as_plain(&self) -> Option<String> {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Plain(text) => Some(text.as_str()),
                Part::Secret { .. } | Part::Unknown { .. } => None,
            })
            .collect()
    }

    /// Returns the text with the values put in; `value` gives the secret of a name.
    ///
    /// # Errors
    /// Whatever `value` returns for a secret that cannot be had.
    pub fn reveal<E>(&self, mut value: impl FnMut(&str) -> Result<SecretString, E>) -> Result<SecretString, E> {
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Plain(text) => out.push_str(text),
                Part::Secret { name, encoding: Encoding::Raw } => out.push_str(value(name)?.expose_secret()),
                Part::Secret { name, encoding: Encoding::Url } => {
                    out.push_str(&percent_encode(value(name)?.expose_secret()));
                }
                Part::Unknown { after } => out.push_str(&format!("<known after {after}>")),
            }
        }
        Ok(SecretString::from(out))
    }
}

fn push_plain(parts: &mut Vec<Part>, text: &str) -> Result<(), BrokenMarker> {
    if is_marked(text) {
        return Err(BrokenMarker);
    }
    if !text.is_empty() {
        parts.push(Part::Plain(text.to_owned()));
    }
    Ok(())
}

fn read_marker(inner: &str) -> Result<Part, BrokenMarker> {
    let mut chars = inner.chars();
    let how = chars.next().ok_or(BrokenMarker)?;
    let bytes: Option<Vec<u8>> =
        chars.map(|c| u32::from(c).checked_sub(BASE).and_then(|byte| u8::try_from(byte).ok())).collect();
    let name = bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or(BrokenMarker)?;
    match how {
        RAW => Ok(Part::Secret { name, encoding: Encoding::Raw }),
        URL => Ok(Part::Secret { name, encoding: Encoding::Url }),
        UNKNOWN => Ok(Part::Unknown { after: name }),
        _ => Err(BrokenMarker),
    }
}

/// Returns `text` with everything but RFC 3986's unreserved characters percent-encoded.
#[must_use]
pub fn percent_encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

impl fmt::Display for Text {
    /// Writes secrets as `<secret NAME>` and unknowns as `<known after STEP>`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in &self.parts {
            match part {
                Part::Plain(text) => f.write_str(text)?,
                Part::Secret { name, .. } => write!(f, "<secret {name}>")?,
                Part::Unknown { after } => write!(f, "<known after {after}>")?,
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({self})")
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::plain(text)
    }
}

impl From<String> for Text {
    fn from(text: String) -> Self {
        Self::plain(text)
    }
}

impl Serialize for Text {
    /// Writes a string when the text is plain, else the list of its parts.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.as_plain() {
            Some(text) => serializer.serialize_str(&text),
            None => self.parts.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Text;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }

            fn visit_newtype_struct<D: Deserializer<'de>>(self, inner: D) -> Result<Text, D::Error> {
                inner.deserialize_any(Self)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Text, E> {
                Text::from_marked(text).map_err(E::custom)
            }

            fn visit_bool<E>(self, value: bool) -> Result<Text, E> {
                Ok(Text::plain(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Text, E> {
                Ok(Text::plain(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Text, E> {
                Ok(Text::plain(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Text, E> {
                Ok(Text::plain(value.to_string()))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Text, A::Error> {
                let mut parts = Vec::new();
                while let Some(part) = seq.next_element()? {
                    parts.push(part);
                }
                Ok(Text { parts })
            }
        }
        deserializer.deserialize_newtype_struct(TEXT_TYPE, Visitor)
    }
}

impl JsonSchema for Text {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Text".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": ["string", "number", "boolean"] })
    }

    fn inline_schema() -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_survives_rendering_and_shows_only_its_name() {
        let marked = format!("postgres://u:{}@h", marker("secrets.old", Encoding::Url));
        let text = Text::from_marked(&marked).unwrap();
        assert_eq!(text.to_string(), "postgres://u:<secret secrets.old>@h");
        assert_eq!(text.to_marked(), marked);
        let revealed = text.reveal(|_| Ok::<_, ()>(SecretString::from("p@ss".to_owned()))).unwrap();
        assert_eq!(revealed.expose_secret(), "postgres://u:p%40ss@h");
    }

    #[test]
    fn a_cut_marker_is_refused() {
        let marked = marker("secrets.old", Encoding::Raw);
        let cut: String = marked.chars().take(4).collect();
        assert_eq!(Text::from_marked(&cut), Err(BrokenMarker));
    }

    #[test]
    fn serde_keeps_the_parts_and_never_the_value() {
        let text = Text::from_marked(&format!("a{}b", marker("secrets.x", Encoding::Raw))).unwrap();
        let json = serde_json::to_string(&text).unwrap();
        assert_eq!(json, r#"[{"plain":"a"},{"secret":{"name":"secrets.x","encoding":"raw"}},{"plain":"b"}]"#);
        assert_eq!(serde_json::from_str::<Text>(&json).unwrap(), text);
    }
}
