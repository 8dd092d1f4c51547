//! Brings the kernel and the resolver in step with a view, at the cost of what differs from the view before.
//! Keeps invariant 1: routes are added, then the names are told, then routes are removed. Called by agent/mod.rs and views.
//!
//! A route that cannot be added costs only the names whose VIP has no other; all are tried again with the next view.
//! What a killed agent left in the kernel is where the first view starts from.

mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ipnetwork::IpNetwork;

use self::names::Held;
pub use self::names::Names;
use crate::model::datapath::{Datapath, DatapathError};
use crate::model::name::Hostname;
use crate::model::view::{MeshView, Part, Route, ViewId};

/// Why a view is not served, or not whole.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("cannot set the VIP ranges of view {view:?}; it is not applied")]
    Ranges { view: String, source: DatapathError },
    #[error(
        "{routes} routes of view {view:?} could not be changed, {names} names are held back; trying again"
    )]
    Partial { view: String, routes: usize, names: usize, source: DatapathError },
}

/// Who says how the view is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    ControlPlane,
    /// An earlier agent wrote it down. The kernel may have what came later, which stays until the control plane speaks.
    Memory,
}

/// The routes of one view as the kernel has them, and the verbs that change them.
pub struct Applier {
    view: ViewId,
    /// What kernel and names were brought in step with last.
    shown: Arc<MeshView>,
    /// Routes of it that the kernel refused, and whose part they are.
    missing: BTreeMap<Route, Arc<str>>,
    /// Routes that the kernel has beyond it.
    extra: BTreeSet<Route>,
    held: Held,
    ranges: Vec<IpNetwork>,
}

/// A part as it was and as it is to be.
struct Touched {
    key: Arc<str>,
    old: Option<Arc<Part>>,
    new: Option<Arc<Part>>,
}

/// The kernel's first refusal, and which families have no room.
#[derive(Default)]
struct Refusals {
    first: Option<DatapathError>,
    full: [bool; 2],
}

impl Refusals {
    fn note(&mut self, route: Route, error: DatapathError) {
        // Thousands of routes are not tried one by one in a map that is full.
        self.full[usize::from(route.vip.is_ipv6())] |= matches!(error, DatapathError::Full { .. });
        self.first.get_or_insert(error);
    }

    fn hopeless(&self, route: Route) -> bool {
        self.full[usize::from(route.vip.is_ipv6())]
    }
}

impl Applier {
    /// Starts from what the kernel has of the view of this name: pins that were adopted, or nothing.
    ///
    /// # Errors
    /// A map that cannot be read.
    pub fn adopt(name: &str, datapath: &dyn Datapath) -> Result<Self, DatapathError> {
        let nothing = MeshView::empty(name, Hostname::parse("mesh").expect("a valid name"));
        let (shown, view) = (Arc::new(nothing), ViewId::of(name));
        let (missing, extra) = (BTreeMap::new(), datapath.routes(view)?);
        Ok(Self { view, shown, missing, extra, held: Held::default(), ranges: Vec::new() })
    }

    /// How many routes the kernel has of this view.
    pub fn routes(&self) -> usize {
        self.shown.routes_len() - self.missing.len() + self.extra.len()
    }

    /// Is there anything that the kernel refused?
    pub fn in_trouble(&self) -> bool {
        !self.missing.is_empty()
    }

    /// The view that was applied last.
    pub fn shown(&self) -> &Arc<MeshView> {
        &self.shown
    }

