//! A world at the level of the datapath: a loaded [`Kernel`], pods (a namespace, a view, a stand-in proxy and resolver each),
//! and applications that run inside a pod's namespace and the workloads' cgroup. Keeps: everything is gone when the world is,
//! also when a test panics. Called by tests of sockets and of the life cycle, and by benches.

use std::ffi::OsStr;
use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use kuma_dns::kernel::{BpfLog, Kernel, KernelConfig, KernelError, cgroup};
use kuma_dns::model::datapath::{Datapath, Pod, ProxyIdentity};
use kuma_dns::model::instance::Instance;
use kuma_dns::model::view::{Route, ViewId};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cgroup::{Cgroup, unique_name};
use crate::fork::{Job, Place};
use crate::netlink::Via;
use crate::netns::{Netns, UPLINK, VIP_RANGES};
use crate::proxy::{self, Ports};
use crate::wait::wait_until;

/// Where product code pins by default.
pub const BPFFS: &str = "/sys/fs/bpf";
/// Small maps: tests make many worlds.
const VIPS_CAPACITY: u32 = 1_024;
/// How long a stand-in may take to listen.
const LISTEN_SECS: u64 = 20;
/// How long a connection to a stand-in may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Builder {
    pods: u8,
    routes: Vec<Route>,
    uplink: bool,
    proxies_below_workloads: bool,
    proxy_uid: Option<u32>,
    vips_capacity: u32,
    bpf_log: Option<BpfLog>,
}

/// One pod of a world.
pub struct PodWorld {
    pub netns: Netns,
    pub view: ViewId,
    pub proxy_cgroup: PathBuf,
    pub ports: Ports,
    pub addr4: Ipv4Addr,
    pub addr6: Ipv6Addr,
    stand_ins: Option<Job<()>>,
    identity: ProxyIdentity,
}

/// A loaded datapath and its pods.
pub struct World {
    pods: Vec<PodWorld>,
    config: KernelConfig,
    kernel: Option<Kernel>,
    // Last: cgroups go when everybody is out.
    root: Cgroup,
    neighbour: Option<Netns>,
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
            let pod = world.make_pod(&self, number)?;
            world.pods.push(pod);
            world.enrol(number.into())?;
            for route in &self.routes {
                let view = world.pods[usize::from(number)].view;
                world.kernel().add_route(view, *route)?;
            }
        }
        Ok(world)
    }
}

impl World {
    /// A world with one pod, no VIP and no uplink; the builder says more.
    pub fn builder() -> Builder {
        Builder {
            pods: 1,
            routes: Vec::new(),
            uplink: false,
            proxies_below_workloads: false,
            proxy_uid: None,
            vips_capacity: VIPS_CAPACITY,
            bpf_log: None,
        }
    }

    /// The datapath.
    ///
    /// # Panics
    /// After [`World::lose_kernel`].
    pub fn kernel(&mut self) -> &mut Kernel {
        self.kernel.as_mut().expect("the datapath is open")
    }

    /// Forgets the datapath as a crash would: what is pinned stays.
    pub fn lose_kernel(&mut self) {
        self.kernel = None;
    }

    /// Opens the datapath again: adopts what is pinned.
    ///
    /// # Errors
    /// What [`Kernel::open`] says.
    pub fn reopen_kernel(&mut self) -> anyhow::Result<&mut Kernel> {
        self.kernel = None;
        Ok(self.kernel.insert(Kernel::open(self.config.clone())?))
    }

    /// The same with room for another number of VIPs.
    ///
    /// # Errors
    /// What [`Kernel::open`] says.
    pub fn reopen_kernel_with_capacity(&mut self, vips_capacity: u32) -> anyhow::Result<&mut Kernel> {
        self.kernel = None;
        let config = KernelConfig { vips_capacity, ..self.config.clone() };
        Ok(self.kernel.insert(Kernel::open(config)?))
    }

    /// Takes the datapath out, to unload it.
    ///
    /// # Panics
    /// After [`World::lose_kernel`].
    pub fn take_kernel(&mut self) -> Kernel {
        self.kernel.take().expect("the datapath is open")
    }

    /// What the datapath was opened with.
    pub fn config(&self) -> &KernelConfig {
        &self.config
    }

    /// The pod with this number.
    pub fn pod(&self, pod: usize) -> &PodWorld {
        &self.pods[pod]
    }

