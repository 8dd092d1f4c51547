//! From a mesh as the store has it to what each client should see of it in the end. Pure. Called by order.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::cp::snapshot::{MeshSnapshot, Protocol, PublishedService};
use crate::model::view::{Addresses, MeshView, Route, ViewError};
use crate::wire::envoy::{self, Codec};

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

/// Every VIP and port of the mesh, and how many have which shape. Two services never share one: the allocator gives each
/// its own VIP.
pub(super) fn targets(mesh: &MeshSnapshot) -> (BTreeMap<Route, Target>, Spread) {
    let (mut tcp, mut http) = (0, 0);
    for service in mesh.services.values() {
        match codec(service.protocol) {
            Codec::Tcp => tcp += routes(service).count(),
            Codec::Http => http += routes(service).count(),
        }
    }
    let spread = Spread::of(mesh.outbounds, tcp, http);
    let mut targets = BTreeMap::new();
    for (name, service) in &mesh.services {
        let codec = codec(service.protocol);
        let target = Target { service: name.clone(), codec, shape: spread.shape(codec) };
        targets.extend(routes(service).map(|route| (route, target.clone())));
    }
    (targets, spread)
}

/// The mesh as agents may see it while only `working` routes work: a name shows the addresses behind it that do.
///
/// # Errors
/// A mesh that breaks the model's own rules.
pub(super) fn view(name: &str, mesh: &MeshSnapshot, working: BTreeSet<Route>) -> Result<MeshView, ViewError> {
    let reachable: BTreeSet<IpAddr> = working.iter().map(|route| route.vip).collect();
    let mut names = BTreeMap::new();
    for service in mesh.services.values() {
        let addresses = Addresses {
            v4: service.vips.v4.filter(|&v4| reachable.contains(&IpAddr::V4(v4))),
            v6: service.vips.v6.filter(|&v6| reachable.contains(&IpAddr::V6(v6))),
        };
        if addresses.iter().next().is_some() {
            names.extend(service.hostnames.iter().map(|name| (name.clone(), addresses)));
        }
    }
    let mut base = MeshView::empty(name, mesh.domain.clone());
    base.ttl_secs = mesh.ttl_secs;
    base.ranges.clone_from(&mesh.ranges);
    MeshView::with(base, working, names)
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
