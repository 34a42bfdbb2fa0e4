//! The edits that rules make to one statement.

use std::ops::Range;

use super::rules::Reason;

/// What all rules together want of a statement.
#[derive(Debug, Default)]
pub(super) struct Change {
    dropped: bool,
    reasons: Vec<Reason>,
    edits: Vec<(Range<usize>, Vec<u8>)>,
}

impl Change {
    pub(super) fn drop(&mut self, reason: Reason) {
        self.dropped = true;
        self.because(reason);
    }

    /// Drops the statement for the reasons given before.
    pub(super) fn drop_all(&mut self) {
        self.dropped = true;
    }

    pub(super) fn cut(&mut self, range: Range<usize>, reason: Reason) {
        self.edits.push((range, Vec::new()));
        self.because(reason);
    }

    pub(super) fn put(&mut self, range: Range<usize>, text: Vec<u8>, reason: Reason) {
        self.edits.push((range, text));
        self.because(reason);
    }

    pub(super) fn because(&mut self, reason: Reason) {
        if !self.reasons.contains(&reason) {
            self.reasons.push(reason);
        }
    }

    pub(super) fn is_drop(&self) -> bool {
        self.dropped
    }

    pub(super) fn has_edits(&self) -> bool {
        !self.edits.is_empty()
    }

    pub(super) fn into_reasons(self) -> Vec<Reason> {
        self.reasons
    }

    /// Returns the statement with the edits made; of two that overlap, the one that begins first.
    pub(super) fn apply(&mut self, text: &[u8]) -> Vec<u8> {
        self.edits.sort_by_key(|(range, _)| (range.start, std::cmp::Reverse(range.end)));
        let (mut out, mut done) = (Vec::with_capacity(text.len()), 0);
        for (range, with) in &self.edits {
            if range.start >= done {
                out.extend_from_slice(&text[done..range.start]);
                out.extend_from_slice(with);
                done = range.end;
            }
        }
        out.extend_from_slice(&text[done..]);
        out
    }
}
