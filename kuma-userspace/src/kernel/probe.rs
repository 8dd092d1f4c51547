//! What this kernel can do, found by loading a few instructions and looking at the answer; never by version numbers.
//! Keeps: what is found here goes into .rodata before the load, and the real load is then the test. Called by loader, status.

use std::path::Path;

use kuma_ebpf_common::abi::setting;
use tracing::debug;

use crate::kernel::btf;
use crate::kernel::hooks::Hook;
use crate::kernel::sys;

/// The kernel's own types.
const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";
/// The programs copy this much of `struct sock_common` before they pick `skc_net`.
const SOCK_COPY_BYTES: u32 = 128;

/// `BPF_FUNC_*` of uapi/linux/bpf.h.
const SETSOCKOPT: u32 = 49;
const PROBE_READ_KERNEL: u32 = 113;
const GET_NETNS_COOKIE: u32 = 122;
const SET_RETVAL: u32 = 187;

/// The words that go into .rodata.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Features {
    pub(super) set_retval: u32,
    pub(super) netns_mode: u32,
    pub(super) off_skc_net: u32,
    pub(super) off_net_cookie: u32,
    pub(super) sendmsg_unbind: u32,
    pub(super) v6_mapped: u32,
}

impl Features {
    /// Asks the kernel.
    pub(super) fn detect() -> Self {
        let set_retval =
            u32::from(loads(Hook::Connect4, &[insn::mov_imm(insn::R1, -111), insn::call(SET_RETVAL)]));
        let sendmsg_unbind = u32::from(loads(Hook::Sendmsg4, &setsockopt_call()));
        let helper = loads(Hook::Sockops, &[insn::call(GET_NETNS_COOKIE)]);
        // The kernel's BTF is megabytes: it is read only where the helper is missing.
        let probe = !helper && loads(Hook::Sockops, &probe_read_call());
        let offsets = if probe {
            btf::Btf::read(Path::new(VMLINUX_BTF)).and_then(|btf| net_offsets(&btf))
        } else {
            None
        };
        let features = Self::choose(helper, offsets);
        let features = Self { set_retval, sendmsg_unbind, ..features };
        debug!(?features, "asked the kernel what it can do");
        features
    }

    /// How the accept side of IPv6 learns its namespace: helper, else probe with two offsets, else the bind hook.
    fn choose(helper: bool, offsets: Option<(u32, u32)>) -> Self {
        let base = Self {
            set_retval: 0,
            netns_mode: setting::NETNS_BIND,
            off_skc_net: 0,
            off_net_cookie: 0,
            sendmsg_unbind: 0,
            v6_mapped: 0,
        };
        match (helper, offsets) {
            (true, _) => Self { netns_mode: setting::NETNS_HELPER, ..base },
            (false, Some((off_skc_net, off_net_cookie))) => {
                Self { netns_mode: setting::NETNS_PROBE, off_skc_net, off_net_cookie, ..base }
            }
            (false, None) => base,
        }
    }

