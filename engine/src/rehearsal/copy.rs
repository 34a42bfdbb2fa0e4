//! The throwaway servers: which are needed, how they are made, and how each is filled.
//!
//! Databases of the plan that lie on one real server get one copy together. Of a real server all databases that people
//! use are copied, since a cluster's dump takes all of them; its roles come with their passwords, but for those that the
//! plan connects as, which get one random password on all copies. Tablespaces are not copied: everything lies in the
//! copy's folder.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

use super::{Options, SECRET, addresses::Addresses, files, folder_of_servers, origins::Origin, sample};
use crate::{
    action::OutputValue,
    artifact::{DumpArtifact, DumpFormat, DumpScope},
    error::{ErrorKind, StepError},
    op::{Compat, Compress, CreateCluster, DumpOp, Expected, OnError, Op, Part, RestoreOp},
    perform::{self, PerformCx, Progress},
    plan::{Database, Plan},
    postgres::{
        ConnInfo, Environment,
        connect::{connect, execute},
        quote::{ident, literal},
    },
    quantity::bytes,
    receipt,
    secret::percent_encode,
    sql::FilterRules,
    timing::TimedServer,
    world::{Consent, Real, Settings},
};

/// How sessions that fill a copy are called.
const NAME: &str = "pgplan rehearsal";
/// Databases that every server has.
const ALWAYS_THERE: [&str; 3] = ["postgres", "template0", "template1"];

/// The throwaway servers, filled.
pub(super) struct Copied {
    /// The plan's databases as they are in the rehearsal.
    pub(super) databases: BTreeMap<String, Database>,
    /// The file with the password that opens the copies.
    pub(super) password_file: PathBuf,
    /// What was copied, by the database's name in the plan.
    pub(super) servers: BTreeMap<String, TimedServer>,
    /// What the sample is.
    pub(super) sample: Option<String>,
}

/// Makes the copies.
pub(super) struct Copier<'a> {
    pub(super) options: &'a Options,
    servers: PathBuf,
    password: SecretString,
    pub(super) looking: Real,
    cancel: &'a CancellationToken,
}

/// Makes and fills all copies.
///
/// # Errors
/// When a real server cannot be read, or a copy cannot be made or filled.
pub(super) async fn all(
    plan: &Plan,
    options: &Options,
    vars: &BTreeMap<String, String>,
    cancel: &CancellationToken,
    say: &mut (dyn FnMut(String) + Send),
) -> Result<Copied, StepError> {
    refuse_unknown(plan, options)?;
    let looking = Real::new(Arc::new(plan.clone()), looking(options), vars.clone()).await?;
    let password = perform::cluster::random_password()?;
    let copier =
        Copier { options, servers: folder_of_servers(&options.id, &options.folder), password, looking, cancel };
    let origins = copier.origins(plan, vars, say).await?;
    let password_file = options.folder.join("password");
    files::write(&password_file, copier.password.expose_secret())?;
    let mut copied = Copied { databases: BTreeMap::new(), password_file, servers: BTreeMap::new(), sample: None };
    for (number, origin) in origins.iter().enumerate() {
        let port = Box::pin(copier.copy(number, origin, &mut copied, say)).await?;
        for (name, user, dbname) in &origin.names {
            if let Some(database) = plan.databases.get(name) {
                copied.databases.insert(name.clone(), moved(database, user, dbname, port));
            }
        }
    }
    Ok(copied)
}

/// Refuses names that the plan does not have, and passwords on the command line.
fn refuse_unknown(plan: &Plan, options: &Options) -> Result<(), StepError> {
    let named = options.addresses.keys().chain(options.backups.keys()).chain(&options.empty).chain(&options.clones);
    for name in named {
        if !plan.databases.contains_key(name) {
            let error = StepError::new(ErrorKind::Plan, format!("the plan has no database `{name}`"));
            let known: Vec<&str> = plan.databases.keys().map(String::as_str).collect();
            return Err(error.help(format!("it has {}", known.join(", "))));
        }
    }
    Ok(())
}

fn looking(options: &Options) -> Settings {
    Settings {
        run_id: options.id.clone(),
        session: 0,
        run_dir: options.folder.clone(),
        platforms: options.platforms.clone(),
        consent: Consent::Nobody,
        // The address of a database may be a secret that a program gives.
        allow_programs: true,
        dry_run: true,
        changed_before: std::collections::BTreeSet::new(),
        approved: std::collections::BTreeSet::new(),
        state: None,
        watch: None,
    }
}

