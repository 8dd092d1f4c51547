//! What must not connect: everything inside the VIP ranges that is no VIP of the pod's view, and the indexed loopback
//! addresses behind IPv4 VIPs. Refused at once, never leaked.

use nix::sys::utsname::uname;
use rustix::event::{PollFd, PollFlags, poll};

use crate::client::{Errno, call, errno, knock, tcp, udp};
use crate::{MAPPED, V4, V6, at, count, world};

/// In range, but no VIP; or a VIP with another port.
const UNKNOWN: [&str; 6] = [
    "240.0.0.9:80",
    "240.0.0.1:81",
    "[::ffff:240.0.0.9]:80",
    "[::ffff:240.0.0.1]:81",
    "[fd00:fd00::9]:80",
    "[fd00:fd00::1]:81",
];

/// Can a program name the error of a refused call? (bpf_set_retval, 5.18)
fn names_errors() -> bool {
    let release = uname().expect("uname works");
    let release = release.release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(5), Some(18))
}

/// What a refused call says that is not TCP.
fn refusal() -> i32 {
    if names_errors() { libc::ECONNREFUSED } else { libc::EPERM }
}

#[test]
fn an_unknown_vip_or_port_is_refused() {
    let mut world = world();
    for to in UNKNOWN {
        assert_eq!(world.app(0, || knock(to)), Err(libc::ECONNREFUSED), "{to}");
    }
    assert_eq!(count(&mut world, "vip_unknown"), 6);
}

#[test]
fn an_unknown_ipv6_vip_is_refused_on_a_v6only_socket() {
    let world = world();
    let refused = world.app(0, || {
        let socket = tcp("[fd00:fd00::9]:80");
        socket.set_only_v6(true).map_err(errno)?;
        socket.connect(&at("[fd00:fd00::9]:80").into()).map_err(errno)
    });
    assert_eq!(refused, Err(libc::ECONNREFUSED));
}

#[test]
fn a_nonblocking_connect_to_an_unknown_vip_hears_of_it_too() {
    let world = world();
    for to in UNKNOWN {
        let (first, last) = world.app(0, || {
            let socket = tcp(to);
            socket.set_nonblocking(true).expect("a socket can be nonblocking");
            let first = socket.connect(&at(to).into()).map_err(errno).err().unwrap_or(0);
            if first != libc::EINPROGRESS {
                return (first, first);
            }
            poll(&mut [PollFd::new(&socket, PollFlags::OUT)], None).expect("poll works");
            let last = socket.take_error().expect("SO_ERROR exists").map_or(0, errno);
            (first, last)
        });
        assert_eq!(last, libc::ECONNREFUSED, "{to}");
        if names_errors() {
            assert_eq!(first, libc::ECONNREFUSED, "{to}: at once");
        }
    }
}

#[test]
fn a_dead_proxy_refuses_every_vip() {
    let mut world = world();
    world.stop_stand_ins(0);
    for vip in [V4, MAPPED, V6] {
        assert_eq!(world.app(0, || knock(vip)), Err(libc::ECONNREFUSED), "{vip}");
    }
}

#[test]
fn udp_into_a_vip_range_is_refused() {
    let world = world();
    let connect = |to: &str| udp(to).connect(&at(to).into()).map_err(errno);
    let dead_end = |to: &str| -> Errno<usize> {
        let socket = udp(to);
        socket.connect(&at(to).into()).map_err(errno)?;
        // The first datagram's refusal comes back to the next call.
        socket.send(b"x").map_err(errno)?;
        socket.send(b"x").map_err(errno)
    };
    let send = |to: &str| udp(to).send_to(b"x", &at(to).into()).map(|_sent| ()).map_err(errno);
    for to in [V4, MAPPED, V6, "240.0.0.9:53", "[fd00:fd00::9]:53", "240.0.0.9:443"] {
        if at(to).is_ipv6() && to != MAPPED {
            assert_eq!(world.app(0, || connect(to)), Err(refusal()), "connect {to}");
        } else {
            // A v6 socket looks at the port itself.
            let refused = if to == MAPPED { libc::EINVAL } else { libc::ECONNREFUSED };
            assert_eq!(world.app(0, || dead_end(to)), Err(refused), "connect and send {to}");
        }
        assert_eq!(world.app(0, || send(to)), Err(refusal()), "sendto {to}");
    }
}

#[test]
fn a_broadcast_is_nobodys_vip() {
    let mut world = world();
    let sent = world.app(0, || {
        let socket = udp("255.255.255.255:67");
        socket.set_broadcast(true).map_err(errno)?;
        socket.send_to(b"discover", &at("255.255.255.255:67").into()).map_err(errno)
    });
    // The namespace may have no route for it; what counts is that the refusal was not ours.
    assert!(sent != Err(libc::ECONNREFUSED) && sent != Err(libc::EPERM), "{sent:?}");
    assert_eq!(count(&mut world, "vip_not_tcp"), 0);
}

#[test]
fn an_application_cannot_pick_an_index() {
    let mut world = world();
    assert!(world.app(0, || call(V4)).is_ok());
    for to in ["127.64.0.1:15001", "127.64.0.2:15001", "127.127.255.255:15001", "[::ffff:127.64.0.1]:15001"] {
        assert_eq!(world.app(0, || knock(to)), Err(libc::ECONNREFUSED), "{to}");
    }
    assert_eq!(count(&mut world, "index_forged"), 4);
}

#[test]
fn other_ports_of_the_indexed_range_belong_to_the_application() {
    let world = world();
    let seen: Errno<bool> = world.app(0, || {
        let server = std::net::TcpListener::bind(at("127.64.0.1:8080")).map_err(errno)?;
        let client = std::net::TcpStream::connect(at("127.64.0.1:8080")).map_err(errno)?;
        let (accepted, from) = server.accept().map_err(errno)?;
        let peer = client.peer_addr().map_err(errno)?;
        let own = client.local_addr().map_err(errno)?;
        Ok(peer == at("127.64.0.1:8080") && own == from && accepted.local_addr().map_err(errno)? == peer)
    });
    assert_eq!(seen, Ok(true));
}
