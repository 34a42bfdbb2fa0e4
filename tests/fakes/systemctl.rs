//! `systemctl`: units that are active or not.

use serde_json::json;

use crate::state::{Reply, State, options};

pub(crate) fn answer(state: &mut State, args: &[String]) -> Reply {
    let mut args: Vec<String> = args.to_vec();
    // `-p NAME` is short for `--property NAME`.
    for arg in &mut args {
        if arg == "-p" {
            *arg = "--property".to_owned();
        }
    }
    let (words, options) =
        options(&args, &["value", "user", "quiet", "no-pager", "no-block", "now", "no-ask-password"]);
    let Some((verb, units)) = words.split_first() else {
        return Reply::failed(1, "Too few arguments.");
    };
    let mut reply = Reply::default();
    for unit in units {
        let name = if unit.contains('.') { unit.clone() } else { format!("{unit}.service") };
        let known = state.entry("units", &name).and_then(|state| state.as_str().map(str::to_owned));
        match verb.as_str() {
            "is-active" => {
                let active = known.as_deref().unwrap_or("inactive");
                if !options.contains_key("quiet") {
                    reply.stdout += &format!("{active}\n");
                }
                reply.code = match known.as_deref() {
                    Some("active") => reply.code,
                    Some(_) => 3,
                    None => 4,
                };
            }
            "show" => {
                let active = known.as_deref().unwrap_or("inactive");
                let wanted = options
                    .get("property")
                    .and_then(|names| names.as_str())
                    .unwrap_or("ActiveState,SubState,LoadState");
                for property in wanted.split(',') {
                    let value = match property {
                        "ActiveState" => active,
                        "SubState" if active == "active" => "running",
                        "SubState" => "dead",
                        "LoadState" if known.is_some() => "loaded",
                        "LoadState" => "not-found",
                        _ => "",
                    };
                    reply.stdout += &if options.contains_key("value") {
                        format!("{value}\n")
                    } else {
                        format!("{property}={value}\n")
                    };
                }
            }
            "start" | "stop" | "restart" => {
                if known.is_none() {
                    return Reply::failed(5, &format!("Failed to {verb} {name}: Unit {name} not found."));
                }
                let new = if verb == "stop" { "inactive" } else { "active" };
                state.section("units").insert(name, json!(new));
            }
            other => return Reply::failed(1, &format!("Unknown command verb {other}.")),
        }
    }
    reply
}
