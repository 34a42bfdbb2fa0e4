//! Logical replication: what the servers need for it, and what it leaves out.

use super::REPLICATED;
use crate::preflight::{
    report::Object,
    rule::{Check, NO_TARGET, Pair, Pairs, Rule, Severity},
};

/// Returns a setting's number in the target, by name.
fn target_number(pair: &Pair<'_>, name: &str) -> Result<u64, &'static str> {
    let target = pair.target.ok_or(NO_TARGET)?;
    target.settings.get(name).and_then(|value| value.parse().ok()).ok_or("the target does not show the setting")
}

fn no_identity() -> String {
    concat!(
        "SELECT format('table %s', c.oid::regclass), \
                CASE c.relreplident WHEN 'n' THEN 'REPLICA IDENTITY NOTHING' ELSE 'no primary key' END, \
                format('ALTER TABLE %s REPLICA IDENTITY FULL; -- better: a primary key', c.oid::regclass) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.relkind = 'r' AND c.relpersistence = 'p' AND ",
        own_schema!("n"),
        " AND ",
        no_member!("pg_class", "c.oid"),
        " AND (c.relreplident = 'n' OR c.relreplident = 'd' \
               AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)) ORDER BY 1"
    )
    .into()
}

fn no_equality() -> String {
    concat!(
        "SELECT format('column %s.%I', c.oid::regclass, a.attname), a.atttypid::regtype::text, NULL \
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
              JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type b ON b.oid = t.typbasetype \
         WHERE c.relkind = 'r' AND c.relreplident = 'f' AND a.attnum > 0 AND NOT a.attisdropped AND ",
        own_schema!("n"),
        " AND coalesce(b.typtype, t.typtype) = 'b' AND coalesce(b.typcategory, t.typcategory) <> 'A' \
          AND NOT EXISTS (SELECT FROM pg_opclass o JOIN pg_am m ON m.oid = o.opcmethod \
                WHERE m.amname IN ('btree', 'hash') AND o.opcdefault \
                  AND (o.opcintype = coalesce(b.oid, t.oid) \
                       OR EXISTS (SELECT FROM pg_cast k WHERE k.castsource = coalesce(b.oid, t.oid) \
                                  AND k.casttarget = o.opcintype AND k.castmethod = 'b' \
                                  AND k.castcontext = 'i'))) ORDER BY 1"
    )
    .into()
}

pub(super) static RULES: &[Rule] = &[
    Rule {
        code: "wal_level",
        severity: Severity::Blocker,
        title: "a source whose wal_level is not logical",
        pairs: Pairs::Any,
        methods: REPLICATED,
        check: Check::Source(|_| {
            Ok("SELECT 'setting wal_level', current_setting('wal_level'), 'ALTER SYSTEM SET wal_level = logical;' \
                WHERE current_setting('wal_level') <> 'logical'"
                .into())
        }),
        why: "no logical slot can be made; the change needs a restart",
        fix: "ALTER SYSTEM SET wal_level = logical, then restart the source before the window",
        link: "https://www.postgresql.org/docs/current/logical-replication-config.html",
        untested: None,
    },
    Rule {
        code: "no_free_slot",
        severity: Severity::Blocker,
        title: "a source without a free replication slot or WAL sender",
        pairs: Pairs::Any,
        methods: REPLICATED,
        check: Check::Source(|_| {
            Ok("SELECT 'setting max_replication_slots', format('%s, all in use', current_setting('max_replication_slots')), \
                       NULL WHERE current_setting('max_replication_slots')::int <= (SELECT count(*) FROM pg_replication_slots) \
                UNION ALL \
                SELECT 'setting max_wal_senders', format('%s, all in use', current_setting('max_wal_senders')), NULL \
                WHERE current_setting('max_wal_senders')::int <= (SELECT count(*) FROM pg_stat_replication)"
                .into())
        }),
        why: "each subscription needs one of both, and one more of each while tables are copied",
        fix: "raise the setting and restart the source before the window",
        link: "https://www.postgresql.org/docs/current/logical-replication-config.html",
        untested: None,
    },
    Rule {
        code: "no_apply_workers",
        severity: Severity::Blocker,
        title: "a target without workers for subscriptions",
        pairs: Pairs::Any,
        methods: REPLICATED,
        check: Check::Known(|pair| {
            let mut found = Vec::new();
            for name in ["max_logical_replication_workers", "max_worker_processes", "max_replication_slots"] {
                if target_number(pair, name)? == 0 {
                    found.push(Object::named(format!("setting {name}"), "is 0 in the target"));
                }
            }
            Ok(found)
        }),
        why: "a subscription applies nothing then",
        fix: "raise the setting and restart the target",
        link: "https://www.postgresql.org/docs/current/logical-replication-config.html",
        untested: None,
    },
    Rule {
        code: "replication_right",
        severity: Severity::Blocker,
        title: "a source whose role may not replicate",
        pairs: Pairs::Any,
        methods: REPLICATED,
        check: Check::Source(|_| {
            Ok("SELECT format('role %I', rolname), 'neither REPLICATION nor SUPERUSER', \
                       format('ALTER ROLE %I REPLICATION;', rolname) \
                FROM pg_roles r WHERE rolname = current_user AND NOT (rolsuper OR rolreplication) \
                  AND NOT EXISTS (SELECT FROM pg_roles p WHERE p.rolname = 'rds_replication' \
                                  AND pg_has_role(r.oid, p.oid, 'USAGE'))"
                .into())
        }),
        why: "it can neither make a slot nor stream changes",
        fix: "ALTER ROLE … REPLICATION",
        link: "https://www.postgresql.org/docs/current/logical-replication-security.html",
        untested: None,
    },
    Rule {
        code: "all_tables_right",
        severity: Severity::Warning,
        title: "a source whose role may not publish FOR ALL TABLES",
        pairs: Pairs::Any,
        methods: REPLICATED,
        check: Check::Source(|_| {
            Ok("SELECT format('role %I', rolname), 'is no superuser', NULL FROM pg_roles \
                WHERE rolname = current_user AND NOT rolsuper"
                .into())
        }),
        why: "only a superuser may; a list of tables needs their owner",
        fix: "publish a list of tables that the role owns, and watch for new ones",
        link: "https://www.postgresql.org/docs/current/sql-createpublication.html",
        untested: None,
    },
    Rule {
        code: "no_replica_identity",
        severity: Severity::Blocker,
        title: "tables without a replica identity",
        pairs: Pairs::Any,
        methods: REPLICATED,
        check: Check::Each(|_| Ok(no_identity())),
        why: "once they are published, UPDATE and DELETE of the application fail in the source",
        fix: "add a primary key; else ALTER TABLE … REPLICA IDENTITY USING INDEX … or FULL",
        link: "https://www.postgresql.org/docs/current/logical-replication-publication.html",
        untested: None,
    },
    Rule {
        code: "full_identity_types",
        severity: Severity::Blocker,
        title: "columns without equality in tables with REPLICA IDENTITY FULL",
        pairs: Pairs::Any,
        methods: REPLICATED,
        check: Check::Each(|_| Ok(no_equality())),
        why: "the subscriber looks for the row by all its values: a type without an operator class of btree or hash cannot \
              be compared, and the apply worker fails",
        fix: "give the table a primary key, or take the column out of the publication (15 and later)",
        link: "https://www.postgresql.org/docs/current/logical-replication-publication.html",
        untested: None,
    },
    Rule {
        code: "not_replicated",
        severity: Severity::Warning,
        title: "data that logical replication leaves out",
        pairs: Pairs::Any,
        methods: REPLICATED,
        check: Check::Each(|_| {
            Ok(concat!(
                "SELECT format(CASE c.relkind WHEN 'S' THEN 'sequence %s' WHEN 'm' THEN 'materialized view %s' \
                               WHEN 'f' THEN 'foreign table %s' ELSE 'unlogged table %s' END, c.oid::regclass), NULL, NULL \
                 FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE (c.relkind IN ('S', 'm', 'f') AND c.relpersistence <> 't' \
                        OR c.relkind = 'r' AND c.relpersistence = 'u') AND ",
                own_schema!("n"),
                " UNION ALL SELECT 'large objects', count(*)::text, NULL FROM pg_largeobject_metadata HAVING count(*) > 0 \
                 ORDER BY 1"
            )
            .into())
        }),
        why: "states of sequences, materialized views, unlogged tables and large objects do not arrive, nor does DDL",
        fix: "freeze the schema; set sequences last, with a margin; refresh materialized views; copy the rest",
        link: "https://www.postgresql.org/docs/current/logical-replication-restrictions.html",
        untested: None,
    },
    Rule {
        code: "generated_columns",
        severity: Severity::Note,
        title: "generated columns",
        pairs: Pairs::Any,
        methods: REPLICATED,
        check: Check::Each(|pair| {
            if pair.from() < 12 {
                return Ok(String::new());
            }
            Ok("SELECT format('column %s.%I', a.attrelid::regclass, a.attname), NULL, NULL FROM pg_attribute a \
                WHERE a.attgenerated <> '' AND NOT a.attisdropped ORDER BY 1"
                .into())
        }),
        why: "they are computed anew in the target: an expression that gives another value there differs unnoticed",
        fix: "compare after the copy; 18 can publish stored ones",
        link: "https://www.postgresql.org/docs/current/logical-replication-gencols.html",
        untested: None,
    },
    Rule {
        code: "partitioned_tables",
        severity: Severity::Note,
        title: "partitioned tables",
        pairs: Pairs::Any,
        methods: REPLICATED,
        check: Check::Each(|pair| {
            if pair.from() < 10 {
                return Ok(String::new());
            }
            Ok("SELECT format('table %s', c.oid::regclass), \
                       format('%s partitions', (SELECT count(*) FROM pg_inherits i WHERE i.inhparent = c.oid)), NULL \
                FROM pg_class c WHERE c.relkind = 'p' AND NOT c.relispartition ORDER BY 1"
                .into())
        }),
        why: "changes are published as those of the leaves: the target must have the same ones",
        fix: "keep the same partitions, or CREATE PUBLICATION … WITH (publish_via_partition_root) from 13 on",
        link: "https://www.postgresql.org/docs/current/sql-createpublication.html",
        untested: None,
    },
    Rule {
        code: "always_triggers",
        severity: Severity::Warning,
        title: "triggers and rules that fire on the subscriber, too",
        pairs: Pairs::Any,
        methods: REPLICATED,
        check: Check::Each(|_| {
            Ok("SELECT format('trigger %I on %s', tgname, tgrelid::regclass), \
                       CASE tgenabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END, NULL \
                FROM pg_trigger WHERE NOT tgisinternal AND tgenabled IN ('A', 'R') \
                UNION ALL SELECT format('rule %I on %s', rulename, ev_class::regclass), \
                       CASE ev_enabled WHEN 'A' THEN 'ALWAYS' ELSE 'REPLICA' END, NULL \
                FROM pg_rewrite WHERE ev_enabled IN ('A', 'R') ORDER BY 1"
                .into())
        }),
        why: "the apply worker is a replica: such triggers run there a second time on the same change",
        fix: "disable them in the target until the cutover",
        link: "https://www.postgresql.org/docs/current/sql-altertable.html",
        untested: None,
    },
    Rule {
        code: "wal_is_dropped",
        severity: Severity::Warning,
        title: "limits after which the source drops WAL that a slot still needs",
        pairs: Pairs::Any,
        methods: REPLICATED,
        check: Check::Source(|_| {
            Ok("SELECT format('setting %s', name), setting || coalesce(unit, ''), \
                       format('ALTER SYSTEM SET %I = %L;', name, boot_val) FROM pg_settings \
                WHERE name = 'max_slot_wal_keep_size' AND setting <> '-1' \
                   OR name = 'idle_replication_slot_timeout' AND setting <> '0' ORDER BY 1"
                .into())
        }),
        why: "a slot that lags too far or rests too long is invalid, and the copy begins anew",
        fix: "lift the limit for the time of the migration, and watch the disk instead",
        link: "https://www.postgresql.org/docs/current/runtime-config-replication.html",
        untested: None,
    },
    Rule {
        code: "row_security_replicated",
        severity: Severity::Note,
        title: "tables with row-level security",
        pairs: Pairs::Any,
        methods: REPLICATED,
        check: Check::Each(|_| {
            Ok("SELECT format('table %s', oid::regclass), NULL, NULL FROM pg_class \
                WHERE relkind IN ('r', 'p') AND relrowsecurity ORDER BY 1"
                .into())
        }),
        why: "the subscription's owner must be free of the policies, or its worker fails at these tables",
        fix: "let a superuser or a role with BYPASSRLS own the subscription",
        link: "https://www.postgresql.org/docs/current/logical-replication-security.html",
        untested: None,
    },
    Rule {
        code: "no_way_back",
        severity: Severity::Note,
        title: "a version without `origin = none`",
        pairs: Pairs::Any,
        methods: REPLICATED,
        check: Check::Known(|pair| {
            let side = |name: &str, major: u32| Object::named(format!("{name} {major}"), "");
            let mut found = Vec::new();
            if pair.from() < 16 {
                found.push(side("source", pair.from()));
            }
            if pair.to < 16 {
                found.push(side("target", pair.to));
            }
            Ok(found)
        }),
        why: "a subscription in the other direction, to go back after the cutover, would send changes in a circle: only a \
              subscriber of 16 or later can tell them apart",
        fix: "make the way back after the way there is dropped, and before writes begin",
        link: "https://www.postgresql.org/docs/current/sql-createsubscription.html",
        untested: None,
    },
];
