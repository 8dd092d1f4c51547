//! Resource files in, checked resources out: settings, and services by mesh and tag.
//! Keeps: all or nothing (a single mistake and nothing is used), every mistake reported at once, the order of files and
//! documents without effect. Called by cp (check, open) and cp::watch.

mod dataplane;
mod derived;
mod external;
pub mod files;
mod generator;
mod mesh;
mod mesh_service;
mod meta;
mod short;
mod virtual_outbound;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imbl::OrdMap;
use ipnetwork::IpNetwork;

use super::names;
use super::settings::{self, Settings, Source};
use super::violation::{FieldPath, Invalid, Place, Reader, Violation, advice};
use super::yaml::{self, Node, Value};
use crate::model::kind::{Dataplane, Inbound, Mesh, MeshServices, Meta, Resource, ResourceKey, ResourceKind};
use crate::model::name::Hostname;
use crate::model::resource::{DEFAULT_MESH, Kind, Protocol, Service, ServiceKey};
use crate::model::tags::Interner;

/// Kinds of resources that are read, in Kuma's words.
const KINDS: [&str; 9] = [
    "Dataplane",
    "ExternalService",
    "HostnameGenerator",
    "Mesh",
    "MeshExternalService",
    "MeshMultiZoneService",
    "MeshService",
    "VirtualOutbound",
    "ZoneIngress",
];
/// Longest name of a mesh: it names a view as well.
const MAX_MESH_BYTES: usize = 63;

/// Everything that is there, from whatever origin: checked, and complete with what is there from the start and what is
/// derived.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Resources {
    pub settings: Settings,
    pub all: OrdMap<ResourceKey, Arc<Resource>>,
}

impl Resources {
    /// The resources of one kind, by mesh and name.
    pub fn of(&self, kind: ResourceKind) -> impl Iterator<Item = &Resource> {
        let first = ResourceKey::new(kind, "", "");
        let of_kind = move |(key, _): &(&ResourceKey, &Arc<Resource>)| key.kind == kind;
        self.all.range(first..).take_while(of_kind).map(|(_, resource)| &**resource)
    }

    /// What the short form and the inbounds of Dataplanes add up to.
    pub fn services(&self) -> BTreeMap<ServiceKey, Service> {
        let mut services: BTreeMap<ServiceKey, Service> = BTreeMap::new();
        let mut add = |mesh: &Arc<str>, service: &Arc<str>, protocol: Protocol, endpoints: &[SocketAddr]| {
            let key = ServiceKey { mesh: mesh.clone(), kind: Kind::Service, service: service.clone() };
            let service = services.entry(key).or_insert_with(|| Service { protocol, ..Service::default() });
            service.protocol = service.protocol.common(protocol);
            service.endpoints.extend(endpoints);
        };
        for resource in self.all.values() {
            match &**resource {
                Resource::Dataplane(Dataplane { meta, inbounds }) => {
                    for Inbound { service, protocol, endpoint, .. } in inbounds {
                        add(&meta.mesh, service, *protocol, endpoint.as_slice());
                    }
                }
                Resource::Service(service) => {
                    let Meta { mesh, name, .. } = &service.meta;
                    add(mesh, name, service.protocol, &service.endpoints);
                }
                _ => {}
            }
        }
        services
    }
}

/// Reads files and directories of resources.
///
/// # Errors
/// Every mistake in every file.
pub fn read(paths: &[PathBuf]) -> Result<Resources, Invalid> {
    read_under(paths, None)
}

/// The same under settings that are fixed elsewhere: files may not have their own then.
///
/// # Errors
/// Every mistake in every file.
pub fn read_under(paths: &[PathBuf], fixed: Option<&Settings>) -> Result<Resources, Invalid> {
    let mut violations = Vec::new();
    let mut draft = Draft { settings: fixed.map(elsewhere), ..Draft::default() };
    for file in files::expand(paths, &mut violations) {
        let file: Arc<Path> = file.into();
        let mut reader = Reader { file: file.clone(), violations: &mut violations };
        let Some(text) = files::read(&mut reader) else { continue };
        read_text(&mut reader, &mut draft, &text);
    }
    let resources = draft.finish(&mut violations);
    Invalid::check(violations)?;
    Ok(resources)
}

/// Settings that the configuration of the control plane has.
fn elsewhere(settings: &Settings) -> (Settings, settings::PoolPlaces, Place) {
    let file = Path::new("the control plane's configuration").into();
    let place = Place { file, line: 0, field: "dnsServer".into() };
    (settings.clone(), settings::PoolPlaces::default(), place)
}

