//! Decides when each resource of one view may be seen, and by whom. Pure: an event and the time in, actions out.
//! Keeps: a VIP reaches agents only when every proxy has its listener; a listener goes only when no agent routes to it
//! and no resolver's answer can still be believed. Called by cp::xds, which runs one for each view.
//!
//! In: cluster and endpoints -> ACK (limit) -> listener -> ACK of every proxy -> 50 ms (10 ms without a listener) -> mesh view.
//! Out: mesh view -> ACK of every agent (limit) -> two TTLs -> listener -> ACK (limit) -> cluster.
//! The compact shape has no listener, so neither that step nor its ACK. A VIP that changes its shape has both for a while:
//! the old one goes when the new one works.

mod book;
mod clusters;
mod crowd;
mod lines;
#[cfg(test)]
mod tests;
mod views;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use ipnetwork::IpNetwork;

use self::book::Book;
use self::clusters::Clusters;
use self::crowd::Crowd;
use super::clients::{Client, ClientId};
use super::name::Name;
use super::per_type::PerType;
use super::shape::{Shape, Spread};
use super::targets::{self, Target};
use crate::cp::snapshot::{Endpoint, MeshSnapshot};
use crate::model::view::{Changes, Header, Part, Route};
use crate::wire::envoy::Codec;
use crate::wire::resource::ResourceType;

/// How long one agent without an ACK may hold back the removal of a listener.
const AGENT_LIMIT: Duration = Duration::from_secs(10);
/// A name may still be believed for this many TTLs after it stopped resolving.
const TTLS: u32 = 2;

/// What happened.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// What the store wants published; `None`: there is no such mesh (any more).
    Wanted(Option<MeshSnapshot>),
    /// Who is connected, and what each has acknowledged.
    Clients(Vec<Client>),
    /// A deadline may have passed.
    Time,
}

/// What to do about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Action {
    SetCluster {
        name: Name,
        service: Arc<str>,
        /// Everything behind a service that has a host name somewhere: its cluster looks them up by itself.
        hosts: Option<Arc<[Endpoint]>>,
    },
    SetEndpoints {
        service: Arc<str>,
        /// None of them is a host name.
        endpoints: Arc<[Endpoint]>,
    },
    DropCluster {
        name: Name,
    },
    DropEndpoints {
        service: Arc<str>,
    },
    SetListener {
        route: Route,
        service: Arc<str>,
        codec: Codec,
    },
    DropListener {
        route: Route,
    },
    /// The listeners with a socket lead to clusters for these destinations.
    SetEntrance {
        ranges: Vec<IpNetwork>,
    },
    /// What agents see differs from what they saw before by this.
    PublishView(Changes),
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

#[derive(Clone, Debug)]
struct Line {
    target: Target,
    stage: Stage,
    /// The generation of a cluster of its own, or 0.
    cluster: u64,
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
    name: Arc<str>,
    wanted: Option<MeshSnapshot>,
    spread: Spread,
    crowd: Crowd,
    clusters: Clusters,
    entrance: Entrance,
    book: Book,
    view: Option<View>,
    strangers: Strangers,
    generations: PerType<u64>,
    overdue: BTreeSet<(ClientId, ResourceType)>,
    refused: Option<String>,
    /// VIPs and ports whose lines may differ from what is wanted.
    touched: BTreeSet<Route>,
    /// Services whose endpoints may, and the VIP that leads to each; `None`: the mesh does not have the service.
    changed: BTreeMap<Arc<str>, Option<Arc<str>>>,
    /// VIPs of which agents may see something else than what works.
    stale: BTreeSet<Arc<str>>,
    /// The view's header may be another.
    other_header: bool,
    /// Ranges that are no longer wanted may have nothing out any more.
    ranges_may_go: bool,
    due: Due,
}

/// What agents see.
#[derive(Debug)]
struct View {
    header: Arc<Header>,
    parts: HashMap<Arc<str>, Arc<Part>, RandomState>,
}

/// When the next limit passes of all that waits for ACKs. Deadlines of lines that were not looked at stand.
#[derive(Debug, Default)]
struct Due {
    proxies: Option<Instant>,
    agents: Option<Instant>,
}

