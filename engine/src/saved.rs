//! Saved plans: a preview that was looked at, bound to the plan and the servers as they were then.
//!
//! The file is JSON: the format's number, a digest, and under it [`Saved`]. It names secrets and holds none. Applying it
//! looks again and refuses when the plan ([`changes::of_plan`]) or a server ([`changes::of_servers`]) is not what it
//! was. The digest tells a damaged file; it is no signature.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    check::fingerprint,
    document::SAVED_PLAN,
    error::{ErrorKind, StepError},
    plan::{Plan, Step},
    preview::Preview,
    world::{Real, this_process},
};

mod bound;
pub mod changes;

pub use bound::{Bound, Identity, Looked};

/// The number of the format that is written.
const FORMAT: u64 = 1;

/// Largest file that is read, bytes: some hundred thousand objects.
const LARGEST: u64 = 256 * 1024 * 1024;

/// A plan with all that it was bound to.
#[derive(Debug, Serialize, Deserialize)]
pub struct Saved {
    /// The version of pgplan that made it.
    pub pgplan: String,
    /// When.
    pub created: Timestamp,
    /// By whom, `user@host`.
    pub by: String,
    /// The plan file, absolute.
    pub path: PathBuf,
    /// The plan's fingerprint.
    pub fingerprint: String,
    /// The variables that were given, as they were written.
    pub given: BTreeMap<String, String>,
    /// Platform files of the user's own, absolute, with their digests; in the order in which they were given.
    pub platforms: Vec<(PathBuf, String)>,
    /// All variables.
    pub vars: BTreeMap<String, Value>,
    /// A digest of each database as the plan declares it.
    pub declared: BTreeMap<String, String>,
    /// The steps as they are written.
    pub steps: Vec<SavedStep>,
    /// Files that steps refer to with their digests.
    pub files: BTreeMap<PathBuf, String>,
    /// What the databases that steps use were like.
    pub bound: BTreeMap<String, Bound>,
    /// The server programs that steps would use, by step.
    #[serde(default)]
    pub programs: BTreeMap<String, String>,
    /// What was shown.
    pub preview: Preview,
}

/// A step as it is written.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SavedStep {
    /// Its id.
    pub id: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// The steps before it.
    pub needs: Vec<String>,
    /// Its condition.
    pub condition: Option<Value>,
    /// Kind and body; secrets stand there by name.
    pub text: Value,
}

impl From<&Step> for SavedStep {
    fn from(step: &Step) -> Self {
        Self {
            id: step.id.clone(),
            fingerprint: step.fingerprint.clone(),
            needs: step.needs.clone(),
            condition: step.condition.as_ref().map(crate::yaml::Node::to_json),
            text: step.text_with_databases(),
        }
    }
}

impl Saved {
    /// Binds a preview to the plan and to the servers as they are now, seen through read-only sessions.
    ///
    /// # Errors
    /// A server refused a look, or a file of the plan cannot be read any more.
    pub async fn of(plan: &Plan, preview: Preview, platforms: &[PathBuf], world: &Real) -> Result<Self, StepError> {
        let me = this_process();
        let platforms = platforms.iter().map(|path| Ok((absolute(path)?, digest(path)?)));
        Ok(Self {
            pgplan: env!("CARGO_PKG_VERSION").to_owned(),
            created: me.since,
            by: format!("{}@{}", me.user, me.host),
            path: absolute(&plan.path)?,
            fingerprint: plan.fingerprint.clone(),
            given: plan.given.clone(),
            platforms: platforms.collect::<Result<_, StepError>>()?,
            vars: plan.vars.clone(),
            declared: declared(plan),
            steps: plan.steps.iter().map(SavedStep::from).collect(),
            files: files(plan)?,
            bound: bound::look(plan, world).await?,
            programs: bound::server_programs(plan, world)?,
            preview,
        })
    }

    /// Returns the databases that it is not bound to, with the reason.
    pub fn unbound(&self) -> impl Iterator<Item = (&str, String)> {
        self.bound.iter().filter_map(|(name, bound)| match bound {
            Bound::Looked(_) => None,
            Bound::After(step) => Some((name.as_str(), format!("its address is known after step `{step}`"))),
            Bound::Unreachable(why) => Some((name.as_str(), why.clone())),
        })
    }

