//! Decides when each resource of one view may be seen, and by whom. Pure: an event and the time in, actions out.
//! Keeps: a VIP reaches agents only when every proxy has its listener; a listener goes only when no agent routes to it
//! and no resolver's answer can still be believed. Called by cp::xds, which runs one for each view.
//!
//! In: cluster and endpoints -> ACK (limit) -> listener -> ACK of every proxy -> 50 ms -> mesh view.
//! Out: mesh view -> ACK of every agent (limit) -> two TTLs -> listener -> ACK (limit) -> cluster.
//! The compact shape has no listener, so neither that step nor its ACK. A VIP that changes its shape has both for a while:
//! the old one goes when the new one works.

mod clusters;
mod lines;
#[cfg(test)]
mod tests;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnetwork::IpNetwork;

use self::clusters::Clusters;
use self::lines::{entrance_refused_by, refused_by};
use super::clients::{Client, ClientId};
use super::flat::MeshSnapshot;
use super::per_type::PerType;
use super::shape::{Shape, Spread};
use super::targets::{Difference, Target, Targets};
use crate::cp::snapshot::Endpoint;
use crate::model::view::{MeshView, Route};
use crate::wire::envoy::Codec;
use crate::wire::node::Role;
use crate::wire::resource::ResourceType;

/// How long one agent without an ACK may hold back the removal of a listener.
const AGENT_LIMIT: Duration = Duration::from_secs(10);
/// A name may still be believed for this many TTLs after it stopped resolving.
const TTLS: u32 = 2;

/// What happened.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// What the store wants published; `None`: there is no such mesh (any more).
    Wanted(Option<Arc<MeshSnapshot>>),
    /// Who is connected, and what each has acknowledged.
    Clients(Vec<Client>),
    /// A deadline may have passed.
    Time,
}

/// What to do about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Action {
    SetCluster {
        name: String,
        service: String,
        /// Everything behind a service that has a host name somewhere: its cluster looks them up by itself.
        hosts: BTreeSet<Endpoint>,
    },
    SetEndpoints {
        service: String,
        endpoints: BTreeSet<SocketAddr>,
    },
    DropCluster {
        name: String,
    },
    DropEndpoints {
        service: String,
    },
    SetListener {
        route: Route,
        service: String,
        codec: Codec,
    },
    DropListener {
        route: Route,
    },
    /// The listeners with a socket lead to clusters for these destinations.
    SetEntrance {
        ranges: Vec<IpNetwork>,
    },
    PublishView(Arc<MeshView>),
    /// What a reconnecting proxy still has of an earlier control plane may go now.
    ReleaseStrangers,
    /// Somebody did not acknowledge in time, and we go on.
    Overdue {
        client: ClientId,
        kind: ResourceType,
    },
    /// The mesh breaks a rule of the model; agents keep what they have.
    Refuse {
        reason: String,
    },
}

/// The actions of one event, the generation of each type after them, and when to come back.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub(super) actions: Vec<Action>,
    pub(super) generations: PerType<u64>,
    pub(super) wake: Option<Instant>,
    changed: PerType<bool>,
}

/// A VIP and port in one of the two shapes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Key {
    route: Route,
    shape: Shape,
}

impl Key {
    /// The same VIP and port in the other shape.
    fn other(self) -> Self {
        Self { shape: self.shape.other(), ..self }
    }
}

/// The life of a line. Without a listener, the steps that are about one are passed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    AwaitsCluster { since: Instant },
    AwaitsProxies { since: Instant, generation: u64 },
    Settles { until: Instant },
    Works,
    LeftView { since: Instant, generation: u64 },
    Rests { until: Instant },
    LeftProxies { since: Instant, generation: u64 },
}

#[derive(Debug)]
struct Line {
    target: Target,
    stage: Stage,
}

/// The listeners with a socket.
#[derive(Debug, Default)]
struct Entrance {
    generation: u64,
    ranges: Vec<IpNetwork>,
}

/// What reconnecting proxies have of an earlier control plane leaves by the same way as a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum Strangers {
    #[default]
    Unknown,
    LeftView {
        since: Instant,
        generation: u64,
    },
    Rest {
        until: Instant,
    },
    Released,
}

/// One view: what is wanted, what is out, who has acknowledged what.
#[derive(Debug)]
pub(super) struct Order {
    name: String,
    wanted: Option<Arc<MeshSnapshot>>,
    targets: Targets,
    clients: Vec<Client>,
    clusters: Clusters,
    entrance: Entrance,
    lines: BTreeMap<Key, Line>,
    /// Those of `lines` that do not simply work: all that ACKs and the clock can move.
    moving: BTreeSet<Key>,
    view: Option<Arc<MeshView>>,
    strangers: Strangers,
    generations: PerType<u64>,
    overdue: BTreeSet<(ClientId, ResourceType)>,
    refused: Option<String>,
    /// VIPs and ports whose lines may differ from what is wanted.
    touched: BTreeSet<Route>,
    /// Services whose endpoints may.
    changed: BTreeSet<String>,
    /// The view may differ from what works.
    stale: bool,
}

