//! Resource files in, checked resources out: settings, and services by mesh and tag.
//! Keeps: all or nothing (a single mistake and nothing is used), every mistake reported at once, the order of files and
//! documents without effect. Called by cp (check, open) and cp::watch.

pub(in crate::cp) mod body;
mod dataplane;
pub(in crate::cp) mod derived;
pub(in crate::cp) mod draft;
mod external;
pub mod files;
mod generator;
mod mesh;
mod mesh_service;
mod meta;
mod short;
mod virtual_outbound;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imbl::OrdMap;

use self::draft::{Described, Draft, Form};
use super::settings::Settings;
use super::violation::{FieldPath, Invalid, Reader, Violation, advice};
use super::yaml::{self, Node, Value};
use crate::model::kind::{Dataplane, Inbound, Mesh, MeshServices, Meta, Resource, ResourceKey, ResourceKind};
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
    let Whole { settings, files } = read_whole(paths, fixed, &mut Interner::default())?;
    let given = files.into_iter().flat_map(|(_, draft)| draft.found).map(|found| found.resource);
    Ok(Resources { settings, all: complete(given) })
}

/// Every file, read and checked.
pub(in crate::cp) struct Whole {
    pub(in crate::cp) settings: Settings,
    pub(in crate::cp) files: Vec<(PathBuf, Draft)>,
}

/// Reads everything from scratch: the measure of what is read step by step.
///
/// # Errors
/// Every mistake in every file.
pub(in crate::cp) fn read_whole(
    paths: &[PathBuf],
    fixed: Option<&Settings>,
    texts: &mut Interner,
) -> Result<Whole, Invalid> {
    let mut violations = Vec::new();
    let mut read = Vec::new();
    for file in files::expand(paths, &mut violations) {
        let draft = read_file(&file, texts, &mut violations);
        read.push((file, draft));
    }
    let settings = draft::check(read.iter_mut().map(|(_, draft)| draft).collect(), fixed, &mut violations);
    Invalid::check(violations)?;
    Ok(Whole { settings, files: read })
}

/// What one file says.
pub(in crate::cp) fn read_file(file: &Path, texts: &mut Interner, violations: &mut Vec<Violation>) -> Draft {
    let mut reader = Reader { file: file.into(), violations };
    let mut draft = Draft { texts: std::mem::take(texts), ..Draft::default() };
    if let Some(text) = files::read(&mut reader) {
        read_text(&mut reader, &mut draft, &text);
    }
    *texts = std::mem::take(&mut draft.texts);
    draft
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
    if refuse_kubernetes(reader, node) {
        return;
    }
    match field(node, "type") {
        None => short::read(reader, draft, node),
        Some(kind) => read_kind(reader, draft, node, word(&kind.node)),
    }
}

/// Says so when a document is in Kuma's Kubernetes form.
pub(in crate::cp) fn refuse_kubernetes(reader: &mut Reader<'_>, node: &Node) -> bool {
    let Some(entry) = field(node, "apiVersion") else { return false };
    let problem = "this is Kuma's Kubernetes form: write the Universal form (type, mesh, name, networking)";
    reader.report(entry.line, &FieldPath::Document.field("apiVersion"), problem);
    true
}

/// The one resource that a document is; one without, or with a mistake, has been reported.
pub(in crate::cp) fn read_one(reader: &mut Reader<'_>, node: &Node, texts: Interner) -> Draft {
    let mut draft = Draft { texts, ..Draft::default() };
    match (&node.value, field(node, "type")) {
        (Value::Map(_), Some(kind)) => {
            let before = reader.violations.len();
            read_kind(reader, &mut draft, node, word(&kind.node));
            if draft.found.is_empty() && reader.violations.len() == before {
                reader.report(node.line, &FieldPath::Document, "holds no resource");
            }
        }
        (Value::Map(_), None) => {
            let problem = format!("the field is missing: use one of {}", KINDS.join(", "));
            reader.report(node.line, &FieldPath::Document.field("type"), problem);
        }
        (other, _) => {
            let problem = format!("expected a resource with type, mesh and name, found {}", other.describe());
            reader.report(node.line, &FieldPath::Document, problem);
        }
    }
    draft
}

/// A field of a document as it stands there.
pub(in crate::cp) fn field<'n>(node: &'n Node, name: &str) -> Option<&'n yaml::Entry> {
    match &node.value {
        Value::Map(entries) => entries.iter().find(|entry| entry.key == name),
        _ => None,
    }
}

fn word(kind: &Node) -> &str {
    if let Value::Text(text) = &kind.value { text } else { "" }
}

fn read_kind(reader: &mut Reader<'_>, draft: &mut Draft, node: &Node, word: &str) {
    let before = draft.found.len();
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
            if let Some(kind) = field(node, "type") {
                unknown_kind(reader, &kind.node);
            }
        }
    }
    for found in &mut draft.found[before..] {
        found.body = Some(body::canonical(node).into());
    }
}

fn unknown_kind(reader: &mut Reader<'_>, kind: &Node) {
    let found = kind.value.describe();
    let problem = format!("{found} is no kind that is read here: {}", advice(word(kind), &KINDS));
    reader.report(kind.line, &FieldPath::Document.field("type"), problem);
}

/// What was given, with what is there from the start and what is derived.
fn complete(given: impl Iterator<Item = Arc<Resource>>) -> OrdMap<ResourceKey, Arc<Resource>> {
    let mut all: OrdMap<ResourceKey, Arc<Resource>> =
        given.map(|resource| (resource.key(), resource)).collect();
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
pub(in crate::cp) fn builtin() -> Vec<Resource> {
    let meta = Meta { name: DEFAULT_MESH.into(), ..Meta::default() };
    let mesh = Resource::Mesh(Mesh { meta, mode: MeshServices::default() });
    std::iter::once(mesh).chain(generator::defaults().map(Resource::HostnameGenerator)).collect()
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
