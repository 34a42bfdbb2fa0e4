//! The object that a statement is about, in words.

use super::token::Tokens;

/// Kinds of objects whose name has more words, longest first.
const WORDY: &[&str] = &[
    "TEXT SEARCH CONFIGURATION",
    "TEXT SEARCH DICTIONARY",
    "TEXT SEARCH PARSER",
    "TEXT SEARCH TEMPLATE",
    "FOREIGN DATA WRAPPER",
    "MATERIALIZED VIEW",
    "FOREIGN TABLE",
    "EVENT TRIGGER",
    "ACCESS METHOD",
    "OPERATOR CLASS",
    "OPERATOR FAMILY",
    "LARGE OBJECT",
    "USER MAPPING",
    "DEFAULT PRIVILEGES",
];
/// Words between `CREATE` and the kind of object.
const MODIFIERS: &[&str] = &[
    "OR",
    "REPLACE",
    "TEMP",
    "TEMPORARY",
    "UNLOGGED",
    "GLOBAL",
    "LOCAL",
    "RECURSIVE",
    "UNIQUE",
    "CONSTRAINT",
    "PROCEDURAL",
    "TRUSTED",
    "DEFAULT",
];
/// Words between the kind of object and its name.
const BEFORE_NAME: &[&str] = &["IF NOT EXISTS", "IF EXISTS", "CONCURRENTLY", "ONLY", "FOR"];

/// Returns the kind and name of the object, or `None` for statements about no object.
pub(super) fn describe(t: &Tokens<'_>) -> Option<String> {
    let verb = t.bytes(0).to_ascii_uppercase();
    match verb.as_slice() {
        b"COPY" => Some(format!("table {}", name(t, 1))),
        b"INSERT" => Some(format!("table {}", name(t, 1 + t.skip(1, "INTO")))),
        b"TRUNCATE" => {
            let at = 1 + t.skip(1, "TABLE");
            Some(format!("table {}", name(t, at + t.skip(at, "ONLY"))))
        }
        b"COMMENT" => typed(t, 2),
        b"SECURITY" => typed(t, t.find(1, &["ON"])? + 1),
        b"GRANT" | b"REVOKE" => match t.find(1, &["ON", "TO", "FROM"])? {
            at if t.are(at, "ON") => granted(t, at + 1),
            at => Some(format!("role {}", name(t, at - 1))),
        },
        b"REFRESH" => typed(t, 1),
        b"SELECT" => called(t),
        b"CREATE" | b"ALTER" | b"DROP" => {
            let mut at = 1;
            while !t.are(at, "DEFAULT PRIVILEGES") && t.any(at, MODIFIERS) {
                at += 1;
            }
            typed(t, at)
        }
        _ => None,
    }
}

fn typed(t: &Tokens<'_>, at: usize) -> Option<String> {
    let wordy = WORDY.iter().find(|words| t.are(at, words));
    let (kind, mut at) = match wordy {
        Some(words) => (words.to_ascii_lowercase(), at + words.split(' ').count()),
        None => (t.name(at)?, at + 1),
    };
    if kind == "default privileges" {
        return Some(match t.find(at, &["GRANT", "REVOKE"]) {
            Some(_) if t.any(at, &["FOR ROLE", "FOR USER"]) => format!("default privileges of {}", name(t, at + 2)),
            _ => kind,
        });
    }
    let kind = if kind == "user" || kind == "group" { "role".to_owned() } else { kind };
    while let Some(words) = BEFORE_NAME.iter().find(|words| t.are(at, words)) {
        at += words.split(' ').count();
    }
    let object = format!("{kind} {}", name(t, at));
    let end = t.name_end(at);
    let on = match kind.as_str() {
        "trigger" | "policy" | "index" | "constraint" => t.find(end, &["ON"]),
        // CREATE RULE r AS ON event TO table, COMMENT ON RULE r ON table.
        "rule" => t.find(end, &["TO"]).or_else(|| t.find(end, &["ON"])),
        "user mapping" => t.find(end, &["SERVER"]),
        "table" if t.are(end, "ADD CONSTRAINT") => {
            return Some(format!("constraint {} on {}", name(t, end + 2), name(t, at)));
        }
        _ => None,
    };
    match on {
        Some(on) if !t.are(on, "SERVER") => Some(format!("{object} on {}", name(t, on + 1 + t.skip(on + 1, "ONLY")))),
        Some(on) => Some(format!("{object} server {}", name(t, on + 1))),
        None => Some(object),
    }
}

