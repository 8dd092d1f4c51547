//! The agent with the real datapath, a real Envoy and a control plane of ours on snapshots made by hand, all in the
//! namespace of the calling thread. Keeps: pins and cgroups go with it, also when a test panics. Called by tests of what
//! a workload sees while views change.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use kuma_dns::agent::proxy::{DEFAULT_ADMIN_PORT, DEFAULT_CONCURRENCY, ProxyMode};
use kuma_dns::agent::{self, Config, Ports, ProxySetup};
use kuma_dns::cp::snapshot::Snapshot;
use kuma_dns::kernel::{Kernel, cgroup};
use kuma_dns::model::instance::Instance;
use kuma_dns::model::view::Port;
use kuma_dns::rt::{Drain, DrainTrigger, Ready};
use kuma_dns::wire::access::Access;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::cgroup::{Cgroup, unique_name};
use crate::datapath::BPFFS;
use crate::fork::{Job, Place};
use crate::xds::{ControlPlane, MESH};

const DNS: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 15053);
/// Where backends listen, at every loopback address.
pub const BACKEND_PORT: u16 = 7001;
/// Record types (RFC 1035 section 3.2.2, RFC 3596 section 2.1).
const A: u8 = 1;
const AAAA: u8 = 28;
const READY_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(30);
const VIPS_CAPACITY: u32 = 4_096;
/// The longest that a connect, a read or one question may take.
const CALL_LIMIT: Duration = Duration::from_secs(5);

/// Where the backend of service `n` listens; it says its own address.
pub fn backend(n: u16) -> SocketAddr {
    let [high, low] = n.to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, 0, high, low), BACKEND_PORT))
}

/// A running system.
pub struct Live {
    pub control_plane: ControlPlane,
    instance: Instance,
    workloads: PathBuf,
    trigger: DrainTrigger,
    tasks: JoinSet<anyhow::Result<()>>,
    _run_dir: TempDir,
    _root: Cgroup,
}

impl Live {
    /// Starts everything on `snapshot` and waits until it is ready.
    ///
    /// # Errors
    /// What this machine lacks.
    pub async fn start(snapshot: Arc<Snapshot>) -> anyhow::Result<Self> {
        serve_backends()?;
        let control_plane = ControlPlane::start(0, snapshot).await?;
        let (instance, cgroup2): (Instance, _) = (unique_name().parse()?, cgroup::find_cgroup2()?);
        let run_dir = TempDir::new()?;
        let resolv_conf = run_dir.path().join("resolv.conf");
        std::fs::write(&resolv_conf, "nameserver 127.0.0.1\n")?;
        let config = Config {
            instance: instance.clone(),
            run_dir: run_dir.path().into(),
            data_dir: run_dir.path().join("data"),
            bpffs: BPFFS.into(),
            cgroup2: cgroup2.clone(),
            netns: None,
            ports: Ports { outbound: Port::new(15001), dns: Port::new(DNS.port()) },
            view: MESH.into(),
            name: None,
            control_plane: control_plane.addr.into(),
            access: Access::default(),
            proxy: ProxySetup {
                envoy: ProxyMode::Auto,
                admin_port: DEFAULT_ADMIN_PORT,
                concurrency: DEFAULT_CONCURRENCY,
                uid: None,
            },
            resolv_conf,
            vips_capacity: VIPS_CAPACITY,
            bpf_log: None,
            keep_datapath: false,
            lasting: false,
            beside: None,
        };
        let root = Cgroup::at(instance.cgroup(&cgroup2))?;
        let workloads = instance.workloads_cgroup(&cgroup2);
        let (trigger, drain) = Drain::pair();
        let ready = Ready::default();
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let ready = ready.clone();
            async move { Ok(agent::run(config, drain, ready).await?) }
        });
        let mut live =
            Self { control_plane, instance, workloads, trigger, tasks, _run_dir: run_dir, _root: root };
        tokio::select! {
            ended = live.tasks.join_next() => {
                ended.context("the agent was started")???;
                anyhow::bail!("the agent ended early");
            }
            reached = tokio::time::timeout(READY_LIMIT, first_view(&ready)) => {
                reached.with_context(|| format!("not ready: {:?}, {:?}", ready.awaited(), live.control_plane.waiting()))?;
            }
        }
        Ok(live)
    }

    /// Runs `job` in a workload: a process in the workloads' cgroup.
    ///
    /// # Errors
    /// The process cannot be made.
    pub fn workload<T: Serialize + DeserializeOwned>(
        &self,
        job: impl FnOnce() -> T,
    ) -> anyhow::Result<Job<T>> {
        let netns = File::open("/proc/thread-self/ns/net")?;
        Job::start(&Place { cgroup: &self.workloads, netns: netns.as_fd() }, job)
    }

    /// Ends everything in order.
    ///
    /// # Errors
    /// It fails, or takes too long.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.trigger.request();
        let ended = tokio::time::timeout(STOP_LIMIT, self.tasks.join_next()).await;
        ended.context("the agent does not end")?.context("the agent was started")??
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.tasks.abort_all();
        if let Err(error) = Kernel::remove(&self.instance, BPFFS.as_ref()) {
            eprintln!("{:?}", anyhow::Error::from(error).context("cannot remove a test datapath"));
        }
    }
}

