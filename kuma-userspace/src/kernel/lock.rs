//! One process at a time loads, serves or removes the datapath of one instance. Keeps: the lock ends with its holder, however
//! that dies. Called by loader and mod.

use std::fs::{self, File};
use std::io;
use std::os::linux::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::kernel::error::KernelError;

/// Somebody may remove the directory between our open and our lock; more than a few times in a row means a fight.
const LOCK_ROUNDS: usize = 16;

/// Held for as long as the instance's pins are ours.
#[derive(Debug)]
pub(super) struct InstanceLock {
    _directory: File,
}

impl InstanceLock {
    /// Locks the instance's pin directory, which is created if it is missing.
    pub(super) fn take(directory: &Path, instance: &str) -> Result<Self, KernelError> {
        let failed = |source| KernelError::Lock { path: directory.into(), source };
        for _ in 0..LOCK_ROUNDS {
            let opened = fs::create_dir_all(directory).and_then(|()| File::open(directory));
            let file = match opened {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                other => other.map_err(failed)?,
            };
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    let holder = holder(&file).unwrap_or_else(|| "another process".into());
                    return Err(KernelError::Locked { instance: instance.into(), holder });
                }
                Err(errno) => return Err(failed(errno.into())),
            }
            // A cleanup may have removed the directory before we had the lock: then it locks nothing any more.
            let (ours, there) = (file.metadata().map_err(failed)?, fs::metadata(directory));
            if there.is_ok_and(|there| there.st_ino() == ours.st_ino()) {
                return Ok(Self { _directory: file });
            }
        }
        Err(failed(Errno::BUSY.into()))
    }
}

/// Who holds the lock, from /proc/locks (proc(5)): `1: FLOCK  ADVISORY  WRITE 4242 00:1f:1001 0 EOF`.
fn holder(file: &File) -> Option<String> {
    let inode = file.metadata().ok()?.st_ino().to_string();
    let locks = fs::read_to_string("/proc/locks").ok()?;
    let pid = locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let held =
            fields.get(1) == Some(&"FLOCK") && fields.get(5)?.rsplit(':').next() == Some(inode.as_str());
        held.then(|| fields[4].to_owned())
    })?;
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("process {pid} {}", command.trim()).trim_end().to_owned())
}
