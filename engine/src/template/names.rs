//! What an expression names: paths such as `steps.dump.outputs.file`, found without evaluating anything.
//!
//! minijinja can list the variables of an expression, but takes `steps['dump']` for plain `steps`; a plan needs the
//! whole path to tell which step must come before. So this is a reader of the expression's tokens.

use std::{borrow::Cow, ops::Range};

/// A path of names in an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name {
    /// The parts: `["steps", "dump", "outputs", "file"]`.
    pub path: Vec<String>,
    /// Whether the path goes on with a part that only evaluation tells (`vars[each.key]`).
    pub dynamic: bool,
    /// The bytes in the expression.
    pub span: Range<usize>,
    /// The part of the expression it stands in, as `if`, `else`, `and` and `or` divide it.
    pub(super) region: usize,
}

/// What is said about an expression without evaluating it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// All paths, in order.
    pub paths: Vec<Name>,
    /// What changes or compares values, with its region: filters (`|upper`), tests, operators, functions.
    pub(super) operations: Vec<(String, usize, Range<usize>)>,
}

const WORDS: [&str; 9] = ["and", "or", "not", "in", "is", "if", "else", "true", "false"];
const CONSTANTS: [&str; 5] = ["none", "None", "True", "False", "null"];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Number(String),
    Sign(&'static str),
}

/// Returns the names and operations of `expression`; what is not well-formed is left to minijinja to report.
#[must_use]
pub fn names(expression: &str) -> Names {
    let tokens = tokens(expression);
    let mut found = Names::default();
    let mut region = 0;
    let mut at = 0;
    let sign = |at: usize| match tokens.get(at) {
        Some((Token::Sign(sign), _)) => Some(*sign),
        _ => None,
    };
    while let Some((token, span)) = tokens.get(at) {
        let before = at.checked_sub(1).and_then(&sign);
        match token {
            Token::Word(word) if matches!(word.as_str(), "if" | "else" | "and" | "or") => region += 1,
            Token::Word(word) if WORDS.contains(&word.as_str()) => {
                if matches!(word.as_str(), "in" | "is" | "not") {
                    found.operations.push((word.clone(), region, span.clone()));
                }
            }
            Token::Word(word) if before == Some("|") => {
                found.operations.push((format!("|{word}"), region, span.clone()));
            }
            Token::Word(word) if CONSTANTS.contains(&word.as_str()) || before == Some(".") || is_test(&tokens, at) => {}
            Token::Word(_) if sign(at + 1) == Some("=") => {}
            Token::Word(word) if sign(at + 1) == Some("(") => {
                found.operations.push((format!("{word}()"), region, span.clone()));
            }
            Token::Word(word) => {
                let (name, next) = path(word, at, region, &tokens);
                found.paths.push(name);
                at = next;
                continue;
            }
            Token::Sign(sign) if !matches!(*sign, "(" | ")" | "[" | "]" | "{" | "}" | "," | ":" | "." | "|" | "~") => {
                found.operations.push(((*sign).to_owned(), region, span.clone()));
            }
            Token::Sign(_) | Token::Text(_) | Token::Number(_) => {}
        }
        at += 1;
    }
    found
}

/// Returns whether the word is the name of a test: `x is defined`, `x is not defined`.
fn is_test(tokens: &[(Token, Range<usize>)], at: usize) -> bool {
    let word = |back: usize| match at.checked_sub(back).and_then(|at| tokens.get(at)) {
        Some((Token::Word(word), _)) => word.as_str(),
        _ => "",
    };
    word(1) == "is" || (word(1) == "not" && word(2) == "is")
}

/// Reads `.name`, `['name']` and `[0]` after the first word; returns the path and the index of the token after it.
fn path(word: &str, first: usize, region: usize, tokens: &[(Token, Range<usize>)]) -> (Name, usize) {
    let mut span = tokens[first].1.clone();
    let mut parts = vec![word.to_owned()];
    let mut dynamic = false;
    let mut at = first + 1;
    loop {
        let token = |ahead: usize| tokens.get(at + ahead).map(|(token, _)| token);
        match (token(0), token(1), token(2)) {
            // A method of the value: the path ends before it.
            (Some(Token::Sign(".")), Some(Token::Word(_)), Some(Token::Sign("("))) => break,
            (Some(Token::Sign(".")), Some(Token::Word(part) | Token::Number(part)), _) => {
                parts.push(part.clone());
                at += 2;
            }
            (Some(Token::Sign("[")), Some(Token::Text(part) | Token::Number(part)), Some(Token::Sign("]"))) => {
                parts.push(part.clone());
                at += 3;
            }
            (Some(Token::Sign("[")), ..) => {
                dynamic = true;
                break;
            }
            _ => break,
        }
        span.end = tokens[at - 1].1.end;
    }
    (Name { path: parts, dynamic, span, region }, at)
}

