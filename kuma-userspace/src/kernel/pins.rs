//! Where the pins of one instance lie, and what may be done with them. Path arithmetic is pure; a whole new set is built
//! beside the real place and moved there by one rename, so that a crash leaves nothing half-made. Called by loader, links, status.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use kuma_ebpf_common::ABI_VERSION;

use crate::kernel::error::KernelError;
use crate::kernel::hooks::Hook;
use crate::model::instance::Instance;

/// bpffs reserves names with dots, so '-' separates.
const NEW_SUFFIX: &str = "-new";
/// Separates a hook from the id of the proxy cgroup that its link is attached to.
const AT: char = '@';

/// The paths of one set of pins: one instance, one ABI version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pins {
    instance: PathBuf,
    version: PathBuf,
}

/// Which link a pin stands for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct LinkName {
    pub(super) hook: Hook,
    /// The id of the proxy's cgroup; `None`: the workloads' cgroup.
    pub(super) proxy: Option<u64>,
}

impl LinkName {
    pub(super) fn workloads(hook: Hook) -> Self {
        Self { hook, proxy: None }
    }

    pub(super) fn proxy(hook: Hook, cgroup: u64) -> Self {
        Self { hook, proxy: Some(cgroup) }
    }

    fn parse(text: &str) -> Option<Self> {
        let Some((hook, cgroup)) = text.split_once(AT) else { return Hook::named(text).map(Self::workloads) };
        Some(Self::proxy(Hook::named(hook)?, cgroup.parse().ok()?))
    }
}

impl std::fmt::Display for LinkName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.proxy {
            Some(cgroup) => write!(f, "{}{AT}{cgroup}", self.hook.name()),
            None => f.write_str(self.hook.name()),
        }
    }
}

impl Pins {
    /// Where the pins of this instance lie when they are complete.
    pub(super) fn of(instance: &Instance, bpffs: &Path) -> Self {
        let instance = instance.pins(bpffs);
        let version = instance.join(format!("v{ABI_VERSION}"));
        Self { instance, version }
    }

    /// Where a new set is built.
    pub(super) fn under_construction(&self) -> Self {
        let version = self.instance.join(format!("v{ABI_VERSION}{NEW_SUFFIX}"));
        Self { version, ..self.clone() }
    }

    pub(super) fn instance(&self) -> &Path {
        &self.instance
    }

    pub(super) fn version(&self) -> &Path {
        &self.version
    }

    pub(super) fn maps(&self) -> PathBuf {
        self.version.join("maps")
    }

