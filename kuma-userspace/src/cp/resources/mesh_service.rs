//! Kuma's MeshService and MeshMultiZoneService: instances with a VIP and ports of their own. Called by cp::resources.

use std::collections::{BTreeMap, BTreeSet};

use super::meta::{self, Scope};
use super::{Draft, required};
use crate::cp::violation::{FieldPath, Object, Reader, advice};
use crate::cp::yaml::{Node, Value};
use crate::model::kind::{
    Kinds, MeshMultiZoneService, MeshService, MeshServices, Meta, SERVICE_TAG, Selector, ServicePort, Tags,
    TargetPort,
};
use crate::model::resource::Protocol;
use crate::model::view::Port;

const SPEC_FIELDS: [&str; 4] = ["selector", "ports", "identities", "state"];
const SELECTOR_FIELDS: [&str; 3] = ["dataplaneTags", "dataplaneRef", "dataplaneLabels"];
const PORT_FIELDS: [&str; 4] = ["name", "port", "targetPort", "appProtocol"];
const STATES: [&str; 2] = ["Available", "Unavailable"];
/// Longest name, as in Kuma: it becomes a label.
const MAX_NAME_BYTES: usize = 63;

pub(super) fn read(reader: &mut Reader<'_>, draft: &mut Draft, node: &Node) {
    let opened = meta::open(reader, draft, node, "MeshService", Scope::Mesh, &["spec"]);
    let Some((object, meta)) = opened else { return };
    let path = FieldPath::Field(&FieldPath::Document, "spec");
    if let Some(meta) = meta.as_ref().filter(|meta| meta.name.len() > MAX_NAME_BYTES) {
        let problem = format!(
            "{:?} has {} bytes: must not be longer than {MAX_NAME_BYTES} characters",
            meta.name,
            meta.name.len()
        );
        reader.report(object.line, &FieldPath::Field(&FieldPath::Document, "name"), problem);
    }
    let example = "{selector: {dataplaneTags: {kuma.io/service: redis}}, ports: [{port: 6379}]}";
    let Some(spec) = meta::spec(reader, &object, &path, example, &SPEC_FIELDS) else { return };
    if let Some(node) = spec.get("state")
        && let Some(text) = reader.text(node, &path.field("state"))
        && !STATES.contains(&text)
    {
        let problem = format!("{text:?} is no state: {}", advice(text, &STATES));
        reader.report(node.line, &path.field("state"), problem);
    }
    let selector_path = path.field("selector");
    let selector = match spec.get("selector") {
        Some(node) => read_selector(reader, node, &selector_path),
        None => Selector::Nobody,
    };
    let ports = read_ports(reader, &spec, &path.field("ports"));
    if let Some(meta) = meta {
        draft.kinds.mesh_services.push(MeshService { meta, selector, ports });
    }
}

fn read_selector(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>) -> Selector {
    let Some(object) = reader.object(node, path, &SELECTOR_FIELDS) else { return Selector::Nobody };
    if SELECTOR_FIELDS.iter().filter(|field| object.get(field).is_some()).count() > 1 {
        let problem = "must specify only one of: dataplaneTags, dataplaneRef, or dataplaneLabels";
        reader.report(node.line, path, problem);
    }
    let tags = meta::tags(reader, &object, path, "dataplaneTags");
    let reference = path.field("dataplaneRef");
    let name = object
        .get("dataplaneRef")
        .and_then(|node| reader.object(node, &reference, &["name"]))
        .and_then(|object| required(reader, &object, &reference, "name", "redis-01"))
        .and_then(|node| reader.text(node, &reference.field("name")).map(str::to_owned));
    let labels_path = path.field("dataplaneLabels");
    let labels = object
        .get("dataplaneLabels")
        .and_then(|node| reader.object(node, &labels_path, &["matchLabels"]))
        .map(|object| meta::tags(reader, &object, &labels_path, "matchLabels"));
    match (name, labels) {
        (Some(name), _) => Selector::Name(name),
        (None, Some(labels)) if !labels.is_empty() => Selector::Labels(labels),
        _ if !tags.is_empty() => Selector::Tags(tags),
        _ => Selector::Nobody,
    }
}

fn read_ports(reader: &mut Reader<'_>, spec: &Object<'_>, path: &FieldPath<'_>) -> Vec<ServicePort> {
    let items = spec.get("ports").map_or(&[][..], |node| reader.list(node, path));
    let mut ports: Vec<ServicePort> = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let Some(port) = read_port(reader, item, &path.index(index)) else { continue };
        if ports.iter().any(|before| before.port == port.port) {
            let problem = format!("port {} is given twice: keep one of them", port.port.get());
            reader.report(item.line, &path.index(index).field("port"), problem);
        }
        ports.push(port);
    }
    ports.sort();
    ports
}

