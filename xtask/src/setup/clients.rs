//! Programs that come as Debian packages: which one each is in and what it is for. Pure tables and a look-up.
//! Called by setup.

use std::path::{Path, PathBuf};

use xtask::find_tools;

use super::{How, Missing};

/// A program, the package that brings it and why it is wanted.
pub(super) struct Tool {
    /// Any of these names will do.
    pub(super) programs: &'static [&'static str],
    pub(super) package: &'static str,
    pub(super) why: &'static str,
    /// Must the file be statically linked?
    pub(super) linkage: Linkage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Linkage {
    Any,
    Static,
}

const fn tool(program: &'static [&'static str], package: &'static str, why: &'static str) -> Tool {
    Tool { programs: program, package, why, linkage: Linkage::Any }
}

/// What the tests, the demo and the benchmarks run.
pub(super) const CLIENTS: &[Tool] = &[
    tool(&["curl"], "curl", "asks services of the mesh over HTTP"),
    tool(&["dig"], "bind9-dnsutils", "asks the resolver over UDP and TCP"),
    Tool {
        programs: &["busybox"],
        package: "busybox-static",
        why: "its nslookup asks two nameservers from one socket; the test guests boot with it",
        linkage: Linkage::Static,
    },
    tool(&["python3"], "python3", "its getaddrinfo is glibc's"),
    tool(&["ip"], "iproute2", "makes network namespaces and veth pairs"),
    tool(&["nft"], "nftables", "bench vip compares with an nft redirect"),
    tool(&["iptables"], "iptables", "bench vip compares with iptables REDIRECT"),
];

/// The package of each tool that is not here.
pub(super) fn missing(tools: &[Tool]) -> Vec<Missing> {
    let absent = tools.iter().filter(|tool| find(tool).is_none());
    absent
        .map(|tool| Missing {
            what: tool.programs[0].to_owned(),
            why: tool.why,
            how: How::Apt(vec![tool.package.to_owned()]),
        })
        .collect()
}

pub(super) fn describe(tools: &[Tool]) -> String {
    let found = tools.iter().filter_map(find);
    found.map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
}

fn find(tool: &Tool) -> Option<PathBuf> {
    let fits = |file: &PathBuf| tool.linkage == Linkage::Any || is_static(file);
    tool.programs.iter().flat_map(|program| find_tools(program)).find(fits)
}

/// A program that asks for a dynamic linker names it in its first page.
fn is_static(file: &Path) -> bool {
    const NAME: &[u8] = b"/ld-linux";
    let head = std::fs::read(file).unwrap_or_default();
    let head = &head[..head.len().min(4096)];
    head.starts_with(b"\x7fELF") && !head.windows(NAME.len()).any(|bytes| bytes == NAME)
}
