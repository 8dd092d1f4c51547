//! Addresses and ports in the one form that both sides of the kernel wall use. Byte order cannot be confused:
//! the fields are private, constructors and getters say which order they mean. Called by everything.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An IPv6 address, or an IPv4 address in its v4-mapped form `::ffff:a.b.c.d`; network byte order in memory.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Addr {
    /// The four 32-bit words as the kernel's contexts carry them: network order in memory.
    words: [u32; 4],
}

const _: () = assert!(size_of::<Addr>() == 16);

/// The third word of every v4-mapped address, as it lies in memory.
const MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Addr {
    /// `::`
    pub const UNSPECIFIED: Self = Self { words: [0; 4] };
    /// `::1`
    pub const LOCALHOST_V6: Self = Self { words: [0, 0, 0, u32::from_ne_bytes([0, 0, 0, 1])] };
    /// `::ffff:127.0.0.1`
    pub const LOCALHOST_V4: Self = Self::from_v4_word(u32::from_ne_bytes([127, 0, 0, 1]));

    /// From a context's `user_ip4`, which is in network order already.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self { words: [0, 0, MAPPED, word] }
    }

    /// From a context's `user_ip6`, which is in network order already.
    #[inline(always)]
    pub const fn from_words(words: [u32; 4]) -> Self {
        Self { words }
    }

    /// The four words in network order, as the contexts want them.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        self.words
    }

    /// The IPv4 part in network order; meaningful only where [`Addr::is_v4`].
    #[inline(always)]
    pub const fn v4_word(self) -> u32 {
        self.words[3]
    }

    /// Is this an IPv4 (v4-mapped) address?
    #[inline(always)]
    pub const fn is_v4(self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == MAPPED
    }
}

impl From<IpAddr> for Addr {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::from_v4_word(u32::from_ne_bytes(v4.octets())),
            IpAddr::V6(v6) => {
                let o = v6.octets();
                let word = |i: usize| u32::from_ne_bytes([o[i], o[i + 1], o[i + 2], o[i + 3]]);
                Self { words: [word(0), word(4), word(8), word(12)] }
            }
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(addr: Addr) -> Self {
        if addr.is_v4() {
            return Self::V4(Ipv4Addr::from(addr.words[3].to_ne_bytes()));
        }
        let mut octets = [0; 16];
        for (chunk, word) in octets.chunks_exact_mut(4).zip(addr.words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        Self::V6(Ipv6Addr::from(octets))
    }
}

impl core::fmt::Debug for Addr {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

/// A TCP or UDP port; network byte order in memory.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Port(u16);

impl Port {
    /// Port 53, where DNS is asked (RFC 1035 section 4.2).
    pub const DNS: Self = Self::new(53);
    /// No port. Nothing can listen there, so the stack refuses a connect to it.
    pub const ZERO: Self = Self(0);

    /// From a port as humans write it.
    #[inline(always)]
    pub const fn new(host_order: u16) -> Self {
        Self(host_order.to_be())
    }

    /// From a 16-bit field in network order.
    #[inline(always)]
    pub const fn from_be(raw: u16) -> Self {
        Self(raw)
    }

    /// The 16-bit field in network order, as contexts and socket addresses want it.
    #[inline(always)]
    pub const fn to_be(self) -> u16 {
        self.0
    }

    /// The 32-bit word of two 16-bit fields side by side: `first`, then this port.
    #[inline(always)]
    pub const fn after(self, first: [u8; 2]) -> u32 {
        let ([a, b], [c, d]) = (first, self.0.to_ne_bytes());
        u32::from_ne_bytes([a, b, c, d])
    }

    /// The port as humans write it.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl PartialOrd for Port {
    fn partial_cmp(&self, other: &Self) -> Option<core::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Port {
    fn cmp(&self, other: &Self) -> core::cmp::Ordering {
        self.get().cmp(&other.get())
    }
}

impl core::fmt::Debug for Port {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.get().fmt(f)
    }
}

impl core::fmt::Display for Port {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.get().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_round_trip_in_network_order() {
        for text in ["240.0.0.1", "127.0.0.1", "fd00:fd00::1", "::1", "::"] {
            let ip: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Addr::from(ip)), ip);
        }
        assert_eq!(Addr::from(IpAddr::V4(Ipv4Addr::LOCALHOST)), Addr::LOCALHOST_V4);
        assert_eq!(Addr::from(IpAddr::V6(Ipv6Addr::LOCALHOST)), Addr::LOCALHOST_V6);
    }

    #[test]
    fn a_mapped_address_is_its_v4_address() {
        let mapped: IpAddr = "::ffff:240.0.0.1".parse().unwrap();
        let v4: IpAddr = "240.0.0.1".parse().unwrap();
        assert_eq!(Addr::from(mapped), Addr::from(v4));
        assert!(Addr::from(mapped).is_v4());
        assert!(!Addr::LOCALHOST_V6.is_v4());
    }

    #[test]
    fn ports_compare_as_numbers_and_lie_in_network_order() {
        assert_eq!(Port::new(53).to_be().to_ne_bytes(), [0, 53]);
        assert_eq!(Port::new(53).after([7, 8]).to_ne_bytes(), [7, 8, 0, 53]);
        assert!(Port::new(256) > Port::new(255));
    }
}
