//! A listing that goes on: first everything, then `synced`, then every change, as server-sent events.
//! Keeps: a reader is told what differs from what he was told last, however slow he is: what changes twice in between is said
//! once, and nothing is buffered but the places of the last difference. Ends with the drain. Called by rest::routes.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use futures_util::stream;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::listing::{Change, Cursor, Listing, View, What};
use super::query::Filter;
use crate::cp::Status;
use crate::cp::registry::Catalog;
use crate::cp::resources::Resources;
use crate::cp::snapshot::Snapshot;
use crate::rt::Drain;

/// Readers at once, over all listings.
pub(super) const MAX_WATCHES: usize = 256;
/// A comment is sent when there was nothing else for so long, so that both ends notice who is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Items of one piece of the answer, and those looked at for it: the next is made when the reader has taken this one.
const PIECE: usize = 64;
const LOOKED_AT: usize = 4_096;

/// The newest of everything.
#[derive(Clone)]
pub(super) struct Sources {
    pub(super) catalog: watch::Receiver<Arc<Catalog>>,
    pub(super) resources: watch::Receiver<Arc<Resources>>,
    pub(super) status: watch::Receiver<Status>,
    pub(super) snapshot: watch::Receiver<Arc<Snapshot>>,
}

impl Sources {
    pub(super) fn view(&mut self) -> View {
        View {
            catalog: self.catalog.borrow_and_update().clone(),
            resources: self.resources.borrow().clone(),
            status: self.status.clone(),
            generators: Arc::default(),
            snapshot: self.snapshot.borrow_and_update().clone(),
        }
    }

    /// Returns when there is something newer; an error when there never will be.
    async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        tokio::select! {
            changed = self.catalog.changed() => changed,
            changed = self.snapshot.changed() => changed,
        }
    }
}

/// One reader.
pub(super) struct Watch {
    listing: Listing,
    filter: Filter,
    sources: Sources,
    drain: Drain,
    /// What he is told of: what stands in `todo` he has not heard yet.
    view: View,
    todo: Todo,
    _permit: OwnedSemaphorePermit,
}

enum Todo {
    /// All items behind this one.
    List(Option<Cursor>),
    Changes(VecDeque<Change>),
}

impl Watch {
    pub(super) fn new(
        listing: Listing,
        filter: Filter,
        mut sources: Sources,
        drain: Drain,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let view = sources.view();
        Self { listing, filter, sources, drain, view, todo: Todo::List(None), _permit: permit }
    }

    /// The answer, made as it is read.
    pub(super) fn into_body(self) -> Body {
        let pieces = stream::unfold(self, |mut watch| async move {
            let piece = watch.next().await?;
            Some((Ok::<_, Infallible>(piece), watch))
        });
        Body::from_stream(pieces)
    }

    /// The next piece; nothing at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.drain.is_requested() {
                return None;
            }
            let mut piece = Vec::new();
            match &mut self.todo {
                Todo::List(after) => {
                    let after = after.take();
                    self.todo = self.list(after, &mut piece);
                }
                Todo::Changes(changes) if !changes.is_empty() => {
                    let few: Vec<Change> = changes.drain(..changes.len().min(PIECE)).collect();
                    few.iter().for_each(|change| self.tell(change, &mut piece));
                }
                Todo::Changes(_) => self.wait(&mut piece).await?,
            }
            if !piece.is_empty() {
                return Some(piece.into());
            }
            tokio::task::yield_now().await;
        }
    }

    /// Tells of some items, and what is left to do then.
    fn list(&self, after: Option<Cursor>, piece: &mut Vec<u8>) -> Todo {
        let mut told = 0;
        for (looked_at, item) in self.listing.walk(&self.view, after.as_ref()).enumerate() {
            if item.is_meant(&self.filter) {
                event(piece, "put", |data| item.write(&self.view, data));
                told += 1;
            }
            if told == PIECE || looked_at == LOOKED_AT {
                return Todo::List(Some(item.cursor()));
            }
        }
        event(piece, "synced", |data| data.extend_from_slice(b"{}"));
        Todo::Changes(VecDeque::new())
    }

    fn tell(&self, change: &Change, piece: &mut Vec<u8>) {
        match self.listing.at(&self.view, &change.at).filter(|item| item.is_meant(&self.filter)) {
            Some(item) => event(piece, "put", |data| item.write(&self.view, data)),
            None if change.was_shown => event(piece, "delete", |data| gone(&self.listing, &change.at, data)),
            None => {}
        }
    }

    /// Waits for the next difference, and says so when there is none for long.
    async fn wait(&mut self, piece: &mut Vec<u8>) -> Option<()> {
        tokio::select! {
            () = self.drain.requested() => return None,
            changed = self.sources.changed() => {
                changed.ok()?;
                let newer = self.sources.view();
                let changes = self.listing.changes(&self.view, &newer, &self.filter);
                self.todo = Todo::Changes(changes.into());
                self.view = newer;
            }
            () = tokio::time::sleep(KEEP_ALIVE) => piece.extend_from_slice(b": still here\n\n"),
        }
        Some(())
    }
}

/// An event; JSON has no line breaks outside of texts, and escapes those inside.
fn event(piece: &mut Vec<u8>, name: &str, data: impl FnOnce(&mut Vec<u8>)) {
    piece.extend_from_slice(b"event: ");
    piece.extend_from_slice(name.as_bytes());
    piece.extend_from_slice(b"\ndata: ");
    data(piece);
    piece.extend_from_slice(b"\n\n");
}

/// All that is left of an item.
#[derive(Serialize)]
struct Gone<'g> {
    r#type: &'static str,
    #[serde(skip_serializing_if = "str::is_empty")]
    mesh: &'g str,
    name: &'g str,
}

fn gone(listing: &Listing, at: &Cursor, data: &mut Vec<u8>) {
    let word = match listing.what {
        What::Resources(kind) => kind.word(),
        What::Vips => "Vip",
    };
    serde_json::to_writer(data, &Gone { r#type: word, mesh: &at.mesh, name: &at.name })
        .expect("texts are JSON, and memory takes all");
}
