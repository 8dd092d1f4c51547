//! Builds every test binary once and says where each lies. Called by test.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use cargo_metadata::{Artifact, Message, TargetKind};
use xtask::{cargo, target};

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

/// Builds the default members' tests and binaries, then xtask's own in its own target folder.
pub(super) fn all() -> Result<Built> {
    let mut built = Built::default();
    build(&["--bins"], &mut built)?;
    let own = target().join("xtask");
    build(&["--package=xtask", &format!("--target-dir={}", own.display())], &mut built)?;
    Ok(built)
}

fn build(options: &[&str], built: &mut Built) -> Result<()> {
    let mut command = cargo();
    command.args(["build", "--locked", "--tests", "--message-format=json-render-diagnostics"]);
    let mut child = command.args(options).stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let stdout = child.stdout.take().expect("stdout is piped, four lines up");
    for message in Message::parse_stream(BufReader::new(stdout)) {
        if let Message::CompilerArtifact(artifact) = message.context("cannot read from cargo")? {
            built.take(artifact);
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        bail!("the tests do not build");
    }
    Ok(())
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
