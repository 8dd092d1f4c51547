//! Takes views from the feed and makes kernel and resolver show them, one after the other.
//! Keeps: the feed hears how it went; the datapath is locked only while a view is applied; what the kernel refused is tried
//! again. Started by agent/mod.rs.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::interval;
use tracing::{debug, info, warn};

use crate::agent::apply::{Applier, ApplyError, Names, Origin};
use crate::agent::feed::Update;
use crate::agent::status::Applied;
use crate::dns::server::Shared;
use crate::model::datapath::Datapath;
use crate::model::view::MeshView;
use crate::rt::{Awaited, Drain};

/// How often what the kernel refused is tried again: it may have room by now.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

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

/// Everything that shows a view: the kernel's routes, the resolver's names, the status.
pub struct Show {
    pub applier: Applier,
    pub resolver: Arc<Shared>,
    pub applied: Arc<Applied>,
}

impl Show {
    /// Shows another view.
    ///
    /// # Errors
    /// Nothing of it is shown. A view that is shown in part is no error: what is missing is in the status, and tried again.
    pub fn show(
        &mut self,
        view: &Arc<MeshView>,
        origin: Origin,
        datapath: &mut dyn Datapath,
    ) -> Result<(), String> {
        let (resolver, applied) = (&self.resolver, &self.applied);
        let outcome = self.applier.apply(view, origin, datapath, |names| {
            tell(resolver, &names);
            applied.publish(&names);
        });
        let trouble = outcome.as_ref().err().map(|error| in_words(error));
        if self.applied.note(trouble.clone())
            && let Some(trouble) = &trouble
        {
            warn!(view = view.name(), trouble, "the view is not applied as a whole");
        }
        match outcome {
            Err(ApplyError::Ranges { .. }) => Err(trouble.unwrap_or_default()),
            Ok(()) | Err(ApplyError::Partial { .. }) => Ok(()),
        }
    }
}

/// The resolver answers these names from now on.
fn tell(resolver: &Shared, Names { view, changed, .. }: &Names<'_>) {
    let (zone, ttl_secs) = (resolver.zone.load(), view.header().ttl_secs);
    if changed.is_empty() && zone.ttl_secs() == ttl_secs {
        return;
    }
    let mut next = zone.with(changed.iter().map(|(name, &addresses)| (name, addresses)));
    if next.ttl_secs() != ttl_secs {
        next = next.with_ttl(ttl_secs);
    }
    resolver.zone.store(Arc::new(next));
}

/// The task.
pub struct Views<D> {
    pub datapath: Held<D>,
    pub show: Show,
    /// Whose view is shown.
    pub origin: Origin,
    /// Held until the first view is applied.
    pub awaited: Option<Awaited>,
    /// Hears of every view that is shown.
    pub shown: watch::Sender<Option<Arc<MeshView>>>,
}

impl<D: Datapath + 'static> Views<D> {
    /// Applies what comes until the drain is asked for.
    ///
    /// # Errors
    /// A panic while a view is applied.
    pub async fn run(mut self, mut updates: mpsc::Receiver<Update>, drain: Drain) -> Result<(), JoinError> {
        let mut retry = interval(RETRY_INTERVAL);
        loop {
            let update = tokio::select! {
                update = updates.recv() => update,
                _ = retry.tick(), if self.show.applier.in_trouble() => {
                    let view = self.show.applier.shown().clone();
                    // Why it is not whole is in the status.
                    (self, _) = self.apply(view).await?;
                    continue;
                }
                () = drain.requested() => return Ok(()),
            };
            let Some(Update { view, answer }) = update else { return Ok(()) };
            let outcome;
            let remembered = std::mem::replace(&mut self.origin, Origin::ControlPlane);
            (self, outcome) = self.apply(view.clone()).await?;
            if outcome.is_err() {
                self.origin = remembered;
            } else {
                self.shown.send_replace(Some(view));
                self.awaited = None;
            }
            // The feed may have lost its connection meanwhile; then it is told the same view again.
            let _gone = answer.send(outcome);
        }
    }

    /// On a thread that may block: a first view has hundreds of thousands of routes.
    async fn apply(mut self, view: Arc<MeshView>) -> Result<(Self, Result<(), String>), JoinError> {
        spawn_blocking(move || {
            let (began, datapath) = (Instant::now(), self.datapath.clone());
            let outcome = match datapath.lock().as_mut() {
                Some(datapath) => self.show.show(&view, self.origin, datapath),
                None => Err("the agent is ending".into()),
            };
            let (name, names, routes) = (view.name(), view.names().len(), view.routes_len());
            let millis = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            if self.awaited.is_some() && outcome.is_ok() {
                info!(view = name, names, routes, millis, "the first view is applied");
            } else {
                debug!(view = name, names, routes, millis, applied = outcome.is_ok(), "a view came");
            }
            (self, outcome)
        })
        .await
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
