//! Objects that are restored otherwise than one expects, or not by a dump alone.

use super::{ALL, REPLICATED, RESTORED};
use crate::preflight::rule::{Check, NO_TARGET, Pair, Pairs, Rule, Severity, list};

/// Stop-word files that every server has.
const STOP_WORDS: [&str; 17] = [
    "danish",
    "dutch",
    "english",
    "finnish",
    "french",
    "german",
    "hungarian",
    "italian",
    "nepali",
    "norwegian",
    "portuguese",
    "russian",
    "spanish",
    "swedish",
    "turkish",
    "hindi",
    "indonesian",
];

fn tablespaces(pair: &Pair<'_>) -> Result<String, &'static str> {
    let there = pair.tablespaces.as_ref().ok_or(NO_TARGET)?;
    Ok(format!(
        "SELECT format('tablespace %I', spcname), pg_tablespace_location(oid), NULL FROM pg_tablespace \
         WHERE spcname !~ '^pg_' AND spcname <> ALL ({}) ORDER BY 1",
        list(there)
    ))
}

fn text_search_files() -> String {
    format!(
        r#"SELECT format('text search dictionary %I.%I', n.nspname, d.dictname), f[1] || ' ' || f[2], NULL
           FROM pg_ts_dict d JOIN pg_namespace n ON n.oid = d.dictnamespace,
                regexp_matches(d.dictinitoption, '(dictfile|afffile|stopwords|synonyms|rules)\s*=\s*''([^'']*)''', 'gi') f
           WHERE d.oid >= 16384 AND NOT (lower(f[1]) = 'stopwords' AND f[2] = ANY ({})) AND {} ORDER BY 1, 2"#,
        list(STOP_WORDS),
        no_member!("pg_ts_dict", "d.oid")
    )
}

pub(super) static RULES: &[Rule] = &[
    Rule {
        code: "large_objects",
        severity: Severity::Note,
        title: "large objects",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Each(|_| {
            Ok("SELECT 'large objects', format('%s, %s', count(*), \
                       pg_size_pretty(pg_total_relation_size('pg_catalog.pg_largeobject'))), NULL \
                FROM pg_largeobject_metadata HAVING count(*) > 0"
                .into())
        }),
        why: "each is an entry of the dump before 17, and logical replication leaves them out",
        fix: "plan the time; delete orphans with vacuumlo before",
        link: "https://www.postgresql.org/docs/current/largeobjects.html",
        untested: None,
    },
    Rule {
        code: "event_triggers",
        severity: Severity::Note,
        title: "event triggers",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Each(|_| {
            Ok(concat!(
                "SELECT format('event trigger %I', t.evtname), \
                        format('on %s%s', t.evtevent, CASE t.evtenabled WHEN 'D' THEN ', disabled' ELSE '' END), NULL \
                 FROM pg_event_trigger t WHERE ",
                no_member!("pg_event_trigger", "t.oid"),
                " ORDER BY 1"
            )
            .into())
        }),
        why: "they are restored last and only by a superuser; until then DDL in the target goes unwatched",
        fix: "check that they suit what comes after the restore",
        link: "https://www.postgresql.org/docs/current/event-triggers.html",
        untested: None,
    },
    Rule {
        code: "user_mappings",
        severity: Severity::Warning,
        title: "user mappings of foreign servers",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Each(|_| {
            Ok("SELECT format('user mapping for %s on %I', CASE WHEN umuser = 0 THEN 'public' ELSE quote_ident(usename) END, \
                              srvname), CASE WHEN umoptions IS NULL THEN 'its options are hidden' END, NULL \
                FROM pg_user_mappings ORDER BY 1"
                .into())
        }),
        why: "their passwords stand in the dump as they are, or are missing where the role may not see them; the target's \
              machine may not reach the foreign server at all",
        fix: "guard the dump, set the passwords anew, and check the way from the target's machine",
        link: "https://www.postgresql.org/docs/current/sql-createusermapping.html",
        untested: None,
    },
    Rule {
        code: "subscriptions",
        severity: Severity::Warning,
        title: "subscriptions",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Each(|pair| {
            if pair.from() < 10 {
                return Ok(String::new());
            }
            Ok("SELECT format('subscription %I', s.subname), CASE WHEN s.subenabled THEN 'enabled' ELSE 'disabled' END, NULL \
                FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid WHERE d.datname = current_database() \
                ORDER BY 1"
                .into())
        }),
        why: "they are restored disabled and without a slot, and their tables would be copied again",
        fix: "refresh them by hand after the cutover; drop those of the source, lest their slots keep WAL forever",
        link: "https://www.postgresql.org/docs/current/logical-replication-subscription.html",
        untested: None,
    },
    Rule {
        code: "tablespaces_missing",
        severity: Severity::Warning,
        title: "tablespaces that the target does not have",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Source(tablespaces),
        why: "CREATE TABLESPACE fails where the folder is not there, and what lies in it then fails, too",
        fix: "create them in the target with folders of its own, or dump with --no-tablespaces",
        link: "https://www.postgresql.org/docs/current/manage-ag-tablespaces.html",
        untested: None,
    },
    Rule {
        code: "text_search_files",
        severity: Severity::Warning,
        title: "text search dictionaries with files of their own",
        pairs: Pairs::Any,
        methods: ALL,
        check: Check::Each(|_| Ok(text_search_files())),
        why: "the files lie in the server's folder and not in the dump: the dictionary cannot be made, and its indexes fail",
        fix: "copy the files to tsearch_data of the target",
        link: "https://www.postgresql.org/docs/current/textsearch-dictionaries.html",
        untested: None,
    },
    Rule {
        code: "oid_columns",
        severity: Severity::Note,
        title: "columns of type oid in databases with large objects",
        pairs: Pairs::Any,
        methods: REPLICATED,
        check: Check::Each(|_| {
            Ok(concat!(
                "SELECT format('column %s.%I', c.oid::regclass, a.attname), NULL, NULL \
                 FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
                 WHERE a.atttypid = 'oid'::regtype AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p') \
                   AND EXISTS (SELECT FROM pg_largeobject_metadata) AND ",
                own_schema!("n"),
                " ORDER BY 1"
            )
            .into())
        }),
        why: "they may name large objects, which logical replication does not carry",
        fix: "copy the large objects under the same oids",
        link: "https://www.postgresql.org/docs/current/logical-replication-restrictions.html",
        untested: None,
    },
];
