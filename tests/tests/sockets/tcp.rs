//! TCP to a VIP, by every way of connecting: the proxy is told the VIP, getpeername shows it, getsockname shows the pod.

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::connect_unspec;

use crate::client::{Errno, Seen, call, errno, look, tcp, visit};
use crate::{MAPPED, MAPPED_OTHER, V4, V4_OTHER, V6, V6_OTHER, at, count, own, tuples, world};

#[test]
fn a_vip_of_each_family_reaches_the_proxy_and_shows_itself() {
    let world = world();
    for vip in [V4, MAPPED, V6, V4_OTHER, V6_OTHER] {
        assert_eq!(world.app(0, || call(vip)), Ok(Seen::of(vip, own(&world, vip))), "{vip}");
    }
}

#[test]
fn bytes_pass_unchanged_in_both_directions() {
    let world = world();
    for vip in [V4, V6] {
        let same = world.app(0, || {
            let mut stream: TcpStream = tcp(vip).into();
            let sent: Vec<u8> = (0..200_000_u32).map(|n| n.to_le_bytes()[0]).collect();
            socket2::SockRef::from(&stream).connect(&at(vip).into()).map_err(errno)?;
            harness::proxy::read_line(&mut stream).map_err(errno)?;
            let mut writer = stream.try_clone().map_err(errno)?;
            let copy = sent.clone();
            let writing = std::thread::spawn(move || writer.write_all(&copy).is_ok());
            let mut received = vec![0; sent.len()];
            std::io::Read::read_exact(&mut stream, &mut received).map_err(errno)?;
            Ok::<bool, i32>(writing.join().expect("the writer does not panic") && received == sent)
        });
        assert_eq!(same, Ok(true), "{vip}");
    }
}

#[test]
fn an_ipv6_vip_works_on_a_v6only_socket() {
    let world = world();
    let seen = world.app(0, || {
        let socket = tcp(V6);
        socket.set_only_v6(true).map_err(errno)?;
        visit(socket, V6)
    });
    assert_eq!(seen, Ok(Seen::of(V6, own(&world, V6))));
}

#[test]
fn a_socket_bound_to_the_pods_address_keeps_it() {
    let world = world();
    for vip in [V4, V6] {
        let ip = own(&world, vip);
        let seen = world.app(0, || {
            let socket = tcp(vip);
            socket.bind(&SocketAddr::new(ip, 0).into()).map_err(errno)?;
            visit(socket, vip)
        });
        assert_eq!(seen, Ok(Seen::of(vip, ip)), "{vip}");
    }
}

#[test]
fn a_socket_bound_to_loopback_reaches_a_vip() {
    let world = world();
    for (vip, ip) in [(V4, Ipv4Addr::LOCALHOST.into()), (V6, Ipv6Addr::LOCALHOST.into())] {
        let seen = world.app(0, || {
            let socket = tcp(vip);
            socket.bind(&SocketAddr::new(ip, 0).into()).map_err(errno)?;
            visit(socket, vip)
        });
        assert_eq!(seen.map(|seen| seen.original), Ok(crate::client::original(vip)), "{vip}");
    }
}

/// Two connections from one source port; each has a destination of its own.
fn from_one_port(first: &str, second: &str) -> (Errno<Seen>, Errno<Seen>) {
    let open = |port: u16, to: &str| {
        let socket = tcp(to);
        socket.set_reuse_address(true).map_err(errno)?;
        let any = if at(to).is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        socket.bind(&SocketAddr::new(any, port).into()).map_err(errno)?;
        socket.connect(&at(to).into()).map_err(errno)?;
        Ok(socket)
    };
    let one = open(33_333, first);
    let two = open(33_333, second);
    (one.and_then(look), two.and_then(look))
}

#[test]
fn one_source_port_can_reach_two_ipv4_vips() {
    let world = world();
    for (first, second) in [(V4, V4_OTHER), (MAPPED, MAPPED_OTHER)] {
        let seen = world.app(0, || from_one_port(first, second));
        let ip = own(&world, first);
        assert_eq!(seen, (Ok(Seen::of(first, ip)), Ok(Seen::of(second, ip))));
    }
}

