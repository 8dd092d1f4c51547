//! What a guest boots with, as one newc archive (the kernel's Documentation/driver-api/early-userspace/buffer-format.rst):
//! folders, files, and programs with the libraries that they ask for. Called by vmtest.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use xtask::{exec, read};

/// The archive under construction.
#[derive(Default)]
pub(crate) struct Initramfs {
    bytes: Vec<u8>,
    names: BTreeSet<PathBuf>,
    next_inode: u32,
}

/// File types of st_mode.
const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_755;

impl Initramfs {
    /// A folder and those above it.
    pub(crate) fn folder(&mut self, path: &Path) {
        let ancestors: Vec<&Path> = path.ancestors().collect();
        for folder in ancestors.into_iter().rev() {
            let name = folder.strip_prefix("/").unwrap_or(folder);
            if !name.as_os_str().is_empty() && self.names.insert(name.to_owned()) {
                self.entry(name.as_os_str(), FOLDER, &[]);
            }
        }
    }

    /// A file that may be executed.
    pub(crate) fn file(&mut self, path: &Path, contents: &[u8]) {
        if let Some(parent) = path.parent() {
            self.folder(parent);
        }
        let name = path.strip_prefix("/").unwrap_or(path);
        if self.names.insert(name.to_owned()) {
            self.entry(name.as_os_str(), FILE, contents);
        }
    }

    /// A file of this machine, under another name.
    pub(crate) fn copy(&mut self, from: &Path, to: &Path) -> Result<()> {
        let contents = std::fs::read(from).with_context(|| format!("cannot read {from:?}"))?;
        self.file(to, &contents);
        Ok(())
    }

    /// A program of this machine with every library that it is linked with.
    pub(crate) fn program(&mut self, from: &Path, to: &Path) -> Result<()> {
        self.copy(from, to)?;
        // A static program: ldd says so with a failure.
        let Ok(libraries) = read(Command::new("ldd").arg(from)) else { return Ok(()) };
        let files = libraries.lines().filter_map(|line| line.split_whitespace().find(|w| w.starts_with('/')));
        for library in files {
            self.copy(Path::new(library), Path::new(library))?;
        }
        Ok(())
    }

    /// A test binary without its debug information: guests have little memory.
    pub(crate) fn stripped(&mut self, from: &Path, to: &Path) -> Result<()> {
        let place = tempfile::NamedTempFile::new().context("cannot make a file")?;
        exec(Command::new("strip").arg("-o").arg(place.path()).arg(from))?;
        self.copy(place.path(), to)
    }

    /// A kernel module, decompressed; gives its name in the guest.
    pub(crate) fn module(&mut self, file: &Path) -> Result<PathBuf> {
        let name = file.file_name().context("a module is a file")?;
        let plain = name.as_bytes().strip_suffix(b".xz").or(name.as_bytes().strip_suffix(b".zst"));
        let to = Path::new("/modules").join(plain.map_or(name, OsStr::from_bytes));
        let contents = match file.extension().and_then(|extension| extension.to_str()) {
            Some("xz") => output(Command::new("xz").arg("-dc").arg(file))?,
            Some("zst") => output(Command::new("zstd").arg("-dcq").arg(file))?,
            _ => std::fs::read(file).with_context(|| format!("cannot read {file:?}"))?,
        };
        self.file(&to, &contents);
        Ok(to)
    }

    /// The whole archive.
    pub(crate) fn finish(mut self) -> Vec<u8> {
        self.entry(OsStr::new("TRAILER!!!"), 0, &[]);
        self.bytes
    }

    fn entry(&mut self, name: &OsStr, mode: u32, contents: &[u8]) {
        self.next_inode += 1;
        let links = if mode == FOLDER { 2 } else { 1 };
        let name_bytes = name.as_bytes().len() + 1;
        let size = u32::try_from(contents.len()).expect("a test binary is smaller than 4 GiB");
        let name_size = u32::try_from(name_bytes).expect("a path is shorter than 4 GiB");
        // inode, mode, uid, gid, links, mtime, size, device (4 numbers), name size, checksum
        let fields = [self.next_inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    /// Header with name, and contents, each begin at a multiple of four.
    fn pad(&mut self) {
        while !self.bytes.len().is_multiple_of(4) {
            self.bytes.push(0);
        }
    }
}

fn output(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_begins_at_a_multiple_of_four_and_folders_come_first() {
        let mut archive = Initramfs::default();
        archive.file(Path::new("/a/b/c"), b"12345");
        archive.file(Path::new("/a/d"), b"");
        let bytes = archive.finish();
        let starts: Vec<usize> =
            (0..bytes.len() - 5).filter(|at| &bytes[*at..*at + 6] == b"070701").collect();
        assert_eq!(starts.len(), 5, "a, a/b, a/b/c, a/d, trailer");
        assert!(starts.iter().all(|start| start.is_multiple_of(4)), "{starts:?}");
        let names: Vec<&[u8]> =
            starts.iter().map(|at| bytes[at + 110..].split(|b| *b == 0).next().unwrap()).collect();
        assert_eq!(names, [&b"a"[..], b"a/b", b"a/b/c", b"a/d", b"TRAILER!!!"]);
    }
}
