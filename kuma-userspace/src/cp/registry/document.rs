//! One document: a body under a key, checked as files are. Keeps: every mistake at once, each with its field, in Kuma's
//! words where Kuma has them. Called by cp::registry and cp::resources (apply).

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::catalog::{Listed, Origin};
use crate::cp::resources::{self, body, draft::Draft};
use crate::cp::settings::Settings;
use crate::cp::store::documents::Document;
use crate::cp::violation::{FieldPath, Invalid, Reader};
use crate::cp::yaml::{Node, Value};
use crate::model::kind::{
    MeshService, Resource, ResourceKey, ResourceKind, Selector, ServicePort, TargetPort,
};
use crate::model::resource::{Endpoint, Protocol};
use crate::model::tags::Interner;

/// Longest name of a resource, as in Kuma.
const MAX_NAME_BYTES: usize = 253;

/// What was given, read but not yet compared with anything else.
pub(super) struct Parsed {
    pub(super) draft: Draft,
    pub(super) body: Arc<str>,
}

/// Reads what was given under a key.
///
/// # Errors
/// Everything that is wrong with it by itself.
pub(super) fn parse(key: &ResourceKey, given: &[u8]) -> Result<Parsed, Invalid> {
    let mut violations = Vec::new();
    let mut reader = Reader { file: Path::new("").into(), violations: &mut violations };
    let mut draft = Draft::default();
    let mut canonical = String::new();
    match body::parse(given) {
        Err(malformed) => {
            reader.report(0, &FieldPath::Document, format!("not readable as JSON: {}", malformed.problem));
        }
        Ok(node) => {
            check_key(&mut reader, key, &node);
            draft = resources::read_one(&mut reader, &node, Interner::default());
            canonical = body::canonical(&node);
        }
    }
    Invalid::check(violations)?;
    Ok(Parsed { draft, body: canonical.into() })
}

/// Reads a document that was accepted before. It may have been under other rules.
pub(super) fn read(
    document: &Document,
    settings: &Settings,
    texts: &mut Interner,
) -> Result<Resource, Invalid> {
    let mut violations = Vec::new();
    let mut reader = Reader { file: Path::new("").into(), violations: &mut violations };
    let mut draft = Draft::default();
    match body::parse(document.body.as_bytes()) {
        Err(malformed) => {
            reader.report(0, &FieldPath::Document, format!("not readable as JSON: {}", malformed.problem));
        }
        Ok(node) => {
            check_key(&mut reader, &document.key, &node);
            draft = resources::read_one(&mut reader, &node, std::mem::take(texts));
        }
    }
    // Of the pools, only those that are there whatever else there is: the outcome must not depend on other documents.
    draft.check_under(settings, &settings.pools.ranges(), &mut violations);
    *texts = draft.take_texts();
    Invalid::check(violations)?;
    let found = draft.found.pop().expect("read_one reports a mistake or finds a resource");
    let mut resource = Arc::unwrap_or_clone(found.resource);
    resource.meta_mut().created_secs = document.created_secs;
    Ok(resource)
}

/// The body says the same as the path.
fn check_key(reader: &mut Reader<'_>, key: &ResourceKey, node: &Node) {
    let Value::Map(entries) = &node.value else { return };
    let said = |field: &str| {
        entries.iter().find(|entry| entry.key == field).and_then(|entry| match &entry.node.value {
            Value::Text(text) => Some(text.as_str()),
            _ => None,
        })
    };
    let mut same = |field: &'static str, want: &str| {
        if said(field) != Some(want) {
            let problem = format!("{field} from the URL has to be the same as in body");
            reader.report(0, &FieldPath::Document.field(field), problem);
        }
    };
    same("type", key.kind.word());
    if !key.mesh.is_empty() {
        same("mesh", &key.mesh);
    }
    same("name", &key.name);
    if let Some(problem) = name_problem(&key.name) {
        reader.report(0, &FieldPath::Document.field("name"), problem);
    }
}

/// What Kuma has against a name, in its own words.
pub(super) fn name_problem(name: &str) -> Option<&'static str> {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'_');
    match name {
        "" => Some("cannot be empty"),
        name if name.len() > MAX_NAME_BYTES => Some("cannot be longer than 253 characters"),
        name if !name.bytes().all(allowed) => Some(
            "invalid characters. Valid characters are numbers, lowercase latin letters and '-', '_', '.' symbols.",
        ),
        _ => None,
    }
}

/// A resource that nobody wrote down, as a document.
pub(super) fn listed(resource: Resource, origin: Origin) -> Listed {
    let key = resource.key();
    let (kind, name) = (key.kind.word(), &*key.name);
    let body = match &resource {
        Resource::MeshService(service) => mesh_service(service),
        Resource::HostnameGenerator(generator) => {
            let selectors = [
                ("meshService", &generator.mesh_service),
                ("meshExternalService", &generator.mesh_external_service),
                ("meshMultiZoneService", &generator.mesh_multi_zone_service),
            ];
            let selector: serde_json::Map<String, serde_json::Value> = selectors
                .into_iter()
                .filter(|(_, labels)| labels.is_some())
                .map(|(field, _)| (field.to_owned(), serde_json::json!({})))
                .collect();
            let spec = serde_json::json!({"selector": selector, "template": &*generator.template});
            serde_json::json!({"type": kind, "name": name, "spec": spec})
        }
        _ => serde_json::json!({"type": kind, "name": name}),
    };
    let node = body::parse(body.to_string().as_bytes()).expect("it was JSON a moment ago");
    let document =
        Document { key, revision: 0, created_secs: 0, modified_secs: 0, body: body::canonical(&node).into() };
    Listed { document, origin, resource: Arc::new(resource) }
}

fn mesh_service(service: &MeshService) -> serde_json::Value {
    let port = |port: &ServicePort| {
        let target = match &port.target {
            TargetPort::Number(number) => serde_json::json!(number.get()),
            TargetPort::Name(name) => serde_json::json!(&**name),
        };
        let protocol = match port.protocol {
            Some(Protocol::Http) => "http",
            Some(Protocol::Tcp) | None => "tcp",
        };
        serde_json::json!({"port": port.port.get(), "targetPort": target, "appProtocol": protocol})
    };
    let tags: serde_json::Map<String, serde_json::Value> = match &service.selector {
        Selector::Tags(tags) => tags.iter().map(|(name, value)| (name.to_owned(), value.into())).collect(),
        _ => serde_json::Map::new(),
    };
    let ports: Vec<serde_json::Value> = service.ports.iter().map(port).collect();
    serde_json::json!({
        "type": ResourceKind::MeshService.word(),
        "mesh": &*service.meta.mesh,
        "name": &*service.meta.name,
        "spec": {"selector": {"dataplaneTags": tags}, "ports": ports},
    })
}

/// Where the resource's instances listen, as far as it says so itself.
pub(super) fn endpoints(resource: &Resource) -> Box<dyn Iterator<Item = SocketAddr> + '_> {
    let address = |endpoint: &Endpoint| match endpoint {
        Endpoint::Address(address) => Some(*address),
        Endpoint::Host(..) => None,
    };
    match resource {
        Resource::Dataplane(dataplane) => {
            Box::new(dataplane.inbounds.iter().filter_map(|inbound| inbound.endpoint))
        }
        Resource::Service(service) => Box::new(service.endpoints.iter().copied()),
        Resource::ExternalService(service) => Box::new(address(&service.endpoint).into_iter()),
        Resource::MeshExternalService(service) => Box::new(service.endpoints.iter().filter_map(address)),
        _ => Box::new(std::iter::empty()),
    }
}
