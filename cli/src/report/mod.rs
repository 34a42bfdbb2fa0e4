//! What people and programs see of a run.

pub(crate) mod account;
pub(crate) mod bar;
pub(crate) mod html;
pub(crate) mod json;
pub(crate) mod line;
pub(crate) mod looking;
pub(crate) mod markdown;
pub(crate) mod now;
pub(crate) mod preflight;
pub(crate) mod preview;
pub(crate) mod summary;
mod timeline;
