//! The Envoy beside the workloads: started in its cgroup as a user without privileges, watched, started again, ended.
//! Keeps: it outlives us only where that is wanted, and then the next start takes it over; its traffic is in its own cgroup
//! from the first socket on. Started by agent/mod.rs, which brings the one thing that only the kernel room can do: [`Confine`].

mod find;
mod left;
mod output;
mod parent;
mod ports;

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::process::{Child, Command};
use tokio::sync::watch;
use tracing::{info, warn};

pub use self::find::{Binary, ProxyMode, find};
use self::left::Left;
use self::output::LastWords;
use self::parent::Parent;
use crate::model::view::Port;
use crate::rt::Drain;
use crate::wire::access::Access;
use crate::wire::address::ServerAddress;
use crate::wire::envoy::Bootstrap;
use crate::wire::node::{Introduction, Role};

/// Places a command in its cgroup and user before it is started.
pub type Confine = Box<dyn Fn(&mut std::process::Command) -> io::Result<()> + Send + Sync>;

/// The user that Kuma runs its data plane as.
pub const DEFAULT_UID: u32 = 5678;
pub const DEFAULT_ADMIN_PORT: Port = Port::new(9901);
pub const DEFAULT_CONCURRENCY: u32 = 2;

/// How long connections of a changed or removed listener live on in Envoy. Its own default keeps each old listener
/// 10 minutes in memory.
const DRAIN_SECS: u32 = 30;
/// From SIGTERM until SIGKILL.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How long the last lines of a dead Envoy are waited for.
const OUTPUT_LIMIT: Duration = Duration::from_secs(1);
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const MAX_BACKOFF: Duration = Duration::from_secs(15);
/// An Envoy that ran this long was well: the next start does not wait for what came before.
const WELL_AFTER: Duration = Duration::from_secs(60);

/// How long the Envoy that we start lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lifetime {
    WithUs,
    /// It goes on when we are killed, and the next start takes it over: what it has been told it knows, also while there is
    /// no control plane. What it says meanwhile is lost.
    OutlivesCrash,
    /// The same also when we end in order.
    OutlivesUs,
}

/// What the proxy is started with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProxyConfig {
    pub node_id: String,
    /// The view, that is the mesh, whose listeners it asks for.
    pub view: String,
    pub xds: ServerAddress,
    /// What the control plane wants to see.
    pub access: Access,
    pub outbound_port: Port,
    pub admin_port: Port,
    /// Worker threads.
    pub concurrency: u32,
    /// Where its traffic belongs to it.
    pub cgroup: PathBuf,
    pub lifetime: Lifetime,
    /// The run folder of the instance; on Envoy's command line it says whose it is.
    pub owner: PathBuf,
}

/// How the proxy stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProxyStatus {
    pub path: PathBuf,
    pub pid: Option<u32>,
    pub started: Option<Instant>,
    pub restarts: u64,
    /// Why the last one ended, with what it said at its end.
    pub last_end: Option<String>,
}

