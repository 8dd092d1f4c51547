//! The rules of the datapath as tables: each call has its verdict and its reason. The look-ups are plain values here.
//! The rules that hold for every call are in `properties`.

extern crate std;

mod properties;

use core::net::IpAddr;
use std::collections::BTreeMap;
use std::vec::Vec;

use super::*;
use crate::abi::{AcceptedEntry, DNS_SLOTS, POD_DNS, POD_VIPS, Range, Slot};

const VIEW: u32 = 7;
const NETNS: u64 = 4_103;
const PROXY_CGROUP: u64 = 77;
const PROXY_UID: u32 = 5_678;
const OUTBOUND: Port = Port::new(15_001);
const DNS: Port = Port::new(15_053);
const UNUSED: Range = Range { net: Addr::from_words([u32::MAX; 4]), mask: Addr::from_words([u32::MAX; 4]) };
const NO_SLOT: Slot = Slot { addr: Addr::UNSPECIFIED, port: Port::ZERO, used: 0, _pad: [0; 3] };
const NO_SLOTS: SlotsEntry =
    SlotsEntry { slots: [NO_SLOT; DNS_SLOTS], next: 0, base: Port::ZERO, _pad: 0, _pad2: [0; 2] };

/// A node with one view of two VIPs, and a socket of an application in an enrolled namespace.
#[derive(Clone)]
struct Node {
    pod: Option<PodEntry>,
    ranges: Ranges,
    vips: BTreeMap<([u32; 4], u16), u32>,
    revs: BTreeMap<u32, RevEntry>,
    cgroup: u64,
    uid: u32,
    orig: Option<OrigEntry>,
    slots: Option<SlotsEntry>,
    resolver: bool,
    v6_mapped: bool,
}

impl Lookups for Node {
    fn pod(&self) -> Option<&PodEntry> {
        self.pod.as_ref()
    }
    fn rev(&self, index: u32) -> Option<&RevEntry> {
        self.revs.get(&index)
    }
    fn ranges(&self) -> Option<&Ranges> {
        Some(&self.ranges)
    }
    fn vip(&self, key: &VipKey) -> Option<u32> {
        let known = key.view == VIEW && key.protocol == 6;
        known.then(|| self.vips.get(&(key.addr.words(), key.port.get())).copied()).flatten()
    }
    fn netns(&self) -> u64 {
        NETNS
    }
    fn cgroup(&self) -> u64 {
        self.cgroup
    }
    fn uid(&self) -> u32 {
        self.uid
    }
    fn orig(&self) -> Option<&OrigEntry> {
        self.orig.as_ref()
    }
    fn slots(&self) -> Option<&SlotsEntry> {
        self.slots.as_ref()
    }
    fn listens(&self, _resolver: Endpoint, _protocol: u32) -> bool {
        self.resolver
    }
    fn v6_mapped(&self) -> bool {
        self.v6_mapped
    }
}

fn addr(text: &str) -> Addr {
    Addr::from(text.parse::<IpAddr>().unwrap())
}

fn end(text: &str, port: u16) -> Endpoint {
    Endpoint { addr: addr(text), port: Port::new(port) }
}

fn call(protocol: u32, text: &str, port: u16) -> Call {
    Call { to: end(text, port), protocol }
}

fn range(net: &str, mask: &str) -> Range {
    Range { net: addr(net), mask: addr(mask) }
}

fn node() -> Node {
    let mut node = Node {
        pod: Some(PodEntry {
            proxy_cgroup: PROXY_CGROUP,
            view: VIEW,
            proxy_uid: NO_UID,
            flags: POD_DNS | POD_VIPS,
            outbound_port: OUTBOUND,
            dns_port: DNS,
            addr4: addr("10.0.0.5"),
            addr6: addr("fd00:1::5"),
        }),
        ranges: Ranges {
            v4: [range("240.0.0.0", "240.0.0.0"), UNUSED, UNUSED, UNUSED],
            v6: [range("fd00:fd00::", "ffff:ffff:ffff:ffff::"), UNUSED, UNUSED, UNUSED],
        },
        vips: BTreeMap::new(),
        revs: BTreeMap::new(),
        cgroup: 5,
        uid: 1000,
        orig: None,
        slots: None,
        resolver: true,
        v6_mapped: false,
    };
    // The mask of a v4 range is a mapped one: all ones before its last word.
    let [.., word] = node.ranges.v4[0].mask.words();
    node.ranges.v4[0].mask = Addr::from_words([u32::MAX, u32::MAX, u32::MAX, word]);
    for (text, index) in [("240.0.0.1", 3), ("fd00:fd00::1", 0)] {
        let vip = addr(text);
        node.vips.insert((vip.words(), 80), index);
        node.revs.insert(index, RevEntry { vip, orig: vip, view: VIEW, port: Port::new(80), _pad: 0 });
    }
    node
}

