//! connect() and its mirrors: getpeername() and getsockname() show what the application asked for. Keeps: every
//! connect that is not ours erases what the socket remembered. Called by the programs in main.rs.

use kuma_ebpf_common::abi::{OrigEntry, PodEntry, Ranges, RevEntry, SlotsEntry, VipKey};
use kuma_ebpf_common::verdict::{self, Call, Connect, Decision, Endpoint, Lookups};

use crate::ctx::{self, Sock, SockAddr};
use crate::log::{Hook, tell};
use crate::maps::{self, setting};

/// The look-ups of the hooks that have a socket address.
pub(crate) struct Look {
    pub(crate) ctx: SockAddr,
    pub(crate) sock: Sock,
}

impl Lookups for Look {
    #[inline(always)]
    fn pod(&self) -> Option<&PodEntry> {
        maps::pod(self.ctx.netns())
    }

    #[inline(always)]
    fn rev(&self, index: u32) -> Option<&RevEntry> {
        maps::rev(index)
    }

    #[inline(always)]
    fn ranges(&self) -> Option<&Ranges> {
        maps::ranges()
    }

    #[inline(always)]
    fn vip(&self, key: &VipKey) -> Option<u32> {
        maps::vip(key)
    }

    #[inline(always)]
    fn netns(&self) -> u64 {
        self.ctx.netns()
    }

    #[inline(always)]
    fn cgroup(&self) -> u64 {
        ctx::current_cgroup()
    }

    #[inline(always)]
    fn uid(&self) -> u32 {
        ctx::current_uid()
    }

    #[inline(always)]
    fn orig(&self) -> Option<&OrigEntry> {
        maps::orig(self.sock)
    }

    #[inline(always)]
    fn slots(&self) -> Option<&SlotsEntry> {
        maps::slots(self.sock)
    }

    #[inline(always)]
    fn listens(&self, resolver: Endpoint, protocol: u32) -> bool {
        self.ctx.listens(resolver, protocol)
    }

    #[inline(always)]
    fn v6_mapped(&self) -> bool {
        setting::v6_mapped()
    }
}

/// connect4, connect6.
#[inline(always)]
pub(crate) fn connect(ctx: SockAddr) -> i32 {
    let call = ctx.call();
    let Some(sock) = ctx.sock() else { return 1 };
    let on_device = sock.on_device();
    let decision = verdict::connect(&call, &Look { ctx, sock });
    carry_out(ctx, sock, &call, on_device, decision)
}

#[inline(always)]
fn carry_out(ctx: SockAddr, sock: Sock, call: &Call, on_device: bool, decision: Decision<Connect>) -> i32 {
    let redirects = matches!(decision.verdict, Connect::Indexed(_) | Connect::Remember(..));
    if redirects && on_device && !ctx.unbind_device() {
        return refuse(ctx, call, on_device, Decision::<Connect>::device_stuck());
    }
    match decision.verdict {
        Connect::Pass => maps::forget_orig(sock),
        Connect::Refuse => return refuse(ctx, call, on_device, decision),
        Connect::Indexed(to) => ctx.set_endpoint(to),
        Connect::Nowhere(to) => {
            maps::forget_orig(sock);
            ctx.set_endpoint(to);
        }
        Connect::Remember(to, orig) => {
            if !maps::remember_orig(sock, &orig) {
                return refuse(ctx, call, on_device, Decision::<Connect>::no_memory());
            }
            ctx.set_endpoint(to);
        }
    }
    tell(Hook::Connect, decision.reason, call.to);
    1
}

#[inline(always)]
fn refuse(ctx: SockAddr, call: &Call, on_device: bool, decision: Decision<Connect>) -> i32 {
    tell(Hook::Connect, decision.reason, call.to);
    ctx.refuse_connect(call, on_device)
}

/// getpeername4, getpeername6.
#[inline(always)]
pub(crate) fn getpeername(ctx: SockAddr) -> i32 {
    let peer = ctx.endpoint();
    let Some(sock) = ctx.sock() else { return 1 };
    let decision = verdict::getpeername(peer, &Look { ctx, sock });
    if let Some(shown) = decision.verdict {
        ctx.set_endpoint(shown);
    }
    tell(Hook::Getpeername, decision.reason, peer);
    1
}

/// getsockname4, getsockname6.
#[inline(always)]
pub(crate) fn getsockname(ctx: SockAddr) -> i32 {
    let Endpoint { addr: local, .. } = ctx.endpoint();
    let Some(sock) = ctx.sock() else { return 1 };
    let peer = sock.peer(ctx.family);
    let decision = verdict::getsockname(local, peer, &Look { ctx, sock });
    if let Some(shown) = decision.verdict {
        ctx.set_addr(shown);
    }
    tell(Hook::Getsockname, decision.reason, peer);
    1
}