#[test]
fn one_source_port_to_two_ipv6_vips_is_refused_in_words_of_the_kernel() {
    // A known limit: all IPv6 VIPs share the destination [::1]:15001.
    let world = world();
    let (first, second) = world.app(0, || from_one_port(V6, V6_OTHER));
    assert_eq!(first, Ok(Seen::of(V6, own(&world, V6))));
    assert_eq!(second, Err(libc::EADDRNOTAVAIL));
}

#[test]
fn a_nonblocking_connect_may_be_repeated_until_it_is_done() {
    let world = world();
    for vip in [V4, MAPPED, V6] {
        let (answers, seen) = world.app(0, || {
            let socket = tcp(vip);
            socket.set_nonblocking(true).expect("a socket can be nonblocking");
            let connect = || socket.connect(&at(vip).into()).map_err(errno).err().unwrap_or(0);
            let first = connect();
            poll(&mut [PollFd::new(&socket, PollFlags::OUT)], None).expect("poll works");
            let answers = [first, connect(), connect()];
            socket.set_nonblocking(false).expect("a socket can be blocking");
            (answers, look(socket))
        });
        assert_eq!(answers, [libc::EINPROGRESS, 0, libc::EISCONN], "{vip}");
        assert_eq!(seen, Ok(Seen::of(vip, own(&world, vip))));
    }
}

#[test]
fn a_socket_that_was_disconnected_reaches_another_vip() {
    // From a mapped address to an IPv6 one is no case: such a socket hangs, with and without us (6.18).
    let world = world();
    for (first, second) in [(V4, V4_OTHER), (V6, V6_OTHER), (V6, MAPPED), (MAPPED, MAPPED_OTHER)] {
        let seen = world.app(0, || {
            let socket = tcp(first);
            socket.connect(&at(first).into()).map_err(errno)?;
            connect_unspec(&socket).map_err(|error| error.raw_os_error())?;
            visit(socket, second)
        });
        assert_eq!(seen, Ok(Seen::of(second, own(&world, second))), "{first}, then {second}");
    }
}

#[test]
fn a_socket_that_goes_on_to_a_plain_host_shows_the_plain_host() {
    let world = world();
    for (vip, host) in [(V6, "[::1]:7777"), (V4, "127.0.0.1:7777"), (MAPPED, "[::ffff:127.0.0.1]:7777")] {
        let seen = world.app(0, || {
            let plain = std::net::TcpListener::bind(at(host)).map_err(errno)?;
            let socket = tcp(vip);
            socket.connect(&at(vip).into()).map_err(errno)?;
            connect_unspec(&socket).map_err(|error| error.raw_os_error())?;
            socket.connect(&at(host).into()).map_err(errno)?;
            let (_accepted, client) = plain.accept().map_err(errno)?;
            let stream = TcpStream::from(socket);
            let own = stream.local_addr().map_err(errno)?;
            Ok::<_, i32>((stream.peer_addr().map_err(errno)?, own == client))
        });
        assert_eq!(seen, Ok((at(host), true)), "{vip}");
    }
}

#[test]
fn a_tuple_never_outlives_its_connect() {
    let mut world = world();
    let done = world.app(0, || (0..200).map(|_| call(V6)).filter(Result::is_ok).count());
    assert_eq!(done, 200);
    assert_eq!(tuples(&mut world), 0);
    assert_eq!(count(&mut world, "tuple_published"), 200);
    assert_eq!(count(&mut world, "tuple_taken"), 200);
}

#[test]
fn a_connection_that_dies_before_the_accept_takes_its_tuple_with_it() {
    let mut world = world();
    world.stop_stand_ins(0);
    let refused = world.app(0, || (0..50).filter(|_| call(V6) == Err(libc::ECONNREFUSED)).count());
    assert_eq!(refused, 50);
    assert_eq!(tuples(&mut world), 0);
    assert_eq!(count(&mut world, "tuple_closed"), 50);
}
