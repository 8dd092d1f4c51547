//! What resource files give, read step by step: an edit costs the files that it changed.
//! Keeps: the same as reading everything from scratch, which is done whenever a step finds anything to object to (so every
//! mistake is said with its place) or settings change; a bad edit leaves the last good state as it is; what did not change
//! keeps its Arc. Its calls block. Called by cp (open) and cp::watch.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use imbl::OrdMap;

use super::catalog::{Listed, Origin};
use crate::cp::resources::draft::{Draft, Form, Used, used_pools};
use crate::cp::resources::{self, Whole, files};
use crate::cp::settings::Settings;
use crate::cp::store::documents::Document;
use crate::cp::violation::Invalid;
use crate::model::kind::{MeshServices, Resource, ResourceKey, ResourceKind};
use crate::model::packed::packed;
use crate::model::tags::Interner;

/// Everything that the files give.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Layer {
    pub settings: Settings,
    pub given: OrdMap<ResourceKey, Arc<Listed>>,
}

/// Reads the files behind some paths again and again.
pub(in crate::cp) struct LayerReader {
    paths: Vec<PathBuf>,
    /// Settings that the files may not change.
    fixed: Option<Settings>,
    texts: Interner,
    /// The state that was looked at last, good or bad.
    seen: Option<files::Fingerprint>,
    /// The files of the last good state.
    known: BTreeMap<PathBuf, Known>,
    layer: Layer,
    /// At most this many services: inbounds and short forms.
    services: usize,
}

/// A file that is in force.
struct Known {
    stamp: Option<files::Stamp>,
    keys: Box<[ResourceKey]>,
    settings: bool,
    services: usize,
}

impl LayerReader {
    /// Nothing was read yet.
    pub(in crate::cp) fn new(paths: Vec<PathBuf>, fixed: Option<Settings>) -> Self {
        let layer = Layer { settings: fixed.clone().unwrap_or_default(), ..Layer::default() };
        Self {
            paths,
            fixed,
            texts: Interner::default(),
            seen: None,
            known: BTreeMap::new(),
            layer,
            services: 0,
        }
    }

    pub(in crate::cp) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// What the files give now; nothing when they are as they were when they were looked at last.
    ///
    /// # Errors
    /// Every mistake in every file.
    pub(in crate::cp) fn look(&mut self) -> Result<Option<Layer>, Invalid> {
        // Taken before reading: a change while we read shows up the next time.
        let now = files::fingerprint(&self.paths);
        if self.seen.as_ref() == Some(&now) {
            return Ok(None);
        }
        let first = self.seen.is_none();
        self.seen = Some(now.clone());
        let before = self.layer.given.len();
        if first || !self.step(&now) {
            self.read_whole(&now)?;
        }
        let grown = self.layer.given.len().saturating_sub(before);
        self.layer.given = packed(std::mem::take(&mut self.layer.given), grown);
        Ok(Some(self.layer.clone()))
    }

    fn read_whole(&mut self, now: &files::Fingerprint) -> Result<(), Invalid> {
        let Whole { settings, files } =
            resources::read_whole(&self.paths, self.fixed.as_ref(), &mut self.texts)?;
        self.layer.settings = settings;
        self.services = 0;
        let stamps: BTreeMap<&Path, Option<files::Stamp>> =
            now.iter().map(|(path, stamp)| (&**path, *stamp)).collect();
        let before = std::mem::take(&mut self.known);
        let mut gone: BTreeSet<ResourceKey> = before.into_values().flat_map(|known| known.keys).collect();
        for (path, draft) in files {
            let stamp = stamps.get(&*path).copied().flatten();
            let known = self.take(&path, stamp, draft);
            for key in &known.keys {
                gone.remove(key);
            }
            self.known.insert(path, known);
        }
        for key in gone {
            self.layer.given.remove(&key);
        }
        Ok(())
    }

