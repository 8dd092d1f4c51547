//! The agent's ear at the control plane: a delta xDS client for the mesh view. Keeps: without a control plane the last
//! view stays as it is; a message counts as taken only when all of it was applied. Started by agent/mod.rs; hands each view
//! to apply.

mod dial;
mod held;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use envoy_types::pb::google::rpc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request, Streaming};
use tracing::{debug, info, warn};

use crate::model::view::MeshView;
use crate::rt::Drain;
use crate::wire::access::{AUTHORIZATION, Access};
use crate::wire::address::ServerAddress;
use crate::wire::node::Introduction;
use crate::wire::resource::ResourceType;

use self::dial::{DialError, dial};
use self::held::{Held, Next};

/// Views that wait to be applied. One: the control plane sends the next only after the answer to the last.
const UPDATES: usize = 1;
/// Requests that wait to be sent: one subscription or one answer.
const REQUESTS: usize = 2;
/// The first message has a whole view: about 20 MB with 100,000 services.
const MAX_MESSAGE_BYTES: usize = 256 << 20;
/// How long applying one view may take before the control plane is told that it failed.
const APPLY_LIMIT: Duration = Duration::from_secs(60);
const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// Where the views come from, and who asks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FeedConfig {
    pub control_plane: ServerAddress,
    /// What the control plane wants to see.
    pub access: Access,
    /// With role agent.
    pub node: Introduction,
}

/// A view to apply, and where to say how that went. Dropping `answer` says that it failed.
#[derive(Debug)]
pub struct Update {
    pub view: Arc<MeshView>,
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// How the feed stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FeedStatus {
    /// Not connected yet, or no more; the reason in words.
    Disconnected { reason: String },
    /// Connected; nothing was sent so far: the control plane waits for a proxy, or does not know the view.
    Waiting,
    /// The newest view is applied.
    Applied { version: String },
    /// The newest view could not be applied; the one before it stays, if there is one.
    Failed { version: String, reason: String },
}

/// The client.
#[derive(Debug)]
pub struct Feed {
    config: FeedConfig,
    updates: mpsc::Sender<Update>,
    status: watch::Sender<FeedStatus>,
    /// What was applied last.
    held: Held,
}

/// Why a connection is over.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Dial(#[from] DialError),
    #[error("the control plane ended the stream: {0}")]
    Refused(String),
    #[error("the control plane closed the stream")]
    Closed,
}

impl Feed {
    /// A feed, and the end where its views come out.
    pub fn new(config: FeedConfig) -> (Self, mpsc::Receiver<Update>) {
        let (updates, views) = mpsc::channel(UPDATES);
        let status = watch::Sender::new(FeedStatus::Disconnected { reason: "not connected yet".into() });
        let held = Held::new(&config.node.view);
        (Self { config, updates, status, held }, views)
    }

    /// Where the feed stands, also while it runs.
    pub fn status(&self) -> watch::Receiver<FeedStatus> {
        self.status.subscribe()
    }

    /// Follows the control plane, dialling again whenever it is gone, until the drain is asked for.
    ///
    /// # Errors
    /// None: a control plane that cannot be reached is waited for.
    pub async fn run(mut self, drain: Drain) -> Result<(), Infallible> {
        let mut backoff = FIRST_BACKOFF;
        loop {
            let broken = tokio::select! {
                broken = self.follow(&mut backoff) => broken,
                () = drain.requested() => return Ok(()),
            };
            let reason = said(&broken);
            let news = self.status.send_if_modified(|status| {
                let disconnected = FeedStatus::Disconnected { reason: reason.clone() };
                std::mem::replace(status, disconnected.clone()) != disconnected
            });
            if news {
                warn!(control_plane = %self.config.control_plane, reason, "no control plane, the last view stays");
            }
            tokio::select! {
                () = tokio::time::sleep(backoff) => {}
                () = drain.requested() => return Ok(()),
            }
            backoff = (backoff * 2).min(MAX_BACKOFF);
        }
    }

