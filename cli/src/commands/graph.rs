use std::io;

use clap::{Args, ValueEnum};
use pgplan_engine::graph::Graph;

use super::load;
use crate::{args::PlanArgs, exit::Exit, ui::Ui};

/// Draw the steps of a plan and what comes before what
#[derive(Debug, Args)]
pub(crate) struct GraphCommand {
    #[command(flatten)]
    plan: PlanArgs,
    /// What to print
    #[arg(long, value_enum, default_value_t = Format::Mermaid)]
    format: Format,
}

/// A language for pictures.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    /// Graphviz
    Dot,
    /// A Mermaid flowchart, as forges show it in Markdown
    Mermaid,
    /// A picture
    Svg,
}

impl GraphCommand {
    pub(crate) fn run(&self, ui: &mut Ui) -> io::Result<Exit> {
        let plan = match load::load(ui, &self.plan)? {
            Ok(plan) => plan,
            Err(exit) => return Ok(exit),
        };
        let graph = Graph::of(&plan);
        ui.data(match self.format {
            Format::Dot => graph.to_dot(),
            Format::Mermaid => graph.to_mermaid(),
            Format::Svg => graph.to_svg(),
        })?;
        Ok(Exit::Done)
    }
}
