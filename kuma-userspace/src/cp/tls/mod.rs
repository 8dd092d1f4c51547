//! TLS of what we serve: who we are ([`Identity`]), and connections that prove it ([`Listener`]).
//! Keeps: a certificate that was replaced is used from the next connection on, without a restart; what replaced it and cannot
//! be used changes nothing. Called by cp for xDS and REST.

mod authority;
mod files;
mod listener;

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tracing::{info, warn};

use self::authority::Subject;
pub use self::authority::{Authority, AuthorityError};
pub use self::files::{Files, FilesError};
pub use self::listener::{BindError, Connection, Listener};
use crate::rt::Drain;

/// How often files are looked at again.
const RELOAD_INTERVAL: Duration = Duration::from_secs(2);

/// How connections are made safe.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Transport {
    #[default]
    Plain,
    /// With this certificate.
    Tls(Files),
    /// With a certificate that we make, by an authority that all replicas share.
    Issued,
}

/// A certificate with its key, as it is now.
#[derive(Clone, Debug)]
pub struct Identity {
    current: Arc<Current>,
    origin: Origin,
}

/// Where it is from.
#[derive(Clone, Debug)]
enum Origin {
    Files(Files),
    /// For whoever reaches these addresses.
    Issued(Arc<Authority>, Vec<SocketAddr>),
}

/// Equal stamps mean that the certificate would be the same.
#[derive(PartialEq, Eq)]
enum Stamp {
    Files(files::Stamp),
    Issued(Subject),
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Files(#[from] FilesError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Identity {
    /// Reads the files.
    ///
    /// # Errors
    /// One of them is missing or holds something else, or they do not belong together.
    pub fn open(files: Files) -> Result<Self, Error> {
        Self::from_origin(Origin::Files(files))
    }

    /// Has a certificate made for whoever reaches `addrs`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn issued(authority: Arc<Authority>, addrs: Vec<SocketAddr>) -> Result<Self, Error> {
        Self::from_origin(Origin::Issued(authority, addrs))
    }

    /// What a server on `addr` needs that is to be reached this way; plain ones need nobody.
    ///
    /// # Errors
    /// Bad files, or a certificate that cannot be made.
    ///
    /// # Panics
    /// Where certificates are issued and nobody issues them.
    pub fn of(
        transport: &Transport,
        authority: Option<&Arc<Authority>>,
        addr: SocketAddr,
    ) -> Result<Option<Self>, Error> {
        let identity = match transport {
            Transport::Plain => return Ok(None),
            Transport::Tls(files) => Self::open(files.clone()),
            Transport::Issued => Self::issued(
                authority.expect("who wants issued certificates has an authority").clone(),
                vec![addr],
            ),
        };
        identity.map(Some)
    }

    fn from_origin(origin: Origin) -> Result<Self, Error> {
        let current = Arc::new(Current(ArcSwap::from_pointee(origin.make(&origin.stamp())?)));
        Ok(Self { current, origin })
    }

    /// What a listener shows its clients, who may ask for one of `protocols` (ALPN).
    pub fn server_config(&self, protocols: &[&str]) -> Arc<ServerConfig> {
        let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("aws-lc-rs has the cipher suites of TLS 1.2 and 1.3");
        let mut config = builder.with_no_client_auth().with_cert_resolver(self.current.clone());
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Arc::new(config)
    }

    /// Follows the files, or this machine's addresses and the calendar, until the drain is asked for.
    ///
    /// # Errors
    /// None: what cannot be used is said, and the certificate before it stays.
    pub async fn run(self, drain: Drain) -> Result<(), Infallible> {
        let mut seen = self.origin.stamp();
        let mut said = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(RELOAD_INTERVAL) => {}
                () = drain.requested() => return Ok(()),
            }
            let stamp = self.origin.stamp();
            if stamp == seen && said.is_none() {
                continue;
            }
            match self.origin.make(&stamp) {
                Ok(made) => {
                    self.current.0.store(Arc::new(made));
                    info!(from = %self.origin, "the certificate was replaced");
                    said = None;
                }
                // Both files are seldom written at one moment: in between they do not belong together.
                Err(error) => {
                    let words = error.to_string();
                    if said.as_ref() != Some(&words) {
                        warn!(
                            error = &error as &dyn std::error::Error,
                            "the certificate cannot be replaced, the one before it stays"
                        );
                    }
                    said = Some(words);
                }
            }
            seen = stamp;
        }
    }
}

impl Origin {
    fn stamp(&self) -> Stamp {
        match self {
            Self::Files(files) => Stamp::Files(files.stamp()),
            Self::Issued(_, addrs) => Stamp::Issued(Subject::now(addrs)),
        }
    }

    fn make(&self, stamp: &Stamp) -> Result<CertifiedKey, Error> {
        match (self, stamp) {
            (Self::Issued(authority, _), Stamp::Issued(subject)) => Ok(authority.issue(subject)?),
            (Self::Issued(authority, addrs), Stamp::Files(_)) => Ok(authority.issue(&Subject::now(addrs))?),
            (Self::Files(files), _) => Ok(files.read()?),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Files(files) => files.certificate.display().fmt(f),
            Self::Issued(..) => f.write_str("our own authority"),
        }
    }
}
