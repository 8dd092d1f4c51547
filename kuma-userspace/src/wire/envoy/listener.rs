//! Listeners. One per VIP and port without a socket of its own, and two real ones that hand each connection to the
//! listener of its original destination. Keeps: a connection that was meant for no VIP goes nowhere; nothing outside
//! the loopback device can connect. Called by cp::xds.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    CidrRange, Http1ProtocolOptions, HttpProtocolOptions, SocketOption, TrafficDirection, socket_option,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, FilterChainMatch, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::{
    RetryPolicy, Route as HttpRoute, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route,
    route_action, route_match,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_connection_manager as hcm, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use prost::Name;

use super::{Codec, address, duration, flag, number};
use crate::model::view::{Port, Route};
use crate::wire::resource::{Resource, any};

/// How long a connection may be silent (Kuma's default for TCP and HTTP).
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// How long one HTTP stream may be silent (Kuma's default); streams of events and long polls live on.
const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Failures where the service has not seen the request, so that asking again cannot do it twice.
const RETRY_ON: &str = "connect-failure,refused-stream,reset-before-request";
const RETRIES: u32 = 2;

/// Socket options of Linux (asm-generic/socket.h).
const SOL_SOCKET: i64 = 1;
const SO_BINDTODEVICE: i64 = 25;
/// A destination that no connection has: the only chain of the real listeners matches nothing.
const NOBODY: &str = "255.255.255.255";

/// The name that the VIP's listener has in Envoy (Kuma's pattern).
pub fn listener_name(route: Route) -> String {
    format!("outbound:{}", SocketAddr::new(route.vip, route.port.get()))
}

/// The name of the listener with a socket that connections to VIPs of this family come in by.
pub fn entrance_name(vip: IpAddr) -> String {
    format!("outbound:original-destination:{}", if vip.is_ipv4() { "ipv4" } else { "ipv6" })
}

/// The listener of a VIP and port: its connections go to the cluster of `service`.
pub fn outbound(route: Route, service: &str, codec: Codec) -> Resource {
    let filter = match codec {
        Codec::Tcp => filter("envoy.filters.network.tcp_proxy", &tcp(service)),
        Codec::Http => filter("envoy.filters.network.http_connection_manager", &http(service)),
    };
    let name = listener_name(route);
    let listener = Listener {
        name: name.clone(),
        address: Some(address(SocketAddr::new(route.vip, route.port.get()))),
        bind_to_port: flag(false),
        filter_chains: vec![FilterChain { filters: vec![filter], ..FilterChain::default() }],
        traffic_direction: TrafficDirection::Outbound.into(),
        ..Listener::default()
    };
    Resource::encode(name, &listener)
}

