//! Brings the kernel and the resolver in step with a view: two set differences and their order.
//! Keeps invariant 1: routes are added, then the names are swapped, then routes are removed. Called by agent/mod.rs.
//!
//! A route that cannot be added costs only the names that would lead to it; both are tried again with the next view.
//! What a killed agent left in the kernel is where the first view starts from.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use crate::model::datapath::{Datapath, DatapathError};
use crate::model::view::{MeshView, Route, ViewId};

/// What separates the kernel's routes from a view's.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    pub add: BTreeSet<Route>,
    pub remove: BTreeSet<Route>,
}

/// The steps from the routes that the kernel has to those that the view wants.
pub fn plan(present: &BTreeSet<Route>, wanted: &BTreeSet<Route>) -> Plan {
    Plan { add: wanted - present, remove: present - wanted }
}

/// Why a view is not served, or not whole.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("cannot set the VIP ranges of view {view:?}; it is not applied")]
    Ranges { view: String, source: DatapathError },
    #[error(
        "{routes} routes of view {view:?} could not be changed, {names} names are held back until the next view"
    )]
    Partial { view: String, routes: usize, names: usize, source: DatapathError },
}

/// The routes of one view as the kernel has them, and the verbs that change them.
pub struct Applier {
    view: ViewId,
    present: BTreeSet<Route>,
    ranges: Vec<IpNetwork>,
}

/// Routes that the kernel refused, with the first reason.
#[derive(Default)]
struct Refused {
    routes: BTreeSet<Route>,
    first: Option<DatapathError>,
}

impl Refused {
    fn note(&mut self, route: Route, error: DatapathError) {
        self.routes.insert(route);
        self.first.get_or_insert(error);
    }
}

impl Applier {
    /// Starts from what the kernel has of this view: pins that were adopted, or nothing.
    ///
    /// # Errors
    /// A map that cannot be read.
    pub fn adopt(view: ViewId, datapath: &dyn Datapath) -> Result<Self, DatapathError> {
        Ok(Self { view, present: datapath.routes(view)?, ranges: Vec::new() })
    }

    /// How many routes the kernel has of this view.
    pub fn routes(&self) -> usize {
        self.present.len()
    }

    /// The VIPs that the kernel routes to the proxy.
    pub fn vips(&self) -> BTreeSet<IpAddr> {
        self.present.iter().map(|route| route.vip).collect()
    }

    /// Makes the kernel and the names those of `view`. `publish` swaps the names; it gets the names that may be told.
    ///
    /// # Errors
    /// [`ApplyError::Ranges`]: nothing was changed. [`ApplyError::Partial`]: all was done that could be.
    pub fn apply(
        &mut self,
        view: &MeshView,
        datapath: &mut dyn Datapath,
        mut publish: impl FnMut(&MeshView),
    ) -> Result<(), ApplyError> {
        self.widen(view, datapath)?;
        let routes: BTreeSet<Route> = view.routes().collect();
        let Plan { add, remove } = plan(&self.present, &routes);
        let staying: BTreeSet<IpAddr> = self.present.intersection(&routes).map(|route| route.vip).collect();
        let mut not_added = self.add(&add, datapath);
        let mut published = publishable(view, &not_added.routes, &staying);
        publish(&published);
        let not_removed = self.remove(&remove, datapath);
        if !not_added.routes.is_empty() && not_removed.routes.len() < remove.len() {
            // A full map has room again.
            not_added = self.add(&not_added.routes.clone(), datapath);
            published = publishable(view, &not_added.routes, &staying);
            publish(&published);
        }
        let narrowed = self.set_ranges(&view.header().ranges, datapath);
        let routes = not_added.routes.len() + not_removed.routes.len();
        match not_added.first.or(not_removed.first).or(narrowed.err()) {
            None => Ok(()),
            Some(source) => {
                let names = view.names().len() - published.names().len();
                Err(ApplyError::Partial { view: view.name().into(), routes, names, source })
            }
        }
    }

    /// While routes change, old and new ranges hold: a VIP outside of them would leave for the network.
    fn widen(&mut self, view: &MeshView, datapath: &mut dyn Datapath) -> Result<(), ApplyError> {
        let mut both = view.header().ranges.clone();
        both.extend(self.ranges.iter().filter(|range| !view.header().ranges.contains(range)));
        let widened = match self.set_ranges(&both, datapath) {
            Err(DatapathError::TooManyRanges(_)) => self.set_ranges(&view.header().ranges, datapath),
            other => other,
        };
        widened.map_err(|source| ApplyError::Ranges { view: view.name().into(), source })
    }

    fn set_ranges(&mut self, ranges: &[IpNetwork], datapath: &mut dyn Datapath) -> Result<(), DatapathError> {
        if self.ranges != ranges {
            datapath.set_ranges(ranges)?;
            self.ranges = ranges.to_vec();
        }
        Ok(())
    }

    fn add(&mut self, routes: &BTreeSet<Route>, datapath: &mut dyn Datapath) -> Refused {
        let mut refused = Refused::default();
        for &route in routes {
            match datapath.add_route(self.view, route) {
                Ok(()) => {
                    self.present.insert(route);
                }
                Err(error) => refused.note(route, error),
            }
        }
        refused
    }

    fn remove(&mut self, routes: &BTreeSet<Route>, datapath: &mut dyn Datapath) -> Refused {
        let mut refused = Refused::default();
        for &route in routes {
            match datapath.remove_route(self.view, route) {
                Ok(()) => {
                    self.present.remove(&route);
                }
                Err(error) => refused.note(route, error),
            }
        }
        refused
    }
}

/// The view without the names whose VIPs lack a route. A VIP with a route that is `staying` keeps its names when
/// one more of its ports cannot be added: what works goes on working.
fn publishable<'v>(
    view: &'v MeshView,
    missing: &BTreeSet<Route>,
    staying: &BTreeSet<IpAddr>,
) -> Cow<'v, MeshView> {
    if missing.is_empty() {
        return Cow::Borrowed(view);
    }
    let unreachable: BTreeSet<IpAddr> =
        missing.iter().map(|route| route.vip).filter(|vip| !staying.contains(vip)).collect();
    Cow::Owned(view.retain_names(|addresses| !addresses.iter().any(|vip| unreachable.contains(&vip))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::view::Port;

    fn routes(vips: &[&str]) -> BTreeSet<Route> {
        vips.iter().map(|vip| Route { vip: vip.parse().unwrap(), port: Port::new(80) }).collect()
    }

    #[test]
    fn a_plan_is_two_differences() {
        let plan = plan(&routes(&["240.0.0.1", "240.0.0.2"]), &routes(&["240.0.0.2", "240.0.0.3"]));
        assert_eq!(plan, Plan { add: routes(&["240.0.0.3"]), remove: routes(&["240.0.0.1"]) });
    }

    #[test]
    fn nothing_to_do_is_an_empty_plan() {
        assert_eq!(plan(&routes(&["240.0.0.1"]), &routes(&["240.0.0.1"])), Plan::default());
    }
}