fn read_text(reader: &mut Reader<'_>, draft: &mut Draft, text: &str) {
    let documents = match yaml::parse(text) {
        Ok(documents) => documents,
        Err(malformed) => {
            let problem = format!("not readable as YAML: {}", malformed.problem);
            return reader.report(malformed.line, &FieldPath::Document, problem);
        }
    };
    if documents.is_empty() {
        let problem =
            "the file is empty: write `services:` with a list, or a resource with `type: Dataplane`";
        reader.report(0, &FieldPath::Document, problem);
    }
    for document in &documents {
        read_document(reader, draft, document);
    }
}

/// A document with a `type` is a resource of Kuma's, one without is the short form.
fn read_document(reader: &mut Reader<'_>, draft: &mut Draft, node: &Node) {
    let root = FieldPath::Document;
    let field = |name: &str| match &node.value {
        Value::Map(entries) => entries.iter().find(|entry| entry.key == name),
        _ => None,
    };
    if let Some(entry) = field("apiVersion") {
        let problem =
            "this is Kuma's Kubernetes form: write the Universal form (type, mesh, name, networking)";
        return reader.report(entry.line, &root.field("apiVersion"), problem);
    }
    let Some(kind) = field("type") else { return short::read(reader, draft, node) };
    let word = if let Value::Text(text) = &kind.node.value { text.as_str() } else { "" };
    match word {
        "Dataplane" => dataplane::read(reader, draft, node),
        "ExternalService" => external::read(reader, draft, node),
        "HostnameGenerator" => generator::read(reader, draft, node),
        "Mesh" => mesh::read(reader, draft, node),
        "MeshExternalService" => external::read_mesh(reader, draft, node),
        "MeshMultiZoneService" => mesh_service::read_multi_zone(reader, draft, node),
        "MeshService" => mesh_service::read(reader, draft, node),
        "VirtualOutbound" => virtual_outbound::read(reader, draft, node),
        "ZoneIngress" => mesh::read_ingress(reader, draft, node),
        _ => {
            let found = kind.node.value.describe();
            let problem = format!("{found} is no kind that is read here: {}", advice(word, &KINDS));
            reader.report(kind.node.line, &root.field("type"), problem);
        }
    }
}

/// Which form described a service.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Form {
    Short,
    Dataplane,
}

/// A description of a service, or of an instance of it.
#[derive(Debug)]
struct Described {
    mesh: Arc<str>,
    service: Arc<str>,
    form: Form,
    place: Place,
}

/// What was read so far.
#[derive(Debug, Default)]
struct Draft {
    texts: Interner,
    settings: Option<(Settings, settings::PoolPlaces, Place)>,
    ipam: Option<(settings::IpamDraft, Place)>,
    zone: Option<(String, Place)>,
    found: Vec<Arc<Resource>>,
    /// Where resources of Kuma's kinds stand.
    named: Vec<(ResourceKey, Place)>,
    described: Vec<Described>,
    /// Service tags outside of Dataplanes, which must be names under the domain.
    tagged: Vec<(Arc<str>, Place)>,
    /// Each endpoint's place is kept until the pools are known.
    endpoints: Vec<(SocketAddr, Place)>,
}

impl Draft {
    fn named(&mut self, kind: ResourceKind, mesh: &str, name: &str, place: Place) {
        self.named.push((ResourceKey::new(kind, mesh, name), place));
    }

    fn add(&mut self, resource: Resource) {
        self.found.push(Arc::new(resource));
    }

