//! Versions, client programs, pools, locks and room.

use super::{ALL, DUMPED, RESTORED};
use crate::{
    preflight::{
        report::Object,
        rule::{Check, Pairs, Rule, Severity},
    },
    quantity::bytes,
};

/// How many databases' bytes are too many for the room that is free.
fn too_big(databases: u64, free: u64) -> bool {
    databases > free
}

pub(super) static RULES: &[Rule] = &[
    Rule {
        code: "target_older",
        severity: Severity::Blocker,
        title: "a target that is older than the source",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Known(|pair| {
            let older = pair.to < pair.from();
            let object = Object::named(format!("version {}", pair.to), format!("the source has {}", pair.from()));
            Ok(older.then_some(object).into_iter().collect())
        }),
        why: "what the newer version brought cannot be put into the older one; pg_upgrade only goes forward",
        fix: "choose a target of the source's version or a later one",
        link: "https://www.postgresql.org/docs/current/upgrading.html",
        untested: None,
    },
    Rule {
        code: "source_too_old",
        severity: Severity::Blocker,
        title: "a source before 9.2",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Known(|pair| {
            let old = pair.source.version_num < 90_200;
            Ok(old.then(|| Object::named(format!("version {}", pair.source.version), "")).into_iter().collect())
        }),
        why: "pg_dump since 15 knows no server before 9.2",
        fix: "go to 14 first, with the programs of 14",
        link: "https://www.postgresql.org/docs/15/release-15.html",
        untested: Some("needs a source before 9.2"),
    },
    Rule {
        code: "client_too_old",
        severity: Severity::Blocker,
        title: "no installed pg_dump that is as new as the source",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Known(|pair| {
            let fits = pair.dumpers.iter().any(|major| *major >= pair.from());
            let newest = match pair.dumpers.iter().max() {
                Some(newest) => format!("the newest that was found is of {newest}"),
                None => "none was found".to_owned(),
            };
            Ok((!fits).then(|| Object::named(format!("pg_dump {}", pair.from()), newest)).into_iter().collect())
        }),
        why: "pg_dump refuses a server that is newer than itself",
        fix: "install the client programs of the target's version, or name their folder in PGPLAN_PG_BIN",
        link: "https://www.postgresql.org/docs/current/app-pgdump.html",
        untested: None,
    },
    Rule {
        code: "transaction_pooler",
        severity: Severity::Blocker,
        title: "addresses that lead to a transaction pooler",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Known(|pair| Ok(pair.poolers.iter().map(|address| Object::named(address, "")).collect())),
        why: "locks, settings and snapshots end with each transaction there: neither a dump nor a lock on the server holds",
        fix: "give the address of the server itself",
        link: "https://www.pgbouncer.org/features.html",
        untested: None,
    },
    Rule {
        code: "standby_source",
        severity: Severity::Warning,
        title: "a source that is a standby",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Known(|pair| {
            let standby = pair.source.settings.get("in_recovery").is_some_and(|value| value == "on");
            Ok(standby.then(|| Object::named("the source", &pair.source.label)).into_iter().collect())
        }),
        why: "it lags behind its primary, whose writers it does not stop, and may cancel a long dump",
        fix: "migrate from the primary, or pause the replay (pg_wal_replay_pause) once the primary is quiet",
        link: "https://www.postgresql.org/docs/current/hot-standby.html",
        untested: None,
    },
    Rule {
        code: "too_few_locks",
        severity: Severity::Blocker,
        title: "databases with more tables than the server has room for locks",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Each(|_| {
            Ok("SELECT format('database %I', current_database()), \
                       format('%s tables, room for %s locks', count(*), slots), NULL \
                FROM pg_class, \
                     (SELECT current_setting('max_locks_per_transaction')::bigint \
                             * (current_setting('max_connections')::bigint \
                                + current_setting('max_prepared_transactions')::bigint) AS slots) s \
                WHERE relkind IN ('r', 'p') AND relnamespace <> 'pg_catalog'::regnamespace \
                GROUP BY slots HAVING count(*) > slots"
                .into())
        }),
        why: "a dump locks every table in one transaction: it ends with `out of shared memory`",
        fix: "ALTER SYSTEM SET max_locks_per_transaction = … and restart, or dump schema by schema",
        link: "https://www.postgresql.org/docs/current/runtime-config-locks.html",
        untested: None,
    },
    Rule {
        code: "little_room",
        severity: Severity::Warning,
        title: "less free room for the dump than the databases have",
        pairs: Pairs::Any,
        methods: DUMPED,
        check: Check::Known(|pair| {
            let meant = pair.source.databases.iter().filter(|database| pair.databases.contains(&database.name));
            let size: u64 = meant.map(|database| database.bytes).sum();
            let Some((folder, free)) = &pair.space else { return Err("the free room could not be asked for") };
            let object = || {
                let detail = format!("{} free, the databases have {}", bytes(*free), bytes(size));
                Object::named(format!("folder {folder}"), detail)
            };
            Ok(too_big(size, *free).then(object).into_iter().collect())
        }),
        why: "a dump without indexes and compressed is smaller than its database, but how much is not known before",
        fix: "give --state a folder with more room, or compress (`compress: zstd`)",
        link: "https://www.postgresql.org/docs/current/backup-dump.html",
        untested: Some("needs a nearly full disk; the comparison has a unit test"),
    },
];

#[cfg(test)]
mod tests {
    use super::too_big;

    #[test]
    fn a_dump_needs_as_much_room_as_its_databases() {
        assert!(too_big(2, 1) && !too_big(1, 1) && !too_big(0, 0));
    }
}
