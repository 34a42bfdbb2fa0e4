//! Who is at work on the source.

use super::{ALL, REPLICATED};
use crate::preflight::rule::{Check, Pair, Pairs, Rule, Severity};

/// Client sessions of others, of every version.
fn clients(pair: &Pair<'_>) -> &'static str {
    if pair.from() >= 10 {
        "pid <> pg_backend_pid() AND datname IS NOT NULL AND backend_type = 'client backend' \
         AND application_name NOT LIKE 'pgplan%'"
    } else {
        "pid <> pg_backend_pid() AND datname IS NOT NULL AND application_name NOT LIKE 'pgplan%'"
    }
}

pub(super) static RULES: &[Rule] = &[
    Rule {
        code: "prepared_transactions",
        severity: Severity::Blocker,
        title: "prepared transactions",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Source(|_| {
            Ok("SELECT format('transaction %s', gid), format('in %s by %s since %s', database, owner, prepared), \
                       format('ROLLBACK PREPARED %L; -- or COMMIT PREPARED, in the database %I', gid, database) \
                FROM pg_prepared_xacts ORDER BY 1"
                .into())
        }),
        why: "a dump does not have what they wrote and waits for their locks; pg_upgrade refuses",
        fix: "COMMIT PREPARED or ROLLBACK PREPARED each of them",
        link: "https://www.postgresql.org/docs/current/sql-prepare-transaction.html",
        untested: None,
    },
    Rule {
        code: "long_transactions",
        severity: Severity::Warning,
        title: "transactions that are open for more than ten seconds",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Source(|pair| {
            Ok(format!(
                "SELECT format('session %s', pid), \
                        format('%s of %s in %s, %s, since %s', coalesce(nullif(application_name, ''), '-'), usename, \
                               datname, state, date_trunc('second', now() - xact_start)), \
                        format('SELECT pg_terminate_backend(%s);', pid) \
                 FROM pg_stat_activity WHERE {} AND now() - xact_start > interval '10 s' ORDER BY 1",
                clients(pair)
            ))
        }),
        why: "a dump does not have what they have not committed; a replication slot is made only when they have ended",
        fix: "let them end, or end them",
        link: "https://www.postgresql.org/docs/current/monitoring-stats.html",
        untested: None,
    },
    Rule {
        code: "open_sessions",
        severity: Severity::Note,
        title: "client sessions on the source",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Source(|pair| {
            Ok(format!(
                "SELECT format('sessions of %s', coalesce(nullif(application_name, ''), '-')), \
                        format('%s of %s in %s from %s', count(*), usename, datname, \
                               coalesce(host(client_addr), 'local')), NULL \
                 FROM pg_stat_activity WHERE {} GROUP BY application_name, usename, datname, client_addr ORDER BY 1, 2",
                clients(pair)
            ))
        }),
        why: "what they write after the dump has begun is not in it",
        fix: "stop the applications before the dump",
        link: "https://www.postgresql.org/docs/current/monitoring-stats.html",
        untested: None,
    },
    Rule {
        code: "replication_slots",
        severity: Severity::Warning,
        title: "replication slots of the source",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Source(|_| {
            Ok("SELECT format('slot %s', slot_name), \
                       format('%s%s', slot_type, CASE WHEN active THEN ', in use' ELSE '' END), NULL \
                FROM pg_replication_slots ORDER BY 1"
                .into())
        }),
        why: "they are not dumped (pg_upgrade takes logical ones from 17 on): standbys and consumers do not find them in \
              the target",
        fix: "make them anew in the target, and let their consumers begin from there",
        link: "https://www.postgresql.org/docs/current/logicaldecoding-explanation.html",
        untested: None,
    },
    Rule {
        code: "slot_waits",
        severity: Severity::Warning,
        title: "transactions that a new replication slot would wait for",
        pairs: Pairs::Any,
        methods: REPLICATED,
        check: Check::Source(|pair| {
            Ok(format!(
                "SELECT format('session %s', pid), format('%s in %s, %s', usename, datname, state), NULL \
                 FROM pg_stat_activity WHERE {} AND backend_xid IS NOT NULL ORDER BY 1",
                clients(pair)
            ))
        }),
        why: "a logical slot is made only when every transaction that writes has ended",
        fix: "let them end before the slot is made",
        link: "https://www.postgresql.org/docs/current/logicaldecoding-explanation.html",
        untested: None,
    },
];
