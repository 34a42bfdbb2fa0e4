//! The throwaway servers: which are needed, how they are made, and how each is filled.
//!
//! Databases of the plan that lie on one real server get one copy together. Of a real server all databases that people
//! use are copied, since a cluster's dump takes all of them; its roles come with their passwords, but for those that the
//! plan connects as, which get one random password on all copies. Tablespaces are not copied: everything lies in the
//! copy's folder.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

use super::{Options, SECRET, addresses::Addresses, files, folder_of_servers, origins::Origin, sample};
use crate::{
    action::OutputValue,
    artifact::{DumpArtifact, DumpFormat, DumpScope},
    error::{ErrorKind, StepError},
    op::{Compat, Compress, CreateCluster, DumpOp, Expected, OnError, Op, Part, RestoreOp},
    perform::{self, PerformCx, Progress, detach, disk::free_space},
    plan::{Database, Plan},
    postgres::{
        ConnInfo, Environment, Session,
        connect::{connect, execute},
        quote::{ident, literal},
        rows::{rows, text},
    },
    quantity::bytes,
    receipt,
    secret::percent_encode,
    sql::FilterRules,
    survey,
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
    verifiers: Verifiers,
}

/// The verifiers that roles of copies got, by the role and the verifier it really has; empty when that is none or unknown.
type Verifiers = BTreeMap<(String, String), String>;

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
    if let Some((folder, free)) = free_space(&copier.servers) {
        let sizes = origins.iter().filter(|origin| origin.info.is_some()).map(Origin::bytes).collect();
        let room = Room { folder, free, sizes, share: options.sample };
        room.judge()?.into_iter().for_each(&mut *say);
    }
    let password_file = options.folder.join("password");
    files::write(&password_file, copier.password.expose_secret())?;
    let mut copied = Copied {
        databases: BTreeMap::new(),
        password_file,
        servers: BTreeMap::new(),
        sample: None,
        verifiers: Verifiers::new(),
    };
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

/// The room that copies need, and that there is.
struct Room {
    /// Where the copies lie.
    folder: String,
    /// Bytes that are free there.
    free: u64,
    /// Bytes of each server that is copied.
    sizes: Vec<u64>,
    /// Which share of the rows is copied; `None` = all.
    share: Option<f64>,
}

