//! Which names of a view may be told: those whose addresses all route. Pure. Called by apply.

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::OrdSet;

use super::Touched;
use crate::model::name::Hostname;
use crate::model::view::{Addresses, MeshView, Part, Route};

/// The names that may be told from now on.
pub struct Names<'a> {
    pub view: &'a Arc<MeshView>,
    /// Names of the view that are not told.
    pub held_back: &'a OrdSet<Hostname>,
    /// What resolves to something else than before; without addresses it does not resolve any more.
    pub changed: &'a BTreeMap<Hostname, Addresses>,
}

/// The names that are held back because an address of theirs has no route.
#[derive(Default)]
pub(super) struct Held(OrdSet<Hostname>);

impl Held {
    pub(super) fn names(&self) -> &OrdSet<Hostname> {
        &self.0
    }

    /// Looks at parts again after the kernel has changed; returns what their names resolve to now.
    pub(super) fn settle(
        &mut self,
        touched: &[Touched],
        missing: &BTreeMap<Route, Arc<str>>,
    ) -> BTreeMap<Hostname, Addresses> {
        let mut changed = BTreeMap::new();
        for name in
            touched.iter().filter_map(|touched| touched.old.as_ref()).flat_map(|part| part.hostnames())
        {
            self.0.remove(name);
            changed.insert(name.clone(), Addresses::default());
        }
        for part in touched.iter().filter_map(|touched| touched.new.as_ref()) {
            let routes = routes(part, missing);
            for name in part.hostnames() {
                if !routes {
                    self.0.insert(name.clone());
                }
                let addresses = if routes { part.addresses() } else { Addresses::default() };
                changed.insert(name.clone(), addresses);
            }
        }
        changed
    }
}

/// Does each address of the part's names have a route in the kernel? A further port that is missing takes no name away.
fn routes(part: &Part, missing: &BTreeMap<Route, Arc<str>>) -> bool {
    missing.is_empty()
        || part
            .addresses()
            .iter()
            .all(|vip| part.routes().iter().any(|route| route.vip == vip && !missing.contains_key(route)))
}
