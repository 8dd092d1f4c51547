//! Properties of the allocator: for any history of edits, restarts and times.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;
use crate::cp::settings::{AllPools, Pools};
use crate::model::resource::Kind;

const REST_SECS: u64 = 120;

fn pools(v4: &str, v6: &str) -> Pools {
    let network = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Pools {
        v4: network(v4).map(|text| text.parse().unwrap()),
        v6: network(v6).map(|text| text.parse().unwrap()),
    }
}

fn kuma() -> Pools {
    pools("240.0.0.0/4", "fd00:fd00::/64")
}

fn key(name: &str) -> ServiceKey {
    ServiceKey::new("default", name)
}

fn wanted(names: &[&str]) -> BTreeMap<ServiceKey, ()> {
    names.iter().map(|name| (key(name), ())).collect()
}

fn fresh(pools: Pools) -> Allocator {
    Allocator::restore(pools, REST_SECS, Vec::new(), Lost::default(), 0).0
}

fn vips(allocator: &Allocator, name: &str) -> (String, String) {
    let held = allocator.addresses(&key(name));
    let text =
        |address: Option<IpAddr>| address.map_or_else(|| "-".to_owned(), |address| address.to_string());
    (text(held.v4.map(IpAddr::V4)), text(held.v6.map(IpAddr::V6)))
}

fn starving(allocator: &Allocator) -> Vec<Starving> {
    allocator.starving().collect()
}

fn pair(v4: &str, v6: &str) -> (String, String) {
    (v4.into(), v6.into())
}

/// The store, as far as the allocator knows it.
#[derive(Default, Clone)]
struct Stored(BTreeMap<ServiceKey, Record>);

impl Stored {
    fn commit(&mut self, changes: &Changes) {
        for record in changes.puts.iter().chain(&changes.deletes) {
            let found = self.0.get(&record.service).map_or(0, |stored| stored.version);
            assert_eq!(found, record.version, "compare-and-swap of {:?}", record.service);
        }
        for record in &changes.deletes {
            self.0.remove(&record.service);
        }
        for record in &changes.puts {
            self.0.insert(record.service.clone(), Record { version: record.version + 1, ..record.clone() });
        }
    }

    /// Commits, and tells a follower of it.
    fn teach(&mut self, changes: &Changes, follower: &mut Allocator, pools: Pools, now_secs: u64) {
        self.commit(changes);
        let changed = changes.puts.iter().map(|record| self.0[&record.service].clone()).collect();
        let removed: Vec<_> = changes.deletes.iter().map(|record| record.service.clone()).collect();
        if follower.learn(changed, &removed).is_err() {
            *follower = self.restore(pools, now_secs);
        }
    }

    fn restore(&self, pools: Pools, now_secs: u64) -> Allocator {
        let records = self.0.values().cloned().collect();
        let (allocator, doubled) = Allocator::restore(pools, REST_SECS, records, Lost::default(), now_secs);
        assert!(doubled.is_empty(), "{doubled:?}");
        allocator
    }
}

#[test]
fn addresses_begin_at_the_network_address_in_both_families() {
    let mut allocator = fresh(kuma());
    allocator.align(wanted(&["a", "b"]).keys(), 0);
    assert_eq!(vips(&allocator, "a"), pair("240.0.0.0", "fd00:fd00::"));
    assert_eq!(vips(&allocator, "b"), pair("240.0.0.1", "fd00:fd00::1"));
    allocator.align(wanted(&["a", "aa", "b"]).keys(), 0);
    assert_eq!(vips(&allocator, "aa"), pair("240.0.0.2", "fd00:fd00::2"));
    assert_eq!(vips(&allocator, "b"), pair("240.0.0.1", "fd00:fd00::1"));
}

