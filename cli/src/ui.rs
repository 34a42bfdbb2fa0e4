//! Where output goes: stdout is data, stderr is for people.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

use owo_colors::{OwoColorize, Style};
use pgplan_engine::error::StepError;
pub(crate) use pgplan_engine::quantity::{bytes, count, duration};

use crate::args::Hints;

/// When to colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Color {
    /// On a terminal, unless `NO_COLOR` is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// The two ways out, with colour stripped where it does not belong.
pub(crate) struct Ui {
    out: anstream::AutoStream<io::Stdout>,
    err: anstream::AutoStream<io::Stderr>,
    /// Whether people watch: stderr is a terminal.
    pub(crate) interactive: bool,
    /// What completes the commands that are suggested.
    pub(crate) hints: Hints,
}

/// The meaning of a piece of text, from which its colour follows.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tone {
    /// It went well.
    Good,
    /// It failed.
    Bad,
    /// Look at it.
    Warn,
    /// Less important.
    Dim,
    /// A name or a heading.
    Strong,
}

impl Ui {
    /// Returns the ways out of this process.
    pub(crate) fn new(color: Color, hints: Hints) -> Self {
        let choice = match color {
            Color::Auto => anstream::ColorChoice::Auto,
            Color::Always => anstream::ColorChoice::Always,
            Color::Never => anstream::ColorChoice::Never,
        };
        Self {
            out: anstream::AutoStream::new(io::stdout(), choice),
            err: anstream::AutoStream::new(io::stderr(), choice),
            interactive: io::stderr().is_terminal(),
            hints,
        }
    }

    /// Gives the terminal back as it was when a question was left without an answer.
    pub(crate) fn restore_terminal(&mut self) {
        let raw = crossterm::terminal::is_raw_mode_enabled().unwrap_or(false);
        if raw && let Err(error) = crossterm::terminal::disable_raw_mode() {
            tracing::debug!(%error, "the terminal cannot be given back as it was");
        }
        if raw && write!(self.err, "\r\n{}", crossterm::cursor::Show).and_then(|()| self.err.flush()).is_err() {
            tracing::debug!("stderr is closed");
        }
    }

    /// Returns whether stderr shows colours.
    pub(crate) fn colors_on_stderr(&self) -> bool {
        !matches!(self.err.current_choice(), anstream::ColorChoice::Never)
    }

    /// Writes data to stdout.
    pub(crate) fn data(&mut self, text: impl Display) -> io::Result<()> {
        write!(self.out, "{text}")?;
        self.out.flush()
    }

    /// Writes a line for people to stderr.
    pub(crate) fn say(&mut self, text: impl Display) {
        if writeln!(self.err, "{text}").is_err() {
            // Nobody can be told that nobody can be told.
            tracing::debug!("stderr is closed");
        }
    }

    /// Writes a failure with its details and what to do.
    pub(crate) fn error(&mut self, error: &StepError) {
        self.say(format!("{} {}", paint("error:", Tone::Bad), error.message));
        for line in error.details.iter().flat_map(|detail| detail.lines()) {
            self.say(format!("  {line}"));
        }
        self.say(format!("{} {}", paint("help:", Tone::Strong), self.hints.complete(error.advice())));
    }

    /// Writes an error that is not about a step.
    pub(crate) fn fail(&mut self, message: impl Display, help: &str) {
        self.say(format!("{} {message}", paint("error:", Tone::Bad)));
        if !help.is_empty() {
            self.say(format!("{} {}", paint("help:", Tone::Strong), self.hints.complete(help)));
        }
    }
}

/// Returns text in the colour of its tone; stripped on the way out where colours do not belong.
pub(crate) fn paint(text: impl Display, tone: Tone) -> String {
    let style = match tone {
        Tone::Good => Style::new().green(),
        Tone::Bad => Style::new().red().bold(),
        Tone::Warn => Style::new().yellow(),
        Tone::Dim => Style::new().dimmed(),
        Tone::Strong => Style::new().bold(),
    };
    text.style(style).to_string()
}
