//! Kuma's Dataplane resource in its Universal form: every inbound is an instance of the service its tags name.
//! Keeps: an inbound that Kuma skips is skipped: state Ignored, port 49151 (a pod without a Service), no service tag.
//! Called by cp::resources.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::meta;
use super::{Described, Draft, Form, required};
use crate::cp::violation::{FieldPath, Object, Reader, advice};
use crate::cp::yaml::{Node, Value};
use crate::model::kind::{self, Dataplane, Meta, Resource, ResourceKind, SERVICE_TAG, Tags};
use crate::model::resource::Protocol;
use crate::model::view::Port;

/// Kuma's mark of a pod that no Service selects.
const NO_SERVICE_PORT: u16 = 49_151;

/// Fields of a Dataplane beside the common ones; those that no name or VIP depends on are left to the data plane.
const FIELDS: [&str; 4] = ["networking", "metrics", "probes", "envoy"];
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
    let opened = meta::open(reader, draft, node, ResourceKind::Dataplane, &FIELDS);
    let Some((object, meta)) = opened else { return };
    if let Some(node) =
        required(reader, &object, &root, "networking", "{address: 192.168.0.1, inbound: [..]}")
    {
        read_networking(reader, draft, node, meta);
    }
}

fn read_networking(reader: &mut Reader<'_>, draft: &mut Draft, node: &Node, meta: Option<Meta>) {
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
    let mut found = Vec::with_capacity(inbounds.len());
    for (index, item) in inbounds.iter().enumerate() {
        let path = list.index(index);
        let Some(inbound) = read_inbound(reader, draft, item, &path) else { continue };
        let (Some(meta), Some(address)) = (&meta, inbound.address.or(advertised).or(own)) else { continue };
        let place = reader.place(item.line, &path);
        let endpoint = inbound.ready.then_some(SocketAddr::new(address, inbound.port));
        draft.endpoints.extend(endpoint.map(|endpoint| (endpoint, place.clone())));
        let (mesh, service) = (meta.mesh.clone(), inbound.service.clone());
        draft.described.push(Described { mesh, service, form: Form::Dataplane, place });
        let Inbound { service, tags, name, protocol, .. } = inbound;
        let port = Port::new(inbound.port);
        found.push(kind::Inbound { service, tags, name, port, protocol, endpoint });
    }
    if let Some(meta) = meta {
        draft.add(Resource::Dataplane(Dataplane { meta, inbounds: found.into() }));
    }
}

/// An inbound that counts.
struct Inbound {
    service: Arc<str>,
    tags: Tags,
    name: Arc<str>,
    protocol: Protocol,
    address: Option<IpAddr>,
    port: u16,
    ready: bool,
}

fn read_inbound(
    reader: &mut Reader<'_>,
    draft: &mut Draft,
    node: &Node,
    path: &FieldPath<'_>,
) -> Option<Inbound> {
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
    let tags = meta::tags(reader, draft, &object, path, "tags");
    let spoken = match object.get("protocol") {
        Some(node) => meta::protocol(reader, node, &path.field("protocol")),
        None => meta::tag_protocol(reader, &object, &tags_path),
    };
    let name = match object.get("name").map(|node| &node.value) {
        Some(Value::Text(name)) => draft.texts.share(name),
        _ => draft.texts.share(""),
    };
    let (service, port, protocol) = (tags.shared(SERVICE_TAG).cloned()?, port?, spoken?);
    let counts = state != "Ignored" && port != NO_SERVICE_PORT;
    let ready = state == "Ready";
    counts.then_some(Inbound { service, tags, name, protocol, address, port, ready })
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
