//! Addresses that services had before a pool changed: they stay theirs, beside the new ones, until their rest is over.
//! Keeps: everything here is derived from the records, so that every replica and every start says the same.
//! Called by allocator.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

use super::Family;
use crate::cp::record::Resting;
use crate::cp::settings::Source;
use crate::model::resource::ServiceKey;

/// Who has a former address, and until when.
#[derive(Debug, Default)]
pub(super) struct Formers {
    by_end: BTreeSet<(u64, ServiceKey)>,
    ranges: OnceCell<Vec<IpNetwork>>,
}

impl Formers {
    pub(super) fn is_empty(&self) -> bool {
        self.by_end.is_empty()
    }

    pub(super) fn add(&mut self, service: &ServiceKey, resting: &[Resting]) {
        for former in resting {
            self.by_end.insert((former.until_secs, service.clone()));
            self.ranges.take();
        }
    }

    /// The ranges stay until the others end: nobody gains from narrowing them with every service that goes.
    pub(super) fn remove(&mut self, service: &ServiceKey, resting: &[Resting]) {
        for former in resting {
            self.by_end.remove(&(former.until_secs, service.clone()));
        }
        if self.is_empty() {
            self.ranges.take();
        }
    }

    /// The next service whose former address has had its time.
    pub(super) fn pop_ended(&mut self, now_secs: u64) -> Option<ServiceKey> {
        let (until_secs, _) = self.by_end.first()?;
        if now_secs < *until_secs {
            return None;
        }
        self.ranges.take();
        self.by_end.pop_first().map(|(_, service)| service)
    }

    pub(super) fn next_end_secs(&self) -> Option<u64> {
        self.by_end.first().map(|(until_secs, _)| *until_secs)
    }

    /// The networks that these addresses lie in.
    pub(super) fn ranges<'r>(&self, resting: impl Fn(&ServiceKey) -> &'r [Resting]) -> &[IpNetwork] {
        self.ranges.get_or_init(|| {
            // What one kind of service gave up at one moment comes from one pool. The smallest network around addresses of
            // a network lies in it, so nothing is taken in that was not a VIP.
            let mut ends: BTreeMap<(Source, Family, u64), (IpAddr, IpAddr)> = BTreeMap::new();
            for (_, service) in &self.by_end {
                for Resting { address, since_secs, .. } in resting(service) {
                    let pool = (Source::of(service.kind), Family::of(*address), *since_secs);
                    let ends = ends.entry(pool).or_insert((*address, *address));
                    *ends = (ends.0.min(*address), ends.1.max(*address));
                }
            }
            ends.into_values().filter_map(|(first, last)| network_around(first, last)).collect()
        })
    }
}

/// The smallest network that holds both.
fn network_around(first: IpAddr, last: IpAddr) -> Option<IpNetwork> {
    let (network, prefix) = match (first, last) {
        (IpAddr::V4(first), IpAddr::V4(last)) => {
            let prefix = (u32::from(first) ^ u32::from(last)).leading_zeros();
            let mask = u32::MAX.checked_shl(32 - prefix).unwrap_or(0);
            (IpAddr::V4(Ipv4Addr::from(u32::from(first) & mask)), prefix)
        }
        (IpAddr::V6(first), IpAddr::V6(last)) => {
            let prefix = (u128::from(first) ^ u128::from(last)).leading_zeros();
            let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
            (IpAddr::V6(Ipv6Addr::from(u128::from(first) & mask)), prefix)
        }
        _ => return None,
    };
    IpNetwork::new(network, u8::try_from(prefix).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_around_addresses_of_a_network_lies_in_it() {
        for (first, last, around) in [
            ("240.0.0.0", "240.0.0.0", "240.0.0.0/32"),
            ("240.0.0.0", "240.0.0.5", "240.0.0.0/29"),
            ("240.0.0.0", "240.1.134.159", "240.0.0.0/15"),
            ("0.0.0.0", "255.255.255.254", "0.0.0.0/0"),
            ("fd00:fd00::", "fd00:fd00::1:869f", "fd00:fd00::/111"),
            ("::", "ffff::", "::/0"),
        ] {
            let found = network_around(first.parse().unwrap(), last.parse().unwrap());
            assert_eq!(found.unwrap().to_string(), around);
        }
    }
}
