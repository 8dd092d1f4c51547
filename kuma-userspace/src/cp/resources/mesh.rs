//! Kuma's Mesh and ZoneIngress: a mesh that is there although nothing is in it yet, and the services of other zones.
//! Called by cp::resources.

use super::Draft;
use super::meta;
use super::required;
use crate::cp::violation::{FieldPath, Reader, advice};
use crate::cp::yaml::Node;
use crate::model::kind::{Available, Mesh, MeshServices, Resource, ResourceKind, SERVICE_TAG, ZoneIngress};
use crate::model::resource::DEFAULT_MESH;

/// Fields of a Mesh that no name or VIP depends on.
const MESH_FIELDS: [&str; 8] =
    ["meshServices", "mtls", "tracing", "logging", "metrics", "networking", "routing", "constraints"];
const MODES: [&str; 4] = ["Disabled", "Everywhere", "ReachableBackends", "Exclusive"];
const INGRESS_FIELDS: [&str; 3] = ["zone", "networking", "availableServices"];
const NETWORKING_FIELDS: [&str; 5] = ["address", "advertisedAddress", "port", "advertisedPort", "admin"];
const SERVICE_FIELDS: [&str; 4] = ["tags", "instances", "mesh", "externalService"];

pub(super) fn read(reader: &mut Reader<'_>, draft: &mut Draft, node: &Node) {
    let fields: Vec<&str> = MESH_FIELDS.iter().chain(&["skipCreatingInitialPolicies"]).copied().collect();
    let Some((object, meta)) = meta::open(reader, draft, node, ResourceKind::Mesh, &fields) else {
        return;
    };
    if let Some(name) = object.get("name") {
        super::mesh_name(reader, name, &FieldPath::Field(&FieldPath::Document, "name"));
    }
    let root = FieldPath::Document;
    let mode = object.get("meshServices").map(|node| read_mode(reader, node, &root.field("meshServices")));
    if let Some(meta) = meta {
        draft.add(Resource::Mesh(Mesh { meta, mode: mode.unwrap_or_default() }));
    }
}

fn read_mode(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>) -> MeshServices {
    let Some(object) = reader.object(node, path, &["mode"]) else { return MeshServices::default() };
    let path = path.field("mode");
    let Some(node) = object.get("mode") else { return MeshServices::default() };
    match reader.text(node, &path) {
        Some("Everywhere" | "ReachableBackends") => MeshServices::Beside,
        Some("Exclusive") => MeshServices::Exclusive,
        Some("Disabled") | None => MeshServices::Disabled,
        Some(text) => {
            reader.report(node.line, &path, format!("{text:?} is no mode: {}", advice(text, &MODES)));
            MeshServices::Disabled
        }
    }
}

/// A ZoneIngress and the services that it offers.
pub(super) fn read_ingress(reader: &mut Reader<'_>, draft: &mut Draft, node: &Node) {
    let opened = meta::open(reader, draft, node, ResourceKind::ZoneIngress, &INGRESS_FIELDS);
    let Some((object, meta)) = opened else { return };
    let root = FieldPath::Document;
    let zone = object.get("zone").and_then(|node| reader.text(node, &root.field("zone")));
    let path = root.field("networking");
    if let Some(node) = required(reader, &object, &root, "networking", "{address: 10.0.0.1, port: 10001}") {
        read_networking(reader, node, &path);
    }
    let path = root.field("availableServices");
    let services = object.get("availableServices").map_or(&[][..], |node| reader.list(node, &path));
    let mut available = Vec::with_capacity(services.len());
    for (index, item) in services.iter().enumerate() {
        available.extend(read_available(reader, draft, item, &path.index(index)));
    }
    let Some(meta) = meta else { return };
    let zone = draft.texts.share(zone.unwrap_or_default());
    draft.add(Resource::ZoneIngress(ZoneIngress { meta, zone, available: available.into() }));
}

fn read_networking(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>) {
    let Some(object) = reader.object(node, path, &NETWORKING_FIELDS) else { return };
    let there = ["advertisedAddress", "advertisedPort"].map(|field| object.get(field));
    match there {
        [None, Some(_)] => reader.report(
            node.line,
            &path.field("advertisedAddress"),
            "has to be defined with advertisedPort",
        ),
        [Some(_), None] => reader.report(
            node.line,
            &path.field("advertisedPort"),
            "has to be defined with advertisedAddress",
        ),
        _ => {}
    }
    for field in ["address", "advertisedAddress"] {
        if let Some(node) = object.get(field) {
            reader.text(node, &path.field(field));
        }
    }
    match object.get("port") {
        Some(_) => {}
        None => reader.report(node.line, &path.field("port"), "port has to be defined"),
    }
    for field in ["port", "advertisedPort"] {
        if let Some(node) = object.get(field) {
            meta::port(reader, node, &path.field(field));
        }
    }
}

fn read_available(
    reader: &mut Reader<'_>,
    draft: &mut Draft,
    node: &Node,
    path: &FieldPath<'_>,
) -> Option<Available> {
    let object = reader.object(node, path, &SERVICE_FIELDS)?;
    let mesh = match object.get("mesh") {
        Some(node) => super::mesh_name(reader, node, &path.field("mesh"))?,
        None => DEFAULT_MESH,
    };
    if let Some(node) = object.get("instances") {
        reader.integer(node, &path.field("instances"), 0, u64::from(u32::MAX));
    }
    let tags = meta::tags(reader, draft, &object, path, "tags");
    let Some(service) = tags.shared(SERVICE_TAG).cloned() else {
        reader.report(node.line, &path.field("tags").field(SERVICE_TAG), "cannot be empty");
        return None;
    };
    if let Some(node) = object.get("externalService") {
        reader.boolean(node, &path.field("externalService"));
    }
    let place = reader.place(node.line, &path.field("tags").field(SERVICE_TAG));
    draft.tagged.push((service.clone(), place));
    Some(Available { mesh: draft.texts.share(mesh), service, tags })
}
