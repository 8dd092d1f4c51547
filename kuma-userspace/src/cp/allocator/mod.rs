//! Hands out VIPs. Pure: same services, same history, same times: same VIPs.
//! Keeps: no address belongs to two services; a freed one rests two TTLs; a name gets its last address back while nobody
//! else has had it; never-used addresses go first, from the network address up, then the one that has rested longest; when
//! a pool changes, a service keeps its former address beside the new one for a rest. A step costs its changes.
//! Called by cp::publish.

mod former;
mod history;
mod pool;
mod runs;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use ipnetwork::IpNetwork;

use self::former::Formers;
pub use self::history::Tangled;
pub use self::pool::{Family, MAX_REMEMBERED};
use self::pool::{Given, Pool};
use super::record::{Record, Resting};
use super::settings::Source;
use crate::model::resource::ServiceKey;
use crate::model::view::Addresses;

/// All services that hold a VIP or held one, and the pools they come from.
#[derive(Debug)]
pub struct Allocator {
    pools: BTreeMap<(Source, Family), Pool>,
    rest_secs: u64,
    states: HashMap<ServiceKey, State, foldhash::fast::RandomState>,
    /// Services whose records differ from the store; some of them several times.
    dirty: Vec<ServiceKey>,
    formers: Formers,
    /// Addresses of lost records are left alone for a rest.
    lost: Option<Lost>,
    /// The longer rest of former settings, and how long it still counts: answers with the longer TTL are out there.
    former_rest: Option<Former>,
}

/// A record without the name of its service.
#[derive(Debug, Default)]
struct State {
    version: u64,
    held: Addresses,
    resting: Vec<Resting>,
}

#[derive(Clone, Copy, Debug)]
struct Former {
    rest_secs: u64,
    until_secs: u64,
}

/// A service for which a family has no address left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Starving {
    pub service: ServiceKey,
    pub family: Family,
}

/// Records whose content is not known: each may have held an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lost {
    pub records: usize,
    /// When the last of them was lost.
    pub since_secs: u64,
}

/// Something in the history that cannot be; it was put right by changing this service alone.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("VIP {address} of service {loser} belongs to service {owner}: {loser} gets another one")]
pub struct Doubled {
    pub address: IpAddr,
    pub owner: ServiceKey,
    pub loser: ServiceKey,
}

/// What the store must be told before anybody hears of it, in order of services. Each record carries the version it
/// replaces.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    pub puts: Vec<Record>,
    pub deletes: Vec<Record>,
}

impl Changes {
    /// Is there nothing to store?
    pub fn is_empty(&self) -> bool {
        self.puts.is_empty() && self.deletes.is_empty()
    }

    /// The services that it is about.
    pub fn services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.puts.iter().chain(&self.deletes).map(|record| &record.service)
    }
}

/// How full a pool is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fill {
    pub source: Source,
    pub family: Family,
    pub size: u128,
    pub held: usize,
    pub resting: usize,
}

