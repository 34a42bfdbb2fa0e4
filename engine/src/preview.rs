//! The dry run: what a plan would do, found out by read-only looks.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::{
    action::ActionGraph,
    downtime::Prediction,
    error::StepError,
    facts::ServerFacts,
    plan::{Downtime, Plan, RunOn},
    preflight::report::Report,
    run::{LookCx, Opened, World},
    world::Real,
};

/// What a plan would do.
#[derive(Debug, Serialize, Deserialize)]
pub struct Preview {
    /// The plan's name.
    pub plan: String,
    /// The plan file as it was named.
    pub path: String,
    /// Fingerprint of the whole plan.
    pub fingerprint: String,
    /// The servers that were looked at, by the database's name in the plan.
    pub servers: BTreeMap<String, Server>,
    /// The steps in the order of the plan.
    pub steps: Vec<StepPreview>,
    /// How long the application will be down, as far as rehearsals tell; the caller puts it in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub downtime: Option<Prediction>,
}

/// A server in a preview.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Server {
    /// Address without the password.
    pub label: String,
    /// `server_version`.
    pub version: String,
    /// Identifies the cluster; absent where the role may not ask.
    pub system_identifier: Option<u64>,
    /// Databases that people use.
    pub databases: usize,
    /// Their size in bytes.
    pub bytes: u64,
    /// Rows of their tables as the planner estimates them, where the look went so far and all are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<u64>,
}

/// A step in a preview.
#[derive(Debug, Serialize, Deserialize)]
pub struct StepPreview {
    /// The step's id.
    pub id: String,
    /// For people.
    pub name: Option<String>,
    /// The kind.
    pub kind: String,
    /// The steps before it.
    pub needs: Vec<String>,
    /// When it runs with regard to them.
    pub run_on: RunOn,
    /// Whether the downtime begins or ends here.
    pub downtime: Option<Downtime>,
    /// Whether undo stops here.
    pub point_of_no_return: bool,
    /// Whether a failure would be tolerated.
    pub continue_on_error: bool,
    /// What its preflight finds now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub preflight: Vec<Report>,
    /// What it would do.
    #[serde(flatten)]
    pub outcome: StepOutcome,
}

/// What a step would do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepOutcome {
    /// These actions.
    Would(ActionGraph),
    /// Nothing, for this reason.
    Skipped(String),
    /// It would fail already now.
    Fails(StepError),
}

impl From<&ServerFacts> for Server {
    fn from(facts: &ServerFacts) -> Self {
        Self {
            label: facts.label.clone(),
            version: facts.version.clone(),
            system_identifier: facts.system_identifier,
            databases: facts.user_databases().count(),
            bytes: facts.user_databases().map(|database| database.bytes).sum(),
            rows: facts.rows(),
        }
    }
}

/// Looks at everything the plan is about and lists what it would do; changes nothing.
pub async fn preview(plan: &Arc<Plan>, world: &Real) -> Preview {
    let mut steps = Vec::with_capacity(plan.steps.len());
    for step in &plan.steps {
        let outcome = match world.open(step, LookCx::default()).await {
            // The preview names the servers once for all steps.
            Ok(Opened::Actions(graph)) => StepOutcome::Would(ActionGraph { servers: BTreeMap::new(), ..graph }),
            Ok(Opened::Skipped(reason)) => StepOutcome::Skipped(reason),
            Err(error) => StepOutcome::Fails(error),
        };
        steps.push(StepPreview {
            id: step.id.clone(),
            name: step.name.clone(),
            kind: step.kind.to_owned(),
            needs: step.needs.clone(),
            run_on: step.run_on,
            downtime: step.downtime,
            point_of_no_return: step.point_of_no_return,
            continue_on_error: step.continue_on_error,
            preflight: world.reports_of(&step.id),
            outcome,
        });
    }
    Preview {
        plan: plan.name.clone(),
        path: plan.path.display().to_string(),
        fingerprint: plan.fingerprint.clone(),
        servers: world.servers_seen(),
        steps,
        downtime: None,
    }
}

/// Looks for hazards as the preflight steps of the plan do, or as one would if there were one; changes nothing.
///
/// Returns the step of each report, or `None` for one that no step asks for.
///
/// # Errors
/// What a step fails with before it has found anything; what the servers said.
pub async fn preflights(plan: &Arc<Plan>, world: &Real) -> Result<Vec<(Option<String>, Report)>, StepError> {
    let mut found = Vec::new();
    let mut any = false;
    for step in plan.steps.iter().filter(|step| step.kind == "preflight") {
        any = true;
        let opened = world.open(step, LookCx::default()).await;
        let reports = world.reports_of(&step.id);
        match opened {
            // It fails because of what it found, which is in its report.
            Err(error) if reports.is_empty() => return Err(error),
            Err(_) | Ok(_) => found.extend(reports.into_iter().map(|report| (Some(step.id.clone()), report))),
        }
    }
    if !any {
        found.extend(world.implied_preflights().await?.into_iter().map(|report| (None, report)));
    }
    Ok(found)
}

impl Preview {
    /// Returns the first error that a step would fail with already now.
    #[must_use]
    pub fn first_failure(&self) -> Option<(&str, &StepError)> {
        self.steps.iter().find_map(|step| match &step.outcome {
            StepOutcome::Fails(error) => Some((step.id.as_str(), error)),
            StepOutcome::Would(_) | StepOutcome::Skipped(_) => None,
        })
    }
}
