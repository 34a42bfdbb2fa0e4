//! Extensions, languages and libraries.

use super::{ALL, RESTORED};
use crate::{
    postgres::quote::literal,
    preflight::rule::{Check, NO_TARGET, Pair, Pairs, Rule, Severity, list},
};

/// Extensions of the distribution that versions have removed.
const REMOVED: &[(&str, u32)] = &[
    ("tsearch2", 10),
    ("chkpass", 11),
    ("timetravel", 12),
    ("plpython2u", 15),
    ("plpythonu", 15),
    ("hstore_plpythonu", 15),
    ("hstore_plpython2u", 15),
    ("jsonb_plpythonu", 15),
    ("jsonb_plpython2u", 15),
    ("ltree_plpythonu", 15),
    ("ltree_plpython2u", 15),
    ("adminpack", 17),
    ("old_snapshot", 17),
];

fn missing(pair: &Pair<'_>) -> String {
    let condition = match &pair.extensions {
        Some(there) => format!("extname <> ALL ({})", list(there.keys())),
        None => {
            let gone = REMOVED.iter().filter(|(_, since)| pair.from() < *since && *since <= pair.to);
            format!("extname = ANY ({})", list(gone.map(|(name, _)| *name)))
        }
    };
    format!(
        "SELECT format('extension %I', extname), 'version ' || extversion, NULL FROM pg_extension \
         WHERE {condition} ORDER BY 1"
    )
}

