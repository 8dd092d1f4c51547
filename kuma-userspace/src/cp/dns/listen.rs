//! Where the control plane's DNS server listens, as its settings say: `dnsServer.port` (Kuma's) and `dnsServer.address`.
//! Called by cp::settings and cp::dns.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::cp::violation::{FieldPath, Object, Reader};
use crate::cp::yaml::Value;
use crate::model::view::Port;

/// Kuma's port, which `kuma-dns control-plane` takes unless it is told another one.
pub const DEFAULT_PORT: Port = Port::new(5653);

/// The fields of `dnsServer` that are read here.
pub(in crate::cp) const FIELDS: [&str; 2] = ["port", "address"];

/// Where to listen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listen {
    /// `None`: there is no server.
    pub port: Option<Port>,
    /// `None`: loopback, both families.
    pub address: Option<IpAddr>,
}

impl Listen {
    /// Every address to bind.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        let ips = self.address.map_or(loopback.to_vec(), |address| vec![address]);
        let at = |port: Port| ips.iter().map(|&ip| SocketAddr::new(ip, port.get())).collect();
        self.port.map(at).unwrap_or_default()
    }
}

/// Reads both fields; what is wrong goes to the reader.
pub(in crate::cp) fn read(reader: &mut Reader<'_>, object: &Object<'_>, path: &FieldPath<'_>) -> Listen {
    let port = object.get("port").and_then(|node| {
        reader
            .integer(node, &path.field("port"), 0, u64::from(u16::MAX))
            .and_then(|port| u16::try_from(port).ok())
    });
    let address = object.get("address").and_then(|node| {
        let path = path.field("address");
        // `--print-config` writes what is not set like this.
        if matches!(&node.value, Value::Text(text) if text.is_empty()) {
            return None;
        }
        let text = reader.text(node, &path)?;
        let parsed = text.parse::<IpAddr>().ok();
        if parsed.is_none() {
            let problem =
                format!("{text:?} is no IP address: write it like 127.0.0.1, or 0.0.0.0 for all of them");
            reader.report(node.line, &path, problem);
        }
        parsed
    });
    Listen { port: port.filter(|port| *port > 0).map(Port::new), address }
}
