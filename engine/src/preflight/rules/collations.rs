//! Collations and locales: versions that have moved on, and names that the target lacks.

use super::{ALL, RESTORED};
use crate::preflight::rule::{Check, NO_TARGET, Pair, Pairs, Rule, Severity, list};

/// Collations that columns and indexes of users use, as `used(oid)`.
const USED: &str = "used(oid) AS ( \
    SELECT a.attcollation FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid \
    WHERE a.attrelid >= 16384 AND a.attnum > 0 AND a.attcollation <> 0 AND c.relkind IN ('r', 'p', 'm', 'f', 'i', 'I') \
    UNION SELECT unnest(i.indcollation::oid[]) FROM pg_index i WHERE i.indexrelid >= 16384 \
    UNION SELECT typcollation FROM pg_type WHERE oid >= 16384 AND typcollation <> 0)";

fn missing(pair: &Pair<'_>) -> Result<String, &'static str> {
    let there = pair.collations.as_ref().ok_or(NO_TARGET)?;
    Ok(format!(
        "WITH {USED} SELECT format('collation %I', c.collname), NULL, NULL \
         FROM used JOIN pg_collation c ON c.oid = used.oid \
         WHERE c.collnamespace = 'pg_catalog'::regnamespace AND c.collname <> ALL ({}) ORDER BY 1",
        list(there)
    ))
}

fn no_icu(pair: &Pair<'_>) -> Result<String, &'static str> {
    let there = pair.collations.as_ref().ok_or(NO_TARGET)?;
    if pair.from() < 10 || there.iter().any(|name| name.ends_with("-x-icu")) {
        return Ok(String::new());
    }
    let database = if pair.from() >= 15 {
        "UNION ALL SELECT format('database %I', datname), 'its default collation', NULL FROM pg_database \
         WHERE datlocprovider = 'i' AND datname = current_database()"
    } else {
        ""
    };
    Ok(format!(
        "SELECT format('collation %I.%I', n.nspname, c.collname), NULL, NULL \
         FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace \
         WHERE c.oid >= 16384 AND c.collprovider = 'i' {database} ORDER BY 1"
    ))
}

fn locales(pair: &Pair<'_>) -> Result<String, &'static str> {
    let there = pair.locales.as_ref().ok_or(NO_TARGET)?;
    Ok(format!(
        "SELECT format('database %I', datname), \
                CASE datcollate WHEN datctype THEN datcollate ELSE datcollate || ', ' || datctype END, NULL \
         FROM pg_database WHERE datname = ANY ({}) \
           AND (lower(replace(datcollate, '-', '')) <> ALL ({there}) OR lower(replace(datctype, '-', '')) <> ALL ({there})) \
         ORDER BY 1",
        list(pair.databases),
        there = list(there)
    ))
}

pub(super) static RULES: &[Rule] = &[
    Rule {
        code: "collations_missing",
        severity: Severity::Blocker,
        title: "collations in use that the target's server does not have",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Each(missing),
        why: "CREATE TABLE or CREATE INDEX with COLLATE fails",
        fix: "install the locale on the target's machine and call pg_import_system_collations, or use another collation",
        link: "https://www.postgresql.org/docs/current/collation.html",
        untested: None,
    },
    Rule {
        code: "icu_missing",
        severity: Severity::Blocker,
        title: "collations of the ICU library, for a target built without it",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Each(no_icu),
        why: "CREATE COLLATION and CREATE DATABASE with the provider icu fail",
        fix: "use a target that is built with ICU",
        link: "https://www.postgresql.org/docs/current/collation.html",
        untested: None,
    },
    Rule {
        code: "locales_missing",
        severity: Severity::Warning,
        title: "databases with a locale that the target does not list",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Source(locales),
        why: "CREATE DATABASE fails when the operating system of the target does not have it",
        fix: "install the locale there (localedef, locale-gen) and restart the server, or choose another in create_database",
        link: "https://www.postgresql.org/docs/current/locale.html",
        untested: None,
    },
    Rule {
        code: "collation_versions",
        severity: Severity::Warning,
        title: "collations in use whose version has changed under the source",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Each(|pair| {
            if pair.from() < 10 {
                return Ok(String::new());
            }
            Ok(format!(
                "WITH {USED} SELECT format('collation %I.%I', n.nspname, c.collname), \
                        format('made with %s, now %s', c.collversion, coalesce(pg_collation_actual_version(c.oid), '-')), \
                        format('ALTER COLLATION %I.%I REFRESH VERSION; -- after REINDEX', n.nspname, c.collname) \
                 FROM used JOIN pg_collation c ON c.oid = used.oid JOIN pg_namespace n ON n.oid = c.collnamespace \
                 WHERE c.collprovider <> 'd' AND c.collversion IS NOT NULL \
                   AND c.collversion IS DISTINCT FROM pg_collation_actual_version(c.oid) ORDER BY 1"
            ))
        }),
        why: "indexes on such columns may be out of order, and unique ones may hold duplicates: the restore then fails",
        fix: "REINDEX what uses it, then ALTER COLLATION … REFRESH VERSION",
        link: "https://www.postgresql.org/docs/current/sql-altercollation.html",
        untested: None,
    },
    Rule {
        code: "database_collation_versions",
        severity: Severity::Warning,
        title: "databases whose collation version has changed under the source",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Source(|pair| {
            if pair.from() < 15 {
                return Ok(String::new());
            }
            Ok(format!(
                "SELECT format('database %I', datname), \
                        format('made with %s, now %s', datcollversion, \
                               coalesce(pg_database_collation_actual_version(oid), '-')), \
                        format('ALTER DATABASE %I REFRESH COLLATION VERSION; -- after REINDEX DATABASE', datname) \
                 FROM pg_database WHERE datcollversion IS NOT NULL AND datname = ANY ({}) \
                   AND datcollversion IS DISTINCT FROM pg_database_collation_actual_version(oid) ORDER BY 1",
                list(pair.databases)
            ))
        }),
        why: "indexes on text may be out of order, and unique ones may hold duplicates: the restore then fails",
        fix: "REINDEX DATABASE …, then ALTER DATABASE … REFRESH COLLATION VERSION",
        link: "https://www.postgresql.org/docs/current/sql-alterdatabase.html",
        untested: None,
    },
    Rule {
        code: "collated_ranges",
        severity: Severity::Note,
        title: "tables partitioned by ranges of text in a collation other than C",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Each(|pair| {
            if pair.from() < 10 {
                return Ok(String::new());
            }
            Ok("SELECT format('table %s', p.partrelid::regclass), string_agg(quote_ident(c.collname), ', '), NULL \
                FROM pg_partitioned_table p, unnest(p.partcollation::oid[]) u JOIN pg_collation c ON c.oid = u \
                WHERE p.partstrat = 'r' AND c.collname NOT IN ('C', 'POSIX', 'ucs_basic') \
                  AND NOT (c.collname = 'default' AND (SELECT datcollate ~ '^(C|POSIX)([.].*)?$' FROM pg_database \
                                                       WHERE datname = current_database())) \
                GROUP BY p.partrelid ORDER BY 1"
                .into())
        }),
        why: "where the target sorts otherwise, a row may belong to another partition",
        fix: "dump with --load-via-partition-root when the operating systems differ",
        link: "https://www.postgresql.org/docs/current/app-pgdump.html",
        untested: None,
    },
];
