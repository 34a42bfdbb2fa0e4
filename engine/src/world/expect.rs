//! What a plan expects its databases to be (`expect`), before the first step and before the first look at each.

use std::sync::PoisonError;

use futures_util::future::join_all;

use super::Real;
use crate::{
    error::{ErrorKind, StepError},
    facts::{Depth, ServerFacts},
    plan::{Database, Expect},
    quantity::counted,
    survey,
    template::Known,
};

impl Real {
    /// Checks every database that can be reached now, before anything is changed.
    ///
    /// One whose address only a step gives, or that does not answer yet (behind a tunnel, or made by a step), is checked
    /// when a step looks at it first; so are all others once more.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] when one is not what the plan expects.
    pub async fn expect_now(&self) -> Result<(), StepError> {
        let names = self.names_at_start();
        let expecting = self.plan.databases.iter().filter(|(_, database)| database.expect != Expect::default());
        let looks = expecting.filter_map(|(name, _)| match names.connection(name) {
            Ok(Known::Now(info)) => Some(async move {
                let depth = if self.must_be_empty(name) { Depth::Tables } else { Depth::Server };
                (name, survey::server(&info, depth).await)
            }),
            Ok(Known::After(_)) | Err(_) => None,
        });
        for (name, looked) in join_all(looks.collect::<Vec<_>>()).await {
            match looked {
                Ok(server) => self.as_expected(name, &server)?,
                Err(error) => tracing::debug!("{name} cannot be looked at yet: {error}"),
            }
        }
        Ok(())
    }

    /// Returns whether the next look at a database must tell that it is empty: whatever the kind asks about.
    pub(super) fn must_be_empty(&self, name: &str) -> bool {
        let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner).contains(name);
        let expected = self.plan.databases.get(name).is_some_and(|database| database.expect.empty == Some(true));
        expected && !checked && !self.settings.changed_before.contains(name)
    }

    /// Checks once a session that a server is what the plan expects.
    pub(super) fn expect(&self, name: &str, server: &ServerFacts) -> Result<(), StepError> {
        if !self.checked.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned()) {
            return Ok(());
        }
        self.as_expected(name, server)
    }

    fn as_expected(&self, name: &str, server: &ServerFacts) -> Result<(), StepError> {
        let Some(Database { expect, .. }) = self.plan.databases.get(name) else { return Ok(()) };
        if let Some(major) = expect.major.filter(|major| *major != server.major()) {
            let message = format!(
                "database `{name}` runs on PostgreSQL {}, the plan expects {major}",
                server.version.split_whitespace().next().unwrap_or_default()
            );
            return Err(StepError::new(ErrorKind::Refused, message)
                .detail(format!("server: {}", server.label))
                .help("check that the address is the right one, or correct `expect.major`"));
        }
        let tables = server.database(&server.dbname).and_then(|database| database.tables.as_ref());
        if expect.empty == Some(true)
            && !self.settings.changed_before.contains(name)
            && let Some([first, ..]) = tables.map(Vec::as_slice)
        {
            let count = counted(tables.map_or(0, Vec::len) as u64, "table");
            let message = format!("database `{name}` should be empty and holds {count}");
            return Err(StepError::new(ErrorKind::Refused, message)
                .detail(format!("server: {}, first table: {}.{}", server.label, first.schema, first.name))
                .help("give a fresh target, or take `empty: true` out of `expect`"));
        }
        Ok(())
    }
}
