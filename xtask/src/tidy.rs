//! `cargo xtask tidy`: the rules of the house that a machine can check, each finding with file and line.
//! Keeps: the arrows between rooms, one job per file, unsafe in its rooms, and a README that names only what exists.
//! Called by people and by the lint suite of test.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use xtask::root;

use self::source::Source;

mod arrows;
mod files;
mod project;
mod source;

/// Check the rules of the house: arrows between rooms, first-line docs, unsafe, names and paths.
#[derive(clap::Args)]
pub(crate) struct Args {}

/// One broken rule.
#[derive(PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Finding {
    file: PathBuf,
    line: usize,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.message)
    }
}

/// The folders with Rust of ours.
const FOLDERS: [&str; 6] = ["kuma-ebpf-common", "kuma-ebpf", "kuma-userspace", "tests", "fuzz", "xtask"];

pub(crate) fn run(_args: &Args) -> Result<()> {
    let top = root();
    let sources = read_sources(&top)?;
    let mut findings = Vec::new();
    for source in &sources {
        findings.extend(files::check(source));
        findings.extend(arrows::check(source));
    }
    findings.extend(project::check(&top, &sources)?);
    findings.sort();
    findings.dedup();
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings in {} files", findings.len(), sources.len());
    }
    println!("tidy: {} files keep the rules", sources.len());
    Ok(())
}

fn read_sources(top: &Path) -> Result<Vec<Source>> {
    let mut paths = Vec::new();
    for folder in FOLDERS {
        walk(&top.join(folder), &mut paths)?;
    }
    paths.sort();
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path:?}"))?;
        let name = path.strip_prefix(top).unwrap_or(&path).to_owned();
        Source::parse(name, text)
    };
    paths.into_iter().map(read).collect()
}

/// Every `.rs` file below, but in no build folder.
fn walk(folder: &Path, paths: &mut Vec<PathBuf>) -> Result<()> {
    for entry in folder.read_dir().with_context(|| format!("cannot list {folder:?}"))? {
        let path = entry.with_context(|| format!("cannot list {folder:?}"))?.path();
        if path.is_dir() {
            if path.file_name().is_none_or(|name| name != "target") {
                walk(&path, paths)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            paths.push(path);
        }
    }
    Ok(())
}
