//! Asks the kernel for the namespace cookie where SO_NETNS_COOKIE is missing (before 5.14): a program of ten instructions on
//! our own cgroup notes it when we connect a socket. Keeps: nothing stays attached. Called by netns.

use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsFd, AsRawFd};

use crate::kernel::hooks::Hook;
use crate::kernel::probe::insn;
use crate::kernel::{cgroup, netns, sys};

/// Sockets of others in our cgroup may pass by meanwhile; the oldest of them are forgotten.
const NOTES: u32 = 1_024;
/// `BPF_FUNC_*` of uapi/linux/bpf.h.
const MAP_UPDATE_ELEM: u32 = 2;
const GET_SOCKET_COOKIE: u32 = 46;
const GET_NETNS_COOKIE: u32 = 122;

/// The cookie of the calling thread's network namespace.
pub(super) fn cookie() -> io::Result<u64> {
    let notes = sys::map_create(sys::MAP_TYPE_LRU_HASH, NOTES)?;
    let program = load(notes.as_raw_fd())?;
    let own = cgroup::own().map_err(io::Error::other)?;
    let cgroup = File::open(own)?;
    let link = sys::link_create(&program, &cgroup, Hook::Connect4.attach_type())?;
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // Port 9 is discard (RFC 863); connecting a datagram socket sends nothing. The hook runs before the route is looked up,
    // so it has run even where there is none.
    let _routed = socket.connect("127.0.0.1:9");
    drop(link);
    let key = netns::socket_u64(socket.as_fd(), libc::SO_COOKIE)?;
    sys::map_lookup(&notes, key)?
        .ok_or_else(|| io::Error::other("the kernel did not run our program on connect"))
}

/// notes[socket cookie] = netns cookie; let the call through.
fn load(notes: i32) -> io::Result<std::os::fd::OwnedFd> {
    let map = insn::load_map_fd(insn::R1, notes);
    let program = [
        insn::mov(insn::R6, insn::R1),
        insn::call(GET_SOCKET_COOKIE),
        insn::store_u64(insn::R10, -8, insn::R0),
        insn::mov(insn::R1, insn::R6),
        insn::call(GET_NETNS_COOKIE),
        insn::store_u64(insn::R10, -16, insn::R0),
        map[0],
        map[1],
        insn::mov(insn::R2, insn::R10),
        insn::add_imm(insn::R2, -8),
        insn::mov(insn::R3, insn::R10),
        insn::add_imm(insn::R3, -16),
        insn::mov_imm(insn::R4, 0),
        insn::call(MAP_UPDATE_ELEM),
        insn::mov_imm(insn::R0, 1),
        insn::EXIT,
    ];
    sys::prog_load(sys::PROG_TYPE_CGROUP_SOCK_ADDR, Hook::Connect4.attach_type(), &program)
}
