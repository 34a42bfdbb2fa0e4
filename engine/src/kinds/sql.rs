//! `sql`: statements in a database of the plan.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Declarations, ExpandCx, Kind, declare::key};
use crate::{
    action::{Action, ActionGraph, Effect},
    error::StepError,
    facts::Facts,
    op::{
        Op,
        data::{RunSql, SqlExpect, SqlSource},
    },
    postgres::quote::on_one_line,
    secret::Text,
    sql::{Statement, script::statements},
};

/// How many characters of a statement a dry run shows.
const SHOWN: usize = 90;

/// Runs SQL in a database.
///
/// By default all of it is one transaction in which a receipt is written too (schema `pgplan`, dropped when the run has
/// ended well), so it happens exactly once, however often the run is cut and resumed. Statements that the server
/// refuses in a transaction (`VACUUM`, `CREATE INDEX CONCURRENTLY`) need `transaction: false`: then each is a
/// transaction of its own, and when pgplan is cut in the middle a person has to say what became of them.
///
/// Outputs: `value` (the first column of the first row that the last query returned, as text), `row` (that row by
/// column), `rows` (how many rows the last statement returned or changed), `statements` (how many were run).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sql {
    /// The database of the plan.
    pub database: String,
    /// The SQL: a text with one or more statements, or a list of texts.
    #[serde(default)]
    pub run: Option<Run>,
    /// A file with the SQL, relative to the plan.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// Whether all of it is one transaction.
    #[serde(default = "yes")]
    pub transaction: bool,
    /// What must come out; anything else fails the step, and a transaction is rolled back.
    #[serde(default)]
    pub expect: Option<Expect>,
    /// Whether the SQL only reads: the server refuses every change, and no receipt is written.
    #[serde(default)]
    pub read_only: bool,
}

/// SQL in the plan.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Run {
    /// One text.
    One(Text),
    /// Several, run in order.
    Several(Vec<Text>),
}

/// What SQL must give.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expect {
    /// How many rows the last statement must return or change.
    #[serde(default)]
    pub rows: Option<u64>,
    /// What the first column of the first row of the last query must be; booleans are `true` and `false`.
    #[serde(default)]
    pub value: Option<Text>,
}

fn yes() -> bool {
    true
}

impl Kind for Sql {
    const NAME: &'static str = "sql";
    const GROUP: &'static str = "data";
    const SUMMARY: &'static str = "Run SQL, exactly once";
    const EXAMPLE: &'static str =
        "sql: { database: target, run: \"UPDATE flags SET migrated = true\", expect: { rows: 1 } }";

    fn check(&self, to: &mut Declarations) {
        if self.read_only {
            to.reads(&self.database, "database");
        } else {
            to.changes(&self.database, "database");
        }
        match (&self.run, &self.file) {
            (Some(_), Some(_)) => {
                to.problem("two_sources", key(["file"]), "`run` and `file` cannot stand together", None);
            }
            (None, None) => to.problem("no_sql", key(["database"]), "`run` or `file` is missing", None),
            (None, Some(file)) => to.file(file, "file"),
            (Some(_), None) => {}
        }
        for text in self.texts().iter().filter_map(Text::as_plain) {
            if let Err(error) = statements(&text, self.transaction) {
                to.problem("sql_script", key(["run"]), error.message, Some(error.help));
            }
        }
        for name in ["value", "row", "rows", "statements"] {
            to.output(name, false);
        }
    }

    fn actions(&self, _facts: &Facts, _cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        let source = match &self.file {
            Some(file) => SqlSource::File(file.clone()),
            None => SqlSource::Text(self.texts()),
        };
        let shown = match &source {
            SqlSource::File(file) => on_one_line(&file.display().to_string()),
            SqlSource::Text(texts) => {
                let all = texts.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                Statement::new(all.as_bytes()).redacted(SHOWN)
            }
        };
        let how = match (self.read_only, self.transaction) {
            (true, _) => "query",
            (false, true) => "run in one transaction",
            (false, false) => "run without a transaction",
        };
        let effect = match (self.read_only, self.transaction) {
            (true, _) => Effect::Restart,
            (false, true) => Effect::Transaction,
            (false, false) => Effect::Opaque,
        };
        let expect = self.expect.clone().unwrap_or_default();
        let op = RunSql {
            database: self.database.clone(),
            source,
            transaction: self.transaction || self.read_only,
            read_only: self.read_only,
            expect: SqlExpect { rows: expect.rows, value: expect.value },
        };
        let title = format!("{how} on {}: {shown}", self.database);
        Ok(ActionGraph::of(vec![Action::new("sql", title, Op::RunSql(op), effect)]))
    }
}

impl Sql {
    fn texts(&self) -> Vec<Text> {
        match &self.run {
            Some(Run::One(text)) => vec![text.clone()],
            Some(Run::Several(texts)) => texts.clone(),
            None => Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Sql;
    use crate::kinds::{Declarations, Kind as _};

    #[test]
    fn what_cannot_stand_in_a_transaction_is_named_in_the_plan() {
        let body = serde_json::json!({ "database": "d", "run": ["SELECT 1", "SELECT 2; VACUUM"], "file": "x.sql" });
        let mut declared = Declarations::default();
        serde_json::from_value::<Sql>(body).unwrap().check(&mut declared);
        let codes: Vec<&str> = declared.problems.iter().map(|problem| problem.code).collect();
        assert_eq!(codes, ["two_sources", "sql_script"]);
    }
}
