//! The maps as verbs: pods, ranges, routes, counters. Keeps: a route can be answered before it can be reached (`REV` before
//! `VIPS`), and stops being reached first; a full map is a typed error. Called by datapath.rs and status.

use std::collections::{BTreeSet, HashMap as StdMap};
use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray};
use ipnetwork::IpNetwork;
use kuma_ebpf_common::abi::{
    self, NO_UID, POD_DNS, POD_VIPS, PODS_CAPACITY, PodEntry, RANGES_PER_FAMILY, Range, Ranges, RevEntry,
    VipKey, map,
};
use kuma_ebpf_common::addr::Addr;
use kuma_ebpf_common::verdict::Reason;

use crate::kernel::error::KernelError;
use crate::kernel::indexes::Indexes;
use crate::kernel::plain::Plain;
use crate::model::datapath::{Counter, DatapathError, NetnsCookie, Pod};
use crate::model::view::{Port, Route, ViewId};

/// Only TCP is routed to the proxy.
const TCP: u8 = 6;
/// The setting behind the capacity of `VIPS` and `REV`.
const VIPS_SETTING: &str = "vips_capacity";
/// A range that holds no unicast address.
const NO_RANGE: Range = {
    let ones = Addr::from_words([u32::MAX; 4]);
    Range { net: ones, mask: ones }
};

/// Handles of all maps that user space writes or reads.
pub(super) struct Maps {
    pods: HashMap<MapData, u64, Plain<PodEntry>>,
    ranges: Array<MapData, Plain<Ranges>>,
    vips: HashMap<MapData, Plain<VipKey>, u32>,
    rev: HashMap<MapData, u32, Plain<RevEntry>>,
    counters: PerCpuArray<MapData, u64>,
    indexes: Indexes,
    capacity: u32,
    /// IPv6 VIPs need an index too: sockops did not load.
    v6_mapped: bool,
}

impl Maps {
    /// Takes the handles out of what the loader got, and recovers who has which index.
    pub(super) fn new(
        mut maps: StdMap<String, Map>,
        capacity: u32,
        v6_mapped: bool,
    ) -> Result<Self, KernelError> {
        let mut take =
            |name: &'static str| maps.remove(name).ok_or(KernelError::Missing { kind: "map", name });
        let [pods, ranges, vips, rev, counters] =
            [take(map::PODS)?, take(map::RANGES)?, take(map::VIPS)?, take(map::REV)?, take(map::COUNTERS)?];
        let mut maps = Self {
            pods: pods.try_into().map_err(failed("open", map::PODS))?,
            ranges: ranges.try_into().map_err(failed("open", map::RANGES))?,
            vips: vips.try_into().map_err(failed("open", map::VIPS))?,
            rev: rev.try_into().map_err(failed("open", map::REV))?,
            counters: counters.try_into().map_err(failed("open", map::COUNTERS))?,
            indexes: Indexes::recover(&BTreeSet::new(), &BTreeSet::new(), Instant::now()),
            capacity,
            v6_mapped,
        };
        maps.recover()?;
        Ok(maps)
    }

    fn recover(&mut self) -> Result<(), DatapathError> {
        let mut used = BTreeSet::new();
        let mut unreachable = Vec::new();
        for entry in self.vips.iter() {
            let (Plain(key), index) = entry.map_err(failed("read", map::VIPS))?;
            if index != 0 {
                used.insert(index);
            } else if self.needs_index(IpAddr::from(key.addr)) {
                unreachable.push(key);
            }
        }
        let remembered: Result<BTreeSet<u32>, MapError> = self.rev.keys().collect();
        self.indexes =
            Indexes::recover(&used, &remembered.map_err(failed("read", map::REV))?, Instant::now());
        // IPv6 VIPs of an agent that could load sockops, which we cannot.
        for key in unreachable {
            self.insert_route(key)?;
        }
        Ok(())
    }

    pub(super) fn set_ranges(&mut self, ranges: &[IpNetwork]) -> Result<(), DatapathError> {
        let entry = range_entry(ranges)?;
        self.ranges.set(0, Plain(entry), 0).map_err(failed("write", map::RANGES))
    }

    pub(super) fn insert_pod(&mut self, pod: &Pod, proxy: ProxyMark) -> Result<(), DatapathError> {
        let entry = Plain(pod_entry(pod, proxy));
        self.pods.insert(pod.netns.0, entry, 0).map_err(|error| {
            full_or(
                error,
                "add a workload",
                map::PODS,
                PODS_CAPACITY,
                "PODS_CAPACITY, a constant of the build",
            )
        })
    }

    pub(super) fn remove_pod(&mut self, netns: NetnsCookie) -> Result<(), DatapathError> {
        absent_is_fine(self.pods.remove(&netns.0)).map_err(failed("remove a workload", map::PODS))
    }

