//! The echo server: one thread, one epoll. Keeps: it asks each connection for its original destination once, as a proxy
//! does, in every variant. Called by main.

use std::collections::HashMap;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd as _, OwnedFd};

use anyhow::{Context as _, Result};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};

/// Connections that wait for accept.
const BACKLOG: i32 = 1024;

/// Events taken from the kernel at once.
const EVENTS: usize = 64;

/// What is read at once.
const CHUNK_BYTES: usize = 64 * 1024;

struct Server {
    epoll: OwnedFd,
    listeners: HashMap<u64, TcpListener>,
    streams: HashMap<u64, TcpStream>,
    chunk: Vec<u8>,
}

/// Serves until it is killed.
pub(crate) fn run(addresses: &[SocketAddr]) -> Result<()> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("cannot make an epoll")?;
    let mut listeners = HashMap::new();
    for address in addresses {
        let listener = listen(*address).with_context(|| format!("cannot listen on {address}"))?;
        let key = watch(&epoll, &listener)?;
        listeners.insert(key, listener);
    }
    println!("ready");
    std::io::stdout().flush().context("cannot say that it is ready")?;
    let mut server =
        Server { epoll, listeners, streams: HashMap::new(), chunk: Vec::with_capacity(CHUNK_BYTES) };
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        events.clear();
        match epoll::wait(&server.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("cannot wait"),
        }
        for event in &events {
            server.turn(event.data.u64())?;
        }
    }
}

impl Server {
    fn turn(&mut self, key: u64) -> Result<()> {
        if let Some(listener) = self.listeners.get(&key) {
            let (stream, _) = listener.accept().context("cannot accept")?;
            ask_for_destination(&stream);
            stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
            let key = watch(&self.epoll, &stream)?;
            self.streams.insert(key, stream);
        } else if let Some(stream) = self.streams.get_mut(&key)
            && !echo(stream, &mut self.chunk)
        {
            self.streams.remove(&key);
        }
        Ok(())
    }
}

/// Reads once and sends it back; false: the connection is over.
fn echo(stream: &mut TcpStream, chunk: &mut Vec<u8>) -> bool {
    chunk.clear();
    match rustix::io::read(&*stream, spare_capacity(chunk)) {
        Ok(0) | Err(_) => false,
        Ok(_) => stream.write_all(chunk).is_ok(),
    }
}

/// A direct connection has none: that it fails there is part of the measurement.
fn ask_for_destination(stream: &TcpStream) {
    match stream.local_addr() {
        Ok(SocketAddr::V4(_)) => drop(sockopt::ip_original_dst(stream)),
        Ok(SocketAddr::V6(_)) => drop(sockopt::ipv6_original_dst(stream)),
        Err(_) => {}
    }
}

fn watch(epoll: &OwnedFd, socket: &impl std::os::fd::AsFd) -> Result<u64> {
    let key = u64::try_from(socket.as_fd().as_raw_fd()).expect("an open file has a number from 0 up");
    epoll::add(epoll, socket, epoll::EventData::new_u64(key), epoll::EventFlags::IN)
        .context("cannot watch a socket")?;
    Ok(key)
}

/// IPv6 listeners take IPv6 only, so that both families can have the same port.
fn listen(address: SocketAddr) -> Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(
        family,
        SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        Some(rustix::net::ipproto::TCP),
    )?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}
