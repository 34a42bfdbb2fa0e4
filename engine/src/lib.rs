//! The engine behind `pgplan`: plan files compiled into a graph of actions, executed with a durable journal.
#![cfg_attr(test, expect(clippy::unwrap_used, reason = "a test stops at the first surprise"))]

pub mod action;
pub mod error;
pub mod facts;
pub mod kinds;
pub mod op;
pub mod secret;
pub mod source;
