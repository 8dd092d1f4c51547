//! Hands out VIPs. Pure: same services, same history, same times: same VIPs.
//! Keeps: no address belongs to two services; a freed one rests two TTLs; a name gets its last address back while nobody
//! else has had it; never-used addresses go first, from the network address up, then the one that has rested longest.
//! Called by cp::publish.

mod pool;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

pub use self::pool::{Family, MAX_REMEMBERED};
use self::pool::{Given, Pool};
use super::record::{Record, Resting};
use super::settings::{AllPools, Source};
use crate::model::resource::ServiceKey;
use crate::model::view::Addresses;

/// All services that hold a VIP or held one, and the pools they come from.
#[derive(Debug)]
pub struct Allocator {
    pools: BTreeMap<(Source, Family), Pool>,
    rest_secs: u64,
    records: BTreeMap<ServiceKey, Record>,
    /// Records that differ from the store.
    dirty: BTreeSet<ServiceKey>,
    starving: Vec<Starving>,
    /// Addresses of lost records are left alone for a rest.
    lost: Option<Lost>,
    /// The longer rest of former settings, and how long it still counts: answers with the longer TTL are out there.
    former_rest: Option<Former>,
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

/// What the store must be told before anybody hears of it. Each record carries the version it replaces.
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
    /// Takes up a history. Addresses outside the pools are laid to rest: their services get new ones.
    pub fn restore(
        pools: impl Into<AllPools>,
        rest_secs: u64,
        records: Vec<Record>,
        lost: Lost,
        now_secs: u64,
    ) -> (Self, Vec<Doubled>) {
        let mut allocator = Self {
            pools: open(&pools.into()),
            rest_secs,
            records: BTreeMap::new(),
            dirty: BTreeSet::new(),
            starving: Vec::new(),
            lost: None,
            former_rest: None,
        };
        let doubled = allocator.take_up(records, now_secs);
        if lost.records > 0 && now_secs < allocator.lost_until_secs(lost) {
            allocator.pools.values_mut().for_each(|pool| pool.skip_unknown(lost.records));
            allocator.lost = Some(lost);
        }
        (allocator, doubled)
    }

    /// The same history with other settings.
    pub fn reconfigure(&mut self, pools: impl Into<AllPools>, rest_secs: u64, now_secs: u64) -> Vec<Doubled> {
        let former = self.rest_at(now_secs);
        let records = std::mem::take(&mut self.records).into_values().collect();
        let lost = self.lost.unwrap_or_default();
        let (mut allocator, doubled) = Self::restore(pools, rest_secs, records, lost, now_secs);
        allocator.dirty.append(&mut self.dirty);
        let until_secs = now_secs.saturating_add(former);
        allocator.former_rest = (former > rest_secs).then_some(Former { rest_secs: former, until_secs });
        *self = allocator;
        doubled
    }

    /// Makes the holders equal to `wanted`: releases, gives back, allocates. What has changed must be stored before it is
    /// published; when it cannot be stored, this allocator must be restored from the store.
    pub fn step<T>(&mut self, wanted: &BTreeMap<ServiceKey, T>, now_secs: u64) -> Changes {
        if self.lost.is_some_and(|lost| self.lost_until_secs(lost) <= now_secs) {
            self.lost = None;
            self.pools.values_mut().for_each(Pool::rewind);
        }
        self.release_all_but(wanted, now_secs);
        let mut lacking = Vec::new();
        for service in wanted.keys() {
            self.reclaim(service, &mut lacking);
        }
        self.starving.clear();
        for (service, family) in lacking {
            self.allocate(&service, family, now_secs);
        }
        self.take_changes()
    }

    /// The VIPs of a service; none of either family when the pools are empty.
    pub fn addresses(&self, service: &ServiceKey) -> Addresses {
        self.records.get(service).map_or_else(Addresses::default, |record| record.held)
    }

    /// Services that wait for an address of a family.
    pub fn starving(&self) -> &[Starving] {
        &self.starving
    }

    /// When a starving service can be served, if nothing else happens.
    pub fn next_free_secs(&self) -> Option<u64> {
        let of = |starving: &Starving| (Source::of(starving.service.kind), starving.family);
        let dry: BTreeSet<(Source, Family)> = self.starving.iter().map(of).collect();
        let rested = dry.iter().filter_map(|pool| self.pools.get(pool)?.next_rested_secs());
        let lost = self.lost.filter(|_| !dry.is_empty()).map(|lost| self.lost_until_secs(lost));
        rested.chain(lost).min()
    }

    /// How full each pool is.
    pub fn fill(&self) -> Vec<Fill> {
        let fill = |(&(source, family), pool): (&(Source, Family), &Pool)| {
            let (size, held, resting) = (pool.size(), pool.held(), pool.resting());
            Fill { source, family, size, held, resting }
        };
        self.pools.iter().map(fill).collect()
    }

