//! The agent: everything that the workloads of one network namespace need beside them. Views come in ([`feed`]) and go into
//! the kernel and the resolver ([`views`], [`apply`], [`resolver`]); an Envoy is looked after ([`proxy`]); commands ask how to
//! get in and how things are ([`enrol`], [`status`]).
//!
//! Keeps: all ports are bound before anything is attached; a start that fails leaves nothing behind; an orderly end first
//! leaves the workloads' sockets alone and then ends what served them. Started by cli. The only file of this room that
//! knows the kernel's: the others get it as a `Datapath` or as a closure.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::interval;
use tracing::{info, warn};

use crate::agent::apply::{Applier, Origin};
use crate::agent::enrol::{Desk, EnrolError};
use crate::agent::feed::{Feed, FeedStatus};
use crate::agent::memory::{Recalled, Writer};
use crate::agent::proxy::{Lifetime, Proxy, ProxyError};
use crate::agent::resolver::{Inside, ResolverError};
use crate::agent::status::Board;
use crate::agent::views::{Held, Show, Views};
use crate::dns::server::{Server, Shared, Sockets};
use crate::dns::zone::Zone;
use crate::kernel::cgroup::{self, CgroupError};
use crate::kernel::netns::{self, NetnsError};
use crate::kernel::preflight::{self, PreflightError};
use crate::kernel::process::{self, Orphan};
use crate::kernel::{self, Kernel, KernelConfig, KernelError, KernelStatus, Reason};
use crate::model::datapath::{Datapath, DatapathError, NetnsCookie, Pod, ProxyIdentity};
use crate::model::view::ViewId;
use crate::rt::{Awaited, Drain, DrainTrigger, Ready, TaskError, Tasks};
use crate::wire::local;

pub mod apply;
mod config;
pub mod enrol;
pub mod feed;
mod listening;
mod memory;
pub mod proxy;
pub mod resolver;
pub mod status;
pub mod views;

pub use crate::agent::config::{Config, Ports, ProxySetup};
pub use crate::kernel::BpfLog;