#[test]
fn every_kind_has_its_own_pool_and_a_pool_inside_another_is_carved_out_of_it() {
    let mut all = AllPools::from(pools("240.0.0.0/29", ""));
    all.mesh_service = pools("240.0.0.0/31", "");
    all.mesh_external_service = pools("240.0.0.4/32", "");
    let mut allocator = Allocator::restore(all, REST_SECS, Vec::new(), Lost::default(), 0).0;
    let of = |kind, name: &str| ServiceKey::of("default", kind, name);
    let mut wanted: BTreeMap<ServiceKey, ()> = wanted(&["a", "b", "c"]);
    let more = [
        (Kind::Host, "h"),
        (Kind::MeshService, "a"),
        (Kind::MeshExternalService, "a"),
        (Kind::MeshExternalService, "b"),
    ];
    wanted.extend(more.map(|(kind, name)| (of(kind, name), ())));
    let changes = allocator.align(wanted.keys(), 0);
    let vip = |key: &ServiceKey| allocator.addresses(key).v4.map(|v4| v4.octets()[3]);
    let given: Vec<_> = wanted.keys().map(vip).collect();
    assert_eq!(given, [Some(2), Some(3), Some(5), Some(6), Some(0), Some(4), None]);
    let waits = Starving { service: of(Kind::MeshExternalService, "b"), family: Family::V4 };
    assert_eq!(starving(&allocator), [waits]);
    assert_eq!(allocator.fill().map(|fill| fill.size).collect::<Vec<_>>(), [5, 2, 1]);
    let (restored, doubled) = Allocator::restore(all, REST_SECS, changes.puts, Lost::default(), 1);
    assert!(
        doubled.is_empty() && wanted.keys().all(|key| restored.addresses(key) == allocator.addresses(key))
    );
}

#[test]
fn never_used_addresses_go_before_rested_ones_and_those_in_the_order_of_their_rest() {
    let mut allocator = fresh(pools("240.0.0.0/30", ""));
    allocator.align(wanted(&["a", "b", "c"]).keys(), 0);
    allocator.align(wanted(&["a", "c"]).keys(), 10);
    allocator.align(wanted(&["c"]).keys(), 20);
    allocator.align(wanted(&["c", "x"]).keys(), 1_000);
    assert_eq!(vips(&allocator, "x").0, "240.0.0.3", "never used");
    allocator.align(wanted(&["c", "x", "y"]).keys(), 1_000);
    assert_eq!(vips(&allocator, "y").0, "240.0.0.1", "b rested longest");
    allocator.align(wanted(&["c", "x", "y", "z"]).keys(), 1_000);
    assert_eq!(vips(&allocator, "z").0, "240.0.0.0", "then a");
}

#[test]
fn a_freed_vip_rests_for_two_ttls_and_the_starving_service_is_told_when() {
    let mut allocator = fresh(pools("240.0.0.0/32", "fd00::/127"));
    allocator.align(wanted(&["a"]).keys(), 0);
    allocator.align(wanted(&["b"]).keys(), 50);
    assert_eq!(vips(&allocator, "b"), pair("-", "fd00::1"), "the other family does not wait");
    assert_eq!(starving(&allocator), [Starving { service: key("b"), family: Family::V4 }]);
    assert_eq!(allocator.next_free_secs(), Some(50 + REST_SECS));
    allocator.align(wanted(&["b"]).keys(), 50 + REST_SECS - 1);
    assert_eq!(vips(&allocator, "b").0, "-");
    allocator.align(wanted(&["b"]).keys(), 50 + REST_SECS);
    assert_eq!(vips(&allocator, "b").0, "240.0.0.0");
    assert_eq!((starving(&allocator), allocator.next_free_secs()), (vec![], None));
}

