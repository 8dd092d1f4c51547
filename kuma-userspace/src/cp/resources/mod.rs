//! Resource files in, checked resources out: settings, and services by mesh and tag.
//! Keeps: all or nothing (a single mistake and nothing is used), every mistake reported at once, the order of files and
//! documents without effect. Called by cp (check, open) and cp::watch.

mod dataplane;
mod external;
pub mod files;
mod generator;
mod mesh;
mod mesh_service;
mod meta;
mod short;
mod virtual_outbound;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::names;
use super::settings::{self, Settings, Source};
use super::violation::{FieldPath, Invalid, Place, Reader, Violation, advice};
use super::yaml::{self, Node, Value};
use crate::model::kind::{Available, Kinds};
use crate::model::resource::{Service, ServiceKey};

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

/// Everything that the files say.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Resources {
    pub settings: Settings,
    /// Services of the mesh by their tag: what Dataplanes add up to, and the short form.
    pub services: BTreeMap<ServiceKey, Service>,
    /// Everything else.
    pub kinds: Kinds,
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Short,
    Dataplane,
}

/// A service and where it was first described.
#[derive(Debug)]
struct Described {
    service: Service,
    form: Form,
    place: Place,
}

/// What was read so far.
#[derive(Debug, Default)]
struct Draft {
    settings: Option<(Settings, settings::PoolPlaces, Place)>,
    ipam: Option<(settings::IpamDraft, Place)>,
    zone: Option<(String, Place)>,
    services: BTreeMap<ServiceKey, Described>,
    /// Resources by kind, mesh and name.
    named: BTreeMap<(&'static str, String, String), Place>,
    kinds: Kinds,
    /// With the zone whose ingress offers it.
    available: Vec<(String, Available)>,
    /// Service tags outside of Dataplanes, which must be names under the domain: mesh, tag, place.
    tagged: Vec<(String, String, Place)>,
    /// Each endpoint's place is kept until the pools are known.
    endpoints: Vec<(std::net::SocketAddr, Place)>,
}

impl Draft {
    /// Adds a service, or instances of one that other Dataplanes described before.
    fn describe(
        &mut self,
        reader: &mut Reader<'_>,
        key: ServiceKey,
        form: Form,
        service: Service,
        place: Place,
    ) {
        match self.services.entry(key) {
            std::collections::btree_map::Entry::Vacant(vacant) => {
                vacant.insert(Described { service, form, place });
            }
            std::collections::btree_map::Entry::Occupied(mut occupied) => {
                let first = occupied.get_mut();
                if (first.form, form) == (Form::Dataplane, Form::Dataplane) {
                    first.service.protocol = first.service.protocol.common(service.protocol);
                    first.service.endpoints.extend(service.endpoints);
                    return;
                }
                let ServiceKey { mesh, service, .. } = occupied.key();
                let first = &occupied.get().place;
                let problem = format!(
                    "service {:?} of mesh {:?} is described already at {first}: keep one of the two",
                    &**service, &**mesh
                );
                reader.violations.push(Violation { place, problem });
            }
        }
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
        for (key, described) in &self.services {
            if let Err(error) = names::canonical(&key.service, &settings.domain) {
                violations.push(Violation { place: described.place.clone(), problem: error.to_string() });
            }
        }
        for (_, tag, place) in self.tagged {
            if let Err(error) = names::canonical(&tag, &settings.domain) {
                violations.push(Violation { place, problem: error.to_string() });
            }
        }
        let kinds = finish_kinds(self.kinds, self.available, &settings.zone);
        for (endpoint, place) in self.endpoints {
            let all = settings.all_pools();
            let used = all.ranges().filter(|(source, _)| is_used(&kinds, *source)).map(|(_, range)| range);
            if let Some(pool) = used.into_iter().find(|range| range.contains(endpoint.ip())) {
                let problem = format!(
                    "endpoint {endpoint} lies in the VIP pool {pool}: write the address where the service really listens"
                );
                violations.push(Violation { place, problem });
            }
        }
        let (room, wanted) = (settings.pools.room(), self.services.len());
        if u128::try_from(wanted).is_ok_and(|wanted| wanted > room) {
            let problem = format!(
                "no room: the smallest VIP pool holds {room} addresses and there are {wanted} services: \
                 use a larger network such as 240.0.0.0/4 or fd00:fd00::/64"
            );
            let smallest = pool_places.smallest(settings.pools);
            violations.extend(smallest.map(|place| Violation { place, problem }));
        }
        let services = self.services.into_iter().map(|(key, described)| (key, described.service)).collect();
        Resources { settings, services, kinds }
    }
}

/// Brings the kinds into an order that does not depend on files, and adds what is there from the start.
fn finish_kinds(mut kinds: Kinds, available: Vec<(String, Available)>, zone: &str) -> Kinds {
    // An ingress that does not say its zone is of ours, as in Kuma.
    let others =
        available.into_iter().filter(|(of, _)| of != zone && !of.is_empty()).map(|(_, service)| service);
    kinds.available = others.collect();
    // Stable: the inbounds of one Dataplane keep their order.
    kinds.inbounds.sort_by(|a, b| a.dataplane.cmp(&b.dataplane));
    mesh_service::derive(&mut kinds);
    kinds.generators.extend(generator::defaults(&kinds.generators));
    kinds.external_services.sort_by(|a, b| a.meta.cmp(&b.meta));
    kinds.virtual_outbounds.sort_by(|a, b| a.meta.cmp(&b.meta));
    kinds.mesh_services.sort_by(|a, b| a.meta.cmp(&b.meta));
    kinds.mesh_external_services.sort_by(|a, b| a.meta.cmp(&b.meta));
    kinds.mesh_multi_zone_services.sort_by(|a, b| a.meta.cmp(&b.meta));
    kinds.generators.sort_by(|a, b| a.meta.cmp(&b.meta));
    kinds
}

/// Pools of kinds of which there is none stand for nothing.
fn is_used(kinds: &Kinds, source: Source) -> bool {
    match source {
        Source::Dns => true,
        Source::MeshService => !kinds.mesh_services.is_empty(),
        Source::MeshExternalService => !kinds.mesh_external_services.is_empty(),
        Source::MeshMultiZoneService => !kinds.mesh_multi_zone_services.is_empty(),
    }
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
