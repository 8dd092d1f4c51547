//! Readiness as a value: whoever must be waited for holds a guard; ready is when none is left.
//! Keeps: the question "why not ready?" has an answer at any time. Called by agent, cp and cli (status).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

/// The set of what is still awaited; cheap to clone.
#[derive(Clone, Debug)]
pub struct Ready {
    awaited: Arc<Mutex<BTreeMap<u64, Wait>>>,
    changed: Arc<watch::Sender<u64>>,
}

/// Something that is awaited.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wait {
    pub what: String,
    pub since: Instant,
}

/// Holds readiness back until it is dropped.
#[derive(Debug)]
pub struct Awaited {
    key: u64,
    ready: Ready,
}

impl Default for Ready {
    fn default() -> Self {
        Self { awaited: Arc::default(), changed: Arc::new(watch::channel(0).0) }
    }
}

impl Ready {
    /// Holds readiness back, with words for the operator: "the first view from the control plane".
    pub fn wait_for(&self, what: impl Into<String>) -> Awaited {
        let mut key = 0;
        self.changed.send_modify(|next| {
            key = *next;
            *next += 1;
        });
        self.lock().insert(key, Wait { what: what.into(), since: Instant::now() });
        Awaited { key, ready: self.clone() }
    }

    /// What is still awaited, in the order in which the waits began.
    pub fn awaited(&self) -> Vec<String> {
        self.lock().values().map(|wait| wait.what.clone()).collect()
    }

    /// The same, and since when.
    pub fn waits(&self) -> Vec<Wait> {
        self.lock().values().cloned().collect()
    }

    /// Returns when nothing is awaited any more.
    pub async fn reached(&self) {
        let mut changed = self.changed.subscribe();
        while !self.lock().is_empty() {
            if changed.changed().await.is_err() {
                return;
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Wait>> {
        // A panic while holding the lock leaves the map whole: every change is one call.
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.ready.lock().remove(&self.key);
        self.ready.changed.send_modify(|next| *next += 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn ready_is_reached_when_the_last_guard_is_dropped() {
        let ready = Ready::default();
        let first = ready.wait_for("the first view");
        let second = ready.wait_for("the proxy");
        assert_eq!(ready.awaited(), ["the first view", "the proxy"]);
        drop(first);
        assert_eq!(ready.awaited(), ["the proxy"]);
        let waiter = ready.clone();
        let ((), ()) = tokio::join!(waiter.reached(), async { drop(second) });
        assert!(ready.awaited().is_empty());
    }
}
