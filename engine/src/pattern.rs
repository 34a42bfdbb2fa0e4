//! Patterns over names: `*` stands for any characters, `?` for one; everything else for itself.

/// Returns whether the whole of `name` is as `pattern` says.
#[must_use]
pub fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // Where the last star stands, and how much of the name it has taken.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || *c == name[n] => (p, n) = (p + 1, n + 1),
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    (p, n) = (at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

/// Returns whether one of the patterns fits.
#[must_use]
pub fn any_matches(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| matches(pattern, name))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn stars_and_question_marks() {
        assert!(matches("public.*", "public.orders"));
        assert!(matches("*.log_????", "audit.log_2024"));
        assert!(matches("*", "") && matches("a*b*c", "a.b.bc") && matches("", ""));
        assert!(!matches("public.*", "publicorders") && !matches("a*b", "ac") && !matches("", "x"));
        assert!(!matches("a?", "a"));
    }
}
