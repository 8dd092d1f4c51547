//! Rarer ways to connect: TCP Fast Open in both styles, MPTCP, io_uring.

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::TcpFastOpenConnect;
use socket2::{Domain, Protocol, Socket, Type};
use std::io::Write;
use std::net::TcpStream;

use crate::client::{Errno, Seen, errno, look, name, original, patient, tcp};
use crate::{MAPPED, V4, V6, at, own, raw, world};

#[test]
fn fast_open_by_sendto_reaches_the_proxy() {
    let world = world();
    for vip in [V4, MAPPED, V6] {
        let seen = world.app(0, || {
            let socket = tcp(vip);
            socket.send_to_with_flags(b"early", &at(vip).into(), libc::MSG_FASTOPEN).map_err(errno)?;
            look(socket)
        });
        assert_eq!(seen, Ok(Seen::of(vip, own(&world, vip))), "{vip}");
    }
}

#[test]
fn fast_open_by_connect_reaches_the_proxy() {
    let world = world();
    for vip in [V4, MAPPED, V6] {
        let seen = world.app(0, || {
            let socket = tcp(vip);
            setsockopt(&socket, TcpFastOpenConnect, &true).map_err(|error| error as i32)?;
            socket.connect(&at(vip).into()).map_err(errno)?;
            let mut stream = TcpStream::from(socket);
            stream.write_all(b"early").map_err(errno)?;
            look(stream.into())
        });
        assert_eq!(seen, Ok(Seen::of(vip, own(&world, vip))), "{vip}");
    }
}

/// An MPTCP socket; a kernel without it says so.
fn mptcp(to: &str) -> Socket {
    let kind = Domain::for_address(at(to));
    let socket = Socket::new(kind, Type::STREAM, Some(Protocol::MPTCP))
        .unwrap_or_else(|error| panic!("cannot run here: this kernel has no MPTCP: {error}"));
    patient(&socket);
    socket
}

#[test]
fn mptcp_to_an_ipv4_vip_is_as_tcp() {
    let world = world();
    for vip in [V4, MAPPED] {
        let seen = world.app(0, || crate::client::visit(mptcp(vip), vip));
        assert_eq!(seen, Ok(Seen::of(vip, own(&world, vip))), "{vip}");
    }
}

#[test]
fn mptcp_to_an_ipv6_vip_reaches_the_proxy_but_shows_loopback() {
    // A known limit: the memory is on the TCP subflow, getpeername asks the MPTCP socket.
    let world = world();
    let seen: Errno<(String, bool)> = world.app(0, || {
        let socket = mptcp(V6);
        socket.connect(&at(V6).into()).map_err(errno)?;
        let loopback = name(socket.peer_addr())? == at("[::1]:15001");
        Ok((look(socket)?.original, loopback))
    });
    assert_eq!(seen, Ok((original(V6), true)));
}

#[test]
fn io_uring_connects_as_any_other() {
    let world = world();
    for vip in [V4, MAPPED, V6] {
        let seen = world.app(0, || {
            let socket = tcp(vip);
            match raw::uring_connect(&socket, at(vip), false)
                .expect("cannot run here: this kernel has no io_uring")
            {
                0 => look(socket),
                error => Err(-error),
            }
        });
        assert_eq!(seen, Ok(Seen::of(vip, own(&world, vip))), "{vip}");
    }
    let refused = world.app(0, || {
        raw::uring_connect(&tcp("240.0.0.9:80"), at("240.0.0.9:80"), false).expect("io_uring, as above")
    });
    assert_eq!(refused, -libc::ECONNREFUSED);
}

#[test]
fn io_uring_sqpoll_connects_as_any_other() {
    let world = world();
    for vip in [V4, V6] {
        let seen = world.app(0, || {
            let socket = tcp(vip);
            let result = raw::uring_connect(&socket, at(vip), true);
            match result
                .expect("cannot run here: this kernel's io_uring has no SQPOLL for plain files (before 5.11)")
            {
                0 => look(socket),
                error => Err(-error),
            }
        });
        assert_eq!(seen, Ok(Seen::of(vip, own(&world, vip))), "{vip}");
    }
}
