//! `cargo xtask build-ebpf`: the only place that knows how BPF is compiled. Keeps: `target/bpf/kuma-ebpf.o` has passed
//! the lint, and its fingerprint says what it was built from. Called by main and by the commands that need the object.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use anyhow::{Context as _, Result, bail};
use xtask::fingerprint::{self, FINGERPRINT, OBJECT};

mod lint;

/// `debuginfo` is what BTF is made from. No `target-cpu`: the default is understood by every kernel from 5.10 on.
const RUSTFLAGS: [&str; 4] = ["-C", "debuginfo=2", "-C", "link-arg=--btf"];
const TARGET: &str = "bpfel-unknown-none";
/// The distribution's compiler and what its package of sources is called on Debian.
const SYSTEM_RUSTC: &str = "/usr/bin/rustc";
/// What cargo demands for this workspace, as `1.95`.
const OLDEST_RUSTC: &str = env!("CARGO_PKG_RUST_VERSION");

/// Compile the BPF programs into target/bpf/kuma-ebpf.o, which the next build of kuma-dns embeds.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(Args {}: Args) -> Result<()> {
    let root = xtask::root();
    let toolchain = Toolchain::find()?;
    let Some(linker) = xtask::find_tool("bpf-linker") else {
        bail!("bpf-linker is not installed: run `cargo xtask setup`, or `cargo install bpf-linker`");
    };
    let fingerprint = format!("{}\n{}\n", fingerprint::sources(&root)?, toolchain.line(&linker)?);
    let object = root.join(OBJECT);
    let current = fs::read_to_string(root.join(FINGERPRINT)).unwrap_or_default();
    if object.is_file() && current == fingerprint {
        println!("{OBJECT} is up to date");
        return Ok(());
    }
    let built = toolchain.build(&root, &linker)?;
    let bytes = fs::read(&built).with_context(|| format!("cannot read {}", built.display()))?;
    let summary = lint::check(&bytes).context("the object breaks a rule that every kernel needs")?;
    // The fingerprint goes first: an interrupted build leaves an object without one, never one with a wrong one.
    let _ = fs::remove_file(root.join(FINGERPRINT));
    let temporary = object.with_extension("o.new");
    fs::write(&temporary, &bytes).with_context(|| format!("cannot write {}", temporary.display()))?;
    fs::rename(&temporary, &object).with_context(|| format!("cannot write {}", object.display()))?;
    fs::write(root.join(FINGERPRINT), fingerprint).with_context(|| format!("cannot write {FINGERPRINT}"))?;
    println!("{OBJECT}: {summary}, {} KiB", bytes.len() / 1024);
    Ok(())
}

/// The version of LLVM inside the compiler that is used for BPF: bpf-linker must not have an older one.
///
/// # Errors
/// There is no such compiler.
pub(crate) fn llvm() -> Result<u32> {
    let about = xtask::read(Toolchain::find()?.rustc().arg("-vV"))?;
    let version = about.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    let major = version.and_then(|version| version.split('.').next()?.parse().ok());
    major.with_context(|| format!("cannot read the LLVM version from {about:?}"))
}

/// Is this compiler as new as cargo demands? Takes `rustc 1.96.0 (…)` and Debian's `1.96.0+dfsg1-1`.
pub(crate) fn is_new_enough(version: &str) -> bool {
    minor(version) >= minor(OLDEST_RUSTC)
}

/// A compiler that has the sources of `core`.
enum Toolchain {
    /// rustup's nightly with the component rust-src.
    Nightly,
    /// The distribution's rustc with its package of sources; RUSTC_BOOTSTRAP lets it build `core`.
    System,
}

