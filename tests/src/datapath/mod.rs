//! A world at the level of the datapath: a loaded [`Kernel`], pods (a namespace, a view, a stand-in proxy and resolver each),
//! and applications that run inside a pod's namespace and the workloads' cgroup. Keeps: everything is gone when the world is,
//! also when a test panics. Called by tests of sockets and of the life cycle, and by benches.

mod builder;
mod pod;

use std::ffi::OsStr;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use kuma_dns::kernel::{Kernel, KernelConfig};
use kuma_dns::model::datapath::Datapath;
use kuma_dns::model::view::{Port, Route};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cgroup::Cgroup;
use crate::fork::{Job, Place};
use crate::netns::Netns;
use crate::proxy;

pub use builder::Builder;
pub use pod::PodWorld;

/// Where product code pins by default.
pub const BPFFS: &str = "/sys/fs/bpf";
/// How long a connection to a stand-in may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A loaded datapath and its pods.
pub struct World {
    pods: Vec<PodWorld>,
    config: KernelConfig,
    kernel: Option<Kernel>,
    // Last: cgroups go when everybody is out.
    root: Cgroup,
    neighbour: Option<Netns>,
}

impl World {
    /// A world with one pod, no VIP and no uplink; the builder says more.
    pub fn builder() -> Builder {
        Builder::default()
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
        self.pods[pod].stop_stand_ins();
    }

    /// The pod's stand-ins crash, their cgroup is removed, and they come back in a new one with the same name.
    ///
    /// # Errors
    /// What this machine lacks.
    pub fn restart_stand_ins(&mut self, pod: usize) -> anyhow::Result<()> {
        self.pods[pod].restart_stand_ins()
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

/// A route from text: `240.0.0.1:80`, `[fd00:fd00::1]:80`.
///
/// # Panics
/// When the text is no address and port.
pub fn route(text: &str) -> Route {
    let address: SocketAddr = text.parse().unwrap_or_else(|_error| panic!("{text:?} is no address and port"));
    Route { vip: address.ip(), port: Port::new(address.port()) }
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
