//! The plan of some resources: everything that each mesh makes of them. Costs all of them: followed changes give it few.
//! Called by follow, and by tests with all there are.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::claims::Claims;
use super::rules::Rules;
use super::token::Token;
use super::{Condition, Conflict, Entry, legacy, mesh_services, virtual_outbounds};
use crate::model::kind::{
    Available, Dataplane, ExternalService, Inbound, MeshExternalService, MeshMultiZoneService, MeshService,
    Meta, Resource,
};
use crate::model::resource::{Protocol, Service, ServiceKey};

/// What some resources become.
#[derive(Default)]
pub(super) struct Drawing {
    pub(super) entries: BTreeMap<ServiceKey, Entry>,
    /// With what each is about.
    pub(super) conflicts: BTreeSet<(Token, Conflict)>,
    pub(super) conditions: BTreeSet<(Token, Condition)>,
}

impl Drawing {
    /// The resources are in order of their keys.
    pub(super) fn of<'r>(rules: &Rules, resources: impl Iterator<Item = &'r Resource>) -> Self {
        let mut drawing = Self::default();
        for (mesh, share) in shares(rules, resources) {
            let mut claims = Claims::new(mesh);
            let backends = legacy::backends(&share);
            if rules.has_tags(mesh) {
                legacy::claim(&mut claims, &rules.settings, &share, &backends);
                virtual_outbounds::claim(&mut claims, rules.outbounds(mesh), &share);
            }
            mesh_services::claim(&mut claims, rules, &share);
            let Claims { entries, conflicts, conditions, .. } = claims;
            drawing.entries.extend(entries);
            drawing.conflicts.extend(conflicts);
            drawing.conditions.extend(conditions);
        }
        drawing
    }
}

/// An inbound and the Dataplane that has it.
#[derive(Clone, Copy)]
pub(super) struct Instance<'r> {
    pub(super) dataplane: &'r Meta,
    pub(super) inbound: &'r Inbound,
}

/// What one mesh has of everything.
#[derive(Default)]
pub(super) struct Share<'r> {
    /// What the short form and the inbounds of Dataplanes add up to, by service tag.
    pub(super) services: BTreeMap<&'r str, Service>,
    pub(super) inbounds: Vec<Instance<'r>>,
    pub(super) available: Vec<&'r Available>,
    pub(super) external_services: Vec<&'r ExternalService>,
    pub(super) mesh_services: Vec<&'r MeshService>,
    pub(super) mesh_external_services: Vec<&'r MeshExternalService>,
    pub(super) mesh_multi_zone_services: Vec<&'r MeshMultiZoneService>,
}

fn shares<'r>(rules: &Rules, resources: impl Iterator<Item = &'r Resource>) -> BTreeMap<&'r str, Share<'r>> {
    let mut shares: BTreeMap<&str, Share<'_>> = BTreeMap::new();
    for resource in resources {
        if let Resource::ZoneIngress(ingress) = resource {
            for available in ingress.offers_to(&rules.settings.zone) {
                shares.entry(&available.mesh).or_default().available.push(available);
            }
            continue;
        }
        shares.entry(&resource.meta().mesh).or_default().add(resource);
    }
    shares
}

impl<'r> Share<'r> {
    fn add(&mut self, resource: &'r Resource) {
        match resource {
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
            Resource::MeshService(service) => self.mesh_services.push(service),
            Resource::MeshExternalService(service) => self.mesh_external_services.push(service),
            Resource::MeshMultiZoneService(service) => self.mesh_multi_zone_services.push(service),
            // They are rules, or none of ours.
            Resource::Mesh(_)
            | Resource::VirtualOutbound(_)
            | Resource::HostnameGenerator(_)
            | Resource::ZoneIngress(_) => {}
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
