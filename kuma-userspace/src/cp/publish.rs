//! Resources to snapshots: names, VIPs, the store. Knows no task and no channel; its calls block.
//! Keeps: persist before publish (what the store refused is in no snapshot); a failure costs time, not VIPs: the state is
//! read back from the store and the change tried again; where another replica leads, what it stored is published and nothing
//! is stored. Called by cp (open) and the task in publish::task.

mod task;

pub(super) use self::task::Publish;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use imbl::OrdMap;
use ipnetwork::IpNetwork;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::allocator::{Allocator, Doubled, Family, Lost};
use super::clock::Clock;
use super::plan::{self, Plan};
use super::resources::Resources;
use super::settings::{AllPools, Settings, Source};
use super::snapshot::{MeshHeader, MeshSnapshot, Outbounds, Published as Vip, Snapshot};
use super::status::{self, StatusCell};
use super::store::{Loaded, Quarantined, Role, Store, StoreError};
use crate::model::resource::ServiceKey;
use crate::model::view::Addresses;

/// Decides and stores.
pub(super) struct Publisher {
    store: Box<dyn Store>,
    clock: Clock,
    allocator: Allocator,
    role: Role,
    pools: AllPools,
    rest_secs: u64,
    /// Said on the command line, it wins over the files.
    outbounds: Option<Outbounds>,
    quarantined: Vec<Quarantined>,
    /// The last one. Meshes stay in it, if only empty: somebody may have a view of them, and hears of removals.
    snapshot: Snapshot,
    /// The allocator is ahead of the store, which refused its last step, or behind it, which another replica wrote.
    stale: bool,
}

/// What is known to everybody once it is sent.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) snapshot: Snapshot,
    plan: Plan,
    /// When rested addresses can help services without one.
    again_in: Option<Duration>,
}

impl Publisher {
    pub(super) fn open(mut store: Box<dyn Store>, settings: &Settings) -> Result<Self, StoreError> {
        let loaded = store.load()?;
        let clock = Clock::start(loaded.wall.unwrap_or_else(SystemTime::now), &loaded.records);
        let role = loaded.role.clone();
        let (pools, rest_secs) = (settings.all_pools(), settings.rest_secs);
        let (allocator, quarantined) = take_up(loaded, pools, rest_secs, clock.now_secs());
        let outbounds = None;
        Ok(Self {
            store,
            clock,
            allocator,
            role,
            pools,
            rest_secs,
            outbounds,
            quarantined,
            snapshot: Snapshot::default(),
            stale: false,
        })
    }

    /// Takes the shape of outbounds from the command line, if one was given.
    pub(super) fn with_outbounds(self, outbounds: Option<Outbounds>) -> Self {
        Self { outbounds, ..self }
    }

    /// Tells when the store may hold something new.
    pub(super) fn news(&self) -> Option<watch::Receiver<u64>> {
        self.store.news()
    }

    /// The store is read again before the next step.
    pub(super) fn read_again(&mut self) {
        self.stale = true;
    }

    /// Gives every service its VIPs and stores them; where another replica leads, takes what that one stored.
    pub(super) fn publish(&mut self, resources: &Resources) -> Result<Published, StoreError> {
        self.follow(&resources.settings)?;
        let plan = plan::build(resources);
        match self.allocate(&plan) {
            Err(StoreError::Superseded) => {
                self.follow(&resources.settings)?;
                if self.role.allocates() {
                    return Err(StoreError::Superseded);
                }
            }
            outcome => outcome?,
        }
        let snapshot = self.snapshot(&resources.settings, &plan);
        let again_in = self
            .allocator
            .next_free_secs()
            .map(|at_secs| at_secs.saturating_sub(self.clock.now_secs()).max(1));
        Ok(Published { snapshot, plan, again_in: again_in.map(Duration::from_secs) })
    }

    fn allocate(&mut self, plan: &Plan) -> Result<(), StoreError> {
        if !self.role.allocates() {
            return Ok(());
        }
        let changes = self.allocator.align(plan.entries.keys(), self.clock.now_secs());
        if !changes.is_empty() {
            self.stale = true;
            self.store.commit(&changes)?;
            self.stale = false;
            debug!(stored = changes.puts.len(), deleted = changes.deletes.len(), "VIPs stored");
        }
        Ok(())
    }

    /// Makes the allocator fit the store and the settings.
    fn follow(&mut self, settings: &Settings) -> Result<(), StoreError> {
        let (pools, rest_secs) = (settings.all_pools(), settings.rest_secs);
        if self.stale {
            let loaded = self.store.load()?;
            self.clock.follow(loaded.wall, &loaded.records);
            self.role = loaded.role.clone();
            (self.allocator, self.quarantined) = take_up(loaded, pools, rest_secs, self.clock.now_secs());
            self.stale = false;
        } else if (pools, rest_secs) != (self.pools, self.rest_secs) {
            warn_doubled(&self.allocator.reconfigure(pools, rest_secs, self.clock.now_secs()));
        }
        (self.pools, self.rest_secs) = (pools, rest_secs);
        Ok(())
    }

