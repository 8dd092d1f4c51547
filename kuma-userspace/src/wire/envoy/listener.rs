//! The listener that a VIP and port has for itself: no socket, an entrance hands it the connections that were meant for it.
//! Called by cp::xds.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{Http1ProtocolOptions, HttpProtocolOptions, TrafficDirection};
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener};
use envoy_types::pb::envoy::config::route::v3::{
    RetryPolicy, Route as HttpRoute, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route,
    route_action, route_match,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_connection_manager as hcm, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::pb::google::protobuf;
use prost::Message;

use super::{Codec, IDLE_TIMEOUT, address, cluster_name, duration, flag, network_filter, number};
use crate::model::view::Route;
use crate::wire::resource::any;

/// How long one HTTP stream may be silent (Kuma's default); streams of events and long polls live on.
const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Failures where the service has not seen the request, so that asking again cannot do it twice.
const RETRY_ON: &str = "connect-failure,refused-stream,reset-before-request";
const RETRIES: u32 = 2;

/// The name of a VIP and port in Envoy (Kuma's pattern): of its listener, or of its cluster if it has none.
pub fn outbound_name(route: Route) -> String {
    format!("outbound:{}", SocketAddr::new(route.vip, route.port.get()))
}

/// The listener of a VIP and port: its connections go to the cluster of `service`.
pub fn outbound(route: Route, service: &str, codec: Codec) -> Vec<u8> {
    let filter = match codec {
        Codec::Tcp => network_filter("envoy.filters.network.tcp_proxy", &tcp(service)),
        Codec::Http => network_filter("envoy.filters.network.http_connection_manager", &http(service)),
    };
    let listener = Listener {
        name: outbound_name(route),
        address: Some(address(SocketAddr::new(route.vip, route.port.get()))),
        bind_to_port: flag(false),
        filter_chains: vec![FilterChain { filters: vec![filter], ..FilterChain::default() }],
        traffic_direction: TrafficDirection::Outbound.into(),
        ..Listener::default()
    };
    listener.encode_to_vec()
}

fn tcp(service: &str) -> TcpProxy {
    TcpProxy {
        stat_prefix: service.into(),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster_name(service).into())),
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
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster_name(service).into())),
        // A service that is known by a host name is asked by that name; the others see the name that the client used.
        host_rewrite_specifier: Some(route_action::HostRewriteSpecifier::AutoHostRewrite(
            protobuf::BoolValue { value: true },
        )),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::view::Port;

    #[test]
    fn a_listener_has_the_name_that_kuma_gives_it() {
        for (vip, want) in
            [("240.0.0.1", "outbound:240.0.0.1:80"), ("fd00:fd00::1", "outbound:[fd00:fd00::1]:80")]
        {
            let route = Route { vip: vip.parse().unwrap(), port: Port::new(80) };
            assert_eq!(outbound_name(route), want);
            let listener = Listener::decode(&*outbound(route, "redis", Codec::Tcp)).unwrap();
            assert_eq!(listener.name, want);
        }
    }

    #[test]
    fn a_vips_listener_has_no_socket() {
        let route = Route { vip: "240.0.0.1".parse().unwrap(), port: Port::new(80) };
        for codec in [Codec::Tcp, Codec::Http] {
            let listener = Listener::decode(&*outbound(route, "redis", codec)).unwrap();
            assert_eq!(listener.bind_to_port, flag(false));
        }
    }
}
