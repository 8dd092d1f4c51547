//! The order as tables: what happens, when, and what must follow. Part of order.

mod shapes;
mod table;

use self::table::{Table, address, host, name, refuse, service};
use super::lines::{CLUSTER_LIMIT, PROXY_LIMIT, SETTLE, SETTLE_COMPACT};
use super::*;
use crate::cp::snapshot::{Listener, Outbounds, Protocol, Published};
use crate::wire::node::Role;

const TTL: Duration = Duration::from_secs(60);
const PROXY: [ResourceType; 3] = [ResourceType::Cluster, ResourceType::Endpoints, ResourceType::Listener];
const MOMENT: Duration = Duration::from_millis(1);
const NOTHING: [&str; 0] = [];

#[test]
fn a_service_comes_cluster_first_then_listener_then_view() {
    let mut table = Table::settled(&[]);
    assert_eq!(table.want(&[("a", 1, 1)]), ["cluster a", "endpoints a 1"]);
    assert_eq!(table.after(MOMENT), NOTHING);
    assert_eq!(table.ack(1, &[ResourceType::Cluster]), ["listener 1 a"]);
    assert_eq!(table.ack(1, &[ResourceType::Listener]), NOTHING);
    assert_eq!(table.after(SETTLE - MOMENT), NOTHING);
    assert_eq!(table.after(MOMENT), ["view a.mesh [1]"]);
}

#[test]
fn a_service_goes_view_first_then_two_ttls_then_listener_then_cluster() {
    let mut table = Table::settled(&[("a", 1, 1), ("b", 2, 1)]);
    assert_eq!(table.want(&[("b", 2, 1)]), ["view b.mesh [2]"]);
    assert_eq!(table.ack(2, &[ResourceType::MeshView]), NOTHING);
    assert_eq!(table.after(TTL * 2 - MOMENT), NOTHING);
    assert_eq!(table.after(MOMENT), ["no listener 1", "strangers"]);
    assert_eq!(table.ack(1, &[ResourceType::Listener]), ["no cluster a", "no endpoints a"]);
}

#[test]
fn a_change_of_endpoints_touches_nothing_else() {
    let mut table = Table::settled(&[("a", 1, 1)]);
    assert_eq!(table.want(&[("a", 1, 2)]), ["endpoints a 2"]);
    assert_eq!(table.ack(1, &PROXY), NOTHING);
}

#[test]
fn a_service_whose_endpoints_are_looked_up_gets_another_cluster_when_they_change() {
    let mut table = Table::settled(&[("a", 1, 1), ("b", 2, 1)]);
    let looks_up = |text: &'static str| {
        move |_: &mut Published, listener: &mut Listener| listener.endpoints = [host(text)].into()
    };
    assert_eq!(table.change("a", looks_up("one.org")), ["cluster a a looks up one.org:80"]);
    table.ack(1, &PROXY);
    assert_eq!(table.change("a", looks_up("two.org")), ["cluster a a looks up two.org:80"]);
    assert_eq!(table.ack(1, &PROXY), NOTHING, "agents see nothing of it");
    assert_eq!(
        table.change("a", |_, listener| listener.endpoints = [address(7)].into()),
        ["cluster a", "endpoints a 7"]
    );
    // On its way out it follows no more, and its cluster goes with it.
    assert_eq!(table.change("a", looks_up("one.org")), ["cluster a a looks up one.org:80"]);
    assert_eq!(table.want(&[("b", 2, 1)]), ["view b.mesh [2]"]);
    table.ack(2, &[ResourceType::MeshView]);
    table.after(TTL * 2);
    assert_eq!(table.ack(1, &PROXY), ["no cluster a", "no endpoints a"]);
}

#[test]
fn a_change_of_protocol_changes_the_listener_in_place() {
    let mut table = Table::settled(&[("a", 1, 1)]);
    assert_eq!(table.change("a", |_, listener| listener.protocol = Protocol::Http), ["listener 1 a"]);
    assert_eq!(table.ack(1, &PROXY), NOTHING, "agents see no difference");
}

#[test]
fn without_a_proxy_nothing_new_is_published_and_the_operator_reads_why() {
    let mut table = Table::new();
    let first = table.want(&[("a", 1, 1)]);
    assert_eq!(first, ["entrance 240.0.0.0/4", "cluster a", "endpoints a 1", "listener 1 a"]);
    assert_eq!(table.connect(2, Role::Agent), NOTHING);
    assert_eq!(table.after(PROXY_LIMIT * 10), NOTHING);
    assert_eq!(
        table.order.waiting(),
        ["waiting for a proxy: none is connected, listeners that wait for one: 1"]
    );
    table.connect(1, Role::Proxy);
    assert_eq!(table.ack(1, &PROXY), NOTHING);
    assert_eq!(table.after(SETTLE), ["view a.mesh [1]"]);
    assert!(table.order.waiting().is_empty());
    // Without its proxy a VIP stays: the stack refuses at once, and the proxy comes back.
    assert_eq!(table.leave(1), NOTHING);
}

