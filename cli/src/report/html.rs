//! A report as one HTML file: no script, nothing loaded from anywhere, readable on a phone, dark and light, printable.

use std::fmt::Write as _;

use pgplan_engine::{quantity::counted, state::StepStatus};
use serde_json::Value;

use super::{
    account::{Account, Filtered, Step, Verification},
    summary::{between, status_word},
    timeline::{self, Scale},
};
use crate::ui::{bytes, count, duration};

/// How many actions, tables and statements a report lists of one step; JSON holds all.
const LISTED: usize = 200;

const STYLE: &str = include_str!("report.css");

/// Returns the report.
pub(crate) fn page(account: &Account) -> String {
    let mut out = String::new();
    let title = format!("{} {}", if account.rehearsal { "Rehearsal of" } else { "Run of" }, account.plan);
    put(
        &mut out,
        format_args!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{0}: {1}</title><style>{STYLE}</style></head><body><main>\n\
         <header><h1>{0}</h1><p class=\"status {2}\">{1}</p></header>\n",
            escaped(&title),
            escaped(&account.status),
            tone(account),
        ),
    );
    if account.rehearsal {
        out.push_str(
            "<p class=\"hint\">A rehearsal: the servers were throwaway copies, and what touches the application was \
                      only simulated.</p>\n",
        );
    }
    numbers(&mut out, account);
    failures(&mut out, account);
    warnings(&mut out, account);
    chart(&mut out, account);
    downtime(&mut out, account);
    verifications(&mut out, account);
    filters(&mut out, account);
    steps(&mut out, account);
    about(&mut out, account);
    out.push_str("</main></body></html>\n");
    out
}

/// Returns text as it stands in HTML and SVG, also inside of quotes; control characters become spaces.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' => out.push('\n'),
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    out.write_fmt(text).ok();
}

fn tone(account: &Account) -> &'static str {
    match account.status.as_str() {
        "succeeded" => "good",
        "failed" | "needs a person" => "bad",
        _ => "warn",
    }
}

fn numbers(out: &mut String, account: &Account) {
    let mut cells: Vec<(String, String)> = vec![("total time".to_owned(), duration(account.took_ms))];
    if !account.downtime.is_empty() {
        cells.push(("downtime".to_owned(), duration(account.downtime_ms)));
    }
    if account.rows_verified() > 0 {
        cells.push(("rows verified".to_owned(), count(account.rows_verified())));
    }
    let done = account.steps.iter().filter(|step| step.status == StepStatus::Succeeded).count();
    cells.push(("steps done".to_owned(), format!("{done} of {}", account.steps.len())));
    let actions: usize = account.steps.iter().map(|step| step.actions.len()).sum();
    cells.push(("actions".to_owned(), count(actions as u64)));
    cells.push(("warnings".to_owned(), count(account.warnings.len() as u64)));
    out.push_str("<dl class=\"numbers\">");
    for (name, value) in cells {
        put(out, format_args!("<div><dt>{}</dt><dd>{}</dd></div>", escaped(&name), escaped(&value)));
    }
    out.push_str("</dl>\n");
}

fn failures(out: &mut String, account: &Account) {
    for step in &account.steps {
        let Some(error) = &step.error else { continue };
        let word = if step.status == StepStatus::Tolerated { "failed, tolerated" } else { "failed" };
        put(
            out,
            format_args!(
                "<section class=\"box bad\"><h2>{} {word}</h2><p>{}</p>",
                escaped(&step.id),
                escaped(&error.message)
            ),
        );
        if !error.details.is_empty() {
            put(out, format_args!("<pre>{}</pre>", escaped(&error.details.join("\n"))));
        }
        put(out, format_args!("<p><b>What to do:</b> {}</p></section>\n", escaped(&error.help)));
    }
}

fn warnings(out: &mut String, account: &Account) {
    if account.warnings.is_empty() {
        return;
    }
    out.push_str("<section class=\"box warn\"><h2>Warnings</h2><ul>");
    for warning in &account.warnings {
        let step = warning.step.as_ref().map(|step| format!("<code>{}</code> ", escaped(step))).unwrap_or_default();
        put(out, format_args!("<li>{step}{}</li>", escaped(&warning.message)));
    }
    out.push_str("</ul></section>\n");
}

