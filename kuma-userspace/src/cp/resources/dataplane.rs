//! Kuma's Dataplane resource in its Universal form: every inbound is an instance of the service its tags name.
//! Keeps: an inbound that Kuma skips is skipped: state Ignored, port 49151 (a pod without a Service), no service tag.
//! Called by cp::resources.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::short::read_protocol;
use super::{Draft, Form, mesh_name, required};
use crate::cp::violation::{FieldPath, Object, Reader, Violation, advice};
use crate::cp::yaml::{Node, Value};
use crate::model::resource::{Protocol, Service, ServiceKey};

const SERVICE_TAG: &str = "kuma.io/service";
const PROTOCOL_TAG: &str = "kuma.io/protocol";
/// Kuma's mark of a pod that no Service selects.
const NO_SERVICE_PORT: u16 = 49_151;

/// Fields of a Dataplane; those that no name or VIP depends on are accepted and left to the data plane.
const FIELDS: [&str; 11] = [
    "type",
    "mesh",
    "name",
    "networking",
    "labels",
    "creationTime",
    "modificationTime",
    "kri",
    "metrics",
    "probes",
    "envoy",
];
const NETWORKING_FIELDS: [&str; 8] = [
    "address",
    "advertisedAddress",
    "inbound",
    "outbound",
    "gateway",
    "transparentProxying",
    "admin",
    "listeners",
];
const INBOUND_FIELDS: [&str; 10] = [
    "port",
    "address",
    "servicePort",
    "serviceAddress",
    "tags",
    "state",
    "health",
    "serviceProbe",
    "name",
    "protocol",
];
const STATES: [&str; 3] = ["Ready", "NotReady", "Ignored"];

pub(super) fn read(reader: &mut Reader<'_>, draft: &mut Draft, node: &Node) {
    let root = FieldPath::Document;
    let Some(object) = reader.object(node, &root, &FIELDS) else { return };
    let mesh = required(reader, &object, &root, "mesh", "default")
        .and_then(|node| mesh_name(reader, node, &root.field("mesh")));
    let name = required(reader, &object, &root, "name", "web-01")
        .and_then(|node| reader.text(node, &root.field("name")));
    if let (Some(mesh), Some(name)) = (mesh, name) {
        let place = reader.place(object.line, &root.field("name"));
        if let Some(first) = draft.dataplanes.insert((mesh.into(), name.into()), place.clone()) {
            let problem = format!(
                "Dataplane {name:?} of mesh {mesh:?} is given already at {first}: keep one of the two"
            );
            reader.violations.push(Violation { place, problem });
        }
    }
    if let Some(node) =
        required(reader, &object, &root, "networking", "{address: 192.168.0.1, inbound: [..]}")
    {
        read_networking(reader, draft, node, mesh);
    }
}

fn read_networking(reader: &mut Reader<'_>, draft: &mut Draft, node: &Node, mesh: Option<&str>) {
    let path = FieldPath::Field(&FieldPath::Document, "networking");
    let Some(object) = reader.object(node, &path, &NETWORKING_FIELDS) else { return };
    let own = required(reader, &object, &path, "address", "192.168.0.1")
        .and_then(|node| read_address(reader, node, &path.field("address")));
    let advertised = optional_address(reader, &object, &path, "advertisedAddress");
    let inbounds = match object.get("inbound") {
        Some(node) => reader.list(node, &path.field("inbound")),
        None => &[],
    };
    match (object.get("gateway"), inbounds) {
        (None, []) => {
            reader.report(node.line, &path, "has to contain at least one inbound interface or gateway")
        }
        (Some(_), [_, ..]) => reader.report(node.line, &path, "inbound cannot be defined both with gateway"),
        _ => {}
    }
    let list = path.field("inbound");
    for (index, item) in inbounds.iter().enumerate() {
        let path = list.index(index);
        let Some(inbound) = read_inbound(reader, item, &path) else { continue };
        let (Some(mesh), Some(address)) = (mesh, inbound.address.or(advertised).or(own)) else { continue };
        let place = reader.place(item.line, &path);
        let endpoint = SocketAddr::new(address, inbound.port);
        let mut endpoints = BTreeSet::new();
        if inbound.ready {
            endpoints.insert(endpoint);
            draft.endpoints.push((endpoint, place.clone()));
        }
        let service = Service { protocol: inbound.protocol, endpoints };
        draft.describe(reader, ServiceKey::new(mesh, inbound.service), Form::Dataplane, service, place);
    }
}

