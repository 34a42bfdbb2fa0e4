//! Settings of roles, databases, functions and of the server that the target does not know or takes otherwise.

use super::{ALL, DUMPED, RESTORED};
use crate::preflight::rule::{Check, NO_TARGET, Pair, Pairs, Rule, Severity, list};

/// Settings that versions have removed or renamed, by the version that no longer has them. `pg_settings` of a target
/// tells more; this is for targets that are not there yet, or that hide some from the role.
pub(crate) const REMOVED: &[(&str, u32)] = &[
    ("sql_inheritance", 10),
    ("min_parallel_relation_size", 10),
    ("replacement_sort_tuples", 11),
    ("wal_keep_segments", 13),
    ("operator_precedence_warning", 14),
    ("vacuum_cleanup_index_scale_factor", 14),
    ("stats_temp_directory", 15),
    ("force_parallel_mode", 16),
    ("lc_collate", 16),
    ("lc_ctype", 16),
    ("promote_trigger_file", 16),
    ("vacuum_defer_cleanup_age", 16),
    ("db_user_namespace", 17),
    ("old_snapshot_threshold", 17),
    ("trace_recovery_messages", 17),
];

/// Settings that are valid, though `pg_settings` does not show them.
const HIDDEN: [&str; 9] = [
    "role",
    "session_authorization",
    "is_superuser",
    "seed",
    "default_with_oids",
    "ssl_renegotiation_limit",
    "sort_mem",
    "vacuum_mem",
    "ssl_ecdh_curve",
];

/// Returns a condition on the text `name` that says whether the target lacks the setting. A name with a dot belongs to
/// an extension and is taken anyway.
fn lacking(pair: &Pair<'_>, name: &str) -> String {
    match pair.known_settings() {
        Some(known) => format!(
            "position('.' IN {name}) = 0 AND lower({name}) <> ALL (SELECT lower(k) FROM unnest({known}) k) \
             AND lower({name}) <> ALL ({})",
            list(HIDDEN)
        ),
        None => {
            let gone = REMOVED.iter().filter(|(_, since)| pair.from() < *since && *since <= pair.to);
            format!("lower({name}) = ANY ({})", list(gone.map(|(name, _)| *name)))
        }
    }
}

/// Settings that roles and databases have: `who`, `what` of them, `name`, `value`.
const STORED: &str = "SELECT CASE WHEN s.setrole = 0 AND s.setdatabase = 0 THEN 'all roles' \
           WHEN s.setrole = 0 THEN format('database %I', d.datname) \
           WHEN s.setdatabase = 0 THEN format('role %I', r.rolname) \
           ELSE format('role %I in database %I', r.rolname, d.datname) END AS who, \
      CASE WHEN s.setrole = 0 AND s.setdatabase = 0 THEN 'ALTER ROLE ALL RESET ' \
           WHEN s.setrole = 0 THEN format('ALTER DATABASE %I RESET ', d.datname) \
           WHEN s.setdatabase = 0 THEN format('ALTER ROLE %I RESET ', r.rolname) \
           ELSE format('ALTER ROLE %I IN DATABASE %I RESET ', r.rolname, d.datname) END AS undo, \
      split_part(c, '=', 1) AS name, substr(c, position('=' IN c) + 1) AS value \
    FROM pg_db_role_setting s LEFT JOIN pg_database d ON d.oid = s.setdatabase \
         LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) c";

/// Returns the query for stored settings that fulfil this condition on `name` and `value`.
fn stored(condition: &str) -> String {
    format!(
        "SELECT format('setting of %s', who), format('%s = %s', name, value), undo || quote_ident(name) || ';' \
         FROM ({STORED}) x WHERE {condition} ORDER BY 1, 2"
    )
}

