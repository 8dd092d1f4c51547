//! A view reaches kernel and resolver in the one right order. No name ever shows without a route (invariant 1), whatever the
//! sequence of views, whatever the kernel refuses, and whatever a killed agent left behind.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use harness::sim::{Event, Log, SimKernel};
use kuma_dns::agent::apply::{Applier, ApplyError};
use kuma_dns::model::datapath::{Datapath, DatapathError};
use kuma_dns::model::name::Hostname;
use kuma_dns::model::view::{Addresses, MeshView, Port, Route, ViewId};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

const VIEW: &str = "default";

fn base() -> MeshView {
    let mut base = MeshView::empty(VIEW, Hostname::parse("mesh").unwrap());
    base.ranges = vec!["240.0.0.0/4".parse().unwrap(), "fd00:fd00::/64".parse().unwrap()];
    base
}

/// A service: its name's number, its VIP's number, its ports, and whether it has an IPv6 VIP as well.
type Service = (u8, u8, BTreeSet<u16>, bool);

fn view(services: &[Service]) -> MeshView {
    let (mut routes, mut names) = (BTreeSet::new(), BTreeMap::new());
    for (name, vip, ports, both) in services {
        let v6 = both.then(|| Ipv6Addr::new(0xfd00, 0xfd00, 0, 0, 0, 0, 0, u16::from(*vip)));
        let addresses = Addresses { v4: Some(Ipv4Addr::new(240, 0, 0, *vip)), v6 };
        for ip in addresses.iter() {
            routes.extend(ports.iter().map(|&port| Route { vip: ip, port: Port::new(port) }));
        }
        names.insert(Hostname::parse(&format!("service-{name}.mesh")).unwrap(), addresses);
    }
    MeshView::with(base(), routes, names).unwrap()
}

fn one(name: u8, vip: u8) -> Service {
    (name, vip, BTreeSet::from([80]), false)
}

fn apply(applier: &mut Applier, kernel: &mut SimKernel, view: &MeshView) -> Result<(), ApplyError> {
    let log = kernel.log.clone();
    applier.apply(view, kernel, |names| log.push(Event::Published(names.clone())))
}

fn start(kernel: &SimKernel) -> Applier {
    Applier::adopt(ViewId::of(VIEW), kernel).unwrap()
}

/// Invariant 1 at every single step of the log; returns the names at its end.
fn check(log: &Log, mut routes: BTreeSet<Route>) -> BTreeMap<Hostname, Addresses> {
    let mut names = BTreeMap::new();
    for event in log.events() {
        match event {
            Event::Added(_, route) => drop(routes.insert(route)),
            Event::Removed(_, route) => drop(routes.remove(&route)),
            Event::Published(view) => names = view.names().clone(),
            _ => {}
        }
        let routed: BTreeSet<IpAddr> = routes.iter().map(|route| route.vip).collect();
        for (name, addresses) in &names {
            assert!(addresses.iter().all(|vip| routed.contains(&vip)), "{name} resolves and does not route");
        }
    }
    names
}

fn services() -> impl Strategy<Value = Vec<Service>> {
    let ports = proptest::collection::btree_set(prop_oneof![Just(80_u16), Just(443), Just(8080)], 1..3);
    let service = (0_u8..6, 1_u8..6, ports, any::<bool>());
    proptest::collection::vec(service, 0..6)
}

proptest! {
    #[test]
    fn a_name_never_resolves_without_a_route(
        left_behind in services(),
        views in proptest::collection::vec(services(), 1..8),
        capacity in proptest::option::of(1_u32..12),
    ) {
        let left_behind = view(&left_behind).routes;
        let mut kernel = SimKernel::with_routes(ViewId::of(VIEW), left_behind.clone());
        kernel.capacity = capacity;
        let mut applier = start(&kernel);
        for services in &views {
            let wanted = view(services);
            let applied = apply(&mut applier, &mut kernel, &wanted);
            let names = check(&kernel.log, left_behind.clone());
            let routes = kernel.routes(ViewId::of(VIEW)).unwrap();
            prop_assert!(routes.is_subset(&wanted.routes), "nothing stays that the view does not want");
            if applied.is_ok() {
                prop_assert_eq!(&routes, &wanted.routes);
                prop_assert_eq!(&names, wanted.names());
            } else {
                prop_assert!(routes.len() >= capacity.unwrap() as usize, "only a full map is an excuse");
            }
        }
    }
}

