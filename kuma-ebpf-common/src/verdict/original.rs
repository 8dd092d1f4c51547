//! How the proxy learns the original destination: a tuple from the client's SYN to the accepted socket (IPv6), and
//! the answer to SO_ORIGINAL_DST. Keeps: only an index of the socket's own view is answered. Called by original.rs.

use super::{Decision, Endpoint, Reason, index_of, is_loopback, still_there};
use crate::abi::{AcceptedEntry, OrigEntry, RevEntry, TupleEntry, TupleKey};
use crate::addr::{Addr, Port};

/// SOL_IP
const SOL_IP: i32 = 0;
/// SOL_IPV6
const SOL_IPV6: i32 = 41;
/// SO_ORIGINAL_DST, and IP6T_SO_ORIGINAL_DST: the same number.
const SO_ORIGINAL_DST: i32 = 80;

/// The question of a getsockopt().
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Asked {
    pub level: i32,
    pub name: i32,
}

/// The answer to SO_ORIGINAL_DST: a `sockaddr_in` of 16 bytes or a `sockaddr_in6` of 28.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    V4(Endpoint),
    V6(Endpoint),
}

/// The key under which a client's SYN to `remote` publishes its original, if it is a rewritten one.
#[inline(always)]
pub fn connect_key(client: Endpoint, remote: Endpoint, orig: &OrigEntry) -> Option<TupleKey> {
    let orig = still_there(remote, orig)?;
    // Namespace 0: a connection to the resolver, which asks for no original.
    (remote.addr == Addr::LOCALHOST_V6 && orig.netns != 0)
        .then(|| accept_key(orig.netns, client, remote.port))
}

/// The key under which the accept side looks for it.
#[inline(always)]
#[must_use]
pub const fn accept_key(netns: u64, client: Endpoint, server_port: Port) -> TupleKey {
    TupleKey { netns, client: client.addr, client_port: client.port, server_port, _pad: 0 }
}

/// What the client's SYN publishes.
#[inline(always)]
#[must_use]
pub const fn tuple(client_cookie: u64, orig: &OrigEntry) -> TupleEntry {
    TupleEntry { client_cookie, addr: orig.addr, view: orig.view, port: orig.port, _pad: 0 }
}

impl Asked {
    /// Is this the one option that we answer?
    #[inline(always)]
    #[must_use]
    pub const fn is_original_dst(self) -> bool {
        self.name == SO_ORIGINAL_DST && (self.level == SOL_IP || self.level == SOL_IPV6)
    }
}

/// Decides the answer for an accepted socket whose own address is `local`. `view` is that of its namespace, where the
/// kernel can tell it.
#[inline(always)]
pub fn getsockopt<'a>(
    asked: Asked,
    local: Addr,
    view: Option<u32>,
    rev: impl FnOnce(u32) -> Option<&'a RevEntry>,
    accepted: impl FnOnce() -> Option<&'a AcceptedEntry>,
) -> Decision<Option<Answer>> {
    let (original, owner) = if let Some(index) = index_of(local) {
        let Some(rev) = rev(index) else { return Decision::leave(Reason::OriginalUnknown) };
        (Endpoint { addr: rev.orig, port: rev.port }, rev.view)
    } else {
        if !is_loopback(local) {
            return Decision::leave(Reason::NotOurs);
        }
        let Some(accepted) = accepted() else { return Decision::leave(Reason::OriginalUnknown) };
        (Endpoint { addr: accepted.addr, port: accepted.port }, accepted.view)
    };
    if view.is_some_and(|view| view != owner) {
        return Decision::leave(Reason::OriginalForeign);
    }
    let answer = if original.addr.is_v4() && asked.level == SOL_IP {
        Answer::V4(original)
    } else {
        Answer::V6(original)
    };
    Decision::new(Some(answer), Reason::OriginalAnswered)
}
