//! The rules of the allocator, one at a time; what holds for any history is in histories.

mod histories;

use std::collections::BTreeMap;

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
