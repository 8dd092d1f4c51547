//! The hooks of the datapath: which program of the object stands behind each, and in which order they are attached.
//! Keeps: consumers of what a hook writes stand before it, so that attaching in this order never misses. Called by loader, links.

use kuma_ebpf_common::abi::{program, setting};

/// A place in the kernel's socket calls where one of our programs runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Hook {
    Getsockopt,
    Bind6,
    Sockops,
    Recvmsg4,
    Recvmsg6,
    Getpeername4,
    Getpeername6,
    Getsockname4,
    Getsockname6,
    Sendmsg4,
    Sendmsg6,
    Connect4,
    Connect6,
}

/// Whose cgroup a hook is attached to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// The workloads': their calls are looked at.
    Workloads,
    /// Every proxy's, and only there: it taxes each call.
    Proxies,
    /// The workloads' and, where that does not cover it, the proxy's: both ends of a connection are needed.
    Both,
}

impl Hook {
    /// All hooks in attach order: consumers first, `connect` last. Detaching goes the other way round.
    pub const ALL: [Self; 13] = [
        Self::Getsockopt,
        Self::Bind6,
        Self::Sockops,
        Self::Recvmsg4,
        Self::Recvmsg6,
        Self::Getpeername4,
        Self::Getpeername6,
        Self::Getsockname4,
        Self::Getsockname6,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::Connect4,
        Self::Connect6,
    ];

    /// The program's name in the object, and the link's in the pin directory.
    pub fn name(self) -> &'static str {
        match self {
            Self::Getsockopt => program::GETSOCKOPT,
            Self::Bind6 => program::BIND6,
            Self::Sockops => program::SOCKOPS,
            Self::Recvmsg4 => "recvmsg4",
            Self::Recvmsg6 => "recvmsg6",
            Self::Getpeername4 => "getpeername4",
            Self::Getpeername6 => "getpeername6",
            Self::Getsockname4 => "getsockname4",
            Self::Getsockname6 => "getsockname6",
            Self::Sendmsg4 => "sendmsg4",
            Self::Sendmsg6 => "sendmsg6",
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
        }
    }

    /// The hook with this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|hook| hook.name() == name)
    }

    /// `enum bpf_attach_type` of uapi/linux/bpf.h.
    pub(super) fn attach_type(self) -> u32 {
        match self {
            Self::Sockops => 3,
            Self::Bind6 => 9,
            Self::Connect4 => 10,
            Self::Connect6 => 11,
            Self::Sendmsg4 => 14,
            Self::Sendmsg6 => 15,
            Self::Recvmsg4 => 19,
            Self::Recvmsg6 => 20,
            Self::Getsockopt => 21,
            Self::Getpeername4 => 29,
            Self::Getpeername6 => 30,
            Self::Getsockname4 => 31,
            Self::Getsockname6 => 32,
        }
    }

    pub(super) fn place(self) -> Place {
        match self {
            Self::Getsockopt | Self::Bind6 => Place::Proxies,
            Self::Sockops => Place::Both,
            _ => Place::Workloads,
        }
    }

    /// Is this hook part of the datapath under this `NETNS_MODE`?
    pub(super) fn wanted(self, netns_mode: u32) -> bool {
        self != Self::Bind6 || netns_mode == setting::NETNS_BIND
    }

    /// May the datapath go on when the kernel refuses this program? What is lost is reported by the status.
    pub(super) fn optional(self) -> bool {
        matches!(self, Self::Sockops | Self::Bind6 | Self::Getsockname4 | Self::Getsockname6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hook_is_attached_once_and_connect_comes_last() {
        let mut sorted = Hook::ALL.to_vec();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted, Hook::ALL, "declaration order is attach order");
        assert_eq!(&Hook::ALL[11..], [Hook::Connect4, Hook::Connect6]);
        assert!(Hook::ALL.iter().all(|hook| Hook::named(hook.name()) == Some(*hook)));
    }
}
