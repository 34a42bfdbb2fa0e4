//! States that a dump loses or keeps in a way that surprises.

use super::{ALL, RESTORED};
use crate::preflight::rule::{Check, Pairs, Rule, Severity};

pub(super) static RULES: &[Rule] = &[
    Rule {
        code: "invalid_indexes",
        severity: Severity::Warning,
        title: "indexes that are not valid",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Each(|_| {
            Ok(concat!(
                "SELECT format('index %s', i.indexrelid::regclass), format('on %s', i.indrelid::regclass), \
                        format('REINDEX INDEX %s;', i.indexrelid::regclass) \
                 FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE NOT (i.indisvalid AND i.indisready) AND c.relkind = 'i' AND ",
                own_schema!("n"),
                " ORDER BY 1"
            )
            .into())
        }),
        why: "a dump leaves them out; a unique one may have failed because of duplicates",
        fix: "REINDEX INDEX … or DROP INDEX …",
        link: "https://www.postgresql.org/docs/current/sql-createindex.html",
        untested: None,
    },
    Rule {
        code: "not_valid_constraints",
        severity: Severity::Note,
        title: "constraints that are NOT VALID",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Each(|_| {
            Ok("SELECT format('constraint %I on %s', conname, CASE conrelid WHEN 0 THEN contypid::regtype::text \
                              ELSE conrelid::regclass::text END), NULL, \
                       CASE WHEN conrelid <> 0 THEN format('ALTER TABLE %s VALIDATE CONSTRAINT %I;', \
                                                           conrelid::regclass, conname) END \
                FROM pg_constraint WHERE NOT convalidated ORDER BY 1"
                .into())
        }),
        why: "rows may break them; they stay NOT VALID in the target",
        fix: "mend the rows and VALIDATE CONSTRAINT",
        link: "https://www.postgresql.org/docs/current/sql-altertable.html",
        untested: None,
    },
    Rule {
        code: "unpopulated_matviews",
        severity: Severity::Note,
        title: "materialized views that are not populated",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Each(|_| {
            Ok("SELECT format('materialized view %s', oid::regclass), NULL, \
                       format('REFRESH MATERIALIZED VIEW %s;', oid::regclass) \
                FROM pg_class WHERE relkind = 'm' AND NOT relispopulated ORDER BY 1"
                .into())
        }),
        why: "they are restored without rows, and reading them is an error, as in the source",
        fix: "REFRESH MATERIALIZED VIEW … where rows are wanted",
        link: "https://www.postgresql.org/docs/current/sql-refreshmaterializedview.html",
        untested: None,
    },
    Rule {
        code: "clustered_tables",
        severity: Severity::Note,
        title: "tables with CLUSTER ON",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Each(|_| {
            Ok("SELECT format('table %s', indrelid::regclass), format('index %s', indexrelid::regclass), \
                       format('CLUSTER %s;', indrelid::regclass) \
                FROM pg_index WHERE indisclustered AND indexrelid >= 16384 ORDER BY 1"
                .into())
        }),
        why: "rows keep the order that they had, which is not the index's if the table was written to since",
        fix: "CLUSTER … after the restore where the order matters",
        link: "https://www.postgresql.org/docs/current/sql-cluster.html",
        untested: None,
    },
    Rule {
        code: "disabled_triggers",
        severity: Severity::Note,
        title: "triggers and rules that are disabled",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Each(|_| {
            Ok("SELECT format('trigger %I on %s', tgname, tgrelid::regclass), \
                       CASE WHEN tgisinternal THEN 'of a foreign key' END, \
                       format('ALTER TABLE %s ENABLE TRIGGER %I;', tgrelid::regclass, tgname) \
                FROM pg_trigger WHERE tgenabled = 'D' \
                UNION ALL SELECT format('rule %I on %s', rulename, ev_class::regclass), NULL, \
                       format('ALTER TABLE %s ENABLE RULE %I;', ev_class::regclass, rulename) \
                FROM pg_rewrite WHERE ev_enabled = 'D' AND oid >= 16384 ORDER BY 1"
                .into())
        }),
        why: "triggers of users stay disabled in the target; those of a foreign key are enabled again, and rows that \
              break the key make its restore fail",
        fix: "enable them, or drop what is not wanted",
        link: "https://www.postgresql.org/docs/current/sql-altertable.html",
        untested: None,
    },
    Rule {
        code: "unlogged_tables",
        severity: Severity::Note,
        title: "tables that are UNLOGGED",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Each(|_| {
            Ok("SELECT format('table %s', oid::regclass), NULL, NULL FROM pg_class \
                WHERE relkind = 'r' AND relpersistence = 'u' ORDER BY 1"
                .into())
        }),
        why: "a crash empties them; logical replication and standbys do not have their rows",
        fix: "ALTER TABLE … SET LOGGED where the rows matter",
        link: "https://www.postgresql.org/docs/current/sql-createtable.html",
        untested: None,
    },
];
