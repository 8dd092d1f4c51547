//! What a world of the datapath is made of, and how it is made. Keeps: routes are there before the world is handed over.
//! Called by World::builder.

use kuma_dns::kernel::{BpfLog, Kernel, KernelConfig, KernelError, cgroup};
use kuma_dns::model::datapath::Datapath;
use kuma_dns::model::instance::Instance;
use kuma_dns::model::view::Route;

use super::{BPFFS, PodWorld, World, route};
use crate::cgroup::{Cgroup, unique_name};
use crate::netns::{Netns, VIP_RANGES};

/// Small maps: tests make many worlds.
const VIPS_CAPACITY: u32 = 1_024;

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Builder {
    pub(super) pods: u8,
    pub(super) routes: Vec<Route>,
    pub(super) uplink: bool,
    pub(super) proxies_below_workloads: bool,
    pub(super) proxy_uid: Option<u32>,
    pub(super) vips_capacity: u32,
    pub(super) bpf_log: Option<BpfLog>,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            pods: 1,
            routes: Vec::new(),
            uplink: false,
            proxies_below_workloads: false,
            proxy_uid: None,
            vips_capacity: VIPS_CAPACITY,
            bpf_log: None,
        }
    }
}

impl Builder {
    /// How many pods; one unless said otherwise.
    #[must_use]
    pub fn pods(self, pods: u8) -> Self {
        Self { pods, ..self }
    }

    /// Routes of every pod's view: `240.0.0.1:80`, `[fd00:fd00::1]:80`.
    ///
    /// # Panics
    /// When a text is no address and port.
    #[must_use]
    pub fn vips(mut self, vips: &[&str]) -> Self {
        self.routes.extend(vips.iter().map(|vip| route(vip)));
        self
    }

    /// Each pod gets an interface eth0, with a default route, to a common neighbour; without it, its addresses are on lo.
    #[must_use]
    pub fn uplink(self) -> Self {
        Self { uplink: true, ..self }
    }

    /// Proxies lie below the workloads' cgroup, as sidecars do.
    #[must_use]
    pub fn proxies_below_workloads(self) -> Self {
        Self { proxies_below_workloads: true, ..self }
    }

    /// Proxies are recognised by this uid, within the workloads' cgroup.
    #[must_use]
    pub fn proxy_uid(self, uid: u32) -> Self {
        Self { proxy_uid: Some(uid), proxies_below_workloads: true, ..self }
    }

    /// How many VIPs fit.
    #[must_use]
    pub fn vips_capacity(self, vips_capacity: u32) -> Self {
        Self { vips_capacity, ..self }
    }

    /// Lets the programs write log lines.
    #[must_use]
    pub fn bpf_log(self, level: BpfLog) -> Self {
        Self { bpf_log: Some(level), ..self }
    }

    /// Loads the datapath, makes the pods, enrols them, and waits until their stand-ins listen.
    ///
    /// # Errors
    /// What this machine lacks.
    pub fn build(self) -> anyhow::Result<World> {
        let instance: Instance = unique_name().parse()?;
        let cgroup2 = cgroup::find_cgroup2()?;
        let root = Cgroup::at(instance.cgroup(&cgroup2))?;
        let config = KernelConfig {
            workloads_cgroup: instance.workloads_cgroup(&cgroup2),
            instance,
            bpffs: BPFFS.into(),
            vips_capacity: self.vips_capacity,
            bpf_log: self.bpf_log,
        };
        let kernel = Some(Kernel::open(config.clone()).inspect_err(show_verifier_log)?);
        let neighbour = if self.uplink { Some(Netns::new()?) } else { None };
        let mut world = World { pods: Vec::new(), config, kernel, root, neighbour };
        let ranges: Vec<_> = VIP_RANGES
            .iter()
            .map(|(net, prefix)| format!("{net}/{prefix}").parse())
            .collect::<Result<_, _>>()?;
        world.kernel().set_ranges(&ranges)?;
        for number in 0..self.pods {
            let pod = PodWorld::new(&self, number, &world)?;
            world.pods.push(pod);
            // As the agent does: first the hooks at the proxy's cgroup, then the proxy.
            world.enrol(number.into())?;
            world.pods[usize::from(number)].start_stand_ins()?;
            for route in &self.routes {
                let view = world.pods[usize::from(number)].view;
                world.kernel().add_route(view, *route)?;
            }
        }
        Ok(world)
    }
}

/// A developer wants to see what the verifier said.
fn show_verifier_log(error: &KernelError) {
    if let KernelError::Load { program, log, .. } = error {
        eprintln!("the verifier on {program}:\n{log}");
    }
}
