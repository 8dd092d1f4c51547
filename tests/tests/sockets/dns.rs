//! DNS: whatever socket asks whatever nameserver, the resolver hears it, and the application sees a reply from the server
//! that it asked. The stand-in resolver answers `<its port> <the question>`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};

use rustix::net::connect_unspec;
use socket2::{Domain, Protocol, Socket, Type};

use crate::client::{Errno, ask, errno, hear, name, tcp, udp};
use crate::{at, count, own, raw, world};

/// Nameservers far away, of each kind, and those that live on loopback.
const SERVERS: [&str; 7] = [
    "8.8.8.8:53",
    "[2001:db8::53]:53",
    "[::ffff:8.8.8.8]:53",
    "127.0.0.53:53",
    "127.0.0.11:53",
    "127.0.0.1:53",
    "[::1]:53",
];

/// What one question on a connected socket shows: the reply, its source, the peer, the own address.
fn connected(socket: &Socket, server: &str) -> Errno<(String, SocketAddr, SocketAddr, IpAddr)> {
    socket.connect(&at(server).into()).map_err(errno)?;
    socket.send(b"q").map_err(errno)?;
    let (reply, from) = hear(socket)?;
    Ok((reply, from, name(socket.peer_addr())?, name(socket.local_addr())?.ip()))
}

#[test]
fn a_connected_socket_hears_the_server_that_it_asked() {
    let world = world();
    for server in SERVERS {
        let seen = world.app(0, || connected(&udp(server), server));
        let ip = own(&world, server);
        assert_eq!(seen, Ok(("15053 q".to_owned(), at(server), at(server), ip)), "{server}");
    }
}

#[test]
fn an_unconnected_socket_hears_the_server_that_it_asked() {
    let world = world();
    for server in SERVERS {
        let seen = world.app(0, || ask(&udp(server), server, "q"));
        assert_eq!(seen, Ok(("15054 q".to_owned(), at(server))), "{server}");
    }
}

#[test]
fn four_servers_on_one_socket_are_told_apart() {
    let world = world();
    let servers = ["8.8.8.8:53", "9.9.9.9:53", "127.0.0.53:53", "1.1.1.1:53"];
    let seen = world.app(0, || {
        let socket = udp(servers[0]);
        for server in servers {
            socket.send_to(server.as_bytes(), &at(server).into()).map_err(errno)?;
        }
        (0..servers.len()).map(|_| hear(&socket)).collect::<Errno<Vec<_>>>()
    });
    let mut seen = seen.expect("four replies");
    seen.sort();
    let all: Vec<_> =
        servers.iter().zip(15_054..).map(|(server, port)| (format!("{port} {server}"), at(server))).collect();
    assert_eq!(seen, all);
}

#[test]
fn a_fifth_server_takes_over_the_oldest_slot() {
    let world = world();
    let seen = world.app(0, || {
        let socket = udp("8.8.8.1:53");
        (1..=5).map(|n| ask(&socket, &format!("8.8.8.{n}:53"), "q")).collect::<Errno<Vec<_>>>()
    });
    let ports = [15_054, 15_055, 15_056, 15_057, 15_054];
    let all: Vec<_> =
        ports.iter().zip(1..).map(|(port, n)| (format!("{port} q"), at(&format!("8.8.8.{n}:53")))).collect();
    assert_eq!(seen, Ok(all));
}

#[test]
fn servers_of_both_families_share_one_socket() {
    let world = world();
    let servers = ["[::ffff:8.8.8.8]:53", "[2001:db8::53]:53"];
    let seen = world.app(0, || {
        let socket = udp(servers[1]);
        Ok::<_, i32>(servers.map(|server| ask(&socket, server, "q").map(|(_text, from)| from)))
    });
    assert_eq!(seen, Ok(servers.map(|server| Ok(at(server)))));
}

#[test]
fn an_ipv4_address_on_an_ipv6_socket_is_captured() {
    let world = world();
    let seen = world.app(0, || ask(&udp("[::1]:53"), "8.8.8.8:53", "q"));
    assert_eq!(seen, Ok(("15054 q".to_owned(), at("[::ffff:8.8.8.8]:53"))));
    let seen = world.app(0, || connected(&udp("[::1]:53"), "8.8.8.8:53"));
    assert_eq!(seen.map(|(text, from, peer, _own)| (text, from, peer)), {
        let mapped = at("[::ffff:8.8.8.8]:53");
        Ok(("15053 q".to_owned(), mapped, mapped))
    });
}

