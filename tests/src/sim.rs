//! A datapath without a kernel: keeps what it is told, refuses what it is told to refuse, and remembers every step.
//! Keeps: the order of events, which is what the agent must get right. Called by tests of apply.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnetwork::IpNetwork;
use kuma_dns::model::datapath::{Counter, Datapath, DatapathError, NetnsCookie, Pod};
use kuma_dns::model::name::Hostname;
use kuma_dns::model::view::{Addresses, Route, ViewId};

/// One step, in the order in which it happened.
#[derive(Clone, PartialEq, Debug)]
pub enum Event {
    Ranges(Vec<IpNetwork>),
    Enrolled(Pod),
    Withdrawn(NetnsCookie),
    Added(ViewId, Route),
    Refused(ViewId, Route),
    Removed(ViewId, Route),
    /// These names resolve to something else now; the tests write this from their `tell`.
    Told(BTreeMap<Hostname, Addresses>),
}

/// Shared by the datapath, the test and its `tell`.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<Event>>>);

impl Log {
    /// One more step.
    pub fn push(&self, event: Event) {
        self.lock().push(event);
    }

    /// All steps up to now.
    pub fn events(&self) -> Vec<Event> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Event>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The datapath.
#[derive(Default)]
pub struct SimKernel {
    pub log: Log,
    /// Routes over all views that fit; `None`: as many as are asked for.
    pub capacity: Option<u32>,
    /// Ranges of one family that it serves.
    pub ranges_max: Option<usize>,
    routes: BTreeMap<ViewId, BTreeSet<Route>>,
    pods: BTreeMap<NetnsCookie, ViewId>,
}

impl SimKernel {
    /// A kernel in which a killed agent left these routes.
    pub fn with_routes(view: ViewId, routes: BTreeSet<Route>) -> Self {
        Self { routes: BTreeMap::from([(view, routes)]), ..Self::default() }
    }

    /// A kernel whose maps take that many routes.
    pub fn of_capacity(routes: u32) -> Self {
        Self { capacity: Some(routes), ..Self::default() }
    }
}

impl Datapath for SimKernel {
    fn set_ranges(&mut self, ranges: &[IpNetwork]) -> Result<(), DatapathError> {
        for of_family in [IpNetwork::is_ipv4, IpNetwork::is_ipv6] {
            let count = ranges.iter().filter(|range| of_family(range)).count();
            if self.ranges_max.is_some_and(|max| count > max) {
                return Err(DatapathError::TooManyRanges(count));
            }
        }
        self.log.push(Event::Ranges(ranges.to_vec()));
        Ok(())
    }

    fn enrol(&mut self, pod: &Pod) -> Result<(), DatapathError> {
        self.pods.insert(pod.netns, pod.view);
        self.log.push(Event::Enrolled(pod.clone()));
        Ok(())
    }

    fn withdraw(&mut self, netns: NetnsCookie) -> Result<(), DatapathError> {
        self.pods.remove(&netns);
        self.log.push(Event::Withdrawn(netns));
        Ok(())
    }

    fn pods(&self) -> Result<Vec<(NetnsCookie, ViewId)>, DatapathError> {
        Ok(self.pods.iter().map(|(netns, view)| (*netns, *view)).collect())
    }

    fn routes(&self, view: ViewId) -> Result<BTreeSet<Route>, DatapathError> {
        Ok(self.routes.get(&view).cloned().unwrap_or_default())
    }

    fn add_route(&mut self, view: ViewId, route: Route) -> Result<(), DatapathError> {
        let used: usize = self.routes.values().map(BTreeSet::len).sum();
        let known = self.routes.get(&view).is_some_and(|routes| routes.contains(&route));
        if let Some(capacity) = self.capacity.filter(|&capacity| !known && used >= capacity as usize) {
            self.log.push(Event::Refused(view, route));
            return Err(DatapathError::Full { map: "VIPS", capacity, setting: "--vip-capacity" });
        }
        self.routes.entry(view).or_default().insert(route);
        self.log.push(Event::Added(view, route));
        Ok(())
    }

    fn remove_route(&mut self, view: ViewId, route: Route) -> Result<(), DatapathError> {
        self.routes.entry(view).or_default().remove(&route);
        self.log.push(Event::Removed(view, route));
        Ok(())
    }

    fn counters(&self) -> Result<Vec<Counter>, DatapathError> {
        Ok(Vec::new())
    }
}