#[test]
fn a_service_that_comes_back_gets_its_old_vip_back_at_once() {
    let mut allocator = fresh(kuma());
    allocator.align(wanted(&["a", "b"]).keys(), 0);
    allocator.align(wanted(&["b"]).keys(), 5);
    allocator.align(wanted(&["b", "c"]).keys(), 6);
    allocator.align(wanted(&["a", "b", "c"]).keys(), 7);
    assert_eq!(vips(&allocator, "a"), pair("240.0.0.0", "fd00:fd00::"));
    assert_eq!(vips(&allocator, "c"), pair("240.0.0.2", "fd00:fd00::2"));
}

#[test]
fn a_clock_that_went_backwards_shortens_no_rest() {
    let mut allocator = fresh(pools("240.0.0.0/32", ""));
    allocator.align(wanted(&["a"]).keys(), 1_000);
    allocator.align(wanted(&[]).keys(), 1_000);
    for now_secs in [0, 500, 1_000, 1_000 + REST_SECS - 1] {
        allocator.align(wanted(&["b"]).keys(), now_secs);
        assert_eq!(vips(&allocator, "b").0, "-", "at {now_secs}");
    }
}

#[test]
fn another_pool_renumbers_and_the_old_addresses_rest() {
    let mut allocator = fresh(kuma());
    allocator.align(wanted(&["a"]).keys(), 0);
    assert!(allocator.reconfigure(pools("10.96.0.0/16", "fd00:fd00::/64"), REST_SECS, 10).is_empty());
    let changes = allocator.align(wanted(&["a"]).keys(), 10);
    assert_eq!(vips(&allocator, "a"), pair("10.96.0.0", "fd00:fd00::"));
    assert_eq!(changes.puts[0].resting[0].address, "240.0.0.0".parse::<IpAddr>().unwrap());
    // The first pool comes back at once: its address still belongs to `a`, not to somebody new.
    allocator.reconfigure(kuma(), REST_SECS, 20);
    allocator.align(wanted(&["0", "a"]).keys(), 20);
    assert_eq!(vips(&allocator, "a").0, "240.0.0.0");
    assert_eq!(vips(&allocator, "0").0, "240.0.0.1");
}

#[test]
fn a_former_address_stays_beside_the_new_one_for_a_rest() {
    let mut allocator = fresh(kuma());
    let mut stored = Stored::default();
    stored.commit(&allocator.align(wanted(&["a", "b", "c"]).keys(), 0));
    let other = pools("10.96.0.0/16", "fd00:fd00::/64");
    allocator.reconfigure(other, REST_SECS, 10);
    stored.commit(&allocator.align(wanted(&["a", "b", "c"]).keys(), 10));
    let former = |allocator: &Allocator, name: &str| -> Vec<String> {
        allocator.former(&key(name)).map(|address| address.to_string()).collect()
    };
    // A start in between knows it as well, and so does one that releases a service meanwhile.
    let mut allocator = stored.restore(other, 11);
    stored.commit(&allocator.align(wanted(&["a", "c"]).keys(), 11));
    assert_eq!((former(&allocator, "a"), former(&allocator, "b")), (vec!["240.0.0.0".into()], vec![]));
    assert_eq!(allocator.former_ranges(), ["240.0.0.0/30".parse().unwrap()]);
    assert_eq!(allocator.next_former_secs(), Some(10 + REST_SECS));
    assert!(allocator.align(wanted(&["a", "c"]).keys(), 10 + REST_SECS - 1).is_empty());
    assert_eq!(former(&allocator, "c"), ["240.0.0.2"]);
    let ended = allocator.align(wanted(&["a", "c"]).keys(), 10 + REST_SECS);
    assert_eq!(ended.services().collect::<Vec<_>>(), [&key("a"), &key("c")]);
    assert_eq!((former(&allocator, "a"), allocator.former_ranges()), (vec![], &[][..]));
    assert_eq!(vips(&allocator, "a"), pair("10.96.0.0", "fd00:fd00::"));
}

