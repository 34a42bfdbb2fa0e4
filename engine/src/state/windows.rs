//! The application's downtime as windows: the one fold of the marks that steps leave.
//!
//! A window begins with the first begin mark while none is open. It ends with the last of the end steps that the plan has
//! after the steps that have begun it: as long as one of them has not ended, a part of the application is still down. An
//! end step that comes after a further begin belongs to that later window.

use std::collections::BTreeSet;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::plan::{Downtime, Plan, RunOn, Step};

/// The windows of a run, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Windows(Vec<Window>);

/// A window in which the application is down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Window {
    /// When it began.
    pub from: Timestamp,
    /// The step that began it.
    pub begin_step: String,
    /// The steps that have begun it or a part of it and were not taken back, in order.
    pub begun_by: Vec<String>,
    /// The last step that has ended a part of it so far.
    pub end: Option<WindowEnd>,
    /// End steps that it waits for since then.
    pub waits_for: BTreeSet<String>,
}

/// What has ended a window.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WindowEnd {
    /// The step.
    pub step: String,
    /// When.
    pub at: Timestamp,
    /// Whether that was no end step but the begin step, when it was taken back.
    pub taken_back: bool,
}

impl Window {
    /// Returns what ended it; `None` while it is open.
    #[must_use]
    pub fn ended(&self) -> Option<&WindowEnd> {
        self.end.as_ref().filter(|_| self.waits_for.is_empty())
    }
}

impl Windows {
    /// Returns the windows, in order.
    pub fn iter(&self) -> impl Iterator<Item = &Window> {
        self.0.iter()
    }

    /// Returns the window that is open.
    #[must_use]
    pub fn open(&self) -> Option<&Window> {
        self.0.last().filter(|window| window.ended().is_none())
    }

    /// Returns how long all windows are together, the open one until then; `None` when there is none.
    #[must_use]
    pub fn total(&self, until: Timestamp) -> Option<SignedDuration> {
        let long = |window: &Window| window.ended().map_or(until, |end| end.at).duration_since(window.from);
        (!self.0.is_empty()).then(|| self.iter().map(|window| long(window).max(SignedDuration::ZERO)).sum())
    }

    /// Takes the mark of a begin step.
    pub(crate) fn begin(&mut self, step: &str, at: Timestamp) {
        if self.open().is_none() {
            self.0.push(Window {
                from: at,
                begin_step: step.to_owned(),
                begun_by: Vec::new(),
                end: None,
                waits_for: BTreeSet::new(),
            });
        }
        let begun_by = self.0.last_mut().map(|window| &mut window.begun_by);
        begun_by.into_iter().filter(|all| !all.iter().any(|one| one == step)).for_each(|all| all.push(step.to_owned()));
    }

    /// Takes the mark of an end step; `left` = the end steps that the window waits for now.
    pub(crate) fn end(&mut self, step: &str, at: Timestamp, left: &[String]) {
        if let Some(window) = self.open_mut() {
            window.end = Some(WindowEnd { step: step.to_owned(), at, taken_back: false });
            window.waits_for = left.iter().cloned().collect();
        }
    }

    /// An end step will not run: the window ends with the others.
    pub(crate) fn leave_out(&mut self, step: &str) {
        if let Some(window) = self.open_mut() {
            window.waits_for.remove(step);
        }
    }

    /// A step was taken back: when nothing is left of what has begun the window, the application is up again.
    pub(crate) fn take_back(&mut self, step: &str, at: Timestamp) {
        let Some(window) = self.open_mut().filter(|window| window.begun_by.iter().any(|one| one == step)) else {
            return;
        };
        if window.begun_by.len() > 1 {
            window.begun_by.retain(|one| one != step);
            return;
        }
        window.end = Some(WindowEnd { step: step.to_owned(), at, taken_back: true });
        window.waits_for.clear();
    }

    /// Returns the end steps besides this one that the open window waits for; `over` tells which will not come any more.
    #[must_use]
    pub(crate) fn left(&self, plan: &Plan, step: &str, over: impl Fn(&str) -> bool) -> Vec<String> {
        let begun_by = self.open().map_or(&[][..], |window| &window.begun_by);
        let ends: Vec<&Step> = marked(plan, Downtime::End)
            .filter(|end| end.run_on != RunOn::Failure)
            .filter(|end| begun_by.iter().any(|begin| plan.is_ancestor(begin, &end.id)))
            .collect();
        let later = |end: &Step| {
            ends.iter().any(|first| {
                marked(plan, Downtime::Begin)
                    .any(|begin| plan.is_ancestor(&first.id, &begin.id) && plan.is_ancestor(&begin.id, &end.id))
            })
        };
        let left = ends.iter().filter(|end| end.id != step && !over(&end.id) && !later(end));
        left.map(|end| end.id.clone()).collect()
    }