    /// The settings of the object by name.
    pub(super) fn words(&self) -> [(&'static str, &u32); 6] {
        [
            (setting::SET_RETVAL, &self.set_retval),
            (setting::NETNS_MODE, &self.netns_mode),
            (setting::OFF_SKC_NET, &self.off_skc_net),
            (setting::OFF_NET_COOKIE, &self.off_net_cookie),
            (setting::SENDMSG_UNBIND, &self.sendmsg_unbind),
            (setting::V6_MAPPED, &self.v6_mapped),
        ]
    }

    /// The same for people.
    pub(super) fn in_words(&self) -> Vec<String> {
        let refuse = if self.set_retval == 1 {
            "inside connect()"
        } else {
            "by a reset from loopback port 0 (no bpf_set_retval)"
        };
        let netns = match self.netns_mode {
            setting::NETNS_HELPER => "bpf_get_netns_cookie",
            setting::NETNS_PROBE => "bpf_probe_read_kernel with offsets from the kernel's BTF",
            _ => "a hook on bind(): the proxy must have started after this agent",
        };
        let unbind =
            if self.sendmsg_unbind == 1 { "redirected" } else { "left alone (no bpf_setsockopt in sendmsg)" };
        let v6 = if self.v6_mapped == 0 {
            "by connection tuple"
        } else {
            "through mapped addresses: V6ONLY sockets cannot reach them"
        };
        vec![
            format!("an unknown VIP is refused {refuse}"),
            format!("IPv6 VIPs are routed {v6}"),
            format!("the accept side of IPv6 learns its namespace from {netns}"),
            format!("unconnected DNS sockets bound to a device are {unbind}"),
        ]
    }
}

/// `skc_net` and `net_cookie`, if the programs can reach them.
fn net_offsets(btf: &btf::Btf) -> Option<(u32, u32)> {
    let skc_net = btf.member_offset("sock_common", "skc_net")?;
    let net_cookie = btf.member_offset("net", "net_cookie")?;
    (skc_net + 8 <= SOCK_COPY_BYTES).then_some((skc_net, net_cookie))
}

/// Does the verifier take these instructions, followed by "let it through", at this hook?
fn loads(hook: Hook, body: &[u64]) -> bool {
    let kind = if hook == Hook::Sockops { sys::PROG_TYPE_SOCK_OPS } else { sys::PROG_TYPE_CGROUP_SOCK_ADDR };
    let program: Vec<u64> = body.iter().copied().chain([insn::mov_imm(insn::R0, 1), insn::EXIT]).collect();
    match sys::prog_load(kind, hook.attach_type(), &program) {
        Ok(_program) => true,
        Err(error) => {
            debug!(hook = hook.name(), %error, "a trial load was refused");
            false
        }
    }
}

/// bpf_probe_read_kernel(fp - 8, 8, NULL)
fn probe_read_call() -> [u64; 6] {
    [
        insn::mov_imm(insn::R2, 8),
        insn::mov_imm(insn::R3, 0),
        insn::mov(insn::R1, insn::R10),
        insn::add_imm(insn::R1, -8),
        insn::call(PROBE_READ_KERNEL),
        insn::mov_imm(insn::R1, 0),
    ]
}

/// bpf_setsockopt(ctx, SOL_SOCKET, SO_BINDTODEVICE, "", 4)
fn setsockopt_call() -> [u64; 8] {
    [
        insn::store_u32_imm(insn::R10, -8, 0),
        insn::mov_imm(insn::R2, libc::SOL_SOCKET),
        insn::mov_imm(insn::R3, libc::SO_BINDTODEVICE),
        insn::mov(insn::R4, insn::R10),
        insn::add_imm(insn::R4, -8),
        insn::mov_imm(insn::R5, 4),
        insn::call(SETSOCKOPT),
        insn::mov_imm(insn::R1, 0),
    ]
}

/// The few instructions that trial loads are made of (Documentation/bpf/standardization/instruction-set.rst).
pub(super) mod insn {
    pub(in crate::kernel) const R0: u8 = 0;
    pub(in crate::kernel) const R1: u8 = 1;
    pub(in crate::kernel) const R2: u8 = 2;
    pub(in crate::kernel) const R3: u8 = 3;
    pub(in crate::kernel) const R4: u8 = 4;
    pub(in crate::kernel) const R5: u8 = 5;
    pub(in crate::kernel) const R6: u8 = 6;
    /// The frame pointer.
    pub(in crate::kernel) const R10: u8 = 10;
    pub(in crate::kernel) const EXIT: u64 = encode(0x95, 0, 0, 0, 0);

    /// opcode:8 dst:4 src:4 offset:16 imm:32, lowest bits first.
    const fn encode(opcode: u8, dst: u8, src: u8, offset: i16, imm: i32) -> u64 {
        (opcode as u64)
            | ((dst as u64) << 8)
            | ((src as u64) << 12)
            | ((offset.cast_unsigned() as u64) << 16)
            | ((imm.cast_unsigned() as u64) << 32)
    }

    pub(in crate::kernel) const fn mov(dst: u8, src: u8) -> u64 {
        encode(0xbf, dst, src, 0, 0)
    }

    pub(in crate::kernel) const fn mov_imm(dst: u8, imm: i32) -> u64 {
        encode(0xb7, dst, 0, 0, imm)
    }

    pub(in crate::kernel) const fn add_imm(dst: u8, imm: i32) -> u64 {
        encode(0x07, dst, 0, 0, imm)
    }

    pub(in crate::kernel) const fn store_u64(dst: u8, offset: i16, src: u8) -> u64 {
        encode(0x7b, dst, src, offset, 0)
    }

    pub(in crate::kernel) const fn store_u32_imm(dst: u8, offset: i16, imm: i32) -> u64 {
        encode(0x62, dst, 0, offset, imm)
    }

    pub(in crate::kernel) const fn call(helper: u32) -> u64 {
        encode(0x85, 0, 0, 0, helper.cast_signed())
    }

    /// A 16-byte load of a map by its descriptor (BPF_PSEUDO_MAP_FD).
    pub(in crate::kernel) const fn load_map_fd(dst: u8, fd: i32) -> [u64; 2] {
        [encode(0x18, dst, 1, 0, fd), 0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_namespace_is_learned_by_helper_then_probe_then_bind() {
        let mode = |helper, offsets| Features::choose(helper, offsets).netns_mode;
        assert_eq!(mode(true, Some((48, 120))), setting::NETNS_HELPER);
        assert_eq!(mode(false, Some((48, 120))), setting::NETNS_PROBE);
        assert_eq!(mode(false, None), setting::NETNS_BIND);
        assert_eq!(Features::choose(false, Some((48, 120))).off_net_cookie, 120);
    }

    #[test]
    fn instructions_are_encoded_as_the_kernel_reads_them() {
        // r1 = -111; call 187; exit, as `llvm-objdump` shows them.
        assert_eq!(insn::mov_imm(insn::R1, -111).to_le_bytes(), [0xb7, 1, 0, 0, 0x91, 0xff, 0xff, 0xff]);
        assert_eq!(insn::call(187).to_le_bytes(), [0x85, 0, 0, 0, 187, 0, 0, 0]);
        assert_eq!(
            insn::store_u64(insn::R10, -8, insn::R0).to_le_bytes(),
            [0x7b, 0x0a, 0xf8, 0xff, 0, 0, 0, 0]
        );
    }
}