fn chart(out: &mut String, account: &Account) {
    let scale = Scale::of(account);
    out.push_str("<section><h2>Timeline</h2><div class=\"chart\"><div class=\"axis\">");
    for (x, text) in timeline::ticks(account, &scale) {
        // The last marks would stand beyond the edge.
        let side = if x > 900.0 { format!("right:{:.1}%", 100.0 - x / 10.0) } else { format!("left:{:.1}%", x / 10.0) };
        put(out, format_args!("<span style=\"{side}\">{}</span>", escaped(&text)));
    }
    out.push_str("</div>");
    for step in &account.steps {
        let bars = timeline::band(account, &scale, &step.actions);
        if bars.is_empty() {
            continue;
        }
        put(
            out,
            format_args!(
                "<div class=\"band\"><p><b>{}</b> <span>{}</span></p>{bars}</div>",
                escaped(&step.id),
                escaped(&time(step)),
            ),
        );
    }
    out.push_str("</div><p class=\"key\"><i class=\"done\"></i> done <i class=\"failed\"></i> failed <i class=\"cut\"></i> cut off \
                  <i class=\"undone\"></i> taken back <i class=\"down\"></i> application down</p>");
    if account.sessions.len() > 1 {
        out.push_str("<p class=\"hint\">Between two sessions the chart is shortened.</p>");
    }
    out.push_str("</section>\n");
}

fn time(step: &Step) -> String {
    step.from.zip(step.to).map(|(from, to)| duration(between(from, to))).unwrap_or_default()
}

fn downtime(out: &mut String, account: &Account) {
    if account.downtime.is_empty() {
        return;
    }
    out.push_str("<section><h2>Downtime</h2><div class=\"wide\"><table><thead><tr><th>from</th><th>to</th><th class=\"n\">time</th></tr></thead><tbody>");
    for window in &account.downtime {
        let end = window.end().map_or_else(
            || "<b>the application is still down as far as this run knows</b>".to_owned(),
            |(step, how)| format!("<code>{}</code> {how}", escaped(step)),
        );
        put(
            out,
            format_args!(
                "<tr><td>{:.0} <code>{}</code> began</td><td>{:.0} {end}</td><td class=\"n\">{}</td></tr>",
                window.from,
                escaped(&window.begin_step),
                window.to,
                duration(window.ms),
            ),
        );
    }
    out.push_str("</tbody></table></div></section>\n");
}

fn verifications(out: &mut String, account: &Account) {
    for one in &account.verifications {
        let word = if one.equal { "good" } else { "bad" };
        put(
            out,
            format_args!(
                "<section><h2>Verification: {}</h2><p class=\"{word}\">{}</p>",
                escaped(&one.step),
                escaped(&one.said),
            ),
        );
        for (name, list) in [("Differences", &one.differences), ("Differences that are expected", &one.ignored)] {
            if !list.is_empty() {
                let items: String =
                    list.iter().take(LISTED).map(|line| format!("<li>{}</li>", escaped(line))).collect();
                put(out, format_args!("<h3>{name}</h3><ul>{items}</ul>"));
                more(out, list.len());
            }
        }
        tables(out, one);
        out.push_str("</section>\n");
    }
}

/// Returns a table of a verification in words: name, rows left and right, digest, whether equal.
pub(super) fn table_row(table: &Value) -> [String; 5] {
    let text = |key: &str| table[key].as_str().unwrap_or_default().to_owned();
    let rows = |side: &Value| side.as_u64().or_else(|| side["rows"].as_u64()).map(count).unwrap_or_default();
    let digest = table["digest"].as_str().or_else(|| table["left"]["digest"].as_str()).unwrap_or_default();
    let digest: String = digest.chars().take(12).collect();
    let word = if table["equal"].as_bool() == Some(true) { "same" } else { "differs" };
    let name = format!("{}: {}", text("database"), text("table"));
    [name, rows(&table["left"]), rows(&table["right"]), digest, word.to_owned()]
}