fn read_port(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>) -> Option<ServicePort> {
    let object = reader.object(node, path, &PORT_FIELDS)?;
    if let Some(node) = object.get("name")
        && !matches!(node.value, Value::Number(_))
    {
        reader.text(node, &path.field("name"));
    }
    let protocol = match object.get("appProtocol") {
        Some(node) => Some(meta::protocol(reader, node, &path.field("appProtocol"))?),
        None => None,
    };
    let target_path = path.field("targetPort");
    let target = match object.get("targetPort") {
        Some(Node { value: Value::Text(name), .. }) if !name.is_empty() => {
            Some(TargetPort::Name(name.clone()))
        }
        Some(node) => Some(TargetPort::Number(meta::port(reader, node, &target_path)?)),
        None => None,
    };
    let node = required(reader, &object, path, "port", "6379")?;
    let port = meta::port(reader, node, &path.field("port"))?;
    Some(ServicePort { port, target: target.unwrap_or(TargetPort::Number(port)), protocol })
}

/// MeshServices that stand for a service tag, in meshes whose mode asks for them: for tags that are RFC 1035 labels, as in
/// Kuma, and that no resource names.
pub(super) fn derive(kinds: &mut Kinds) {
    let given: BTreeSet<(String, String)> =
        kinds.mesh_services.iter().map(|given| (given.meta.mesh.clone(), given.meta.name.clone())).collect();
    let asked = |mesh: &str| kinds.meshes.get(mesh).is_some_and(|mesh| mesh.mode != MeshServices::Disabled);
    let mut derived: BTreeMap<(String, String), BTreeMap<Port, Protocol>> = BTreeMap::new();
    for inbound in kinds.inbounds.iter().filter(|inbound| asked(&inbound.mesh) && is_label(&inbound.service))
    {
        let key = (inbound.mesh.to_string(), inbound.service.to_string());
        if !given.contains(&key) {
            let spoken = derived.entry(key).or_default().entry(inbound.port).or_insert(inbound.protocol);
            *spoken = spoken.common(inbound.protocol);
        }
    }
    for ((mesh, name), ports) in derived {
        let tags = Tags::from([(SERVICE_TAG.to_owned(), name.clone())]);
        let port = |(port, protocol)| ServicePort {
            port,
            target: TargetPort::Number(port),
            protocol: Some(protocol),
        };
        let ports = ports.into_iter().map(port).collect();
        let meta = Meta { mesh, name, ..Meta::default() };
        kinds.mesh_services.push(MeshService { meta, selector: Selector::Tags(tags), ports });
    }
}

fn is_label(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    text.len() <= MAX_NAME_BYTES
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.bytes().all(plain)
}

pub(super) fn read_multi_zone(reader: &mut Reader<'_>, draft: &mut Draft, node: &Node) {
    let opened = meta::open(reader, draft, node, "MeshMultiZoneService", Scope::Mesh, &["spec"]);
    let Some((object, meta)) = opened else { return };
    let path = FieldPath::Field(&FieldPath::Document, "spec");
    let example =
        "{selector: {meshService: {matchLabels: {kuma.io/display-name: redis}}}, ports: [{port: 6379}]}";
    let Some(spec) = meta::spec(reader, &object, &path, example, &["selector", "ports"]) else { return };
    let selector_path = path.field("selector");
    let service_path = selector_path.field("meshService");
    let labels = spec
        .get("selector")
        .and_then(|node| reader.object(node, &selector_path, &["meshService"]))
        .and_then(|selector| reader.object(selector.get("meshService")?, &service_path, &["matchLabels"]))
        .map(|selector| meta::tags(reader, &selector, &service_path, "matchLabels"));
    let selector = labels.unwrap_or_default();
    if selector.is_empty() {
        reader.report(spec.line, &service_path.field("matchLabels"), "cannot be empty");
    }
    let ports = read_ports(reader, &spec, &path.field("ports"));
    if spec.get("ports").is_none_or(|node| matches!(&node.value, Value::List(list) if list.is_empty())) {
        reader.report(spec.line, &path.field("ports"), "cannot be empty");
    }
    if let Some(meta) = meta {
        draft.kinds.mesh_multi_zone_services.push(MeshMultiZoneService { meta, selector, ports });
    }
}
