//! The lexical facts of PostgreSQL's SQL (manual, chapter "Lexical Structure") that the scanner and the tokeniser share.

/// Returns whether an unquoted identifier or keyword may begin with this byte.
pub(super) fn starts_word(byte: u8) -> bool {
    byte.is_ascii_alphabetic() || byte == b'_' || byte >= 0x80
}

/// Returns whether an unquoted identifier may go on with this byte.
pub(super) fn continues_word(byte: u8) -> bool {
    starts_word(byte) || byte.is_ascii_digit() || byte == b'$'
}

/// Returns whether the server takes this byte for white space.
pub(super) fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

/// Returns the end of the run of word bytes that begins at `from`.
pub(super) fn word_end(text: &[u8], from: usize) -> usize {
    text[from..].iter().position(|&b| !continues_word(b)).map_or(text.len(), |n| from + n)
}

/// How the bytes between two single quotes are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quoting {
    /// A backslash is a plain character.
    Plain,
    /// A backslash takes away the meaning of the next byte (`E''`, or `standard_conforming_strings = off`).
    Escapes,
    /// As `Escapes`, in an encoding whose second bytes may look like a backslash (BIG5, GBK, GB18030, UHC, JOHAB).
    EscapesWide,
    /// As `EscapesWide` in SJIS, where the bytes 0xA1 to 0xDF are characters of their own.
    EscapesSjis,
}

/// Finds the quote that closes a string, searching from `from`.
///
/// A doubled quote is not treated: it closes and reopens. `Err` holds the byte to go on from once more text is there.
pub(super) fn closing_quote(text: &[u8], mut from: usize, quoting: Quoting) -> Result<usize, usize> {
    loop {
        let rest = text.get(from..).unwrap_or_default();
        let found = match quoting {
            Quoting::Plain => memchr::memchr(b'\'', rest),
            Quoting::Escapes => memchr::memchr2(b'\'', b'\\', rest),
            Quoting::EscapesWide => rest.iter().position(|&b| b == b'\'' || b == b'\\' || b >= 0x80),
            Quoting::EscapesSjis => {
                rest.iter().position(|&b| b == b'\'' || b == b'\\' || (b >= 0x80 && !(0xa1..=0xdf).contains(&b)))
            }
        };
        match found.map(|n| from + n) {
            None => return Err(text.len()),
            Some(at) if text[at] == b'\'' => return Ok(at),
            Some(at) if at + 1 >= text.len() => return Err(at),
            // An escape, or the first byte of a wide character: what follows has no meaning of its own.
            Some(at) => from = at + 2,
        }
    }
}

/// Returns the end of the delimiter of a dollar quote (`$$`, `$tag$`) whose first dollar is at `at`.
///
/// `Ok(None)` = a plain dollar sign; `Err(())` = the text ends before this is known.
pub(super) fn dollar_tag(text: &[u8], at: usize) -> Result<Option<usize>, ()> {
    let mut end = at + 1;
    loop {
        match text.get(end) {
            None => return Err(()),
            Some(b'$') => return Ok(Some(end + 1)),
            Some(&b) if starts_word(b) || (end > at + 1 && b.is_ascii_digit()) => end += 1,
            Some(_) => return Ok(None),
        }
    }
}

/// Finds the end of a comment that may nest, from `from` inside of it; `depth` is how many are open.
///
/// `Err` holds the byte to go on from and the depth there.
pub(super) fn block_comment_end(text: &[u8], mut from: usize, mut depth: u32) -> Result<usize, (usize, u32)> {
    while let Some(n) = memchr::memchr2(b'*', b'/', text.get(from..).unwrap_or_default()) {
        let at = from + n;
        match text.get(at..at + 2) {
            None => return Err((at, depth)),
            Some(b"/*") => (from, depth) = (at + 2, depth + 1),
            Some(b"*/") if depth == 1 => return Ok(at + 2),
            Some(b"*/") => (from, depth) = (at + 2, depth - 1),
            Some(_) => from = at + 1,
        }
    }
    Err((text.len(), depth))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_close_where_the_server_closes_them() {
        assert_eq!(closing_quote(b"a\\' b", 0, Quoting::Plain), Ok(2));
        assert_eq!(closing_quote(b"a\\' b'", 0, Quoting::Escapes), Ok(5));
        assert_eq!(closing_quote(b"a\\", 0, Quoting::Escapes), Err(1));
        // The second byte of the SJIS character 0x83 0x5C looks like a backslash.
        assert_eq!(closing_quote(b"\x83\x5c' '", 0, Quoting::EscapesWide), Ok(2));
        assert_eq!(closing_quote(b"\x83\x5c' '", 0, Quoting::Escapes), Ok(4));
        assert_eq!(closing_quote(b"\xb1' '", 0, Quoting::EscapesSjis), Ok(1));
    }

    #[test]
    fn dollar_tags() {
        assert_eq!(dollar_tag(b"$$ ", 0), Ok(Some(2)));
        assert_eq!(dollar_tag(b"$a1$ ", 0), Ok(Some(4)));
        assert_eq!(dollar_tag(b"$1$ ", 0), Ok(None));
        assert_eq!(dollar_tag(b"$abc", 0), Err(()));
    }

    #[test]
    fn comments_nest() {
        assert_eq!(block_comment_end(b"/* a /* b */ c */ d", 2, 1), Ok(17));
        assert_eq!(block_comment_end(b"/* a /* b */ c *", 2, 1), Err((15, 1)));
        assert_eq!(block_comment_end(b"/*/", 2, 1), Err((2, 1)));
    }
}
