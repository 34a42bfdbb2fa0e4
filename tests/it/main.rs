//! End-to-end tests, one program.
#![expect(clippy::disallowed_methods, reason = "a test makes files, starts programs and reads how it was started")]

mod apply;
mod certificates;
mod chaos;
mod check;
mod cluster;
mod docs;
mod engine;
mod env;
mod fakes;
mod faults;
mod guard;
mod interrupted;
mod journals;
mod layers;
mod live_claims;
mod live_connections;
mod live_data;
mod live_failures;
mod live_plans;
mod live_plans_dokku;
mod live_plans_habitat;
mod live_platforms;
mod live_preview;
mod live_rehearse;
mod live_restore;
mod live_saved;
mod live_state;
mod live_tls;
mod live_undo;
mod live_undo_platform;
mod live_verify;
mod reference;
mod schemas;
