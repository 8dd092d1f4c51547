//! Cgroups that are removed with their guard, also when a test panics; whoever is still inside moves to the parent.
//! Keeps: names are unique per process. Called by datapath and by tests.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use kuma_dns::kernel::cgroup;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A name that no other test process and no other test has: `t<pid>-<n>`.
pub fn unique_name() -> String {
    format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A cgroup that is removed, with everything below it, when it is dropped.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// A new one with a unique name, below the root of the v2 hierarchy.
    ///
    /// # Errors
    /// No cgroup v2, or not root.
    pub fn new() -> anyhow::Result<Self> {
        Self::at(cgroup::find_cgroup2()?.join(format!("kuma-dns-{}", unique_name())))
    }

    /// One with this path.
    ///
    /// # Errors
    /// Outside of the hierarchy, or not root.
    pub fn at(path: PathBuf) -> anyhow::Result<Self> {
        cgroup::ensure(&path)?;
        Ok(Self { path })
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A cgroup below; it goes with this one.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn child(&self, name: &str) -> anyhow::Result<PathBuf> {
        let child = self.path.join(name);
        cgroup::ensure(&child)?;
        Ok(child)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let parent = self.path.parent().unwrap_or(&self.path);
        if let Err(error) = cgroup::remove(&self.path).and_then(|()| cgroup::remove_if_empty(parent)) {
            eprintln!("{}: {error}", self.path.display());
        }
    }
}
