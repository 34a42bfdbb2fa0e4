//! What the roles of the plan may do: reading everything in the source, making everything in the target.

use super::{ALL, DUMPED, RESTORED};
use crate::preflight::rule::{Check, NO_TARGET, Pair, Pairs, Rule, Severity, list};

/// Returns the query for what only a superuser may create.
fn superuser_objects(pair: &Pair<'_>) -> String {
    if !pair.restricted() {
        return String::new();
    }
    let everything = if pair.from() >= 10 {
        "UNION ALL SELECT format('publication %I', pubname), 'FOR ALL TABLES' FROM pg_publication WHERE puballtables"
    } else {
        ""
    };
    format!(
        "SELECT name, detail, NULL FROM ( \
           SELECT format('event trigger %I', evtname) AS name, NULL AS detail FROM pg_event_trigger t WHERE {} \
           UNION ALL SELECT format('function %s', p.oid::regprocedure), 'in ' || l.lanname \
             FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang \
             WHERE p.oid >= 16384 AND NOT l.lanpltrusted AND {} \
           UNION ALL SELECT format('language %I', lanname), NULL FROM pg_language l \
             WHERE l.oid >= 16384 AND NOT l.lanpltrusted AND {} \
           UNION ALL SELECT format('cast (%s AS %s)', castsource::regtype, casttarget::regtype), 'without a function' \
             FROM pg_cast c WHERE c.oid >= 16384 AND c.castmethod = 'b' AND {} \
           UNION ALL SELECT format('text search template %I', tmplname), NULL FROM pg_ts_template t \
             WHERE t.oid >= 16384 AND {} \
           UNION ALL SELECT format('foreign data wrapper %I', fdwname), NULL FROM pg_foreign_data_wrapper w WHERE {} \
           UNION ALL SELECT format('operator class %I', opcname), NULL FROM pg_opclass o WHERE o.oid >= 16384 AND {} \
           {everything}) x ORDER BY 1",
        no_member!("pg_event_trigger", "t.oid"),
        no_member!("pg_proc", "p.oid"),
        no_member!("pg_language", "l.oid"),
        no_member!("pg_cast", "c.oid"),
        no_member!("pg_ts_template", "t.oid"),
        no_member!("pg_foreign_data_wrapper", "w.oid"),
        no_member!("pg_opclass", "o.oid"),
    )
}

/// Returns the query for owners that the target's role cannot become.
fn owners(pair: &Pair<'_>) -> Result<String, &'static str> {
    let Some(target) = pair.target else { return Err(NO_TARGET) };
    if target.superuser {
        return Ok(String::new());
    }
    let becomes = pair.becomes.as_ref().ok_or("the target does not say which roles its role may become")?;
    Ok(format!(
        "SELECT format('role %I', r.rolname), format('owns %s objects', count(*)), NULL FROM ( \
           SELECT relowner AS owner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
             WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND {} AND {} \
           UNION ALL SELECT proowner FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE {} AND {} \
           UNION ALL SELECT nspowner FROM pg_namespace n WHERE {} AND {} AND nspname <> 'public' \
           UNION ALL SELECT defaclrole FROM pg_default_acl) o JOIN pg_roles r ON r.oid = o.owner \
         WHERE r.rolname <> ALL ({}) GROUP BY 1 ORDER BY 1",
        own_schema!("n"),
        no_member!("pg_class", "c.oid"),
        own_schema!("n"),
        no_member!("pg_proc", "p.oid"),
        own_schema!("n"),
        no_member!("pg_namespace", "n.oid"),
        list(becomes),
    ))
}