    /// The namespace at the other end of every uplink: 10.77.N.1 and fd77:0:0:N::1 towards pod N.
    pub fn neighbour(&self) -> Option<&Netns> {
        self.neighbour.as_ref()
    }

    /// The cgroup of everything in this world.
    pub fn cgroup(&self) -> &Path {
        self.root.path()
    }

    /// Enrols a pod (again).
    ///
    /// # Errors
    /// What the datapath says.
    pub fn enrol(&mut self, pod: usize) -> anyhow::Result<()> {
        let entry = self.pods[pod].entry();
        Ok(self.kernel().enrol(&entry)?)
    }

    /// Ends a pod's stand-ins, as if its proxy had crashed.
    pub fn stop_stand_ins(&mut self, pod: usize) {
        self.pods[pod].stand_ins = None;
    }

    /// The pod's stand-ins crash, their cgroup is removed, and they come back in a new one with the same name.
    ///
    /// # Errors
    /// What this machine lacks.
    pub fn restart_stand_ins(&mut self, pod: usize) -> anyhow::Result<()> {
        let pod = &mut self.pods[pod];
        pod.stand_ins = None;
        cgroup::remove(&pod.proxy_cgroup)?;
        cgroup::ensure(&pod.proxy_cgroup)?;
        pod.start_stand_ins(None)
    }

    /// Runs `job` as an application of the pod and returns what it returned. It has a process of its own in the workloads'
    /// cgroup and the pod's namespace, and none of the files that this process has open.
    ///
    /// # Panics
    /// When the job does: with its message.
    #[track_caller]
    pub fn app<T: Serialize + DeserializeOwned>(&self, pod: usize, job: impl FnOnce() -> T) -> T {
        self.start_app(pod, job).join()
    }

    /// The same, while the test goes on.
    ///
    /// # Panics
    /// When no process can be made.
    pub fn start_app<T: Serialize + DeserializeOwned>(&self, pod: usize, job: impl FnOnce() -> T) -> Job<T> {
        self.start_in(&self.config.workloads_cgroup, pod, job)
    }

    /// Runs `job` as the proxy of the pod.
    ///
    /// # Panics
    /// When the job does: with its message.
    #[track_caller]
    pub fn as_proxy<T: Serialize + DeserializeOwned>(&self, pod: usize, job: impl FnOnce() -> T) -> T {
        self.start_in(&self.pods[pod].proxy_cgroup, pod, job).join()
    }

    /// Runs `job` in the pod's namespace but in a cgroup that nobody looks at.
    ///
    /// # Panics
    /// When the job does: with its message.
    #[track_caller]
    pub fn as_stranger<T: Serialize + DeserializeOwned>(&self, pod: usize, job: impl FnOnce() -> T) -> T {
        self.start_in(self.root.path(), pod, job).join()
    }

    fn start_in<T: Serialize + DeserializeOwned>(
        &self,
        cgroup: &Path,
        pod: usize,
        job: impl FnOnce() -> T,
    ) -> Job<T> {
        let place = Place { cgroup, netns: self.pods[pod].netns.as_fd() };
        Job::start(&place, job).expect("a process can be made")
    }

    /// A command that will run as an application of the pod.
    ///
    /// # Panics
    /// When the workloads' cgroup is gone.
    pub fn command(&self, pod: usize, program: impl AsRef<OsStr>) -> Command {
        let procs = self.config.workloads_cgroup.join("cgroup.procs");
        let procs = File::options().write(true).open(procs).expect("the workloads' cgroup exists");
        let netns = self.pods[pod].netns.as_fd().try_clone_to_owned().expect("a descriptor can be copied");
        let mut command = Command::new(program);
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        // SAFETY: between fork and exec only write(2) and setns(2) are called, both async-signal-safe.
        #[expect(unsafe_code, reason = "a command joins cgroup and namespace before it starts")]
        unsafe {
            command.pre_exec(move || {
                rustix::io::write(&procs, b"0")?;
                nix::sched::setns(&netns, nix::sched::CloneFlags::CLONE_NEWNET)?;
                Ok(())
            });
        }
        command
    }

