use std::{collections::BTreeSet, io, path::PathBuf, sync::Arc};

use clap::Args;
use pgplan_engine::{
    diagnostic::{Diagnostic, Severity},
    preflight::{report::Report, rule::Severity as RuleSeverity},
    preview::preflights,
    world::{Consent, Real, Settings},
};
use serde_json::json;

use super::{load, plan::Format};
use crate::{args::PlanArgs, exit::Exit, report::preflight as show, ui::Ui};

/// Check a plan without connecting to anything or starting anything
///
/// With --live it opens read-only sessions, too, and looks for hazards on the way from source to target, as the plan's
/// `preflight` steps do; a plan without one is taken as if each restored dump had one before it.
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
    /// Look for hazards between the plan's servers, read-only
    #[arg(long)]
    live: bool,
    /// How the hazards are written
    #[arg(long, value_enum, default_value_t, value_name = "HOW", requires = "live")]
    format: Format,
    /// Start programs that the plan names to look (secret commands)
    #[arg(long, requires = "live")]
    allow_programs: bool,
}

impl Check {
    pub(crate) fn run(&self, ui: &mut Ui) -> io::Result<Exit> {
        if self.live {
            return self.look(ui);
        }
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

    fn look(&self, ui: &mut Ui) -> io::Result<Exit> {
        let plan = match load::load(ui, &self.plan)? {
            Ok(plan) => Arc::new(plan),
            Err(exit) => return Ok(exit),
        };
        let settings = Settings {
            run_id: "preflight".to_owned(),
            session: 0,
            // Where dumps would lie: how much room is there is a fact of the preflight.
            run_dir: PathBuf::from(".pgplan/runs"),
            platforms: self.plan.platforms.clone(),
            consent: Consent::Nobody,
            allow_programs: self.allow_programs,
            dry_run: true,
            changed_before: BTreeSet::new(),
            approved: BTreeSet::new(),
            state: None,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let found = runtime.block_on(async {
            let world = Real::new(Arc::clone(&plan), settings, crate::args::environment()).await?;
            preflights(&plan, &world).await
        });
        match found {
            Ok(found) => {
                self.show(ui, &found)?;
                let clear = found.iter().all(|(_, report)| report.is_clear());
                let noted = found.iter().all(|(_, report)| report.of(RuleSeverity::Warning).next().is_none());
                Ok(if clear && (noted || !self.strict) { Exit::Done } else { Exit::Blocker })
            }
            Err(error) => {
                ui.error(&error);
                Ok(Exit::of_error(error.kind))
            }
        }
    }

    fn show(&self, ui: &mut Ui, found: &[(Option<String>, Report)]) -> io::Result<()> {
        if self.json || self.format == Format::Json {
            let reports: Vec<_> =
                found.iter().map(|(step, report)| json!({ "step": step, "report": report })).collect();
            return ui.data(format!("{}\n", serde_json::to_string_pretty(&reports)?));
        }
        for (step, report) in found {
            let name = step.as_deref().unwrap_or("preflight");
            match self.format {
                Format::Markdown => ui.data(format!("## {name}\n\n{}", show::markdown(report, "###")))?,
                Format::Text | Format::Json => ui.data(format!("{name}\n{}", show::text(report, "  ")))?,
            }
        }
        Ok(())
    }
}
