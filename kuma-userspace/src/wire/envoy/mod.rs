//! What a real Envoy is given. One listener per VIP and port, one cluster per service, its endpoints beside it, and a
//! bootstrap that knows only where the xDS server is. Called by cp::xds and agent::proxy.

mod bootstrap;
mod cluster;
mod listener;

pub use bootstrap::Bootstrap;
pub use cluster::{cluster, endpoints};
pub use listener::{entrance_name, listener_name, original_destination, outbound};

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{Address, SocketAddress, address, socket_address};
use envoy_types::pb::google::protobuf;

/// How Envoy handles a service's connections.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Codec {
    /// Bytes.
    Tcp,
    /// HTTP/1.1 and HTTP/2: balanced by request.
    Http,
}

fn address(socket: SocketAddr) -> Address {
    let port_specifier = Some(socket_address::PortSpecifier::PortValue(socket.port().into()));
    let socket =
        SocketAddress { address: socket.ip().to_string(), port_specifier, ..SocketAddress::default() };
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
