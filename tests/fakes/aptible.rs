//! `aptible`: apps, services, configuration, databases and tunnels.
//!
//! The real command logs to stderr and prints resources to stdout, as text or, with `APTIBLE_OUTPUT_FORMAT=json`, as
//! JSON. A tunnel listens on a port of the loopback, forwards to the database, and ends on Ctrl-C with status 0.

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use serde_json::{Value, json};

use crate::state::{Reply, State, Url, options};

const CREATED: &str = "2024-03-01T09:00:00.000Z";

pub(crate) fn answer(state: &mut State, args: &[String]) -> Reply {
    let (words, options) = options(args, &["help"]);
    let option = |name: &str| options.get(name).and_then(Value::as_str).map(str::to_owned);
    let environment = option("environment").or_else(|| option("env"));
    let word = |position: usize| words.get(position).map(String::as_str).unwrap_or_default();
    let app = option("app").unwrap_or_default();
    match word(0) {
        "version" => Reply::out("aptible-cli v0.24.1\n"),
        "apps" => list(state, "apps", environment.as_deref(), describe_app),
        "services" => services(state, &app),
        "apps:scale" => scale(state, &app, word(1), option("container-count")),
        "config" => config(state, &app),
        "config:get" => match state.entry("apps", &app).and_then(|app| app["config"][word(1)].as_str()) {
            Some(value) => Reply::out(format!("{value}\n")),
            None => Reply::failed(1, &format!("Var {} not set", word(1))),
        },
        "config:set" | "config:add" => configure(state, &app, &words[1..]),
        "restart" => Reply::err(operation("App restart")),
        "db:list" => list(state, "databases", environment.as_deref(), describe_database),
        "db:create" => create(state, word(1), environment.as_deref(), option("version")),
        "db:url" => match find(state, word(1), environment.as_deref()) {
            Ok(database) => Reply::out(format!("{}\n", database["url"].as_str().unwrap_or_default())),
            Err(reply) => reply,
        },
        "db:tunnel" => match find(state, word(1), environment.as_deref()) {
            Ok(database) => {
                let url = database["url"].as_str().unwrap_or_default().to_owned();
                tunnel(word(1), &url, option("port").and_then(|port| port.parse().ok()))
            }
            Err(reply) => reply,
        },
        "db:deprovision" => match find(state, word(1), environment.as_deref()) {
            Ok(database) => {
                database["status"] = json!("deprovisioned");
                Reply::err(format!("Deprovisioning {}...\n{}", word(1), operation("Database deprovision")))
            }
            Err(reply) => reply,
        },
        other => Reply::failed(1, &format!("Could not find command \"{other}\".")),
    }
}

fn wants_json() -> bool {
    std::env::var("APTIBLE_OUTPUT_FORMAT").is_ok_and(|format| format == "json")
}

fn operation(what: &str) -> String {
    format!(
        "INFO -- : Starting {what} operation with ID: 4711\nINFO -- : COMPLETED (after 0.01s)\nINFO -- : {what} successful.\n"
    )
}

fn present(database: &Value) -> bool {
    database["status"] != json!("deprovisioned")
}

fn environment_of(entry: &Value) -> &str {
    entry["environment"].as_str().unwrap_or("test-environment")
}

fn describe_service(name: &str, count: &Value) -> Value {
    json!({ "id": 301, "service": name, "created_at": CREATED, "command": "CMD", "container_count": count,
        "container_size": 1024, "container_profile": "m" })
}

fn describe_app(handle: &str, app: &Value) -> Value {
    let services: Vec<Value> =
        app["services"].as_object().into_iter().flatten().map(|(name, count)| describe_service(name, count)).collect();
    json!({ "id": 201, "handle": handle, "created_at": CREATED, "status": "provisioned",
        "git_remote": format!("git@beta.aptible.com:{}/{handle}.git", environment_of(app)), "services": services,
        "environment": { "id": 101, "handle": environment_of(app), "created_at": CREATED } })
}

