//! From a mesh as the store has it to what each client should see of it in the end. Pure. Called by order.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use crate::cp::snapshot::Protocol;
use crate::model::view::{Addresses, Changes, Header, MeshView, Part, Route, ViewError};
use crate::wire::envoy::{self, Codec};

use super::flat::{MeshSnapshot, PublishedService};
use super::shape::{Shape, Spread};

/// Where the connections to a VIP and port go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Target {
    pub(super) service: String,
    pub(super) codec: Codec,
    pub(super) shape: Shape,
}

impl Target {
    /// The cluster that `route` needs.
    pub(super) fn cluster(&self, route: Route) -> String {
        match self.shape {
            Shape::Listener => envoy::cluster_name(&self.service).into_owned(),
            Shape::Compact => envoy::outbound_name(route),
        }
    }
}

/// Every VIP and port of a mesh, kept in step with it. Each leads to one place: what shares a VIP has other ports.
#[derive(Debug, Default)]
pub(super) struct Targets {
    by_route: BTreeMap<Route, Target>,
    tcp: usize,
    http: usize,
    spread: Spread,
}

/// What a new state of a mesh changes.
#[derive(Debug, Default)]
pub(super) struct Difference {
    pub(super) services: Vec<String>,
    pub(super) routes: BTreeSet<Route>,
}

impl Targets {
    /// Where this VIP and port leads.
    pub(super) fn get(&self, route: Route) -> Option<&Target> {
        self.by_route.get(&route)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.by_route.len()
    }

    /// How many of them have which shape.
    pub(super) fn spread(&self) -> Spread {
        self.spread
    }

    /// Takes the step from `old` to `new`. Costs a comparison of all services, and the rest only for those that differ.
    pub(super) fn follow(&mut self, old: Option<&MeshSnapshot>, new: &MeshSnapshot) -> Difference {
        let none = BTreeMap::new();
        let old = old.map_or(&none, |mesh| &mesh.services);
        let services = differing(old, &new.services);
        let mut touched = BTreeSet::new();
        for (name, service) in services.iter().filter_map(|name| old.get_key_value(name)) {
            for route in routes(service) {
                if self.by_route.get(&route).is_some_and(|target| target.service == *name) {
                    self.by_route.remove(&route);
                    *self.count(codec(service.protocol)) -= 1;
                }
                touched.insert(route);
            }
        }
        for (name, service) in services.iter().filter_map(|name| new.services.get_key_value(name)) {
            let codec = codec(service.protocol);
            for route in routes(service) {
                let target = Target { service: name.clone(), codec, shape: self.spread.shape(codec) };
                if let Some(other) = self.by_route.insert(route, target) {
                    *self.count(other.codec) -= 1;
                }
                *self.count(codec) += 1;
                touched.insert(route);
            }
        }
        self.reshape(new, &mut touched);
        Difference { services, routes: touched }
    }

    /// Gives each its shape, which depends on how many there are.
    fn reshape(&mut self, mesh: &MeshSnapshot, touched: &mut BTreeSet<Route>) {
        let before = std::mem::replace(&mut self.spread, Spread::of(mesh.outbounds, self.tcp, self.http));
        let spread = self.spread;
        if [Codec::Tcp, Codec::Http].into_iter().all(|codec| before.shape(codec) == spread.shape(codec)) {
            return;
        }
        for (route, target) in &mut self.by_route {
            let shape = spread.shape(target.codec);
            if std::mem::replace(&mut target.shape, shape) != shape {
                touched.insert(*route);
            }
        }
    }

    fn count(&mut self, codec: Codec) -> &mut usize {
        match codec {
            Codec::Tcp => &mut self.tcp,
            Codec::Http => &mut self.http,
        }
    }
}

/// The names of services that are in one state and not, or not as they are, in the other; in one pass over both.
fn differing(
    old: &BTreeMap<String, PublishedService>,
    new: &BTreeMap<String, PublishedService>,
) -> Vec<String> {
    let (mut old, mut new) = (old.iter().peekable(), new.iter().peekable());
    let mut names = Vec::new();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return names,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let left = old.next_if(|_| order.is_le());
        let right = new.next_if(|_| order.is_ge());
        if left != right {
            names.extend(left.or(right).map(|(name, _)| name.clone()));
        }
    }
}

/// The mesh as agents may see it while only `working` routes work: a name shows the addresses behind it that do.
///
/// # Errors
/// A mesh that breaks the model's own rules.
pub(super) fn view(
    name: &str,
    mesh: &MeshSnapshot,
    working: &BTreeSet<Route>,
) -> Result<MeshView, ViewError> {
    // What shares a VIP is one part, under the first of their names.
    let mut by_vip: BTreeMap<Addresses, Vec<&str>> = BTreeMap::new();
    for (name, service) in &mesh.services {
        by_vip.entry(service.vips).or_default().push(name);
    }
    let mut changes = Changes::default();
    for (vips, names) in by_vip {
        let services = || names.iter().filter_map(|name| mesh.services.get(*name));
        let routes: Vec<Route> =
            services().flat_map(routes).filter(|route| working.contains(route)).collect();
        let reachable = |vip: IpAddr| routes.iter().any(|route| route.vip == vip);
        let addresses = Addresses {
            v4: vips.v4.filter(|&v4| reachable(IpAddr::V4(v4))),
            v6: vips.v6.filter(|&v6| reachable(IpAddr::V6(v6))),
        };
        if routes.is_empty() {
            continue;
        }
        let hostnames = services().flat_map(|service| service.hostnames.iter().cloned()).collect();
        let part = Part::new(hostnames, addresses, routes).expect("every address has a route: see above");
        changes.parts.insert(names[0].into(), Some(Arc::new(part)));
    }
    let (domain, ranges) = (mesh.domain.clone(), mesh.ranges.clone());
    MeshView::new(name, Header { domain, ttl_secs: mesh.ttl_secs, ranges }).with(changes)
}

fn routes(service: &PublishedService) -> impl Iterator<Item = Route> + '_ {
    service.vips.iter().flat_map(|vip| service.ports.iter().map(move |&port| Route { vip, port }))
}

fn codec(protocol: Protocol) -> Codec {
    match protocol {
        Protocol::Tcp => Codec::Tcp,
        Protocol::Http => Codec::Http,
    }
}
