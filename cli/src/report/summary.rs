//! The end of a run for people: steps, times, rows verified, downtime, what to do next.

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};
use jiff::Timestamp;
use pgplan_engine::{
    plan::Plan,
    quantity::counted,
    state::{RunState, StepState, StepStatus},
};

use crate::ui::{Tone, bytes, count, duration, paint};

/// The width of a table that is not written to a terminal.
const PIPED_WIDTH: u16 = 120;

/// Returns the word and its tone for a step's status.
pub(crate) fn status_word(status: StepStatus) -> (&'static str, Tone) {
    match status {
        StepStatus::Pending => ("pending", Tone::Dim),
        StepStatus::Running => ("running", Tone::Strong),
        StepStatus::Succeeded => ("done", Tone::Good),
        StepStatus::Skipped => ("skipped", Tone::Dim),
        StepStatus::Failed => ("failed", Tone::Bad),
        StepStatus::Tolerated => ("tolerated", Tone::Warn),
        StepStatus::Blocked => ("blocked", Tone::Warn),
        StepStatus::Undone => ("undone", Tone::Dim),
    }
}

/// Returns milliseconds from one time to another.
pub(crate) fn between(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.duration_since(from).as_millis()).unwrap_or(0)
}

/// Returns the table of steps with times and what each did.
pub(crate) fn table(order: &[String], state: &RunState) -> Table {
    let mut table = Table::new();
    table.set_content_arrangement(ContentArrangement::Dynamic);
    if !table.is_tty() {
        table.set_width(PIPED_WIDTH);
    }
    table.load_style(presets::NOTHING).set_header(["step", "status", "time", "actions", "what"]);
    for id in order {
        let empty = StepState::default();
        let step = state.steps.get(id).unwrap_or(&empty);
        let (word, tone) = status_word(step.status);
        let time = match (step.started_at, step.ended_at) {
            (Some(from), Some(to)) => duration(between(from, to)),
            (Some(from), None) => state.last_at.map(|now| duration(between(from, now))).unwrap_or_default(),
            (None, _) => String::new(),
        };
        let actions = if step.actions.is_empty() { String::new() } else { step.actions.len().to_string() };
        table.add_row([
            Cell::new(id),
            Cell::new(paint(word, tone)),
            Cell::new(time).set_alignment(CellAlignment::Right),
            Cell::new(actions).set_alignment(CellAlignment::Right),
            Cell::new(what(step)),
        ]);
    }
    table
}

fn what(step: &StepState) -> String {
    if let Some(error) = step.error.as_ref().filter(|_| !matches!(step.status, StepStatus::Succeeded)) {
        return error.message.clone();
    }
    if let Some(reason) = &step.reason {
        return match step.status {
            StepStatus::Blocked => format!("needs `{reason}`"),
            _ => reason.clone(),
        };
    }
    let outputs = || step.actions.iter().filter_map(|action| action.output.as_ref());
    if let [action] = step.actions.as_slice() {
        let said = action.output.as_ref().map(|output| output.summary.clone()).filter(|said| !said.is_empty());
        return said.unwrap_or_else(|| action.action.title.clone());
    }
    let rows: u64 = outputs().filter_map(|output| output.rows).sum();
    let size: u64 = outputs().filter_map(|output| output.bytes).sum();
    let mut parts = Vec::new();
    if rows > 0 {
        parts.push(counted(rows, "row"));
    }
    if size > 0 {
        parts.push(bytes(size));
    }
    parts.join(", ")
}

/// Returns the whole summary.
pub(crate) fn text(plan: &Plan, state: &RunState) -> String {
    let order: Vec<String> = plan.steps.iter().map(|step| step.id.clone()).collect();
    let mut out = format!("\n{}\n", table(&order, state));
    if let (Some(from), Some(to)) = (state.started_at, state.last_at) {
        out.push_str(&format!("\ntotal time      {}\n", duration(between(from, to))));
    }
    let verified: u64 = plan
        .steps
        .iter()
        .filter(|step| step.kind == "verify")
        .filter_map(|step| state.steps.get(&step.id))
        .flat_map(|step| step.actions.iter().filter_map(|action| action.output.as_ref()?.rows))
        .sum();
    if verified > 0 {
        out.push_str(&format!("rows verified   {}\n", count(verified)));
    }
    if let Some(downtime) = state.downtime() {
        let ms = u64::try_from(downtime.as_millis()).unwrap_or(0);
        out.push_str(&format!("downtime        {}\n", duration(ms)));
    }
    if !state.warnings.is_empty() {
        out.push_str(&format!("warnings        {}\n", state.warnings.len()));
    }
    out
}
