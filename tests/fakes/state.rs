//! What the stand-ins remember between calls: `$PGPLAN_FAKE_STATE/state.json`, changed under a lock.
//!
//! ```json
//! {
//!   "apps": { "shop": { "environment": "production", "services": { "cmd": 2, "worker": 1 },
//!                       "config": { "DB_URL": "…" }, "git_sha": "82eeec6fe1", "running": true } },
//!   "databases": { "old": { "url": "postgresql://…", "environment": "production", "version": "15.2" } },
//!   "spare": { "18": "postgresql://… (a server that `db:create --version 18` hands out)" },
//!   "services": { "habitat/builder-api": "up" },
//!   "units": { "shop.service": "active" },
//!   "fail": { "apps:scale worker": { "code": 1, "stderr": "…", "times": 1, "after": true, "hang": false } }
//! }
//! ```
//! A key of `fail` (also taken from `$PGPLAN_FAKE_FAIL`, as JSON) is a part of the command line, without the program's
//! name or with it. `times` counts down; without it every call fails. `after` does the work first and then fails.
//! `hang` never answers. Every call is a line of `calls.log`: a JSON array of the program's name and its arguments.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

/// What a stand-in prints, its exit code, and what it goes on doing after the state is let go.
#[derive(Default)]
pub(crate) struct Reply {
    pub(crate) code: u8,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) then: Option<Box<dyn FnOnce() -> Reply>>,
}

impl Clone for Reply {
    fn clone(&self) -> Self {
        Self { code: self.code, stdout: self.stdout.clone(), stderr: self.stderr.clone(), then: None }
    }
}

impl Reply {
    pub(crate) fn out(text: impl Into<String>) -> Self {
        Self { stdout: text.into(), ..Self::default() }
    }

    pub(crate) fn err(text: impl Into<String>) -> Self {
        Self { stderr: text.into(), ..Self::default() }
    }

    pub(crate) fn failed(code: u8, message: &str) -> Self {
        Self { code, stderr: format!("{message}\n"), ..Self::default() }
    }

    /// Lets the state go and does `work`, which may take long.
    pub(crate) fn and_then(mut self, work: impl FnOnce() -> Reply + 'static) -> Self {
        self.then = Some(Box::new(work));
        self
    }
}

/// A failure that the test asked for.
pub(crate) enum Trouble {
    Before(Reply),
    After(Reply),
    Hang,
}

/// The whole state, as JSON.
pub(crate) struct State(pub(crate) Value);

fn folder() -> PathBuf {
    PathBuf::from(
        std::env::var_os("PGPLAN_FAKE_STATE").expect("PGPLAN_FAKE_STATE names the folder of the stand-ins' state"),
    )
}

impl State {
    /// Reads the state, lets `change` work on it, and writes it back; other calls wait meanwhile.
    pub(crate) fn change<T>(change: impl FnOnce(&mut State) -> T) -> T {
        let folder = folder();
        let lock = File::create(folder.join("lock")).expect("the state folder is writable");
        lock.lock().expect("the state can be locked");
        let file = folder.join("state.json");
        let text = std::fs::read_to_string(&file).unwrap_or_else(|_| "{}".to_owned());
        let mut state = State(serde_json::from_str(&text).expect("state.json is JSON"));
        let result = change(&mut state);
        let fresh = folder.join("state.json.new");
        std::fs::write(&fresh, format!("{:#}\n", state.0)).expect("the state folder is writable");
        std::fs::rename(fresh, file).expect("the state folder is writable");
        result
    }

    /// Returns the section `name`, made when it is not there.
    pub(crate) fn section(&mut self, name: &str) -> &mut Map<String, Value> {
        let root = self.0.as_object_mut().expect("state.json is an object");
        root.entry(name).or_insert_with(|| json!({})).as_object_mut().expect("a section of state.json is an object")
    }

    /// Returns the entry `key` of the section `name`.
    pub(crate) fn entry(&mut self, name: &str, key: &str) -> Option<&mut Value> {
        self.section(name).get_mut(key)
    }
}

/// Appends the call to `calls.log` in one write, so that calls at the same time stay whole lines.
pub(crate) fn record_call(program: &str, args: &[String]) {
    let mut words = vec![program.to_owned()];
    words.extend_from_slice(args);
    let mut log =
        OpenOptions::new().create(true).append(true).open(folder().join("calls.log")).expect("calls.log opens");
    log.write_all(format!("{}\n", json!(words)).as_bytes()).expect("calls.log is writable");
}

/// Returns the failure that the test wants for this call, and counts it down.
pub(crate) fn trouble(program: &str, args: &[String]) -> Option<Trouble> {
    let line = format!("{program} {}", args.join(" "));
    let wanted = State::change(|state| {
        let failures = state.section("fail");
        let key = failures.keys().find(|key| line.contains(key.as_str()))?.clone();
        let wanted = failures.get_mut(&key)?;
        match wanted.get("times").and_then(Value::as_u64) {
            Some(0) => return None,
            Some(times) => wanted["times"] = json!(times - 1),
            None => {}
        }
        Some(wanted.clone())
    });
    let wanted = wanted.or_else(|| {
        let text = std::env::var("PGPLAN_FAKE_FAIL").ok()?;
        let failures: Map<String, Value> = serde_json::from_str(&text).expect("PGPLAN_FAKE_FAIL is a JSON object");
        failures.into_iter().find(|(key, _)| line.contains(key)).map(|(_, value)| value)
    })?;
    if wanted["hang"] == json!(true) {
        return Some(Trouble::Hang);
    }
    let code = wanted["code"].as_u64().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    let reply = Reply::failed(code, wanted["stderr"].as_str().unwrap_or("stand-in: told to fail"));
    Some(if wanted["after"] == json!(true) { Trouble::After(reply) } else { Trouble::Before(reply) })
}

/// Splits arguments into words and `--name value` or `--name=value` options; `flags` take no value.
pub(crate) fn options(args: &[String], flags: &[&str]) -> (Vec<String>, Map<String, Value>) {
    let (mut words, mut found) = (Vec::new(), Map::new());
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        let Some(name) = arg.strip_prefix("--") else {
            words.push(arg.clone());
            continue;
        };
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, json!(value)),
            None if flags.contains(&name) => (name, json!(true)),
            None => (name, json!(rest.next())),
        };
        found.insert(name.to_owned(), value);
    }
    (words, found)
}

/// The parts of a PostgreSQL URL: user, password, host, port, database.
pub(crate) struct Url {
    pub(crate) user: String,
    pub(crate) password: String,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) database: String,
}

impl Url {
    /// Reads `postgresql://user:password@host:port/database`; queries are left out.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (_, rest) = text.split_once("://")?;
        let (login, place) = rest.rsplit_once('@').unwrap_or(("", rest));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (host, path) = place.split_once('/').unwrap_or((place, ""));
        let (host, port) = host.rsplit_once(':').unwrap_or((host, "5432"));
        Some(Self {
            user: user.to_owned(),
            password: password.to_owned(),
            host: host.to_owned(),
            port: port.parse().ok()?,
            database: path.split('?').next()?.to_owned(),
        })
    }
}
