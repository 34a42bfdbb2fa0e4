//! Finding the journal: what the command line or the plan says, completed with secrets, environment and password file.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use secrecy::ExposeSecret;

use crate::{
    error::{ErrorKind, StepError},
    journal::{
        Location,
        apart::{refusal, same_address},
    },
    lookup::plan_error,
    plan::{Plan, SecretSource},
    postgres::{ConnInfo, Environment},
    redact::Redactor,
    secret::{Part, SecretString, Text},
    template::{self, Known, Scope},
    vault::Vault,
    yaml,
};

/// The folder of the working folder that is used when nothing is said.
pub const DEFAULT: &str = ".pgplan";

/// Where a journal is, as it is written: nothing is opened and no secret is read.
#[derive(Debug, Clone)]
pub enum Written {
    /// In a folder.
    Folder(PathBuf),
    /// In a database; its URL.
    Server(Text),
}

impl Default for Written {
    fn default() -> Self {
        Self::Folder(PathBuf::from(DEFAULT))
    }
}

impl Written {
    /// Reads what was given on the command line or in the environment.
    #[must_use]
    pub fn given(text: &Path) -> Self {
        match text.to_str().filter(|text| is_url(text)) {
            Some(url) => Self::Server(Text::plain(url)),
            None => Self::Folder(text.to_owned()),
        }
    }

    /// Reads what a plan says, if it does: a folder is looked for beside the plan.
    ///
    /// # Errors
    /// When its template is wrong.
    pub fn in_plan(plan: &Plan) -> Result<Option<Self>, StepError> {
        let Some(node) = &plan.state else { return Ok(None) };
        let scope = Scope::of(plan).only(&["vars", "secrets", "plan"]);
        let rendered = template::render(node, &scope).map_err(|problems| plan_error(&problems))?;
        let text: Text = yaml::decode(&rendered).map_err(|problems| plan_error(&problems))?;
        Ok(Some(match text.as_plain().filter(|plain| !is_url(plain)) {
            Some(folder) => Self::Folder(plan.folder.join(folder)),
            None => Self::Server(text),
        }))
    }

    /// Returns the folder of the runs' files, which stay on the machine that made them.
    #[must_use]
    pub fn runs(&self) -> PathBuf {
        match self {
            Self::Folder(folder) => folder.join("runs"),
            Self::Server(_) => Path::new(DEFAULT).join("runs"),
        }
    }

    /// Returns whether a program of the plan must be started to know the address.
    #[must_use]
    pub fn needs_program(&self, plan: &Plan) -> bool {
        let Self::Server(text) = self else { return false };
        text.parts().iter().any(|part| match part {
            Part::Secret { name, .. } => {
                let name = name.strip_prefix("secrets.").unwrap_or(name);
                matches!(plan.secrets.get(name), Some(SecretSource::Command(_)))
            }
            Part::Plain(_) | Part::Unknown { .. } => false,
        })
    }

    /// Completes an address from environment, password file and the secrets of the plan that it names.
    ///
    /// # Errors
    /// When a secret cannot be read or the address has a mistake, which is told without repeating it.
    pub async fn locate(self, plan: Option<&Plan>, vars: &BTreeMap<String, String>) -> Result<Location, StepError> {
        let text = match self {
            Self::Folder(folder) => return Ok(Location::Folder(folder)),
            Self::Server(text) => text,
        };
        let vault = Vault::new(Arc::new(Redactor::new()));
        if let Some(plan) = plan {
            let named = text.parts().iter().filter_map(|part| match part {
                Part::Secret { name, .. } => name.strip_prefix("secrets."),
                Part::Plain(_) | Part::Unknown { .. } => None,
            });
            vault.read_named(plan, vars, named).await?;
        }
        let url = text.reveal(|name| vault.get(name))?;
        if !is_url(url.expose_secret()) {
            let error = StepError::new(ErrorKind::Plan, "the plan's `state` names a secret and is no postgres:// URL");
            return Err(error.help("write postgres://user@host/dbname; a folder cannot be secret"));
        }
        let info = ConnInfo::parse(url.expose_secret(), &Environment::from_vars(vars.clone()));
        info.map(|info| Location::Server(Box::new(info))).map_err(|error| {
            StepError::new(ErrorKind::Plan, format!("the address of the journal cannot be used: {error}"))
        })
    }
}

/// Refuses a journal in one of the plan's own databases, as far as the addresses tell before anything is opened.
///
/// # Errors
/// [`ErrorKind::Refused`] when there is one.
pub fn refuse_own(location: &Location, plan: &Plan, vars: &BTreeMap<String, String>) -> Result<(), StepError> {
    let Location::Server(state) = location else { return Ok(()) };
    let (scope, environment) = (Scope::of(plan), Environment::from_vars(vars.clone()));
    for name in plan.databases.keys() {
        // What is wrong with an address, or stands in a secret, comes up when the database is used.
        let Ok(Known::Now(address)) = scope.address(name) else { continue };
        let hidden = |_: &str| Ok::<_, StepError>(SecretString::from("x".to_owned()));
        let text = address.conninfo(hidden)?;
        let Ok(info) = ConnInfo::parse(text.expose_secret(), &environment) else { continue };
        if same_address(state, &info) {
            return Err(refusal(name, state));
        }
    }
    Ok(())
}

/// Returns a place of the journal as it was written, a password in it left out.
#[must_use]
pub fn without_password(text: &str) -> String {
    if !is_url(text) {
        return text.to_owned();
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("postgres", text));
    let rest = match rest.rsplit_once('@') {
        Some((user, hosts)) => format!("{}@{hosts}", user.split(':').next().unwrap_or_default()),
        None => rest.to_owned(),
    };
    let (address, query) = rest.split_once('?').unwrap_or((&rest, ""));
    let is_password = |pair: &&str| pair.starts_with("password=") || pair.starts_with("sslpassword=");
    let kept: Vec<&str> = query.split('&').filter(|pair| !pair.is_empty() && !is_password(pair)).collect();
    match kept.is_empty() {
        true => format!("{scheme}://{address}"),
        false => format!("{scheme}://{address}?{}", kept.join("&")),
    }
}

fn is_url(text: &str) -> bool {
    text.starts_with("postgres://") || text.starts_with("postgresql://")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_repeated_without_its_password() {
        let cases = [
            ("the state", "the state"),
            ("postgres://u:p%40w@h:5433/d", "postgres://u@h:5433/d"),
            ("postgres://u:p/w?@h/d", "postgres://u@h/d"),
            ("postgresql://h/d?user=u&password=pw&sslmode=require", "postgresql://h/d?user=u&sslmode=require"),
            ("postgres://u@/d?host=/run/pg&port=5433", "postgres://u@/d?host=/run/pg&port=5433"),
        ];
        for (given, shown) in cases {
            assert_eq!(without_password(given), shown);
        }
    }
}