#[test]
fn left_behind_routes_stay_until_the_first_view_and_are_not_added_again() {
    let left_behind = view(&[one(1, 1), one(2, 2)]).routes;
    let mut kernel = SimKernel::with_routes(ViewId::of(VIEW), left_behind);
    let mut applier = start(&kernel);
    assert!(kernel.log.events().is_empty(), "adopting changes nothing");
    apply(&mut applier, &mut kernel, &view(&[one(2, 2)])).unwrap();
    let events = kernel.log.events();
    assert!(!events.iter().any(|event| matches!(event, Event::Added(..))), "{events:?}");
    assert!(
        matches!(events.last(), Some(Event::Removed(_, route)) if route.vip == IpAddr::from([240, 0, 0, 1]))
    );
}

#[test]
fn a_full_map_holds_back_only_the_new_name_and_the_next_view_tries_again() {
    let mut kernel = SimKernel::of_capacity(1);
    let mut applier = start(&kernel);
    apply(&mut applier, &mut kernel, &view(&[one(1, 1)])).unwrap();
    let both = view(&[one(1, 1), one(2, 2)]);
    let error = apply(&mut applier, &mut kernel, &both).unwrap_err();
    assert!(
        matches!(error, ApplyError::Partial { routes: 1, names: 1, source: DatapathError::Full { .. }, .. }),
        "{error}"
    );
    assert_eq!(check(&kernel.log, BTreeSet::new()).len(), 1);
    kernel.capacity = Some(2);
    apply(&mut applier, &mut kernel, &both).unwrap();
    assert_eq!(check(&kernel.log, BTreeSet::new()).len(), 2);
}

#[test]
fn a_full_map_that_this_very_view_empties_is_no_failure() {
    let mut kernel = SimKernel::of_capacity(1);
    let mut applier = start(&kernel);
    apply(&mut applier, &mut kernel, &view(&[one(1, 1)])).unwrap();
    apply(&mut applier, &mut kernel, &view(&[one(2, 2)])).unwrap();
    assert_eq!(check(&kernel.log, BTreeSet::new()), view(&[one(2, 2)]).names().clone());
}

#[test]
fn a_port_that_replaces_another_in_a_full_map_takes_the_name_with_it() {
    let mut kernel = SimKernel::of_capacity(1);
    let mut applier = start(&kernel);
    apply(&mut applier, &mut kernel, &view(&[one(1, 1)])).unwrap();
    apply(&mut applier, &mut kernel, &view(&[(1, 1, BTreeSet::from([443]), false)])).unwrap();
    assert_eq!(check(&kernel.log, BTreeSet::new()).len(), 1);
}

#[test]
fn a_further_port_that_does_not_fit_does_not_take_the_name_away() {
    let mut kernel = SimKernel::of_capacity(1);
    let mut applier = start(&kernel);
    apply(&mut applier, &mut kernel, &view(&[one(1, 1)])).unwrap();
    let two_ports = view(&[(1, 1, BTreeSet::from([80, 443]), false)]);
    let error = apply(&mut applier, &mut kernel, &two_ports).unwrap_err();
    assert!(matches!(error, ApplyError::Partial { routes: 1, names: 0, .. }), "{error}");
    assert_eq!(check(&kernel.log, BTreeSet::new()).len(), 1);
}

#[test]
fn old_and_new_ranges_hold_while_routes_change() {
    let mut kernel = SimKernel::default();
    let mut applier = start(&kernel);
    for range in ["240.0.0.0/16", "241.0.0.0/16"] {
        let mut view = base();
        view.ranges = vec![range.parse().unwrap()];
        apply(&mut applier, &mut kernel, &view).unwrap();
    }
    let count = |event| if let Event::Ranges(ranges) = event { Some(ranges.len()) } else { None };
    let counts: Vec<usize> = kernel.log.events().into_iter().filter_map(count).collect();
    assert_eq!(counts, [1, 2, 1]);
}

#[test]
fn more_ranges_than_the_kernel_serves_change_nothing() {
    let mut kernel = SimKernel::default();
    kernel.ranges_max = Some(0);
    let mut applier = start(&kernel);
    let error = apply(&mut applier, &mut kernel, &view(&[one(1, 1)])).unwrap_err();
    assert!(matches!(error, ApplyError::Ranges { .. }), "{error}");
    assert!(kernel.log.events().is_empty());
}
