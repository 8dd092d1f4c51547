//! The bpf(2) commands that aya 0.14 lacks or keeps to itself: links of every cgroup hook, their pins and updates, queries,
//! and loads of a handful of instructions. Keeps: all raw bpf(2) calls of the product are here. Called by links, probe, netns.
#![expect(unsafe_code, reason = "bpf(2) has no safe wrapper for these commands")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_LOOKUP_ELEM: libc::c_long = 1;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

/// `enum bpf_prog_type`.
pub(super) const PROG_TYPE_SOCK_OPS: u32 = 13;
pub(super) const PROG_TYPE_CGROUP_SOCK_ADDR: u32 = 18;

/// `enum bpf_map_type`.
pub(super) const MAP_TYPE_LRU_HASH: u32 = 9;

/// How many programs of one hook on one cgroup a query can name; the kernel allows 64 (BPF_CGROUP_MAX_PROGS).
const QUERIED_PROGRAMS: usize = 64;

/// What the kernel says of a cgroup link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LinkInfo {
    pub(super) id: u32,
    pub(super) program: u32,
    /// 0: the cgroup was removed and the link is dead.
    pub(super) cgroup: u64,
}

/// How the programs of one hook on one cgroup tolerate others (`BPF_F_ALLOW_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Sharing {
    /// Attached with flags 0: nobody else, here or below.
    Exclusive,
    /// A program below replaces it; nobody else here.
    Override,
    /// Shares with everybody; links always do.
    Multi,
}

/// The programs of one hook on one cgroup itself, not those it inherits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Attached {
    pub(super) programs: Vec<u32>,
    pub(super) sharing: Sharing,
}

#[repr(C)]
#[derive(Default)]
struct ObjAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct LinkCreateAttr {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
    _tail: [u64; 6],
}

