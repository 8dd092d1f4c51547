//! Properties of the allocator: for any history of edits, restarts and times.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;

use super::*;

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
