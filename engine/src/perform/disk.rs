//! How much room the disk has.

use std::path::{Path, PathBuf};

/// Returns the nearest folder that exists, and the bytes that are free there for this user; `None` when the
/// system does not tell.
pub fn free_space(folder: &Path) -> Option<(String, u64)> {
    let here = |folder: &Path| if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder.to_owned() };
    let there = folder.ancestors().map(here).find(|folder| folder.is_dir())?;
    let found = nix::sys::statvfs::statvfs(&there).ok()?;
    Some((there.display().to_string(), found.blocks_available() * found.fragment_size()))
}
