//! The contexts of the hooks: volatile reads and writes of their fields, and the helpers that take a context. The
//! other room with `unsafe`. Keeps: a context's fields are all loaded before any is chosen (LLVM would merge the
//! addresses of two branches, which every verifier refuses); each store is one field. Called by the hooks.
#![expect(unsafe_code, reason = "contexts are raw pointers whose fields the verifier checks")]

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::{addr_of, addr_of_mut};

use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr, bpf_sock_ops, bpf_sockopt};
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_uid_gid, bpf_get_netns_cookie, bpf_get_socket_cookie,
    bpf_probe_read_kernel, bpf_set_retval, bpf_setsockopt, bpf_sk_lookup_tcp, bpf_sk_lookup_udp,
    bpf_sk_release, bpf_sock_ops_cb_flags_set,
};
use kuma_ebpf_common::abi::setting::{NETNS_BIND, NETNS_PROBE};
use kuma_ebpf_common::addr::{Addr, Port};
use kuma_ebpf_common::verdict::{Answer, Asked, Call, Endpoint, TCP};

use crate::maps::{self, setting};

const AF_INET: u16 = 2;
const AF_INET6: u16 = 10;
const ECONNREFUSED: i32 = 111;
const SOL_SOCKET: i32 = 1;
const SO_BINDTODEVICE: i32 = 25;
/// BPF_F_CURRENT_NETNS: that of the context's socket.
const OWN_NETNS: u64 = u64::MAX;
/// The index of `lo` in every namespace; a socket bound to it reaches loopback as it is.
const LOOPBACK_IFINDEX: u32 = 1;

/// One volatile load of a context's field.
macro_rules! load {
    ($base:expr, $($field:tt)+) => {
        // SAFETY: the pointer is the program's own context or its null-checked socket; the verifier checks the offset.
        unsafe { addr_of!((*$base).$($field)+).read_volatile() }
    };
}

/// The four words of an IPv6 address.
macro_rules! load_v6 {
    ($base:expr, $field:ident) => {
        Addr::from_words([
            load!($base, $field[0]),
            load!($base, $field[1]),
            load!($base, $field[2]),
            load!($base, $field[3]),
        ])
    };
}

/// One volatile store to a context's field.
macro_rules! store {
    ($value:expr => $base:expr, $($field:tt)+) => {
        // SAFETY: as for `load!`.
        unsafe { addr_of_mut!((*$base).$($field)+).write_volatile($value) }
    };
}

/// Which half of a context a hook speaks. An `AF_INET` address on an `AF_INET6` socket runs the hook for IPv4.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// A socket as the helpers take it, not null.
#[derive(Clone, Copy)]
pub(crate) struct Sock(*mut bpf_sock);

impl Sock {
    #[inline(always)]
    fn new(sk: *mut bpf_sock) -> Option<Self> {
        if sk.is_null() { None } else { Some(Self(sk)) }
    }

    #[inline(always)]
    pub(crate) fn as_ptr(self) -> *mut c_void {
        self.0.cast()
    }

    /// Is it bound to a device other than loopback?
    #[inline(always)]
    pub(crate) fn on_device(self) -> bool {
        load!(self.0, bound_dev_if) > LOOPBACK_IFINDEX
    }

    /// What it is connected to; port 0 if it is not.
    #[inline(always)]
    pub(crate) fn peer(self, family: Family) -> Endpoint {
        let port = self.peer_port();
        let addr = match family {
            Family::V4 => Addr::from_v4_word(load!(self.0, dst_ip4)),
            Family::V6 => load_v6!(self.0, dst_ip6),
        };
        Endpoint { addr, port }
    }

    #[inline(always)]
    pub(crate) fn peer_port(self) -> Port {
        Port::from_be(load!(self.0, dst_port))
    }

