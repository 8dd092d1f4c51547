//! A view step by step, against one that is made at once. Part of view.

use proptest::prelude::{Strategy, any, prop_assert_eq, proptest};

use super::*;

fn header(range: &str) -> Header {
    Header { domain: name("mesh"), ttl_secs: 60, ranges: vec![range.parse().unwrap()] }
}

fn base() -> MeshView {
    MeshView::new("default", header("240.0.0.0/4"))
}

fn name(text: &str) -> Hostname {
    Hostname::parse(text).unwrap()
}

fn address(last: u8) -> Addresses {
    Addresses { v4: Some([240, 0, 0, last].into()), v6: None }
}

fn part(names: &[&str], last: u8) -> Part {
    let route = Route { vip: [240, 0, 0, last].into(), port: Port::new(80) };
    Part::new(names.iter().map(|text| name(text)).collect(), address(last), vec![route]).unwrap()
}

#[test]
fn a_name_without_an_address_and_an_address_without_a_route_are_refused() {
    let names = || vec![name("redis.mesh")];
    assert_eq!(
        Part::new(names(), Addresses::default(), Vec::new()),
        Err(PartError::NoAddress { name: name("redis.mesh") })
    );
    let elsewhere = Route { vip: [240, 0, 0, 2].into(), port: Port::new(80) };
    assert_eq!(
        Part::new(names(), address(1), vec![elsewhere]),
        Err(PartError::NoRoute { vip: [240, 0, 0, 1].into() })
    );
    let here = Route { vip: [240, 0, 0, 1].into(), port: Port::new(80) };
    assert!(Part::new(names(), address(1), vec![elsewhere, here]).is_ok(), "a VIP that is given up");
}

#[test]
fn a_route_outside_the_ranges_is_refused_also_when_it_is_the_ranges_that_change() {
    let view = base().with(Changes::adding([("redis", part(&["redis.mesh"], 1))])).unwrap();
    let narrower = Changes { header: Some(Arc::new(header("241.0.0.0/8"))), ..Changes::default() };
    let (part_at_fault, vip) = ("redis".into(), [240, 0, 0, 1].into());
    assert_eq!(view.with(narrower).unwrap_err(), ViewError::OutOfRange { part: part_at_fault, vip });
    let empty = MeshView::new("default", header("241.0.0.0/8"));
    let refused = empty.with(Changes::adding([("redis", part(&["redis.mesh"], 1))])).unwrap_err();
    assert_eq!(refused.part(), "redis");
}

#[test]
fn a_name_is_in_one_part_and_may_move_to_another_in_one_step() {
    let view = base().with(Changes::adding([("a", part(&["x.mesh"], 1))])).unwrap();
    let twice = view.with(Changes::adding([("b", part(&["x.mesh"], 2))])).unwrap_err();
    assert_eq!(twice, ViewError::NameTwice { part: "b".into(), name: name("x.mesh") });
    let moves = Changes::adding([("a", part(&["y.mesh"], 1)), ("b", part(&["x.mesh"], 2))]);
    let moved = view.with(moves).unwrap();
    assert_eq!((moved.names()[&name("x.mesh")], moved.names()[&name("y.mesh")]), (address(2), address(1)));
    assert_eq!(view.names()[&name("x.mesh")], address(1), "the view before is as it was");
}

#[test]
fn a_view_keeps_its_number() {
    assert_eq!(ViewId::of("default"), ViewId::of("default"));
    assert_ne!(ViewId::of("default"), ViewId::of("other"));
}

/// Some services by number; `None`: it goes.
fn step() -> impl Strategy<Value = Vec<(u8, Option<u8>)>> {
    proptest::collection::vec((0_u8..8, proptest::option::of(any::<u8>())), 1..5)
}

proptest! {
    #[test]
    fn a_view_that_came_step_by_step_is_the_one_that_is_made_at_once(
        steps in proptest::collection::vec(step(), 1..12)
    ) {
        let (mut view, mut all) = (base(), BTreeMap::new());
        for step in steps {
            let mut changes = Changes::default();
            for (service, vip) in step {
                let (key, text): (Arc<str>, _) = (service.to_string().into(), format!("{service}.mesh"));
                let part = vip.map(|vip| Arc::new(part(&[&*text], vip)));
                changes.parts.insert(key.clone(), part.clone());
                match part {
                    Some(part) => drop(all.insert(key, part)),
                    None => drop(all.remove(&key)),
                }
            }
            view = view.with(changes).unwrap();
            let parts = all.iter().map(|(key, part)| (key.clone(), Some(part.clone()))).collect();
            let at_once = base().with(Changes { header: None, parts }).unwrap();
            prop_assert_eq!(&view, &at_once);
            prop_assert_eq!(view.routes_len(), view.routes().count());
        }
    }
}
