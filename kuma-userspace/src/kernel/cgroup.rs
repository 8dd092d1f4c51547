//! Cgroups of the v2 hierarchy: where it is mounted, ids, members. Keeps: a removed cgroup leaves no process behind
//! (members go to its parent). Called by kernel, agent and cli; the tests' guards as well.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the kernel may take to let go of a cgroup whose members have just left.
const REMOVE_DEADLINE: Duration = Duration::from_secs(5);
/// Pause between two tries.
const REMOVE_PAUSE: Duration = Duration::from_millis(10);
/// Symbolic name of the file that lists and moves members.
const PROCS: &str = "cgroup.procs";
/// Other instances come and go below the same parent; more than this in a row is no coincidence.
const CREATE_ROUNDS: usize = 16;
/// A member that keeps forking while it is moved is chased this often.
const MOVE_ROUNDS: usize = 32;

/// What went wrong with a cgroup.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error(
        "no cgroup v2 hierarchy is mounted, this machine has cgroup v1 only: boot with systemd.unified_cgroup_hierarchy=1, \
         or run `mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified`"
    )]
    V1Only,
    #[error("{} does not lie in the cgroup v2 hierarchy at {}", path.display(), mount.display())]
    Outside { path: PathBuf, mount: PathBuf },
    #[error("cannot {verb} cgroup {}", path.display())]
    Io { verb: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot read {path}")]
    Proc { path: &'static str, source: io::Error },
}

/// Where the cgroup v2 hierarchy is mounted, as this process sees it.
///
/// # Errors
/// [`CgroupError::V1Only`] on hosts without one.
pub fn find_cgroup2() -> Result<PathBuf, CgroupError> {
    const MOUNTS: &str = "/proc/self/mountinfo";
    let text = fs::read_to_string(MOUNTS).map_err(|source| CgroupError::Proc { path: MOUNTS, source })?;
    cgroup2_of(&text).ok_or(CgroupError::V1Only)
}

/// The mount of the whole hierarchy (root `/`) if there is one; a later mount covers an earlier one.
fn cgroup2_of(mountinfo: &str) -> Option<PathBuf> {
    let mut found = None;
    for line in mountinfo.lines() {
        // 41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw (proc(5)).
        let Some((mount, kind)) = line.split_once(" - ") else { continue };
        if kind.split(' ').next() != Some("cgroup2") {
            continue;
        }
        let mut fields = mount.split(' ').skip(3);
        let (Some(root), Some(point)) = (fields.next(), fields.next()) else { continue };
        if root == "/" || found.is_none() {
            found = Some(PathBuf::from(unescape(point)));
        }
    }
    found
}

/// mountinfo writes space, tab, newline and backslash as three octal digits.
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// The cgroup v2 path of this process, as a path in the file system.
///
/// # Errors
/// No cgroup v2, or an unreadable /proc.
pub fn own() -> Result<PathBuf, CgroupError> {
    const CGROUP: &str = "/proc/self/cgroup";
    let text = fs::read_to_string(CGROUP).map_err(|source| CgroupError::Proc { path: CGROUP, source })?;
    let own = text.lines().find_map(|line| line.strip_prefix("0::")).ok_or(CgroupError::V1Only)?;
    Ok(find_cgroup2()?.join(own.trim_start_matches('/')))
}

/// Makes sure that the cgroup exists.
///
/// # Errors
/// What the kernel refuses, for example a path outside the hierarchy.
pub fn ensure(path: &Path) -> Result<(), CgroupError> {
    let mount = find_cgroup2()?;
    if !path.starts_with(&mount) {
        return Err(CgroupError::Outside { path: path.into(), mount });
    }
    // A parent that was empty a moment ago may be removed by another instance that goes: then it is made again.
    let mut made = fs::create_dir_all(path);
    for _ in 0..CREATE_ROUNDS {
        if !made.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            break;
        }
        made = fs::create_dir_all(path);
    }
    made.map_err(|source| CgroupError::Io { verb: "create", path: path.into(), source })
}

