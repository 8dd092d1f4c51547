//! Clusters and their endpoints. Keeps: endpoints come over the same ADS stream as the cluster, so a change of
//! endpoints never touches cluster or listener; only what is known by a host name is in its cluster, which looks it up.
//! Called by cp::xds.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster, circuit_breakers::Thresholds, cluster, cluster::EdsClusterConfig,
};
use envoy_types::pb::envoy::config::core::v3::Address;
use envoy_types::pb::envoy::config::endpoint::v3::{
    self as endpoint, ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use prost::Message;

use super::{address, ads, duration, flag, named_address, number};
use crate::model::resource::Endpoint;

/// How long a connection to an endpoint may take (Kuma's default).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections, requests and waiting requests of one service through one proxy. Envoy's own default of 1,024 would
/// refuse what a direct connection allows.
const MAX_CONCURRENT: u32 = 65_536;

/// The name of a service's own cluster. One that could be taken for a VIP's gets a prefix: a service must not catch the
/// connections of another by its name.
pub fn cluster_name(service: &str) -> Cow<'_, str> {
    if service.starts_with("outbound:") || service.starts_with("service:") {
        Cow::Owned(format!("service:{service}"))
    } else {
        Cow::Borrowed(service)
    }
}

/// A cluster whose connections go to the endpoints of `service`. One of another name than the service's belongs to a VIP
/// and port; its figures are the service's. Without `hosts` its endpoints are asked for under the service's name; with
/// hosts it looks them up itself, and again every five seconds (Envoy's default). A name that does not resolve holds
/// nothing else back.
pub fn cluster(name: &str, service: &str, hosts: &[Endpoint]) -> Vec<u8> {
    let other_name = if name == service { String::new() } else { service.into() };
    let thresholds = Thresholds {
        max_connections: number(MAX_CONCURRENT),
        max_pending_requests: number(MAX_CONCURRENT),
        max_requests: number(MAX_CONCURRENT),
        ..Thresholds::default()
    };
    let named = !hosts.is_empty();
    let kind = if named { cluster::DiscoveryType::StrictDns } else { cluster::DiscoveryType::Eds };
    let cluster = Cluster {
        name: name.into(),
        alt_stat_name: other_name.clone(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(kind.into())),
        eds_cluster_config: (!named)
            .then(|| EdsClusterConfig { eds_config: Some(ads()), service_name: other_name }),
        load_assignment: named.then(|| assignment(name, hosts.iter().map(host_address))),
        dns_lookup_family: lookup_family(named),
        wait_for_warm_on_init: if named { flag(false) } else { None },
        connect_timeout: duration(CONNECT_TIMEOUT),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![thresholds],
            ..CircuitBreakers::default()
        }),
        ..Cluster::default()
    };
    cluster.encode_to_vec()
}

/// IPv4 first: a machine without IPv6 would choose addresses that it cannot reach.
fn lookup_family(named: bool) -> i32 {
    if named {
        cluster::DnsLookupFamily::V4Preferred.into()
    } else {
        cluster::DnsLookupFamily::default().into()
    }
}

/// The endpoints of a service's cluster; none at all is a valid answer.
pub fn endpoints(service: &str, addresses: impl Iterator<Item = SocketAddr>) -> Vec<u8> {
    assignment(service, addresses.map(address)).encode_to_vec()
}

fn assignment(service: &str, addresses: impl Iterator<Item = Address>) -> ClusterLoadAssignment {
    let endpoint = |address| {
        let endpoint = endpoint::Endpoint { address: Some(address), ..endpoint::Endpoint::default() };
        LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..LbEndpoint::default() }
    };
    let locality = LocalityLbEndpoints {
        lb_endpoints: addresses.map(endpoint).collect(),
        ..LocalityLbEndpoints::default()
    };
    ClusterLoadAssignment {
        cluster_name: service.into(),
        endpoints: vec![locality],
        ..ClusterLoadAssignment::default()
    }
}

fn host_address(endpoint: &Endpoint) -> Address {
    match endpoint {
        Endpoint::Address(socket) => address(*socket),
        Endpoint::Host(host, port) => named_address(host.as_str(), port.get()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::Hostname;
    use crate::model::view::Port;

    #[test]
    fn only_a_service_with_a_host_name_looks_its_endpoints_up_itself() {
        let by_address = Cluster::decode(&*cluster("redis", "redis", &[])).unwrap();
        assert!(by_address.eds_cluster_config.is_some() && by_address.load_assignment.is_none());
        let host = Hostname::parse("httpbin.org").unwrap();
        let hosts = [Endpoint::Host(host, Port::new(80)), Endpoint::Address("192.0.2.1:80".parse().unwrap())];
        let by_name = Cluster::decode(&*cluster("httpbin", "httpbin", &hosts)).unwrap();
        assert!(by_name.eds_cluster_config.is_none());
        assert_eq!(by_name.load_assignment.unwrap().endpoints[0].lb_endpoints.len(), 2);
        assert_eq!(by_name.wait_for_warm_on_init, flag(false), "one bad name holds nothing else back");
    }

    #[test]
    fn a_service_cannot_take_connections_of_another_by_its_name() {
        for (service, name) in [
            ("redis", "redis"),
            ("outbound:240.0.0.1:80", "service:outbound:240.0.0.1:80"),
            ("service:outbound:240.0.0.1:80", "service:service:outbound:240.0.0.1:80"),
        ] {
            assert_eq!(cluster_name(service), name);
        }
    }

    #[test]
    fn a_vips_cluster_has_the_endpoints_and_the_figures_of_its_service() {
        let cluster = Cluster::decode(&*cluster("outbound:240.0.0.1:80", "redis", &[])).unwrap();
        let endpoints = cluster.eds_cluster_config.unwrap().service_name;
        assert_eq!((&*cluster.name, &*cluster.alt_stat_name), ("outbound:240.0.0.1:80", "redis"));
        assert_eq!(endpoints, "redis");
    }
}