/// Returns a database of the plan on its copy.
fn moved(database: &Database, user: &str, dbname: &str, port: u16) -> Database {
    let url = format!("postgresql://{}@127.0.0.1:{port}/{}", percent_encode(user), percent_encode(dbname));
    let params = [("hostaddr", "127.0.0.1"), ("sslmode", "disable")];
    Database {
        url,
        params: params.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        password: Some(format!("${{{{ secrets.{SECRET} }}}}")),
        after: Vec::new(),
        ..database.clone()
    }
}

impl Copier<'_> {
    pub(super) fn cx(&self, action: &str, addresses: Addresses) -> PerformCx {
        let addresses = Arc::new(addresses);
        PerformCx {
            run_id: self.options.id.clone(),
            session: 0,
            generation: 0,
            step: "copy".to_owned(),
            action: action.to_owned(),
            run_dir: self.options.folder.clone(),
            plan_dir: self.options.folder.clone(),
            env: BTreeMap::new(),
            cancel: self.cancel.clone(),
            progress: Progress::silent(),
            secrets: Arc::clone(&addresses) as _,
            databases: addresses,
            redactor: Arc::default(),
            held: Arc::default(),
            idle: Arc::default(),
            clients: Arc::clone(&self.looking.clients),
        }
    }

    /// Makes a server, fills it and returns its port.
    async fn copy(
        &self,
        number: usize,
        origin: &Origin,
        copied: &mut Copied,
        say: &mut (dyn FnMut(String) + Send),
    ) -> Result<u16, StepError> {
        let list = origin.names.iter().map(|(name, ..)| name.as_str()).collect::<Vec<_>>().join(", ");
        let major = origin.facts.major();
        let cluster = CreateCluster {
            version: major,
            folder: self.servers.join(format!("copy-{number}")),
            port: None,
            run_as: None,
            superuser: origin.like.superuser.clone(),
            locale: if origin.like.locale.is_empty() { "C.UTF-8".to_owned() } else { origin.like.locale.clone() },
            settings: origin.like.settings.clone(),
        };
        let cx = self.cx("cluster", Addresses::default());
        let cloned = origin.names.iter().any(|(name, ..)| self.options.clones.contains(name));
        let made = match origin.info.as_ref().filter(|_| cloned) {
            Some(from) => {
                say(format!("{list}: cloning {} to a throwaway server by pg_basebackup", origin.facts.label));
                perform::cluster::clone::create(&cluster, from, &cx).await?
            }
            None => perform::perform(&Op::CreateCluster(cluster), &cx).await?,
        };
        let Some(OutputValue::Secret(Some(url))) = made.outputs.get("url") else {
            return Err(StepError::new(ErrorKind::Internal, "a new server tells no address"));
        };
        let to = ConnInfo::parse(url.expose_secret(), &Environment::from_vars([]))
            .map_err(|error| StepError::new(ErrorKind::Internal, format!("the address of a copy: {error}")))?;
        let sizes = origin.facts.user_databases().map(|database| database.bytes).sum::<u64>();
        for reservation in &origin.like.reservations {
            say(format!("{list}: {reservation}"));
        }
        let mut share = 1.0;
        if let Some(info) = origin.info.as_ref().filter(|_| !cloned) {
            say(format!(
                "{list}: copying {} ({}, PostgreSQL {}) to a throwaway server",
                origin.facts.label,
                bytes(sizes),
                origin.facts.version
            ));
            share = Box::pin(self.fill(origin, info, &to, copied, say)).await?;
        } else if let Some(dump) = &origin.backup {
            say(format!("{list}: restoring {} into a throwaway server of version {major}", dump.path.display()));
            if dump.scope == DumpScope::Database {
                say(format!(
                    "{list}: a dump of one database has no roles: all of it belongs to {} on the copy, without privileges",
                    origin.like.superuser
                ));
            }
            self.fill_from_backup(origin, dump, &to).await?;
        } else if !cloned {
            self.make_database(&origin.names[0].2, &to).await?;
        }
        self.let_in(origin, &to).await?;
        let rows = origin.facts.rows();
        for (name, ..) in &origin.names {
            if origin.info.is_some() {
                let version = origin.facts.version.clone();
                copied.servers.insert(name.clone(), TimedServer { version, bytes: sizes, rows, share });
            }
        }
        Ok(to.hosts.first().map_or(0, |host| host.port))
    }

    /// Copies roles and databases; returns the share of the bytes that was copied.
    async fn fill(
        &self,
        origin: &Origin,
        from: &ConnInfo,
        to: &ConnInfo,
        copied: &mut Copied,
        say: &mut (dyn FnMut(String) + Send),
    ) -> Result<f64, StepError> {
        let users: Vec<&String> = origin.users().collect();
        let mut globals = vec!["--no-password".to_owned(), "--globals-only".to_owned()];
        if !origin.facts.superuser {
            globals.push("--no-role-passwords".to_owned());
        }
        let keep = users.iter().map(|user| (*user).clone()).chain([origin.like.superuser.clone()]);
        let rules = FilterRules { no_tablespaces: true, drop_passwords_of: keep.collect(), ..FilterRules::default() };
        let dump = DumpOp {
            from: "real".to_owned(),
            scope: DumpScope::Cluster,
            jobs: 1,
            args: globals,
            name: "globals".to_owned(),
            ..DumpOp::default()
        };
        self.carry(&dump, from, to, Some(rules), &origin.like.superuser).await?;
        let (mut whole, mut kept, mut told) = (0.0, 0.0, Vec::new());
        for (number, database) in origin.facts.user_databases().enumerate() {
            let from = from.with_dbname(&database.name);
            let is_there = ALWAYS_THERE.contains(&database.name.as_str());
            let mut args =
                vec!["--no-password".to_owned(), "--encoding=UTF8".to_owned(), "--exclude-schema=pgplan".to_owned()];
            if !is_there {
                args.push("--create".to_owned());
            }
            let thinned = match self.options.sample {
                Some(share) => Some(sample::Sample::of(&from, database, share).await?),
                None => None,
            };
            args.extend(thinned.iter().flat_map(sample::Sample::dump_options));
            let dump = DumpOp {
                from: "real".to_owned(),
                scope: DumpScope::Database,
                jobs: 1,
                compress: Compress::Zstd(1),
                args,
                name: format!("database-{number}"),
                estimate: Some(database.bytes),
                ..DumpOp::default()
            };
            let into = if is_there { to.with_dbname(&database.name) } else { to.clone() };
            let rules = FilterRules { no_tablespaces: true, ..FilterRules::default() };
            self.carry(&dump, &from, &into, Some(rules), &origin.like.superuser).await?;
            let target = to.with_dbname(&database.name);
            if let Some(thinned) = thinned {
                tokio::select! {
                    piped = thinned.pipe(&target) => piped?,
                    () = self.cancel.cancelled() => return Err(interrupted()),
                }
                whole += thinned.bytes();
                kept += thinned.kept_bytes();
                told.extend(thinned.told());
            }
            self.settle(&target).await?;
        }
        receipt::drop_everywhere(to, NAME, &self.options.id).await?;
        for line in &told {
            say(format!("sample: {line}"));
        }
        if self.options.sample.is_some() && told.is_empty() {
            say(format!("sample: no table of {} is thinned: all of its rows are copied", origin.facts.label));
        }
        if !told.is_empty() {
            let before = copied.sample.take().map(|before| before + "; ").unwrap_or_default();
            copied.sample = Some(before + &told.join("; "));
        }
        Ok(if whole > 0.0 { kept / whole } else { 1.0 })
    }

    /// Dumps and restores.
    async fn carry(
        &self,
        dump: &DumpOp,
        from: &ConnInfo,
        to: &ConnInfo,
        rules: Option<FilterRules>,
        superuser: &str,
    ) -> Result<(), StepError> {
        let addresses = Addresses([("real".to_owned(), from.clone()), ("copy".to_owned(), to.clone())].into());
        let cx = self.cx(&dump.name, addresses);
        let output = perform::perform(&Op::Dump(dump.clone()), &cx).await?;
        let Some(OutputValue::Plain(value)) = output.outputs.get("dump") else {
            return Err(StepError::new(ErrorKind::Internal, "a dump has no output `dump`"));
        };
        let artifact = DumpArtifact { rules, ..DumpArtifact::from_output(value)? };
        self.restore(artifact.clone(), superuser, &cx).await?;
        let file = artifact.file(&self.options.folder);
        std::fs::remove_file(&file).map_err(|error| StepError::io("remove", &file, &error))
    }

    async fn restore(&self, dump: DumpArtifact, superuser: &str, cx: &PerformCx) -> Result<(), StepError> {
        let parts: &[Part] = match dump.format {
            DumpFormat::Plain => &[Part::Script],
            DumpFormat::Custom | DumpFormat::Directory => &[
                Part::Schema,
                Part::Data { n: 1, of: 1 },
                Part::OtherData,
                Part::Indexes { n: 1, of: 1 },
                Part::Constraints,
                Part::Rest,
            ],
        };
        for (number, part) in parts.iter().enumerate() {
            // Each part has a receipt of its own, as each action of the kind has.
            let cx = &PerformCx { action: format!("{}-{number}", cx.action), ..cx.clone() };
            let restore = RestoreOp {
                dump: dump.clone(),
                into: "copy".to_owned(),
                part: *part,
                expected: vec![Expected::Message(format!("role \"{superuser}\" already exists"))],
                on_error: OnError::Stop,
                compat: Compat::Strip,
                statement_timeout_ms: 0,
                settings: BTreeMap::new(),
            };
            // That an expected error did not come is no news here.
            let done = perform::perform(&Op::Restore(restore), cx).await;
            cx.idle.close(|_| true).await;
            done.map_err(|error| error.detail("while a throwaway server was filled; nothing real was changed"))?;
        }
        Ok(())
    }

    async fn fill_from_backup(&self, origin: &Origin, dump: &DumpArtifact, to: &ConnInfo) -> Result<(), StepError> {
        let dbname = &origin.names[0].2;
        let into = match dump.scope {
            DumpScope::Cluster => to.clone(),
            DumpScope::Database => {
                self.make_database(dbname, to).await?;
                to.with_dbname(dbname)
            }
        };
        let cx = self.cx("backup", Addresses([("copy".to_owned(), into.clone())].into()));
        let rules = FilterRules {
            no_tablespaces: true,
            drop_passwords_of: vec![origin.like.superuser.clone()],
            no_owner: dump.scope == DumpScope::Database,
            no_acl: dump.scope == DumpScope::Database,
            ..FilterRules::default()
        };
        self.restore(DumpArtifact { rules: Some(rules), ..dump.clone() }, &origin.like.superuser, &cx).await?;
        receipt::drop_everywhere(to, NAME, &self.options.id).await?;
        self.settle(&into).await
    }

    async fn make_database(&self, name: &str, to: &ConnInfo) -> Result<(), StepError> {
        if ALWAYS_THERE.contains(&name) {
            return Ok(());
        }
        self.run(to, "make a database of a copy", &[format!("CREATE DATABASE {}", ident(name))]).await
    }

    /// Makes a filled database like one that has been in use: statistics, and pages that need no more marking.
    async fn settle(&self, database: &ConnInfo) -> Result<(), StepError> {
        self.run(database, "vacuum a copy", &["VACUUM (ANALYZE)".to_owned()]).await
    }

    /// Gives the roles that the plan connects as the password of the rehearsal.
    async fn let_in(&self, origin: &Origin, to: &ConnInfo) -> Result<(), StepError> {
        let roles = origin.users().chain([&origin.like.superuser]);
        let mut roles: Vec<&String> = roles.collect();
        roles.sort_unstable();
        roles.dedup();
        let password = literal(self.password.expose_secret());
        // Copies take no other; a server may be set to make md5 ones still.
        let mut sql = vec!["SET password_encryption = 'scram-sha-256'".to_owned()];
        let passwords: Vec<String> =
            roles.iter().map(|role| format!("ALTER ROLE {} PASSWORD {password}", ident(role))).collect();
        sql.extend(passwords);
        sql.push("CHECKPOINT".to_owned());
        self.run(to, "set the passwords of a copy", &sql).await
    }

    async fn run(&self, to: &ConnInfo, doing: &str, sql: &[String]) -> Result<(), StepError> {
        let session = connect(to, NAME).await?;
        let result = tokio::select! {
            result = async {
                for statement in sql {
                    execute(&session, doing, statement).await?;
                }
                Ok(())
            } => result,
            () = self.cancel.cancelled() => Err(interrupted()),
        };
        session.close().await;
        result
    }
}

fn interrupted() -> StepError {
    StepError::new(ErrorKind::Interrupted, "the rehearsal was stopped while a throwaway server was filled")
}
