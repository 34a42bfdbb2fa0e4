//! One statement of a dump, and what a filter or a restore asks about it.

use super::dump::Entry;
use super::lexer::Quoting;
use super::object;
use super::redact;
use super::roles;
use super::token::{TokenKind, Tokens};

/// A statement as it stands in the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statement<'a> {
    /// From its first token to its semicolon.
    pub text: &'a [u8],
    /// Byte of the input at which it begins.
    pub offset: u64,
    /// Line of the input at which it begins, counted from 1.
    pub line: u64,
    /// The archive entry it belongs to, when the dump names it.
    pub entry: Option<&'a Entry>,
    pub(super) quoting: Quoting,
}

/// What a statement does, as far as a restore must know.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum StatementKind {
    /// `CREATE ROLE`, `CREATE USER`, `CREATE GROUP`.
    CreateRole,
    /// `ALTER ROLE` and its synonyms, also `… IN DATABASE d SET …`.
    AlterRole,
    /// `DROP ROLE` and its synonyms.
    DropRole,
    /// `GRANT role TO role`, `REVOKE role FROM role`.
    Membership,
    /// `GRANT … ON …`, `REVOKE … ON …`.
    Privileges,
    /// `ALTER DEFAULT PRIVILEGES`.
    DefaultPrivileges,
    /// `ALTER … OWNER TO`.
    Owner,
    /// `CREATE`, `ALTER` or `DROP` `USER MAPPING`.
    UserMapping,
    /// `SET SESSION AUTHORIZATION`, `SET ROLE` and their `RESET`.
    SessionAuthorization,
    /// `COMMENT ON`.
    Comment,
    /// `SECURITY LABEL`.
    SecurityLabel,
    /// `CREATE DATABASE`.
    CreateDatabase(String),
    /// `ALTER DATABASE`.
    AlterDatabase(String),
    /// `DROP DATABASE`.
    DropDatabase(String),
    /// `SET`, `RESET` or `SELECT set_config(…)` alone.
    Set,
    /// `BEGIN`, `START TRANSACTION`.
    Begin,
    /// `COMMIT`, `END`.
    Commit,
    /// `ROLLBACK`, `ABORT`.
    Rollback,
    /// `COPY`.
    Copy,
    /// `INSERT`.
    Insert,
    /// `SELECT` that is no setting.
    Select,
    /// Any other `CREATE`.
    Create,
    /// Any other `ALTER`.
    Alter,
    /// Any other `DROP`.
    Drop,
    /// Anything else.
    Other,
}

/// A change of a setting for the session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The setting's name in lower case.
    pub name: String,
    /// The value, unquoted; a list as it is written.
    pub value: String,
}

impl<'a> Statement<'a> {
    /// Returns a statement that stands alone, as if it began the input.
    #[must_use]
    pub fn new(text: &'a [u8]) -> Self {
        Self { text, offset: 0, line: 1, entry: None, quoting: Quoting::Plain }
    }

    pub(super) fn tokens(&self) -> Tokens<'a> {
        Tokens::new(self.text, self.quoting)
    }

    /// Splits up the part that tells what the statement is about; all of it, unless it may hold much data.
    fn head(&self) -> Tokens<'a> {
        Tokens::head(self.text, self.quoting, 64)
    }

    /// Returns what the statement does.
    #[must_use]
    pub fn kind(&self) -> StatementKind {
        kind(&self.head())
    }

    /// Returns the setting that the statement changes for the session (`SET name = …`, `SELECT set_config(…)`).
    #[must_use]
    pub fn setting(&self) -> Option<Setting> {
        setting(&self.head())
    }

    /// Returns whether the server refuses the statement inside a transaction block. Where that depends on what the
    /// server holds (`DROP SUBSCRIPTION` of one that has a slot), true.
    #[must_use]
    pub fn needs_autocommit(&self) -> bool {
        needs_autocommit(&self.tokens())
    }

    /// Returns the object concerned, for people: `table public.orders`, `role aptible`, `trigger t on public.orders`.
    #[must_use]
    pub fn object(&self) -> Option<String> {
        object::describe(&self.head())
    }

    /// Returns the names of all roles that the statement refers to as roles, in their order.
    #[must_use]
    pub fn roles(&self) -> Vec<String> {
        roles::uses(&self.tokens()).into_iter().filter_map(|one| one.name).collect()
    }

    /// Returns the statement on one line of at most about `most` characters, with passwords, connection strings and
    /// the values of an `INSERT` left out.
    #[must_use]
    pub fn redacted(&self, most: usize) -> String {
        redact::redacted(self.text, self.quoting, most)
    }
}

