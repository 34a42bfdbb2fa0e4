//! The tokens of one complete statement, and questions about them.

use std::ops::Range;

use super::lexer::{Quoting, block_comment_end, closing_quote, dollar_tag, is_space, starts_word, word_end};

/// The classes of tokens; comments and white space are none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenKind {
    /// An unquoted identifier or keyword, or a number.
    Word,
    /// `"…"`, also with `U&` before it.
    Quoted,
    /// `'…'` with its prefix, or a dollar-quoted string.
    String,
    /// Any other byte.
    Symbol,
}

/// A token and where it stands in the statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: TokenKind,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Walks over the tokens of a statement; a token that is cut off ends with the text.
pub(super) struct Lexer<'a> {
    text: &'a [u8],
    pos: usize,
    quoting: Quoting,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a [u8], quoting: Quoting) -> Self {
        Self { text, pos: 0, quoting }
    }

    fn string_end(&self, mut from: usize, quoting: Quoting) -> usize {
        while let Ok(at) = closing_quote(self.text, from, quoting) {
            if self.text.get(at + 1) != Some(&b'\'') {
                return at + 1;
            }
            from = at + 2;
        }
        self.text.len()
    }

    fn quoted_end(&self, mut from: usize) -> usize {
        while let Some(n) = memchr::memchr(b'"', &self.text[from..]) {
            from += n + 1;
            if self.text.get(from) != Some(&b'"') {
                return from;
            }
            from += 1;
        }
        self.text.len()
    }

    fn skip_blank(&mut self) {
        while let Some(&byte) = self.text.get(self.pos) {
            let rest = &self.text[self.pos..];
            if is_space(byte) {
                self.pos += 1;
            } else if rest.starts_with(b"--") {
                self.pos = memchr::memchr(b'\n', rest).map_or(self.text.len(), |n| self.pos + n);
            } else if rest.starts_with(b"/*") {
                self.pos = block_comment_end(self.text, self.pos + 2, 1).unwrap_or(self.text.len());
            } else {
                return;
            }
        }
    }
}

impl Iterator for Lexer<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        self.skip_blank();
        let start = self.pos;
        let byte = *self.text.get(start)?;
        let (kind, end) = match byte {
            b'\'' => (TokenKind::String, self.string_end(start + 1, self.quoting)),
            b'"' => (TokenKind::Quoted, self.quoted_end(start + 1)),
            b'$' => match dollar_tag(self.text, start) {
                Ok(Some(body)) => {
                    let tag = &self.text[start..body];
                    let end = memchr::memmem::find(&self.text[body..], tag);
                    (TokenKind::String, end.map_or(self.text.len(), |n| body + n + tag.len()))
                }
                _ => (TokenKind::Symbol, start + 1),
            },
            _ if starts_word(byte) || byte.is_ascii_digit() => {
                let end = word_end(self.text, start);
                let word = &self.text[start..end];
                let escapes = if self.quoting == Quoting::Plain { Quoting::Escapes } else { self.quoting };
                match (word, self.text.get(end), self.text.get(end + 1)) {
                    (b"e" | b"E", Some(b'\''), _) => (TokenKind::String, self.string_end(end + 1, escapes)),
                    (b"n" | b"N", Some(b'\''), _) => (TokenKind::String, self.string_end(end + 1, self.quoting)),
                    (b"b" | b"B" | b"x" | b"X", Some(b'\''), _) => {
                        (TokenKind::String, self.string_end(end + 1, Quoting::Plain))
                    }
                    (b"u" | b"U", Some(b'&'), Some(b'\'')) => {
                        (TokenKind::String, self.string_end(end + 2, Quoting::Plain))
                    }
                    (b"u" | b"U", Some(b'&'), Some(b'"')) => (TokenKind::Quoted, self.quoted_end(end + 2)),
                    _ => (TokenKind::Word, end),
                }
            }
            _ => (TokenKind::Symbol, start + 1),
        };
        self.pos = end;
        Some(Token { kind, start, end })
    }
}

/// All tokens of a statement.
#[derive(Debug)]
pub(super) struct Tokens<'a> {
    pub(super) text: &'a [u8],
    list: Vec<Token>,
}

impl<'a> Tokens<'a> {
    /// Splits up a statement.
    pub(super) fn new(text: &'a [u8], quoting: Quoting) -> Self {
        Self { text, list: Lexer::new(text, quoting).collect() }
    }

    /// Splits up at most the first `most` tokens of a statement.
    pub(super) fn head(text: &'a [u8], quoting: Quoting, most: usize) -> Self {
        Self { text, list: Lexer::new(text, quoting).take(most).collect() }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn get(&self, at: usize) -> Option<Token> {
        self.list.get(at).copied()
    }

    /// Returns the text of a token; empty past the end.
    pub(super) fn bytes(&self, at: usize) -> &'a [u8] {
        self.list.get(at).map_or(&[], |t| &self.text[t.start..t.end])
    }