/// The two listeners with a socket, one per family. A connection whose destination has no listener matches no filter
/// chain: Envoy closes it and counts it in `listener.<address>.no_filter_chain_match`.
pub fn original_destination(port: Port) -> [Resource; 2] {
    let listener = |ip: IpAddr| {
        let name = entrance_name(ip);
        let nobody = CidrRange { address_prefix: NOBODY.into(), prefix_len: number(32) };
        let nobody = FilterChainMatch { prefix_ranges: vec![nobody], ..FilterChainMatch::default() };
        let chain =
            FilterChain { filter_chain_match: Some(nobody), name: "nobody".into(), ..FilterChain::default() };
        let listener = Listener {
            name: name.clone(),
            address: Some(address(SocketAddr::new(ip, port.get()))),
            use_original_dst: flag(true),
            socket_options: vec![bound_to_loopback()],
            filter_chains: vec![chain],
            traffic_direction: TrafficDirection::Outbound.into(),
            ..Listener::default()
        };
        Resource::encode(name, &listener)
    };
    [listener(Ipv4Addr::UNSPECIFIED.into()), listener(Ipv6Addr::UNSPECIFIED.into())]
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

fn tcp(service: &str) -> TcpProxy {
    TcpProxy {
        stat_prefix: service.into(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(service.into())),
        idle_timeout: duration(IDLE_TIMEOUT),
        ..TcpProxy::default()
    }
}

fn http(service: &str) -> HttpConnectionManager {
    let router = HttpFilter {
        name: "envoy.filters.http.router".into(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(&Router::default()))),
        ..HttpFilter::default()
    };
    HttpConnectionManager {
        stat_prefix: service.into(),
        route_specifier: Some(hcm::RouteSpecifier::RouteConfig(routes(service))),
        http_filters: vec![router],
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: duration(IDLE_TIMEOUT),
            ..HttpProtocolOptions::default()
        }),
        http_protocol_options: Some(Http1ProtocolOptions {
            accept_http_10: true,
            ..Http1ProtocolOptions::default()
        }),
        stream_idle_timeout: duration(STREAM_IDLE_TIMEOUT),
        upgrade_configs: vec![hcm::UpgradeConfig {
            upgrade_type: "websocket".into(),
            ..hcm::UpgradeConfig::default()
        }],
        // The client sees the service's own `server` header.
        server_header_transformation: hcm::ServerHeaderTransformation::AppendIfAbsent.into(),
        // Said outright: the default is about to change, and Envoy warns of it for each listener.
        internal_address_config: Some(hcm::InternalAddressConfig::default()),
        ..HttpConnectionManager::default()
    }
}

/// Every host and path to the service: the VIP has decided already.
fn routes(service: &str) -> RouteConfiguration {
    let action = RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(service.into())),
        // No limit on the whole response: Envoy's 15 seconds would cut long downloads that work without a mesh.
        timeout: duration(Duration::ZERO),
        retry_policy: Some(RetryPolicy {
            retry_on: RETRY_ON.into(),
            num_retries: number(RETRIES),
            ..RetryPolicy::default()
        }),
        ..RouteAction::default()
    };
    let every_path = RouteMatch {
        path_specifier: Some(route_match::PathSpecifier::Prefix("/".into())),
        ..RouteMatch::default()
    };
    let route = HttpRoute {
        r#match: Some(every_path),
        action: Some(route::Action::Route(action)),
        ..HttpRoute::default()
    };
    let host = VirtualHost {
        name: service.into(),
        domains: vec!["*".into()],
        routes: vec![route],
        ..VirtualHost::default()
    };
    RouteConfiguration {
        name: service.into(),
        virtual_hosts: vec![host],
        // A listener whose cluster is late is taken and answers 503 until the cluster is there; with the check it would
        // be refused, and stay away.
        validate_clusters: flag(false),
        ..RouteConfiguration::default()
    }
}

fn filter(name: &str, config: &impl Name) -> Filter {
    Filter { name: name.into(), config_type: Some(filter::ConfigType::TypedConfig(any(config))) }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn a_listener_has_the_name_that_kuma_gives_it() {
        for (vip, want) in
            [("240.0.0.1", "outbound:240.0.0.1:80"), ("fd00:fd00::1", "outbound:[fd00:fd00::1]:80")]
        {
            let route = Route { vip: vip.parse().unwrap(), port: Port::new(80) };
            assert_eq!(listener_name(route), want);
            assert_eq!(outbound(route, "redis", Codec::Tcp).name, want);
        }
    }

    #[test]
    fn only_the_two_original_destination_listeners_have_a_socket() {
        let route = Route { vip: "240.0.0.1".parse().unwrap(), port: Port::new(80) };
        for codec in [Codec::Tcp, Codec::Http] {
            let listener = Listener::decode(outbound(route, "redis", codec).body).unwrap();
            assert_eq!(listener.bind_to_port, flag(false));
        }
        for resource in original_destination(Port::new(15001)) {
            let listener = Listener::decode(resource.body).unwrap();
            assert_eq!(listener.bind_to_port, None);
            assert_eq!(listener.socket_options, [bound_to_loopback()]);
        }
    }
}
