//! What the control plane has decided and stored: every mesh, its VIPs, their names and where each of their ports leads.
//! Keeps: only what the store has is in here (persist before publish); a snapshot shares with the one before it whatever
//! has not changed, so that their difference costs no more than the change. Made by the publish loop, read by xds and dns.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::OrdMap;
use ipnetwork::IpNetwork;

use crate::model::name::Hostname;
pub use crate::model::outbounds::Outbounds;
pub use crate::model::resource::{Endpoint, Protocol};
use crate::model::view::{Addresses, Port};

/// All meshes at one moment; sent through a `watch` channel as an `Arc`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Snapshot {
    pub meshes: BTreeMap<Arc<str>, MeshSnapshot>,
}

/// One mesh at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeshSnapshot {
    pub header: Arc<MeshHeader>,
    /// By who has the VIP, without the mesh: `redis` for a service tag, `host:httpbin.org`, `MeshService:redis`.
    pub vips: OrdMap<Arc<str>, Published>,
}

/// What is said once for a mesh.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeshHeader {
    pub domain: Hostname,
    pub ttl_secs: u32,
    /// The pools that VIPs of this mesh come from, both families.
    pub ranges: Vec<IpNetwork>,
    /// How proxies are told of its VIPs.
    pub outbounds: Outbounds,
}

/// A VIP that has an address of at least one family.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Published {
    /// What its names resolve to.
    pub addresses: Addresses,
    /// What they resolved to until a moment ago, when a pool changed: its ports answer there too, but no name says so.
    /// Nobody else has these addresses.
    pub former: Box<[IpAddr]>,
    pub entry: Arc<Entry>,
}

impl Published {
    /// A VIP that has had these addresses from the start.
    pub fn new(addresses: Addresses, entry: Arc<Entry>) -> Self {
        Self { addresses, former: Box::default(), entry }
    }
}

/// A VIP whatever its addresses: its names, and where its ports lead. No two listeners have a port in common.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// In order.
    pub hostnames: Box<[Hostname]>,
    /// By cluster, in order.
    pub listeners: Box<[Listener]>,
}

/// Ports of a VIP that lead to one place; ports and endpoints are in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listener {
    /// For a service its tag, for example `echo-server_echo-example_svc_1010`; no other VIP of the mesh has it.
    pub cluster: Arc<str>,
    pub ports: Box<[Port]>,
    pub protocol: Protocol,
    pub endpoints: Arc<[Endpoint]>,
}
