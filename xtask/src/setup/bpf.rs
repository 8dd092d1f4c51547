//! What compiles BPF: a rustc with the sources of `core`, and bpf-linker for its LLVM. Two ways lead there: rustup's
//! nightly with rust-src, or Debian's rustc with its source package. How they are used is known to `ebpf` alone.
//! Called by setup.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};
use xtask::{exec, find_tool, read, target};

use super::apt::Apt;
use super::{How, Missing};

/// Debian's packages: those for browsers are newer than the distribution's own.
const PACKAGES: [[&str; 3]; 2] = [["rustc-web", "rust-web-src", "cargo-web"], ["rustc", "rust-src", "cargo"]];

/// The LLVM versions that bpf-linker 0.13 can be built for, newest first.
const LLVM_VERSIONS: [u32; 3] = [23, 22, 21];

/// bpf-linker reads the bitcode of these rustc versions.
const LINKER: &str = "bpf-linker@0.13.0";

/// A compiler that can build `core` for BPF.
struct Compiler {
    rustc: PathBuf,
    llvm: u32,
}

pub(super) fn missing(apt: &Apt) -> Result<Vec<Missing>> {
    let Some(compiler) = find()? else {
        return Ok(vec![Missing {
            what: "a rustc that compiles for BPF".to_owned(),
            why: "the programs need `core` built for the BPF target (rustup's nightly with rust-src does as well)",
            how: How::Apt(packages(apt)?.map(str::to_owned).to_vec()),
        }]);
    };
    if find_tool("bpf-linker").is_some() {
        return Ok(Vec::new());
    }
    let llvm = LLVM_VERSIONS.into_iter().filter(|llvm| *llvm >= compiler.llvm);
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
        "bpf-linker is missing and no LLVM to build it with is on offer: put bpf-linker for LLVM {} on PATH",
        compiler.llvm
    )
}

/// The first set of packages whose rustc is new enough for this workspace.
fn packages(apt: &Apt) -> Result<[&'static str; 3]> {
    for set in PACKAGES {
        let version = apt.candidate(set[0])?;
        if version.as_deref().and_then(minor).is_some_and(|have| Some(have) >= minor(RUST_VERSION)) {
            return Ok(set);
        }
    }
    bail!(
        "no rustc that compiles for BPF: rustup has no nightly with rust-src, and apt offers no rustc {RUST_VERSION} \
         with source; run `rustup toolchain install nightly --component rust-src`"
    )
}

/// The oldest rustc that compiles this workspace.
const RUST_VERSION: &str = env!("CARGO_PKG_RUST_VERSION");

fn find() -> Result<Option<Compiler>> {
    for rustc in nightly().into_iter().chain([PathBuf::from("/usr/bin/rustc")]) {
        if !rustc.is_file() {
            continue;
        }
        let sysroot = read(Command::new(&rustc).args(["--print", "sysroot"]))?;
        let has_core = Path::new(&sysroot).join("lib/rustlib/src/rust/library/core/Cargo.toml").exists();
        let about = read(Command::new(&rustc).arg("-vV"))?;
        let field = |name: &str| about.lines().find_map(|line| line.strip_prefix(name));
        let new_enough = field("release: ").and_then(minor) >= minor(RUST_VERSION);
        let llvm = field("LLVM version: ").and_then(|v| v.split('.').next()?.parse().ok());
        if let (true, true, Some(llvm)) = (has_core, new_enough, llvm) {
            return Ok(Some(Compiler { rustc, llvm }));
        }
    }
    Ok(None)
}

/// rustup's nightly, if it is installed. Never installs one.
fn nightly() -> Option<PathBuf> {
    let mut command = Command::new(find_tool("rustup")?);
    command.args(["which", "--toolchain", "nightly", "rustc"]).stderr(Stdio::null());
    read(command.env("RUSTUP_AUTO_INSTALL", "0")).ok().map(PathBuf::from)
}

/// The second number of `1.96.0`; the first has been 1 since 2015.
fn minor(version: &str) -> Option<u32> {
    version.split('.').nth(1)?.parse().ok()
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
    let rustc = find().ok().flatten().map(|compiler| compiler.rustc);
    let parts = rustc.into_iter().chain(find_tool("bpf-linker"));
    parts.map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_rustc_and_of_debian_compare_by_their_minor() {
        assert_eq!(minor("1.96.0+dfsg1-1~deb12u2"), Some(96));
        assert!(minor("1.63.0+dfsg1-2") < minor(RUST_VERSION));
        assert_eq!(minor("none"), None);
    }
}