#[test]
fn a_socket_that_was_disconnected_asks_another_server() {
    let world = world();
    for (first, second) in [("8.8.8.8:53", "9.9.9.9:53"), ("[2001:db8::1]:53", "[2001:db8::2]:53")] {
        let seen = world.app(0, || {
            let socket = udp(first);
            connected(&socket, first)?;
            connect_unspec(&socket).map_err(|error| error.raw_os_error())?;
            let unconnected = ask(&socket, second, "u")?;
            Ok::<_, i32>((unconnected, connected(&socket, second)?))
        });
        let ip = own(&world, second);
        let reply = ("15053 q".to_owned(), at(second), at(second), ip);
        assert_eq!(seen, Ok((("15054 u".to_owned(), at(second)), reply)), "{first}, then {second}");
    }
}

#[test]
fn a_socket_that_connects_on_to_a_plain_host_shows_the_plain_host() {
    let world = world();
    let seen = world.app(0, || {
        let server = std::net::UdpSocket::bind(at("127.0.0.1:6060")).map_err(errno)?;
        let socket = udp("8.8.8.8:53");
        connected(&socket, "8.8.8.8:53")?;
        socket.connect(&at("127.0.0.1:6060").into()).map_err(errno)?;
        socket.send(b"x").map_err(errno)?;
        let mut buffer = [0; 8];
        let (_size, from) = server.recv_from(&mut buffer).map_err(errno)?;
        server.send_to(b"y", from).map_err(errno)?;
        Ok::<_, i32>((hear(&socket)?.1, name(socket.peer_addr())?, name(socket.local_addr())? == from))
    });
    assert_eq!(seen, Ok((at("127.0.0.1:6060"), at("127.0.0.1:6060"), true)));
}

#[test]
fn a_connected_socket_may_name_its_server_again() {
    let world = world();
    for server in ["8.8.8.8:53", "[2001:db8::53]:53", "[::ffff:8.8.8.8]:53"] {
        let seen = world.app(0, || {
            let socket = udp(server);
            socket.connect(&at(server).into()).map_err(errno)?;
            ask(&socket, server, "q")
        });
        assert_eq!(seen, Ok(("15053 q".to_owned(), at(server))), "{server}");
    }
}

#[test]
fn a_connected_socket_that_names_another_server_does_not_mistake_the_reply() {
    // Without us the reply of another server would be dropped by the kernel, and so it is with us.
    let world = world();
    let seen = world.app(0, || {
        let socket = udp("8.8.8.8:53");
        socket.connect(&at("8.8.8.8:53").into()).map_err(errno)?;
        socket.send_to(b"other", &at("9.9.9.9:53").into()).map_err(errno)?;
        socket.send(b"mine").map_err(errno)?;
        hear(&socket)
    });
    assert_eq!(seen, Ok(("15053 mine".to_owned(), at("8.8.8.8:53"))));
}

#[test]
fn sendmmsg_asks_several_servers_and_keeps_the_callers_addresses() {
    let world = world();
    for servers in [["8.8.8.8:53", "9.9.9.9:53"], ["[2001:db8::1]:53", "[2001:db8::2]:53"]] {
        let seen = world.app(0, || {
            let socket = udp(servers[0]);
            let untouched = raw::send_many(&socket, &servers.map(at), b"q").map_err(errno)?;
            let mut sources = [hear(&socket)?.1, hear(&socket)?.1];
            sources.sort();
            Ok::<_, i32>((untouched, sources))
        });
        assert_eq!(seen, Ok((true, servers.map(at))));
    }
}

#[test]
fn sendmmsg_on_a_connected_socket_asks_its_server() {
    // What glibc does with A and AAAA.
    let world = world();
    for server in ["8.8.8.8:53", "[::ffff:8.8.8.8]:53", "[2001:db8::53]:53"] {
        let seen = world.app(0, || {
            let socket = udp(server);
            socket.connect(&at(server).into()).map_err(errno)?;
            raw::send_many_connected(&socket, &[b"a", b"aaaa"]).map_err(errno)?;
            Ok::<_, i32>([hear(&socket)?, hear(&socket)?])
        });
        let all = ["a", "aaaa"].map(|text| (format!("15053 {text}"), at(server)));
        assert_eq!(seen, Ok(all), "{server}");
    }
}

#[test]
fn tcp_to_port_53_reaches_the_resolver() {
    let world = world();
    for server in SERVERS {
        let seen = world.app(0, || {
            let socket = tcp(server);
            socket.connect(&at(server).into()).map_err(errno)?;
            let (peer, own) = (name(socket.peer_addr())?, name(socket.local_addr())?.ip());
            let line = harness::proxy::read_line(&mut TcpStream::from(socket)).map_err(errno)?;
            Ok::<_, i32>((line, peer, own))
        });
        let ip = own(&world, server);
        assert_eq!(seen, Ok(("resolver".to_owned(), at(server), ip)), "{server}");
    }
}

