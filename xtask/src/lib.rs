//! What every subcommand needs: where the repository is, and how to run a command so that a failure says which one.
//! Keeps: no output is swallowed when a command fails. Called by all files of xtask.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

pub mod fingerprint;

/// The top of the repository.
#[must_use]
pub fn root() -> PathBuf {
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let manifest = manifest.unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    manifest.parent().map_or_else(|| manifest.clone(), Path::to_path_buf)
}

/// Where everything that setup fetches and build-ebpf writes lies: `target` of the repository.
#[must_use]
pub fn target() -> PathBuf {
    root().join("target")
}

/// The cargo that runs us, or the one on PATH.
#[must_use]
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Something failed and the last line of the output says it already: nothing is printed after it.
#[derive(Debug)]
pub struct Reported;

impl std::fmt::Display for Reported {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("see the last line above")
    }
}

impl std::error::Error for Reported {}

/// A command that ends with us, even when we are killed: util-linux's setpriv asks the kernel for it and becomes the program.
#[must_use]
pub fn ending_with_us(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Runs a command with our stdin, stdout and stderr.
///
/// # Errors
/// It cannot be started, or ends with a code other than 0; the message shows the whole command.
pub fn exec(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start `{}`", line(command)))?;
    if !status.success() {
        bail!("`{}` failed: {status}", line(command));
    }
    Ok(())
}

/// Runs a command and gives what it wrote to stdout, trimmed.
///
/// # Errors
/// It cannot be started, ends with a code other than 0 (the message has its stderr), or writes no UTF-8.
pub fn read(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start `{}`", line(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}\n{}", line(command), output.status, stderr.trim_end());
    }
    let text =
        String::from_utf8(output.stdout).with_context(|| format!("`{}` wrote no UTF-8", line(command)))?;
    Ok(text.trim().to_owned())
}

/// Where programs are looked for: PATH, the toolchain's folder, the administrator's, which a user's PATH may lack, and ours.
fn folders() -> impl Iterator<Item = PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo_home = cargo_home.or_else(|| std::env::home_dir().map(|home| home.join(".cargo")));
    std::env::split_paths(&path)
        .collect::<Vec<_>>()
        .into_iter()
        .chain(cargo_home.map(|home| home.join("bin")))
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .chain([target().join("tools/bin"), target().join("envoy/bin")])
}

/// Every file of this name where programs are looked for.
pub fn find_tools(name: &str) -> impl Iterator<Item = PathBuf> {
    folders().map(move |folder| folder.join(name)).filter(|file| file.is_file())
}

/// The first of them.
#[must_use]
pub fn find_tool(name: &str) -> Option<PathBuf> {
    find_tools(name).next()
}

/// A command by a name that is looked for where `find_tool` does, and so are the commands that it starts.
#[must_use]
pub fn tool(name: &str) -> Command {
    let mut command = Command::new(find_tool(name).unwrap_or_else(|| name.into()));
    with_our_path(&mut command);
    command
}

/// Lets a command find what `find_tool` does.
pub fn with_our_path(command: &mut Command) {
    // Fails only for a folder with a colon in its name, which no PATH can hold.
    if let Ok(path) = std::env::join_paths(folders()) {
        command.env("PATH", path);
    }
}

/// Does this process run as root?
#[must_use]
pub fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap_or_default();
    uids.split_whitespace().nth(1) == Some("0")
}

/// A command as one would type it.
fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
