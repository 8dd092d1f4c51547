//! What one class of workloads sees of the mesh: a header and a part for each virtual IP, as an immutable value that is
//! cheap to copy, and the step from one value to the next, which costs only what it changes.
//! Keeps: every name has an address, every address a route; a name is in one part only; every route lies in a range of the
//! view. Called by cp::xds (making), wire (decoding), agent (apply), dns (zone).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use imbl::OrdMap;
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

/// The addresses that a name resolves to. At least one is there: [`Part::new`] checks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
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

/// What holds for a whole view.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    pub domain: Hostname,
    pub ttl_secs: u32,
    pub ranges: Vec<IpNetwork>,
}

/// What stands behind one virtual IP (of both families): its names, and where they lead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Part {
    hostnames: Box<[Hostname]>,
    addresses: Addresses,
    routes: Box<[Route]>,
}

/// Why a part is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PartError {
    #[error("name {name} has no address")]
    NoAddress { name: Hostname },
    #[error("its names resolve to {vip}, which has no route")]
    NoRoute { vip: IpAddr },
}

impl Part {
    /// `hostnames` resolve to `addresses`. There may be more routes than those to `addresses`: a VIP that is given up routes
    /// longer than it resolves.
    ///
    /// # Errors
    /// A name without address, an address without route.
    pub fn new(
        mut hostnames: Vec<Hostname>,
        addresses: Addresses,
        mut routes: Vec<Route>,
    ) -> Result<Self, PartError> {
        hostnames.sort_unstable();
        hostnames.dedup();
        routes.sort_unstable();
        routes.dedup();
        let no_address = addresses == Addresses::default();
        if let Some(name) = hostnames.first().filter(|_| no_address) {
            return Err(PartError::NoAddress { name: name.clone() });
        }
        if let Some(vip) = addresses.iter().find(|&vip| !routes.iter().any(|route| route.vip == vip)) {
            return Err(PartError::NoRoute { vip });
        }
        Ok(Self { hostnames: hostnames.into(), addresses, routes: routes.into() })
    }

    /// Its names, in order, each once.
    pub fn hostnames(&self) -> &[Hostname] {
        &self.hostnames
    }

    /// What each of its names resolves to.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Its routes, in order, each once.
    pub fn routes(&self) -> &[Route] {
        &self.routes
    }
}

/// The step from one view to the next.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// `None`: it stays.
    pub header: Option<Arc<Header>>,
    /// The parts that are new or others than before; `None`: a part is gone.
    pub parts: BTreeMap<Arc<str>, Option<Arc<Part>>>,
}

impl Changes {
    /// These parts come.
    pub fn adding<K: Into<Arc<str>>>(parts: impl IntoIterator<Item = (K, Part)>) -> Self {
        let parts = parts.into_iter().map(|(key, part)| (key.into(), Some(Arc::new(part))));
        Self { header: None, parts: parts.collect() }
    }
}

/// What a class of workloads with the same outbound configuration sees of the mesh.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeshView {
    name: Arc<str>,
    header: Arc<Header>,
    parts: OrdMap<Arc<str>, Arc<Part>>,
    names: OrdMap<Hostname, Addresses>,
    /// Of all parts together; kept, not counted.
    routes: usize,
}

/// Why a step cannot be taken.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ViewError {
    #[error("the route to {vip} lies outside the VIP ranges of the view")]
    OutOfRange { part: Arc<str>, vip: IpAddr },
    #[error("name {name} belongs to another part already")]
    NameTwice { part: Arc<str>, name: Hostname },
}

impl ViewError {
    /// The part that is at fault.
    pub fn part(&self) -> &str {
        let (Self::OutOfRange { part, .. } | Self::NameTwice { part, .. }) = self;
        part
    }
}

impl MeshView {
    /// A view that nothing is known of yet: no route, no name.
    pub fn empty(name: &str, domain: Hostname) -> Self {
        Self::new(name, Header { domain, ttl_secs: 60, ranges: Vec::new() })
    }

    /// A view without parts.
    pub fn new(name: &str, header: Header) -> Self {
        let (parts, names) = (OrdMap::new(), OrdMap::new());
        Self { name: name.into(), header: Arc::new(header), parts, names, routes: 0 }
    }

    /// The view after these changes. Costs what changes, whatever the size of the view; only other ranges cost a look at
    /// every part.
    ///
    /// # Errors
    /// A name in two parts, a route outside the ranges; then this view is what stays.
    pub fn with(&self, changes: Changes) -> Result<Self, ViewError> {
        let mut next = self.clone();
        if let Some(header) = changes.header {
            next.header = header;
        }
        // A name may move from one part to another: it leaves before it comes.
        for part in changes.parts.keys().filter_map(|key| self.parts.get(key)) {
            next.routes -= part.routes.len();
            for name in &part.hostnames {
                next.names.remove(name);
            }
        }
        for (key, part) in changes.parts {
            match part {
                Some(part) => next.insert(key, part)?,
                None => drop(next.parts.remove(&key)),
            }
        }
        if next.header.ranges != self.header.ranges {
            for (key, part) in &next.parts {
                next.header.check(key, part)?;
            }
        }
        Ok(next)
    }

    fn insert(&mut self, key: Arc<str>, part: Arc<Part>) -> Result<(), ViewError> {
        self.header.check(&key, &part)?;
        for name in &part.hostnames {
            if self.names.insert(name.clone(), part.addresses).is_some() {
                return Err(ViewError::NameTwice { part: key, name: name.clone() });
            }
        }
        self.routes += part.routes.len();
        self.parts.insert(key, part);
        Ok(())
    }

    /// The same view with only those names whose addresses please `keep`; its routes stay.
    pub fn retain_names(&self, keep: impl Fn(Addresses) -> bool) -> Self {
        let kept = self.names.iter().filter(|(_, addresses)| keep(**addresses));
        let names = kept.map(|(name, addresses)| (name.clone(), *addresses)).collect();
        Self { names, ..self.clone() }
    }

    /// The view's name, for example the mesh's.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The view's key in the kernel maps.
    pub fn id(&self) -> ViewId {
        ViewId::of(&self.name)
    }

    /// What holds for all of it.
    pub fn header(&self) -> &Arc<Header> {
        &self.header
    }

    /// What stands behind each virtual IP, by the service's name. [`OrdMap::diff`] of two views that one has come from the
    /// other by [`Self::with`] costs what is different.
    pub fn parts(&self) -> &OrdMap<Arc<str>, Arc<Part>> {
        &self.parts
    }

    /// Every route, each once; in order within a part.
    pub fn routes(&self) -> impl Iterator<Item = Route> {
        self.parts.values().flat_map(|part| part.routes.iter().copied())
    }

    /// How many routes there are.
    pub fn routes_len(&self) -> usize {
        self.routes
    }

    /// Every name and what it resolves to.
    pub fn names(&self) -> &OrdMap<Hostname, Addresses> {
        &self.names
    }
}

impl Header {
    fn check(&self, key: &Arc<str>, part: &Part) -> Result<(), ViewError> {
        let outside = |route: &&Route| !self.ranges.iter().any(|range| range.contains(route.vip));
        match part.routes.iter().find(outside) {
            Some(route) => Err(ViewError::OutOfRange { part: key.clone(), vip: route.vip }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
