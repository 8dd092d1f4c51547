//! Writes views down while the agent goes on, and says how far they can be trusted.
//! Keeps: a view is shown before it is written, and never waits for the disk; writing takes a few percent of the time at
//! most. Started by agent/mod.rs.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::{Instant, interval, sleep_until};
use tracing::info;

use super::{Memory, Recalled, age_secs};
use crate::agent::feed::FeedStatus;
use crate::model::view::MeshView;
use crate::rt::Drain;
use crate::wire::local::Source;

/// Views that follow each other faster than this are written as one.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// So many times what the last writing took passes until the next one.
const REST_PER_WRITE: u32 = 40;
/// How often the control plane's word for the view is noted, for an agent that comes after a crash.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(2);

/// The view that is shown, if any was yet.
type Shown = watch::Receiver<Option<Arc<MeshView>>>;

/// The task.
pub(in crate::agent) struct Writer {
    memory: Memory,
    shown: Shown,
    standing: Arc<Standing>,
}

/// How the control plane stands to what is shown.
pub(in crate::agent) struct Standing {
    control_plane: String,
    feed: watch::Receiver<FeedStatus>,
    shown: Shown,
    recalled: bool,
    /// When it stood by the view last.
    confirmed: Mutex<Option<SystemTime>>,
}

impl Standing {
    /// How it is now.
    pub(in crate::agent) fn source(&self) -> Source {
        let (current, reason) = match &*self.feed.borrow() {
            FeedStatus::Applied { .. } => (true, None),
            FeedStatus::Waiting => (false, Some("it has sent nothing yet".to_owned())),
            FeedStatus::Disconnected { reason } | FeedStatus::Failed { reason, .. } => {
                (false, Some(reason.clone()))
            }
        };
        let age = |confirmed| age_secs(confirmed, SystemTime::now());
        Source {
            control_plane: self.control_plane.clone(),
            current,
            reason,
            view_age_secs: if current { 0 } else { self.confirmed().map_or(0, age) },
            remembered: self.recalled && self.shown.borrow().is_none(),
        }
    }

    fn confirmed(&self) -> Option<SystemTime> {
        *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn confirm(&self) {
        *self.confirmed.lock().unwrap_or_else(PoisonError::into_inner) = Some(SystemTime::now());
    }
}

impl Writer {
    /// Writes down what `shown` says. `control_plane` is its address, for the status.
    pub(in crate::agent) fn new(
        memory: Memory,
        recalled: Option<&Recalled>,
        (control_plane, feed): (String, watch::Receiver<FeedStatus>),
        shown: Shown,
    ) -> Self {
        let confirmed = Mutex::new(recalled.map(|recalled| recalled.confirmed));
        let (recalled, of_standing) = (recalled.is_some(), shown.clone());
        let standing = Standing { control_plane, feed, shown: of_standing, recalled, confirmed };
        Self { memory, shown, standing: Arc::new(standing) }
    }

    /// For the status.
    pub(in crate::agent) fn standing(&self) -> Arc<Standing> {
        self.standing.clone()
    }

    /// Writes until the drain is asked for, and then what is not written yet.
    ///
    /// # Errors
    /// A panic while a view is written.
    pub(in crate::agent) async fn run(mut self, drain: Drain) -> Result<(), JoinError> {
        let (mut confirm, mut feed) = (interval(CONFIRM_INTERVAL), self.standing.feed.clone());
        let (mut unwritten, mut next_write) = (None, Instant::now());
        let (mut written, mut stood) = (false, false);
        loop {
            tokio::select! {
                // Both senders live as long as their tasks, which end when we do.
                Ok(()) = self.shown.changed() => unwritten = self.shown.borrow_and_update().clone(),
                Ok(()) = feed.changed() => {}
                _ = confirm.tick() => {
                    if stood && written && unwritten.is_none() {
                        self.on_disk(Memory::confirm).await?;
                    }
                }
                () = sleep_until(next_write), if unwritten.is_some() => {
                    let took = self.write(unwritten.take()).await?;
                    written = true;
                    next_write = Instant::now() + WRITE_INTERVAL.max(took * REST_PER_WRITE);
                }
                () = drain.requested() => {
                    // Whoever showed the last view may have ended before us.
                    if self.shown.has_changed().unwrap_or(true) {
                        unwritten = self.shown.borrow_and_update().clone();
                    }
                    self.write(unwritten).await?;
                    return Ok(());
                }
            }
            let stands = matches!(*feed.borrow_and_update(), FeedStatus::Applied { .. });
            if stands && !stood {
                let view_age_secs = self.standing.confirmed().map(|at| age_secs(at, SystemTime::now()));
                info!(view_age_secs, "the control plane stands by the view");
            }
            if stands || stood {
                self.standing.confirm();
            }
            stood = stands;
        }
    }

    /// Writes a view, if there is one; returns how long that took.
    async fn write(&self, view: Option<Arc<MeshView>>) -> Result<Duration, JoinError> {
        let began = Instant::now();
        if let Some(view) = view {
            self.on_disk(move |memory| memory.remember(&view)).await?;
        }
        Ok(began.elapsed())
    }

    async fn on_disk(&self, work: impl FnOnce(&Memory) + Send + 'static) -> Result<(), JoinError> {
        let memory = self.memory.clone();
        spawn_blocking(move || work(&memory)).await
    }
}
