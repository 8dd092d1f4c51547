//! A view reaches kernel and resolver in the one right order. No name ever shows without a route (invariant 1), whatever the
//! sequence of views, whatever the kernel refuses, and whatever a killed agent left behind.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use harness::sim::{Event, Log, SimKernel};
use kuma_dns::agent::apply::{Applier, ApplyError, Origin};
use kuma_dns::model::datapath::{Datapath, DatapathError};
use kuma_dns::model::name::Hostname;
use kuma_dns::model::view::{Addresses, Changes, Header, MeshView, Part, Port, Route, ViewId};
use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, prop_oneof, proptest};

const VIEW: &str = "default";

fn base() -> MeshView {
    of_ranges(&["240.0.0.0/4", "fd00:fd00::/64"])
}

fn of_ranges(ranges: &[&str]) -> MeshView {
    let ranges = ranges.iter().map(|range| range.parse().unwrap()).collect();
    MeshView::new(VIEW, Header { domain: Hostname::parse("mesh").unwrap(), ttl_secs: 60, ranges })
}

/// A service: its name's number, its VIP's number, its ports, and whether it has an IPv6 VIP as well.
type Service = (u8, u8, BTreeSet<u16>, bool);

/// The services that come first have the names and VIPs that others want too.
fn view(services: &[Service]) -> MeshView {
    let (mut vips, mut parts) = (BTreeSet::new(), BTreeMap::new());
    for (name, vip, ports, both) in services {
        let name = format!("service-{name}.mesh");
        if parts.contains_key(&*name) || !vips.insert(vip) {
            continue;
        }
        let v6 = both.then(|| Ipv6Addr::new(0xfd00, 0xfd00, 0, 0, 0, 0, 0, u16::from(*vip)));
        let addresses = Addresses { v4: Some(Ipv4Addr::new(240, 0, 0, *vip)), v6 };
        let routes = addresses.iter().flat_map(|vip| ports.iter().map(move |&port| (vip, port)));
        let routes = routes.map(|(vip, port)| Route { vip, port: Port::new(port) }).collect();
        let part = Part::new(vec![Hostname::parse(&name).unwrap()], addresses, routes).unwrap();
        parts.insert(Arc::<str>::from(name), part);
    }
    base().with(Changes::adding(parts)).unwrap()
}

fn one(name: u8, vip: u8) -> Service {
    (name, vip, BTreeSet::from([80]), false)
}

fn apply(applier: &mut Applier, kernel: &mut SimKernel, view: &MeshView) -> Result<(), ApplyError> {
    apply_from(Origin::ControlPlane, applier, kernel, view)
}

fn apply_from(
    origin: Origin,
    applier: &mut Applier,
    kernel: &mut SimKernel,
    view: &MeshView,
) -> Result<(), ApplyError> {
    let log = kernel.log.clone();
    let view = Arc::new(view.clone());
    applier.apply(&view, origin, kernel, |names| {
        log.push(Event::Told(names.changed.clone()));
        for name in names.held_back {
            assert!(names.view.names().contains_key(name), "only a name of the view is held back");
        }
    })
}

fn start(kernel: &SimKernel) -> Applier {
    Applier::adopt(VIEW, kernel).unwrap()
}

fn table(view: &MeshView) -> BTreeMap<Hostname, Addresses> {
    view.names().iter().map(|(name, &addresses)| (name.clone(), addresses)).collect()
}

/// Invariant 1 at every single step of the log; returns the names at its end.
fn check(log: &Log, mut routes: BTreeSet<Route>) -> BTreeMap<Hostname, Addresses> {
    let mut names = BTreeMap::<Hostname, Addresses>::new();
    for event in log.events() {
        match event {
            Event::Added(_, route) => drop(routes.insert(route)),
            Event::Removed(_, route) => drop(routes.remove(&route)),
            Event::Told(changed) => {
                names.extend(changed);
                names.retain(|_, addresses| *addresses != Addresses::default());
            }
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
        let left_behind: BTreeSet<Route> = view(&left_behind).routes().collect();
        let mut kernel = SimKernel::with_routes(ViewId::of(VIEW), left_behind.clone());
        kernel.capacity = capacity;
        let mut applier = start(&kernel);
        for services in &views {
            let wanted = view(services);
            let applied = apply(&mut applier, &mut kernel, &wanted);
            let names = check(&kernel.log, left_behind.clone());
            let routes = kernel.routes(ViewId::of(VIEW)).unwrap();
            let wanted_routes: BTreeSet<Route> = wanted.routes().collect();
            prop_assert!(routes.is_subset(&wanted_routes), "nothing stays that the view does not want");
            if applied.is_ok() {
                prop_assert_eq!(&routes, &wanted_routes);
                prop_assert_eq!(names, table(&wanted));
            } else {
                prop_assert!(routes.len() >= capacity.unwrap() as usize, "only a full map is an excuse");
                let vips: BTreeSet<IpAddr> = routes.iter().map(|route| route.vip).collect();
                let mut reachable = table(&wanted);
                reachable.retain(|_, addresses| addresses.iter().all(|vip| vips.contains(&vip)));
                prop_assert_eq!(names, reachable, "no name is held back whose addresses route");
            }
        }
    }
}

#[test]
fn left_behind_routes_stay_until_the_first_view_and_are_not_added_again() {
    let left_behind = view(&[one(1, 1), one(2, 2)]).routes().collect();
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
fn a_remembered_view_is_served_and_what_the_kernel_has_beyond_it_stays_until_the_control_plane_speaks() {
    let left_behind: BTreeSet<Route> = view(&[one(1, 1), one(2, 2)]).routes().collect();
    let mut kernel = SimKernel::with_routes(ViewId::of(VIEW), left_behind.clone());
    let mut applier = start(&kernel);
    let remembered = view(&[one(1, 1), one(3, 3)]);
    apply_from(Origin::Memory, &mut applier, &mut kernel, &remembered).unwrap();
    assert_eq!(check(&kernel.log, left_behind.clone()), table(&remembered));
    assert_eq!((applier.routes(), kernel.routes(ViewId::of(VIEW)).unwrap().len()), (3, 3));
    let wanted = view(&[one(2, 2), one(3, 3)]);
    apply(&mut applier, &mut kernel, &wanted).unwrap();
    assert_eq!(check(&kernel.log, left_behind), table(&wanted));
    assert_eq!(kernel.routes(ViewId::of(VIEW)).unwrap(), wanted.routes().collect());
    let added = kernel.log.events().into_iter().filter(|event| matches!(event, Event::Added(..))).count();
    assert_eq!(added, 1, "what was there is not added again");
}

#[test]
fn an_address_that_goes_to_another_service_in_one_step_never_stops_routing() {
    let mut kernel = SimKernel::default();
    let mut applier = start(&kernel);
    apply(&mut applier, &mut kernel, &view(&[one(1, 1), one(2, 2)])).unwrap();
    let steps = kernel.log.events().len();
    let swapped = view(&[one(1, 2), one(2, 1)]);
    apply(&mut applier, &mut kernel, &swapped).unwrap();
    let events = kernel.log.events().split_off(steps);
    assert!(events.iter().all(|event| matches!(event, Event::Told(_))), "{events:?}");
    assert_eq!(check(&kernel.log, BTreeSet::new()), table(&swapped));
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
    assert_eq!(check(&kernel.log, BTreeSet::new()), table(&view(&[one(2, 2)])));
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
        apply(&mut applier, &mut kernel, &of_ranges(&[range])).unwrap();
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