    /// The checks that need everything: names under the domain, endpoints outside the pools, room in the pools.
    fn finish(self, violations: &mut Vec<Violation>) -> Resources {
        let (mut settings, pool_places, dns_place) = match self.settings {
            Some((settings, places, place)) => (settings, places, Some(place)),
            None => Default::default(),
        };
        let (ipam, _) = self.ipam.unzip();
        ipam.unwrap_or_default().finish(&mut settings, dns_place.as_ref(), violations);
        if let Some((zone, _)) = self.zone {
            settings.zone = zone;
        }
        check_named(self.named, violations);
        let services = check_described(self.described, &settings.domain, violations);
        for (tag, place) in self.tagged {
            if let Err(error) = names::canonical(&tag, &settings.domain) {
                violations.push(Violation { place, problem: error.to_string() });
            }
        }
        let all = complete(self.found);
        let pools = used_pools(&settings, &all);
        for (endpoint, place) in self.endpoints {
            if let Some(pool) = pools.iter().find(|range| range.contains(endpoint.ip())) {
                let problem = format!(
                    "endpoint {endpoint} lies in the VIP pool {pool}: write the address where the service really listens"
                );
                violations.push(Violation { place, problem });
            }
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
        Resources { settings, all }
    }
}

/// A resource is given once in all files.
fn check_named(named: Vec<(ResourceKey, Place)>, violations: &mut Vec<Violation>) {
    let mut places: BTreeMap<ResourceKey, Place> = BTreeMap::new();
    for (key, place) in named {
        if let Some(first) = places.get(&key) {
            let problem = format!("{key} is given already at {first}: keep one of the two");
            violations.push(Violation { place: place.clone(), problem });
        }
        places.insert(key, place);
    }
}

/// A service is described once, or by the inbounds of Dataplanes, and its name is one under the domain. Returns how many
/// there are.
fn check_described(described: Vec<Described>, domain: &Hostname, violations: &mut Vec<Violation>) -> usize {
    let mut services: BTreeMap<(Arc<str>, Arc<str>), (Form, Place)> = BTreeMap::new();
    for Described { mesh, service, form, place } in described {
        match services.entry((mesh, service)) {
            Entry::Vacant(vacant) => {
                if let Err(error) = names::canonical(&vacant.key().1, domain) {
                    violations.push(Violation { place: place.clone(), problem: error.to_string() });
                }
                vacant.insert((form, place));
            }
            Entry::Occupied(occupied) => {
                let (mesh, service) = occupied.key();
                let (first, at) = occupied.get();
                if (*first, form) != (Form::Dataplane, Form::Dataplane) {
                    let problem = format!(
                        "service {service:?} of mesh {mesh:?} is described already at {at}: keep one of the two"
                    );
                    violations.push(Violation { place, problem });
                }
            }
        }
    }
    services.len()
}

/// What was given, with what is there from the start and what is derived.
fn complete(given: Vec<Arc<Resource>>) -> OrdMap<ResourceKey, Arc<Resource>> {
    let mut all: OrdMap<ResourceKey, Arc<Resource>> =
        given.into_iter().map(|resource| (resource.key(), resource)).collect();
    for builtin in builtin() {
        all.entry(builtin.key()).or_insert_with(|| Arc::new(builtin));
    }
    for service in derived::all(&all) {
        let service = Resource::MeshService(service);
        all.entry(service.key()).or_insert_with(|| Arc::new(service));
    }
    all
}

/// What is there from the start, unless it is given.
fn builtin() -> Vec<Resource> {
    let meta = Meta { name: DEFAULT_MESH.into(), ..Meta::default() };
    let mesh = Resource::Mesh(Mesh { meta, mode: MeshServices::default() });
    std::iter::once(mesh).chain(generator::defaults().map(Resource::HostnameGenerator)).collect()
}

/// The networks that no endpoint may lie in. Pools of kinds of which there is none stand for nothing.
fn used_pools(settings: &Settings, all: &OrdMap<ResourceKey, Arc<Resource>>) -> Vec<IpNetwork> {
    let any = |kind| {
        let first = ResourceKey::new(kind, "", "");
        all.range(first..).next().is_some_and(|(key, _)| key.kind == kind)
    };
    let used = |source: Source| match source {
        Source::Dns => true,
        Source::MeshService => any(ResourceKind::MeshService),
        Source::MeshExternalService => any(ResourceKind::MeshExternalService),
        Source::MeshMultiZoneService => any(ResourceKind::MeshMultiZoneService),
    };
    let pools = settings.all_pools();
    pools.ranges().filter(|(source, _)| used(*source)).map(|(_, range)| range).collect()
}

/// The name of a mesh, as Kuma allows it.
fn mesh_name<'n>(reader: &mut Reader<'_>, node: &'n Node, path: &FieldPath<'_>) -> Option<&'n str> {
    let text = reader.text(node, path)?;
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_');
    if text.len() <= MAX_MESH_BYTES && text.bytes().all(allowed) {
        return Some(text);
    }
    let problem =
        format!("{text:?} is no mesh name: use at most {MAX_MESH_BYTES} of a-z, 0-9, '-', '.' and '_'");
    reader.report(node.line, path, problem);
    None
}

/// A field that must be there.
fn required<'n>(
    reader: &mut Reader<'_>,
    object: &super::violation::Object<'n>,
    path: &FieldPath<'_>,
    field: &str,
    example: &str,
) -> Option<&'n Node> {
    let found = object.get(field);
    if found.is_none() {
        reader.report(
            object.line,
            &path.field(field),
            format!("the field is missing: write it like `{field}: {example}`"),
        );
    }
    found
}

#[cfg(test)]
mod kinds_tests;
#[cfg(test)]
mod tests;
