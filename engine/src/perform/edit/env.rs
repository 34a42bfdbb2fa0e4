//! `KEY=value` lines.
//!
//! The readers of such files differ: a shell, systemd, the dotenv libraries of each language and docker agree only on
//! plain values, and all but docker on single quotes. So a value is written plain where that is safe for all of them,
//! in single quotes otherwise, and in double quotes only when nothing in it would be read differently there. A value
//! that no spelling carries safely is refused rather than guessed.

use super::Problem;

/// Whether quotes may be put around a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quoting {
    /// Where a shell would need them.
    WhereNeeded,
    /// Never: docker takes them for a part of the value.
    Never,
}

/// Returns the text with each key set to its value, wherever it is assigned; a key that is not there is added.
pub(super) fn edit(text: &str, set: &[(&str, &str)], quoting: Quoting) -> Result<String, Problem> {
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let mut lines: Vec<String> = Vec::new();
    let mut found = vec![false; set.len()];
    let mut exported = false;
    let mut rest = text;
    while !rest.is_empty() {
        let (piece, tail) = assignment(rest, quoting);
        rest = tail;
        let Some(old) = Assignment::read(piece, quoting) else {
            lines.push(piece.to_owned());
            continue;
        };
        exported = old.before.trim_start().starts_with("export");
        match set.iter().position(|(key, _)| *key == old.key) {
            Some(at) => {
                found[at] = true;
                let value = spelled(old.key, set[at].1, old.quote(), quoting)?;
                lines.push(format!("{}{}{}{value}{}", old.before, old.key, old.sign, old.after));
            }
            None => lines.push(piece.to_owned()),
        }
    }
    for ((key, value), _) in set.iter().zip(&found).filter(|(_, found)| !**found) {
        if let Some(last) = lines.last_mut().filter(|last| !last.ends_with('\n')) {
            last.push_str(end);
        }
        let export = if exported { "export " } else { "" };
        lines.push(format!("{export}{key}={}{end}", spelled(key, value, None, quoting)?));
    }
    Ok(lines.concat())
}

/// Cuts the next line off, with the lines that a quoted value goes on over.
fn assignment(text: &str, quoting: Quoting) -> (&str, &str) {
    let line_end = |from: usize| text[from..].find('\n').map_or(text.len(), |at| from + at + 1);
    let first = line_end(0);
    let Some(old) = Assignment::read(&text[..first], quoting).filter(|old| old.open) else {
        return text.split_at(first);
    };
    let Some(quote) = old.quote() else {
        return text.split_at(first);
    };
    let from = old.before.len() + old.key.len() + old.sign.len() + 1;
    match closing(&text[from..], quote) {
        Some(at) => text.split_at(line_end(from + at + 1)),
        // Never closed: then it is no quote.
        None => text.split_at(first),
    }
}

/// Returns where the quote closes; in double quotes a backslash takes the next character along.
fn closing(text: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let closes = c == quote && !escaped;
        escaped = quote == '"' && c == '\\' && !escaped;
        closes.then_some(at)
    })
}

struct Assignment<'a> {
    before: &'a str,
    key: &'a str,
    sign: &'a str,
    value: &'a str,
    after: &'a str,
    /// Whether the value begins with a quote that is not closed in this text.
    open: bool,
}

impl<'a> Assignment<'a> {
    fn read(line: &'a str, quoting: Quoting) -> Option<Self> {
        let (left, right) = line.split_once('=')?;
        let name = left.trim_end();
        let key = name.rsplit(|c: char| c.is_whitespace()).next()?;
        let before = &name[..name.len() - key.len()];
        let word = |c: char| c.is_alphanumeric() || "_.-".contains(c);
        if key.is_empty() || !key.chars().all(word) || !matches!(before.trim(), "" | "export") {
            return None;
        }
        let blanks = right.len() - right.trim_start_matches([' ', '\t']).len();
        let sign = &line[name.len()..left.len() + 1 + blanks];
        let (value, after, open) = value_and_rest(&right[blanks..], quoting);
        Some(Self { before, key, sign, value, after, open })
    }

    fn quote(&self) -> Option<char> {
        self.value.chars().next().filter(|c| matches!(c, '\'' | '"'))
    }
}

/// Cuts a value off the comment and the line end behind it.
fn value_and_rest(text: &str, quoting: Quoting) -> (&str, &str, bool) {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"') && quoting == Quoting::WhereNeeded);
    if let Some(quote) = quote {
        return match closing(&text[1..], quote) {
            Some(at) => (&text[..at + 2], &text[at + 2..], false),
            None => (text.trim_end_matches(['\n', '\r']), &text[text.trim_end_matches(['\n', '\r']).len()..], true),
        };
    }
    let line = text.trim_end_matches(['\n', '\r']);
    let comment = match quoting {
        Quoting::WhereNeeded => line.match_indices('#').find(|(at, _)| *at == 0 || line[..*at].ends_with([' ', '\t'])),
        Quoting::Never => None,
    };
    let value = line[..comment.map_or(line.len(), |(at, _)| at)].trim_end();
    (value, &text[value.len()..], false)
}

