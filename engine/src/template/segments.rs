//! Where the templates of a string are: `text ${{ expression }} text`.

use std::ops::Range;

/// A piece of a string.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Segment {
    /// Characters that stay as they are.
    Text(String),
    /// The bytes of an expression, without the braces and the blanks around it.
    Expression(Range<usize>),
}

/// Returns whether `text` holds a template or an escaped one.
pub(crate) fn has_template(text: &str) -> bool {
    text.contains("${{")
}

/// Returns the pieces of `text`; `$${{` stands for a literal `${{`.
///
/// # Errors
/// The offset of a `${{` that is never closed.
pub(crate) fn split(text: &str) -> Result<Vec<Segment>, usize> {
    let mut segments = Vec::new();
    let mut plain = String::new();
    let mut at = 0;
    while let Some(found) = text[at..].find("${{") {
        let open = at + found;
        if text[at..open].ends_with('$') {
            plain.push_str(&text[at..open]);
            plain.push_str("{{");
            at = open + 3;
            continue;
        }
        plain.push_str(&text[at..open]);
        if !plain.is_empty() {
            segments.push(Segment::Text(std::mem::take(&mut plain)));
        }
        let start = open + 3;
        let end = start + close(&text[start..]).ok_or(open)?;
        let inner = &text[start..end];
        let from = start + (inner.len() - inner.trim_start().len());
        segments.push(Segment::Expression(from..from + inner.trim().len()));
        at = end + 2;
    }
    plain.push_str(&text[at..]);
    if !plain.is_empty() {
        segments.push(Segment::Text(plain));
    }
    Ok(segments)
}

/// Returns the offset of the `}}` that ends the expression; braces and quotes inside it are respected.
fn close(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut quote = None;
    let mut escaped = false;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (Some(_), _) if escaped => escaped = false,
            (Some(_), '\\') => escaped = true,
            (Some(open), _) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '"' | '\'') => quote = Some(c),
            (None, '{') => depth += 1,
            (None, '}') if depth > 0 => depth -= 1,
            (None, '}') if text[at..].starts_with("}}") => return Some(at),
            (None, _) => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str) -> Result<Vec<String>, usize> {
        split(text).map(|segments| {
            segments
                .into_iter()
                .map(|segment| match segment {
                    Segment::Text(text) => text,
                    Segment::Expression(range) => format!("<{}>", &text[range]),
                })
                .collect()
        })
    }

    #[test]
    fn splits() {
        assert_eq!(show("a ${{ x }}b${{y}}").unwrap(), ["a ", "<x>", "b", "<y>"]);
        assert_eq!(show("${{ '}}' ~ \"\\\"}}\" }}").unwrap(), ["<'}}' ~ \"\\\"}}\">"]);
        assert_eq!(show("${{ {'a': {'b': 1}} }}!").unwrap(), ["<{'a': {'b': 1}}>", "!"]);
        assert_eq!(show("$${{ x }} ${HOME} {{ y }}").unwrap(), ["${{ x }} ${HOME} {{ y }}"]);
        assert_eq!(show("ab ${{ x }"), Err(3));
    }
}
