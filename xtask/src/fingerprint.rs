//! What a BPF object was built from, as one line. Keeps: equal lines mean equal sources. Shared by
//! `cargo xtask build-ebpf`, which writes it, and kuma-userspace's build script, which refuses a stale object.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{fs, io};

use sha2::{Digest as _, Sha256};

/// Below the repository's top: the object, and beside it the fingerprint of what it was built from.
pub const OBJECT: &str = "target/bpf/kuma-ebpf.o";
/// First line: [`sources`]; second line: the toolchain.
pub const FINGERPRINT: &str = "target/bpf/kuma-ebpf.fingerprint";
/// The crates whose sources make the object.
pub const CRATES: [&str; 2] = ["kuma-ebpf", "kuma-ebpf-common"];
/// The crates of other people that end up in it, as their names begin in Cargo.lock.
const LOCKED: [&str; 3] = ["aya-ebpf", "aya-log-ebpf", "aya-log-common"];

/// The sha256 of every source file, of the locked versions of aya-ebpf, and of the build profile.
///
/// # Errors
/// A file cannot be read.
pub fn sources(root: &Path) -> io::Result<String> {
    let mut hash = Sha256::new();
    for name in CRATES {
        let mut files = vec![root.join(name).join("Cargo.toml")];
        collect(&root.join(name).join("src"), &mut files)?;
        files.sort();
        for file in files {
            let content = fs::read(&file)?;
            hash.update(file.strip_prefix(root).unwrap_or(&file).to_string_lossy().as_bytes());
            hash.update(content.len().to_be_bytes());
            hash.update(content);
        }
    }
    let lock = fs::read_to_string(root.join("Cargo.lock"))?;
    for package in lock.split("[[package]]").filter(|package| is_locked(package)) {
        hash.update(package.trim());
    }
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    hash.update(
        manifest.split("[profile.bpf]").nth(1).unwrap_or_default().split("\n[").next().unwrap_or_default(),
    );
    Ok(hash.finalize().iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}

fn is_locked(package: &str) -> bool {
    let name = package.trim_start().strip_prefix("name = \"").unwrap_or_default();
    LOCKED.iter().any(|locked| name.starts_with(locked))
}

/// Every Rust file below a folder that can end up in the object; files of tests cannot.
fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_stem().is_some_and(|stem| stem == "tests") {
            continue;
        }
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
