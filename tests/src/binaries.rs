//! Where the programs under test are: our own binary, the tests' client, Envoy. Called by world and by the tests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, bail, ensure};

/// Names the binary to test when cargo is not there to build it (in a guest, for a package).
pub const KUMA_DNS_ENV: &str = "KUMA_DNS_BIN";
/// Names an Envoy other than the one that `cargo xtask setup` installs.
pub const ENVOY_ENV: &str = "KUMA_DNS_TEST_ENVOY";
/// Where `cargo xtask setup` puts Envoy, below the top of the repository.
const ENVOY_WHEEL: &str = "target/envoy";

/// The `kuma-dns` to test: built once for each process that asks, unless the environment names one.
///
/// # Errors
/// It cannot be built.
pub fn kuma_dns() -> anyhow::Result<&'static Path> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| find_kuma_dns().map_err(|error| format!("{error:#}")));
    found.as_deref().map_err(|error| anyhow::anyhow!("{error}"))
}

fn find_kuma_dns() -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os(KUMA_DNS_ENV) {
        return Ok(named.into());
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--locked", "--bin", "kuma-dns"]).current_dir(top());
    ensure!(build.status().context("cannot run cargo")?.success(), "kuma-dns does not build");
    beside_us("kuma-dns")
}

/// The tests' own client, which runs inside the mesh.
///
/// # Errors
/// It is not beside the running test.
pub fn client() -> anyhow::Result<PathBuf> {
    beside_us("client")
}

/// A real Envoy.
///
/// # Errors
/// There is none.
pub fn envoy() -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os(ENVOY_ENV) {
        return Ok(named.into());
    }
    let libraries = top().join(ENVOY_WHEEL).join("lib");
    let pythons = std::fs::read_dir(&libraries).into_iter().flatten().flatten();
    let binaries = pythons.map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
    let on_path = std::env::var_os("PATH");
    let on_path = on_path.iter().flat_map(|path| std::env::split_paths(path)).map(|dir| dir.join("envoy"));
    match binaries.chain(on_path).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("no Envoy in {} and none on PATH: run `cargo xtask setup`", libraries.display()),
    }
}

/// The top of the repository.
pub fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests package lies below the top")
}

/// A binary of the same build: tests run from `deps/`, one level below the binaries.
fn beside_us(name: &str) -> anyhow::Result<PathBuf> {
    let us = std::env::current_exe().context("who are we?")?;
    let found = us.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("no {name} beside {}", us.display()))
}
