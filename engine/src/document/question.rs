//! `done_if`, `ensures` and `undo`: what a step is asked and how it is taken back.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::secret::Text;

/// A yes-or-no question about the world: an expression, a program that only looks, or a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// An expression, with or without `${{ }}`.
    Expression(String),
    /// A program; yes = exit code 0, and its trimmed output is `stdout` where that is given.
    Run {
        /// The program and its arguments.
        run: Vec<Text>,
        /// What it must print.
        stdout: Option<Text>,
    },
    /// A query in a read-only transaction; yes = its first column of its first row is true.
    Sql {
        /// The query.
        sql: Text,
        /// The database of the plan.
        database: String,
    },
}

/// What takes a step back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Undo {
    /// Nothing, on purpose.
    None,
    /// A program.
    Run(Vec<Text>),
    /// Statements in one transaction.
    Sql {
        /// The statements.
        sql: Text,
        /// The database of the plan.
        database: String,
    },
}

/// A program or SQL.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Form {
    /// The program and its arguments; no shell.
    run: Option<Vec<Text>>,
    /// What the program must print, without white space around it.
    stdout: Option<Text>,
    /// The SQL.
    sql: Option<Text>,
    /// The database that the SQL is for.
    database: Option<String>,
}

enum Read {
    Word(String),
    Form(Form),
}

struct Visitor(&'static str);

impl<'de> serde::de::Visitor<'de> for Visitor {
    type Value = Read;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E>(self, text: &str) -> Result<Read, E> {
        Ok(Read::Word(text.to_owned()))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Read, E> {
        Ok(Read::Word(value.to_string()))
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Read, A::Error> {
        Form::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(Read::Form)
    }
}

impl<'de> Deserialize<'de> for Question {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expecting = "an expression, `{ run: [...] }` or `{ sql: ..., database: ... }`";
        match deserializer.deserialize_any(Visitor(expecting))? {
            Read::Word(text) => Ok(Self::Expression(text)),
            Read::Form(Form { run: Some(run), stdout, sql: None, database: None }) if !run.is_empty() => {
                Ok(Self::Run { run, stdout })
            }
            Read::Form(Form { run: None, stdout: None, sql: Some(sql), database: Some(database) }) => {
                Ok(Self::Sql { sql, database })
            }
            Read::Form(_) => Err(D::Error::custom(format!("expected {expecting}"))),
        }
    }
}

impl<'de> Deserialize<'de> for Undo {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expecting = "`none`, `{ run: [...] }` or `{ sql: ..., database: ... }`";
        match deserializer.deserialize_any(Visitor(expecting))? {
            Read::Word(text) if text == "none" => Ok(Self::None),
            Read::Form(Form { run: Some(run), stdout: None, sql: None, database: None }) if !run.is_empty() => {
                Ok(Self::Run(run))
            }
            Read::Form(Form { run: None, stdout: None, sql: Some(sql), database: Some(database) }) => {
                Ok(Self::Sql { sql, database })
            }
            Read::Word(_) | Read::Form(_) => Err(D::Error::custom(format!("expected {expecting}"))),
        }
    }
}

impl JsonSchema for Question {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Question".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let form = generator.subschema_for::<Form>();
        schemars::json_schema!({ "anyOf": [{ "type": ["string", "boolean"] }, form] })
    }
}

impl JsonSchema for Undo {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Undo".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let form = generator.subschema_for::<Form>();
        schemars::json_schema!({ "anyOf": [{ "const": "none" }, form] })
    }
}