/// An inbound that counts.
struct Inbound<'n> {
    service: &'n str,
    protocol: Protocol,
    address: Option<IpAddr>,
    port: u16,
    ready: bool,
}

fn read_inbound<'n>(reader: &mut Reader<'_>, node: &'n Node, path: &FieldPath<'_>) -> Option<Inbound<'n>> {
    let object = reader.object(node, path, &INBOUND_FIELDS)?;
    let port = required(reader, &object, path, "port", "8080")
        .and_then(|node| reader.integer(node, &path.field("port"), 1, u64::from(u16::MAX)))
        .and_then(|port| u16::try_from(port).ok());
    if let Some(node) = object.get("servicePort") {
        reader.integer(node, &path.field("servicePort"), 0, u64::from(u16::MAX));
    }
    optional_address(reader, &object, path, "serviceAddress");
    let address = optional_address(reader, &object, path, "address");
    let state = read_state(reader, &object, path);
    let tags_path = path.field("tags");
    let tags = object.get("tags").map_or_else(Vec::new, |node| read_tags(reader, node, &tags_path));
    let tag = |name: &str| tags.iter().find(|(key, _)| *key == name).map(|(_, node)| *node);
    let spoken = match (object.get("protocol"), tag(PROTOCOL_TAG)) {
        (Some(node), _) => read_protocol(reader, node, &path.field("protocol")),
        (None, Some(node)) => read_protocol(reader, node, &tags_path.field(PROTOCOL_TAG)),
        (None, None) => Some(Protocol::default()),
    };
    let service = match tag(SERVICE_TAG).map(|node| &node.value) {
        Some(Value::Text(text)) if !text.is_empty() => text,
        _ => return None,
    };
    let (port, protocol) = (port?, spoken?);
    let counts = state != "Ignored" && port != NO_SERVICE_PORT;
    counts.then_some(Inbound { service, protocol, address, port, ready: state == "Ready" })
}

/// `state`, or the older `health.ready`.
fn read_state(reader: &mut Reader<'_>, object: &Object<'_>, path: &FieldPath<'_>) -> &'static str {
    if let Some(node) = object.get("state") {
        let path = path.field("state");
        let Some(text) = reader.text(node, &path) else { return STATES[0] };
        if let Some(state) = STATES.iter().find(|state| **state == text) {
            return state;
        }
        reader.report(
            node.line,
            &path,
            format!("{text:?} is no state of an inbound: {}", advice(text, &STATES)),
        );
        return STATES[0];
    }
    let path = path.field("health");
    let health = object.get("health").and_then(|node| reader.object(node, &path, &["ready"]));
    match health.as_ref().and_then(|health| health.get("ready")) {
        Some(Node { value: Value::Bool(false), .. }) => "NotReady",
        Some(Node { value: Value::Bool(true), .. }) | None => STATES[0],
        Some(node) => {
            let problem = format!("{} is not allowed: use true or false", node.value.describe());
            reader.report(node.line, &path.field("ready"), problem);
            STATES[0]
        }
    }
}

/// Tags are Kuma's: every name is allowed, values are texts that are not empty.
fn read_tags<'n>(reader: &mut Reader<'_>, node: &'n Node, path: &FieldPath<'_>) -> Vec<(&'n str, &'n Node)> {
    let Value::Map(entries) = &node.value else {
        reader.report(node.line, path, format!("expected tags, found {}", node.value.describe()));
        return Vec::new();
    };
    let mut tags: Vec<(&str, &Node)> = Vec::with_capacity(entries.len());
    for entry in entries {
        let path = path.field(&entry.key);
        if tags.iter().any(|(seen, _)| *seen == entry.key) {
            reader.report(entry.line, &path, "the tag is given twice: keep one of them");
        } else if reader.text(&entry.node, &path).is_some() {
            tags.push((&entry.key, &entry.node));
        }
    }
    tags
}

fn optional_address(
    reader: &mut Reader<'_>,
    object: &Object<'_>,
    path: &FieldPath<'_>,
    field: &str,
) -> Option<IpAddr> {
    let node = object.get(field)?;
    read_address(reader, node, &path.field(field))
}

fn read_address(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>) -> Option<IpAddr> {
    let text = reader.text(node, path)?;
    let address = text.parse().ok();
    if address.is_none() {
        reader.report(
            node.line,
            path,
            format!("{text:?} is no IP address: write it like 192.168.0.1 or fd00::1"),
        );
    }
    address
}
