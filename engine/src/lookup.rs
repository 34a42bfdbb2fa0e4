//! What names in a plan stand for at this moment of a run: addresses of databases and values of secrets.

use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};

use crate::{
    diagnostic::Diagnostic,
    error::{ErrorKind, StepError},
    perform::{Databases, Reveal},
    postgres::{ConnInfo, Environment},
    template::{Known, Scope},
    vault::Vault,
};

/// Names and what they stand for, with the outputs of the steps that are finished.
#[derive(Clone)]
pub struct Lookup {
    /// Values for templates.
    pub scope: Scope,
    /// Values of secrets.
    pub vault: Arc<Vault>,
    /// Where connection defaults come from.
    pub environment: Arc<Environment>,
}

impl Lookup {
    /// Returns the connection of a database of the plan, or the step after which its address is known.
    ///
    /// # Errors
    /// When the address has a mistake or a secret in it cannot be had.
    pub fn connection(&self, name: &str) -> Result<Known<ConnInfo>, StepError> {
        let address = match self.scope.address(name).map_err(|problems| plan_error(&problems))? {
            Known::Now(address) => address,
            Known::After(step) => return Ok(Known::After(step)),
        };
        let text = address.conninfo(|secret| self.vault.get(secret))?;
        let info = ConnInfo::parse(text.expose_secret(), &self.environment).map_err(|error| {
            StepError::new(ErrorKind::Plan, format!("the address of database `{name}` cannot be used: {error}"))
        })?;
        let url = format!("databases.{name}.url");
        match info.hosts.first().and_then(|host| info.password_for(host)) {
            Some(password) => {
                self.vault.put(&url, info.to_url());
                self.vault.put(&format!("databases.{name}.password"), password.clone());
            }
            // As messages name the server.
            None => self.vault.keep(&url, info.to_url()),
        }
        Ok(Known::Now(info))
    }
}

impl Databases for Lookup {
    fn conninfo(&self, name: &str) -> Result<ConnInfo, StepError> {
        match self.connection(name)? {
            Known::Now(info) => Ok(info),
            Known::After(step) => {
                let message = format!("the address of database `{name}` is known only after step `{step}`");
                Err(StepError::new(ErrorKind::Internal, message))
            }
        }
    }
}

impl Reveal for Lookup {
    fn reveal(&self, name: &str) -> Result<SecretString, StepError> {
        let field = name.strip_prefix("databases.");
        let database = field.and_then(|rest| rest.strip_suffix(".password").or_else(|| rest.strip_suffix(".url")));
        if let Some(database) = database.filter(|_| !self.vault.has(name)) {
            self.connection(database)?;
        }
        self.vault.get(name)
    }
}

/// Returns the error of a template that could not be evaluated at run time: its first problem, the others as details.
#[must_use]
pub fn plan_error(problems: &[Diagnostic]) -> StepError {
    let line = |problem: &Diagnostic| match problem.place() {
        Some(place) => format!("{place}: {}", problem.message),
        None => problem.message.clone(),
    };
    let Some((first, rest)) = problems.split_first() else {
        return StepError::new(ErrorKind::Internal, "a template failed without saying why");
    };
    let mut error = StepError::new(ErrorKind::Plan, line(first));
    error.details = rest.iter().map(line).collect();
    error.help.clone_from(&first.help);
    error
}
