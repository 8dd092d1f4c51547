//! Paths of the command line to the files behind them. Keeps: a stable order, each file once, sizes bounded.
//! Called by cp::resources (reading) and cp::watch (what to look at).

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::cp::violation::{FieldPath, Place, Reader, Violation};
use crate::cp::yaml::MAX_FILE_BYTES;

/// What a resource file in a directory is called. JSON is YAML.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];
/// Symlinks that are followed on the way to one file, as many as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// The files that `paths` stand for: a file for itself, a directory for the resource files in it, in order of name.
pub(in crate::cp) fn expand(paths: &[PathBuf], violations: &mut Vec<Violation>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut seen = BTreeSet::new();
    for path in paths {
        match members(path) {
            Ok(found) if found.is_empty() => {
                let problem =
                    format!("no resource file in the directory: put one there, named *.{}", EXTENSIONS[0]);
                violations.push(whole(path, problem));
            }
            Ok(found) => {
                files.extend(found.into_iter().filter(|file| {
                    let real = file.canonicalize().unwrap_or_else(|_| file.clone());
                    seen.insert(real)
                }));
            }
            Err(error) => violations.push(whole(path, format!("cannot be read: {error}"))),
        }
    }
    files
}

/// A path's own files: itself, or the resource files of a directory, sorted. Hidden files are left out: editors and
/// Kubernetes keep theirs there.
///
/// # Errors
/// A path that is not there or not readable.
pub fn members(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    let found = std::fs::metadata(path)?;
    if found.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    if !found.is_dir() {
        // A pipe can be read only once and has no edits to follow.
        return Err(std::io::Error::other("it is neither a file nor a directory"));
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let file = entry?.path();
        let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let named = file.extension().is_some_and(|found| EXTENSIONS.iter().any(|known| found == *known));
        if named && !hidden && file.is_file() {
            found.push(file);
        }
    }
    found.sort();
    Ok(found)
}

/// The text of the reader's file; nothing when that was reported as a mistake.
pub(in crate::cp) fn read(reader: &mut Reader<'_>) -> Option<String> {
    let root = FieldPath::Document;
    let file = reader.file.clone();
    let mut bytes = Vec::new();
    let opened =
        std::fs::File::open(&file).and_then(|open| open.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    if let Err(error) = opened {
        reader.report(0, &root, format!("cannot be read: {error}"));
        return None;
    }
    if bytes.len() as u64 > MAX_FILE_BYTES {
        reader.report(0, &root, format!("the file is larger than {MAX_FILE_BYTES} bytes: split it"));
        return None;
    }
    match String::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => {
            let at = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() as u64 + 1;
            reader.report(line, &root, "the text is no UTF-8: save it in that encoding");
            None
        }
    }
}

fn whole(path: &Path, problem: String) -> Violation {
    Violation { place: Place { file: path.into(), line: 0, field: String::new() }, problem }
}

/// The state of all files: any edit changes it.
pub type Fingerprint = Vec<(PathBuf, Option<Stamp>)>;

/// What tells one state of a file from another. A file that is replaced has another inode, one that is written in place
/// another time or size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// When the file was written last, in seconds of the Unix epoch.
    pub fn modified_secs(&self) -> i64 {
        self.modified.0
    }
}

/// The state that the files behind `paths` are in; never fails, since a file that cannot be read is a state as well.
pub fn fingerprint(paths: &[PathBuf]) -> Fingerprint {
    let mut found = Vec::new();
    for path in paths {
        match members(path) {
            Ok(files) => found.extend(files.into_iter().map(|file| {
                let stamp = stamp(&file);
                (file, stamp)
            })),
            Err(_) => found.push((path.clone(), None)),
        }
    }
    found
}

/// Which directory stands at a path: another one made in its place has another inode.
pub type Identity = (u64, u64);

/// The directory that is at `path` now.
pub fn identity(path: &Path) -> Option<Identity> {
    std::fs::metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

fn stamp(file: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(file).ok()?;
    Some(Stamp {
        device: found.dev(),
        inode: found.ino(),
        bytes: found.size(),
        modified: (found.mtime(), found.mtime_nsec()),
        changed: (found.ctime(), found.ctime_nsec()),
    })
}

/// Every directory in which a change can put another file behind `path`: the one that holds it, itself when it is one, and
/// those that hold the symlinks on the way.
pub fn trail(path: &Path) -> BTreeSet<PathBuf> {
    let mut directories = BTreeSet::new();
    let mut path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    for _ in 0..MAX_LINKS {
        let Some((link, rest)) = first_link(&path) else { break };
        let parent = link.parent().unwrap_or(Path::new("/")).to_owned();
        let Ok(target) = std::fs::read_link(&link) else { break };
        path = parent.join(target).join(rest);
        directories.insert(parent);
    }
    let existing = path.ancestors().skip(1).find(|ancestor| ancestor.is_dir());
    directories.extend(existing.map(Path::to_owned));
    if path.is_dir() {
        // A directory's own files may be symlinks too; Kubernetes mounts ConfigMaps so, and swaps a link beside them.
        directories.insert(path);
    }
    directories
}

/// The first symlink on the way along `path`, and what comes behind it.
fn first_link(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut walked = PathBuf::new();
    let mut components = path.components();
    while let Some(component) = components.next() {
        match component {
            std::path::Component::ParentDir => {
                walked.pop();
            }
            other => walked.push(other),
        }
        if std::fs::symlink_metadata(&walked).is_ok_and(|found| found.is_symlink()) {
            return Some((walked, components.as_path().to_owned()));
        }
    }
    None
}
