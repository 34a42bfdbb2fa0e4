//! What a filter took out of a dump.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Filter, Verdict};
use crate::sql::statement::Statement;

/// How many removals a report lists one by one; the rest is only counted.
const LISTED: usize = 500;
/// How many characters of a statement a report shows.
const SHOWN: usize = 200;

/// The account of one pass: every statement dropped or rewritten, and the rules that found nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct FilterReport {
    /// The first removals, in the dump's order.
    pub removals: Vec<Removal>,
    /// How many more there were.
    pub unlisted: u64,
    /// How many statements each reason touched; one statement may have several reasons.
    pub counts: BTreeMap<String, u64>,
    /// Rules that have matched nothing so far: a mistyped role or pattern.
    pub unmatched: Vec<String>,
}

/// One statement dropped or rewritten.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Removal {
    /// Its line in the dump.
    pub line: u64,
    /// The archive entry it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entry: Option<String>,
    /// The object it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// What was done.
    pub action: RemovalAction,
    /// Why.
    pub reasons: Vec<String>,
    /// The statement as it was, shortened, without secrets.
    pub statement: String,
}

/// What a filter did to a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RemovalAction {
    /// The whole statement is gone; of a `COPY`, its rows too.
    Dropped,
    /// Parts of it are gone or replaced.
    Rewritten,
}

impl FilterReport {
    /// Returns the report of a pass that begins.
    #[must_use]
    pub fn new(filter: &Filter) -> Self {
        Self { unmatched: filter.rules().iter().map(ToString::to_string).collect(), ..Self::default() }
    }

    /// Takes in what was judged about a statement.
    pub fn note(&mut self, statement: &Statement<'_>, verdict: &Verdict) {
        let (action, reasons) = match verdict {
            Verdict::Keep => return,
            Verdict::Drop { reasons } => (RemovalAction::Dropped, reasons),
            Verdict::Rewrite { reasons, .. } => (RemovalAction::Rewritten, reasons),
        };
        let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
        for reason in &reasons {
            *self.counts.entry(reason.clone()).or_default() += 1;
        }
        self.unmatched.retain(|rule| !reasons.contains(rule));
        if self.removals.len() >= LISTED {
            self.unlisted += 1;
            return;
        }
        self.removals.push(Removal {
            line: statement.line,
            entry: statement.entry.map(ToString::to_string),
            object: statement.object(),
            action,
            reasons,
            statement: statement.redacted(SHOWN),
        });
    }
}