fn kind(t: &Tokens<'_>) -> StatementKind {
    let name = |at: usize| t.name(at).unwrap_or_default();
    let first = t.bytes(0).to_ascii_uppercase();
    let role = t.any(1, &["ROLE", "USER", "GROUP"]);
    match first.as_slice() {
        _ if t.are(1, "USER MAPPING") => StatementKind::UserMapping,
        b"CREATE" if role => StatementKind::CreateRole,
        b"ALTER" if role => StatementKind::AlterRole,
        b"DROP" if role => StatementKind::DropRole,
        b"CREATE" if t.are(1, "DATABASE") => StatementKind::CreateDatabase(name(2)),
        b"DROP" if t.are(1, "DATABASE") => StatementKind::DropDatabase(name(2 + t.skip(2, "IF EXISTS"))),
        b"GRANT" | b"REVOKE" => {
            let privileges = t.find(1, &["ON", "TO", "FROM"]).is_some_and(|at| t.are(at, "ON"));
            if privileges { StatementKind::Privileges } else { StatementKind::Membership }
        }
        b"ALTER" if t.are(1, "DEFAULT PRIVILEGES") => StatementKind::DefaultPrivileges,
        b"ALTER" if t.find(2, &["OWNER TO"]).is_some() => StatementKind::Owner,
        b"ALTER" if t.are(1, "DATABASE") => StatementKind::AlterDatabase(name(2)),
        b"SET" | b"RESET" if t.any(1, &["SESSION AUTHORIZATION", "ROLE", "LOCAL ROLE", "SESSION ROLE"]) => {
            StatementKind::SessionAuthorization
        }
        b"SET" if t.any(1, &["SESSION SESSION AUTHORIZATION", "LOCAL SESSION AUTHORIZATION"]) => {
            StatementKind::SessionAuthorization
        }
        b"SET" if t.are(1, "TRANSACTION") || t.are(1, "CONSTRAINTS") => StatementKind::Other,
        b"SET" | b"RESET" => StatementKind::Set,
        b"SELECT" if setting(t).is_some() => StatementKind::Set,
        b"COMMENT" => StatementKind::Comment,
        b"SECURITY" => StatementKind::SecurityLabel,
        b"BEGIN" | b"START" => StatementKind::Begin,
        b"COMMIT" | b"END" if !t.are(1, "PREPARED") => StatementKind::Commit,
        b"ROLLBACK" | b"ABORT" if !t.any(1, &["PREPARED", "TO", "TRANSACTION TO", "WORK TO"]) => {
            StatementKind::Rollback
        }
        b"COPY" => StatementKind::Copy,
        b"INSERT" => StatementKind::Insert,
        b"SELECT" => StatementKind::Select,
        b"CREATE" => StatementKind::Create,
        b"ALTER" => StatementKind::Alter,
        b"DROP" => StatementKind::Drop,
        _ => StatementKind::Other,
    }
}

fn value(t: &Tokens<'_>, at: usize) -> String {
    t.literal(at).unwrap_or_else(|| String::from_utf8_lossy(t.bytes(at)).into_owned())
}

fn setting(t: &Tokens<'_>) -> Option<Setting> {
    if t.are(0, "SELECT") {
        let at = if t.are(1, "pg_catalog") && t.is_symbol(2, b'.') { 3 } else { 1 };
        let call = t.are(at, "set_config") && t.is_symbol(at + 1, b'(') && t.is_symbol(at + 3, b',');
        let whole = t.is_symbol(at + 7, b')') && t.len() <= at + 9;
        return (call && whole)
            .then(|| Setting { name: value(t, at + 2).to_ascii_lowercase(), value: value(t, at + 4) });
    }
    if !t.are(0, "SET") {
        return None;
    }
    let mut at = if t.any(1, &["SESSION", "LOCAL"]) { 2 } else { 1 };
    if t.are(at, "TIME ZONE") {
        return Some(Setting { name: "timezone".into(), value: value(t, at + 2) });
    }
    let mut name = t.name(at)?;
    while t.is_symbol(at + 1, b'.') {
        name = format!("{name}.{}", t.name(at + 2)?);
        at += 2;
    }
    if !(t.are(at + 1, "TO") || t.is_symbol(at + 1, b'=')) {
        return None;
    }
    let end = if t.is_symbol(t.len() - 1, b';') { t.len() - 1 } else { t.len() };
    let value = match end.checked_sub(at + 2)? {
        0 => return None,
        1 => value(t, at + 2),
        _ => String::from_utf8_lossy(&t.text[t.span(at + 2..end)]).into_owned(),
    };
    Some(Setting { name: name.to_ascii_lowercase(), value })
}

