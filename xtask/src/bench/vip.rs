//! `cargo xtask bench vip`: what the way through a virtual IP costs beside a direct connection, iptables and nft.
//! Keeps: each variant lives in a network namespace of its own; variants are measured in shuffled order within every
//! round, client and server on one CPU; BPF run times are taken in a pass of their own, for counting them costs.
//! Called by bench.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use xtask::target;

use self::place::{Cgroups, Cpu};
use self::routes::Routes;
use self::scenario::{SCENARIOS, Scenario};
use self::variant::{VARIANTS, Variant};
use self::world::{Proxy, World};
use super::Effort;
use super::figures::{Figure, Report, Sample};
use crate::setup::{self, Part};
use crate::{artifacts, ebpf};

mod costs;
mod envoy;
mod place;
mod routes;
mod scenario;
mod variant;
mod world;

/// How long one measurement may take.
const MEASUREMENT: Duration = Duration::from_secs(60);

/// Programs that a run needs.
struct Tools {
    load: PathBuf,
    routes: PathBuf,
    envoy: PathBuf,
}

/// Everything that stands while it is measured. Dropped in this order: processes before their cgroups.
struct Stage {
    worlds: Vec<World>,
    routes: Routes,
    cgroups: Cgroups,
    cpu: Cpu,
    tools: Tools,
}

type Samples = BTreeMap<(&'static str, &'static str), Vec<Sample>>;

pub(super) fn run(effort: Effort) -> Result<Report> {
    let tools = Tools::build()?;
    let mut stage = Stage::set(tools)?;
    let rounds = match effort {
        Effort::Full => 40,
        Effort::Quick => 13,
    };
    let mut samples = Samples::new();
    let mut order = Order::new();
    for round in 0..rounds {
        if std::io::stderr().is_terminal() {
            eprint!("\rround {} of {rounds}  ", round + 1);
        }
        for scenario in order.shuffled(SCENARIOS) {
            for variant in order.shuffled(VARIANTS) {
                let nanos = stage.measure(scenario, variant, scenario.count)?;
                samples.entry((scenario.name, variant.name)).or_default().push(Sample { round, nanos });
            }
        }
    }
    let costs = costs::measure(&mut stage)?;
    let mut report = Report::new("vip", rounds, figures(&samples), costs);
    report.conditions = vec![
        format!("client and server on CPU {}", stage.cpu.number),
        stage.cpu.class().to_owned(),
        "ratios within one round".to_owned(),
    ];
    stage.clear()?;
    Ok(report)
}

fn figures(samples: &Samples) -> Vec<Figure> {
    let mut figures = Vec::new();
    for scenario in SCENARIOS {
        for variant in VARIANTS {
            let of = |name| samples.get(&(scenario.name, name)).map_or(&[][..], Vec::as_slice);
            let names = (scenario.name, variant.name, variant.baseline);
            let goal = scenario.goal(variant);
            figures.extend(Figure::new(names, of(variant.name), of(variant.baseline), goal));
        }
    }
    figures
}

impl Tools {
    fn build() -> Result<Self> {
        setup::ensure(&[Part::Bpf, Part::Envoy, Part::Clients])?;
        ebpf::run(ebpf::Args {})?;
        let own = format!("--target-dir={}", target().join("bench").display());
        // The load generator is small and built for speed; what sets the routes only talks to the kernel.
        let mut built = artifacts::build(&["--release", "--package=vip-load", &own])?;
        built.extend(artifacts::build(&["--bin=vip-routes"])?);
        let find = |name: &str| {
            let artifact = built.iter().find(|artifact| artifact.target.name == name);
            let path = artifact.and_then(|artifact| artifact.executable.clone());
            path.map(PathBuf::from).with_context(|| format!("cargo built no {name}"))
        };
        let envoy = setup::envoy().context("no Envoy")?;
        Ok(Self { load: find("vip-load")?, routes: find("vip-routes")?, envoy })
    }
}

impl Stage {
    /// Namespaces first, then the routes that name them, then the servers.
    fn set(tools: Tools) -> Result<Self> {
        let cgroups = Cgroups::make()?;
        let cpu = Cpu::choose()?;
        let mut worlds = Vec::new();
        for proxy in [Proxy::Echo, Proxy::Envoy] {
            for variant in VARIANTS {
                worlds.push(World::make(variant, proxy)?);
            }
        }
        let ours = worlds.iter().filter(|world| world.variant.is_ours());
        let routes = Routes::open(&tools.routes, &cgroups, ours)?;
        let mut stage = Self { worlds, routes, cgroups, cpu, tools };
        for world in &mut stage.worlds {
            world.start(&stage.tools, &stage.cgroups, &stage.cpu)?;
        }
        Ok(stage)
    }

    /// The median of one process's operations, in nanoseconds.
    fn measure(&self, scenario: &Scenario, variant: &Variant, count: u32) -> Result<f64> {
        let same = |world: &&World| world.variant.name == variant.name && world.proxy == scenario.proxy;
        let world = self.worlds.iter().find(same).context("every variant has its worlds")?;
        let words = scenario.words(world.target(), count);
        let text = world.run_client(&self.tools.load, &words, &self.cgroups, &self.cpu, MEASUREMENT);
        let text = text.with_context(|| format!("{}, {}", scenario.name, variant.name))?;
        text.parse().with_context(|| format!("vip-load printed {text:?}"))
    }

    /// Takes the datapath out of the kernel before the processes and cgroups go.
    fn clear(self) -> Result<()> {
        let Self { worlds, routes, cgroups, .. } = self;
        routes.close()?;
        drop(worlds);
        cgroups.remove()
    }
}

/// A different order in every round, so that no variant is always first after another.
struct Order(u64);

impl Order {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(u64::from(now.subsec_nanos()) | 1)
    }

    /// Marsaglia's xorshift64.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// Fisher and Yates.
    fn shuffled<T>(&mut self, items: &'static [T]) -> Vec<&'static T> {
        let mut items: Vec<&T> = items.iter().collect();
        for last in (1..items.len()).rev() {
            let other = self.next() % (last as u64 + 1);
            items.swap(last, usize::try_from(other).expect("smaller than the length"));
        }
        items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffled_round_measures_every_variant_once() {
        let mut order = Order::new();
        for _ in 0..100 {
            let mut names: Vec<&str> = order.shuffled(VARIANTS).iter().map(|variant| variant.name).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), VARIANTS.len());
        }
    }

    #[test]
    fn every_baseline_is_a_variant_of_the_same_family() {
        for variant in VARIANTS {
            let baseline = VARIANTS.iter().find(|other| other.name == variant.baseline).unwrap();
            assert_eq!(baseline.target(Proxy::Echo).is_ipv4(), variant.target(Proxy::Echo).is_ipv4());
        }
    }
}