fn proxy(by_uid: bool) -> Node {
    let mut node = node();
    if by_uid {
        let pod = node.pod.as_mut().unwrap();
        (pod.proxy_cgroup, pod.proxy_uid) = (0, PROXY_UID);
        node.uid = PROXY_UID;
    } else {
        node.cgroup = PROXY_CGROUP;
    }
    node
}

#[test]
fn each_connect_has_its_reason() {
    let table = [
        (TCP, "240.0.0.1", 80, Reason::VipIndexed),
        (TCP, "::ffff:240.0.0.1", 80, Reason::VipIndexed),
        (TCP, "fd00:fd00::1", 80, Reason::VipTuple),
        (TCP, "240.0.0.1", 81, Reason::VipUnknown),
        (TCP, "240.0.0.2", 80, Reason::VipUnknown),
        (TCP, "240.0.0.2", 53, Reason::VipUnknown),
        (TCP, "fd00:fd00::2", 80, Reason::VipUnknown),
        (UDP, "240.0.0.1", 80, Reason::VipProbed),
        (UDP, "240.0.0.9", 0, Reason::VipProbed),
        (UDP, "240.0.0.1", 53, Reason::VipProbed),
        (UDP, "::ffff:240.0.0.1", 80, Reason::VipProbed),
        (UDP, "fd00:fd00::1", 80, Reason::VipNotTcp),
        (1, "240.0.0.1", 0, Reason::VipNotTcp),
        (132, "fd00:fd00::1", 80, Reason::VipNotTcp),
        (UDP, "8.8.8.8", 53, Reason::DnsConnected),
        (UDP, "127.0.0.53", 53, Reason::DnsConnected),
        (UDP, "2001:db8::1", 53, Reason::DnsConnected),
        (TCP, "8.8.8.8", 53, Reason::DnsTcp),
        (132, "8.8.8.8", 53, Reason::NotOurs),
        (TCP, "127.64.0.3", 15_001, Reason::IndexForged),
        (TCP, "::ffff:127.64.0.3", 15_001, Reason::IndexForged),
        (UDP, "127.127.255.255", 15_001, Reason::IndexForged),
        (TCP, "127.64.0.3", 8080, Reason::NotOurs),
        (TCP, "127.0.0.1", 15_001, Reason::NotOurs),
        (UDP, "255.255.255.255", 67, Reason::NotOurs),
        (TCP, "255.255.255.254", 80, Reason::VipUnknown),
        (TCP, "239.255.255.255", 80, Reason::NotOurs),
        (TCP, "fd00:fd00:0:1::1", 80, Reason::NotOurs),
        (TCP, "::f000:1", 80, Reason::NotOurs),
    ];
    for (protocol, to, port, reason) in table {
        assert_eq!(connect(&call(protocol, to, port), &node()).reason, reason, "{protocol} {to} {port}");
    }
}

#[test]
fn an_ipv4_vip_becomes_its_indexed_loopback_address() {
    let decision = connect(&call(TCP, "240.0.0.1", 80), &node());
    assert_eq!(decision.verdict, Connect::Indexed(end("127.64.0.3", 15_001)));
}

#[test]
fn flags_switch_dns_and_vips_off_one_by_one() {
    let mut node = node();
    node.pod.as_mut().unwrap().flags = POD_VIPS;
    assert_eq!(connect(&call(UDP, "8.8.8.8", 53), &node).reason, Reason::DnsOff);
    assert_eq!(sendmsg(&call(UDP, "8.8.8.8", 53), end("0.0.0.0", 0), &node).reason, Reason::DnsOff);
    assert_eq!(connect(&call(TCP, "240.0.0.1", 80), &node).reason, Reason::VipIndexed);
    node.pod.as_mut().unwrap().flags = POD_DNS;
    assert_eq!(connect(&call(UDP, "8.8.8.8", 53), &node).reason, Reason::DnsConnected);
    assert_eq!(connect(&call(TCP, "240.0.0.2", 80), &node).reason, Reason::VipsOff);
    assert_eq!(connect(&call(TCP, "127.64.0.3", 15_001), &node).reason, Reason::NotOurs);
}