    fn make_pod(&self, builder: &Builder, number: u8) -> anyhow::Result<PodWorld> {
        let netns = Netns::new()?;
        netns.block_vips()?;
        let addr4 = Ipv4Addr::new(10, 77, number, 2);
        let addr6 = Ipv6Addr::new(0xfd77, 0, 0, u16::from(number), 0, 0, 0, 2);
        let (far4, far6) =
            (Ipv4Addr::new(10, 77, number, 1), Ipv6Addr::new(0xfd77, 0, 0, u16::from(number), 0, 0, 0, 1));
        if let Some(neighbour) = &self.neighbour {
            let far = format!("pod{number}");
            netns.join(neighbour, &far).context("cannot join a pod with its neighbour")?;
            neighbour.add_addresses(&far, &[(far4.into(), 24), (far6.into(), 64)])?;
        }
        let interface = if builder.uplink { UPLINK } else { "lo" };
        netns.add_addresses(interface, &[(addr4.into(), 24), (addr6.into(), 64)])?;
        if builder.uplink {
            netns.add_route(Ipv4Addr::UNSPECIFIED.into(), 0, Via::Gateway(far4.into()))?;
            netns.add_route(Ipv6Addr::UNSPECIFIED.into(), 0, Via::Gateway(far6.into()))?;
        }
        let parent = if builder.proxies_below_workloads {
            self.config.workloads_cgroup.clone()
        } else {
            self.root.path().into()
        };
        let proxy_cgroup = parent.join(format!("proxy-{number}"));
        cgroup::ensure(&proxy_cgroup)?;
        let identity =
            builder.proxy_uid.map_or_else(|| ProxyIdentity::Cgroup(proxy_cgroup.clone()), ProxyIdentity::Uid);
        let view = ViewId::of(&format!("view-{number}"));
        let ports = Ports::default();
        let mut pod = PodWorld { netns, view, proxy_cgroup, ports, addr4, addr6, stand_ins: None, identity };
        pod.start_stand_ins(builder.proxy_uid)?;
        Ok(pod)
    }
}

impl PodWorld {
    /// What the datapath is told of this pod.
    pub fn entry(&self) -> Pod {
        Pod {
            netns: self.netns.cookie(),
            view: self.view,
            proxy: self.identity.clone(),
            outbound_port: self.ports.outbound,
            dns_port: self.ports.dns,
            addr4: Some(self.addr4),
            addr6: Some(self.addr6),
        }
    }

    /// Starts proxy and resolver in the proxy's cgroup, and waits until they listen.
    fn start_stand_ins(&mut self, uid: Option<u32>) -> anyhow::Result<()> {
        let ports = self.ports;
        let place = Place { cgroup: &self.proxy_cgroup, netns: self.netns.as_fd() };
        let job = Job::start(&place, move || {
            if let Some(uid) = uid {
                nix::unistd::setuid(uid.into()).expect("root can become anybody");
            }
            proxy::serve(ports);
        })?;
        self.stand_ins = Some(job);
        for ip in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
            for port in [ports.outbound.get(), ports.dns.get()] {
                let listens = || {
                    self.netns.run(|| {
                        TcpStream::connect_timeout(&SocketAddr::new(ip, port), CONNECT_TIMEOUT).is_ok()
                    })
                };
                wait_until(LISTEN_SECS, "the stand-ins listen", listens);
            }
        }
        Ok(())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.pods.clear();
        self.kernel = None;
        if let Err(error) = Kernel::remove(&self.config.instance, &self.config.bpffs) {
            eprintln!("{:?}", anyhow::Error::from(error).context("cannot remove a test datapath"));
        }
    }
}

/// A developer wants to see what the verifier said.
fn show_verifier_log(error: &KernelError) {
    if let KernelError::Load { program, log, .. } = error {
        eprintln!("the verifier on {program}:\n{log}");
    }
}

/// A route from text: `240.0.0.1:80`, `[fd00:fd00::1]:80`.
///
/// # Panics
/// When the text is no address and port.
pub fn route(text: &str) -> Route {
    let address: SocketAddr = text.parse().unwrap_or_else(|_error| panic!("{text:?} is no address and port"));
    Route { vip: address.ip(), port: kuma_dns::model::view::Port::new(address.port()) }
}

/// Connects and returns the line that the stand-in proxy said: the original destination at both levels.
///
/// # Errors
/// What connect or read say.
pub fn ask_original(vip: &str) -> std::io::Result<String> {
    let address: SocketAddr = vip.parse().map_err(std::io::Error::other)?;
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
    stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
    proxy::read_line(&mut stream)
}
