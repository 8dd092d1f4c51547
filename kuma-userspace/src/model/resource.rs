//! What a control plane is told about: services, by mesh and service tag, and where they run.
//! Keeps: a [`ServiceKey`] is cheap to clone and totally ordered. Called by cp (resources, names, allocator, store).

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// The mesh that exists from the start, as in Kuma.
pub const DEFAULT_MESH: &str = "default";

/// A service as Kuma identifies it: its mesh and the value of its `kuma.io/service` tag.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    pub mesh: Arc<str>,
    pub service: Arc<str>,
}

impl ServiceKey {
    /// The service of this tag in this mesh.
    pub fn new(mesh: &str, service: &str) -> Self {
        Self { mesh: mesh.into(), service: service.into() }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.mesh, self.service)
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

/// How the proxy handles a service's connections (Kuma's `kuma.io/protocol` tag).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
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
    fn every_protocol_of_kuma_is_read_and_nothing_else() {
        assert!(PROTOCOLS.iter().all(|text| Protocol::parse(text).is_some()));
        assert_eq!(Protocol::parse("HTTP"), None);
        assert_eq!(Protocol::Http.common(Protocol::Tcp), Protocol::Tcp);
    }
}
