//! A [`Node`] as a serde `Deserializer`: errors carry their place, markers stay where they are welcome.

use std::{cell::RefCell, fmt};

use serde::de::{
    self, DeserializeSeed, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess, Unexpected, VariantAccess,
    Visitor, value::StrDeserializer,
};

use super::{Key, Node, NodeValue, scalar};
use crate::{
    diagnostic::Diagnostic,
    quantity,
    secret::{self, TEXT_TYPE, Text},
    source::Place,
    spelling,
};

/// Why a value could not be read.
#[derive(Debug)]
pub(super) struct DeError {
    code: &'static str,
    message: Box<str>,
    help: Option<Box<str>>,
    place: Option<Place>,
    /// The key that is missing, where that is the trouble.
    pub(super) missing: Option<&'static str>,
    /// The keys that lead to the value, outermost last.
    pub(super) path: Vec<String>,
}

impl DeError {
    fn new(code: &'static str, message: String) -> Self {
        Self { code, message: message.into(), help: None, place: None, missing: None, path: Vec::new() }
    }

    fn help(mut self, help: Option<String>) -> Self {
        self.help = help.map(Into::into);
        self
    }

    fn at(mut self, place: &Place) -> Self {
        self.place.get_or_insert_with(|| place.clone());
        self
    }

    pub(super) fn into_diagnostic(self) -> Diagnostic {
        let label = if self.code == "missing_key" { "in this mapping" } else { "here" };
        let diagnostic = Diagnostic::error(self.code, self.message).maybe_help(self.help);
        match &self.place {
            Some(place) => diagnostic.at(place, label),
            None => diagnostic,
        }
    }
}

impl fmt::Display for DeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for DeError {}

impl de::Error for DeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let message = message.to_string();
        if message.starts_with("data did not match any variant") {
            return Self::new("wrong_type", "this value has none of the forms that are allowed here".to_owned());
        }
        Self::new("bad_value", message)
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new("wrong_type", format!("expected {expected}, found {}", found_words(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::new("bad_value", format!("expected {expected}, found {}", found_words(found)))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new("unknown_value", format!("`{variant}` is not known here"))
            .help(spelling::did_you_mean(variant, expected.iter().copied()))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::new("unknown_key", format!("there is no key `{field}` here"))
            .help(spelling::did_you_mean(field, expected.iter().copied()))
    }

    fn missing_field(field: &'static str) -> Self {
        let error = Self::new("missing_key", format!("the key `{field}` is missing"));
        Self { missing: Some(field), ..error }
    }
}

fn found_words(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Signed(value) => format!("the number {value}"),
        Unexpected::Unsigned(value) => format!("the number {value}"),
        Unexpected::Float(value) => format!("the number {value}"),
        Unexpected::Str(text) => format!("the string {text:?}"),
        Unexpected::Unit | Unexpected::Option => "nothing".to_owned(),
        Unexpected::Seq => "a list".to_owned(),
        Unexpected::Map | Unexpected::StructVariant => "a mapping".to_owned(),
        other => other.to_string(),
    }
}

/// A node being read; keys that a struct does not know go to `unknown_keys`, so that all of them are reported.
#[derive(Clone, Copy)]
pub(super) struct De<'a> {
    pub(super) node: &'a Node,
    pub(super) unknown_keys: &'a RefCell<Vec<Diagnostic>>,
}

impl<'a> De<'a> {
    fn inner(self, node: &'a Node) -> Self {
        Self { node, ..self }
    }

    fn placed<T>(self, result: Result<T, DeError>) -> Result<T, DeError> {
        result.map_err(|error| match (error.code, self.node.entries().first()) {
            ("missing_key", Some((key, _))) => error.at(&key.place),
            _ => error.at(&self.node.place),
        })
    }

    fn wrong_type(self, expected: &dyn de::Expected) -> DeError {
        let found = self.node.value.describe();
        DeError::new("wrong_type", format!("expected {expected}, found {found}")).at(&self.node.place)
    }

    fn secret_not_allowed(self) -> DeError {
        DeError::new("secret_not_allowed", "a secret cannot be used here".to_owned())
            .help(Some("secrets may stand where a program, a connection or a configuration takes text".to_owned()))
            .at(&self.node.place)
    }

