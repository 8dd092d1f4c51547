//! The cgroups of proxies: getsockopt and the accept side of sockops are attached there, and only while a pod points there.
//! Keeps: attached before the first pod, detached after the last. Called by mod and datapath.rs.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::kernel::error::KernelError;
use crate::kernel::hooks::{Hook, Place};
use crate::kernel::links::{self, Target, Transaction};
use crate::kernel::pins::{LinkName, Pins};
use crate::model::datapath::NetnsCookie;

/// Which pods each proxy cgroup serves, by cgroup id.
#[derive(Debug, Default)]
pub(super) struct Proxies(BTreeMap<u64, Served>);

/// One proxy's cgroup: where it was when its first pod came, and its pods.
#[derive(Debug)]
struct Served {
    path: PathBuf,
    pods: BTreeSet<NetnsCookie>,
}

impl Proxies {
    /// Remembers that this proxy serves this pod, and returns the proxy that served it before and now serves nobody.
    pub(super) fn assign(&mut self, cgroup: u64, path: &Path, pod: NetnsCookie) -> Option<u64> {
        let left = self.owner(pod).filter(|before| *before != cgroup);
        let idle = left.and_then(|before| self.leave(before, pod));
        let served =
            self.0.entry(cgroup).or_insert_with(|| Served { path: path.into(), pods: BTreeSet::new() });
        served.pods.insert(pod);
        idle
    }

    /// Forgets the pod, and returns the proxy that now serves nobody.
    pub(super) fn remove(&mut self, pod: NetnsCookie) -> Option<u64> {
        self.owner(pod).and_then(|cgroup| self.leave(cgroup, pod))
    }

    /// Does this proxy serve anybody?
    pub(super) fn serves(&self, cgroup: u64) -> bool {
        self.0.contains_key(&cgroup)
    }

    /// Every proxy cgroup that is still there, opened. One that was removed waits for its pods to be enrolled again.
    pub(super) fn living(&self) -> Vec<Target> {
        let open =
            |(id, served): (&u64, &Served)| Target::open(&served.path).ok().filter(|target| target.id == *id);
        self.0.iter().filter_map(open).collect()
    }

    fn owner(&self, pod: NetnsCookie) -> Option<u64> {
        self.0.iter().find(|(_cgroup, served)| served.pods.contains(&pod)).map(|(cgroup, _served)| *cgroup)
    }

    fn leave(&mut self, cgroup: u64, pod: NetnsCookie) -> Option<u64> {
        let served = self.0.get_mut(&cgroup)?;
        served.pods.remove(&pod);
        if !served.pods.is_empty() {
            return None;
        }
        self.0.remove(&cgroup);
        Some(cgroup)
    }
}

/// The hooks of a proxy's cgroup, in attach order. Below the workloads' cgroup sockops is there already.
fn hooks(proxy: &Path, workloads: &Path) -> impl Iterator<Item = Hook> {
    let covered = proxy.starts_with(workloads);
    Hook::ALL.into_iter().filter(move |hook| match hook.place() {
        Place::Proxies => true,
        Place::Both => !covered,
        Place::Workloads => false,
    })
}

/// Attaches to a proxy's cgroup whatever is not there yet, and swaps in the programs where it is.
pub(super) fn attach(
    transaction: &mut Transaction,
    pins: &Pins,
    programs: &BTreeMap<Hook, OwnedFd>,
    proxy: &Target,
    workloads: &Path,
) -> Result<(), KernelError> {
    for hook in hooks(&proxy.path, workloads) {
        if let Some(program) = programs.get(&hook) {
            transaction.ensure(pins, LinkName::proxy(hook, proxy.id), program, proxy)?;
        }
    }
    Ok(())
}

/// Is everything attached that belongs on a proxy's cgroup? One that was removed has nothing to attach to.
pub(super) fn is_intact(
    pins: &Pins,
    programs: &BTreeMap<Hook, OwnedFd>,
    proxy: &Target,
    workloads: &Path,
) -> Result<bool, KernelError> {
    for hook in hooks(&proxy.path, workloads).filter(|hook| programs.contains_key(hook)) {
        if !links::is_intact(pins, LinkName::proxy(hook, proxy.id), proxy.id)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Takes everything off a proxy's cgroup, in reverse order.
pub(super) fn detach(pins: &Pins, cgroup: u64) -> Result<(), KernelError> {
    for hook in Hook::ALL.into_iter().rev().filter(|hook| hook.place() != Place::Workloads) {
        links::detach(pins, LinkName::proxy(hook, cgroup))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_left_when_its_last_pod_goes() {
        let mut proxies = Proxies::default();
        let (first, second) = (NetnsCookie(1), NetnsCookie(2));
        let mut assign = |cgroup, pod| proxies.assign(cgroup, Path::new("/cg"), pod);
        assert_eq!([assign(10, first), assign(10, second), assign(10, first)], [None; 3]);
        assert_eq!(proxies.remove(first), None);
        assert_eq!(
            proxies.assign(11, Path::new("/cg"), second),
            Some(10),
            "a pod that moves leaves its old proxy"
        );
        assert_eq!(proxies.remove(second), Some(11));
        assert_eq!(proxies.remove(second), None);
    }

    #[test]
    fn a_proxy_below_the_workloads_needs_no_second_sockops() {
        let of = |proxy: &str| hooks(Path::new(proxy), Path::new("/cg/workloads")).collect::<Vec<_>>();
        assert_eq!(of("/cg/proxy"), [Hook::Getsockopt, Hook::Bind6, Hook::Sockops]);
        assert_eq!(of("/cg/workloads/pod/envoy"), [Hook::Getsockopt, Hook::Bind6]);
        assert_eq!(of("/cg/workloads"), [Hook::Getsockopt, Hook::Bind6]);
    }
}
