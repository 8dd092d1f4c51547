//! Every map of the datapath: its name, key, value and capacity, the one side that writes it and those that read it.
//! Keeps: layouts equal on both sides of the wall (size asserts), one writer per map. Called by kuma-ebpf and kernel.
//!
//! | map | type | key -> value | written by | read by |
//! |---|---|---|---|---|
//! | `PODS` | hash | netns cookie -> [`PodEntry`] | agent | all hooks |
//! | `RANGES` | array, 1 entry | 0 -> [`Ranges`] | agent | connect |
//! | `VIPS` | hash, grows with use | [`VipKey`] -> index | agent | connect |
//! | `REV` | hash, grows with use | index -> [`RevEntry`] | agent | getpeername, getsockopt |
//! | `ORIG` | socket storage | client socket -> [`OrigEntry`] | connect | getpeername, getsockname, recvmsg, sockops |
//! | `SLOTS` | socket storage | client socket -> [`SlotsEntry`] | sendmsg | recvmsg |
//! | `TUPLES` | hash, grows with use | [`TupleKey`] -> [`TupleEntry`] | sockops | sockops |
//! | `ACCEPTED` | socket storage | accepted socket -> [`AcceptedEntry`] | sockops | getsockopt |
//! | `LISTENERS` | socket storage, cloned on accept | proxy's socket -> netns cookie | bind6 | sockops |
//! | `WHOAMI` | socket storage | any socket -> netns cookie | whoami | agent |
//! | `COUNTERS` | per-CPU array | [`Reason`](crate::verdict::Reason) -> count (`u64`) | all hooks | agent |

use crate::addr::{Addr, Port};

/// How many workloads (network namespaces) one node may enrol.
pub const PODS_CAPACITY: u32 = 4_096;
/// Default capacity of `VIPS` and `REV`: 100,000 services in two families fit. A setting of the agent.
pub const VIPS_CAPACITY: u32 = 262_144;
/// Connections to IPv6 VIPs between SYN and ACCEPT; entries live microseconds.
pub const TUPLES_CAPACITY: u32 = 65_536;
/// Room of `COUNTERS`: more than there are reasons, so that a new one does not change the map.
pub const COUNTERS_CAPACITY: u32 = 64;
/// VIP ranges of one family that a node can serve at once.
pub const RANGES_PER_FAMILY: usize = 4;
/// Nameservers that one unconnected UDP socket can ask at once; each has its own port of the resolver.
pub const DNS_SLOTS: usize = 4;

/// The loopback range that stands for IPv4 VIPs: VIP number N is `127.64.0.0 + N`.
pub const INDEXED_BASE: u32 = 0x7f40_0000;
/// Host bits of [`INDEXED_BASE`]: a /10.
pub const INDEXED_MASK: u32 = 0x003f_ffff;
/// How many indexes there are. Index 0 is never given, so that 127.64.0.0 stays unused.
pub const INDEXES: u32 = INDEXED_MASK + 1;

const _: () = assert!(crate::verdict::Reason::COUNT <= COUNTERS_CAPACITY);

/// An enrolled workload: all sockets of one network namespace. Key: the namespace's cookie (`u64`).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PodEntry {
    /// cgroup id of the proxy that serves this pod; 0: none, recognise it by uid.
    pub proxy_cgroup: u64,
    /// The view whose VIPs this pod may reach.
    pub view: u32,
    /// uid of the proxy in the initial user namespace; [`NO_UID`]: recognise it by cgroup.
    pub proxy_uid: u32,
    /// [`POD_DNS`], [`POD_VIPS`].
    pub flags: u32,
    /// The proxy's outbound listener.
    pub outbound_port: Port,
    /// The resolver's port for connected sockets; slot `i` of an unconnected one is `dns_port + 1 + i`.
    pub dns_port: Port,
    /// What getsockname shows in place of a loopback source; [`Addr::UNSPECIFIED`]: leave it.
    pub addr4: Addr,
    /// The same for IPv6.
    pub addr6: Addr,
}
const _: () = assert!(size_of::<PodEntry>() == 56);

