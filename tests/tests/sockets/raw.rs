//! System calls that no crate of ours wraps: a smallest io_uring, sendmmsg, getsockopt of any option.
//! Keeps: every buffer outlives its call. Called by dns, identity and odd.
#![expect(unsafe_code, reason = "system calls that no crate of ours wraps")]

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};

use socket2::{SockAddr, Socket};

/// Sends the same text to each address in one call; says whether the addresses are as they were afterwards.
pub(crate) fn send_many(socket: &Socket, to: &[SocketAddr], text: &[u8]) -> io::Result<bool> {
    let mut addresses: Vec<SockAddr> = to.iter().map(|address| (*address).into()).collect();
    let mut part = libc::iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: text.len() };
    let mut messages: Vec<libc::mmsghdr> = Vec::new();
    for address in &mut addresses {
        // SAFETY: all zeroes is a valid header without anything.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        message.msg_hdr.msg_name = address.as_ptr().cast_mut().cast();
        message.msg_hdr.msg_namelen = address.len();
        message.msg_hdr.msg_iov = &raw mut part;
        message.msg_hdr.msg_iovlen = 1;
        messages.push(message);
    }
    sendmmsg(socket, &mut messages)?;
    Ok(addresses.iter().zip(to).all(|(address, before)| address.as_socket() == Some(*before)))
}

/// Sends each text on a connected socket in one call.
pub(crate) fn send_many_connected(socket: &Socket, texts: &[&[u8]]) -> io::Result<()> {
    let mut parts: Vec<libc::iovec> = texts
        .iter()
        .map(|text| libc::iovec { iov_base: text.as_ptr().cast_mut().cast(), iov_len: text.len() })
        .collect();
    let mut messages: Vec<libc::mmsghdr> = Vec::new();
    for part in &mut parts {
        // SAFETY: all zeroes is a valid header without anything.
        let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
        message.msg_hdr.msg_iov = part;
        message.msg_hdr.msg_iovlen = 1;
        messages.push(message);
    }
    sendmmsg(socket, &mut messages)
}

fn sendmmsg(socket: &Socket, messages: &mut [libc::mmsghdr]) -> io::Result<()> {
    let count = u32::try_from(messages.len()).expect("a handful of messages");
    // SAFETY: the headers and what they point to live in the callers until this returns.
    let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), messages.as_mut_ptr(), count, 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    if sent.cast_unsigned() == count { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EAGAIN)) }
}

/// Errno (or 0) and value of one integer option.
pub(crate) fn get_option(socket: &Socket, level: i32, name: i32) -> (i32, i32) {
    let mut value = 0_i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: the value and its length are live locals that belong together.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) };
    if result == 0 { (0, value) } else { (crate::client::errno(io::Error::last_os_error()), 0) }
}

const IORING_OP_CONNECT: u8 = 16;
const IORING_SETUP_SQPOLL: u32 = 1 << 1;
const IORING_ENTER_GETEVENTS: u32 = 1 << 0;
const IORING_ENTER_SQ_WAKEUP: u32 = 1 << 1;
const IORING_FEAT_SINGLE_MMAP: u32 = 1 << 0;
const IORING_FEAT_SQPOLL_NONFIXED: u32 = 1 << 7;
const IORING_OFF_SQ_RING: i64 = 0;
const IORING_OFF_SQES: i64 = 0x1000_0000;
const SQE_BYTES: usize = 64;
const CQE_BYTES: usize = 16;

/// `struct io_uring_params` (uapi/linux/io_uring.h).
#[repr(C)]
#[derive(Default)]
struct Params {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    sq_thread_cpu: u32,
    sq_thread_idle: u32,
    features: u32,
    wq_fd: u32,
    resv: [u32; 3],
    sq: SqOffsets,
    cq: CqOffsets,
}

#[repr(C)]
#[derive(Default)]
struct SqOffsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    flags: u32,
    dropped: u32,
    array: u32,
    resv1: u32,
    user_addr: u64,
}