    /// Every enrolled namespace with its entry.
    pub(super) fn pods(&self) -> Result<Vec<(NetnsCookie, PodEntry)>, DatapathError> {
        let pods: Result<Vec<_>, MapError> = self
            .pods
            .iter()
            .map(|pod| pod.map(|(netns, Plain(entry))| (NetnsCookie(netns), entry)))
            .collect();
        pods.map_err(failed("read", map::PODS))
    }

    pub(super) fn routes(&self, view: ViewId) -> Result<BTreeSet<Route>, DatapathError> {
        let keys =
            self.vips.keys().filter(|key| key.as_ref().map_or(true, |Plain(key)| key.view == view.get()));
        let routes: Result<_, MapError> =
            keys.map(|key| key.map(|Plain(k)| Route { vip: k.addr.into(), port: k.port })).collect();
        routes.map_err(failed("read", map::VIPS))
    }

    pub(super) fn add_route(&mut self, view: ViewId, route: Route) -> Result<(), DatapathError> {
        let key = vip_key(view, route);
        match self.vips.get(&Plain(key), 0) {
            Ok(_index) => Ok(()),
            Err(MapError::KeyNotFound) => self.insert_route(key),
            Err(error) => Err(failed("look up a VIP", map::VIPS)(error)),
        }
    }

    fn insert_route(&mut self, key: VipKey) -> Result<(), DatapathError> {
        let index = if self.needs_index(key.addr.into()) { self.new_index(&key)? } else { 0 };
        self.vips.insert(Plain(key), index, 0).map_err(|error| {
            if index != 0 {
                // Nobody can have connected under it yet. A failure here leaves an entry that nothing points to.
                let _forgotten: Result<(), MapError> = self.rev.remove(&index);
                self.indexes.give_back(index);
            }
            full_or(error, "add a VIP", map::VIPS, self.capacity, VIPS_SETTING)
        })
    }

    /// Gives a VIP a number, and says in `REV` what it stands for.
    fn new_index(&mut self, key: &VipKey) -> Result<u32, DatapathError> {
        self.forget_rested()?;
        let full = || DatapathError::Full {
            map: map::REV,
            capacity: abi::INDEXES - 1,
            setting: "nothing: every index is taken or resting",
        };
        let index = self.indexes.allocate().ok_or_else(full)?;
        let entry =
            Plain(RevEntry { vip: key.addr, orig: key.addr, view: key.view, port: key.port, _pad: 0 });
        let mut inserted = self.rev.insert(index, entry, 0);
        // What rests is kept as long as there is room for it.
        for _ in 0..self.indexes.resting() {
            if !inserted.as_ref().is_err_and(is_full) {
                break;
            }
            if let Some(oldest) = self.indexes.oldest_resting() {
                absent_is_fine(self.rev.remove(&oldest)).map_err(failed("remove a VIP", map::REV))?;
            }
            inserted = self.rev.insert(index, entry, 0);
        }
        inserted.map_err(|error| {
            self.indexes.give_back(index);
            full_or(error, "add a VIP", map::REV, self.capacity, VIPS_SETTING)
        })?;
        Ok(index)
    }

    pub(super) fn remove_route(&mut self, view: ViewId, route: Route) -> Result<(), DatapathError> {
        let key = vip_key(view, route);
        let index = match self.vips.get(&Plain(key), 0) {
            Ok(index) => index,
            Err(MapError::KeyNotFound) => return Ok(()),
            Err(error) => return Err(failed("look up a VIP", map::VIPS)(error)),
        };
        absent_is_fine(self.vips.remove(&Plain(key))).map_err(failed("remove a VIP", map::VIPS))?;
        // REV keeps the entry while the number rests: getpeername of the connections that are still open stays true.
        if index != 0 {
            self.indexes.release(index, Instant::now());
        }
        self.forget_rested()
    }

    fn forget_rested(&mut self) -> Result<(), DatapathError> {
        let now = Instant::now();
        while let Some(index) = self.indexes.wake(now) {
            absent_is_fine(self.rev.remove(&index)).map_err(failed("remove a VIP", map::REV))?;
        }
        Ok(())
    }

    fn needs_index(&self, vip: IpAddr) -> bool {
        vip.is_ipv4() || self.v6_mapped
    }

    pub(super) fn counters(&self) -> Result<Vec<Counter>, DatapathError> {
        let read = |reason: &Reason| {
            let values = self.counters.get(&reason.number(), 0).map_err(failed("read", map::COUNTERS))?;
            Ok(Counter { number: reason.number(), name: reason.name(), count: values.iter().sum() })
        };
        Reason::ALL.iter().map(read).collect()
    }
}

/// How the hooks recognise the proxy of a pod.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum ProxyMark {
    Cgroup(u64),
    Uid(u32),
}

