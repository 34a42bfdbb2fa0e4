//! What a preflight found, as text for a terminal and as Markdown for a review.

use pgplan_engine::{
    postgres::quote::on_one_line,
    preflight::{
        report::{Finding, Report},
        rule::Severity,
    },
};

use crate::ui::{Tone, paint};

/// How many objects of a finding are written out; the rest is counted. JSON holds all.
const SHOWN: usize = 10;
const SEVERITIES: [Severity; 3] = [Severity::Blocker, Severity::Warning, Severity::Note];

/// Returns the report for a terminal, each line after `indent`.
pub(crate) fn text(report: &Report, indent: &str) -> String {
    let mut lines = vec![heading(report)];
    for severity in SEVERITIES {
        let findings: Vec<&Finding> = report.of(severity).collect();
        if findings.is_empty() {
            continue;
        }
        lines.push(paint(severity.heading(), tone(severity)));
        for finding in findings {
            lines.push(format!("  {}: {}", paint(&finding.code, Tone::Strong), finding.title));
            for object in finding.objects.iter().take(SHOWN) {
                lines.push(format!("    - {}", object.line()));
                if !object.fix.is_empty() {
                    lines.push(format!("      {}", paint(on_one_line(&object.fix), Tone::Dim)));
                }
            }
            lines.extend(more(finding).map(|more| format!("    {more}")));
            lines.push(format!("    why: {}", finding.why));
            lines.push(format!("    fix: {}", finding.fix));
            lines.push(format!("    see: {}", paint(&finding.link, Tone::Dim)));
        }
    }
    let mut list = |heading: &str, tone, items: Vec<String>| {
        if !items.is_empty() {
            lines.push(paint(heading, tone));
            lines.extend(items.into_iter().map(|item| format!("  - {item}")));
        }
    };
    list("errors of waivers", Tone::Bad, report.waiver_errors.clone());
    list("waived", Tone::Dim, waived(report));
    list("not checked", Tone::Warn, report.unchecked.iter().map(ToString::to_string).collect());
    lines.push(totals(report));
    lines.into_iter().map(|line| format!("{indent}{line}\n")).collect()
}

/// Returns the report for a review; `level` is the heading's, as `###`.
pub(crate) fn markdown(report: &Report, level: &str) -> String {
    let mut lines = vec![heading(report), String::new()];
    for severity in SEVERITIES {
        let findings: Vec<&Finding> = report.of(severity).collect();
        if findings.is_empty() {
            continue;
        }
        lines.extend([format!("{level} {}", capital(severity.heading())), String::new()]);
        for finding in findings {
            lines.extend([format!("**{}**: {}", finding.code, finding.title), String::new()]);
            for object in finding.objects.iter().take(SHOWN) {
                lines.push(format!("- {}", code(&object.line())));
                if !object.fix.is_empty() {
                    lines.push(format!("  - {}", code(&on_one_line(&object.fix))));
                }
            }
            lines.extend(more(finding).map(|more| format!("- {more}")));
            let Finding { why, fix, link, .. } = finding;
            lines.extend([String::new(), format!("Why: {why}. Fix: {fix}. [More]({link})"), String::new()]);
        }
    }
    let mut list = |heading: &str, items: Vec<String>| {
        if !items.is_empty() {
            lines.extend([format!("{level} {heading}"), String::new()]);
            lines.extend(items.into_iter().map(|item| format!("- {item}")));
            lines.push(String::new());
        }
    };
    list("Errors of waivers", report.waiver_errors.clone());
    list("Waived", waived(report));
    list("Not checked", report.unchecked.iter().map(ToString::to_string).collect());
    lines.push(totals(report));
    lines.join("\n") + "\n"
}

fn heading(report: &Report) -> String {
    let target = match &report.target {
        Some(target) => format!("{target} ({})", report.target_version),
        None => format!("version {}", report.target_version),
    };
    format!("from {} ({}) to {target}", report.source, report.source_version)
}

fn totals(report: &Report) -> String {
    let databases = report.databases.len();
    let noun = if databases == 1 { "database" } else { "databases" };
    format!("{}; {} rules in {databases} {noun}, {} queries", report.numbers(), report.rules, report.queries)
}

fn more(finding: &Finding) -> Option<String> {
    let more = finding.objects.len().checked_sub(SHOWN).filter(|more| *more > 0)?;
    Some(format!("… and {more} more"))
}

fn waived(report: &Report) -> Vec<String> {
    let line = |waived: &pgplan_engine::preflight::report::Waived| {
        let objects: Vec<String> = waived.finding.objects.iter().take(SHOWN).map(|object| object.full_name()).collect();
        let more = more(&waived.finding).map(|more| format!(" {more}")).unwrap_or_default();
        let (by, code) = (&waived.by, &waived.finding.code);
        format!("{code} until {}: {} ({}{more})", by.until, by.reason, objects.join(", "))
    };
    report.waived.iter().map(line).collect()
}

fn tone(severity: Severity) -> Tone {
    match severity {
        Severity::Blocker => Tone::Bad,
        Severity::Warning => Tone::Warn,
        Severity::Note => Tone::Strong,
    }
}

fn capital(word: &str) -> String {
    word[..1].to_uppercase() + &word[1..]
}

/// Returns text as code that ends where it should, whatever is in it.
fn code(text: &str) -> String {
    if text.contains('`') { format!("`` {text} ``") } else { format!("`{text}`") }
}
