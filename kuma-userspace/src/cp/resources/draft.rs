//! What one file says, and the checks that need more than one document: names under the domain, endpoints outside of the
//! pools, what is given twice, room in the pools.
//! Keeps: the order of files and documents has no effect but on which of two is called the second.
//! Called by cp::resources (everything at once) and cp::registry (one file, or one document, at a time).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use ipnetwork::IpNetwork;

use crate::cp::names;
use crate::cp::settings::{IpamDraft, PoolPlaces, Settings, Source};
use crate::cp::violation::{Place, Violation};
use crate::model::kind::{Resource, ResourceKey, ResourceKind};
use crate::model::name::Hostname;
use crate::model::tags::Interner;

/// Which form described a service.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(in crate::cp) enum Form {
    Short,
    Dataplane,
}

/// A description of a service, or of an instance of it.
#[derive(Debug)]
pub(in crate::cp) struct Described {
    pub(in crate::cp) mesh: Arc<str>,
    pub(in crate::cp) service: Arc<str>,
    pub(in crate::cp) form: Form,
    pub(in crate::cp) place: Place,
}

/// A resource, and the document that it was read from as canonical JSON; the short form has none.
#[derive(Debug)]
pub(in crate::cp) struct Found {
    pub(in crate::cp) resource: Arc<Resource>,
    pub(in crate::cp) body: Option<Arc<str>>,
}

/// What one file, or one document, says.
#[derive(Debug, Default)]
pub(in crate::cp) struct Draft {
    pub(super) texts: Interner,
    /// Were there settings, which are settled by now?
    pub(super) settled: bool,
    pub(super) settings: Vec<(Settings, PoolPlaces, Place)>,
    pub(super) ipam: Vec<(IpamDraft, Place)>,
    pub(super) zone: Vec<(String, Place)>,
    pub(in crate::cp) found: Vec<Found>,
    /// Where resources of Kuma's kinds stand.
    pub(in crate::cp) named: Vec<(ResourceKey, Place)>,
    pub(in crate::cp) described: Vec<Described>,
    /// Service tags outside of Dataplanes, which must be names under the domain.
    pub(super) tagged: Vec<(Arc<str>, Place)>,
    /// Each endpoint's place is kept until the pools are known.
    pub(super) endpoints: Vec<(SocketAddr, Place)>,
}

impl Draft {
    pub(super) fn named(&mut self, kind: ResourceKind, mesh: &str, name: &str, place: Place) {
        self.named.push((ResourceKey::new(kind, mesh, name), place));
    }

    pub(super) fn add(&mut self, resource: Resource) {
        self.found.push(Found { resource: Arc::new(resource), body: None });
    }

    /// Gives back what it was read with.
    pub(in crate::cp) fn take_texts(&mut self) -> Interner {
        std::mem::take(&mut self.texts)
    }

    /// Does it hold settings of any kind?
    pub(in crate::cp) fn has_settings(&self) -> bool {
        self.settled || !(self.settings.is_empty() && self.ipam.is_empty() && self.zone.is_empty())
    }

    /// What the settings forbid: names that are none under the domain, endpoints in `pools`.
    pub(in crate::cp) fn check_under(
        &mut self,
        settings: &Settings,
        pools: &[IpNetwork],
        violations: &mut Vec<Violation>,
    ) {
        let described = self.described.iter().map(|found| (&found.service, &found.place));
        for (tag, place) in described.chain(self.tagged.iter().map(|(tag, place)| (tag, place))) {
            check_name(tag, &settings.domain, place, violations);
        }
        check_endpoints(self, pools, violations);
    }
}

/// Checks all files together; returns the settings.
pub(super) fn check(
    mut drafts: Vec<&mut Draft>,
    fixed: Option<&Settings>,
    violations: &mut Vec<Violation>,
) -> Settings {
    let (settings, pool_places) = settle(&mut drafts, fixed, violations);
    check_named(&drafts, violations);
    let services = check_described(&drafts, &settings.domain, violations);
    for (tag, place) in drafts.iter().flat_map(|draft| &draft.tagged) {
        check_name(tag, &settings.domain, place, violations);
    }
    let kinds = drafts.iter().flat_map(|draft| &draft.found).map(|found| &*found.resource);
    let pools = used_pools(&settings, &Used::of(kinds));
    for draft in &drafts {
        check_endpoints(draft, &pools, violations);
    }
    let room = settings.pools.room();
    if u128::try_from(services).is_ok_and(|wanted| wanted > room) {
        let problem = format!(
            "no room: the smallest VIP pool holds {room} addresses and there are {services} services: \
             use a larger network such as 240.0.0.0/4 or fd00:fd00::/64"
        );
        let smallest = pool_places.smallest(settings.pools);
        violations.extend(smallest.map(|place| Violation { place, problem }));
    }
    settings
}

