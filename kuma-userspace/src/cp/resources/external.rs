//! Kuma's ExternalService and MeshExternalService: services outside the mesh, by address or by host name.
//! Keeps: what cannot be served as it is written (TLS from the proxy) is refused in words. Called by cp::resources.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use super::meta;
use super::{Draft, required};
use crate::cp::violation::{FieldPath, Object, Reader, advice};
use crate::cp::yaml::Node;
use crate::model::kind::{ExternalService, MeshExternalService, Resource, ResourceKind, SERVICE_TAG};
use crate::model::name::Hostname;
use crate::model::resource::{Endpoint, Protocol};
use crate::model::view::Port;

const NETWORKING_FIELDS: [&str; 3] = ["address", "tls", "disableHostDNSEntry"];
const TLS_FIELDS: [&str; 9] = [
    "enabled",
    "caCert",
    "clientCert",
    "clientKey",
    "allowRenegotiation",
    "serverName",
    "skipHostnameVerification",
    "verification",
    "version",
];
const SPEC_FIELDS: [&str; 4] = ["match", "endpoints", "tls", "extension"];
const MATCH_TYPE: &str = "HostnameGenerator";
/// MeshExternalServices speak these (Kuma leaves Kafka out).
const MATCH_PROTOCOLS: [&str; 4] = ["tcp", "grpc", "http", "http2"];

pub(super) fn read(reader: &mut Reader<'_>, draft: &mut Draft, node: &Node) {
    let opened = meta::open(reader, draft, node, ResourceKind::ExternalService, &["networking", "tags"]);
    let Some((object, meta)) = opened else { return };
    let root = FieldPath::Document;
    let path = root.field("networking");
    let networking = match object.get("networking") {
        Some(node) => reader.object(node, &path, &NETWORKING_FIELDS),
        None => {
            reader.report(object.line, &path, "should have networking");
            None
        }
    };
    let address = networking.as_ref().and_then(|networking| read_address(reader, draft, networking, &path));
    let mut host_entry = true;
    if let Some(networking) = &networking {
        if let Some(node) = networking.get("disableHostDNSEntry") {
            let disabled = reader.boolean(node, &path.field("disableHostDNSEntry"));
            host_entry = disabled != Some(true);
        }
        if let Some(node) = networking.get("tls") {
            read_tls(reader, node, &path.field("tls"));
        }
    }
    let tags_path = root.field("tags");
    let tags = meta::tags(reader, draft, &object, &root, "tags");
    let protocol = meta::tag_protocol(reader, &object, &tags_path);
    let Some(service) = tags.shared(SERVICE_TAG).cloned() else {
        let problem = format!("mandatory tag {SERVICE_TAG:?} is missing");
        return reader.report(object.line, &tags_path, problem);
    };
    let (Some(meta), Some((endpoint, port)), Some(protocol)) = (meta, address, protocol) else { return };
    if matches!(&endpoint, Endpoint::Host(host, _) if host.as_str() == &*service) {
        let path = tags_path.field(SERVICE_TAG);
        return reader.report(object.line, &path, "cannot be the same as networking.address");
    }
    draft.tagged.push((service.clone(), reader.place(object.line, &tags_path.field(SERVICE_TAG))));
    let found = ExternalService { meta, service, tags, protocol, endpoint, port, host_entry };
    draft.add(Resource::ExternalService(found));
}

/// `networking.address`, a host and a port.
fn read_address(
    reader: &mut Reader<'_>,
    draft: &mut Draft,
    networking: &Object<'_>,
    path: &FieldPath<'_>,
) -> Option<(Endpoint, Port)> {
    let path = path.field("address");
    let Some(node) = networking.get("address") else {
        reader.report(networking.line, &path, "address can't be empty");
        return None;
    };
    let text = reader.text(node, &path)?;
    let Some((host, port)) = text.rsplit_once(':') else {
        let problem =
            format!("unable to parse address {text:?}: write it like httpbin.org:80 or 192.0.2.1:80");
        reader.report(node.line, &path, problem);
        return None;
    };
    let port = match port.parse::<u16>() {
        Ok(0) | Err(_) => {
            reader.report(node.line, &path, format!("port must be in the range [1, 65535], found {port:?}"));
            None
        }
        Ok(port) => Some(Port::new(port)),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let endpoint = read_endpoint(reader, draft, node, &path, bare, port)?;
    Some((endpoint, port?))
}

/// A host that is an IP address or a name.
fn read_endpoint(
    reader: &mut Reader<'_>,
    draft: &mut Draft,
    node: &Node,
    path: &FieldPath<'_>,
    host: &str,
    port: Option<Port>,
) -> Option<Endpoint> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        if ip.is_unspecified() || ip.is_multicast() {
            let problem = format!("{host:?} is no address of a machine: write the address where it listens");
            reader.report(node.line, path, problem);
            return None;
        }
        let address = SocketAddr::new(ip, port?.get());
        draft.endpoints.push((address, reader.place(node.line, path)));
        return Some(Endpoint::Address(address));
    }
    match Hostname::parse(host) {
        Ok(host) => Some(Endpoint::Host(host, port?)),
        Err(error) => {
            let problem = format!("address has to be a valid IP address or a domain name: {error}");
            reader.report(node.line, path, problem);
            None
        }
    }
}