fn tokens(text: &str) -> Vec<(Token, Range<usize>)> {
    const SIGNS: [&str; 28] = [
        "**", "//", "==", "!=", "<=", ">=", "(", ")", "[", "]", "{", "}", ",", ":", ".", "|", "~", "+", "-", "*", "/",
        "%", "<", ">", "=", "!", "@", ";",
    ];
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(c) = text[at..].chars().next() {
        let rest = &text[at..];
        let length = if c == '"' || c == '\'' {
            let (string, length) = quoted(rest, c);
            tokens.push((Token::Text(string), at..at + length));
            length
        } else if c.is_alphabetic() || c == '_' {
            let with_hyphens = is_hyphenated_place(&tokens);
            let inside = |c: char| c.is_alphanumeric() || c == '_' || (c == '-' && with_hyphens);
            let length = rest.find(|c: char| !inside(c)).unwrap_or(rest.len());
            tokens.push((Token::Word(rest[..length].to_owned()), at..at + length));
            length
        } else if c.is_ascii_digit() {
            let length = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push((Token::Number(rest[..length].to_owned()), at..at + length));
            length
        } else if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
            tokens.push((Token::Sign(sign), at..at + sign.len()));
            sign.len()
        } else {
            c.len_utf8()
        };
        at += length;
    }
    tokens
}

/// Returns whether the next word may hold hyphens: right behind `steps.`, `secrets.` or `databases.`, where a minus
/// would make no sense and `stop-app` is a usual name.
fn is_hyphenated_place(tokens: &[(Token, Range<usize>)]) -> bool {
    let [.., (Token::Word(root), _), (Token::Sign("."), _)] = tokens else { return false };
    let is_root = !matches!(tokens.len().checked_sub(3).map(|at| &tokens[at].0), Some(Token::Sign(".")));
    is_root && matches!(root.as_str(), "steps" | "secrets" | "databases")
}

/// Returns the expression as minijinja understands it: `steps.stop-app` becomes `steps['stop-app']`.
pub(super) fn for_minijinja(expression: &str) -> Cow<'_, str> {
    let mut out = Cow::Borrowed(expression);
    let tokens = tokens(expression);
    let hyphenated = tokens.iter().enumerate().rev().filter_map(|(at, (token, span))| match token {
        Token::Word(word) if word.contains('-') => Some((word, tokens[at - 1].1.start..span.end)),
        _ => None,
    });
    for (word, span) in hyphenated {
        out.to_mut().replace_range(span, &format!("['{word}']"));
    }
    out
}

/// Returns the string literal at the start of `text` and its length with the quotes.
fn quoted(text: &str, quote: char) -> (String, usize) {
    let mut string = String::new();
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => {
                string.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            _ if c == quote => return (string, at + 1),
            _ => string.push(c),
        }
    }
    (string, text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(expression: &str) -> Vec<String> {
        names(expression)
            .paths
            .iter()
            .map(|name| format!("{}{}", name.path.join("."), if name.dynamic { "[*]" } else { "" }))
            .collect()
    }

    #[test]
    fn lists_whole_paths() {
        assert_eq!(paths("steps.dump.outputs.file ~ vars['db']"), ["steps.dump.outputs.file", "vars.db"]);
        assert_eq!(paths("steps['stop-app'].outputs['web'][0]"), ["steps.stop-app.outputs.web.0"]);
        assert_eq!(
            paths("steps.stop-app.outputs.web ~ vars.a-vars.b"),
            ["steps.stop-app.outputs.web", "vars.a", "vars.b"]
        );
        assert_eq!(for_minijinja("steps.stop-app.x - secrets.a"), "steps['stop-app'].x - secrets.a");
        assert_eq!(paths("vars[each.key].size"), ["vars[*]", "each.key"]);
        assert_eq!(paths("vars.a | default('vars.b') | join(sep=vars.c)"), ["vars.a", "vars.c"]);
        assert_eq!(paths("vars.x is defined and not none or true"), ["vars.x"]);
        assert_eq!(paths("range(vars.n) if x.items() else {'k': y}"), ["vars.n", "x", "y"]);
    }

    #[test]
    fn regions_divide_conditions_from_values() {
        let found = names("secrets.a if vars.env == 'prod' else secrets.b | upper");
        let regions: Vec<usize> = found.paths.iter().map(|name| name.region).collect();
        assert_eq!(regions, [0, 1, 2]);
        let operations: Vec<(&str, usize)> =
            found.operations.iter().map(|(what, region, _)| (what.as_str(), *region)).collect();
        assert_eq!(operations, [("==", 1), ("|upper", 2)]);
    }
}
