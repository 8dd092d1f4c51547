//! What others ask to know how the control plane is: `/metrics` (Prometheus), `/ready`, `/healthy`.
//! Keeps: it answers from before the store is open until after the last stream has ended; it never waits for anybody.
//! Started by cli.

mod metered;
mod meters;
mod metrics;
mod process;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;
use serde_json::json;
use tokio::sync::watch;

pub(super) use self::metered::Metered;
pub use self::meters::Meters;
use self::metrics::Scrape;
use super::dns::Counted;
use super::status::Status;
use super::tls::{BindError, Listener};
use super::xds;
use crate::rt::{Drain, Ready};

/// Kuma's port.
pub const DEFAULT_PORT: u16 = 5680;
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Why nobody is answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cannot listen on {addr} for metrics and readiness: choose another diagnostics.serverPort (0: none) or end the \
         process that has it"
    )]
    Listen { addr: SocketAddr, source: std::io::Error },
    #[error("metrics and readiness cannot be served")]
    Serve(#[source] std::io::Error),
}

impl From<BindError> for Error {
    fn from(BindError { addr, source }: BindError) -> Self {
        Self::Listen { addr, source }
    }
}

/// What metrics are made from.
#[derive(Debug)]
pub struct Sources {
    pub(super) status: watch::Receiver<Status>,
    pub(super) xds: xds::StatusReader,
    pub(super) dns: Counted,
    pub(super) meters: Meters,
}

/// Sources that come when the control plane is open.
type Late = Arc<OnceLock<Sources>>;

/// A server that has taken its port.
pub struct Server {
    listener: Listener,
    page: Page,
}

#[derive(Clone)]
struct Page {
    ready: Ready,
    sources: Late,
}

/// Gives the server what it shows.
#[derive(Clone, Debug)]
pub struct Entry(Late);

impl Server {
    /// Takes the port. `ready` is what `/ready` says.
    ///
    /// # Errors
    /// The address is taken, or is none of this machine.
    pub async fn bind(addr: SocketAddr, ready: Ready) -> Result<Self, Error> {
        let listener = Listener::bind(addr).await?;
        Ok(Self { listener, page: Page { ready, sources: Late::default() } })
    }

    /// Where what it shows is entered once it is there.
    pub fn entry(&self) -> Entry {
        Entry(self.page.sources.clone())
    }

    /// Answers until the drain is asked for.
    ///
    /// # Errors
    /// Only what the listener cannot recover from.
    pub async fn run(self, drain: Drain) -> Result<(), Error> {
        let router = Router::new()
            .route("/metrics", get(metrics))
            .route("/ready", get(ready))
            .route("/healthy", get(healthy))
            .with_state(self.page);
        let ended = async move { drain.requested().await };
        axum::serve(self.listener, router).with_graceful_shutdown(ended).await.map_err(Error::Serve)
    }
}

impl Entry {
    /// From here on the metrics of the control plane are shown.
    pub fn enter(&self, sources: Sources) {
        // A second control plane of this process would be shown instead of nothing: there is one.
        let _already = self.0.set(sources);
    }
}

async fn metrics(State(Page { ready, sources }): State<Page>) -> Response {
    let mut registry = Registry::default();
    if let Some(sources) = sources.get() {
        sources.meters.register(&mut registry);
    }
    registry.register_collector(Box::new(Scrape { ready, sources }));
    let mut text = String::new();
    match encode(&mut text, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

/// 503 while something is awaited: what, and for how long.
async fn ready(State(Page { ready, .. }): State<Page>) -> Response {
    let waits = ready.waits();
    let status = if waits.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let awaited: Vec<_> = waits
        .iter()
        .map(|wait| json!({"what": wait.what, "sinceSecs": wait.since.elapsed().as_secs()}))
        .collect();
    (status, axum::Json(json!({"ready": waits.is_empty(), "awaited": awaited}))).into_response()
}

/// The process runs and its threads make progress.
async fn healthy() -> Response {
    axum::Json(json!({"healthy": true})).into_response()
}

#[cfg(test)]
mod tests;