/// [`PodEntry::proxy_uid`] when no uid marks the proxy.
pub const NO_UID: u32 = u32::MAX;
/// [`PodEntry::flags`]: port 53 goes to the resolver.
pub const POD_DNS: u32 = 1 << 0;
/// [`PodEntry::flags`]: VIPs go to the proxy; without it they are left alone.
pub const POD_VIPS: u32 = 1 << 1;

/// One network: `addr & mask == net`. An unused one has `net` and `mask` all ones: no unicast address matches.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    pub net: Addr,
    pub mask: Addr,
}
const _: () = assert!(size_of::<Range>() == 32);

/// All VIP ranges of the node, over all views. The address of a VIP lies in one of them, and nothing else may.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ranges {
    pub v4: [Range; RANGES_PER_FAMILY],
    pub v6: [Range; RANGES_PER_FAMILY],
}
const _: () = assert!(size_of::<Ranges>() == 256);

/// Which VIP, in whose view. Value: its index (`u32`), 0 for an IPv6 VIP, which needs none.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct VipKey {
    pub addr: Addr,
    pub view: u32,
    pub port: Port,
    /// IPPROTO_TCP (6).
    pub protocol: u8,
    pub _pad: u8,
}
const _: () = assert!(size_of::<VipKey>() == 24);

/// What an index stands for. `orig` is what getsockopt answers; today it equals the VIP.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RevEntry {
    pub vip: Addr,
    pub orig: Addr,
    pub view: u32,
    pub port: Port,
    pub _pad: u16,
}
const _: () = assert!(size_of::<RevEntry>() == 40);

/// What a rewritten socket was asked to reach. It speaks only while the socket's peer is `target`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OrigEntry {
    /// The pod's namespace, for the accept side of IPv6.
    pub netns: u64,
    pub addr: Addr,
    pub view: u32,
    pub port: Port,
    /// The loopback port this socket was rewritten to.
    pub target: Port,
}
const _: () = assert!(size_of::<OrigEntry>() == 32);

/// The nameserver that one slot of an unconnected UDP socket stands for. Size is a power of two for the verifier.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    pub addr: Addr,
    pub port: Port,
    /// 1 when the slot is in use.
    pub used: u16,
    pub _pad: [u32; 3],
}
const _: () = assert!(size_of::<Slot>() == 32);

/// The nameservers of one unconnected UDP socket.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotsEntry {
    pub slots: [Slot; DNS_SLOTS],
    /// The slot that the next new nameserver takes when all are in use.
    pub next: u32,
    /// The port of slot 0.
    pub base: Port,
    pub _pad: u16,
    pub _pad2: [u32; 2],
}
const _: () = assert!(size_of::<SlotsEntry>() == 144);

/// A connection to an IPv6 VIP between its SYN and its accept. The server side is always `::1`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TupleKey {
    pub netns: u64,
    pub client: Addr,
    pub client_port: Port,
    pub server_port: Port,
    pub _pad: u32,
}
const _: () = assert!(size_of::<TupleKey>() == 32);

/// Where that connection was meant to go, and which socket said so (only its close may delete the entry).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TupleEntry {
    pub client_cookie: u64,
    pub addr: Addr,
    pub view: u32,
    pub port: Port,
    pub _pad: u16,
}
const _: () = assert!(size_of::<TupleEntry>() == 32);

/// The original destination of a connection that the proxy accepted on `::1`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AcceptedEntry {
    pub addr: Addr,
    pub view: u32,
    pub port: Port,
    pub _pad: u16,
}
const _: () = assert!(size_of::<AcceptedEntry>() == 24);

