//! Who may use databases: closed in one transaction, opened again in one.

use std::collections::{BTreeMap, BTreeSet};

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

/// Returns who may use these databases now, without the text of their privileges; one that is gone is left out.
pub(super) async fn current(names: &[&str], session: &Session) -> Result<Vec<Access>, StepError> {
    let (grants, set) = (connect_grants(session).await?, defaults(session).await?);
    let sql = "SELECT datname, datconnlimit FROM pg_catalog.pg_database";
    let limits = rows(session, "list the databases", sql).await?;
    let mut found = Vec::new();
    for name in names {
        let Some(row) = limits.iter().find(|row| text(row, 0) == *name) else { continue };
        let limit = text(row, 1);
        let connection_limit = limit.parse().map_err(|error| {
            StepError::new(ErrorKind::Internal, format!("the connection limit `{limit}` is no number: {error}"))
        })?;
        let value = |role: Option<&str>| {
            let own = |found: &&Defaults| found.database.as_deref() == Some(*name) && found.role.as_deref() == role;
            set.iter().find(own).and_then(|found| found.read_only.clone())
        };
        let here = |database: &Option<String>| database.as_ref().is_none_or(|database| database == name);
        let roles: BTreeSet<&String> =
            set.iter().filter(|found| here(&found.database)).filter_map(|found| found.role.as_ref()).collect();
        let own = |role: &&String| RoleDefault { role: (*role).clone(), read_only: value(Some(role)) };
        found.push(Access {
            name: (*name).to_owned(),
            acl: None,
            connect: grants.iter().filter(|(database, _)| database == name).map(|(_, grant)| grant.clone()).collect(),
            connection_limit,
            read_only: value(None),
            roles: roles.iter().map(own).collect(),
        });
    }
    Ok(found)
}

/// Refuses databases that are not any more as they were when the step was listed: what is brought back would be old.
pub(super) async fn refuse_changed(before: &[Access], session: &Session) -> Result<(), StepError> {
    let names: Vec<&str> = before.iter().map(|access| access.name.as_str()).collect();
    let all = current(&names, session).await?;
    for access in before {
        let same = of(&all, &access.name).is_some_and(|now| {
            now.connect.iter().collect::<BTreeSet<_>>() == access.connect.iter().collect()
                && now.connection_limit == access.connection_limit
                && now.read_only == access.read_only
                && now.roles == access.roles
        });
        if !same {
            let message = format!("who may use {} has changed since this step was listed", on_one_line(&access.name));
            return Err(StepError::new(ErrorKind::Refused, message)
                .help("apply with `--rerun STEP`, which looks again and notes how everything is now"));
        }
    }
    Ok(())
}

/// Closes the databases to everybody but pgplan's role and those that are allowed, in a transaction that is left open;
/// returns how they are then.
pub(super) async fn close(
    op: &FenceOp,
    before: &[Access],
    me: &Me,
    session: &Session,
) -> Result<Vec<Access>, StepError> {
    let roles = rows(session, "list the roles", "SELECT rolname, rolsuper FROM pg_catalog.pg_roles ORDER BY 1").await?;
    let names = roles.iter().filter(|row| !flag(row, 1)).map(|row| text(row, 0));
    // Superusers need no right to connect.
    let staying: Vec<&str> = names.filter(|name| *name == me.role || any_matches(&op.allow_roles, name)).collect();
    let limit = op.connection_limit.or((me.superuser && staying.is_empty()).then_some(0));
    let names: Vec<&str> = before.iter().map(|access| access.name.as_str()).collect();
    execute(session, "begin", "BEGIN").await?;
    let all = current(&names, session).await?;
    for access in before {
        let Some(now) = of(&all, &access.name) else {
            let message = format!("{} has no database {}", op.database, on_one_line(&access.name));
            return Err(StepError::new(ErrorKind::Object, message));
        };
        for statement in closing(access, now, &staying, limit) {
            if let Err(error) = execute(session, "close the databases", &statement).await {
                let error = error.detail(format!("statement: {}", on_one_line(&statement)));
                return Err(match error.kind {
                    ErrorKind::Permission => error.help(
                        "fence as a superuser, or as the owner of the databases who may also change the roles that \
                         have a `default_transaction_read_only` of their own",
                    ),
                    _ => error,
                });
            }
        }
    }
    current(&names, session).await
}