    /// The last snapshot with what has changed since. Entries without an address are left out: there is nothing to say
    /// about them yet.
    fn snapshot(&mut self, settings: &Settings, plan: &Plan) -> Snapshot {
        let header = Arc::new(MeshHeader {
            domain: settings.domain.clone(),
            ttl_secs: settings.ttl_secs,
            ranges: self.ranges(),
            outbounds: self.outbounds.unwrap_or(settings.outbounds),
        });
        for mesh in &plan.meshes {
            let empty = || MeshSnapshot { header: header.clone(), vips: OrdMap::new() };
            self.snapshot.meshes.entry(mesh.clone()).or_insert_with(empty);
        }
        let mut wanted: BTreeMap<Arc<str>, BTreeMap<Arc<str>, Vip>> = BTreeMap::new();
        for (key, entry) in &plan.entries {
            let addresses = self.allocator.addresses(key);
            if addresses != Addresses::default() {
                let vip = Vip::new(addresses, Arc::new(entry.into()));
                wanted.entry(key.mesh.clone()).or_default().insert(key.local().into(), vip);
            }
        }
        for (name, mesh) in &mut self.snapshot.meshes {
            if mesh.header != header {
                mesh.header = header.clone();
            }
            let wanted = wanted.remove(name).unwrap_or_default();
            let gone = mesh.vips.keys().filter(|key| !wanted.contains_key(*key));
            for key in gone.cloned().collect::<Vec<_>>() {
                mesh.vips.remove(&key);
            }
            for (key, vip) in wanted {
                if mesh.vips.get(&key) != Some(&vip) {
                    mesh.vips.insert(key, vip);
                }
            }
        }
        self.snapshot.clone()
    }

    /// The networks that VIPs come from: those of services always, the others when they have given an address that is
    /// remembered. What nobody uses is not touched.
    fn ranges(&self) -> Vec<IpNetwork> {
        let fill: Vec<_> = self.allocator.fill().collect();
        let used = |source: Source, range: &IpNetwork| {
            fill.iter().any(|fill| {
                fill.source == source
                    && (fill.family == Family::V4) == range.is_ipv4()
                    && fill.held + fill.resting > 0
            })
        };
        let wanted =
            self.pools.ranges().filter(|(source, range)| *source == Source::Dns || used(*source, range));
        let mut ranges: Vec<IpNetwork> = Vec::new();
        for (_, range) in wanted {
            let within = |other: &IpNetwork| other.contains(range.ip()) && other.prefix() <= range.prefix();
            if !ranges.iter().any(within) {
                ranges.push(range);
            }
        }
        ranges
    }

    /// Everything about the last change that an operator may want to know.
    pub(super) fn report(&self, published: &Published, cell: &StatusCell) {
        let starving = self.allocator.starving().map(|starving| status::Starving {
            mesh: starving.service.mesh.to_string(),
            service: starving.service.local(),
            family: family_name(starving.family),
        });
        let pools = self.allocator.fill().map(|fill| status::Pool {
            range: match fill.family {
                Family::V4 => self.pools.of(fill.source).v4.map(|pool| pool.to_string()),
                Family::V6 => self.pools.of(fill.source).v6.map(|pool| pool.to_string()),
            }
            .unwrap_or_default(),
            of: fill.source.key(),
            size: fill.size.to_string(),
            held: fill.held,
            resting: fill.resting,
        });
        let quarantined = self.quarantined.iter().map(|record| status::Quarantined {
            key: record.key.clone(),
            since_secs: record.since_secs,
            reason: record.reason.clone(),
        });
        let replica = status::replica(&self.role);
        let conflicts = published.plan.conflicts.iter().cloned().map(status::Conflict::from);
        let conditions = published.plan.conditions.iter().cloned().map(status::Condition::from);
        let (starving, pools, quarantined) =
            (starving.collect::<Vec<_>>(), pools.collect(), quarantined.collect());
        let (conflicts, conditions) = (conflicts.collect::<Vec<_>>(), conditions.collect());
        let with_vip = |key: &&ServiceKey| self.allocator.addresses(key) != Addresses::default();
        cell.update(|status| {
            warn_of_news(status, &starving, &conflicts);
            status.services = published.plan.entries.len();
            status.published = published.plan.entries.keys().filter(with_vip).count();
            status.store_error = None;
            status.replica = replica;
            status.conflicts = conflicts;
            status.conditions = conditions;
            status.starving = starving;
            status.quarantined = quarantined;
            status.pools = pools;
        });
    }
}

/// Says what has become worse since the last report; once, not with every change of something else.
fn warn_of_news(before: &status::Status, starving: &[status::Starving], conflicts: &[status::Conflict]) {
    if starving.len() > before.starving.len() {
        let services = starving.len();
        warn!(
            services,
            "a VIP pool is used up, services wait for an address: use a larger CIDR, see `kuma-dns status`"
        );
    }
    if conflicts.len() > before.conflicts.len() {
        let names = conflicts.len();
        warn!(names, "services want the same names, the first by name has them: see `kuma-dns status`");
    }
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// The allocator that fits what the store holds.
fn take_up(loaded: Loaded, pools: AllPools, rest_secs: u64, now_secs: u64) -> (Allocator, Vec<Quarantined>) {
    for record in &loaded.quarantined {
        warn!(
            key = record.key,
            reason = record.reason,
            "a damaged record was set aside, its service gets new VIPs"
        );
    }
    let since_secs = loaded.quarantined.iter().map(|record| record.since_secs).max().unwrap_or(0);
    let lost = Lost { records: loaded.quarantined.len(), since_secs };
    let (allocator, doubled) = Allocator::restore(pools, rest_secs, loaded.records, lost, now_secs);
    warn_doubled(&doubled);
    (allocator, loaded.quarantined)
}

fn warn_doubled(doubled: &[Doubled]) {
    for problem in doubled {
        warn!(%problem, "a VIP was stored twice");
    }
}

#[cfg(test)]
mod tests;
