//! Types that a version has no more, and columns that pg_dump no longer carries.

use super::{ALL, RESTORED};
use crate::preflight::rule::{Check, Pairs, Rule, Severity};

/// Relations whose columns are defined: composite types, too.
const DEFINED: &str = "'r', 'p', 'v', 'm', 'f', 'c'";
/// Relations whose columns are stored.
pub(super) const STORED: &str = "'r', 'm'";

/// Returns the query for columns of such relations whose type is, or is built from, one of these of `pg_catalog`: by domains, arrays,
/// composite types and ranges, to any depth.
pub(super) fn columns_of(types: &[&str], from: u32, kinds: &str) -> String {
    let names = crate::preflight::rule::list(types);
    // Ranges came with 9.2, the oldest source that a current pg_dump takes.
    let range = if from >= 9 { "UNION ALL SELECT rngtypid, rngsubtype FROM pg_range" } else { "" };
    format!(
        "WITH RECURSIVE made(oid, of) AS ( \
             SELECT oid, typbasetype FROM pg_type WHERE typtype = 'd' \
             UNION ALL SELECT oid, typelem FROM pg_type WHERE typelem <> 0 AND typlen = -1 \
             UNION ALL SELECT t.oid, a.atttypid FROM pg_type t JOIN pg_attribute a ON a.attrelid = t.typrelid \
                       WHERE t.typtype = 'c' AND a.attnum > 0 AND NOT a.attisdropped \
             {range}), \
         bad(oid) AS ( \
             SELECT t.oid FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace \
             WHERE n.nspname IN ('pg_catalog', 'information_schema') AND t.typname = ANY ({names}) \
             UNION SELECT made.oid FROM made JOIN bad ON made.of = bad.oid) \
         SELECT format('column %s.%I', c.oid::regclass, a.attname), format_type(a.atttypid, a.atttypmod), \
                CASE WHEN c.relkind IN ('r', 'p') \
                     THEN format('ALTER TABLE %s ALTER COLUMN %I TYPE text USING %I::text;', c.oid::regclass, \
                                 a.attname, a.attname) END \
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
              JOIN bad ON bad.oid = a.atttypid \
         WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ({kinds}) AND {} ORDER BY 1",
        own_schema!("n")
    )
}

pub(super) static RULES: &[Rule] = &[
    Rule {
        code: "unknown_columns",
        severity: Severity::Blocker,
        title: "columns of the type `unknown`",
        pairs: Pairs::Into(10),
        methods: ALL,
        check: Check::Each(|pair| Ok(columns_of(&["unknown"], pair.from(), DEFINED))),
        why: "since 10 no column may have this type: its table cannot be restored",
        fix: "ALTER TABLE … ALTER COLUMN … TYPE text",
        link: "https://www.postgresql.org/docs/10/release-10.html",
        untested: Some("needs a source before 10"),
    },
    Rule {
        code: "removed_types",
        severity: Severity::Blocker,
        title: "columns of abstime, reltime or tinterval",
        pairs: Pairs::Into(12),
        methods: ALL,
        check: Check::Each(|pair| Ok(columns_of(&["abstime", "reltime", "tinterval"], pair.from(), DEFINED))),
        why: "12 has removed these types: a table with such a column cannot be restored",
        fix: "ALTER TABLE … ALTER COLUMN … TYPE timestamptz (or interval)",
        link: "https://www.postgresql.org/docs/12/release-12.html",
        untested: Some("needs a source before 12; the recursion through types is tested by `reg_columns`"),
    },
    Rule {
        code: "tables_with_oids",
        severity: Severity::Blocker,
        title: "tables WITH OIDS",
        pairs: Pairs::Into(12),
        methods: ALL,
        check: Check::Each(|_| {
            Ok("SELECT format('table %s', oid::regclass), NULL, \
                       format('ALTER TABLE %s SET WITHOUT OIDS;', oid::regclass) FROM pg_class \
                WHERE relhasoids AND relkind = 'r' AND relnamespace <> 'pg_catalog'::regnamespace ORDER BY 1"
                .into())
        }),
        why: "12 has no hidden oid column: a dump leaves the values out without a word, and pg_upgrade refuses",
        fix: "copy the oids into a column of its own where they are used, then ALTER TABLE … SET WITHOUT OIDS",
        link: "https://www.postgresql.org/docs/12/release-12.html",
        untested: Some("needs a source before 12"),
    },
    Rule {
        code: "opaque_functions",
        severity: Severity::Blocker,
        title: "functions that take or return `opaque`",
        pairs: Pairs::Into(13),
        methods: RESTORED,
        check: Check::Each(|_| {
            Ok("SELECT format('function %s', oid::regprocedure), NULL, NULL FROM pg_proc \
                WHERE oid >= 16384 AND (prorettype = 'opaque'::regtype OR 'opaque'::regtype = ANY (proargtypes)) \
                ORDER BY 1"
                .into())
        }),
        why: "13 has removed the type: the function cannot be restored",
        fix: "create it anew with trigger, language_handler or internal in its place",
        link: "https://www.postgresql.org/docs/13/release-13.html",
        untested: Some("needs a source before 13"),
    },
    Rule {
        code: "duplicate_constraints",
        severity: Severity::Blocker,
        title: "constraints of one table with the same name",
        pairs: Pairs::Into(11),
        methods: ALL,
        check: Check::Each(|_| {
            Ok("SELECT format('constraint %I on %s', conname, conrelid::regclass), format('%s times', count(*)), NULL \
                FROM pg_constraint WHERE conrelid <> 0 GROUP BY conrelid, conname HAVING count(*) > 1 ORDER BY 1"
                .into())
        }),
        why: "11 refuses a second constraint of the same name",
        fix: "ALTER TABLE … RENAME CONSTRAINT … TO …",
        link: "https://www.postgresql.org/docs/11/release-11.html",
        untested: Some("needs a source before 11"),
    },
    Rule {
        code: "empty_lexemes",
        severity: Severity::Blocker,
        title: "columns of tsvector whose statistics hold an empty lexeme",
        pairs: Pairs::Into(15),
        methods: RESTORED,
        check: Check::Each(|_| {
            Ok(concat!(
                "SELECT format('column %s.%I', c.oid::regclass, a.attname), NULL, \
                        format('UPDATE %s SET %I = ts_delete(%I, '''') WHERE %I::text LIKE ''%%''''''''%%'';', \
                               c.oid::regclass, a.attname, a.attname, a.attname) \
                 FROM pg_stats s JOIN pg_namespace n ON n.nspname = s.schemaname \
                      JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = s.tablename \
                      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = s.attname \
                 WHERE a.atttypid = 'tsvector'::regtype AND '' = ANY (s.most_common_elems::text::text[]) AND ",
                own_schema!("n"),
                " ORDER BY 1"
            )
            .into())
        }),
        why: "reading such a value back is a syntax error: the table's COPY fails; only lexemes that ANALYZE found common are \
              seen here, and 15 no longer makes empty ones",
        fix: "take them out with ts_delete before the dump",
        link: "https://www.postgresql.org/docs/15/release-15.html",
        untested: None,
    },
];