    /// Its own address, whichever its family is.
    #[inline(always)]
    pub(crate) fn local(self) -> Addr {
        let family = load!(self.0, family);
        let v4 = load!(self.0, src_ip4);
        let v6 = load_v6!(self.0, src_ip6);
        if family == u32::from(AF_INET) { Addr::from_v4_word(v4) } else { v6 }
    }
}

/// The context of connect, sendmsg, recvmsg, getpeername, getsockname and bind.
#[derive(Clone, Copy)]
pub(crate) struct SockAddr {
    raw: *mut bpf_sock_addr,
    pub(crate) family: Family,
}

impl SockAddr {
    #[inline(always)]
    pub(crate) const fn new(raw: *mut bpf_sock_addr, family: Family) -> Self {
        Self { raw, family }
    }

    #[inline(always)]
    pub(crate) fn sock(self) -> Option<Sock> {
        Sock::new(load!(self.raw, __bindgen_anon_1.sk))
    }

    /// The address in question: where to, from where, or whose name.
    #[inline(always)]
    pub(crate) fn endpoint(self) -> Endpoint {
        let port = Port::from_be(load!(self.raw, user_port) as u16);
        let addr = match self.family {
            Family::V4 => Addr::from_v4_word(load!(self.raw, user_ip4)),
            Family::V6 => load_v6!(self.raw, user_ip6),
        };
        Endpoint { addr, port }
    }

    #[inline(always)]
    pub(crate) fn call(self) -> Call {
        Call { protocol: load!(self.raw, protocol), to: self.endpoint() }
    }

    #[inline(always)]
    pub(crate) fn set_addr(self, addr: Addr) {
        match self.family {
            Family::V4 => store!(addr.v4_word() => self.raw, user_ip4),
            Family::V6 => {
                let [a, b, c, d] = addr.words();
                store!(a => self.raw, user_ip6[0]);
                store!(b => self.raw, user_ip6[1]);
                store!(c => self.raw, user_ip6[2]);
                store!(d => self.raw, user_ip6[3]);
            }
        }
    }

    #[inline(always)]
    pub(crate) fn set_endpoint(self, to: Endpoint) {
        self.set_addr(to.addr);
        store!(u32::from(to.port.to_be()) => self.raw, user_port);
    }

    /// The cookie of the socket's network namespace, not of the task's.
    #[inline(always)]
    pub(crate) fn netns(self) -> u64 {
        // SAFETY: the program's own context.
        unsafe { bpf_get_netns_cookie(self.raw.cast()) }
    }

    /// Does a socket in this namespace receive what is sent to `at`? (To a listener, for TCP.)
    #[inline(always)]
    pub(crate) fn listens(self, at: Endpoint, protocol: u32) -> bool {
        let [a, b, c, d] = at.addr.words();
        // `struct bpf_sock_tuple`: both addresses, both ports. Port 0 of loopback asks.
        let dport = at.port.after([0, 0]);
        let (mut v4, mut v6) = ([d, d, dport], [a, b, c, d, a, b, c, d, dport]);
        let (tuple, size) = if at.addr.is_v4() {
            (v4.as_mut_ptr(), size_of_val(&v4))
        } else {
            (v6.as_mut_ptr(), size_of_val(&v6))
        };
        let (ctx, tuple, size) = (self.raw.cast(), tuple.cast(), size as u32);
        // SAFETY: the program's own context, and a tuple that is initialised to its size.
        let found = unsafe {
            if protocol == TCP {
                bpf_sk_lookup_tcp(ctx, tuple, size, OWN_NETNS, 0)
            } else {
                bpf_sk_lookup_udp(ctx, tuple, size, OWN_NETNS, 0)
            }
        };
        if found.is_null() {
            return false;
        }
        // SAFETY: the reference that the look-up took.
        unsafe { bpf_sk_release(found.cast()) };
        true
    }

