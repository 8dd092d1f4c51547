//! The decisions of the datapath: facts of a socket and look-ups in, a verdict and its numbered reason out.
//! Keeps: pure; the same code runs in the kernel, in table tests and in `explain`; what is not enrolled is not touched.
//! Called by kuma-ebpf.
//!
//! The order inside is by price: the range check before the pod's look-up, the look-up of the VIP before the question
//! whether the caller is the proxy. Everything is inlined, so that a look-up happens only on the path that needs it.

use crate::abi::{
    INDEXED_BASE, INDEXED_MASK, NO_UID, OrigEntry, PodEntry, Ranges, RevEntry, SlotsEntry, VipKey,
};
use crate::addr::{Addr, Port};

mod connect;
mod datagram;
mod original;
mod reason;
#[cfg(test)]
mod tests;

pub use connect::{Call, Connect, connect, getpeername, getsockname};
pub use datagram::{Send, claim_slot, recvmsg, sendmsg};
pub use original::{Answer, Asked, accept_key, connect_key, getsockopt, tuple};
pub use reason::Reason;

/// IPPROTO_TCP
pub const TCP: u32 = 6;
/// IPPROTO_UDP
pub const UDP: u32 = 17;

/// One end of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Endpoint {
    pub addr: Addr,
    pub port: Port,
}

/// What to do, and why.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision<V> {
    pub verdict: V,
    pub reason: Reason,
}

/// What a decision may look up about its socket. In the kernel: maps and helpers; in tests: plain values.
pub trait Lookups {
    /// The entry of the socket's network namespace.
    fn pod(&self) -> Option<&PodEntry>;
    /// What an index stands for.
    fn rev(&self, index: u32) -> Option<&RevEntry>;
    /// The VIP ranges of the node.
    fn ranges(&self) -> Option<&Ranges>;
    /// The index of a VIP.
    fn vip(&self, key: &VipKey) -> Option<u32>;
    /// The cookie of the socket's network namespace.
    fn netns(&self) -> u64;
    /// The cgroup v2 id of the calling task.
    fn cgroup(&self) -> u64;
    /// The uid of the calling task in the initial user namespace.
    fn uid(&self) -> u32;
    /// What the socket remembers of its last rewritten connect.
    fn orig(&self) -> Option<&OrigEntry>;
    /// The nameservers that the socket has sent datagrams to.
    fn slots(&self) -> Option<&SlotsEntry>;
    /// Does anybody listen there, in the socket's own namespace?
    fn listens(&self, resolver: Endpoint, protocol: u32) -> bool;
    /// The setting `V6_MAPPED`.
    fn v6_mapped(&self) -> bool;
}

impl<V> Decision<V> {
    #[inline(always)]
    const fn new(verdict: V, reason: Reason) -> Self {
        Self { verdict, reason }
    }
}

impl<T> Decision<Option<T>> {
    #[inline(always)]
    const fn leave(reason: Reason) -> Self {
        Self { verdict: None, reason }
    }
}

impl Ranges {
    /// Is this the address of a VIP, known or not?
    #[inline(always)]
    #[must_use]
    pub fn contain(&self, addr: Addr) -> bool {
        let [a0, a1, a2, a3] = addr.words();
        if addr.is_v4() {
            // 240.0.0.0/4 has the broadcast address in it, which is nobody's VIP: DHCP clients speak there.
            if a3 == u32::MAX {
                return false;
            }
            // An entry that is all zeroes or all ones is no v4 network: its third word is not that of a mapped one.
            return self.v4.iter().any(|range| {
                let net = range.net.words();
                a3 & range.mask.v4_word() == net[3] && a2 == net[2]
            });
        }
        self.v6.iter().any(|range| {
            let (net, mask) = (range.net.words(), range.mask.words());
            // A map that nobody has written to yet is all zeroes and holds nothing.
            a0 & mask[0] == net[0]
                && a1 & mask[1] == net[1]
                && a2 & mask[2] == net[2]
                && a3 & mask[3] == net[3]
                && mask[0] != 0
        })
    }
}

/// The loopback address that stands for VIP number `index`.
#[inline(always)]
#[must_use]
pub const fn indexed(index: u32) -> Addr {
    Addr::from_v4_word((INDEXED_BASE | (index & INDEXED_MASK)).to_be())
}

/// The VIP number that a loopback address stands for.
#[inline(always)]
#[must_use]
pub const fn index_of(addr: Addr) -> Option<u32> {
    let host = u32::from_be(addr.v4_word());
    if addr.is_v4() && host & !INDEXED_MASK == INDEXED_BASE { Some(host & INDEXED_MASK) } else { None }
}

/// Loopback in the family of `addr`.
#[inline(always)]
const fn loopback(addr: Addr) -> Addr {
    if addr.is_v4() { Addr::LOCALHOST_V4 } else { Addr::LOCALHOST_V6 }
}

/// One of the two addresses that a socket is rewritten to beside the indexed ones.
#[inline(always)]
fn is_loopback(addr: Addr) -> bool {
    addr == Addr::LOCALHOST_V4 || addr == Addr::LOCALHOST_V6
}

/// Does the calling task belong to the pod's proxy? Asked last: the helpers behind it cost most.
#[inline(always)]
fn is_proxy(pod: &PodEntry, look: &impl Lookups) -> bool {
    (pod.proxy_cgroup != 0 && look.cgroup() == pod.proxy_cgroup)
        || (pod.proxy_uid != NO_UID && look.uid() == pod.proxy_uid)
}

/// What the socket's last rewritten connect stood for, if its peer is still the one that it was rewritten to.
#[inline(always)]
fn remembered(peer: Endpoint, look: &impl Lookups) -> Option<&OrigEntry> {
    if !is_loopback(peer.addr) {
        return None;
    }
    still_there(peer, look.orig()?)
}

/// Storage lives as long as its socket, not as long as one of its connections: it speaks only for its own target.
#[inline(always)]
fn still_there(peer: Endpoint, orig: &OrigEntry) -> Option<&OrigEntry> {
    (orig.target == peer.port && orig.addr.is_v4() == peer.addr.is_v4()).then_some(orig)
}
