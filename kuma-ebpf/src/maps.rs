//! Every map and every read-only setting of the object, private, behind verbs. One of the two rooms with `unsafe`.
//! Keeps: values are written field by field, never as a struct through a pointer (kernels before 6.12 would want more
//! capabilities for the memmove); every helper's buffer is initialised or filled by it. Called by the hooks.
#![expect(unsafe_code, reason = "map values are raw pointers that the helpers give")]

use core::ptr::{addr_of, addr_of_mut, null_mut};

use aya_ebpf::Global;
use aya_ebpf::bindings::{
    BPF_ANY, BPF_F_CLONE, BPF_F_NO_PREALLOC, BPF_SK_STORAGE_GET_F_CREATE,
    bpf_map_type::BPF_MAP_TYPE_SK_STORAGE,
};
use aya_ebpf::btf_maps::{Array, HashMap, PerCpuArray, SkStorage};
use aya_ebpf::helpers::generated::{bpf_sk_storage_delete, bpf_sk_storage_get};
use aya_ebpf::macros::btf_map;
use kuma_ebpf_common::abi::{
    AcceptedEntry, COUNTERS_CAPACITY, OrigEntry, PODS_CAPACITY, PodEntry, Ranges, RevEntry, SlotsEntry,
    TUPLES_CAPACITY, TupleEntry, TupleKey, VIPS_CAPACITY, VipKey,
};
use kuma_ebpf_common::verdict::Reason;

use crate::ctx::Sock;

/// Entries are allocated when they are written: memory grows with use, not with the capacity.
const GROWS: usize = BPF_F_NO_PREALLOC as usize;

#[btf_map]
static PODS: HashMap<u64, PodEntry, { PODS_CAPACITY as usize }, GROWS> = HashMap::new();
#[btf_map]
static RANGES: Array<Ranges, 1> = Array::new();
#[btf_map]
static VIPS: HashMap<VipKey, u32, { VIPS_CAPACITY as usize }, GROWS> = HashMap::new();
#[btf_map]
static REV: HashMap<u32, RevEntry, { VIPS_CAPACITY as usize }, GROWS> = HashMap::new();
#[btf_map]
static ORIG: SkStorage<OrigEntry> = SkStorage::new();
#[btf_map]
static SLOTS: SkStorage<SlotsEntry> = SkStorage::new();
#[btf_map]
static TUPLES: HashMap<TupleKey, TupleEntry, { TUPLES_CAPACITY as usize }, GROWS> = HashMap::new();
#[btf_map]
static ACCEPTED: SkStorage<AcceptedEntry> = SkStorage::new();
#[btf_map]
static LISTENERS: InheritedStorage<u64> = InheritedStorage::new();
#[btf_map]
static WHOAMI: SkStorage<u64> = SkStorage::new();
#[btf_map]
static COUNTERS: PerCpuArray<u64, { COUNTERS_CAPACITY as usize }> = PerCpuArray::new();

#[unsafe(no_mangle)]
static SET_RETVAL: Global<u32> = Global::new(1);
#[unsafe(no_mangle)]
static NETNS_MODE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFF_SKC_NET: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static OFF_NET_COOKIE: Global<u32> = Global::new(0);
#[unsafe(no_mangle)]
static SENDMSG_UNBIND: Global<u32> = Global::new(1);
#[unsafe(no_mangle)]
static V6_MAPPED: Global<u32> = Global::new(0);

/// The helpers that only GPL-compatible programs may call look at this.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Socket storage that accepted sockets inherit from their listener; aya's own type has no flag for it.
#[repr(C)]
struct InheritedStorage<T> {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const T,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the fields are types for the loader and never dereferenced.
unsafe impl<T> Sync for InheritedStorage<T> {}

impl<T> InheritedStorage<T> {
    const fn new() -> Self {
        use core::ptr::null;
        Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
    }
}

/// The read-only words, as the loader set them; what they switch off is pruned by the verifier.
pub(crate) mod setting {
    use super::{NETNS_MODE, OFF_NET_COOKIE, OFF_SKC_NET, SENDMSG_UNBIND, SET_RETVAL, V6_MAPPED};

    #[inline(always)]
    pub(crate) fn set_retval() -> bool {
        SET_RETVAL.load() == 1
    }

    #[inline(always)]
    pub(crate) fn netns_mode() -> u32 {
        NETNS_MODE.load()
    }

    /// Offsets of `skc_net` in `struct sock_common` and of `net_cookie` in `struct net`.
    #[inline(always)]
    pub(crate) fn netns_offsets() -> (u32, u32) {
        (OFF_SKC_NET.load(), OFF_NET_COOKIE.load())
    }

