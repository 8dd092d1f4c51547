//! The snapshot that is out, and its steps to the next. Keeps: whatever has not changed stays as it is, node for node;
//! entries without an address are left out, there is nothing to say about them yet. Part of publish.

use std::sync::Arc;

use imbl::OrdMap;
use ipnetwork::IpNetwork;

use crate::cp::allocator::{Allocator, Family};
use crate::cp::plan::Planner;
use crate::cp::settings::{AllPools, Settings, Source};
use crate::cp::snapshot::{MeshHeader, MeshSnapshot, Outbounds, Published, Snapshot};
use crate::model::resource::{Kind, ServiceKey};
use crate::model::view::Addresses;

/// What was published last.
#[derive(Debug, Default)]
pub(super) struct Shown {
    /// Meshes stay in it, if only empty: somebody may have a view of them, and hears of removals.
    pub(super) snapshot: Snapshot,
}

impl Shown {
    /// How many VIPs are out.
    pub(super) fn count(&self) -> usize {
        self.snapshot.meshes.values().map(|mesh| mesh.vips.len()).sum()
    }

    /// Says of each mesh what is the same for all its VIPs. Is it another than before?
    pub(super) fn head(
        &mut self,
        settings: &Settings,
        outbounds: Outbounds,
        ranges: Vec<IpNetwork>,
        planner: &Planner,
    ) -> bool {
        let header =
            MeshHeader { domain: settings.domain.clone(), ttl_secs: settings.ttl_secs, ranges, outbounds };
        let known = self.snapshot.meshes.values().next().map(|mesh| &mesh.header);
        let header = known.filter(|known| ***known == header).cloned().unwrap_or_else(|| Arc::new(header));
        let mut changed = false;
        for mesh in self.snapshot.meshes.values_mut() {
            if !Arc::ptr_eq(&mesh.header, &header) {
                mesh.header = header.clone();
                changed = true;
            }
        }
        for mesh in planner.meshes() {
            if !self.snapshot.meshes.contains_key(mesh) {
                let empty = MeshSnapshot { header: header.clone(), vips: OrdMap::new() };
                self.snapshot.meshes.insert(mesh.clone(), empty);
                changed = true;
            }
        }
        changed
    }

    /// Everybody's VIPs as they are now. Is any another than before?
    pub(super) fn show_all(&mut self, planner: &Planner, allocator: &Allocator) -> bool {
        let out = self.snapshot.meshes.iter().flat_map(|(name, mesh)| {
            mesh.vips.keys().map(|local| key(name, local)).filter(|key| planner.entry(key).is_none())
        });
        let gone: Vec<ServiceKey> = out.collect();
        self.show(gone.iter().chain(planner.keys()), planner, allocator)
    }

    /// The VIPs of these as they are now. Is any another than before?
    pub(super) fn show<'k>(
        &mut self,
        keys: impl IntoIterator<Item = &'k ServiceKey>,
        planner: &Planner,
        allocator: &Allocator,
    ) -> bool {
        let mut changed = false;
        for key in keys {
            let Some(mesh) = self.snapshot.meshes.get_mut(&key.mesh) else { continue };
            let addresses = allocator.addresses(key);
            let entry = planner.entry(key).filter(|_| addresses != Addresses::default());
            let local = local(key);
            let Some(entry) = entry else {
                changed |= mesh.vips.remove(&local).is_some();
                continue;
            };
            let former = allocator.former(key).collect();
            let vip = Published { addresses, former, entry: entry.clone() };
            if mesh.vips.get(&local).is_none_or(|known| !is_same(known, &vip)) {
                mesh.vips.insert(local, vip);
                changed = true;
            }
        }
        changed
    }
}

fn is_same(known: &Published, vip: &Published) -> bool {
    // The planner leaves entries that say the same where they are.
    Arc::ptr_eq(&known.entry, &vip.entry) && known.addresses == vip.addresses && known.former == vip.former
}

/// What a VIP is called in its mesh.
fn local(key: &ServiceKey) -> Arc<str> {
    match key.kind {
        Kind::Service => key.service.clone(),
        _ => key.local().into(),
    }
}

fn key(mesh: &Arc<str>, local: &Arc<str>) -> ServiceKey {
    let said = ServiceKey::parse(&format!("{mesh}/{local}")).expect("a mesh name holds no slash");
    ServiceKey { mesh: mesh.clone(), ..said }
}

/// The networks that VIPs come from: those of services always, the others when they have given an address that is
/// remembered, and former ones while somebody still has an address of them. What nobody uses is not touched.
pub(super) fn ranges(pools: &AllPools, allocator: &Allocator) -> Vec<IpNetwork> {
    let used = |source: Source, range: &IpNetwork| {
        allocator.fill().any(|fill| {
            fill.source == source
                && (fill.family == Family::V4) == range.is_ipv4()
                && fill.held + fill.resting > 0
        })
    };
    let wanted = pools.ranges().filter(|(source, range)| *source == Source::Dns || used(*source, range));
    let former = allocator.former_ranges().iter().copied();
    let mut ranges: Vec<IpNetwork> = Vec::new();
    for range in wanted.map(|(_, range)| range).chain(former) {
        let within = |other: &IpNetwork| other.contains(range.ip()) && other.prefix() <= range.prefix();
        if !ranges.iter().any(within) {
            ranges.push(range);
        }
    }
    ranges
}
