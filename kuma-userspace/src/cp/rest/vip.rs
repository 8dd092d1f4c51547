//! A VIP as it is shown: who has it, its names and addresses, and where each of its ports leads. Called by rest::listing.

use serde::Serialize;

use crate::cp::snapshot::{Listener, Protocol, Published};
use crate::model::resource::{Kind, ServiceKey};

#[derive(Serialize)]
struct Vip<'p> {
    r#type: &'static str,
    mesh: &'p str,
    /// Unique in the mesh: `redis`, `host:httpbin.org`, `MeshService:redis`.
    name: &'p str,
    kind: &'static str,
    hostnames: Vec<&'p str>,
    v4: Option<String>,
    v6: Option<String>,
    ports: Vec<Port<'p>>,
}

#[derive(Serialize)]
struct Port<'p> {
    port: u16,
    protocol: &'static str,
    cluster: &'p str,
    endpoints: Vec<String>,
}

/// The word for what has a VIP: `service`, `host`, `MeshService`.
fn kind(mesh: &str, name: &str) -> Kind {
    ServiceKey::parse(&format!("{mesh}/{name}")).map_or(Kind::Service, |key| key.kind)
}

pub(super) fn write(
    mesh: &str,
    name: &str,
    published: &Published,
    out: &mut Vec<u8>,
) -> serde_json::Result<()> {
    let Published { addresses, entry, .. } = published;
    let mut ports: Vec<Port<'_>> = entry.listeners.iter().flat_map(ports).collect();
    ports.sort_by_key(|port| port.port);
    let vip = Vip {
        r#type: "Vip",
        mesh,
        name,
        kind: kind(mesh, name).word(),
        hostnames: entry.hostnames.iter().map(|name| name.as_str()).collect(),
        v4: addresses.v4.map(|ip| ip.to_string()),
        v6: addresses.v6.map(|ip| ip.to_string()),
        ports,
    };
    serde_json::to_writer(out, &vip)
}

fn ports(listener: &Listener) -> impl Iterator<Item = Port<'_>> {
    listener.ports.iter().map(|port| Port {
        port: port.get(),
        protocol: protocol(listener.protocol),
        cluster: &listener.cluster,
        endpoints: listener.endpoints.iter().map(ToString::to_string).collect(),
    })
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Http => "http",
    }
}