    #[inline(always)]
    pub(crate) fn sendmsg_unbind() -> bool {
        SENDMSG_UNBIND.load() == 1
    }

    #[inline(always)]
    pub(crate) fn v6_mapped() -> bool {
        V6_MAPPED.load() == 1
    }
}

/// The names in log lines, as read-only data. The object holds no pointers in its data, so a name is a cell of fixed
/// width, filled up with blanks.
pub(crate) mod names {
    use kuma_ebpf_common::verdict::Reason;

    const WIDTH: usize = 20;
    const REASONS: usize = Reason::COUNT as usize;

    static HOOK: [[u8; WIDTH]; 8] = [
        cell("connect"),
        cell("getpeername"),
        cell("getsockname"),
        cell("sendmsg"),
        cell("recvmsg"),
        cell("sockops"),
        cell("getsockopt"),
        cell("bind"),
    ];
    static REASON: [[u8; WIDTH]; REASONS] = {
        let mut names = [[b' '; WIDTH]; REASONS];
        let mut number = 0;
        while number < REASONS {
            names[number] = cell(Reason::ALL[number].name());
            number += 1;
        }
        names
    };

    const fn cell(name: &str) -> [u8; WIDTH] {
        let (bytes, mut cell, mut at) = (name.as_bytes(), [b' '; WIDTH], 0);
        assert!(bytes.is_ascii());
        while at < bytes.len() {
            cell[at] = bytes[at];
            at += 1;
        }
        cell
    }

    #[inline(always)]
    pub(crate) fn hook(number: u32) -> Option<&'static str> {
        HOOK.get(number as usize).map(text)
    }

    #[inline(always)]
    pub(crate) fn reason(number: u32) -> Option<&'static str> {
        REASON.get(number as usize).map(text)
    }

    #[inline(always)]
    fn text(cell: &'static [u8; WIDTH]) -> &'static str {
        // SAFETY: `cell` asserts that it is ASCII. (The check of from_utf8 does arithmetic that no verifier accepts.)
        unsafe { core::str::from_utf8_unchecked(cell) }
    }
}

/// The workload whose network namespace this is.
#[inline(always)]
pub(crate) fn pod(netns: u64) -> Option<&'static PodEntry> {
    // SAFETY: only user space writes PODS; a value that it replaces stays readable until the program returns (RCU).
    unsafe { PODS.get(netns) }
}

#[inline(always)]
pub(crate) fn ranges() -> Option<&'static Ranges> {
    RANGES.get(0)
}

/// The index of a VIP.
#[inline(always)]
pub(crate) fn vip(key: &VipKey) -> Option<u32> {
    // SAFETY: as for PODS.
    unsafe { VIPS.get(key) }.copied()
}

/// The VIP of an index.
#[inline(always)]
pub(crate) fn rev(index: u32) -> Option<&'static RevEntry> {
    // SAFETY: as for PODS.
    unsafe { REV.get(index) }
}

/// What this socket's rewritten connect stood for.
#[inline(always)]
pub(crate) fn orig(sock: Sock) -> Option<&'static OrigEntry> {
    // SAFETY: socket storage lives as long as its socket, which outlives the program.
    unsafe { storage::<OrigEntry>(addr_of!(ORIG).cast(), sock, 0).as_ref() }
}

/// Remembers it; `false` when there is no memory.
#[inline(always)]
pub(crate) fn remember_orig(sock: Sock, entry: &OrigEntry) -> bool {
    let place = storage::<OrigEntry>(addr_of!(ORIG).cast(), sock, BPF_SK_STORAGE_GET_F_CREATE.into());
    if place.is_null() {
        return false;
    }
    // SAFETY: not null, and of this type: the map has no other.
    unsafe {
        addr_of_mut!((*place).netns).write_volatile(entry.netns);
        addr_of_mut!((*place).addr).write_volatile(entry.addr);
        addr_of_mut!((*place).view).write_volatile(entry.view);
        addr_of_mut!((*place).port).write_volatile(entry.port);
        addr_of_mut!((*place).target).write_volatile(entry.target);
    }
    true
}

/// This socket stands for nothing any more.
#[inline(always)]
pub(crate) fn forget_orig(sock: Sock) {
    // SAFETY: `sock` is the context's own, null-checked socket.
    unsafe { bpf_sk_storage_delete(addr_of!(ORIG).cast_mut().cast(), sock.as_ptr()) };
}