#[test]
fn a_shorter_ttl_does_not_shorten_the_rest_of_answers_given_with_the_longer_one() {
    let mut allocator = fresh(pools("240.0.0.0/32", ""));
    allocator.align(wanted(&["a"]).keys(), 0);
    allocator.reconfigure(pools("240.0.0.0/32", ""), 10, 100);
    allocator.align(wanted(&["b"]).keys(), 101);
    allocator.align(wanted(&["b"]).keys(), 101 + REST_SECS - 1);
    assert_eq!(vips(&allocator, "b").0, "-");
    allocator.align(wanted(&["b"]).keys(), 101 + REST_SECS);
    assert_eq!(vips(&allocator, "b").0, "240.0.0.0");
    allocator.align(wanted(&["c"]).keys(), 1_000);
    allocator.align(wanted(&["c"]).keys(), 1_010);
    assert_eq!(vips(&allocator, "c").0, "240.0.0.0", "the new rest counts once the old answers are gone");
}

#[test]
fn a_vip_that_is_stored_twice_changes_one_service_only() {
    let record = |name: &str, v4: &str| {
        let held = Addresses { v4: Some(v4.parse().unwrap()), v6: None };
        Record { service: key(name), version: 3, held, resting: Vec::new() }
    };
    let records = vec![record("b", "240.0.0.0"), record("c", "240.0.0.1"), record("a", "240.0.0.0")];
    let (mut allocator, doubled) =
        Allocator::restore(pools("240.0.0.0/4", ""), REST_SECS, records, Lost::default(), 0);
    let address = "240.0.0.0".parse().unwrap();
    assert_eq!(doubled, [Doubled { address, owner: key("a"), loser: key("b") }]);
    let changes = allocator.align(wanted(&["a", "b", "c"]).keys(), 0);
    assert_eq!(vips(&allocator, "a").0, "240.0.0.0");
    assert_eq!(vips(&allocator, "b").0, "240.0.0.2");
    assert_eq!(vips(&allocator, "c").0, "240.0.0.1");
    assert_eq!(changes.puts.len(), 1);
}

#[test]
fn the_address_of_a_lost_record_is_left_alone_for_a_rest() {
    let mut allocator = fresh(pools("240.0.0.0/4", ""));
    let mut stored = Stored::default();
    stored.commit(&allocator.align(wanted(&["a", "b", "c"]).keys(), 0));
    for lost_name in ["a", "b", "c"] {
        let records = stored.0.values().filter(|record| record.service != key(lost_name)).cloned().collect();
        let lost = Lost { records: 1, since_secs: 100 };
        let pools = pools("240.0.0.0/4", "");
        let (mut restored, _) = Allocator::restore(pools, REST_SECS, records, lost, 100);
        restored.align(wanted(&["a", "b", "c", "x"]).keys(), 100);
        let before = vips(&allocator, lost_name).0;
        for name in ["a", "b", "c", "x"] {
            assert!(
                name == lost_name || vips(&restored, name).0 != before,
                "{name} got {before} of {lost_name}"
            );
        }
        restored.align(wanted(&["a", "b", "c", "x", "y"]).keys(), 100 + REST_SECS);
        assert_eq!(vips(&restored, "y").0, before, "after the rest it is free again");
    }
}

#[test]
fn a_hundred_thousand_services_are_allocated_in_one_step() {
    let names: BTreeMap<ServiceKey, ()> = (0..100_000).map(|i| (key(&format!("service-{i}")), ())).collect();
    let mut allocator = fresh(kuma());
    let started = std::time::Instant::now();
    assert_eq!(allocator.align(names.keys(), 0).puts.len(), 100_000);
    allocator.align(std::iter::empty(), 10);
    assert_eq!(allocator.align(names.keys(), 1_000).puts.len(), 100_000);
    // Quadratic work would take minutes; the bound is loose for busy machines and unoptimized builds.
    assert!(started.elapsed().as_secs() < 30, "{:?}", started.elapsed());
}

