//! A hazard as data.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::report::Object;
use crate::{facts::ServerFacts, op::preflight::Method, postgres::quote::literal};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The migration fails or loses something: the step fails unless it is waived.
    Blocker,
    /// Something will not be as before, or may fail.
    Warning,
    /// Good to know.
    Note,
}

impl Severity {
    /// Returns the heading under which such findings stand.
    #[must_use]
    pub fn heading(self) -> &'static str {
        match self {
            Self::Blocker => "blockers",
            Self::Warning => "warnings",
            Self::Note => "notes",
        }
    }
}

/// One hazard.
pub struct Rule {
    /// Stable, snake case.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is found, in the plural, without a period: "columns of types that …".
    pub title: &'static str,
    /// The pairs of versions that it matters to.
    pub pairs: Pairs,
    /// The methods that it matters to.
    pub methods: &'static [Method],
    /// How it is found.
    pub check: Check,
    /// What goes wrong.
    pub why: &'static str,
    /// What to do; SQL where there is some.
    pub fix: &'static str,
    /// The release note or the chapter of the manual.
    pub link: &'static str,
    /// Why no test produces it on a real server; absent = one does.
    pub untested: Option<&'static str>,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Rule({})", self.code)
    }
}

impl Rule {
    /// Returns whether it matters to this pair at all.
    #[must_use]
    pub fn matters(&self, pair: &Pair<'_>) -> bool {
        self.pairs.contain(pair.from(), pair.to) && self.methods.contains(&pair.method)
    }

    /// Returns the methods in words: `dump, replication`.
    #[must_use]
    pub fn methods_in_words(&self) -> String {
        let word = |method: &Method| match method {
            Method::Dump => "dump",
            Method::Replication => "replication",
            Method::InPlace => "pg_upgrade",
        };
        self.methods.iter().map(word).collect::<Vec<_>>().join(", ")
    }
}

/// Which pairs of major versions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// All.
    Any,
    /// A source before this version, a target of it or later.
    Into(u32),
    /// A source from the first version on and before the second, a target of the second or later.
    Since(u32, u32),
    /// A target of this version or later, whatever the source.
    To(u32),
    /// A target before this version, whatever the source.
    Below(u32),
}

impl Pairs {
    /// Returns whether these major versions are such a pair.
    #[must_use]
    pub fn contain(self, from: u32, to: u32) -> bool {
        match self {
            Self::Any => true,
            Self::Into(at) => from < at && at <= to,
            Self::Since(since, at) => since <= from && from < at && at <= to,
            Self::To(at) => at <= to,
            Self::Below(at) => to < at,
        }
    }
}

impl fmt::Display for Pairs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any versions"),
            Self::Into(at) => write!(f, "from before {at} to {at} or later"),
            Self::Since(since, at) if since + 1 == *at => write!(f, "from {since} to {at} or later"),
            Self::Since(since, at) => write!(f, "from {since} to {} to {at} or later", at - 1),
            Self::To(at) => write!(f, "to {at} or later"),
            Self::Below(at) => write!(f, "to a version before {at}"),
        }
    }
}

/// The query of a rule, or why it cannot be asked.
pub type Ask = Result<String, &'static str>;
/// Writes the query of a rule for a pair; empty text = there is nothing to ask there.
pub type Query = fn(&Pair<'_>) -> Ask;

/// How a hazard is found. A query gives one row for each object: its name, what is to be said about it (or NULL), and
/// SQL that mends it (or NULL). It runs with `search_path = pg_catalog`, read-only, by itself.
#[derive(Clone, Copy)]
pub enum Check {
    /// Once, on the source's server.
    Source(Query),
    /// In each database of the source.
    Each(Query),
    /// Once, on the target's server.
    Target(Query),
    /// In each database of the target that has a name of one of the source's.
    TargetEach(Query),
    /// In the target's `template1`.
    Template(Query),
    /// From what is known without a query.
    Known(fn(&Pair<'_>) -> Result<Vec<Object>, &'static str>),
}

impl Check {
    /// Returns whether it asks the target.
    #[must_use]
    pub fn is_of_target(self) -> bool {
        matches!(self, Self::Target(_) | Self::TargetEach(_) | Self::Template(_))
    }
}

/// Source and target, as far as rules want to know them.
pub struct Pair<'a> {
    /// The source.
    pub source: &'a ServerFacts,
    /// The target, when there is one yet.
    pub target: Option<&'a ServerFacts>,
    /// The target's major version.
    pub to: u32,
    /// How the data gets there.
    pub method: Method,
    /// The databases of the source that are meant.
    pub databases: &'a [String],
    /// Settings of the target with their contexts; absent = there is no target to ask.
    pub settings: Option<BTreeMap<String, String>>,
    /// Whether these are all settings: some are hidden from most roles.
    pub all_settings: bool,
    /// Extensions that the target has at hand, with their default versions and whether only a superuser may make them.
    pub extensions: Option<BTreeMap<String, Extension>>,
    /// Collations of the target's `pg_catalog`.
    pub collations: Option<BTreeSet<String>>,
    /// Locales that the target's collations name, in lower case without dashes.
    pub locales: Option<BTreeSet<String>>,
    /// Tablespaces of the target.
    pub tablespaces: Option<BTreeSet<String>>,
    /// Roles of the target that its role may become.
    pub becomes: Option<BTreeSet<String>>,
    /// The superuser that the target was made with.
    pub bootstrap: Option<String>,
    /// Major versions of the installed `pg_dump`.
    pub dumpers: Vec<u32>,
    /// Where a dump would lie, and the bytes that are free there.
    pub space: Option<(String, u64)>,
    /// Addresses that are reached through a transaction pooler.
    pub poolers: Vec<String>,
}

/// An extension that a server has at hand.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Extension {
    /// Its default version.
    pub version: String,
    /// Whether only a superuser may create it.
    pub superuser: bool,
}

/// There is no target to ask.
pub const NO_TARGET: &str = "there is no target yet to compare with";

impl Pair<'_> {
    /// Returns the source's major version.
    #[must_use]
    pub fn from(&self) -> u32 {
        self.source.major()
    }

    /// Returns whether the target is there and its role is no superuser.
    #[must_use]
    pub fn restricted(&self) -> bool {
        self.target.is_some_and(|target| !target.superuser)
    }

    /// Returns the names of all settings that the target has; `None` when it is not there or shows only some.
    #[must_use]
    pub fn known_settings(&self) -> Option<String> {
        self.settings.as_ref().filter(|_| self.all_settings).map(|settings| list(settings.keys()))
    }
}

/// Returns names as the text of an array: `ARRAY['a', 'b']::text[]`.
pub fn list<I: IntoIterator<Item = S>, S: AsRef<str>>(names: I) -> String {
    let names: Vec<String> = names.into_iter().map(|name| literal(name.as_ref())).collect();
    format!("ARRAY[{}]::text[]", names.join(", "))
}
