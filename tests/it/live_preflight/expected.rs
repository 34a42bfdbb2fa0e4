//! What the preflights of the crafted servers must find, by rule.

/// Rules with the objects that they must find.
pub(super) type Expected = &'static [(&'static str, &'static [&'static str])];

pub(super) const CRAFTED: Expected = &[];
pub(super) const IN_PLACE: Expected = &[];
pub(super) const REPLICATED: Expected = &[];
pub(super) const ABOVE_18: Expected = &[];
pub(super) const RESTRICTED: Expected = &[];
pub(super) const WITHOUT_ICU: Expected = &[];
pub(super) const WITH_18: Expected = &[];
pub(super) const POOR: Expected = &[];
pub(super) const ALONE: Expected = &[];
