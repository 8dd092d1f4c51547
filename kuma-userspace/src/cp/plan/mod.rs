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
use std::net::SocketAddr;
use std::sync::Arc;

use self::claims::Claims;
use super::resources::Resources;
use super::snapshot;
use crate::model::kind::{
    Available, Dataplane, ExternalService, Inbound, MeshExternalService, MeshMultiZoneService, MeshService,
    MeshServices, Meta, Resource, VirtualOutbound,
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

/// An inbound and the Dataplane that has it.
#[derive(Clone, Copy)]
struct Instance<'r> {
    dataplane: &'r Meta,
    inbound: &'r Inbound,
}

/// What one mesh has of everything.
#[derive(Default)]
struct Share<'r> {
    mode: MeshServices,
    /// What the short form and the inbounds of Dataplanes add up to, by service tag.
    services: BTreeMap<&'r str, Service>,
    inbounds: Vec<Instance<'r>>,
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
    let mut shares = BTreeMap::from([(DEFAULT_MESH, Share::default())]);
    let zone = resources.settings.zone.as_str();
    for (key, resource) in &resources.all {
        let mesh = match &**resource {
            Resource::Mesh(mesh) => &mesh.meta.name,
            Resource::HostnameGenerator(_) | Resource::Secret(_) => continue,
            Resource::ZoneIngress(ingress) => {
                for available in ingress.offers_to(zone) {
                    shares.entry(&available.mesh).or_default().available.push(available);
                }
                continue;
            }
            _ => &key.mesh,
        };
        shares.entry(mesh).or_default().add(resource);
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

impl<'r> Share<'r> {
    fn add(&mut self, resource: &'r Resource) {
        match resource {
            Resource::Mesh(mesh) => self.mode = mesh.mode,
            Resource::Dataplane(Dataplane { meta, inbounds }) => {
                for inbound in inbounds {
                    self.describe(&inbound.service, inbound.protocol, inbound.endpoint);
                    self.inbounds.push(Instance { dataplane: meta, inbound });
                }
            }
            Resource::Service(service) => {
                self.describe(&service.meta.name, service.protocol, service.endpoints.iter().copied());
            }
            Resource::ExternalService(service) => self.external_services.push(service),
            Resource::VirtualOutbound(outbound) => self.virtual_outbounds.push(outbound),
            Resource::MeshService(service) => self.mesh_services.push(service),
            Resource::MeshExternalService(service) => self.mesh_external_services.push(service),
            Resource::MeshMultiZoneService(service) => self.mesh_multi_zone_services.push(service),
            Resource::ZoneIngress(_) | Resource::HostnameGenerator(_) | Resource::Secret(_) => {}
        }
    }

    fn describe(
        &mut self,
        name: &'r str,
        protocol: Protocol,
        endpoints: impl IntoIterator<Item = SocketAddr>,
    ) {
        let service = self.services.entry(name);
        let service = service
            .and_modify(|service| service.protocol = service.protocol.common(protocol))
            .or_insert_with(|| Service { protocol, endpoints: BTreeSet::new() });
        service.endpoints.extend(endpoints);
    }
}

impl Backend {
    /// One of several instances.
    fn add(&mut self, first: bool, protocol: Protocol, endpoints: impl IntoIterator<Item = Endpoint>) {
        self.protocol = if first { protocol } else { self.protocol.common(protocol) };
        self.endpoints.extend(endpoints);
    }
}
