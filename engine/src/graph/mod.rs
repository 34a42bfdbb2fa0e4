//! Plans as pictures: DOT, Mermaid and SVG. Nothing here decides anything.

mod layout;
mod svg;

use std::fmt::Write as _;

use crate::plan::{Downtime, Plan, Reason, RunOn};

/// Boxes and arrows, ready to be drawn.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Graph {
    /// The title of the picture.
    pub title: String,
    /// The boxes.
    pub nodes: Vec<GraphNode>,
    /// The arrows, by the index of their boxes.
    pub edges: Vec<GraphEdge>,
}

/// A box.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GraphNode {
    /// The name, unique.
    pub id: String,
    /// What it is, in smaller letters: the kind of a step.
    pub kind: String,
    /// What else the reader should see: `downtime begins`, `only after a failure`.
    pub marks: Vec<String>,
}

/// An arrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GraphEdge {
    /// The box that comes first.
    pub from: usize,
    /// The box that comes after it.
    pub to: usize,
    /// Why.
    pub reason: Reason,
}

impl Graph {
    /// Returns the steps of a plan as a graph.
    #[must_use]
    pub fn of(plan: &Plan) -> Self {
        let index: std::collections::BTreeMap<&str, usize> =
            plan.steps.iter().enumerate().map(|(at, step)| (step.id.as_str(), at)).collect();
        let nodes = plan.steps.iter().map(|step| {
            let mut marks = Vec::new();
            let mut mark = |when: bool, text: &str| {
                if when {
                    marks.push(text.to_owned());
                }
            };
            mark(step.downtime == Some(Downtime::Begin), "downtime begins");
            mark(step.downtime == Some(Downtime::End), "downtime ends");
            mark(step.point_of_no_return, "point of no return");
            mark(step.condition.is_some(), "conditional");
            mark(step.for_each.is_some(), "for each");
            mark(step.run_on == RunOn::Failure, "after a failure");
            mark(step.run_on == RunOn::Always, "always");
            mark(step.continue_on_error, "failure is a warning");
            GraphNode { id: step.id.clone(), kind: step.kind.to_owned(), marks }
        });
        let edges = plan.edges.iter().filter_map(|edge| {
            let (from, to) = (index.get(edge.from.as_str())?, index.get(edge.to.as_str())?);
            Some(GraphEdge { from: *from, to: *to, reason: edge.reason })
        });
        Self { title: plan.name.clone(), nodes: nodes.collect(), edges: edges.collect() }
    }

    /// Returns the graph in the DOT language of Graphviz.
    #[must_use]
    pub fn to_dot(&self) -> String {
        let mut out = format!("digraph {} {{\n", dot_quoted(&self.title));
        out.push_str("  rankdir=TB;\n  node [shape=box, style=rounded, fontname=\"sans-serif\"];\n");
        for node in &self.nodes {
            let mut label = node.id.clone();
            if node.kind != node.id {
                label = format!("{label}\n{}", node.kind);
            }
            for mark in &node.marks {
                label = format!("{label}\n({mark})");
            }
            line(&mut out, &format!("  {} [label={}];", dot_quoted(&node.id), dot_quoted(&label)));
        }
        for edge in &self.edges {
            let style = if is_implied(edge.reason) { " [style=dashed, constraint=false]" } else { "" };
            let (from, to) = (dot_quoted(&self.nodes[edge.from].id), dot_quoted(&self.nodes[edge.to].id));
            line(&mut out, &format!("  {from} -> {to}{style};"));
        }
        out.push_str("}\n");
        out
    }

    /// Returns the graph as a Mermaid flowchart.
    #[must_use]
    pub fn to_mermaid(&self) -> String {
        let mut out = "flowchart TB\n".to_owned();
        for (at, node) in self.nodes.iter().enumerate() {
            let mut label = mermaid_text(&node.id);
            if node.kind != node.id {
                label = format!("{label}<br/><small>{}</small>", mermaid_text(&node.kind));
            }
            for mark in &node.marks {
                label = format!("{label}<br/><i>{}</i>", mermaid_text(mark));
            }
            line(&mut out, &format!("  s{at}(\"{label}\")"));
        }
        for edge in &self.edges {
            let arrow = if is_implied(edge.reason) { "-.->" } else { "-->" };
            line(&mut out, &format!("  s{} {arrow} s{}", edge.from, edge.to));
        }
        out
    }

    /// Returns the graph as an SVG picture, readable on light and dark ground.
    #[must_use]
    pub fn to_svg(&self) -> String {
        svg::draw(self)
    }
}

/// Returns whether an edge follows from what steps exchange; drawn dashed.
fn is_implied(reason: Reason) -> bool {
    matches!(reason, Reason::Artifact | Reason::Reference)
}

fn line(out: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}

fn dot_quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    format!("\"{escaped}\"")
}

fn mermaid_text(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        if c.is_alphanumeric() || " _-.:,()/".contains(c) {
            out.push(c);
        } else {
            let _ = write!(out, "#{};", u32::from(c));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn sample() -> Graph {
        let node = |id: &str, kind: &str| GraphNode { id: id.to_owned(), kind: kind.to_owned(), marks: Vec::new() };
        let edge = |from, to, reason| GraphEdge { from, to, reason };
        let mut nodes = vec![
            node("preflight", "preflight"),
            node("stop-app", "scale"),
            node("dump", "dump"),
            node("a \"b\" <c>", "command"),
            node("restore", "restore"),
        ];
        nodes[1].marks.push("downtime begins".to_owned());
        let edges = vec![
            edge(0, 1, Reason::Order),
            edge(1, 2, Reason::Declared),
            edge(1, 3, Reason::Declared),
            edge(2, 4, Reason::Declared),
            edge(3, 4, Reason::Declared),
            edge(0, 4, Reason::Reference),
        ];
        Graph { title: "orders".to_owned(), nodes, edges }
    }

    #[test]
    fn names_are_escaped() {
        let graph = sample();
        assert!(graph.to_dot().contains(r#""a \"b\" <c>" -> "restore";"#), "{}", graph.to_dot());
        assert!(graph.to_mermaid().contains(r##"s3("a #34;b#34; #60;c#62;<br/><small>command</small>")"##));
        let svg = graph.to_svg();
        assert!(svg.contains("a &quot;b&quot; &lt;c&gt;"), "{svg}");
        assert!(!svg.contains("<c>"));
    }
}
