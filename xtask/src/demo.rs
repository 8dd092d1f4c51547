//! `cargo xtask demo`: from a fresh clone to a mesh name that resolves and a VIP that answers through a real Envoy. Gets
//! what is missing, builds, and becomes the demo (tests/src/bin/demo), which cleans up after itself. Called by people.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use xtask::is_root;

use crate::setup::{self, Part};
use crate::{artifacts, ebpf};

/// The product, and the program that tells the story.
const BINARIES: [&str; 2] = ["kuma-dns", "demo"];

/// See a mesh name resolve and a virtual IP answer through a real Envoy, in a network namespace of its own.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// Only returns when something is missing or does not build.
pub(crate) fn run(_args: &Args) -> Result<()> {
    ensure!(is_root(), "the demo loads BPF programs and makes a network namespace: run it as root");
    setup::ensure(&[Part::Bpf, Part::Envoy, Part::Clients])?;
    ebpf::run(ebpf::Args {})?;
    let [kuma_dns, demo] = build()?;
    let envoy = setup::envoy().context("Envoy was installed and is not found")?;
    let mut story = Command::new(demo);
    story.env("KUMA_DNS_BIN", kuma_dns).env("KUMA_DNS_TEST_ENVOY", envoy);
    // The demo takes our place: a signal reaches it directly.
    Err(story.exec()).context("cannot start the demo")
}

/// Builds both and says where they lie.
fn build() -> Result<[PathBuf; 2]> {
    let options = BINARIES.map(|name| format!("--bin={name}"));
    let built = artifacts::build(&[&options[0], &options[1]])?;
    let find = |name: &str| {
        let artifact = built.iter().find(|artifact| artifact.target.name == name);
        let path = artifact.and_then(|artifact| artifact.executable.clone());
        path.map(Into::into).with_context(|| format!("cargo built no {name}"))
    };
    Ok([find(BINARIES[0])?, find(BINARIES[1])?])
}
