//! Names and encodings.

use super::{ALL, RESTORED};
use crate::{
    postgres::quote::literal,
    preflight::rule::{Check, Pairs, Rule, Severity},
};

pub(super) static RULES: &[Rule] = &[
    Rule {
        code: "line_ends_in_names",
        severity: Severity::Blocker,
        title: "roles, databases and tablespaces with a line end in their names",
        pairs: Pairs::To(19),
        methods: ALL,
        check: Check::Source(|_| {
            Ok(r"SELECT format('role %I', rolname), NULL, NULL FROM pg_roles WHERE rolname ~ E'[\r\n]'
                 UNION ALL SELECT format('database %I', datname), NULL, NULL FROM pg_database WHERE datname ~ E'[\r\n]'
                 UNION ALL SELECT format('tablespace %I', spcname), NULL, NULL FROM pg_tablespace
                 WHERE spcname ~ E'[\r\n]' ORDER BY 1"
                .into())
        }),
        why: "19 (a draft yet) refuses such names, and pg_dumpall of every recent version refuses to write some of them",
        fix: "ALTER … RENAME TO …",
        link: "https://www.postgresql.org/docs/devel/release-19.html",
        untested: None,
    },
    Rule {
        code: "sql_ascii",
        severity: Severity::Warning,
        title: "databases without an encoding (SQL_ASCII)",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Source(|pair| {
            Ok(format!(
                "SELECT format('database %I', datname), NULL, NULL FROM pg_database \
                 WHERE encoding = pg_char_to_encoding('SQL_ASCII') AND datname = ANY ({}) ORDER BY 1",
                crate::preflight::rule::list(pair.databases)
            ))
        }),
        why: "any bytes may be in it; a target with an encoding refuses those that are not valid there",
        fix: "create the target's database with SQL_ASCII, too, or find the bytes and convert them",
        link: "https://www.postgresql.org/docs/current/multibyte.html",
        untested: None,
    },
    Rule {
        code: "mule_internal",
        severity: Severity::Blocker,
        title: "databases with the encoding MULE_INTERNAL",
        pairs: Pairs::To(19),
        methods: ALL,
        check: Check::Source(|_| {
            Ok("SELECT format('database %I', datname), NULL, NULL FROM pg_database \
                WHERE encoding = pg_char_to_encoding('MULE_INTERNAL') ORDER BY 1"
                .into())
        }),
        why: "19 (a draft yet) has removed the encoding",
        fix: "dump with --encoding UTF8, and create the target's database with UTF8",
        link: "https://www.postgresql.org/docs/devel/release-19.html",
        untested: None,
    },
    Rule {
        code: "other_encoding",
        severity: Severity::Warning,
        title: "databases that have another encoding in the target",
        pairs: Pairs::Any,
        methods: RESTORED,
        check: Check::Source(|pair| {
            let target = pair.target.ok_or(crate::preflight::rule::NO_TARGET)?;
            let there = target.databases.iter().filter(|database| pair.databases.contains(&database.name));
            let rows: Vec<String> = there
                .map(|database| format!("({}, {})", literal(&database.name), literal(&database.encoding)))
                .collect();
            if rows.is_empty() {
                return Ok(String::new());
            }
            Ok(format!(
                "SELECT format('database %I', d.datname), \
                        format('%s in the source, %s in the target', pg_encoding_to_char(d.encoding), t.encoding), NULL \
                 FROM pg_database d JOIN (VALUES {}) t(name, encoding) ON t.name = d.datname \
                 WHERE t.encoding <> pg_encoding_to_char(d.encoding) ORDER BY 1",
                rows.join(", ")
            ))
        }),
        why: "text is converted on its way; a character that the target's encoding lacks is an error",
        fix: "create the target's database with the source's encoding",
        link: "https://www.postgresql.org/docs/current/multibyte.html",
        untested: None,
    },
];
