//! The last moment at which a downtime can be called off: before a point of no return.

use std::time::Duration;

use jiff::Timestamp;

use super::Run;
use crate::{
    attempt::span,
    error::{ErrorKind, StepError},
    plan::{Downtime, Step},
};

impl Run<'_> {
    /// Returns why a point of no return is not begun: the downtime so far and what is predicted of it pass the budget.
    pub(super) fn passes_budget(&self, step: &Step) -> Option<StepError> {
        let budget = self.budget.as_ref().filter(|_| step.point_of_no_return)?;
        let begun = self.state.steps.get(&step.id).is_some_and(|state| state.actions.iter().any(|a| a.attempts > 0));
        let down = self.state.downtime.open().is_some() || step.downtime == Some(Downtime::Begin);
        if begun || !down {
            return None;
        }
        let over = self.state.downtime.total(Timestamp::now()).unwrap_or_default().unsigned_abs();
        let rest = budget.rest.get(&step.id).copied();
        if over + rest.unwrap_or_default() <= budget.limit {
            return None;
        }
        let predicted = match rest {
            Some(rest) => format!("{} more are predicted", seconds(rest)),
            None => "how long the rest takes was never measured".to_owned(),
        };
        let message = format!(
            "the downtime would pass its budget of {}: {} are over, and {predicted}; `{}`, the point of no return, was not \
             begun",
            span(budget.limit),
            seconds(over),
            step.id
        );
        let help = "what was done is taken back; raise `downtime: { budget: … }`, or make the steps before it quicker";
        Some(StepError::new(ErrorKind::Refused, message).help(help))
    }
}

fn seconds(time: Duration) -> String {
    span(Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
}