fn pod_entry(pod: &Pod, proxy: ProxyMark) -> PodEntry {
    let (proxy_cgroup, proxy_uid) = match proxy {
        ProxyMark::Cgroup(id) => (id, NO_UID),
        ProxyMark::Uid(uid) => (0, uid),
    };
    let addr = |ip: Option<IpAddr>| ip.map_or(Addr::UNSPECIFIED, Addr::from);
    PodEntry {
        proxy_cgroup,
        view: pod.view.get(),
        proxy_uid,
        flags: POD_DNS | POD_VIPS,
        outbound_port: pod.outbound_port,
        dns_port: pod.dns_port,
        addr4: addr(pod.addr4.map(IpAddr::V4)),
        addr6: addr(pod.addr6.map(IpAddr::V6)),
    }
}

fn vip_key(view: ViewId, route: Route) -> VipKey {
    VipKey {
        addr: route.vip.into(),
        view: view.get(),
        port: Port::new(route.port.get()),
        protocol: TCP,
        _pad: 0,
    }
}

fn range_entry(ranges: &[IpNetwork]) -> Result<Ranges, DatapathError> {
    let family = |v4: bool| {
        let mut ranges: Vec<Range> =
            ranges.iter().filter(|range| range.is_ipv4() == v4).map(to_range).collect();
        ranges.sort_by_key(|range| (range.net, range.mask));
        ranges.dedup();
        if ranges.len() > RANGES_PER_FAMILY {
            return Err(DatapathError::TooManyRanges(ranges.len()));
        }
        let mut entry = [NO_RANGE; RANGES_PER_FAMILY];
        entry[..ranges.len()].copy_from_slice(&ranges);
        Ok(entry)
    };
    Ok(Ranges { v4: family(true)?, v6: family(false)? })
}

fn to_range(network: &IpNetwork) -> Range {
    let prefix = u32::from(network.prefix()) + if network.is_ipv4() { 96 } else { 0 };
    let mask = u128::MAX.checked_shl(128 - prefix).unwrap_or(0);
    let bytes = mask.to_be_bytes();
    let word = |i: usize| u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
    Range { net: network.network().into(), mask: Addr::from_words([word(0), word(4), word(8), word(12)]) }
}

/// Copies a pinned map into a new one of another capacity. Only this process writes them, so nothing is lost on the way.
pub(super) fn copy(name: &'static str, from: &Path, to: &Path, capacity: u32) -> Result<(), KernelError> {
    match name {
        map::VIPS => copy_hash::<Plain<VipKey>, u32>(map::VIPS, from, to, capacity),
        _ => copy_hash::<u32, Plain<RevEntry>>(map::REV, from, to, capacity),
    }
}

fn copy_hash<K: aya::Pod, V: aya::Pod>(
    name: &'static str,
    from: &Path,
    to: &Path,
    capacity: u32,
) -> Result<(), KernelError> {
    let open = |path: &Path| HashMap::<MapData, K, V>::try_from(Map::HashMap(MapData::from_pin(path)?));
    let from = open(from).map_err(failed("open", name))?;
    let mut to = open(to).map_err(failed("open", name))?;
    for entry in from.iter() {
        let (key, value) = entry.map_err(failed("read", name))?;
        to.insert(key, value, 0).map_err(|error| {
            let entries = from.keys().count();
            if is_full(&error) {
                KernelError::Shrink { map: name, entries, capacity }
            } else {
                failed("copy", name)(error).into()
            }
        })?;
    }
    Ok(())
}

fn failed(verb: &'static str, map: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |error| DatapathError::Map { verb, map, source: Box::new(error) }
}

fn full_or(
    error: MapError,
    verb: &'static str,
    map: &'static str,
    capacity: u32,
    setting: &'static str,
) -> DatapathError {
    if is_full(&error) { DatapathError::Full { map, capacity, setting } } else { failed(verb, map)(error) }
}

/// A hash map that has its `max_entries` answers E2BIG.
fn is_full(error: &MapError) -> bool {
    matches!(error, MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::E2BIG))
}

fn absent_is_fine(removed: Result<(), MapError>) -> Result<(), MapError> {
    match removed {
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(texts: &[&str]) -> Vec<IpNetwork> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_range_holds_its_addresses_and_unused_ones_hold_none() {
        let entry = range_entry(&nets(&["240.0.0.0/4", "fd00:fd00::/64"])).unwrap();
        let contains = |text: &str| entry.contain(text.parse::<IpAddr>().unwrap().into());
        assert!(contains("240.0.0.1") && contains("255.1.2.3") && contains("fd00:fd00::9"));
        for outside in ["127.0.0.1", "239.255.255.255", "fd00:fd00:0:1::1", "::1", "::"] {
            assert!(!contains(outside), "{outside}");
        }
    }

    #[test]
    fn a_fifth_range_of_one_family_is_refused() {
        let five = nets(&["10.0.0.0/24", "10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24", "10.0.4.0/24"]);
        assert!(matches!(range_entry(&five), Err(DatapathError::TooManyRanges(5))));
        assert!(range_entry(&nets(&["240.0.0.0/4"; 5])).is_ok(), "the same range twice is one");
    }
}