/// Returns the statements that are missing for a database to be closed: a fence that stands is not written anew.
fn closing(before: &Access, now: &Access, staying: &[&str], limit: Option<i32>) -> Vec<String> {
    let mut sql = Vec::new();
    let database = ident(&before.name);
    let grantees: BTreeSet<Option<&str>> = now.connect.iter().map(|grant| grant.grantee.as_deref()).collect();
    let others: Vec<&Option<&str>> =
        grantees.iter().filter(|grantee| grantee.is_none_or(|name| !staying.contains(&name))).collect();
    for other in &others {
        sql.push(format!("REVOKE CONNECT ON DATABASE {database} FROM {} CASCADE", grantee(**other)));
    }
    // Whom one who stays has let in stays out with everybody else, and he lets nobody in meanwhile.
    let holds =
        |role: &&&str| now.connect.iter().any(|grant| grant.grantable && grant.grantee.as_deref() == Some(**role));
    let handing_on: Vec<&&str> = staying.iter().filter(holds).collect();
    for role in &handing_on {
        sql.push(format!("REVOKE GRANT OPTION FOR CONNECT ON DATABASE {database} FROM {} CASCADE", ident(role)));
    }
    // What others have granted to those who stay goes with the right of those others.
    let all_again = !others.is_empty() || !handing_on.is_empty();
    for role in staying.iter().filter(|role| all_again || !grantees.contains(&Some(**role))) {
        sql.push(format!("GRANT CONNECT ON DATABASE {database} TO {}", ident(role)));
    }
    let on = |value: Option<&str>| value == Some("on");
    if !on(now.read_only.as_deref()) {
        sql.push(format!("ALTER DATABASE {database} SET {SETTING} = on"));
    }
    for role in before.roles.iter().map(|own| own.role.as_str()).filter(|role| !on(own_default(now, role))) {
        sql.push(format!("ALTER ROLE {} IN DATABASE {database} SET {SETTING} = on", ident(role)));
    }
    if let Some(limit) = limit.filter(|limit| now.connection_limit != *limit) {
        sql.push(format!("ALTER DATABASE {database} CONNECTION LIMIT {limit}"));
    }
    sql
}

/// Returns what a fence is taken for of which nothing is known any more but how the database was before.
fn presumed(before: &Access) -> Access {
    let on = || Some("on".to_owned());
    Access {
        connect: Vec::new(),
        connection_limit: 0,
        read_only: on(),
        roles: before.roles.iter().map(|own| RoleDefault { role: own.role.clone(), read_only: on() }).collect(),
        ..before.clone()
    }
}

/// Returns how a database is to be when its fence is taken away, and what others have changed in it meanwhile.
///
/// What is still as the fence left it becomes what it was before; everything else is the will of others.
fn merged(before: &Access, closed: &Access, now: &Access) -> (Access, Vec<String>) {
    let mut theirs = Vec::new();
    let shown = &before.name;
    let connect = {
        let all = [&before.connect, &closed.connect, &now.connect].map(|grants| by_grantor(grants));
        let keys: BTreeSet<_> = all.iter().flat_map(BTreeMap::keys).copied().collect();
        let mut connect = Vec::new();
        for key in keys {
            let [before, closed, now] = [0, 1, 2].map(|at| all[at].get(&key).copied());
            let (grantor, whom) = key;
            let grantable = settle(before, closed, now, || {
                let whom = whom.unwrap_or("PUBLIC");
                let what = match now {
                    None => "took away",
                    Some(_) => "gave",
                };
                theirs.push(format!("others {what} the right of {whom} to connect to {shown} (grantor {grantor})"));
            });
            connect.extend(grantable.map(|grantable| Grant {
                grantor: grantor.to_owned(),
                grantee: whom.map(str::to_owned),
                grantable,
            }));
        }
        connect
    };
    let limits = (before.connection_limit, closed.connection_limit, now.connection_limit);
    let connection_limit = settle(limits.0, limits.1, limits.2, || {
        theirs.push(format!("others set the connection limit of {shown} to {} (it was {})", limits.2, limits.0));
    });
    let told = |whose: &str, now: Option<&str>| match now {
        Some(value) => format!("others set `{SETTING}` of {whose} to {value}"),
        None => format!("others reset `{SETTING}` of {whose}"),
    };
    let values = [before, closed, now].map(|access| access.read_only.as_deref());
    let read_only = settle(values[0], values[1], values[2], || theirs.push(told(shown, values[2])));
    let mut roles = Vec::new();
    for RoleDefault { role, .. } in &before.roles {
        let values = [before, closed, now].map(|access| own_default(access, role));
        let whose = format!("{role} in {shown}");
        let read_only = settle(values[0], values[1], values[2], || theirs.push(told(&whose, values[2])));
        roles.push(RoleDefault { role: role.clone(), read_only: read_only.map(str::to_owned) });
    }
    let access = Access {
        name: before.name.clone(),
        acl: before.acl.clone(),
        connect,
        connection_limit,
        read_only: read_only.map(str::to_owned),
        roles,
    };
    (access, theirs.iter().map(|line| on_one_line(line)).collect())
}