impl Room {
    /// Returns a warning when the disk may become full: what is restored takes as much again, and dumps lie beside it.
    ///
    /// # Errors
    /// [`ErrorKind::Resources`] when the copies alone do not fit.
    fn judge(&self) -> Result<Option<String>, StepError> {
        let (all, largest) = (self.sizes.iter().sum::<u64>(), self.sizes.iter().max().copied().unwrap_or_default());
        let whole = format!("{} are free in {}", bytes(self.free), self.folder);
        let copies = self.share.map_or(all, |share| part(all, share));
        if copies > self.free {
            let message = format!("the copies take up to {}, and {whole}", bytes(copies));
            return Err(StepError::new(ErrorKind::Resources, message).help(
                "make room there, copy less with --sample 10%, or let an empty server take a database's place with --empty NAME",
            ));
        }
        // Of a sample it is not known which tables are copied whole.
        let most = all.saturating_add(largest).saturating_add(largest / 4);
        Ok((most > self.free).then(|| format!("warning: the rehearsal takes up to {}, and {whole}", bytes(most))))
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "an estimate")]
fn part(bytes: u64, share: f64) -> u64 {
    (bytes as f64 * share) as u64
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
        let sizes = origin.bytes();
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
        self.detach(&list, &to, say).await?;
        self.let_in(origin, &to, &mut copied.verifiers).await?;
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
            if database.tables.is_none() {
                say(format!(
                    "{} {}: role {} may not enter it, so the copy does not have it",
                    origin.facts.label, database.name, origin.facts.user
                ));
                continue;
            }
            say(format!("  database {} ({})", database.name, bytes(database.bytes)));
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

    /// Cuts the copy off from other servers, whose real addresses its subscriptions and foreign servers have.
    async fn detach(&self, list: &str, to: &ConnInfo, say: &mut (dyn FnMut(String) + Send)) -> Result<(), StepError> {
        let session = connect(to, NAME).await?;
        let sql = "SELECT datname FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1";
        let databases = rows(&session, "list the databases of a copy", sql).await;
        session.close().await;
        for row in databases? {
            let database = text(&row, 0);
            let session = connect(&to.with_dbname(database), NAME).await?;
            for name in detach::subscriptions(&session).await? {
                say(format!("{list}: subscription {name} of {database} has neither publisher nor slot on the copy"));
            }
            for server in detach::user_mappings(&session).await? {
                say(format!("{list}: foreign server {server} of {database} has no user mapping on the copy"));
            }
            session.close().await;
        }
        Ok(())
    }

    /// Gives the roles that the plan connects as the password of the rehearsal.
    ///
    /// Two servers get the same verifier of it where the real ones have the same, so that a comparison of the copies
    /// finds what one of the real servers would.
    async fn let_in(&self, origin: &Origin, to: &ConnInfo, given: &mut Verifiers) -> Result<(), StepError> {
        let roles: BTreeSet<&String> = origin.users().chain([&origin.like.superuser]).collect();
        let real = match origin.info.as_ref().filter(|_| origin.facts.superuser) {
            Some(info) => verifiers(survey::connect_anywhere(info).await?, &roles).await?,
            None => BTreeMap::new(),
        };
        // Copies take no other; a server may be set to make md5 ones still.
        let mut sql = vec!["SET password_encryption = 'scram-sha-256'".to_owned()];
        for role in &roles {
            let key = ((*role).clone(), real.get(*role).cloned().unwrap_or_default());
            let password =
                given.get(&key).map_or_else(|| literal(self.password.expose_secret()), |known| literal(known));
            sql.push(format!("ALTER ROLE {} PASSWORD {password}", ident(role)));
        }
        sql.push("CHECKPOINT".to_owned());
        // By one session: a new one would have to know the new password.
        let session = connect(to, NAME).await?;
        for statement in &sql {
            execute(&session, "set the passwords of a copy", statement).await?;
        }
        for (role, made) in verifiers(session, &roles).await? {
            let real = real.get(&role).cloned().unwrap_or_default();
            given.insert((role, real), made);
        }
        Ok(())
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

/// Reads the password verifiers of roles, which only a superuser may; those without one are left out. Closes the session.
async fn verifiers(session: Session, roles: &BTreeSet<&String>) -> Result<BTreeMap<String, String>, StepError> {
    let list: Vec<String> = roles.iter().map(|role| literal(role)).collect();
    let sql = format!(
        "SELECT rolname, rolpassword FROM pg_catalog.pg_authid WHERE rolpassword IS NOT NULL AND rolname IN ({})",
        list.join(", ")
    );
    let found = rows(&session, "read the passwords of roles", &sql).await;
    session.close().await;
    Ok(found?.iter().map(|row| (text(row, 0).to_owned(), text(row, 1).to_owned())).collect())
}

fn interrupted() -> StepError {
    StepError::new(ErrorKind::Interrupted, "the rehearsal was stopped while a throwaway server was filled")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_and_what_may_not_is_told() {
        const GIB: u64 = 1 << 30;
        let room = |free, share| Room { folder: "/copies".to_owned(), free, sizes: vec![8 * GIB, GIB], share }.judge();
        assert_eq!(room(20 * GIB, None), Ok(None));
        let told = room(18 * GIB, None).unwrap().unwrap();
        assert_eq!(told, "warning: the rehearsal takes up to 19.0 GiB, and 18.0 GiB are free in /copies");
        let refused = room(8 * GIB, None).unwrap_err();
        assert_eq!(refused.message, "the copies take up to 9.0 GiB, and 8.0 GiB are free in /copies");
        assert_eq!(refused.kind, ErrorKind::Resources);
        assert!(room(8 * GIB, Some(0.1)).unwrap().is_some());
        assert!(room(GIB / 2, Some(0.1)).is_err());
    }
}
