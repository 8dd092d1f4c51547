//! What must be there before anything is loaded: capabilities by name, the kernel's BTF, cgroup v2, a bpffs.
//! Keeps: each failure is one sentence with the next step; a bpffs that is missing is mounted. Called by loader and cli.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use caps::{CapSet, Capability, CapsHashSet};
use rustix::mount::MountFlags;
use rustix::process::{Resource, getrlimit};
use tracing::info;

use crate::kernel::cgroup::{self, CgroupError};
use crate::kernel::sys;

/// The kernel's own types; SK_STORAGE maps need a kernel that has them.
const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";
/// `BPF_FS_MAGIC` of uapi/linux/magic.h.
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// What is missing.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    #[error(
        "missing {missing}: the datapath needs CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or CAP_SYS_ADMIN and \
         CAP_NET_ADMIN: run it as root, or grant them"
    )]
    Capabilities { missing: String },
    #[error("cannot read the capabilities of this process: {0}")]
    Unreadable(String),
    #[error(
        "the kernel refuses bpf(2) although every capability is there: a user namespace, a seccomp filter or lockdown is \
         in the way, run outside of it"
    )]
    Refused(#[source] io::Error),
    #[error(
        "this kernel has no BTF ({VMLINUX_BTF} is missing): use one that is built with CONFIG_DEBUG_INFO_BTF=y, as \
         distributions' are"
    )]
    NoBtf,
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("{} is no bpffs and cannot be made one: run `mount -t bpf bpf {}`", path.display(), path.display())]
    Bpffs { path: PathBuf, source: io::Error },
}

/// Checks everything, and mounts the bpffs where none is.
///
/// # Errors
/// The first thing that is missing.
pub fn check(bpffs: &Path) -> Result<(), PreflightError> {
    let held =
        caps::read(None, CapSet::Effective).map_err(|error| PreflightError::Unreadable(error.to_string()))?;
    if let Some(missing) = missing(&held) {
        return Err(PreflightError::Capabilities { missing });
    }
    // Capabilities of another user namespace look the same from inside; the smallest map tells. Where memlock may be the
    // reason, the load will say so.
    if let Err(source) = sys::map_create(sys::MAP_TYPE_LRU_HASH, 1)
        && !(is_initial_user_namespace() && getrlimit(Resource::Memlock).current.is_some())
    {
        return Err(PreflightError::Refused(source));
    }
    if !Path::new(VMLINUX_BTF).exists() {
        return Err(PreflightError::NoBtf);
    }
    cgroup::find_cgroup2()?;
    ensure_bpffs(bpffs)
}

/// The initial user namespace maps every uid to itself (user_namespaces(7)).
fn is_initial_user_namespace() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The names of what is missing; CAP_SYS_ADMIN stands for CAP_BPF and CAP_PERFMON (capabilities(7)).
fn missing(held: &CapsHashSet) -> Option<String> {
    let covered = |cap| {
        held.contains(&cap) || (cap != Capability::CAP_NET_ADMIN && held.contains(&Capability::CAP_SYS_ADMIN))
    };
    let needed = [Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON];
    let names: Vec<String> =
        needed.into_iter().filter(|cap| !covered(*cap)).map(|cap| cap.to_string()).collect();
    (!names.is_empty()).then(|| names.join(" and "))
}

fn ensure_bpffs(path: &Path) -> Result<(), PreflightError> {
    if is_bpffs(path) {
        return Ok(());
    }
    let failed = |source| PreflightError::Bpffs { path: path.into(), source };
    fs::create_dir_all(path).map_err(failed)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("bpf", path, "bpf", flags, Some(c"mode=0700"))
        .map_err(|errno| failed(errno.into()))?;
    info!(path = %path.display(), "mounted a bpffs");
    Ok(())
}

/// Is a bpffs mounted here, or above?
pub(super) fn is_bpffs(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type as u64 == BPF_FS_MAGIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sys_admin_stands_for_bpf_and_perfmon_but_not_for_net_admin() {
        let set = |caps: &[Capability]| caps.iter().copied().collect::<CapsHashSet>();
        assert_eq!(
            missing(&set(&[Capability::CAP_BPF, Capability::CAP_NET_ADMIN, Capability::CAP_PERFMON])),
            None
        );
        assert_eq!(missing(&set(&[Capability::CAP_SYS_ADMIN, Capability::CAP_NET_ADMIN])), None);
        assert_eq!(missing(&set(&[Capability::CAP_SYS_ADMIN])).as_deref(), Some("CAP_NET_ADMIN"));
        assert_eq!(missing(&set(&[Capability::CAP_NET_ADMIN])).as_deref(), Some("CAP_BPF and CAP_PERFMON"));
    }
}
