//! Reads a plan for a command, or shows all that is wrong with it.

use std::io;

use pgplan_engine::{
    check::{self, Checked, Options},
    diagnostic::{Diagnostic, Severity},
    plan::Plan,
    world::load_platforms,
};

use crate::{args::PlanArgs, exit::Exit, ui::Ui};

/// Checks the plan that the arguments name; tells what is wrong with the arguments themselves.
pub(crate) fn checked(ui: &mut Ui, args: &PlanArgs) -> Option<Checked> {
    let mut vars = Vec::new();
    for pair in &args.vars {
        let Some((name, value)) = pair.split_once('=') else {
            ui.fail(format!("--var {pair}: there is no `=`"), "write --var NAME=VALUE");
            return None;
        };
        vars.push((name.to_owned(), value.to_owned()));
    }
    let platforms = match load_platforms(&args.platforms) {
        Ok(platforms) => platforms.names().map(str::to_owned).collect(),
        Err(error) => {
            ui.error(&error);
            return None;
        }
    };
    Some(check::check_file(&args.file, &Options { vars, platforms }))
}

/// Returns the plan; warnings are shown and errors end the command.
pub(crate) fn load(ui: &mut Ui, args: &PlanArgs) -> io::Result<Result<Plan, Exit>> {
    let Some(checked) = checked(ui, args) else { return Ok(Err(Exit::BadInput)) };
    show(ui, &checked.problems);
    Ok(checked.plan.ok_or(Exit::BadInput))
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
