//! What can be listed, and walked in one order: the resources of a kind, and VIPs; of one mesh, or of all.
//! Keeps: a step costs what it looks at, wherever it begins, and a count is kept, not counted; two states are compared at the
//! cost of their difference. Pure. Called by rest::list and rest::watch.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, OnceLock};

use super::query::Filter;
use super::{item, vip};
use crate::cp::Status;
use crate::cp::plan::Generators;
use crate::cp::registry::{Catalog, Listed};
use crate::cp::resources::Resources;
use crate::cp::snapshot::{Published, Snapshot};
use crate::model::kind::{ResourceKey, ResourceKind};
use crate::model::resource::{Kind, ServiceKey};
use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tokio::sync::watch;

/// Kinds that are served: Kuma's. Secrets are never shown, and the short form of files is none of Kuma's.
pub(super) const SERVED: [ResourceKind; 9] = [
    ResourceKind::Mesh,
    ResourceKind::Dataplane,
    ResourceKind::ZoneIngress,
    ResourceKind::ExternalService,
    ResourceKind::VirtualOutbound,
    ResourceKind::MeshService,
    ResourceKind::MeshExternalService,
    ResourceKind::MeshMultiZoneService,
    ResourceKind::HostnameGenerator,
];

/// What was given and what was made of it, at one moment.
#[derive(Clone)]
pub(super) struct View {
    pub(super) catalog: Arc<Catalog>,
    pub(super) resources: Arc<Resources>,
    pub(super) status: watch::Receiver<Status>,
    /// Made from the resources when it is needed first.
    pub(super) generators: Arc<OnceLock<Generators>>,
    pub(super) snapshot: Arc<Snapshot>,
}

impl View {
    /// The VIP of a resource, if it has one: under its own name, in its mesh.
    pub(super) fn published(&self, key: &ResourceKey) -> Option<&Published> {
        let kind = kind_with_vip(key.kind)?;
        let local = ServiceKey { mesh: key.mesh.clone(), kind, service: key.name.clone() }.local();
        self.snapshot.meshes.get(&*key.mesh)?.vips.get(&*local)
    }

    /// What makes names for resources.
    pub(super) fn generators(&self) -> &Generators {
        self.generators.get_or_init(|| Generators::of(&self.resources))
    }

    /// Is there such a mesh? One that only the short form of files names has no resource.
    pub(super) fn has_mesh(&self, mesh: &str) -> bool {
        let key = ResourceKey::new(ResourceKind::Mesh, "", mesh);
        self.catalog.entries.contains_key(&key) || self.snapshot.meshes.contains_key(mesh)
    }
}

/// Kinds that have a VIP each.
pub(super) fn kind_with_vip(kind: ResourceKind) -> Option<Kind> {
    match kind {
        ResourceKind::MeshService => Some(Kind::MeshService),
        ResourceKind::MeshExternalService => Some(Kind::MeshExternalService),
        ResourceKind::MeshMultiZoneService => Some(Kind::MeshMultiZoneService),
        _ => None,
    }
}

/// What is listed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Listing {
    pub(super) what: What,
    /// `None`: all of them.
    pub(super) mesh: Option<Arc<str>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum What {
    Resources(ResourceKind),
    Vips,
}

/// A place in a listing: an item, whether it is still there or not. Its text is what `offset` says.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Cursor {
    pub(super) mesh: Arc<str>,
    pub(super) name: Arc<str>,
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.mesh, self.name)
    }
}

/// One item.
#[derive(Clone, Copy)]
pub(super) enum Item<'v> {
    Resource(&'v ResourceKey, &'v Arc<Listed>),
    Vip { mesh: &'v Arc<str>, name: &'v Arc<str>, published: &'v Published },
}

/// What became of an item.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Change {
    pub(super) at: Cursor,
    /// It was there and meant by the filter.
    pub(super) was_shown: bool,
}