    /// Returns the bytes from the first of these tokens to the last; the range must not be empty.
    pub(super) fn span(&self, tokens: Range<usize>) -> Range<usize> {
        self.list[tokens.start].start..self.list[tokens.end - 1].end
    }

    /// Returns whether the unquoted words of `keywords` (upper case, one blank between) stand at `at`.
    pub(super) fn are(&self, at: usize, keywords: &str) -> bool {
        keywords.split(' ').enumerate().all(|(n, keyword)| {
            let word = self.get(at + n).is_some_and(|t| t.kind == TokenKind::Word);
            word && self.bytes(at + n).eq_ignore_ascii_case(keyword.as_bytes())
        })
    }

    /// Returns whether one of these keywords stands at `at`.
    pub(super) fn any(&self, at: usize, keywords: &[&str]) -> bool {
        keywords.iter().any(|keyword| self.are(at, keyword))
    }

    /// Returns the number of tokens in `keywords` if they stand at `at`, else 0.
    pub(super) fn skip(&self, at: usize, keywords: &str) -> usize {
        if self.are(at, keywords) { keywords.split(' ').count() } else { 0 }
    }

    pub(super) fn is_symbol(&self, at: usize, symbol: u8) -> bool {
        self.bytes(at) == [symbol]
    }

    /// Returns the identifier at `at` as the catalog holds it: folded to lower case, or unquoted.
    pub(super) fn name(&self, at: usize) -> Option<String> {
        let token = self.get(at)?;
        let text = self.bytes(at);
        match token.kind {
            TokenKind::Word => Some(String::from_utf8_lossy(&text.to_ascii_lowercase()).into_owned()),
            TokenKind::Quoted => {
                let open = memchr::memchr(b'"', text)? + 1;
                let inner = text.get(open..text.len() - 1)?;
                Some(String::from_utf8_lossy(inner).replace("\"\"", "\""))
            }
            TokenKind::String | TokenKind::Symbol => None,
        }
    }

    /// Returns the value of the plain or escape string at `at`; of escapes only `\\` and `\'` are resolved.
    pub(super) fn literal(&self, at: usize) -> Option<String> {
        let text = self.bytes(at);
        let open = memchr::memchr(b'\'', text).filter(|&n| n <= 1)? + 1;
        let inner = String::from_utf8_lossy(text.get(open..text.len() - 1)?).replace("''", "'");
        let escapes = text[0].eq_ignore_ascii_case(&b'e');
        Some(if escapes { inner.replace("\\'", "'").replace("\\\\", "\\") } else { inner })
    }

    /// Returns the token behind the possibly qualified name that begins at `at`.
    pub(super) fn name_end(&self, at: usize) -> usize {
        let mut end = at + 1;
        while self.is_symbol(end, b'.') {
            end += 2;
        }
        end.min(self.len())
    }

    /// Returns the first token from `from` on that is one of these keywords, outside of parentheses and not as the
    /// last part of a qualified name.
    pub(super) fn find(&self, from: usize, keywords: &[&str]) -> Option<usize> {
        let mut depth = 0_u32;
        for at in from..self.len() {
            match self.bytes(at) {
                b"(" => depth += 1,
                b")" => depth = depth.saturating_sub(1),
                _ if depth == 0 && self.any(at, keywords) && !(at > 0 && self.is_symbol(at - 1, b'.')) => {
                    return Some(at);
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(sql: &str) -> Vec<String> {
        let tokens = Tokens::new(sql.as_bytes(), Quoting::Plain);
        (0..tokens.len()).map(|at| String::from_utf8_lossy(tokens.bytes(at)).into_owned()).collect()
    }

    #[test]
    fn tokens_of_all_kinds() {
        let sql = r#"a."b""c" /* x /* y */ */ E'it''s \' ok' -- z
            $q$ ; $$ $q$ U&"d\0061" 1.5;"#;
        let expected = ["a", ".", r#""b""c""#, r"E'it''s \' ok'", "$q$ ; $$ $q$", r#"U&"d\0061""#, "1", ".", "5", ";"];
        assert_eq!(texts(sql), expected);
        assert_eq!(texts("'open"), ["'open"]);
    }

    #[test]
    fn names_fold_as_the_catalog_has_them() {
        let tokens = Tokens::new(br#"Aptible "Aptible" "a""b" 'x'"#, Quoting::Plain);
        let names: Vec<_> = (0..4).map(|at| tokens.name(at)).collect();
        assert_eq!(names, [Some("aptible".into()), Some("Aptible".into()), Some("a\"b".into()), None]);
        assert_eq!(tokens.literal(3).as_deref(), Some("x"));
    }

    #[test]
    fn find_looks_outside_of_parentheses_and_names() {
        let tokens = Tokens::new(b"GRANT x ON f(a TO) , s.to TO r", Quoting::Plain);
        assert_eq!(tokens.find(1, &["TO"]), Some(tokens.len() - 2));
    }
}
