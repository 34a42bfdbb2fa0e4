//! What comes before what: needs, circles, ancestors.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, VecDeque, btree_map::Entry},
};

use super::steps::Draft;
use crate::{
    diagnostic::{Diagnostic, Problems},
    plan::{Edge, Reason},
    source::Place,
    spelling,
};

/// The order of the steps, by their index in the file.
pub(super) struct Order {
    needs: Vec<Vec<Need>>,
    index: BTreeMap<String, usize>,
    /// All steps, each after those it needs; shorter when there is a circle.
    sequence: Vec<usize>,
    /// The place of each step in `sequence`.
    rank: Vec<usize>,
    ancestors: Vec<Bits>,
}

struct Need {
    step: usize,
    place: Place,
    reason: Reason,
}

/// Returns the order of the steps; unknown needs and circles are reported.
pub(super) fn build(drafts: &[Draft], problems: &mut Problems) -> Order {
    let mut index = BTreeMap::new();
    for (at, draft) in drafts.iter().enumerate() {
        index.entry(draft.id.clone()).or_insert(at);
    }
    let needs: Vec<Vec<Need>> =
        drafts.iter().enumerate().map(|(at, draft)| needs_of(at, draft, &index, problems)).collect();
    let sequence = sequence(&needs);
    let mut rank = vec![usize::MAX; drafts.len()];
    for (at, step) in sequence.iter().enumerate() {
        rank[*step] = at;
    }
    let mut ancestors = Vec::new();
    if sequence.len() == drafts.len() {
        ancestors = vec![Bits::new(drafts.len()); drafts.len()];
        for &step in &sequence {
            let mut bits = Bits::new(drafts.len());
            for need in &needs[step] {
                bits.insert(need.step);
                bits.merge(&ancestors[need.step]);
            }
            ancestors[step] = bits;
        }
    } else {
        report_circles(drafts, &needs, &rank, problems);
    }
    Order { needs, index, sequence, rank, ancestors }
}

fn needs_of(at: usize, draft: &Draft, index: &BTreeMap<String, usize>, problems: &mut Problems) -> Vec<Need> {
    let Some(declared) = &draft.needs else {
        let before = at.checked_sub(1);
        let need = |step| Need { step, place: draft.decl.place.clone(), reason: Reason::Order };
        return before.map(need).into_iter().collect();
    };
    let mut needs: Vec<Need> = Vec::new();
    for (id, place) in declared {
        match index.get(id) {
            Some(step) if needs.iter().any(|need| need.step == *step) => problems
                .push(Diagnostic::warning("duplicate_need", format!("`{id}` is needed twice")).at(place, "again here")),
            Some(step) => needs.push(Need { step: *step, place: place.clone(), reason: Reason::Declared }),
            None => problems.push(
                Diagnostic::error("unknown_need", format!("the plan has no step `{id}`"))
                    .at(place, "needed here")
                    .maybe_help(spelling::did_you_mean(id, index.keys().map(String::as_str))),
            ),
        }
    }
    needs
}

/// Kahn's algorithm; among steps that are free the first in the file goes first.
fn sequence(needs: &[Vec<Need>]) -> Vec<usize> {
    let mut waiting: Vec<usize> = needs.iter().map(Vec::len).collect();
    let mut followers: Vec<Vec<usize>> = vec![Vec::new(); needs.len()];
    for (step, needs) in needs.iter().enumerate() {
        for need in needs {
            followers[need.step].push(step);
        }
    }
    let mut free: BinaryHeap<Reverse<usize>> =
        waiting.iter().enumerate().filter(|(_, count)| **count == 0).map(|(step, _)| Reverse(step)).collect();
    let mut sequence = Vec::with_capacity(needs.len());
    while let Some(Reverse(step)) = free.pop() {
        sequence.push(step);
        for &follower in &followers[step] {
            waiting[follower] -= 1;
            if waiting[follower] == 0 {
                free.push(Reverse(follower));
            }
        }
    }
    sequence
}