fn spelled(key: &str, value: &str, old: Option<char>, quoting: Quoting) -> Result<String, Problem> {
    const HELP: &str = "percent-encode the password in the URL: `${{ secrets.NAME | urlencode }}`";
    if value.chars().any(char::is_control) {
        return Err(Problem::new(
            format!("the value for `{key}` holds a line break or another control character"),
            None,
        ));
    }
    if quoting == Quoting::Never {
        return if value.trim() == value {
            Ok(value.to_owned())
        } else {
            Err(Problem::new(format!("the value for `{key}` begins or ends with a blank, which docker drops"), None))
        };
    }
    let plain = value.chars().all(|c| c.is_alphanumeric() || "_-./:@%+,=".contains(c));
    let doubled = !value.contains(['"', '\\', '$', '`', '!']);
    let single = !value.contains('\'');
    match old {
        None if plain => Ok(value.to_owned()),
        Some('"') if doubled => Ok(format!("\"{value}\"")),
        _ if single => Ok(format!("'{value}'")),
        _ if doubled => Ok(format!("\"{value}\"")),
        _ => {
            let message =
                format!("the value for `{key}` holds quotes that readers of such files understand differently");
            Err(Problem::new(message, Some(HELP)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(old: &str, set: &[(&str, &str)], new: &str) {
        let edited = edit(old, set, Quoting::WhereNeeded).unwrap();
        assert_eq!(edited, new);
        assert_eq!(edit(&edited, set, Quoting::WhereNeeded).unwrap(), edited, "a second edit changes nothing");
    }

    #[test]
    fn only_the_value_changes() {
        let old = "# DB_URL=old\n\nexport A=1\n  DB_URL = postgres://old  # the database\nB='x y'\n";
        let new = "# DB_URL=old\n\nexport A=1\n  DB_URL = postgres://new  # the database\nB='x y'\n";
        check(old, &[("DB_URL", "postgres://new")], new);
    }

    #[test]
    fn quotes_are_kept_where_they_carry_the_value() {
        check("A=\"old\" # c\n", &[("A", "a b")], "A=\"a b\" # c\n");
        check("A='old'\n", &[("A", "plain")], "A='plain'\n");
        check("A=\"old\"\n", &[("A", "pa$$word")], "A='pa$$word'\n");
        check("A='old'\n", &[("A", "it's")], "A=\"it's\"\n");
        check("A=old\n", &[("A", "postgres://u:p@h/db?a=1&b=2")], "A='postgres://u:p@h/db?a=1&b=2'\n");
        check("A=old\n", &[("A", "")], "A=\n");
    }

    #[test]
    fn a_missing_key_comes_last_and_every_assignment_changes() {
        check("A=1", &[("B", "2")], "A=1\nB=2\n");
        check("export A=1\r\n", &[("B", "x y")], "export A=1\r\nexport B='x y'\r\n");
        check("", &[("B", "2")], "B=2\n");
        check("A=1\nA=2\nAB=3\n", &[("A", "9")], "A=9\nA=9\nAB=3\n");
    }

    #[test]
    fn a_value_over_several_lines_is_one_value() {
        let old = "KEY=\"-----BEGIN\nA=not an assignment\n-----END\"\nA=1\n";
        check(old, &[("A", "2")], "KEY=\"-----BEGIN\nA=not an assignment\n-----END\"\nA=2\n");
        check(old, &[("KEY", "short")], "KEY=\"short\"\nA=1\n");
        check("A=\"never closed\nB=1\n", &[("B", "2")], "A=\"never closed\nB=2\n");
    }

    #[test]
    fn hostile_values_cannot_break_out() {
        for value in ["a\nEVIL=1", "a\0b", "it's \"$(rm)\"", "'\\"] {
            let problem = edit("A=1\n", &[("A", value)], Quoting::WhereNeeded).unwrap_err();
            assert!(!problem.message.contains(value));
        }
        check("A=1\n", &[("A", "$(rm -rf /); `x` #")], "A='$(rm -rf /); `x` #'\n");
    }

    #[test]
    fn docker_gets_no_quotes() {
        let edited = |value| edit("A=\"old\" # not a comment\nB=1\n", &[("A", value)], Quoting::Never);
        assert_eq!(edited("a 'b' \"c\" $d #e").unwrap(), "A=a 'b' \"c\" $d #e\nB=1\n");
        assert!(edited("a\nb").is_err() && edited(" a").is_err());
    }
}