/// The settings that the files say, each part once; or those that are fixed, and nothing in the files.
fn settle(
    drafts: &mut [&mut Draft],
    fixed: Option<&Settings>,
    violations: &mut Vec<Violation>,
) -> (Settings, PoolPlaces) {
    let elsewhere = |field: &str| {
        let file = Path::new("the control plane's configuration").into();
        fixed.map(|_| Place { file, line: 0, field: field.into() })
    };
    let (mut dns, mut ipam, mut zone) = (Vec::new(), Vec::new(), Vec::new());
    for draft in drafts {
        draft.settled = draft.has_settings();
        dns.append(&mut draft.settings);
        ipam.append(&mut draft.ipam);
        zone.append(&mut draft.zone);
    }
    once("dnsServer", elsewhere("dnsServer"), dns.iter().map(|(_, _, place)| place), violations);
    once("ipam", elsewhere("ipam"), ipam.iter().map(|(_, place)| place), violations);
    once("multizone", elsewhere("multizone"), zone.iter().map(|(_, place)| place), violations);
    if let Some(fixed) = fixed {
        return (fixed.clone(), PoolPlaces::default());
    }
    let (mut settings, pool_places, dns_place) = match dns.into_iter().next() {
        Some((settings, places, place)) => (settings, places, Some(place)),
        None => Default::default(),
    };
    let ipam = ipam.into_iter().next().map(|(ipam, _)| ipam);
    ipam.unwrap_or_default().finish(&mut settings, dns_place.as_ref(), violations);
    if let Some((zone, _)) = zone.into_iter().next() {
        settings.zone = zone;
    }
    (settings, pool_places)
}

/// A part of the settings is given once.
fn once<'p>(
    part: &str,
    elsewhere: Option<Place>,
    mut places: impl Iterator<Item = &'p Place>,
    violations: &mut Vec<Violation>,
) {
    let Some(first) = elsewhere.or_else(|| places.next().cloned()) else { return };
    for place in places {
        let problem = format!("{part} is given already at {first}: keep one of the two");
        violations.push(Violation { place: place.clone(), problem });
    }
}

/// A resource is given once in all files.
fn check_named(drafts: &[&mut Draft], violations: &mut Vec<Violation>) {
    let mut places: BTreeMap<&ResourceKey, &Place> = BTreeMap::new();
    for (key, place) in drafts.iter().flat_map(|draft| &draft.named) {
        if let Some(first) = places.insert(key, place) {
            let problem = format!("{key} is given already at {first}: keep one of the two");
            violations.push(Violation { place: place.clone(), problem });
        }
    }
}

/// A service is described once, or by the inbounds of Dataplanes, and its name is one under the domain. Returns how many
/// there are.
fn check_described(drafts: &[&mut Draft], domain: &Hostname, violations: &mut Vec<Violation>) -> usize {
    let mut services: BTreeMap<(&str, &str), (Form, &Place)> = BTreeMap::new();
    for Described { mesh, service, form, place } in drafts.iter().flat_map(|draft| &draft.described) {
        match services.entry((mesh, service)) {
            Entry::Vacant(vacant) => {
                check_name(service, domain, place, violations);
                vacant.insert((*form, place));
            }
            Entry::Occupied(occupied) => {
                let (first, at) = occupied.get();
                if (*first, *form) != (Form::Dataplane, Form::Dataplane) {
                    violations.push(Violation {
                        place: place.clone(),
                        problem: described_already(mesh, service, at),
                    });
                }
            }
        }
    }
    services.len()
}

/// The sentence for a service that is described twice.
pub(in crate::cp) fn described_already(mesh: &str, service: &str, at: impl std::fmt::Display) -> String {
    format!("service {service:?} of mesh {mesh:?} is described already at {at}: keep one of the two")
}

fn check_name(tag: &str, domain: &Hostname, place: &Place, violations: &mut Vec<Violation>) {
    if let Err(error) = names::canonical(tag, domain) {
        violations.push(Violation { place: place.clone(), problem: error.to_string() });
    }
}

fn check_endpoints(draft: &Draft, pools: &[IpNetwork], violations: &mut Vec<Violation>) {
    for (endpoint, place) in &draft.endpoints {
        if let Some(pool) = pools.iter().find(|range| range.contains(endpoint.ip())) {
            let problem = format!(
                "endpoint {endpoint} lies in the VIP pool {pool}: write the address where the service really listens"
            );
            violations.push(Violation { place: place.clone(), problem });
        }
    }
}

/// Which of the kinds with pools of their own there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(in crate::cp) struct Used {
    pub(in crate::cp) mesh_services: bool,
    pub(in crate::cp) mesh_external_services: bool,
    pub(in crate::cp) mesh_multi_zone_services: bool,
}

impl Used {
    fn of<'r>(resources: impl Iterator<Item = &'r Resource>) -> Self {
        let mut used = Self::default();
        for resource in resources {
            match resource {
                // Its mode makes a MeshService of every service.
                Resource::Mesh(mesh) if mesh.mode != Default::default() => used.mesh_services = true,
                Resource::MeshService(_) => used.mesh_services = true,
                Resource::MeshExternalService(_) => used.mesh_external_services = true,
                Resource::MeshMultiZoneService(_) => used.mesh_multi_zone_services = true,
                _ => {}
            }
        }
        used
    }
}

/// The networks that no endpoint may lie in. Pools of kinds of which there is none stand for nothing.
pub(in crate::cp) fn used_pools(settings: &Settings, used: &Used) -> Vec<IpNetwork> {
    let is_used = |source: Source| match source {
        Source::Dns => true,
        Source::MeshService => used.mesh_services,
        Source::MeshExternalService => used.mesh_external_services,
        Source::MeshMultiZoneService => used.mesh_multi_zone_services,
    };
    let pools = settings.all_pools();
    pools.ranges().filter(|(source, _)| is_used(*source)).map(|(_, range)| range).collect()
}