impl Order {
    /// A view that nothing is known of yet.
    pub(super) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            wanted: None,
            spread: Spread::default(),
            crowd: Crowd::default(),
            clusters: Clusters::default(),
            entrance: Entrance::default(),
            book: Book::default(),
            view: None,
            strangers: Strangers::Unknown,
            generations: PerType::default(),
            overdue: BTreeSet::new(),
            refused: None,
            touched: BTreeSet::new(),
            changed: BTreeMap::new(),
            stale: BTreeSet::new(),
            other_header: false,
            ranges_may_go: false,
            due: Due::default(),
        }
    }

    /// Takes an event in and says what follows from it.
    pub(super) fn step(&mut self, event: Event, now: Instant) -> Step {
        let mut step = Step::default();
        match event {
            Event::Wanted(wanted) => self.want(wanted),
            Event::Clients(clients) => {
                self.overdue.retain(|(id, _)| clients.iter().any(|client| client.id == *id));
                let news = self.crowd.follow(clients);
                if news.of_proxies {
                    self.due.proxies = Some(now);
                }
                if news.of_agents {
                    self.due.agents = Some(now);
                }
            }
            Event::Time => {}
        }
        if let Some(mesh) = self.wanted.clone() {
            self.set_entrance(&mut step, &mesh);
            self.set_lines(&mut step, now);
            self.set_endpoints(&mut step);
            self.advance_lines(&mut step, now);
            if self.other_header || !self.stale.is_empty() || self.view.is_none() {
                self.publish(&mut step, &mesh, now);
            }
            self.advance_strangers(&mut step, now);
        }
        for due in [self.due.proxies, self.due.agents, self.book.next_moment()].into_iter().flatten() {
            step.wake_at(due);
        }
        step.generations = self.generations;
        step
    }

    /// How many VIPs and ports agents may use, and how many are wanted.
    pub(super) fn progress(&self) -> (usize, usize) {
        // What works in one shape is on its way out in the other, or on its way in.
        let counts = self.book.counts();
        (counts.working, counts.tcp + counts.http)
    }

    /// How many VIPs and ports are wanted in which shape, and how many are still there in the other.
    pub(super) fn shapes(&self) -> (Spread, usize) {
        (self.spread, self.book.counts().changing)
    }

    /// Is anybody connected?
    pub(super) fn has_clients(&self) -> bool {
        !self.crowd.all().is_empty()
    }

    /// Do agents have a first view?
    pub(super) fn is_open(&self) -> bool {
        self.view.is_some()
    }

    /// Takes the step to what is wanted now. Costs what differs.
    fn want(&mut self, wanted: Option<MeshSnapshot>) {
        // A mesh that is gone keeps its domain and ranges until its services have left in order.
        let wanted = wanted.or_else(|| Some(MeshSnapshot { vips: OrdMap::new(), ..self.wanted.clone()? }));
        let Some(wanted) = wanted else { return };
        let before = self.wanted.replace(wanted.clone());
        let none = OrdMap::new();
        let (old, new) = (before.as_ref().map_or(&none, |mesh| &mesh.vips), &wanted.vips);
        let (mut gone, mut come) = (Vec::new(), Vec::new());
        for item in old.diff(new) {
            let (DiffItem::Add(vip, _) | DiffItem::Remove(vip, _) | DiffItem::Update { new: (vip, _), .. }) =
                item;
            self.stale.insert(vip.clone());
            match item {
                DiffItem::Add(_, published) => come.push((vip, published)),
                DiffItem::Remove(_, published) => gone.push((vip, published)),
                DiffItem::Update { old, new } => {
                    gone.push(old);
                    come.push(new);
                }
            }
        }
        // What moves from one VIP to another leaves before it comes.
        for (vip, published) in gone {
            for route in targets::routes(published) {
                if self.book.wanted(route).is_some_and(|target| target.vip == *vip) {
                    self.book.want(route, None);
                }
                self.touched.insert(route);
            }
            let services = published.entry.listeners.iter().map(|listener| listener.cluster.clone());
            self.changed.extend(services.map(|service| (service, None)));
        }
        for (vip, published) in come {
            for (route, target) in targets::targets(vip, published, |codec| self.spread.shape(codec)) {
                self.book.want(route, Some(target));
                self.touched.insert(route);
            }
            let services = published.entry.listeners.iter().map(|listener| listener.cluster.clone());
            self.changed.extend(services.map(|service| (service, Some(vip.clone()))));
        }
        self.reshape(&wanted);
        if before.is_none_or(|before| before.header != wanted.header) {
            self.ranges_may_go = true;
            self.stale.extend(self.view.iter().flat_map(|view| view.parts.keys().cloned()));
            self.other_header = true;
        }
    }

    /// Gives each VIP and port its shape, which depends on how many there are.
    fn reshape(&mut self, mesh: &MeshSnapshot) {
        let counts = self.book.counts();
        let spread = Spread::of(mesh.header.outbounds, counts.tcp, counts.http);
        let before = std::mem::replace(&mut self.spread, spread);
        if [Codec::Tcp, Codec::Http].into_iter().any(|codec| before.shape(codec) != spread.shape(codec)) {
            self.touched.extend(self.book.reshape(|codec| spread.shape(codec)));
        }
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
        let wanted = &mesh.header.ranges;
        if !std::mem::take(&mut self.ranges_may_go) || *wanted == self.entrance.ranges {
            return;
        }
        let mut ranges = wanted.clone();
        for range in &self.entrance.ranges {
            if !ranges.contains(range) && self.book.any_line(|vip| range.contains(vip)) {
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
