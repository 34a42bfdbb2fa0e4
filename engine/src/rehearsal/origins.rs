//! The real servers behind a plan's databases: what of each is known before any copy is made.

use std::{collections::BTreeMap, path::Path};

use super::{
    addresses::{Addresses, given},
    copy::Copier,
    settings,
};
use crate::{
    artifact::DumpArtifact,
    error::{ErrorKind, StepError},
    facts::{Depth, ServerFacts},
    perform,
    plan::{Database, Plan},
    postgres::{ConnInfo, Environment},
    survey,
    template::Known,
};

/// A real server, with the databases of the plan that lie on it.
pub(super) struct Origin {
    /// The plan's names, with the role and the database that each connects to.
    pub(super) names: Vec<(String, String, String)>,
    /// How it is reached; absent for one that is made empty or from a backup.
    pub(super) info: Option<ConnInfo>,
    /// A dump to fill it with.
    pub(super) backup: Option<DumpArtifact>,
    /// What is known of the server.
    pub(super) facts: ServerFacts,
    /// What its copy is made like.
    pub(super) like: settings::Likeness,
}

impl Copier<'_> {
    /// Finds the real servers behind the plan's databases.
    ///
    /// # Errors
    /// When one cannot be reached, or nothing is known of its version.
    pub(super) async fn origins(
        &self,
        plan: &Plan,
        vars: &BTreeMap<String, String>,
        say: &mut (dyn FnMut(String) + Send),
    ) -> Result<Vec<Origin>, StepError> {
        let names = self.looking.names_at_start();
        let environment = Environment::from_vars(vars.clone());
        let mut origins: Vec<Origin> = Vec::new();
        let mut without = Vec::new();
        for (name, database) in &plan.databases {
            if !self.is_used(plan, name) || is_made_by_the_plan(plan, database) {
                continue;
            }
            if let Some(file) = self.options.backups.get(name) {
                origins.push(self.backed_up(name, database, file).await?);
                continue;
            }
            let info = match self.options.addresses.get(name) {
                Some(text) => Some(given(name, text, &environment)?),
                None if self.options.empty.contains(name) => None,
                None => match names.connection(name)? {
                    Known::Now(info) => Some(info),
                    Known::After(_) => None,
                },
            };
            let Some(info) = info else {
                without.push((name, database));
                continue;
            };
            let facts = survey::server(&info, Depth::AllTables).await.map_err(|error| {
                error.help(format!(
                    "the rehearsal copies `{name}`, so it must be reached; or say --empty {name}, and an empty server takes \
                     its place"
                ))
            })?;
            let entry = (name.clone(), info.user.clone(), info.dbname.clone());
            let same = |origin: &&mut Origin| match (origin.facts.system_identifier, facts.system_identifier) {
                (Some(one), Some(other)) => one == other,
                _ => origin.info.as_ref().is_some_and(|known| {
                    known
                        .hosts
                        .iter()
                        .map(|host| (&host.address, host.port))
                        .eq(info.hosts.iter().map(|host| (&host.address, host.port)))
                }),
            };
            if let Some(origin) = origins.iter_mut().filter(|origin| origin.info.is_some()).find(|origin| same(origin))
            {
                origin.names.push(entry);
                continue;
            }
            let like = settings::look(&info).await?;
            origins.push(Origin { names: vec![entry], info: Some(info), backup: None, facts, like });
        }
        for (name, database) in without {
            let origin = empty(name, database, origins.first())?;
            let (_, user, dbname) = &origin.names[0];
            let why = match database.after.first().filter(|_| !self.options.empty.contains(name)) {
                Some(step) => format!("its address is known after step `{step}`, which is simulated"),
                None => "as asked for".to_owned(),
            };
            say(format!(
                "{name}: an empty server takes its place ({why}): PostgreSQL {}, role {user}, database {dbname}",
                origin.facts.major()
            ));
            origins.push(origin);
        }
        Ok(origins)
    }

    fn is_used(&self, plan: &Plan, name: &str) -> bool {
        let uses = plan.steps.iter().flat_map(|step| &step.declared.databases);
        let mut uses = uses.map(|(used, ..)| used);
        // A step with templates in its names may use any.
        uses.any(|used| used == name || used.contains("${{"))
            || plan.steps.iter().any(|step| {
                let text = step.text().to_string();
                text.contains(name)
            })
    }

    async fn backed_up(&self, name: &str, database: &Database, file: &Path) -> Result<Origin, StepError> {
        let cx = self.cx("backup", Addresses::default());
        let dump = perform::existing_dump::look(file, &cx).await?;
        let major = database.expect.major.unwrap_or(dump.source_version_num / 10_000);
        let dbname = if dump.database.is_empty() { "postgres".to_owned() } else { dump.database.clone() };
        let facts = ServerFacts { version_num: major * 10_000, version: major.to_string(), ..ServerFacts::default() };
        let like = settings::Likeness {
            superuser: "postgres".to_owned(),
            locale: "C.UTF-8".to_owned(),
            ..settings::Likeness::default()
        };
        let names = vec![(name.to_owned(), like.superuser.clone(), dbname)];
        Ok(Origin { names, info: None, backup: Some(dump), facts, like })
    }
}

impl Origin {
    /// Returns the bytes of all databases that people use.
    pub(super) fn bytes(&self) -> u64 {
        self.facts.user_databases().map(|database| database.bytes).sum()
    }

    /// Returns the roles that the plan connects as.
    pub(super) fn users(&self) -> impl Iterator<Item = &String> {
        self.names.iter().map(|(_, user, _)| user)
    }
}

/// Returns whether a database's address comes from servers that the plan makes on this machine.
fn is_made_by_the_plan(plan: &Plan, database: &Database) -> bool {
    let made = |id: &String| {
        let step = plan.step(id);
        step.is_some_and(|step| step.kind == "provision" && step.body.get("managed").is_some())
    };
    !database.after.is_empty() && database.after.iter().all(made)
}

/// Returns an empty server for a database that cannot be looked at.
fn empty(name: &str, database: &Database, like: Option<&Origin>) -> Result<Origin, StepError> {
    let Some(major) = database.expect.major else {
        let message = format!("which version the server of `{name}` has is not known before the plan runs");
        return Err(StepError::new(ErrorKind::Plan, message).help(format!(
            "write `expect: {{ major: … }}` to the database, or say where it is: --address {name}=postgres://user@host/db"
        )));
    };
    let (user, dbname) = like.map_or_else(
        || ("postgres".to_owned(), "postgres".to_owned()),
        |origin| (origin.names[0].1.clone(), origin.names[0].2.clone()),
    );
    let likeness = settings::Likeness {
        superuser: user.clone(),
        locale: like.map_or_else(|| "C.UTF-8".to_owned(), |origin| origin.like.locale.clone()),
        ..settings::Likeness::default()
    };
    let facts = ServerFacts { version_num: major * 10_000, version: major.to_string(), ..ServerFacts::default() };
    Ok(Origin { names: vec![(name.to_owned(), user, dbname)], info: None, backup: None, facts, like: likeness })
}
