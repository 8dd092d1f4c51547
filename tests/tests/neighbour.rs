//! From a neighbouring network namespace no port of ours or of the Envoy that we start can be connected to.
#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use harness::world::{UPLINK_ADDRESSES, World};

/// Longest wait for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(300);
/// A port that is open on purpose, to show that the neighbour can reach what is open.
const OPEN: u16 = 4711;
/// Our own fixed ports, which must be among those that are found: outbound, resolver, xDS, Envoy's admin.
const OURS: [u16; 4] = [15001, 15053, 5678, 9901];

/// Local ports of the listeners in one of the kernel's tables; `state` is 0A for TCP listeners, 07 for bound UDP (proc_net_tcp).
fn ports(table: &str, state: &str) -> Vec<u16> {
    let text = std::fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap();
    let rows = text.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listening = rows.filter(|fields| fields[3] == state);
    listening.map(|fields| u16::from_str_radix(fields[1].rsplit(':').next().unwrap(), 16).unwrap()).collect()
}

fn open_ports() -> (BTreeSet<u16>, BTreeSet<u16>) {
    let tcp = ["tcp", "tcp6"].into_iter().flat_map(|table| ports(table, "0A")).collect();
    let udp = ["udp", "udp6"].into_iter().flat_map(|table| ports(table, "07")).collect();
    (tcp, udp)
}

/// A DNS question for redis.mesh, A.
const QUESTION: &[u8] =
    b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x05redis\x04mesh\x00\x00\x01\x00\x01";

fn answers_udp(to: SocketAddr) -> bool {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    socket.connect(to).unwrap();
    let _ = socket.send(QUESTION);
    socket.recv(&mut [0; 1500]).is_ok()
}

#[test]
fn a_neighbour_reaches_no_port_of_ours() {
    let world = World::up(["redis"]).unwrap();
    let neighbour = world.outside();
    let address = |text: &str| text.parse::<IpAddr>().unwrap();
    let here = UPLINK_ADDRESSES.map(|(text, _)| address(text));
    let (tcp, udp) = world.netns().run(open_ports);
    for port in OURS {
        assert!(tcp.contains(&port), "{port} listens: {tcp:?}");
    }
    assert!(udp.contains(&15053), "{udp:?}");
    let open = world.netns().run(|| TcpListener::bind(("::", OPEN))).unwrap();
    neighbour.run(|| {
        for address in &here {
            let reached =
                TcpStream::connect_timeout(&SocketAddr::new(*address, OPEN), Duration::from_secs(5));
            assert!(reached.is_ok(), "the neighbour reaches what is open on {address}: {reached:?}");
            for &port in &tcp {
                let tried =
                    TcpStream::connect_timeout(&SocketAddr::new(*address, port), Duration::from_secs(2));
                let error =
                    tried.err().unwrap_or_else(|| panic!("TCP {address} port {port} can be connected to"));
                let refused = matches!(error.kind(), ErrorKind::ConnectionRefused | ErrorKind::TimedOut);
                assert!(refused, "TCP {address} port {port}: {error}");
            }
            for &port in &udp {
                assert!(!answers_udp(SocketAddr::new(*address, port)), "UDP {address} port {port} answers");
            }
        }
    });
    drop(open);
}
