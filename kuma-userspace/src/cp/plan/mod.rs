//! From resources to what is to be: who gets a VIP, what it is called, and where each of its ports leads. Pure.
//! Keeps: the same resources give the same plan in whatever order they come; a name belongs to one VIP of its mesh, a port
//! of a VIP leads to one place; who wanted it too and who won is said. Called by cp::publish.

mod claims;
mod generators;
mod legacy;
mod mesh_services;
#[cfg(test)]
mod tests;
mod virtual_outbounds;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::claims::Claims;
use super::resources::Resources;
use super::snapshot;
use crate::model::kind::{
    Available, ExternalService, Inbound, MeshExternalService, MeshMultiZoneService, MeshService,
    MeshServices, VirtualOutbound,
};
use crate::model::name::Hostname;
use crate::model::resource::{DEFAULT_MESH, Endpoint, Protocol, Service, ServiceKey};
use crate::model::view::Port;

/// Everything that is to be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    pub entries: BTreeMap<ServiceKey, Entry>,
    pub conflicts: BTreeSet<Conflict>,
    pub conditions: BTreeSet<Condition>,
    pub meshes: BTreeSet<Arc<str>>,
}

/// A VIP to be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    pub names: BTreeSet<Hostname>,
    /// By cluster: the ports that lead there.
    pub listeners: BTreeMap<String, Listener>,
}

/// Ports that lead to one place.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listener {
    pub ports: BTreeSet<Port>,
    pub backend: Backend,
}

/// Where connections go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Backend {
    pub protocol: Protocol,
    pub endpoints: BTreeSet<Endpoint>,
}

/// Two in a mesh wanted one name, or one port of a name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Conflict {
    pub mesh: String,
    /// `redis.mesh`, or `redis.mesh:6379`.
    pub name: String,
    pub winner: String,
    pub loser: String,
}

/// Why a resource has not got the name that was meant for it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Condition {
    pub mesh: String,
    /// Kind and name: `MeshService redis`.
    pub resource: String,
    /// What was to make the name: `HostnameGenerator local`.
    pub generator: String,
    /// Kuma's words: `Collision`, `TemplateError`.
    pub reason: &'static str,
    pub message: String,
}

/// What one mesh has of everything.
#[derive(Default)]
struct Share<'r> {
    mode: MeshServices,
    services: Vec<(&'r str, &'r Service)>,
    inbounds: Vec<&'r Inbound>,
    available: Vec<&'r Available>,
    external_services: Vec<&'r ExternalService>,
    virtual_outbounds: Vec<&'r VirtualOutbound>,
    mesh_services: Vec<&'r MeshService>,
    mesh_external_services: Vec<&'r MeshExternalService>,
    mesh_multi_zone_services: Vec<&'r MeshMultiZoneService>,
}

/// The plan for these resources.
pub fn build(resources: &Resources) -> Plan {
    let mut plan = Plan::default();
    for (mesh, share) in shares(resources) {
        plan.meshes.insert(mesh.into());
        let mut claims = Claims::new(mesh);
        let backends = legacy::backends(&share);
        if share.mode != MeshServices::Exclusive {
            legacy::claim(&mut claims, &resources.settings, &share, &backends);
            virtual_outbounds::claim(&mut claims, &share);
        }
        mesh_services::claim(&mut claims, resources, &share);
        let Claims { entries, conflicts, conditions, .. } = claims;
        plan.entries.extend(entries);
        plan.conflicts.extend(conflicts);
        plan.conditions.extend(conditions);
    }
    plan
}

fn shares(resources: &Resources) -> BTreeMap<&str, Share<'_>> {
    let Resources { services, kinds, .. } = resources;
    let mut shares = BTreeMap::from([(DEFAULT_MESH, Share::default())]);
    for (name, mesh) in &kinds.meshes {
        shares.entry(name).or_default().mode = mesh.mode;
    }
    for (key, service) in services {
        shares.entry(&key.mesh).or_default().services.push((&key.service, service));
    }
    for inbound in &kinds.inbounds {
        shares.entry(&inbound.mesh).or_default().inbounds.push(inbound);
    }
    for available in &kinds.available {
        shares.entry(&available.mesh).or_default().available.push(available);
    }
    for external in &kinds.external_services {
        shares.entry(&external.meta.mesh).or_default().external_services.push(external);
    }
    for outbound in &kinds.virtual_outbounds {
        shares.entry(&outbound.meta.mesh).or_default().virtual_outbounds.push(outbound);
    }
    for service in &kinds.mesh_services {
        shares.entry(&service.meta.mesh).or_default().mesh_services.push(service);
    }
    for service in &kinds.mesh_external_services {
        shares.entry(&service.meta.mesh).or_default().mesh_external_services.push(service);
    }
    for service in &kinds.mesh_multi_zone_services {
        shares.entry(&service.meta.mesh).or_default().mesh_multi_zone_services.push(service);
    }
    shares
}

impl From<&Entry> for snapshot::Entry {
    fn from(entry: &Entry) -> Self {
        let listeners = entry.listeners.iter().map(|(cluster, listener)| snapshot::Listener {
            cluster: cluster.as_str().into(),
            ports: listener.ports.iter().copied().collect(),
            protocol: listener.backend.protocol,
            endpoints: listener.backend.endpoints.iter().cloned().collect(),
        });
        Self { hostnames: entry.names.iter().cloned().collect(), listeners: listeners.collect() }
    }
}

impl Backend {
    /// One of several instances.
    fn add(&mut self, first: bool, protocol: Protocol, endpoints: impl IntoIterator<Item = Endpoint>) {
        self.protocol = if first { protocol } else { self.protocol.common(protocol) };
        self.endpoints.extend(endpoints);
    }
}
