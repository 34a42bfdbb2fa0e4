//! The picture as SVG: rounded boxes, curved arrows, colours that hold on light and dark ground.

use std::fmt::Write as _;

use super::{Graph, GraphNode, is_implied, layout::layout};

const STYLE: &str = "text{font-family:system-ui,sans-serif;fill:#1f2933}.id{font-size:14px;font-weight:600}\
.kind{font-size:11px;fill:#52606d}.mark{font-size:11px;font-style:italic;fill:#7c4a03}\
.box{fill:#f5f7fa;stroke:#7b8794;stroke-width:1.2}.arrow{fill:none;stroke:#7b8794;stroke-width:1.4}\
.implied{stroke-dasharray:5 4;stroke:#3e7cb1}.tip{fill:#7b8794}.implied-tip{fill:#3e7cb1}";

pub(super) fn draw(graph: &Graph) -> String {
    let sizes: Vec<(f64, f64)> = graph.nodes.iter().map(size).collect();
    let edges: Vec<(usize, usize)> = graph.edges.iter().map(|edge| (edge.from, edge.to)).collect();
    let layout = layout(&sizes, &edges);
    let (width, height) = (layout.width.ceil(), layout.height.ceil());
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\">\n<title>{}</title>\n<style>{STYLE}</style>\n",
        escaped(&graph.title)
    );
    for (edge, points) in graph.edges.iter().zip(&layout.arrows) {
        let implied = is_implied(edge.reason);
        put(&mut out, &arrow(points, implied));
    }
    for ((node, (width, height)), (x, y)) in graph.nodes.iter().zip(&sizes).zip(&layout.boxes) {
        put(
            &mut out,
            &format!(
                "<rect class=\"box\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"8\"/>"
            ),
        );
        let middle = x + width / 2.0;
        let mut baseline = y + 21.0;
        for (class, text) in lines(node) {
            let text = escaped(&text);
            put(
                &mut out,
                &format!(
                    "<text class=\"{class}\" x=\"{middle:.1}\" y=\"{baseline:.1}\" text-anchor=\"middle\">{text}</text>"
                ),
            );
            baseline += 15.0;
        }
    }
    out.push_str("</svg>\n");
    out
}

fn put(out: &mut String, text: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(out, "{text}");
}

fn lines(node: &GraphNode) -> Vec<(&'static str, String)> {
    let mut lines = vec![("id", shortened(&node.id))];
    if node.kind != node.id {
        lines.push(("kind", shortened(&node.kind)));
    }
    lines.extend(node.marks.iter().map(|mark| ("mark", shortened(mark))));
    lines
}

fn shortened(text: &str) -> String {
    const LONGEST: usize = 40;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST - 1).chain(['…']).collect()
}

/// Returns the size of a box; there is no font to measure with, so a letter counts as its usual width.
#[expect(clippy::cast_precision_loss, reason = "lines and letters are few")]
fn size(node: &GraphNode) -> (f64, f64) {
    let lines = lines(node);
    let width = |(class, text): &(&str, String)| {
        let letter = if *class == "id" { 8.4 } else { 6.4 };
        text.chars().map(|c| if c.is_ascii() { letter } else { letter * 1.7 }).sum::<f64>()
    };
    let widest = lines.iter().map(width).fold(56.0, f64::max);
    (widest + 28.0, 19.0 + 15.0 * lines.len() as f64)
}

/// Returns a smooth line through the points with a tip at its end.
fn arrow(points: &[(f64, f64)], implied: bool) -> String {
    const TIP: f64 = 7.0;
    let (Some(first), Some(last)) = (points.first(), points.last()) else { return String::new() };
    let mut path = format!("M{:.1} {:.1}", first.0, first.1);
    for (index, pair) in points.windows(2).enumerate() {
        let (from, mut to) = (pair[0], pair[1]);
        if index + 2 == points.len() {
            to.1 -= TIP;
        }
        let half = (to.1 - from.1) / 2.0;
        let _ =
            write!(path, " C{:.1} {:.1} {:.1} {:.1} {:.1} {:.1}", from.0, from.1 + half, to.0, to.1 - half, to.0, to.1);
    }
    let (line, tip) = if implied { ("arrow implied", "implied-tip") } else { ("arrow", "tip") };
    let (x, y) = *last;
    format!("<path class=\"{line}\" d=\"{path}\"/><path class=\"{tip}\" d=\"M{x:.1} {y:.1}l-4.5 -{TIP}h9z\"/>",)
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c if c.is_control() => out.push('\u{FFFD}'),
            c => out.push(c),
        }
    }
    out
}
