//! Who may use databases: closed in one transaction, opened again in one.

use std::collections::BTreeSet;

use super::Me;
use crate::{
    error::{ErrorKind, StepError},
    facts::Defaults,
    op::fence::{Access, FenceOp, Grant, RoleDefault, UnfenceOp},
    pattern::any_matches,
    postgres::{
        Session,
        connect::execute,
        quote::{ident, literal, on_one_line},
        rows::{first, flag, rows, text},
    },
    survey::{connect_grants, defaults},
};

const SETTING: &str = "default_transaction_read_only";

/// Refuses databases that are not any more as they were when the step was listed: what is brought back would be old.
pub(super) async fn refuse_changed(before: &[Access], session: &Session) -> Result<(), StepError> {
    let (grants, set) = (connect_grants(session).await?, defaults(session).await?);
    let limits =
        rows(session, "list the databases", "SELECT datname, datconnlimit FROM pg_catalog.pg_database").await?;
    for access in before {
        let of = |(name, grant): &(String, Grant)| (*name == access.name).then(|| grant.clone());
        let connect: BTreeSet<Grant> = grants.iter().filter_map(of).collect();
        let limit = limits.iter().find(|row| text(row, 0) == access.name).and_then(|row| text(row, 1).parse().ok());
        let here = |database: &Option<String>| database.as_ref().is_none_or(|name| *name == access.name);
        let roles: BTreeSet<&String> =
            set.iter().filter(|found| here(&found.database)).filter_map(|found| found.role.as_ref()).collect();
        let value = |role: Option<&str>| {
            let own =
                |found: &&Defaults| found.database.as_ref() == Some(&access.name) && found.role.as_deref() == role;
            set.iter().find(own).and_then(|found| found.read_only.as_deref())
        };
        let same = connect == access.connect.iter().cloned().collect()
            && limit == Some(access.connection_limit)
            && value(None) == access.read_only.as_deref()
            && roles == access.roles.iter().map(|own| &own.role).collect()
            && access.roles.iter().all(|own| value(Some(&own.role)) == own.read_only.as_deref());
        if !same {
            let message = format!("who may use {} has changed since this step was listed", on_one_line(&access.name));
            return Err(StepError::new(ErrorKind::Refused, message)
                .help("apply with `--rerun STEP`, which looks again and notes how everything is now"));
        }
    }
    Ok(())
}

/// Closes the databases to everybody but pgplan's role and those that are allowed.
pub(super) async fn close(op: &FenceOp, before: &[Access], me: &Me, session: &Session) -> Result<(), StepError> {
    let roles = rows(session, "list the roles", "SELECT rolname, rolsuper FROM pg_catalog.pg_roles ORDER BY 1").await?;
    let names = roles.iter().filter(|row| !flag(row, 1)).map(|row| text(row, 0));
    // Superusers need no right to connect.
    let staying: Vec<&str> = names.filter(|name| *name == me.role || any_matches(&op.allow_roles, name)).collect();
    let limit = op.connection_limit.or((me.superuser && staying.is_empty()).then_some(0));
    let sql = closing(before, &staying, limit, session).await?;
    if sql.is_empty() {
        return Ok(());
    }
    let sql = std::iter::once("BEGIN".to_owned()).chain(sql).chain(["COMMIT".to_owned()]).collect::<Vec<_>>();
    for statement in &sql {
        if let Err(error) = execute(session, "close the databases", statement).await {
            execute(session, "roll back", "ROLLBACK").await?;
            let error = error.detail(format!("statement: {}", on_one_line(statement)));
            return Err(match error.kind {
                ErrorKind::Permission => error.help(
                    "fence as a superuser, or as the owner of the databases who may also change the roles that have a \
                     `default_transaction_read_only` of their own",
                ),
                _ => error,
            });
        }
    }
    Ok(())
}