/// Of the resolver's answers before it knows any name.
const NO_VIEW_TTL_SECS: u32 = 60;
/// How often the datapath looks whether somebody removed the workloads' cgroup under it.
const HEAL_INTERVAL: Duration = Duration::from_secs(2);

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Socket(#[from] EnrolError),
    #[error(transparent)]
    Resolver(#[from] ResolverError),
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error("an Envoy can be started only in the agent's own network namespace, not in {}: take none", netns.display())]
    ForeignProxy { netns: PathBuf },
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("cannot enrol the network namespace")]
    Enrol(#[source] DatapathError),
    #[error("cannot read what an earlier agent left in the kernel")]
    Adopt(#[source] DatapathError),
    #[error("cannot withdraw a network namespace")]
    Withdraw(#[source] DatapathError),
    #[error("cannot attach anew after the workloads' cgroup was removed")]
    Heal(#[source] KernelError),
    #[error(transparent)]
    Task(#[from] TaskError),
    #[error("a step of the agent panicked")]
    Panicked(#[from] JoinError),
}

/// Serves one network namespace until the drain is asked for.
///
/// # Errors
/// Whatever keeps it from starting, or ends it early. Nothing of it is left then, unless it was there before.
pub fn run(config: Config, drain: Drain, ready: Ready) -> impl Future<Output = Result<(), Error>> + Send {
    // Held from the call on, not from the first poll: nobody may take a future that was not polled yet for ready.
    let awaited = ready.wait_for(format!("the first view of mesh {:?} from the control plane", config.view));
    async move {
        let node = spawn_blocking(move || Node::start(config)).await??;
        let (config, kernel) = (node.config.clone(), node.kernel.clone());
        let ended = serve(node, awaited, drain, ready).await;
        let stopped = spawn_blocking(move || stop(&config, &kernel)).await?;
        ended.and(stopped)
    }
}

/// Everything that is there before the first task runs.
struct Node {
    config: Config,
    inside: Inside,
    netns: NetnsCookie,
    desk: Desk,
    sockets: Sockets,
    proxy: Option<Proxy>,
    kernel: Held<Kernel>,
    show: Show,
    recalled: Option<Recalled>,
}

impl Node {
    fn start(config: Config) -> Result<Self, Error> {
        preflight::check(&config.bpffs)?;
        let desk = Desk::open(&config.instance.socket(&config.run_dir))?;
        // Nobody else runs this instance now. Pins are what a killed agent left, and they stay, whatever happens here.
        let adopts = config.instance.pins(&config.bpffs).exists();
        let cgroup = config.instance.cgroup(&config.cgroup2);
        let new_cgroup = !cgroup.exists();
        let started = Self::attach(config.clone(), desk);
        if started.is_err() {
            enrol::remove_folders(&config.instance.socket(&config.run_dir));
            let taken_back = match (adopts, new_cgroup) {
                (false, _) => remove_datapath(&config, None),
                (true, true) => cgroup::remove(&cgroup).map_err(Error::Cgroup),
                (true, false) => Ok(()),
            };
            if let Err(error) = taken_back {
                warn!(%error, "cannot take back what was made so far: run `kuma-dns cleanup`");
            }
        }
        started
    }

    fn attach(config: Config, desk: Desk) -> Result<Self, Error> {
        cgroup::ensure(&config.instance.workloads_cgroup(&config.cgroup2))?;
        cgroup::ensure(&config.instance.proxy_cgroup(&config.cgroup2))?;
        let namespace = config.netns.as_deref().map_or_else(netns::own, netns::open)?;
        let (inside, netns) = (inside(config.netns.as_deref())?, netns::cookie_of(namespace.as_fd())?);
        let sockets = resolver::bind(config.ports.dns, &inside)?;
        let proxy = proxy_of(&config)?;
        let shown = kernel::source_addresses(namespace.as_fd())?;
        let mut kernel = Kernel::open(KernelConfig {
            instance: config.instance.clone(),
            bpffs: config.bpffs.clone(),
            workloads_cgroup: config.instance.workloads_cgroup(&config.cgroup2),
            vips_capacity: config.vips_capacity,
            bpf_log: config.bpf_log,
        })?;
        let applier = Applier::adopt(&config.view, &kernel).map_err(Error::Adopt)?;
        let adopted = applier.routes();
        let resolver = Arc::new(Shared::new(Zone::resolver(NO_VIEW_TTL_SECS)));
        let mut show = Show { applier, resolver, applied: Arc::default() };
        let recalled = config.memory().recall(&config.view);
        if let Some(Recalled { view, .. }) = &recalled
            && let Err(trouble) = show.show(view, Origin::Memory, &mut kernel)
        {
            warn!(trouble, "the remembered view is not served");
        }
        let by_cgroup = || ProxyIdentity::Cgroup(config.instance.proxy_cgroup(&config.cgroup2));
        let pod = Pod {
            netns,
            view: ViewId::of(&config.view),
            proxy: config.proxy.uid.map_or_else(by_cgroup, ProxyIdentity::Uid),
            outbound_port: config.ports.outbound,
            dns_port: config.ports.dns,
            addr4: shown.v4,
            addr6: shown.v6,
        };
        enrol(&mut kernel, &pod)?;
        info!(instance = %config.instance, netns = netns.0, view = config.view, adopted, "enrolled");
        Ok(Self { config, inside, netns, desk, sockets, proxy, kernel: Held::new(kernel), show, recalled })
    }
}

/// Enrols the pod. Another namespace under our pins belonged to an agent that is dead: its sockets are left alone.
fn enrol(kernel: &mut Kernel, pod: &Pod) -> Result<(), Error> {
    for (netns, _) in kernel.pods().map_err(Error::Adopt)? {
        if netns != pod.netns {
            info!(netns = netns.0, "withdrawing the namespace of an earlier agent");
            kernel.withdraw(netns).map_err(Error::Withdraw)?;
        }
    }
    kernel.enrol(pod).map_err(Error::Enrol)
}

/// How to run something in the workloads' namespace. In our own nothing has to be entered, and no right is needed.
fn inside(path: Option<&Path>) -> Result<Inside, NetnsError> {
    let Some(path) = path else {
        return Ok(Arc::new(|job| {
            job();
            Ok(())
        }));
    };
    let namespace = netns::open(path)?;
    Ok(Arc::new(move |job| Ok(netns::run_in(namespace.as_fd(), job)?)))
}

/// The Envoy that we start. Recognised by its user, it has to be among the workloads; else it has a cgroup of its own.
fn proxy_of(config: &Config) -> Result<Option<Proxy>, Error> {
    let Some(binary) = proxy::find(&config.proxy.envoy).map_err(ProxyError::from)? else { return Ok(None) };
    if let Some(netns) = config.netns.clone() {
        return Err(Error::ForeignProxy { netns });
    }
    let cgroup = match config.proxy.uid {
        Some(_) => config.instance.workloads_cgroup(&config.cgroup2),
        None => config.instance.proxy_cgroup(&config.cgroup2),
    };
    let uid = rustix::process::geteuid().is_root().then(|| config.proxy.uid.unwrap_or(proxy::DEFAULT_UID));
    let settings = config.proxy(cgroup.clone());
    let orphan = if settings.lifetime == Lifetime::WithUs { Orphan::Ends } else { Orphan::GoesOn };
    let confine =
        Box::new(move |command: &mut std::process::Command| process::confine(command, &cgroup, uid, orphan));
    Ok(Some(Proxy::new(binary, settings, confine)?))
}

/// Starts every task and runs until the first ends or the drain is asked for.
async fn serve(node: Node, awaited: Awaited, drain: Drain, ready: Ready) -> Result<(), Error> {
    let (trigger, ending) = Drain::pair();
    let mut tasks = Tasks::new(trigger.clone(), ending.clone());
    let (feed, updates) = Feed::new(node.config.feed());
    let (shown, last) = watch::channel(None);
    let from = (node.config.control_plane.to_string(), feed.status());
    let writer = Writer::new(node.config.memory(), node.recalled.as_ref(), from, last);
    let board = Arc::new(board(&node, ready, &feed, &writer));
    let Node { config, inside, netns, desk, sockets, proxy, kernel, show, recalled } = node;
    let listener = board.ready.wait_for(format!("a proxy that listens on port {}", config.ports.outbound));
    let resolv_conf = Some(config.resolv_conf.clone());
    let server = Server { sockets, shared: show.resolver.clone(), resolv_conf };
    let awaited = Some(awaited).filter(|_| recalled.is_none() || !config.lasting);
    let views = Views { datapath: kernel.clone(), show, origin: Origin::Memory, awaited, shown };
    if let Some(events) = kernel.lock().as_mut().and_then(Kernel::take_events) {
        tasks.spawn("log of the BPF programs", events.run(ending.clone()));
    }
    if let Some(proxy) = proxy {
        tasks.spawn("proxy", proxy.run(ending.clone()));
    }
    tasks.spawn(
        "proxy's listener",
        listening::watch(config.ports.outbound, inside.clone(), listener, ending.clone()),
    );
    tasks.spawn("resolver", resolver::run(server, inside, ending.clone()));
    tasks.spawn("feed", feed.run(ending.clone()));
    tasks.spawn("views", views.run(updates, ending.clone()));
    tasks.spawn("memory", writer.run(ending.clone()));
    tasks.spawn("healer", heal(kernel.clone(), ending.clone()));
    tasks.spawn("agent's socket", desk.run(board, ending.clone()));
    tasks.spawn("withdrawal", withdraw(config, kernel, netns, drain, (trigger, ending)));
    Ok(tasks.run().await?)
}

/// Hears the end first: workloads are left alone before the resolver and the proxy that serve them go.
async fn withdraw(
    config: Config,
    kernel: Held<Kernel>,
    netns: NetnsCookie,
    asked: Drain,
    (trigger, ending): (DrainTrigger, Drain),
) -> Result<(), Error> {
    tokio::select! {
        () = asked.requested() => {}
        () = ending.requested() => return Ok(()),
    }
    let withdrawn = spawn_blocking(move || match kernel.lock().as_mut() {
        Some(kernel) if !config.keep_datapath => kernel.withdraw(netns).map_err(Error::Withdraw),
        _ => Ok(()),
    });
    let withdrawn = withdrawn.await;
    trigger.request();
    withdrawn?
}

/// Attaches anew when the workloads' cgroup was removed and made again.
async fn heal(kernel: Held<Kernel>, drain: Drain) -> Result<(), Error> {
    let mut interval = interval(HEAL_INTERVAL);
    loop {
        tokio::select! {
            _ = interval.tick() => {}
            () = drain.requested() => return Ok(()),
        }
        let kernel = kernel.clone();
        let healed = spawn_blocking(move || kernel.lock().as_mut().map_or(Ok(false), Kernel::heal)).await?;
        if healed.map_err(Error::Heal)? {
            info!("the workloads' cgroup is there and attached again");
        }
    }
}

/// The end of the datapath, unless it is to stay.
fn stop(config: &Config, kernel: &Held<Kernel>) -> Result<(), Error> {
    let kernel = kernel.lock().take();
    if !config.lasting && !config.keep_datapath {
        config.memory().forget();
    }
    if config.keep_datapath {
        info!("leaving the datapath in the kernel: mesh names and VIPs fail until the next start");
        return Ok(());
    }
    enrol::remove_folders(&config.instance.socket(&config.run_dir));
    remove_datapath(config, kernel)
}

/// Links, pins and cgroups of the instance.
fn remove_datapath(config: &Config, kernel: Option<Kernel>) -> Result<(), Error> {
    let removed = match kernel {
        Some(kernel) => kernel.unload()?,
        None => Kernel::remove(&config.instance, &config.bpffs)?,
    };
    let cgroup = config.instance.cgroup(&config.cgroup2);
    cgroup::remove(&cgroup)?;
    if let Some(of_all_instances) = cgroup.parent() {
        // Not empty: other instances live there.
        let _others = std::fs::remove_dir(of_all_instances);
    }
    info!(links = removed.links, maps = removed.maps, "removed the datapath");
    Ok(())
}

fn board(node: &Node, ready: Ready, feed: &Feed, writer: &Writer) -> Board {
    let config = &node.config;
    let (instance, bpffs, feed) = (config.instance.clone(), config.bpffs.clone(), feed.status());
    let standing = writer.standing();
    Board {
        instance: config.instance.clone(),
        started: Instant::now(),
        ready,
        netns: node.netns,
        netns_path: config
            .netns
            .clone()
            .unwrap_or_else(|| format!("/proc/{}/ns/net", std::process::id()).into()),
        workloads_cgroup: config.instance.workloads_cgroup(&config.cgroup2),
        proxy_cgroup: config.instance.proxy_cgroup(&config.cgroup2),
        view_name: config.view.clone(),
        listen: node.sockets.udp.iter().filter_map(|socket| socket.local_addr().ok()).collect(),
        resolver: node.show.resolver.clone(),
        // Read from the pins, so that a status never waits for a view that is being applied.
        datapath: Box::new(move || {
            Kernel::inspect(&instance, &bpffs).map(datapath_status).unwrap_or_default()
        }),
        proxy: status::of_proxy(config, node.proxy.as_ref()),
        version: Box::new(move || match &*feed.borrow() {
            FeedStatus::Applied { version } | FeedStatus::Failed { version, .. } => version.clone(),
            FeedStatus::Disconnected { .. } | FeedStatus::Waiting => String::new(),
        }),
        applied: node.show.applied.clone(),
        source: Box::new(move || standing.source()),
        control_plane: config.beside.clone(),
    }
}

/// The kernel's own account in the words of the status; also for when no agent runs.
pub fn datapath_status(kernel: KernelStatus) -> local::Datapath {
    let program = |program: kernel::ProgramStatus| local::Program {
        name: program.hook.into(),
        cgroup: program.cgroup.unwrap_or_else(|| "(removed)".into()),
    };
    let map = |map: kernel::MapStatus| {
        let (name, entries) = (map.name.into(), map.entries? as u64);
        Some(local::Map { name, entries, capacity: map.capacity.into() })
    };
    let counter = |reason: &Reason| {
        let (number, name, meaning) = (reason.number(), reason.name(), reason.sentence().into());
        let count = *kernel.counters.get(name)?;
        Some(local::Counter { number, name: name.into(), meaning, count })
    };
    local::Datapath {
        abi_version: kernel.abi_version,
        counters: Reason::ALL.iter().filter_map(counter).collect(),
        pins: kernel.pins,
        programs: kernel.programs.into_iter().map(program).collect(),
        maps: kernel.maps.into_iter().filter_map(map).collect(),
    }
}
