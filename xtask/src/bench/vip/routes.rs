//! The datapath under test, held by a process of the harness (`tests/src/bin/vip-routes.rs`), which gives it routes by
//! hand. Keeps: it leaves the kernel when that process ends. Called by vip and costs.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Deserialize;

use super::super::process::Process;
use super::place::Cgroups;
use super::variant::{OUTBOUND_PORT, VIP_PORT, VIP4, VIP6};
use super::world::World;

/// Loading and attaching takes about a second; a busy machine needs more.
const START: Duration = Duration::from_secs(60);

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(10);

/// The process that holds the datapath.
pub(super) struct Routes(Process);

/// How often a program ran, and for how long altogether.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Deserialize)]
pub(super) struct Runs {
    pub(super) count: u64,
    pub(super) total_ns: u64,
}

impl Routes {
    /// Loads the datapath at the workloads' cgroup and enrols the namespaces.
    pub(super) fn open<'a>(
        program: &Path,
        cgroups: &Cgroups,
        worlds: impl Iterator<Item = &'a World>,
    ) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg(format!("bench-{}", std::process::id()));
        command.arg(&cgroups.workloads).arg(&cgroups.proxy).arg(OUTBOUND_PORT.to_string());
        command.arg(format!("{VIP4}:{VIP_PORT},[{VIP6}]:{VIP_PORT}"));
        command.args(worlds.map(World::netns));
        let process = Process::hold("vip-routes", &mut command)?;
        process.line(START)?;
        Ok(Self(process))
    }

    /// What every program has cost so far, by hook. Zero while the kernel does not count.
    pub(super) fn runs(&mut self) -> Result<BTreeMap<String, Runs>> {
        let line = self.0.ask("runs", ANSWER)?;
        serde_json::from_str(&line).with_context(|| format!("vip-routes said {line:?}"))
    }

    /// Takes the datapath out of the kernel.
    pub(super) fn close(self) -> Result<()> {
        self.0.finish()
    }
}
