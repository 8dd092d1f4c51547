//! Edits of resource files in, what they give out. Editors that replace files, and swapped symlinks, are seen.
//! Keeps: a broken edit changes nothing: the last good state stays, the mistakes are said once and stand in the status, and
//! the next good edit heals it. Called by cp.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use notify_debouncer_full::notify::event::{AccessKind, AccessMode, EventKind};
use notify_debouncer_full::notify::{self, RecommendedWatcher, RecursiveMode};
use notify_debouncer_full::{DebounceEventResult, Debouncer, RecommendedCache, new_debouncer};
use tokio::sync::{mpsc, watch};
use tracing::{debug, info, warn};

use super::registry::{Layer, LayerReader};
use super::resources::files;
use super::status::StatusCell;
use super::violation::{Invalid, MAX_SHOWN};
use crate::rt::Drain;

/// How long files must be still before they are read: an editor writes in several steps.
const STILL: Duration = Duration::from_millis(100);
/// How often the files are looked at although no event came: not every file system reports every change.
const RESCAN: Duration = Duration::from_secs(5);
/// The same where the kernel gives us no events at all.
const RESCAN_WITHOUT_EVENTS: Duration = Duration::from_millis(500);

/// The task that follows the files.
pub(super) struct Watch {
    /// Absent while it reads.
    pub(super) reader: Option<LayerReader>,
    pub(super) layers: watch::Sender<Arc<Layer>>,
    pub(super) status: StatusCell,
}

/// Why following the files ended.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("reading resource files panicked")]
    Panicked(#[source] tokio::task::JoinError),
}

impl Watch {
    pub(super) async fn run(mut self, drain: Drain) -> Result<(), WatchError> {
        let paths = self.reader.as_ref().map_or_else(Vec::new, |reader| reader.paths().to_vec());
        if paths.is_empty() {
            drain.requested().await;
            return Ok(());
        }
        // One waiting wake-up is enough: it says "look again", not what was changed.
        let (wake, mut woken) = mpsc::channel(1);
        let mut sentry = Sentry::new(wake);
        loop {
            sentry.look_at(paths.iter().flat_map(|path| files::trail(path)).collect());
            self.look().await?;
            tokio::select! {
                () = drain.requested() => return Ok(()),
                _ = woken.recv() => {}
                () = tokio::time::sleep(sentry.rescan()) => {}
            }
        }
    }

    /// Reads the files that are others than before.
    async fn look(&mut self) -> Result<(), WatchError> {
        let mut reader = self.reader.take().expect("every look gives it back");
        let work = move || {
            let read = reader.look();
            (reader, read)
        };
        let (reader, read) = tokio::task::spawn_blocking(work).await.map_err(WatchError::Panicked)?;
        self.reader = Some(reader);
        match read {
            Ok(Some(layer)) => self.take(layer),
            Ok(None) => {}
            Err(invalid) => self.refuse(&invalid),
        }
        Ok(())
    }

    fn take(&self, layer: Layer) {
        let mut healed = false;
        self.status.update(|status| healed = !std::mem::take(&mut status.mistakes).is_empty());
        if healed {
            info!("the resource files are good again");
        }
        debug!(resources = layer.given.len(), "resource files read");
        self.layers.send_replace(Arc::new(layer));
    }

    fn refuse(&self, invalid: &Invalid) {
        let mistakes: Vec<String> =
            invalid.violations().iter().take(MAX_SHOWN).map(ToString::to_string).collect();
        let mut news = false;
        self.status.update(|status| {
            news = status.mistakes != mistakes;
            status.mistakes = mistakes;
        });
        if news {
            warn!(%invalid, "the resource files have mistakes: the state before the edit stays in force");
        }
    }
}

/// Wakes the task when something happens in the directories on the way to the files.
struct Sentry {
    debouncer: Option<Debouncer<RecommendedWatcher, RecommendedCache>>,
    /// With the directory that was there: one that was removed and made again must be watched again.
    watched: BTreeMap<PathBuf, Option<files::Identity>>,
    blind: bool,
}

impl Sentry {
    fn new(wake: mpsc::Sender<()>) -> Self {
        let handler = move |result: DebounceEventResult| {
            if result.is_ok_and(|events| events.iter().all(|event| is_mere_reading(event.kind))) {
                return;
            }
            // A full channel holds a wake-up already; a closed one belongs to a task that has ended.
            let _ = wake.try_send(());
        };
        let debouncer = new_debouncer(STILL, None, handler);
        let mut sentry = Self { debouncer: None, watched: BTreeMap::new(), blind: false };
        match debouncer {
            Ok(debouncer) => sentry.debouncer = Some(debouncer),
            Err(error) => sentry.go_blind(&error),
        }
        sentry
    }

    /// Watches these directories and no others.
    fn look_at(&mut self, wanted: BTreeSet<PathBuf>) {
        let Some(debouncer) = &mut self.debouncer else { return };
        let identified = wanted.into_iter().map(|path| (files::identity(&path), path));
        let wanted: BTreeMap<_, _> = identified.map(|(found, path)| (path, found)).collect();
        for (gone, _) in self.watched.iter().filter(|(path, found)| wanted.get(*path) != Some(*found)) {
            // A directory that was removed is not watched any more: there is nothing to undo.
            let _ = debouncer.unwatch(gone);
        }
        self.watched.retain(|path, found| wanted.get(path) == Some(found));
        let mut failed = None;
        for (path, found) in wanted {
            if self.watched.contains_key(&path) {
                continue;
            }
            match debouncer.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path, found);
                }
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) => self.go_blind(&error),
            None => self.blind = false,
        }
    }

    fn go_blind(&mut self, error: &notify::Error) {
        if !std::mem::replace(&mut self.blind, true) {
            let every_ms = RESCAN_WITHOUT_EVENTS.as_millis();
            warn!(%error, every_ms, "no file events, so the files are looked at regularly");
        }
    }

    fn rescan(&self) -> Duration {
        if self.blind { RESCAN_WITHOUT_EVENTS } else { RESCAN }
    }
}

/// Our own reading opens files, and that is an event too.
fn is_mere_reading(kind: EventKind) -> bool {
    matches!(kind, EventKind::Access(access) if access != AccessKind::Close(AccessMode::Write))
}