fn describe_database(handle: &str, database: &Value) -> Value {
    json!({ "id": 401, "handle": handle, "created_at": CREATED, "type": "postgresql", "version": database["version"],
        "status": database["status"].as_str().unwrap_or("provisioned"), "connection_url": database["url"],
        "credentials": [{ "type": "postgresql", "connection_url": database["url"], "default": true }],
        "environment": { "id": 101, "handle": environment_of(database), "created_at": CREATED },
        "disk_type": "gp3", "disk_size": 10, "container_size": 1024, "container_profile": "m" })
}

fn list(state: &mut State, section: &str, environment: Option<&str>, describe: fn(&str, &Value) -> Value) -> Reply {
    let mut entries: Vec<(String, Value)> = state
        .section(section)
        .iter()
        .filter(|(_, entry)| present(entry))
        .map(|(key, entry)| (key.clone(), entry.clone()))
        .collect();
    entries.retain(|(_, entry)| environment.is_none_or(|wanted| wanted == environment_of(entry)));
    entries.sort_by(|left, right| (environment_of(&left.1), &left.0).cmp(&(environment_of(&right.1), &right.0)));
    if wants_json() {
        let objects: Vec<Value> = entries.iter().map(|(key, entry)| describe(key, entry)).collect();
        return Reply::out(format!("{:#}\n", json!(objects)));
    }
    let (mut text, mut group) = (String::new(), None);
    for (key, entry) in &entries {
        let here = environment_of(entry);
        if group != Some(here) {
            text.push_str(if group.is_some() { "\n=== " } else { "=== " });
            text.push_str(&format!("{here}\n"));
            group = Some(here);
        }
        text.push_str(&format!("{key}\n"));
    }
    Reply::out(text)
}

fn no_app(app: &str) -> Reply {
    Reply::failed(1, &format!("Could not find app {app}"))
}

fn services(state: &mut State, app: &str) -> Reply {
    let Some(found) = state.entry("apps", app) else {
        return no_app(app);
    };
    let list: Vec<Value> = found["services"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, count)| describe_service(name, count))
        .collect();
    if wants_json() {
        return Reply::out(format!("{:#}\n", json!(list)));
    }
    let blocks: Vec<String> = list
        .iter()
        .map(|service| {
            format!(
                "Id: 301\nService: {}\nCreated At: {CREATED}\nCommand: CMD\nContainer Count: {}\nContainer Size: 1024\nContainer Profile: m\n",
                service["service"].as_str().unwrap_or_default(),
                service["container_count"]
            )
        })
        .collect();
    Reply::out(blocks.join("\n"))
}

fn scale(state: &mut State, app: &str, service: &str, count: Option<String>) -> Reply {
    let Some(found) = state.entry("apps", app) else {
        return no_app(app);
    };
    let Some(count) = count else {
        return Reply::failed(1, "Provide at least --container-count, --container-size, or --container-profile");
    };
    let Ok(count) = count.parse::<u32>() else {
        return Reply::failed(1, &format!("Expected numeric value for '--container-count'; got \"{count}\""));
    };
    let Some(services) = found["services"].as_object_mut() else {
        return no_app(app);
    };
    if !services.contains_key(service) {
        let valid: Vec<&str> = services.keys().map(String::as_str).collect();
        let message =
            format!("Service with type {service} does not exist for app {app}. Valid types: {}.", valid.join(", "));
        return Reply::failed(1, &message);
    }
    services.insert(service.to_owned(), json!(count));
    Reply::out(operation("Service scale"))
}

fn config(state: &mut State, app: &str) -> Reply {
    let Some(found) = state.entry("apps", app) else {
        return no_app(app);
    };
    let mut text = String::new();
    for (key, value) in found["config"].as_object().into_iter().flatten() {
        let mut escaped = String::new();
        for letter in value.as_str().unwrap_or_default().chars() {
            if !letter.is_ascii_alphanumeric() && !"_-.,:+/@".contains(letter) {
                escaped.push('\\');
            }
            escaped.push(letter);
        }
        text.push_str(&format!("{key}={escaped}\n"));
    }
    Reply::out(text)
}

