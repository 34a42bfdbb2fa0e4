//! One attempt at an action: its time limit, and the wait before the next attempt.

use std::time::Duration;

use crate::{
    action::{Action, Output},
    error::{ErrorKind, StepError},
    plan::{Retry, Step},
    run::{ActionCx, World},
};

/// Does an action within its time; when the time is over the action is cancelled and awaited.
pub(crate) async fn bounded<W: World>(
    world: &W,
    step: &Step,
    action: &Action,
    cx: ActionCx,
) -> Result<Output, StepError> {
    let cancel = cx.cancel.clone();
    let Some(limit) = step.timeout else { return world.perform(step, action, cx).await };
    let work = world.perform(step, action, cx);
    tokio::pin!(work);
    tokio::select! {
        result = &mut work => return result,
        () = tokio::time::sleep(limit) => cancel.cancel(),
    }
    match work.await {
        Ok(output) => Ok(output),
        Err(error) => {
            let message = format!("`{}` took longer than its timeout of {}", action.title, span(limit));
            let late = StepError::new(ErrorKind::Timeout, message);
            Err(if error.kind == ErrorKind::Interrupted { late } else { late.detail(error.message) })
        }
    }
}

/// Returns a duration as people write it: `1m 30s`.
pub(crate) fn span(duration: Duration) -> String {
    jiff::SignedDuration::try_from(duration).map_or_else(|_| format!("{duration:?}"), |span| format!("{span:#}"))
}

/// Returns how long to wait before the next attempt; `None` when there is none.
pub(crate) fn wait_before_retry(retry: &Retry, attempts: u32, error: &StepError) -> Option<Duration> {
    let covered =
        if retry.errors.is_empty() { error.kind.policy().transient } else { retry.errors.contains(&error.kind) };
    if error.kind == ErrorKind::Interrupted || !covered || attempts >= retry.attempts {
        return None;
    }
    let factor = retry.backoff.powi(i32::try_from(attempts.saturating_sub(1)).unwrap_or(i32::MAX));
    let wait = (retry.delay.as_secs_f64() * factor).min(retry.max_delay.as_secs_f64());
    let spread = wait * retry.jitter * (fraction() * 2.0 - 1.0);
    Some(Duration::from_secs_f64((wait + spread).max(0.0)))
}

/// Returns a number from 0 to 1 that differs from call to call; good enough to spread retries.
fn fraction() -> f64 {
    use std::hash::{BuildHasher, Hasher, RandomState};
    let bits = RandomState::new().build_hasher().finish() >> 11;
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double")]
    let fraction = bits as f64 / (1_u64 << 53) as f64;
    fraction
}
