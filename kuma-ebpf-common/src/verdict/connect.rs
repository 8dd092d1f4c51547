//! connect() and what the application sees afterwards: getpeername() and getsockname(). Keeps: in a VIP range only
//! exact VIPs of the workload's view connect; the proxy is never redirected. Called by kuma-ebpf's connect programs.

use super::{
    Decision, Endpoint, Lookups, Reason, TCP, UDP, index_of, indexed, is_loopback, is_proxy, loopback,
    remembered,
};
use crate::abi::{OrigEntry, POD_DNS, POD_VIPS, PodEntry, VipKey};
use crate::addr::{Addr, Port};

/// A connect() or sendto(): where to, and over what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Call {
    pub to: Endpoint,
    /// IPPROTO_…
    pub protocol: u32,
}

/// What becomes of a connect().
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Connect {
    /// Left alone; what the socket remembers is erased.
    Pass,
    /// Fails at once with ECONNREFUSED.
    Refuse,
    /// Succeeds, and reaches nobody: port 0 of loopback.
    Nowhere(Endpoint),
    /// Goes to an indexed loopback address: the address itself says what was meant.
    Indexed(Endpoint),
    /// Goes to a loopback port; the socket remembers the original.
    Remember(Endpoint, OrigEntry),
}

/// Decides a connect().
#[inline(always)]
pub fn connect(call: &Call, look: &impl Lookups) -> Decision<Connect> {
    let Call { to, protocol } = *call;
    let in_range = look.ranges().is_some_and(|ranges| ranges.contain(to.addr));
    let dns = to.port == Port::DNS && (protocol == TCP || protocol == UDP);
    let index = index_of(to.addr).is_some();
    if !in_range && !dns && !index {
        return pass(Reason::NotOurs);
    }
    let Some(pod) = look.pod() else { return pass(Reason::NotEnrolled) };
    if in_range {
        return connect_vip(call, pod, look);
    }
    if index && to.port == pod.outbound_port && pod.flags & POD_VIPS != 0 {
        return refuse_unless_proxy(Reason::IndexForged, pod, look);
    }
    if !dns {
        return pass(Reason::NotOurs);
    }
    if pod.flags & POD_DNS == 0 {
        return pass(Reason::DnsOff);
    }
    if is_proxy(pod, look) {
        return pass(Reason::Proxy);
    }
    let resolver = Endpoint { addr: loopback(to.addr), port: pod.dns_port };
    if !look.listens(resolver, protocol) {
        return pass(Reason::DnsUnserved);
    }
    // No proxy accepts this one: the namespace stays 0, and sockops does not publish it.
    let orig = OrigEntry { netns: 0, addr: to.addr, view: pod.view, port: to.port, target: pod.dns_port };
    let reason = if protocol == TCP { Reason::DnsTcp } else { Reason::DnsConnected };
    Decision::new(Connect::Remember(resolver, orig), reason)
}

/// Decides a connect() into a VIP range: an exact VIP, or refused.
#[inline(always)]
fn connect_vip(call: &Call, pod: &PodEntry, look: &impl Lookups) -> Decision<Connect> {
    let Call { to, protocol } = *call;
    if pod.flags & POD_VIPS == 0 {
        return pass(Reason::VipsOff);
    }
    if protocol == UDP && to.addr.is_v4() && !is_proxy(pod, look) {
        // getaddrinfo() connects a UDP socket to each address and puts those that fail last (RFC 6724 section 6, rule
        // 1). IPv4 VIPs come first: they cost less, and each has a pool of source ports of its own.
        let nowhere = Endpoint { addr: Addr::LOCALHOST_V4, port: Port::ZERO };
        return Decision::new(Connect::Nowhere(nowhere), Reason::VipProbed);
    }
    if protocol != TCP {
        return refuse_unless_proxy(Reason::VipNotTcp, pod, look);
    }
    let key = VipKey { addr: to.addr, view: pod.view, port: to.port, protocol: TCP as u8, _pad: 0 };
    let Some(index) = look.vip(&key) else {
        return refuse_unless_proxy(Reason::VipUnknown, pod, look);
    };
    if is_proxy(pod, look) {
        return pass(Reason::Proxy);
    }
    if to.addr.is_v4() || look.v6_mapped() {
        if index == 0 {
            return Decision::new(Connect::Refuse, Reason::VipNoIndex);
        }
        let proxy = Endpoint { addr: indexed(index), port: pod.outbound_port };
        return Decision::new(Connect::Indexed(proxy), Reason::VipIndexed);
    }
    let (netns, target) = (look.netns(), pod.outbound_port);
    let orig = OrigEntry { netns, addr: to.addr, view: pod.view, port: to.port, target };
    let proxy = Endpoint { addr: Addr::LOCALHOST_V6, port: target };
    Decision::new(Connect::Remember(proxy, orig), Reason::VipTuple)
}

/// Decides what getpeername() shows in place of `peer`; `None`: the truth.
#[inline(always)]
pub fn getpeername(peer: Endpoint, look: &impl Lookups) -> Decision<Option<Endpoint>> {
    if let Some(index) = index_of(peer.addr) {
        let Some(pod) = look.pod() else { return Decision::leave(Reason::NotEnrolled) };
        if peer.port != pod.outbound_port {
            return Decision::leave(Reason::NotOurs);
        }
        return match look.rev(index) {
            Some(rev) if rev.view == pod.view => {
                Decision::new(Some(Endpoint { addr: rev.vip, port: rev.port }), Reason::PeerShown)
            }
            _ => Decision::leave(Reason::Stale),
        };
    }
    match remembered(peer, look) {
        Some(orig) => Decision::new(Some(Endpoint { addr: orig.addr, port: orig.port }), Reason::PeerShown),
        None => Decision::leave(Reason::NotOurs),
    }
}

/// Decides which address getsockname() shows in place of `local`, for a socket whose peer is `peer`.
#[inline(always)]
pub fn getsockname(local: Addr, peer: Endpoint, look: &impl Lookups) -> Decision<Option<Addr>> {
    if !is_loopback(local) {
        return Decision::leave(Reason::NotOurs);
    }
    let index = index_of(peer.addr).is_some();
    if !index && remembered(peer, look).is_none() {
        return Decision::leave(Reason::NotOurs);
    }
    let Some(pod) = look.pod() else { return Decision::leave(Reason::NotEnrolled) };
    if index && peer.port != pod.outbound_port {
        return Decision::leave(Reason::NotOurs);
    }
    let shown = if local.is_v4() { pod.addr4 } else { pod.addr6 };
    if shown == Addr::UNSPECIFIED {
        return Decision::leave(Reason::NotOurs);
    }
    Decision::new(Some(shown), Reason::LocalShown)
}

impl Decision<Connect> {
    /// The same call from a socket that is bound to a device and could not be unbound: a rewritten destination would
    /// leave by that device and hang.
    #[inline(always)]
    #[must_use]
    pub const fn device_stuck() -> Self {
        Self::new(Connect::Refuse, Reason::DeviceRefused)
    }

    /// The same call when the socket cannot remember its original.
    #[inline(always)]
    #[must_use]
    pub const fn no_memory() -> Self {
        Self::new(Connect::Refuse, Reason::NoMemory)
    }
}

#[inline(always)]
const fn pass(reason: Reason) -> Decision<Connect> {
    Decision::new(Connect::Pass, reason)
}

#[inline(always)]
fn refuse_unless_proxy(reason: Reason, pod: &PodEntry, look: &impl Lookups) -> Decision<Connect> {
    if is_proxy(pod, look) { pass(Reason::Proxy) } else { Decision::new(Connect::Refuse, reason) }
}
