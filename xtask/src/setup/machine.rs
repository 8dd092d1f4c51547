//! What `cargo xtask test vm` needs to fetch, unpack and boot other kernels. A table. Called by setup.

use super::clients::{Linkage, Tool};

pub(super) const MACHINE: &[Tool] = &[
    Tool {
        programs: &["qemu-system-x86_64"],
        package: "qemu-system-x86",
        why: "boots other kernels",
        linkage: Linkage::Any,
    },
    Tool {
        programs: &["busybox"],
        package: "busybox-static",
        why: "the test guests boot with it",
        linkage: Linkage::Static,
    },
    Tool {
        programs: &["modprobe"],
        package: "kmod",
        why: "orders the kernel's modules",
        linkage: Linkage::Any,
    },
    Tool { programs: &["xz"], package: "xz-utils", why: "unpacks modules", linkage: Linkage::Any },
    Tool { programs: &["zstd"], package: "zstd", why: "unpacks packages", linkage: Linkage::Any },
];