impl Item<'_> {
    pub(super) fn cursor(&self) -> Cursor {
        let (mesh, name) = match self {
            Self::Resource(key, _) => (&key.mesh, &key.name),
            Self::Vip { mesh, name, .. } => (*mesh, *name),
        };
        Cursor { mesh: mesh.clone(), name: name.clone() }
    }

    pub(super) fn is_meant(&self, filter: &Filter) -> bool {
        let name = match self {
            Self::Resource(key, _) => &key.name,
            Self::Vip { name, .. } => name,
        };
        let has = |(key, value): &(String, String)| match self {
            Self::Resource(_, listed) => listed.resource.meta().labels.get(key) == Some(value),
            // A VIP has no labels.
            Self::Vip { .. } => false,
        };
        filter.name.as_ref().is_none_or(|part| name.contains(part.as_str())) && filter.labels.iter().all(has)
    }

    /// Writes it as it is shown: JSON.
    pub(super) fn write(&self, view: &View, out: &mut Vec<u8>) {
        let written = match self {
            Self::Resource(key, listed) => item::write(key, listed, view, out),
            Self::Vip { mesh, name, published } => vip::write(mesh, name, published, out),
        };
        written.expect("texts, numbers, lists and maps of texts are JSON, and memory takes all");
    }
}

impl Listing {
    /// All items behind a place, in order of mesh and name.
    pub(super) fn walk<'v>(
        &'v self,
        view: &'v View,
        after: Option<&Cursor>,
    ) -> Box<dyn Iterator<Item = Item<'v>> + Send + 'v> {
        match self.what {
            What::Resources(kind) => Box::new(self.resources(kind, view, after)),
            What::Vips => Box::new(self.vips(view, after)),
        }
    }

    fn resources<'v>(
        &'v self,
        kind: ResourceKind,
        view: &'v View,
        after: Option<&Cursor>,
    ) -> impl Iterator<Item = Item<'v>> + Send + 'v {
        let first = || {
            let mesh = self.mesh.clone().unwrap_or_default();
            Bound::Included(ResourceKey { kind, mesh, name: Arc::default() })
        };
        let behind = |cursor: &Cursor| {
            let Cursor { mesh, name } = cursor.clone();
            Bound::Excluded(ResourceKey { kind, mesh, name })
        };
        let from = after.map_or_else(first, behind);
        let ours =
            move |key: &ResourceKey| key.kind == kind && self.mesh.as_ref().is_none_or(|m| *m == key.mesh);
        let entries = view.catalog.entries.range((from, Bound::Unbounded));
        entries.take_while(move |(key, _)| ours(key)).map(|(key, listed)| Item::Resource(key, listed))
    }

    fn vips<'v>(
        &'v self,
        view: &'v View,
        after: Option<&Cursor>,
    ) -> impl Iterator<Item = Item<'v>> + Send + 'v {
        let after = after.cloned();
        let first =
            after.as_ref().map(|cursor| cursor.mesh.clone()).or(self.mesh.clone()).unwrap_or_default();
        let meshes = view.snapshot.meshes.range(first..);
        let meshes = meshes.take_while(move |(mesh, _)| self.mesh.as_ref().is_none_or(|m| m == *mesh));
        meshes.flat_map(move |(mesh, snapshot)| {
            let from = match &after {
                Some(cursor) if cursor.mesh == *mesh => Bound::Excluded(cursor.name.clone()),
                _ => Bound::Unbounded,
            };
            let vips = snapshot.vips.range((from, Bound::Unbounded));
            vips.map(move |(name, published)| Item::Vip { mesh, name, published })
        })
    }

    /// How many items there are.
    pub(super) fn total(&self, view: &View) -> usize {
        let mesh = self.mesh.as_deref();
        match self.what {
            What::Resources(kind) => view.catalog.count(kind, mesh),
            What::Vips => {
                let ours = view.snapshot.meshes.iter().filter(|(name, _)| mesh.is_none_or(|m| m == &***name));
                ours.map(|(_, mesh)| mesh.vips.len()).sum()
            }
        }
    }

    /// The item at a place.
    pub(super) fn at<'v>(&self, view: &'v View, cursor: &Cursor) -> Option<Item<'v>> {
        match self.what {
            What::Resources(kind) => {
                let key = ResourceKey { kind, mesh: cursor.mesh.clone(), name: cursor.name.clone() };
                let (key, listed) = view.catalog.entries.get_key_value(&key)?;
                Some(Item::Resource(key, listed))
            }
            What::Vips => {
                let (mesh, snapshot) = view.snapshot.meshes.get_key_value(&cursor.mesh)?;
                let (name, published) = snapshot.vips.get_key_value(&cursor.name)?;
                Some(Item::Vip { mesh, name, published })
            }
        }
    }

    /// Every place at which `new` may differ from `old`, in order.
    pub(super) fn changes(&self, old: &View, new: &View, filter: &Filter) -> Vec<Change> {
        let mut places = BTreeSet::new();
        match self.what {
            What::Resources(kind) => {
                self.changed_resources(kind, old, new, &mut places);
                // What became of a resource is part of it.
                if let Some(kind) = kind_with_vip(kind) {
                    self.changed_vips(old, new, &format!("{}:", kind.word()), &mut places);
                }
            }
            What::Vips => self.changed_vips(old, new, "", &mut places),
        }
        let shown = |at: &Cursor| self.at(old, at).is_some_and(|item| item.is_meant(filter));
        places.into_iter().map(|at| Change { was_shown: shown(&at), at }).collect()
    }

    fn changed_resources(&self, kind: ResourceKind, old: &View, new: &View, places: &mut BTreeSet<Cursor>) {
        for changed in old.catalog.entries.diff(&new.catalog.entries) {
            let key = key_of(&changed);
            if key.kind == kind && self.mesh.as_ref().is_none_or(|mesh| *mesh == key.mesh) {
                places.insert(Cursor { mesh: key.mesh.clone(), name: key.name.clone() });
            }
        }
    }

    /// VIPs whose names begin with `prefix`, by what comes behind it.
    fn changed_vips(&self, old: &View, new: &View, prefix: &str, places: &mut BTreeSet<Cursor>) {
        if Arc::ptr_eq(&old.snapshot, &new.snapshot) {
            return;
        }
        let (old, new) = (&old.snapshot.meshes, &new.snapshot.meshes);
        let meshes: BTreeSet<&Arc<str>> = old.keys().chain(new.keys()).collect();
        let none = OrdMap::new();
        for mesh in meshes.into_iter().filter(|mesh| self.mesh.as_ref().is_none_or(|ours| ours == *mesh)) {
            let before = old.get(mesh).map_or(&none, |mesh| &mesh.vips);
            let after = new.get(mesh).map_or(&none, |mesh| &mesh.vips);
            for changed in before.diff(after) {
                if let Some(name) = key_of(&changed).strip_prefix(prefix) {
                    places.insert(Cursor { mesh: mesh.clone(), name: name.into() });
                }
            }
        }
    }
}