    /// Writes the file for the user alone, whole or not at all. Takes the place of an earlier saved plan only.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when something else is there, a symbolic link above all; [`ErrorKind::Io`].
    pub fn write(&self, path: &Path) -> Result<(), StepError> {
        may_be_replaced(path)?;
        let failed = |error: io::Error| StepError::io("write the saved plan", path, &error);
        let body = serde_json::to_value(self).map_err(|error| failed(error.into()))?;
        let whole = json!({ SAVED_PLAN: FORMAT, "digest": fingerprint::of(&body), "saved": body });
        let folder = match path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        // Made with mode 0600; the rename below replaces a link that was put there meanwhile and does not follow it.
        let mut file = tempfile::Builder::new().prefix(".pgplan-").tempfile_in(folder).map_err(failed)?;
        serde_json::to_writer_pretty(&mut file, &whole).map_err(|error| failed(error.into()))?;
        file.write_all(b"\n").and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
    }
}

/// Refuses a path at which something is that is no saved plan.
fn may_be_replaced(path: &Path) -> Result<(), StepError> {
    let refused = |why: &str| {
        let error = StepError::new(ErrorKind::Refused, format!("{} {why}", path.display()));
        Err(error.help("name another file, or remove what is there"))
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(StepError::io("look at", path, &error)),
        Ok(found) if found.is_symlink() => refused("is a symbolic link: it is not followed"),
        Ok(found) if !found.is_file() => refused("is there and is no file"),
        Ok(_) => match text_of(path)? {
            Some(text) if !text.is_empty() && !is_saved(&text) => refused("is there and is no saved plan"),
            Some(_) => Ok(()),
            None => refused("is there and is no saved plan"),
        },
    }
}

/// Returns the saved plan in a file with the file's text; `None` when the file holds something else, a plan perhaps.
///
/// # Errors
/// [`ErrorKind::Plan`] for one that is damaged or has a newer format, [`ErrorKind::Refused`] for one of another version
/// of pgplan.
pub fn read(path: &Path) -> Result<Option<(Saved, String)>, StepError> {
    let Some(text) = text_of(path)?.filter(|text| is_saved(text)) else { return Ok(None) };
    let damaged = |why: String| {
        let error = StepError::new(ErrorKind::Plan, format!("the saved plan {} is damaged: {why}", path.display()));
        error.help("save it anew with `pgplan plan PLAN --out FILE`")
    };
    let whole: Value = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
    match whole[SAVED_PLAN].as_u64() {
        Some(FORMAT) => {}
        Some(newer) if newer > FORMAT => {
            let message = format!("the saved plan {} has format {newer}, this pgplan knows {FORMAT}", path.display());
            return Err(StepError::new(ErrorKind::Plan, message).help("use the pgplan that saved it, or save it anew"));
        }
        _ => return Err(damaged("its format is no number".to_owned())),
    }
    let body = &whole["saved"];
    if whole["digest"].as_str() != Some(&fingerprint::of(body)) {
        return Err(damaged("its digest does not fit".to_owned()));
    }
    if let Some(other) = body["pgplan"].as_str().filter(|version| *version != env!("CARGO_PKG_VERSION")) {
        let this = env!("CARGO_PKG_VERSION");
        let message = format!("{} was saved by pgplan {other}, this is {this}", path.display());
        let help = "another version may do other things than were shown: save the plan anew";
        return Err(StepError::new(ErrorKind::Refused, message).help(help));
    }
    let saved = Saved::deserialize(body).map_err(|error| damaged(error.to_string()))?;
    Ok(Some((saved, text)))
}

/// Returns whether a text is meant to be a saved plan, even a damaged one: the key stands first in those pgplan wrote.
fn is_saved(text: &str) -> bool {
    let first = |text: &str| {
        let inside = text.trim_start().strip_prefix('{')?.trim_start().strip_prefix('"')?;
        Some(inside.starts_with(SAVED_PLAN))
    };
    let anywhere = || serde_json::from_str::<Value>(text).is_ok_and(|whole| whole.get(SAVED_PLAN).is_some());
    text.trim_start().starts_with('{') && (first(text) == Some(true) || anywhere())
}

