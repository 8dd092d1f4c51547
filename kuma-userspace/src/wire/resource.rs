//! The types of xDS resources and their versions. Keeps: the version is a hash of the content, so it is the same on every
//! replica and after a restart. Called by cp::xds and agent::feed.

use std::fmt;
use std::num::ParseIntError;
use std::str::FromStr;

use envoy_types::pb::google::protobuf::Any;
use prost::Name;
use sha2::{Digest, Sha256};

/// Bytes of the hash that a version shows; 64 bits: versions are compared for one name only.
const VERSION_BYTES: usize = 8;

/// The resource types that we serve, in the order in which a change must reach a proxy.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ResourceType {
    Cluster,
    Endpoints,
    Listener,
    MeshView,
}

impl ResourceType {
    /// All of them, in order.
    pub const ALL: [Self; 4] = [Self::Cluster, Self::Endpoints, Self::Listener, Self::MeshView];

    /// The name of the type on the wire.
    pub fn url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::MeshView => "type.googleapis.com/kuma_dns.v1.MeshView",
        }
    }

    /// The type that has this name on the wire, if we serve it.
    pub fn of_url(url: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.url() == url)
    }

    /// The word for operators.
    pub fn word(self) -> &'static str {
        match self {
            Self::Cluster => "cluster",
            Self::Endpoints => "endpoints",
            Self::Listener => "listener",
            Self::MeshView => "mesh view",
        }
    }
}

/// The first 64 bits of a hash: what is compared to know whether a client has a resource as it is now: 16 hexadecimal digits on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Version(u64);

impl Version {
    /// Of a client that has something, nobody knows what. Content whose hash this is would be sent once too often.
    pub const UNKNOWN: Self = Self(0);

    /// Of this content.
    pub fn of(body: &[u8]) -> Self {
        let digest = Sha256::digest(body);
        let first = digest.first_chunk::<VERSION_BYTES>().expect("a SHA-256 has 32 bytes");
        Self(u64::from_be_bytes(*first))
    }

    /// As a number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for Version {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        u64::from_str_radix(text, 16).map(Self)
    }
}

/// `message` as it stands inside another message.
pub(super) fn any(message: &impl Name) -> Any {
    Any { type_url: type_url(message), value: message.encode_to_vec() }
}

fn type_url<M: Name>(_: &M) -> String {
    M::type_url()
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::{
        cluster::v3::Cluster, endpoint::v3::ClusterLoadAssignment, listener::v3::Listener,
    };
    use prost::Message;

    use super::*;

    #[test]
    fn every_type_has_the_name_that_envoy_knows() {
        assert_eq!(Cluster::type_url(), ResourceType::Cluster.url());
        assert_eq!(ClusterLoadAssignment::type_url(), ResourceType::Endpoints.url());
        assert_eq!(Listener::type_url(), ResourceType::Listener.url());
        for kind in ResourceType::ALL {
            assert_eq!(ResourceType::of_url(kind.url()), Some(kind));
        }
        assert_eq!(
            ResourceType::of_url("type.googleapis.com/envoy.config.route.v3.RouteConfiguration"),
            None
        );
    }

    #[test]
    fn a_version_is_the_hash_of_the_content_and_outlives_the_process() {
        let cluster = Cluster { name: "redis".into(), ..Cluster::default() };
        // A fixed value: a version that changes with the release would make every Envoy reload everything.
        let version = Version::of(&cluster.encode_to_vec());
        assert_eq!(version.to_string(), "8b7f57c0922303a0");
        assert_eq!("8b7f57c0922303a0".parse(), Ok(version));
        let other = Cluster { alt_stat_name: "other".into(), ..cluster };
        assert_ne!(Version::of(&other.encode_to_vec()), version);
    }
}