/// The cgroup's id: what `bpf_get_current_cgroup_id` returns, the inode number of its directory.
///
/// # Errors
/// The cgroup does not exist.
pub fn id_of(path: &Path) -> Result<u64, CgroupError> {
    let meta =
        fs::metadata(path).map_err(|source| CgroupError::Io { verb: "open", path: path.into(), source })?;
    Ok(meta.ino())
}

/// The cgroup with this id, if it still exists below `root`.
pub fn find_by_id(root: &Path, id: u64) -> Option<PathBuf> {
    if fs::metadata(root).ok()?.ino() == id {
        return Some(root.into());
    }
    fs::read_dir(root)
        .ok()?
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .find_map(|entry| find_by_id(&entry.path(), id))
}

/// Moves this process, with all its threads, into the cgroup. Sockets it already has keep their old one.
///
/// # Errors
/// What the kernel refuses.
pub fn move_self(path: &Path) -> Result<(), CgroupError> {
    move_pid(path, "0")
}

fn move_pid(path: &Path, pid: &str) -> Result<(), CgroupError> {
    fs::write(path.join(PROCS), pid).map_err(|source| CgroupError::Io {
        verb: "move a process into",
        path: path.into(),
        source,
    })
}

/// Removes the cgroup and everything below it; processes inside move to its parent. Nothing there: nothing to do.
///
/// # Errors
/// What the kernel refuses, also after a few seconds of patience.
pub fn remove(path: &Path) -> Result<(), CgroupError> {
    if !path.exists() {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(path);
    remove_into(path, parent)
}

/// Removes the cgroup if nobody and nothing is in it; otherwise it stays.
///
/// # Errors
/// What the kernel refuses for another reason.
pub fn remove_if_empty(path: &Path) -> Result<(), CgroupError> {
    let in_use = |error: &io::Error| {
        error.kind() == io::ErrorKind::NotFound
            || matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY))
    };
    match fs::remove_dir(path) {
        Err(error) if in_use(&error) => Ok(()),
        other => other.map_err(|source| CgroupError::Io { verb: "remove", path: path.into(), source }),
    }
}

fn remove_into(path: &Path, refuge: &Path) -> Result<(), CgroupError> {
    let failed = |verb| move |source| CgroupError::Io { verb, path: path.to_owned(), source };
    for entry in fs::read_dir(path).map_err(failed("read"))? {
        let entry = entry.map_err(failed("read"))?;
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_into(&entry.path(), refuge)?;
        }
    }
    let deadline = Instant::now() + REMOVE_DEADLINE;
    loop {
        evacuate(path, refuge)?;
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(REMOVE_PAUSE);
            }
            Err(error) => return Err(failed("remove")(error)),
        }
    }
}

/// Moves every member out; a member that ends or forks meanwhile is no error.
fn evacuate(path: &Path, refuge: &Path) -> Result<(), CgroupError> {
    for _ in 0..MOVE_ROUNDS {
        let pids = match fs::read_to_string(path.join(PROCS)) {
            Ok(pids) => pids,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(CgroupError::Io { verb: "read", path: path.into(), source }),
        };
        if pids.is_empty() {
            return Ok(());
        }
        for pid in pids.lines() {
            match move_pid(refuge, pid) {
                Err(CgroupError::Io { source, .. }) if source.raw_os_error() == Some(libc::ESRCH) => {}
                other => other?,
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_of_the_whole_hierarchy_is_found_in_hybrid_and_nested_layouts() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                      32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n\
                      50 31 0:38 /kubepods/pod1 /var/lib/my\\040box rw,relatime master:1 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_of(hybrid), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        let v1 = "32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n";
        assert_eq!(cgroup2_of(v1), None);
        let nested = "50 31 0:38 /kubepods/pod1 /run/my\\040box rw,relatime master:1 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_of(nested), Some(PathBuf::from("/run/my box")));
    }
}
