//! The programs of a session: what they are is part of what a run is made of.

use std::collections::BTreeMap;

use super::{Run, RunError};
use crate::event::EventKind;

impl Run<'_> {
    /// Records the versions of the programs that this session uses, and warns when they are not those of the last one.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub fn found_programs(&mut self, programs: BTreeMap<String, String>) -> Result<(), RunError> {
        if programs == self.state.programs {
            return Ok(());
        }
        let changes =
            if self.state.programs.is_empty() { Vec::new() } else { changes(&self.state.programs, &programs) };
        let mut events = vec![EventKind::ProgramsFound { programs }];
        if !changes.is_empty() {
            let message = format!("programs are not those that this run has used so far: {}", changes.join(", "));
            events.push(EventKind::Warned { step: None, message });
        }
        self.record(events)
    }
}

/// Returns what has changed, one phrase for each installation.
fn changes(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Vec<String> {
    let gone = before.iter().filter(|(name, _)| !now.contains_key(*name));
    let gone = gone.map(|(name, version)| format!("{name} ({version}) is gone"));
    let other = now.iter().filter_map(|(name, version)| match before.get(name) {
        Some(old) if old == version => None,
        Some(old) => Some(format!("{name} was {old} and is {version}")),
        None => Some(format!("{name} ({version}) is new")),
    });
    gone.chain(other).collect()
}

#[cfg(test)]
mod tests {
    use super::changes;

    #[test]
    fn each_installation_is_told() {
        let of = |list: &[(&str, &str)]| list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        let (before, now) = (of(&[("/15", "15.20"), ("/18", "18.4")]), of(&[("/18", "18.6"), ("/19", "19.0")]));
        assert_eq!(changes(&before, &now), ["/15 (15.20) is gone", "/18 was 18.4 and is 18.6", "/19 (19.0) is new"]);
        assert!(changes(&now, &now).is_empty());
    }
}
