//! `dokku`: processes, configuration, git and the postgres plugin.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::state::{Reply, State, Url, options};

pub(crate) fn answer(state: &mut State, args: &[String]) -> Reply {
    let flags = [
        "no-restart",
        "skip-deploy",
        "build",
        "force",
        "dsn",
        "internal-ip",
        "status",
        "version",
        "running",
        "git-sha",
    ];
    let (words, options) = options(args, &flags);
    let word = |position: usize| words.get(position).map(String::as_str).unwrap_or_default();
    match word(0) {
        "version" => Reply::out("dokku version 0.35.20\n"),
        "apps:list" => {
            let names: String = state.section("apps").keys().map(|name| format!("{name}\n")).collect();
            Reply::out(format!("=====> My Apps\n{names}"))
        }
        "apps:create" if state.entry("apps", word(1)).is_some() => Reply::failed(1, " !     Name is already taken"),
        "apps:create" => {
            let fresh = json!({ "services": {}, "config": {}, "git_sha": "", "running": false });
            state.section("apps").insert(word(1).to_owned(), fresh);
            Reply::out(format!("-----> Creating {}...\n-----> Creating new app virtual host file...\n", word(1)))
        }
        "apps:exists" if state.entry("apps", word(1)).is_some() => Reply::default(),
        "apps:exists" => Reply::failed(20, &format!(" !     App {} does not exist", word(1))),
        "postgres:create" => create(state, word(1), options.get("image-version").and_then(Value::as_str)),
        "postgres:list" => {
            let names: String = state.section("databases").keys().map(|name| format!("{name}\n")).collect();
            Reply::out(format!("=====> Postgres services\n{names}"))
        }
        "postgres:link" | "postgres:unlink" => link(state, word(1), word(2), word(0) == "postgres:link"),
        "postgres:linked" => linked(state, word(1), word(2)),
        "postgres:info" | "postgres:destroy" | "postgres:export" | "postgres:import" => {
            let Some(service) = state.entry("databases", word(1)).cloned() else {
                return Reply::failed(20, &format!(" !     Postgres service {} does not exist", word(1)));
            };
            match word(0) {
                "postgres:info" => info(word(1), &service, &options),
                "postgres:destroy" => {
                    state.section("databases").remove(word(1));
                    if let Some(version) = service["version"].as_str() {
                        state.section("spare").insert(version.to_owned(), service["url"].clone());
                    }
                    Reply::out(format!("-----> Deleting {}\n=====> Postgres container deleted: {}\n", word(1), word(1)))
                }
                verb => client(verb, service["url"].as_str().unwrap_or_default()),
            }
        }
        "ps:scale" | "ps:report" | "ps:stop" | "ps:start" | "ps:restart" | "ps:rebuild" | "config:set"
        | "config:get" | "config:show" | "git:report" | "git:sync" => {
            let name = word(1).to_owned();
            match state.entry("apps", &name) {
                Some(app) => of_app(word(0), &name, app, &words[2..], &options),
                None => Reply::failed(20, &format!(" !     App {name} does not exist")),
            }
        }
        other => Reply::failed(1, &format!(" !     {other} is not a dokku command\n !     See: dokku help")),
    }
}

fn row(key: &str, value: impl std::fmt::Display) -> String {
    format!("       {:<30} {value}\n", format!("{key}:"))
}

