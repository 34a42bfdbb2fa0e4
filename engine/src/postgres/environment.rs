//! What a connection description may take from the process: variables, the home folder, the user's name.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// The part of the process environment that connection defaults come from (PostgreSQL manual, 34.15).
///
/// It is passed in, never read from the process here, so that a test or a review decides what is seen.
#[derive(Clone, Default)]
pub struct Environment {
    /// The variables, such as `PGHOST`.
    pub vars: BTreeMap<String, String>,
    /// The home folder: `.pgpass`, `.pg_service.conf` and `.postgresql/` are looked for here.
    pub home: Option<PathBuf>,
    /// The operating system's name of the user: the default role.
    pub os_user: Option<String>,
}

impl Environment {
    /// Returns the environment made of these variables; home folder and user name come from the user database where
    /// the variables do not tell.
    #[must_use]
    pub fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Self {
        let vars: BTreeMap<String, String> =
            vars.into_iter().filter(|(name, _)| name.starts_with("PG") || name == "HOME").collect();
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten();
        let home = vars.get("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        Self {
            home: home.or_else(|| user.as_ref().map(|user| user.dir.clone())),
            os_user: user.map(|user| user.name),
            vars,
        }
    }

    /// Returns a variable that is set and not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Returns the path of a file below the home folder.
    pub(super) fn in_home(&self, file: &str) -> Option<PathBuf> {
        self.home.as_deref().map(|home: &Path| home.join(file))
    }
}

impl fmt::Debug for Environment {
    // Variables may hold passwords: their names only.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&String> = self.vars.keys().collect();
        f.debug_struct("Environment")
            .field("vars", &names)
            .field("home", &self.home)
            .field("os_user", &self.os_user)
            .finish()
    }
}
