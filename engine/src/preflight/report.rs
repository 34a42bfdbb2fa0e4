//! What a preflight found.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::rule::Severity;
use crate::{
    error::{ErrorKind, StepError},
    op::preflight::{Method, Waiver},
    postgres::quote::on_one_line,
};

/// How many objects of a finding an error names; the others are in the report.
const NAMED: usize = 10;

/// Everything that one preflight found, and what it could not look at.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// The source: address without the password.
    pub source: String,
    /// The source's version.
    pub source_version: String,
    /// The target: address without the password; absent = there is none yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// The target's version.
    pub target_version: String,
    /// How the data gets there.
    pub method: Method,
    /// The databases that were looked into.
    pub databases: Vec<String>,
    /// How many rules matter to this pair.
    pub rules: usize,
    /// How many queries were asked.
    pub queries: usize,
    /// What was found, blockers first.
    pub findings: Vec<Finding>,
    /// What was found and is waived.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waived: Vec<Waived>,
    /// What could not be looked at.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unchecked: Vec<Unchecked>,
    /// What is wrong with the plan's waivers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub waiver_errors: Vec<String>,
}

impl Report {
    /// Returns the findings that are so bad.
    pub fn of(&self, severity: Severity) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.severity == severity)
    }

    /// Returns whether nothing stands in the way.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.waiver_errors.is_empty() && self.of(Severity::Blocker).next().is_none()
    }

    /// Returns the numbers in words: `2 blockers, 1 warning, no notes`.
    #[must_use]
    pub fn numbers(&self) -> String {
        let number = |severity: Severity| match (self.of(severity).count(), severity.heading()) {
            (0, many) => format!("no {many}"),
            (1, many) => format!("1 {}", many.trim_end_matches('s')),
            (count, many) => format!("{count} {many}"),
        };
        [Severity::Blocker, Severity::Warning, Severity::Note].map(number).join(", ")
    }
}

impl Report {
    /// Returns the failure of a step for what stands in the way; `None` when nothing does.
    #[must_use]
    pub fn failure(&self) -> Option<StepError> {
        if self.is_clear() {
            return None;
        }
        let codes: Vec<&str> = self.of(Severity::Blocker).map(|finding| finding.code.as_str()).collect();
        let message = match codes.len() {
            0 => format!("{} of the plan's waivers", if self.waiver_errors.len() == 1 { "an error" } else { "errors" }),
            1 => format!("1 blocker: {}", codes[0]),
            count => format!("{count} blockers: {}", codes.join(", ")),
        };
        let mut error = StepError::new(ErrorKind::Verification, message);
        error.details.extend(self.waiver_errors.iter().cloned());
        for finding in self.of(Severity::Blocker) {
            error.details.push(format!("{}: {}", finding.code, finding.title));
            error.details.extend(finding.objects.iter().take(NAMED).map(|object| format!("  {}", object.line())));
            if let Some(more) = finding.objects.len().checked_sub(NAMED).filter(|more| *more > 0) {
                error.details.push(format!("  and {more} more"));
            }
        }
        Some(error.help(
            "mend them in the source or the target, or accept one by `waive` in the step; `pgplan check --live PLAN` tells \
             more about each",
        ))
    }
}

/// One hazard that is there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The rule's code.
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// What was found.
    pub title: String,
    /// What goes wrong.
    pub why: String,
    /// What to do.
    pub fix: String,
    /// Where to read on.
    pub link: String,
    /// The objects.
    pub objects: Vec<Object>,
}

/// An object that has the hazard.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Object {
    /// The database that it is in; absent = it belongs to the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// Its kind and name: `table public.orders`.
    pub name: String,
    /// What is to be said about it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// SQL that mends it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fix: String,
}

impl Object {
    /// Returns an object of the server.
    #[must_use]
    pub fn named(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), detail: detail.into(), ..Self::default() }
    }

    /// Returns the object with what is to be said about it.
    #[must_use]
    pub fn line(&self) -> String {
        match self.detail.as_str() {
            "" => self.full_name(),
            detail => format!("{} ({detail})", self.full_name()),
        }
    }

    /// Returns how waivers and reports name it: `shop: table public.orders`, `role app`.
    #[must_use]
    pub fn full_name(&self) -> String {
        match &self.database {
            Some(database) => format!("{}: {}", on_one_line(database), self.name),
            None => self.name.clone(),
        }
    }
}

/// A hazard that is accepted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waived {
    /// What was found.
    pub finding: Finding,
    /// The waiver that covers it.
    pub by: Waiver,
}

/// Something that could not be looked at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Unchecked {
    /// The rule; absent = every rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The database; absent = it belongs to the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub database: Option<String>,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Unchecked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(database) = &self.database {
            write!(f, "{}: ", on_one_line(database))?;
        }
        write!(f, "{}: {}", self.code.as_deref().unwrap_or("everything"), self.reason)
    }
}