fn tables(out: &mut String, one: &Verification) {
    if one.tables.is_empty() {
        return;
    }
    put(
        out,
        format_args!(
            "<details{}><summary>{}</summary><div class=\"wide\"><table><thead><tr><th>table</th><th class=\"n\">rows left</th>\
         <th class=\"n\">rows right</th><th>digest</th><th></th></tr></thead><tbody>",
            if one.tables.len() <= 20 { " open" } else { "" },
            counted(one.tables.len() as u64, "table"),
        ),
    );
    for table in one.tables.iter().take(LISTED) {
        let [name, left, right, digest, word] = table_row(table);
        let tone = if word == "same" { "good" } else { "bad" };
        put(
            out,
            format_args!(
                "<tr><td>{}</td><td class=\"n\">{left}</td><td class=\"n\">{right}</td><td><code>{}</code></td><td class=\"{tone}\">{word}</td></tr>",
                escaped(&name),
                escaped(&digest),
            ),
        );
    }
    out.push_str("</tbody></table></div>");
    more(out, one.tables.len());
    out.push_str("</details>");
}

fn more(out: &mut String, all: usize) {
    if let Some(rest) = all.checked_sub(LISTED).filter(|rest| *rest > 0) {
        put(
            out,
            format_args!("<p class=\"hint\">and {} more; <code>--format json</code> lists all</p>", count(rest as u64)),
        );
    }
}

fn filters(out: &mut String, account: &Account) {
    for one in &account.filters {
        put(out, format_args!("<section><h2>Left out by {}</h2>", escaped(&one.step)));
        if one.counts.is_empty() {
            out.push_str("<p>Every statement stays.</p>");
        }
        out.push_str("<ul>");
        for (reason, number) in &one.counts {
            put(out, format_args!("<li>{} × {}</li>", count(*number), escaped(reason)));
        }
        out.push_str("</ul>");
        removals(out, one);
        out.push_str("</section>\n");
    }
}

fn removals(out: &mut String, one: &Filtered) {
    let Some(list) = one.list.as_ref().filter(|list| !list.removals.is_empty()) else { return };
    let all = list.removals.len() + usize::try_from(list.unlisted).unwrap_or(usize::MAX);
    put(
        out,
        format_args!(
            "<details><summary>{}</summary><div class=\"wide\"><table><thead><tr><th class=\"n\">line</th><th>object</th>\
         <th>why</th><th>statement</th></tr></thead><tbody>",
            counted(all as u64, "statement"),
        ),
    );
    for removal in list.removals.iter().take(LISTED) {
        put(
            out,
            format_args!(
                "<tr><td class=\"n\">{}</td><td>{}</td><td>{}</td><td><code>{}</code></td></tr>",
                removal.line,
                escaped(removal.object.as_deref().unwrap_or_default()),
                escaped(&removal.reasons.join("; ")),
                escaped(&removal.statement),
            ),
        );
    }
    out.push_str("</tbody></table></div>");
    more(out, all);
    out.push_str("</details>");
}

fn steps(out: &mut String, account: &Account) {
    out.push_str("<section><h2>What was done</h2>");
    for step in &account.steps {
        let (word, _) = status_word(step.status);
        put(
            out,
            format_args!(
                "<details class=\"step\"><summary><b>{}</b> <span>{}</span> <span class=\"word {word}\">{word}</span> <span class=\"time\">{}</span></summary>",
                escaped(&step.id),
                escaped(&step.kind),
                escaped(&time(step)),
            ),
        );
        if let Some(reason) = &step.reason {
            put(out, format_args!("<p>{}</p>", escaped(reason)));
        }
        for note in &step.notes {
            put(out, format_args!("<p class=\"hint\">{}</p>", escaped(note)));
        }
        actions(out, step);
        out.push_str("</details>");
    }
    out.push_str("</section>\n");
}

