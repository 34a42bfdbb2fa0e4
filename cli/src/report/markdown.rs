//! A report as Markdown, for a ticket or a chat.

use pgplan_engine::state::StepStatus;

use super::{
    account::{Account, Step},
    html::table_row,
    summary::{between, status_word},
};
use crate::ui::{bytes, count, duration};

/// How many actions, tables and statements are listed of one step; JSON holds all.
const LISTED: usize = 100;

/// Returns the report.
pub(crate) fn page(account: &Account) -> String {
    let what = if account.rehearsal { "Rehearsal of" } else { "Run of" };
    let mut out = format!("# {what} {}: {}\n\n", inline(&account.plan), account.status);
    if account.rehearsal {
        out.push_str(
            "A rehearsal: the servers were throwaway copies, and what touches the application was only simulated.\n\n",
        );
    }
    push(&mut out, &format!("- total time: {}", duration(account.took_ms)));
    if !account.downtime.is_empty() {
        push(&mut out, &format!("- downtime: **{}**", duration(account.downtime_ms)));
    }
    if account.rows_verified() > 0 {
        push(&mut out, &format!("- rows verified: {}", count(account.rows_verified())));
    }
    for step in &account.steps {
        let Some(error) = &step.error else { continue };
        let word = if step.status == StepStatus::Tolerated { "failed, tolerated" } else { "failed" };
        push(&mut out, &format!("\n## {} {word}\n\n{}\n", inline(&step.id), inline(&error.message)));
        for detail in error.details.iter().flat_map(|detail| detail.lines()) {
            push(&mut out, &format!("- {}", inline(detail)));
        }
        push(&mut out, &format!("\n**What to do:** {}", inline(&error.help)));
    }
    if !account.warnings.is_empty() {
        out.push_str("\n## Warnings\n\n");
        for warning in &account.warnings {
            let step = warning.step.as_ref().map(|step| format!("{}: ", inline(step))).unwrap_or_default();
            push(&mut out, &format!("- {step}{}", inline(&warning.message)));
        }
    }
    steps(&mut out, account);
    downtime(&mut out, account);
    verifications(&mut out, account);
    filters(&mut out, account);
    about(&mut out, account);
    out
}

fn push(out: &mut String, line: &str) {
    out.push_str(line);
    out.push('\n');
}

/// Returns text on one line that Markdown shows as it is.
fn inline(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '~' | '!' => out.extend(['\\', c]),
            '&' => out.push_str("&amp;"),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

fn row(out: &mut String, cells: &[String]) {
    push(out, &format!("| {} |", cells.iter().map(|cell| inline(cell)).collect::<Vec<_>>().join(" | ")));
}

fn steps(out: &mut String, account: &Account) {
    out.push_str("\n## What was done\n\n| step | kind | status | time | what |\n| --- | --- | --- | ---: | --- |\n");
    for step in &account.steps {
        let time = step.from.zip(step.to).map(|(from, to)| duration(between(from, to))).unwrap_or_default();
        row(out, &[step.id.clone(), step.kind.clone(), status_word(step.status).0.to_owned(), time, what(step)]);
    }
    for step in account.steps.iter().filter(|step| step.actions.len() > 1) {
        push(out, &format!("\n### {}\n", inline(&step.id)));
        for (number, action) in step.actions.iter().take(LISTED).enumerate() {
            let took: u64 = action.attempts.iter().map(|one| between(one.from, one.to)).sum();
            let said = if action.said.is_empty() { &action.title } else { &action.said };
            push(out, &format!("{}. {} ({})", number + 1, inline(said), duration(took)));
        }
        more(out, step.actions.len());
    }
}

fn what(step: &Step) -> String {
    match (step.actions.as_slice(), &step.reason) {
        (_, Some(reason)) => reason.clone(),
        ([action], None) if !action.said.is_empty() => action.said.clone(),
        ([action], None) => action.title.clone(),
        (actions, None) => format!("{} actions", actions.len()),
    }
}

fn more(out: &mut String, all: usize) {
    if let Some(rest) = all.checked_sub(LISTED).filter(|rest| *rest > 0) {
        push(out, &format!("\nand {} more", count(rest as u64)));
    }
}

fn downtime(out: &mut String, account: &Account) {
    if account.downtime.is_empty() {
        return;
    }
    out.push_str("\n## Downtime\n\n| from | to | time |\n| --- | --- | ---: |\n");
    for window in &account.downtime {
        let end = window.end().map_or_else(|| "not ended".to_owned(), |(step, how)| format!("{step} {how}"));
        let (from, to) = (format!("{:.0} {} began", window.from, window.begin_step), format!("{:.0} {end}", window.to));
        row(out, &[from, to, duration(window.ms)]);
    }
}

fn verifications(out: &mut String, account: &Account) {
    for one in &account.verifications {
        push(out, &format!("\n## Verification: {}\n\n{}\n", inline(&one.step), inline(&one.said)));
        for difference in one.differences.iter().take(LISTED) {
            push(out, &format!("- differs: {}", inline(difference)));
        }
        for difference in one.ignored.iter().take(LISTED) {
            push(out, &format!("- differs as expected: {}", inline(difference)));
        }
        if !one.tables.is_empty() {
            out.push_str("\n| table | rows left | rows right | digest | |\n| --- | ---: | ---: | --- | --- |\n");
            one.tables.iter().take(LISTED).for_each(|table| row(out, &table_row(table)));
            more(out, one.tables.len());
        }
    }
}

fn filters(out: &mut String, account: &Account) {
    for one in &account.filters {
        push(out, &format!("\n## Left out by {}\n", inline(&one.step)));
        if one.counts.is_empty() {
            push(out, "every statement stays");
        }
        for (reason, number) in &one.counts {
            push(out, &format!("- {} × {}", count(*number), inline(reason)));
        }
        let Some(list) = one.list.as_ref().filter(|list| !list.removals.is_empty()) else { continue };
        out.push_str("\n| line | object | why | statement |\n| ---: | --- | --- | --- |\n");
        for removal in list.removals.iter().take(LISTED) {
            let object = removal.object.clone().unwrap_or_default();
            row(out, &[removal.line.to_string(), object, removal.reasons.join("; "), removal.statement.clone()]);
        }
        more(out, list.removals.len() + usize::try_from(list.unlisted).unwrap_or(usize::MAX));
    }
}

fn about(out: &mut String, account: &Account) {
    out.push_str("\n## Who, when and with what\n\n| session | who | pgplan | ended |\n| --- | --- | --- | --- |\n");
    for one in &account.sessions {
        let by = format!("{} on {}, process {}", one.by.user, one.by.host, one.by.pid);
        row(out, &[format!("{:.0} to {:.0}", one.from, one.to), by, one.by.version.clone(), one.ended.clone()]);
    }
    if !account.servers.is_empty() {
        out.push_str("\n| database | server | PostgreSQL | size when first seen |\n| --- | --- | --- | ---: |\n");
        for (name, server) in &account.servers {
            row(out, &[name.clone(), server.label.clone(), server.version.clone(), bytes(server.bytes)]);
        }
    }
    out.push('\n');
    for (folder, version) in &account.programs {
        push(out, &format!("- client programs {} in {}", inline(version), inline(folder)));
    }
    for (name, value) in &account.given {
        push(out, &format!("- `--var` {}={}", inline(name), inline(value)));
    }
    let print: String = account.fingerprint.chars().take(16).collect();
    push(out, &format!("- run {}, plan file {}, fingerprint {print}", inline(&account.run), inline(&account.path)));
}
