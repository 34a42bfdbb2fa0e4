use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use clap::{Args, ValueEnum};
use indicatif::MultiProgress;
use pgplan_engine::{
    journal::Location,
    preview::{Preview, preview},
    saved::Saved,
    world::{Consent, Real, Settings},
};

use super::{
    forecast::{self, Measured},
    load::load,
    saved::{self, Given},
    state,
};
use crate::{
    args::PlanArgs,
    exit::Exit,
    report::{looking, preview as show},
    ui::{Tone, Ui, paint},
};

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
/// program that the plan names unless --allow-programs is given. Of a saved plan it prints what was shown when it was
/// saved, and looks at nothing.
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
    /// Save the plan for `pgplan apply FILE`, which is refused when plan or servers have changed
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

impl PlanCommand {
    /// Returns the command for `apply --dry-run`.
    pub(crate) fn of(plan: &PlanArgs) -> Self {
        Self { plan: plan.clone(), format: Format::Text, allow_programs: false, out: None }
    }

    pub(crate) fn run(&self, ui: &mut Ui, state: Option<&Path>) -> io::Result<Exit> {
        match Given::read(ui, &self.plan) {
            Ok(Some(given)) if self.out.is_none() => {
                self.show(ui, &given.saved.preview)?;
                return Ok(Exit::Done);
            }
            Ok(Some(_)) => {
                ui.fail("--out cannot be given with a saved plan", "name the plan that it was made of");
                return Ok(Exit::BadInput);
            }
            Ok(None) => {}
            Err(exit) => return Ok(exit),
        }
        let plan = match load(ui, &self.plan)? {
            Ok(plan) => Arc::new(plan),
            Err(exit) => return Ok(exit),
        };
        let (runs, location) = match state::for_look(ui, state, &plan, self.allow_programs)? {
            Ok(found) => found,
            Err(exit) => return Ok(exit),
        };
        let settings = Settings {
            run_id: "dry-run".to_owned(),
            session: 0,
            run_dir: runs.join("RUN"),
            platforms: self.plan.platforms.clone(),
            consent: Consent::Nobody,
            allow_programs: self.allow_programs,
            dry_run: true,
            changed_before: BTreeSet::new(),
            approved: BTreeSet::new(),
            state: location.clone().and_then(|location| match location {
                Location::Folder(_) => None,
                Location::Server(info) => Some(*info),
            }),
            watch: Some(if ui.interactive { looking::bars(MultiProgress::new()) } else { looking::lines() }),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let world = match Real::new(Arc::clone(&plan), settings, crate::args::environment()).await {
                Ok(world) => world,
                Err(error) => {
                    ui.error(&error);
                    return Ok(Exit::of_error(error.kind));
                }
            };
            let mut preview = preview(&plan, &world).await;
            let measured = Measured::read(ui, &plan, &runs, location.as_ref());
            preview.downtime =
                measured.forecast(&plan, &forecast::sizes(&preview.servers)).map(|forecast| forecast.whole());
            self.show(ui, &preview)?;
            if let Some(warning) = forecast::unknown(&plan, preview.downtime.as_ref()) {
                ui.say(format!("{} {warning}", paint("warning:", Tone::Warn)));
            }
            let failed = preview.first_failure().map(|(step, error)| (step.to_owned(), Exit::of_error(error.kind)));
            match (failed, &self.out) {
                (None, None) => Ok(Exit::Done),
                (Some((_, exit)), None) => Ok(exit),
                (Some((step, exit)), Some(file)) => {
                    ui.fail(format!("{} was not written: step `{step}` would fail", file.display()), "mend that first");
                    Ok(exit)
                }
                (None, Some(file)) => match Saved::of(&plan, preview, &self.plan.platforms, &world).await {
                    Ok(saved) => Ok(saved::write(ui, &saved, file)),
                    Err(error) => {
                        ui.error(&error);
                        Ok(Exit::of_error(error.kind))
                    }
                },
            }
        })
    }

    fn show(&self, ui: &mut Ui, preview: &Preview) -> io::Result<()> {
        match self.format {
            Format::Text => ui.data(show::text(preview)),
            Format::Json => ui.data(format!("{}\n", serde_json::to_string_pretty(preview)?)),
            Format::Markdown => ui.data(show::markdown(preview)),
        }
    }
}
