//! Builds with cargo and says where the executables lie. Called by test and bench.

use std::io::BufReader;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};
use cargo_metadata::{Artifact, Message};
use xtask::cargo;

/// Runs `cargo build` with these options and gives what has an executable.
pub(crate) fn build(options: &[&str]) -> Result<Vec<Artifact>> {
    let mut command = cargo();
    command.args(["build", "--locked", "--message-format=json-render-diagnostics"]).args(options);
    let mut child = command.stdout(Stdio::piped()).spawn().context("cannot start cargo")?;
    let stdout = child.stdout.take().expect("stdout is piped, one line up");
    let mut artifacts = Vec::new();
    for message in Message::parse_stream(BufReader::new(stdout)) {
        match message.context("cannot read from cargo")? {
            Message::CompilerArtifact(artifact) if artifact.executable.is_some() => artifacts.push(artifact),
            _ => {}
        }
    }
    let status = child.wait().context("cannot wait for cargo")?;
    if !status.success() {
        bail!("`cargo build {}` failed", options.join(" "));
    }
    Ok(artifacts)
}