    /// Reads only what changed. False: that is not enough.
    fn step(&mut self, now: &files::Fingerprint) -> bool {
        let now: BTreeMap<&Path, Option<files::Stamp>> =
            now.iter().map(|(path, stamp)| (&**path, *stamp)).collect();
        let gone: Vec<PathBuf> =
            self.known.keys().filter(|path| !now.contains_key(&***path)).cloned().collect();
        let changed: Vec<(PathBuf, Option<files::Stamp>)> = now
            .iter()
            .filter(|(path, stamp)| {
                stamp.is_none() || self.known.get(**path).is_none_or(|known| known.stamp != **stamp)
            })
            .map(|(path, stamp)| ((*path).to_owned(), *stamp))
            .collect();
        let touched: BTreeSet<&Path> =
            gone.iter().map(|path| &**path).chain(changed.iter().map(|(path, _)| &**path)).collect();
        let has_settings =
            touched.iter().any(|path| self.known.get(*path).is_some_and(|known| known.settings));
        // A directory without any file is a mistake, and so is a path that leads nowhere.
        let mut objections = Vec::new();
        let expanded: BTreeSet<PathBuf> = files::expand(&self.paths, &mut objections).into_iter().collect();
        if has_settings || !objections.is_empty() || expanded.iter().any(|path| !now.contains_key(&**path)) {
            return false;
        }
        let mut drafts = Vec::new();
        for (path, stamp) in changed.iter().filter(|(path, _)| expanded.contains(path)) {
            let draft = resources::read_file(path, &mut self.texts, &mut objections);
            drafts.push((path.clone(), *stamp, draft));
        }
        if !objections.is_empty() || !self.accepts(&touched, &mut drafts) {
            return false;
        }
        let mut removed: BTreeSet<ResourceKey> = BTreeSet::new();
        for path in touched {
            if let Some(known) = self.known.remove(path) {
                self.services -= known.services;
                removed.extend(known.keys);
            }
        }
        for (path, stamp, draft) in drafts {
            let known = self.take(&path, stamp, draft);
            for key in &known.keys {
                removed.remove(key);
            }
            self.known.insert(path, known);
        }
        for key in &removed {
            self.layer.given.remove(key);
        }
        true
    }

    /// May these drafts stand beside the files that are not touched? Whatever is in doubt, may not.
    fn accepts(
        &self,
        touched: &BTreeSet<&Path>,
        drafts: &mut [(PathBuf, Option<files::Stamp>, Draft)],
    ) -> bool {
        let elsewhere = |key: &ResourceKey| {
            let origin = self.layer.given.get(key).map(|listed| &listed.origin);
            matches!(origin, Some(Origin::File(file)) if !touched.contains(&**file))
        };
        let mut keys = BTreeSet::new();
        let (mut shorts, mut instances) = (BTreeSet::new(), BTreeSet::new());
        let mut services = self.services;
        let mut objections = Vec::new();
        let pools = used_pools(&self.layer.settings, &self.used());
        for (_, _, draft) in drafts {
            // A kind that was not there before may bring its pool into use.
            let brings = |resource: &Resource| match resource {
                Resource::Mesh(mesh) => mesh.mode != MeshServices::Disabled,
                resource => matches!(
                    resource.kind(),
                    ResourceKind::MeshService
                        | ResourceKind::MeshExternalService
                        | ResourceKind::MeshMultiZoneService
                ),
            };
            let news =
                |resource: &Resource| brings(resource) && !self.layer.given.contains_key(&resource.key());
            if draft.has_settings() || draft.found.iter().any(|found| news(&found.resource)) {
                return false;
            }
            draft.check_under(&self.layer.settings, &pools, &mut objections);
            for found in &draft.found {
                let key = found.resource.key();
                if elsewhere(&key) || !keys.insert(key) {
                    return false;
                }
            }
            services += draft.described.len();
            for described in &draft.described {
                let service = (described.mesh.clone(), described.service.clone());
                match described.form {
                    Form::Short => shorts.insert(service),
                    Form::Dataplane => instances.insert(service),
                };
            }
        }
        let room = self.layer.settings.pools.room();
        objections.is_empty()
            && u128::try_from(services).is_ok_and(|services| services <= room)
            && shorts.is_disjoint(&instances)
            && !instances.iter().any(|(mesh, name)| {
                elsewhere(&ResourceKey {
                    kind: ResourceKind::Service,
                    mesh: mesh.clone(),
                    name: name.clone(),
                })
            })
            && !self.has_instances(&shorts, touched)
    }

