//! Clusters and their endpoints. Keeps: endpoints come over the same ADS stream as the cluster, so a change of
//! endpoints never touches cluster or listener. Called by cp::xds.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster, circuit_breakers::Thresholds, cluster, cluster::EdsClusterConfig,
};
use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, config_source::ConfigSourceSpecifier,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};

use super::{address, duration, number};
use crate::wire::resource::Resource;

/// How long a connection to an endpoint may take (Kuma's default).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections, requests and waiting requests of one service through one proxy. Envoy's own default of 1,024 would
/// refuse what a direct connection allows.
const MAX_CONCURRENT: u32 = 65_536;

/// The cluster of a service; its endpoints are asked for under the same name.
pub fn cluster(service: &str) -> Resource {
    let ads = ConfigSourceSpecifier::Ads(AggregatedConfigSource::default());
    let eds_config = ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(ads),
        ..ConfigSource::default()
    };
    let thresholds = Thresholds {
        max_connections: number(MAX_CONCURRENT),
        max_pending_requests: number(MAX_CONCURRENT),
        max_requests: number(MAX_CONCURRENT),
        ..Thresholds::default()
    };
    let cluster = Cluster {
        name: service.into(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(eds_config),
            ..EdsClusterConfig::default()
        }),
        connect_timeout: duration(CONNECT_TIMEOUT),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![thresholds],
            ..CircuitBreakers::default()
        }),
        ..Cluster::default()
    };
    Resource::encode(service, &cluster)
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