    /// One connection, from dialling to its end.
    async fn follow(&mut self, backoff: &mut Duration) -> Broken {
        let (requests, mut responses) = match self.connect().await {
            Ok(stream) => stream,
            Err(broken) => return broken,
        };
        info!(control_plane = %self.config.control_plane, view = self.config.node.view, "connected to the control plane");
        self.status.send_replace(match self.held.version() {
            Some(version) => FeedStatus::Applied { version },
            None => FeedStatus::Waiting,
        });
        loop {
            let response = match responses.message().await {
                Ok(Some(response)) => response,
                Ok(None) => return Broken::Closed,
                Err(status) => return Broken::Refused(status.message().to_owned()),
            };
            *backoff = FIRST_BACKOFF;
            let answer = self.take(response).await;
            if requests.send(answer).await.is_err() {
                return Broken::Closed;
            }
        }
    }

    async fn connect(
        &self,
    ) -> Result<(mpsc::Sender<DeltaDiscoveryRequest>, Streaming<DeltaDiscoveryResponse>), Broken> {
        let Access { trust, token } = &self.config.access;
        let channel = dial(&self.config.control_plane, trust.as_ref()).await?;
        let (requests, outgoing) = mpsc::channel(REQUESTS);
        requests.send(self.subscription()).await.map_err(|_closed| Broken::Closed)?;
        let mut request = Request::new(ReceiverStream::new(outgoing));
        if let Some(token) = token {
            let mut value = AsciiMetadataValue::try_from(token.reveal()).expect("a token is visible ASCII");
            value.set_sensitive(true);
            request.metadata_mut().insert(AUTHORIZATION, value);
        }
        let responses = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .delta_aggregated_resources(request)
            .await
            .map_err(|status| Broken::Refused(status.message().to_owned()))?;
        Ok((requests, responses.into_inner()))
    }

    fn subscription(&self) -> DeltaDiscoveryRequest {
        DeltaDiscoveryRequest {
            node: Some(self.config.node.write()),
            type_url: ResourceType::MeshView.url().into(),
            resource_names_subscribe: vec![self.config.node.view.clone()],
            initial_resource_versions: self.held.versions(),
            ..DeltaDiscoveryRequest::default()
        }
    }

    /// Applies what came and makes the answer to it.
    async fn take(&mut self, response: DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
        let (type_url, response_nonce) = (response.type_url.clone(), response.nonce.clone());
        let outcome = self.apply(response).await;
        if let Err(reason) = &outcome {
            let version = self.held.version().unwrap_or_default();
            warn!(version, reason, "cannot take what the control plane sent, the last view stays");
            self.status.send_replace(FeedStatus::Failed { version, reason: reason.clone() });
        }
        let refusal =
            |message| rpc::Status { code: Code::InvalidArgument.into(), message, details: Vec::new() };
        let error_detail = outcome.err().map(refusal);
        DeltaDiscoveryRequest { type_url, response_nonce, error_detail, ..DeltaDiscoveryRequest::default() }
    }

    async fn apply(&mut self, response: DeltaDiscoveryResponse) -> Result<(), String> {
        let Some(next) = self.held.read(response)? else { return Ok(()) };
        let (routes, names) = (next.view().routes_len(), next.view().names().len());
        debug!(changed = next.changed(), routes, names, "a view came in");
        self.hand_over(&next).await?;
        let version = self.held.take(next);
        self.status.send_replace(FeedStatus::Applied { version });
        Ok(())
    }

    async fn hand_over(&self, next: &Next) -> Result<(), String> {
        let (answer, applied) = oneshot::channel();
        let ended = || "the agent is ending".to_owned();
        let update = Update { view: next.view().clone(), answer };
        self.updates.send(update).await.map_err(|_closed| ended())?;
        match tokio::time::timeout(APPLY_LIMIT, applied).await {
            Ok(outcome) => outcome.map_err(|_dropped| ended())?,
            Err(_elapsed) => Err(format!("applying took longer than {} s", APPLY_LIMIT.as_secs())),
        }
    }
}

/// An error and its causes in one line.
fn said(error: &dyn std::error::Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        said = format!("{said}: {source}");
        cause = source.source();
    }
    said
}
