//! A port whose connections are plain or TLS. Keeps: a client that is slow to shake hands, or never does, holds back no
//! other; the number of those is limited. Called by cp::xds (as a stream of connections) and REST (as axum's listener).

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, Stream, StreamExt, unfold};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tracing::{debug, warn};

/// Handshakes at one time; more connections wait in the kernel's queue.
const MAX_HANDSHAKES: usize = 256;
/// From accept to the end of the handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
/// After an error that the next attempt would meet too: no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why a port cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {addr}")]
pub struct BindError {
    pub addr: SocketAddr,
    pub source: io::Error,
}

/// A bound port.
pub struct Listener {
    tcp: TcpListener,
    addr: SocketAddr,
    tls: Option<TlsAcceptor>,
    shaking: FuturesUnordered<Handshake>,
}

type Handshake = Pin<Box<dyn Future<Output = Option<(Connection, SocketAddr)>> + Send>>;

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listener")
            .field("addr", &self.addr)
            .field("tls", &self.is_tls())
            .finish_non_exhaustive()
    }
}

impl Listener {
    /// Takes the port: whoever connects from now on waits and is not refused.
    ///
    /// # Errors
    /// The address is taken, or is none of this machine.
    pub async fn bind(addr: SocketAddr) -> Result<Self, BindError> {
        let failed = |source| BindError { addr, source };
        let tcp = TcpListener::bind(addr).await.map_err(failed)?;
        let addr = tcp.local_addr().map_err(failed)?;
        Ok(Self { tcp, addr, tls: None, shaking: FuturesUnordered::new() })
    }

    /// From here on clients must speak TLS, when there is some.
    #[must_use]
    pub fn with_tls(self, tls: Option<Arc<ServerConfig>>) -> Self {
        Self { tls: tls.map(TlsAcceptor::from), ..self }
    }

    /// Where it listens: the port that was taken when 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Must a client speak TLS?
    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The next connection, ready to be spoken on. Nothing is lost when this is cancelled.
    pub async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            tokio::select! {
                Some(done) = self.shaking.next(), if !self.shaking.is_empty() => {
                    if let Some(ready) = done {
                        return ready;
                    }
                }
                accepted = self.tcp.accept(), if self.shaking.len() < MAX_HANDSHAKES => match accepted {
                    Ok((stream, peer)) => {
                        // Without it every answer of more than one segment waits 40 ms for a delayed ACK.
                        if let Err(error) = stream.set_nodelay(true) {
                            debug!(%peer, %error, "a connection broke before it was used");
                            continue;
                        }
                        match &self.tls {
                            None => return (Connection::Plain(stream), peer),
                            Some(acceptor) => {
                                let handshake = shake(acceptor.clone(), stream, peer);
                                self.shaking.push(Box::pin(handshake));
                            }
                        }
                    }
                    Err(error) if is_of_one_connection(&error) => {}
                    Err(error) => {
                        warn!(addr = %self.addr, %error, "cannot accept connections, trying again");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
    }

    /// The connections as tonic takes them.
    pub fn into_incoming(self) -> impl Stream<Item = Result<Connection, io::Error>> + Send {
        unfold(self, |mut listener| async move {
            let (connection, _) = listener.accept().await;
            Some((Ok(connection), listener))
        })
    }
}

async fn shake(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    peer: SocketAddr,
) -> Option<(Connection, SocketAddr)> {
    match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some((Connection::Tls(Box::new(stream)), peer)),
        Ok(Err(error)) => {
            warn!(%peer, %error, "a client did not agree on TLS: does it speak TLS, and does it trust our certificate?");
            None
        }
        Err(_elapsed) => {
            debug!(%peer, limit_secs = HANDSHAKE_LIMIT.as_secs(), "a client did not end its TLS handshake in time");
            None
        }
    }
}

/// The client went while it waited: the listener itself is well.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

impl axum::serve::Listener for Listener {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        Self::accept(self).await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }
}

/// A connection to one client.
#[derive(Debug)]
pub enum Connection {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.tcp().connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bytes),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
