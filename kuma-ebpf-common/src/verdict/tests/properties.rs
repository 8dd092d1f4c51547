//! What holds for every call: mirrors undo what the hooks did, the proxy and strangers are never touched, and nothing
//! leaves from a VIP range.

use core::net::{IpAddr, Ipv6Addr};

use proptest::prelude::*;

use super::*;

fn any_addr() -> impl Strategy<Value = Addr> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(|octets| Addr::from(IpAddr::from(octets))),
        any::<[u8; 16]>().prop_map(|octets| Addr::from(IpAddr::from(octets))),
        (0u8..4).prop_map(|n| Addr::from(IpAddr::from([240, 0, 0, n]))),
        any::<[u8; 2]>().prop_map(|[a, b]| Addr::from(IpAddr::from([127, 64, a, b]))),
        (0u16..4).prop_map(|n| Addr::from(IpAddr::V6(Ipv6Addr::new(0xfd00, 0xfd00, 0, 0, 0, 0, 0, n)))),
        Just(Addr::LOCALHOST_V4),
        Just(Addr::LOCALHOST_V6),
    ]
}

fn any_port() -> impl Strategy<Value = Port> {
    prop_oneof![any::<u16>(), Just(53), Just(80), Just(15_001), 15_053u16..15_058].prop_map(Port::new)
}

fn any_call() -> impl Strategy<Value = Call> {
    let protocol = prop_oneof![Just(TCP), Just(UDP), any::<u8>().prop_map(u32::from)];
    (any_addr(), any_port(), protocol)
        .prop_map(|(addr, port, protocol)| Call { to: Endpoint { addr, port }, protocol })
}

fn nowhere() -> Endpoint {
    Endpoint { addr: Addr::UNSPECIFIED, port: Port::ZERO }
}

proptest! {
    #[test]
    fn the_proxy_is_never_touched(call in any_call(), by_uid: bool) {
        let node = proxy(by_uid);
        prop_assert_eq!(connect(&call, &node).verdict, Connect::Pass);
        prop_assert_eq!(sendmsg(&call, nowhere(), &node).verdict, Send::Pass);
    }

    #[test]
    fn what_is_not_enrolled_is_not_touched(call in any_call(), local in any_addr()) {
        let node = Node { pod: None, ..node() };
        prop_assert_eq!(connect(&call, &node).verdict, Connect::Pass);
        prop_assert_eq!(sendmsg(&call, nowhere(), &node).verdict, Send::Pass);
        prop_assert_eq!(getpeername(call.to, &node).verdict, None);
        prop_assert_eq!(recvmsg(call.to, Port::ZERO, &node).verdict, None);
        prop_assert_eq!(getsockname(local, call.to, &node).verdict, None);
    }

    #[test]
    fn a_mapped_address_is_decided_as_its_ipv4_address(octets: [u8; 4], port in any_port(), protocol in 0u32..255) {
        let v4 = IpAddr::from(octets);
        let IpAddr::V4(plain) = v4 else { unreachable!() };
        let mapped = IpAddr::V6(plain.to_ipv6_mapped());
        let decide = |ip| {
            let call = Call { to: Endpoint { addr: Addr::from(ip), port }, protocol };
            (connect(&call, &node()), sendmsg(&call, nowhere(), &node()))
        };
        prop_assert_eq!(decide(v4), decide(mapped));
    }

    #[test]
    fn nothing_leaves_from_a_vip_range(call in any_call()) {
        let node = node();
        prop_assume!(node.ranges.contain(call.to.addr));
        let known = call.protocol == TCP && node.vips.contains_key(&(call.to.addr.words(), call.to.port.get()));
        let probed = call.protocol == UDP && call.to.addr.is_v4();
        let nobody = Connect::Nowhere(Endpoint { addr: Addr::LOCALHOST_V4, port: Port::ZERO });
        let verdict = connect(&call, &node).verdict;
        prop_assert_eq!(verdict == Connect::Refuse, !known && !probed);
        prop_assert_eq!(verdict == nobody, probed);
        prop_assert_eq!(sendmsg(&call, nowhere(), &node).verdict, Send::Refuse);
    }

    #[test]
    fn nobody_picks_an_index_for_himself(octets: [u8; 3], protocol in 0u32..255) {
        let to = Addr::from(IpAddr::from([127, 64 | (octets[0] & 0x3f), octets[1], octets[2]]));
        let call = Call { to: Endpoint { addr: to, port: OUTBOUND }, protocol };
        prop_assert_eq!(connect(&call, &node()).verdict, Connect::Refuse);
    }

    #[test]
    fn whatever_is_neither_dns_nor_vip_is_left_alone(call in any_call()) {
        let node = node();
        prop_assume!(!node.ranges.contain(call.to.addr) && call.to.port != Port::DNS);
        prop_assume!(index_of(call.to.addr).is_none());
        prop_assert_eq!(connect(&call, &node), Decision { verdict: Connect::Pass, reason: Reason::NotOurs });
        prop_assert_eq!(sendmsg(&call, nowhere(), &node), Decision { verdict: Send::Pass, reason: Reason::NotOurs });
    }

    #[test]
    fn getpeername_undoes_connect(call in any_call()) {
        let mut node = node();
        let to = match connect(&call, &node).verdict {
            Connect::Indexed(to) => to,
            Connect::Remember(to, orig) => {
                node.orig = Some(orig);
                to
            }
            _ => return Ok(()),
        };
        prop_assert_eq!(getpeername(to, &node).verdict, Some(call.to));
        // What is rewritten already is not rewritten again, and keeps its memory.
        prop_assert_eq!(sendmsg(&Call { to, ..call }, to, &node).verdict, Send::Pass);
    }

    #[test]
    fn recvmsg_undoes_sendmsg(servers in proptest::collection::vec(any_addr(), 1..12)) {
        let mut node = node();
        let mut slots = NO_SLOTS;
        for addr in servers {
            let call = Call { to: Endpoint { addr, port: Port::DNS }, protocol: UDP };
            let Send::Slot(first) = sendmsg(&call, nowhere(), &node).verdict else { continue };
            let port = claim_slot(&mut slots, first.port, call.to);
            let again = slots;
            prop_assert_eq!(claim_slot(&mut slots, first.port, call.to), port);
            prop_assert_eq!(slots, again, "a nameserver that has a slot changes nothing");
            prop_assert!((15_054..=15_057).contains(&port.get()));
            node.slots = Some(slots);
            let from = Endpoint { addr: first.addr, port };
            prop_assert_eq!(recvmsg(from, Port::ZERO, &node).verdict, Some(call.to));
        }
    }

    #[test]
    fn an_index_is_its_own_address(index in 0u32..=INDEXED_MASK) {
        prop_assert_eq!(index_of(indexed(index)), Some(index));
        prop_assert!(indexed(index).is_v4());
    }
}
