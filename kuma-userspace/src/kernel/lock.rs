//! One process at a time loads, serves or removes the datapath of one instance. Keeps: the lock ends with its holder, however
//! that dies. Called by loader and mod.

use std::fs::{self, File};
use std::io;
use std::os::linux::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tracing::debug;

use crate::kernel::error::KernelError;

/// Somebody may remove the directory between our open and our lock; more than a few times in a row means a fight.
const LOCK_ROUNDS: usize = 16;

/// Held for as long as the instance's pins are ours.
#[derive(Debug)]
pub(super) struct InstanceLock {
    directory: File,
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        // Closing is not enough: a child that was just forked shares the lock until it closes its copy (flock(2)).
        if let Err(error) = flock(&self.directory, FlockOperation::Unlock) {
            debug!(%error, "cannot unlock the pins");
        }
    }
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
                return Ok(Self { directory: file });
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_has_the_lock_and_a_forked_child_does_not_keep_it() {
        let dir = tempfile::tempdir().unwrap();
        let pins = dir.path().join("demo");
        let lock = InstanceLock::take(&pins, "demo").unwrap();
        let refused = InstanceLock::take(&pins, "demo").unwrap_err();
        let holder = format!("in use by process {} ", std::process::id());
        assert!(refused.to_string().contains(&holder), "{refused}");
        let in_the_child = lock.directory.try_clone().unwrap();
        drop(lock);
        assert!(InstanceLock::take(&pins, "demo").is_ok());
        drop(in_the_child);
    }
}
