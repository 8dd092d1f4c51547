//! Stand-ins for the proxy and the resolver of a pod: they say what reached them. A connection is told its original destination
//! in one line, then everything is echoed; a datagram comes back with the port that it reached. Called by datapath.

use std::io::{self, Read, Write};
use std::net::{
    Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream, UdpSocket,
};
use std::os::fd::AsRawFd;

use kuma_dns::model::view::Port;
use socket2::{Domain, Protocol, Socket, Type};

/// SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST (uapi/linux/netfilter_ipv4.h)
const SO_ORIGINAL_DST: libc::c_int = 80;
/// Clients come in bursts.
const BACKLOG: i32 = 4096;
/// The ports of the resolver: one for connected sockets, four slots.
pub const RESOLVER_PORTS: u16 = 5;

/// Where the stand-ins listen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    pub outbound: Port,
    pub dns: Port,
}

impl Default for Ports {
    fn default() -> Self {
        Self { outbound: Port::new(15001), dns: Port::new(15053) }
    }
}

/// Listens like Envoy's outbound listener and the resolver, and serves until the process ends.
///
/// # Panics
/// When a port is taken.
pub fn serve(ports: Ports) {
    for listener in [
        tcp(Ipv4Addr::UNSPECIFIED.into(), ports.outbound.get()),
        tcp(Ipv6Addr::UNSPECIFIED.into(), ports.outbound.get()),
    ] {
        accept_all(listener, |stream| answer(stream, originals));
    }
    for ip in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
        accept_all(tcp(ip, ports.dns.get()), |stream| answer(stream, |_stream| "resolver".into()));
        for port in ports.dns.get()..ports.dns.get() + RESOLVER_PORTS {
            let socket = UdpSocket::bind((ip, port)).expect("a port of the resolver is free");
            std::thread::spawn(move || answer_datagrams(&socket, port));
        }
    }
    loop {
        std::thread::park();
    }
}

fn tcp(ip: std::net::IpAddr, port: u16) -> TcpListener {
    let address = SocketAddr::new(ip, port);
    let socket =
        Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP)).expect("a socket");
    if address.is_ipv6() {
        socket.set_only_v6(true).expect("IPV6_V6ONLY exists");
    }
    socket.set_reuse_address(true).expect("SO_REUSEADDR exists");
    socket.bind(&address.into()).unwrap_or_else(|error| panic!("cannot listen on {address}: {error}"));
    socket.listen(BACKLOG).expect("a bound socket can listen");
    socket.into()
}

fn accept_all(listener: TcpListener, serve: fn(TcpStream)) {
    std::thread::spawn(move || {
        for stream in listener.incoming().filter_map(Result::ok) {
            std::thread::spawn(move || serve(stream));
        }
    });
}

/// One line, then the echo.
fn answer(mut stream: TcpStream, line: fn(&TcpStream) -> String) {
    let line = line(&stream);
    let mut buffer = [0; 64 * 1024];
    if stream.write_all(format!("{line}\n").as_bytes()).is_err() {
        return;
    }
    // A client that resets is no concern of ours.
    while let Ok(filled @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..filled]).is_err() {
            return;
        }
    }
}

fn answer_datagrams(socket: &UdpSocket, port: u16) {
    let mut buffer = [0; 2048];
    while let Ok((filled, from)) = socket.recv_from(&mut buffer) {
        let reply = [format!("{port} ").as_bytes(), &buffer[..filled]].concat();
        let _ = socket.send_to(&reply, from);
    }
}

/// What SO_ORIGINAL_DST says at both levels: `<SOL_IP> <SOL_IPV6>`, `-` for an error.
fn originals(stream: &TcpStream) -> String {
    let at = |level| {
        original_dst(stream, level).map_or_else(|_error| "-".to_owned(), |address| address.to_string())
    };
    format!("{} {}", at(libc::SOL_IP), at(libc::SOL_IPV6))
}

/// Asks as Envoy does: the option, a whole `sockaddr_storage`, and the family of the answer is believed.
///
/// # Errors
/// What the kernel or our hook answers.
pub fn original_dst(stream: &TcpStream, level: libc::c_int) -> io::Result<SocketAddr> {
    let mut storage = [0_u8; size_of::<libc::sockaddr_storage>()];
    let mut len = storage.len() as libc::socklen_t;
    // SAFETY: the buffer and its length are live locals that belong together.
    #[expect(unsafe_code, reason = "no wrapper knows this option at both levels")]
    let ret = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            level,
            SO_ORIGINAL_DST,
            storage.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if ret != 0 {
        return Err(io::Error::last_os_error());
    }
    parse(&storage[..len as usize])
        .ok_or_else(|| io::Error::other(format!("{len} bytes are no socket address")))
}

fn parse(bytes: &[u8]) -> Option<SocketAddr> {
    let family = i32::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match (family, bytes.len()) {
        (libc::AF_INET, 16) => {
            let ip: [u8; 4] = bytes[4..8].try_into().ok()?;
            Some(SocketAddrV4::new(ip.into(), port).into())
        }
        (libc::AF_INET6, 28) => {
            let ip: [u8; 16] = bytes[8..24].try_into().ok()?;
            Some(SocketAddrV6::new(ip.into(), port, 0, 0).into())
        }
        _ => None,
    }
}

/// Reads the one line that a stand-in says at the beginning.
///
/// # Errors
/// The connection ends or times out before the line does.
pub fn read_line(stream: &mut TcpStream) -> io::Result<String> {
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte[0] != b'\n' {
        line.push(byte[0]);
    }
    String::from_utf8(line).map_err(io::Error::other)
}
