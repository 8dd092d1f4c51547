//! What compiles BPF: a rustc with the sources of `core`, and bpf-linker for its LLVM. Two ways lead there: rustup's
//! nightly with rust-src, or Debian's rustc with its source package. How they are used is known to `ebpf` alone.
//! Called by setup.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use xtask::{exec, find_tool, target};

use super::apt::Apt;
use super::{How, Missing};
use crate::ebpf;

/// Debian's packages: those for browsers are newer than the distribution's own.
const PACKAGES: [[&str; 3]; 2] = [["rustc-web", "rust-web-src", "cargo-web"], ["rustc", "rust-src", "cargo"]];

/// The LLVM versions that bpf-linker 0.13 can be built for, newest first.
const LLVM_VERSIONS: [u32; 3] = [23, 22, 21];

/// bpf-linker reads the bitcode of these rustc versions.
const LINKER: &str = "bpf-linker@0.13.0";

pub(super) fn missing(apt: &Apt) -> Result<Vec<Missing>> {
    let Ok(own) = ebpf::llvm() else {
        return Ok(vec![Missing {
            what: "a rustc that compiles for BPF".to_owned(),
            why: "the programs need `core` built for the BPF target (rustup's nightly with rust-src does as well)",
            how: How::Apt(packages(apt)?.map(str::to_owned).to_vec()),
        }]);
    };
    if find_tool("bpf-linker").is_some() {
        return Ok(Vec::new());
    }
    let llvm = LLVM_VERSIONS.into_iter().filter(|llvm| *llvm >= own);
    let why = "links the BPF programs";
    if let Some(llvm) = llvm.clone().find(|llvm| prefix(*llvm).join("bin/llvm-config").is_file()) {
        return Ok(vec![Missing { what: "bpf-linker".into(), why, how: How::BpfLinker { llvm } }]);
    }
    let mut oldest_first: Vec<u32> = llvm.collect();
    oldest_first.reverse();
    for llvm in &oldest_first {
        let package = format!("llvm-{llvm}-dev");
        if apt.candidate(&package)?.is_some() {
            let what = format!("LLVM {llvm} with headers");
            return Ok(vec![Missing {
                what,
                why: "bpf-linker is built with it",
                how: How::Apt(vec![package]),
            }]);
        }
    }
    bail!(
        "bpf-linker is missing and no LLVM to build it with is on offer: put bpf-linker for LLVM {own} on PATH"
    )
}

/// The first set of packages whose rustc is new enough for this workspace.
fn packages(apt: &Apt) -> Result<[&'static str; 3]> {
    for set in PACKAGES {
        if apt.candidate(set[0])?.is_some_and(|version| ebpf::is_new_enough(&version)) {
            return Ok(set);
        }
    }
    let Err(error) = ebpf::llvm() else {
        bail!("a compiler for BPF came while it was looked for: try again")
    };
    Err(error.context("apt offers no rustc that is new enough"))
}

fn prefix(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}

/// Builds bpf-linker outside the repository, whose cargo configuration is for our own binaries.
pub(super) fn install_linker(llvm: u32) -> Result<()> {
    let tools = target().join("tools");
    std::fs::create_dir_all(&tools).with_context(|| format!("cannot make {}", tools.display()))?;
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["install", "--quiet", "--locked", LINKER, "--no-default-features"]);
    command.arg(format!("--features=llvm-{llvm}")).arg("--root").arg(&tools);
    command.env("LLVM_PREFIX", prefix(llvm)).current_dir("/");
    for variable in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"] {
        command.env_remove(variable);
    }
    exec(&mut command)
}

pub(super) fn describe() -> String {
    let llvm = ebpf::llvm().map_or_else(|_| String::new(), |llvm| format!("rustc with LLVM {llvm}"));
    let linker = find_tool("bpf-linker").map(|path| path.display().to_string());
    [llvm].into_iter().chain(linker).collect::<Vec<_>>().join(", ")
}