    fn text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match &self.node.value {
            NodeValue::Str(text) if secret::is_marked(text) => Err(self.secret_not_allowed()),
            NodeValue::Str(text) => self.placed(visitor.visit_str(text)),
            NodeValue::Unknown { text, .. } => match Text::from_marked(text) {
                Ok(text) if !text.is_tainted() => self.placed(visitor.visit_str(&text.to_string())),
                _ => Err(self.secret_not_allowed()),
            },
            NodeValue::Int(_) | NodeValue::Float(_) | NodeValue::Bool(_) => {
                Err(self.wrong_type(&visitor).help(Some("put it in quotes".to_owned())))
            }
            _ => Err(self.wrong_type(&visitor)),
        }
    }

    /// Reads the newtype [`Text`]: anything scalar, numbers as they are written in the file (`1.10` stays `1.10`).
    fn marked_text<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        let Node { place, value } = self.node;
        let text = match value {
            NodeValue::Str(text) | NodeValue::Unknown { text, .. } => text.clone(),
            NodeValue::Int(_) | NodeValue::Float(_) | NodeValue::Bool(_) => {
                let written = place.file.text.get(place.span.clone()).unwrap_or_default();
                match value {
                    _ if scalar::resolve(written) == *value => written.to_owned(),
                    NodeValue::Int(value) => value.to_string(),
                    NodeValue::Float(value) => value.to_string(),
                    NodeValue::Bool(value) => value.to_string(),
                    _ => String::new(),
                }
            }
            NodeValue::Null | NodeValue::Seq(_) | NodeValue::Map(_) => return Err(self.wrong_type(&"a string")),
        };
        if Text::from_marked(&text).is_err() {
            let error = DeError::new("secret_changed", secret::BrokenMarker.to_string());
            return Err(error.at(place));
        }
        self.placed(visitor.visit_newtype_struct(StrDeserializer::new(&text)))
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
            if let NodeValue::Unknown { .. } = self.node.value {
                return self.placed(visitor.visit_i64(1));
            }
            self.deserialize_any(visitor)
        })*
    };
}

