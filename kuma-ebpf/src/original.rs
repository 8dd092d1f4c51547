//! The original destination on its way to the proxy: sockops carries it from the client's SYN to the accepted socket
//! (IPv6), getsockopt answers SO_ORIGINAL_DST. Keeps: a tuple lives from SYN to accept, or to the client's close.
//! Called by the programs in main.rs.

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG,
    BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE,
};
use kuma_ebpf_common::abi::setting::NETNS_HELPER;
use kuma_ebpf_common::addr::{Addr, Port};
use kuma_ebpf_common::verdict::{self, Decision, Endpoint, Reason};

use crate::ctx::{SockAddr, SockOps, Sockopt};
use crate::log::{Hook, tell};
use crate::maps::{self, setting};

/// sockops.
#[inline(always)]
pub(crate) fn sockops(ctx: SockOps) {
    // Most callbacks are none of these three: look at nothing else before.
    let reason = match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => syn(ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accept(ctx),
        BPF_SOCK_OPS_STATE_CB if ctx.new_state() == BPF_TCP_CLOSE => close(ctx),
        _ => return,
    };
    if let Some(reason) = reason {
        tell(Hook::Sockops, reason, ctx.remote());
    }
}

/// The client's side, before the SYN leaves: its port is final here.
#[inline(always)]
fn syn(ctx: SockOps) -> Option<Reason> {
    let remote = ctx.remote();
    if !ctx.is_v6() || remote.addr != Addr::LOCALHOST_V6 {
        return None;
    }
    let orig = maps::orig(ctx.sock()?)?;
    let key = verdict::connect_key(ctx.local(), remote, orig)?;
    if !maps::publish(&key, &verdict::tuple(ctx.cookie(), orig)) {
        return Some(Reason::TupleFull);
    }
    ctx.want(BPF_SOCK_OPS_STATE_CB_FLAG);
    Some(Reason::TuplePublished)
}

/// The proxy's side: runs while the new socket is locked, so accept() cannot return it before.
#[inline(always)]
fn accept(ctx: SockOps) -> Option<Reason> {
    let (local, remote) = (ctx.local(), ctx.remote());
    if !ctx.is_v6() || local.addr != Addr::LOCALHOST_V6 {
        return None;
    }
    let sock = ctx.sock()?;
    let key = verdict::accept_key(ctx.netns(sock)?, remote, local.port);
    let tuple = maps::published(&key)?;
    let kept = maps::remember_accepted(sock, tuple);
    maps::unpublish(&key);
    Some(if kept { Reason::TupleTaken } else { Reason::NoMemory })
}

/// The client closes: its tuple goes, unless the proxy took it or the port has a new owner.
#[inline(always)]
fn close(ctx: SockOps) -> Option<Reason> {
    let orig = maps::orig(ctx.sock()?)?;
    let key = verdict::connect_key(ctx.local(), ctx.remote(), orig)?;
    if maps::published(&key)?.client_cookie != ctx.cookie() {
        return None;
    }
    maps::unpublish(&key).then_some(Reason::TupleClosed)
}

/// getsockopt. Returns 1 always: what we do not answer stays as the kernel answered it.
#[inline(always)]
pub(crate) fn getsockopt(ctx: Sockopt) -> i32 {
    let asked = ctx.asked();
    if !asked.is_original_dst() {
        return 1;
    }
    let Some(sock) = ctx.sock() else { return 1 };
    let local = sock.local();
    // Where the kernel cannot tell the namespace here, the connect hook alone keeps views apart: it refuses an
    // application's own connect to an index.
    let view =
        if setting::netns_mode() == NETNS_HELPER { maps::pod(ctx.netns()).map(|pod| pod.view) } else { None };
    let decision = verdict::getsockopt(asked, local, view, maps::rev, || maps::accepted(sock));
    let decision = match decision.verdict {
        Some(answer) if !ctx.answer(answer) => Decision { verdict: None, reason: Reason::OriginalNoRoom },
        _ => decision,
    };
    tell(Hook::Getsockopt, decision.reason, Endpoint { addr: local, port: Port::ZERO });
    1
}

/// bind6, where only inheritance tells an accepted socket's namespace.
#[inline(always)]
pub(crate) fn bind(ctx: SockAddr) -> i32 {
    if let Some(sock) = ctx.sock()
        && maps::mark_listener(sock, ctx.netns())
    {
        tell(Hook::Bind, Reason::ListenerMarked, ctx.endpoint());
    }
    1
}

/// whoami: a connect4 hook for user space that cannot ask SO_NETNS_COOKIE.
#[inline(always)]
pub(crate) fn whoami(ctx: SockAddr) -> i32 {
    if let Some(sock) = ctx.sock() {
        maps::tell_netns(sock, ctx.netns());
    }
    1
}
