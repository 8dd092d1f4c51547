//! What the agent can say of itself: the board that its parts write on and that its socket reads from.
//! Keeps: asking costs the datapath and the resolver nothing they would wait for. Called by agent/mod.rs and enrol.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwapOption;
use imbl::OrdSet;

use crate::agent::Config;
use crate::agent::apply::Names;
use crate::agent::proxy::Proxy;
use crate::dns::counters::{Counts, TypeCounts};
use crate::dns::server::Shared;
use crate::model::datapath::NetnsCookie;
use crate::model::instance::Instance;
use crate::model::name::Hostname;
use crate::model::view::{Addresses, MeshView, Part, Port, Route};
use crate::rt::Ready;
use crate::wire::local::{self, Enrolment, Status, Vip, Workload};

/// A part of the status that somebody else knows.
pub type Asked<T> = Box<dyn Fn() -> T + Send + Sync>;

/// What a control plane in the same process says of itself.
#[derive(Clone)]
pub struct Beside(pub Arc<dyn Fn() -> local::ControlPlane + Send + Sync>);

impl std::fmt::Debug for Beside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a control plane in the same process")
    }
}

/// Everything that the agent's parts know, in one place.
pub struct Board {
    pub instance: Instance,
    pub started: Instant,
    pub ready: Ready,
    pub netns: NetnsCookie,
    /// The enrolled namespace as a path that `exec` can open.
    pub netns_path: PathBuf,
    pub workloads_cgroup: PathBuf,
    pub proxy_cgroup: PathBuf,
    pub view_name: String,
    /// Where the resolver listens.
    pub listen: Vec<SocketAddr>,
    pub resolver: Arc<Shared>,
    pub datapath: Asked<local::Datapath>,
    pub proxy: Asked<Option<local::Proxy>>,
    /// The version of the control plane's resource that is applied.
    pub version: Asked<String>,
    pub applied: Arc<Applied>,
    /// Whom views come from, how that stands, and how old the view may be.
    pub source: Asked<local::Source>,
    pub control_plane: Option<Beside>,
}

/// The view that is applied, and what of it could not be.
#[derive(Default)]
pub struct Applied {
    view: ArcSwapOption<Served>,
    trouble: Mutex<Option<String>>,
}

struct Served {
    view: Arc<MeshView>,
    held_back: OrdSet<Hostname>,
    since: Instant,
}

impl Served {
    fn names(&self) -> usize {
        self.view.names().len() - self.held_back.len()
    }
}

impl Applied {
    /// These names resolve from now on.
    pub fn publish(&self, names: &Names<'_>) {
        let (view, held_back) = (names.view.clone(), names.held_back.clone());
        self.view.store(Some(Arc::new(Served { view, held_back, since: Instant::now() })));
    }

