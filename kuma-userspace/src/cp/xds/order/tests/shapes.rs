//! The order in the compact shape, and while a VIP changes from one shape to the other. Part of order's tests.

use super::*;

const CLUSTER: &str = "outbound:240.0.0.1:80";
const CLUSTER_OF_A: &str = "cluster outbound:240.0.0.1:80 a";
const NO_CLUSTER: &str = "no cluster outbound:240.0.0.1:80";

impl Table {
    /// The operator wants another shape of the same mesh.
    fn reshape(&mut self, outbounds: Outbounds) -> Vec<String> {
        self.outbounds = outbounds;
        let mesh = MeshSnapshot { outbounds, ..(**self.order.wanted.as_ref().unwrap()).clone() };
        self.step(Event::Wanted(Some(Arc::new(mesh))))
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
    assert_eq!(table.after(SETTLE - MOMENT), NOTHING);
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
    assert_eq!(table.after(SETTLE - MOMENT), NOTHING);
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
    let refusal = Refusal { version: "1".into(), reason: "no".into() };
    let proxy = table.clients.get_mut(&1).unwrap();
    proxy.progress.refused.insert((ResourceType::Cluster, CLUSTER.into()), refusal);
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
    let mut mesh = (**table.order.wanted.as_ref().unwrap()).clone();
    mesh.services.get_mut("a").unwrap().ports.insert(Port::new(81));
    assert_eq!(table.step(Event::Wanted(Some(Arc::new(mesh)))), ["cluster outbound:240.0.0.1:81 a"]);
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
    let renumbered = |table: &Table, services| {
        let ranges = vec!["241.0.0.0/8".parse().unwrap()];
        let last = (**table.order.wanted.as_ref().unwrap()).clone();
        Event::Wanted(Some(Arc::new(MeshSnapshot { ranges, services, ..last })))
    };
    let event = renumbered(&table, BTreeMap::new());
    table.order.entrance.ranges = vec!["240.0.0.0/8".parse().unwrap()];
    table.step(event);
    assert_eq!(table.order.entrance.ranges.len(), 2, "the old VIP still leads somewhere");
    table.ack(2, &[ResourceType::MeshView]);
    table.after(TTL * 2);
    assert_eq!(table.order.entrance.ranges, ["241.0.0.0/8".parse::<IpNetwork>().unwrap()]);
}