impl<'de> de::Deserializer<'de> for De<'_> {
    type Error = DeError;

    /// Gives the value as it is. Marked text passes, because serde buffers untagged and flattened types through
    /// here and a [`Text`] may be waiting inside; `kinds` checks what comes out at the other end.
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match &self.node.value {
            NodeValue::Null => self.placed(visitor.visit_unit()),
            NodeValue::Bool(value) => self.placed(visitor.visit_bool(*value)),
            NodeValue::Int(value) => self.placed(visitor.visit_i64(*value)),
            NodeValue::Float(value) => self.placed(visitor.visit_f64(*value)),
            NodeValue::Str(text) | NodeValue::Unknown { text, .. } => self.placed(visitor.visit_str(text)),
            NodeValue::Seq(items) => self.placed(visitor.visit_seq(Items { de: self, left: items.iter().enumerate() })),
            NodeValue::Map(entries) => self.placed(visitor.visit_map(Entries::new(self, entries, None))),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        if let NodeValue::Unknown { .. } = self.node.value {
            return self.placed(visitor.visit_bool(true));
        }
        self.deserialize_any(visitor)
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
        deserialize_f32 deserialize_f64
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.text(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.text(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.text(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.text(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.text(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.text(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        match self.node.value {
            NodeValue::Null => self.placed(visitor.visit_none()),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        self.deserialize_any(visitor)
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DeError> {
        self.deserialize_any(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, DeError> {
        if name == TEXT_TYPE {
            return self.marked_text(visitor);
        }
        if let (Some(placeholder), NodeValue::Unknown { .. }) = (quantity::placeholder(name), &self.node.value) {
            return self.placed(visitor.visit_newtype_struct(StrDeserializer::new(placeholder)));
        }
        let result = visitor.visit_newtype_struct(self);
        self.placed(result)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        if let NodeValue::Unknown { .. } = self.node.value {
            return self.placed(visitor.visit_seq(Items { de: self, left: [].iter().enumerate() }));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, DeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, DeError> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        if let NodeValue::Unknown { .. } = self.node.value {
            return self.placed(visitor.visit_map(Entries::new(self, &[], None)));
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        match &self.node.value {
            NodeValue::Map(entries) => self.placed(visitor.visit_map(Entries::new(self, entries, Some(fields)))),
            NodeValue::Null => self.placed(visitor.visit_map(Entries::new(self, &[], None))),
            NodeValue::Unknown { .. } => {
                let entry = |field: &&str| {
                    (Key { text: (*field).to_owned(), place: self.node.place.clone() }, self.node.clone())
                };
                let entries: Vec<(Key, Node)> = fields.iter().map(entry).collect();
                self.placed(visitor.visit_map(Entries::new(self, &entries, None)))
            }
            // serde would read a list as the fields in order; no plan means that.
            _ => Err(self.wrong_type(&"a mapping")),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DeError> {
        let result = match &self.node.value {
            NodeValue::Str(text) if secret::is_marked(text) => return Err(self.secret_not_allowed()),
            NodeValue::Str(text) => visitor.visit_enum(Variant { de: self, name: text, key: None, value: None }),
            NodeValue::Map(entries) => match entries.as_slice() {
                [(key, value)] => {
                    visitor.visit_enum(Variant { de: self, name: &key.text, key: Some(key), value: Some(value) })
                }
                _ => Err(DeError::new("wrong_type", "expected a mapping with exactly one key".to_owned())
                    .help(Some(format!("one of: {}", variants.join(", "))))),
            },
            NodeValue::Unknown { .. } => match variants.first() {
                Some(first) => visitor.visit_enum(Variant { de: self, name: first, key: None, value: Some(self.node) }),
                None => Err(self.wrong_type(&"a known word")),
            },
            _ => Err(self.wrong_type(&"a word").help(Some(format!("one of: {}", variants.join(", "))))),
        };
        self.placed(result)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DeError> {
        visitor.visit_unit()
    }
}

struct Items<'a, I: Iterator<Item = (usize, &'a Node)>> {
    de: De<'a>,
    left: I,
}

impl<'de, 'a, I: Iterator<Item = (usize, &'a Node)>> SeqAccess<'de> for Items<'a, I> {
    type Error = DeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, DeError> {
        let Some((index, node)) = self.left.next() else { return Ok(None) };
        seed.deserialize(self.de.inner(node)).map(Some).map_err(|mut error| {
            error.path.push(index.to_string());
            error.at(&node.place)
        })
    }
}

struct Entries<'a> {
    de: De<'a>,
    left: std::slice::Iter<'a, (Key, Node)>,
    fields: Option<&'static [&'static str]>,
    current: Option<&'a (Key, Node)>,
}

impl<'a> Entries<'a> {
    fn new(de: De<'a>, entries: &'a [(Key, Node)], fields: Option<&'static [&'static str]>) -> Self {
        Self { de, left: entries.iter(), fields, current: None }
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = DeError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, DeError> {
        for entry in self.left.by_ref() {
            let key = &entry.0;
            if let Some(fields) = self.fields
                && !fields.contains(&key.text.as_str())
            {
                let unknown = DeError::unknown_field(&key.text, fields).at(&key.place).into_diagnostic();
                self.de.unknown_keys.borrow_mut().push(unknown);
                continue;
            }
            self.current = Some(entry);
            let deserializer: StrDeserializer<'_, DeError> = key.text.as_str().into_deserializer();
            return seed.deserialize(deserializer).map(Some).map_err(|error| error.at(&key.place));
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, DeError> {
        let Some((key, node)) = self.current.take() else {
            return Err(DeError::custom("a value was asked for before its key"));
        };
        seed.deserialize(self.de.inner(node)).map_err(|mut error| {
            error.path.push(key.text.clone());
            error.at(&node.place)
        })
    }
}

struct Variant<'a> {
    de: De<'a>,
    name: &'a str,
    key: Option<&'a Key>,
    value: Option<&'a Node>,
}

impl<'de> EnumAccess<'de> for Variant<'_> {
    type Error = DeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), DeError> {
        let place = self.key.map_or(&self.de.node.place, |key| &key.place);
        let deserializer: StrDeserializer<'_, DeError> = self.name.into_deserializer();
        let name = seed.deserialize(deserializer).map_err(|error| error.at(place))?;
        Ok((name, self))
    }
}

impl Variant<'_> {
    fn content(&self) -> Result<De<'_>, DeError> {
        let value = self.value.ok_or_else(|| {
            DeError::new("wrong_type", format!("`{0}` needs a value: `{0}: …`", self.name)).at(&self.de.node.place)
        })?;
        Ok(self.de.inner(value))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_> {
    type Error = DeError;

    fn unit_variant(self) -> Result<(), DeError> {
        match self.value.map(|node| &node.value) {
            None | Some(NodeValue::Null | NodeValue::Unknown { .. }) => Ok(()),
            Some(_) => Err(DeError::new("wrong_type", format!("`{}` takes no value", self.name))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DeError> {
        seed.deserialize(self.content()?)
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, DeError> {
        de::Deserializer::deserialize_tuple(self.content()?, len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, DeError> {
        de::Deserializer::deserialize_struct(self.content()?, "", fields, visitor)
    }
}
