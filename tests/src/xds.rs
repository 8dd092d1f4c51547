//! The xDS side of a world, in a network namespace of its own: the server on snapshots made by hand, real Envoys and
//! agents' feeds. Keeps: ports clash with nobody's; everything ends with the namespace's thread, also on panic.

mod admin;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use kuma_dns::agent::feed::{Feed, FeedConfig, FeedStatus, Update};
use kuma_dns::agent::proxy::{self, Confine, Lifetime, Proxy, ProxyConfig, ProxyMode, ProxyStatus};
use kuma_dns::cp::snapshot::{
    Entry, Listener, MeshHeader, MeshSnapshot, Outbounds, Protocol, Published, Snapshot,
};
use kuma_dns::cp::xds::{Server, Status, StatusReader};
use kuma_dns::model::name::Hostname;
use kuma_dns::model::view::{Addresses, MeshView, Port};
use kuma_dns::rt::{Drain, DrainTrigger};
use kuma_dns::wire::access::Access;
use kuma_dns::wire::node::{Introduction, Role};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub use self::admin::Admin;

/// The view of every client here.
pub const MESH: &str = "default";
/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(5);
/// How long a server or an Envoy may take to end.
const END_LIMIT: Duration = Duration::from_secs(10);

/// Runs `test` in a network namespace of its own that has nothing but a loopback device.
///
/// # Panics
/// When `test` fails, or the namespace cannot be made (root is needed).
pub fn in_own_netns<F: Future<Output = anyhow::Result<()>>>(test: impl FnOnce() -> F + Send) {
    // Shown when the test fails. Another test of this process may have set it already.
    let _ = tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::INFO)
        .with_test_writer()
        .try_init();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
                .expect("a namespace: tests run as root");
            let up = std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
            assert!(up.expect("iproute2 is installed").success());
            // The workers inherit the namespace of the thread that makes them.
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
            let outcome = runtime.expect("a runtime").block_on(test());
            outcome.unwrap_or_else(|error| panic!("{error:?}"));
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Waits until `holds` gives a value.
///
/// # Errors
/// It does not within `secs`; `what` and the last reason are in the error.
pub async fn eventually<T, F>(secs: u64, what: &str, mut holds: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<T>>,
{
    let deadline = Instant::now() + Duration::from_secs(secs);
    loop {
        match holds().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                return Err(error.context(format!("not within {secs} s: {what}")));
            }
            Err(_) => tokio::time::sleep(POLL).await,
        }
    }
}

/// Mesh `default` with these services, and the TTL that removed VIPs rest twice.
pub fn mesh(ttl_secs: u32, services: impl IntoIterator<Item = (Arc<str>, Published)>) -> Arc<Snapshot> {
    shaped(Outbounds::Auto, ttl_secs, services)
}

/// [`mesh`] with outbounds of this shape.
pub fn shaped(
    outbounds: Outbounds,
    ttl_secs: u32,
    services: impl IntoIterator<Item = (Arc<str>, Published)>,
) -> Arc<Snapshot> {
    let header = MeshHeader {
        domain: Hostname::parse("mesh").expect("valid"),
        ttl_secs,
        ranges: vec!["240.0.0.0/4".parse().expect("valid"), "fd00:fd00::/64".parse().expect("valid")],
        outbounds,
    };
    let mesh = MeshSnapshot { header: Arc::new(header), vips: services.into_iter().collect() };
    Arc::new(Snapshot { meshes: BTreeMap::from([(MESH.into(), mesh)]) })
}

/// Service number `n`: VIPs 240.0.x.y and fd00:fd00::n, port 80.
pub fn service(n: u16, protocol: Protocol, endpoints: &[SocketAddr]) -> (Arc<str>, Published) {
    let [high, low] = n.to_be_bytes();
    let v6 = std::net::Ipv6Addr::new(0xfd00, 0xfd00, 0, 0, 0, 0, 0, n);
    let addresses = Addresses { v4: Some(Ipv4Addr::new(240, 0, high, low)), v6: Some(v6) };
    let name: Arc<str> = format!("service-{n}").into();
    let hostnames = [Hostname::parse(&format!("{name}.mesh")).expect("valid")].into();
    let listener = Listener {
        cluster: name.clone(),
        ports: [Port::new(80)].into(),
        protocol,
        endpoints: endpoints.iter().copied().map(Into::into).collect(),
    };
    (name, Published::new(addresses, Arc::new(Entry { hostnames, listeners: [listener].into() })))
}

/// The two listeners of service `n`.
pub fn listeners(n: u16) -> [String; 2] {
    let [high, low] = n.to_be_bytes();
    let v6 = std::net::Ipv6Addr::new(0xfd00, 0xfd00, 0, 0, 0, 0, 0, n);
    [format!("outbound:240.0.{high}.{low}:80"), format!("outbound:[{v6}]:80")]
}

/// A running xDS server.
pub struct ControlPlane {
    pub snapshots: watch::Sender<Arc<Snapshot>>,
    pub addr: SocketAddr,
    status: StatusReader,
    trigger: DrainTrigger,
    tasks: JoinSet<()>,
}

