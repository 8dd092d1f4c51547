//! The BPF object that `cargo xtask build-ebpf` built and build.rs embedded. Empty: this binary was built without one.
//! Called by loader.

/// The object's bytes, aligned as aya wants them.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/kuma-ebpf.o"));