#[test]
fn without_a_resolver_dns_goes_to_the_server_that_was_asked() {
    let node = Node { resolver: false, ..node() };
    for protocol in [UDP, TCP] {
        let decision = connect(&call(protocol, "8.8.8.8", 53), &node);
        assert_eq!(decision, Decision { verdict: Connect::Pass, reason: Reason::DnsUnserved });
    }
    let decision = sendmsg(&call(UDP, "8.8.8.8", 53), end("0.0.0.0", 0), &node);
    assert_eq!(decision, Decision { verdict: Send::Pass, reason: Reason::DnsUnserved });
    assert_eq!(connect(&call(TCP, "240.0.0.9", 53), &node).verdict, Connect::Refuse, "VIPs stay closed");
}

#[test]
fn an_ipv6_vip_without_sockops_needs_an_index() {
    let mut node = node();
    node.v6_mapped = true;
    assert_eq!(connect(&call(TCP, "fd00:fd00::1", 80), &node).reason, Reason::VipNoIndex);
    node.vips.insert((addr("fd00:fd00::1").words(), 80), 9);
    let decision = connect(&call(TCP, "fd00:fd00::1", 80), &node);
    assert_eq!(decision.verdict, Connect::Indexed(end("127.64.0.9", 15_001)));
}

#[test]
fn ranges_that_nobody_wrote_hold_nothing() {
    let zero = Range { net: Addr::UNSPECIFIED, mask: Addr::UNSPECIFIED };
    let ranges = Ranges { v4: [zero; 4], v6: [zero; 4] };
    for text in ["0.0.0.0", "240.0.0.1", "255.255.255.255", "::", "fd00:fd00::1"] {
        assert!(!ranges.contain(addr(text)), "{text}");
    }
    assert!(!Ranges { v4: [UNUSED; 4], v6: [UNUSED; 4] }.contain(addr("255.255.255.255")));
}

#[test]
fn a_stale_memory_never_speaks() {
    let mut node = node();
    let Connect::Remember(to, orig) = connect(&call(UDP, "8.8.8.8", 53), &node).verdict else { panic!() };
    node.orig = Some(orig);
    assert_eq!(getpeername(to, &node).verdict, Some(end("8.8.8.8", 53)));
    for other in
        [end("127.0.0.1", 9_999), end("::1", 15_053), end("8.8.4.4", 15_053), end("127.64.0.1", 15_053)]
    {
        assert_eq!(getpeername(other, &node).verdict, None, "{other:?}");
        assert_eq!(getsockname(addr("127.0.0.1"), other, &node).verdict, None, "{other:?}");
    }
}

#[test]
fn getsockname_tells_the_workloads_address_in_place_of_loopback() {
    let mut node = node();
    let indexed = end("127.64.0.3", 15_001);
    assert_eq!(getsockname(addr("127.0.0.1"), indexed, &node).verdict, Some(addr("10.0.0.5")));
    assert_eq!(getsockname(addr("10.0.0.5"), indexed, &node).verdict, None);
    let Connect::Remember(to, orig) = connect(&call(TCP, "fd00:fd00::1", 80), &node).verdict else {
        panic!()
    };
    node.orig = Some(orig);
    assert_eq!(getsockname(addr("::1"), to, &node).verdict, Some(addr("fd00:1::5")));
    // The socket that the proxy accepted: its peer is the client, not a target of ours.
    assert_eq!(getsockname(addr("127.64.0.3"), end("127.0.0.1", 40_000), &node).verdict, None);
    node.pod.as_mut().unwrap().addr4 = Addr::UNSPECIFIED;
    assert_eq!(getsockname(addr("127.0.0.1"), indexed, &node).verdict, None);
}

