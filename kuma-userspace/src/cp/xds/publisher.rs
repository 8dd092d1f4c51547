//! Runs the order of each view: snapshots, ACKs and time go in, published state comes out. One task, no I/O.
//! Called by cp::xds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::board::{Board, Note};
use super::clients::Client;
use super::order::{Action, Event, Order, Step};
use super::published::Published;
use super::shape::Spread;
use crate::cp::snapshot::{MeshSnapshot, Snapshot};
use crate::rt::{Awaited, Drain, Ready};

/// Sleeps that nothing interrupts end here; no deadline is missed by it.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

pub(super) struct Publisher {
    board: Arc<Board>,
    ready: Ready,
    desks: BTreeMap<Arc<str>, Desk>,
}

/// One view's work.
struct Desk {
    name: Arc<str>,
    order: Order,
    wanted: Option<MeshSnapshot>,
    published: Arc<Published>,
    wake: Option<Instant>,
    /// The shape and the setting that the log said last.
    told: Option<(&'static str, &'static str)>,
    ready: Ready,
    /// Held while somebody waits for the first view.
    awaited: Option<Awaited>,
}

impl Publisher {
    pub(super) fn new(board: Arc<Board>, ready: Ready) -> Self {
        Self { board, ready, desks: BTreeMap::new() }
    }

    pub(super) async fn run(mut self, mut snapshots: watch::Receiver<Arc<Snapshot>>, drain: Drain) {
        let mut snapshot = snapshots.borrow_and_update().clone();
        self.take_snapshot(&snapshot);
        loop {
            let wake = self.desks.values().filter_map(|desk| desk.wake).min();
            let wake = wake.unwrap_or_else(|| Instant::now() + LONGEST_SLEEP);
            tokio::select! {
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        // Nothing new will come; what is published stays until the drain.
                        drain.requested().await;
                        return;
                    }
                    snapshot = snapshots.borrow_and_update().clone();
                    self.take_snapshot(&snapshot);
                }
                () = self.board.changed() => self.take_clients(),
                () = tokio::time::sleep_until(wake.into()) => self.take_time(),
                () = drain.requested() => return,
            }
        }
    }

    fn take_snapshot(&mut self, snapshot: &Snapshot) {
        for name in snapshot.meshes.keys() {
            self.desks.entry(name.clone()).or_insert_with(|| {
                // Somebody may have been waiting for this mesh.
                Desk::new(name, &self.ready, self.board.clients(name))
            });
        }
        for desk in self.desks.values_mut() {
            let mesh = snapshot.meshes.get(&*desk.name);
            // The same map is found without a look into it; another is compared by the order, which needs the difference.
            let is_same = |(old, new): (&MeshSnapshot, &MeshSnapshot)| {
                Arc::ptr_eq(&old.header, &new.header) && old.vips.ptr_eq(&new.vips)
            };
            let unchanged =
                desk.wanted.as_ref().zip(mesh).map_or(desk.wanted.is_none() && mesh.is_none(), is_same);
            if !unchanged {
                desk.wanted = mesh.cloned();
                desk.step(&self.board, Event::Wanted(mesh.cloned()));
            }
        }
        self.note_unknown();
    }

    fn take_clients(&mut self) {
        for desk in self.desks.values_mut() {
            desk.step(&self.board, Event::Clients(self.board.clients(&desk.name)));
        }
        self.note_unknown();
    }

    fn take_time(&mut self) {
        let now = Instant::now();
        for desk in self.desks.values_mut().filter(|desk| desk.wake.is_some_and(|wake| wake <= now)) {
            desk.step(&self.board, Event::Time);
        }
    }

    /// Somebody may be connected for a mesh that does not exist (yet).
    fn note_unknown(&self) {
        for view in self.board.views() {
            if !self.desks.contains_key(view.as_str()) {
                let waiting = vec![format!("mesh {view:?} does not exist: nothing is served until it does")];
                self.board.note(&view, Note { waiting, ..Note::default() });
            }
        }
    }
}

impl Desk {
    fn new(name: &str, ready: &Ready, clients: Vec<Client>) -> Self {
        let mut order = Order::new(name);
        // Nothing is wanted yet, so nothing follows from it.
        order.step(Event::Clients(clients), Instant::now());
        Self {
            name: name.into(),
            order,
            wanted: None,
            published: Arc::default(),
            wake: None,
            told: None,
            ready: ready.clone(),
            awaited: None,
        }
    }

    fn step(&mut self, board: &Board, event: Event) {
        let step = self.order.step(event, Instant::now());
        self.wake = step.wake;
        self.report(&step);
        if !step.actions.is_empty() || !self.published.is_decided() {
            Arc::make_mut(&mut self.published).apply(&step);
            board.publish(&self.name, self.published.clone());
        }
        let (working, wanted) = self.order.progress();
        let (spread, changing) = self.order.shapes();
        self.report_shapes(spread);
        board.note(&self.name, Note { waiting: self.order.waiting(), working, wanted, spread, changing });
        self.hold_ready();
    }

    /// A mesh that nobody here serves holds nothing back.
    fn hold_ready(&mut self) {
        if self.order.is_open() || !self.order.has_clients() {
            self.awaited = None;
        } else if self.awaited.is_none() {
            let what = format!("a proxy that takes the listeners of mesh {:?}", self.name);
            self.awaited = Some(self.ready.wait_for(what));
        }
    }

    /// Says the shape when it is another, not with every service.
    fn report_shapes(&mut self, spread: Spread) {
        let told = Some((spread.word(), spread.setting.word()));
        if self.wanted.is_none() || std::mem::replace(&mut self.told, told) == told {
            return;
        }
        let (view, shape, setting) = (&*self.name, spread.word(), spread.setting.word());
        let Spread { listeners, compact, .. } = spread;
        info!(view, shape, setting, listeners, compact, "outbounds of proxies");
        if let Some(loss) = spread.loss() {
            warn!(view, "{loss}");
        }
    }

    fn report(&self, step: &Step) {
        let view = &*self.name;
        for action in &step.actions {
            match action {
                Action::Overdue { client, kind } => {
                    let (client, kind) = (client.0, kind.word());
                    warn!(
                        view,
                        client, kind, "a client does not acknowledge in time, the others go on without it"
                    );
                }
                Action::Refuse { reason } => {
                    warn!(view, reason, "the mesh cannot be published, agents keep what they have")
                }
                Action::PublishView(changes) => {
                    debug!(view, parts = changes.parts.len(), "publishing to agents");
                }
                _ => {}
            }
        }
    }
}
