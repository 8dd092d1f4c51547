//! The ways to a service that are compared. A table. Called by vip.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::world::Proxy;

/// Where the proxy listens, as in Kuma.
pub(super) const OUTBOUND_PORT: u16 = 15001;

/// Where Envoy listens without interception: the fair baseline of what goes through Envoy.
pub(super) const BOUND_PORT: u16 = 10000;

/// The virtual IPs that are connected to.
pub(super) const VIP4: Ipv4Addr = Ipv4Addr::new(240, 0, 0, 1);
pub(super) const VIP6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xfd00, 0, 0, 0, 0, 0, 1);
pub(super) const VIP_PORT: u16 = 80;

/// The range of IPv4 VIPs, as Kuma has it.
pub(super) const RANGE4: &str = "240.0.0.0/4";

/// A way to the service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Variant {
    pub(super) name: &'static str,
    pub(super) way: Way,
    pub(super) family: Family,
    /// The variant that it is compared with.
    pub(super) baseline: &'static str,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    Direct,
    Iptables,
    Nft,
    Ours,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Family {
    V4,
    V6,
}

const DIRECT4: &str = "direct 127.0.0.1";
const DIRECT6: &str = "direct ::1";

pub(super) const VARIANTS: &[Variant] = &[
    Variant { name: DIRECT4, way: Way::Direct, family: Family::V4, baseline: DIRECT4 },
    // The same again, in another namespace: how far apart equals are on this machine.
    Variant { name: "direct 127.0.0.1, again", way: Way::Direct, family: Family::V4, baseline: DIRECT4 },
    Variant { name: "iptables REDIRECT", way: Way::Iptables, family: Family::V4, baseline: DIRECT4 },
    Variant { name: "nft redirect", way: Way::Nft, family: Family::V4, baseline: DIRECT4 },
    Variant { name: "ours, IPv4", way: Way::Ours, family: Family::V4, baseline: DIRECT4 },
    Variant { name: DIRECT6, way: Way::Direct, family: Family::V6, baseline: DIRECT6 },
    Variant { name: "ours, IPv6", way: Way::Ours, family: Family::V6, baseline: DIRECT6 },
];

impl Variant {
    pub(super) fn is_ours(&self) -> bool {
        self.way == Way::Ours
    }

    /// What the client connects to.
    pub(super) fn target(&self, proxy: Proxy) -> SocketAddr {
        let bound = match proxy {
            Proxy::Echo => OUTBOUND_PORT,
            Proxy::Envoy => BOUND_PORT,
        };
        let (ip, port): (IpAddr, u16) = match (self.way, self.family) {
            (Way::Direct, Family::V4) => (Ipv4Addr::LOCALHOST.into(), bound),
            (Way::Direct, Family::V6) => (Ipv6Addr::LOCALHOST.into(), bound),
            (_, Family::V4) => (VIP4.into(), VIP_PORT),
            (_, Family::V6) => (VIP6.into(), VIP_PORT),
        };
        SocketAddr::new(ip, port)
    }
}
