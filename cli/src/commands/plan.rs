use std::{collections::BTreeSet, io, path::Path, sync::Arc};

use clap::{Args, ValueEnum};
use pgplan_engine::{
    preview::preview,
    world::{Consent, Real, Settings},
};

use super::load::load;
use crate::{args::PlanArgs, exit::Exit, report::preview as show, ui::Ui};

/// How a preview is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
    /// For a review
    Markdown,
}

/// Show what a plan would do, without doing it
///
/// Opens read-only sessions to the plan's databases and prints every action with its command line or SQL. Starts no
/// program that the plan names unless --allow-programs is given.
#[derive(Debug, Args)]
pub(crate) struct PlanCommand {
    #[command(flatten)]
    plan: PlanArgs,
    /// How it is written
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    format: Format,
    /// Start programs that the plan names to look (secret commands, reading an application's scale)
    #[arg(long)]
    allow_programs: bool,
}

impl PlanCommand {
    /// Returns the command for `apply --dry-run`.
    pub(crate) fn of(plan: &PlanArgs) -> Self {
        Self { plan: plan.clone(), format: Format::Text, allow_programs: false }
    }

    pub(crate) fn run(&self, ui: &mut Ui, folder: &Path) -> io::Result<Exit> {
        let plan = match load(ui, &self.plan)? {
            Ok(plan) => Arc::new(plan),
            Err(exit) => return Ok(exit),
        };
        let settings = Settings {
            run_id: "dry-run".to_owned(),
            session: 0,
            run_dir: std::path::absolute(folder)?.join("runs").join("RUN"),
            platforms: self.plan.platforms.clone(),
            consent: Consent::Nobody,
            allow_programs: self.allow_programs,
            dry_run: true,
            changed_before: BTreeSet::new(),
            approved: BTreeSet::new(),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let found = runtime.block_on(async {
            let world = Real::new(Arc::clone(&plan), settings, crate::args::environment()).await?;
            Ok::<_, pgplan_engine::error::StepError>(preview(&plan, &world).await)
        });
        let preview = match found {
            Ok(preview) => preview,
            Err(error) => {
                ui.error(&error);
                return Ok(Exit::of_error(error.kind));
            }
        };
        match self.format {
            Format::Text => ui.data(show::text(&preview))?,
            Format::Json => ui.data(format!("{}\n", serde_json::to_string_pretty(&preview)?))?,
            Format::Markdown => ui.data(show::markdown(&preview))?,
        }
        Ok(match preview.first_failure() {
            Some((_, error)) => Exit::of_error(error.kind),
            None => Exit::Done,
        })
    }
}
