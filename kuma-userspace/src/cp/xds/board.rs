//! What the streams and the publisher share: the published state of each view, and who is connected to it.
//! Keeps: no lock is held across an await; a client that is gone counts no more the moment its stream is dropped.
//! Called by stream (one seat each) and cp::xds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, watch};

use super::clients::{Client, ClientId, Progress};
use super::published::Published;
use super::shape::Spread;
use crate::wire::node::Introduction;

/// Streams of all views together.
const MAX_CLIENTS: usize = 4_096;

/// The server is full.
#[derive(Debug, thiserror::Error)]
#[error("{MAX_CLIENTS} clients are connected, no more are served")]
pub(super) struct Full;

#[derive(Debug, Default)]
pub(super) struct Board {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    last_id: u64,
    views: BTreeMap<String, View>,
}

#[derive(Debug)]
struct View {
    published: watch::Sender<Arc<Published>>,
    clients: BTreeMap<ClientId, Client>,
    /// Why agents do not see everything, for the status.
    note: Note,
}

/// What the publisher tells the operator about a view.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Note {
    pub(super) waiting: Vec<String>,
    pub(super) working: usize,
    pub(super) wanted: usize,
    pub(super) spread: Spread,
    pub(super) changing: usize,
}

/// A view's clients and note at one moment.
#[derive(Debug)]
pub(super) struct Glance {
    pub(super) view: String,
    pub(super) clients: Vec<Client>,
    pub(super) note: Note,
    pub(super) published: Arc<Published>,
}

/// A client's place at the board; dropped with its stream.
#[derive(Debug)]
pub(super) struct Seat {
    board: Arc<Board>,
    id: ClientId,
    view: String,
    pub(super) published: watch::Receiver<Arc<Published>>,
}

impl Board {
    /// Gives a client its seat.
    pub(super) fn join(
        self: &Arc<Self>,
        introduction: &Introduction,
        software: Option<String>,
    ) -> Result<Seat, Full> {
        let mut inner = self.lock();
        if inner.views.values().map(|view| view.clients.len()).sum::<usize>() >= MAX_CLIENTS {
            return Err(Full);
        }
        inner.last_id += 1;
        let id = ClientId(inner.last_id);
        let client = Client {
            id,
            node: introduction.id.as_str().into(),
            role: introduction.role,
            software: software.map(Into::into),
            connected: Instant::now(),
            progress: Progress::default(),
        };
        let view = inner.view(&introduction.view);
        view.clients.insert(id, client);
        let published = view.published.subscribe();
        drop(inner);
        self.changed.notify_one();
        Ok(Seat { board: self.clone(), id, view: introduction.view.clone(), published })
    }

    /// Returns after a client came, went or made progress.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Who is connected to a view now.
    pub(super) fn clients(&self, view: &str) -> Vec<Client> {
        self.lock().views.get(view).map(|view| view.clients.values().cloned().collect()).unwrap_or_default()
    }

    /// The views that somebody is connected to.
    pub(super) fn views(&self) -> Vec<String> {
        self.lock().views.keys().cloned().collect()
    }

    /// Shows a new state to every stream of the view.
    pub(super) fn publish(&self, view: &str, published: Arc<Published>) {
        self.lock().view(view).published.send_replace(published);
    }

    /// Shows the operator where the view stands.
    pub(super) fn note(&self, view: &str, note: Note) {
        self.lock().view(view).note = note;
    }

    /// Everything at one moment.
    pub(super) fn glance(&self) -> Vec<Glance> {
        let glance = |(name, view): (&String, &View)| Glance {
            view: name.clone(),
            clients: view.clients.values().cloned().collect(),
            note: view.note.clone(),
            published: view.published.borrow().clone(),
        };
        self.lock().views.iter().map(glance).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while holding the lock leaves the board whole: every change is one insert or remove.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn view(&mut self, name: &str) -> &mut View {
        self.views.entry(name.to_owned()).or_insert_with(|| View {
            published: watch::Sender::new(Arc::default()),
            clients: BTreeMap::new(),
            note: Note::default(),
        })
    }
}

impl Seat {
    /// Tells the publisher what the client has acknowledged and refused.
    pub(super) fn report(&self, progress: Progress) {
        let mut inner = self.board.lock();
        let Some(client) = inner.view(&self.view).clients.get_mut(&self.id) else { return };
        if client.progress != progress {
            client.progress = progress;
            drop(inner);
            self.board.changed.notify_one();
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut inner = self.board.lock();
        let view = inner.view(&self.view);
        view.clients.remove(&self.id);
        // A view that exists only because somebody asked for it goes with the last who did.
        let forgotten = view.clients.is_empty() && !view.published.borrow().is_decided();
        if forgotten {
            inner.views.remove(&self.view);
        }
        drop(inner);
        self.board.changed.notify_one();
    }
}