    /// Frees the socket from the device that it is bound to, if its owner may: loopback is not there.
    #[inline(always)]
    pub(crate) fn unbind_device(self) -> bool {
        // The empty name unbinds on every kernel; SO_BINDTOIFINDEX fails on 5.10.
        let mut name = 0u32;
        let name = addr_of_mut!(name).cast();
        // SAFETY: the program's own context, and four bytes that are initialised.
        unsafe { bpf_setsockopt(self.raw.cast(), SOL_SOCKET, SO_BINDTODEVICE, name, 4) == 0 }
    }

    /// Makes the system call fail. Returns what the program returns.
    #[inline(always)]
    pub(crate) fn refuse(self) -> i32 {
        if setting::set_retval() {
            // SAFETY: takes no pointer.
            unsafe { bpf_set_retval(-ECONNREFUSED) };
        }
        0
    }

    /// Makes a connect() fail. Where a program cannot name the error, the SYN goes to port 0 of loopback, where nothing
    /// listens: the stack refuses it as a host would. Other protocols, and sockets that a device holds, get EPERM there.
    #[inline(always)]
    pub(crate) fn refuse_connect(self, call: &Call, on_device: bool) -> i32 {
        if setting::set_retval() || call.protocol != TCP || on_device {
            return self.refuse();
        }
        let addr = if call.to.addr.is_v4() { Addr::LOCALHOST_V4 } else { Addr::LOCALHOST_V6 };
        self.set_endpoint(Endpoint { addr, port: Port::ZERO });
        1
    }
}

/// The cgroup v2 id of the calling task.
#[inline(always)]
pub(crate) fn current_cgroup() -> u64 {
    // SAFETY: takes no pointer.
    unsafe { bpf_get_current_cgroup_id() }
}

/// The uid of the calling task in the initial user namespace.
#[inline(always)]
pub(crate) fn current_uid() -> u32 {
    // SAFETY: takes no pointer.
    unsafe { bpf_get_current_uid_gid() as u32 }
}

/// The context of sockops.
#[derive(Clone, Copy)]
pub(crate) struct SockOps(*mut bpf_sock_ops);

impl SockOps {
    #[inline(always)]
    pub(crate) const fn new(raw: *mut bpf_sock_ops) -> Self {
        Self(raw)
    }

    #[inline(always)]
    pub(crate) fn op(self) -> u32 {
        load!(self.0, op)
    }

    /// The second argument of the operation: the new state of BPF_SOCK_OPS_STATE_CB.
    #[inline(always)]
    pub(crate) fn new_state(self) -> u32 {
        load!(self.0, __bindgen_anon_1.args[1])
    }

    #[inline(always)]
    pub(crate) fn is_v6(self) -> bool {
        load!(self.0, family) == u32::from(AF_INET6)
    }

    #[inline(always)]
    pub(crate) fn local(self) -> Endpoint {
        let addr = load_v6!(self.0, local_ip6);
        // This field is in host order.
        Endpoint { addr, port: Port::new(load!(self.0, local_port) as u16) }
    }

    #[inline(always)]
    pub(crate) fn remote(self) -> Endpoint {
        let addr = load_v6!(self.0, remote_ip6);
        // This one is a 32-bit number in network order.
        Endpoint { addr, port: Port::new(u32::from_be(load!(self.0, remote_port)) as u16) }
    }

    #[inline(always)]
    pub(crate) fn sock(self) -> Option<Sock> {
        Sock::new(load!(self.0, __bindgen_anon_2.sk))
    }

    #[inline(always)]
    pub(crate) fn cookie(self) -> u64 {
        // SAFETY: the program's own context.
        unsafe { bpf_get_socket_cookie(self.0.cast()) }
    }

    #[inline(always)]
    pub(crate) fn want(self, flags: u32) {
        // SAFETY: the program's own context.
        unsafe { bpf_sock_ops_cb_flags_set(self.0, flags as i32) };
    }

