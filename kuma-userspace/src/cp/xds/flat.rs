//! A mesh by cluster, as the order of one view works with it. Pure. Called by publisher, order and targets.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;

use crate::cp::snapshot::{self, Endpoint, Outbounds, Protocol};
use crate::model::name::Hostname;
use crate::model::view::{Addresses, Port};

/// One mesh at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct MeshSnapshot {
    pub(super) domain: Hostname,
    pub(super) ttl_secs: u32,
    pub(super) ranges: Vec<IpNetwork>,
    pub(super) outbounds: Outbounds,
    /// By cluster. Ports of one VIP that lead to other places stand beside each other, each with the same VIPs and names.
    pub(super) services: BTreeMap<String, PublishedService>,
}

/// Ports of VIPs that lead to one place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PublishedService {
    pub(super) protocol: Protocol,
    pub(super) hostnames: BTreeSet<Hostname>,
    pub(super) vips: Addresses,
    pub(super) ports: BTreeSet<Port>,
    pub(super) endpoints: BTreeSet<Endpoint>,
}

impl From<&snapshot::MeshSnapshot> for MeshSnapshot {
    fn from(mesh: &snapshot::MeshSnapshot) -> Self {
        let listeners =
            mesh.vips.values().flat_map(|vip| vip.entry.listeners.iter().map(move |to| (vip, to)));
        let services = listeners.map(|(vip, listener)| {
            let service = PublishedService {
                protocol: listener.protocol,
                hostnames: vip.entry.hostnames.iter().cloned().collect(),
                vips: vip.addresses,
                ports: listener.ports.iter().copied().collect(),
                endpoints: listener.endpoints.iter().cloned().collect(),
            };
            (listener.cluster.to_string(), service)
        });
        let services = services.collect();
        let snapshot::MeshHeader { domain, ttl_secs, ranges, outbounds } = (*mesh.header).clone();
        Self { domain, ttl_secs, ranges, outbounds, services }
    }
}
