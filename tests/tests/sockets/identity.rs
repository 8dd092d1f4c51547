//! Who is looked at: only sockets of the workloads' cgroup in an enrolled namespace, never the proxy's own, and each pod
//! only with the VIPs of its own view.

use std::net::{TcpListener, TcpStream};

use harness::datapath::{World, route};
use harness::proxy::original_dst;
use harness::wait::wait_until;
use kuma_dns::model::datapath::Datapath;

use crate::client::{Errno, Seen, ask, call, errno, knock, original, udp};
use crate::{MAPPED, V4, V4_OTHER, V6, at, count, own, world};

/// Where a test and an application meet.
const GATE: &str = "127.0.0.1:7171";
/// What the route `unreachable` says, by family.
const UNREACHABLE: [i32; 2] = [libc::EHOSTUNREACH, libc::ENETUNREACH];

#[test]
fn the_proxys_own_connect_to_a_vip_is_not_looped() {
    let mut world = world();
    for vip in [V4, V6, MAPPED] {
        let error = world.as_proxy(0, || knock(vip)).expect_err("nothing routes a VIP");
        assert!(UNREACHABLE.contains(&error), "{vip}: {error}");
    }
    assert_eq!(count(&mut world, "vip_indexed"), 0);
}

#[test]
fn a_proxy_below_the_workloads_cgroup_is_recognised_by_its_own() {
    let mut world = World::builder().vips(&[V4, V6]).proxies_below_workloads().build().expect("a world");
    for vip in [V4, V6] {
        assert_eq!(world.app(0, || call(vip)), Ok(Seen::of(vip, own(&world, vip))));
        let error = world.as_proxy(0, || knock(vip)).expect_err("nothing routes a VIP");
        assert!(UNREACHABLE.contains(&error), "{vip}: {error}");
    }
    assert_eq!(count(&mut world, "proxy"), 2);
    let answer = world.as_proxy(0, || ask(&udp("127.0.0.53:53"), "127.0.0.53:53", "x").is_ok());
    assert!(!answer, "the proxy's own DNS is not captured");
}

#[test]
fn a_proxy_is_recognised_by_its_uid() {
    const UID: u32 = 5_678;
    let world = World::builder().vips(&[V4, V6]).proxy_uid(UID).build().expect("a world");
    for vip in [V4, V6] {
        assert_eq!(world.app(0, || call(vip)), Ok(Seen::of(vip, own(&world, vip))));
        let error = world.app(0, || {
            nix::unistd::setuid(UID.into()).expect("root can become anybody");
            knock(vip)
        });
        assert!(UNREACHABLE.contains(&error.expect_err("nothing routes a VIP")), "{vip}");
    }
}

#[test]
fn another_cgroup_in_the_same_namespace_is_not_touched() {
    let mut world = world();
    for vip in [V4, V6, MAPPED] {
        let error = world.as_stranger(0, || knock(vip)).expect_err("nothing routes a VIP");
        assert!(UNREACHABLE.contains(&error), "{vip}: {error}");
    }
    assert_eq!(count(&mut world, "vip_indexed") + count(&mut world, "vip_tuple"), 0);
}

#[test]
fn a_namespace_that_is_not_enrolled_is_not_touched() {
    let mut world = world();
    let cookie = world.pod(0).netns.cookie();
    world.kernel().withdraw(cookie).expect("a pod can be withdrawn");
    for vip in [V4, V6, MAPPED] {
        let error = world.app(0, || knock(vip)).expect_err("nothing routes a VIP");
        assert!(UNREACHABLE.contains(&error), "{vip}: {error}");
    }
    world.enrol(0).expect("a pod can be enrolled again");
    assert_eq!(world.app(0, || call(V4)), Ok(Seen::of(V4, own(&world, V4))));
}

