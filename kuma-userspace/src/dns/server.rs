//! A DNS server on sockets that are bound already: a thread for each UDP socket, one more for TCP and the nameservers.
//! Keeps: a mesh answer never waits for a forwarded one; it ends when asked to, with every thread. Called by agent/resolver
//! and cp/dns.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use arc_swap::ArcSwap;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use rustix::net::Shutdown;
use tokio::sync::{Semaphore, mpsc};
use tracing::{info, warn};

use super::counters::Counters;
use super::resolv_conf::{LOOK_INTERVAL, ResolvConf, ResolvConfError, Watched};
use super::tcp::Acceptor;
use super::udp::Answerer;
use super::upstream::{Asked, Forwarder, QUERIES_IN_FLIGHT};
use super::zone::Zone;
use crate::rt::Drain;

/// What the resolver's threads share with the agent.
pub struct Shared {
    /// The names of the view that is served; swapped whole.
    pub zone: ArcSwap<Zone>,
    pub counters: Counters,
    nameservers: ArcSwap<Vec<SocketAddr>>,
}

impl Shared {
    /// Serves `zone` to begin with.
    pub fn new(zone: Zone) -> Self {
        Self {
            zone: ArcSwap::from_pointee(zone),
            counters: Counters::default(),
            nameservers: ArcSwap::default(),
        }
    }

    /// The nameservers that everything else goes to.
    pub fn nameservers(&self) -> Arc<Vec<SocketAddr>> {
        self.nameservers.load_full()
    }

    pub(super) fn set_nameservers(&self, nameservers: Vec<SocketAddr>) {
        self.nameservers.store(Arc::new(nameservers));
    }
}

/// The resolver's sockets: they belong to the workload's network namespace, whoever reads them.
#[derive(Debug, Default)]
pub struct Sockets {
    /// In blocking mode: each has a thread.
    pub udp: Vec<UdpSocket>,
    pub tcp: Vec<TcpListener>,
}

/// The resolver. [`Server::run`] needs a thread of its own inside the workload's network namespace, since the sockets
/// towards the nameservers are opened by it.
pub struct Server {
    pub sockets: Sockets,
    pub shared: Arc<Shared>,
    /// Who answers what the zone does not. `None`: an authority's zone answers everything.
    pub resolv_conf: Option<PathBuf>,
}