impl Allocator {
    /// Makes the holders equal to `wanted`. What has changed must be stored before it is published; when it cannot be
    /// stored, this allocator must be restored from the store.
    pub fn align<'k>(&mut self, wanted: impl Iterator<Item = &'k ServiceKey>, now_secs: u64) -> Changes {
        let wanted: HashSet<&ServiceKey, foldhash::fast::RandomState> = wanted.collect();
        let holders = self.states.iter().filter(|(_, state)| state.held != Addresses::default());
        let known = holders.map(|(service, _)| service);
        let known = known.chain(self.pools.values().flat_map(|pool| &pool.starving));
        let gone: Vec<ServiceKey> = known.filter(|service| !wanted.contains(service)).cloned().collect();
        self.step(wanted, &gone, now_secs)
    }

    /// Releases what is no longer wanted, gives back or allocates what is wanted from now on, and serves those who still
    /// wait. For the result the same holds as for that of [`Self::align`], which goes first after each reconfiguration
    /// and restoration.
    pub fn step<'k>(
        &mut self,
        wanted: impl IntoIterator<Item = &'k ServiceKey>,
        gone: impl IntoIterator<Item = &'k ServiceKey>,
        now_secs: u64,
    ) -> Changes {
        if self.lost.is_some_and(|lost| self.lost_until_secs(lost) <= now_secs) {
            self.lost = None;
            self.pools.values_mut().for_each(Pool::rewind);
        }
        let until_secs = now_secs.saturating_add(self.rest_at(now_secs));
        for service in gone {
            self.release(service, now_secs, until_secs);
        }
        for service in wanted {
            self.reclaim(service);
        }
        let starved: Vec<(Source, Family)> =
            self.pools.iter().filter(|(_, pool)| !pool.starving.is_empty()).map(|(id, _)| *id).collect();
        for (source, family) in starved {
            self.feed(source, family, now_secs);
        }
        // Last, since a service that comes back may have one that has ended.
        while let Some(service) = self.formers.pop_ended(now_secs) {
            self.end_former(&service, now_secs);
        }
        self.take_changes()
    }

    /// The VIPs of a service; none of either family when the pools are empty.
    pub fn addresses(&self, service: &ServiceKey) -> Addresses {
        self.states.get(service).map_or_else(Addresses::default, |state| state.held)
    }

    /// What a service that has VIPs had before, and still has beside them.
    pub fn former(&self, service: &ServiceKey) -> impl Iterator<Item = IpAddr> {
        let state = self.states.get(service).filter(|state| state.held != Addresses::default());
        state.into_iter().flat_map(|state| &state.resting).map(|resting| resting.address)
    }

    /// The networks of former addresses that somebody still has.
    pub fn former_ranges(&self) -> &[IpNetwork] {
        self.formers.ranges(|service| self.states.get(service).map_or(&[], |state| &state.resting))
    }

    /// Services that wait for an address of a family, by pool.
    pub fn starving(&self) -> impl Iterator<Item = Starving> {
        self.pools.iter().flat_map(|((_, family), pool)| {
            pool.starving.iter().map(|service| Starving { service: service.clone(), family: *family })
        })
    }

    /// How many there are.
    pub fn count_starving(&self) -> usize {
        self.pools.values().map(|pool| pool.starving.len()).sum()
    }

    /// When a starving service can be served, if nothing else happens.
    pub fn next_free_secs(&self) -> Option<u64> {
        let mut dry = self.pools.values().filter(|pool| !pool.starving.is_empty()).peekable();
        let lost = self.lost.filter(|_| dry.peek().is_some()).map(|lost| self.lost_until_secs(lost));
        dry.filter_map(Pool::next_rested_secs).chain(lost).min()
    }

    /// When the next former address has had its time.
    pub fn next_former_secs(&self) -> Option<u64> {
        self.formers.next_end_secs()
    }

    /// How full each pool is.
    pub fn fill(&self) -> impl Iterator<Item = Fill> {
        self.pools.iter().map(|(&(source, family), pool)| {
            let (size, held, resting) = (pool.size(), pool.held(), pool.resting());
            Fill { source, family, size, held, resting }
        })
    }

    /// The service has had its new addresses long enough.
    fn end_former(&mut self, service: &ServiceKey, now_secs: u64) {
        let Some(state) = self.states.get_mut(service) else { return };
        let pools = &mut self.pools;
        state.resting.retain(|resting| {
            let rests = now_secs < resting.until_secs;
            if !rests && let Some(pool) = pool_at(pools, resting.address) {
                pool.forget(resting.address, Some(resting.until_secs));
            }
            rests
        });
        self.dirty.push(service.clone());
    }

    fn release(&mut self, service: &ServiceKey, now_secs: u64, until_secs: u64) {
        let own = Source::of(service.kind);
        for (_, pool) in self.pools.iter_mut().filter(|((source, _), _)| *source == own) {
            pool.starving.remove(service);
        }
        let Some(state) = self.states.get_mut(service) else { return };
        if state.held == Addresses::default() {
            return;
        }
        self.formers.remove(service, &state.resting);
        for address in std::mem::take(&mut state.held).iter() {
            state.resting.push(Resting { address, since_secs: now_secs, until_secs });
            if let Some(pool) = pool_at(&mut self.pools, address) {
                pool.rest(address, until_secs, service.clone());
            }
        }
        self.dirty.push(service.clone());
    }

    /// Gives a service its last addresses back; for the families that it still lacks it starves.
    fn reclaim(&mut self, service: &ServiceKey) {
        let own = Source::of(service.kind);
        let mut state = self.states.get_mut(service);
        for ((_, family), pool) in self.pools.iter_mut().filter(|((source, _), _)| *source == own) {
            let Some(state) = &mut state else {
                pool.starving.insert(service.clone());
                continue;
            };
            if held(&state.held, *family).is_some() {
                continue;
            }
            let own = state.resting.iter().enumerate().filter(|(_, resting)| pool.contains(resting.address));
            let Some((index, _)) = own.max_by_key(|(_, resting)| resting.since_secs) else {
                pool.starving.insert(service.clone());
                continue;
            };
            let resting = state.resting.remove(index);
            pool.reclaim(resting.address, resting.until_secs);
            set_held(&mut state.held, *family, Some(resting.address));
            self.formers.remove(service, &[resting]);
            self.formers.add(service, &state.resting);
            self.dirty.push(service.clone());
        }
    }

    /// Gives out what a pool has.
    fn feed(&mut self, source: Source, family: Family, now_secs: u64) {
        let Some(pool) = self.pools.get_mut(&(source, family)) else { return };
        while let Some(service) = pool.starving.pop_first() {
            let Some(Given { address, previous }) = pool.take(now_secs) else {
                pool.starving.insert(service);
                return;
            };
            if let Some(previous) = previous
                && let Some(state) = self.states.get_mut(&previous)
            {
                state.resting.retain(|resting| resting.address != address);
                self.dirty.push(previous);
            }
            let state = self.states.entry(service.clone()).or_default();
            set_held(&mut state.held, family, Some(address));
            self.formers.add(&service, &state.resting);
            self.dirty.push(service);
        }
    }

    fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        self.dirty.sort_unstable();
        self.dirty.dedup();
        for service in std::mem::take(&mut self.dirty) {
            let Some(state) = self.states.get_mut(&service) else { continue };
            let record = Record {
                service: service.clone(),
                version: state.version,
                held: state.held,
                resting: state.resting.clone(),
            };
            if !record.is_empty() {
                state.version += 1;
                changes.puts.push(record);
                continue;
            }
            self.states.remove(&service);
            if record.version > 0 {
                changes.deletes.push(record);
            }
        }
        changes
    }

    fn rest_at(&self, now_secs: u64) -> u64 {
        let former = self.former_rest.filter(|former| now_secs < former.until_secs);
        former.map_or(self.rest_secs, |former| former.rest_secs.max(self.rest_secs))
    }

    fn lost_until_secs(&self, lost: Lost) -> u64 {
        lost.since_secs.saturating_add(self.rest_secs)
    }
}

/// The pool that an address belongs to, whoever had it.
fn pool_at(pools: &mut BTreeMap<(Source, Family), Pool>, address: IpAddr) -> Option<&mut Pool> {
    pools.values_mut().find(|pool| pool.contains(address))
}

fn held(addresses: &Addresses, family: Family) -> Option<IpAddr> {
    match family {
        Family::V4 => addresses.v4.map(IpAddr::V4),
        Family::V6 => addresses.v6.map(IpAddr::V6),
    }
}

fn set_held(addresses: &mut Addresses, family: Family, address: Option<IpAddr>) {
    match (family, address) {
        (Family::V4, Some(IpAddr::V4(v4))) => addresses.v4 = Some(v4),
        (Family::V6, Some(IpAddr::V6(v6))) => addresses.v6 = Some(v6),
        (Family::V4, _) => addresses.v4 = None,
        (Family::V6, _) => addresses.v6 = None,
    }
}

#[cfg(test)]
mod tests;