/// Map names as they stand in the object and in the pin directory.
pub mod map {
    pub const PODS: &str = "PODS";
    pub const RANGES: &str = "RANGES";
    pub const VIPS: &str = "VIPS";
    pub const REV: &str = "REV";
    pub const ORIG: &str = "ORIG";
    pub const SLOTS: &str = "SLOTS";
    pub const TUPLES: &str = "TUPLES";
    pub const ACCEPTED: &str = "ACCEPTED";
    /// Only in [`setting::NETNS_BIND`](super::setting::NETNS_BIND) mode.
    pub const LISTENERS: &str = "LISTENERS";
    /// Only for [`program::WHOAMI`](super::program::WHOAMI); never pinned.
    pub const WHOAMI: &str = "WHOAMI";
    pub const COUNTERS: &str = "COUNTERS";
    /// All of them, in the order of the table above.
    pub const ALL: [&str; 11] =
        [PODS, RANGES, VIPS, REV, ORIG, SLOTS, TUPLES, ACCEPTED, LISTENERS, WHOAMI, COUNTERS];
}

/// Program names as they stand in the object.
pub mod program {
    /// Attached to the workloads' cgroup, in the order of attaching: consumers first, producers last.
    pub const WORKLOAD: [&str; 10] = [
        "getpeername4",
        "getpeername6",
        "getsockname4",
        "getsockname6",
        "recvmsg4",
        "recvmsg6",
        "sendmsg4",
        "sendmsg6",
        "connect4",
        "connect6",
    ];
    /// At the workloads' cgroup and at each proxy's cgroup that is not below it.
    pub const SOCKOPS: &str = "sock_ops";
    /// At each proxy's cgroup only: it taxes every getsockopt there.
    pub const GETSOCKOPT: &str = "getsockopt";
    /// At each proxy's cgroup, in [`setting::NETNS_BIND`](super::setting::NETNS_BIND) mode only.
    pub const BIND6: &str = "bind6";
    /// A connect4 program for the agent's own cgroup that tells a UDP socket its namespace's cookie, through the map
    /// `WHOAMI`; for kernels without SO_NETNS_COOKIE (before 5.14).
    pub const WHOAMI: &str = "whoami";
}

/// Read-only words that user space sets before the load (`.rodata`); the verifier prunes what they switch off.
pub mod setting {
    /// 1: `bpf_set_retval` exists (5.18); 0: a refused connect goes to port 0 instead.
    pub const SET_RETVAL: &str = "SET_RETVAL";
    /// How the accept side of IPv6 learns its namespace: [`NETNS_HELPER`], [`NETNS_PROBE`], [`NETNS_BIND`].
    pub const NETNS_MODE: &str = "NETNS_MODE";
    /// Byte offset of `skc_net` in `struct sock_common`, from the kernel's BTF ([`NETNS_PROBE`] only).
    pub const OFF_SKC_NET: &str = "OFF_SKC_NET";
    /// Byte offset of `net_cookie` in `struct net`, from the kernel's BTF ([`NETNS_PROBE`] only).
    pub const OFF_NET_COOKIE: &str = "OFF_NET_COOKIE";
    /// 1: `bpf_setsockopt` exists in sendmsg hooks, so that a device-bound socket can be unbound there.
    pub const SENDMSG_UNBIND: &str = "SENDMSG_UNBIND";
    /// 1: sockops did not load: IPv6 VIPs go through the indexed loopback and need an index of their own; V6ONLY
    /// sockets cannot reach them.
    pub const V6_MAPPED: &str = "V6_MAPPED";
    /// Log lines of the programs (`u8`, aya-log's levels): 0 off, 1 error … 5 trace. **The object says 255: always set
    /// it.** At 0 the verifier removes every log line from the loaded programs.
    pub const LOG_LEVEL: &str = "AYA_LOG_LEVEL";

    /// `bpf_get_netns_cookie` in sockops (5.15).
    pub const NETNS_HELPER: u32 = 0;
    /// `bpf_probe_read_kernel` with two offsets (needs CAP_PERFMON, not under lockdown=confidentiality).
    pub const NETNS_PROBE: u32 = 1;
    /// A bind6 hook stored it in the listener's storage; accepted sockets inherit that.
    pub const NETNS_BIND: u32 = 2;
}
