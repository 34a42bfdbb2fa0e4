//! Reads a plan for a command, or shows all that is wrong with it.

use std::io;

use pgplan_engine::{
    check::{self, Checked, Options},
    diagnostic::{Diagnostic, Severity},
    plan::Plan,
    world::load_platforms,
};

use super::saved::Given;
use crate::{args::PlanArgs, exit::Exit, ui::Ui};

/// Checks the plan that the arguments name; tells what is wrong with the arguments themselves.
pub(crate) fn checked(ui: &mut Ui, args: &PlanArgs) -> Option<Checked> {
    let vars = vars(ui, args)?;
    let platforms = match load_platforms(&args.platforms) {
        Ok(platforms) => platforms.names().map(str::to_owned).collect(),
        Err(error) => {
            ui.error(&error);
            return None;
        }
    };
    let platform_files = args.platforms.clone();
    Some(check::check_file(&args.file, &Options { vars, platforms, platform_files }))
}

/// Returns the plan; warnings are shown and errors end the command.
pub(crate) fn load(ui: &mut Ui, args: &PlanArgs) -> io::Result<Result<Plan, Exit>> {
    let Some(checked) = checked(ui, args) else { return Ok(Err(Exit::BadInput)) };
    show(ui, &checked.problems);
    Ok(checked.plan.ok_or(Exit::BadInput))
}

/// Returns the plan, or the one that a saved plan was made of, for a command that needs its name and its journal only:
/// platforms are not looked at and warnings not shown.
pub(crate) fn unseen(ui: &mut Ui, args: &PlanArgs) -> Result<Plan, Exit> {
    let args = match Given::read(ui, args)? {
        Some(saved) => saved.args(),
        None => args.clone(),
    };
    let Some(vars) = vars(ui, &args) else { return Err(Exit::BadInput) };
    let platform_files = args.platforms.clone();
    let Checked { plan, problems } =
        check::check_file(&args.file, &Options { vars, platform_files, ..Options::default() });
    plan.ok_or_else(|| {
        show(ui, &problems);
        Exit::BadInput
    })
}

/// Reads the variables that were given; tells what is wrong with them.
fn vars(ui: &mut Ui, args: &PlanArgs) -> Option<Vec<(String, String)>> {
    let mut vars = Vec::new();
    for pair in &args.vars {
        let Some((name, value)) = pair.split_once('=') else {
            ui.fail(format!("--var {pair}: there is no `=`"), "write --var NAME=VALUE");
            return None;
        };
        vars.push((name.to_owned(), value.to_owned()));
    }
    Some(vars)
}

/// Shows problems, each with a picture of its place.
pub(crate) fn show(ui: &mut Ui, problems: &[Diagnostic]) {
    let theme = if ui.colors_on_stderr() {
        miette::GraphicalTheme::unicode()
    } else {
        miette::GraphicalTheme::unicode_nocolor()
    };
    let handler = miette::GraphicalReportHandler::new_themed(theme).with_links(false).with_width(100);
    for problem in problems {
        let mut text = String::new();
        if handler.render_report(&mut text, &problem.report()).is_err() {
            text = problem.message.clone();
        }
        ui.say(text);
    }
    let errors = problems.iter().filter(|problem| problem.severity == Severity::Error).count();
    if errors > 0 {
        ui.say(format!("{errors} {}", if errors == 1 { "error" } else { "errors" }));
    }
}
