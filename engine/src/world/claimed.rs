//! What a session holds on the servers of its plan before it changes them.

use std::collections::BTreeMap;

use super::Real;
use crate::{
    claim::uses,
    error::{ErrorKind, StepError},
    kinds::{Use, declare::Key},
    lookup::Lookup,
    plan::Step,
    template::Known,
};

impl Real {
    /// Claims the servers that a step changes and clears those that it reads of what an earlier session left there.
    pub(super) async fn claim(&self, step: &Step, names: &Lookup) -> Result<(), StepError> {
        self.claim_all(&step.declared.databases, names).await
    }

    async fn claim_all(&self, declared: &[(String, Key, Use)], names: &Lookup) -> Result<(), StepError> {
        if self.settings.dry_run {
            return Ok(());
        }
        for (database, how) in uses(declared) {
            let Known::Now(info) = names.connection(database)? else { continue };
            Box::pin(self.apart.refuse(database, &info)).await?;
            match how {
                Use::Changes => self.claims.claim(database, &info).await?,
                Use::Reads => self.claims.look(database, &info).await?,
            }
        }
        Ok(())
    }

    /// Claims every server that the plan changes and whose address is known by now, so that no other run moves it
    /// between a look and the first step. One that does not answer is claimed before the step that uses it.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when another run has one.
    pub async fn claim_at_start(&self) -> Result<(), StepError> {
        let names = self.names(&BTreeMap::new());
        let declared = self.plan.steps.iter().flat_map(|step| step.declared.databases.iter().cloned());
        let declared: Vec<(String, Key, Use)> = declared.collect();
        for (database, how) in uses(&declared) {
            let one: Vec<_> = declared.iter().filter(|(name, _, used)| name == database && *used == how).collect();
            let Some(one) = one.first() else { continue };
            match self.claim_all(std::slice::from_ref(*one), &names).await {
                Err(error) if error.kind == ErrorKind::Connection => {
                    tracing::debug!(%error, database, "it is claimed before the step that uses it");
                }
                result => result?,
            }
        }
        Ok(())
    }

    /// Refuses the plan when its journal is in one of its databases that can be reached now.
    pub(super) async fn refuse_own_state(&self) -> Result<(), StepError> {
        let names = self.names(&BTreeMap::new());
        let known = self.plan.databases.keys().filter_map(|name| match names.connection(name) {
            Ok(Known::Now(info)) => Some((name, info)),
            // It is looked at before the first step that uses it.
            Ok(Known::After(_)) | Err(_) => None,
        });
        self.apart.refuse_any(known).await
    }
}
