//! Publishes whenever resources change, when another replica stored something, when rested addresses can help, and again after the store failed.
//! Keeps: a snapshot is sent only when it differs, and only after it was stored. Started by cp.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{error, info};

use super::{Published, Publisher};
use crate::cp::diagnostics::Meters;
use crate::cp::resources::Resources;
use crate::cp::snapshot::Snapshot;
use crate::cp::status::{StatusCell, chain};
use crate::cp::store::StoreError;
use crate::rt::Drain;

/// First wait after the store failed; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// The task.
pub(in crate::cp) struct Publish {
    publisher: Publisher,
    resources: watch::Receiver<Arc<Resources>>,
    pub(in crate::cp) snapshots: watch::Sender<Arc<Snapshot>>,
    status: StatusCell,
    again_in: Option<Duration>,
    /// What others do to the store, if there are others.
    news: Option<watch::Receiver<u64>>,
    meters: Meters,
}

/// Why publishing ended.
#[derive(Debug, thiserror::Error)]
pub(in crate::cp) enum PublishError {
    #[error("storing VIPs panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

impl Publish {
    /// Publishes the first time; what fails here fails the start.
    pub(in crate::cp) fn first(
        mut publisher: Publisher,
        resources: watch::Receiver<Arc<Resources>>,
        status: StatusCell,
        meters: Meters,
    ) -> Result<Self, StoreError> {
        let began = Instant::now();
        let now = resources.borrow().clone();
        let news = publisher.news();
        let published = publisher.publish(&now)?;
        meters.published(began.elapsed());
        publisher.report(&status);
        let again_in = published.again_in;
        let snapshots = watch::channel(Arc::new(published.snapshot)).0;
        Ok(Self { publisher, resources, snapshots, status, again_in, news, meters })
    }

    pub(in crate::cp) async fn run(mut self, drain: Drain) -> Result<(), PublishError> {
        let mut retry = RETRY_MIN;
        loop {
            let again_in = self.again_in;
            let timer = async {
                match again_in {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = drain.requested() => return Ok(()),
                () = timer => {}
                () = heard(&mut self.news) => self.publisher.read_again(),
                changed = self.resources.changed() => if changed.is_err() {
                    // Whoever reads the files has ended; everybody else is about to.
                    drain.requested().await;
                    return Ok(());
                },
            }
            let resources = self.resources.borrow_and_update().clone();
            let began = Instant::now();
            let (publisher, outcome) = step(self.publisher, resources.clone()).await?;
            self.publisher = publisher;
            self.again_in = match outcome {
                Ok(published) => {
                    retry = RETRY_MIN;
                    self.meters.published(began.elapsed());
                    self.publisher.report(&self.status);
                    if published.changed {
                        announce(&self.snapshots, published.snapshot);
                    }
                    published.again_in
                }
                Err(refused) => {
                    error!(error = %chain(&refused), "the store could not be read or written, so nothing new is published; it is tried again");
                    self.status.update(|status| status.store_error = Some(chain(&refused)));
                    let wait = retry;
                    retry = (retry * 2).min(RETRY_MAX);
                    Some(wait)
                }
            };
        }
    }
}

/// Returns when the store may hold something new; never where nobody else writes it.
async fn heard(news: &mut Option<watch::Receiver<u64>>) {
    if let Some(receiver) = news
        && receiver.changed().await.is_ok()
    {
        return;
    }
    *news = None;
    std::future::pending().await
}

type Stepped = (Publisher, Result<Published, StoreError>);

/// One step on a thread that may block.
async fn step(mut publisher: Publisher, resources: Arc<Resources>) -> Result<Stepped, PublishError> {
    let work = move || {
        let outcome = publisher.publish(&resources);
        (publisher, outcome)
    };
    tokio::task::spawn_blocking(work).await.map_err(PublishError::Panicked)
}

fn announce(snapshots: &watch::Sender<Arc<Snapshot>>, snapshot: Snapshot) {
    let services: usize = snapshot.meshes.values().map(|mesh| mesh.vips.len()).sum();
    snapshots.send_replace(Arc::new(snapshot));
    info!(services, "published");
}
