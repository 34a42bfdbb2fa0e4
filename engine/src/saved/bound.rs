//! What a database and its server were like when a plan was saved.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    error::{ErrorKind, StepError},
    facts::{Depth, ServerFacts},
    kinds::provision::SERVER_PROGRAMS,
    lookup::plan_error,
    perform::compare::inventory::{self, Objects},
    plan::Plan,
    postgres::{ConnInfo, Session},
    survey,
    template::{self, Known},
    tool::version_name,
    world::Real,
};

/// What is known of a database of the plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// It was looked at.
    Looked(Box<Looked>),
    /// Its address is known only after this step.
    After(String),
    /// Nothing answered at its address, for this reason; a step may open the way to it.
    Unreachable(String),
}

/// Which server it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// The cluster's own number, as text: it is larger than what JavaScript counts to.
    SystemIdentifier(String),
    /// `host:port`, where the role may not read that number.
    Address(String),
}

/// A database and its server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Looked {
    /// Address without the password.
    pub label: String,
    /// Which server it is.
    pub identity: Identity,
    /// `server_version`.
    pub version: String,
    /// The database's name.
    pub dbname: String,
    /// Whether it exists.
    pub exists: bool,
    /// Client programs that steps would use for this server, with their versions.
    pub programs: BTreeMap<String, String>,
    /// Digest over all objects below.
    pub schema: String,
    /// Roles, memberships and settings of roles.
    pub server: Objects,
    /// The objects of the database; of every database that the role may enter where a step takes the whole server.
    pub databases: BTreeMap<String, Objects>,
}

/// What the steps of a plan ask of a database.
#[derive(Debug, Default)]
struct Wanted {
    whole_server: bool,
    programs: BTreeSet<&'static str>,
}

/// Looks at the databases that steps use.
///
/// # Errors
/// A server answered and refused; a secret cannot be had.
pub(super) async fn look(plan: &Plan, world: &Real) -> Result<BTreeMap<String, Bound>, StepError> {
    let mut wanted: BTreeMap<&str, Wanted> = BTreeMap::new();
    for step in &plan.steps {
        let cluster = step.kind == "dump" && step.text()["dump"]["scope"] == "cluster";
        for (database, ..) in &step.declared.databases {
            let wanted = wanted.entry(database).or_default();
            wanted.whole_server |= cluster;
            match step.kind {
                "dump" if cluster => drop(wanted.programs.insert("pg_dumpall")),
                "dump" => drop(wanted.programs.insert("pg_dump")),
                "restore" => drop(wanted.programs.insert("pg_restore")),
                _ => {}
            }
        }
    }
    let names = world.names_at_start();
    let mut bound = BTreeMap::new();
    for (database, wanted) in wanted {
        let found = match names.connection(database)? {
            Known::After(step) => Bound::After(step),
            Known::Now(info) => match look_at(&info, &wanted, world).await {
                Ok(looked) => Bound::Looked(Box::new(looked)),
                Err(error) if error.kind == ErrorKind::Connection => Bound::Unreachable(error.message),
                Err(error) => return Err(error),
            },
        };
        bound.insert(database.to_owned(), found);
    }
    Ok(bound)
}

async fn look_at(info: &ConnInfo, wanted: &Wanted, world: &Real) -> Result<Looked, StepError> {
    let facts = survey::server(info, Depth::Server).await?;
    let mut databases = BTreeMap::new();
    let session = survey::connect_anywhere(info).await?;
    let read = of_named(&session, facts.dbname_exists).await;
    session.close().await;
    let (server, named) = read?;
    if let Some(objects) = named {
        databases.insert(facts.dbname.clone(), objects);
    }
    let others = facts.user_databases().filter(|database| wanted.whole_server && database.name != facts.dbname);
    for database in others {
        match of_other(&info.with_dbname(&database.name)).await {
            Ok(objects) => drop(databases.insert(database.name.clone(), objects)),
            Err(error) if survey::may_not_enter(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Looked {
        identity: identity(info, &facts),
        programs: programs(wanted, &facts, world),
        schema: schema(&server, &databases),
        label: facts.label,
        version: facts.version,
        dbname: facts.dbname,
        exists: facts.dbname_exists,
        server,
        databases,
    })
}

async fn of_named(session: &Session, exists: bool) -> Result<(Objects, Option<Objects>), StepError> {
    inventory::prepare(session).await?;
    let server = inventory::of_server(session).await?;
    let named = if exists { Some(inventory::of_current_database(session).await?) } else { None };
    Ok((server, named))
}

async fn of_other(info: &ConnInfo) -> Result<Objects, StepError> {
    let session = survey::connect_anywhere(info).await?;
    let found = match inventory::prepare(&session).await {
        Ok(()) => inventory::of_current_database(&session).await,
        Err(error) => Err(error),
    };
    session.close().await;
    found
}

fn identity(info: &ConnInfo, facts: &ServerFacts) -> Identity {
    match facts.system_identifier {
        Some(number) => Identity::SystemIdentifier(number.to_string()),
        None => {
            let hosts: Vec<String> = info.hosts.iter().map(|host| format!("{}:{}", host.name(), host.port)).collect();
            Identity::Address(hosts.join(","))
        }
    }
}

fn programs(wanted: &Wanted, facts: &ServerFacts, world: &Real) -> BTreeMap<String, String> {
    let version = |program: &str| match world.clients.for_server(program, facts.version_num) {
        Ok(client) => version_name(client.version_num),
        Err(_) => "missing".to_owned(),
    };
    wanted.programs.iter().map(|program| ((*program).to_owned(), version(program))).collect()
}

/// Returns the versions of the programs that make the servers of the plan, by step.
///
/// # Errors
/// When a step cannot be rendered.
pub(super) fn server_programs(plan: &Plan, world: &Real) -> Result<BTreeMap<String, String>, StepError> {
    let names = world.names_at_start();
    let mut programs = BTreeMap::new();
    for step in plan.steps.iter().filter(|step| step.kind == "provision") {
        let body = template::render(&step.body, &names.scope).map_err(|problems| plan_error(&problems))?.to_json();
        let major = body["managed"]["version"].as_u64().and_then(|major| u32::try_from(major).ok());
        let Some(major) = major else { continue };
        let version = match world.clients.of_major(&SERVER_PROGRAMS, major) {
            Ok(client) => version_name(client.version_num),
            Err(_) => "missing".to_owned(),
        };
        programs.insert(step.id.clone(), version);
    }
    Ok(programs)
}

fn schema(server: &Objects, databases: &BTreeMap<String, Objects>) -> String {
    crate::check::fingerprint::of(&serde_json::json!([server, databases]))
}
