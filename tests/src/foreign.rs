//! A BPF program of somebody else, attached the old way (without a link), as other tools do. Keeps: detached when its guard
//! goes. Called by tests of the life cycle.
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_DETACH: libc::c_long = 9;
const BPF_PROG_QUERY: libc::c_long = 16;
const PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;
/// The hook connect4.
pub const CONNECT4: u32 = 10;
/// r0 = 1; exit: let everything through.
const PASS: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];

/// How it tolerates others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    Exclusive,
    Override,
    Multi,
}

/// Somebody else's program on connect4 of a cgroup.
pub struct Foreign {
    program: OwnedFd,
    cgroup: File,
}

impl Foreign {
    /// Loads and attaches a program with this name.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn attach(cgroup: &Path, name: &str, sharing: Sharing) -> io::Result<Self> {
        let program = load(name)?;
        let cgroup = File::open(cgroup)?;
        let flags = sharing as u32;
        bpf(BPF_PROG_ATTACH, &mut [fd(&cgroup), fd(&program), CONNECT4, flags])?;
        Ok(Self { program, cgroup })
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        let _ = bpf(BPF_PROG_DETACH, &mut [fd(&self.cgroup), fd(&self.program), CONNECT4, 0]);
    }
}

/// How many programs a cgroup itself has on a hook.
///
/// # Errors
/// The cgroup does not exist.
pub fn attached(cgroup: &Path, attach_type: u32) -> io::Result<u32> {
    let cgroup = File::open(cgroup)?;
    // target_fd, attach_type, query_flags, attach_flags, prog_ids (u64), prog_cnt
    let mut attr = [fd(&cgroup), attach_type, 0, 0, 0, 0, 0, 0];
    bpf(BPF_PROG_QUERY, &mut attr)?;
    Ok(attr[6])
}

fn load(name: &str) -> io::Result<OwnedFd> {
    let mut bytes = [0_u8; 16];
    bytes[..name.len().min(15)].copy_from_slice(&name.as_bytes()[..name.len().min(15)]);
    let mut attr = [0_u32; 18];
    let word = |i: usize| u32::from_ne_bytes([bytes[i], bytes[i + 1], bytes[i + 2], bytes[i + 3]]);
    let halves = |pointer: u64| [pointer as u32, (pointer >> 32) as u32];
    (attr[0], attr[1]) = (PROG_TYPE_CGROUP_SOCK_ADDR, PASS.len() as u32);
    attr[2..4].copy_from_slice(&halves(PASS.as_ptr() as u64));
    attr[4..6].copy_from_slice(&halves(c"GPL".as_ptr() as u64));
    attr[12..16].copy_from_slice(&[word(0), word(4), word(8), word(12)]);
    attr[17] = CONNECT4;
    let fd = bpf(BPF_PROG_LOAD, &mut attr)?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn fd(fd: &impl AsRawFd) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn bpf<const N: usize>(command: libc::c_long, attr: &mut [u32; N]) -> io::Result<i32> {
    // `union bpf_attr` wants 8-byte alignment for nothing: the kernel copies it.
    // SAFETY: `attr` is live and its size is passed along; the pointers in it are to statics.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret as i32) }
}
