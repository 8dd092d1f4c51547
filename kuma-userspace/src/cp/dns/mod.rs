//! The control plane's DNS server: the whole mesh domain with the names of every mesh, over UDP and TCP, for a cluster's
//! own DNS to forward to. Authoritative only: what lies outside the domain is refused.
//! Keeps: off unless it is given a port, on loopback unless it is told an address; an answer never waits for the store or
//! a snapshot. Called by cp.

mod listen;
mod names;

pub use self::listen::{DEFAULT_PORT, Listen};
pub(super) use self::listen::{FIELDS, read};

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::{Arc, OnceLock};

use socket2::SockRef;
use tokio::sync::{oneshot, watch};
use tracing::{debug, info, warn};

use self::names::Names;
use super::resources::Resources;
use super::snapshot::Snapshot;
use crate::dns::counters::Counts;
use crate::dns::server::{Server, ServerError, Shared, Sockets};
use crate::model::view::Addresses;
use crate::rt::Drain;

/// Room for a burst of queries; the kernel gives what net.core.rmem_max allows.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;

/// Why nobody is answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "{transport} {at} is in use, so dnsServer.port {port} cannot be taken: `ss -Hlnp sport = :{port}` says by whom, or \
         choose another dnsServer.port (0: no DNS server)", port = at.port()
    )]
    InUse { transport: &'static str, at: SocketAddr },
    #[error("dnsServer.address {} is no address of this machine", .at.ip())]
    NotOurs { at: SocketAddr },
    #[error("cannot listen on {transport} {at} (dnsServer.port)")]
    Listen { transport: &'static str, at: SocketAddr, source: io::Error },
    #[error("cannot start the thread of the DNS server")]
    Thread(#[source] io::Error),
    #[error("the thread of the DNS server panicked")]
    Panicked,
    #[error("building the table of names panicked")]
    Build(#[source] tokio::task::JoinError),
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// A server that has taken its ports and answers nobody yet.
pub(super) struct DnsServer {
    listen: Listen,
    sockets: Sockets,
    counted: Counted,
}

/// What it answers, at any time; nothing before it runs.
#[derive(Clone, Default)]
pub struct Counted(Arc<OnceLock<Arc<Shared>>>);

impl Counted {
    /// The counters now.
    pub fn counts(&self) -> Option<Counts> {
        Some(self.0.get()?.counters.counts())
    }
}

impl fmt::Debug for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Counted").field(&self.counts()).finish()
    }
}

impl DnsServer {
    /// Takes the ports; nothing if the server is off.
    pub(super) fn bind(listen: &Listen) -> Result<Option<Self>, Error> {
        let mut sockets = Sockets::default();
        for at in listen.addresses() {
            match bind_at(at, &mut sockets) {
                // Without IPv6 there is no [::1], and nobody asks for it.
                Err(Error::NotOurs { .. }) if listen.address.is_none() && at.is_ipv6() => {
                    debug!(%at, "no IPv6 here, the DNS server listens on IPv4 alone");
                }
                other => other?,
            }
        }
        let listen = listen.clone();
        Ok((!sockets.udp.is_empty()).then_some(Self { listen, sockets, counted: Counted::default() }))
    }

    /// Reads what it has answered, also while it runs.
    pub(super) fn counted(&self) -> Counted {
        self.counted.clone()
    }

    /// Answers with what `snapshots` holds until the drain is asked for. Settings that change while it runs are for the
    /// next start.
    pub(super) async fn run(
        self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        resources: watch::Receiver<Arc<Resources>>,
        drain: Drain,
    ) -> Result<(), Error> {
        let own = self.own_addresses();
        let first = snapshots.borrow_and_update().clone();
        let names = blocking(move || Names::new(&first, own)).await?;
        let shared = Arc::new(Shared::new(names.zone().clone()));
        let _first = self.counted.0.set(shared.clone());
        let at = self.listen.addresses();
        info!(?at, "answering mesh names over UDP and TCP");
        let server = Server { sockets: self.sockets, shared: shared.clone(), resolv_conf: None };
        tokio::select! {
            ended = on_a_thread(server, drain) => ended,
            Err(error) = follow(snapshots, names, &shared) => Err(error),
            never = watch_settings(resources, self.listen) => match never {},
        }
    }

    /// What the server's own name resolves to: where it listens, if that is an address.
    fn own_addresses(&self) -> Addresses {
        let mut own = Addresses::default();
        for ip in self.listen.addresses().iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified()) {
            match ip {
                IpAddr::V4(v4) => own.v4 = Some(v4),
                IpAddr::V6(v6) => own.v6 = Some(v6),
            }
        }
        own
    }
}

fn bind_at(at: SocketAddr, sockets: &mut Sockets) -> Result<(), Error> {
    let udp = UdpSocket::bind(at).map_err(|source| refused("UDP", at, source))?;
    if let Err(error) = SockRef::from(&udp).set_recv_buffer_size(RECEIVE_BUFFER_BYTES) {
        debug!(%error, "the receive buffer stays as it is");
    }
    let tcp = TcpListener::bind(at).map_err(|source| refused("TCP", at, source))?;
    sockets.udp.push(udp);
    sockets.tcp.push(tcp);
    Ok(())
}

fn refused(transport: &'static str, at: SocketAddr, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::AddrInUse => Error::InUse { transport, at },
        io::ErrorKind::AddrNotAvailable => Error::NotOurs { at },
        // EAFNOSUPPORT: a kernel that was booted without IPv6.
        _ if source.raw_os_error() == Some(libc::EAFNOSUPPORT) => Error::NotOurs { at },
        _ => Error::Listen { transport, at, source },
    }
}