impl Toolchain {
    fn find() -> Result<Self> {
        let nightly =
            clean(Command::new("rustup")).args(["run", "nightly", "rustc", "--print", "sysroot"]).output();
        if nightly.is_ok_and(|output| {
            output.status.success() && has_sources(Path::new(String::from_utf8_lossy(&output.stdout).trim()))
        }) {
            return Ok(Self::Nightly);
        }
        let mut why = format!("{SYSTEM_RUSTC} does not exist");
        if Path::new(SYSTEM_RUSTC).is_file() {
            let version = xtask::read(clean(Command::new(SYSTEM_RUSTC)).arg("-V"))?;
            let sysroot = xtask::read(clean(Command::new(SYSTEM_RUSTC)).args(["--print", "sysroot"]))?;
            why = if !is_new_enough(&version) {
                format!("{version} in {SYSTEM_RUSTC} is older than {OLDEST_RUSTC}")
            } else if has_sources(Path::new(&sysroot)) {
                return Ok(Self::System);
            } else {
                format!("the sources for {SYSTEM_RUSTC} are missing")
            };
        }
        bail!(
            "no compiler for BPF: rustup's nightly has no rust-src, and {why}. Run `cargo xtask setup`, or install one: \
             `rustup toolchain install nightly --component rust-src`, or `apt install rustc rust-src` of a current release"
        )
    }

    fn rustc(&self) -> Command {
        match self {
            Self::Nightly => {
                let mut rustup = clean(Command::new("rustup"));
                rustup.args(["run", "nightly", "rustc"]);
                rustup
            }
            Self::System => clean(Command::new(SYSTEM_RUSTC)),
        }
    }

    /// The second line of the fingerprint.
    fn line(&self, linker: &Path) -> Result<String> {
        let rustc = xtask::read(self.rustc().arg("-V"))?;
        let linker = xtask::read(clean(Command::new(linker)).arg("--version"))?;
        Ok(format!("{rustc}, {linker}, {}", RUSTFLAGS.join(" ")))
    }

    fn build(&self, root: &Path, linker: &Path) -> Result<PathBuf> {
        let mut cargo = match self {
            Self::Nightly => {
                let mut rustup = clean(Command::new("rustup"));
                rustup.args(["run", "nightly", "cargo"]);
                rustup
            }
            Self::System => {
                let mut cargo = clean(xtask::cargo());
                cargo.env("RUSTC", SYSTEM_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                cargo
            }
        };
        let flags = RUSTFLAGS.into_iter().map(str::to_owned);
        let flags = flags.chain(["-C".to_owned(), format!("linker={}", linker.display())]);
        let folder = root.join("target/bpf/build");
        // Encoded flags win over every configuration file, the repository's own static flags included.
        cargo
            .current_dir(root)
            .env("CARGO_ENCODED_RUSTFLAGS", flags.collect::<Vec<_>>().join("\x1f"))
            .args(["build", "--quiet", "--locked", "--package", "kuma-ebpf", "-Z", "build-std=core"])
            .args(["--target", TARGET, "--profile", "bpf", "--target-dir"])
            .arg(&folder);
        xtask::exec(&mut cargo)?;
        Ok(folder.join(TARGET).join("bpf/kuma-ebpf"))
    }
}

/// Without what the cargo and rustup around us put into the environment for their own compiler.
fn clean(mut command: Command) -> Command {
    for name in [
        "RUSTFLAGS",
        "RUSTC",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTUP_TOOLCHAIN",
        "LD_LIBRARY_PATH",
    ] {
        command.env_remove(name);
    }
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_BUILD_")
            || text.starts_with("CARGO_TARGET_")
            || text.starts_with("CARGO_PROFILE_")
        {
            command.env_remove(&name);
        }
    }
    command
}

fn has_sources(sysroot: &Path) -> bool {
    sysroot.join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file()
}

/// Major and minor.
fn minor(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.trim_start_matches("rustc ").split(['.', '+', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::{is_new_enough, minor};

    #[test]
    fn a_compiler_is_compared_by_its_numbers() {
        assert_eq!(minor("rustc 1.96.0 (ac68faa20 2026-05-25)"), Some((1, 96)));
        assert!(!is_new_enough("rustc 1.63.0"));
        assert!(!is_new_enough("1.85.0+dfsg3-1~deb12u3"));
        assert!(is_new_enough("1.96.0+dfsg1-1~deb12u2"));
        assert!(is_new_enough("rustc 1.100.0-nightly"));
    }
}