#[test]
fn a_socket_bound_to_the_pods_address_asks_as_any_other() {
    let world = world();
    for server in ["8.8.8.8:53", "[2001:db8::53]:53"] {
        let ip = own(&world, server);
        let seen = world.app(0, || {
            let open = || {
                let socket = udp(server);
                socket.bind(&SocketAddr::new(ip, 0).into()).map_err(errno)?;
                Ok::<_, i32>(socket)
            };
            Ok::<_, i32>((connected(&open()?, server)?.1, ask(&open()?, server, "q")?.1))
        });
        assert_eq!(seen, Ok((at(server), at(server))), "{server}");
    }
}

#[test]
fn a_nameserver_on_loopback_stays_reachable_for_the_resolver() {
    let world = world();
    let server = world.start_app(0, || {
        let stub = std::net::UdpSocket::bind(at("127.0.0.53:53")).map_err(errno)?;
        let mut buffer = [0; 64];
        let (size, from) = stub.recv_from(&mut buffer).map_err(errno)?;
        stub.send_to(b"from the stub", from).map_err(errno)?;
        Ok::<_, i32>(String::from_utf8_lossy(&buffer[..size]).into_owned())
    });
    let bound = || world.as_stranger(0, || std::net::UdpSocket::bind(at("127.0.0.53:53")).is_err());
    harness::wait::wait_until(20, "the stub listens", bound);
    // The application's question is captured although somebody listens there; the resolver's own is not.
    let captured = world.app(0, || ask(&udp("127.0.0.53:53"), "127.0.0.53:53", "q"));
    assert_eq!(captured, Ok(("15054 q".to_owned(), at("127.0.0.53:53"))));
    let direct = world.as_proxy(0, || ask(&udp("127.0.0.53:53"), "127.0.0.53:53", "from the resolver"));
    assert_eq!(direct, Ok(("from the stub".to_owned(), at("127.0.0.53:53"))));
    assert_eq!(server.join(), Ok("from the resolver".to_owned()));
}

#[test]
fn without_a_resolver_the_server_that_was_asked_answers() {
    let mut world = world();
    world.stop_stand_ins(0);
    let stub = world.start_app(0, || {
        let stub = std::net::UdpSocket::bind(at("127.0.0.53:53")).map_err(errno)?;
        let listener = std::net::TcpListener::bind(at("127.0.0.53:53")).map_err(errno)?;
        let mut buffer = [0; 64];
        for _ in 0..2 {
            let (_size, from) = stub.recv_from(&mut buffer).map_err(errno)?;
            stub.send_to(b"from the stub", from).map_err(errno)?;
        }
        listener.accept().map(|_accepted| ()).map_err(errno)
    });
    let bound = || world.as_stranger(0, || std::net::TcpListener::bind(at("127.0.0.53:53")).is_err());
    harness::wait::wait_until(20, "the stub listens", bound);
    let answer = ("from the stub".to_owned(), at("127.0.0.53:53"));
    let server = "127.0.0.53:53";
    assert_eq!(world.app(0, || ask(&udp(server), server, "q")), Ok(answer.clone()));
    let seen = world.app(0, || connected(&udp(server), server).map(|(text, from, ..)| (text, from)));
    assert_eq!(seen, Ok(answer));
    assert_eq!(world.app(0, || crate::client::knock(server)), Ok(()));
    assert_eq!(stub.join(), Ok(()));
    assert_eq!(count(&mut world, "dns_unserved"), 3);
}

#[test]
fn other_datagrams_are_not_touched() {
    let mut world = world();
    for host in ["127.0.0.1:5353", "[::1]:5353"] {
        let seen: Errno<(SocketAddr, bool)> = world.app(0, || {
            let server = std::net::UdpSocket::bind(at(host)).map_err(errno)?;
            let socket = udp(host);
            socket.send_to(b"x", &at(host).into()).map_err(errno)?;
            let mut buffer = [0; 8];
            let (_size, from) = server.recv_from(&mut buffer).map_err(errno)?;
            server.send_to(b"y", from).map_err(errno)?;
            let own = name(socket.local_addr())?.port();
            Ok((hear(&socket)?.1, own == from.port()))
        });
        assert_eq!(seen, Ok((at(host), true)), "{host}");
    }
    assert_eq!(count(&mut world, "dns_slot") + count(&mut world, "source_shown"), 0);
}

#[test]
fn a_udplite_socket_is_not_taken_for_dns() {
    const UDPLITE: i32 = 136;
    let mut world = world();
    let sent: Errno<usize> = world.app(0, || {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::from(UDPLITE))).map_err(errno)?;
        socket.send_to(b"x", &SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53).into()).map_err(errno)
    });
    // The newest kernels have no UDP-Lite any more: there is no such socket to mistake.
    assert!(sent == Ok(1) || sent == Err(libc::EPROTONOSUPPORT), "{sent:?}");
    assert_eq!(count(&mut world, "dns_slot"), 0);
}