/// One thing that happens to a control plane.
#[derive(Clone, Debug)]
enum Event {
    /// The files now name these services (bits), after so many seconds.
    Edit(u16, u64),
    /// The process starts again from its store.
    Restart,
    /// The last commit failed: the process reads the store again.
    Refused(u16),
    /// Another pool.
    Pool(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        6 => (any::<u16>(), 0..200_u64).prop_map(|(bits, secs)| Event::Edit(bits, secs)),
        1 => Just(Event::Restart),
        1 => any::<u16>().prop_map(Event::Refused),
        1 => (0..3_usize).prop_map(Event::Pool),
    ];
    proptest::collection::vec(event, 1..60)
}

fn bits(bits: u16) -> BTreeMap<ServiceKey, ()> {
    (0..12).filter(|bit| bits & (1 << bit) != 0).map(|bit| (key(&format!("s{bit}")), ())).collect()
}

/// What an observer saw: who held an address last, and until when.
#[derive(Default)]
struct Witness {
    holders: HashMap<IpAddr, ServiceKey>,
    left: HashMap<IpAddr, (ServiceKey, u64)>,
}

impl Witness {
    fn look(&mut self, allocator: &Allocator, wanted: &BTreeMap<ServiceKey, ()>, now_secs: u64) {
        let mut holders = HashMap::new();
        for service in wanted.keys() {
            for address in allocator.addresses(service).iter() {
                let other = holders.insert(address, service.clone());
                assert_eq!(other, None, "{address} is held twice");
            }
        }
        for (address, service) in &self.holders {
            if holders.get(address) != Some(service) {
                self.left.insert(*address, (service.clone(), now_secs));
            }
        }
        for (address, service) in &holders {
            if let Some((previous, since_secs)) = self.left.get(address)
                && previous != service
            {
                assert!(
                    now_secs >= since_secs + REST_SECS,
                    "{address} of {previous} went to {service} too early"
                );
                self.left.remove(address);
            }
        }
        self.holders = holders;
    }
}

