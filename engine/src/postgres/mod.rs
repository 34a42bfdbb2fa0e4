//! All that is particular to talking with a PostgreSQL server.
//!
//! A text (URL or `keyword=value`) is read into [`Parameters`], completed from service file, environment and password
//! file into a [`ConnInfo`], and [`connect`](connect::connect) makes a [`Session`] of it. [`quote`] is the only place
//! that quotes, [`sqlstate`] the only one that judges a server's error.

mod certificate;
pub mod connect;
pub mod conninfo;
pub mod copy;
mod environment;
mod parameters;
mod pgpass;
pub mod pin;
pub(crate) mod pooler;
pub mod quote;
mod refusal;
mod resolve;
pub mod rows;
mod service;
mod session;
pub mod sqlstate;
mod tls;

pub use conninfo::ConnInfo;
pub use environment::Environment;
pub use parameters::{ConnInfoError, Origin, Parameters, Problem};
pub use pgpass::PassFile;
pub use session::{Canceller, Notice, Session, dropped_sessions_end};
