//! Every resource as people see it: its document, and where it comes from. What REST lists and watches.
//! Keeps: an entry that did not change keeps its Arc, and the map its nodes, so that a reader's `diff` costs the change;
//! counts are kept, not counted. Written by cp::registry, read by cp::rest.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use imbl::OrdMap;

use crate::cp::store::documents::Document;
use crate::model::kind::{Meta, Resource, ResourceKey, ResourceKind};

/// All resources of Kuma's kinds, at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Catalog {
    pub entries: OrdMap<ResourceKey, Arc<Listed>>,
    counts: Counts,
}

/// A resource in the catalog.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    pub document: Document,
    pub origin: Origin,
    pub resource: Arc<Resource>,
}

impl Listed {
    /// Mesh, name and labels.
    pub fn meta(&self) -> &Meta {
        self.resource.meta()
    }
}

/// Where a resource comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A resource file: only an edit changes it.
    File(Arc<Path>),
    /// It was put here.
    Store,
    /// There from the start, until something of its name is given.
    Builtin,
    /// Made from others.
    Derived,
}

/// How many there are, by kind and mesh.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Counts(Arc<BTreeMap<(ResourceKind, Arc<str>), usize>>);

impl Catalog {
    /// How many resources of a kind there are, in one mesh or in all.
    pub fn count(&self, kind: ResourceKind, mesh: Option<&str>) -> usize {
        let of_kind =
            self.counts.0.range((kind, Arc::from(""))..).take_while(|((found, _), _)| *found == kind);
        of_kind
            .filter(|((_, found), _)| mesh.is_none_or(|mesh| **found == *mesh))
            .map(|(_, count)| count)
            .sum()
    }

    /// The kinds of which there is something in a mesh.
    pub fn kinds_in(&self, mesh: &str) -> Vec<ResourceKind> {
        ResourceKind::ALL.into_iter().filter(|kind| self.count(*kind, Some(mesh)) > 0).collect()
    }

    pub(super) fn set(&mut self, listed: Arc<Listed>) {
        let key = listed.document.key.clone();
        if self.entries.insert(key.clone(), listed).is_none() {
            *self.counts.of(key) += 1;
        }
    }

    pub(super) fn unset(&mut self, key: &ResourceKey) {
        if self.entries.remove(key).is_some() {
            let place = (key.kind, key.mesh.clone());
            let counts = Arc::make_mut(&mut self.counts.0);
            if let Some(count) = counts.get_mut(&place) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&place);
                }
            }
        }
    }
}

impl Counts {
    fn of(&mut self, key: ResourceKey) -> &mut usize {
        Arc::make_mut(&mut self.0).entry((key.kind, key.mesh)).or_default()
    }
}
