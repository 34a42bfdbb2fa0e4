//! Events as newline-delimited JSON, one object a line, as `schemas/event.v1.json` describes them.

use std::io::{self, Write};

use pgplan_engine::{event::Event, run::Reporter, state::RunState};

/// Writes every event to a file or to stdout.
pub(crate) struct Json<W>(pub(crate) W);

impl<W: Write> Reporter for Json<W> {
    fn event(&mut self, event: &Event, _: &RunState) -> io::Result<()> {
        serde_json::to_writer(&mut self.0, event)?;
        self.0.write_all(b"\n")?;
        self.0.flush()
    }
}
