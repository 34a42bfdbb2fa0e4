//! How a session that changes something is shown while it goes on and at its end, and who is asked.

use std::{
    fs,
    io::{self, IsTerminal as _},
    path::PathBuf,
    sync::Arc,
};

use clap::{Args, ValueEnum};
use inquire::InquireError;
use pgplan_engine::{
    event::Outcome,
    plan::Plan,
    run::{Ending, Reporter, Stop},
    state::{RunState, StepStatus},
    world::{Answer, Consent, Watch},
};

use crate::{
    exit::Exit,
    report::{bar::Bar, json::Json, line::Line, looking, now::Now, summary},
    ui::{Tone, Ui, paint},
};

/// How a run is shown while it goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Progress {
    /// Bars on a terminal, lines elsewhere
    #[default]
    Auto,
    /// Bars
    Bar,
    /// Lines
    Plain,
    /// Nothing
    None,
}

/// The options of commands that change something.
#[derive(Debug, Args)]
pub(crate) struct Shown {
    /// Answer yes to every question
    #[arg(long)]
    pub(crate) yes: bool,
    /// Print the end state as JSON on stdout
    #[arg(long)]
    json: bool,
    /// Append every event to this file, one JSON object a line
    #[arg(long, value_name = "FILE")]
    events: Option<PathBuf>,
    /// How the run is shown
    #[arg(long, value_enum, default_value_t, value_name = "HOW")]
    progress: Progress,
}

impl Shown {
    pub(crate) fn bars(&self, ui: &Ui) -> Option<Bar> {
        let wanted = match self.progress {
            Progress::Auto => ui.interactive,
            Progress::Bar => true,
            Progress::Plain | Progress::None => false,
        };
        wanted.then(|| Bar::new(ui.hints.clone()))
    }

    /// Returns who hears what long looks are doing.
    pub(crate) fn watch(&self, bars: Option<&Bar>) -> Option<Watch> {
        match bars {
            Some(bars) => Some(looking::bars(bars.handle())),
            None if self.progress == Progress::None => None,
            None => Some(looking::lines()),
        }
    }

    /// Returns who is asked; Ctrl-C at a question asks for a `stop`, since the terminal sends no INT meanwhile.
    pub(crate) fn consent(&self, ui: &Ui, bars: Option<&Bar>, stop: &Stop) -> Consent {
        if self.yes {
            return Consent::Given;
        }
        if !ui.interactive || !io::stdin().is_terminal() {
            return Consent::Nobody;
        }
        let (quiet, stop) = (bars.map(Bar::quiet), stop.clone());
        Consent::Ask(Arc::new(move |message: &str| {
            let ask = || inquire::Confirm::new(message).with_default(false).prompt();
            match quiet.as_ref().map_or_else(ask, |quiet| quiet.during(ask)) {
                Ok(true) => Answer::Yes,
                Err(InquireError::OperationInterrupted) => {
                    stop.ask("Ctrl-C");
                    Answer::Stop
                }
                Ok(false) | Err(InquireError::OperationCanceled) => Answer::No,
                Err(error) => {
                    tracing::warn!(%error, "nobody could be asked");
                    Answer::No
                }
            }
        }))
    }

    pub(crate) fn reporters<'a>(
        &self,
        ui: &Ui,
        bars: Option<Bar>,
        now: &Now,
    ) -> io::Result<Vec<Box<dyn Reporter + 'a>>> {
        let mut reporters: Vec<Box<dyn Reporter>> = vec![Box::new(now.clone())];
        match bars {
            Some(bars) => reporters.push(Box::new(bars)),
            None if self.progress != Progress::None => {
                let (mut err, hints) = (anstream::stderr(), ui.hints.clone());
                reporters.push(Box::new(Line::new(move |line: &str| {
                    use io::Write as _;
                    writeln!(err, "{}", hints.complete(line))
                })));
            }
            None => {}
        }
        if let Some(path) = &self.events {
            let file = fs::OpenOptions::new().create(true).append(true).open(path).map_err(|error| {
                io::Error::new(error.kind(), format!("--events {}: the file cannot be opened: {error}", path.display()))
            })?;
            reporters.push(Box::new(Json(file)));
        }
        Ok(reporters)
    }

    /// Prints the end state where that is wanted.
    pub(crate) fn print(&self, ui: &mut Ui, state: &RunState) -> io::Result<()> {
        if self.json {
            ui.data(format!("{}\n", serde_json::to_string(state)?))?;
        }
        Ok(())
    }

    /// Tells how a session has ended and what can be done next (`command` writes the line for a verb); returns the exit
    /// code.
    pub(crate) fn tell(
        &self,
        ui: &mut Ui,
        plan: &Plan,
        state: &RunState,
        ending: &Ending,
        command: impl Fn(&str) -> String,
    ) -> io::Result<Exit> {
        // A question that was left without an answer has the terminal still.
        ui.restore_terminal();
        self.print(ui, state)?;
        ui.say(summary::text(plan, state));
        let failed = plan
            .steps
            .iter()
            .filter_map(|step| state.steps.get(&step.id).map(|state| (step, state)))
            .filter(|(_, state)| state.status == StepStatus::Failed)
            .filter_map(|(step, state)| Some((step, state.error.as_ref()?)));
        let mut worst = None;
        for (step, error) in failed {
            ui.say(format!("{} {}", paint("step", Tone::Strong), paint(&step.id, Tone::Strong)));
            let help = error.advice_in(state.going_back && state.is_unfinished());
            ui.error(&error.clone().help(help));
            worst.get_or_insert(error.kind);
        }
        let again = command(if state.going_back { "undo" } else { "apply" });
        Ok(match ending {
            Ending::Interrupted => {
                ui.say(format!("{}; go on with: {again}", paint("interrupted", Tone::Warn)));
                Exit::Interrupted
            }
            Ending::Ended(outcome) => {
                match outcome {
                    Outcome::Succeeded => ui.say(paint(format!("plan {} is done", plan.name), Tone::Good)),
                    Outcome::Failed => ui.say(format!("when the cause is mended, go on with: {again}")),
                    Outcome::Paused => ui.say(format!("go on with: {again}")),
                    Outcome::NeedsPerson => ui.say(format!("when that is decided, go on with: {again}")),
                    Outcome::Undone => {
                        ui.say(paint("the run has been taken back; a warning above names what stays", Tone::Good))
                    }
                    Outcome::Abandoned => {}
                }
                Exit::of_outcome(*outcome, worst)
            }
        })
    }
}
