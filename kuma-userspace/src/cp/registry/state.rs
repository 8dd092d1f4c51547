//! Everything that there is, from whatever origin, as one: the files' resources, the stored documents, what is there from
//! the start and what is derived. Pure.
//! Keeps: for one key a file goes before a document, a document before what is builtin or derived; the outcome depends on
//! what there is, never on the order in which it came; a change costs itself, but for settings and a mesh's mode; a document
//! that cannot be read stops nobody but itself. Called by the task in registry::writer.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::catalog::{Catalog, Listed, Origin};
use super::document;
use super::layer::Layer;
use crate::cp::resources::derived::{self, Spoken};
use crate::cp::resources::draft::Used;
use crate::cp::resources::{self, Resources};
use crate::cp::settings::Settings;
use crate::cp::store::documents::{Document, DocumentNews};
use crate::model::kind::{Dataplane, MeshServices, Resource, ResourceKey, ResourceKind};
use crate::model::packed::packed;
use crate::model::tags::Interner;

/// Everything.
#[derive(Default)]
pub(super) struct State {
    pub(super) catalog: Catalog,
    pub(super) resources: Resources,
    layer: Layer,
    texts: Interner,
    builtin: BTreeMap<ResourceKey, Arc<Listed>>,
    /// Documents that a file stands before.
    shadowed: BTreeMap<ResourceKey, Document>,
    /// Documents that cannot be read, and why.
    unreadable: BTreeMap<ResourceKey, (Document, String)>,
    /// What the inbounds of each service of some meshes say: of those that want MeshServices for them.
    spoken: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Spoken>>,
    changed: bool,
    /// Key material is no business of anybody behind us; but it goes with its mesh.
    secrets: BTreeSet<ResourceKey>,
    /// MeshServices that may have to be made, changed or removed.
    derive: BTreeSet<(Arc<str>, Arc<str>)>,
}

impl State {
    pub(super) fn new() -> Self {
        let mut state = Self::default();
        for resource in resources::builtin() {
            let listed = Arc::new(document::listed(resource, Origin::Builtin));
            state.builtin.insert(listed.document.key.clone(), listed.clone());
            state.set(listed);
        }
        state
    }

    /// Has anything changed since this was asked last?
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(super) fn is_builtin(&self, key: &ResourceKey) -> bool {
        self.builtin.contains_key(key)
    }

    /// Has the stored document an effect, or would it but for a file?
    pub(super) fn is_readable(&self, key: &ResourceKey) -> bool {
        !self.unreadable.contains_key(key)
    }

    /// Key material of a mesh.
    pub(super) fn secrets_of(&self, mesh: &str) -> Vec<ResourceKey> {
        self.secrets.iter().filter(|key| *key.mesh == *mesh).cloned().collect()
    }

    pub(super) fn settings(&self) -> &Settings {
        &self.resources.settings
    }

    /// Documents that have no effect, because a file has a resource of their name.
    pub(super) fn shadowed(&self) -> impl Iterator<Item = (&ResourceKey, &Path)> {
        self.shadowed.keys().filter_map(|key| Some((key, self.file_of(key)?)))
    }

    /// Documents that have no effect, because they cannot be read.
    pub(super) fn unreadable(&self) -> impl Iterator<Item = (&Document, &str)> {
        self.unreadable.values().map(|(document, reason)| (document, reason.as_str()))
    }

    /// The file that gives a resource.
    pub(super) fn file_of(&self, key: &ResourceKey) -> Option<&Path> {
        match &self.layer.given.get(key)?.origin {
            Origin::File(file) => Some(file),
            _ => None,
        }
    }

    /// The stored document, whether it has an effect or not.
    pub(super) fn stored(&self, key: &ResourceKey) -> Option<&Document> {
        let listed = self.catalog.entries.get(key).filter(|listed| listed.origin == Origin::Store);
        listed
            .map(|listed| &listed.document)
            .or_else(|| self.shadowed.get(key))
            .or_else(|| self.unreadable.get(key).map(|(document, _)| document))
    }

    /// Is this service described in the short form?
    pub(super) fn is_short(&self, mesh: &Arc<str>, service: &Arc<str>) -> Option<&Path> {
        let (mesh, name) = (mesh.clone(), service.clone());
        self.file_of(&ResourceKey { kind: ResourceKind::Service, mesh, name })
    }

    /// The kinds with pools of their own that there are.
    pub(super) fn used(&self) -> Used {
        let any = |kind| self.catalog.count(kind, None) > 0;
        Used {
            mesh_services: any(ResourceKind::MeshService) || !self.spoken.is_empty(),
            mesh_external_services: any(ResourceKind::MeshExternalService),
            mesh_multi_zone_services: any(ResourceKind::MeshMultiZoneService),
        }
    }

