//! The timeline of a run as SVG: one band a step, one bar an attempt, the downtime behind them.
//!
//! A band fills the width of the page whatever that is, so its text stands beside it in HTML and not in it. Sessions lie
//! side by side with a small gap, however long nothing ran between them.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{
    account::{Account, Action, Attempt, How},
    html::escaped,
    summary::between,
};
use crate::ui::duration;

/// The width of a band in its own units.
const WIDTH: f64 = 1000.0;
/// The share of the width that lies between two sessions.
const GAP: f64 = 0.03;
/// The height of one lane.
const LANE: f64 = 16.0;
/// The most lanes of a band; what ran beside more than that shares the last one.
const LANES: usize = 8;
/// Bars narrower than this are drawn so wide, so that they are seen.
const NARROWEST: f64 = 2.0;

/// Where moments lie on the width.
pub(super) struct Scale {
    /// Begin, end (milliseconds since the begin of the run without gaps) and left edge of each session.
    parts: Vec<(Timestamp, Timestamp, f64)>,
    per_ms: f64,
}

impl Scale {
    /// Returns the scale of a run.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds and sessions are far below 2^52")]
    pub(super) fn of(account: &Account) -> Self {
        let spans: Vec<u64> = account.sessions.iter().map(|one| between(one.from, one.to)).collect();
        let whole = spans.iter().sum::<u64>().max(1) as f64;
        let gap = WIDTH * GAP.min(0.5 / spans.len().max(1) as f64);
        let per_ms = (WIDTH - gap * spans.len().saturating_sub(1) as f64) / whole;
        let mut left = 0.0;
        let parts = account.sessions.iter().zip(&spans).map(|(one, span)| {
            let at = left;
            left += *span as f64 * per_ms + gap;
            (one.from, one.to, at)
        });
        Self { parts: parts.collect(), per_ms }
    }

    /// Returns where a moment lies, from 0 to [`WIDTH`].
    #[expect(clippy::cast_precision_loss, reason = "milliseconds are far below 2^52")]
    pub(super) fn x(&self, at: Timestamp) -> f64 {
        let part = self.parts.iter().rev().find(|(from, ..)| *from <= at);
        let Some((from, to, left)) = part else { return 0.0 };
        (left + between(*from, at.min(*to)) as f64 * self.per_ms).clamp(0.0, WIDTH)
    }
}

/// Returns a band of bars, with the downtime behind them; empty when nothing was tried.
pub(super) fn band(account: &Account, scale: &Scale, actions: &[Action]) -> String {
    let mut bars: Vec<(&Action, &Attempt)> =
        actions.iter().flat_map(|action| action.attempts.iter().map(move |attempt| (action, attempt))).collect();
    bars.sort_by_key(|(_, attempt)| (attempt.from, attempt.to));
    if bars.is_empty() {
        return String::new();
    }
    let mut lanes: Vec<f64> = Vec::new();
    let mut drawn = String::new();
    for (action, attempt) in bars {
        let (from, to) = (scale.x(attempt.from), scale.x(attempt.to));
        let width = (to - from).max(NARROWEST);
        let from = from.min(WIDTH - width);
        let free = lanes.iter().position(|end| *end <= from + 0.05);
        let lane = match free {
            Some(lane) => lane,
            None if lanes.len() < LANES => {
                lanes.push(0.0);
                lanes.len() - 1
            }
            None => LANES - 1,
        };
        lanes[lane] = lanes[lane].max(from + width);
        let y = lane_top(lane) + 2.0;
        put(
            &mut drawn,
            format_args!(
                "<rect class=\"{}\" x=\"{from:.2}\" y=\"{y}\" width=\"{width:.2}\" height=\"{}\"><title>{}: {}</title></rect>",
                class(attempt.how),
                LANE - 4.0,
                escaped(&action.title),
                duration(between(attempt.from, attempt.to)),
            ),
        );
    }
    let height = lane_top(lanes.len());
    let mut out =
        format!("<svg viewBox=\"0 0 {WIDTH} {height}\" preserveAspectRatio=\"none\" style=\"height:{height}px\">");
    for window in &account.downtime {
        let (from, to) = (scale.x(window.from), scale.x(window.to));
        put(
            &mut out,
            format_args!(
                "<rect class=\"down\" x=\"{from:.2}\" y=\"0\" width=\"{:.2}\" height=\"{height}\"/>",
                (to - from).max(NARROWEST)
            ),
        );
    }
    out + &drawn + "</svg>"
}

#[expect(clippy::cast_precision_loss, reason = "there are few lanes")]
fn lane_top(lane: usize) -> f64 {
    lane as f64 * LANE
}

fn class(how: How) -> &'static str {
    match how {
        How::Done => "done",
        How::Failed => "failed",
        How::Cut => "cut",
        How::Undone => "undone",
    }
}

/// Returns the marks of the time axis: where, and which time since the begin of the run.
pub(super) fn ticks(account: &Account, scale: &Scale) -> Vec<(f64, String)> {
    let (Some(begin), [_, ..]) = (account.started_at, account.sessions.as_slice()) else { return Vec::new() };
    let mut ticks = vec![(0.0, "0".to_owned())];
    for session in &account.sessions {
        let span = between(session.from, session.to);
        let (left, right) = (scale.x(session.from), scale.x(session.to));
        let wanted = if account.sessions.len() == 1 { [1, 2, 3, 4].as_slice() } else { [0, 2].as_slice() };
        for quarter in wanted {
            let ms = span * quarter / 4;
            let at = session.from + jiff::SignedDuration::from_millis(i64::try_from(ms).unwrap_or(0));
            #[expect(clippy::cast_precision_loss, reason = "a quarter is at most 4")]
            let x = left + (right - left) * *quarter as f64 / 4.0;
            if ticks.last().is_none_or(|(last, _)| x - last > WIDTH * 0.12) {
                ticks.push((x, duration(between(begin, at))));
            }
        }
    }
    ticks
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    out.write_fmt(text).ok();
}