#[repr(C)]
#[derive(Default)]
struct LinkUpdateAttr {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_link_info` as far as cgroup links fill it.
#[repr(C)]
#[derive(Default)]
struct RawLinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    _pad: u32,
    cgroup_id: u64,
    attach_type: u32,
    _pad2: u32,
    _tail: [u64; 4],
}

#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    _pad: u32,
}

#[repr(C)]
#[derive(Default)]
struct IdAttr {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
#[derive(Default)]
struct ProgLoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
#[derive(Default)]
struct MapCreateAttr {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    _tail: [u32; 3],
}

#[repr(C)]
#[derive(Default)]
struct MapElemAttr {
    map_fd: u32,
    _pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// One bpf(2) call. `A` is the part of `union bpf_attr` that the command reads; the kernel takes the rest as zero.
fn bpf<A>(command: libc::c_long, attr: &mut A) -> io::Result<RawFd> {
    // SAFETY: `attr` is an initialised #[repr(C)] value that lives through the call, its size is passed along, and every
    // pointer in it was taken by the caller from a buffer that outlives this call.
    let ret = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<A>()) };
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(ret as RawFd) }
}

fn bpf_fd<A>(command: libc::c_long, attr: &mut A) -> io::Result<OwnedFd> {
    let fd = bpf(command, attr)?;
    // SAFETY: the command returned a new descriptor (they are all O_CLOEXEC) that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn raw(fd: &impl AsFd) -> u32 {
    fd.as_fd().as_raw_fd().cast_unsigned()
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// Pins a link, map or program. The path must not exist, and its last part must hold no dot (bpffs reserves them).
pub(super) fn obj_pin(fd: &impl AsFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut attr = ObjAttr { pathname: path.as_ptr() as u64, bpf_fd: raw(fd), ..ObjAttr::default() };
    bpf(BPF_OBJ_PIN, &mut attr).map(|_| ())
}

/// Opens what is pinned at `path`.
pub(super) fn obj_get(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    bpf_fd(BPF_OBJ_GET, &mut ObjAttr { pathname: path.as_ptr() as u64, ..ObjAttr::default() })
}

/// Attaches a program to a cgroup; the link shares the hook with all other programs.
pub(super) fn link_create(program: &impl AsFd, cgroup: &impl AsFd, attach_type: u32) -> io::Result<OwnedFd> {
    let (prog_fd, target_fd) = (raw(program), raw(cgroup));
    bpf_fd(
        BPF_LINK_CREATE,
        &mut LinkCreateAttr { prog_fd, target_fd, attach_type, ..LinkCreateAttr::default() },
    )
}

/// Replaces the program behind a link: every call runs the old or the new one, none runs neither.
pub(super) fn link_update(link: &impl AsFd, program: &impl AsFd) -> io::Result<()> {
    let (link_fd, new_prog_fd) = (raw(link), raw(program));
    bpf(BPF_LINK_UPDATE, &mut LinkUpdateAttr { link_fd, new_prog_fd, ..LinkUpdateAttr::default() })
        .map(|_| ())
}

/// Takes the program off its hook before this returns; a link that merely loses its last holder goes some time later.
pub(super) fn link_detach(link: &impl AsFd) -> io::Result<()> {
    let mut link_fd = u64::from(raw(link));
    bpf(BPF_LINK_DETACH, &mut link_fd).map(|_| ())
}

/// What the kernel says of a cgroup link.
pub(super) fn link_info(link: &impl AsFd) -> io::Result<LinkInfo> {
    let mut info = RawLinkInfo::default();
    let mut attr = InfoAttr {
        bpf_fd: raw(link),
        info_len: size_of::<RawLinkInfo>() as u32,
        info: std::ptr::from_mut(&mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(LinkInfo { id: info.id, program: info.prog_id, cgroup: info.cgroup_id })
}

/// The program with this id.
pub(super) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    bpf_fd(BPF_PROG_GET_FD_BY_ID, &mut IdAttr { id, ..IdAttr::default() })
}

/// The programs that one hook has on this very cgroup.
pub(super) fn query(cgroup: &impl AsFd, attach_type: u32) -> io::Result<Attached> {
    let mut ids = [0_u32; QUERIED_PROGRAMS];
    let mut attr = QueryAttr {
        target_fd: raw(cgroup),
        attach_type,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: QUERIED_PROGRAMS as u32,
        ..QueryAttr::default()
    };
    bpf(BPF_PROG_QUERY, &mut attr)?;
    let sharing = match attr.attach_flags {
        0 => Sharing::Exclusive,
        1 => Sharing::Override,
        _ => Sharing::Multi,
    };
    let count = (attr.prog_cnt as usize).min(QUERIED_PROGRAMS);
    Ok(Attached { programs: ids[..count].to_vec(), sharing })
}

/// Loads a few instructions of our own; the verifier's answer is what counts.
pub(super) fn prog_load(prog_type: u32, attach_type: u32, instructions: &[u64]) -> io::Result<OwnedFd> {
    let mut attr = ProgLoadAttr {
        prog_type,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        expected_attach_type: attach_type,
        ..ProgLoadAttr::default()
    };
    bpf_fd(BPF_PROG_LOAD, &mut attr)
}

/// Creates a map of `u64 -> u64`.
pub(super) fn map_create(map_type: u32, max_entries: u32) -> io::Result<OwnedFd> {
    let mut attr =
        MapCreateAttr { map_type, key_size: 8, value_size: 8, max_entries, ..MapCreateAttr::default() };
    bpf_fd(BPF_MAP_CREATE, &mut attr)
}

/// Looks into a map of `u64 -> u64`.
pub(super) fn map_lookup(map: &impl AsFd, key: u64) -> io::Result<Option<u64>> {
    let mut value = 0_u64;
    let mut attr = MapElemAttr {
        map_fd: raw(map),
        key: std::ptr::from_ref(&key) as u64,
        value: std::ptr::from_mut(&mut value) as u64,
        ..MapElemAttr::default()
    };
    match bpf(BPF_MAP_LOOKUP_ELEM, &mut attr) {
        Ok(_) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}