#[test]
fn plain_connections_are_not_touched() {
    let mut world = world();
    for host in ["127.0.0.1:7070", "[::1]:7070"] {
        let seen: Errno<bool> = world.app(0, || {
            let server = TcpListener::bind(at(host)).map_err(errno)?;
            let client = TcpStream::connect(at(host)).map_err(errno)?;
            let (accepted, from) = server.accept().map_err(errno)?;
            let names = client.peer_addr().map_err(errno)? == at(host)
                && client.local_addr().map_err(errno)? == from
                && accepted.peer_addr().map_err(errno)? == from;
            Ok(names)
        });
        assert_eq!(seen, Ok(true), "{host}");
    }
    let status = world.kernel().status().expect("a status");
    let loud = ["peer_shown", "local_shown", "vip_indexed", "vip_tuple", "dns_connected", "tuple_published"];
    assert!(loud.iter().all(|reason| !status.counters.contains_key(reason)), "{:?}", status.counters);
}

#[test]
fn a_pod_reaches_only_the_vips_of_its_own_view() {
    let mut world = World::builder().pods(2).build().expect("a world");
    for (pod, vip) in [(0, V4), (1, V4_OTHER), (0, V6)] {
        let view = world.pod(pod).view;
        world.kernel().add_route(view, route(vip)).expect("a route can be added");
    }
    assert_eq!(world.app(0, || call(V4)).map(|seen| seen.original), Ok(original(V4)));
    assert_eq!(world.app(1, || call(V4_OTHER)).map(|seen| seen.original), Ok(original(V4_OTHER)));
    for (pod, vip) in [(1, V4), (0, V4_OTHER), (1, V6)] {
        assert_eq!(world.app(pod, || knock(vip)), Err(libc::ECONNREFUSED), "pod {pod} {vip}");
    }
}

#[test]
fn a_removed_route_refuses_and_what_is_connected_still_knows_its_vip() {
    let mut world = world();
    let view = world.pod(0).view;
    for vip in [V4, V6] {
        // The first visitor at the gate learns that the application is connected, the second one lets it look.
        let job = world.start_app(0, move || {
            let client = TcpStream::connect(at(vip)).map_err(errno)?;
            let gate = TcpListener::bind(at(GATE)).map_err(errno)?;
            gate.accept().map_err(errno)?;
            gate.accept().map_err(errno)?;
            client.peer_addr().map_err(errno)
        });
        wait_until(20, "the application is connected", || world.app(0, || knock(GATE)).is_ok());
        world.kernel().remove_route(view, route(vip)).expect("a route can be removed");
        assert_eq!(world.app(0, || knock(GATE)), Ok(()));
        assert_eq!(job.join(), Ok(at(vip)), "{vip}");
        assert_eq!(world.app(0, || knock(vip)), Err(libc::ECONNREFUSED), "{vip}");
    }
}

#[test]
fn so_original_dst_of_other_connections_stays_as_the_kernel_answers_it() {
    let world = world();
    let ask = || -> Errno<[i32; 2]> {
        let server = TcpListener::bind(at("127.0.0.1:7272")).map_err(errno)?;
        let _client = TcpStream::connect(at("127.0.0.1:7272")).map_err(errno)?;
        let (accepted, _from) = server.accept().map_err(errno)?;
        Ok([libc::SOL_IP, libc::SOL_IPV6]
            .map(|level| original_dst(&accepted, level).map_err(errno).err().unwrap_or(0)))
    };
    assert_eq!(world.as_proxy(0, ask), world.as_stranger(0, ask));
}

#[test]
fn other_options_of_the_proxys_sockets_stay_as_they_are() {
    let world = world();
    let options = || -> Errno<Vec<(i32, i32, i32)>> {
        let socket = crate::client::tcp(V4);
        let mut answers = Vec::new();
        for (level, name) in
            [(1, 3), (1, 4), (1, 9), (6, 1), (6, 11), (0, 1), (0, 80), (0, 81), (41, 80), (1, 80), (6, 80)]
        {
            let (result, value) = crate::raw::get_option(&socket, level, name);
            answers.push((name, result, value));
        }
        Ok(answers)
    };
    assert_eq!(world.as_proxy(0, options), world.as_stranger(0, options));
}