/// Returns what something is to be: as before, if it is as the fence left it, else as it is, which may be news.
fn settle<T: PartialEq>(before: T, closed: T, now: T, news: impl FnOnce()) -> T {
    if now == closed || now == before {
        return before;
    }
    news();
    now
}

/// Returns who may connect by whose grant, and whether he may hand it on.
fn by_grantor(grants: &[Grant]) -> BTreeMap<(&str, Option<&str>), bool> {
    let mut found = BTreeMap::new();
    for Grant { grantor, grantee, grantable } in grants {
        *found.entry((grantor.as_str(), grantee.as_deref())).or_default() |= *grantable;
    }
    found
}

fn own_default<'a>(access: &'a Access, role: &str) -> Option<&'a str> {
    access.roles.iter().find(|own| own.role == role).and_then(|own| own.read_only.as_deref())
}

fn of<'a>(all: &'a [Access], name: &str) -> Option<&'a Access> {
    all.iter().find(|access| access.name == name)
}

/// Takes what others have changed behind a standing fence for what was before it, so that closing again loses nothing;
/// returns what that is.
pub(super) async fn adopt(
    before: &mut [Access],
    closed: &[Access],
    session: &Session,
) -> Result<Vec<String>, StepError> {
    let names: Vec<String> = before.iter().map(|access| access.name.clone()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let all = current(&names, session).await?;
    let mut lines = Vec::new();
    for access in before {
        let (Some(closed), Some(now)) = (of(closed, &access.name), of(&all, &access.name)) else { continue };
        let (merged, theirs) = merged(access, closed, now);
        *access = merged;
        lines.extend(theirs.into_iter().map(|line| {
            format!("{line} while it was fenced: it is closed again, and that comes back when the fence goes")
        }));
    }
    Ok(lines)
}

/// Opens the databases again as they were; returns what could not be brought back or was changed by others.
///
/// `closed` is how the fence left them, as far as that is known.
pub(super) async fn open(
    op: &UnfenceOp,
    closed: &[Access],
    me: &Me,
    session: &Session,
) -> Result<Vec<String>, StepError> {
    execute(session, "begin", "BEGIN").await?;
    let done = open_each(op, closed, me, session).await;
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

async fn open_each(op: &UnfenceOp, closed: &[Access], me: &Me, session: &Session) -> Result<Vec<String>, StepError> {
    let list = |sql: &'static str| rows(session, "list roles and databases", sql);
    let owners = list("SELECT datname, pg_catalog.pg_get_userbyid(datdba) FROM pg_catalog.pg_database").await?;
    let roles = list("SELECT rolname FROM pg_catalog.pg_roles").await?;
    let roles: BTreeSet<String> = roles.iter().map(|row| text(row, 0).to_owned()).collect();
    let names: Vec<&str> = op.before.iter().map(|access| access.name.as_str()).collect();
    let all = current(&names, session).await?;
    let mut warnings = Vec::new();
    for before in &op.before {
        let shown = on_one_line(&before.name);
        let owner = owners.iter().find(|row| text(row, 0) == before.name).map(|row| text(row, 1));
        let (Some(owner), Some(now)) = (owner, of(&all, &before.name)) else {
            warnings.push(format!("the database {shown} is gone: there is nothing to open"));
            continue;
        };
        let one = One { op, me, session, before, owner, roles: &roles };
        let closed = of(closed, &before.name).map_or_else(|| presumed(before), Clone::clone);
        // Of the fence's own state nothing is missed that is gone with its role.
        let closed = Access { connect: one.all_here(&closed.connect, &mut Vec::new()), ..closed };
        let connect = one.all_here(&before.connect, &mut warnings);
        let wanted = Access { connect, roles: one.roles_here(&mut warnings), ..before.clone() };
        let (wanted, theirs) = merged(&wanted, &closed, now);
        warnings.extend(theirs.into_iter().map(|line| format!("{line}, which stays")));
        one.connect(&wanted, &mut warnings).await?;
        if op.own() {
            one.exact_acl(&mut warnings).await?;
        }
        one.read_only(now, &wanted).await?;
        if now.connection_limit != wanted.connection_limit {
            let sql = format!("ALTER DATABASE {} CONNECTION LIMIT {}", ident(&before.name), wanted.connection_limit);
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
    async fn connect(&self, wanted: &Access, warnings: &mut Vec<String>) -> Result<(), StepError> {
        let database = ident(&self.before.name);
        let wanted: BTreeSet<Grant> = wanted.connect.iter().cloned().collect();
        let have = self.grants().await?;
        let stays =
            |grant: &Grant| wanted.iter().any(|own| (&own.grantor, &own.grantee) == (&grant.grantor, &grant.grantee));
        // What the fence has granted to those who stayed.
        for grant in have.iter().filter(|grant| !stays(grant)) {
            let sql = format!("REVOKE CONNECT ON DATABASE {database} FROM {}", grantee(grant.grantee.as_deref()));
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

    /// Returns the roles with a setting of their own that this server has.
    fn roles_here(&self, warnings: &mut Vec<String>) -> Vec<RoleDefault> {
        let (here, gone): (Vec<&RoleDefault>, Vec<&RoleDefault>) =
            self.before.roles.iter().partition(|own| self.roles.contains(&own.role));
        let told =
            |own: &RoleDefault| format!("the role {} had a setting in {} and is gone", own.role, self.before.name);
        warnings.extend(gone.into_iter().map(|own| on_one_line(&told(own))));
        here.into_iter().cloned().collect()
    }

    fn all_here(&self, grants: &[Grant], warnings: &mut Vec<String>) -> Vec<Grant> {
        grants.iter().filter_map(|grant| self.here(grant, warnings)).collect()
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
    async fn read_only(&self, now: &Access, wanted: &Access) -> Result<(), StepError> {
        let database = ident(&self.before.name);
        let whose = format!("ALTER DATABASE {database}");
        self.set(&whose, now.read_only.as_deref(), wanted.read_only.as_deref()).await?;
        for RoleDefault { role, read_only } in &wanted.roles {
            let whose = format!("ALTER ROLE {} IN DATABASE {database}", ident(role));
            self.set(&whose, own_default(now, role), read_only.as_deref()).await?;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn access(limit: i32, read_only: Option<&str>, connect: &[(&str, Option<&str>, bool)]) -> Access {
        let grant = |(grantor, grantee, grantable): &(&str, Option<&str>, bool)| Grant {
            grantor: (*grantor).to_owned(),
            grantee: grantee.map(str::to_owned),
            grantable: *grantable,
        };
        Access {
            name: "app".to_owned(),
            connect: connect.iter().map(grant).collect(),
            connection_limit: limit,
            read_only: read_only.map(str::to_owned),
            ..Access::default()
        }
    }

    #[test]
    fn only_what_the_fence_did_is_undone() {
        let before = access(-1, None, &[("o", None, false), ("o", Some("stay"), false), ("o", Some("w"), true)]);
        let closed = access(0, Some("on"), &[("o", Some("me"), false), ("o", Some("stay"), false)]);
        assert_eq!(merged(&before, &closed, &closed), (before.clone(), vec![]));
        assert_eq!(merged(&before, &closed, &before), (before.clone(), vec![]));
        let unknown = access(0, Some("on"), &[]);
        assert_eq!(merged(&before, &presumed(&before), &unknown), (before.clone(), vec![]));
        let now = access(5, Some("off"), &[("o", Some("me"), false), ("o", Some("w"), false), ("o", Some("n"), false)]);
        let (wanted, theirs) = merged(&before, &closed, &now);
        let kept = access(5, Some("off"), &[("o", None, false), ("o", Some("n"), false), ("o", Some("w"), false)]);
        assert_eq!(wanted, kept);
        assert_eq!(
            theirs,
            [
                "others gave the right of n to connect to app (grantor o)",
                "others took away the right of stay to connect to app (grantor o)",
                "others gave the right of w to connect to app (grantor o)",
                "others set the connection limit of app to 5 (it was -1)",
                "others set `default_transaction_read_only` of app to off",
            ]
        );
    }
}