proptest! {
    #[test]
    fn whatever_happens_no_vip_is_doubled_changed_or_given_before_its_rest(events in events()) {
        let choices = [pools("240.0.0.0/29", "fd00::/125"), pools("240.0.0.0/30", "fd00::/124"), pools("240.0.0.4/30", "")];
        let mut pools = choices[0];
        let (mut stored, mut allocator) = (Stored::default(), fresh(pools));
        let (mut witness, mut now_secs, mut current) = (Witness::default(), 1_000_u64, bits(0));
        for event in events {
            let mut renumbered = false;
            match event {
                Event::Edit(edit, secs) => {
                    now_secs += secs;
                    current = bits(edit);
                }
                Event::Restart => allocator = stored.restore(pools, now_secs),
                Event::Refused(edit) => {
                    allocator.align(bits(edit).keys(), now_secs);
                    allocator = stored.restore(pools, now_secs);
                }
                Event::Pool(choice) => {
                    pools = choices[choice];
                    renumbered = true;
                    prop_assert!(allocator.reconfigure(pools, REST_SECS, now_secs).is_empty());
                }
            }
            let before: Vec<_> = current.keys().map(|service| (service.clone(), witness.holding(service))).collect();
            stored.commit(&allocator.align(current.keys(), now_secs));
            witness.look(&allocator, &current, now_secs);
            for (service, had) in before {
                let has: Vec<IpAddr> = allocator.addresses(&service).iter().collect();
                for address in &has {
                    prop_assert!(pools.containing(*address).is_some(), "{} is outside the pools", address);
                }
                let kept = had.iter().all(|address| has.contains(address));
                prop_assert!(renumbered || kept, "{:?} had {:?}, has {:?}", service, had, has);
            }
        }
    }

    #[test]
    fn a_step_by_changes_is_a_step_to_the_whole_and_a_follower_learns_what_the_store_holds(events in events()) {
        let choices = [pools("240.0.0.0/29", "fd00::/125"), pools("240.0.0.0/30", "fd00::/124"), pools("240.0.0.4/30", "")];
        let mut pools = choices[0];
        let (mut stored, mut now_secs, mut current) = (Stored::default(), 1_000_u64, bits(0));
        let (mut whole, mut by_changes, mut follower) = (fresh(pools), fresh(pools), fresh(pools));
        for event in events {
            let before = current.clone();
            match event {
                Event::Edit(edit, secs) => {
                    now_secs += secs;
                    current = bits(edit);
                }
                Event::Restart | Event::Refused(_) => {
                    whole = stored.restore(pools, now_secs);
                    by_changes = stored.restore(pools, now_secs);
                    let first = by_changes.align(current.keys(), now_secs);
                    prop_assert_eq!(&first, &whole.align(current.keys(), now_secs));
                    stored.commit(&first);
                    follower = stored.restore(pools, now_secs);
                }
                Event::Pool(choice) => {
                    pools = choices[choice];
                    for allocator in [&mut whole, &mut by_changes, &mut follower] {
                        allocator.reconfigure(pools, REST_SECS, now_secs);
                    }
                    let first = by_changes.align(current.keys(), now_secs);
                    prop_assert_eq!(&first, &whole.align(current.keys(), now_secs));
                    stored.teach(&first, &mut follower, pools, now_secs);
                }
            }
            let added = current.keys().filter(|service| !before.contains_key(*service));
            let gone = before.keys().filter(|service| !current.contains_key(*service));
            let changes = by_changes.step(added, gone, now_secs);
            prop_assert_eq!(&changes, &whole.align(current.keys(), now_secs));
            prop_assert_eq!(starving(&by_changes), starving(&whole));
            prop_assert_eq!(by_changes.next_free_secs(), whole.next_free_secs());
            prop_assert_eq!(by_changes.former_ranges().is_empty(), by_changes.next_former_secs().is_none());
            stored.teach(&changes, &mut follower, pools, now_secs);
            for service in bits(u16::MAX).keys() {
                prop_assert_eq!(follower.addresses(service), by_changes.addresses(service));
                prop_assert!(follower.former(service).eq(by_changes.former(service)));
            }
            prop_assert!(follower.fill().eq(by_changes.fill()));
        }
        let last = bits(0x0f0f);
        follower.align(last.keys(), now_secs);
        by_changes.align(last.keys(), now_secs);
        prop_assert!(last.keys().all(|service| follower.addresses(service) == by_changes.addresses(service)));
    }

    #[test]
    fn the_same_history_gives_the_same_vips(edits in proptest::collection::vec((any::<u16>(), 0..200_u64), 1..20)) {
        let run = || {
            let mut allocator = fresh(pools("240.0.0.0/29", "fd00::/125"));
            let mut now_secs = 0;
            for (edit, secs) in &edits {
                now_secs += secs;
                allocator.align(bits(*edit).keys(), now_secs);
            }
            bits(u16::MAX).keys().map(|service| allocator.addresses(service)).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn a_name_gets_its_last_vip_back_while_nobody_else_has_had_it(edits in proptest::collection::vec(any::<u16>(), 1..30)) {
        // With room for all, nobody ever takes anybody's address.
        let mut allocator = fresh(pools("240.0.0.0/24", "fd00::/64"));
        let mut first: HashMap<ServiceKey, Addresses> = HashMap::new();
        for (at, edit) in edits.iter().enumerate() {
            let current = bits(*edit);
            allocator.align(current.keys(), at as u64 * 1_000);
            for service in current.keys() {
                let has = allocator.addresses(service);
                prop_assert_eq!(*first.entry(service.clone()).or_insert(has), has);
            }
        }
    }
}

impl Witness {
    fn holding(&self, service: &ServiceKey) -> Vec<IpAddr> {
        let own = self.holders.iter().filter(|(_, holder)| *holder == service);
        own.map(|(address, _)| *address).collect()
    }
}
