//! The engine behind `pgplan`: plan files compiled into a graph of actions, executed with a durable journal.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test stops at the first surprise"))]
#![cfg_attr(test, expect(clippy::disallowed_methods, reason = "a test makes files and starts programs of its own"))]

pub mod action;
pub mod artifact;
mod attempt;
pub mod check;
pub mod claim;
pub mod diagnostic;
pub mod digest;
pub mod document;
mod each;
pub mod error;
pub mod event;
pub mod facts;
pub mod graph;
pub mod guard;
pub mod journal;
pub mod kinds;
pub mod locate;
pub mod lookup;
pub mod op;
pub mod pattern;
pub mod perform;
pub mod plan;
pub mod platforms;
pub mod postgres;
pub mod preflight;
pub mod preview;
pub mod quantity;
pub mod receipt;
pub mod redact;
pub mod run;
pub mod saved;
pub mod schedule;
pub mod schema;
pub mod secret;
pub mod source;
pub mod spelling;
pub mod sql;
pub mod state;
pub mod survey;
pub mod template;
pub mod tool;
pub mod undo;
pub mod vault;
pub mod world;
pub mod yaml;