fn other_versions(pair: &Pair<'_>) -> Result<String, &'static str> {
    let there = pair.extensions.as_ref().ok_or(NO_TARGET)?;
    if there.is_empty() {
        return Ok(String::new());
    }
    let rows: Vec<String> =
        there.iter().map(|(name, extension)| format!("({}, {})", literal(name), literal(&extension.version))).collect();
    Ok(format!(
        "SELECT format('extension %I', e.extname), format('%s in the source, %s in the target', e.extversion, t.version), \
                NULL \
         FROM pg_extension e JOIN (VALUES {}) t(name, version) ON t.name = e.extname AND t.version <> e.extversion \
         ORDER BY 1",
        rows.join(", ")
    ))
}

fn untrusted(pair: &Pair<'_>) -> Result<String, &'static str> {
    if pair.target.is_none() {
        return Err(NO_TARGET);
    }
    if !pair.restricted() {
        return Ok(String::new());
    }
    let there = pair.extensions.as_ref().ok_or("the target does not say which extensions it has")?;
    let only = there.iter().filter(|(_, extension)| extension.superuser).map(|(name, _)| name);
    Ok(format!(
        "SELECT format('extension %I', extname), NULL, NULL FROM pg_extension \
         WHERE extname = ANY ({}) AND extname <> 'plpgsql' ORDER BY 1",
        list(only)
    ))
}

fn preloaded(pair: &Pair<'_>) -> Result<String, &'static str> {
    let Some(target) = pair.target else { return Err(NO_TARGET) };
    if !pair.source.settings.contains_key("shared_preload_libraries") {
        return Err("the source's role may not read shared_preload_libraries");
    }
    let Some(there) = target.settings.get("shared_preload_libraries") else {
        return Err("the target's role may not read shared_preload_libraries");
    };
    let base = |name: &str| name.trim().trim_matches('"').trim_start_matches("$libdir/").to_owned();
    Ok(format!(
        "SELECT format('library %s', lib), 'in shared_preload_libraries', NULL FROM ( \
           SELECT regexp_replace(trim(both ' \"' FROM l), '^[$]libdir/', '') AS lib \
           FROM unnest(string_to_array(current_setting('shared_preload_libraries'), ',')) l) x \
         WHERE lib <> '' AND lib <> ALL ({}) ORDER BY 1",
        list(there.split(',').map(base))
    ))
}

pub(super) static RULES: &[Rule] = &[
    Rule {
        code: "extensions_missing",
        severity: Severity::Blocker,
        title: "extensions that the target does not have at hand",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Each(|pair| Ok(missing(pair))),
        why: "CREATE EXTENSION fails, and so does everything that uses it",
        fix: "install the extension's package for the target's version, or DROP EXTENSION before the dump",
        link: "https://www.postgresql.org/docs/current/extend-extensions.html",
        untested: None,
    },
    Rule {
        code: "extension_versions",
        severity: Severity::Note,
        title: "extensions that the target makes in another version",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Each(other_versions),
        why: "CREATE EXTENSION in a dump makes the target's default version: functions may have changed or gone",
        fix: "read the extension's release notes; ALTER EXTENSION … UPDATE in the source shows what it breaks",
        link: "https://www.postgresql.org/docs/current/sql-createextension.html",
        untested: None,
    },
    Rule {
        code: "extensions_outdated",
        severity: Severity::Warning,
        title: "extensions that were never updated to the version that the source has at hand",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Each(|_| {
            Ok("SELECT format('extension %I', e.extname), \
                       format('version %s, %s is at hand', e.extversion, a.default_version), \
                       format('ALTER EXTENSION %I UPDATE;', e.extname) \
                FROM pg_extension e JOIN pg_available_extensions a ON a.name = e.extname \
                WHERE a.default_version <> e.extversion ORDER BY 1"
                .into())
        }),
        why: "its SQL is older than its library: a restore makes the newer one, and objects that use the older may fail",
        fix: "ALTER EXTENSION … UPDATE",
        link: "https://www.postgresql.org/docs/current/sql-alterextension.html",
        untested: None,
    },
    Rule {
        code: "extensions_need_superuser",
        severity: Severity::Blocker,
        title: "extensions that only a superuser may make, for a target whose role is none",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Each(untrusted),
        why: "CREATE EXTENSION is refused",
        fix: "let a superuser make the extension in the target before the restore",
        link: "https://www.postgresql.org/docs/current/sql-createextension.html",
        untested: None,
    },
    Rule {
        code: "libraries_not_preloaded",
        severity: Severity::Warning,
        title: "libraries that the source preloads and the target does not",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Source(preloaded),
        why: "an extension that needs its library preloaded cannot be made, or does nothing",
        fix: "add it to shared_preload_libraries in the target and restart",
        link: "https://www.postgresql.org/docs/current/runtime-config-client.html",
        untested: None,
    },
    Rule {
        code: "removed_languages",
        severity: Severity::Blocker,
        title: "languages that the target's version no longer has",
        pairs: Pairs::Into(15),
        methods: ALL,
        check: Check::Each(|_| {
            Ok("SELECT format('language %I', l.lanname), \
                       format('%s functions', (SELECT count(*) FROM pg_proc p WHERE p.prolang = l.oid)), NULL \
                FROM pg_language l WHERE l.lanname IN ('plpythonu', 'plpython2u') ORDER BY 1"
                .into())
        }),
        why: "15 has no Python 2: CREATE EXTENSION and its functions fail",
        fix: "create the functions anew in plpython3u, then drop the language",
        link: "https://www.postgresql.org/docs/15/release-15.html",
        untested: None,
    },
    Rule {
        code: "timescaledb",
        severity: Severity::Warning,
        title: "databases with TimescaleDB",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Each(|_| {
            Ok("SELECT 'extension timescaledb', extversion, NULL FROM pg_extension WHERE extname = 'timescaledb'"
                .into())
        }),
        why: "its catalogs are filled by the dump: without its hooks the restore fails or hypertables are broken",
        fix: "same version on both sides; SELECT timescaledb_pre_restore() before and timescaledb_post_restore() after",
        link: "https://docs.timescale.com/self-hosted/latest/migration/entire-database/",
        untested: Some("the extension is in no server of the tests"),
    },
    Rule {
        code: "pg_cron",
        severity: Severity::Warning,
        title: "databases with jobs of pg_cron",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Each(|_| {
            Ok("SELECT 'extension pg_cron', extversion, NULL FROM pg_extension WHERE extname = 'pg_cron'".into())
        }),
        why: "jobs are not rows of the dump that a role without rights restores, and begin to run as soon as they are there",
        fix: "set cron.database_name in the target, and let jobs begin after the cutover",
        link: "https://github.com/citusdata/pg_cron",
        untested: None,
    },
];
