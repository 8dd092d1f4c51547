//! The kernel's own account of a datapath in the words of the agent's status, for when no agent is there to say it.
//! Pure. Called by status.
use crate::kernel::{KernelStatus, Reason};
use crate::wire::local::{Counter, Datapath, Map, Program};

/// What was read from the pins, as the agent would tell it.
pub(super) fn datapath(kernel: KernelStatus) -> Datapath {
    let removed = || "(removed)".into();
    Datapath {
        abi_version: kernel.abi_version,
        programs: kernel
            .programs
            .iter()
            .map(|program| Program {
                name: program.hook.into(),
                cgroup: program.cgroup.clone().unwrap_or_else(removed),
            })
            .collect(),
        maps: kernel
            .maps
            .iter()
            .filter_map(|map| {
                Some(Map {
                    name: map.name.into(),
                    entries: map.entries? as u64,
                    capacity: map.capacity.into(),
                })
            })
            .collect(),
        counters: Reason::ALL
            .iter()
            .map(|reason| Counter {
                number: reason.number(),
                name: reason.name().into(),
                meaning: reason.sentence().into(),
                count: kernel.counters.get(reason.name()).copied().unwrap_or(0),
            })
            .collect(),
        pins: kernel.pins,
    }
}
