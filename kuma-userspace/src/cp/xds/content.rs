//! What a resource says, and its version. Its bytes are made when they are sent: they are several times as large, and most
//! are sent once. Keeps: content, name and version belong together. Called by published (making) and session (sending).

use std::net::SocketAddr;
use std::sync::Arc;

use super::name::Name;
use crate::cp::snapshot::Endpoint;
use crate::model::view::{Header, Part};
use crate::wire::envoy::{self, Codec};
use crate::wire::resource::Version;
use crate::wire::view;

#[derive(Clone, Debug)]
pub(super) enum Content {
    Cluster {
        service: Arc<str>,
        /// What the cluster looks up by itself; nobody asks for endpoints then.
        hosts: Option<Box<Arc<[Endpoint]>>>,
    },
    Endpoints(Arc<[Endpoint]>),
    Listener {
        service: Arc<str>,
        codec: Codec,
    },
    Header(Arc<Header>),
    Part(Arc<Part>),
    /// Made already.
    Bytes(Arc<[u8]>),
}

/// A resource without its name.
#[derive(Clone, Debug)]
pub(super) struct Resource {
    pub(super) version: Version,
    pub(super) content: Content,
}

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
    }
}

impl Resource {
    pub(super) fn new(name: &Name, content: Content) -> Self {
        Self { version: Version::of(&content.encode(name)), content }
    }
}

impl Content {
    /// The bytes of the resource that has this name.
    pub(super) fn encode(&self, name: &Name) -> Vec<u8> {
        match self {
            Self::Cluster { service, hosts } => {
                let hosts = hosts.as_deref().map_or(&[][..], |hosts| hosts);
                envoy::cluster(&name.to_string(), service, hosts)
            }
            Self::Endpoints(endpoints) => envoy::endpoints(&name.to_string(), addresses(endpoints)),
            Self::Listener { service, codec } => match name {
                Name::Vip(route) => envoy::outbound(*route, service, *codec),
                Name::Text(text) => {
                    unreachable!("{text:?} is no VIP and port, which every outbound listener is")
                }
            },
            Self::Header(header) => view::encode_header(header),
            Self::Part(part) => view::encode_part(part),
            Self::Bytes(bytes) => bytes.to_vec(),
        }
    }

    /// Whose endpoints a cluster is of no use without.
    pub(super) fn endpoints(&self) -> Option<&Arc<str>> {
        match self {
            Self::Cluster { service, hosts: None } => Some(service),
            _ => None,
        }
    }
}

/// Those that are no host names.
fn addresses(endpoints: &[Endpoint]) -> impl Iterator<Item = SocketAddr> {
    endpoints.iter().filter_map(|endpoint| match endpoint {
        Endpoint::Address(address) => Some(*address),
        Endpoint::Host(..) => None,
    })
}

/// Is one of them a host name? Then the cluster looks all of them up.
pub(super) fn is_looked_up(endpoints: &[Endpoint]) -> bool {
    endpoints.iter().any(|endpoint| matches!(endpoint, Endpoint::Host(..)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_is_small_whatever_it_says() {
        assert!(size_of::<Resource>() <= 40, "{}: there are half a million of them", size_of::<Resource>());
    }
}