/// `reached` would be true before the agent has begun to wait for its first view.
async fn first_view(ready: &Ready) {
    while ready.awaited().is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ready.reached().await;
}

/// Serves in the namespace of the calling thread until this process ends: every loopback address answers with itself, in
/// one line.
///
/// # Errors
/// The port is taken.
pub fn serve_backends() -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, BACKEND_PORT))?;
    let serve = move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            let Ok(own) = stream.local_addr() else { continue };
            // The client may be gone already.
            let _ = stream.write_all(format!("{own}\n").as_bytes());
        }
    };
    std::thread::Builder::new().name("backends".into()).spawn(serve)?;
    Ok(())
}

/// Connects to a VIP, in a workload, and returns what the service behind it says.
///
/// # Errors
/// What connect or read say.
pub fn ask(vip: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&vip, CALL_LIMIT)?;
    stream.set_read_timeout(Some(CALL_LIMIT))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said.trim_end().to_owned())
}

/// Does the name have an IPv4 address, says the resolver?
///
/// # Errors
/// The resolver does not answer.
pub fn resolves(name: &str) -> std::io::Result<bool> {
    Ok(resolve(name)?.is_some())
}

/// The IPv4 address of the name, says the resolver.
///
/// # Errors
/// The resolver does not answer.
pub fn resolve(name: &str) -> std::io::Result<Option<Ipv4Addr>> {
    Ok(lookup(name, A)?.map(|octets: [u8; 4]| octets.into()))
}

/// The IPv6 address of the name, says the resolver.
///
/// # Errors
/// The resolver does not answer.
pub fn resolve_v6(name: &str) -> std::io::Result<Option<Ipv6Addr>> {
    Ok(lookup(name, AAAA)?.map(|octets: [u8; 16]| octets.into()))
}

fn lookup<const N: usize>(name: &str, kind: u8) -> std::io::Result<Option<[u8; N]>> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.set_read_timeout(Some(CALL_LIMIT))?;
    // RFC 1035 section 4.1: a header that asks one question, then the question in class IN.
    let mut question = vec![0x4b, 0x44, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        question.push(u8::try_from(label.len()).map_err(std::io::Error::other)?);
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, kind, 0, 1]);
    socket.send_to(&question, DNS)?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    let (rcode, answers) = (answer[3] & 0x0f, u16::from_be_bytes([answer[6], answer[7]]));
    // The one record stands last, and its data at its end.
    let found = length >= question.len() + N && rcode == 0 && answers == 1;
    Ok(answer[..length].last_chunk().copied().filter(|_| found))
}

/// Asks until the name resolves, without a rest between.
///
/// # Panics
/// When it does not within `secs`.
pub fn wait_for_name(name: &str, secs: u64) {
    let deadline = Instant::now() + Duration::from_secs(secs);
    while !resolves(name).expect("the resolver answers") {
        assert!(Instant::now() < deadline, "{name} does not resolve within {secs} s");
    }
}