/// Reports one shortest circle for each knot of steps that wait for each other.
fn report_circles(drafts: &[Draft], needs: &[Vec<Need>], rank: &[usize], problems: &mut Problems) {
    let mut graph = petgraph::graph::DiGraph::<(), ()>::with_capacity(drafts.len(), 0);
    let nodes: Vec<_> = drafts.iter().map(|_| graph.add_node(())).collect();
    for (step, needs) in needs.iter().enumerate() {
        for need in needs.iter().filter(|need| rank[step] == usize::MAX && rank[need.step] == usize::MAX) {
            graph.add_edge(nodes[step], nodes[need.step], ());
        }
    }
    for knot in petgraph::algo::tarjan_scc(&graph) {
        let Some(start) = knot.iter().map(|node| node.index()).min() else { continue };
        let Some(circle) = circle(start, needs) else { continue };
        let names: Vec<String> = circle.iter().map(|(step, _)| format!("`{}`", drafts[*step].id)).collect();
        let message = match names.as_slice() {
            [one] => format!("the step {one} needs itself"),
            names => format!("these steps wait for each other: {} → {}", names.join(" → "), names[0]),
        };
        let mut diagnostic = Diagnostic::error("cycle", message);
        for (step, need) in &circle {
            let (id, needed) = (&drafts[*step].id, &drafts[need.step].id);
            let label = match need.reason {
                Reason::Order => format!("`{id}` comes after `{needed}`, the step before it"),
                _ => format!("`{id}` needs `{needed}`"),
            };
            diagnostic = diagnostic.at(&need.place, label);
        }
        problems.push(diagnostic.help("take one of these needs away; `needs: []` lets a step start at once"));
    }
}

/// Returns the shortest way from `start` back to it, as each step with the need that leads on.
fn circle(start: usize, needs: &[Vec<Need>]) -> Option<Vec<(usize, &Need)>> {
    let mut came: BTreeMap<usize, (usize, &Need)> = BTreeMap::new();
    let mut queue = VecDeque::from([start]);
    while let Some(step) = queue.pop_front() {
        for need in &needs[step] {
            if need.step == start {
                let mut way = vec![(step, need)];
                let mut at = step;
                while at != start {
                    let (from, need) = came[&at];
                    way.push((from, need));
                    at = from;
                }
                way.reverse();
                return Some(way);
            }
            if let Entry::Vacant(entry) = came.entry(need.step) {
                entry.insert((step, need));
                queue.push_back(need.step);
            }
        }
    }
    None
}

impl Order {
    /// Returns whether there is no circle; only then ancestors are known.
    pub(super) fn is_complete(&self) -> bool {
        self.sequence.len() == self.needs.len()
    }

    /// Returns the first step of this id.
    pub(super) fn index(&self, id: &str) -> Option<usize> {
        self.index.get(id).copied()
    }

    /// Returns the steps that must be over before `step`.
    pub(super) fn needs(&self, step: usize) -> impl Iterator<Item = usize> {
        self.needs[step].iter().map(|need| need.step)
    }

    /// Returns whether `before` is over whenever `step` starts.
    pub(super) fn is_ancestor(&self, before: usize, step: usize) -> bool {
        self.ancestors[step].contains(before)
    }

    /// Returns those of `candidates` that come before `step` and not before another of them.
    pub(super) fn nearest(&self, step: usize, candidates: &[usize]) -> Vec<usize> {
        let mut before: Vec<usize> =
            candidates.iter().copied().filter(|candidate| self.is_ancestor(*candidate, step)).collect();
        before.sort_by_key(|candidate| Reverse(self.rank[*candidate]));
        let mut nearest: Vec<usize> = Vec::new();
        for candidate in before {
            if !nearest.iter().any(|later| self.is_ancestor(candidate, *later)) {
                nearest.push(candidate);
            }
        }
        nearest.sort_unstable();
        nearest
    }

    /// Returns the edges that `needs` and the order in the file give.
    pub(super) fn edges(&self, drafts: &[Draft]) -> Vec<Edge> {
        let edge = |step: usize, need: &Need| Edge {
            from: drafts[need.step].id.clone(),
            to: drafts[step].id.clone(),
            reason: need.reason,
        };
        self.needs.iter().enumerate().flat_map(|(step, needs)| needs.iter().map(move |need| edge(step, need))).collect()
    }
}

/// A set of steps.
#[derive(Clone)]
struct Bits(Vec<u64>);

impl Bits {
    fn new(len: usize) -> Self {
        Self(vec![0; len.div_ceil(64)])
    }

    fn insert(&mut self, at: usize) {
        self.0[at / 64] |= 1 << (at % 64);
    }

    fn contains(&self, at: usize) -> bool {
        self.0[at / 64] & (1 << (at % 64)) != 0
    }

    fn merge(&mut self, other: &Self) {
        for (word, other) in self.0.iter_mut().zip(&other.0) {
            *word |= other;
        }
    }
}