    /// The cookie of an accepted socket's network namespace, by the way that this kernel has.
    #[inline(always)]
    pub(crate) fn netns(self, sock: Sock) -> Option<u64> {
        match setting::netns_mode() {
            NETNS_PROBE => probe_netns(sock),
            NETNS_BIND => maps::inherited_netns(sock),
            // SAFETY: the program's own context.
            _ => Some(unsafe { bpf_get_netns_cookie(self.0.cast()) }),
        }
    }
}

/// Reads `sk->__sk_common.skc_net.net->net_cookie` with the offsets that the loader took from the kernel's BTF.
#[inline(always)]
fn probe_netns(sock: Sock) -> Option<u64> {
    const HEAD: u32 = 128;
    let (net_at, cookie_at) = setting::netns_offsets();
    // A socket's pointer admits no arithmetic, so its head is copied and the field picked from the copy.
    let mut head = MaybeUninit::<[u64; 16]>::uninit();
    // SAFETY: `head` is 128 bytes; the helper fills it or fails.
    let failed = unsafe { bpf_probe_read_kernel(head.as_mut_ptr().cast(), HEAD, sock.as_ptr()) };
    if failed != 0 {
        return None;
    }
    let place = (net_at as usize / 8) & 15;
    // SAFETY: filled above; `place` is below 16.
    let net = unsafe { head.as_ptr().cast::<u64>().add(place).read_volatile() };
    let mut cookie = MaybeUninit::<u64>::uninit();
    let from = net.wrapping_add(u64::from(cookie_at)) as *const c_void;
    // SAFETY: `cookie` is eight bytes; the helper fills it or fails, whatever `from` is.
    let failed = unsafe { bpf_probe_read_kernel(cookie.as_mut_ptr().cast(), 8, from) };
    // SAFETY: filled when it did not fail.
    if failed == 0 { Some(unsafe { cookie.assume_init() }) } else { None }
}

/// The context of getsockopt.
#[derive(Clone, Copy)]
pub(crate) struct Sockopt(*mut bpf_sockopt);

impl Sockopt {
    #[inline(always)]
    pub(crate) const fn new(raw: *mut bpf_sockopt) -> Self {
        Self(raw)
    }

    #[inline(always)]
    pub(crate) fn asked(self) -> Asked {
        Asked { level: load!(self.0, level), name: load!(self.0, optname) }
    }

    #[inline(always)]
    pub(crate) fn sock(self) -> Option<Sock> {
        Sock::new(load!(self.0, __bindgen_anon_1.sk))
    }

    #[inline(always)]
    pub(crate) fn netns(self) -> u64 {
        // SAFETY: the program's own context.
        unsafe { bpf_get_netns_cookie(self.0.cast()) }
    }

    /// Writes a `sockaddr_in` or `sockaddr_in6` and makes the call succeed; `false` when the buffer is too small.
    #[inline(always)]
    pub(crate) fn answer(self, answer: Answer) -> bool {
        match answer {
            Answer::V4(Endpoint { addr, port }) => {
                self.put([port.after(AF_INET.to_ne_bytes()), addr.v4_word(), 0, 0])
            }
            Answer::V6(Endpoint { addr, port }) => {
                let [a, b, c, d] = addr.words();
                self.put([port.after(AF_INET6.to_ne_bytes()), 0, a, b, c, d, 0])
            }
        }
    }

    #[inline(always)]
    fn put<const N: usize>(self, words: [u32; N]) -> bool {
        let start: *mut u32 = load!(self.0, __bindgen_anon_2.optval).cast();
        let end: *mut u32 = load!(self.0, __bindgen_anon_3.optval_end).cast();
        // SAFETY: the bound is tested before the stores, by addition as every verifier understands it.
        unsafe {
            if start.add(N) > end {
                return false;
            }
            for (place, word) in words.into_iter().enumerate() {
                start.add(place).write_volatile(word);
            }
        }
        store!((size_of::<u32>() * N) as i32 => self.0, optlen);
        store!(0 => self.0, retval);
        true
    }
}