#[test]
fn an_empty_mesh_is_published_at_once() {
    assert_eq!(Table::new().want(&[]), ["entrance 240.0.0.0/4", "view  []"]);
}

#[test]
fn the_first_view_waits_until_everything_in_it_works() {
    let mut table = Table::new();
    table.want(&[("a", 1, 1)]);
    table.connect(1, Role::Proxy);
    table.ack(1, &PROXY);
    assert_eq!(table.want(&[("a", 1, 1), ("b", 2, 1)]), ["cluster b", "endpoints b 1"]);
    assert_eq!(table.after(SETTLE), NOTHING, "a works, b does not yet");
    assert_eq!(table.ack(1, &PROXY), ["listener 2 b"]);
    assert_eq!(table.ack(1, &PROXY), NOTHING);
    assert_eq!(table.after(SETTLE), ["view a.mesh,b.mesh [1,2]"]);
}

#[test]
fn every_proxy_of_the_view_must_have_the_listener() {
    let mut table = Table::settled(&[]);
    table.connect(3, Role::Proxy);
    table.ack(3, &PROXY);
    table.want(&[("a", 1, 1)]);
    assert_eq!(table.ack(1, &PROXY), NOTHING, "the cluster waits for both");
    assert_eq!(table.ack(3, &PROXY), ["listener 1 a"]);
    assert_eq!(table.ack(1, &PROXY), NOTHING);
    assert_eq!(table.after(SETTLE * 2), NOTHING, "one is not all");
    assert_eq!(table.ack(3, &PROXY), NOTHING);
    assert_eq!(table.after(SETTLE), ["view a.mesh [1]"]);
}

#[test]
fn a_proxy_that_is_gone_or_stuck_does_not_hold_the_others_back_for_ever() {
    let mut gone = Table::settled(&[]);
    gone.connect(3, Role::Proxy);
    gone.want(&[("a", 1, 1)]);
    gone.ack(1, &PROXY);
    assert_eq!(gone.leave(3), ["listener 1 a"]);

    let mut stuck = Table::settled(&[]);
    stuck.connect(3, Role::Proxy);
    stuck.want(&[("a", 1, 1)]);
    stuck.ack(1, &PROXY);
    assert_eq!(stuck.after(CLUSTER_LIMIT), ["overdue 3 cluster", "listener 1 a"]);
    assert_eq!(stuck.ack(1, &PROXY), NOTHING);
    assert_eq!(stuck.after(PROXY_LIMIT - MOMENT), NOTHING);
    assert_eq!(stuck.after(MOMENT), ["overdue 3 listener"]);
    assert_eq!(stuck.after(SETTLE), ["view a.mesh [1]"]);
}

