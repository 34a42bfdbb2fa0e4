//! Sessions between two actions of a step: a login for every small table would cost more than its work.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use super::PerformCx;
use crate::{error::StepError, postgres::Session};

/// The step, the plan's name of the database, and the database on its server.
type Key = (String, String, String);

/// Open sessions that nobody uses now.
#[derive(Default)]
pub struct Idle(Mutex<BTreeMap<Key, Vec<Session>>>);

impl Idle {
    fn take(&self, key: &Key) -> Option<Session> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let sessions = idle.get_mut(key)?;
        while let Some(session) = sessions.pop() {
            if !session.is_closed() {
                return Some(session);
            }
        }
        None
    }

    fn put(&self, key: Key, session: Session) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default().push(session);
    }

    /// Closes the sessions of these steps and waits until their servers have been told.
    pub async fn close(&self, step: impl Fn(&str) -> bool) {
        let closing: Vec<Session> = {
            let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let keys: Vec<Key> = idle.keys().filter(|(of, _, _)| step(of)).cloned().collect();
            keys.iter().filter_map(|key| idle.remove(key)).flatten().collect()
        };
        for session in closing {
            session.close().await;
        }
    }
}

impl fmt::Debug for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_map().entries(idle.iter().map(|(key, sessions)| (key, sessions.len()))).finish()
    }
}

impl PerformCx {
    /// Returns a session that an earlier action of the step has left for this database, if one still lives.
    pub(super) fn idle_session(&self, database: &str, dbname: &str) -> Option<Session> {
        self.idle.take(&self.idle_key(database, dbname))
    }

    /// Leaves a session for the next action of the step when the work on it ended well, and closes it otherwise.
    pub(super) async fn leave<T>(&self, database: &str, dbname: &str, session: Session, result: &Result<T, StepError>) {
        if result.is_ok() && !session.is_closed() && !self.cancel.is_cancelled() {
            self.idle.put(self.idle_key(database, dbname), session);
        } else {
            session.close().await;
        }
    }

    fn idle_key(&self, database: &str, dbname: &str) -> Key {
        (self.step.clone(), database.to_owned(), dbname.to_owned())
    }
}
