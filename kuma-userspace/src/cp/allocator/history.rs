//! Where an allocator's knowledge comes from: all records of a store, the settings when they change, and the records that
//! another replica has stored since. Part of allocator.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::former::Formers;
use super::pool::{Family, Pool};
use super::{Allocator, Doubled, Former, Lost, State, held, pool_at, set_held};
use crate::cp::record::{Record, Resting};
use crate::cp::settings::{AllPools, Source};
use crate::model::resource::ServiceKey;
use crate::model::view::Addresses;

/// New records do not fit those that are known: only all of them together tell what is true.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("new records contradict those that are known: all of them must be read again")]
pub struct Tangled;

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
            states: HashMap::default(),
            dirty: Vec::new(),
            formers: Formers::default(),
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
        let record = |(service, State { version, held, resting })| Record { service, version, held, resting };
        let records = std::mem::take(&mut self.states).into_iter().map(record).collect();
        let lost = self.lost.unwrap_or_default();
        let (mut allocator, doubled) = Self::restore(pools, rest_secs, records, lost, now_secs);
        allocator.dirty.append(&mut self.dirty);
        let until_secs = now_secs.saturating_add(former);
        allocator.former_rest = (former > rest_secs).then_some(Former { rest_secs: former, until_secs });
        *self = allocator;
        doubled
    }

    /// Takes up what another replica has stored since. For followers, whose own steps would be in its way.
    ///
    /// # Errors
    /// It contradicts what is known; then this allocator must be restored from the store.
    pub fn learn(&mut self, changed: Vec<Record>, removed: &[ServiceKey]) -> Result<(), Tangled> {
        for service in changed.iter().map(|record| &record.service).chain(removed) {
            self.forget(service);
        }
        for record in &changed {
            for family in Family::BOTH {
                let Some(address) = held(&record.held, family) else { continue };
                let own = self.pools.get_mut(&(Source::of(record.service.kind), family));
                let pool = own.filter(|pool| pool.contains(address)).ok_or(Tangled)?;
                if !pool.hold(address) {
                    return Err(Tangled);
                }
            }
        }
        for record in changed {
            for resting in &record.resting {
                let Some(pool) = pool_at(&mut self.pools, resting.address) else { continue };
                if pool.is_taken(resting.address) {
                    return Err(Tangled);
                }
                pool.rest(resting.address, resting.until_secs, record.service.clone());
            }
            self.remember(record);
        }
        Ok(())
    }

    /// Held addresses first: a resting one never displaces them.
    fn take_up(&mut self, mut records: Vec<Record>, now_secs: u64) -> Vec<Doubled> {
        records.sort_unstable_by(|a, b| a.service.cmp(&b.service));
        let mut doubled = Vec::new();
        for at in 0..records.len() {
            for family in Family::BOTH {
                let Some(address) = held(&records[at].held, family) else { continue };
                let (before, rest) = records.split_at_mut(at);
                if let Some(problem) = self.take_up_held(before, &mut rest[0], address, now_secs) {
                    doubled.push(problem);
                }
            }
        }
        self.states.reserve(records.len());
        for mut record in records {
            let before = record.resting.len();
            record.resting.retain(|resting| self.take_up_resting(&record.service, resting, now_secs));
            if record.resting.len() != before {
                self.dirty.push(record.service.clone());
            }
            self.remember(record);
        }
        doubled
    }

    /// The service keeps its address if it lies in the service's pool and none of those before has it.
    fn take_up_held(
        &mut self,
        before: &[Record],
        record: &mut Record,
        address: IpAddr,
        now_secs: u64,
    ) -> Option<Doubled> {
        let family = Family::of(address);
        let own = self.pools.get_mut(&(Source::of(record.service.kind), family));
        if own.is_some_and(|pool| pool.contains(address) && pool.hold(address)) {
            return None;
        }
        set_held(&mut record.held, family, None);
        self.dirty.push(record.service.clone());
        if pool_at(&mut self.pools, address).is_some_and(|pool| pool.is_taken(address)) {
            let owner = before.iter().find(|other| held(&other.held, family) == Some(address));
            let owner = owner.expect("only held addresses are taken so far").service.clone();
            return Some(Doubled { address, owner, loser: record.service.clone() });
        }
        let until_secs = now_secs.saturating_add(self.rest_at(now_secs));
        record.resting.push(Resting { address, since_secs: now_secs, until_secs });
        None
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

    fn remember(&mut self, record: Record) {
        let Record { service, version, held, resting } = record;
        if held != Addresses::default() {
            self.formers.add(&service, &resting);
        }
        self.states.insert(service, State { version, held, resting });
    }

    /// Takes back everything that is known of a service.
    fn forget(&mut self, service: &ServiceKey) {
        let Some(State { held, resting, .. }) = self.states.remove(service) else { return };
        self.formers.remove(service, &resting);
        let ends = resting.iter().map(|resting| (resting.address, Some(resting.until_secs)));
        for (address, until_secs) in held.iter().map(|address| (address, None)).chain(ends) {
            if let Some(pool) = pool_at(&mut self.pools, address) {
                pool.forget(address, until_secs);
            }
        }
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
