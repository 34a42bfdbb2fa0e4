//! The end of a run's receipts: when it has ended well, and when it is given up.

use std::{collections::BTreeMap, sync::Arc};

use super::Real;
use crate::{
    action::Outputs,
    claim::{Purpose, tag},
    error::{ErrorKind, StepError},
    lookup::Lookup,
    postgres::ConnInfo,
    receipt,
    run::{Receipted, World, receipted},
    state::RunState,
    template::Known,
};

/// Receipts of a run that was given up which stay where they are.
#[derive(Debug)]
pub struct Left {
    /// The database of the plan.
    pub database: String,
    /// Whether other databases of its server may have some, too.
    pub wide: Receipted,
    /// Why.
    pub error: StepError,
}

impl Real {
    /// Drops the receipts of this run; returns what could not be dropped as warnings.
    pub(super) async fn drop_own_receipts(
        &self,
        databases: BTreeMap<String, Receipted>,
        outputs: &BTreeMap<String, Outputs>,
    ) -> Vec<String> {
        let names = self.names(outputs);
        let mut warnings = Vec::new();
        for (database, wide) in databases {
            if let Err(error) = self.drop_receipts(&self.settings.run_id, &database, wide, &names).await {
                warnings.push(format!("the receipts in `{database}` could not be dropped: {error}"));
            }
        }
        warnings
    }

    /// Drops the receipts of a run that was given up, and ends what it left running where they are; returns those that
    /// stay. The servers are claimed for it: a run that works there may be about to write its first receipt.
    ///
    /// # Errors
    /// When it cannot be told where they are.
    pub async fn forget(&self, run: &RunState) -> Result<Vec<Left>, StepError> {
        let outputs = Arc::new(run.standing_outputs());
        let databases = receipted(&self.plan, run, |step| self.own_undo(step, Arc::clone(&outputs)))?;
        let names = self.names(&outputs);
        let mut left = Vec::new();
        for (database, wide) in databases {
            if let Err(error) = self.forget_in(&run.id, &database, wide, &names).await {
                left.push(Left { database, wide, error });
            }
        }
        Ok(left)
    }

    async fn forget_in(&self, run: &str, database: &str, wide: Receipted, names: &Lookup) -> Result<(), StepError> {
        self.claims.claim(database, &address(database, names)?).await?;
        self.drop_receipts(run, database, wide, names).await
    }

    async fn drop_receipts(&self, run: &str, database: &str, wide: Receipted, names: &Lookup) -> Result<(), StepError> {
        let info = address(database, names)?;
        let name = format!("{} settle", tag(Purpose::Work, &self.settings.run_id, self.settings.session));
        match wide {
            Receipted::Database => receipt::drop_in(&info, &name, run).await,
            Receipted::Server => receipt::drop_everywhere(&info, &name, run).await,
        }
    }
}

/// Returns where a database is; that this is not known is an error, as receipts may be there.
fn address(database: &str, names: &Lookup) -> Result<ConnInfo, StepError> {
    match names.connection(database)? {
        Known::Now(info) => Ok(info),
        Known::After(step) => {
            Err(StepError::new(ErrorKind::Connection, format!("its address is known only after step `{step}`")))
        }
    }
}
