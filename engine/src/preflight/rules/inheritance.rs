//! Tables and their children, partitions and keys.

use super::{ALL, RESTORED};
use crate::preflight::rule::{Check, Pairs, Rule, Severity};

pub(super) static RULES: &[Rule] = &[
    Rule {
        code: "parent_not_null",
        severity: Severity::Blocker,
        title: "columns that are NOT NULL in the parent table and not in the child",
        pairs: Pairs::Into(18),
        methods: ALL,
        check: Check::Each(|_| {
            Ok(concat!(
                "SELECT format('column %s.%I', i.inhrelid::regclass, ac.attname), \
                        format('NOT NULL in %s', i.inhparent::regclass), \
                        format('ALTER TABLE %s ALTER COLUMN %I SET NOT NULL;', i.inhrelid::regclass, ac.attname) \
                 FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid AND c.relkind IN ('r', 'p', 'f') \
                      JOIN pg_namespace n ON n.oid = c.relnamespace \
                      JOIN pg_attribute ap ON ap.attrelid = i.inhparent \
                      JOIN pg_attribute ac ON ac.attrelid = i.inhrelid AND ac.attname = ap.attname \
                 WHERE ap.attnum > 0 AND ap.attnotnull AND NOT ap.attisdropped AND NOT ac.attnotnull AND ",
                own_schema!("n"),
                " ORDER BY 1"
            )
            .into())
        }),
        why: "18 inherits NOT NULL: the restore of such a child fails, and pg_upgrade refuses",
        fix: "ALTER TABLE child ALTER COLUMN … SET NOT NULL (after its NULLs are gone), or drop it in the parent",
        link: "https://www.postgresql.org/docs/18/release-18.html",
        untested: None,
    },
    Rule {
        code: "foreign_key_collations",
        severity: Severity::Blocker,
        title: "foreign keys between columns of different collations, one of them nondeterministic",
        pairs: Pairs::Into(18),
        methods: ALL,
        check: Check::Each(|pair| {
            if pair.from() < 12 {
                // There were no nondeterministic collations.
                return Ok(String::new());
            }
            Ok("SELECT DISTINCT format('constraint %I on %s', f.conname, f.conrelid::regclass), \
                       format('%s and %s', ca.oid::regcollation, cb.oid::regcollation), NULL \
                FROM (SELECT oid, conname, conrelid, confrelid, unnest(conkey) AS a, unnest(confkey) AS b \
                      FROM pg_constraint WHERE contype = 'f') f \
                     JOIN pg_attribute aa ON aa.attrelid = f.conrelid AND aa.attnum = f.a \
                     JOIN pg_attribute ab ON ab.attrelid = f.confrelid AND ab.attnum = f.b \
                     JOIN pg_collation ca ON ca.oid = aa.attcollation JOIN pg_collation cb ON cb.oid = ab.attcollation \
                WHERE ca.oid <> cb.oid AND NOT (ca.collisdeterministic AND cb.collisdeterministic) ORDER BY 1"
                .replace("regcollation", if pair.from() >= 13 { "regcollation" } else { "text" }))
        }),
        why: "18 wants both sides to have the same collation then: ADD FOREIGN KEY fails",
        fix: "ALTER TABLE … ALTER COLUMN … TYPE text COLLATE … so that both sides have the same",
        link: "https://www.postgresql.org/docs/18/release-18.html",
        untested: None,
    },
    Rule {
        code: "unlogged_partitioned_tables",
        severity: Severity::Warning,
        title: "partitioned tables that are UNLOGGED",
        pairs: Pairs::Into(18),
        methods: ALL,
        check: Check::Each(|_| {
            Ok("SELECT format('table %s', oid::regclass), NULL, \
                       format('ALTER TABLE %s SET LOGGED;', oid::regclass) FROM pg_class \
                WHERE relkind = 'p' AND relpersistence = 'u' ORDER BY 1"
                .into())
        }),
        why: "18 refuses UNLOGGED there: pg_dump 18 leaves the word out, an older one writes what cannot be restored",
        fix: "use pg_dump 18; the word never had an effect on the partitions, which keep their own",
        link: "https://www.postgresql.org/docs/18/release-18.html",
        untested: None,
    },
    Rule {
        code: "nulls_not_distinct_keys",
        severity: Severity::Warning,
        title: "primary keys over an index with NULLS NOT DISTINCT",
        pairs: Pairs::Since(15, 16),
        methods: ALL,
        check: Check::Each(|_| {
            Ok("SELECT format('constraint %I on %s', c.conname, c.conrelid::regclass), NULL, NULL \
                FROM pg_constraint c JOIN pg_index i ON i.indexrelid = c.conindid \
                WHERE c.contype = 'p' AND i.indnullsnotdistinct ORDER BY 1"
                .into())
        }),
        why: "16 has no such keys: the key is restored as an ordinary one",
        fix: "nothing needs to be done; a primary key has no NULLs",
        link: "https://www.postgresql.org/docs/16/release-16.html",
        untested: None,
    },
    Rule {
        code: "hash_partitions",
        severity: Severity::Warning,
        title: "tables partitioned by the hash of an enum or of text with a nondeterministic collation",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Each(|pair| {
            if pair.from() < 11 {
                return Ok(String::new());
            }
            // Equal bytes have equal hashes under every deterministic collation, and there were no others before 12.
            let loose = if pair.from() >= 12 { "OR NOT c.collisdeterministic" } else { "" };
            Ok(format!(
                "SELECT format('table %s', p.partrelid::regclass), string_agg(format('%I', a.attname), ', '), NULL \
                 FROM pg_partitioned_table p \
                      JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = ANY (p.partattrs::int2[]) \
                      JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_collation c ON c.oid = a.attcollation \
                 WHERE p.partstrat = 'h' AND (t.typtype = 'e' {loose}) GROUP BY 1 ORDER BY 1"
            ))
        }),
        why: "hashes of enums hold inside one database only, and those of text depend on a nondeterministic collation: a row may \
              belong to another partition in the target, and its COPY is then refused",
        fix: "dump with --load-via-partition-root (`options` of the dump step)",
        link: "https://www.postgresql.org/docs/current/app-pgdump.html",
        untested: None,
    },
    Rule {
        code: "inheritance_parents",
        severity: Severity::Note,
        title: "parents of inherited tables, whose VACUUM and ANALYZE now include the children",
        pairs: Pairs::Into(18),
        methods: ALL,
        check: Check::Each(|_| {
            Ok(concat!(
                "SELECT DISTINCT format('table %s', c.oid::regclass), NULL, NULL \
                 FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhparent AND c.relkind = 'r' \
                      JOIN pg_namespace n ON n.oid = c.relnamespace WHERE ",
                own_schema!("n"),
                " ORDER BY 1"
            )
            .into())
        }),
        why: "since 18 maintenance of the parent works through its children, too, and takes longer",
        fix: "write ONLY in jobs that mean the parent alone",
        link: "https://www.postgresql.org/docs/18/release-18.html",
        untested: None,
    },
    Rule {
        code: "wide_tables",
        severity: Severity::Warning,
        title: "tables with more than a thousand columns, dropped ones included",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Each(|_| {
            Ok(concat!(
                "SELECT format('table %s', c.oid::regclass), format('%s of 1600', c.relnatts), NULL \
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE c.relkind IN ('r', 'p') AND c.relnatts > 1000 AND ",
                own_schema!("n"),
                " ORDER BY 1"
            )
            .into())
        }),
        why: "a row of so many columns may not fit into a page when values become longer",
        fix: "move columns into tables of their own; a restore drops the dropped ones for good",
        link: "https://www.postgresql.org/docs/current/limits.html",
        untested: None,
    },
];
