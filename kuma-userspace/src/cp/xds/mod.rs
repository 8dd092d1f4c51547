//! The xDS server: gives each proxy its listeners, clusters and endpoints, and each agent its mesh view, in an order
//! that never shows a VIP before its listener works. Delta, and state of the world for who
//! asks for that. Called by cp::run.
//!
//! Reading order: [`order`] (pure: when may what be seen), [`published`] (what is out now, encoded once), [`session`]
//! and [`subscription`] (pure: what one client must be told next; [`sotw`] for those without delta), [`stream`] (moves the messages), [`board`] (shared
//! by all of these).

mod admission;
mod board;
mod clients;
mod content;
mod dialogue;
mod nack;
mod name;
mod order;
mod per_type;
mod published;
mod publisher;
mod refused;
mod resources;
mod service;
mod session;
mod shape;
mod sotw;
mod status;
mod stream;
mod subscription;
mod targets;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use tokio::sync::watch;

pub use self::admission::{Admission, LoginRefused};
use self::board::Board;
use self::publisher::Publisher;
use self::service::Service;
pub use self::shape::Spread;
pub use self::status::{ClientStatus, RefusedStatus, Status, StatusReader, ViewStatus};
use crate::cp::snapshot::Snapshot;
use crate::cp::tls::{BindError, Listener};
use crate::rt::{Drain, Ready};

/// A request may name 100,000 resources and their versions.
const MAX_REQUEST_BYTES: usize = 64 << 20;
/// A client that does not answer a ping within [`PING_LIMIT`] is gone. An Envoy that takes in 100,000 clusters answers nothing
/// for half a minute on a busy machine, and would begin anew; others are not held back as long, see `order`.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_LIMIT: Duration = Duration::from_secs(90);

/// What a client asks for in its TLS handshake (ALPN).
pub const PROTOCOL: &str = "h2";

/// Why the server cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("xDS address {0} is not on loopback: plain and open to everyone is for 127.0.0.1 and ::1")]
    NotLoopback(SocketAddr),
    #[error(
        "cannot listen on {addr} for xDS: choose another port (dpServer.port; --xds-port of `up`) or end the process that has it"
    )]
    Listen { addr: SocketAddr, source: std::io::Error },
    #[error("the xDS server failed")]
    Serve(#[from] tonic::transport::Error),
}

impl From<BindError> for Error {
    fn from(BindError { addr, source }: BindError) -> Self {
        Self::Listen { addr, source }
    }
}

/// A bound server; it answers once it runs.
#[derive(Debug)]
pub struct Server {
    listener: Listener,
    board: Arc<Board>,
    ready: Ready,
    admission: Admission,
}

impl Server {
    /// Takes a port on loopback for whoever comes, plain.
    ///
    /// # Errors
    /// An address that is not on loopback or is taken.
    pub async fn bind(addr: SocketAddr) -> Result<Self, Error> {
        if !addr.ip().is_loopback() {
            return Err(Error::NotLoopback(addr));
        }
        Ok(Self::on(Listener::bind(addr).await?))
    }

    /// Serves on a port that is taken already; its TLS offers [`PROTOCOL`].
    pub fn on(listener: Listener) -> Self {
        Self { listener, board: Arc::default(), ready: Ready::default(), admission: Admission::default() }
    }

    /// Lets `ready` wait while somebody is connected for a mesh whose first view is not out: for want of a proxy.
    #[must_use]
    pub fn with_ready(self, ready: Ready) -> Self {
        Self { ready, ..self }
    }

    /// Serves only whom this admits; without it everybody.
    #[must_use]
    pub fn with_admission(self, admission: Admission) -> Self {
        Self { admission, ..self }
    }

    /// Where it listens: the port that was taken when 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    /// Reads who is connected and what is awaited, also while the server runs.
    pub fn status(&self) -> StatusReader {
        StatusReader { board: self.board.clone(), admission: self.admission.clone() }
    }

    /// Serves what `snapshots` holds until the drain is asked for.
    ///
    /// # Errors
    /// Only what the transport cannot recover from.
    pub async fn run(self, snapshots: watch::Receiver<Arc<Snapshot>>, drain: Drain) -> Result<(), Error> {
        let service = AggregatedDiscoveryServiceServer::new(Service::new(
            self.board.clone(),
            self.admission,
            drain.clone(),
        ))
        .max_decoding_message_size(MAX_REQUEST_BYTES);
        let serve = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(PING_INTERVAL))
            .http2_keepalive_timeout(Some(PING_LIMIT))
            .add_service(service)
            .serve_with_incoming_shutdown(self.listener.into_incoming(), drain.requested());
        let publish = Publisher::new(self.board, self.ready).run(snapshots, drain.clone());
        let (served, ()) = tokio::join!(serve, publish);
        Ok(served?)
    }
}
