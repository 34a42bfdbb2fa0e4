//! Stand-ins for the command lines of the platforms that pgplan drives.
//!
//! One program plays all of them: which one it is follows from the name it is called by, so a test puts links named
//! `aptible`, `dokku`, `hab` and `systemctl` first in `PATH`. Each prints what the real command documents and keeps
//! what it did in `state.json` (see [`state`]), so that a test can read afterwards what would have happened. What
//! matters is real: a tunnel forwards connections, an export is a real `pg_dump`.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a stand-in for a command line prints like one")]
#![expect(clippy::disallowed_methods, reason = "a stand-in starts real programs and is told by variables what to do")]

mod aptible;
mod dokku;
mod hab;
mod state;
mod systemctl;

use std::process::ExitCode;

use state::{Reply, State, Trouble};

fn main() -> ExitCode {
    let mut words = std::env::args();
    let program = words.next().unwrap_or_default();
    let name = program.rsplit('/').next().unwrap_or_default().to_owned();
    let args: Vec<String> = words.collect();
    let answer = match name.as_str() {
        "aptible" => aptible::answer,
        "dokku" => dokku::answer,
        "hab" => hab::answer,
        "systemctl" => systemctl::answer,
        _ => return finish(Reply::failed(64, &format!("no stand-in is named `{name}`"))),
    };
    state::record_call(&name, &args);
    let trouble = state::trouble(&name, &args);
    match &trouble {
        Some(Trouble::Before(reply)) => return finish(reply.clone()),
        Some(Trouble::Hang) => loop {
            std::thread::sleep(std::time::Duration::from_secs(3600));
        },
        _ => {}
    }
    let reply = State::change(|state| answer(state, &args));
    // The work is done by now: a trouble *after* it is the lost answer.
    if let Some(Trouble::After(failure)) = trouble {
        return finish(failure);
    }
    match reply.then {
        Some(then) => {
            print!("{}", reply.stdout);
            eprint!("{}", reply.stderr);
            finish(then())
        }
        None => finish(reply),
    }
}

fn finish(reply: Reply) -> ExitCode {
    print!("{}", reply.stdout);
    eprint!("{}", reply.stderr);
    ExitCode::from(reply.code)
}
