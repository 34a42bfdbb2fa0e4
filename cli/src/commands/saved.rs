//! What `plan` and `apply` do with a saved plan: read it, compare it with what is there now, refuse.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use pgplan_engine::{
    error::StepError,
    plan::Plan,
    saved::{
        self, Saved,
        changes::{self, Change},
    },
    state::RunState,
    world::Real,
};

use super::apply::difference;
use crate::{
    args::PlanArgs,
    exit::Exit,
    ui::{Tone, Ui, paint},
};

/// The copy that a run keeps of the saved plan it was begun from.
const COPY: &str = "saved-plan.json";

/// A saved plan that a command was given.
pub(crate) struct Given {
    /// What stands in it.
    pub(crate) saved: Saved,
    file: PathBuf,
    text: String,
}

impl Given {
    /// Returns the saved plan when the arguments name one and not a plan; what is wrong with it has been told.
    pub(crate) fn read(ui: &mut Ui, args: &PlanArgs) -> Result<Option<Self>, Exit> {
        // A file that cannot be read is told about as a plan.
        if !args.file.is_file() {
            return Ok(None);
        }
        let (saved, text) = match saved::read(&args.file) {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(None),
            Err(error) => {
                ui.error(&error);
                return Err(Exit::of_error(error.kind));
            }
        };
        let file = args.file.clone();
        for (option, given) in [("--var", !args.vars.is_empty()), ("--platform", !args.platforms.is_empty())] {
            if given {
                let message = format!("{option} cannot be given with the saved plan {}", file.display());
                ui.fail(message, "it has its own; save the plan anew with `pgplan plan PLAN --out FILE`");
                return Err(Exit::BadInput);
            }
        }
        Ok(Some(Self { saved, file, text }))
    }

    /// Returns the plan that it was made of, with its variables and platforms.
    pub(crate) fn args(&self) -> PlanArgs {
        PlanArgs {
            file: self.saved.path.clone(),
            vars: self.saved.given.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            platforms: self.saved.platforms.iter().map(|(path, _)| path.clone()).collect(),
        }
    }

    /// Refuses a plan that has changed, and to go on with a run that was not begun from here.
    pub(crate) fn refuse_plan(&self, ui: &mut Ui, plan: &Plan, runs: &Path, old: Option<&RunState>) -> Option<Exit> {
        let file = self.file.display();
        if let Some(old) = old {
            match fs::read_to_string(runs.join(&old.id).join(COPY)) {
                Ok(copy) if copy == self.text => {}
                Ok(_) => return Some(self.not_its_run(ui, &old.id)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Some(self.not_its_run(ui, &old.id)),
                Err(error) => {
                    let message = format!("cannot tell whether run {} was begun from {file}: {error}", old.id);
                    ui.fail(message, "check the rights on the --state folder");
                    return Some(Exit::Failed);
                }
            }
        }
        let changed = self.refuse(ui, changes::of_plan(&self.saved, plan), "the plan");
        if changed.is_none()
            && let Some(old) = old.filter(|old| !old.going_back)
        {
            ui.say(format!("run {} goes on; the servers were compared with {file} when it began", old.id));
        }
        changed
    }

    fn not_its_run(&self, ui: &mut Ui, run: &str) -> Exit {
        let message = format!("run {run} is unfinished and was not begun from {}", self.file.display());
        let [apply, undo] = ["apply", "undo"].map(|verb| self.args().command(verb, &ui.hints));
        let help = format!("go on with it by `{apply}`, take it back by `{undo}`, or give it up with --fresh");
        ui.fail(message, &help);
        Exit::Refused
    }

    /// Refuses when a server is not what it was.
    pub(crate) async fn refuse_servers(&self, ui: &mut Ui, plan: &Plan, world: &Real) -> Option<Exit> {
        let refused = self.refuse(ui, changes::of_servers(&self.saved, plan, world).await, "a server");
        if refused.is_none() {
            ui.say(format!("plan and servers are as they were when {} was saved", self.file.display()));
        }
        refused
    }

    fn refuse(&self, ui: &mut Ui, found: Result<Vec<Change>, StepError>, what: &str) -> Option<Exit> {
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                ui.error(&error);
                return Some(Exit::of_error(error.kind));
            }
        };
        if found.is_empty() {
            return None;
        }
        for change in &found {
            ui.say(told(change));
        }
        let Saved { by, created, path, .. } = &self.saved;
        let message =
            format!("{} was saved by {by} at {created:.0}, and {what} has changed since", self.file.display());
        let help =
            format!("nothing was done; look again with `pgplan plan {} --out {}`", path.display(), self.file.display());
        ui.fail(message, &help);
        Some(Exit::Refused)
    }

    /// Keeps a copy in the folder of the run that begins, by which the run is known as begun from here.
    pub(crate) fn keep(&self, run_dir: &Path) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(run_dir.join(COPY))?;
        file.write_all(self.text.as_bytes()).and_then(|()| file.sync_all())
    }
}

fn told(change: &Change) -> String {
    match change {
        Change::Step { id, before, now } => {
            let heading = format!("step {}, as it was saved and as it is now:", paint(id, Tone::Strong));
            format!("{heading}\n{}", difference(before, now))
        }
        Change::Other { what, objects } => {
            let tone = |line: &str| match line.chars().next() {
                Some('+') => Tone::Good,
                Some('-') => Tone::Bad,
                _ => Tone::Warn,
            };
            let lines = objects.iter().map(|line| format!("\n  {}", paint(line, tone(line))));
            what.clone() + &lines.collect::<String>()
        }
    }
}

/// Writes a saved plan and says what it is not bound to.
pub(crate) fn write(ui: &mut Ui, saved: &Saved, file: &Path) -> Exit {
    if let Err(error) = saved.write(file) {
        ui.error(&error);
        return Exit::of_error(error.kind);
    }
    for (database, why) in saved.unbound() {
        ui.say(format!("{} not bound to what {database} is now: {why}", paint("warning:", Tone::Warn)));
    }
    let apply = PlanArgs { file: file.to_owned(), vars: Vec::new(), platforms: Vec::new() }.command("apply", &ui.hints);
    ui.say(format!("saved as {}; `{apply}` does this and is refused when anything has changed", file.display()));
    Exit::Done
}
