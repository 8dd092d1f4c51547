//! Two pods hammer a hundred VIPs of three kinds from the same few source ports: nothing is misrouted, nothing is left.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use harness::datapath::World;
use harness::proxy::read_line;
use serde::{Deserialize, Serialize};

use crate::client::{errno, name, original, tcp};
use crate::{at, tuples};

/// VIPs of each family.
const VIPS: u32 = 50;
/// Source ports that all threads of both pods share.
const PORTS: std::ops::Range<u16> = 20_000..20_400;
const THREADS: u32 = 4;
/// Connections of one thread.
const CONNECTIONS: u32 = 400;

/// What went wrong, and how often.
#[derive(Serialize, Deserialize, Default, PartialEq, Eq, Debug)]
struct Tally {
    connected: u32,
    misrouted: Vec<String>,
    wrong_peer: Vec<String>,
    errors: Vec<i32>,
}

/// A small generator of numbers (xorshift): the same run every time.
struct Numbers(u32);

impl Numbers {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 % limit
    }
}

fn vip(kind: u32, number: u32) -> String {
    match kind {
        0 => format!("240.0.1.{number}:80"),
        1 => format!("[::ffff:240.0.1.{number}]:80"),
        _ => format!("[fd00:fd00::1:{number}]:80"),
    }
}

/// Connects from a shared port; a port that is taken is not an error, the next one is tried.
fn connect(numbers: &mut Numbers, to: &str) -> Result<TcpStream, i32> {
    for _ in 0..10_000 {
        let socket = tcp(to);
        socket.set_reuse_address(true).map_err(errno)?;
        // Closing sends RST, so that the port is free at once.
        socket.set_linger(Some(Duration::ZERO)).map_err(errno)?;
        let range = u32::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(numbers.below(range)).expect("below the range");
        let any = if at(to).is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
        let tried =
            socket.bind(&SocketAddr::new(any, port).into()).and_then(|()| socket.connect(&at(to).into()));
        match tried.map_err(errno) {
            Err(libc::EADDRINUSE | libc::EADDRNOTAVAIL) => {}
            Err(error) => return Err(error),
            Ok(()) => return Ok(socket.into()),
        }
    }
    Err(libc::EADDRNOTAVAIL)
}

fn hammer(seed: u32) -> Tally {
    let mut numbers = Numbers(seed);
    let mut tally = Tally::default();
    for _ in 0..CONNECTIONS {
        let to = vip(numbers.below(3), 1 + numbers.below(VIPS));
        let mut stream = match connect(&mut numbers, &to) {
            Ok(stream) => stream,
            Err(error) => {
                tally.errors.push(error);
                continue;
            }
        };
        let peer = name(socket2::SockRef::from(&stream).peer_addr());
        if peer != Ok(at(&to)) {
            tally.wrong_peer.push(format!("{to}: {peer:?}"));
        }
        match read_line(&mut stream) {
            Ok(line) if line == original(&to) => tally.connected += 1,
            Ok(line) => tally.misrouted.push(format!("{to}: {line}")),
            Err(error) => tally.errors.push(errno(error)),
        }
    }
    tally
}

/// All threads of one pod.
fn hammer_all(seed: u32) -> Tally {
    let threads: Vec<_> =
        (1..=THREADS).map(|thread| std::thread::spawn(move || hammer(seed * 100 + thread))).collect();
    threads.into_iter().fold(Tally::default(), |mut all, thread| {
        let one = thread.join().expect("a thread does not panic");
        all.connected += one.connected;
        all.misrouted.extend(one.misrouted);
        all.wrong_peer.extend(one.wrong_peer);
        all.errors.extend(one.errors);
        all
    })
}

#[test]
fn two_pods_with_the_same_source_ports_are_never_misrouted() {
    let vips: Vec<String> = (1..=VIPS).flat_map(|number| [vip(0, number), vip(2, number)]).collect();
    let vips: Vec<&str> = vips.iter().map(String::as_str).collect();
    let mut world = World::builder().pods(2).vips(&vips).build().expect("a world");
    let jobs = [world.start_app(0, || hammer_all(1)), world.start_app(1, || hammer_all(2))];
    for job in jobs {
        let expected = Tally { connected: THREADS * CONNECTIONS, ..Tally::default() };
        assert_eq!(job.join(), expected);
    }
    assert_eq!(tuples(&mut world), 0, "leftover tuples");
}