/// Why the resolver ended.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("cannot use a socket of the resolver")]
    Socket(#[source] io::Error),
    #[error("cannot start a thread of the resolver")]
    Thread(#[source] io::Error),
    #[error("cannot receive DNS queries")]
    Receive(#[source] io::Error),
    #[error("a thread of the resolver panicked")]
    Panicked,
}

impl Server {
    /// Serves until the drain is asked for. Must run on a current-thread runtime.
    ///
    /// # Errors
    /// A socket that does not work any more.
    pub async fn run(self, drain: Drain) -> Result<(), ServerError> {
        let places = Arc::new(Semaphore::new(QUERIES_IN_FLIGHT));
        let (forward, inbox) = mpsc::channel(QUERIES_IN_FLIGHT);
        let own = own_addresses(&self.sockets).map_err(ServerError::Socket)?;
        let (forwarder, opened) = Forwarder::new(self.shared.clone());
        let forwarder = Rc::new(forwarder);
        let mut resolv_conf = self.resolv_conf.map(|file| ResolvConfWatch {
            file: Watched::new(file),
            own,
            forwarder: forwarder.clone(),
        });
        if let Some(resolv_conf) = &mut resolv_conf {
            resolv_conf.look();
        }

        let acceptors = self.sockets.tcp.into_iter().map(|listener| {
            listener.set_nonblocking(true)?;
            let listener = tokio::net::TcpListener::from_std(listener)?;
            let (shared, forwarder) = (self.shared.clone(), forwarder.clone());
            Ok(Acceptor { listener, shared, forwarder, places: places.clone() })
        });
        let acceptors = acceptors.collect::<io::Result<Vec<_>>>().map_err(ServerError::Socket)?;
        let mut connections: FuturesUnordered<_> = acceptors.iter().map(Acceptor::run).collect();

        let mut threads = Threads::start(self.sockets.udp, &self.shared, &forward, &places)?;
        drop(forward);
        tokio::select! {
            () = drain.requested() => {}
            () = threads.one_ended() => {}
            () = forwarder.run(inbox, opened) => {}
            () = watch(resolv_conf.as_mut()) => {}
            Some(()) = connections.next(), if !connections.is_empty() => {}
        }
        threads.stop()
    }
}

/// Never returns.
async fn watch(resolv_conf: Option<&mut ResolvConfWatch>) {
    match resolv_conf {
        Some(resolv_conf) => resolv_conf.watch().await,
        None => std::future::pending().await,
    }
}

/// Where we listen ourselves: a nameserver there would be a loop.
fn own_addresses(sockets: &Sockets) -> io::Result<Vec<SocketAddr>> {
    let udp = sockets.udp.iter().map(UdpSocket::local_addr);
    udp.chain(sockets.tcp.iter().map(TcpListener::local_addr)).collect()
}

/// Keeps the forwarder's nameservers in step with the file.
struct ResolvConfWatch {
    file: Watched,
    own: Vec<SocketAddr>,
    forwarder: Rc<Forwarder>,
}

impl ResolvConfWatch {
    async fn watch(&mut self) {
        let mut interval = tokio::time::interval(LOOK_INTERVAL);
        loop {
            interval.tick().await;
            self.look();
        }
    }

    fn look(&mut self) {
        match self.file.look() {
            None => {}
            Some(Ok(content)) => self.take(content),
            Some(Err(error)) => self.lose(&error),
        }
    }

    fn take(&self, content: ResolvConf) {
        let file = self.file.path().display();
        for (line, text) in &content.unreadable {
            warn!(%file, line, text, "not an address, this nameserver is not asked");
        }
        let (own, others): (Vec<_>, Vec<_>) =
            content.nameservers.into_iter().partition(|at| self.own.contains(at));
        for nameserver in own {
            warn!(%file, %nameserver, "this nameserver is our own listener, asking it would be a loop: not asked");
        }
        if others.is_empty() {
            warn!(%file, "no nameserver to ask: names outside the mesh get SERVFAIL; add a 'nameserver' line");
        } else {
            info!(%file, nameservers = ?others, "asking these for names outside the mesh");
        }
        self.forwarder.set_nameservers(&others);
    }

    /// A file in the middle of being replaced must not take away what works; at the start there is nothing to keep.
    fn lose(&self, error: &ResolvConfError) {
        let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        warn!(%error, cause, "going on with the nameservers known before; without any, names outside the mesh get SERVFAIL");
    }
}

/// The threads of the UDP sockets.
struct Threads {
    running: Vec<(JoinHandle<io::Result<()>>, Arc<UdpSocket>)>,
    stop: Arc<AtomicBool>,
    ended: mpsc::Receiver<()>,
}

/// Tells that its thread has ended, by whatever way.
struct Ending(mpsc::Sender<()>);

impl Drop for Ending {
    fn drop(&mut self) {
        // Full or closed: the end of another thread was heard already.
        let _heard_before = self.0.try_send(());
    }
}

impl Threads {
    fn start(
        sockets: Vec<UdpSocket>,
        shared: &Arc<Shared>,
        forward: &mpsc::Sender<Asked>,
        places: &Arc<Semaphore>,
    ) -> Result<Self, ServerError> {
        let (ending, ended) = mpsc::channel(1);
        let mut threads = Self { running: Vec::new(), stop: Arc::default(), ended };
        for socket in sockets {
            let socket = Arc::new(socket);
            let answerer = Answerer {
                socket: socket.clone(),
                shared: shared.clone(),
                forward: forward.clone(),
                places: places.clone(),
                stop: threads.stop.clone(),
            };
            let ending = Ending(ending.clone());
            let started = std::thread::Builder::new().name("dns-udp".into()).spawn(move || {
                let _ending = ending;
                answerer.run()
            });
            match started {
                Ok(thread) => threads.running.push((thread, socket)),
                Err(source) => {
                    threads.stop()?;
                    return Err(ServerError::Thread(source));
                }
            }
        }
        Ok(threads)
    }

    /// Returns when any of them has ended; at once if there is none left to end.
    async fn one_ended(&mut self) {
        if self.running.is_empty() {
            std::future::pending::<()>().await;
        }
        self.ended.recv().await;
    }

    /// Wakes and joins all. A blocked thread returns from its receive as soon as the socket is shut down.
    fn stop(self) -> Result<(), ServerError> {
        self.stop.store(true, Ordering::Relaxed);
        let mut first = Ok(());
        for (thread, socket) in self.running {
            // ENOTCONN: that is what an unconnected UDP socket says after it has woken its readers.
            let _not_connected = rustix::net::shutdown(&socket, Shutdown::Both);
            let ended = match thread.join() {
                Ok(ended) => ended.map_err(ServerError::Receive),
                Err(_panic) => Err(ServerError::Panicked),
            };
            first = first.and(ended);
        }
        first
    }
}
