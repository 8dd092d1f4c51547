//! What one class of workloads sees of the mesh: an immutable snapshot of routes and names, and the steps from one
//! snapshot to the next. Keeps: every name of a view has a route. Called by wire (decoding), agent (apply), dns (zone).

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;
pub use kuma_ebpf_common::addr::Port;

use crate::model::name::Hostname;

/// A view's key in the kernel maps: the same name has the same number on every start, so that pins can be adopted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ViewId(u32);

impl ViewId {
    /// FNV-1a of the view's name; 0 is kept free.
    pub fn of(name: &str) -> Self {
        let hash = name.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        Self(hash.max(1))
    }

    /// The number as it stands in the maps.
    pub fn get(self) -> u32 {
        self.0
    }

    /// A number that was read from the maps.
    pub fn from_raw(raw: u32) -> Self {
        Self(raw)
    }
}

/// A virtual address and port whose TCP connections go to the proxy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Route {
    pub vip: IpAddr,
    pub port: Port,
}

/// The addresses that a name resolves to. At least one is there: [`MeshView::new`] checks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Addresses {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

impl Addresses {
    /// Both families, IPv4 first.
    pub fn iter(self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// What a class of workloads with the same outbound configuration sees of the mesh.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeshView {
    name: String,
    pub domain: Hostname,
    pub ttl_secs: u32,
    pub ranges: Vec<IpNetwork>,
    pub routes: BTreeSet<Route>,
    names: BTreeMap<Hostname, Addresses>,
}

/// Why a snapshot was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ViewError {
    #[error("name {name} of view {view:?} has no address")]
    NoAddress { view: String, name: Hostname },
    #[error("name {name} of view {view:?} resolves to {vip}, which has no route")]
    NoRoute { view: String, name: Hostname, vip: IpAddr },
    #[error("route to {vip} of view {view:?} lies outside the VIP ranges of the view")]
    OutOfRange { view: String, vip: IpAddr },
}

impl MeshView {
    /// A view that nothing is known of yet: no route, no name.
    pub fn empty(name: &str, domain: Hostname) -> Self {
        let (routes, names) = (BTreeSet::new(), BTreeMap::new());
        Self { name: name.into(), domain, ttl_secs: 60, ranges: Vec::new(), routes, names }
    }

    /// `base` with these routes and names.
    ///
    /// # Errors
    /// A name without address, a name whose address has no route, a route outside `base.ranges`.
    pub fn with(
        base: Self,
        routes: BTreeSet<Route>,
        names: BTreeMap<Hostname, Addresses>,
    ) -> Result<Self, ViewError> {
        let view = || base.name.clone();
        for route in &routes {
            if !base.ranges.iter().any(|range| range.contains(route.vip)) {
                return Err(ViewError::OutOfRange { view: view(), vip: route.vip });
            }
        }
        let routed: BTreeSet<IpAddr> = routes.iter().map(|r| r.vip).collect();
        for (name, addresses) in &names {
            if addresses.iter().next().is_none() {
                return Err(ViewError::NoAddress { view: view(), name: name.clone() });
            }
            if let Some(vip) = addresses.iter().find(|vip| !routed.contains(vip)) {
                return Err(ViewError::NoRoute { view: view(), name: name.clone(), vip });
            }
        }
        Ok(Self { routes, names, ..base })
    }

    /// The same view with only those names whose addresses please `keep`; its routes stay.
    pub fn retain_names(&self, keep: impl Fn(Addresses) -> bool) -> Self {
        let mut kept = self.clone();
        kept.names.retain(|_, addresses| keep(*addresses));
        kept
    }

    /// The view's name, for example the mesh's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The view's key in the kernel maps.
    pub fn id(&self) -> ViewId {
        ViewId::of(&self.name)
    }

    /// The routes to one virtual address, by port.
    pub fn routes_of(&self, vip: IpAddr) -> impl Iterator<Item = Route> {
        let (first, last) = (Route { vip, port: Port::ZERO }, Route { vip, port: Port::new(u16::MAX) });
        self.routes.range(first..=last).copied()
    }

    /// Every name and what it resolves to.
    pub fn names(&self) -> &BTreeMap<Hostname, Addresses> {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base() -> MeshView {
        let mut view = MeshView::empty("default", Hostname::parse("mesh").unwrap());
        view.ranges = vec!["240.0.0.0/4".parse().unwrap()];
        view
    }

    fn route(vip: &str) -> Route {
        Route { vip: vip.parse().unwrap(), port: Port::new(80) }
    }

    #[test]
    fn a_name_without_a_route_is_refused() {
        let name = Hostname::parse("redis.mesh").unwrap();
        let addresses = Addresses { v4: Some("240.0.0.1".parse().unwrap()), v6: None };
        let names = BTreeMap::from([(name, addresses)]);
        assert!(MeshView::with(base(), BTreeSet::from([route("240.0.0.1")]), names.clone()).is_ok());
        let refused = MeshView::with(base(), BTreeSet::new(), names);
        assert!(matches!(refused, Err(ViewError::NoRoute { .. })));
    }

    #[test]
    fn a_route_outside_the_ranges_is_refused() {
        let refused = MeshView::with(base(), BTreeSet::from([route("10.0.0.1")]), BTreeMap::new());
        assert!(matches!(refused, Err(ViewError::OutOfRange { .. })));
    }

    #[test]
    fn a_view_keeps_its_number() {
        assert_eq!(ViewId::of("default"), ViewId::of("default"));
        assert_ne!(ViewId::of("default"), ViewId::of("other"));
    }
}