fn of_app(verb: &str, name: &str, app: &mut Value, rest: &[String], options: &serde_json::Map<String, Value>) -> Reply {
    let running = app["running"] != json!(false);
    match verb {
        "ps:scale" if rest.is_empty() => {
            let rows: String = app["services"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(kind, count)| format!("{kind}:  {count}\n"))
                .collect();
            Reply::out(format!("-----> Scaling for {name}\nproctype: qty\n--------: ---\n{rows}"))
        }
        "ps:scale" => {
            for pair in rest {
                let Some((kind, Ok(count))) = pair.split_once('=').map(|(kind, count)| (kind, count.parse::<u32>()))
                else {
                    return Reply::failed(1, &format!(" !     Invalid argument: {pair}"));
                };
                app["services"][kind] = json!(count);
            }
            Reply::out(format!("-----> Scaling {name} processes: {}\n", rest.join(" ")))
        }
        "ps:report" if options.contains_key("running") => Reply::out(format!("{running}\n")),
        "ps:report" => Reply::out(report(name, app, running)),
        "ps:stop" => {
            app["running"] = json!(false);
            Reply::out(format!("Stopping {name}\n"))
        }
        "ps:start" | "ps:restart" | "ps:rebuild" => {
            app["running"] = json!(true);
            Reply::out(format!(
                "-----> Deploying {name}\n=====> Application deployed:\n       http://{name}.example.test\n"
            ))
        }
        "config:get" => match rest.first().and_then(|key| app["config"][key].as_str()) {
            Some(value) => Reply::out(format!("{value}\n")),
            None => Reply::failed(1, ""),
        },
        "config:show" => {
            let rows: String = app["config"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(key, value)| format!("{key}:  {}\n", value.as_str().unwrap_or_default()))
                .collect();
            Reply::out(format!("=====> {name} env vars\n{rows}"))
        }
        "config:set" => {
            let mut text = "-----> Setting config vars\n".to_owned();
            for (key, value) in rest.iter().filter_map(|pair| pair.split_once('=')) {
                app["config"][key] = json!(value);
                text += &format!("       {key}:  {value}\n");
            }
            if !options.contains_key("no-restart") {
                text += &format!("-----> Restarting app {name}\n");
            }
            Reply::out(text)
        }
        "git:report" if options.contains_key("git-sha") => {
            Reply::out(format!("{}\n", app["git_sha"].as_str().unwrap_or("HEAD")))
        }
        "git:report" => {
            let mut text = format!("=====> {name} git information\n");
            text += &row("Git deploy branch", "main");
            text += &row("Git global deploy branch", "master");
            text += &row("Git keep git dir", false);
            text += &row("Git rev env var", "GIT_REV");
            text += &row("Git sha", app["git_sha"].as_str().unwrap_or("82eeec6fe1"));
            text += &row("Git source image", "");
            text += &row("Git last updated at", app["git_updated_at"].as_u64().unwrap_or(1_696_979_162));
            Reply::out(text)
        }
        _ => {
            let sha = rest.get(1).cloned().unwrap_or_else(|| "main".to_owned());
            app["git_sha"] = json!(sha);
            Reply::out(format!("-----> Fetching remote code for {name}\n"))
        }
    }
}

fn report(name: &str, app: &Value, running: bool) -> String {
    let services: Vec<(String, u64)> = app["services"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(kind, count)| (kind.clone(), count.as_u64().unwrap_or_default()))
        .collect();
    let total: u64 = services.iter().map(|(_, count)| count).sum();
    let mut text = format!("=====> {name} ps information\n");
    text += &row("Deployed", true);
    text += &row("Processes", total);
    text += &row("Ps can scale", true);
    text += &row("Ps restart policy", "on-failure:10");
    text += &row("Restore", true);
    text += &row("Running", running);
    let state = if running { "running" } else { "exited" };
    for (kind, count) in services {
        for number in 1..=count {
            text += &row(&format!("Status {kind} {number}"), format_args!("{state} (CID: c6a5533b5f{number})"));
        }
    }
    text
}

fn create(state: &mut State, name: &str, version: Option<&str>) -> Reply {
    if state.entry("databases", name).is_some() {
        return Reply::failed(1, &format!(" !     Postgres service {name} already exists"));
    }
    let version = version.unwrap_or("18").to_owned();
    let Some(url) = state.section("spare").remove(&version) else {
        return Reply::failed(1, &format!(" !     Postgres image postgres:{version} pull failed"));
    };
    let service = json!({ "url": url, "version": version });
    let text = info(name, &service, &serde_json::Map::new()).stdout;
    state.section("databases").insert(name.to_owned(), service);
    Reply::out(format!("       Waiting for container to be ready\n=====> Postgres container created: {name}\n{text}"))
}

