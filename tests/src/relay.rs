//! A network between a client and a server that can be cut: bytes are then neither lost nor delivered, and nobody is told,
//! as on a real one. Called by tests of replicas.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// What one read takes at most.
const CHUNK_BYTES: usize = 64 * 1024;

#[derive(Default)]
struct Wire {
    cut: Mutex<bool>,
    joined: Condvar,
}

impl Wire {
    /// Returns when the wire is whole.
    fn pass(&self) {
        let cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.joined.wait_while(cut, |cut| *cut));
    }
}

/// Forwards every connection to one address. Its threads end with their connections, the last with the process.
pub struct Relay {
    address: SocketAddr,
    wire: Arc<Wire>,
}

impl Relay {
    /// Listens on a port of its own.
    ///
    /// # Errors
    /// There is none.
    pub fn start(to: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?;
        let wire = Arc::new(Wire::default());
        let passing = wire.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let wire = passing.clone();
                std::thread::spawn(move || connect(&client, to, &wire));
            }
        });
        Ok(Self { address, wire })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing passes.
    pub fn cut(&self) {
        *self.wire.cut.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Everything passes again, also what was held up.
    pub fn join(&self) {
        *self.wire.cut.lock().unwrap_or_else(PoisonError::into_inner) = false;
        self.wire.joined.notify_all();
    }
}

fn connect(client: &TcpStream, to: SocketAddr, wire: &Wire) {
    wire.pass();
    let Ok(server) = TcpStream::connect(to) else { return };
    std::thread::scope(|scope| {
        scope.spawn(|| pump(client, &server, wire));
        pump(&server, client, wire);
    });
}

fn pump(mut from: &TcpStream, mut to: &TcpStream, wire: &Wire) {
    let mut bytes = vec![0; CHUNK_BYTES];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        wire.pass();
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    // The end is news as well.
    wire.pass();
    let _ = (from.shutdown(Shutdown::Read), to.shutdown(Shutdown::Write));
}
