use super::*;
use crate::sql::{Piece, Reader};

const CLUSTER: &[u8] = include_bytes!("../samples/cluster_15.sql");

fn filter(rules: FilterRules) -> Filter {
    Filter::new(rules).unwrap()
}

/// Runs a whole dump through a filter as a consumer does.
fn pass(dump: &[u8], filter: &Filter) -> (String, FilterReport) {
    let (mut reader, mut out, mut report) = (Reader::default(), Vec::new(), FilterReport::new(filter));
    reader.push(dump);
    reader.finish();
    let mut dropping = false;
    while let Some(piece) = reader.piece().unwrap() {
        if let Piece::Statement(statement) | Piece::CopyStart(statement) = &piece {
            let verdict = filter.judge(statement);
            report.note(statement, &verdict);
            match verdict {
                Verdict::Keep => out.extend_from_slice(statement.text),
                Verdict::Rewrite { text, .. } => out.extend_from_slice(&text),
                Verdict::Drop { .. } => dropping = matches!(piece, Piece::CopyStart(_)),
            }
        } else if dropping {
            dropping = !matches!(piece, Piece::CopyEnd(_));
        } else {
            out.extend_from_slice(piece.bytes());
        }
    }
    (String::from_utf8(out).unwrap(), report)
}

/// Returns the statement after the filter: itself, rewritten, or "" when dropped.
fn after(filter: &Filter, sql: &str) -> String {
    match filter.judge(&Statement::new(sql.as_bytes())) {
        Verdict::Keep => sql.to_owned(),
        Verdict::Drop { reasons } => {
            assert!(!reasons.is_empty());
            String::new()
        }
        Verdict::Rewrite { text, reasons } => {
            assert!(!reasons.is_empty());
            assert_ne!(text, sql.as_bytes());
            String::from_utf8(text).unwrap()
        }
    }
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn reserved() -> Filter {
    filter(FilterRules { reserved_roles: names(&["aptible", "postgres", "Odd \"Role"]), ..FilterRules::default() })
}

#[test]
fn every_reference_to_a_reserved_role_goes() {
    let reserved = reserved();
    for sql in [
        "CREATE ROLE aptible;",
        "CREATE ROLE APTIBLE;",
        "ALTER ROLE \"Odd \"\"Role\" WITH SUPERUSER;",
        "ALTER ROLE aptible IN DATABASE db SET work_mem TO '1MB';",
        "DROP ROLE aptible;",
        "COMMENT ON ROLE aptible IS 'x';",
        "GRANT aptible TO app;",
        "GRANT app TO postgres WITH ADMIN OPTION;",
        "GRANT aptible TO postgres;",
        "REVOKE ALL ON SCHEMA public FROM postgres;",
        "GRANT SELECT ON TABLE public.t TO aptible, postgres;",
        "ALTER TABLE public.t OWNER TO aptible;",
        "ALTER DEFAULT PRIVILEGES FOR ROLE aptible IN SCHEMA s GRANT SELECT ON TABLES TO app;",
        "ALTER DEFAULT PRIVILEGES FOR ROLE app IN SCHEMA s GRANT SELECT ON TABLES TO postgres;",
        "CREATE POLICY p ON public.t TO aptible USING (true);",
        "CREATE USER MAPPING FOR postgres SERVER s OPTIONS (password 'x');",
    ] {
        assert_eq!(after(&reserved, sql), "", "{sql}");
    }
    for (sql, expected) in [
        ("GRANT app TO b WITH ADMIN OPTION GRANTED BY aptible;", "GRANT app TO b WITH ADMIN OPTION;"),
        ("GRANT ALL ON TABLE t TO a, aptible, PUBLIC;", "GRANT ALL ON TABLE t TO a, PUBLIC;"),
        ("GRANT aptible, app TO b, postgres;", "GRANT app TO b;"),
        ("CREATE SCHEMA s AUTHORIZATION aptible;", "CREATE SCHEMA s;"),
        ("CREATE SCHEMA AUTHORIZATION aptible;", "CREATE SCHEMA aptible;"),
        ("CREATE DATABASE d WITH OWNER = postgres ENCODING = 'UTF8';", "CREATE DATABASE d WITH ENCODING = 'UTF8';"),
        (
            "CREATE POLICY p ON t FOR SELECT TO postgres, app USING (a);",
            "CREATE POLICY p ON t FOR SELECT TO app USING (a);",
        ),
        ("CREATE ROLE app IN ROLE aptible LOGIN;", "CREATE ROLE app LOGIN;"),
        ("DROP ROLE aptible, app;", "DROP ROLE app;"),
        ("SET SESSION AUTHORIZATION 'aptible';", "SET SESSION AUTHORIZATION DEFAULT;"),
        ("SET LOCAL ROLE TO aptible;", "SET LOCAL ROLE TO NONE;"),
    ] {
        assert_eq!(after(&reserved, sql), expected);
    }
    for sql in [
        "CREATE ROLE \"Aptible\";",
        "CREATE ROLE aptible_2;",
        "CREATE TABLE aptible (postgres int);",
        "GRANT SELECT ON TABLE aptible TO app;",
        "COMMENT ON TABLE t IS 'GRANT aptible TO app';",
        "ALTER TABLE aptible OWNER TO app;",
        "GRANT ALL ON SCHEMA s TO PUBLIC;",
        "SET SESSION AUTHORIZATION DEFAULT;",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ALTER ROLE aptible PASSWORD 'x'$$;",
    ] {
        assert_eq!(after(&reserved, sql), sql);
    }
}

#[test]
fn a_password_alone_goes() {
    let filter = filter(FilterRules { drop_passwords_of: names(&["aptible"]), ..FilterRules::default() });
    let line = "ALTER ROLE aptible WITH SUPERUSER LOGIN PASSWORD 'SCRAM-SHA-256$4096:x' VALID UNTIL 'infinity';";
    assert_eq!(after(&filter, line), "ALTER ROLE aptible WITH SUPERUSER LOGIN VALID UNTIL 'infinity';");
    assert_eq!(after(&filter, "ALTER USER aptible ENCRYPTED PASSWORD $$x$$ LOGIN;"), "ALTER USER aptible LOGIN;");
    assert_eq!(after(&filter, "ALTER ROLE aptible PASSWORD 'x';"), "");
    for sql in ["CREATE ROLE aptible;", "ALTER ROLE app WITH LOGIN PASSWORD 'x';", "GRANT a TO aptible;"] {
        assert_eq!(after(&filter, sql), sql);
    }
}

#[test]
fn attributes_and_flags() {
    let attributes = names(&["superuser", "REPLICATION"]);
    let roles = filter(FilterRules { drop_role_attributes: attributes, ..FilterRules::default() });
    assert_eq!(after(&roles, "ALTER ROLE a WITH NOSUPERUSER LOGIN REPLICATION;"), "ALTER ROLE a WITH LOGIN;");
    assert_eq!(after(&roles, "CREATE ROLE a SUPERUSER;"), "CREATE ROLE a;");
    assert_eq!(after(&roles, "ALTER ROLE a SUPERUSER;"), "");

    let flags = FilterRules { no_owner: true, no_acl: true, no_tablespaces: true, ..FilterRules::default() };
    let flags = filter(flags);
    for sql in [
        "ALTER SCHEMA s OWNER TO a;",
        "SET SESSION AUTHORIZATION 'a';",
        "GRANT ALL ON SCHEMA s TO a;",
        "ALTER DEFAULT PRIVILEGES FOR ROLE a REVOKE ALL ON FUNCTIONS  FROM PUBLIC;",
        "CREATE TABLESPACE t OWNER a LOCATION '/x';",
        "SET default_tablespace = fast;",
        "ALTER DATABASE d SET TABLESPACE t;",
    ] {
        assert_eq!(after(&flags, sql), "", "{sql}");
    }
    let sql = "CREATE DATABASE d WITH OWNER = a TABLESPACE = t LOCALE = 'C';";
    assert_eq!(after(&flags, sql), "CREATE DATABASE d WITH LOCALE = 'C';");
    assert_eq!(after(&flags, "CREATE INDEX i ON t (a) TABLESPACE x WHERE b;"), "CREATE INDEX i ON t (a) WHERE b;");
    for sql in ["GRANT a TO b;", "SET default_tablespace = '';", "CREATE TABLE t AS SELECT tablespace FROM x;"] {
        assert_eq!(after(&flags, sql), sql);
    }
}

#[test]
fn what_the_target_does_not_know() {
    let target = TargetAbilities {
        major: 16,
        unknown_column_options: names(&["pg_attver"]),
        unknown_relation_options: names(&["oids", "toast.new"]),
        unknown_settings: names(&["new.setting"]),
    };
    let filter = filter(FilterRules { target: Some(target), ..FilterRules::default() });
    for (sql, expected) in [
        ("ALTER TABLE ONLY s.t ALTER COLUMN c SET (pg_attver=3);", ""),
        (
            "ALTER TABLE ONLY s.t ALTER COLUMN c SET (pg_attver=3, n_distinct=5);",
            "ALTER TABLE ONLY s.t ALTER COLUMN c SET (n_distinct=5);",
        ),
        ("ALTER TABLE t ALTER c SET (n_distinct=-0.5, pg_attver=3);", "ALTER TABLE t ALTER c SET (n_distinct=-0.5);"),
        ("ALTER TABLE t ALTER COLUMN a SET (pg_attver=1), ADD b int;", "ALTER TABLE t ADD b int;"),
        ("ALTER TABLE t ADD b int, ALTER COLUMN a SET (pg_attver=1);", "ALTER TABLE t ADD b int;"),
        ("ALTER TABLE t SET (oids=true, fillfactor=70);", "ALTER TABLE t SET (fillfactor=70);"),
        ("CREATE TABLE t (a int)\nWITH (oids='true', toast.new='1');", "CREATE TABLE t (a int);"),
        ("SET transaction_timeout = 0;", ""),
        ("SELECT pg_catalog.set_config('new.setting', 'x', false);", ""),
        ("ALTER ROLE a IN DATABASE d SET new.setting TO 'x';", ""),
        ("ALTER DATABASE d SET \"new.setting\" TO 'x';", ""),
        (
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path TO 'a', 'b' SET new.setting TO 'c', 'd' AS $$x$$;",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql SET search_path TO 'a', 'b' AS $$x$$;",
        ),
    ] {
        assert_eq!(after(&filter, sql), expected, "{sql}");
    }
    for sql in ["SET lock_timeout = 0;", "SET search_path TO a;", "ALTER TABLE t ALTER COLUMN pg_attver SET NOT NULL;"]
    {
        assert_eq!(after(&filter, sql), sql);
    }
}

#[test]
fn patterns_see_statements_not_data() {
    let rules = FilterRules {
        drop: vec![PatternRule {
            pattern: "(?i)alter role aptible .*password|^COPY s\\.".into(),
            reason: Some("why".into()),
        }],
        replace: vec![ReplaceRule { pattern: "public\\.(\\w+)".into(), with: "app.$1".into(), reason: None }],
        ..FilterRules::default()
    };
    let filter = filter(rules);
    let row = "INSERT INTO public.t (a) VALUES ('ALTER ROLE aptible PASSWORD public.x');";
    assert_eq!(after(&filter, row), row.replacen("public.t", "app.t", 1));
    assert_eq!(after(&filter, "ALTER ROLE aptible WITH PASSWORD 'x';"), "");
    let copy = "COPY public.t FROM stdin;\npublic.x ALTER ROLE aptible PASSWORD\n\\.\n";
    let (out, report) = pass(format!("{copy}COPY s.t FROM stdin;\n1\n\\.\nSELECT 1;").as_bytes(), &filter);
    assert_eq!(out, copy.replacen("public.t", "app.t", 1) + "SELECT 1;");
    assert_eq!(report.removals[1].statement, "COPY s.t FROM stdin;");
    assert_eq!(report.removals[1].line, 4);
    let broken =
        FilterRules { drop: vec![PatternRule { pattern: "(".into(), reason: None }], ..FilterRules::default() };
    assert_eq!(Filter::new(broken).unwrap_err().message, "`(` is no regular expression");
}

#[test]
fn a_cluster_dump_keeps_all_but_the_passwords() {
    let filter = filter(FilterRules { drop_passwords_of: names(&["aptible", "mistyped"]), ..FilterRules::default() });
    let (out, report) = pass(CLUSTER, &filter);
    let before = String::from_utf8_lossy(CLUSTER);
    let changed: Vec<_> = before.lines().zip(out.lines()).filter(|(a, b)| a != b).collect();
    assert_eq!(changed.len(), 1);
    assert!(changed[0].1.ends_with("REPLICATION BYPASSRLS;"), "{changed:?}");
    assert_eq!(report.removals.len(), 1);
    assert_eq!(report.removals[0].object.as_deref(), Some("role aptible"));
    assert!(report.removals[0].statement.ends_with("PASSWORD '<redacted>';"));
    assert_eq!(report.unmatched, ["role \"mistyped\" keeps the target's password"]);
}

#[test]
fn a_cluster_dump_without_its_reserved_roles() {
    let filter = filter(FilterRules { reserved_roles: names(&["aptible", "postgres"]), ..FilterRules::default() });
    let (out, report) = pass(CLUSTER, &filter);
    assert_eq!(report.unmatched, Vec::<String>::new());
    let left: Vec<_> = out
        .lines()
        .filter(|line| !line.starts_with("--") && (line.contains("aptible") || line.contains("postgres")))
        .filter(|line| !line.contains("row\\t"))
        .collect();
    insta::assert_snapshot!(left.join("\n"));
    assert_eq!(out.matches("ALTER ROLE aptible PASSWORD 'x'").count(), 20, "rows stay");
    let listing: Vec<_> =
        report.removals.iter().map(|r| format!("{} {:?} {}", r.line, r.action, r.statement)).collect();
    insta::assert_snapshot!("removals", listing.join("\n"));
}

const WORDS: &[&str] = &[
    "CREATE",
    "ALTER",
    "DROP",
    "GRANT",
    "REVOKE",
    "SET",
    "SELECT",
    "COMMENT",
    "ON",
    "ROLE",
    "aptible",
    "\"a",
    "\"b\"",
    "TO",
    "FROM",
    ",",
    "(",
    ")",
    ".",
    "=",
    ";",
    "'x'",
    "'y",
    "PASSWORD",
    "WITH",
    "OWNER",
    "TABLE",
    "COLUMN",
    "pg_attver",
    "IN",
    "GRANTED",
    "BY",
    "DEFAULT",
    "PRIVILEGES",
    "FOR",
    "SCHEMA",
    "AUTHORIZATION",
    "POLICY",
    "DATABASE",
    "TABLESPACE",
    "FUNCTION",
    "AS",
    "GROUP",
    "SESSION",
    "set_config",
    "pg_catalog",
    "USER",
    "MAPPING",
    "OPTION",
    "CONNECTION",
    "VALID",
    "INSERT",
    "VALUES",
    "-",
    "$$",
    "SUBSCRIPTION",
    "REINDEX",
    "TYPE",
    "INDEX",
    "TRIGGER",
    "ADD",
    "CONSTRAINT",
    "IF",
    "EXISTS",
];

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig {
        cases: 3000,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn nonsense_is_survived(picks in proptest::collection::vec(0..WORDS.len(), 0..16)) {
        let sql: Vec<_> = picks.iter().map(|&pick| WORDS[pick]).collect();
        let sql = sql.join(" ");
        let statement = Statement::new(sql.as_bytes());
        let target = TargetAbilities {
            unknown_column_options: names(&["pg_attver"]),
            unknown_relation_options: names(&["pg_attver"]),
            unknown_settings: names(&["aptible"]),
            ..TargetAbilities::default()
        };
        let rules = FilterRules {
            reserved_roles: names(&["aptible"]),
            drop_passwords_of: names(&["b"]),
            drop_role_attributes: names(&["VALID"]),
            no_owner: true,
            no_tablespaces: true,
            target: Some(target),
            ..FilterRules::default()
        };
        let filter = filter(rules);
        let mut report = FilterReport::new(&filter);
        report.note(&statement, &filter.judge(&statement));
        drop((statement.kind(), statement.object(), statement.roles(), statement.setting()));
        drop((statement.needs_autocommit(), statement.redacted(30)));
    }
}
