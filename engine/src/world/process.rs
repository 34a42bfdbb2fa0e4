//! The process that runs a plan.

use jiff::Timestamp;

use crate::{event::Holder, journal::sqlite::process_start};

/// Returns this process as the holder of a lease.
#[must_use]
pub fn this_process() -> Holder {
    let pid = std::process::id();
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
    Holder {
        host: host(),
        pid,
        started: process_start(pid).unwrap_or_default(),
        user: user.map_or_else(|| nix::unistd::geteuid().to_string(), |user| user.name),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        since: Timestamp::now(),
    }
}

fn host() -> String {
    let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    host.unwrap_or_else(|| "localhost".to_owned())
}
