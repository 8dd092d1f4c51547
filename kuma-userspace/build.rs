//! Embeds the BPF object that `cargo xtask build-ebpf` wrote. Keeps: a stale object is refused, and without any an
//! empty stub stands in, so that check, clippy and unit tests need no BPF toolchain. Called by cargo.

use std::path::{Path, PathBuf};
use std::{env, fs};

#[path = "../xtask/src/fingerprint.rs"]
#[expect(unreachable_pub, reason = "shared with xtask, whose library exports it")]
mod fingerprint;

fn main() {
    let manifest = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let root = manifest.parent().expect("the crate lies in the repository");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo")).join("kuma-ebpf.o");
    for name in fingerprint::CRATES {
        println!("cargo::rerun-if-changed={}", root.join(name).display());
    }
    for name in [fingerprint::OBJECT, fingerprint::FINGERPRINT, "Cargo.lock", "Cargo.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(name).display());
    }
    match object(root) {
        Ok(bytes) => {
            if bytes.is_empty() {
                println!(
                    "cargo::warning=no BPF object, kuma-dns will not load: run `cargo xtask build-ebpf`"
                );
            }
            fs::write(out, bytes).expect("OUT_DIR is writable");
        }
        Err(error) => println!("cargo::error={error}"),
    }
}

/// The object, checked; empty when there is none.
fn object(root: &Path) -> Result<Vec<u8>, String> {
    let path = root.join(fingerprint::OBJECT);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let built = fs::read_to_string(root.join(fingerprint::FINGERPRINT)).unwrap_or_default();
    let sources =
        fingerprint::sources(root).map_err(|error| format!("cannot read the BPF sources: {error}"))?;
    if built.lines().next() != Some(sources.as_str()) {
        return Err(format!(
            "{} is older than the BPF sources: run `cargo xtask build-ebpf`",
            fingerprint::OBJECT
        ));
    }
    fs::read(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
}
