//! What a program prints: the first and the last part of it, and every line as it comes.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Longest line that is reported whole; of a longer one, the rest is not reported.
const LONGEST_LINE: usize = 16 * 1024;

/// Which of its two streams a program printed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The beginning and the end of a stream, raw, filled while the program runs; clones share it.
///
/// It may hold secrets: show only what [`crate::redact::Redactor`] made of it.
#[derive(Clone, Default)]
pub struct Captured {
    kept: Arc<Mutex<Kept>>,
}

#[derive(Default)]
struct Kept {
    limit: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    dropped: u64,
}

impl Captured {
    /// Returns an empty capture that keeps the first and the last `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self { kept: Arc::new(Mutex::new(Kept { limit, ..Kept::default() })) }
    }

    pub(crate) fn push(&self, bytes: &[u8]) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let room = kept.limit.saturating_sub(kept.head.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(room);
        kept.head.extend_from_slice(first);
        kept.tail.extend(rest);
        let over = kept.tail.len().saturating_sub(kept.limit);
        kept.tail.drain(..over);
        kept.dropped += over as u64;
    }

    /// Returns all that was printed, `None` when some of it was not kept.
    #[must_use]
    pub fn whole(&self) -> Option<String> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut bytes = kept.head.clone();
        bytes.extend(&kept.tail);
        (kept.dropped == 0).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Returns what was kept, in lines; where something was dropped, the two cut lines are left out and one tells so.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let all = |text: &str| text.split(['\n', '\r']).map(str::to_owned).filter(|line| !line.is_empty()).collect();
        if let Some(text) = self.whole() {
            return all(&text);
        }
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let (head, tail) = (String::from_utf8_lossy(&kept.head), kept.tail.iter().copied().collect::<Vec<u8>>());
        let tail = String::from_utf8_lossy(&tail);
        // Half a line may hold half a secret, which nothing would recognise.
        let mut lines: Vec<String> = all(head.rsplit_once('\n').map_or("", |(whole, _)| whole));
        lines.push(format!("[{} bytes left out]", kept.dropped));
        lines.extend(all(tail.split_once('\n').map_or("", |(_, whole)| whole)));
        lines
    }
}

/// Reads a stream to its end into `captured`, and calls `on_line` with every line, `\r` ending one too.
pub(crate) async fn pump<R: AsyncRead + Unpin>(
    mut stream: R,
    captured: Captured,
    mut on_line: impl FnMut(&str) + Send,
) {
    let mut chunk = vec![0; 8192];
    let mut line = Vec::new();
    let mut cut = false;
    let mut end = |line: &mut Vec<u8>, cut: &mut bool| {
        if !line.is_empty() && !*cut {
            on_line(&String::from_utf8_lossy(line));
        }
        line.clear();
        *cut = false;
    };
    // A pipe that cannot be read is at its end: the program's status tells what became of it.
    while let Ok(read @ 1..) = stream.read(&mut chunk).await {
        captured.push(&chunk[..read]);
        for &byte in &chunk[..read] {
            match byte {
                b'\n' | b'\r' => end(&mut line, &mut cut),
                _ if line.len() < LONGEST_LINE => line.push(byte),
                _ => cut = true,
            }
        }
    }
    end(&mut line, &mut cut);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_one_by_one_and_an_endless_one_is_left_out() {
        let text = format!("a\nb\r\nc\rd\n{}\ne", "x".repeat(LONGEST_LINE + 1));
        let (captured, mut lines) = (Captured::new(1024), Vec::new());
        pump(text.as_bytes(), captured.clone(), |line| lines.push(line.to_owned())).await;
        assert_eq!(lines, ["a", "b", "c", "d", "e"]);
        assert_eq!(captured.whole(), None);
        assert_eq!(captured.lines(), ["a", "b", "c", "d", "[14348 bytes left out]", "e"]);
    }

    #[test]
    fn a_secret_cut_in_the_middle_is_not_shown() {
        let captured = Captured::new(8);
        captured.push(b"one\nsec");
        captured.push(b"ret and more ret\ntwo\n");
        assert_eq!(captured.lines(), ["one", "[12 bytes left out]", "two"]);
    }
}
