//! Sockets bound to a device: loopback is not there, so a redirected one must be freed from it, or fail at once.

use crate::client::{Errno, Seen, ask, errno, hear, tcp, udp, visit};
use crate::{V4, V4_OTHER, V6, V6_OTHER, at, count};
use harness::datapath::World;
use nix::unistd::setuid;
use std::net::IpAddr;

/// What SO_BINDTODEVICE takes.
const UPLINK: &[u8] = harness::netns::UPLINK.as_bytes();
/// Nobody has CAP_NET_RAW, and so may not unbind.
const NOBODY: u32 = 65_534;

fn world() -> World {
    let builder = World::builder().vips(&[V4, V4_OTHER, V6, V6_OTHER]);
    builder.uplink().build().expect("this machine can run the datapath and has veth")
}

fn own(world: &World, vip: &str) -> IpAddr {
    crate::own(world, vip)
}

#[test]
fn a_socket_bound_to_a_device_reaches_a_vip() {
    let world = world();
    for vip in [V4, V6] {
        let seen = world.app(0, || {
            let socket = tcp(vip);
            socket.bind_device(Some(UPLINK)).map_err(errno)?;
            visit(socket, vip)
        });
        assert_eq!(seen, Ok(Seen::of(vip, own(&world, vip))), "{vip}");
    }
}

#[test]
fn a_socket_bound_to_loopback_stays_bound() {
    let world = world();
    let seen: Errno<(Seen, bool)> = world.app(0, || {
        let socket = tcp(V4);
        socket.bind_device(Some(b"lo")).map_err(errno)?;
        let copy = socket.try_clone().map_err(errno)?;
        let seen = visit(socket, V4)?;
        Ok((seen, copy.device().map_err(errno)?.is_some_and(|name| name.starts_with(b"lo"))))
    });
    assert_eq!(seen, Ok((Seen::of(V4, own(&world, V4)), true)));
}

#[test]
fn a_socket_whose_owner_may_not_unbind_it_fails_at_once() {
    let mut world = world();
    for vip in [V4, V6] {
        let error = world.app(0, || {
            let socket = tcp(vip);
            socket.bind_device(Some(UPLINK)).map_err(errno)?;
            setuid(NOBODY.into()).expect("root can become anybody");
            visit(socket, vip)
        });
        // EPERM where a program cannot name the error (before 5.18).
        let error = error.expect_err("a SYN to loopback would leave by the device and hang");
        assert!([libc::ECONNREFUSED, libc::EPERM].contains(&error), "{vip}: {error}");
    }
    assert_eq!(count(&mut world, "device_refused"), 2);
}

#[test]
fn a_connected_dns_socket_bound_to_a_device_reaches_the_resolver() {
    let world = world();
    let seen = world.app(0, || {
        let socket = udp("8.8.8.8:53");
        socket.bind_device(Some(UPLINK)).map_err(errno)?;
        socket.connect(&at("8.8.8.8:53").into()).map_err(errno)?;
        socket.send(b"q").map_err(errno)?;
        hear(&socket)
    });
    assert_eq!(seen, Ok(("15053 q".to_owned(), at("8.8.8.8:53"))));
}

#[test]
fn an_unconnected_dns_socket_bound_to_a_device_reaches_the_resolver_with_its_retry() {
    let mut world = world();
    // The first datagram is lost: its device was chosen before the hook ran. Where the hook cannot unbind (5.10) the
    // socket is left alone, and the counter says so.
    let seen = world.app(0, || {
        let socket = udp("8.8.8.8:53");
        socket.bind_device(Some(UPLINK)).map_err(errno)?;
        socket.send_to(b"lost", &at("8.8.8.8:53").into()).map_err(errno)?;
        let freed = socket.device().map_err(errno)?.is_none();
        if freed { ask(&socket, "8.8.8.8:53", "q").map(Some) } else { Ok(None) }
    });
    match seen.expect("a datagram can be sent") {
        Some(reply) => assert_eq!(reply, ("15054 q".to_owned(), at("8.8.8.8:53"))),
        None => assert_eq!(count(&mut world, "device_left"), 1),
    }
}
