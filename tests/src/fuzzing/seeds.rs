//! Good inputs to begin from: those of the examples and of other tests, and what people have found (tests/data/fuzz).
//! Called by the fuzz suite, and by `cargo xtask fuzz` through `fuzz/src/main.rs`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use kuma_dns::model::kind::ResourceKind;
use kuma_dns::model::view::Port;
use kuma_dns::wire::node::{Introduction, Role};
use kuma_dns::wire::resource::ResourceType;
use prost::Message as _;
use serde_json::{Value, json};

use crate::binaries::top;

/// Where inputs of a target are kept.
pub fn folder(target: &str) -> PathBuf {
    top().join("tests/data/fuzz").join(target)
}

/// Good documents of each kind of resource, named `fuzz` in mesh `default`.
pub fn documents() -> Vec<(ResourceKind, Value)> {
    let tag = "kuma.io/service";
    let common = |kind: ResourceKind, own: Value| {
        let mut document = json!({ "type": kind.word(), "name": "fuzz", "labels": { "team": "shop" } });
        if !kind.is_global() {
            document["mesh"] = json!("default");
        }
        for (field, value) in own.as_object().into_iter().flatten() {
            document[field] = value.clone();
        }
        (kind, document)
    };
    vec![
        common(ResourceKind::Mesh, json!({ "meshServices": { "mode": "Everywhere" } })),
        common(
            ResourceKind::Dataplane,
            json!({ "networking": { "address": "10.0.0.1", "inbound": [
            { "port": 8080, "servicePort": 80, "tags": { tag: "web", "kuma.io/protocol": "http", "version": "v1" } },
            { "port": 8081, "state": "NotReady", "tags": { tag: "web_admin" } }] } }),
        ),
        common(
            ResourceKind::ZoneIngress,
            json!({ "zone": "away", "networking": { "address": "192.0.2.20", "port": 10001 },
            "availableServices": [{ "mesh": "default", "instances": 3, "tags": { tag: "far-away" } }] }),
        ),
        common(
            ResourceKind::ExternalService,
            json!({ "networking": { "address": "httpbin.org:443", "disableHostDNSEntry": false },
            "tags": { tag: "httpbin", "kuma.io/protocol": "tcp" } }),
        ),
        common(
            ResourceKind::VirtualOutbound,
            json!({ "selectors": [{ "match": { tag: "*", "version": "*" } }],
            "conf": { "host": "{{.version}}.{{.service}}.mesh", "port": "{{if .port}}{{.port}}{{else}}80{{end}}",
            "parameters": [{ "name": "service", "tagKey": tag }, { "name": "version" }, { "name": "port", "tagKey": "k/port" }] } }),
        ),
        common(
            ResourceKind::MeshService,
            json!({ "spec": { "selector": { "dataplaneTags": { tag: "web" } }, "state": "Available",
            "ports": [{ "name": "http", "port": 80, "targetPort": 8080, "appProtocol": "http" }, { "port": 81, "targetPort": "admin" }] } }),
        ),
        common(
            ResourceKind::MeshExternalService,
            json!({ "spec": { "match": { "type": "HostnameGenerator", "port": 5432, "protocol": "tcp" },
            "endpoints": [{ "address": "192.0.2.10", "port": 5432 }, { "address": "db.example", "port": 5432 }] } }),
        ),
        common(
            ResourceKind::MeshMultiZoneService,
            json!({ "spec": { "selector": { "meshService": { "matchLabels": { "team": "shop" } } },
            "ports": [{ "port": 80, "appProtocol": "http" }] } }),
        ),
        common(
            ResourceKind::HostnameGenerator,
            json!({ "spec": { "selector": { "meshExternalService": { "matchLabels": { "a": "b" } } },
            "template": "{{ .DisplayName }}.{{ label \"kuma.io/zone\" }}.example" } }),
        ),
    ]
}

/// Good inputs of a target, and those that were kept.
///
/// # Errors
/// A file cannot be read.
pub fn seeds(target: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    let examples = top().join("deploy/examples");
    let mut seeds = match target {
        "body" => bodies(),
        "files" => read_all(&examples)?,
        "configuration" => {
            let mut found = vec![fs::read(top().join("deploy/control-plane.yaml"))?];
            found.push(
                b"dnsServer: {domain: mesh}\n\0KUMA_DNS_SERVER_CIDR=240.0.0.0/4\nKUMA_STORE_TYPE=memory\n"
                    .to_vec(),
            );
            found
        }
        "install" => read_all(&top().join("tests/data/install"))?,
        "dns" => questions(),
        "xds" => vec![introduction()],
        "socket" => vec![br#"{"verb":"enrol"}"#.to_vec(), br#"{"verb":"status"}"#.to_vec()],
        _ => Vec::new(),
    };
    let kept = folder(target);
    if kept.is_dir() {
        seeds.extend(read_all(&kept)?);
    }
    Ok(seeds)
}

fn read_all(folder: &Path) -> anyhow::Result<Vec<Vec<u8>>> {
    let entries = folder.read_dir().with_context(|| format!("cannot list {}", folder.display()))?;
    let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    paths.sort();
    paths
        .iter()
        .map(|path| fs::read(path).with_context(|| format!("cannot read {}", path.display())))
        .collect()
}

fn bodies() -> Vec<Vec<u8>> {
    documents().into_iter().map(|(kind, document)| body(kind, &document)).collect()
}

/// A document as the target `body` takes it.
///
/// # Panics
/// Never: there are a dozen kinds.
pub fn body(kind: ResourceKind, document: &Value) -> Vec<u8> {
    let place = ResourceKind::ALL.iter().position(|found| *found == kind).unwrap_or_default();
    let mut body = vec![u8::try_from(place).expect("there are a dozen kinds")];
    body.extend_from_slice(document.to_string().as_bytes());
    body
}

/// A and AAAA of names that the zones have and of some that they have not, with and without EDNS.
fn questions() -> Vec<Vec<u8>> {
    let mut questions = Vec::new();
    for (name, qtype) in
        [("redis.mesh", 1), ("Redis.MESH", 28), ("b.c.mesh", 1), ("httpbin.org", 255), ("mesh", 6), ("", 2)]
    {
        let mut question = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
        for label in name.split('.').filter(|label| !label.is_empty()) {
            question.push(u8::try_from(label.len()).unwrap_or_default());
            question.extend_from_slice(label.as_bytes());
        }
        question.extend_from_slice(&[0, 0, qtype, 0, 1]);
        questions.push(question.clone());
        question[11] = 1;
        question.extend_from_slice(b"\0\0\x29\x04\xd0\0\0\x80\0\0\0");
        questions.push(question);
    }
    questions
}

fn introduction() -> Vec<u8> {
    let view = "default".to_owned();
    let introduction =
        Introduction { id: "envoy".into(), role: Role::Proxy, view, outbound_port: Port::new(15001) };
    DeltaDiscoveryRequest {
        node: Some(introduction.write()),
        type_url: ResourceType::Cluster.url().into(),
        resource_names_subscribe: vec!["*".into()],
        ..DeltaDiscoveryRequest::default()
    }
    .encode_to_vec()
}
