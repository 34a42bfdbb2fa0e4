//! What a rehearsal leaves, and its end: servers, dumps, the password of the servers. The journal, the report and the
//! timing record stay.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{files, folder_of_servers};
use crate::{
    error::{ErrorKind, StepError},
    event::Holder,
    lock::{self, Lock},
    perform::{self, PerformCx, Progress},
};

/// The file that says whose rehearsal a folder is; it goes when the rehearsal has been cleaned up.
const HOLDER: &str = "holder.json";
/// How often it is tried to remove a server, and how long is waited in between.
const ATTEMPTS: u32 = 6;
const PAUSE: std::time::Duration = std::time::Duration::from_millis(500);
/// What stays in the folder of a rehearsal.
const KEPT: [&str; 4] = ["state.db", "state.db-wal", "state.db-shm", lock::FILE];
/// What the lock is called that a rehearsal holds while it lives.
const SIGN_OF_LIFE: &str = "rehearsal";

/// The sign of life of a rehearsal: nothing of it is taken for left as long as this is there.
#[derive(Debug)]
pub struct Alive {
    _lock: Lock,
}

/// Makes the folder of a rehearsal (0700) and marks it as this process's for as long as what it returns is kept.
///
/// # Errors
/// When it cannot be made or locked.
pub fn begin(folder: &Path, me: &Holder) -> Result<Alive, StepError> {
    files::make_folder(folder)?;
    let taken = lock::take(folder, SIGN_OF_LIFE).map_err(unlockable)?;
    let lock = taken
        .ok_or_else(|| StepError::new(ErrorKind::Refused, format!("another rehearsal is in {}", folder.display())))?;
    let text = serde_json::to_string(me).map_err(|error| StepError::new(ErrorKind::Internal, error.to_string()))?;
    files::write(&folder.join(HOLDER), &text)?;
    Ok(Alive { _lock: lock })
}

fn unlockable(lock::Failed { path, error }: lock::Failed) -> StepError {
    StepError::io("lock", &path, &error).help("name a folder on a file system that knows locks with --state")
}

/// Stops and removes the servers of a rehearsal, and removes its dumps; returns what could not be removed.
pub async fn remove(id: &str, folder: &Path) -> Vec<String> {
    let mut left = Vec::new();
    let servers = folder_of_servers(id, folder);
    for server in entries(&servers, &mut left) {
        if let Err(error) = remove_server(&server, folder).await {
            left.push(format!("the server in {} is left: {error}", server.display()));
        }
    }
    if left.is_empty()
        && let Err(error) = fs::remove_dir_all(&servers)
        && error.kind() != io::ErrorKind::NotFound
    {
        left.push(format!("{} is left: {error}", servers.display()));
    }
    for path in entries(folder, &mut left) {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if KEPT.contains(&name.as_str()) || name.starts_with("report.") || name == HOLDER || path == servers {
            continue;
        }
        let removed = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        left.extend(removed.err().map(|error| format!("{} is left: {error}", path.display())));
    }
    if left.is_empty()
        && let Err(error) = fs::remove_file(folder.join(HOLDER))
        && error.kind() != io::ErrorKind::NotFound
    {
        left.push(format!("{} is left: {error}", folder.join(HOLDER).display()));
    }
    left
}

/// Stops and removes a server; one that a killed rehearsal was just making may need a moment until its programs are gone.
async fn remove_server(server: &Path, folder: &Path) -> Result<(), StepError> {
    let mut result = Ok(());
    for attempt in 0..ATTEMPTS {
        if attempt > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        result = perform::cluster::remove(server, false, &plain_cx(folder)).await.map(drop);
        if result.is_ok() {
            break;
        }
    }
    result
}

/// Removes what killed rehearsals have left below a folder (one folder a plan, in it one a rehearsal); returns the ids
/// of those that were cleaned up, and what could not be removed.
pub async fn remove_dead(rehearsals: &Path) -> (Vec<String>, Vec<String>) {
    let (mut cleaned, mut left) = (Vec::new(), Vec::new());
    let mut folders = Vec::new();
    for plan in entries(rehearsals, &mut left).iter().filter(|plan| plan.is_dir()) {
        folders.extend(entries(plan, &mut left).into_iter().filter(|folder| folder.is_dir()));
    }
    for folder in folders {
        match folder.join(HOLDER).try_exists() {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                left.push(format!("{} cannot be looked for: {error}", folder.join(HOLDER).display()));
                continue;
            }
        }
        match lock::is_held(&folder, SIGN_OF_LIFE) {
            Ok(false) => {}
            Ok(true) => continue,
            Err(error) => {
                left.push(unlockable(error).to_string());
                continue;
            }
        }
        let Some(id) = folder.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
        let wrong = remove(&id, &folder).await;
        if wrong.is_empty() {
            cleaned.push(id);
        }
        left.extend(wrong);
    }
    (cleaned, left)
}

/// Lists a folder, which need not be there; what cannot be listed goes to `left`.
fn entries(folder: &Path, left: &mut Vec<String>) -> Vec<PathBuf> {
    let listed = fs::read_dir(folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    match listed {
        Ok(entries) => entries.into_iter().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            left.push(format!("{} cannot be listed: {error}", folder.display()));
            Vec::new()
        }
    }
}

/// Returns surroundings that know no database and no secret.
fn plain_cx(folder: &Path) -> PerformCx {
    let nothing = Arc::new(super::addresses::Addresses::default());
    PerformCx {
        run_id: "rehearsal".to_owned(),
        session: 0,
        generation: 0,
        step: "copy".to_owned(),
        action: "remove".to_owned(),
        run_dir: folder.to_owned(),
        plan_dir: folder.to_owned(),
        env: std::collections::BTreeMap::new(),
        cancel: tokio_util::sync::CancellationToken::new(),
        progress: Progress::silent(),
        secrets: Arc::clone(&nothing) as _,
        databases: nothing,
        redactor: Arc::default(),
        held: Arc::default(),
        idle: Arc::default(),
        clients: Arc::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::this_process;

    #[tokio::test]
    async fn what_is_left_is_told_by_a_lock_and_not_by_a_name() {
        let rehearsals = tempfile::tempdir().expect("a temporary folder can be made");
        let folder = rehearsals.path().join("p/r");
        // It lives, on a host and under a pid that are not there.
        let unseen = Holder { pid: 4_194_305, ..this_process() };
        for me in [Holder { host: "elsewhere".to_owned(), ..unseen.clone() }, unseen, this_process()] {
            let alive = begin(&folder, &me).expect("it begins");
            fs::write(folder.join("secret"), "").expect("the file can be written");
            let nothing = (Vec::new(), Vec::<String>::new());
            assert_eq!(remove_dead(rehearsals.path()).await, nothing, "{me:?}");
            assert!(folder.join("secret").exists(), "{me:?}");
            assert_eq!(begin(&folder, &me).expect_err("it is in use").kind, ErrorKind::Refused);
            drop(alive);
            assert_eq!(remove_dead(rehearsals.path()).await, (vec!["r".to_owned()], Vec::new()), "{me:?}");
            assert!(!folder.join("secret").exists() && folder.join(lock::FILE).exists());
            assert_eq!(remove_dead(rehearsals.path()).await, nothing, "once is enough");
        }
    }
}
