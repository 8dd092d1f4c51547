//! The task that alone changes what there is: edits of files, writes, and what other replicas stored.
//! Keeps: persist before publish, publish before acknowledge; writes that wait go into one transaction. Started by cp.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tracing::{error, warn};

use super::core::{Core, Done};
use super::layer::Layer;
use super::{Catalog, MAX_WAITING, Registry, Request};
use crate::cp::resources::Resources;
use crate::cp::status::{self, StatusCell};
use crate::cp::store::StoreError;
use crate::cp::store::documents::Documents;
use crate::cp::violation::MAX_SHOWN;
use crate::rt::Drain;

/// Writes of one step.
const MAX_BATCH: usize = 256;
/// First wait after the store could not be read; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The task.
pub(in crate::cp) struct Writer {
    /// Absent while a step has it.
    core: Option<Core>,
    news: watch::Receiver<u64>,
    layers: watch::Receiver<Arc<Layer>>,
    requests: mpsc::Receiver<Request>,
    /// Ours, so that the channel stays open while nobody asks.
    asking: mpsc::Sender<Request>,
    catalog: watch::Sender<Arc<Catalog>>,
    resources: watch::Sender<Arc<Resources>>,
    status: StatusCell,
    told: Told,
}

/// Stored resources without effect, as the status shows them.
#[derive(Clone, PartialEq, Eq, Default)]
struct Told {
    shadowed: Vec<status::Shadowed>,
    unreadable: Vec<status::Quarantined>,
}

/// Why the task ended.
#[derive(Debug, thiserror::Error)]
pub(in crate::cp) enum WriterError {
    #[error("reading or writing resources panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

/// What is to be done in one step.
#[derive(Default)]
struct Step {
    layer: Option<Arc<Layer>>,
    catch_up: bool,
    requests: Vec<Request>,
}

/// What a step did.
struct Stepped {
    done: Vec<Done>,
    caught_up: Result<(), StoreError>,
}

impl Writer {
    /// Reads what is stored and puts it together with what the files give.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(in crate::cp) fn open(
        documents: Arc<dyn Documents>,
        mut layers: watch::Receiver<Arc<Layer>>,
        status: StatusCell,
    ) -> Result<Self, StoreError> {
        // Before reading: what comes in between is news.
        let news = documents.news();
        let mut core = Core::new(documents);
        core.take_layer(&layers.borrow_and_update());
        core.catch_up()?;
        let (catalog, _) = watch::channel(Arc::new(core.state.catalog.clone()));
        let (resources, _) = watch::channel(Arc::new(core.state.resources.clone()));
        let (asking, requests) = mpsc::channel(MAX_WAITING);
        let (core, told) = (Some(core), Told::default());
        let mut writer = Self { core, news, layers, requests, asking, catalog, resources, status, told };
        writer.tell();
        Ok(writer)
    }

    /// The way to the resources for everybody else.
    pub(in crate::cp) fn registry(&self) -> Registry {
        Registry { catalog: self.catalog.subscribe(), requests: self.asking.clone() }
    }

    /// What the plan is made of, now and from now on.
    pub(in crate::cp) fn resources(&self) -> watch::Receiver<Arc<Resources>> {
        self.resources.subscribe()
    }

    pub(in crate::cp) async fn run(mut self, drain: Drain) -> Result<(), WriterError> {
        let (mut retry, mut again) = (RETRY_MIN, None);
        let mut ending = false;
        while !ending {
            let mut step = Step::default();
            tokio::select! {
                () = drain.requested() => ending = true,
                _ = self.requests.recv_many(&mut step.requests, MAX_BATCH) => {}
                changed = self.layers.changed() => {
                    ending = changed.is_err();
                    step.layer = Some(self.layers.borrow_and_update().clone());
                }
                changed = self.news.changed() => {
                    ending = changed.is_err();
                    step.catch_up = true;
                }
                () = pause(again) => step.catch_up = true,
            }
            if ending {
                // Nothing new is taken; what waits is stored.
                drain.requested().await;
                self.requests.close();
                self.requests.recv_many(&mut step.requests, MAX_WAITING).await;
            }
            let Err(refused) = self.step(step).await? else {
                (retry, again) = (RETRY_MIN, None);
                continue;
            };
            error!(error = %status::chain(&refused), "stored resources could not be read; it is tried again");
            again = Some(retry);
            retry = (retry * 2).min(RETRY_MAX);
        }
        Ok(())
    }

    /// One step on a thread that may block; then everybody is told, and last those who asked.
    async fn step(&mut self, mut step: Step) -> Result<Result<(), StoreError>, WriterError> {
        if self.layers.has_changed().unwrap_or(false) {
            step.layer = Some(self.layers.borrow_and_update().clone());
        }
        // What is news by now is read in this step, if it writes.
        if !step.requests.is_empty() {
            step.catch_up |= self.news.has_changed().unwrap_or(false);
        }
        if step.catch_up {
            self.news.borrow_and_update();
        }
        let mut core = self.core.take().expect("every step gives it back");
        let work = move || {
            if let Some(layer) = &step.layer {
                core.take_layer(layer);
            }
            let caught_up = if step.catch_up { core.catch_up() } else { Ok(()) };
            let done = core.write(step.requests);
            (core, Stepped { done, caught_up })
        };
        let (core, stepped) = tokio::task::spawn_blocking(work).await.map_err(WriterError::Panicked)?;
        self.core = Some(core);
        self.publish();
        for (answer, outcome) in stepped.done {
            // Whoever has stopped waiting does not want to know.
            let _ = answer.send(outcome);
        }
        Ok(stepped.caught_up)
    }

    fn publish(&mut self) {
        let core = self.core.as_mut().expect("no step is under way");
        if core.state.take_changed() {
            self.resources.send_replace(Arc::new(core.state.resources.clone()));
            self.catalog.send_replace(Arc::new(core.state.catalog.clone()));
        }
        self.tell();
    }

    /// Says what is stored and has no effect.
    fn tell(&mut self) {
        let core = self.core.as_ref().expect("no step is under way");
        let shadowed = core.state.shadowed().take(MAX_SHOWN);
        let shadowed =
            shadowed.map(|(key, file)| status::Shadowed { resource: key.to_string(), file: file.into() });
        let unreadable = core.state.unreadable().map(|(document, reason)| status::Quarantined {
            key: document.key.to_string(),
            since_secs: u64::try_from(document.modified_secs).unwrap_or(0),
            reason: reason.to_owned(),
        });
        let set_aside = core.quarantined.iter().map(|found| status::Quarantined {
            key: found.key.clone(),
            since_secs: found.since_secs,
            reason: found.reason.clone(),
        });
        let told = Told {
            shadowed: shadowed.collect(),
            unreadable: unreadable.chain(set_aside).take(MAX_SHOWN).collect(),
        };
        if told == self.told {
            return;
        }
        if told.unreadable.len() > self.told.unreadable.len() {
            let resources = told.unreadable.len();
            warn!(resources, "stored resources cannot be read and have no effect: see `kuma-dns status`");
        }
        if told.shadowed.len() > self.told.shadowed.len() {
            let resources = told.shadowed.len();
            warn!(resources, "files stand before stored resources of the same names: see `kuma-dns status`");
        }
        self.told = told.clone();
        self.status.update(|status| {
            status.shadowed = told.shadowed;
            status.unreadable = told.unreadable;
        });
    }
}

async fn pause(again: Option<Duration>) {
    match again {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
}
