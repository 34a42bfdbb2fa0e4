//! End-to-end tests, one program.

mod cluster;
mod env;
mod fakes;
