use std::io;

use clap::Args;
use pgplan_engine::{
    explain::{self, Known},
    preflight::{self, rule::Rule},
};
use serde_json::json;

use crate::{
    exit::Exit,
    ui::{Tone, Ui, paint},
};

/// What `pgplan check` says about each code, with a plan that has it; written from the program itself.
const MESSAGES: &str = include_str!("../../../docs/reference/messages.md");

/// Explain a code: a problem in a plan, a hazard, an error of a restore or a dump
#[derive(Debug, Args)]
pub(crate) struct Explain {
    /// The code; absent = list all
    #[arg(value_name = "CODE")]
    code: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Explain {
    pub(crate) fn run(&self, ui: &mut Ui) -> io::Result<Exit> {
        let Some(code) = &self.code else {
            self.list(ui)?;
            return Ok(Exit::Done);
        };
        let (rule, known, message) = (preflight::find(code), explain::find(code), section(code));
        if rule.is_none() && known.is_none() && message.is_none() {
            ui.fail(format!("there is no code `{code}`"), "`pgplan explain` lists them all");
            return Ok(Exit::BadInput);
        }
        if self.json {
            let hazard = rule.map(|rule| {
                json!({
                    "severity": rule.severity, "title": rule.title, "versions": rule.pairs.to_string(),
                    "methods": rule.methods, "why": rule.why, "fix": rule.fix, "link": rule.link,
                })
            });
            let error = known.map(|known| {
                json!({ "sqlstates": known.sqlstates, "cause": generic(known.cause), "fix": generic(known.fix) })
            });
            let all = json!({ "code": code, "hazard": hazard, "error": error, "problem": message });
            ui.data(format!("{}\n", serde_json::to_string_pretty(&all)?))?;
            return Ok(Exit::Done);
        }
        let parts = [rule.map(of_rule), known.map(of_known), message.map(|text| format!("in a plan\n\n{text}\n"))];
        let text: Vec<String> = parts.into_iter().flatten().collect();
        ui.data(format!("{}\n{}", paint(code, Tone::Strong), text.join("\n")))?;
        Ok(Exit::Done)
    }

    fn list(&self, ui: &mut Ui) -> io::Result<()> {
        let hazards: Vec<&str> = preflight::all().iter().map(|rule| rule.code).collect();
        let codes = |known: &[Known]| known.iter().map(|known| known.code).collect::<Vec<&str>>();
        let (errors, dumping) = (codes(explain::ALL), codes(explain::DUMPING));
        let problems: Vec<&str> = MESSAGES.lines().filter_map(|line| line.strip_prefix("## ")).collect();
        if self.json {
            let all = json!({ "hazards": hazards, "errors": errors, "errors_of_dumps": dumping, "problems": problems });
            return ui.data(format!("{}\n", serde_json::to_string_pretty(&all)?));
        }
        let groups = [
            ("hazards of a preflight", hazards),
            ("errors of a restore", errors),
            ("errors of a dump", dumping),
            ("problems of a plan", problems),
        ];
        for (heading, codes) in groups {
            ui.data(format!("{}\n  {}\n", paint(heading, Tone::Strong), codes.join("\n  ")))?;
        }
        Ok(())
    }
}

fn of_rule(rule: &Rule) -> String {
    format!(
        "a hazard: {}\n  severity: {}\n  matters:  {}, by {}\n  why:      {}\n  fix:      {}\n  see:      {}\n",
        rule.title,
        rule.severity.heading().trim_end_matches('s'),
        rule.pairs,
        rule.methods_in_words(),
        rule.why,
        rule.fix,
        rule.link
    )
}

fn of_known(known: &Known) -> String {
    let (cause, fix) = (generic(known.cause), generic(known.fix));
    let of = match known.sqlstates {
        [] => "an error of a dump".to_owned(),
        states => format!("an error of a restore, SQLSTATE {}", states.join(", ")),
    };
    format!("{of}\n  cause: {cause}\n  fix:   {fix}\n")
}

/// Returns a text without the names that only an error has.
fn generic(text: &str) -> String {
    text.replace("$1$2", "…").replace("$1", "…").replace("$2", "…")
}

/// Returns what the reference says about a problem's code.
fn section(code: &str) -> Option<&'static str> {
    let start = MESSAGES.find(&format!("\n## {code}\n"))? + 1;
    let body = &MESSAGES[start..];
    let body = &body[body.find('\n')? + 1..];
    Some(body[..body.find("\n## ").unwrap_or(body.len())].trim())
}