fn needs_autocommit(t: &Tokens<'_>) -> bool {
    let has = |keywords: &str| t.find(1, &[keywords]).is_some();
    // An option such as (CONCURRENTLY) or (connect = false), anywhere.
    let option = |name: &str, values: &[&str]| {
        (1..t.len()).any(|at| {
            let next = if t.is_symbol(at + 1, b'=') { at + 2 } else { at + 1 };
            t.are(at, name) && (t.any(next, values) || t.literal(next).is_some_and(|v| values.contains(&v.as_str())))
        })
    };
    let off = |name: &str| option(name, &["false", "off", "0", "FALSE", "OFF"]);
    if t.any(0, &["VACUUM", "ALTER SYSTEM", "DISCARD ALL", "COMMIT PREPARED", "ROLLBACK PREPARED"]) {
        return true;
    }
    if t.any(0, &["CREATE DATABASE", "DROP DATABASE", "CREATE TABLESPACE", "DROP TABLESPACE", "DROP SUBSCRIPTION"]) {
        return true;
    }
    if t.are(0, "CREATE SUBSCRIPTION") {
        return !off("connect") && !off("create_slot");
    }
    if t.are(0, "ALTER SUBSCRIPTION") {
        return has("REFRESH") || (has("PUBLICATION") && !off("refresh"));
    }
    if t.any(0, &["CREATE INDEX", "CREATE UNIQUE INDEX", "DROP INDEX"]) {
        return t.any(2, &["CONCURRENTLY", "INDEX CONCURRENTLY"]);
    }
    if t.are(0, "REINDEX") {
        return t.find(1, &["DATABASE", "SYSTEM", "SCHEMA", "CONCURRENTLY"]).is_some()
            || (t.is_symbol(1, b'(') && (2..8).any(|at| t.are(at, "CONCURRENTLY")));
    }
    if t.are(0, "ALTER DATABASE") {
        return has("SET TABLESPACE");
    }
    if t.are(0, "ALTER TABLE") {
        return has("DETACH PARTITION") && has("CONCURRENTLY");
    }
    t.are(0, "CLUSTER") && !matches!(t.get(1).map(|t| t.kind), Some(TokenKind::Word | TokenKind::Quoted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(sql: &str) -> Statement<'_> {
        Statement::new(sql.as_bytes())
    }

    #[test]
    fn kinds() {
        for (sql, expected) in [
            ("CREATE USER \"x\";", StatementKind::CreateRole),
            ("CREATE USER MAPPING FOR x SERVER s;", StatementKind::UserMapping),
            ("GRANT a TO b GRANTED BY c;", StatementKind::Membership),
            ("GRANT SELECT ON TABLE public.\"to\" TO b;", StatementKind::Privileges),
            ("ALTER TABLE public.t OWNER TO x;", StatementKind::Owner),
            ("drop database if exists \"My DB\";", StatementKind::DropDatabase("My DB".into())),
            ("SELECT pg_catalog.set_config('search_path', '', false);", StatementKind::Set),
            ("SELECT pg_catalog.setval('s', 1);", StatementKind::Select),
            ("SET SESSION AUTHORIZATION 'x';", StatementKind::SessionAuthorization),
            ("ROLLBACK TO SAVEPOINT a;", StatementKind::Other),
            ("/* c */ COMMIT;", StatementKind::Commit),
        ] {
            assert_eq!(statement(sql).kind(), expected, "{sql}");
        }
    }

    #[test]
    fn settings() {
        let of = |sql| statement(sql).setting().map(|s| (s.name, s.value));
        let pair = |name: &str, value: &str| Some((name.to_owned(), value.to_owned()));
        assert_eq!(of("SET standard_conforming_strings = off;"), pair("standard_conforming_strings", "off"));
        assert_eq!(of("SET LOCAL My.Var TO 'it''s'"), pair("my.var", "it's"));
        assert_eq!(of("SELECT pg_catalog.set_config('search_path', '', false);"), pair("search_path", ""));
        assert_eq!(of("SET search_path = a, b;"), pair("search_path", "a, b"));
        assert_eq!(of("SELECT set_config('a', 'b', false), 1;"), None);
        assert_eq!(of("SET SESSION AUTHORIZATION 'x';"), None);
    }

    #[test]
    fn statements_outside_of_transactions() {
        for sql in [
            "CREATE DATABASE x;",
            "ALTER DATABASE x SET TABLESPACE y;",
            "VACUUM;",
            "CREATE UNIQUE INDEX CONCURRENTLY i ON t (a);",
            "REINDEX (VERBOSE, CONCURRENTLY) TABLE t;",
            "REINDEX INDEX CONCURRENTLY i;",
            "CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p;",
            "ALTER TABLE a DETACH PARTITION b CONCURRENTLY;",
            "ALTER SYSTEM SET a = 1;",
            "CLUSTER;",
        ] {
            assert!(statement(sql).needs_autocommit(), "{sql}");
        }
        for sql in [
            "ALTER DATABASE x SET work_mem = '1MB';",
            "CREATE INDEX concurrently_i ON t (a);",
            "CREATE SUBSCRIPTION s CONNECTION '' PUBLICATION p WITH (connect = false, slot_name = 's');",
            "CLUSTER t USING i;",
            "CREATE TABLE vacuum (a int);",
        ] {
            assert!(!statement(sql).needs_autocommit(), "{sql}");
        }
    }
}
