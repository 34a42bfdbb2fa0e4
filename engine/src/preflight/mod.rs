//! Hazards of a migration, found before it begins.
//!
//! A [`rule::Rule`] is a hazard as data: for which pairs of versions it matters, the read-only query that finds it, why
//! it matters and what to do. [`all`] lists them; [`crate::perform::preflight`] asks the servers; [`report::Report`] is
//! what came out, and [`judge`] applies the plan's waivers to it. Everything here is free of effects.

mod judge;
pub mod report;
pub mod rule;
mod rules;

pub use judge::{judge, waiver_problem};
pub use rules::{TAKEN_AWAY, all};

/// Returns the rule with this code.
#[must_use]
pub fn find(code: &str) -> Option<&'static rule::Rule> {
    all().iter().copied().find(|rule| rule.code == code)
}
