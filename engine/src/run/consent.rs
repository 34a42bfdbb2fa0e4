//! Which consents of a run hold no more, as what was to come after them is not what is to come now.

use std::collections::{BTreeMap, BTreeSet};

use super::Run;
use crate::{event::EventKind, plan::Plan, state::RunState};

/// The steps of a plan: what each does, and what comes before it.
#[derive(Debug, Default)]
pub(super) struct Steps(BTreeMap<String, Known>);

#[derive(Debug)]
struct Known {
    fingerprint: String,
    needs: Vec<String>,
}

/// What a consent was given to: the steps that are not over and come after it, and those that must be over before one of
/// them; each with what it does and which others of them come next before it.
type ToCome<'a> = BTreeMap<&'a str, (&'a str, BTreeSet<&'a str>)>;

impl Steps {
    /// Returns the steps as the last session that went forward had them.
    pub(super) fn before(state: &RunState) -> Self {
        let known = |(id, fingerprint): (&String, &String)| {
            let needs = state.step_needs.get(id).cloned().unwrap_or_default();
            (id.clone(), Known { fingerprint: fingerprint.clone(), needs })
        };
        Self(state.step_fingerprints.iter().map(known).collect())
    }

    /// Returns the steps of the plan as it is.
    fn now(plan: &Plan) -> Self {
        let known = |step: &crate::plan::Step| {
            (step.id.clone(), Known { fingerprint: step.fingerprint.clone(), needs: step.needs.clone() })
        };
        Self(plan.steps.iter().map(known).collect())
    }

    /// Returns the steps before one, directly or not; behind those that are `last` it is not looked.
    fn ancestors<'s>(&'s self, step: &str, last: impl Fn(&str) -> bool) -> BTreeSet<&'s str> {
        let needs = |step: &str| self.0.get(step).into_iter().flat_map(|known| known.needs.iter().map(String::as_str));
        let mut found = BTreeSet::new();
        let mut waiting: Vec<&str> = needs(step).collect();
        while let Some(step) = waiting.pop() {
            if found.insert(step) && !last(step) {
                waiting.extend(needs(step));
            }
        }
        found
    }

    /// Returns the steps after one, directly or not.
    fn descendants(&self, step: &str) -> BTreeSet<&str> {
        let mut after: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (id, known) in &self.0 {
            known.needs.iter().for_each(|need| after.entry(need).or_default().push(id));
        }
        let mut found = BTreeSet::new();
        let mut waiting = after.get(step).cloned().unwrap_or_default();
        while let Some(step) = waiting.pop() {
            if found.insert(step) {
                waiting.extend(after.get(step).into_iter().flatten());
            }
        }
        found
    }

    fn to_come(&self, consent: &str, is_over: impl Fn(&str) -> bool) -> ToCome<'_> {
        let mut all: BTreeSet<&str> = self.descendants(consent).into_iter().filter(|step| !is_over(step)).collect();
        // What comes before the consent needs none, and may be done again (a tunnel).
        let earlier = self.ancestors(consent, |_| false);
        let is_first = |step: &str| step == consent || earlier.contains(step);
        for step in all.clone() {
            let before = self.ancestors(step, |before| is_first(before) || all.contains(before));
            all.extend(before.into_iter().filter(|before| !is_first(before) && !is_over(before)));
        }
        let known = |step: &str| {
            let fingerprint = self.0.get(step).map_or("", |known| known.fingerprint.as_str());
            // Through those that are over: whether they are still in the plan makes no difference.
            let before = self.ancestors(step, |before| all.contains(before));
            (fingerprint, before.into_iter().filter(|before| all.contains(before)).collect())
        };
        all.iter().map(|step| (*step, known(step))).collect()
    }
}

impl Run<'_> {
    /// Returns the reopening of consents that were given to something else than what is still to come after them:
    /// a step there was edited, put in, taken out, or comes before or after others than it did.
    pub(super) fn consents_to_ask_again(&self, before: &Steps) -> Vec<EventKind> {
        let now = Steps::now(self.plan);
        let is_over = |step: &str| self.state.status(step).is_over();
        let given = self.plan.steps.iter().filter(|step| step.kind == "approve" && is_over(&step.id));
        let stale = given.filter(|step| {
            let to_come = now.to_come(&step.id, is_over);
            !to_come.is_empty() && to_come != before.to_come(&step.id, is_over)
        });
        let reason = "what comes after it has changed since it was given".to_owned();
        stale.map(|step| EventKind::StepReopened { step: step.id.clone(), reason: reason.clone() }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns steps from lines of `id: needs`; what a step does is its id unless `id=what` says otherwise.
    fn steps(lines: &str) -> Steps {
        let read = |line: &str| {
            let (step, needs) = line.split_once(':').unwrap();
            let (id, what) = step.trim().split_once('=').unwrap_or((step.trim(), step.trim()));
            let needs = needs.split_whitespace().map(str::to_owned).collect();
            (id.to_owned(), Known { fingerprint: what.to_owned(), needs })
        };
        Steps(lines.split(';').map(read).collect())
    }

    fn holds(before: &str, now: &str, over: &[&str]) -> bool {
        let is_over = |step: &str| over.contains(&step);
        let (before, now) = (steps(before), steps(now));
        let now = now.to_come("ask", is_over);
        now.is_empty() || before.to_come("ask", is_over) == now
    }

    #[test]
    fn consent_holds_for_what_was_to_come_after_it_only() {
        let plan = "first:; ask: first; done: ask; look: done; destroy: look; apart:";
        let over = ["first", "ask", "done"];
        let same = |now: &str| holds(plan, now, &over);
        assert!(same(plan));
        // What is over or stands apart may change, and so may the direct needs while the order stays.
        assert!(same("first=x:; ask: first; done=x: ask; look: done; destroy: look; apart=x:"));
        assert!(same("first:; ask: first; look: ask; destroy: look; apart:"), "what was done has gone");
        assert!(same("first:; ask: first; done: ask; look: done; destroy: done look; apart:; new: apart"));
        assert!(
            same("new:; first: new; ask: first; done: ask; look: done; destroy: look; apart:"),
            "it needs no consent"
        );
        for other in [
            "first:; ask: first; done: ask; look: done; destroy=x: look; apart:",
            "first:; ask: first; done: ask; look=x: done; destroy: look; apart:",
            "first:; ask: first; done: ask; destroy: done; apart:",
            "first:; ask: first; done: ask; look: done; apart:",
            "first:; ask: first; done: ask; look: done; destroy: look; more: destroy; apart:",
            "first:; ask: first; done: ask; look: done; new: look; destroy: new; apart:",
            "first:; ask: first; done: ask; destroy: done; look: destroy; apart:",
            "first:; ask: first; done: ask; look: done; destroy: done; apart:",
            "first:; ask: first; done: ask; look: done; destroy: look; apart: ask",
        ] {
            assert!(!same(other), "{other}");
        }
        let all = ["first", "ask", "done", "look", "destroy"];
        assert!(holds(plan, "first:; ask: first; done: ask; look: done; apart:", &all), "nothing is to come");
    }

    #[test]
    fn what_must_be_over_first_counts_also_where_it_is_not_after_the_consent() {
        let plan = "ask:; look:; destroy: ask look";
        assert!(!holds(plan, "ask:; destroy: ask", &["ask"]), "the look was taken out");
        assert!(!holds(plan, "ask:; look=x:; destroy: ask look", &["ask"]), "the look was edited");
        assert!(holds(plan, "ask:; destroy: ask", &["ask", "look"]), "it had been done");
    }
}
