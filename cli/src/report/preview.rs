//! A dry run as text for a terminal and as Markdown for a review.

use std::fmt::Write as _;

use pgplan_engine::{
    action::{Action, ActionGraph},
    error::StepError,
    plan::{Downtime, RunOn},
    preview::{Preview, StepOutcome, StepPreview},
    quantity::counted,
};

use super::preflight;
use crate::commands::forecast;
use crate::ui::{Tone, bytes, count, paint};

/// How many actions of a step are written out; the rest is counted. JSON holds all.
const SHOWN: usize = 40;

/// Returns the preview for a terminal.
pub(crate) fn text(preview: &Preview) -> String {
    let mut out =
        format!("plan {} ({}), {} steps\n", paint(&preview.plan, Tone::Strong), preview.path, preview.steps.len());
    for line in servers(preview) {
        push(&mut out, &format!("  {line}"));
    }
    for step in &preview.steps {
        let name = step.name.as_ref().map(|name| format!("  {name}")).unwrap_or_default();
        let marks = marks(step).into_iter().map(|mark| format!("  {}", paint(mark, Tone::Warn))).collect::<String>();
        push(&mut out, "");
        push(&mut out, &format!("{} ({}){name}{marks}", paint(&step.id, Tone::Strong), step.kind));
        for report in &step.preflight {
            out.push_str(&preflight::text(report, "  "));
        }
        match &step.outcome {
            StepOutcome::Would(graph) => actions(&mut out, graph),
            StepOutcome::Skipped(reason) => {
                push(&mut out, &format!("  {}", paint(format!("skipped: {reason}"), Tone::Dim)))
            }
            StepOutcome::Fails(error) => failure(&mut out, error),
        }
    }
    push(&mut out, "");
    if let Some(prediction) = &preview.downtime {
        forecast::lines(prediction).iter().for_each(|line| push(&mut out, line));
        if let Some(warning) = forecast::warning(prediction) {
            push(&mut out, &format!("{} {warning}", paint("warning:", Tone::Warn)));
        }
        push(&mut out, "");
    }
    push(&mut out, &totals(preview));
    out
}

/// Returns the preview for a code review.
pub(crate) fn markdown(preview: &Preview) -> String {
    let mut out = format!("## Plan `{}`\n\n`{}`, {} steps\n\n", preview.plan, preview.path, preview.steps.len());
    for line in servers(preview) {
        push(&mut out, &format!("- {line}"));
    }
    for step in &preview.steps {
        let marks = marks(step).into_iter().map(|mark| format!(" **{mark}**")).collect::<String>();
        push(&mut out, &format!("\n### {} ({}){marks}\n", step.id, step.kind));
        if let Some(name) = &step.name {
            push(&mut out, &format!("{name}\n"));
        }
        for report in &step.preflight {
            push(&mut out, &preflight::markdown(report, "####"));
        }
        match &step.outcome {
            StepOutcome::Would(graph) => markdown_actions(&mut out, graph),
            StepOutcome::Skipped(reason) => push(&mut out, &format!("_skipped: {reason}_")),
            StepOutcome::Fails(error) => {
                push(&mut out, &format!("**would fail:** {error}\n"));
                push(&mut out, &format!("_{}_", error.advice()));
            }
        }
    }
    if let Some(prediction) = &preview.downtime {
        push(&mut out, "\n### Downtime\n");
        forecast::lines(prediction).iter().for_each(|line| push(&mut out, &format!("- {}", line.trim_start())));
        if let Some(warning) = forecast::warning(prediction) {
            push(&mut out, &format!("\n> warning: {warning}"));
        }
    }
    push(&mut out, &format!("\n{}", totals(preview)));
    out
}

fn push(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
}

fn servers(preview: &Preview) -> Vec<String> {
    let line = |(name, server): (&String, &pgplan_engine::preview::Server)| {
        format!(
            "{name}: {}, PostgreSQL {}, {}, {}",
            server.label,
            server.version,
            counted(server.databases as u64, "database"),
            bytes(server.bytes)
        )
    };
    preview.servers.iter().map(line).collect()
}

