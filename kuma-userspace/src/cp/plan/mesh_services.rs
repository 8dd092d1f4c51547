//! MeshServices, MeshExternalServices and MeshMultiZoneServices: a VIP each, with the ports of the resource.
//! Called by plan.

use std::collections::HashMap;
use std::rc::Rc;

use super::Backend;
use super::claims::{Claim, Claims};
use super::drawing::{Instance, Share};
use super::generators::{self, Named};
use super::rules::Rules;
use crate::model::kind::{Inbound, MeshService, Meta, SERVICE_TAG, Selector, ServicePort, Tags, TargetPort};
use crate::model::resource::{Endpoint, Kind, Protocol, Service};
use crate::model::view::Port;

pub(super) fn claim(claims: &mut Claims<'_>, rules: &Rules, share: &Share<'_>) {
    let Share { mesh_services, mesh_external_services, mesh_multi_zone_services, .. } = share;
    if mesh_services.is_empty() && mesh_external_services.is_empty() && mesh_multi_zone_services.is_empty() {
        return;
    }
    let zone = rules.settings.zone.as_str();
    let finder = Finder::new(share);
    let mut named = Vec::new();
    for service in mesh_services {
        for port in &service.ports {
            let backend = finder.backend(service, port);
            listen(claims, Kind::MeshService, &service.meta, port.port, backend);
        }
        named.push(Named::new(zone, Kind::MeshService, &service.meta));
    }
    for service in mesh_external_services {
        let backend =
            Backend { protocol: service.protocol, endpoints: service.endpoints.iter().cloned().collect() };
        listen(claims, Kind::MeshExternalService, &service.meta, service.port, backend);
        named.push(Named::new(zone, Kind::MeshExternalService, &service.meta));
    }
    let members: Vec<(Tags, &MeshService)> =
        mesh_services.iter().map(|service| (generators::labels(zone, &service.meta), *service)).collect();
    for service in mesh_multi_zone_services {
        for port in &service.ports {
            let backend = together(&finder, &members, &service.selector, port);
            listen(claims, Kind::MeshMultiZoneService, &service.meta, port.port, backend);
        }
        named.push(Named::new(zone, Kind::MeshMultiZoneService, &service.meta));
    }
    generators::claim(claims, rules, named);
}

fn listen(claims: &mut Claims<'_>, kind: Kind, meta: &Meta, port: Port, backend: Backend) {
    let key = claims.key(kind, &meta.name);
    let who: Rc<str> = format!("{} {}", kind.word(), meta.name).into();
    let cluster = format!("{}:{}", key.local(), port.get());
    let what = cluster.as_str().into();
    claims.port(&key, Claim { port, who, what, shown: None, cluster, backend });
}

/// What the matching MeshServices have on a port, together.
fn together(
    finder: &Finder<'_>,
    members: &[(Tags, &MeshService)],
    selector: &Tags,
    port: &ServicePort,
) -> Backend {
    let mut backend = Backend::default();
    let mut first = true;
    for (labels, service) in members {
        if !labels.has(selector) {
            continue;
        }
        for theirs in service.ports.iter().filter(|theirs| theirs.port == port.port) {
            let found = finder.backend(service, theirs);
            backend.add(std::mem::take(&mut first), found.protocol, found.endpoints);
        }
    }
    if let Some(protocol) = port.protocol {
        backend.protocol = protocol;
    }
    backend
}

/// Finds instances by tag, name or label.
struct Finder<'r> {
    inbounds: &'r [Instance<'r>],
    by_tag: HashMap<(&'r str, &'r str), Vec<Instance<'r>>>,
    by_dataplane: HashMap<&'r str, Vec<Instance<'r>>>,
    /// Services of the short form.
    plain: HashMap<&'r str, &'r Service>,
}

impl<'r> Finder<'r> {
    fn new(share: &'r Share<'r>) -> Self {
        let (mut by_tag, mut by_dataplane) = (HashMap::<_, Vec<_>>::new(), HashMap::<_, Vec<_>>::new());
        for &instance in &share.inbounds {
            for (key, value) in instance.inbound.tags.iter() {
                by_tag.entry((key, value)).or_default().push(instance);
            }
            by_dataplane.entry(&*instance.dataplane.name).or_default().push(instance);
        }
        let services = share.services.iter().map(|(name, service)| (*name, service));
        let plain = services.filter(|(name, _)| !by_tag.contains_key(&(SERVICE_TAG, *name))).collect();
        Self { inbounds: &share.inbounds, by_tag, by_dataplane, plain }
    }

    /// Where a port of a MeshService leads.
    fn backend(&self, service: &MeshService, port: &ServicePort) -> Backend {
        let found: Vec<Instance<'_>> = match &service.selector {
            Selector::Nobody => Vec::new(),
            Selector::Name(name) => self.by_dataplane.get(&**name).cloned().unwrap_or_default(),
            Selector::Labels(labels) => self
                .inbounds
                .iter()
                .copied()
                .filter(|instance| instance.dataplane.labels.has(labels))
                .collect(),
            Selector::Tags(tags) => {
                let lists = tags
                    .iter()
                    .map(|(key, value)| self.by_tag.get(&(key, value)).map_or(&[][..], Vec::as_slice));
                let least = lists.min_by_key(|list| list.len()).unwrap_or_default();
                least.iter().copied().filter(|instance| instance.inbound.tags.has(tags)).collect()
            }
        };
        let mut backend = Backend::default();
        let mut first = true;
        for inbound in found.iter().map(|found| found.inbound).filter(|inbound| leads(port, inbound)) {
            backend.add(std::mem::take(&mut first), inbound.protocol, inbound.endpoint.map(Endpoint::from));
        }
        if let Some((protocol, endpoints)) = self.plain_backend(service, port) {
            backend.add(first, protocol, endpoints);
        }
        if let Some(protocol) = port.protocol {
            backend.protocol = protocol;
        }
        backend
    }

    /// A service of the short form, which its tag finds.
    fn plain_backend(&self, service: &MeshService, port: &ServicePort) -> Option<(Protocol, Vec<Endpoint>)> {
        let (Selector::Tags(tags), TargetPort::Number(target)) = (&service.selector, &port.target) else {
            return None;
        };
        let name = tags.get(SERVICE_TAG).filter(|_| tags.len() == 1)?;
        let plain = self.plain.get(name)?;
        let there = plain.endpoints.iter().filter(|endpoint| endpoint.port() == target.get());
        Some((plain.protocol, there.copied().map(Endpoint::from).collect()))
    }
}

fn leads(port: &ServicePort, inbound: &Inbound) -> bool {
    match &port.target {
        TargetPort::Number(number) => *number == inbound.port,
        TargetPort::Name(name) => *name == inbound.name,
    }
}
