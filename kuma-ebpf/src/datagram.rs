//! Datagrams of unconnected sockets and their mirror: a reply shows the nameserver that was asked. Keeps: a datagram
//! into a VIP range never leaves. Called by the programs in main.rs.

use kuma_ebpf_common::verdict::{self, Decision, Endpoint, Send};

use crate::connect::Look;
use crate::ctx::SockAddr;
use crate::log::{Hook, tell};
use crate::maps::{self, setting};

/// sendmsg4, sendmsg6.
#[inline(always)]
pub(crate) fn sendmsg(ctx: SockAddr) -> i32 {
    let call = ctx.call();
    let Some(sock) = ctx.sock() else { return 1 };
    let on_device = sock.on_device();
    let peer = sock.peer(ctx.family);
    let decision = verdict::sendmsg(&call, peer, &Look { ctx, sock });
    let redirects = matches!(decision.verdict, Send::Redirect(_) | Send::Slot(_));
    if redirects && on_device && !(setting::sendmsg_unbind() && ctx.unbind_device()) {
        tell(Hook::Sendmsg, Decision::<Send>::device_stuck().reason, call.to);
        return 1;
    }
    match decision.verdict {
        Send::Pass => {}
        Send::Refuse => {
            tell(Hook::Sendmsg, decision.reason, call.to);
            return ctx.refuse();
        }
        Send::Redirect(to) => ctx.set_endpoint(to),
        Send::Slot(first) => {
            let Some(slots) = maps::slots_mut(sock) else {
                tell(Hook::Sendmsg, Decision::<Send>::no_memory().reason, call.to);
                return ctx.refuse();
            };
            let port = verdict::claim_slot(slots, first.port, call.to);
            ctx.set_endpoint(Endpoint { addr: first.addr, port });
        }
    }
    tell(Hook::Sendmsg, decision.reason, call.to);
    1
}

/// recvmsg4, recvmsg6. A reply to a v4-mapped datagram runs the latter.
#[inline(always)]
pub(crate) fn recvmsg(ctx: SockAddr) -> i32 {
    let from = ctx.endpoint();
    let Some(sock) = ctx.sock() else { return 1 };
    let decision = verdict::recvmsg(from, sock.peer_port(), &Look { ctx, sock });
    if let Some(server) = decision.verdict {
        ctx.set_endpoint(server);
    }
    tell(Hook::Recvmsg, decision.reason, from);
    1
}
