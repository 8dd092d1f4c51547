//! Clusters and their endpoints. Keeps: endpoints come over the same ADS stream as the cluster, so a change of
//! endpoints never touches cluster or listener. Called by cp::xds.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster, circuit_breakers::Thresholds, cluster, cluster::EdsClusterConfig,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};

use super::{address, ads, duration, number};
use crate::wire::resource::Resource;

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
/// and port; its figures are the service's.
pub fn cluster(name: &str, service: &str) -> Resource {
    let other_name = if name == service { String::new() } else { service.into() };
    let thresholds = Thresholds {
        max_connections: number(MAX_CONCURRENT),
        max_pending_requests: number(MAX_CONCURRENT),
        max_requests: number(MAX_CONCURRENT),
        ..Thresholds::default()
    };
    let cluster = Cluster {
        name: name.into(),
        alt_stat_name: other_name.clone(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads()), service_name: other_name }),
        connect_timeout: duration(CONNECT_TIMEOUT),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![thresholds],
            ..CircuitBreakers::default()
        }),
        ..Cluster::default()
    };
    Resource { endpoints: Some(service.into()), ..Resource::encode(name, &cluster) }
}

/// The endpoints of a service's cluster; none at all is a valid answer.
pub fn endpoints(service: &str, addresses: &BTreeSet<SocketAddr>) -> Resource {
    let endpoint = |&socket: &SocketAddr| {
        let endpoint = Endpoint { address: Some(address(socket)), ..Endpoint::default() };
        LbEndpoint { host_identifier: Some(HostIdentifier::Endpoint(endpoint)), ..LbEndpoint::default() }
    };
    let lb_endpoints: Vec<_> = addresses.iter().map(endpoint).collect();
    let locality = LocalityLbEndpoints { lb_endpoints, ..LocalityLbEndpoints::default() };
    let assignment = ClusterLoadAssignment {
        cluster_name: service.into(),
        endpoints: vec![locality],
        ..ClusterLoadAssignment::default()
    };
    Resource::encode(service, &assignment)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

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
        let resource = cluster("outbound:240.0.0.1:80", "redis");
        assert_eq!(resource.endpoints.as_deref(), Some("redis"));
        let cluster = Cluster::decode(resource.body).unwrap();
        let endpoints = cluster.eds_cluster_config.unwrap().service_name;
        assert_eq!((&*cluster.name, &*cluster.alt_stat_name), ("outbound:240.0.0.1:80", "redis"));
        assert_eq!(endpoints, "redis");
    }
}
