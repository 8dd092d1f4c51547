//! What the control plane has decided and stored: every mesh, its services, their names, VIPs and endpoints.
//! Keeps: only what the store has is in here (persist before publish). Made by the publish loop, read by xds.

use std::collections::{BTreeMap, BTreeSet};

use ipnetwork::IpNetwork;

use crate::model::name::Hostname;
pub use crate::model::outbounds::Outbounds;
pub use crate::model::resource::{Endpoint, Protocol};
use crate::model::view::{Addresses, Port};

/// All meshes at one moment; sent through a `watch` channel as an `Arc`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    pub meshes: BTreeMap<String, MeshSnapshot>,
}

/// One mesh at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeshSnapshot {
    pub domain: Hostname,
    pub ttl_secs: u32,
    /// The pools that VIPs of this mesh come from, both families.
    pub ranges: Vec<IpNetwork>,
    /// How proxies are told of its VIPs.
    pub outbounds: Outbounds,
    /// By cluster: for a service its tag, for example `echo-server_echo-example_svc_1010`. Ports of one VIP that lead to
    /// other places stand beside each other, each with the same VIPs and names.
    pub services: BTreeMap<String, PublishedService>,
}

/// Ports of VIPs that lead to one place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PublishedService {
    pub protocol: Protocol,
    pub hostnames: BTreeSet<Hostname>,
    pub vips: Addresses,
    /// The ports that its VIPs listen on; Kuma's `serviceVipPort` (80) is one of them.
    pub ports: BTreeSet<Port>,
    pub endpoints: BTreeSet<Endpoint>,
}