/// TLS that the proxy would speak is not served: the application's own passes through untouched.
fn read_tls(reader: &mut Reader<'_>, node: &Node, path: &FieldPath<'_>) {
    let Some(object) = reader.object(node, path, &TLS_FIELDS) else { return };
    let path = path.field("enabled");
    if let Some(node) = object.get("enabled")
        && reader.boolean(node, &path) == Some(true)
    {
        let problem = "TLS from the proxy is not served here: leave it out and let the application speak TLS itself, \
                       which passes through";
        reader.report(node.line, &path, problem);
    }
}

pub(super) fn read_mesh(reader: &mut Reader<'_>, draft: &mut Draft, node: &Node) {
    let opened = meta::open(reader, draft, node, ResourceKind::MeshExternalService, &["spec"]);
    let Some((object, meta)) = opened else { return };
    let root = FieldPath::Document;
    let path = root.field("spec");
    let example = "{match: {type: HostnameGenerator, port: 80, protocol: tcp}, endpoints: [..]}";
    let Some(spec) = meta::spec(reader, &object, &path, example, &SPEC_FIELDS) else { return };
    let matched = read_match(reader, &spec, &path);
    if let Some(node) = spec.get("extension") {
        let problem = "extensions of other programs are not served here: give endpoints instead";
        reader.report(node.line, &path.field("extension"), problem);
    }
    if let Some(node) = spec.get("tls") {
        read_tls(reader, node, &path.field("tls"));
    }
    let list = path.field("endpoints");
    let mut endpoints = BTreeSet::new();
    for (index, item) in
        spec.get("endpoints").map_or(&[][..], |node| reader.list(node, &list)).iter().enumerate()
    {
        endpoints.extend(read_mesh_endpoint(reader, draft, item, &list.index(index)));
    }
    let (Some(meta), Some((port, protocol))) = (meta, matched) else { return };
    let endpoints = endpoints.into_iter().collect();
    draft.add(Resource::MeshExternalService(MeshExternalService { meta, port, protocol, endpoints }));
}

fn read_match(reader: &mut Reader<'_>, spec: &Object<'_>, path: &FieldPath<'_>) -> Option<(Port, Protocol)> {
    let node = required(reader, spec, path, "match", "{type: HostnameGenerator, port: 80, protocol: tcp}")?;
    let path = path.field("match");
    let object = reader.object(node, &path, &["type", "port", "protocol"])?;
    if let Some(node) = object.get("type")
        && let Some(text) = reader.text(node, &path.field("type"))
        && text != MATCH_TYPE
    {
        let problem = format!("unrecognized type '{text}' - only '{MATCH_TYPE}' is supported");
        reader.report(node.line, &path.field("type"), problem);
    }
    let port = required(reader, &object, &path, "port", "80")
        .and_then(|node| meta::port(reader, node, &path.field("port")));
    let protocol_path = path.field("protocol");
    let protocol = match object.get("protocol") {
        None => Some(Protocol::Tcp),
        Some(node) => reader.text(node, &protocol_path).and_then(|text| {
            let known = MATCH_PROTOCOLS.contains(&text);
            if !known {
                let problem = format!("{text:?} is no protocol here: {}", advice(text, &MATCH_PROTOCOLS));
                reader.report(node.line, &protocol_path, problem);
            }
            Protocol::parse(text).filter(|_| known)
        }),
    };
    Some((port?, protocol?))
}

fn read_mesh_endpoint(
    reader: &mut Reader<'_>,
    draft: &mut Draft,
    node: &Node,
    path: &FieldPath<'_>,
) -> Option<Endpoint> {
    let object = reader.object(node, path, &["address", "port"])?;
    let address_path = path.field("address");
    let at = required(reader, &object, path, "address", "httpbin.org")?;
    let address = reader.text(at, &address_path)?;
    if address.starts_with("unix://") {
        let problem =
            format!("{address:?} is a socket file, which the proxy does not reach here: use an address");
        reader.report(at.line, &address_path, problem);
        return None;
    }
    let port = required(reader, &object, path, "port", "80")
        .and_then(|node| meta::port(reader, node, &path.field("port")));
    read_endpoint(reader, draft, at, &address_path, address, port)
}