    fn open_mut(&mut self) -> Option<&mut Window> {
        self.0.last_mut().filter(|window| window.ended().is_none())
    }
}

fn marked(plan: &Plan, mark: Downtime) -> impl Iterator<Item = &Step> {
    plan.steps.iter().filter(move |step| step.downtime == Some(mark))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::check;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn seconds(windows: &Windows) -> Vec<(i64, Option<i64>)> {
        windows.iter().map(|one| (one.from.as_second(), one.ended().map(|end| end.at.as_second()))).collect()
    }

    fn plan(steps: &[(&str, &str, &str)]) -> Plan {
        let step = |(id, needs, more): &(&str, &str, &str)| {
            format!("  - {{ id: {id}, needs: [{needs}], command: {{ run: [a] }}{more} }}\n")
        };
        let text = format!("version: 1\nname: p\nsteps:\n{}", steps.iter().map(step).collect::<String>());
        let checked = check::check_text("plan.yaml", PathBuf::from("."), text, &check::Options::default());
        checked.plan.unwrap_or_else(|| panic!("{:?}", checked.problems))
    }

    const BEGIN: &str = ", downtime: begin";
    const END: &str = ", downtime: end";

    #[test]
    fn a_window_lasts_from_the_first_begin_to_the_last_end_of_it() {
        let mut windows = Windows::default();
        windows.begin("stop-web", at(1));
        windows.begin("stop-worker", at(3));
        windows.end("start-web", at(7), &["start-worker".to_owned()]);
        assert_eq!(seconds(&windows), [(1, None)]);
        assert_eq!(windows.total(at(8)), Some(SignedDuration::from_secs(7)));
        windows.end("start-worker", at(9), &[]);
        windows.end("start-web", at(20), &[]);
        windows.begin("stop-web", at(30));
        windows.end("start-web", at(32), &[]);
        assert_eq!(seconds(&windows), [(1, Some(9)), (30, Some(32))]);
        assert_eq!(windows.total(at(99)), Some(SignedDuration::from_secs(10)));
    }

    #[test]
    fn an_end_step_that_does_not_run_is_not_waited_for() {
        let mut windows = Windows::default();
        windows.begin("stop", at(1));
        windows.leave_out("start-worker");
        windows.end("start-web", at(5), &["start-worker".to_owned()]);
        windows.leave_out("start-worker");
        assert_eq!(seconds(&windows), [(1, Some(5))]);
    }

    #[test]
    fn a_window_ends_when_all_that_began_it_was_taken_back() {
        let mut windows = Windows::default();
        windows.begin("stop-web", at(1));
        windows.begin("stop-worker", at(2));
        windows.take_back("stop-web", at(4));
        windows.take_back("stop-web", at(5));
        assert_eq!(seconds(&windows), [(1, None)]);
        windows.take_back("stop-worker", at(6));
        assert_eq!(seconds(&windows), [(1, Some(6))]);
        assert!(windows.iter().all(|one| one.ended().is_some_and(|end| end.taken_back)));
    }

    #[test]
    fn the_ends_after_its_begins_are_waited_for_and_those_of_a_later_window_are_not() {
        let plan = plan(&[
            ("stop", "", BEGIN),
            ("web", "stop", END),
            ("worker", "stop", END),
            ("rescue", "stop", ", downtime: end, run_on: failure"),
            ("other", "", END),
            ("again", "web, worker", BEGIN),
            ("up", "again", END),
        ]);
        let mut windows = Windows::default();
        assert_eq!(windows.left(&plan, "web", |_| false), Vec::<String>::new());
        windows.begin("stop", at(1));
        assert_eq!(windows.left(&plan, "web", |_| false), ["worker"]);
        assert_eq!(windows.left(&plan, "web", |step| step == "worker"), Vec::<String>::new());
        windows.end("web", at(2), &[]);
        windows.begin("again", at(3));
        assert_eq!(windows.left(&plan, "up", |_| false), Vec::<String>::new());
        assert_eq!(windows.left(&plan, "web", |_| false), ["up"]);
    }
}
