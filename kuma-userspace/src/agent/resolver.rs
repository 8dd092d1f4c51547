//! The resolver's place: its sockets, bound inside the workload's network namespace on loopback only, and the thread
//! inside that namespace on which it runs. Keeps: all ports are there before anything is redirected to them.
//! Called by agent/mod.rs.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use socket2::SockRef;
use tokio::sync::oneshot;
use tracing::{debug, warn};

use crate::dns::server::{Server, ServerError, Sockets};
use crate::model::datapath::DNS_SLOTS;
use crate::model::view::Port;
use crate::rt::Drain;

/// Room for a burst of queries on one socket; the kernel gives what net.core.rmem_max allows.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
/// One port for connected sockets and TCP, and one for each nameserver of an unconnected socket.
const UDP_PORTS: u16 = 1 + DNS_SLOTS as u16;

/// Runs a job inside the workload's network namespace; returns when the job has.
pub type Inside = Arc<dyn Fn(&mut (dyn FnMut() + Send)) -> Result<(), InsideError> + Send + Sync>;
/// Why the namespace could not be entered.
pub type InsideError = Box<dyn std::error::Error + Send + Sync>;

/// Why the resolver is not there.
#[derive(Debug, thiserror::Error)]
pub enum ResolverError {
    #[error("DNS port {0} leaves no room for the {UDP_PORTS} ports of the resolver: take one up to {max} with --dns-port", max = u16::MAX - (UDP_PORTS - 1))]
    NoRoom(Port),
    #[error(
        "{transport} port {at} is in use, the resolver needs {first} to {last}: `ss -Hlnp{letter} sport = :{port}` says by whom, \
         or take others with --dns-port", port = at.port()
    )]
    InUse { transport: &'static str, letter: char, at: SocketAddr, first: Port, last: Port },
    #[error("{at} is no address of the workload's network namespace: run `ip link set lo up` in it")]
    LoopbackDown { at: SocketAddr },
    #[error("cannot listen on {transport} {at}")]
    Listen { transport: &'static str, at: SocketAddr, source: io::Error },
    #[error("cannot enter the workload's network namespace")]
    Inside(#[source] InsideError),
    #[error("cannot start the resolver's thread")]
    Thread(#[source] io::Error),
    #[error("the resolver's thread panicked")]
    Panicked,
    #[error(transparent)]
    Server(#[from] ServerError),
}

/// Binds every port of the resolver inside the namespace.
///
/// # Errors
/// A port in use, by name; a namespace whose loopback is down. A namespace without IPv6 is served over IPv4 alone.
pub fn bind(first: Port, inside: &Inside) -> Result<Sockets, ResolverError> {
    if first.get() > u16::MAX - (UDP_PORTS - 1) {
        return Err(ResolverError::NoRoom(first));
    }
    raise_descriptor_limit();
    let mut bound = None;
    inside(&mut || bound = Some(bind_here(first))).map_err(ResolverError::Inside)?;
    bound.ok_or(ResolverError::Panicked)?
}

/// Each forwarded query over TCP has two sockets: the soft limit on descriptors becomes the hard one.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    if let Err(error) = raised {
        debug!(%error, "the limit on open files stays as it is");
    }
}

fn bind_here(first: Port) -> Result<Sockets, ResolverError> {
    let mut sockets = Sockets::default();
    bind_family(Ipv4Addr::LOCALHOST.into(), first, &mut sockets)?;
    match bind_family(Ipv6Addr::LOCALHOST.into(), first, &mut sockets) {
        Err(ResolverError::LoopbackDown { at }) => {
            warn!(%at, "no IPv6 here, the resolver listens on IPv4 alone")
        }
        other => other?,
    }
    Ok(sockets)
}

fn bind_family(ip: IpAddr, first: Port, sockets: &mut Sockets) -> Result<(), ResolverError> {
    for offset in 0..UDP_PORTS {
        let at = SocketAddr::new(ip, first.get() + offset);
        let socket = UdpSocket::bind(at).map_err(|source| refused("UDP", at, first, source))?;
        if let Err(error) = SockRef::from(&socket).set_recv_buffer_size(RECEIVE_BUFFER_BYTES) {
            debug!(%error, "the receive buffer stays as it is");
        }
        sockets.udp.push(socket);
    }
    let at = SocketAddr::new(ip, first.get());
    sockets.tcp.push(TcpListener::bind(at).map_err(|source| refused("TCP", at, first, source))?);
    Ok(())
}

fn refused(transport: &'static str, at: SocketAddr, first: Port, source: io::Error) -> ResolverError {
    let last = Port::new(first.get() + UDP_PORTS - 1);
    let letter = if transport == "UDP" { 'u' } else { 't' };
    match source.kind() {
        io::ErrorKind::AddrInUse => ResolverError::InUse { transport, letter, at, first, last },
        io::ErrorKind::AddrNotAvailable => ResolverError::LoopbackDown { at },
        // EAFNOSUPPORT: a kernel that was booted without IPv6.
        _ if at.is_ipv6() && source.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            ResolverError::LoopbackDown { at }
        }
        _ => ResolverError::Listen { transport, at, source },
    }
}

/// Runs the resolver on a thread inside the namespace until the drain is asked for.
///
/// # Errors
/// Whatever ends it before that.
pub async fn run(server: Server, inside: Inside, drain: Drain) -> Result<(), ResolverError> {
    let (ended, end) = oneshot::channel();
    thread::Builder::new()
        .name("resolver".into())
        .spawn(move || {
            let (mut server, mut outcome) = (Some(server), Err(ResolverError::Panicked));
            let entered = inside(&mut || {
                if let Some(server) = server.take() {
                    outcome = block_on(server, drain.clone());
                }
            });
            // Nobody listens only if the agent itself is gone.
            let _nobody = ended.send(entered.map_err(ResolverError::Inside).and(outcome));
        })
        .map_err(ResolverError::Thread)?;
    end.await.unwrap_or(Err(ResolverError::Panicked))
}

fn block_on(server: Server, drain: Drain) -> Result<(), ResolverError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ResolverError::Thread)?;
    Ok(runtime.block_on(server.run(drain))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here() -> Inside {
        Arc::new(|job| {
            job();
            Ok(())
        })
    }

    #[test]
    fn a_port_in_use_is_named_with_the_way_out() {
        let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        // The first of the five may be free; the taken one is then the second.
        let error = bind(Port::new(port - 1), &here()).unwrap_err().to_string();
        assert!(
            error.contains("is in use") && error.contains("--dns-port") && error.contains("ss -Hlnp"),
            "{error}"
        );
    }

    #[test]
    fn ports_that_do_not_fit_below_65536_are_refused() {
        let error = bind(Port::new(65_532), &here()).unwrap_err().to_string();
        assert!(error.contains("take one up to 65531"), "{error}");
    }
}
