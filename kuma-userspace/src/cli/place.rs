//! Moves this process to where the agent's workloads live. Keeps: the namespace first, then the cgroup; a caller whose mounts
//! hide the cgroups (`ip netns exec`, a container) reaches them through the agent's root. Called by exec.

use std::path::{Path, PathBuf};

use anyhow::anyhow;

use crate::kernel::{cgroup, netns};

use super::outcome::{Code, Failure, OrExit};
use crate::wire::local::Enrolment;

/// As what the command runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    Workload,
    Proxy,
}

/// Enters the agent's network namespace and one of its cgroups.
pub(super) fn enter(inside: &Enrolment, role: Role) -> Result<(), Failure> {
    netns::enter(&inside.netns).or_exit(Code::NotSupported)?;
    let wanted = match role {
        Role::Workload => &inside.workloads_cgroup,
        Role::Proxy => &inside.proxy_cgroup,
    };
    let Some(path) = reachable(wanted, inside.pid) else {
        let missing = anyhow!(
            "cgroup {} of the agent (pid {}) is not visible here: run this in the agent's mount namespace, or restart the agent",
            wanted.display(),
            inside.pid
        );
        return Err(Failure::new(Code::Failed, missing));
    };
    cgroup::move_self(&path).or_exit(Code::NotSupported)
}

/// The cgroup as this process sees it.
fn reachable(cgroup: &Path, agent: u32) -> Option<PathBuf> {
    let through_agent =
        PathBuf::from(format!("/proc/{agent}/root")).join(cgroup.strip_prefix("/").unwrap_or(cgroup));
    [cgroup.to_owned(), through_agent].into_iter().find(|path| path.join("cgroup.procs").exists())
}