/// Returns the statements that are missing for the databases to be closed: a fence that stands is not written anew.
async fn closing(
    before: &[Access],
    staying: &[&str],
    limit: Option<i32>,
    session: &Session,
) -> Result<Vec<String>, StepError> {
    let (grants, set) = (connect_grants(session).await?, defaults(session).await?);
    let limits = "SELECT datname, datconnlimit FROM pg_catalog.pg_database";
    let limits = rows(session, "list the databases", limits).await?;
    let mut sql = Vec::new();
    for access in before {
        let database = ident(&access.name);
        let grants: Vec<&Grant> =
            grants.iter().filter(|(name, _)| *name == access.name).map(|(_, grant)| grant).collect();
        let grantees: BTreeSet<Option<&str>> = grants.iter().map(|grant| grant.grantee.as_deref()).collect();
        let others: Vec<&Option<&str>> =
            grantees.iter().filter(|grantee| grantee.is_none_or(|name| !staying.contains(&name))).collect();
        for other in &others {
            sql.push(format!("REVOKE CONNECT ON DATABASE {database} FROM {} CASCADE", grantee(**other)));
        }
        // What others have granted to those who stay goes with the right of those others.
        for role in staying.iter().filter(|role| !others.is_empty() || !grantees.contains(&Some(**role))) {
            sql.push(format!("GRANT CONNECT ON DATABASE {database} TO {}", ident(role)));
        }
        let is_on = |role: Option<&str>| {
            set.iter().any(|found| {
                found.database.as_ref() == Some(&access.name)
                    && found.role.as_deref() == role
                    && found.read_only.as_deref() == Some("on")
            })
        };
        if !is_on(None) {
            sql.push(format!("ALTER DATABASE {database} SET {SETTING} = on"));
        }
        for role in access.roles.iter().map(|own| own.role.as_str()).filter(|role| !is_on(Some(*role))) {
            sql.push(format!("ALTER ROLE {} IN DATABASE {database} SET {SETTING} = on", ident(role)));
        }
        let now = limits.iter().find(|row| text(row, 0) == access.name).and_then(|row| text(row, 1).parse().ok());
        if let Some(limit) = limit.filter(|limit| now != Some(*limit)) {
            sql.push(format!("ALTER DATABASE {database} CONNECTION LIMIT {limit}"));
        }
    }
    Ok(sql)
}

/// Opens the databases again as they were; returns what could not be brought back or was changed by others.
pub(super) async fn open(op: &UnfenceOp, me: &Me, session: &Session) -> Result<Vec<String>, StepError> {
    execute(session, "begin", "BEGIN").await?;
    let done = open_each(op, me, session).await;
    match done {
        Ok(warnings) => {
            execute(session, "commit", "COMMIT").await?;
            Ok(warnings)
        }
        Err(error) => {
            if !session.is_closed() {
                execute(session, "roll back", "ROLLBACK").await?;
            }
            Err(error)
        }
    }
}

async fn open_each(op: &UnfenceOp, me: &Me, session: &Session) -> Result<Vec<String>, StepError> {
    let list = |sql: &'static str| rows(session, "list roles and databases", sql);
    let databases =
        list("SELECT datname, pg_catalog.pg_get_userbyid(datdba), datconnlimit FROM pg_catalog.pg_database");
    let databases = databases.await?;
    let roles = list("SELECT rolname FROM pg_catalog.pg_roles").await?;
    let roles: BTreeSet<String> = roles.iter().map(|row| text(row, 0).to_owned()).collect();
    let mut warnings = Vec::new();
    for before in &op.before {
        let shown = on_one_line(&before.name);
        let Some(now) = databases.iter().find(|row| text(row, 0) == before.name) else {
            warnings.push(format!("the database {shown} is gone: there is nothing to open"));
            continue;
        };
        let one = One { op, me, session, before, owner: text(now, 1), roles: &roles };
        one.connect(&mut warnings).await?;
        if op.own() {
            one.exact_acl(&mut warnings).await?;
        }
        one.read_only(&mut warnings).await?;
        if text(now, 2).parse() != Ok(before.connection_limit) {
            let sql = format!("ALTER DATABASE {} CONNECTION LIMIT {}", ident(&before.name), before.connection_limit);
            execute(session, "set the connection limit", &sql).await?;
        }
    }
    Ok(warnings)
}

