//! Bodies of functions.

use super::{ALL, RESTORED};
use crate::preflight::rule::{Check, Pair, Pairs, Rule, Severity};

/// Returns the query for functions that evaluate while data is restored or maintained, and that name tables,
/// functions or types of users without a schema.
///
/// Bodies are read by patterns, comments taken out. A name counts where only such an object can stand: after FROM, JOIN,
/// INTO, UPDATE or TABLE; before a parenthesis; after `::`. Functions that these call in turn are not read.
fn unqualified_names(pair: &Pair<'_>) -> String {
    let generated = if pair.from() >= 12 {
        // Until 14 the column itself depends on the function, since then its default.
        "UNION ALL SELECT d.refobjid, format('column %s.%I', a.attrelid::regclass, a.attname) \
         FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.objid AND a.attnum = d.objsubid AND a.attgenerated <> '' \
         WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_proc'::regclass \
         UNION ALL SELECT d.refobjid, format('column %s.%I', a.attrelid::regclass, a.attname) \
         FROM pg_depend d JOIN pg_attrdef f ON f.oid = d.objid \
              JOIN pg_attribute a ON a.attrelid = f.adrelid AND a.attnum = f.adnum AND a.attgenerated <> '' \
         WHERE d.classid = 'pg_attrdef'::regclass AND d.refclassid = 'pg_proc'::regclass"
    } else {
        ""
    };
    // A body of BEGIN ATOMIC was resolved when the function was made.
    let text_only = if pair.from() >= 14 { "AND p.prosqlbody IS NULL" } else { "" };
    format!(
        r#"WITH used(fn, at) AS (
             SELECT d.refobjid, format('index %s', d.objid::regclass)
             FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind IN ('i', 'I')
             WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_proc'::regclass
             UNION ALL
             SELECT d.refobjid, format('constraint %I on %s', k.conname,
                                       CASE k.conrelid WHEN 0 THEN k.contypid::regtype::text
                                            ELSE k.conrelid::regclass::text END)
             FROM pg_depend d JOIN pg_constraint k ON k.oid = d.objid
             WHERE d.classid = 'pg_constraint'::regclass AND d.refclassid = 'pg_proc'::regclass
             UNION ALL
             SELECT d.refobjid, format('materialized view %s', c.oid::regclass)
             FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class c ON c.oid = r.ev_class AND c.relkind = 'm'
             WHERE d.classid = 'pg_rewrite'::regclass AND d.refclassid = 'pg_proc'::regclass
             {generated}),
           body(fn, text) AS (
             SELECT p.oid, lower(regexp_replace(regexp_replace(p.prosrc, '--[^\n]*', ' ', 'g'), '/\*.*?\*/', ' ', 'g'))
             FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
             WHERE p.oid IN (SELECT fn FROM used) AND p.oid >= 16384 AND l.lanname NOT IN ('c', 'internal') {text_only}
               AND NOT EXISTS (SELECT FROM unnest(p.proconfig) g WHERE g LIKE 'search_path=%')),
           relation(fn, name, nsp) AS (
             SELECT b.fn, c.relname::text, c.relnamespace
             FROM body b, regexp_matches(b.text, '\y(?:from|join|into|update|table)\s+(?:only\s+)?"?([a-z_][a-z0-9_$]*)\M"?(?!\s*[.(])', 'g') m
                  JOIN pg_class c ON lower(c.relname) = m[1] AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
             WHERE NOT EXISTS (SELECT FROM pg_class s WHERE s.relname = m[1] AND s.relnamespace = 'pg_catalog'::regnamespace)),
           called(fn, name, nsp) AS (
             SELECT b.fn, f.proname::text, f.pronamespace
             FROM body b, regexp_matches(b.text, '(?:^|[^.a-z0-9_$"])"?([a-z_][a-z0-9_$]*)\M"?\s*\(', 'g') m
                  JOIN pg_proc f ON lower(f.proname) = m[1]
             WHERE NOT EXISTS (SELECT FROM pg_proc s WHERE s.proname = m[1] AND s.pronamespace = 'pg_catalog'::regnamespace)),
           cast_to(fn, name, nsp) AS (
             SELECT b.fn, t.typname::text, t.typnamespace
             FROM body b, regexp_matches(b.text, '::\s*"?([a-z_][a-z0-9_$]*)\M"?(?!\s*[.])', 'g') m
                  JOIN pg_type t ON lower(t.typname) = m[1]
             WHERE NOT EXISTS (SELECT FROM pg_type s WHERE s.typname = m[1] AND s.typnamespace = 'pg_catalog'::regnamespace)),
           named AS (SELECT * FROM relation UNION SELECT * FROM called UNION SELECT * FROM cast_to)
           SELECT format('function %s', x.fn::regprocedure),
                  format('names %s without a schema; evaluated by %s',
                         string_agg(DISTINCT x.name, ', '),
                         (SELECT string_agg(DISTINCT u.at, ', ') FROM used u WHERE u.fn = x.fn)),
                  format('ALTER FUNCTION %s SET search_path = pg_catalog, %s, pg_temp;', x.fn::regprocedure,
                         string_agg(DISTINCT quote_ident(n.nspname), ', '))
           FROM named x JOIN pg_namespace n ON n.oid = x.nsp
           WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp_)'
           GROUP BY x.fn ORDER BY 1"#
    )
}