fn marks(step: &StepPreview) -> Vec<&'static str> {
    let mut marks = Vec::new();
    match step.downtime {
        Some(Downtime::Begin) => marks.push("downtime begins"),
        Some(Downtime::End) => marks.push("downtime ends"),
        None => {}
    }
    match step.run_on {
        RunOn::Failure => marks.push("runs only when a step it needs failed"),
        RunOn::Always => marks.push("runs however the steps it needs end"),
        RunOn::Success => {}
    }
    if step.point_of_no_return {
        marks.push("point of no return");
    }
    if step.continue_on_error {
        marks.push("a failure is tolerated");
    }
    marks
}

fn actions(out: &mut String, graph: &ActionGraph) {
    for note in &graph.notes {
        push(out, &format!("  {}", paint(note, Tone::Dim)));
    }
    for warning in &graph.warnings {
        push(out, &format!("  {} {warning}", paint("warning:", Tone::Warn)));
    }
    for (index, action) in graph.actions.iter().take(SHOWN).enumerate() {
        push(out, &format!("  {}. {}{}", index + 1, action.title, paint(size(action), Tone::Dim)));
        for line in action.op.shown() {
            push(out, &format!("     {}", paint(line, Tone::Dim)));
        }
    }
    if let Some(more) = graph.actions.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        push(out, &format!("  … and {} more", count(more as u64)));
    }
    known_after(out, graph, "  ");
}

fn markdown_actions(out: &mut String, graph: &ActionGraph) {
    for note in &graph.notes {
        push(out, &format!("- {note}"));
    }
    if !graph.notes.is_empty() {
        push(out, "");
    }
    for warning in &graph.warnings {
        push(out, &format!("> warning: {warning}\n"));
    }
    for (index, action) in graph.actions.iter().take(SHOWN).enumerate() {
        push(out, &format!("{}. {}{}", index + 1, action.title, size(action)));
        let lines = action.op.shown();
        if !lines.is_empty() {
            push(out, &format!("   ```\n   {}\n   ```", lines.join("\n   ")));
        }
    }
    if let Some(more) = graph.actions.len().checked_sub(SHOWN).filter(|more| *more > 0) {
        push(out, &format!("\n… and {} more", count(more as u64)));
    }
    known_after(out, graph, "");
}

fn known_after(out: &mut String, graph: &ActionGraph, indent: &str) {
    let mut steps = graph.known_after.clone();
    steps.dedup();
    if !steps.is_empty() {
        let more = if graph.actions.is_empty() { "its actions are" } else { "further actions are" };
        push(out, &format!("{indent}{more} known after {}", steps.join(", ")));
    }
}

fn size(action: &Action) -> String {
    let mut parts = Vec::new();
    if let Some(size) = action.estimate.bytes.filter(|size| *size > 0) {
        parts.push(format!("about {}", bytes(size)));
    }
    if let Some(rows) = action.estimate.rows.filter(|rows| *rows > 0) {
        parts.push(format!("about {}", counted(rows, "row")));
    }
    if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) }
}

fn failure(out: &mut String, error: &StepError) {
    push(out, &format!("  {} {error}", paint("would fail:", Tone::Bad)));
    for detail in &error.details {
        push(out, &format!("    {detail}"));
    }
    push(out, &format!("  {} {}", paint("help:", Tone::Strong), error.advice()));
}

fn totals(preview: &Preview) -> String {
    let graphs = preview.steps.iter().filter_map(|step| match &step.outcome {
        StepOutcome::Would(graph) => Some(graph),
        StepOutcome::Skipped(_) | StepOutcome::Fails(_) => None,
    });
    let (mut listed, mut open) = (0, 0);
    for graph in graphs {
        listed += graph.actions.len();
        open += usize::from(!graph.known_after.is_empty());
    }
    let mut line = format!("{listed} actions");
    if open > 0 {
        // Writing to a string cannot fail.
        write!(line, "; more in {open} steps, known while the plan runs").ok();
    }
    line.push_str("; nothing was changed");
    line
}
