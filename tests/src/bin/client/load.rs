//! Many connections from many threads over many VIPs, in three shapes: IPv4, IPv6, IPv4 on an IPv6 socket (v4-mapped).
//! Each is asked who serves (the body names the service) and whom it is connected to (getpeername). Prints the counts.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context;
use socket2::{Domain, Socket, Type};

use super::ask;

/// The port of every VIP.
const PORT: u16 = 80;
/// How many failures are printed in full; the counts always hold all.
const SAMPLES: u64 = 5;

struct Target<'a> {
    service: &'a str,
    vip: IpAddr,
}

#[derive(Default)]
struct Counts {
    connections: AtomicU64,
    failed: AtomicU64,
    misrouted: AtomicU64,
    wrong_peer: AtomicU64,
    mapped: AtomicU64,
    v4: AtomicU64,
    v6: AtomicU64,
}

pub(crate) fn run(threads: u64, connections: u64, targets: &[&str]) -> anyhow::Result<()> {
    let targets = targets.iter().map(|text| parse(text)).collect::<anyhow::Result<Vec<_>>>()?;
    let counts = Counts::default();
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (targets, counts) = (&targets, &counts);
            scope.spawn(move || {
                (thread..connections).step_by(threads as usize).for_each(|n| one(n, targets, counts))
            });
        }
    });
    println!("{}", serde_json::to_string(&counts.table())?);
    Ok(())
}

fn parse(text: &str) -> anyhow::Result<Target<'_>> {
    let (service, vip) = text.split_once(',').with_context(|| format!("{text:?} is no SERVICE,VIP"))?;
    Ok(Target { service, vip: vip.parse()? })
}

/// Connection number `n`: neighbours in time go to different VIPs, and each VIP is met in every shape it has.
fn one(n: u64, targets: &[Target<'_>], counts: &Counts) {
    let target = &targets[(n * 7919) as usize % targets.len()];
    let mapped = (n / targets.len() as u64).is_multiple_of(2);
    let (address, kind) = match target.vip {
        IpAddr::V4(v4) if mapped => (SocketAddr::from((v4.to_ipv6_mapped(), PORT)), &counts.mapped),
        IpAddr::V4(v4) => (SocketAddr::from((v4, PORT)), &counts.v4),
        IpAddr::V6(v6) => (SocketAddr::from((v6, PORT)), &counts.v6),
    };
    counts.connections.fetch_add(1, Ordering::Relaxed);
    kind.fetch_add(1, Ordering::Relaxed);
    match exchange(address) {
        Ok((peer, body)) => {
            if peer != address {
                report(&counts.wrong_peer, &format!("{address}: the peer is {peer}"));
            }
            if body.split(' ').next() != Some(target.service) {
                report(
                    &counts.misrouted,
                    &format!("{address}: {} expected, {body:?} answered", target.service),
                );
            }
        }
        Err(error) => report(&counts.failed, &format!("{address}: {error}")),
    }
}

fn report(counter: &AtomicU64, what: &str) {
    if counter.fetch_add(1, Ordering::Relaxed) < SAMPLES {
        eprintln!("{what}");
    }
}

fn exchange(address: SocketAddr) -> std::io::Result<(SocketAddr, String)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.connect(&address.into())?;
    let stream = TcpStream::from(socket);
    let peer = bare(stream.peer_addr()?);
    Ok((peer, ask::get(stream)?))
}

/// Without flow label and scope, which are not part of the promise.
fn bare(address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V6(v6) => SocketAddrV6::new(Ipv6Addr::from(v6.ip().octets()), v6.port(), 0, 0).into(),
        v4 => v4,
    }
}

impl Counts {
    fn table(&self) -> BTreeMap<&'static str, u64> {
        [
            ("connections", &self.connections),
            ("failed", &self.failed),
            ("misrouted", &self.misrouted),
            ("wrong_peer", &self.wrong_peer),
            ("v4", &self.v4),
            ("v4_mapped", &self.mapped),
            ("v6", &self.v6),
        ]
        .into_iter()
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
        .collect()
    }
}