#[test]
fn the_only_proxy_is_waited_for_however_long_it_takes() {
    let mut table = Table::settled(&[]);
    table.want(&[("a", 1, 1)]);
    assert_eq!(table.after(CLUSTER_LIMIT), ["overdue 1 cluster", "listener 1 a"]);
    assert_eq!(table.after(PROXY_LIMIT * 2), ["overdue 1 listener"]);
    assert_eq!(table.after(PROXY_LIMIT), NOTHING);
    assert_eq!(table.order.waiting(), [r#"waiting for proxy "node-1", listeners that it has not taken: 1"#]);
    table.ack(1, &PROXY);
    assert_eq!(table.after(SETTLE), ["view a.mesh [1]"]);
}

#[test]
fn a_refused_listener_is_held_back_alone_and_named() {
    let mut table = Table::settled(&[]);
    table.want(&[("a", 1, 1), ("b", 2, 1)]);
    table.ack(1, &[ResourceType::Cluster]);
    assert_eq!(table.refuse(1, "outbound:240.0.0.1:80"), NOTHING);
    assert_eq!(table.after(SETTLE), ["view b.mesh [2]"]);
    assert_eq!(table.order.waiting(), [r#"proxy "node-1" refuses outbound:240.0.0.1:80"#]);
    assert_eq!(table.order.progress(), (1, 2));
}

#[test]
fn a_refused_listener_does_not_hold_the_first_view_back() {
    let mut table = Table::new();
    table.want(&[("a", 1, 1), ("b", 2, 1)]);
    table.connect(1, Role::Proxy);
    table.ack(1, &[ResourceType::Cluster]);
    table.refuse(1, "outbound:240.0.0.1:80");
    assert_eq!(table.after(SETTLE), ["view b.mesh [2]"]);
}

#[test]
fn while_envoy_cannot_take_its_port_nothing_is_published() {
    let mut table = Table::new();
    table.want(&[("a", 1, 1)]);
    table.connect(1, Role::Proxy);
    table.ack(1, &[ResourceType::Cluster]);
    table.refuse(1, "outbound:original-destination:ipv4");
    assert_eq!(table.after(PROXY_LIMIT * 2), NOTHING);
    assert_eq!(table.order.waiting(), [r#"proxy "node-1" refuses outbound:original-destination:ipv4"#]);
}

#[test]
fn a_machine_without_ipv6_gets_its_ipv4_names() {
    let mut table = Table::settled(&[]);
    let mut service = service("a", 1, 1);
    service.addresses.v6 = Some("fd00:fd00::1".parse().unwrap());
    table.want_mesh(OrdMap::unit("a".into(), service), Outbounds::Auto);
    table.ack(1, &[ResourceType::Cluster]);
    table.refuse(1, "outbound:original-destination:ipv6");
    assert_eq!(table.after(SETTLE), ["view a.mesh [1]"]);
}

#[test]
fn an_agent_that_does_not_answer_delays_a_removal_only_so_long() {
    let mut table = Table::settled(&[("a", 1, 1)]);
    assert_eq!(table.want(&[]), ["view  []"]);
    assert_eq!(table.after(AGENT_LIMIT - MOMENT), NOTHING);
    assert_eq!(table.after(MOMENT), ["overdue 2 mesh view"]);
    let rest = table.after(TTL * 2);
    assert!(rest.contains(&"no listener 1".into()), "{rest:?}");
}

#[test]
fn an_agent_that_refuses_a_view_counts_as_one_that_does_not_answer() {
    let mut table = Table::settled(&[("a", 1, 1)]);
    table.want(&[]);
    refuse(table.clients.get_mut(&2).unwrap(), ResourceType::MeshView, "default");
    assert_eq!(table.ack(2, &[ResourceType::MeshView]), NOTHING);
    assert_eq!(table.after(AGENT_LIMIT - MOMENT), NOTHING);
    assert_eq!(table.after(MOMENT), ["overdue 2 mesh view"]);
}

#[test]
fn a_service_that_comes_back_while_it_rests_needs_no_new_listener() {
    let mut table = Table::settled(&[("a", 1, 1)]);
    table.want(&[]);
    table.ack(2, &[ResourceType::MeshView]);
    assert_eq!(table.after(TTL), NOTHING);
    assert_eq!(table.want(&[("a", 1, 1)]), ["view a.mesh [1]"]);
    table.ack(2, &[ResourceType::MeshView]);
    assert_eq!(table.after(TTL * 4), ["strangers"], "the listener stays");
}

#[test]
fn a_vip_that_moves_to_another_service_leaves_the_first_before_it_comes_to_the_second() {
    let mut table = Table::settled(&[("a", 1, 1)]);
    assert_eq!(table.want(&[("b", 1, 1)]), ["endpoints b 1", "view  []"]);
    table.ack(2, &[ResourceType::MeshView]);
    table.ack(1, &PROXY);
    let rested = table.after(TTL * 2);
    assert!(rested.contains(&"no listener 1".into()), "{rested:?}");
    assert_eq!(table.ack(1, &PROXY), ["no cluster a", "no endpoints a", "cluster b"]);
    assert_eq!(table.ack(1, &PROXY), ["listener 1 b"]);
    table.ack(1, &PROXY);
    assert_eq!(table.after(SETTLE), ["view b.mesh [1]"]);
}

#[test]
fn a_mesh_that_is_gone_takes_its_services_out_in_order() {
    let mut table = Table::settled(&[("a", 1, 1)]);
    assert_eq!(table.step(Event::Wanted(None)), ["view  []"]);
    table.ack(2, &[ResourceType::MeshView]);
    let rested = table.after(TTL * 2);
    assert!(rested.contains(&"no listener 1".into()), "{rested:?}");
}

#[test]
fn what_an_earlier_control_plane_left_in_a_proxy_goes_two_ttls_after_agents_have_the_first_view() {
    let mut table = Table::new();
    table.want(&[("a", 1, 1)]);
    table.connect(1, Role::Proxy);
    table.connect(2, Role::Agent);
    table.ack(1, &PROXY);
    assert_eq!(table.after(SETTLE), ["view a.mesh [1]"]);
    table.ack(2, &[ResourceType::MeshView]);
    assert_eq!(table.after(TTL * 2 - MOMENT), NOTHING);
    assert_eq!(table.after(MOMENT), ["strangers"]);
    assert_eq!(table.after(TTL * 2), NOTHING, "once");
}
