//! The kernel side as an object: programs loaded or adopted, attached and pinned; maps as the verbs of [`Datapath`].
//! Keeps: the datapath outlives this process (pins); starting is reconciling; a failure leaves nothing half-attached; two
//! processes never serve one instance. Called by agent/mod.rs and cli; the only room of user space with `unsafe`.
//!
//! Reading order: `hooks` (the programs), `pins` and `lock` (where they live), `preflight` and `probe` (what must and may be
//! there), `loader` (the object), `links` and `proxies` (attaching), `start` (create or adopt), `maps` and `datapath` (the verbs),
//! `status` (looking at it), [`netns`] and [`cgroup`] (what workloads are made of).
//!
//! [`Datapath`]: crate::model::datapath::Datapath

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use serde::Serialize;
use tracing::info;

use crate::model::instance::Instance;

mod btf;
pub mod cgroup;
mod datapath;
mod error;
mod events;
mod hooks;
mod indexes;
mod links;
mod loader;
mod lock;
mod maps;
pub mod netns;
pub mod object;
mod pins;
mod plain;
pub mod preflight;
mod probe;
pub mod process;
mod proxies;
mod source;
mod start;
mod status;
mod sys;
mod whoami;

pub use error::KernelError;
pub use events::{BpfLog, BpfLogError, Events};
pub use hooks::Hook;
pub use kuma_ebpf_common::verdict::Reason;
pub use source::{SourceAddresses, source_addresses};
pub use status::{KernelStatus, MapStatus, PodStatus, ProgramStatus, RunStats};

/// What a datapath needs to know to start.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelConfig {
    pub instance: Instance,
    /// Where the pins lie; mounted if nothing is.
    pub bpffs: PathBuf,
    /// The sockets that are looked at: those of this cgroup and everything below it. Created if it is missing.
    pub workloads_cgroup: PathBuf,
    /// How many VIPs (of one port and family each) fit.
    pub vips_capacity: u32,
    /// Whether the programs write log lines; see [`Kernel::take_events`].
    pub bpf_log: Option<BpfLog>,
}

/// The datapath of one instance, in this process's hands.
pub struct Kernel {
    config: KernelConfig,
    pins: pins::Pins,
    programs: BTreeMap<Hook, OwnedFd>,
    refused: BTreeSet<Hook>,
    features: probe::Features,
    maps: maps::Maps,
    proxies: proxies::Proxies,
    /// The id of the workloads' cgroup that the links are attached to.
    workloads_id: u64,
    events: Option<Events>,
    // Last: pins and lock go when nothing of the above is used any more.
    _lock: lock::InstanceLock,
}

/// What a removal found and took away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Removed {
    pub links: usize,
    pub maps: usize,
}

impl Kernel {
    /// Loads the programs, or adopts what an earlier process has pinned and swaps in our programs without a gap; attaches
    /// everything. What was enrolled and routed stays so.
    ///
    /// # Errors
    /// Each says what is missing or in the way; nothing is left half-attached, and what was there before still runs.
    pub fn open(config: KernelConfig) -> Result<Self, KernelError> {
        start::open(config)
    }

    /// Takes everything of this instance out of the kernel.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn unload(self) -> Result<Removed, KernelError> {
        start::remove_all(&self.pins)
    }

    /// The same for an instance whose agent is not running. Idempotent.
    ///
    /// # Errors
    /// The agent still runs, or what the kernel refuses.
    pub fn remove(instance: &Instance, bpffs: &Path) -> Result<Removed, KernelError> {
        let pins = pins::Pins::of(instance, bpffs);
        if !status::anything(pins.instance()) {
            return Ok(Removed::default());
        }
        let _lock = lock::InstanceLock::take(pins.instance(), instance.name())?;
        let removed = start::remove_all(&pins)?;
        info!(instance = instance.name(), links = removed.links, maps = removed.maps, "removed the datapath");
        Ok(removed)
    }

    /// What is attached where, and how full it is.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn status(&self) -> Result<KernelStatus, KernelError> {
        let mut status = status::inspect(&self.pins)?;
        let lost = self
            .refused
            .iter()
            .map(|hook| format!("this kernel refuses the optional program {}", hook.name()));
        status.features = self.features.in_words().into_iter().chain(lost).collect();
        Ok(status)
    }

    /// The same, read from the pins alone: beside a running agent, or after its death.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn inspect(instance: &Instance, bpffs: &Path) -> Result<KernelStatus, KernelError> {
        status::inspect(&pins::Pins::of(instance, bpffs))
    }

    /// The log of the programs, if `bpf_log` asked for one; the first call takes it.
    pub fn take_events(&mut self) -> Option<Events> {
        self.events.take()
    }

    /// Attaches anew what is missing: because the workloads' cgroup was removed, or somebody took a link away. Returns
    /// whether anything had to be done.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn heal(&mut self) -> Result<bool, KernelError> {
        start::heal(self)
    }
}
