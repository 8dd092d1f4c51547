//! The clusters that are out, by the lines that need them, and the endpoints of the services behind them. Part of order.
//! Keeps: a cluster goes with the last line that needs it; endpoints stay as long as a cluster or the mesh has them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use super::{Action, Key, Order, Step};
use crate::cp::snapshot::Endpoint;
use crate::cp::xds::flat::MeshSnapshot;
use crate::cp::xds::targets::Target;
use crate::wire::resource::ResourceType;

#[derive(Debug, Default)]
pub(super) struct Clusters {
    by_name: BTreeMap<String, Cluster>,
    services: BTreeMap<String, Served>,
}

#[derive(Debug)]
struct Cluster {
    generation: u64,
    service: String,
    /// How many lines need it.
    lines: usize,
}

/// A service whose endpoints are out.
#[derive(Debug, Default)]
struct Served {
    /// `None` until they are out.
    endpoints: Option<BTreeSet<Endpoint>>,
    /// How many clusters lead to it.
    clusters: usize,
}

impl Clusters {
    /// Since when the cluster of a line is as it is.
    pub(super) fn generation(&self, key: Key, target: &Target) -> u64 {
        self.by_name.get(&target.cluster(key.route)).map_or(0, |cluster| cluster.generation)
    }
}

impl Order {
    /// Makes sure that the cluster of a new line is out.
    pub(super) fn hold_cluster(&mut self, step: &mut Step, key: Key, target: &Target) {
        let name = target.cluster(key.route);
        if let Some(cluster) = self.clusters.by_name.get_mut(&name) {
            cluster.lines += 1;
            return;
        }
        let service = target.service.clone();
        self.clusters.services.entry(service.clone()).or_default().clusters += 1;
        let published = self.wanted.as_ref().and_then(|mesh| mesh.services.get(&service));
        let hosts = published.map(|published| sort_out(&published.endpoints).0).unwrap_or_default();
        let set = Action::SetCluster { name: name.clone(), service: service.clone(), hosts };
        let generation = self.emit(step, ResourceType::Cluster, set);
        self.clusters.by_name.insert(name, Cluster { generation, service, lines: 1 });
    }

    /// A line is gone: its cluster may go too.
    pub(super) fn release_cluster(&mut self, step: &mut Step, key: Key, target: &Target) {
        let name = target.cluster(key.route);
        let Some(cluster) = self.clusters.by_name.get_mut(&name) else { return };
        cluster.lines -= 1;
        if cluster.lines > 0 {
            return;
        }
        self.clusters.by_name.remove(&name);
        self.emit(step, ResourceType::Cluster, Action::DropCluster { name });
        if let Some(served) = self.clusters.services.get_mut(&target.service) {
            served.clusters -= 1;
        }
        self.drop_endpoints(step, &target.service);
    }

    /// Follows the endpoints of the mesh.
    pub(super) fn set_endpoints(&mut self, step: &mut Step, mesh: &MeshSnapshot) {
        for service in std::mem::take(&mut self.changed) {
            let Some(published) = mesh.services.get(&service) else {
                self.drop_endpoints(step, &service);
                continue;
            };
            let served = self.clusters.services.entry(service.clone()).or_default();
            if served.endpoints.as_ref() == Some(&published.endpoints) {
                continue;
            }
            let (hosts, endpoints) = sort_out(&published.endpoints);
            let before = served.endpoints.replace(published.endpoints.clone());
            if before.is_some_and(|before| sort_out(&before).0 != hosts) {
                self.renew_clusters(step, &service, &hosts);
            }
            if hosts.is_empty() {
                self.emit(step, ResourceType::Endpoints, Action::SetEndpoints { service, endpoints });
            }
        }
    }

    /// The clusters that lead to a service look up others than before, or nothing any more.
    fn renew_clusters(&mut self, step: &mut Step, service: &str, hosts: &BTreeSet<Endpoint>) {
        let theirs = self.clusters.by_name.iter().filter(|(_, cluster)| cluster.service == service);
        for name in theirs.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            let set =
                Action::SetCluster { name: name.clone(), service: service.into(), hosts: hosts.clone() };
            let generation = self.emit(step, ResourceType::Cluster, set);
            if let Some(cluster) = self.clusters.by_name.get_mut(&name) {
                cluster.generation = generation;
            }
        }
    }

    /// Nobody asks for endpoints that neither a cluster nor the mesh has.
    fn drop_endpoints(&mut self, step: &mut Step, service: &str) {
        let wanted = self.wanted.as_ref().is_some_and(|mesh| mesh.services.contains_key(service));
        let unused = self.clusters.services.get(service).is_some_and(|served| served.clusters == 0);
        if !wanted && unused {
            self.clusters.services.remove(service);
            let service = service.to_owned();
            self.emit(step, ResourceType::Endpoints, Action::DropEndpoints { service });
        }
    }
}

/// What a cluster has to look up (everything, as soon as there is one host name), and what comes as endpoints.
fn sort_out(endpoints: &BTreeSet<Endpoint>) -> (BTreeSet<Endpoint>, BTreeSet<SocketAddr>) {
    let address = |endpoint: &Endpoint| match endpoint {
        Endpoint::Address(address) => Some(*address),
        Endpoint::Host(..) => None,
    };
    match endpoints.iter().map(address).collect() {
        Some(addresses) => (BTreeSet::new(), addresses),
        None => (endpoints.clone(), BTreeSet::new()),
    }
}
