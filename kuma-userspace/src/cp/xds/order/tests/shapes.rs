//! The order in the compact shape, and while a VIP changes from one shape to the other. Part of order's tests.

use super::*;
use crate::cp::snapshot::MeshHeader;
use crate::model::view::Port;

const CLUSTER: &str = "outbound:240.0.0.1:80";
const CLUSTER_OF_A: &str = "cluster outbound:240.0.0.1:80 a";
const NO_CLUSTER: &str = "no cluster outbound:240.0.0.1:80";

impl Table {
    /// The operator wants another shape of the same mesh.
    fn reshape(&mut self, outbounds: Outbounds) -> Vec<String> {
        self.outbounds = outbounds;
        let vips = self.order.wanted.clone().unwrap().vips;
        self.want_mesh(vips, outbounds)
    }

    fn compact(services: &[(&str, u8, u8)]) -> Self {
        Self::settled_as(Outbounds::Compact, services)
    }
}

#[test]
fn a_compact_service_needs_a_cluster_and_no_listener() {
    let mut table = Table::compact(&[]);
    assert_eq!(table.want(&[("a", 1, 1)]), [CLUSTER_OF_A, "endpoints a 1"]);
    assert_eq!(table.after(CLUSTER_LIMIT), NOTHING, "the cluster is all it has: it is waited for");
    assert_eq!(table.ack(1, &[ResourceType::Cluster]), NOTHING);
    assert_eq!(table.after(SETTLE_COMPACT - MOMENT), NOTHING);
    assert_eq!(table.after(MOMENT), ["view a.mesh [1]"]);
}

#[test]
fn a_compact_service_goes_view_first_then_two_ttls_then_cluster() {
    let mut table = Table::compact(&[("a", 1, 1), ("b", 2, 1)]);
    assert_eq!(table.want(&[("b", 2, 1)]), ["view b.mesh [2]"]);
    assert_eq!(table.ack(2, &[ResourceType::MeshView]), NOTHING);
    assert_eq!(table.after(TTL * 2 - MOMENT), NOTHING);
    assert_eq!(table.after(MOMENT), [NO_CLUSTER, "no endpoints a", "strangers"]);
}

#[test]
fn a_vip_that_works_gets_its_cluster_before_it_loses_its_listener() {
    let mut table = Table::settled(&[("a", 1, 1)]);
    assert_eq!(table.reshape(Outbounds::Compact), [CLUSTER_OF_A]);
    assert_eq!(table.after(CLUSTER_LIMIT), NOTHING, "a limit is no reason to lose what works");
    assert_eq!(table.ack(1, &[ResourceType::Cluster]), NOTHING);
    assert_eq!(table.order.shapes().1, 1, "the listener is still there");
    assert_eq!(table.after(SETTLE_COMPACT - MOMENT), NOTHING);
    assert_eq!(table.after(MOMENT), ["no listener 1"]);
    assert_eq!(table.ack(1, &PROXY), ["no cluster a"]);
    assert_eq!(table.order.shapes().1, 0);
    assert_eq!(table.order.progress(), (1, 1));
    assert_eq!(table.after(TTL * 2), ["strangers"], "agents have seen nothing of it");
}

#[test]
fn a_vip_that_works_gets_its_listener_when_the_listeners_cluster_is_there() {
    let mut table = Table::compact(&[("a", 1, 1)]);
    assert_eq!(table.reshape(Outbounds::Listeners), ["cluster a"]);
    assert_eq!(table.after(CLUSTER_LIMIT), NOTHING, "its listener would take connections of what works");
    assert_eq!(table.ack(1, &[ResourceType::Cluster]), ["listener 1 a"]);
    assert_eq!(table.after(MOMENT), NOTHING);
    assert_eq!(table.ack(1, &[ResourceType::Listener]), NOTHING);
    assert_eq!(table.after(SETTLE - MOMENT), NOTHING);
    assert_eq!(table.after(MOMENT), [NO_CLUSTER]);
    assert_eq!(table.order.progress(), (1, 1));
}