/// The nameservers that this socket has asked.
#[inline(always)]
pub(crate) fn slots(sock: Sock) -> Option<&'static SlotsEntry> {
    // SAFETY: as for ORIG.
    unsafe { storage::<SlotsEntry>(addr_of!(SLOTS).cast(), sock, 0).as_ref() }
}

/// The same, to add one; all zeroes the first time.
#[inline(always)]
pub(crate) fn slots_mut(sock: Sock) -> Option<&'static mut SlotsEntry> {
    // SAFETY: as for ORIG; two tasks that send on one socket at once may both write, each word stays one of theirs.
    unsafe {
        storage::<SlotsEntry>(addr_of!(SLOTS).cast(), sock, BPF_SK_STORAGE_GET_F_CREATE.into()).as_mut()
    }
}

/// Lays down the original of a connection for the accept side; `false` when the map is full.
#[inline(always)]
pub(crate) fn publish(key: &TupleKey, entry: &TupleEntry) -> bool {
    TUPLES.insert(key, entry, u64::from(BPF_ANY)).is_ok()
}

/// The original that waits under a key.
#[inline(always)]
pub(crate) fn published(key: &TupleKey) -> Option<&'static TupleEntry> {
    // SAFETY: an entry that is deleted meanwhile stays readable until the program returns (NO_PREALLOC, RCU).
    unsafe { TUPLES.get(key) }
}

/// Takes it away; `false` when somebody else did.
#[inline(always)]
pub(crate) fn unpublish(key: &TupleKey) -> bool {
    TUPLES.remove(key).is_ok()
}

/// The original destination of an accepted socket.
#[inline(always)]
pub(crate) fn accepted(sock: Sock) -> Option<&'static AcceptedEntry> {
    // SAFETY: as for ORIG.
    unsafe { storage::<AcceptedEntry>(addr_of!(ACCEPTED).cast(), sock, 0).as_ref() }
}

/// Gives an accepted socket its original destination; `false` when there is no memory.
#[inline(always)]
pub(crate) fn remember_accepted(sock: Sock, entry: &TupleEntry) -> bool {
    let flags = BPF_SK_STORAGE_GET_F_CREATE.into();
    let place = storage::<AcceptedEntry>(addr_of!(ACCEPTED).cast(), sock, flags);
    if place.is_null() {
        return false;
    }
    // SAFETY: not null, and of this type: the map has no other.
    unsafe {
        addr_of_mut!((*place).addr).write_volatile(entry.addr);
        addr_of_mut!((*place).view).write_volatile(entry.view);
        addr_of_mut!((*place).port).write_volatile(entry.port);
    }
    true
}

/// The namespace that an accepted socket inherited from its listener.
#[inline(always)]
pub(crate) fn inherited_netns(sock: Sock) -> Option<u64> {
    // SAFETY: as for ORIG.
    unsafe { storage::<u64>(addr_of!(LISTENERS).cast(), sock, 0).as_ref() }.copied()
}

/// Marks a socket that binds, so that what it accepts inherits the namespace.
#[inline(always)]
pub(crate) fn mark_listener(sock: Sock, netns: u64) -> bool {
    write_cookie(addr_of!(LISTENERS).cast(), sock, netns)
}

/// Tells the owner of a socket which namespace it is in.
#[inline(always)]
pub(crate) fn tell_netns(sock: Sock, netns: u64) {
    write_cookie(addr_of!(WHOAMI).cast(), sock, netns);
}

/// Counts a decision. Number 0 is every ordinary socket and not worth the nanoseconds.
#[inline(always)]
pub(crate) fn count(reason: Reason) {
    if reason.number() == 0 {
        return;
    }
    if let Some(counter) = COUNTERS.get_ptr_mut(reason.number()) {
        // SAFETY: the slot of this CPU; programs do not migrate.
        unsafe { counter.write_volatile(counter.read_volatile().wrapping_add(1)) };
    }
}

#[inline(always)]
fn write_cookie(map: *const u8, sock: Sock, netns: u64) -> bool {
    let place = storage::<u64>(map, sock, BPF_SK_STORAGE_GET_F_CREATE.into());
    if place.is_null() {
        return false;
    }
    // SAFETY: not null, and of this type: both maps hold cookies.
    unsafe { place.write_volatile(netns) };
    true
}

/// The storage of a socket in one map. A new one is all zeroes: passing no initial value saves the stack.
#[inline(always)]
fn storage<T>(map: *const u8, sock: Sock, flags: u64) -> *mut T {
    // SAFETY: `map` is the address of one of our statics, which the loader relocates; `sock` is null-checked.
    unsafe { bpf_sk_storage_get(map.cast_mut().cast(), sock.as_ptr(), null_mut(), flags) }.cast()
}
