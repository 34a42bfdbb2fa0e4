//! Statements for people's eyes: on one line, shortened, without secrets.

use super::lexer::Quoting;
use super::token::{Lexer, TokenKind};

const HIDDEN: &str = "'<redacted>'";
/// Names whose string is a secret, as a keyword or as an option of a server or user mapping.
const SECRET_WORDS: &[&str] =
    &["PASSWORD", "PASSWD", "SSLPASSWORD", "PASSCODE", "CONNECTION", "SECRET", "TOKEN", "API_KEY", "PASSFILE"];

/// Returns the statement without comments, its white space folded, in at most about `most` characters.
pub(super) fn redacted(text: &[u8], quoting: Quoting, most: usize) -> String {
    let mut out = String::new();
    let mut length = 0;
    let (mut end, mut secret, mut insert) = (0, false, false);
    for token in Lexer::new(text, quoting) {
        let bytes = &text[token.start..token.end];
        if end > 0 && token.start > end {
            out.push(' ');
            length += 1;
        }
        let first = end == 0;
        end = token.end;
        let hide = token.kind == TokenKind::String && (secret || holds_secret(bytes));
        let shown = if hide { HIDDEN.to_owned() } else { shorten(bytes, most) };
        length += shown.chars().count();
        if length > most && !first {
            return out.trim_end().to_owned() + " …";
        }
        out.push_str(&shown);
        let word = token.kind == TokenKind::Word;
        if first {
            insert = word && bytes.eq_ignore_ascii_case(b"INSERT");
        }
        if insert && word && bytes.eq_ignore_ascii_case(b"VALUES") {
            return out + " (…)";
        }
        let named = matches!(token.kind, TokenKind::Word | TokenKind::Quoted);
        secret = named && SECRET_WORDS.iter().any(|name| is_named(bytes, name)) || (secret && bytes == b"=");
    }
    out
}

fn is_named(bytes: &[u8], name: &str) -> bool {
    let inner = bytes.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(bytes);
    inner.eq_ignore_ascii_case(name.as_bytes())
}

/// Returns whether a literal holds a password: a verifier, a connection string or URL, or SQL that sets one.
fn holds_secret(literal: &[u8]) -> bool {
    let lower = literal.to_ascii_lowercase();
    let has = |what: &[u8]| memchr::memmem::find(&lower, what).is_some();
    let verifier = |from: usize| lower.get(from..from + 32).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit));
    has(b"scram-sha-256$")
        || has(b"password")
        || (has(b"://") && has(b"@"))
        || memchr::memmem::find_iter(&lower, b"md5").any(|at| verifier(at + 3))
}

/// Returns a token as text without control characters; the middle of a long one is left out.
fn shorten(bytes: &[u8], most: usize) -> String {
    let text = String::from_utf8_lossy(bytes.get(..most.saturating_mul(4)).unwrap_or(bytes));
    let mut shown: String = text.chars().take(most).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if shown.len() < bytes.len() && text.chars().count() > most {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::super::Statement;

    fn redacted(sql: &str) -> String {
        Statement::new(sql.as_bytes()).redacted(200)
    }

    #[test]
    fn passwords_never_show() {
        for sql in [
            "ALTER ROLE a WITH LOGIN PASSWORD 'hunter2' VALID UNTIL 'infinity';",
            "CREATE USER a ENCRYPTED PASSWORD E'hunter2\\'';",
            "CREATE ROLE a PASSWORD $$hunter2$$;",
            "CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', password 'hunter2');",
            "ALTER USER MAPPING FOR a SERVER s OPTIONS (SET \"password\" 'hunter2');",
            "CREATE SUBSCRIPTION s CONNECTION 'host=x password=hunter2' PUBLICATION p;",
            "SELECT dblink_connect('postgres://u:hunter2@h/db');",
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS $$ SELECT dblink('password = hunter2') $$;",
            "INSERT INTO users VALUES ('hunter2');",
            "SET a.password = 'hunter2';",
            "ALTER ROLE a PASSWORD 'hunter2",
        ] {
            let shown = redacted(sql);
            assert!(!shown.contains("hunter2"), "{shown}");
        }
        let role = "ALTER ROLE a WITH PASSWORD 'x;y' VALID UNTIL 'infinity';";
        assert_eq!(redacted(role), "ALTER ROLE a WITH PASSWORD '<redacted>' VALID UNTIL 'infinity';");
    }

    #[test]
    fn one_line_and_short() {
        assert_eq!(redacted("CREATE TABLE t (\n    a int, -- c\n    b text\n);"), "CREATE TABLE t ( a int, b text );");
        let long = format!("SELECT '{}', 1;", "x".repeat(10_000));
        assert_eq!(Statement::new(long.as_bytes()).redacted(20), "SELECT …");
        assert_eq!(Statement::new(b"SELECT a, b, c, d").redacted(11), "SELECT a, b …");
    }
}
