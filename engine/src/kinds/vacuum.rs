//! `vacuum`: statistics and dead rows, after a restore or an upgrade.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{Declarations, ExpandCx, Kind, declare::key, verify::Databases};
use crate::{
    action::{Action, ActionGraph, Effect},
    error::{ErrorKind, StepError},
    facts::{Depth, Facts, Look},
    op::{Op, data},
    postgres::quote::on_one_line,
};

/// Vacuums and analyzes the databases of a server.
///
/// Each database is one action. Its tables are taken one by one, the biggest first, by `jobs` sessions at once.
/// Partitioned tables get their own statistics too, which `vacuumdb` leaves out before version 19. Tables that the role
/// may not vacuum are left out, and counted in a warning.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vacuum {
    /// The database of the plan whose server is meant.
    pub database: String,
    /// Whether statistics for the planner are gathered too.
    #[serde(default = "yes")]
    pub analyze: bool,
    /// Whether tables are rewritten (`VACUUM FULL`); each is locked meanwhile. The server's own catalogs are left out.
    #[serde(default)]
    pub full: bool,
    /// Whether rows are frozen.
    #[serde(default)]
    pub freeze: bool,
    /// Sessions at once in each database.
    #[serde(default)]
    pub jobs: Option<usize>,
    /// Which databases of the server: `all` that allow connections and are no templates, or a list of names.
    #[serde(default = "all")]
    pub databases: Databases,
}

fn yes() -> bool {
    true
}

fn all() -> Databases {
    Databases::Word(super::verify::All::All)
}

impl Kind for Vacuum {
    const NAME: &'static str = "vacuum";
    const GROUP: &'static str = "data";
    const SUMMARY: &'static str = "Vacuum and analyze databases";
    const EXAMPLE: &'static str = "vacuum: { database: target, analyze: true, jobs: 2 }";

    fn check(&self, to: &mut Declarations) {
        to.changes(&self.database, "database");
        if self.jobs == Some(0) {
            to.problem("no_jobs", key(["jobs"]), "`jobs` must be at least 1", None);
        }
        to.output("tables", false);
    }

    fn looks(&self, _cx: &ExpandCx<'_>) -> Result<Vec<Look>, StepError> {
        Ok(vec![Look::Server { database: self.database.clone(), depth: Depth::Server }])
    }

    fn actions(&self, facts: &Facts, cx: &ExpandCx<'_>) -> Result<ActionGraph, StepError> {
        if let Some(step) = facts.servers_known_after.get(&self.database) {
            return Ok(ActionGraph::known_after(step));
        }
        let missing = || StepError::new(ErrorKind::Internal, format!("`{}` was not looked at", self.database));
        let server = facts.servers.get(&self.database).ok_or_else(missing)?;
        let names: Vec<String> = match &self.databases {
            Databases::Word(_) => server.user_databases().map(|database| database.name.clone()).collect(),
            Databases::Names(names) => names.clone(),
        };
        let mut graph = ActionGraph { jobs: Some(1), ..ActionGraph::default() };
        for dbname in names {
            let facts = server.database(&dbname);
            if facts.is_none() {
                let message = format!("{} has no database {}", self.database, on_one_line(&dbname));
                if !cx.dry_run {
                    return Err(StepError::new(ErrorKind::Object, message));
                }
                graph.warnings.push(format!("{message} yet"));
            }
            let bytes = facts.map(|facts| facts.bytes).filter(|bytes| *bytes > 0);
            graph.actions.push(self.action(&dbname).estimate(bytes, None));
        }
        Ok(graph)
    }
}

impl Vacuum {
    fn action(&self, dbname: &str) -> Action {
        let jobs = self.jobs.unwrap_or(1);
        let mut title = if self.full { "vacuum full" } else { "vacuum" }.to_owned();
        if self.freeze {
            title.push_str(", freeze");
        }
        if self.analyze {
            title.push_str(" and analyze");
        }
        title.push_str(&format!(" {} on {}", on_one_line(dbname), self.database));
        if jobs > 1 {
            title.push_str(&format!(" with {jobs} sessions"));
        }
        let op = data::Vacuum {
            database: self.database.clone(),
            dbname: dbname.to_owned(),
            analyze: self.analyze,
            full: self.full,
            freeze: self.freeze,
            jobs,
        };
        Action::new(dbname, title, Op::Vacuum(op), Effect::Restart)
    }
}
