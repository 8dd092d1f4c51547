//! The kernel as a [`Datapath`]: enrolment and routes. Keeps: a pod points to a proxy only when the proxy is served; a proxy
//! that serves nobody is left alone again. Called by the agent through the trait.

use std::collections::BTreeSet;

use ipnetwork::IpNetwork;

use crate::kernel::Kernel;
use crate::kernel::error::KernelError;
use crate::kernel::links::{Target, Transaction};
use crate::kernel::maps::ProxyMark;
use crate::kernel::proxies;
use crate::model::datapath::{Counter, Datapath, DatapathError, NetnsCookie, Pod, ProxyIdentity};
use crate::model::view::{Route, ViewId};

impl Datapath for Kernel {
    fn set_ranges(&mut self, ranges: &[IpNetwork]) -> Result<(), DatapathError> {
        self.maps.set_ranges(ranges)
    }

    fn enrol(&mut self, pod: &Pod) -> Result<(), DatapathError> {
        let cgroup = match &pod.proxy {
            ProxyIdentity::Cgroup(path) => path.clone(),
            ProxyIdentity::Uid(_) => self.config.workloads_cgroup.clone(),
        };
        let failed =
            |error: KernelError| DatapathError::Proxy { cgroup: cgroup.clone(), source: Box::new(error) };
        self.heal().map_err(failed)?;
        let proxy = Target::open(&cgroup).map_err(failed)?;
        let mark = match pod.proxy {
            ProxyIdentity::Cgroup(_) => ProxyMark::Cgroup(proxy.id),
            ProxyIdentity::Uid(uid) => ProxyMark::Uid(uid),
        };
        let mut transaction = Transaction::default();
        if !self.proxies.serves(proxy.id) {
            let workloads = &self.config.workloads_cgroup;
            proxies::attach(&mut transaction, &self.pins, &self.programs, &proxy, workloads)
                .map_err(failed)?;
        }
        self.maps.insert_pod(pod, mark)?;
        transaction.commit();
        match self.proxies.assign(proxy.id, &proxy.path, pod.netns) {
            Some(idle) => proxies::detach(&self.pins, idle).map_err(failed),
            None => Ok(()),
        }
    }

    fn withdraw(&mut self, netns: NetnsCookie) -> Result<(), DatapathError> {
        self.maps.remove_pod(netns)?;
        let Some(idle) = self.proxies.remove(netns) else { return Ok(()) };
        let failed = |error: KernelError| DatapathError::Map {
            verb: "detach the last proxy of",
            map: "PODS",
            source: Box::new(error),
        };
        proxies::detach(&self.pins, idle).map_err(failed)
    }

    fn pods(&self) -> Result<Vec<(NetnsCookie, ViewId)>, DatapathError> {
        let pods = self.maps.pods()?;
        Ok(pods.into_iter().map(|(netns, entry)| (netns, ViewId::from_raw(entry.view))).collect())
    }

    fn routes(&self, view: ViewId) -> Result<BTreeSet<Route>, DatapathError> {
        self.maps.routes(view)
    }

    fn add_route(&mut self, view: ViewId, route: Route) -> Result<(), DatapathError> {
        self.maps.add_route(view, route)
    }

    fn remove_route(&mut self, view: ViewId, route: Route) -> Result<(), DatapathError> {
        self.maps.remove_route(view, route)
    }

    fn counters(&self) -> Result<Vec<Counter>, DatapathError> {
        self.maps.counters()
    }
}