#[test]
fn a_change_of_mind_leaves_what_works_as_it_is() {
    let mut table = Table::settled(&[("a", 1, 1)]);
    table.reshape(Outbounds::Compact);
    assert_eq!(table.reshape(Outbounds::Listeners), [NO_CLUSTER]);

    let mut table = Table::compact(&[("a", 1, 1)]);
    table.reshape(Outbounds::Listeners);
    assert_eq!(table.ack(1, &[ResourceType::Cluster]), ["listener 1 a"]);
    assert_eq!(table.reshape(Outbounds::Compact), ["no listener 1"], "its cluster still works");
    assert_eq!(table.ack(1, &PROXY), ["no cluster a"]);

    let mut table = Table::settled(&[("a", 1, 1)]);
    table.reshape(Outbounds::Compact);
    table.ack(1, &[ResourceType::Cluster]);
    assert_eq!(table.after(SETTLE), ["no listener 1"]);
    assert_eq!(table.reshape(Outbounds::Listeners), NOTHING, "the listener is on its way out");
    assert_eq!(table.ack(1, &PROXY), ["no cluster a", "cluster a"]);
    assert_eq!(table.ack(1, &PROXY), ["listener 1 a"]);
    table.ack(1, &PROXY);
    assert_eq!(table.after(SETTLE), [NO_CLUSTER]);
}

#[test]
fn a_proxy_that_refuses_the_new_shape_keeps_the_old_one() {
    let mut table = Table::settled(&[("a", 1, 1)]);
    table.reshape(Outbounds::Compact);
    refuse(table.clients.get_mut(&1).unwrap(), ResourceType::Cluster, CLUSTER);
    assert_eq!(table.ack(1, &PROXY), NOTHING);
    assert_eq!(table.after(PROXY_LIMIT * 2), NOTHING, "the listener stays");
    assert_eq!(table.order.progress(), (1, 1));
}

#[test]
fn a_service_that_goes_while_it_changes_its_shape_leaves_in_order() {
    let mut table = Table::settled(&[("a", 1, 1)]);
    table.reshape(Outbounds::Compact);
    assert_eq!(table.want(&[]), [NO_CLUSTER, "view  []"]);
    table.ack(2, &[ResourceType::MeshView]);
    table.ack(1, &PROXY);
    let rested = table.after(TTL * 2);
    assert!(rested.contains(&"no listener 1".into()), "{rested:?}");
    assert_eq!(table.ack(1, &PROXY), ["no cluster a", "no endpoints a"]);
}

#[test]
fn a_service_that_comes_back_in_another_shape_works_meanwhile_in_the_old_one() {
    let mut table = Table::settled(&[("a", 1, 1)]);
    table.want(&[]);
    table.ack(2, &[ResourceType::MeshView]);
    table.outbounds = Outbounds::Compact;
    assert_eq!(table.want(&[("a", 1, 1)]), [CLUSTER_OF_A, "view a.mesh [1]"]);
    table.ack(1, &[ResourceType::Cluster]);
    assert_eq!(table.after(SETTLE), ["no listener 1"]);
}

#[test]
fn a_compact_vip_that_moves_has_one_service_at_a_time() {
    let mut table = Table::compact(&[("a", 1, 1)]);
    assert_eq!(table.want(&[("b", 1, 1)]), ["endpoints b 1", "view  []"]);
    table.ack(2, &[ResourceType::MeshView]);
    let rested = table.after(TTL * 2);
    let at = |said: &str| rested.iter().position(|one| one == said);
    let (left, came) = (at(NO_CLUSTER), at("cluster outbound:240.0.0.1:80 b"));
    assert!(left.is_some() && came > left, "{rested:?}");
    table.ack(1, &PROXY);
    assert_eq!(table.after(SETTLE), ["view b.mesh [1]"]);
}

