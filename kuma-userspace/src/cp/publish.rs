//! Resources to snapshots: names, VIPs, the store. Knows no task and no channel; its calls block.
//! Keeps: persist before publish (what the store refused is in no snapshot); a failure costs time, not VIPs: the state is
//! read back from the store and the change tried again; where another replica leads, what it stored is published and nothing
//! is stored; a change costs what it changes. Called by cp (open) and the task in publish::task.

mod report;
mod shown;
mod task;

pub(super) use self::task::Publish;

use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tracing::{debug, warn};

use self::shown::Shown;
use super::allocator::{Allocator, Doubled, Lost};
use super::clock::Clock;
use super::plan::Planner;
use super::resources::Resources;
use super::settings::{AllPools, Settings};
use super::snapshot::{Outbounds, Snapshot};
use super::store::{Loaded, Quarantined, Recent, Role, Store, StoreError};
use crate::model::resource::ServiceKey;

/// Decides and stores.
pub(super) struct Publisher {
    store: Box<dyn Store>,
    clock: Clock,
    planner: Planner,
    allocator: Allocator,
    role: Role,
    pools: AllPools,
    rest_secs: u64,
    /// Said on the command line, it wins over the files.
    outbounds: Option<Outbounds>,
    quarantined: Vec<Quarantined>,
    /// What was published last.
    shown: Shown,
    /// What the next step has to look at.
    due: Due,
    store_is: StoreIs,
}

/// How the store and the allocator stand to each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum StoreIs {
    Known,
    /// Another replica may have written it.
    Ahead,
    /// Nobody knows: it refused the allocator's last step, or failed.
    Unknown,
}

/// Whose VIPs may be others than those that are published.
#[derive(Debug)]
enum Due {
    Everybody,
    These(Vec<ServiceKey>),
}

/// What is known to everybody once it is sent.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) snapshot: Snapshot,
    /// Is it another one than the last?
    changed: bool,
    /// When rested addresses can help services without one, or former ones end.
    again_in: Option<Duration>,
}

impl Publisher {
    pub(super) fn open(mut store: Box<dyn Store>, settings: &Settings) -> Result<Self, StoreError> {
        let loaded = store.load()?;
        let clock = Clock::start(loaded.wall.unwrap_or_else(SystemTime::now), &loaded.records);
        let role = loaded.role.clone();
        let (pools, rest_secs) = (settings.all_pools(), settings.rest_secs);
        let (allocator, quarantined) = take_up(loaded, pools, rest_secs, clock.now_secs());
        Ok(Self {
            store,
            clock,
            planner: Planner::default(),
            allocator,
            role,
            pools,
            rest_secs,
            outbounds: None,
            quarantined,
            shown: Shown::default(),
            due: Due::Everybody,
            store_is: StoreIs::Known,
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
        if self.store_is == StoreIs::Known {
            self.store_is = StoreIs::Ahead;
        }
    }

    /// Gives every service its VIPs and stores them; where another replica leads, takes what that one stored.
    pub(super) fn publish(&mut self, resources: &Resources) -> Result<Published, StoreError> {
        self.heed(&resources.settings)?;
        let planned = self.planner.follow(resources);
        self.due.add(planned);
        match self.allocate() {
            Err(StoreError::Superseded) => {
                self.heed(&resources.settings)?;
                if self.role.allocates() {
                    return Err(StoreError::Superseded);
                }
            }
            outcome => outcome?,
        }
        let outbounds = self.outbounds.unwrap_or(resources.settings.outbounds);
        let ranges = shown::ranges(&self.pools, &self.allocator);
        let mut changed = self.shown.head(&resources.settings, outbounds, ranges, &self.planner);
        changed |= match std::mem::replace(&mut self.due, Due::These(Vec::new())) {
            Due::Everybody => self.shown.show_all(&self.planner, &self.allocator),
            Due::These(keys) => self.shown.show(&keys, &self.planner, &self.allocator),
        };
        Ok(Published { snapshot: self.shown.snapshot.clone(), changed, again_in: self.again_in() })
    }

    fn again_in(&self) -> Option<Duration> {
        let former = self.allocator.next_former_secs().filter(|_| self.role.allocates());
        let at_secs = self.allocator.next_free_secs().into_iter().chain(former).min()?;
        Some(Duration::from_secs(at_secs.saturating_sub(self.clock.now_secs()).max(1)))
    }

    fn allocate(&mut self) -> Result<(), StoreError> {
        if !self.role.allocates() {
            return Ok(());
        }
        let now_secs = self.clock.now_secs();
        let changes = match &self.due {
            Due::Everybody => self.allocator.align(self.planner.keys(), now_secs),
            Due::These(keys) => {
                let (wanted, gone): (Vec<_>, Vec<_>) =
                    keys.iter().partition(|key| self.planner.entry(key).is_some());
                self.allocator.step(wanted, gone, now_secs)
            }
        };
        if changes.is_empty() {
            return Ok(());
        }
        self.store_is = StoreIs::Unknown;
        self.store.commit(&changes)?;
        self.store_is = StoreIs::Known;
        self.due.add(changes.services().cloned());
        debug!(stored = changes.puts.len(), deleted = changes.deletes.len(), "VIPs stored");
        Ok(())
    }

    /// Makes the allocator fit the store and the settings.
    fn heed(&mut self, settings: &Settings) -> Result<(), StoreError> {
        let recent = match self.store_is {
            StoreIs::Known => true,
            StoreIs::Ahead => self.catch_up()?,
            StoreIs::Unknown => false,
        };
        let (pools, rest_secs) = (settings.all_pools(), settings.rest_secs);
        let same = (pools, rest_secs) == (self.pools, self.rest_secs);
        (self.pools, self.rest_secs) = (pools, rest_secs);
        if !recent {
            self.store_is = StoreIs::Unknown;
            let loaded = self.store.load()?;
            self.clock.follow(loaded.wall, &loaded.records);
            self.role = loaded.role.clone();
            (self.allocator, self.quarantined) = take_up(loaded, pools, rest_secs, self.clock.now_secs());
            self.due = Due::Everybody;
        } else if !same {
            warn_doubled(&self.allocator.reconfigure(pools, rest_secs, self.clock.now_secs()));
            self.due = Due::Everybody;
        }
        self.store_is = StoreIs::Known;
        Ok(())
    }

    /// Takes what others have stored. False: only everything tells.
    fn catch_up(&mut self) -> Result<bool, StoreError> {
        let Some(Recent { changed, removed, role, wall }) = self.store.recent()? else { return Ok(false) };
        self.clock.follow(wall, &changed);
        self.due.add(changed.iter().map(|record| &record.service).chain(&removed).cloned());
        if self.allocator.learn(changed, &removed).is_err() {
            return Ok(false);
        }
        if role.allocates() && role != self.role {
            // What the last leader left undone is ours now.
            self.due = Due::Everybody;
        }
        self.role = role;
        Ok(true)
    }
}

impl Due {
    fn add(&mut self, more: impl IntoIterator<Item = ServiceKey>) {
        if let Self::These(keys) = self {
            keys.extend(more);
        }
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
