//! The socket matrix on the real kernel: whatever an application does with a socket, a VIP reaches the proxy, DNS reaches
//! the resolver, everything else is left alone, and the application sees what it asked for. Keeps: each row is a case
//! with a name; a case that a kernel cannot run fails with the reason, so that a runner leaves it out by name only.
//! Called by `cargo xtask test sockets`, and in guests by `cargo xtask test vm`.

mod client;
mod device;
mod dns;
mod hammer;
mod identity;
mod log;
mod odd;
mod raw;
mod refuse;
mod tcp;

use std::net::{IpAddr, SocketAddr};

use harness::datapath::World;

/// Two VIPs of each family, and one of them as a v4-mapped address.
const V4: &str = "240.0.0.1:80";
const V4_OTHER: &str = "240.0.0.2:80";
const V6: &str = "[fd00:fd00::1]:80";
const V6_OTHER: &str = "[fd00:fd00::2]:80";
const MAPPED: &str = "[::ffff:240.0.0.1]:80";
const MAPPED_OTHER: &str = "[::ffff:240.0.0.2]:80";

/// A world with one pod and the VIPs above.
fn world() -> World {
    World::builder().vips(&[V4, V4_OTHER, V6, V6_OTHER]).build().expect("this machine can run the datapath")
}

fn at(text: &str) -> SocketAddr {
    text.parse().expect("a constant of the tests")
}

/// What the application must see as its own address: the pod's, in the family of `peer`.
fn own(world: &World, peer: &str) -> IpAddr {
    match at(peer).ip() {
        IpAddr::V4(_) => world.pod(0).addr4.into(),
        IpAddr::V6(ip) if ip.to_ipv4_mapped().is_some() => world.pod(0).addr4.to_ipv6_mapped().into(),
        IpAddr::V6(_) => world.pod(0).addr6.into(),
    }
}

/// How often a reason was given so far.
fn count(world: &mut World, reason: &str) -> u64 {
    let status = world.kernel().status().expect("a loaded datapath has a status");
    status.counters.get(reason).copied().unwrap_or(0)
}

/// Entries of `TUPLES`, which live from SYN to accept.
fn tuples(world: &mut World) -> usize {
    let status = world.kernel().status().expect("a loaded datapath has a status");
    let map = status.maps.iter().find(|map| map.name == "TUPLES").expect("the map is pinned");
    map.entries.expect("a hash map has entries")
}