fn info(name: &str, service: &Value, options: &serde_json::Map<String, Value>) -> Reply {
    let url = service["url"].as_str().unwrap_or_default();
    let version = service["version"].as_str().unwrap_or("15.2");
    let address = Url::parse(url).map(|url| url.host).unwrap_or_default();
    let facts = [
        ("config-dir", "Config dir", format!("/var/lib/dokku/services/postgres/{name}/data")),
        ("config-options", "Config options", String::new()),
        ("data-dir", "Data dir", format!("/var/lib/dokku/services/postgres/{name}/data")),
        ("dsn", "Dsn", dsn(name, url)),
        ("exposed-ports", "Exposed ports", "-".to_owned()),
        ("internal-ip", "Internal ip", address),
        ("links", "Links", service["links"].as_str().unwrap_or("-").to_owned()),
        ("service-root", "Service root", format!("/var/lib/dokku/services/postgres/{name}")),
        ("status", "Status", service["status"].as_str().unwrap_or("running").to_owned()),
        ("version", "Version", format!("postgres:{version}")),
    ];
    if let Some((_, _, value)) = facts.iter().find(|(flag, _, _)| options.contains_key(*flag)) {
        return Reply::out(format!("{value}\n"));
    }
    let rows: String =
        facts.iter().map(|(_, key, value)| format!("       {:<20} {value:<25}\n", format!("{key}:"))).collect();
    Reply::out(format!("=====> {name} postgres service information\n{rows}"))
}

/// Returns the address as containers see it: its host is the name of a container, which nobody else can look up.
fn dsn(name: &str, url: &str) -> String {
    match Url::parse(url) {
        Some(Url { user, password, port, database, .. }) => {
            format!("postgres://{user}:{password}@dokku-postgres-{name}:{port}/{database}")
        }
        None => url.to_owned(),
    }
}

fn linked(state: &mut State, service: &str, app: &str) -> Reply {
    let Some(url) =
        state.entry("databases", service).map(|found| dsn(service, found["url"].as_str().unwrap_or_default()))
    else {
        return Reply::failed(20, &format!(" !     Postgres service {service} does not exist"));
    };
    match state.entry("apps", app) {
        Some(found) if found["config"]["DATABASE_URL"] == json!(url) => {
            Reply::out(format!("=====> Service {service} is linked to {app}\n"))
        }
        Some(_) => Reply::failed(1, &format!(" !     Service {service} is not linked to {app}")),
        None => Reply::failed(20, &format!(" !     App {app} does not exist")),
    }
}

fn link(state: &mut State, service: &str, app: &str, on: bool) -> Reply {
    let Some(url) =
        state.entry("databases", service).map(|found| json!(dsn(service, found["url"].as_str().unwrap_or_default())))
    else {
        return Reply::failed(20, &format!(" !     Postgres service {service} does not exist"));
    };
    let Some(found) = state.entry("apps", app) else {
        return Reply::failed(20, &format!(" !     App {app} does not exist"));
    };
    let linked = found["config"]["DATABASE_URL"] == url;
    match (on, linked) {
        (true, true) => Reply::failed(1, " !     Already linked as DATABASE_URL"),
        (false, false) => Reply::failed(1, &format!(" !     Not linked to app {app}")),
        (true, false) => {
            found["config"]["DATABASE_URL"] = url.clone();
            Reply::out(format!(
                "-----> Setting config vars\n       DATABASE_URL:  {}\n-----> Restarting app {app}\n",
                url.as_str().unwrap_or_default()
            ))
        }
        (false, true) => {
            if let Some(config) = found["config"].as_object_mut() {
                config.remove("DATABASE_URL");
            }
            Reply::out(format!("-----> Unsetting DATABASE_URL\n-----> Restarting app {app}\n"))
        }
    }
}

/// Dumps to stdout or restores from stdin with the client tools in `$PGPLAN_FAKE_PG_BIN`, else in `PATH`.
fn client(verb: &str, url: &str) -> Reply {
    let (program, words): (&str, &[&str]) = match verb {
        "postgres:export" => ("pg_dump", &["-Fc", "--no-acl", "--no-owner", "-w"]),
        _ => ("pg_restore", &["-cO", "--if-exists", "-w"]),
    };
    let path =
        std::env::var("PGPLAN_FAKE_PG_BIN").map_or_else(|_| program.to_owned(), |folder| format!("{folder}/{program}"));
    let mut command = Command::new(path);
    command.args(words).args(["-d", url]).stdin(Stdio::inherit());
    Reply::default().and_then(move || match command.status() {
        Ok(status) => Reply { code: u8::try_from(status.code().unwrap_or(1)).unwrap_or(1), ..Reply::default() },
        Err(error) => Reply::failed(127, &error.to_string()),
    })
}
