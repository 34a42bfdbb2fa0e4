//! "Did you mean": the known name closest to a mistyped one.

/// Returns the name in `known` that `written` was probably meant to be.
#[must_use]
pub fn closest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let folded = fold(written);
    let allowed = (folded.len() / 3).max(1);
    known
        .into_iter()
        .filter(|name| *name != written)
        .map(|name| (distance(&folded, &fold(name)), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Returns the help line for a mistyped name: the closest one, else the list of all when it is short.
#[must_use]
pub fn did_you_mean<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let known: Vec<&str> = known.into_iter().collect();
    if let Some(name) = closest(written, known.iter().copied()) {
        return Some(format!("did you mean `{name}`?"));
    }
    let list: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
    match list.len() {
        0 => None,
        1..=24 => Some(format!("known here: {}", list.join(", "))),
        more => Some(format!("known here: {}, and {} more", list[..20].join(", "), more - 20)),
    }
}

fn fold(name: &str) -> Vec<char> {
    name.chars().take(64).map(|c| if c == '-' { '_' } else { c.to_ascii_lowercase() }).collect()
}

/// The restricted Damerau–Levenshtein distance: insert, delete, replace, swap neighbours.
fn distance(a: &[char], b: &[char]) -> usize {
    let mut two_back: Vec<usize> = Vec::new();
    let mut back: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = back[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replaced.min(back[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(two_back[j - 2] + 1);
            }
        }
        two_back = std::mem::replace(&mut back, row);
    }
    back[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_typos_and_not_strangers() {
        let known = ["restore", "repoint", "retain", "preflight"];
        assert_eq!(closest("resotre", known), Some("restore"));
        assert_eq!(closest("pre-flight", known), Some("preflight"));
        assert_eq!(closest("vacuum", known), None);
        assert_eq!(did_you_mean("x", ["a", "b"]).unwrap(), "did you mean `a`?");
        assert_eq!(did_you_mean("xyz", ["alpha", "b"]).unwrap(), "known here: `alpha`, `b`");
    }
}
