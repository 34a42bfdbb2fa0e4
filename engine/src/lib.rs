//! The engine behind `pgplan`: plan files compiled into a graph of actions, executed with a durable journal.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test stops at the first surprise"))]

pub mod action;
mod attempt;
pub mod check;
pub mod diagnostic;
pub mod digest;
pub mod document;
pub mod error;
pub mod event;
pub mod facts;
pub mod guard;
pub mod journal;
pub mod kinds;
pub mod lookup;
pub mod op;
pub mod perform;
pub mod plan;
pub mod platforms;
pub mod postgres;
pub mod preview;
pub mod quantity;
pub mod redact;
pub mod run;
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