    /// What the last view could not have; `None`: it has all. Returns whether that is news.
    pub fn note(&self, trouble: Option<String>) -> bool {
        let mut noted = self.lock();
        let news = *noted != trouble;
        *noted = trouble;
        news
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Board {
    /// Where a command has to run to be inside.
    pub fn enrolment(&self) -> Enrolment {
        let awaited = self.ready.awaited();
        Enrolment {
            pid: std::process::id(),
            workloads_cgroup: self.workloads_cgroup.clone(),
            proxy_cgroup: self.proxy_cgroup.clone(),
            netns: self.netns_path.clone(),
            ready: awaited.is_empty(),
            awaited,
        }
    }

    /// Everything.
    pub fn status(&self) -> Status {
        let awaited = self.ready.awaited();
        Status {
            instance: self.instance.name().into(),
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_ms: millis(self.started),
            ready: awaited.is_empty(),
            awaited,
            enrolled: vec![Workload { netns_cookie: self.netns.0, view: self.view_name.clone() }],
            datapath: (self.datapath)(),
            views: self.applied.view.load().iter().map(|served| self.view(served)).collect(),
            proxy: (self.proxy)(),
            resolver: self.resolver(),
            source: (self.source)(),
            control_plane: self.control_plane.as_ref().map(|beside| (beside.0)()),
        }
    }

    /// Every name that resolves, in alphabetical order.
    pub fn vips(&self) -> Vec<Vip> {
        let served = self.applied.view.load();
        let Some(Served { view, held_back, .. }) = served.as_deref() else { return Vec::new() };
        let resolves = |name: &&Hostname| !held_back.contains(*name);
        let of_part = |part: &'_ Arc<Part>| {
            let (ports, Addresses { v4, v6 }) = (ports(part), part.addresses());
            let vip = move |name: &Hostname| {
                let (name, view) = (name.as_str().into(), view.name().into());
                Vip { name, v4, v6, ports: ports.clone(), view }
            };
            part.hostnames().iter().filter(resolves).map(vip).collect::<Vec<_>>()
        };
        let mut vips: Vec<Vip> = view.parts().values().flat_map(of_part).collect();
        vips.sort_by(|one, other| one.name.cmp(&other.name));
        vips
    }

    fn view(&self, served: &Served) -> local::View {
        let view = &served.view;
        local::View {
            name: view.name().into(),
            domain: view.header().domain.as_str().into(),
            ttl_secs: view.header().ttl_secs,
            names: served.names() as u64,
            routes: view.routes_len() as u64,
            ranges: view.header().ranges.iter().map(ToString::to_string).collect(),
            version: (self.version)(),
            age_ms: millis(served.since),
            trouble: self.applied.lock().clone(),
        }
    }

    fn resolver(&self) -> local::Resolver {
        let counts = self.resolver.counters.counts();
        let total = |types: &TypeCounts| types.a + types.aaaa + types.other;
        local::Resolver {
            listen: self.listen.clone(),
            answered: total(&counts.mesh),
            forwarded: total(&counts.forwarded),
            failed: counts.failed + counts.overloaded,
            upstreams: self.resolver.nameservers().iter().map(SocketAddr::ip).collect(),
            names: self.resolver.zone.load().len() as u64,
            types: by_type(&counts),
            rcodes: counts.rcodes.clone(),
            dropped: counts.dropped,
            upstream_silent: counts.upstream_silent,
            upstream_refused: counts.upstream_refused,
            upstream_mismatched: counts.upstream_mismatched,
        }
    }
}

fn by_type(Counts { mesh, forwarded, .. }: &Counts) -> BTreeMap<String, u64> {
    let counts = [
        ("A", mesh.a + forwarded.a),
        ("AAAA", mesh.aaaa + forwarded.aaaa),
        ("other", mesh.other + forwarded.other),
    ];
    counts.into_iter().map(|(name, count)| (name.into(), count)).collect()
}

/// How the proxy is: ours as its supervisor sees it, another's as far as we know it.
pub(super) fn of_proxy(config: &Config, proxy: Option<&Proxy>) -> Asked<Option<local::Proxy>> {
    let at = |port: Port| Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port.get()));
    let mode = match config.proxy.uid {
        _ if proxy.is_some() => "started".into(),
        Some(uid) => format!("uid {uid}"),
        None => format!("cgroup {}", config.instance.proxy_cgroup(&config.cgroup2).display()),
    };
    let fixed = local::Proxy { mode, outbound: at(config.ports.outbound), ..local::Proxy::default() };
    let Some(status) = proxy.map(Proxy::status) else { return Box::new(move || Some(fixed.clone())) };
    let admin = at(config.proxy.admin_port);
    Box::new(move || {
        let now = status.borrow();
        let uptime_ms =
            now.started.map(|started| u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
        let (path, pid, restarts) = (Some(now.path.clone()), now.pid, now.restarts);
        Some(local::Proxy { path, pid, uptime_ms, restarts, admin, ..fixed.clone() })
    })
}

/// The ports of what a part's names resolve to.
fn ports(part: &Part) -> Vec<u16> {
    let resolves = |route: &&Route| part.addresses().iter().any(|vip| vip == route.vip);
    let mut ports: Vec<u16> = part.routes().iter().filter(resolves).map(|route| route.port.get()).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
