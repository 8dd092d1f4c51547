//! The clusters that are out, by the lines that need them, and the endpoints of the services behind them. Part of order.
//! Keeps: a cluster goes with the last line that needs it; endpoints stay as long as a cluster or the mesh has them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::{Action, Key, Order, Step};
use crate::cp::snapshot::{Endpoint, Published};
use crate::cp::xds::content::is_looked_up;
use crate::cp::xds::name::Name;
use crate::cp::xds::shape::Shape;
use crate::cp::xds::targets::{self, Target};
use crate::model::view::Route;
use crate::wire::resource::ResourceType;

#[derive(Debug, Default)]
pub(super) struct Clusters {
    services: HashMap<Arc<str>, Served, RandomState>,
}

/// A service whose endpoints are out.
#[derive(Debug, Default)]
struct Served {
    /// `None` until they are out.
    endpoints: Option<Arc<[Endpoint]>>,
    is_wanted: bool,
    /// How many lines need the cluster that all listeners of the service share.
    lines: u32,
    /// Since when that cluster is as it is.
    generation: u64,
    /// How many lines have a cluster of their own.
    compact: u32,
}

impl Clusters {
    /// Since when the cluster of a line is as it is; `own`: that of its own cluster.
    pub(super) fn generation(&self, key: Key, target: &Target, own: u64) -> u64 {
        match key.shape {
            Shape::Compact => own,
            Shape::Listener => self.services.get(target.service()).map_or(0, |served| served.generation),
        }
    }
}

impl Order {
    /// Makes sure that the cluster of a new line is out. Returns the generation of one that is the line's own, or 0.
    pub(super) fn hold_cluster(&mut self, step: &mut Step, key: Key, target: &Target) -> u64 {
        let service = target.service();
        let served = self.clusters.services.entry(service.clone()).or_default();
        let is_out = match key.shape {
            Shape::Listener => {
                served.lines += 1;
                served.lines > 1
            }
            Shape::Compact => {
                served.compact += 1;
                false
            }
        };
        if is_out {
            return 0;
        }
        let generation =
            self.set_cluster(step, target.cluster(key.route, key.shape), service, target.endpoints());
        match (key.shape, self.clusters.services.get_mut(service)) {
            (Shape::Listener, Some(served)) => {
                served.generation = generation;
                0
            }
            _ => generation,
        }
    }

    /// A line is gone: its cluster may go too.
    pub(super) fn release_cluster(&mut self, step: &mut Step, key: Key, target: &Target) {
        let Some(served) = self.clusters.services.get_mut(target.service()) else { return };
        let needs = match key.shape {
            Shape::Listener => &mut served.lines,
            Shape::Compact => &mut served.compact,
        };
        *needs -= 1;
        if key.shape == Shape::Listener && *needs > 0 {
            return;
        }
        let name = target.cluster(key.route, key.shape);
        self.emit(step, ResourceType::Cluster, Action::DropCluster { name });
        self.drop_endpoints(step, target.service());
    }

    /// Follows the endpoints of the mesh.
    pub(super) fn set_endpoints(&mut self, step: &mut Step) {
        for (service, vip) in std::mem::take(&mut self.changed) {
            let published = vip.as_ref().and_then(|vip| self.wanted.as_ref()?.vips.get(vip).cloned());
            let listeners = published.as_ref().map(|published| &published.entry.listeners);
            let listener = listeners.and_then(|all| all.iter().find(|listener| listener.cluster == service));
            let (Some(published), Some(wanted)) = (&published, listener.map(|to| to.endpoints.clone()))
            else {
                if let Some(served) = self.clusters.services.get_mut(&service) {
                    served.is_wanted = false;
                }
                self.drop_endpoints(step, &service);
                continue;
            };
            let served = self.clusters.services.entry(service.clone()).or_default();
            served.is_wanted = true;
            let before = served.endpoints.replace(wanted.clone());
            if before.as_ref() == Some(&wanted) {
                continue;
            }
            let is_looked_up = is_looked_up(&wanted);
            if before.is_some_and(|before| self::is_looked_up(&before) || is_looked_up) {
                self.renew_clusters(step, &service, published);
            }
            if !is_looked_up {
                let set = Action::SetEndpoints { service, endpoints: wanted };
                self.emit(step, ResourceType::Endpoints, set);
            }
        }
    }

    /// The clusters that lead to a service look up others than before, or nothing any more.
    fn renew_clusters(&mut self, step: &mut Step, service: &Arc<str>, published: &Published) {
        let Some(Served { endpoints: Some(endpoints), lines, .. }) = self.clusters.services.get(service)
        else {
            return;
        };
        let endpoints = endpoints.clone();
        if *lines > 0 {
            let name = targets::shared_cluster(service);
            let generation = self.set_cluster(step, name, service, &endpoints);
            if let Some(served) = self.clusters.services.get_mut(service) {
                served.generation = generation;
            }
        }
        // Lines that stay lead from what the mesh has, the others are on their way.
        let routes: BTreeSet<Route> =
            targets::routes(published).chain(self.book.moving().map(|key| key.route)).collect();
        for route in routes {
            let key = Key { route, shape: Shape::Compact };
            if self.book.line(key).is_some_and(|line| line.target.service() == service) {
                let generation = self.set_cluster(step, Name::Vip(route), service, &endpoints);
                self.book.update(key, |line| line.cluster = generation);
            }
        }
    }

    fn set_cluster(
        &mut self,
        step: &mut Step,
        name: Name,
        service: &Arc<str>,
        endpoints: &Arc<[Endpoint]>,
    ) -> u64 {
        let hosts = is_looked_up(endpoints).then(|| endpoints.clone());
        self.emit(step, ResourceType::Cluster, Action::SetCluster { name, service: service.clone(), hosts })
    }

    /// Nobody asks for endpoints that neither a cluster nor the mesh has.
    fn drop_endpoints(&mut self, step: &mut Step, service: &Arc<str>) {
        let is_unused = |served: &Served| !served.is_wanted && served.lines + served.compact == 0;
        if self.clusters.services.get(service).is_some_and(is_unused) {
            self.clusters.services.remove(service);
            self.emit(step, ResourceType::Endpoints, Action::DropEndpoints { service: service.clone() });
        }
    }
}