impl Order {
    /// A view that nothing is known of yet.
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            wanted: None,
            targets: Targets::default(),
            clients: Vec::new(),
            clusters: Clusters::default(),
            entrance: Entrance::default(),
            lines: BTreeMap::new(),
            moving: BTreeSet::new(),
            view: None,
            strangers: Strangers::Unknown,
            generations: PerType::default(),
            overdue: BTreeSet::new(),
            refused: None,
            touched: BTreeSet::new(),
            changed: BTreeSet::new(),
            stale: false,
        }
    }

    /// Takes an event in and says what follows from it.
    pub(super) fn step(&mut self, event: Event, now: Instant) -> Step {
        let mut step = Step::default();
        match event {
            Event::Wanted(wanted) => self.want(wanted),
            Event::Clients(clients) => {
                self.overdue.retain(|(id, _)| clients.iter().any(|client| client.id == *id));
                self.clients = clients;
            }
            Event::Time => {}
        }
        if let Some(mesh) = self.wanted.clone() {
            self.set_entrance(&mut step, &mesh);
            self.set_lines(&mut step, now);
            self.set_endpoints(&mut step, &mesh);
            self.advance_lines(&mut step, now);
            if std::mem::take(&mut self.stale) || self.view.is_none() {
                self.publish(&mut step, &mesh, now);
            }
            self.advance_strangers(&mut step, now);
        }
        step.generations = self.generations;
        step
    }

    /// Why agents do not see everything that is wanted, in words; empty when they do.
    pub(super) fn waiting(&self) -> Vec<String> {
        if self.wanted.is_none() {
            return vec![format!("mesh {:?} does not exist", self.name)];
        }
        let pending = self.moving.iter().filter_map(|key| self.lines.get_key_value(key));
        let pending = pending.filter(|(key, line)| line.stage.is_before_works() && !self.works(key.other()));
        let pending: Vec<(&Key, &Line)> = pending.collect();
        let mut waiting = Vec::new();
        if let Some(reason) = &self.refused {
            waiting.push(format!("the mesh cannot be published: {reason}"));
        }
        if pending.is_empty() {
            return waiting;
        }
        let count = pending.len();
        if self.proxies().next().is_none() {
            waiting.push(format!(
                "waiting for a proxy: none is connected, listeners that wait for one: {count}"
            ));
        }
        for proxy in self.proxies() {
            let refused = pending.iter().filter_map(|(key, line)| {
                entrance_refused_by(proxy, key.route).or_else(|| refused_by(proxy, key.route, &line.target))
            });
            let refused: BTreeSet<String> = refused.collect();
            let node = &proxy.node;
            waiting.push(if refused.is_empty() {
                format!("waiting for proxy {node:?}, listeners that it has not taken: {count}")
            } else {
                format!("proxy {node:?} refuses {}", refused.into_iter().collect::<Vec<_>>().join(", "))
            });
        }
        waiting
    }

    /// How many VIPs and ports agents may use, and how many are wanted.
    pub(super) fn progress(&self) -> (usize, usize) {
        // What works in one shape is on its way out in the other, or on its way in.
        (self.lines.len() - self.moving.len(), self.targets.len())
    }

    /// How many VIPs and ports are wanted in which shape, and how many are still there in the other.
    pub(super) fn shapes(&self) -> (Spread, usize) {
        let changing = |key: &&Key| {
            let wanted = self.targets.get(key.route).map(|target| target.shape);
            wanted.is_some_and(|shape| shape != key.shape || self.works(key.other()))
        };
        (self.targets.spread(), self.moving.iter().filter(changing).count())
    }

    /// Is anybody connected?
    pub(super) fn has_clients(&self) -> bool {
        !self.clients.is_empty()
    }

    /// Do agents have a first view?
    pub(super) fn is_open(&self) -> bool {
        self.view.is_some()
    }

    fn want(&mut self, wanted: Option<Arc<MeshSnapshot>>) {
        // A mesh that is gone keeps its domain and ranges until its services have left in order.
        let wanted = wanted.or_else(|| {
            let last = self.wanted.as_deref()?;
            Some(Arc::new(MeshSnapshot { services: BTreeMap::new(), ..last.clone() }))
        });
        let Some(wanted) = wanted else { return };
        let Difference { services, routes } = self.targets.follow(self.wanted.as_deref(), &wanted);
        self.touched.extend(routes);
        self.changed.extend(services);
        self.wanted = Some(wanted);
        self.stale = true;
    }

    fn proxies(&self) -> impl Iterator<Item = &Client> {
        self.clients.iter().filter(|client| client.role == Role::Proxy)
    }

    /// Emits an action that changes resources of `kind`; all changes of one step share a generation.
    fn emit(&mut self, step: &mut Step, kind: ResourceType, action: Action) -> u64 {
        if !std::mem::replace(&mut step.changed[kind], true) {
            self.generations[kind] += 1;
        }
        step.actions.push(action);
        self.generations[kind]
    }

    /// Ranges that are no longer wanted stay while something of them is out.
    fn set_entrance(&mut self, step: &mut Step, mesh: &MeshSnapshot) {
        if mesh.ranges == self.entrance.ranges {
            return;
        }
        let mut ranges = mesh.ranges.clone();
        for range in &self.entrance.ranges {
            if !ranges.contains(range) && self.lines.keys().any(|key| range.contains(key.route.vip)) {
                ranges.push(*range);
            }
        }
        if ranges != self.entrance.ranges {
            let set = Action::SetEntrance { ranges: ranges.clone() };
            let generation = self.emit(step, ResourceType::Listener, set);
            self.entrance = Entrance { generation, ranges };
        }
    }
}

impl Stage {
    fn is_before_works(self) -> bool {
        matches!(self, Self::AwaitsCluster { .. } | Self::AwaitsProxies { .. } | Self::Settles { .. })
    }
}

impl Step {
    fn wake_at(&mut self, at: Instant) {
        self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
    }
}
