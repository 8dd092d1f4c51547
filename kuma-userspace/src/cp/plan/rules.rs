//! What counts for all resources: settings, modes of meshes, and the templates that make names, parsed once.
//! Called by plan.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::generators::Generators;
use super::virtual_outbounds::Outbound;
use crate::cp::resources::Resources;
use crate::cp::settings::Settings;
use crate::model::kind::{Mesh, MeshServices, Resource, ResourceKind};

pub(super) struct Rules {
    pub(super) settings: Settings,
    /// Meshes in which service tags have no VIP.
    exclusive: BTreeSet<Arc<str>>,
    outbounds: BTreeMap<Arc<str>, Vec<Outbound>>,
    pub(super) generators: Generators,
}

impl Rules {
    pub(super) fn of(resources: &Resources) -> Self {
        let mut rules = Self {
            settings: resources.settings.clone(),
            exclusive: BTreeSet::new(),
            outbounds: BTreeMap::new(),
            generators: Generators::of(resources),
        };
        for resource in resources.of(ResourceKind::Mesh) {
            rules.exclusive.extend(exclusive(resource).cloned());
        }
        for resource in resources.of(ResourceKind::VirtualOutbound) {
            if let Resource::VirtualOutbound(outbound) = resource {
                rules.outbounds.entry(outbound.meta.mesh.clone()).or_default().push(Outbound::new(outbound));
            }
        }
        rules
    }

    /// Is the plan of every resource the same under the settings of `other`?
    pub(super) fn settings_hold_for(&self, other: &Settings) -> bool {
        let what = |settings: &Settings| {
            let Settings { service_vip_enabled, service_vip_port, .. } = *settings;
            (settings.domain.clone(), settings.zone.clone(), service_vip_enabled, service_vip_port)
        };
        what(&self.settings) == what(other)
    }

    /// Have service tags VIPs in this mesh?
    pub(super) fn has_tags(&self, mesh: &str) -> bool {
        !self.exclusive.contains(mesh)
    }

    /// The VirtualOutbounds of a mesh, by name.
    pub(super) fn outbounds(&self, mesh: &str) -> &[Outbound] {
        self.outbounds.get(mesh).map_or(&[], Vec::as_slice)
    }
}

/// Is one of the rules another when this resource is?
pub(super) fn changes_rules(old: Option<&Resource>, new: Option<&Resource>) -> bool {
    match old.or(new) {
        Some(Resource::VirtualOutbound(_) | Resource::HostnameGenerator(_)) => true,
        Some(Resource::Mesh(_)) => old.and_then(exclusive) != new.and_then(exclusive),
        _ => false,
    }
}

/// The name of a mesh in which service tags have no VIP.
fn exclusive(resource: &Resource) -> Option<&Arc<str>> {
    match resource {
        Resource::Mesh(Mesh { meta, mode: MeshServices::Exclusive }) => Some(&meta.name),
        _ => None,
    }
}