fn configure(state: &mut State, app: &str, pairs: &[String]) -> Reply {
    let Some(found) = state.entry("apps", app) else {
        return no_app(app);
    };
    for pair in pairs {
        let Some((key, value)) = pair.split_once('=') else {
            return Reply::failed(1, &format!("Invalid argument: {pair}, must be of the form KEY=VALUE"));
        };
        found["config"][key] = json!(value);
    }
    Reply {
        stderr: "Updating configuration and restarting app...\n".to_owned(),
        ..Reply::out(operation("App configure"))
    }
}

fn find<'a>(state: &'a mut State, handle: &str, environment: Option<&str>) -> Result<&'a mut Value, Reply> {
    state
        .entry("databases", handle)
        .filter(|database| present(database) && environment.is_none_or(|wanted| wanted == environment_of(database)))
        .ok_or_else(|| Reply::failed(1, &format!("Could not find database {handle}")))
}

fn create(state: &mut State, handle: &str, environment: Option<&str>, version: Option<String>) -> Reply {
    if state.entry("databases", handle).is_some_and(|database| present(database)) {
        return Reply::failed(1, "Handle has already been taken");
    }
    let version = version.unwrap_or_else(|| "18".to_owned());
    let Some(url) = state.section("spare").remove(&version) else {
        return Reply::failed(1, &format!("No Database Image of type postgresql with version {version}"));
    };
    let database = json!({ "url": url, "version": version, "environment": environment.unwrap_or("test-environment") });
    let text = if wants_json() {
        format!("{:#}", describe_database(handle, &database))
    } else {
        url.as_str().unwrap_or_default().to_owned()
    };
    state.section("databases").insert(handle.to_owned(), database);
    Reply { stderr: operation("Database provision"), ..Reply::out(format!("{text}\n")) }
}

fn tunnel(handle: &str, url: &str, port: Option<u16>) -> Reply {
    let Some(remote) = Url::parse(url) else {
        return Reply::failed(1, &format!("Database {handle} is not provisioned"));
    };
    let listener = match TcpListener::bind(("127.0.0.1", port.unwrap_or(0))) {
        Ok(listener) => listener,
        Err(error) => return Reply::failed(1, &format!("Unable to open the tunnel: {error}")),
    };
    let port = listener.local_addr().map(|address| address.port()).unwrap_or_default();
    let Url { user, password, database, .. } = &remote;
    let banner = format!(
        "Creating postgresql tunnel to {handle}...\nUse --type TYPE to specify a tunnel type\n\
         Valid types for {handle}: postgresql\nConnect at postgresql://{user}:{password}@127.0.0.1:{port}/{database}\n\
         Or, use the following arguments:\n* Host: 127.0.0.1\n* Port: {port}\n* Username: {user}\n* Password: {password}\n\
         * Database: {database}\nConnected. Ctrl-C to close connection.\n"
    );
    let place = (remote.host, remote.port);
    Reply::err(banner).and_then(move || {
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let place = place.clone();
                thread::spawn(move || forward(&client, &place));
            }
        });
        wait_for_interrupt()
    })
}

fn forward(client: &TcpStream, place: &(String, u16)) -> io::Result<()> {
    let server = TcpStream::connect((place.0.as_str(), place.1))?;
    // A client's many small questions must not wait for delayed acknowledgements.
    server.set_nodelay(true)?;
    client.set_nodelay(true)?;
    let (mut from_client, mut to_server) = (client.try_clone()?, server.try_clone()?);
    let upstream = thread::spawn(move || {
        let copied = io::copy(&mut from_client, &mut to_server);
        to_server.shutdown(Shutdown::Write).and(copied.map(|_| ()))
    });
    let (mut from_server, mut to_client) = (server, client.try_clone()?);
    let copied = io::copy(&mut from_server, &mut to_client);
    // Also when the server has reset the connection: the client would wait for ever.
    client.shutdown(Shutdown::Both).and(copied)?;
    upstream.join().unwrap_or(Ok(()))
}

/// Waits for Ctrl-C, which ends the real command with status 0; any other signal ends the program its own way.
fn wait_for_interrupt() -> Reply {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    runtime.block_on(tokio::signal::ctrl_c()).expect("Ctrl-C can be waited for");
    Reply::err("Closing tunnel\n")
}
