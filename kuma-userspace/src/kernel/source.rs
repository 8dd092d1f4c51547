//! The addresses that a namespace would use towards the outside: what getsockname shows to a workload in place of loopback.
//! Keeps: nothing is sent; a namespace without a way out has none. Called by the agent when it enrols.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::BorrowedFd;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;

use crate::kernel::netns::{self, NetnsError};

/// Where nobody is, outside of every VIP range: TEST-NET-1 (RFC 5737) and the documentation prefix (RFC 3849).
const NOBODY_V4: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);
const NOBODY_V6: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)), 9);

/// Primary addresses of a namespace, one of each family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SourceAddresses {
    pub v4: Option<Ipv4Addr>,
    pub v6: Option<Ipv6Addr>,
}

/// Asks the routing table of the namespace, and where it has no way out, its interfaces.
///
/// # Errors
/// The namespace cannot be entered.
pub fn source_addresses(netns: BorrowedFd<'_>) -> Result<SourceAddresses, NetnsError> {
    netns::run_in(netns, || {
        let v4 = routed("0.0.0.0:0", NOBODY_V4).or_else(|| of_an_interface(IpAddr::is_ipv4));
        let v6 = routed("[::]:0", NOBODY_V6).or_else(|| of_an_interface(IpAddr::is_ipv6));
        let v4 = v4.and_then(|ip| if let IpAddr::V4(ip) = ip { Some(ip) } else { None });
        let v6 = v6.and_then(|ip| if let IpAddr::V6(ip) = ip { Some(ip) } else { None });
        SourceAddresses { v4, v6 }
    })
}

/// Connecting a datagram socket sends nothing and picks the source.
fn routed(any: &str, nobody: SocketAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(nobody).ok()?;
    let ip = socket.local_addr().ok()?.ip();
    is_shown_outside(ip).then_some(ip)
}

/// The first address of an interface that is up.
fn of_an_interface(family: fn(&IpAddr) -> bool) -> Option<IpAddr> {
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let storage = interface.address.filter(|_| interface.flags.contains(InterfaceFlags::IFF_UP))?;
        let v4 = storage.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    };
    getifaddrs().ok()?.filter_map(address).find(|ip| family(ip) && is_shown_outside(*ip))
}

/// Loopback and link-local addresses say nothing to others.
fn is_shown_outside(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_unspecified() && !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unspecified() && !v6.is_unicast_link_local(),
    }
}