pub(super) static RULES: &[Rule] = &[
    Rule {
        code: "cannot_read",
        severity: Severity::Blocker,
        title: "tables and sequences that the source's role may not read",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Each(|pair| {
            if pair.source.superuser {
                return Ok(String::new());
            }
            Ok(concat!(
                "SELECT format(CASE c.relkind WHEN 'S' THEN 'sequence %I.%I' ELSE 'table %I.%I' END, \
                               n.nspname, c.relname), NULL, \
                        format(CASE c.relkind WHEN 'S' THEN 'GRANT SELECT ON SEQUENCE %I.%I TO %I;' \
                                    ELSE 'GRANT SELECT ON %I.%I TO %I;' END, n.nspname, c.relname, current_user) \
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE c.relkind IN ('r', 'p', 'm', 'S') AND c.relpersistence <> 't' \
                   AND NOT (has_schema_privilege(n.oid, 'USAGE') \
                            AND CASE c.relkind WHEN 'S' THEN has_sequence_privilege(c.oid, 'SELECT') \
                                ELSE has_table_privilege(c.oid, 'SELECT') END) AND ",
                own_schema!("n"),
                " ORDER BY 1"
            )
            .into())
        }),
        why: "pg_dump locks and reads every table: it ends at the first that it may not",
        fix: "GRANT SELECT, or pg_read_all_data from 14 on, or dump as the owner",
        link: "https://www.postgresql.org/docs/current/app-pgdump.html",
        untested: None,
    },
    Rule {
        code: "row_security",
        severity: Severity::Blocker,
        title: "tables whose rows the source's role sees only in part",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Each(|pair| {
            if pair.from() < 10 && pair.source.version_num < 90_500 {
                return Ok(String::new());
            }
            Ok("SELECT format('table %s', c.oid::regclass), \
                       CASE WHEN c.relforcerowsecurity THEN 'FORCE ROW LEVEL SECURITY' END, \
                       format('ALTER ROLE %I BYPASSRLS;', current_user) \
                FROM pg_class c, (SELECT rolsuper OR rolbypassrls AS free FROM pg_roles WHERE rolname = current_user) r \
                WHERE c.relkind IN ('r', 'p') AND c.relrowsecurity AND NOT r.free \
                  AND (c.relforcerowsecurity OR NOT pg_has_role(c.relowner, 'USAGE')) ORDER BY 1"
                .into())
        }),
        why: "pg_dump ends with `query would be affected by row-level security policy`",
        fix: "dump as a superuser, as a role with BYPASSRLS, or as the owner",
        link: "https://www.postgresql.org/docs/current/ddl-rowsecurity.html",
        untested: None,
    },
    Rule {
        code: "passwords_unreadable",
        severity: Severity::Warning,
        title: "a source whose role may not read passwords",
        pairs: Pairs::Any,
        methods: DUMPED,
        check: Check::Source(|_| {
            Ok("SELECT format('role %I', current_user), 'may not read pg_authid', NULL \
                WHERE NOT has_table_privilege('pg_catalog.pg_authid', 'SELECT')"
                .into())
        }),
        why: "pg_dumpall fails without --no-role-passwords, and with it the roles of the target have no passwords",
        fix: "dump as a superuser, or set the passwords in the target",
        link: "https://www.postgresql.org/docs/current/app-pg-dumpall.html",
        untested: None,
    },
    Rule {
        code: "superuser_objects",
        severity: Severity::Blocker,
        title: "objects that only a superuser may create, for a target whose role is none",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Each(|pair| if pair.target.is_none() { Err(NO_TARGET) } else { Ok(superuser_objects(pair)) }),
        why: "their CREATE is refused, and what depends on them fails, too",
        fix: "let a superuser make them before the restore, or leave them out of the dump",
        link: "https://www.postgresql.org/docs/current/role-attributes.html",
        untested: None,
    },
    Rule {
        code: "owners_not_settable",
        severity: Severity::Blocker,
        title: "owners that the target's role cannot become",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Each(owners),
        why: "ALTER … OWNER TO and ALTER DEFAULT PRIVILEGES FOR ROLE are refused to a role that is no member of the owner",
        fix: "GRANT the owner TO the target's role (WITH SET TRUE from 16 on), or dump with --no-owner",
        link: "https://www.postgresql.org/docs/current/sql-set-role.html",
        untested: None,
    },
    Rule {
        code: "read_only_target",
        severity: Severity::Blocker,
        title: "a target that takes no writes",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Known(|pair| {
            let target = pair.target.ok_or(NO_TARGET)?;
            let read_only = target.settings.get("transaction_read_only").is_some_and(|value| value == "on");
            let object = || crate::preflight::report::Object::named("the target", &target.label);
            Ok(read_only.then(object).into_iter().collect())
        }),
        why: "it is a standby, or default_transaction_read_only is on for the role, the database or the server",
        fix: "give the primary's address, or ALTER … RESET default_transaction_read_only",
        link: "https://www.postgresql.org/docs/current/runtime-config-client.html",
        untested: None,
    },
    Rule {
        code: "closed_databases",
        severity: Severity::Warning,
        title: "databases that allow no connections",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Source(|pair| {
            // Databases whose removal was cut have the connection limit -2.
            let cut = if pair.from() >= 13 { "AND datconnlimit <> -2" } else { "" };
            Ok(format!(
                "SELECT format('database %I', datname), NULL, \
                        format('ALTER DATABASE %I ALLOW_CONNECTIONS true;', datname) \
                 FROM pg_database WHERE NOT datallowconn AND datname <> 'template0' {cut} ORDER BY 1"
            ))
        }),
        why: "pg_dumpall skips them without a word; pg_upgrade refuses",
        fix: "ALTER DATABASE … ALLOW_CONNECTIONS true, or drop it",
        link: "https://www.postgresql.org/docs/current/sql-alterdatabase.html",
        untested: None,
    },
    Rule {
        code: "invalid_databases",
        severity: Severity::Warning,
        title: "databases whose removal was cut",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Source(|_| {
            Ok("SELECT format('database %I', datname), NULL, format('DROP DATABASE %I;', datname) \
                FROM pg_database WHERE datconnlimit = -2 ORDER BY 1"
                .into())
        }),
        why: "nobody can connect to them, and they cannot be dumped",
        fix: "DROP DATABASE …",
        link: "https://www.postgresql.org/docs/current/sql-dropdatabase.html",
        untested: None,
    },
];
