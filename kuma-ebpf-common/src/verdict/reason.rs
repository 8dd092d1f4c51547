//! Why the datapath did what it did: one number, one name and one sentence for every decision.
//! Keeps: numbers never change their meaning within an ABI version. Called by verdict, by the programs (counters)
//! and by everything that explains.

macro_rules! reasons {
    ($($number:literal $variant:ident $name:literal $sentence:literal)+) => {
        /// The reason of a decision. Only its number crosses the kernel wall; no map holds this type.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Reason {
            $(#[doc = $sentence] $variant = $number,)+
        }

        impl Reason {
            /// All of them; a reason's number is its place here and in the map `COUNTERS`.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];
            /// How many there are.
            pub const COUNT: u32 = Self::ALL.len() as u32;

            /// The name in metrics and on the command line.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it means, in a sentence.
            #[must_use]
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)+ }
            }
        }
    };
}

reasons! {
    0 NotOurs "not_ours" "neither DNS nor inside a VIP range: left alone, and not counted"
    1 NotEnrolled "not_enrolled" "the socket's network namespace is not enrolled: left alone"
    2 Proxy "proxy" "the proxy's own traffic: left alone"
    3 DnsOff "dns_off" "DNS of a workload whose names are not served: left alone"
    4 VipsOff "vips_off" "inside a VIP range, from a workload whose VIPs are not served: left alone"
    5 VipIndexed "vip_indexed" "a VIP: connected to its indexed loopback address, where the proxy listens"
    6 VipTuple "vip_tuple" "an IPv6 VIP: connected to ::1, its original destination travels beside it"
    7 VipUnknown "vip_unknown" "inside a VIP range, but no VIP and port of the workload's view: refused"
    8 VipNotTcp "vip_not_tcp" "inside a VIP range, but not TCP: refused"
    9 VipNoIndex "vip_no_index" "a VIP without an index where one is needed: refused"
    10 IndexForged "index_forged" "an application's own connect to an indexed loopback address: refused"
    11 DnsConnected "dns_connected" "a connected UDP socket to port 53: connected to the resolver"
    12 DnsTcp "dns_tcp" "TCP to port 53: connected to the resolver"
    13 DnsSlot "dns_slot" "a datagram to port 53: sent to the resolver's port of that nameserver"
    14 DnsSameServer "dns_same_server" "a datagram to the nameserver that its socket is connected to: sent to the resolver"
    15 DeviceRefused "device_refused" "bound to a device that its owner may not unbind it from: refused"
    16 DeviceLeft "device_left" "DNS from a socket bound to a device that it cannot be unbound from: left alone"
    17 NoMemory "no_memory" "no memory to remember the original destination: refused"
    18 PeerShown "peer_shown" "getpeername: shown the destination that was asked for"
    19 LocalShown "local_shown" "getsockname: shown the workload's address in place of loopback"
    20 SourceShown "source_shown" "a datagram received: shown the nameserver that was asked"
    21 Stale "stale" "an index that stands for nothing in the workload's view: left alone"
    22 TuplePublished "tuple_published" "an IPv6 VIP's SYN: its original destination waits for the proxy's accept"
    23 TupleFull "tuple_full" "the map TUPLES is full: the proxy will not learn the original destination"
    24 TupleTaken "tuple_taken" "the proxy accepted an IPv6 VIP's connection and has its original destination"
    25 TupleClosed "tuple_closed" "an IPv6 VIP's connection closed before the proxy accepted it"
    26 OriginalAnswered "original_answered" "SO_ORIGINAL_DST: answered with the VIP"
    27 OriginalUnknown "original_unknown" "SO_ORIGINAL_DST of a loopback connection that we know nothing about: left alone"
    28 OriginalForeign "original_foreign" "SO_ORIGINAL_DST for a VIP of another view: not answered"
    29 OriginalNoRoom "original_no_room" "SO_ORIGINAL_DST with too small a buffer: not answered"
    30 ListenerMarked "listener_marked" "bind of a listener: its accepted sockets inherit their namespace"
    31 DnsUnserved "dns_unserved" "port 53, but the resolver does not listen: left to the nameserver that was asked"
    32 VipProbed "vip_probed" "a UDP connect to an IPv4 address of a VIP range, as address sorting does: connected to nowhere"
}

impl Reason {
    /// Its number: the index in the map `COUNTERS`.
    #[inline(always)]
    #[must_use]
    pub const fn number(self) -> u32 {
        self as u32
    }
}

#[cfg(test)]
mod tests {
    use super::Reason;

    #[test]
    fn every_reason_stands_at_its_number_and_has_words_of_its_own() {
        for (place, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(reason.number() as usize, place);
            assert!(reason.sentence().len() > 20);
            let same = Reason::ALL.iter().filter(|other| other.name() == reason.name()).count();
            assert_eq!(same, 1, "{} is a name twice", reason.name());
        }
    }
}