/// One database to be opened.
struct One<'a> {
    op: &'a UnfenceOp,
    me: &'a Me,
    session: &'a Session,
    before: &'a Access,
    owner: &'a str,
    roles: &'a BTreeSet<String>,
}

impl One<'_> {
    async fn grants(&self) -> Result<BTreeSet<Grant>, StepError> {
        let all = connect_grants(self.session).await?;
        Ok(all.into_iter().filter(|(name, _)| *name == self.before.name).map(|(_, grant)| grant).collect())
    }

    /// Brings back who may connect.
    async fn connect(&self, warnings: &mut Vec<String>) -> Result<(), StepError> {
        let database = ident(&self.before.name);
        let wanted: BTreeSet<Grant> =
            self.before.connect.iter().filter_map(|grant| self.here(grant, warnings)).collect();
        for grant in self.grants().await?.difference(&wanted).filter(|grant| grant.grantor == self.owner) {
            let sql =
                format!("REVOKE CONNECT ON DATABASE {database} FROM {} CASCADE", grantee(grant.grantee.as_deref()));
            execute(self.session, "take back the right to connect", &sql).await?;
        }
        // Who hands the right on must have it first, so each round brings one link of the chain.
        loop {
            let have = self.grants().await?;
            let may_grant = |grant: &&Grant| {
                let holds = |own: &Grant| own.grantable && own.grantee.as_deref() == Some(grant.grantor.as_str());
                grant.grantor == self.owner || have.iter().any(holds)
            };
            let missing: Vec<&Grant> = wanted.difference(&have).collect();
            let next: Vec<&Grant> = missing.iter().copied().filter(may_grant).collect();
            let mut moved = false;
            for grant in &next {
                moved |= self.grant(grant, warnings).await?;
            }
            if !moved {
                let left = missing.iter().filter(|grant| !next.contains(grant));
                warnings.extend(left.map(|grant| {
                    let whom = grant.grantee.as_deref().unwrap_or("PUBLIC");
                    let place = on_one_line(&format!("{whom} to {}", self.before.name));
                    format!("the right of {place} to connect cannot be given back: {} lost his", grant.grantor)
                }));
                return Ok(());
            }
        }
    }

    /// Returns a grant as it can be on this server, which may lack roles when it is not the fenced one.
    fn here(&self, grant: &Grant, warnings: &mut Vec<String>) -> Option<Grant> {
        if let Some(name) = grant.grantee.as_ref().filter(|name| !self.roles.contains(*name)) {
            warnings.push(on_one_line(&format!("the role {name} could connect to {} and is gone", self.before.name)));
            return None;
        }
        let foreign = !self.op.own() || !self.roles.contains(&grant.grantor);
        Some(if foreign { Grant { grantor: self.owner.to_owned(), ..grant.clone() } } else { grant.clone() })
    }

    /// Grants the right to connect as its grantor did; returns whether that was possible.
    async fn grant(&self, grant: &Grant, warnings: &mut Vec<String>) -> Result<bool, StepError> {
        let mut sql = format!(
            "GRANT CONNECT ON DATABASE {} TO {}{}",
            ident(&self.before.name),
            grantee(grant.grantee.as_deref()),
            if grant.grantable { " WITH GRANT OPTION" } else { "" }
        );
        if grant.grantor != self.owner {
            sql = format!("SET LOCAL ROLE {}; {sql}; RESET ROLE", ident(&grant.grantor));
        }
        execute(self.session, "set a savepoint", "SAVEPOINT grant_again").await?;
        let done = execute(self.session, "give back the right to connect", &sql).await;
        let end = if done.is_ok() { "RELEASE" } else { "ROLLBACK TO" };
        execute(self.session, "end the savepoint", &format!("{end} SAVEPOINT grant_again")).await?;
        match done {
            Ok(()) => Ok(true),
            Err(error) => {
                warnings.push(format!("{error}: {}", on_one_line(&sql)));
                Ok(false)
            }
        }
    }

    /// Makes the list of privileges what it was, letter by letter: GRANT cannot bring back NULL or an order.
    async fn exact_acl(&self, warnings: &mut Vec<String>) -> Result<(), StepError> {
        let name = literal(&self.before.name);
        let wanted = self.before.acl.as_deref().map_or_else(|| "NULL".to_owned(), literal);
        let sql = format!(
            "SELECT datacl::text IS NOT DISTINCT FROM {wanted} FROM pg_catalog.pg_database WHERE datname = {name}"
        );
        if first(self.session, "compare the privileges", &sql).await?.as_deref() == Some("t") {
            return Ok(());
        }
        let shown = on_one_line(&self.before.name);
        let explode = |acl: &str| {
            format!("SELECT * FROM pg_catalog.aclexplode(coalesce({acl}, pg_catalog.acldefault('d', datdba)))")
        };
        let (now, then) = (explode("datacl"), explode(&format!("{wanted}::aclitem[]")));
        let same = format!("NOT EXISTS ({now} EXCEPT {then}) AND NOT EXISTS ({then} EXCEPT {now})");
        let sql = format!("SELECT {same} FROM pg_catalog.pg_database WHERE datname = {name}");
        execute(self.session, "set a savepoint", "SAVEPOINT exact").await?;
        let answer = first(self.session, "compare the privileges", &sql).await;
        if answer.is_err() {
            // A role that is named there is gone.
            execute(self.session, "end the savepoint", "ROLLBACK TO SAVEPOINT exact").await?;
        }
        match answer {
            Ok(Some(yes)) if yes == "t" && self.me.superuser => {
                let sql =
                    format!("UPDATE pg_catalog.pg_database SET datacl = {wanted}::aclitem[] WHERE datname = {name}");
                execute(self.session, "bring back the privileges", &sql).await
            }
            Ok(Some(yes)) if yes == "t" => {
                warnings.push(format!(
                    "the privileges of {shown} mean what they meant, and are written differently: only a superuser can \
                     bring back `{}`",
                    on_one_line(self.before.acl.as_deref().unwrap_or("NULL"))
                ));
                Ok(())
            }
            _ => {
                let was = on_one_line(self.before.acl.as_deref().unwrap_or("the default"));
                warnings
                    .push(format!("others changed the privileges of {shown} meanwhile, which stays; they were {was}"));
                Ok(())
            }
        }
    }

    /// Brings back whether sessions write by default.
    async fn read_only(&self, warnings: &mut Vec<String>) -> Result<(), StepError> {
        let now = defaults(self.session).await?;
        let here = |role: Option<&str>| {
            let found = now
                .iter()
                .find(|found| found.database.as_ref() == Some(&self.before.name) && found.role.as_deref() == role);
            found.and_then(|found| found.read_only.as_deref())
        };
        let database = ident(&self.before.name);
        let whose = format!("ALTER DATABASE {database}");
        self.set(&whose, here(None), self.before.read_only.as_deref()).await?;
        for RoleDefault { role, read_only } in &self.before.roles {
            if !self.roles.contains(role) {
                warnings
                    .push(on_one_line(&format!("the role {role} had a setting in {} and is gone", self.before.name)));
                continue;
            }
            let whose = format!("ALTER ROLE {} IN DATABASE {database}", ident(role));
            self.set(&whose, here(Some(role)), read_only.as_deref()).await?;
        }
        Ok(())
    }

    async fn set(&self, whose: &str, now: Option<&str>, wanted: Option<&str>) -> Result<(), StepError> {
        let sql = match wanted {
            _ if now == wanted => return Ok(()),
            Some(value) => format!("{whose} SET {SETTING} = {}", literal(value)),
            None => format!("{whose} RESET {SETTING}"),
        };
        execute(self.session, "bring back a setting", &sql).await
    }
}

fn grantee(name: Option<&str>) -> String {
    name.map_or_else(|| "PUBLIC".to_owned(), ident)
}