#[test]
fn a_datagram_to_the_connected_server_goes_where_the_connect_went() {
    let mut node = node();
    let Connect::Remember(to, orig) = connect(&call(UDP, "8.8.8.8", 53), &node).verdict else { panic!() };
    node.orig = Some(orig);
    assert_eq!(sendmsg(&call(UDP, "8.8.8.8", 53), to, &node).verdict, Send::Redirect(to));
    let first = end("127.0.0.1", 15_054);
    assert_eq!(sendmsg(&call(UDP, "9.9.9.9", 53), to, &node).verdict, Send::Slot(first));
    // After connect(AF_UNSPEC) the socket has no peer any more, and no hook has told us so.
    assert_eq!(sendmsg(&call(UDP, "8.8.8.8", 53), end("0.0.0.0", 0), &node).verdict, Send::Slot(first));
    // A mapped connected send() runs the hook again with the address that is already rewritten.
    assert_eq!(sendmsg(&Call { to, protocol: UDP }, to, &node).verdict, Send::Pass);
}

#[test]
fn the_fifth_nameserver_takes_the_slot_of_the_first() {
    let mut slots = NO_SLOTS;
    let first = Port::new(15_054);
    let ports: Vec<u16> =
        (1..=5).map(|n| claim_slot(&mut slots, first, end(&std::format!("10.0.0.{n}"), 53)).get()).collect();
    assert_eq!(ports, [15_054, 15_055, 15_056, 15_057, 15_054]);
    assert_eq!(claim_slot(&mut slots, first, end("10.0.0.2", 53)).get(), 15_055);
    let moved = Port::new(20_000);
    assert_eq!(
        claim_slot(&mut slots, moved, end("10.0.0.2", 53)),
        moved,
        "another resolver, another set of slots"
    );
}

#[test]
fn so_original_dst_is_answered_from_the_index_or_from_the_accept() {
    let node = node();
    let rev = |index| node.revs.get(&index);
    let ask = |level, local: &str, view, accepted: Option<&AcceptedEntry>| {
        // The closure's own lifetime is that of the node.
        let accepted = accepted.copied().map(|entry| &*std::boxed::Box::leak(std::boxed::Box::new(entry)));
        getsockopt(Asked { level, name: 80 }, addr(local), view, rev, || accepted)
    };
    let (v4, v6) = (end("240.0.0.1", 80), end("fd00:fd00::1", 80));
    let entry = AcceptedEntry { addr: v6.addr, view: VIEW, port: v6.port, _pad: 0 };
    assert_eq!(ask(0, "127.64.0.3", Some(VIEW), None).verdict, Some(Answer::V4(v4)));
    assert_eq!(ask(41, "127.64.0.3", None, None).verdict, Some(Answer::V6(v4)));
    assert_eq!(ask(41, "::1", Some(VIEW), Some(&entry)).verdict, Some(Answer::V6(v6)));
    assert_eq!(ask(41, "::1", Some(VIEW), None).reason, Reason::OriginalUnknown);
    assert_eq!(ask(0, "127.64.0.4", Some(VIEW), None).reason, Reason::OriginalUnknown);
    assert_eq!(ask(0, "127.64.0.3", Some(VIEW + 1), None).reason, Reason::OriginalForeign);
    assert_eq!(ask(41, "::1", Some(VIEW + 1), Some(&entry)).reason, Reason::OriginalForeign);
    assert_eq!(ask(0, "10.0.0.5", Some(VIEW), Some(&entry)).reason, Reason::NotOurs);
    for (level, name, ours) in [(0, 80, true), (41, 80, true), (1, 80, false), (6, 80, false), (0, 81, false)]
    {
        assert_eq!(Asked { level, name }.is_original_dst(), ours);
    }
}

#[test]
fn only_an_ipv6_vip_publishes_a_tuple() {
    let client = end("::1", 40_000);
    let Connect::Remember(to, orig) = connect(&call(TCP, "fd00:fd00::1", 80), &node()).verdict else {
        panic!()
    };
    let key = connect_key(client, to, &orig).unwrap();
    assert_eq!(key, accept_key(NETNS, client, OUTBOUND));
    assert_eq!(tuple(9, &orig).addr, addr("fd00:fd00::1"));
    assert_eq!(connect_key(client, end("::1", 15_053), &orig), None);
    let Connect::Remember(to, orig) = connect(&call(TCP, "2001:db8::1", 53), &node()).verdict else {
        panic!()
    };
    assert_eq!(connect_key(client, to, &orig), None);
}
