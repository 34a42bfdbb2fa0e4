//! Where servers are that a rehearsal copies, and where their copies are.

use std::collections::BTreeMap;

use secrecy::SecretString;

use crate::{
    error::{ErrorKind, StepError},
    perform::{Databases, Reveal},
    postgres::{ConnInfo, Environment},
};

/// Addresses by name, for what is done before the plan runs.
#[derive(Debug, Default, Clone)]
pub(super) struct Addresses(pub(super) BTreeMap<String, ConnInfo>);

impl Databases for Addresses {
    fn conninfo(&self, name: &str) -> Result<ConnInfo, StepError> {
        let found = self.0.get(name).cloned();
        found.ok_or_else(|| StepError::new(ErrorKind::Internal, format!("there is no server `{name}` to copy")))
    }
}

impl Reveal for Addresses {
    fn reveal(&self, name: &str) -> Result<SecretString, StepError> {
        Err(StepError::new(ErrorKind::Internal, format!("copying needs no secret, and `{name}` was asked for")))
    }
}

/// Reads an address that was given on the command line, where no password may stand.
pub(super) fn given(name: &str, text: &str, environment: &Environment) -> Result<ConnInfo, StepError> {
    let wrong = |message: String| StepError::new(ErrorKind::Plan, format!("--address {name}: {message}"));
    let alone = ConnInfo::parse(text, &Environment::from_vars([])).map_err(|error| wrong(error.to_string()))?;
    if alone.password.is_some() {
        let error = wrong("a password on the command line can be seen by every user of this machine".to_owned());
        return Err(error.help("put it into ~/.pgpass or the variable PGPASSWORD"));
    }
    ConnInfo::parse(text, environment).map_err(|error| wrong(error.to_string()))
}