impl ControlPlane {
    /// Starts one on `port`; 0 takes any.
    ///
    /// # Errors
    /// The port is taken.
    pub async fn start(port: u16, snapshot: Arc<Snapshot>) -> anyhow::Result<Self> {
        let server = Server::bind((Ipv4Addr::LOCALHOST, port).into()).await?;
        let (addr, status) = (server.local_addr(), server.status());
        let (snapshots, published) = watch::channel(snapshot);
        let (trigger, drain) = Drain::pair();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { server.run(published, drain).await.expect("the server serves") });
        Ok(Self { snapshots, addr, status, trigger, tasks })
    }

    /// Where it stands.
    pub fn status(&self) -> Status {
        self.status.read()
    }

    /// What the operator reads about clients that refuse something.
    pub fn refused(&self) -> Vec<(String, String)> {
        let clients = self.status().views.into_iter().flat_map(|view| view.clients);
        clients.flat_map(|client| client.refused).map(|refused| (refused.name, refused.reason)).collect()
    }

    /// What it waits for.
    pub fn waiting(&self) -> Vec<String> {
        self.status().views.into_iter().flat_map(|view| view.waiting).collect()
    }

    /// Ends it as a control plane that is stopped ends.
    ///
    /// # Errors
    /// It does not end in time.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.trigger.request();
        tokio::time::timeout(END_LIMIT, self.tasks.join_next()).await.context("the server does not end")?;
        Ok(())
    }
}

/// A real Envoy under our supervisor.
pub struct Envoy {
    admin: Admin,
    status: watch::Receiver<ProxyStatus>,
    trigger: DrainTrigger,
    tasks: JoinSet<()>,
}

impl Envoy {
    /// Starts one; `outbound` and `admin` are its ports.
    ///
    /// # Errors
    /// No Envoy is installed, a port is taken.
    pub fn start(
        xds: SocketAddr,
        id: &str,
        outbound: u16,
        admin: u16,
        confine: Confine,
    ) -> anyhow::Result<Self> {
        let door = Door { control_plane: xds, access: Access::default() };
        Self::start_at(door, id, outbound, admin, confine)
    }

    /// [`start`](Self::start) at a control plane that wants to see something.
    ///
    /// # Errors
    /// No Envoy is installed, a port is taken.
    pub fn start_at(
        door: Door,
        id: &str,
        outbound: u16,
        admin: u16,
        confine: Confine,
    ) -> anyhow::Result<Self> {
        let binary = proxy::find(&ProxyMode::Auto)?.context("auto finds one or fails")?;
        let config = ProxyConfig {
            node_id: id.into(),
            view: MESH.into(),
            xds: door.control_plane.into(),
            access: door.access,
            outbound_port: Port::new(outbound),
            admin_port: Port::new(admin),
            concurrency: 2,
            cgroup: "/nowhere".into(),
            lifetime: Lifetime::WithUs,
            owner: "/run/kuma-dns/test".into(),
        };
        let proxy = Proxy::new(binary, config, confine)?;
        let status = proxy.status();
        let (trigger, drain) = Drain::pair();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { proxy.run(drain).await.expect("Envoy starts") });
        Ok(Self { admin: Admin((Ipv4Addr::LOCALHOST, admin).into()), status, trigger, tasks })
    }

    /// Its process, while there is one.
    pub fn pid(&self) -> Option<nix::unistd::Pid> {
        let pid = self.status.borrow().pid?;
        Some(nix::unistd::Pid::from_raw(i32::try_from(pid).ok()?))
    }

    /// Ends it.
    ///
    /// # Errors
    /// It does not end in time.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.trigger.request();
        tokio::time::timeout(END_LIMIT, self.tasks.join_next()).await.context("Envoy does not end")?;
        Ok(())
    }
}

impl Deref for Envoy {
    type Target = Admin;

    fn deref(&self) -> &Admin {
        &self.admin
    }
}

/// Where a client connects, and what it shows there.
#[derive(Clone, Debug)]
pub struct Door {
    pub control_plane: SocketAddr,
    pub access: Access,
}

/// An agent's feed that takes every view, or refuses it while told so.
pub struct Agent {
    pub views: watch::Receiver<Option<Arc<MeshView>>>,
    /// What it answers to the control plane.
    pub answer: watch::Sender<Result<(), String>>,
    pub status: watch::Receiver<FeedStatus>,
    _tasks: JoinSet<()>,
}

impl Agent {
    /// Starts one.
    pub fn start(control_plane: SocketAddr, id: &str) -> Self {
        Self::start_at(Door { control_plane, access: Access::default() }, id)
    }

    /// Starts one at a control plane that wants to see something.
    pub fn start_at(Door { control_plane, access }: Door, id: &str) -> Self {
        let (id, view) = (id.into(), MESH.into());
        let node = Introduction { id, role: Role::Agent, view, outbound_port: Port::new(15001) };
        let (feed, mut updates) = Feed::new(FeedConfig { control_plane: control_plane.into(), access, node });
        let status = feed.status();
        let (seen, views) = watch::channel(None);
        let (answer, answers) = watch::channel(Ok(()));
        let mut tasks = JoinSet::new();
        let (trigger, drain) = Drain::pair();
        tasks.spawn(async move {
            let _trigger = trigger;
            feed.run(drain).await.expect("the feed follows");
        });
        tasks.spawn(async move {
            while let Some(Update { view, answer }) = updates.recv().await {
                seen.send_replace(Some(view));
                let said = answers.borrow().clone();
                let _ = answer.send(said);
            }
        });
        Self { views, answer, status, _tasks: tasks }
    }

    /// How many routes its view has; `None` before the first.
    pub fn routes(&self) -> Option<usize> {
        self.views.borrow().as_ref().map(|view| view.routes_len())
    }
}

/// An Envoy that stays in the cgroup and user of the test.
pub fn anywhere() -> Confine {
    Box::new(|_| Ok(()))
}
