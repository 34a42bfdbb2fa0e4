//! The one place that quotes: names and values for SQL, values for connection strings.
//!
//! Everything is quoted always, also where the server would not need it, so that a hostile name meets no second path.
//! (PostgreSQL manual, 4.1 "Lexical Structure" and 34.1.1 "Connection Strings".)

/// Returns `name` as a quoted SQL identifier.
///
/// ```
/// assert_eq!(pgplan_engine::postgres::quote::ident(r#"my "table""#), r#""my ""table""""#);
/// ```
#[must_use]
pub fn ident(name: &str) -> String {
    enclose(name, '"', |c| c == '"', '"')
}

/// Returns `schema.name`, both quoted.
#[must_use]
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", ident(schema), ident(name))
}

/// Returns the names as quoted SQL identifiers with commas between.
#[must_use]
pub fn ident_list<T: AsRef<str>>(names: &[T]) -> String {
    names.iter().map(|name| ident(name.as_ref())).collect::<Vec<_>>().join(", ")
}

/// Returns `value` as an SQL string literal that means the same whatever `standard_conforming_strings` is.
///
/// A value with a backslash becomes an `E''` literal; without, a plain one.
///
/// ```
/// use pgplan_engine::postgres::quote::literal;
/// assert_eq!(literal("it's"), "'it''s'");
/// assert_eq!(literal(r"a\b"), r"E'a\\b'");
/// ```
#[must_use]
pub fn literal(value: &str) -> String {
    if value.contains('\\') {
        let doubled = value.replace('\\', r"\\");
        format!("E{}", enclose(&doubled, '\'', |c| c == '\'', '\''))
    } else {
        enclose(value, '\'', |c| c == '\'', '\'')
    }
}

/// Returns `value` quoted for a `keyword=value` connection string.
#[must_use]
pub fn conninfo_value(value: &str) -> String {
    enclose(value, '\'', |c| c == '\'' || c == '\\', '\\')
}

/// Returns a name or value for people: on one line and without terminal codes, whatever is in it.
#[must_use]
pub fn on_one_line(text: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_debug().to_string() } else { c.to_string() };
    text.chars().map(escaped).collect()
}

fn enclose(text: &str, mark: char, special: fn(char) -> bool, escape: char) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push(mark);
    for c in text.chars() {
        if special(c) {
            quoted.push(escape);
        }
        quoted.push(c);
    }
    quoted.push(mark);
    quoted
}

/// Percent-encodes what a URL would read as its own; a slash too.
pub(super) fn percent(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::{conninfo_value, ident, ident_list, literal, on_one_line, percent, qualified};

    #[test]
    fn names_are_always_quoted() {
        assert_eq!(ident("orders"), "\"orders\"");
        assert_eq!(ident("a\"; DROP TABLE x; --"), "\"a\"\"; DROP TABLE x; --\"");
        assert_eq!(ident("line\nbreak 'quote' \\ $$"), "\"line\nbreak 'quote' \\ $$\"");
        assert_eq!(ident(""), "\"\"");
        assert_eq!(qualified("a.b", "c\"d"), "\"a.b\".\"c\"\"d\"");
        assert_eq!(ident_list(&["a", "B"]), "\"a\", \"B\"");
    }

    #[test]
    fn shown_names_keep_quotes_and_lose_control_characters() {
        assert_eq!(on_one_line("größe \"x\" \n\u{1b}[31m"), r#"größe "x" \n\u{1b}[31m"#);
    }

    #[test]
    fn literals_survive_quotes_and_backslashes() {
        assert_eq!(literal(""), "''");
        assert_eq!(literal("'; DROP TABLE x; --"), "'''; DROP TABLE x; --'");
        assert_eq!(literal(r"\'"), r"E'\\'''");
        assert_eq!(literal("größe\n"), "'größe\n'");
    }

    #[test]
    fn connection_string_values_are_escaped() {
        assert_eq!(conninfo_value(""), "''");
        assert_eq!(conninfo_value(r"a 'b' \c"), r"'a \'b\' \\c'");
        assert_eq!(percent("/run/a b@é"), "%2Frun%2Fa%20b%40%C3%A9");
    }
}