fn actions(out: &mut String, step: &Step) {
    if step.actions.is_empty() {
        return;
    }
    out.push_str("<ol>");
    for action in step.actions.iter().take(LISTED) {
        let took: u64 = action.attempts.iter().map(|one| between(one.from, one.to)).sum();
        let mut facts = Vec::new();
        if !action.attempts.is_empty() {
            facts.push(duration(took));
        }
        if action.attempts.len() > 1 {
            facts.push(format!("{} attempts", action.attempts.len()));
        }
        facts.extend(action.bytes.filter(|size| *size > 0).map(bytes));
        facts.extend(action.rows.filter(|rows| *rows > 0).map(|rows| format!("{} rows", count(rows))));
        put(
            out,
            format_args!("<li>{} <span class=\"time\">{}</span>", escaped(&action.title), escaped(&facts.join(", "))),
        );
        if !action.said.is_empty() && action.said != action.title {
            put(out, format_args!("<br><span class=\"hint\">{}</span>", escaped(&action.said)));
        }
        out.push_str("</li>");
    }
    out.push_str("</ol>");
    more(out, step.actions.len());
}

fn about(out: &mut String, account: &Account) {
    out.push_str("<section><h2>Who, when and with what</h2><div class=\"wide\"><table><thead><tr><th>session</th><th>who</th><th>pgplan</th><th>ended</th></tr></thead><tbody>");
    for session in &account.sessions {
        let by = &session.by;
        put(
            out,
            format_args!(
                "<tr><td>{:.0} to {:.0}</td><td>{} on {}, process {}</td><td>{}</td><td>{}</td></tr>",
                session.from,
                session.to,
                escaped(&by.user),
                escaped(&by.host),
                by.pid,
                escaped(&by.version),
                escaped(&session.ended),
            ),
        );
    }
    out.push_str("</tbody></table></div>");
    if !account.servers.is_empty() {
        out.push_str("<div class=\"wide\"><table><thead><tr><th>database</th><th>server</th><th>PostgreSQL</th><th class=\"n\">size when first seen</th></tr></thead><tbody>");
        for (name, server) in &account.servers {
            put(
                out,
                format_args!(
                    "<tr><td>{}</td><td><code>{}</code></td><td>{}</td><td class=\"n\">{}</td></tr>",
                    escaped(name),
                    escaped(&server.label),
                    escaped(&server.version),
                    bytes(server.bytes),
                ),
            );
        }
        out.push_str("</tbody></table></div>");
    }
    for (folder, version) in &account.programs {
        put(
            out,
            format_args!(
                "<p class=\"hint\">client programs {} in <code>{}</code></p>",
                escaped(version),
                escaped(folder)
            ),
        );
    }
    for (name, value) in &account.given {
        put(out, format_args!("<p class=\"hint\"><code>--var {}={}</code></p>", escaped(name), escaped(value)));
    }
    put(
        out,
        format_args!(
            "<p class=\"hint\">run <code>{}</code>, plan file <code>{}</code>, fingerprint <code>{}</code></p></section>\n",
            escaped(&account.run),
            escaped(&account.path),
            escaped(&account.fingerprint.chars().take(16).collect::<String>()),
        ),
    );
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use pgplan_engine::event::Holder;
    use serde_json::json;

    use super::*;
    use crate::report::{
        account::{Action, Attempt, Failure, How, Session, Warning, Window},
        markdown,
    };

    const HOSTILE: &str = "<script>alert(\"1\")</script>'&\u{1b}[31m| *x* `y`\n# z";

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(1_700_000_000_000 + ms).expect("a moment")
    }

    /// A run of two sessions, an hour apart, in which everything that people can name is hostile.
    fn account() -> Account {
        let by = Holder {
            host: HOSTILE.to_owned(),
            pid: 1,
            started: 1,
            user: HOSTILE.to_owned(),
            version: "0".to_owned(),
            since: at(0),
        };
        let session = |from, to| Session { from: at(from), to: at(to), by: by.clone(), ended: HOSTILE.to_owned() };
        let attempt = |from, to, how| Attempt { from: at(from), to: at(to), how };
        let action = Action {
            id: HOSTILE.to_owned(),
            title: HOSTILE.to_owned(),
            said: format!("{HOSTILE} done"),
            rows: Some(1_000),
            bytes: Some(2_048),
            attempts: vec![attempt(100, 1_000, How::Cut), attempt(3_600_000, 3_600_900, How::Done)],
        };
        let step = Step {
            id: HOSTILE.to_owned(),
            kind: "sql".to_owned(),
            status: StepStatus::Failed,
            from: Some(at(0)),
            to: Some(at(3_600_900)),
            reason: Some(HOSTILE.to_owned()),
            error: Some(Failure {
                message: HOSTILE.to_owned(),
                details: vec![HOSTILE.to_owned()],
                help: HOSTILE.to_owned(),
            }),
            actions: vec![action],
            notes: vec![HOSTILE.to_owned()],
        };
        let table = json!({ "database": HOSTILE, "table": HOSTILE, "left": { "rows": 3, "digest": "abc" },
            "right": { "rows": 4 }, "equal": false });
        Account {
            run: HOSTILE.to_owned(),
            plan: HOSTILE.to_owned(),
            path: HOSTILE.to_owned(),
            fingerprint: "f".to_owned(),
            status: "failed".to_owned(),
            rehearsal: false,
            started_at: Some(at(0)),
            ended_at: Some(at(3_601_000)),
            took_ms: 3_601_000,
            sessions: vec![session(0, 1_000), session(3_600_000, 3_601_000)],
            given: [(HOSTILE.to_owned(), HOSTILE.to_owned())].into(),
            downtime: vec![Window {
                begin_step: HOSTILE.to_owned(),
                from: at(500),
                end_step: None,
                taken_back: false,
                to: at(3_601_000),
                ms: 3_600_500,
            }],
            downtime_ms: 3_600_500,
            servers: std::collections::BTreeMap::new(),
            programs: [(HOSTILE.to_owned(), HOSTILE.to_owned())].into(),
            steps: vec![step],
            verifications: vec![Verification {
                step: HOSTILE.to_owned(),
                equal: false,
                said: HOSTILE.to_owned(),
                tables: vec![table],
                differences: vec![HOSTILE.to_owned()],
                ignored: vec![HOSTILE.to_owned()],
            }],
            filters: vec![Filtered { step: HOSTILE.to_owned(), counts: [(HOSTILE.to_owned(), 2)].into(), list: None }],
            warnings: vec![Warning { step: Some(HOSTILE.to_owned()), message: HOSTILE.to_owned() }],
        }
    }

    #[test]
    fn whatever_is_named_stays_text() {
        let page = page(&account());
        assert!(!page.contains("<script") && !page.contains("alert(\"") && !page.contains('\u{1b}'), "{page}");
        assert!(page.matches("&lt;script&gt;").count() > 15);
        let markdown = markdown::page(&account());
        assert!(
            !markdown.replace("\\<", "").contains('<') && !markdown.contains("\n# z") && !markdown.contains('\u{1b}'),
            "{markdown}"
        );
        let rows = markdown.lines().filter(|line| line.starts_with("| 1") || line.starts_with("| <"));
        assert_eq!(rows.count(), 0, "{markdown}");
    }

    #[test]
    fn sessions_lie_side_by_side_however_long_nothing_ran() {
        let account = account();
        let scale = Scale::of(&account);
        let [begin, cut, again, end] = [0, 1_000, 3_600_000, 3_601_000].map(|ms| scale.x(at(ms)));
        assert!(begin.abs() < 0.01 && (cut - 485.0).abs() < 0.01, "{cut}");
        assert!((again - 515.0).abs() < 0.01 && (end - 1_000.0).abs() < 0.01, "{again} {end}");
        let band = timeline::band(&account, &scale, &account.steps[0].actions);
        assert!(band.contains("class=\"cut\" x=\"48.50\"") && band.contains("class=\"down\""), "{band}");
        assert_eq!(
            table_row(&account.verifications[0].tables[0])[1..],
            ["3", "4", "abc", "differs"].map(str::to_owned)
        );
    }
}