    pub(super) fn links(&self) -> PathBuf {
        self.version.join("links")
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    pub(super) fn link(&self, name: LinkName) -> PathBuf {
        self.links().join(name.to_string())
    }

    /// Where a link is pinned before it takes the place of another.
    pub(super) fn new_link(&self, name: LinkName) -> PathBuf {
        self.links().join(format!("{name}{NEW_SUFFIX}"))
    }

    /// Where a map is pinned that takes the place of another one of smaller or larger capacity.
    pub(super) fn new_map(&self, name: &str) -> PathBuf {
        self.maps().join(format!("{name}{NEW_SUFFIX}"))
    }

    /// Every set of the instance: all ABI versions, and what is left of an unfinished start.
    pub(super) fn sets(&self) -> Result<Vec<Self>, KernelError> {
        let set = |name: String| Self { instance: self.instance.clone(), version: self.instance.join(name) };
        Ok(names(&self.instance)?.into_iter().map(set).collect())
    }

    /// Is there a complete set?
    pub(super) fn exist(&self) -> bool {
        self.version.is_dir()
    }

    /// Creates the directories; they may exist.
    pub(super) fn create(&self) -> Result<(), KernelError> {
        for dir in [self.maps(), self.links()] {
            fs::create_dir_all(&dir).map_err(|source| KernelError::Pin {
                verb: "create",
                path: dir,
                source,
            })?;
        }
        Ok(())
    }

    /// Puts a finished set in its place.
    pub(super) fn publish(&self, finished: &Self) -> Result<(), KernelError> {
        fs::rename(&finished.version, &self.version).map_err(|source| KernelError::Pin {
            verb: "rename",
            path: finished.version.clone(),
            source,
        })
    }

    /// Removes this set; what it held lives on only where somebody else holds it. Returns how many pins there were.
    pub(super) fn remove(&self) -> Result<usize, KernelError> {
        remove_tree(&self.version)
    }

    /// Every link that is pinned, in attach order.
    pub(super) fn pinned_links(&self) -> Result<Vec<LinkName>, KernelError> {
        let mut names: Vec<LinkName> =
            names(&self.links())?.iter().filter_map(|name| LinkName::parse(name)).collect();
        names.sort();
        Ok(names)
    }

    /// Links that a killed process had attached but not yet put in their place.
    pub(super) fn unfinished_links(&self) -> Result<Vec<PathBuf>, KernelError> {
        let unfinished = names(&self.links())?.into_iter().filter(|name| name.ends_with(NEW_SUFFIX));
        Ok(unfinished.map(|name| self.links().join(name)).collect())
    }

    /// Directories of other ABI versions in the instance's directory, and what is left of an unfinished start.
    pub(super) fn others(&self) -> Result<Vec<PathBuf>, KernelError> {
        let own = format!("v{ABI_VERSION}");
        let others =
            names(&self.instance)?.into_iter().filter(|name| *name != own && !name.ends_with(NEW_SUFFIX));
        Ok(others.map(|name| self.instance.join(name)).collect())
    }
}

/// The names in a directory; none if it does not exist.
fn names(dir: &Path) -> Result<Vec<String>, KernelError> {
    let failed = |source| KernelError::Pin { verb: "read", path: dir.into(), source };
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(failed(source)),
    };
    entries.map(|entry| Ok(entry.map_err(failed)?.file_name().to_string_lossy().into_owned())).collect()
}

/// Removes one pin; none there: nothing to do.
pub(super) fn unpin(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(|source| KernelError::Pin { verb: "remove", path: path.into(), source }),
    }
}

/// Removes a directory with everything in it. Returns how many pins were removed.
pub(super) fn remove_tree(dir: &Path) -> Result<usize, KernelError> {
    let mut removed = 0;
    if !dir.exists() {
        return Ok(removed);
    }
    for name in names(dir)? {
        let path = dir.join(name);
        if path.is_dir() {
            removed += remove_tree(&path)?;
        } else {
            unpin(&path)?;
            removed += 1;
        }
    }
    remove_dir(dir)?;
    Ok(removed)
}

/// Removes a directory; none there, or others still use it: nothing to do.
pub(super) fn remove_dir(dir: &Path) -> Result<(), KernelError> {
    match fs::remove_dir(dir) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
            Ok(())
        }
        other => other.map_err(|source| KernelError::Pin { verb: "remove", path: dir.into(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_pin_says_its_hook_and_its_proxy_and_can_be_read_back() {
        for (name, text) in [
            (LinkName::workloads(Hook::Connect4), "connect4"),
            (LinkName::proxy(Hook::Getsockopt, 4711), "getsockopt@4711"),
        ] {
            assert_eq!(name.to_string(), text);
            assert_eq!(LinkName::parse(text), Some(name));
        }
        for foreign in ["connect5", "connect4-new", "getsockopt@", "getsockopt@x"] {
            assert_eq!(LinkName::parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn every_pin_of_an_instance_lies_under_its_abi_version_and_has_no_dot() {
        let pins = Pins::of(&Instance::default(), Path::new("/sys/fs/bpf"));
        let link = pins.link(LinkName::proxy(Hook::Sockops, 12));
        assert_eq!(
            link,
            PathBuf::from(format!("/sys/fs/bpf/kuma-dns/default/v{ABI_VERSION}/links/sock_ops@12"))
        );
        assert!(
            !pins
                .under_construction()
                .new_link(LinkName::workloads(Hook::Connect6))
                .to_string_lossy()
                .contains('.')
        );
    }
}
