//! What becomes of a decision: its counter goes up and, when a developer asked for it, a log line tells it. Keeps: with
//! `AYA_LOG_LEVEL` 0 the verifier removes every trace of the log from the loaded programs. Called by all hooks.

use aya_log_ebpf::log;
use aya_log_ebpf::macro_support::{Level, level_enabled};
use kuma_ebpf_common::verdict::{Endpoint, Reason};

use crate::maps::{self, names};

/// The hooks; their names in a log line are in `maps::names`.
#[derive(Clone, Copy)]
pub(crate) enum Hook {
    Connect,
    Getpeername,
    Getsockname,
    Sendmsg,
    Recvmsg,
    Sockops,
    Getsockopt,
    Bind,
}

/// Counts a decision and logs it: debug, or trace for the sockets that are not ours.
#[inline(always)]
pub(crate) fn tell(hook: Hook, reason: Reason, about: Endpoint) {
    maps::count(reason);
    let level = if reason.number() == 0 { Level::Trace } else { Level::Debug };
    if level_enabled(level) {
        let [a, b, c, d] = about.addr.words();
        let high = u64::from(a) << 32 | u64::from(b);
        let low = u64::from(c) << 32 | u64::from(d);
        log_decision(hook as u32, reason.number(), high, low, u32::from(about.port.get()));
    }
}

/// The log's only subprogram. Five scalars are all that a BPF call can carry.
#[inline(never)]
fn log_decision(hook: u32, reason: u32, high: u64, low: u64, port: u32) -> u32 {
    let (Some(hook), Some(name)) = (names::hook(hook), names::reason(reason)) else { return 0 };
    let mut addr = [0u8; 16];
    addr[..4].copy_from_slice(&((high >> 32) as u32).to_ne_bytes());
    addr[4..8].copy_from_slice(&(high as u32).to_ne_bytes());
    addr[8..12].copy_from_slice(&((low >> 32) as u32).to_ne_bytes());
    addr[12..].copy_from_slice(&(low as u32).to_ne_bytes());
    let level = if reason == 0 { Level::Trace } else { Level::Debug };
    log!(&(), level, "{}{}{:i} port {}", hook, name, addr, port);
    0
}
