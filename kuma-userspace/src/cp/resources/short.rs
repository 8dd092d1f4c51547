//! The short form: settings (`dnsServer`, `ipam`, `multizone`) and `services` in one document.
//! Keeps: each part of the settings once in all files. Called by cp::resources.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::{Described, Draft, Form, mesh_name, meta, required};
use crate::cp::settings;
use crate::cp::violation::{FieldPath, Reader};
use crate::cp::yaml::Node;
use crate::model::kind::{Meta, Resource, Service};
use crate::model::resource::{DEFAULT_MESH, Protocol};

const FIELDS: [&str; 4] = ["dnsServer", "ipam", "multizone", "services"];
const SERVICE_FIELDS: [&str; 4] = ["mesh", "service", "protocol", "endpoints"];

pub(super) fn read(reader: &mut Reader<'_>, draft: &mut Draft, node: &Node) {
    let root = FieldPath::Document;
    let Some(object) = reader.object(node, &root, &FIELDS) else { return };
    if let Some(node) = object.get("dnsServer") {
        let path = root.field("dnsServer");
        let place = reader.place(node.line, &path);
        let (found, pools) = settings::read(reader, node, &path);
        draft.settings.push((found, pools, place));
    }
    if let Some(node) = object.get("ipam") {
        let path = root.field("ipam");
        let place = reader.place(node.line, &path);
        draft.ipam.push((settings::read_ipam(reader, node, &path), place));
    }
    if let Some(node) = object.get("multizone") {
        let path = root.field("multizone");
        let place = reader.place(node.line, &path);
        draft.zone.extend(settings::read_multizone(reader, node, &path).map(|zone| (zone, place)));
    }
    if let Some(node) = object.get("services") {
        let path = root.field("services");
        for (index, item) in reader.list(node, &path).iter().enumerate() {
            read_service(reader, draft, item, &path.index(index));
        }
    }
}

fn read_service(reader: &mut Reader<'_>, draft: &mut Draft, node: &Node, path: &FieldPath<'_>) {
    let Some(object) = reader.object(node, path, &SERVICE_FIELDS) else { return };
    let mesh = match object.get("mesh") {
        Some(node) => mesh_name(reader, node, &path.field("mesh")),
        None => Some(DEFAULT_MESH),
    };
    let service_path = path.field("service");
    let named = required(reader, &object, path, "service", "redis");
    let service = named.and_then(|node| reader.text(node, &service_path));
    let protocol = match object.get("protocol") {
        Some(node) => meta::protocol(reader, node, &path.field("protocol")),
        None => Some(Protocol::default()),
    };
    let mut endpoints = BTreeSet::new();
    let list_path = path.field("endpoints");
    if let Some(list) = required(reader, &object, path, "endpoints", "[\"127.0.0.1:6379\"]") {
        for (index, item) in reader.list(list, &list_path).iter().enumerate() {
            let item_path = list_path.index(index);
            if let Some(endpoint) = read_endpoint(reader, item, &item_path) {
                draft.endpoints.push((endpoint, reader.place(item.line, &item_path)));
                endpoints.insert(endpoint);
            }
        }
    }
    if let (Some(mesh), Some(name), Some(named), Some(protocol)) = (mesh, service, named, protocol) {
        let place = reader.place(named.line, &service_path);
        let (mesh, service) = (draft.texts.share(mesh), draft.texts.share(name));
        let meta = Meta { mesh: mesh.clone(), name: service.clone(), ..Meta::default() };
        draft.described.push(Described { mesh, service, form: Form::Short, place });
        let endpoints = endpoints.into_iter().collect();
        draft.add(Resource::Service(Service { meta, protocol, endpoints }));
    }
}

fn read_endpoint(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>) -> Option<SocketAddr> {
    let text = reader.text(node, path)?;
    match text.parse::<SocketAddr>() {
        Ok(endpoint) if endpoint.port() == 0 => {
            reader.report(
                node.line,
                path,
                format!("endpoint {text:?} has port 0: write the port where it listens"),
            );
            None
        }
        Ok(endpoint) if endpoint.ip().is_unspecified() || endpoint.ip().is_multicast() => {
            let problem =
                format!("endpoint {text:?} is no address of a machine: write the address where it listens");
            reader.report(node.line, path, problem);
            None
        }
        Ok(endpoint) => Some(endpoint),
        Err(_) => {
            let problem = format!(
                "endpoint {text:?} is no address and port: write it like 127.0.0.1:6379 or [::1]:6379"
            );
            reader.report(node.line, path, problem);
            None
        }
    }
}
