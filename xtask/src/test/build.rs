//! Builds every test binary once and says where each lies. Called by test.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use cargo_metadata::{Artifact, TargetKind};

use crate::artifacts;

/// The files of tests/tests that also run on other kernels.
const GUEST_SUITES: [&str; 2] = ["sockets", "lifecycle"];

/// The name of our own program.
const PRODUCT: &str = "kuma-dns";

/// Test binaries, and what they test.
#[derive(Default, Debug)]
pub(super) struct Built {
    /// The tests beside the code, one binary per crate.
    pub(super) unit: Vec<Binary>,
    /// One per file of tests/tests, by its name.
    pub(super) files: BTreeMap<String, Binary>,
    /// The product.
    pub(super) kuma_dns: PathBuf,
}

#[derive(Clone, Debug)]
pub(super) struct Binary {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// The folder of its package, where cargo would run it.
    pub(super) folder: PathBuf,
}

impl Built {
    /// What `cargo xtask test vm` runs in its guests.
    pub(super) fn guest_binaries(&self) -> Result<Vec<(String, PathBuf)>> {
        let find = |name: &str| {
            let binary = self.files.get(name).with_context(|| format!("no tests/tests/{name}.rs"))?;
            Ok((name.to_owned(), binary.path.clone()))
        };
        GUEST_SUITES.into_iter().map(find).collect()
    }
}

/// Builds the default members' tests and binaries, then the tests of xtask in its own profile.
pub(super) fn all() -> Result<Built> {
    let mut built = Built::default();
    let product = artifacts::build(&["--tests", "--bins"])?;
    for artifact in
        product.into_iter().chain(artifacts::build(&["--tests", "--package=xtask", "--profile=xtask"])?)
    {
        built.take(artifact);
    }
    Ok(built)
}

impl Built {
    fn take(&mut self, artifact: Artifact) {
        let Some(executable) = artifact.executable else { return };
        if !artifact.profile.test {
            if artifact.target.name == PRODUCT {
                self.kuma_dns = executable.into();
            }
            return;
        }
        let manifest = artifact.manifest_path.into_std_path_buf();
        let folder = manifest.parent().map(PathBuf::from).unwrap_or_default();
        let name = artifact.target.name;
        let binary = Binary { name: name.clone(), path: executable.into(), folder };
        if artifact.target.kind.contains(&TargetKind::Test) {
            self.files.insert(name, binary);
        } else {
            self.unit.push(binary);
        }
    }
}
