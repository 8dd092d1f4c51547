//! Kuma's MeshService and MeshMultiZoneService: instances with a VIP and ports of their own. Called by cp::resources.

use std::sync::Arc;

use super::meta;
use super::{Draft, required};
use crate::cp::violation::{FieldPath, Object, Reader, advice};
use crate::cp::yaml::{Node, Value};
use crate::model::kind::{
    MeshMultiZoneService, MeshService, Resource, ResourceKind, Selector, ServicePort, TargetPort,
};

const SPEC_FIELDS: [&str; 4] = ["selector", "ports", "identities", "state"];
const SELECTOR_FIELDS: [&str; 3] = ["dataplaneTags", "dataplaneRef", "dataplaneLabels"];
const PORT_FIELDS: [&str; 4] = ["name", "port", "targetPort", "appProtocol"];
const STATES: [&str; 2] = ["Available", "Unavailable"];
/// Longest name, as in Kuma: it becomes a label.
pub(super) const MAX_NAME_BYTES: usize = 63;

pub(super) fn read(reader: &mut Reader<'_>, draft: &mut Draft, node: &Node) {
    let opened = meta::open(reader, draft, node, ResourceKind::MeshService, &["spec"]);
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
        Some(node) => read_selector(reader, draft, node, &selector_path),
        None => Selector::Nobody,
    };
    let ports = read_ports(reader, &spec, &path.field("ports"));
    if let Some(meta) = meta {
        draft.add(Resource::MeshService(MeshService { meta, selector, ports: ports.into() }));
    }
}

fn read_selector(reader: &mut Reader<'_>, draft: &mut Draft, node: &Node, path: &FieldPath<'_>) -> Selector {
    let Some(object) = reader.object(node, path, &SELECTOR_FIELDS) else { return Selector::Nobody };
    if SELECTOR_FIELDS.iter().filter(|field| object.get(field).is_some()).count() > 1 {
        let problem = "must specify only one of: dataplaneTags, dataplaneRef, or dataplaneLabels";
        reader.report(node.line, path, problem);
    }
    let tags = meta::tags(reader, draft, &object, path, "dataplaneTags");
    let reference = path.field("dataplaneRef");
    let name = object
        .get("dataplaneRef")
        .and_then(|node| reader.object(node, &reference, &["name"]))
        .and_then(|object| required(reader, &object, &reference, "name", "redis-01"))
        .and_then(|node| reader.text(node, &reference.field("name")).map(Arc::from));
    let labels_path = path.field("dataplaneLabels");
    let labels = object
        .get("dataplaneLabels")
        .and_then(|node| reader.object(node, &labels_path, &["matchLabels"]))
        .map(|object| meta::tags(reader, draft, &object, &labels_path, "matchLabels"));
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
            Some(TargetPort::Name(name.as_str().into()))
        }
        Some(node) => Some(TargetPort::Number(meta::port(reader, node, &target_path)?)),
        None => None,
    };
    let node = required(reader, &object, path, "port", "6379")?;
    let port = meta::port(reader, node, &path.field("port"))?;
    Some(ServicePort { port, target: target.unwrap_or(TargetPort::Number(port)), protocol })
}

pub(super) fn read_multi_zone(reader: &mut Reader<'_>, draft: &mut Draft, node: &Node) {
    let opened = meta::open(reader, draft, node, ResourceKind::MeshMultiZoneService, &["spec"]);
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
        .map(|selector| meta::tags(reader, draft, &selector, &service_path, "matchLabels"));
    let selector = labels.unwrap_or_default();
    if selector.is_empty() {
        reader.report(spec.line, &service_path.field("matchLabels"), "cannot be empty");
    }
    let ports = read_ports(reader, &spec, &path.field("ports"));
    if spec.get("ports").is_none_or(|node| matches!(&node.value, Value::List(list) if list.is_empty())) {
        reader.report(spec.line, &path.field("ports"), "cannot be empty");
    }
    if let Some(meta) = meta {
        let ports = ports.into();
        draft.add(Resource::MeshMultiZoneService(MeshMultiZoneService { meta, selector, ports }));
    }
}
