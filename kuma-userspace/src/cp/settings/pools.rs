//! Pools of virtual addresses: which network is whose. Pure.
//! Keeps: a pool inside another is carved out of it, so an address belongs to one pool. Called by settings, allocator and
//! publish.

use std::net::{IpAddr, Ipv4Addr};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};

use crate::model::resource::Kind;

/// Whose addresses a pool holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Source {
    /// `dnsServer`: services, hosts of ExternalServices, VirtualOutbounds.
    Dns,
    MeshService,
    MeshExternalService,
    MeshMultiZoneService,
}

impl Source {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::Dns, Self::MeshService, Self::MeshExternalService, Self::MeshMultiZoneService];

    /// Where something of this kind has its addresses from.
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Service | Kind::Host | Kind::Fqdn => Self::Dns,
            Kind::MeshService => Self::MeshService,
            Kind::MeshExternalService => Self::MeshExternalService,
            Kind::MeshMultiZoneService => Self::MeshMultiZoneService,
        }
    }

    /// The key of its settings.
    pub fn key(self) -> &'static str {
        match self {
            Self::Dns => "dnsServer",
            Self::MeshService => "ipam.meshService",
            Self::MeshExternalService => "ipam.meshExternalService",
            Self::MeshMultiZoneService => "ipam.meshMultiZoneService",
        }
    }
}

/// Where VIPs come from, by family.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pools {
    pub v4: Option<Ipv4Network>,
    pub v6: Option<Ipv6Network>,
}

impl Pools {
    /// Both as networks, IPv4 first.
    pub fn ranges(self) -> Vec<IpNetwork> {
        self.v4.map(IpNetwork::V4).into_iter().chain(self.v6.map(IpNetwork::V6)).collect()
    }

    /// How many services the smaller pool has room for.
    pub fn room(self) -> u128 {
        let v4 = self
            .v4
            .map(usable_v4)
            .map(|(first, last)| u64::from(u32::from(last)) - u64::from(u32::from(first)) + 1);
        let v6 =
            self.v6.map(|pool| (u128::from(pool.broadcast()) - u128::from(pool.network())).saturating_add(1));
        v4.map(u128::from).into_iter().chain(v6).min().unwrap_or(0)
    }

    /// The pool that an address lies in.
    pub fn containing(self, address: IpAddr) -> Option<IpNetwork> {
        self.ranges().into_iter().find(|range| range.contains(address))
    }
}

/// First and last address that can be a VIP: all of the network, the network address first, as in Kuma, but never
/// 255.255.255.255, which no TCP connection can have.
pub fn usable_v4(pool: Ipv4Network) -> (Ipv4Addr, Ipv4Addr) {
    let (first, last) = (u32::from(pool.network()), u32::from(pool.broadcast()));
    let last = if last == u32::MAX && first < last { last - 1 } else { last };
    (first.into(), last.into())
}

/// The pools of everybody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AllPools {
    pub dns: Pools,
    pub mesh_service: Pools,
    pub mesh_external_service: Pools,
    pub mesh_multi_zone_service: Pools,
}

impl From<Pools> for AllPools {
    fn from(dns: Pools) -> Self {
        Self { dns, ..Self::default() }
    }
}

impl AllPools {
    /// The pools of one source.
    pub fn of(&self, source: Source) -> Pools {
        match source {
            Source::Dns => self.dns,
            Source::MeshService => self.mesh_service,
            Source::MeshExternalService => self.mesh_external_service,
            Source::MeshMultiZoneService => self.mesh_multi_zone_service,
        }
    }

    /// Every network and whose it is.
    pub fn ranges(&self) -> impl Iterator<Item = (Source, IpNetwork)> + '_ {
        Source::ALL
            .into_iter()
            .flat_map(|source| self.of(source).ranges().into_iter().map(move |range| (source, range)))
    }

    /// Those networks of other pools that lie inside this one and inside no other such network, in order.
    pub fn inside(&self, outer: (Source, IpNetwork)) -> Vec<(Source, IpNetwork)> {
        let within = |inner: &IpNetwork, outer: &IpNetwork| {
            inner != outer && outer.prefix() < inner.prefix() && outer.contains(inner.ip())
        };
        let mut all: Vec<_> = self.ranges().filter(|(_, range)| within(range, &outer.1)).collect();
        let every = all.clone();
        all.retain(|(_, range)| !every.iter().any(|(_, other)| within(range, other)));
        all.sort_by_key(|(_, range)| range.ip());
        all
    }

    /// The pool's two ends, as far as they can be VIPs.
    pub fn ends(range: IpNetwork) -> (IpAddr, IpAddr) {
        match range {
            IpNetwork::V4(v4) => {
                let (first, last) = usable_v4(v4);
                (first.into(), last.into())
            }
            IpNetwork::V6(v6) => (v6.network().into(), v6.broadcast().into()),
        }
    }

    /// Is nothing left of a pool when the pools inside it are carved out?
    pub fn is_used_up(&self, outer: (Source, IpNetwork)) -> bool {
        // Networks inside one another are powers of two: together they fill the outer one or leave a part of it.
        let bits = |range: &IpNetwork| if range.is_ipv4() { 32 } else { 128 };
        let share = |range: &IpNetwork| bits(range) - u32::from(range.prefix());
        let size = |range: &IpNetwork| 1_u128.checked_shl(share(range)).unwrap_or(u128::MAX);
        let carved: u128 =
            self.inside(outer).iter().map(|(_, range)| size(range)).fold(0, u128::saturating_add);
        carved >= size(&outer.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(text: &str) -> Pools {
        Pools { v4: Some(text.parse().unwrap()), v6: None }
    }

    #[test]
    fn only_the_outermost_pools_inside_are_carved_out() {
        let pools = AllPools {
            dns: v4("240.0.0.0/4"),
            mesh_service: v4("241.0.0.0/8"),
            mesh_external_service: v4("241.1.0.0/16"),
            mesh_multi_zone_service: v4("10.0.0.0/8"),
        };
        let dns = (Source::Dns, "240.0.0.0/4".parse().unwrap());
        let inside = pools.inside(dns);
        assert_eq!(inside, [(Source::MeshService, "241.0.0.0/8".parse().unwrap())]);
        assert_eq!(pools.inside(inside[0]).len(), 1);
        assert!(!pools.is_used_up(dns));
    }

    #[test]
    fn a_pool_that_others_fill_is_used_up() {
        let pools = AllPools {
            dns: v4("240.0.0.0/7"),
            mesh_service: v4("240.0.0.0/8"),
            mesh_external_service: v4("241.0.0.0/8"),
            ..AllPools::default()
        };
        assert!(pools.is_used_up((Source::Dns, "240.0.0.0/7".parse().unwrap())));
    }
}
