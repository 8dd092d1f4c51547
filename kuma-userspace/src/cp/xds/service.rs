//! The gRPC face of the server: delta streams, and those of the state of the world. Called by tonic.

use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use futures_util::stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::board::Board;
use super::session::Session;
use super::{sotw, stream};
use crate::rt::Drain;

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(super) struct Service {
    board: Arc<Board>,
    drain: Drain,
}

impl Service {
    pub(super) fn new(board: Arc<Board>, drain: Drain) -> Self {
        Self { board, drain }
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let (board, drain) = (self.board.clone(), self.drain.clone());
        let answers = stream::serve::<sotw::Session>(board, request.into_inner(), drain);
        Ok(Response::new(Box::pin(answers)))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (board, drain) = (self.board.clone(), self.drain.clone());
        let answers = stream::serve::<Session>(board, request.into_inner(), drain);
        Ok(Response::new(Box::pin(answers)))
    }
}