    /// Makes the kernel and the names those of `view`. `tell` gets the names that may be told.
    ///
    /// # Errors
    /// [`ApplyError::Ranges`]: nothing was changed. [`ApplyError::Partial`]: all was done that could be.
    pub fn apply(
        &mut self,
        view: &Arc<MeshView>,
        origin: Origin,
        datapath: &mut dyn Datapath,
        mut tell: impl FnMut(Names<'_>),
    ) -> Result<(), ApplyError> {
        self.widen(view, datapath)?;
        let mut touched = touched(&self.shown, view);
        let (add, mut remove) = self.difference(&touched);
        if origin == Origin::ControlPlane {
            remove.append(&mut self.extra);
        }
        let mut refusals = Refusals::default();
        let mut settled = self.retry(&mut refusals, datapath);
        settled.extend(self.add(add, &mut refusals, datapath));
        self.shown = view.clone();
        touched.extend(self.unchanged(settled, &touched));
        let changed = self.held.settle(&touched, &self.missing);
        tell(Names { view, held_back: self.held.names(), changed: &changed });
        let removed = self.remove(remove, &mut refusals, datapath);
        if removed && !self.missing.is_empty() {
            // A full map has room again.
            let mut again = Refusals::default();
            let settled = self.retry(&mut again, datapath);
            refusals.first = again.first.or(refusals.first.filter(|_| !self.extra.is_empty()));
            let changed = self.held.settle(&self.unchanged(settled, &[]), &self.missing);
            tell(Names { view, held_back: self.held.names(), changed: &changed });
        }
        let narrowed = self.set_ranges(&view.header().ranges, datapath);
        match refusals.first.or(narrowed.err()) {
            None => Ok(()),
            Some(source) => {
                let extra = if origin == Origin::ControlPlane { self.extra.len() } else { 0 };
                let (routes, names) = (self.missing.len() + extra, self.held.names().len());
                Err(ApplyError::Partial { view: view.name().into(), routes, names, source })
            }
        }
    }

    /// What the kernel must get, and whose part that is, and what it must lose. A route may go from one part to another.
    fn difference(&mut self, touched: &[Touched]) -> (BTreeMap<Route, Arc<str>>, BTreeSet<Route>) {
        let (mut add, mut remove) = (BTreeMap::new(), BTreeSet::new());
        for Touched { old, .. } in touched {
            remove.extend(old.iter().flat_map(|part| part.routes()));
        }
        for Touched { key, new, .. } in touched {
            for &route in new.iter().flat_map(|part| part.routes()) {
                if !remove.remove(&route) && !self.extra.remove(&route) {
                    add.insert(route, key.clone());
                } else if let Some(part) = self.missing.get_mut(&route) {
                    *part = key.clone();
                }
            }
        }
        remove.retain(|route| self.missing.remove(route).is_none());
        (add, remove)
    }

    /// While routes change, old and new ranges hold: a VIP outside of them would leave for the network.
    fn widen(&mut self, view: &MeshView, datapath: &mut dyn Datapath) -> Result<(), ApplyError> {
        let wanted = &view.header().ranges;
        let mut both = wanted.clone();
        both.extend(self.ranges.iter().filter(|range| !wanted.contains(range)));
        let widened = match self.set_ranges(&both, datapath) {
            Err(DatapathError::TooManyRanges(_)) => self.set_ranges(wanted, datapath),
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

    /// Tries what was refused before; returns the parts that got something.
    fn retry(&mut self, refusals: &mut Refusals, datapath: &mut dyn Datapath) -> BTreeSet<Arc<str>> {
        let mut added = Vec::new();
        for &route in self.missing.keys() {
            if refusals.hopeless(route) {
                continue;
            }
            match datapath.add_route(self.view, route) {
                Ok(()) => added.push(route),
                Err(error) => refusals.note(route, error),
            }
        }
        added.into_iter().filter_map(|route| self.missing.remove(&route)).collect()
    }

    /// Returns the parts that did not get everything.
    fn add(
        &mut self,
        routes: BTreeMap<Route, Arc<str>>,
        refusals: &mut Refusals,
        datapath: &mut dyn Datapath,
    ) -> BTreeSet<Arc<str>> {
        let mut refused = BTreeSet::new();
        for (route, part) in routes {
            if !refusals.hopeless(route) {
                match datapath.add_route(self.view, route) {
                    Ok(()) => continue,
                    Err(error) => refusals.note(route, error),
                }
            }
            refused.insert(part.clone());
            self.missing.insert(route, part);
        }
        refused
    }

    /// Returns whether the kernel has more room than before.
    fn remove(
        &mut self,
        routes: BTreeSet<Route>,
        refusals: &mut Refusals,
        datapath: &mut dyn Datapath,
    ) -> bool {
        let mut removed = false;
        for route in routes {
            match datapath.remove_route(self.view, route) {
                Ok(()) => removed = true,
                Err(error) => {
                    refusals.first.get_or_insert(error);
                    self.extra.insert(route);
                }
            }
        }
        removed
    }

    /// Parts that stay as they are, but for what the kernel has of them.
    fn unchanged(&self, keys: BTreeSet<Arc<str>>, but: &[Touched]) -> Vec<Touched> {
        let but: BTreeSet<&Arc<str>> = but.iter().map(|touched| &touched.key).collect();
        let part = |key: Arc<str>| {
            let part = self.shown.parts().get(&key).cloned();
            Touched { key, old: part.clone(), new: part }
        };
        keys.into_iter().filter(|key| !but.contains(key)).map(part).collect()
    }
}

/// The parts that differ. Costs what differs: nodes that both views share are not looked at.
fn touched(shown: &MeshView, wanted: &MeshView) -> Vec<Touched> {
    use imbl::ordmap::DiffItem;
    let touched = |item| match item {
        DiffItem::Add(key, new) => Touched { key: Arc::clone(key), old: None, new: Some(Arc::clone(new)) },
        DiffItem::Remove(key, old) => Touched { key: Arc::clone(key), old: Some(Arc::clone(old)), new: None },
        DiffItem::Update { old: (key, old), new: (_, new) } => {
            Touched { key: Arc::clone(key), old: Some(Arc::clone(old)), new: Some(Arc::clone(new)) }
        }
    };
    shown.parts().diff(wanted.parts()).map(touched).collect()
}