    /// Held addresses first: a resting one never displaces them.
    fn take_up(&mut self, mut records: Vec<Record>, now_secs: u64) -> Vec<Doubled> {
        records.sort_by(|a, b| a.service.cmp(&b.service));
        let mut owners: BTreeMap<IpAddr, ServiceKey> = BTreeMap::new();
        let mut doubled = Vec::new();
        for record in &mut records {
            for family in Family::BOTH {
                let Some(address) = held(&record.held, family) else { continue };
                let owner = owners.get(&address).cloned();
                let own = self.pools.get_mut(&(Source::of(record.service.kind), family));
                if owner.is_none()
                    && let Some(pool) = own.filter(|pool| pool.contains(address))
                {
                    pool.hold(address);
                    owners.insert(address, record.service.clone());
                    continue;
                }
                set_held(&mut record.held, family, None);
                self.dirty.insert(record.service.clone());
                match owner {
                    Some(owner) => doubled.push(Doubled { address, owner, loser: record.service.clone() }),
                    None => record.resting.push(self.resting_from(address, now_secs)),
                }
            }
        }
        for mut record in records {
            let before = record.resting.len();
            record.resting.retain(|resting| self.take_up_resting(&record.service, resting, now_secs));
            if record.resting.len() != before {
                self.dirty.insert(record.service.clone());
            }
            self.records.insert(record.service.clone(), record);
        }
        doubled
    }

    /// False: the entry is of no use any more.
    fn take_up_resting(&mut self, service: &ServiceKey, resting: &Resting, now_secs: u64) -> bool {
        match pool_at(&mut self.pools, resting.address) {
            Some(pool) => {
                let free = !pool.is_taken(resting.address);
                if free {
                    pool.rest(resting.address, resting.until_secs, service.clone());
                }
                free
            }
            // Outside the pools: it is kept for its rest, so that a pool that comes back does not give it too early.
            None => now_secs < resting.until_secs,
        }
    }

    fn release_all_but<T>(&mut self, wanted: &BTreeMap<ServiceKey, T>, now_secs: u64) {
        let until_secs = now_secs.saturating_add(self.rest_at(now_secs));
        for record in self.records.values_mut() {
            if record.held == Addresses::default() || wanted.contains_key(&record.service) {
                continue;
            }
            for address in std::mem::take(&mut record.held).iter() {
                record.resting.push(Resting { address, since_secs: now_secs, until_secs });
                if let Some(pool) = pool_at(&mut self.pools, address) {
                    pool.rest(address, until_secs, record.service.clone());
                }
            }
            self.dirty.insert(record.service.clone());
        }
    }

    /// Gives a service its last addresses back; the families that it still lacks go to `lacking`.
    fn reclaim(&mut self, service: &ServiceKey, lacking: &mut Vec<(ServiceKey, Family)>) {
        let own = Source::of(service.kind);
        let record = self.records.get_mut(service);
        let Some(record) = record else {
            let families = self.pools.keys().filter(|(source, _)| *source == own);
            lacking.extend(families.map(|(_, family)| (service.clone(), *family)));
            return;
        };
        for ((_, family), pool) in self.pools.iter_mut().filter(|((source, _), _)| *source == own) {
            if held(&record.held, *family).is_some() {
                continue;
            }
            let own = record.resting.iter().enumerate().filter(|(_, resting)| pool.contains(resting.address));
            let Some((index, _)) = own.max_by_key(|(_, resting)| resting.since_secs) else {
                lacking.push((service.clone(), *family));
                continue;
            };
            let resting = record.resting.remove(index);
            pool.reclaim(resting.address, resting.until_secs);
            set_held(&mut record.held, *family, Some(resting.address));
            self.dirty.insert(service.clone());
        }
    }

    fn allocate(&mut self, service: &ServiceKey, family: Family, now_secs: u64) {
        let given =
            self.pools.get_mut(&(Source::of(service.kind), family)).and_then(|pool| pool.take(now_secs));
        let Some(Given { address, previous }) = given else {
            self.starving.push(Starving { service: service.clone(), family });
            return;
        };
        if let Some(record) = previous.and_then(|previous| self.records.get_mut(&previous)) {
            record.resting.retain(|resting| resting.address != address);
            self.dirty.insert(record.service.clone());
        }
        let record = self.records.entry(service.clone()).or_insert_with(|| Record::new(service.clone()));
        set_held(&mut record.held, family, Some(address));
        self.dirty.insert(service.clone());
    }

    fn take_changes(&mut self) -> Changes {
        let mut changes = Changes::default();
        for service in std::mem::take(&mut self.dirty) {
            let Some(record) = self.records.get_mut(&service) else { continue };
            if record.is_empty() {
                changes.deletes.extend(self.records.remove(&service).filter(|record| record.version > 0));
                continue;
            }
            changes.puts.push(record.clone());
            record.version += 1;
        }
        changes
    }

    fn resting_from(&self, address: IpAddr, now_secs: u64) -> Resting {
        Resting { address, since_secs: now_secs, until_secs: now_secs.saturating_add(self.rest_at(now_secs)) }
    }

    fn rest_at(&self, now_secs: u64) -> u64 {
        let former = self.former_rest.filter(|former| now_secs < former.until_secs);
        former.map_or(self.rest_secs, |former| former.rest_secs.max(self.rest_secs))
    }

    fn lost_until_secs(&self, lost: Lost) -> u64 {
        lost.since_secs.saturating_add(self.rest_secs)
    }
}

/// Every pool, with the pools inside it carved out.
fn open(pools: &AllPools) -> BTreeMap<(Source, Family), Pool> {
    let open = |(source, range)| {
        let (first, last) = AllPools::ends(range);
        let mut pool = Pool::new(first, last);
        for (_, inner) in pools.inside((source, range)) {
            let (first, last) = AllPools::ends(inner);
            pool.carve(first, last);
        }
        ((source, Family::of(first)), pool)
    };
    pools.ranges().map(open).collect()
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
