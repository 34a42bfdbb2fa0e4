//! What pg_upgrade refuses, or leaves behind.

use super::{
    IN_PLACE,
    types::{STORED, columns_of},
};
use crate::preflight::rule::{Check, Pairs, Rule, Severity};

/// The types that hold oids which the new cluster does not keep.
const REG: &[&str] = &[
    "regcollation",
    "regconfig",
    "regdictionary",
    "regnamespace",
    "regoper",
    "regoperator",
    "regproc",
    "regprocedure",
];

pub(super) static RULES: &[Rule] = &[
    Rule {
        code: "reg_columns",
        severity: Severity::Blocker,
        title: "columns of types that hold oids of the catalogs",
        pairs: Pairs::Any,
        methods: IN_PLACE,
        check: Check::Each(|pair| Ok(columns_of(REG, pair.from(), STORED))),
        why: "oids are not the same in the new cluster: pg_upgrade refuses",
        fix: "ALTER TABLE … ALTER COLUMN … TYPE text, and back after the upgrade",
        link: "https://www.postgresql.org/docs/current/pgupgrade.html",
        untested: None,
    },
    Rule {
        code: "aclitem_columns",
        severity: Severity::Blocker,
        title: "columns of the type aclitem",
        pairs: Pairs::Into(16),
        methods: IN_PLACE,
        check: Check::Each(|pair| Ok(columns_of(&["aclitem"], pair.from(), STORED))),
        why: "16 stores the type otherwise: pg_upgrade refuses",
        fix: "ALTER TABLE … ALTER COLUMN … TYPE text, and back after the upgrade",
        link: "https://www.postgresql.org/docs/16/release-16.html",
        untested: None,
    },
    Rule {
        code: "sql_identifier_columns",
        severity: Severity::Blocker,
        title: "columns of the type information_schema.sql_identifier",
        pairs: Pairs::Into(12),
        methods: IN_PLACE,
        check: Check::Each(|pair| Ok(columns_of(&["sql_identifier"], pair.from(), STORED))),
        why: "12 stores the type otherwise: pg_upgrade refuses",
        fix: "ALTER TABLE … ALTER COLUMN … TYPE text",
        link: "https://www.postgresql.org/docs/12/release-12.html",
        untested: Some("needs a source before 12"),
    },
    Rule {
        code: "old_hash_indexes",
        severity: Severity::Warning,
        title: "hash indexes",
        pairs: Pairs::Into(10),
        methods: IN_PLACE,
        check: Check::Each(|_| {
            Ok("SELECT format('index %s', c.oid::regclass), NULL, format('REINDEX INDEX %s;', c.oid::regclass) \
                FROM pg_class c JOIN pg_am m ON m.oid = c.relam WHERE m.amname = 'hash' AND c.relkind = 'i' ORDER BY 1"
                .into())
        }),
        why: "10 stores them otherwise: pg_upgrade marks them invalid",
        fix: "REINDEX INDEX … after the upgrade",
        link: "https://www.postgresql.org/docs/10/release-10.html",
        untested: Some("needs a source before 10"),
    },
    Rule {
        code: "no_checksums",
        severity: Severity::Blocker,
        title: "a source without data checksums",
        pairs: Pairs::Into(18),
        methods: IN_PLACE,
        check: Check::Source(|_| {
            Ok("SELECT 'setting data_checksums', current_setting('data_checksums'), NULL \
                WHERE current_setting('data_checksums') = 'off'"
                .into())
        }),
        why: "initdb of 18 switches them on, and pg_upgrade wants both clusters to have the same",
        fix: "pg_checksums --enable on the stopped source, or initdb --no-data-checksums for the new cluster",
        link: "https://www.postgresql.org/docs/18/release-18.html",
        untested: None,
    },
    Rule {
        code: "text_search_reindex",
        severity: Severity::Warning,
        title: "indexes of full-text search and pg_trgm in databases whose collation is not of libc",
        pairs: Pairs::Into(18),
        methods: IN_PLACE,
        check: Check::Each(|pair| {
            if pair.from() < 15 {
                return Ok(String::new());
            }
            Ok("SELECT DISTINCT format('index %s', i.indexrelid::regclass), NULL, \
                       format('REINDEX INDEX %s;', i.indexrelid::regclass) \
                FROM pg_index i, unnest(i.indclass::oid[]) k JOIN pg_opclass o ON o.oid = k \
                WHERE (o.opcintype = 'tsvector'::regtype OR o.opcname LIKE '%trgm_ops') \
                  AND EXISTS (SELECT FROM pg_database WHERE datname = current_database() AND datlocprovider <> 'c') \
                ORDER BY 1"
                .into())
        }),
        why: "18 folds case there by the database's own provider: entries of such indexes may be others",
        fix: "REINDEX INDEX … after the upgrade",
        link: "https://www.postgresql.org/docs/18/release-18.html",
        untested: None,
    },
    Rule {
        code: "inet_gist_indexes",
        severity: Severity::Blocker,
        title: "indexes of btree_gist over inet or cidr",
        pairs: Pairs::To(19),
        methods: IN_PLACE,
        check: Check::Each(|_| {
            Ok("SELECT DISTINCT format('index %s', i.indexrelid::regclass), NULL, \
                       format('DROP INDEX %s;', i.indexrelid::regclass) \
                FROM pg_index i, unnest(i.indclass::oid[]) k JOIN pg_opclass o ON o.oid = k \
                WHERE o.opcname IN ('gist_inet_ops', 'gist_cidr_ops') ORDER BY 1"
                .into())
        }),
        why: "19 (a draft yet) refuses to upgrade them, because they may miss rows",
        fix: "make them with inet_ops of the server itself",
        link: "https://www.postgresql.org/docs/devel/release-19.html",
        untested: None,
    },
    Rule {
        code: "after_upgrade",
        severity: Severity::Note,
        title: "extended statistics, which pg_upgrade leaves empty",
        pairs: Pairs::Any,
        methods: IN_PLACE,
        check: Check::Each(|pair| {
            if pair.from() < 10 {
                return Ok(String::new());
            }
            Ok("SELECT format('statistics %I.%I', n.nspname, s.stxname), NULL, \
                       format('ANALYZE %s;', s.stxrelid::regclass) \
                FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace ORDER BY 1"
                .into())
        }),
        why: "plans are worse until they are gathered, also where 18 keeps the statistics of columns",
        fix: "ANALYZE after the upgrade",
        link: "https://www.postgresql.org/docs/18/pgupgrade.html",
        untested: None,
    },
];
