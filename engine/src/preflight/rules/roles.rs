//! Roles, memberships and rights.

use super::{ALL, DUMPED, RESTORED};
use crate::preflight::rule::{Check, NO_TARGET, Pair, Pairs, Rule, Severity, list};

fn attributes(pair: &Pair<'_>) -> Result<String, &'static str> {
    let Some(target) = pair.target else { return Err(NO_TARGET) };
    if target.superuser {
        return Ok(String::new());
    }
    let bypass = if pair.source.version_num >= 90_500 { "rolbypassrls" } else { "false" };
    // What both servers have is not made.
    Ok(format!(
        "SELECT format('role %I', rolname), \
                concat_ws(', ', CASE WHEN rolsuper THEN 'SUPERUSER' END, \
                          CASE WHEN rolreplication THEN 'REPLICATION' END, CASE WHEN {bypass} THEN 'BYPASSRLS' END), \
                format('ALTER ROLE %I NOSUPERUSER NOREPLICATION{};', rolname) \
         FROM pg_roles WHERE (rolsuper OR rolreplication OR {bypass}) AND rolname !~ '^pg_' \
           AND rolname <> ALL ({}) ORDER BY 1",
        if bypass == "false" { "" } else { " NOBYPASSRLS" },
        list(&target.roles)
    ))
}

fn same_roles(pair: &Pair<'_>) -> Result<String, &'static str> {
    let Some(target) = pair.target else { return Err(NO_TARGET) };
    // The superuser of both is one and the same to the plan's author.
    let bootstrap = pair.bootstrap.iter();
    Ok(format!(
        "SELECT format('role %I', rolname), NULL, NULL FROM pg_roles \
         WHERE rolname = ANY ({}) AND rolname !~ '^pg_' AND NOT (oid = 10 AND rolname = ANY ({})) ORDER BY 1",
        list(&target.roles),
        list(bootstrap)
    ))
}

/// Returns the query for rights and owners whose role is gone.
fn dangling() -> String {
    "SELECT format('%s %s', kind, name), problem, NULL FROM ( \
       SELECT 'table' AS kind, c.oid::regclass::text AS name, format('owner %s', relowner) AS problem \
         FROM pg_class c WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') \
          AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = c.relowner) \
       UNION ALL SELECT 'function', p.oid::regprocedure::text, format('owner %s', proowner) \
         FROM pg_proc p WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = p.proowner) \
       UNION ALL SELECT 'schema', quote_ident(nspname), format('owner %s', nspowner) \
         FROM pg_namespace n WHERE NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = n.nspowner) \
       UNION ALL SELECT DISTINCT 'table', c.oid::regclass::text, format('rights of %s', a.role) \
         FROM pg_class c, LATERAL (SELECT grantee AS role FROM aclexplode(c.relacl) \
                                   UNION SELECT grantor FROM aclexplode(c.relacl)) a \
         WHERE c.relacl IS NOT NULL AND a.role <> 0 AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = a.role) \
       UNION ALL SELECT DISTINCT 'function', p.oid::regprocedure::text, format('rights of %s', a.grantee) \
         FROM pg_proc p, LATERAL aclexplode(p.proacl) a \
         WHERE p.proacl IS NOT NULL AND a.grantee <> 0 \
           AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = a.grantee) \
       UNION ALL SELECT DISTINCT 'schema', quote_ident(nspname), format('rights of %s', a.grantee) \
         FROM pg_namespace n, LATERAL aclexplode(n.nspacl) a \
         WHERE n.nspacl IS NOT NULL AND a.grantee <> 0 \
           AND NOT EXISTS (SELECT FROM pg_roles r WHERE r.oid = a.grantee)) x ORDER BY 1, 2"
        .into()
}

pub(super) static RULES: &[Rule] = &[
    Rule {
        code: "role_attributes",
        severity: Severity::Blocker,
        title: "roles with attributes that the target's role may not give",
        pairs: Pairs::Any,
        methods: DUMPED,
        check: Check::Source(attributes),
        why: "only a superuser gives SUPERUSER, and REPLICATION and BYPASSRLS only who has them: CREATE ROLE fails",
        fix: "filter the statements (`drop_role_attributes`), or let a superuser make the roles",
        link: "https://www.postgresql.org/docs/current/sql-createrole.html",
        untested: None,
    },
    Rule {
        code: "same_roles",
        severity: Severity::Note,
        title: "roles that the target has already",
        pairs: Pairs::Any,
        methods: DUMPED,
        check: Check::Source(same_roles),
        why: "CREATE ROLE fails for them, and their attributes and passwords are set to the source's",
        fix: "list the errors in `expected_errors`, or drop their statements by `filter: { reserved_roles: … }`",
        link: "https://www.postgresql.org/docs/current/app-pg-dumpall.html",
        untested: None,
    },
    Rule {
        code: "reserved_role_names",
        severity: Severity::Blocker,
        title: "roles whose names begin with pg_",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Source(|_| {
            Ok("SELECT format('role %I', rolname), NULL, format('ALTER ROLE %I RENAME TO %I;', rolname, 'x' || rolname) \
                FROM pg_roles WHERE rolname ~ '^pg_' AND oid >= 16384 ORDER BY 1"
                .into())
        }),
        why: "such names are the server's own since 9.6: CREATE ROLE fails",
        fix: "ALTER ROLE … RENAME TO …",
        link: "https://www.postgresql.org/docs/9.6/release-9-6.html",
        untested: Some("needs a source before 9.6"),
    },
    Rule {
        code: "md5_passwords",
        severity: Severity::Warning,
        title: "roles with an MD5 password",
        pairs: Pairs::To(14),
        methods: ALL,
        check: Check::Source(|_| {
            Ok("SELECT format('role %I', rolname), NULL, NULL FROM pg_authid WHERE rolpassword LIKE 'md5%' ORDER BY 1"
                .into())
        }),
        why: "since 14 new passwords and pg_hba.conf use SCRAM, with which an MD5 one does not log in; 18 warns of MD5, \
              and a later version will refuse it",
        fix: "SET password_encryption = 'scram-sha-256' and set each password anew (\\password in psql)",
        link: "https://www.postgresql.org/docs/current/auth-password.html",
        untested: None,
    },
    Rule {
        code: "createrole_roles",
        severity: Severity::Warning,
        title: "roles with CREATEROLE that are no superusers",
        pairs: Pairs::Into(16),
        methods: ALL,
        check: Check::Source(|_| {
            Ok("SELECT format('role %I', rolname), NULL, NULL FROM pg_roles \
                WHERE rolcreaterole AND NOT rolsuper AND rolname !~ '^pg_' ORDER BY 1"
                .into())
        }),
        why: "since 16 CREATEROLE administers only roles on which it has ADMIN OPTION",
        fix: "GRANT the roles it looks after TO it WITH ADMIN OPTION",
        link: "https://www.postgresql.org/docs/16/release-16.html",
        untested: None,
    },
    Rule {
        code: "noinherit_members",
        severity: Severity::Note,
        title: "members of roles that are NOINHERIT",
        pairs: Pairs::Into(16),
        methods: ALL,
        check: Check::Source(|_| {
            Ok("SELECT format('role %I', m.rolname), 'member of ' || string_agg(quote_ident(g.rolname), ', '), NULL \
                FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member JOIN pg_roles g ON g.oid = a.roleid \
                WHERE NOT m.rolinherit GROUP BY 1 ORDER BY 1"
                .into())
        }),
        why: "since 16 each grant says whether it is inherited: a later ALTER ROLE … INHERIT changes nothing any more",
        fix: "GRANT … WITH INHERIT TRUE where it is wanted",
        link: "https://www.postgresql.org/docs/16/release-16.html",
        untested: None,
    },
    Rule {
        code: "lost_grantors",
        severity: Severity::Warning,
        title: "memberships whose grantor is gone",
        pairs: Pairs::Any,
        methods: DUMPED,
        check: Check::Source(|_| {
            Ok("SELECT format('role %I', m.rolname), format('member of %I, granted by %s', r.rolname, a.grantor), \
                       format('REVOKE %I FROM %I; GRANT %I TO %I;', r.rolname, m.rolname, r.rolname, m.rolname) \
                FROM pg_auth_members a JOIN pg_roles m ON m.oid = a.member JOIN pg_roles r ON r.oid = a.roleid \
                WHERE NOT EXISTS (SELECT FROM pg_roles g WHERE g.oid = a.grantor) ORDER BY 1"
                .into())
        }),
        why: "16 keeps who granted a membership and needs that role: the grant becomes the restoring role's own, and an older \
              pg_dumpall writes a GRANTED BY that fails",
        fix: "grant the membership anew",
        link: "https://www.postgresql.org/docs/16/release-16.html",
        untested: None,
    },
    Rule {
        code: "dangling_roles",
        severity: Severity::Blocker,
        title: "owners and rights of roles that do not exist",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Each(|_| Ok(dangling())),
        why: "the dump names the role by its number: ALTER … OWNER TO and GRANT fail",
        fix: "ALTER … OWNER TO an existing role, REVOKE the rights (or create a role with that oid and REASSIGN OWNED)",
        link: "https://www.postgresql.org/docs/current/catalog-pg-shdepend.html",
        untested: None,
    },
    Rule {
        code: "public_may_create",
        severity: Severity::Note,
        title: "databases where everybody may create objects in the schema public",
        pairs: Pairs::Into(15),
        methods: RESTORED,
        check: Check::Each(|_| {
            Ok("SELECT 'schema public', NULL, 'REVOKE CREATE ON SCHEMA public FROM PUBLIC;' FROM pg_namespace n \
                WHERE n.nspname = 'public' AND EXISTS ( \
                    SELECT FROM aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) a \
                    WHERE a.grantee = 0 AND a.privilege_type = 'CREATE')"
                .into())
        }),
        why: "databases made by 15 and later no longer allow it; the dump keeps the source's right, and an application \
              that relies on it fails in a database that is made anew",
        fix: "REVOKE CREATE ON SCHEMA public FROM PUBLIC, and grant it to those who need it",
        link: "https://www.postgresql.org/docs/15/release-15.html",
        untested: None,
    },
];