    /// Takes what the files give now.
    pub(super) fn take_files(&mut self, layer: &Layer) {
        let there = self.counts();
        let before = std::mem::replace(&mut self.layer, layer.clone());
        for change in before.given.diff(&layer.given) {
            match change {
                DiffItem::Add(_, listed) | DiffItem::Update { new: (_, listed), .. } => {
                    self.shadow(&listed.document.key);
                    self.set(listed.clone());
                }
                DiffItem::Remove(key, _) => match self.shadowed.remove(key) {
                    Some(document) => self.take_document(document),
                    None => self.fall_back(key),
                },
            }
        }
        if before.settings != layer.settings {
            self.changed = true;
            self.resources.settings = layer.settings.clone();
            self.reread();
        }
        self.derive_services();
        self.pack(there);
    }

    /// Takes what changed in the store.
    pub(super) fn take_news(&mut self, news: DocumentNews) {
        let there = self.counts();
        if news.whole {
            let there: BTreeSet<&ResourceKey> = news.changed.iter().map(|document| &document.key).collect();
            let listed = self.catalog.entries.values().filter(|listed| listed.origin == Origin::Store);
            let known = listed.map(|listed| &listed.document.key);
            let known = known.chain(self.shadowed.keys()).chain(self.unreadable.keys());
            self.secrets.clear();
            let gone: Vec<ResourceKey> = known.filter(|key| !there.contains(*key)).cloned().collect();
            gone.iter().for_each(|key| self.forget(key));
        }
        for key in &news.removed {
            self.forget(key);
        }
        for document in news.changed {
            if document.key.kind == ResourceKind::Secret {
                self.secrets.insert(document.key);
                continue;
            }
            if self.stored(&document.key) == Some(&document) {
                continue;
            }
            self.forget_unreadable(&document.key);
            if self.layer.given.contains_key(&document.key) {
                self.shadowed.insert(document.key.clone(), document);
            } else {
                self.take_document(document);
            }
        }
        self.derive_services();
        self.pack(there);
    }

    fn counts(&self) -> [usize; 2] {
        [self.catalog.entries.len(), self.resources.all.len()]
    }

    /// After a step from so many entries.
    fn pack(&mut self, [listed, resources]: [usize; 2]) {
        let [listed, resources] =
            [self.counts()[0].saturating_sub(listed), self.counts()[1].saturating_sub(resources)];
        self.catalog.entries = packed(std::mem::take(&mut self.catalog.entries), listed);
        self.resources.all = packed(std::mem::take(&mut self.resources.all), resources);
    }

    /// Reads every document again, under settings that have changed.
    fn reread(&mut self) {
        let listed = self.catalog.entries.values().filter(|listed| listed.origin == Origin::Store);
        let mut documents: Vec<Document> = listed.map(|listed| listed.document.clone()).collect();
        documents.extend(std::mem::take(&mut self.unreadable).into_values().map(|(document, _)| document));
        for document in documents {
            self.take_document(document);
        }
    }

    /// A document that no file stands before.
    fn take_document(&mut self, mut document: Document) {
        match document::read(&document, &self.resources.settings, &mut self.texts) {
            Ok(resource) => {
                let before = self.catalog.entries.get(&document.key).map(|listed| &listed.resource);
                // What is the same to everybody behind us stays the same.
                let resource = match before {
                    Some(before) if **before == resource => before.clone(),
                    _ => Arc::new(resource),
                };
                // One copy of its texts is enough.
                document.key = resource.key();
                self.set(Arc::new(Listed { document, origin: Origin::Store, resource }));
            }
            Err(invalid) => {
                let key = document.key.clone();
                self.unreadable.insert(key.clone(), (document, invalid.to_string()));
                self.fall_back(&key);
            }
        }
    }

    /// A document was deleted.
    fn forget(&mut self, key: &ResourceKey) {
        self.secrets.remove(key);
        self.forget_unreadable(key);
        self.shadowed.remove(key);
        if self.catalog.entries.get(key).is_some_and(|listed| listed.origin == Origin::Store) {
            self.fall_back(key);
        }
    }

    fn forget_unreadable(&mut self, key: &ResourceKey) {
        self.unreadable.remove(key);
    }

    /// A file has a resource of this name from now on.
    fn shadow(&mut self, key: &ResourceKey) {
        let listed = self.catalog.entries.get(key).filter(|listed| listed.origin == Origin::Store);
        let stored = listed.map(|listed| listed.document.clone());
        let stored = stored.or_else(|| self.unreadable.remove(key).map(|(document, _)| document));
        if let Some(document) = stored {
            self.shadowed.insert(key.clone(), document);
        }
    }

