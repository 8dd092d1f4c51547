//! What a control plane is told about: who has a virtual address, by mesh, kind and name, and where services run.
//! Keeps: a [`ServiceKey`] is cheap to clone and totally ordered. Called by cp (resources, plan, allocator, store).

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::model::name::Hostname;
use crate::model::view::Port;

/// The mesh that exists from the start, as in Kuma.
pub const DEFAULT_MESH: &str = "default";

/// What has a virtual address. The order is the one in which names are claimed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// The value of a `kuma.io/service` tag.
    Service,
    /// The host of an ExternalService.
    Host,
    /// A host that a VirtualOutbound makes up.
    Fqdn,
    MeshService,
    MeshExternalService,
    MeshMultiZoneService,
}

impl Kind {
    /// Those whose keys say their kind: a service tag's does not, it holds no colon.
    const SAID: [Self; 5] =
        [Self::Host, Self::Fqdn, Self::MeshService, Self::MeshExternalService, Self::MeshMultiZoneService];

    /// The word in keys, statuses and cluster names.
    pub fn word(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Host => "host",
            Self::Fqdn => "fqdn",
            Self::MeshService => "MeshService",
            Self::MeshExternalService => "MeshExternalService",
            Self::MeshMultiZoneService => "MeshMultiZoneService",
        }
    }
}

/// Who has a virtual address: a service as Kuma identifies it, by its mesh and the value of its `kuma.io/service` tag, or
/// one of the other kinds, by its name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    pub mesh: Arc<str>,
    pub kind: Kind,
    pub service: Arc<str>,
}

impl ServiceKey {
    /// The service of this tag in this mesh.
    pub fn new(mesh: &str, service: &str) -> Self {
        Self::of(mesh, Kind::Service, service)
    }

    /// Something of this kind and name in this mesh.
    pub fn of(mesh: &str, kind: Kind, name: &str) -> Self {
        Self { mesh: mesh.into(), kind, service: name.into() }
    }

    /// Reads what [`Self`] prints: `mesh/service`, or `mesh/kind:name`. A mesh name holds no slash.
    pub fn parse(text: &str) -> Option<Self> {
        let (mesh, rest) = text.split_once('/')?;
        let said = rest.split_once(':').and_then(|(word, name)| {
            let kind = Kind::SAID.into_iter().find(|kind| kind.word() == word)?;
            Some(Self::of(mesh, kind, name))
        });
        Some(said.unwrap_or_else(|| Self::new(mesh, rest)))
    }

    /// The part after the mesh: `redis`, `host:httpbin.org`.
    pub fn local(&self) -> String {
        match self.kind {
            Kind::Service => self.service.to_string(),
            kind => format!("{}:{}", kind.word(), self.service),
        }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.mesh, self.local())
    }
}

impl fmt::Debug for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A service as it was described: how to speak to it, and where its instances listen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Service {
    pub protocol: Protocol,
    pub endpoints: BTreeSet<SocketAddr>,
}

/// Where a service can be reached: an address, or a host name that the proxy looks up.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Endpoint {
    Address(SocketAddr),
    Host(Hostname, Port),
}

impl From<SocketAddr> for Endpoint {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(f),
            Self::Host(host, port) => write!(f, "{host}:{}", port.get()),
        }
    }
}

/// How the proxy handles a service's connections (Kuma's `kuma.io/protocol` tag).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Protocol {
    #[default]
    Tcp,
    Http,
}

/// Every value of `kuma.io/protocol` that Kuma knows.
pub const PROTOCOLS: [&str; 5] = ["grpc", "http", "http2", "kafka", "tcp"];

impl Protocol {
    /// Reads a value of `kuma.io/protocol`. HTTP/2, gRPC and Kafka are carried byte for byte, as TCP: that is right
    /// for each of them.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "http" => Some(Self::Http),
            "tcp" | "http2" | "grpc" | "kafka" => Some(Self::Tcp),
            _ => None,
        }
    }

    /// What all instances of a service speak, when they say different things (Kuma's rule: fall back to TCP).
    pub fn common(self, other: Self) -> Self {
        if self == other { self } else { Self::Tcp }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_is_printed_and_a_services_key_is_as_it_always_was() {
        assert_eq!(ServiceKey::new("default", "redis").to_string(), "default/redis");
        for kind in Kind::SAID {
            let key = ServiceKey::of("default", kind, "a.b");
            assert_eq!(ServiceKey::parse(&key.to_string()), Some(key));
        }
        let service = ServiceKey::new("default", "web_ns_svc_80");
        assert_eq!(ServiceKey::parse("default/web_ns_svc_80"), Some(service));
        assert_eq!(ServiceKey::parse("no-slash"), None);
    }

    #[test]
    fn every_protocol_of_kuma_is_read_and_nothing_else() {
        assert!(PROTOCOLS.iter().all(|text| Protocol::parse(text).is_some()));
        assert_eq!(Protocol::parse("HTTP"), None);
        assert_eq!(Protocol::Http.common(Protocol::Tcp), Protocol::Tcp);
    }
}