/// Why there is no proxy.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    #[error(transparent)]
    Find(#[from] find::FindError),
    #[error(transparent)]
    Port(#[from] ports::PortError),
    #[error("cannot start Envoy {}", path.display())]
    Start { path: PathBuf, source: io::Error },
    #[error("cannot watch Envoy {}", path.display())]
    Watch { path: PathBuf, source: io::Error },
}

/// The supervisor of one Envoy.
pub struct Proxy {
    binary: Binary,
    config: ProxyConfig,
    confine: Confine,
    status: watch::Sender<ProxyStatus>,
    /// What an earlier agent left and we take over.
    left: Option<Left>,
}

/// An Envoy that runs.
enum Running {
    Ours(Box<Child>),
    Left(Left),
}

impl Proxy {
    /// Takes over the Envoy that an earlier agent left, if it is what we would start; ends it if it is not. Checks that Envoy's ports are free, so that a second Envoy is an error in words and not a crash loop.
    ///
    /// # Errors
    /// A port that somebody else listens on, with the flag that chooses another.
    pub fn new(binary: Binary, config: ProxyConfig, confine: Confine) -> Result<Self, ProxyError> {
        let path = binary.path().to_owned();
        let status = ProxyStatus { path, pid: None, started: None, restarts: 0, last_end: None };
        let mut proxy = Self { binary, config, confine, status: watch::Sender::new(status), left: None };
        if let Some(left) = Left::find(&proxy.config.cgroup, &proxy.config.owner) {
            let failed = |source| ProxyError::Start { path: proxy.binary.path().to_owned(), source };
            let takes_over = proxy.config.lifetime != Lifetime::WithUs;
            if takes_over && left.is(&proxy.binary, proxy.command().map_err(failed)?.as_std()) {
                proxy.left = Some(left);
                return Ok(proxy);
            }
            info!(pid = left.pid, "ending the Envoy of an earlier agent: it is set up otherwise");
            left.end().map_err(failed)?;
        }
        ports::check(proxy.config.admin_port, proxy.config.outbound_port)?;
        Ok(proxy)
    }

    /// How the proxy stands, also while it runs.
    pub fn status(&self) -> watch::Receiver<ProxyStatus> {
        self.status.subscribe()
    }

    /// Keeps an Envoy running until the drain is asked for.
    ///
    /// # Errors
    /// The first start fails; later ones are tried again.
    pub async fn run(mut self, drain: Drain) -> Result<(), ProxyError> {
        let path = || self.binary.path().to_owned();
        let parent = Parent::start().map_err(|source| ProxyError::Start { path: path(), source })?;
        let mut backoff = FIRST_BACKOFF;
        let mut running = match self.left.take() {
            Some(left) => self.take_over(left),
            None => self.start(&parent).await?,
        };
        loop {
            let started = Instant::now();
            let Some(end) = self.watch(running, &drain).await? else { return Ok(()) };
            warn!(path = %self.binary.path().display(), end, retry_ms = backoff.as_millis(), "Envoy ended");
            self.status.send_modify(|status| {
                (status.pid, status.started, status.last_end) = (None, None, Some(end));
            });
            if started.elapsed() >= WELL_AFTER {
                backoff = FIRST_BACKOFF;
            }
            running = loop {
                tokio::select! {
                    () = tokio::time::sleep(backoff) => {}
                    () = drain.requested() => return Ok(()),
                }
                backoff = (backoff * 2).min(MAX_BACKOFF);
                match self.start(&parent).await {
                    Ok(running) => break running,
                    Err(error) => warn!(error = &error as &dyn std::error::Error, "cannot start Envoy again"),
                }
            };
            self.status.send_modify(|status| status.restarts += 1);
        }
    }

    fn take_over(&self, left: Left) -> Running {
        info!(pid = left.pid, path = %self.binary.path().display(), "took over the Envoy of an earlier agent");
        self.status.send_modify(|status| status.pid = Some(left.pid));
        Running::Left(left)
    }

    async fn start(&self, parent: &Parent) -> Result<Running, ProxyError> {
        let failed = |source| ProxyError::Start { path: self.binary.path().to_owned(), source };
        let mut command = self.command().map_err(failed)?;
        (self.confine)(command.as_std_mut()).map_err(failed)?;
        let child = parent.spawn(command).await.map_err(failed)?;
        let pid = child.id();
        info!(pid, path = %self.binary.path().display(), outbound = %self.config.outbound_port, "Envoy started");
        self.status.send_modify(|status| (status.pid, status.started) = (pid, Some(Instant::now())));
        Ok(Running::Ours(Box::new(child)))
    }

    fn command(&self) -> io::Result<Command> {
        let config = &self.config;
        let (id, view) = (config.node_id.clone(), config.view.clone());
        let node = Introduction { id, role: Role::Proxy, view, outbound_port: config.outbound_port };
        let admin = SocketAddr::from((Ipv4Addr::LOCALHOST, config.admin_port.get()));
        let (access, owner) = (config.access.clone(), config.owner.clone());
        let bootstrap = Bootstrap { node, xds: config.xds.clone(), access, admin, owner };
        let mut command = Command::new(self.binary.to_exec());
        command.as_std_mut().env_clear();
        command
            .arg0("envoy")
            .args(["--config-yaml", &bootstrap.to_yaml()])
            .args(["--concurrency", &config.concurrency.to_string()])
            .args(["--drain-time-s", &DRAIN_SECS.to_string()])
            // Hot restart would claim shared memory and a socket that a second Envoy of the machine claims too.
            .arg("--disable-hot-restart")
            .args(["--log-level", "warning", "--log-format", output::LOG_FORMAT])
            .current_dir("/")
            // Ctrl-C on a terminal reaches the whole process group: Envoy must outlive the workloads' withdrawal.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(config.lifetime == Lifetime::WithUs);
        if let Some(secret) = bootstrap.secret() {
            command.stdin(in_memory(&secret)?).args(["--config-path", "/dev/fd/0"]);
        }
        Ok(command)
    }

    /// Waits for its end: `None` when we asked for it, or leave it.
    async fn watch(&self, running: Running, drain: &Drain) -> Result<Option<String>, ProxyError> {
        let watched = match running {
            Running::Ours(mut child) => self.watch_child(&mut child, drain).await,
            Running::Left(left) => self.watch_left(&left, drain).await,
        };
        watched.map_err(|source| ProxyError::Watch { path: self.binary.path().to_owned(), source })
    }

    /// Does it go on when we end?
    fn stays(&self) -> bool {
        let stays = self.config.lifetime == Lifetime::OutlivesUs;
        if stays {
            info!("leaving Envoy to the next start");
        }
        stays
    }

    async fn watch_left(&self, left: &Left, drain: &Drain) -> io::Result<Option<String>> {
        tokio::select! {
            ended = left.ended() => ended.map(|()| Some("an earlier agent's Envoy ended".into())),
            () = drain.requested() => {
                if !self.stays() {
                    left.stop().await?;
                    info!("Envoy stopped");
                }
                Ok(None)
            }
        }
    }

    async fn watch_child(&self, child: &mut Child, drain: &Drain) -> io::Result<Option<String>> {
        let mut last_words = LastWords::default();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let status = {
            let forwarded = output::forward(stdout, stderr, &mut last_words);
            tokio::pin!(forwarded);
            let mut closed = false;
            let status = loop {
                tokio::select! {
                    () = &mut forwarded, if !closed => closed = true,
                    status = child.wait() => break status?,
                    () = drain.requested() => {
                        if !self.stays() {
                            stop(child).await?;
                        }
                        return Ok(None);
                    }
                }
            };
            if !closed {
                // Its pipes close with it; a grandchild that holds them open is not waited for.
                let _ = tokio::time::timeout(OUTPUT_LIMIT, &mut forwarded).await;
            }
            status
        };
        Ok(Some(last_words.after(&end(status))))
    }
}

/// A file without a path: only who has it open, and root, can read it, whatever user that is.
fn in_memory(text: &str) -> io::Result<std::fs::File> {
    let name = "kuma-dns-bootstrap";
    let mut file: std::fs::File = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC)?.into();
    file.write_all(text.as_bytes())?;
    Ok(file)
}

/// Ends Envoy: politely, then for good.
async fn stop(child: &mut Child) -> io::Result<()> {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    if let Some(pid) = pid {
        // Not reaped yet, so the pid is still its own.
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
    }
    if let Ok(ended) = tokio::time::timeout(STOP_LIMIT, child.wait()).await {
        info!(end = end(ended?), "Envoy stopped");
        return Ok(());
    }
    warn!(limit_secs = STOP_LIMIT.as_secs(), "Envoy does not stop, killing it");
    child.kill().await
}

fn end(status: ExitStatus) -> String {
    status.to_string()
}
