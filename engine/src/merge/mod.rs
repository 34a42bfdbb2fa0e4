//! Merging the rows of many schemas or databases into one schema: what a plan asks for, what catalogs say, and what
//! follows from both. Plain data and SQL text; nothing here looks or does.
//!
//! ```text
//! Spec + catalogs ──layout──► Layout: tables in foreign-key order, where each row comes from, what is in the way
//!                               │
//!             questions (SQL) ◄─┴─► operations (SQL)
//! ```

mod catalog;
mod layout;
mod order;
mod questions;
mod remap;
mod spec;
mod types;

pub use catalog::{Catalog, Column, ForeignKey, Relation, Sequence, UniqueKey};
pub use layout::{Filled, Finding, Layout, Part, Severity, TableLayout};
pub use questions::{OWN, Rows, collisions, columns_of, counts, orphans, overflow, sorted_keys};
pub use remap::{MAPS, OFFSET_STEP, map_name};
pub use spec::{Conflict, Existing, Keys, Method, Place, Selection, Source, Spec, TableMap, Tolerated, look_alikes};