fn key_of<'d, K, V>(changed: &DiffItem<'d, 'd, K, V>) -> &'d K {
    match changed {
        DiffItem::Add(key, _) | DiffItem::Remove(key, _) => key,
        DiffItem::Update { new: (key, _), .. } => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cp::registry::Origin;
    use crate::cp::snapshot::{Entry, MeshHeader, MeshSnapshot, Outbounds};
    use crate::cp::store::documents::Document;
    use crate::model::kind::{MeshService, Meta, Resource, Selector};
    use crate::model::name::Hostname;
    use crate::model::view::Addresses;

    fn view(services: &[(&str, &str)], vips: &[(&str, &str, u8)]) -> View {
        let mut catalog = Catalog::default();
        for (mesh, name) in services {
            let meta = Meta { mesh: (*mesh).into(), name: (*name).into(), ..Meta::default() };
            let service = MeshService { meta, selector: Selector::Nobody, ports: Vec::new().into() };
            let key = ResourceKey::new(ResourceKind::MeshService, mesh, name);
            let (revision, created_secs, modified_secs, body) = (1, 0, 0, "{}".into());
            let document = Document { key: key.clone(), revision, created_secs, modified_secs, body };
            let resource = Arc::new(Resource::MeshService(service));
            catalog.entries.insert(key, Arc::new(Listed { document, origin: Origin::Store, resource }));
        }
        let mut snapshot = Snapshot::default();
        for (mesh, name, last) in vips {
            let header = MeshHeader {
                domain: Hostname::parse("mesh").unwrap(),
                ttl_secs: 60,
                ranges: Vec::new(),
                outbounds: Outbounds::default(),
            };
            let empty = || MeshSnapshot { header: Arc::new(header), vips: OrdMap::new() };
            let addresses = Addresses { v4: Some([240, 0, 0, *last].into()), v6: None };
            let published = Published::new(addresses, Arc::new(Entry::default()));
            let mesh = snapshot.meshes.entry((*mesh).into()).or_insert_with(empty);
            mesh.vips.insert((*name).into(), published);
        }
        View {
            catalog: Arc::new(catalog),
            resources: Arc::default(),
            status: watch::channel(Status::default()).1,
            generators: Arc::default(),
            snapshot: Arc::new(snapshot),
        }
    }

    fn of(what: What, mesh: Option<&str>) -> Listing {
        Listing { what, mesh: mesh.map(Into::into) }
    }

    const SERVICES: What = What::Resources(ResourceKind::MeshService);

    fn places(listing: &Listing, view: &View, after: Option<(&str, &str)>) -> Vec<String> {
        let after = after.map(|(mesh, name)| Cursor { mesh: mesh.into(), name: name.into() });
        listing.walk(view, after.as_ref()).map(|item| item.cursor().to_string()).collect()
    }

    #[test]
    fn a_walk_goes_on_behind_any_place_and_stays_in_its_mesh() {
        let all = [("a", "x"), ("a", "z"), ("b", "x"), ("b", "y")];
        let vips = all.map(|(mesh, name)| (mesh, name, 1));
        let view = view(&all, &vips);
        for what in [SERVICES, What::Vips] {
            let every = of(what, None);
            assert_eq!(places(&every, &view, None), ["a/x", "a/z", "b/x", "b/y"]);
            assert_eq!(
                places(&every, &view, Some(("a", "y"))),
                ["a/z", "b/x", "b/y"],
                "the place need not be there"
            );
            assert_eq!(places(&every, &view, Some(("a", "z"))), ["b/x", "b/y"]);
            assert_eq!(places(&every, &view, Some(("aa", ""))), ["b/x", "b/y"]);
            assert_eq!(places(&every, &view, Some(("c", ""))), [""; 0]);
            let one = of(what, Some("a"));
            assert_eq!(places(&one, &view, None), ["a/x", "a/z"]);
            assert_eq!(places(&one, &view, Some(("a", "x"))), ["a/z"]);
            assert_eq!(places(&one, &view, Some(("b", "x"))), [""; 0], "a place in another mesh");
        }
        assert_eq!(of(What::Vips, None).total(&view), 4);
        assert_eq!(of(What::Vips, Some("b")).total(&view), 2);
    }

    #[test]
    fn a_difference_names_what_came_went_and_changed_and_nothing_else() {
        let old = view(
            &[("a", "gone"), ("a", "same")],
            &[("a", "MeshService:same", 1), ("a", "tag", 2), ("b", "only", 3)],
        );
        let new = view(
            &[("a", "new"), ("a", "same")],
            &[("a", "MeshService:same", 9), ("a", "tag", 2), ("a", "MeshService:new", 4)],
        );
        let changes = |what, mesh, filter: &Filter| -> Vec<(String, bool)> {
            let changes = of(what, mesh).changes(&old, &new, filter);
            changes.into_iter().map(|change| (change.at.to_string(), change.was_shown)).collect()
        };
        let all = Filter::default();
        // A service whose VIP changed has changed as well.
        let want = [("a/gone".to_owned(), true), ("a/new".to_owned(), false), ("a/same".to_owned(), true)];
        assert_eq!(changes(SERVICES, None, &all), want);
        assert_eq!(changes(SERVICES, Some("b"), &all), []);
        let named = Filter { name: Some("new".into()), ..Filter::default() };
        assert!(changes(SERVICES, None, &named).iter().all(|(_, was_shown)| !was_shown));
        let vips: Vec<String> = changes(What::Vips, None, &all).into_iter().map(|(at, _)| at).collect();
        assert_eq!(vips, ["a/MeshService:new", "a/MeshService:same", "b/only"]);
    }
}
