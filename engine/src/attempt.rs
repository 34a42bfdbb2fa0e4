//! One attempt at an action or a look: its time limit, and the wait before the next attempt.

use std::{future::Future, time::Duration};

use tokio_util::sync::CancellationToken;

use crate::{
    error::{ErrorKind, StepError},
    plan::Retry,
};

/// Does `what` within its time; when the time is over it is cancelled and awaited.
///
/// # Errors
/// Those of the work; [`ErrorKind::Timeout`] when the time was over.
pub(crate) async fn bounded<T>(
    limit: Option<Duration>,
    what: &str,
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T, StepError>>,
) -> Result<T, StepError> {
    let Some(limit) = limit else { return work.await };
    tokio::pin!(work);
    tokio::select! {
        result = &mut work => return result,
        () = tokio::time::sleep(limit) => cancel.cancel(),
    }
    match work.await {
        Ok(done) => Ok(done),
        Err(error) => {
            let message = format!("{what} took longer than its timeout of {}", span(limit));
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
