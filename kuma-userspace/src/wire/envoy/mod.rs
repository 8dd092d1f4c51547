//! What a real Envoy is given. Connections come in by an entrance; a VIP and port has a listener of its own, which leads to
//! the cluster of its service, or (compact) a cluster of its own. The endpoints of a service stand beside them. The
//! bootstrap knows only where the xDS server is. Called by cp::xds and agent::proxy.

mod bootstrap;
mod cluster;
mod entrance;
mod listener;

pub use bootstrap::Bootstrap;
pub use cluster::{cluster, cluster_name, endpoints};
pub use entrance::{entrance_name, entrances};
pub use listener::{outbound, outbound_name};

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress, address,
    config_source::ConfigSourceSpecifier, socket_address,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, filter};
use envoy_types::pb::google::protobuf;
use prost::Name;

use crate::wire::resource::any;

/// How Envoy handles a service's connections.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Codec {
    /// Bytes.
    Tcp,
    /// HTTP/1.1 and HTTP/2: balanced by request.
    Http,
}

/// How long a connection may be silent (Kuma's default for TCP and HTTP).
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// More of the same stream.
fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource::default())),
        ..ConfigSource::default()
    }
}

fn network_filter(name: &str, config: &impl Name) -> Filter {
    Filter { name: name.into(), config_type: Some(filter::ConfigType::TypedConfig(any(config))) }
}

fn address(socket: SocketAddr) -> Address {
    named_address(&socket.ip().to_string(), socket.port())
}

/// A host by its name, or by its address as text.
fn named_address(host: &str, port: u16) -> Address {
    let port_specifier = Some(socket_address::PortSpecifier::PortValue(port.into()));
    let socket = SocketAddress { address: host.into(), port_specifier, ..SocketAddress::default() };
    Address { address: Some(address::Address::SocketAddress(socket)) }
}

fn duration(duration: Duration) -> Option<protobuf::Duration> {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    Some(protobuf::Duration { seconds, nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0) })
}

fn flag(value: bool) -> Option<protobuf::BoolValue> {
    Some(protobuf::BoolValue { value })
}

fn number(value: u32) -> Option<protobuf::UInt32Value> {
    Some(protobuf::UInt32Value { value })
}
