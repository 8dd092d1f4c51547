//! The two listeners with a socket, one per family, that all connections to VIPs come in by. Each connection goes to the
//! listener of its original destination; one that has no such listener, but was meant for an address of a VIP range, to
//! the cluster that has the destination's name (compact). Keeps: a connection that was meant for no VIP goes nowhere;
//! nothing outside the loopback device can connect. Called by cp::xds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    CidrRange, DataSource, SocketOption, SubstitutionFormatString, TrafficDirection, data_source,
    socket_option, substitution_format_string,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, FilterChainMatch, Listener};
use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3::{
    FilterStateValue, filter_state_value,
};
use envoy_types::pb::envoy::extensions::filters::network::set_filter_state::v3::Config as SetFilterState;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use ipnetwork::IpNetwork;
use prost::Message;

use super::{IDLE_TIMEOUT, address, ads, duration, flag, network_filter, number};
use crate::model::view::Port;

/// A connection that is faster than its cluster waits so long for it; then it is closed.
const CLUSTER_LIMIT: Duration = Duration::from_secs(2);
/// The pattern of [`super::outbound_name`] in Envoy's words: `outbound:240.0.0.1:80`.
const DESTINATION: &str = "outbound:%DOWNSTREAM_LOCAL_ADDRESS%";
/// The filter state by which a filter in front tells the TCP proxy its cluster.
const CLUSTER_STATE: &str = "envoy.tcp_proxy.cluster";
/// Its cluster without that state, and the prefix of its figures: no cluster has this name.
const NO_VIP: &str = "outbound";

/// Socket options of Linux (asm-generic/socket.h).
const SOL_SOCKET: i64 = 1;
const SO_BINDTODEVICE: i64 = 25;
/// A destination that no connection has: an entrance without VIP ranges has this chain alone.
const NOBODY: &str = "255.255.255.255/32";

/// The name of the entrance for VIPs of this family.
pub fn entrance_name(vip: IpAddr) -> String {
    format!("outbound:original-destination:{}", if vip.is_ipv4() { "ipv4" } else { "ipv6" })
}

/// The names and bodies of both entrances. What has no listener and lies in none of `ranges` matches no filter chain: Envoy closes it and counts it
/// in `listener.<address>.no_filter_chain_match`.
pub fn entrances(port: Port, ranges: &[IpNetwork]) -> [(String, Vec<u8>); 2] {
    [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()].map(|ip| entrance(ip, port, ranges))
}

fn entrance(ip: IpAddr, port: Port, ranges: &[IpNetwork]) -> (String, Vec<u8>) {
    let name = entrance_name(ip);
    // A chain for each range: when one comes or goes, connections of the others live on.
    let of_family = ranges.iter().filter(|range| range.is_ipv4() == ip.is_ipv4());
    let compact = of_family.map(|range| chain(*range, vec![destination(), tcp()]));
    let nobody = chain(NOBODY.parse().expect("a network"), Vec::new());
    let listener = Listener {
        name: name.clone(),
        address: Some(address(SocketAddr::new(ip, port.get()))),
        use_original_dst: flag(true),
        socket_options: vec![bound_to_loopback()],
        filter_chains: compact.chain([nobody]).collect(),
        traffic_direction: TrafficDirection::Outbound.into(),
        ..Listener::default()
    };
    (name, listener.encode_to_vec())
}

fn chain(range: IpNetwork, filters: Vec<Filter>) -> FilterChain {
    let prefix =
        CidrRange { address_prefix: range.ip().to_string(), prefix_len: number(range.prefix().into()) };
    let matched = FilterChainMatch { prefix_ranges: vec![prefix], ..FilterChainMatch::default() };
    let name = range.to_string();
    FilterChain { filter_chain_match: Some(matched), filters, name, ..FilterChain::default() }
}

/// Names the cluster by where the connection was meant to go.
fn destination() -> Filter {
    let text = DataSource {
        specifier: Some(data_source::Specifier::InlineString(DESTINATION.into())),
        ..DataSource::default()
    };
    let format = SubstitutionFormatString {
        format: Some(substitution_format_string::Format::TextFormatSource(text)),
        ..SubstitutionFormatString::default()
    };
    let cluster = FilterStateValue {
        key: Some(filter_state_value::Key::ObjectKey(CLUSTER_STATE.into())),
        value: Some(filter_state_value::Value::FormatString(format)),
        ..FilterStateValue::default()
    };
    let config = SetFilterState { on_new_connection: vec![cluster], ..SetFilterState::default() };
    network_filter("envoy.filters.network.set_filter_state", &config)
}

fn tcp() -> Filter {
    let config = TcpProxy {
        stat_prefix: NO_VIP.into(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(NO_VIP.into())),
        on_demand: Some(tcp_proxy::OnDemand {
            odcds_config: Some(ads()),
            timeout: duration(CLUSTER_LIMIT),
            ..tcp_proxy::OnDemand::default()
        }),
        idle_timeout: duration(IDLE_TIMEOUT),
        ..TcpProxy::default()
    };
    network_filter("envoy.filters.network.tcp_proxy", &config)
}

/// The listener takes every loopback address (each IPv4 VIP has one) and must not be reached from outside. Binding a
/// socket to a device for the first time needs no privilege (Linux 5.7).
fn bound_to_loopback() -> SocketOption {
    SocketOption {
        description: "only the loopback device".into(),
        level: SOL_SOCKET,
        name: SO_BINDTODEVICE,
        state: socket_option::SocketState::StatePrebind.into(),
        value: Some(socket_option::Value::BufValue(b"lo".into())),
        ..SocketOption::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entrance_has_a_socket_on_loopback_and_leads_only_to_the_vip_ranges_of_its_family() {
        let ranges = ["240.0.0.0/4".parse().unwrap(), "fd00:fd00::/64".parse().unwrap()];
        let [v4, v6] = entrances(Port::new(15001), &ranges);
        for ((_, body), range) in [(v4, "240.0.0.0/4"), (v6, "fd00:fd00::/64")] {
            let listener = Listener::decode(&*body).unwrap();
            assert_eq!(listener.bind_to_port, None);
            assert_eq!(listener.socket_options, [bound_to_loopback()]);
            let chains: Vec<_> =
                listener.filter_chains.iter().map(|chain| (&*chain.name, chain.filters.len())).collect();
            assert_eq!(chains, [(range, 2), (NOBODY, 0)]);
            assert_eq!(listener.default_filter_chain, None);
        }
    }
}