/// Returns a file's text; `None` when it is no text or too large for a saved plan.
fn text_of(path: &Path) -> Result<Option<String>, StepError> {
    let failed = |error: io::Error| StepError::io("read", path, &error);
    let flags = nix::fcntl::OFlag::O_NONBLOCK;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() || found.len() > LARGEST {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    file.take(LARGEST).read_to_end(&mut bytes).map_err(failed)?;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(_) => Ok(None),
    }
}

fn absolute(path: &Path) -> Result<PathBuf, StepError> {
    std::path::absolute(path).map_err(|error| StepError::io("find", path, &error))
}

fn digest(path: &Path) -> Result<String, StepError> {
    fingerprint::digest(path).map_err(|error| StepError::io("read", path, &error))
}

/// Returns a digest of each database as the plan declares it, its password left out.
fn declared(plan: &Plan) -> BTreeMap<String, String> {
    let digest = |database: &crate::plan::Database| {
        fingerprint::of(&json!([
            fingerprint::address(database),
            database.expect.major,
            database.expect.empty,
            database.protect
        ]))
    };
    plan.databases.iter().map(|(name, database)| (name.clone(), digest(database))).collect()
}

/// Returns the files that steps refer to, as far as they are known before a step is done, with their digests.
fn files(plan: &Plan) -> Result<BTreeMap<PathBuf, String>, StepError> {
    let named = plan.steps.iter().flat_map(|step| &step.declared.files).map(|(path, _)| path);
    let known = named.filter(|path| !path.to_string_lossy().contains("<known after "));
    known.map(|path| Ok((path.clone(), digest(&plan.folder.join(path))?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Saved {
        let preview = Preview {
            plan: "p".to_owned(),
            path: "p.yaml".to_owned(),
            fingerprint: "f".to_owned(),
            servers: BTreeMap::new(),
            downtime: None,
            steps: Vec::new(),
        };
        Saved {
            pgplan: env!("CARGO_PKG_VERSION").to_owned(),
            created: Timestamp::UNIX_EPOCH,
            by: "me@here".to_owned(),
            path: "/p.yaml".into(),
            fingerprint: "f".to_owned(),
            given: BTreeMap::new(),
            platforms: Vec::new(),
            vars: [("ratio".to_owned(), json!(0.1)), ("large".to_owned(), json!(u64::MAX))].into(),
            declared: BTreeMap::new(),
            steps: Vec::new(),
            files: BTreeMap::new(),
            bound: BTreeMap::new(),
            programs: BTreeMap::new(),
            preview,
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.saved");
        sample().write(&path).unwrap();
        let (saved, text) = read(&path).unwrap().unwrap();
        assert_eq!(serde_json::to_value(&saved).unwrap(), serde_json::to_value(sample()).unwrap());
        // Another program may sort the keys.
        let whole: BTreeMap<String, Value> = serde_json::from_str(&text).unwrap();
        fs::write(&path, serde_json::to_string(&whole).unwrap()).unwrap();
        assert!(read(&path).unwrap().is_some());
    }

    #[test]
    fn one_of_another_version_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.saved");
        Saved { pgplan: "0.0.1".to_owned(), ..sample() }.write(&path).unwrap();
        let error = read(&path).unwrap_err();
        assert_eq!(error.kind, ErrorKind::Refused);
        assert!(error.message.contains("was saved by pgplan 0.0.1, this is "), "{}", error.message);
    }

    #[test]
    fn other_files_are_no_saved_plans() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p.yaml");
        for text in ["", "version: 1\n", "{ version: 1, name: p }", "{\"x-pgplan_saved\": 1}", "[\"pgplan_saved\"]"] {
            fs::write(&path, text).unwrap();
            assert!(read(&path).unwrap().is_none(), "{text}");
        }
        fs::write(&path, b"\xff{\"pgplan_saved\": 1}").unwrap();
        assert!(read(&path).unwrap().is_none());
    }
}
