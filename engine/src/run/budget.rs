//! The last moment at which a downtime can be called off: before a point of no return.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use super::{Budget, Run};
use crate::{
    attempt::span,
    downtime::{Forecast, Size},
    error::{ErrorKind, StepError},
    plan::{Downtime, Step},
};

impl Run<'_> {
    /// Returns why a point of no return is not begun: the downtime so far and what is predicted of it pass the budget.
    pub(super) fn passes_budget(&self, step: &Step) -> Option<StepError> {
        let budget = self.budget.as_ref().filter(|_| step.point_of_no_return)?;
        let begun = self.state.steps.get(&step.id).is_some_and(|state| state.begun().next().is_some());
        let down = self.state.downtime.open().is_some() || step.downtime == Some(Downtime::Begin);
        if begun || !down {
            return None;
        }
        let now = Timestamp::now();
        let over = self.state.downtime.total(now).unwrap_or_default().unsigned_abs();
        let rest = self.rest(budget, now);
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

    /// Returns how long the downtime lasts from here on; `None` when it was never measured.
    ///
    /// What a step has looked at first tells of databases that could not be seen before the run; what later steps see is
    /// not the data that was there but what the run has made of it.
    fn rest(&self, budget: &Budget, now: Timestamp) -> Option<Duration> {
        let seen = self.state.servers.iter();
        let mut sizes: BTreeMap<String, Size> =
            seen.map(|(name, server)| (name.clone(), Size { bytes: server.bytes, rows: None })).collect();
        sizes.extend(budget.sizes.clone());
        let host = self.state.holder.as_ref().map_or("", |holder| &holder.host);
        let forecast = Forecast::of(self.plan, &budget.rehearsals, budget.last_run.as_ref(), &sizes, host)?;
        Some(forecast.rest(&self.state, now))
    }
}

fn seconds(time: Duration) -> String {
    span(Duration::from_millis(u64::try_from(time.as_millis()).unwrap_or(u64::MAX)))
}
