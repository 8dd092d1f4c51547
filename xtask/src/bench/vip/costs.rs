//! What each BPF program costs per run, and how often it runs per connection. Keeps: the kernel counts only during this
//! pass, because counting costs some 70 ns per run. Called by vip.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use super::super::figures::ProgramCost;
use super::Stage;
use super::scenario::SCENARIOS;
use super::variant::VARIANTS;

/// Connections of this pass.
const CONNECTIONS: u32 = 2000;

pub(super) fn measure(stage: &mut Stage) -> Result<Vec<ProgramCost>> {
    let scenario = SCENARIOS.iter().find(|scenario| scenario.is_new_connections());
    let scenario = scenario.context("one scenario is about new connections")?;
    let _counting = Counting::on()?;
    let mut costs = Vec::new();
    for variant in VARIANTS.iter().filter(|variant| variant.is_ours()) {
        let before = stage.routes.runs()?;
        stage.measure(scenario, variant, CONNECTIONS)?;
        for (program, after) in stage.routes.runs()? {
            let before = before.get(&program).copied().unwrap_or_default();
            let (count, nanos) = (after.count - before.count, after.total_ns - before.total_ns);
            if count > 0 {
                costs.push(ProgramCost {
                    variant: variant.name,
                    program,
                    nanos_per_run: nanos as f64 / count as f64,
                    runs_per_connection: count as f64 / f64::from(CONNECTIONS),
                });
            }
        }
    }
    Ok(costs)
}

/// The kernel's switch for counting, put back on drop.
struct Counting {
    file: PathBuf,
    before: String,
}

impl Counting {
    fn on() -> Result<Self> {
        let file = PathBuf::from("/proc/sys/kernel/bpf_stats_enabled");
        let before = std::fs::read_to_string(&file).context("cannot read bpf_stats_enabled")?;
        std::fs::write(&file, "1").context("cannot switch on bpf_stats_enabled")?;
        Ok(Self { file, before })
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        if let Err(error) = std::fs::write(&self.file, self.before.trim()) {
            eprintln!("cannot put {} back to {}: {error}", self.file.display(), self.before.trim());
        }
    }
}