    /// Has a Dataplane of another file an inbound of one of these services?
    fn has_instances(&self, services: &BTreeSet<(Arc<str>, Arc<str>)>, touched: &BTreeSet<&Path>) -> bool {
        if services.is_empty() {
            return false;
        }
        let first = ResourceKey::new(ResourceKind::Dataplane, "", "");
        let dataplanes =
            self.layer.given.range(first..).take_while(|(key, _)| key.kind == ResourceKind::Dataplane);
        dataplanes.map(|(_, listed)| listed).any(|listed| {
            let (Resource::Dataplane(dataplane), Origin::File(file)) = (&*listed.resource, &listed.origin)
            else {
                return false;
            };
            let mesh = &dataplane.meta.mesh;
            let one_of = |service: &Arc<str>| services.contains(&(mesh.clone(), service.clone()));
            dataplane.inbounds.iter().any(|inbound| one_of(&inbound.service)) && !touched.contains(&**file)
        })
    }

    fn used(&self) -> Used {
        let any = |kind| {
            let first = ResourceKey::new(kind, "", "");
            self.layer.given.range(first..).next().is_some_and(|(key, _)| key.kind == kind)
        };
        let first = ResourceKey::new(ResourceKind::Mesh, "", "");
        let meshes = self.layer.given.range(first..).take_while(|(key, _)| key.kind == ResourceKind::Mesh);
        let asks = |resource: &Resource| matches!(resource, Resource::Mesh(mesh) if mesh.mode != MeshServices::Disabled);
        Used {
            mesh_services: any(ResourceKind::MeshService)
                || meshes.map(|(_, listed)| listed).any(|listed| asks(&listed.resource)),
            mesh_external_services: any(ResourceKind::MeshExternalService),
            mesh_multi_zone_services: any(ResourceKind::MeshMultiZoneService),
        }
    }

    /// Puts what a file gives into the layer; what is as it was stays as it is.
    fn take(&mut self, path: &Path, stamp: Option<files::Stamp>, draft: Draft) -> Known {
        let file: Arc<Path> = path.into();
        let services = draft.described.len();
        self.services += services;
        let settings = draft.has_settings();
        let mut keys = Vec::with_capacity(draft.found.len());
        for found in draft.found {
            let key = found.resource.key();
            let same = |listed: &Arc<Listed>| {
                matches!(&listed.origin, Origin::File(before) if **before == *file)
                    && found.body.as_ref().is_none_or(|body| *body == listed.document.body)
                    && listed.resource == found.resource
            };
            if !self.layer.given.get(&key).is_some_and(same) {
                let body = found.body.unwrap_or_else(|| self.texts.share("{}"));
                let listed = listed(&key, found.resource, body, file.clone(), stamp);
                self.layer.given.insert(key.clone(), Arc::new(listed));
            }
            keys.push(key);
        }
        Known { stamp, keys: keys.into(), settings, services }
    }
}

fn listed(
    key: &ResourceKey,
    resource: Arc<Resource>,
    body: Arc<str>,
    file: Arc<Path>,
    stamp: Option<files::Stamp>,
) -> Listed {
    let modified_secs = stamp.map_or(0, |stamp| stamp.modified_secs());
    let created_secs = match resource.meta().created_secs {
        0 => modified_secs,
        said => said,
    };
    let document = Document { key: key.clone(), revision: 0, created_secs, modified_secs, body };
    Listed { document, origin: Origin::File(file), resource }
}
