//! Signs of life: locks in a folder that end with the process that holds them, whatever its host or its pid is called.
//!
//! All lie in one file, each on a byte of its own. They belong to the open file (fcntl(2), "Open file description
//! locks"): the kernel ends them with the process, two journals in one process exclude each other, and asking takes
//! nothing. Rust opens files with `O_CLOEXEC`: no program that is started inherits one. SQLite's own locks end when any
//! handle of their file is closed, so the file is not `state.db`. It is never removed: who has locked a removed file
//! would not be seen by who makes a new one.

use std::{
    fs::File,
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, fcntl},
    libc,
};

/// The name of the file.
pub(crate) const FILE: &str = "state.lock";

/// A lock that is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Open for as long as the lock is held.
    _file: File,
}

/// Why a lock can neither be taken nor looked at.
#[derive(Debug)]
pub(crate) struct Failed {
    /// The file.
    pub(crate) path: PathBuf,
    /// The system's error.
    pub(crate) error: io::Error,
}

/// Takes the lock that is called `what`; `None` when it is held, also by this process.
pub(crate) fn take(folder: &Path, what: &str) -> Result<Option<Lock>, Failed> {
    let path = folder.join(FILE);
    let open = || {
        let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        let free = is_free(fcntl(&file, FcntlArg::F_OFD_SETLK(&exclusive(what))))?;
        Ok(free.then_some(Lock { _file: file }))
    };
    open().map_err(|error| Failed { path: path.clone(), error })
}

/// Returns whether somebody holds the lock that is called `what`.
pub(crate) fn is_held(folder: &Path, what: &str) -> Result<bool, Failed> {
    let path = folder.join(FILE);
    let ask = || {
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened?,
        };
        let mut found = exclusive(what);
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut found))?;
        Ok(i32::from(found.l_type) != libc::F_UNLCK)
    };
    ask().map_err(|error| Failed { path: path.clone(), error })
}

/// Reads the answer to a request for a lock. All but "somebody has it" means that nobody can tell whether it is held:
/// there is no lock then, rather than one that protects nothing.
fn is_free(answer: Result<libc::c_int, Errno>) -> io::Result<bool> {
    match answer {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Returns the request for the one byte of the file that stands for a name; it need not exist.
fn exclusive(what: &str) -> libc::flock {
    let mut place = [0; 8];
    place.copy_from_slice(&blake3::hash(what.as_bytes()).as_bytes()[..8]);
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: libc::off_t::from_be_bytes(place) & libc::off_t::MAX,
        l_len: 1,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_lock_that_somebody_has_counts_as_held() {
        assert!(is_free(Ok(0)).expect("it was taken"));
        for held in [Errno::EAGAIN, Errno::EACCES] {
            assert!(!is_free(Err(held)).expect("somebody has it"));
        }
        for unknown in [Errno::ENOLCK, Errno::EOPNOTSUPP, Errno::EINVAL, Errno::ENOSYS, Errno::EIO] {
            let error = is_free(Err(unknown)).expect_err("nobody can tell");
            assert_eq!(error.raw_os_error(), Some(unknown as i32));
        }
    }

    #[test]
    fn names_exclude_themselves_only() {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        assert!(!is_held(folder.path(), "a").expect("a missing file holds nothing"));
        let taken = take(folder.path(), "a").expect("it can be locked");
        assert!(taken.is_some() && take(folder.path(), "b").expect("it can be locked").is_some());
        assert!(take(folder.path(), "a").expect("it can be asked").is_none());
        assert!(is_held(folder.path(), "a").expect("it can be asked"));
        assert!(!is_held(folder.path(), "b").expect("it was given back at once"));
        drop(taken);
        assert!(take(folder.path(), "a").expect("it can be locked").is_some());
    }
}
