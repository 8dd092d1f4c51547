//! Takes views from the feed and makes kernel and resolver show them, one after the other.
//! Keeps: the feed hears how it went; the datapath is locked only while a view is applied. Started by agent/mod.rs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::interval;
use tracing::{info, warn};

use crate::agent::apply::{Applier, ApplyError};
use crate::agent::feed::{FeedStatus, Update};
use crate::agent::memory::Memory;
use crate::agent::status::Board;
use crate::dns::server::Shared;
use crate::dns::zone::Zone;
use crate::model::datapath::Datapath;
use crate::model::view::MeshView;
use crate::rt::{Awaited, Drain};

/// How often the view is written down, or confirmed, for an agent that comes after a crash.
const REMEMBER_INTERVAL: Duration = Duration::from_secs(2);

/// The datapath as its users share it; empty once the agent is done with it.
pub struct Held<D>(Arc<Mutex<Option<D>>>);

impl<D> Clone for Held<D> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<D> Held<D> {
    /// Held by the caller to begin with.
    pub fn new(datapath: D) -> Self {
        Self(Arc::new(Mutex::new(Some(datapath))))
    }

    /// Nobody else uses it meanwhile.
    pub fn lock(&self) -> MutexGuard<'_, Option<D>> {
        // A panic inside a verb leaves the kernel's maps as they are; every verb is idempotent.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The task.
pub struct Views<D> {
    pub datapath: Held<D>,
    pub applier: Applier,
    pub resolver: Arc<Shared>,
    pub board: Arc<Board>,
    /// Held until the first view is applied.
    pub awaited: Option<Awaited>,
    pub memory: Memory,
    /// Says whether the view that is applied is still the control plane's.
    pub feed: watch::Receiver<FeedStatus>,
}

impl<D: Datapath + 'static> Views<D> {
    /// Applies what comes until the drain is asked for.
    ///
    /// # Errors
    /// A panic while a view is applied.
    pub async fn run(mut self, mut updates: mpsc::Receiver<Update>, drain: Drain) -> Result<(), JoinError> {
        let (mut remember, mut unremembered) = (interval(REMEMBER_INTERVAL), None);
        loop {
            let update = tokio::select! {
                update = updates.recv() => update,
                _ = remember.tick() => {
                    self.remember(unremembered.take()).await?;
                    continue;
                }
                () = drain.requested() => return self.remember(unremembered).await,
            };
            let Some(Update { view, answer }) = update else { return Ok(()) };
            unremembered = Some(view.clone());
            let applied = spawn_blocking(move || {
                let outcome = self.apply(&view);
                (self, outcome)
            });
            let outcome;
            (self, outcome) = applied.await?;
            // The feed may have lost its connection meanwhile; then it is told the same view again.
            let _gone = answer.send(outcome);
        }
    }

    /// Writes a new view down; an old one is confirmed while the control plane stands by it.
    async fn remember(&self, view: Option<Arc<MeshView>>) -> Result<(), JoinError> {
        let (memory, stands) =
            (self.memory.clone(), matches!(*self.feed.borrow(), FeedStatus::Applied { .. }));
        spawn_blocking(move || match view {
            Some(view) => memory.remember(&view),
            None if stands => memory.confirm(),
            None => {}
        })
        .await
    }

    fn apply(&mut self, view: &MeshView) -> Result<(), String> {
        let began = Instant::now();
        let mut datapath = self.datapath.lock();
        let Some(datapath) = datapath.as_mut() else { return Err("the agent is ending".into()) };
        let outcome = self.applier.apply(view, datapath, |names| {
            self.resolver.zone.store(Arc::new(Zone::new(names)));
            self.board.applied.publish(names);
        });
        let trouble = outcome.as_ref().err().map(|error| in_words(error));
        let (millis, name) = (began.elapsed().as_millis(), view.name());
        match &trouble {
            Some(trouble) => warn!(view = name, trouble, "the view is not applied as a whole"),
            None => {
                info!(view = name, names = view.names().len(), routes = view.routes_len(), millis, "applied")
            }
        }
        self.board.applied.note(trouble.clone());
        if !matches!(outcome, Err(ApplyError::Ranges { .. })) {
            self.awaited = None;
        }
        trouble.map_or(Ok(()), Err)
    }
}

/// An error and its causes in one line.
fn in_words(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        words = format!("{words}: {source}");
        cause = source.source();
    }
    words
}