fn granted(t: &Tokens<'_>, at: usize) -> Option<String> {
    let typed_kinds =
        ["SCHEMA", "SEQUENCE", "FUNCTION", "PROCEDURE", "ROUTINE", "DATABASE", "DOMAIN", "LANGUAGE", "TYPE"];
    let more_kinds = ["TABLE", "TABLESPACE", "LARGE OBJECT", "FOREIGN DATA WRAPPER", "PARAMETER"];
    if t.are(at, "FOREIGN SERVER") {
        return typed(t, at + 1);
    }
    if t.any(at, &typed_kinds) || t.any(at, &more_kinds) {
        return typed(t, at);
    }
    if t.are(at, "ALL") { None } else { Some(format!("table {}", name(t, at))) }
}

/// The functions that a dump calls on objects.
fn called(t: &Tokens<'_>) -> Option<String> {
    let at = if t.is_symbol(2, b'.') { 3 } else { 1 };
    let kind = match t.name(at)?.as_str() {
        "setval" => "sequence",
        "lo_create" | "lo_open" | "lo_unlink" => "large object",
        _ => return None,
    };
    Some(format!("{kind} {}", t.literal(at + 2)?))
}

/// Returns the qualified name at `at` as it is written, on one line.
fn name(t: &Tokens<'_>, at: usize) -> String {
    if at >= t.len() {
        return String::new();
    }
    let text = String::from_utf8_lossy(&t.text[t.span(at..t.name_end(at))]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::Statement;

    #[test]
    fn objects() {
        for (sql, expected) in [
            ("CREATE TABLE public.orders (id int);", "table public.orders"),
            ("CREATE UNLOGGED TABLE IF NOT EXISTS s.\"A b\" (id int);", "table s.\"A b\""),
            ("CREATE ROLE aptible;", "role aptible"),
            ("ALTER USER aptible PASSWORD 'x';", "role aptible"),
            ("CREATE OR REPLACE FUNCTION s.f(a int) RETURNS int", "function s.f"),
            ("CREATE UNIQUE INDEX i ON public.t USING btree (a);", "index i on public.t"),
            ("CREATE CONSTRAINT TRIGGER tr AFTER INSERT ON s.t FOR EACH ROW", "trigger tr on s.t"),
            ("CREATE RULE r AS ON INSERT TO s.v DO INSTEAD NOTHING;", "rule r on s.v"),
            ("ALTER TABLE ONLY public.t ADD CONSTRAINT t_pkey PRIMARY KEY (id);", "constraint t_pkey on public.t"),
            ("ALTER TABLE ONLY public.t ALTER COLUMN c SET (n_distinct=5);", "table public.t"),
            ("COMMENT ON COLUMN public.t.c IS 'x';", "column public.t.c"),
            ("GRANT SELECT ON TABLE public.t TO a;", "table public.t"),
            ("GRANT SELECT(a),UPDATE(b) ON public.t TO a;", "table public.t"),
            ("REVOKE USAGE ON SCHEMA public FROM PUBLIC;", "schema public"),
            ("GRANT a TO b;", "role a"),
            ("SELECT pg_catalog.setval('public.s', 5, true);", "sequence public.s"),
            ("CREATE USER MAPPING FOR app SERVER srv OPTIONS (a 'b');", "user mapping app server srv"),
            ("ALTER DEFAULT PRIVILEGES FOR ROLE app GRANT SELECT ON TABLES TO x;", "default privileges of app"),
            ("CREATE MATERIALIZED VIEW s.mv AS SELECT 1;", "materialized view s.mv"),
            ("COPY public.orders (id, note) FROM stdin;", "table public.orders"),
            ("INSERT INTO public.orders VALUES (1);", "table public.orders"),
            ("DROP DATABASE IF EXISTS db;", "database db"),
        ] {
            assert_eq!(Statement::new(sql.as_bytes()).object().as_deref(), Some(expected), "{sql}");
        }
        assert_eq!(Statement::new(b"SET a = b;").object(), None);
    }
}