    /// Nobody gives this any more: what is left is builtin, derived or nothing.
    fn fall_back(&mut self, key: &ResourceKey) {
        match self.builtin.get(key) {
            Some(builtin) => self.set(builtin.clone()),
            None => self.unset(key),
        }
        if key.kind == ResourceKind::MeshService {
            self.derive.insert((key.mesh.clone(), key.name.clone()));
        }
    }

    fn set(&mut self, listed: Arc<Listed>) {
        self.changed = true;
        let (key, resource) = (&listed.document.key, &listed.resource);
        if key.kind != ResourceKind::Service {
            self.catalog.set(listed.clone());
        }
        let same = self.resources.all.get(key).is_some_and(|before| Arc::ptr_eq(before, resource));
        if !same {
            let before = self.resources.all.insert(key.clone(), resource.clone());
            self.hear(before.as_deref(), Some(resource));
        }
    }

    fn unset(&mut self, key: &ResourceKey) {
        self.changed = true;
        self.catalog.unset(key);
        let before = self.resources.all.remove(key);
        self.hear(before.as_deref(), None);
    }

    /// What a change means for MeshServices that are derived.
    fn hear(&mut self, before: Option<&Resource>, after: Option<&Resource>) {
        if let Some(Resource::Dataplane(dataplane)) = before {
            self.hear_dataplane(dataplane, false);
        }
        match (before, after) {
            (_, Some(Resource::Dataplane(dataplane))) => self.hear_dataplane(dataplane, true),
            (_, Some(Resource::Mesh(mesh))) => {
                self.hear_mesh(&mesh.meta.name, mesh.mode != MeshServices::Disabled);
            }
            (Some(Resource::Mesh(mesh)), None) => self.hear_mesh(&mesh.meta.name, false),
            _ => {}
        }
    }

    fn hear_dataplane(&mut self, dataplane: &Dataplane, is_there: bool) {
        let mesh = &dataplane.meta.mesh;
        let Some(services) = self.spoken.get_mut(mesh) else { return };
        for inbound in dataplane.inbounds.iter().filter(|inbound| derived::is_label(&inbound.service)) {
            let spoken = services.entry(inbound.service.clone()).or_default();
            if is_there {
                spoken.add(inbound);
            } else {
                spoken.remove(inbound);
            }
            if spoken.is_empty() {
                services.remove(&inbound.service);
            }
            self.derive.insert((mesh.clone(), inbound.service.clone()));
        }
    }

    fn hear_mesh(&mut self, mesh: &Arc<str>, asks: bool) {
        if asks == self.spoken.contains_key(mesh) {
            return;
        }
        if !asks {
            let services = self.spoken.remove(mesh).unwrap_or_default();
            self.derive.extend(services.into_keys().map(|name| (mesh.clone(), name)));
            return;
        }
        self.spoken.insert(mesh.clone(), BTreeMap::new());
        let first = ResourceKey { kind: ResourceKind::Dataplane, mesh: mesh.clone(), name: "".into() };
        let of_mesh = |key: &ResourceKey| key.kind == ResourceKind::Dataplane && key.mesh == *mesh;
        let all = self.resources.all.clone();
        for (_, resource) in all.range(first..).take_while(|(key, _)| of_mesh(key)) {
            if let Resource::Dataplane(dataplane) = &**resource {
                self.hear_dataplane(dataplane, true);
            }
        }
    }

    fn derive_services(&mut self) {
        for (mesh, name) in std::mem::take(&mut self.derive) {
            let key = ResourceKey { kind: ResourceKind::MeshService, mesh: mesh.clone(), name: name.clone() };
            let there = self.catalog.entries.get(&key);
            if there.is_some_and(|listed| listed.origin != Origin::Derived) {
                continue;
            }
            let spoken = self.spoken.get(&mesh).and_then(|services| services.get(&name));
            match spoken.map(|spoken| Resource::MeshService(spoken.service(&mesh, &name))) {
                None => self.unset(&key),
                Some(service) if there.is_some_and(|listed| *listed.resource == service) => {}
                Some(service) => self.set(Arc::new(document::listed(service, Origin::Derived))),
            }
        }
    }
}

/// Whose endpoints lie in a network.
pub(super) fn endpoints_in<'r>(
    all: &'r OrdMap<ResourceKey, Arc<Resource>>,
    ranges: &'r [ipnetwork::IpNetwork],
) -> impl Iterator<Item = (&'r ResourceKey, std::net::SocketAddr)> {
    all.iter().filter_map(move |(key, resource)| {
        let within =
            |endpoint: &std::net::SocketAddr| ranges.iter().any(|range| range.contains(endpoint.ip()));
        Some((key, document::endpoints(resource).find(within)?))
    })
}