#[test]
fn ports_and_families_of_a_service_share_its_endpoints_to_the_last() {
    let mut table = Table::compact(&[("a", 1, 1)]);
    let two_ports =
        |_: &mut Published, listener: &mut Listener| listener.ports = [80, 81].map(Port::new).into();
    assert_eq!(table.change("a", two_ports), ["cluster outbound:240.0.0.1:81 a"]);
    table.ack(1, &PROXY);
    assert_eq!(table.after(SETTLE), ["view a.mesh [1,1]"]);
    assert_eq!(table.want(&[("a", 1, 1)]), ["view a.mesh [1]"]);
    table.ack(2, &[ResourceType::MeshView]);
    let rested = table.after(TTL * 2);
    assert!(rested.contains(&"no cluster outbound:240.0.0.1:81".into()), "{rested:?}");
    assert!(!rested.contains(&"no endpoints a".into()), "{rested:?}");
}

#[test]
fn the_entrance_knows_a_range_as_long_as_something_of_it_is_out() {
    let mut table = Table::compact(&[("a", 1, 1)]);
    let header = (*table.order.wanted.clone().unwrap().header).clone();
    let header = Arc::new(MeshHeader { ranges: vec!["241.0.0.0/8".parse().unwrap()], ..header });
    let event = Event::Wanted(Some(MeshSnapshot { header, vips: OrdMap::new() }));
    table.order.entrance.ranges = vec!["240.0.0.0/8".parse().unwrap()];
    table.step(event);
    assert_eq!(table.order.entrance.ranges.len(), 2, "the old VIP still leads somewhere");
    table.ack(2, &[ResourceType::MeshView]);
    table.after(TTL * 2);
    assert_eq!(table.order.entrance.ranges, ["241.0.0.0/8".parse::<IpNetwork>().unwrap()]);
}

#[test]
fn every_cluster_of_a_service_that_is_looked_up_follows_it_those_that_stay_come_and_go() {
    let mut table = Table::compact(&[("a", 1, 1)]);
    let ports = |ports: &'static [u16], text: &'static str| {
        move |_: &mut Published, listener: &mut Listener| {
            listener.ports = ports.iter().map(|&port| Port::new(port)).collect();
            listener.endpoints = [host(text)].into();
        }
    };
    let cluster = |port: u16, text: &str| format!("cluster outbound:240.0.0.1:{port} a looks up {text}:80");
    table.change("a", ports(&[80, 81], "one.org"));
    table.ack(1, &PROXY);
    table.after(SETTLE);
    // 81 stays, 80 is on its way out, 82 on its way in.
    let changed = table.change("a", ports(&[81, 82], "one.org"));
    assert_eq!(changed, [cluster(82, "one.org"), "view a.mesh [1]".into()]);
    let renewed = table.change("a", ports(&[81, 82], "two.org"));
    assert_eq!(renewed, [80, 81, 82].map(|port| cluster(port, "two.org")));
    assert_eq!(table.after(SETTLE * 2), NOTHING, "82 waits for its cluster as it is now");
    table.ack(1, &[ResourceType::Cluster]);
    assert_eq!(table.after(SETTLE), ["view a.mesh [1,1]"]);
}

#[test]
fn a_former_address_routes_and_does_not_resolve_once_the_new_one_works() {
    let mut table = Table::compact(&[("a", 1, 1)]);
    let renumbered = |published: &mut Published, _: &mut Listener| {
        published.former = [[240, 0, 0, 1].into()].into();
        published.addresses.v4 = Some([240, 0, 0, 9].into());
    };
    assert_eq!(table.change("a", renumbered), ["cluster outbound:240.0.0.9:80 a"]);
    assert_eq!(
        table.view.names()[&name("a.mesh")].v4,
        Some([240, 0, 0, 1].into()),
        "until the new one works"
    );
    table.ack(1, &PROXY);
    assert_eq!(table.after(SETTLE), ["view a.mesh [1,9]"]);
    assert_eq!(table.view.names()[&name("a.mesh")].v4, Some([240, 0, 0, 9].into()));
    table.ack(2, &[ResourceType::MeshView]);
    assert_eq!(table.change("a", |published, _| published.former = [].into()), ["view a.mesh [9]"]);
    table.ack(2, &[ResourceType::MeshView]);
    let rested = table.after(TTL * 2);
    assert!(rested.contains(&NO_CLUSTER.into()), "{rested:?}");
}