/// The server needs a thread of its own.
async fn on_a_thread(server: Server, drain: Drain) -> Result<(), Error> {
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new()
        .name("dns-server".into())
        .spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let outcome =
                runtime.map_err(Error::Thread).and_then(|runtime| Ok(runtime.block_on(server.run(drain))?));
            // Nobody listens only if the control plane itself is gone.
            let _nobody = ended.send(outcome);
        })
        .map_err(Error::Thread)?;
    end.await.unwrap_or(Err(Error::Panicked))
}

/// Swaps the zone with every snapshot; returns when there are no more snapshots.
async fn follow(
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    mut names: Names,
    shared: &Shared,
) -> Result<(), Error> {
    while snapshots.changed().await.is_ok() {
        let snapshot = snapshots.borrow_and_update().clone();
        names = blocking(move || {
            names.follow(&snapshot);
            names
        })
        .await?;
        shared.zone.store(Arc::new(names.zone().clone()));
        debug!("the names of the newest snapshot are answered");
    }
    Ok(())
}

/// Says once for each change that it is for the next start.
async fn watch_settings(mut resources: watch::Receiver<Arc<Resources>>, mut known: Listen) -> Infallible {
    while resources.changed().await.is_ok() {
        let now = resources.borrow_and_update().settings.dns_server.clone();
        if now != known {
            warn!("dnsServer.port or dnsServer.address has changed: restart the control plane for it");
            known = now;
        }
    }
    std::future::pending().await
}

/// Tables of 100,000 names take their time: they are built where that holds nobody up.
async fn blocking(work: impl FnOnce() -> Names + Send + 'static) -> Result<Names, Error> {
    tokio::task::spawn_blocking(work).await.map_err(Error::Build)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::model::view::Port;

    #[test]
    fn a_port_in_use_is_an_error_that_names_the_setting_and_no_port_is_no_server() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let listen = Listen { port: Some(Port::new(taken.local_addr().unwrap().port())), address: None };
        let error = DnsServer::bind(&listen).err().unwrap().to_string();
        assert!(
            error.contains("dnsServer.port") && error.contains("is in use") && error.contains("ss -Hlnp"),
            "{error}"
        );
        assert!(DnsServer::bind(&Listen::default()).unwrap().is_none());
        let elsewhere = Listen { address: Some("192.0.2.1".parse().unwrap()), ..listen };
        let error = DnsServer::bind(&elsewhere).err().unwrap().to_string();
        assert!(error.contains("dnsServer.address 192.0.2.1"), "{error}");
    }
}
