//! Where one instance of kuma-dns keeps its things. Pure path arithmetic: nothing is opened here.
//! Keeps: two instances on one machine never share a path. Called by agent, cli and kernel.

use std::path::{Path, PathBuf};

/// Longest instance name: it is part of socket paths, which the kernel limits to 107 bytes (unix(7)).
pub const MAX_INSTANCE_BYTES: usize = 32;

/// A name that keeps sockets, pins, cgroups and state of several instances apart.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Instance(String);

/// Why a text is no instance name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "instance name {0:?} is not usable: take 1 to {MAX_INSTANCE_BYTES} of a-z, 0-9 and '-', beginning with a letter or digit"
)]
pub struct InstanceError(String);

impl std::str::FromStr for Instance {
    type Err = InstanceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let fits = (1..=MAX_INSTANCE_BYTES).contains(&text.len()) && !text.starts_with('-');
        if fits && text.bytes().all(allowed) {
            Ok(Self(text.into()))
        } else {
            Err(InstanceError(text.into()))
        }
    }
}

impl Default for Instance {
    fn default() -> Self {
        Self("default".into())
    }
}

impl std::fmt::Display for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Instance {
    /// The name itself.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Pins of all ABI versions of this instance; one version lies in `v<ABI_VERSION>` below.
    pub fn pins(&self, bpffs: &Path) -> PathBuf {
        bpffs.join("kuma-dns").join(&self.0)
    }

    /// The agent's socket, for `exec`, `status`, `vips` and the CNI plugin.
    pub fn socket(&self, run_dir: &Path) -> PathBuf {
        run_dir.join("kuma-dns").join(&self.0).join("agent.sock")
    }

    /// The state on disk.
    pub fn data(&self, data_dir: &Path) -> PathBuf {
        data_dir.join(&self.0)
    }

    /// The last view that the agent had, for its next start.
    pub fn view(&self, data_dir: &Path) -> PathBuf {
        self.data(data_dir).join("view")
    }

    /// The cgroup that holds everything of this instance.
    pub fn cgroup(&self, cgroup2: &Path) -> PathBuf {
        cgroup2.join("kuma-dns").join(&self.0)
    }

    /// The cgroup whose sockets are looked at: `exec` runs its commands here.
    pub fn workloads_cgroup(&self, cgroup2: &Path) -> PathBuf {
        self.cgroup(cgroup2).join("workloads")
    }

    /// The cgroup of the proxy: its own traffic is never redirected.
    pub fn proxy_cgroup(&self, cgroup2: &Path) -> PathBuf {
        self.cgroup(cgroup2).join("proxy")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_name_cannot_leave_its_directory() {
        for bad in ["", ".", "..", "a/b", "A", "-x", &"a".repeat(33)] {
            assert!(bad.parse::<Instance>().is_err(), "{bad:?}");
        }
        let demo: Instance = "demo-1".parse().unwrap();
        assert_eq!(demo.socket(Path::new("/run")), Path::new("/run/kuma-dns/demo-1/agent.sock"));
        assert_eq!(demo.pins(Path::new("/sys/fs/bpf")), Path::new("/sys/fs/bpf/kuma-dns/demo-1"));
    }
}
