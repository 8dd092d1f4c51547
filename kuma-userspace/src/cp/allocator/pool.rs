//! The addresses of one family: which were never used, which are in use, which rest, and who waits for one.
//! Keeps: an address is given to nobody while it is in use or rests. Called by allocator.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::runs::Runs;
use crate::model::resource::ServiceKey;

/// Up to so many rested addresses never-used ones go first. Beyond, rested ones are given again, so that what is
/// remembered of long gone services has a limit.
pub const MAX_REMEMBERED: usize = 262_144;

/// IPv4 or IPv6.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// Both, in the order of the pools.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    fn address(self, number: u128) -> IpAddr {
        match self {
            Self::V4 => {
                Ipv4Addr::from(u32::try_from(number).expect("an IPv4 pool holds 32-bit numbers")).into()
            }
            Self::V6 => Ipv6Addr::from(number).into(),
        }
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

/// A range of addresses and what is known of each.
#[derive(Debug)]
pub(super) struct Pool {
    family: Family,
    first: u128,
    last: u128,
    /// Ranges inside that are other pools, in order and apart.
    holes: Vec<(u128, u128)>,
    /// No address below is given as one that was never used.
    floor: u128,
    /// In use, or at rest.
    taken: Runs,
    /// By the end of the rest: the first has rested longest. The service is the one that held it.
    resting: BTreeMap<(u64, u128), ServiceKey>,
    /// Services that want an address of this pool and have none, in the order in which they get one.
    pub(super) starving: BTreeSet<ServiceKey>,
}

/// An address for a service, and who held it before.
pub(super) struct Given {
    pub(super) address: IpAddr,
    pub(super) previous: Option<ServiceKey>,
}

impl Pool {
    pub(super) fn new(first: IpAddr, last: IpAddr) -> Self {
        let (family, first, last) = (Family::of(first), number(first), number(last));
        Self {
            family,
            first,
            last,
            holes: Vec::new(),
            floor: first,
            taken: Runs::default(),
            resting: BTreeMap::new(),
            starving: BTreeSet::new(),
        }
    }

    /// Carves a range of another pool out of this one. Ranges come in order and apart.
    pub(super) fn carve(&mut self, first: IpAddr, last: IpAddr) {
        self.holes.push((number(first), number(last)));
    }

    pub(super) fn contains(&self, address: IpAddr) -> bool {
        let number = number(address);
        Family::of(address) == self.family
            && (self.first..=self.last).contains(&number)
            && self.hole_at(number).is_none()
    }

    pub(super) fn is_taken(&self, address: IpAddr) -> bool {
        self.taken.contains(number(address))
    }

    /// How many addresses there are.
    pub(super) fn size(&self) -> u128 {
        let carved: u128 = self.holes.iter().map(|(first, last)| last - first + 1).sum();
        (self.last - self.first).saturating_add(1).saturating_sub(carved)
    }

    /// The last address of the hole that this one lies in.
    fn hole_at(&self, number: u128) -> Option<u128> {
        self.holes.iter().find(|(first, last)| (*first..=*last).contains(&number)).map(|(_, last)| *last)
    }

    pub(super) fn resting(&self) -> usize {
        self.resting.len()
    }

    pub(super) fn held(&self) -> usize {
        self.taken.len() - self.resting.len()
    }

    /// Marks an address of the pool as in use. False: it was taken before.
    pub(super) fn hold(&mut self, address: IpAddr) -> bool {
        self.taken.insert(number(address))
    }

    /// Lays an address to rest that is in use, or was not known.
    pub(super) fn rest(&mut self, address: IpAddr, until_secs: u64, service: ServiceKey) {
        self.taken.insert(number(address));
        self.resting.insert((until_secs, number(address)), service);
    }

    /// Takes an address back from its rest into use, for the service that held it.
    pub(super) fn reclaim(&mut self, address: IpAddr, until_secs: u64) {
        self.resting.remove(&(until_secs, number(address)));
    }

    /// Nobody knows of this address any more, in use or (with its end) at rest.
    pub(super) fn forget(&mut self, address: IpAddr, until_secs: Option<u64>) {
        if let Some(until_secs) = until_secs {
            self.resting.remove(&(until_secs, number(address)));
        }
        self.taken.remove(number(address));
    }

    /// Leaves out everything up to the highest known address, and `count` addresses more.
    pub(super) fn skip_unknown(&mut self, count: usize) {
        let known = self.taken.last().map_or(self.first, |highest| highest.saturating_add(1));
        self.floor = known.saturating_add(count as u128).max(self.floor);
    }

    /// Looks at every address again for one that was never used.
    pub(super) fn rewind(&mut self) {
        self.floor = self.first;
    }

    /// The next address for a service that has none: a never-used one, else the one that has rested longest.
    pub(super) fn take(&mut self, now_secs: u64) -> Option<Given> {
        let rested = self.resting.keys().next().copied().filter(|(until_secs, _)| *until_secs <= now_secs);
        if (rested.is_none() || self.resting.len() <= MAX_REMEMBERED)
            && let Some(number) = self.next_fresh()
        {
            self.taken.insert(number);
            return Some(Given { address: self.family.address(number), previous: None });
        }
        let (until_secs, number) = rested?;
        let previous = self.resting.remove(&(until_secs, number));
        Some(Given { address: self.family.address(number), previous })
    }

    /// When the next address ends its rest.
    pub(super) fn next_rested_secs(&self) -> Option<u64> {
        self.resting.keys().next().map(|(until_secs, _)| *until_secs)
    }

    fn next_fresh(&self) -> Option<u128> {
        let mut candidate = self.floor;
        loop {
            candidate = self.taken.gap_from(candidate)?;
            match self.hole_at(candidate) {
                Some(end) => candidate = end.checked_add(1)?,
                None => return (candidate <= self.last).then_some(candidate),
            }
        }
    }
}
