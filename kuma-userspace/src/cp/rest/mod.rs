//! The REST API of the control plane, in Kuma's paths and shapes: resources read and written, VIPs read, both watched.
//!
//! Reading order: [`routes`] (everything that is served, as one table; [`openapi`] is made from it), [`asked`] and [`query`] (what
//! is asked for), [`access`] (who may), [`listing`] (what can be listed and compared), [`list`], [`watch`], [`write`], [`tokens`] (what is
//! done), [`item`], [`became`] and [`vip`] (how it is shown), [`problem`] (how it fails), [`server`] (connections and their limits).
//!
//! Keeps: reading never waits for the store, and costs what is shown; what was accepted is stored. Called by cp.

mod access;
mod asked;
mod became;
mod index;
mod item;
mod list;
mod listing;
mod openapi;
mod problem;
mod query;
mod routes;
mod server;
mod stall;
mod tokens;
mod vip;
mod watch;
mod write;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::http::HeaderValue;
use futures_util::future::join_all;
use tokio::sync::{Semaphore, watch as channel};
use tracing::info;

pub use self::access::{Access, Identify, User};
use self::listing::View;
use self::server::Limits;
use self::watch::{MAX_WATCHES, Sources};
use crate::cp::registry::Registry;
use crate::cp::resources::Resources;
use crate::cp::snapshot::Snapshot;
use crate::cp::tls::{self, Authority, Identity, Listener, Transport};
use crate::cp::tokens::Issuer;
use crate::cp::{Status, xds};
use crate::rt::Drain;

/// Kuma's port.
pub const DEFAULT_PORT: u16 = 5681;
/// What is spoken over TLS.
const PROTOCOL: &str = "http/1.1";

/// Where it is served, and to whom.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `apiServer.http`; `None`: not at all.
    pub http: Option<SocketAddr>,
    /// `apiServer.https`, and by which certificate.
    pub https: Option<(SocketAddr, Transport)>,
    pub access: Access,
    /// The configuration in force as JSON, without secrets.
    pub shown: serde_json::Value,
}

/// Why nobody is served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the API cannot be served (apiServer.http; `up --api-port` says another port, 0 none)")]
    Http(#[source] tls::BindError),
    #[error("the API cannot be served with TLS (apiServer.https)")]
    Https(#[source] tls::BindError),
}

/// What is served.
pub struct Served {
    pub registry: Registry,
    /// What the names in `status` are made from.
    pub resources: channel::Receiver<Arc<Resources>>,
    pub snapshots: channel::Receiver<Arc<Snapshot>>,
    pub status: channel::Receiver<Status>,
    pub xds: xds::StatusReader,
    /// Makes tokens for admins.
    pub issuer: Issuer,
}

/// A server that has taken its ports and answers nobody yet.
#[derive(Debug)]
pub struct Server {
    http: Option<Listener>,
    https: Option<(Listener, Transport)>,
    access: Access,
    shown: serde_json::Value,
    /// A certificate that is followed.
    identity: Option<Identity>,
}

/// What every answer is made from.
#[derive(Clone)]
struct Api {
    registry: Registry,
    sources: Sources,
    xds: xds::StatusReader,
    shown: Arc<serde_json::Value>,
    access: Access,
    issuer: Issuer,
    watches: Arc<Semaphore>,
    drain: Drain,
}

impl Api {
    /// The newest of everything.
    fn view(&self) -> View {
        self.sources.clone().view()
    }
}

impl Server {
    /// Takes the ports, so that whoever connects from now on waits and is not refused; nothing if it is switched off.
    ///
    /// # Errors
    /// A port is taken, or an address is none of ours.
    pub async fn bind(config: Config) -> Result<Option<Self>, Error> {
        let Config { http, https, access, shown } = config;
        let http = match http {
            Some(at) => Some(Listener::bind(at).await.map_err(Error::Http)?),
            None => None,
        };
        let https = match https {
            Some((at, transport)) => Some((Listener::bind(at).await.map_err(Error::Https)?, transport)),
            None => None,
        };
        let served = http.is_some() || https.is_some();
        Ok(served.then_some(Self { http, https, access, shown, identity: None }))
    }

    /// Does it want a certificate of our own authority?
    pub fn wants_authority(&self) -> bool {
        matches!(self.https, Some((_, Transport::Issued)))
    }

    /// Takes the certificate that its clients are to see.
    ///
    /// # Errors
    /// It cannot be read or made.
    pub fn identify(self, authority: Option<&Arc<Authority>>) -> Result<Self, tls::Error> {
        let Some((listener, transport)) = self.https else { return Ok(self) };
        let identity = Identity::of(&transport, authority, listener.local_addr())?;
        let listener =
            listener.with_tls(identity.as_ref().map(|identity| identity.server_config(&[PROTOCOL])));
        Ok(Self { https: Some((listener, transport)), identity, ..self })
    }

    /// Knows whose a token is.
    #[must_use]
    pub fn with_users(self, identify: Identify) -> Self {
        Self { access: Access { identify: Some(identify), ..self.access }, ..self }
    }

    /// Where it listens: the ports that were taken where 0 was asked for.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        let https = self.https.iter().map(|(listener, _)| listener);
        self.http.iter().chain(https).map(Listener::local_addr).collect()
    }

    /// Answers until the drain is asked for: watches end then, and requests in flight are finished.
    ///
    /// # Errors
    /// None: a connection that fails is its own affair.
    pub async fn run(self, served: Served, drain: Drain) -> Result<(), Infallible> {
        let Self { http, https, access, shown, identity } = self;
        let Served { registry, resources, snapshots, status, xds, issuer } = served;
        let sources = Sources { catalog: registry.subscribe(), resources, snapshot: snapshots, status };
        let watches = Arc::new(Semaphore::new(MAX_WATCHES));
        let shown = Arc::new(shown);
        let api = Api { registry, sources, xds, shown, access, issuer, watches, drain: drain.clone() };
        let (router, limits) = (routes::router(api), Limits::default());
        let serve = |listener: Listener| {
            let (at, tls) = (listener.local_addr(), listener.is_tls());
            info!(%at, tls, "serving the API");
            server::serve(listener, router.clone(), limits.clone(), drain.clone())
        };
        let ports = http.into_iter().chain(https.map(|(listener, _)| listener));
        let follow = async {
            match identity {
                Some(identity) => identity.run(drain.clone()).await,
                None => Ok(()),
            }
        };
        let (_served, followed) = tokio::join!(join_all(ports.map(serve)), follow);
        followed
    }
}

/// A revision as a condition takes it.
fn etag(revision: u64) -> HeaderValue {
    HeaderValue::try_from(format!("\"{revision}\"")).expect("digits and quotes may stand in a header")
}
