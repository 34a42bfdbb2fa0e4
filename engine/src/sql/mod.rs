//! Reading SQL: the text of `pg_dump` and `pg_dumpall`, its statements, and what a restore leaves out of them.
//!
//! ```text
//! chunks → Reader → Piece (Blank | Statement | CopyStart, CopyData…, CopyEnd | Meta) → Filter::judge → Verdict
//! ```
//!
//! Everything here is pure: no file, no socket, no task. The caller pushes bytes and pulls pieces; concatenating the
//! bytes of all pieces gives the input back. Rows of COPY blocks pass through unread, whatever they say; what is
//! dropped or rewritten is decided on statements. This is no SQL parser: the tokens of a statement are known and the
//! forms that `pg_dump` writes are recognised; anything else is passed on as it is.

pub mod dump;
pub mod error;
pub mod filter;
mod lexer;
pub mod meta;
mod object;
pub mod reader;
mod redact;
mod roles;
mod scanner;
pub mod script;
pub mod statement;
mod token;

pub use dump::{DumpFacts, Entry};
pub use error::{Problem, ReadError};
pub use filter::{Filter, FilterReport, FilterRules, Verdict};
pub use meta::{Meta, MetaCommand};
pub use reader::{Piece, ReadOptions, Reader};
pub use statement::{Setting, Statement, StatementKind};
