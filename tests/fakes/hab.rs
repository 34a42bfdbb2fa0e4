//! `hab svc`: the services of a Habitat supervisor.

use serde_json::{Value, json};

use crate::state::{Reply, State, options};

pub(crate) fn answer(state: &mut State, args: &[String]) -> Reply {
    let (words, _) = options(args, &["force", "json"]);
    let words: Vec<&str> = words.iter().map(String::as_str).filter(|word| *word != "-f").collect();
    let ["svc" | "service", verb, rest @ ..] = words.as_slice() else {
        return Reply::failed(1, "error: the stand-in knows `hab svc` only");
    };
    let package = rest.first().copied().unwrap_or_default();
    let services = state.section("services");
    if !matches!(*verb, "load" | "status") && !services.contains_key(package) {
        return not_loaded(package);
    }
    match *verb {
        "status" if services.is_empty() => Reply::out("No services loaded.\n"),
        "status" if !package.is_empty() && !services.contains_key(package) => not_loaded(package),
        "status" => table(services.iter().filter(|(name, _)| package.is_empty() || name.as_str() == package)),
        "load" if services.contains_key(package) && !args.iter().any(|arg| arg == "--force" || arg == "-f") => {
            Reply::failed(
                1,
                &format!(
                    "✗✗✗\n✗✗✗ [Err: 10] Service already loaded. Unload '{package}' and try again, or use load --force.\n✗✗✗"
                ),
            )
        }
        "load" | "start" => {
            services.insert(package.to_owned(), json!("up"));
            Reply::out(format!(
                "The {package} service was successfully {}ed\n",
                if *verb == "load" { "load" } else { "start" }
            ))
        }
        "stop" => {
            services.insert(package.to_owned(), json!("down"));
            Reply::default()
        }
        "unload" => {
            services.remove(package);
            Reply::out(format!("Unloading {package}\n"))
        }
        other => Reply::failed(2, &format!("error: The subcommand '{other}' wasn't recognized")),
    }
}

fn not_loaded(package: &str) -> Reply {
    Reply::failed(1, &format!("✗✗✗\n✗✗✗ [Err: 6] Service not loaded, {package}\n✗✗✗"))
}

/// Prints columns as wide as their longest cell, two blanks apart, as the supervisor does.
fn table<'a>(services: impl Iterator<Item = (&'a String, &'a Value)>) -> Reply {
    let mut rows = vec![["package", "type", "desired", "state", "elapsed (s)", "pid", "group"].map(str::to_owned)];
    for (number, (name, state)) in services.enumerate() {
        let state = state.as_str().unwrap_or("up");
        let pid = if state == "up" { (28_233 + number).to_string() } else { "<none>".to_owned() };
        let group = format!("{}.default", name.rsplit('/').next().unwrap_or_default());
        let package = format!("{name}/8473/20190830141422");
        rows.push([package, "standalone".into(), state.into(), state.into(), "595".into(), pid, group]);
    }
    let widths: Vec<usize> = (0..7).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    Reply::out(text)
}