pub(super) static RULES: &[Rule] = &[
    Rule {
        code: "unqualified_names",
        severity: Severity::Blocker,
        title: "functions under indexes, constraints, generated columns or materialized views that name objects without \
                a schema",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Each(|pair| Ok(unqualified_names(pair))),
        why: "a restore runs with an empty search_path, and since 17 so do CREATE INDEX, REFRESH, ANALYZE and their kin: \
              the name is not found then",
        fix: "ALTER FUNCTION … SET search_path, or write the schema into its body",
        link: "https://www.postgresql.org/docs/17/release-17.html",
        untested: None,
    },
    Rule {
        code: "extract_in_functions",
        severity: Severity::Note,
        title: "functions that use EXTRACT",
        pairs: Pairs::Into(14),
        methods: ALL,
        check: Check::Each(|_| {
            Ok(concat!(
                r"SELECT format('function %s', p.oid::regprocedure), NULL, NULL
                 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
                 WHERE p.prosrc ~* '\yextract\s*\(' AND l.lanname NOT IN ('c', 'internal') AND ",
                own_schema!("n"),
                " AND ",
                no_member!("pg_proc", "p.oid"),
                " ORDER BY 1"
            )
            .into())
        }),
        why: "EXTRACT returns numeric since 14, double precision before: results are exact, and types may differ",
        fix: "cast to double precision where a caller relies on it, or call date_part",
        link: "https://www.postgresql.org/docs/14/release-14.html",
        untested: None,
    },
    Rule {
        code: "lc_collate_in_functions",
        severity: Severity::Warning,
        title: "functions that read the settings lc_collate or lc_ctype",
        pairs: Pairs::Into(16),
        methods: ALL,
        check: Check::Each(|_| {
            Ok(concat!(
                r"SELECT format('function %s', p.oid::regprocedure), NULL, NULL
                 FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
                 WHERE p.prosrc ~* '(\yshow\s+|current_setting\s*\(\s*'')lc_(collate|ctype)\y'
                   AND l.lanname NOT IN ('c', 'internal') AND ",
                own_schema!("n"),
                " ORDER BY 1"
            )
            .into())
        }),
        why: "16 has removed both settings: the call fails",
        fix: "read datcollate and datctype from pg_database",
        link: "https://www.postgresql.org/docs/16/release-16.html",
        untested: None,
    },
    Rule {
        code: "deferred_triggers",
        severity: Severity::Note,
        title: "deferrable triggers, which run as the role that queued them since 18",
        pairs: Pairs::Into(18),
        methods: ALL,
        check: Check::Each(|_| {
            Ok("SELECT format('trigger %I on %s', t.tgname, t.tgrelid::regclass), NULL, NULL \
                FROM pg_trigger t WHERE NOT t.tgisinternal AND t.tgdeferrable ORDER BY 1"
                .into())
        }),
        why: "before 18 an AFTER trigger ran as the role that was active when it fired; now as the one that was active \
              when it was queued",
        fix: "check triggers that look at current_user, or whose rights come from SET ROLE",
        link: "https://www.postgresql.org/docs/18/release-18.html",
        untested: None,
    },
    Rule {
        code: "legacy_plpgsql_handler",
        severity: Severity::Warning,
        title: "functions plpgsql_call_handler or plpgsql_validator outside of pg_catalog",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Each(|_| {
            Ok("SELECT format('function %s', oid::regprocedure), NULL, \
                       format('DROP FUNCTION %s;', oid::regprocedure) FROM pg_proc \
                WHERE proname IN ('plpgsql_call_handler', 'plpgsql_validator') \
                  AND pronamespace <> 'pg_catalog'::regnamespace ORDER BY 1"
                .into())
        }),
        why: "they are left from before 9.0 and point at a library file: pg_upgrade refuses where it is not found",
        fix: "DROP FUNCTION …",
        link: "https://www.postgresql.org/docs/current/pgupgrade.html",
        untested: None,
    },
    Rule {
        code: "c_functions",
        severity: Severity::Warning,
        title: "functions in C that belong to no extension",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Each(|_| {
            Ok(concat!(
                "SELECT format('function %s', p.oid::regprocedure), p.probin, NULL \
                 FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang \
                 WHERE l.lanname = 'c' AND p.oid >= 16384 AND ",
                no_member!("pg_proc", "p.oid"),
                " ORDER BY 1"
            )
            .into())
        }),
        why: "CREATE FUNCTION loads the library: it must be installed for the target's version, and only a superuser may",
        fix: "install the library there, or drop the function",
        link: "https://www.postgresql.org/docs/current/xfunc-c.html",
        untested: None,
    },
];
