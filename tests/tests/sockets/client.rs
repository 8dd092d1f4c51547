//! What an application does with a socket, and what it sees. Runs in the children of a world, so everything here can
//! cross a pipe. Called by all cases.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use harness::proxy::read_line;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

/// Guests are slow, and their clocks run too fast when the machine is busy.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a connected application sees, and what its proxy was told.
#[derive(Serialize, Deserialize, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    /// The stand-in's line: SO_ORIGINAL_DST at SOL_IP and at SOL_IPV6.
    pub(crate) original: String,
    pub(crate) peer: SocketAddr,
    pub(crate) local: IpAddr,
}

/// A result with the errno, which crosses a pipe.
pub(crate) type Errno<T> = Result<T, i32>;

impl Seen {
    /// What everybody must see on a connection to `vip`.
    pub(crate) fn of(vip: &str, local: IpAddr) -> Self {
        Self { original: original(vip), peer: super::at(vip), local }
    }
}

/// The line that the stand-in must say: an IPv4 original is told as itself at SOL_IP and as mapped at SOL_IPV6.
pub(crate) fn original(vip: &str) -> String {
    let vip = super::at(vip);
    let plain = SocketAddr::new(vip.ip().to_canonical(), vip.port());
    match plain.ip() {
        IpAddr::V4(ip) => format!("{plain} {}", SocketAddr::new(ip.to_ipv6_mapped().into(), vip.port())),
        IpAddr::V6(_) => format!("{plain} {plain}"),
    }
}

/// The errno of a failure.
pub(crate) fn errno(error: io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// A TCP socket for this destination that gives up in time.
pub(crate) fn tcp(to: &str) -> Socket {
    socket(to, Type::STREAM, Protocol::TCP)
}

/// A UDP socket for this destination that gives up in time.
pub(crate) fn udp(to: &str) -> Socket {
    socket(to, Type::DGRAM, Protocol::UDP)
}

fn socket(to: &str, kind: Type, protocol: Protocol) -> Socket {
    let socket = Socket::new(Domain::for_address(super::at(to)), kind, Some(protocol)).expect("a socket");
    patient(&socket);
    socket
}

/// Lets a socket wait long, but not for ever.
pub(crate) fn patient(socket: &Socket) {
    socket.set_read_timeout(Some(PATIENCE)).expect("SO_RCVTIMEO exists");
    socket.set_write_timeout(Some(PATIENCE)).expect("SO_SNDTIMEO exists");
}

/// Connects and tells what is seen.
pub(crate) fn visit(socket: Socket, to: &str) -> Errno<Seen> {
    socket.connect(&super::at(to).into()).map_err(errno)?;
    look(socket)
}

/// Tells what is seen on a connected socket.
pub(crate) fn look(socket: Socket) -> Errno<Seen> {
    let peer = name(socket.peer_addr())?;
    let local = name(socket.local_addr())?.ip();
    let original = read_line(&mut socket.into()).map_err(errno)?;
    Ok(Seen { original, peer, local })
}

/// A socket address as the standard library has it.
pub(crate) fn name(address: io::Result<socket2::SockAddr>) -> Errno<SocketAddr> {
    address.map_err(errno)?.as_socket().ok_or(libc::EAFNOSUPPORT)
}

/// Connects a socket of its own and tells what is seen.
pub(crate) fn call(to: &str) -> Errno<Seen> {
    visit(tcp(to), to)
}

/// Tries to connect a new socket, with nothing to say.
pub(crate) fn knock(to: &str) -> Errno<()> {
    tcp(to).connect(&super::at(to).into()).map_err(errno)
}

/// One datagram, and who answers what: the resolver's port and the text.
pub(crate) fn ask(socket: &Socket, server: &str, text: &str) -> Errno<(String, SocketAddr)> {
    socket.send_to(text.as_bytes(), &super::at(server).into()).map_err(errno)?;
    hear(socket)
}

/// The next datagram and its source.
pub(crate) fn hear(socket: &Socket) -> Errno<(String, SocketAddr)> {
    let socket = UdpSocket::from(socket.try_clone().map_err(errno)?);
    let mut buffer = [0; 512];
    let (size, from) = socket.recv_from(&mut buffer).map_err(errno)?;
    Ok((String::from_utf8_lossy(&buffer[..size]).into_owned(), from))
}
