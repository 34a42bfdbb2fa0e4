use std::io;

use clap::Args;
use pgplan_engine::diagnostic::{Diagnostic, Severity};
use serde_json::json;

use super::load;
use crate::{args::PlanArgs, exit::Exit, ui::Ui};

/// Check a plan without connecting to anything or starting anything
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    plan: PlanArgs,
    /// Fail on warnings, too
    #[arg(long)]
    strict: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(crate) fn run(&self, ui: &mut Ui) -> io::Result<Exit> {
        let Some(checked) = load::checked(ui, &self.plan) else { return Ok(Exit::BadInput) };
        let errors = checked.errors();
        let warnings = checked.problems.len() - errors;
        if self.json {
            let problems: Vec<_> = checked.problems.iter().map(Diagnostic::to_json).collect();
            let plan = checked
                .plan
                .as_ref()
                .map(|plan| json!({ "name": plan.name, "steps": plan.steps.len(), "fingerprint": plan.fingerprint }));
            ui.data(format!(
                "{}\n",
                json!({ "plan": plan, "errors": errors, "warnings": warnings, "problems": problems })
            ))?;
        } else {
            load::show(ui, &checked.problems);
            if let Some(plan) = &checked.plan {
                let shown = |count: usize, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
                let (steps, databases) = (shown(plan.steps.len(), "step"), shown(plan.databases.len(), "database"));
                let problems = match checked.problems.iter().filter(|one| one.severity == Severity::Warning).count() {
                    0 => "no problems".to_owned(),
                    count => shown(count, "warning"),
                };
                ui.say(format!("{}: {steps}, {databases}, {problems}.", self.plan.file.display()));
            }
        }
        Ok(if errors > 0 || (self.strict && warnings > 0) { Exit::BadInput } else { Exit::Done })
    }
}