#[repr(C)]
#[derive(Default)]
struct CqOffsets {
    head: u32,
    tail: u32,
    ring_mask: u32,
    ring_entries: u32,
    overflow: u32,
    cqes: u32,
    flags: u32,
    resv1: u32,
    user_addr: u64,
}

/// The fields of `struct io_uring_sqe` that a connect needs.
#[repr(C)]
struct Sqe {
    opcode: u8,
    flags: u8,
    ioprio: u16,
    fd: i32,
    /// The length of the address.
    off: u64,
    addr: u64,
    rest: [u64; 5],
}
const _: () = assert!(size_of::<Sqe>() == SQE_BYTES && size_of::<Params>() == 120);

/// Connects through a ring of its own and returns what the completion says: 0 or a negative errno.
pub(crate) fn uring_connect(socket: &Socket, to: SocketAddr, sqpoll: bool) -> io::Result<i32> {
    let mut params = Params { flags: if sqpoll { IORING_SETUP_SQPOLL } else { 0 }, ..Params::default() };
    params.sq_thread_idle = 1_000;
    // SAFETY: the parameters are a live local of the size that the kernel expects.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 2_u32, &raw mut params) };
    let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)?;
    // SAFETY: a descriptor that the kernel has just given us.
    let ring = unsafe { OwnedFd::from_raw_fd(fd) };
    let plain_files = params.features & IORING_FEAT_SQPOLL_NONFIXED != 0;
    if params.features & IORING_FEAT_SINGLE_MMAP == 0 || (sqpoll && !plain_files) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let sq_bytes = params.sq.array as usize + params.sq_entries as usize * size_of::<u32>();
    let cq_bytes = params.cq.cqes as usize + params.cq_entries as usize * CQE_BYTES;
    let rings = map(&ring, sq_bytes.max(cq_bytes), IORING_OFF_SQ_RING)?;
    let sqes = map(&ring, params.sq_entries as usize * SQE_BYTES, IORING_OFF_SQES)?;
    let address = SockAddr::from(to);
    let sqe = Sqe {
        opcode: IORING_OP_CONNECT,
        flags: 0,
        ioprio: 0,
        fd: socket.as_raw_fd(),
        off: address.len().into(),
        addr: address.as_ptr() as u64,
        rest: [0; 5],
    };
    // SAFETY: both mappings are as large as the kernel said, and the offsets are the kernel's; the ring has one submitter.
    unsafe {
        sqes.cast::<Sqe>().write(sqe);
        rings.add(params.sq.array as usize).cast::<u32>().write(0);
        (*rings.add(params.sq.tail as usize).cast::<AtomicU32>()).store(1, Ordering::Release);
    }
    let flags = IORING_ENTER_GETEVENTS | if sqpoll { IORING_ENTER_SQ_WAKEUP } else { 0 };
    // SAFETY: no pointer is passed; `address` lives until the completion, which this waits for.
    let entered = unsafe {
        libc::syscall(libc::SYS_io_uring_enter, ring.as_raw_fd(), 1_u32, 1_u32, flags, 0_usize, 0_usize)
    };
    if entered < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: as above; there is one completion, which the wait has brought.
    let result = unsafe {
        assert_eq!((*rings.add(params.cq.tail as usize).cast::<AtomicU32>()).load(Ordering::Acquire), 1);
        rings.add(params.cq.cqes as usize + 8).cast::<i32>().read_volatile()
    };
    Ok(result)
}

/// Maps a part of a ring; it stays until the process ends, which is soon.
fn map(ring: &OwnedFd, bytes: usize, offset: i64) -> io::Result<*mut u8> {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
    // SAFETY: a new mapping at an address that the kernel chooses.
    let place =
        unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, ring.as_raw_fd(), offset) };
    if place == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(place.cast()) }
}
