//! TLS of what we serve: who we are ([`Identity`]), and connections that prove it ([`Listener`]).
//! Keeps: a certificate that was replaced is used from the next connection on, without a restart; what replaced it and cannot
//! be used changes nothing. Called by cp for xDS and REST.

mod files;
mod listener;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tracing::{info, warn};

pub use self::files::{Error, Files};
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
    files: Files,
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
        let current = Arc::new(Current(ArcSwap::from_pointee(files.read()?)));
        Ok(Self { current, files })
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

    /// Follows the files until the drain is asked for.
    ///
    /// # Errors
    /// None: what cannot be read is said, and the certificate before it stays.
    pub async fn run(self, drain: Drain) -> Result<(), Infallible> {
        let mut seen = self.files.stamp();
        let mut said = None;
        loop {
            tokio::select! {
                () = tokio::time::sleep(RELOAD_INTERVAL) => {}
                () = drain.requested() => return Ok(()),
            }
            let stamp = self.files.stamp();
            if stamp == seen && said.is_none() {
                continue;
            }
            match self.files.read() {
                Ok(read) => {
                    self.current.0.store(Arc::new(read));
                    info!(certificate = %self.files.certificate.display(), "the certificate was replaced");
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
