//! Datagrams of unconnected UDP sockets: sendto() and the source that recvfrom() shows. Keeps: each nameserver of a
//! socket has a port of the resolver of its own, so a reply's port says who was asked. Called by kuma-ebpf's datagram.

use super::{Call, Decision, Endpoint, Lookups, Reason, UDP, is_loopback, is_proxy, loopback, remembered};
use crate::abi::{DNS_SLOTS, POD_DNS, POD_VIPS, SlotsEntry};
use crate::addr::Port;

/// What becomes of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Send {
    /// Left alone.
    Pass,
    /// The call fails.
    Refuse,
    /// Goes to this port of the resolver: it already stands for the nameserver.
    Redirect(Endpoint),
    /// Goes to the slot that [`claim_slot`] gives for its nameserver; the port is that of slot 0.
    Slot(Endpoint),
}

/// Decides a datagram. `peer` is what its socket is connected to, if it is (port 0 otherwise).
#[inline(always)]
pub fn sendmsg(call: &Call, peer: Endpoint, look: &impl Lookups) -> Decision<Send> {
    let Call { to, protocol } = *call;
    let in_range = look.ranges().is_some_and(|ranges| ranges.contain(to.addr));
    let dns = to.port == Port::DNS && protocol == UDP;
    if !in_range && !dns {
        return pass(Reason::NotOurs);
    }
    let Some(pod) = look.pod() else { return pass(Reason::NotEnrolled) };
    let (flag, off) = if in_range { (POD_VIPS, Reason::VipsOff) } else { (POD_DNS, Reason::DnsOff) };
    if pod.flags & flag == 0 {
        return pass(off);
    }
    if is_proxy(pod, look) {
        return pass(Reason::Proxy);
    }
    if in_range {
        return Decision::new(Send::Refuse, Reason::VipNotTcp);
    }
    // A connected socket hears only its peer: the datagram must go where the connect went.
    if let Some(orig) = remembered(peer, look)
        && orig.addr == to.addr
        && orig.port == to.port
    {
        return Decision::new(Send::Redirect(peer), Reason::DnsSameServer);
    }
    let first = Endpoint { addr: loopback(to.addr), port: nth(pod.dns_port, 1) };
    if !look.listens(first, protocol) {
        return pass(Reason::DnsUnserved);
    }
    Decision::new(Send::Slot(first), Reason::DnsSlot)
}

/// Gives `server` its slot: the one it has, a free one, or the next in turn. Returns the resolver's port.
#[inline(always)]
pub fn claim_slot(entry: &mut SlotsEntry, first: Port, server: Endpoint) -> Port {
    if entry.base != first {
        for slot in &mut entry.slots {
            slot.used = 0;
        }
        entry.base = first;
    }
    let mut chosen = DNS_SLOTS;
    for (place, slot) in entry.slots.iter().enumerate() {
        if slot.used == 1 && slot.addr == server.addr && slot.port == server.port {
            return nth(first, place);
        }
        if slot.used == 0 && chosen == DNS_SLOTS {
            chosen = place;
        }
    }
    if chosen == DNS_SLOTS {
        chosen = entry.next as usize % DNS_SLOTS;
        entry.next = entry.next.wrapping_add(1);
    }
    for (place, slot) in entry.slots.iter_mut().enumerate() {
        if place == chosen {
            slot.addr = server.addr;
            slot.port = server.port;
            slot.used = 1;
        }
    }
    nth(first, chosen)
}

/// Decides which source recvfrom() shows in place of `from`; `None`: the truth.
#[inline(always)]
pub fn recvmsg(from: Endpoint, peer_port: Port, look: &impl Lookups) -> Decision<Option<Endpoint>> {
    if !is_loopback(from.addr) {
        return Decision::leave(Reason::NotOurs);
    }
    if peer_port == from.port {
        return match remembered(from, look) {
            Some(orig) => {
                Decision::new(Some(Endpoint { addr: orig.addr, port: orig.port }), Reason::SourceShown)
            }
            None => Decision::leave(Reason::NotOurs),
        };
    }
    match look.slots().and_then(|slots| asked(slots, from)) {
        Some(server) => Decision::new(Some(server), Reason::SourceShown),
        None => Decision::leave(Reason::NotOurs),
    }
}

/// The nameserver whose slot has the port that a reply comes from.
#[inline(always)]
fn asked(entry: &SlotsEntry, from: Endpoint) -> Option<Endpoint> {
    let place = from.port.get().wrapping_sub(entry.base.get());
    let slot = entry.slots.get(usize::from(place))?;
    (slot.used == 1 && slot.addr.is_v4() == from.addr.is_v4())
        .then_some(Endpoint { addr: slot.addr, port: slot.port })
}

impl Decision<Send> {
    /// The same datagram from a socket bound to a device that it cannot be unbound from.
    #[inline(always)]
    #[must_use]
    pub const fn device_stuck() -> Self {
        Self::new(Send::Pass, Reason::DeviceLeft)
    }

    /// The same datagram when the socket cannot remember its nameserver.
    #[inline(always)]
    #[must_use]
    pub const fn no_memory() -> Self {
        Self::new(Send::Refuse, Reason::NoMemory)
    }
}

#[inline(always)]
const fn pass(reason: Reason) -> Decision<Send> {
    Decision::new(Send::Pass, reason)
}

/// The port of slot `place`.
#[inline(always)]
const fn nth(first: Port, place: usize) -> Port {
    Port::new(first.get().wrapping_add(place as u16))
}
