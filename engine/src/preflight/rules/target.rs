//! What is in the target already.

use super::{DUMPED, RESTORED};
use crate::preflight::rule::{Check, Pairs, Rule, Severity};

/// What users made in a database: relations, functions, types and schemas, as `made(name)`.
const MADE: &str = concat!(
    "made(name) AS (SELECT format(CASE c.relkind WHEN 'S' THEN 'sequence %s' WHEN 'v' THEN 'view %s' \
                           WHEN 'm' THEN 'materialized view %s' ELSE 'table %s' END, c.oid::regclass) \
       FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
       WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND ",
    own_schema!("n"),
    " AND ",
    no_member!("pg_class", "c.oid"),
    " UNION ALL SELECT format('function %s', p.oid::regprocedure) \
       FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE ",
    own_schema!("n"),
    " AND ",
    no_member!("pg_proc", "p.oid"),
    " UNION ALL SELECT format('type %s', t.oid::regtype) \
       FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype IN ('e', 'd', 'r') AND ",
    own_schema!("n"),
    " AND ",
    no_member!("pg_type", "t.oid"),
    " UNION ALL SELECT format('schema %I', nspname) FROM pg_namespace n WHERE nspname <> 'public' AND ",
    own_schema!("n"),
    " AND ",
    no_member!("pg_namespace", "n.oid"),
    ")"
);

pub(super) static RULES: &[Rule] = &[
    Rule {
        code: "target_not_empty",
        severity: Severity::Blocker,
        title: "objects in a database of the target that has the name of one of the source's",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::TargetEach(|_| {
            Ok(format!("WITH {MADE} SELECT name, 'in the target', NULL FROM made ORDER BY 1"))
        }),
        why: "what is there already is not made anew: the restore fails, or loads rows on top of old ones",
        fix: "give a fresh target, or drop what is there",
        link: "https://www.postgresql.org/docs/current/backup-dump.html",
        untested: None,
    },
    Rule {
        code: "template1_changed",
        severity: Severity::Warning,
        title: "objects in the target's template1",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Template(|_| {
            Ok(format!(
                "WITH {MADE} SELECT name, 'in template1 of the target', NULL FROM made \
                 UNION ALL SELECT format('extension %I', extname), 'in template1 of the target', NULL FROM pg_extension \
                 WHERE extname <> 'plpgsql' ORDER BY 1"
            ))
        }),
        why: "a database made from template1 has them already: the restore meets `already exists`",
        fix: "make databases with TEMPLATE template0 (create_database does), or clear template1",
        link: "https://www.postgresql.org/docs/current/manage-ag-templatedbs.html",
        untested: None,
    },
    Rule {
        code: "target_event_triggers",
        severity: Severity::Warning,
        title: "event triggers in a database of the target",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::TargetEach(|_| {
            Ok("SELECT format('event trigger %I', evtname), 'in the target', \
                       format('ALTER EVENT TRIGGER %I DISABLE;', evtname) \
                FROM pg_event_trigger WHERE evtenabled <> 'D' ORDER BY 1"
                .into())
        }),
        why: "they fire for every statement of the restore that makes something, and may refuse it",
        fix: "ALTER EVENT TRIGGER … DISABLE during the restore",
        link: "https://www.postgresql.org/docs/current/event-triggers.html",
        untested: None,
    },
    Rule {
        code: "target_timeouts",
        severity: Severity::Note,
        title: "timeouts of the target's role or database",
        pairs: Pairs::Any,
        methods: DUMPED,
        check: Check::Target(|_| {
            Ok("SELECT format('setting %s', name), 'is ' || reset_val || coalesce(unit, '') || ' in the target', NULL \
                FROM pg_settings WHERE name IN ('statement_timeout', 'lock_timeout', \
                     'idle_in_transaction_session_timeout', 'transaction_timeout') AND reset_val <> '0' ORDER BY 1"
                .into())
        }),
        why: "pgplan switches them off in its sessions; other programs that restore end by them",
        fix: "nothing needs to be done for pgplan",
        link: "https://www.postgresql.org/docs/current/runtime-config-client.html",
        untested: None,
    },
];
