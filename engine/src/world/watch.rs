//! What a look that takes long tells while it goes on. It is no event: nothing has begun yet, and a dry run has none.

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

/// How often it is told.
const EVERY: Duration = Duration::from_millis(200);

/// Takes a step and what is being looked at for it.
type Hear = dyn Fn(&str, Option<&str>) + Send + Sync;

/// Hears now and then what is being looked at.
#[derive(Clone)]
pub struct Watch(Arc<Hear>);

impl Watch {
    /// Returns one that calls `hear` with the step and what is being looked at for it, which is `None` at the end.
    pub fn new(hear: impl Fn(&str, Option<&str>) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hear))
    }

    /// Tells what a look is `doing` until it is over.
    pub(super) async fn during<T>(&self, step: &str, doing: &Mutex<String>, look: impl Future<Output = T>) -> T {
        let _over = Over { watch: self, step };
        let mut look = std::pin::pin!(look);
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            tokio::select! {
                found = &mut look => return found,
                _ = ticks.tick() => {
                    let doing = doing.lock().unwrap_or_else(PoisonError::into_inner).clone();
                    if !doing.is_empty() {
                        (self.0)(step, Some(&doing));
                    }
                }
            }
        }
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// Tells the end, also of a look that was given up.
struct Over<'a> {
    watch: &'a Watch,
    step: &'a str,
}

impl Drop for Over<'_> {
    fn drop(&mut self) {
        (self.watch.0)(self.step, None);
    }
}