fn superuser_settings(pair: &Pair<'_>) -> Result<String, &'static str> {
    let Some(target) = pair.target else { return Err(NO_TARGET) };
    if target.superuser {
        return Ok(String::new());
    }
    let settings = pair.settings.as_ref().ok_or(NO_TARGET)?;
    let only = settings.iter().filter(|(_, context)| context.starts_with("superuser")).map(|(name, _)| name.as_str());
    // This one is hidden from the role.
    Ok(stored(&format!("name = ANY ({})", list(only.chain(["session_preload_libraries"])))))
}

pub(super) static RULES: &[Rule] = &[
    Rule {
        code: "unknown_settings",
        severity: Severity::Blocker,
        title: "settings of roles and databases that the target does not know",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Source(|pair| Ok(stored(&lacking(pair, "name")))),
        why: "ALTER ROLE … SET and ALTER DATABASE … SET fail with `unrecognized configuration parameter`",
        fix: "RESET the setting in the source before the dump",
        link: "https://www.postgresql.org/docs/current/config-setting.html",
        untested: None,
    },
    Rule {
        code: "settings_of_all_roles",
        severity: Severity::Warning,
        title: "settings of all roles, which no dump carries",
        pairs: Pairs::Any,
        methods: DUMPED,
        check: Check::Source(|_| {
            // A list is stored as it is written (variable_is_guc_list_quote in PostgreSQL's source).
            Ok("SELECT 'setting of all roles', c, format('ALTER ROLE ALL SET %I TO %s;', name, \
                       CASE WHEN name IN ('search_path', 'temp_tablespaces', 'local_preload_libraries', \
                                          'session_preload_libraries', 'shared_preload_libraries', \
                                          'unix_socket_directories') \
                            THEN value ELSE quote_literal(value) END) \
                FROM (SELECT c, split_part(c, '=', 1) AS name, substr(c, position('=' IN c) + 1) AS value \
                      FROM pg_db_role_setting s, unnest(s.setconfig) c WHERE s.setrole = 0 AND s.setdatabase = 0) x \
                ORDER BY 2"
                .into())
        }),
        why: "pg_dumpall writes settings of each role and each database, but not those of ALTER ROLE ALL SET",
        fix: "say the statements in the target after the restore; `verify` shows what is missing",
        link: "https://www.postgresql.org/docs/current/sql-alterrole.html",
        untested: None,
    },
    Rule {
        code: "unknown_function_settings",
        severity: Severity::Blocker,
        title: "functions that set what the target does not know",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Each(|pair| {
            Ok(format!(
                "SELECT format('function %s', p.oid::regprocedure), c, \
                        format('ALTER FUNCTION %s RESET %I;', p.oid::regprocedure, split_part(c, '=', 1)) \
                 FROM pg_proc p, unnest(p.proconfig) c WHERE p.oid >= 16384 AND {} ORDER BY 1, 2",
                lacking(pair, "split_part(c, '=', 1)")
            ))
        }),
        why: "CREATE FUNCTION … SET fails with `unrecognized configuration parameter`",
        fix: "ALTER FUNCTION … RESET …",
        link: "https://www.postgresql.org/docs/current/sql-createfunction.html",
        untested: None,
    },
    Rule {
        code: "invalid_setting_values",
        severity: Severity::Blocker,
        title: "settings of roles and databases whose values are no longer valid",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Source(|pair| {
            let mut no_more = vec!["false".to_owned()];
            if pair.from() < 14 && pair.to >= 14 {
                no_more.push("name = 'password_encryption' AND lower(value) IN ('on', 'true', 'yes', '1')".into());
            }
            if pair.from() < 12 && pair.to >= 12 {
                no_more.push("name = 'default_with_oids' AND lower(value) IN ('on', 'true', 'yes', '1')".into());
            }
            if pair.to >= 19 {
                no_more.push(
                    "name = 'standard_conforming_strings' AND lower(value) IN ('off', 'false', 'no', '0')".into(),
                );
            }
            Ok(stored(&no_more.iter().map(|one| format!("({one})")).collect::<Vec<_>>().join(" OR ")))
        }),
        why: "14 knows no password_encryption = on, 12 no default_with_oids = on, 19 no standard_conforming_strings = \
              off: the ALTER fails",
        fix: "RESET the setting, or give it a valid value",
        link: "https://www.postgresql.org/docs/14/release-14.html",
        untested: None,
    },
    Rule {
        code: "superuser_settings",
        severity: Severity::Blocker,
        title: "settings that only a superuser may give, for a target whose role is none",
        pairs: Pairs::Any,
        methods: DUMPED,
        check: Check::Source(superuser_settings),
        why: "ALTER ROLE … SET of such a setting is refused",
        fix: "RESET it in the source, or GRANT SET ON PARAMETER … in the target (15 and later)",
        link: "https://www.postgresql.org/docs/current/sql-grant.html",
        untested: None,
    },
    Rule {
        code: "configured_settings",
        severity: Severity::Note,
        title: "settings in the source's configuration files that the target does not know",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Source(|pair| {
            Ok(format!(
                "SELECT format('setting %s', name), setting, NULL FROM pg_settings \
                 WHERE source = 'configuration file' AND {} ORDER BY 1",
                lacking(pair, "name")
            ))
        }),
        why: "a server does not start with a setting that it does not know",
        fix: "leave the line out of the target's configuration, or find its successor",
        link: "https://www.postgresql.org/docs/current/release.html",
        untested: None,
    },
    Rule {
        code: "stored_timeouts",
        severity: Severity::Note,
        title: "timeouts of roles and databases",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Source(|_| {
            Ok(stored(
                "name IN ('statement_timeout', 'lock_timeout', 'idle_in_transaction_session_timeout', \
                          'idle_session_timeout', 'transaction_timeout') AND value !~ '^0+[a-z]*$'",
            ))
        }),
        why: "pgplan and pg_dump switch them off in their sessions, other programs end by them in the middle",
        fix: "ALTER ROLE … SET statement_timeout = 0 for roles that maintain the server",
        link: "https://www.postgresql.org/docs/current/runtime-config-client.html",
        untested: None,
    },
    Rule {
        code: "escape_strings",
        severity: Severity::Warning,
        title: "standard_conforming_strings = off",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Source(|_| {
            let stored = stored("name = 'standard_conforming_strings' AND lower(value) IN ('off', 'false', 'no', '0')");
            let server = "SELECT 'setting of the server', 'standard_conforming_strings = off', NULL FROM pg_settings \
                          WHERE name = 'standard_conforming_strings' AND reset_val = 'off' \
                            AND source IN ('configuration file', 'command line', 'environment variable')";
            Ok(format!("SELECT * FROM ({stored}) a UNION ALL {server}"))
        }),
        why: "backslashes in literals mean something else in bodies of functions and in the application; 19 no longer \
              allows it",
        fix: "write such literals as E'…', then RESET the setting",
        link: "https://www.postgresql.org/docs/current/runtime-config-compatible.html",
        untested: None,
    },
    Rule {
        code: "radius",
        severity: Severity::Warning,
        title: "lines of pg_hba.conf that use RADIUS",
        pairs: Pairs::To(19),
        methods: ALL,
        check: Check::Source(|pair| {
            if pair.from() < 10 {
                return Err("a server before 10 does not show its pg_hba.conf");
            }
            Ok("SELECT format('line %s', line_number), array_to_string(user_name, ', '), NULL \
                FROM pg_hba_file_rules WHERE auth_method = 'radius' ORDER BY line_number"
                .into())
        }),
        why: "19 (a draft yet) has no RADIUS any more: those who log in by it cannot",
        fix: "choose another method (LDAP, SCRAM, certificates)",
        link: "https://www.postgresql.org/docs/devel/release-19.html",
        untested: None,
    },
];
