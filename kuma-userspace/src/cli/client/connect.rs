//! Connections to the control plane: the host looked up by us, TCP, TLS where the address says https.
//! Keeps: every step has a deadline, every address of the host is tried. Called by http.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::address::Address;
use crate::dns::lookup::{LookupError, lookup};

/// How long one address may take to accept, and then for TLS.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Where distributions keep the certificates that they trust.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum ConnectError {
    #[error(transparent)]
    Lookup(#[from] LookupError),
    #[error("cannot connect to {to}")]
    Tcp { to: SocketAddr, source: io::Error },
    #[error("no connection to {to} within {} s", CONNECT_DEADLINE.as_secs())]
    Slow { to: SocketAddr },
    #[error("{to} does not show a certificate that is trusted here: name its CA with --ca-cert-file")]
    Untrusted { to: SocketAddr, source: io::Error },
    #[error("{to} does not speak TLS: use http, or another port")]
    NoTls { to: SocketAddr, source: io::Error },
}

/// Why nothing can be trusted.
#[derive(Debug, thiserror::Error)]
pub(in crate::cli) enum TrustError {
    #[error("cannot read {}", file.display())]
    Read { file: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("{} has no certificate that can be used: PEM is expected", file.display())]
    Empty { file: PathBuf },
    #[error("this system has no trusted certificates in {}: name the control plane's CA with --ca-cert-file", SYSTEM_BUNDLES.join(", "))]
    NoSystem,
    #[error("--ca-cert-file is for https, and {0} is not")]
    Plain(Address),
    #[error("TLS cannot be used")]
    Tls(#[from] rustls::Error),
}

/// Whom to trust at this address; nothing where there is no TLS.
pub(super) fn trust(address: &Address, ca: Option<&Path>) -> Result<Option<Arc<ClientConfig>>, TrustError> {
    match (address.https, ca) {
        (false, None) => return Ok(None),
        (false, Some(_)) => return Err(TrustError::Plain(address.clone())),
        _ => {}
    }
    let system = || SYSTEM_BUNDLES.iter().map(Path::new).find(|file| file.is_file());
    let file = ca.or_else(system).ok_or(TrustError::NoSystem)?;
    let read = |source| TrustError::Read { file: file.into(), source };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(read)? {
        // One that rustls cannot use harms only those that are signed by it.
        let _unusable = roots.add(certificate.map_err(read)?);
    }
    if roots.is_empty() {
        return Err(TrustError::Empty { file: file.into() });
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(Some(Arc::new(config.with_root_certificates(roots).with_no_client_auth())))
}

/// A connection, with or without TLS.
pub(super) struct Wire(TokioIo<Pin<Box<dyn Duplex>>>);

trait Duplex: AsyncRead + AsyncWrite + Send {}
impl<T: AsyncRead + AsyncWrite + Send> Duplex for T {}

/// Connects to the first address of the host that answers.
pub(super) async fn connect(
    address: &Address,
    trust: Option<Arc<ClientConfig>>,
) -> Result<Wire, ConnectError> {
    let mut last = None;
    for ip in lookup(&address.host).await? {
        let to = SocketAddr::new(ip, address.port);
        match timeout(CONNECT_DEADLINE, TcpStream::connect(to)).await {
            Ok(Ok(stream)) => return secure(address, to, stream, trust).await,
            Ok(Err(source)) => last = Some(ConnectError::Tcp { to, source }),
            Err(_elapsed) => last = Some(ConnectError::Slow { to }),
        }
    }
    Err(last.expect("a lookup gives at least one address"))
}

async fn secure(
    address: &Address,
    to: SocketAddr,
    stream: TcpStream,
    trust: Option<Arc<ClientConfig>>,
) -> Result<Wire, ConnectError> {
    // A request is one write; nothing is gained by waiting for more.
    stream.set_nodelay(true).map_err(|source| ConnectError::Tcp { to, source })?;
    let Some(config) = trust else { return Ok(Wire(TokioIo::new(Box::pin(stream)))) };
    let name = ServerName::try_from(address.host.clone())
        .map_err(|error| ConnectError::Untrusted { to, source: io::Error::other(error) })?;
    match timeout(CONNECT_DEADLINE, TlsConnector::from(config).connect(name, stream)).await {
        Ok(Ok(stream)) => Ok(Wire(TokioIo::new(Box::pin(stream)))),
        Ok(Err(source)) if is_certificate(&source) => Err(ConnectError::Untrusted { to, source }),
        Ok(Err(source)) => Err(ConnectError::NoTls { to, source }),
        Err(_elapsed) => Err(ConnectError::Slow { to }),
    }
}

fn is_certificate(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    matches!(inner, Some(rustls::Error::InvalidCertificate(_)))
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
